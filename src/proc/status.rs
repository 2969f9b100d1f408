//! /proc/PID/status (proc_pid_status(5)): a task's user, capabilities and filters.

use std::fmt::Display;
use std::fs;
use std::io;

use super::{field, hexadecimal, lines, number, octal};

/// Details of a process or thread. A field is None if the kernel does not report it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// R, S, D, T, t, Z, X…
    pub state: Option<char>,
    /// The process that traces it; 0 for none.
    pub tracer: Option<i32>,
    /// Effective user.
    pub uid: Option<u32>,
    pub umask: Option<i32>,
    /// Number of slots in its descriptor table.
    pub fd_size: Option<usize>,
    /// PID in each PID namespace that it is in, from the one of this /proc inwards.
    pub numbers: Option<Vec<i32>>,
    /// Capability sets, one bit for each capability.
    pub inheritable: Option<u64>,
    pub permitted: Option<u64>,
    pub effective: Option<u64>,
    pub bounding: Option<u64>,
    pub ambient: Option<u64>,
    /// 1 if an executed file grants no privileges (PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: Option<u32>,
    /// SECCOMP_MODE_*: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u32>,
    /// Number of filters; Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// Bytes of addresses that it has mapped, and of those that are private and writable.
    pub size: Option<u64>,
    pub data: Option<u64>,
    /// Bytes of anonymous memory that are in memory, and that are swapped out.
    pub anonymous: Option<u64>,
    pub swapped: Option<u64>,
    /// Bytes that it has locked, as RLIMIT_MEMLOCK counts them.
    pub locked: Option<u64>,
    /// Pending signals of the thread and of the process, one bit each.
    pub pending: Option<u64>,
    pub shared_pending: Option<u64>,
    /// Voluntary context switches: how often it went to sleep by itself.
    pub voluntary_switches: Option<u64>,
}

impl Status {
    /// `pid` is a process, a thread, or `self`.
    ///
    /// # Errors
    /// If there is no such task, or no /proc.
    pub fn read(pid: impl Display) -> io::Result<Self> {
        Ok(Self::parse(&fs::read(super::path(pid, "status"))?))
    }

    /// The kernel escapes newlines in a task's name, so no name can imitate another line.
    pub fn parse(text: &[u8]) -> Self {
        let mut found = Self::default();
        for (name, value) in lines(text).filter_map(field) {
            match name {
                b"State" => found.state = value.first().map(|&letter| char::from(letter)),
                b"TracerPid" => found.tracer = number(value),
                // Real, effective, saved, file system.
                b"Uid" => found.uid = words(value).nth(1).and_then(number),
                b"Umask" => found.umask = octal(value),
                b"FDSize" => found.fd_size = number(value),
                b"NSpid" => found.numbers = words(value).map(number).collect(),
                b"CapInh" => found.inheritable = hexadecimal(value),
                b"CapPrm" => found.permitted = hexadecimal(value),
                b"CapEff" => found.effective = hexadecimal(value),
                b"CapBnd" => found.bounding = hexadecimal(value),
                b"CapAmb" => found.ambient = hexadecimal(value),
                b"NoNewPrivs" => found.no_new_privs = number(value),
                b"Seccomp" => found.seccomp = number(value),
                b"Seccomp_filters" => found.seccomp_filters = number(value),
                b"VmSize" => found.size = bytes(value),
                b"VmData" => found.data = bytes(value),
                b"RssAnon" => found.anonymous = bytes(value),
                b"VmSwap" => found.swapped = bytes(value),
                b"VmLck" => found.locked = bytes(value),
                b"SigPnd" => found.pending = hexadecimal(value),
                b"ShdPnd" => found.shared_pending = hexadecimal(value),
                b"voluntary_ctxt_switches" => found.voluntary_switches = number(value),
                _ => {}
            }
        }
        found
    }
}

/// Of `    3060 kB`.
fn bytes(value: &[u8]) -> Option<u64> {
    number::<u64>(value.strip_suffix(b" kB")?)?.checked_mul(1024)
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    const SAMPLE: &str = "Name:\tsleep\nUmask:\t0022\nState:\tD (disk sleep)\nTgid:\t7\nPid:\t7\nPPid:\t1\nTracerPid:\t5\n\
        Uid:\t1000\t1001\t1002\t1003\nFDSize:\t256\nGroups:\t \nNSpid:\t107\t7\nKthread:\t0\nVmPeak:\t    3061 kB\n\
        VmSize:\t    3060 kB\nRssAnon:\t      96 kB\nVmSwap:\t      12 kB\nVmLck:\t       8 kB\nVmData:\t     200 kB\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\n\
        CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000400\nCapBnd:\t00000000a80425fb\n\
        CapAmb:\t0000000000000001\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\nCpus_allowed:\t3\n\
        voluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t4\n";

    fn sample() -> Status {
        Status {
            state: Some('D'),
            tracer: Some(5),
            uid: Some(1001),
            umask: Some(0o22),
            fd_size: Some(256),
            numbers: Some(vec![107, 7]),
            inheritable: Some(0),
            permitted: Some(0x1ff_feff_ffff),
            effective: Some(0x400),
            bounding: Some(0xa804_25fb),
            ambient: Some(1),
            no_new_privs: Some(1),
            seccomp: Some(2),
            seccomp_filters: Some(3),
            size: Some(3060 << 10),
            data: Some(200 << 10),
            anonymous: Some(96 << 10),
            swapped: Some(12 << 10),
            locked: Some(8 << 10),
            pending: Some(1),
            shared_pending: Some(2),
            voluntary_switches: Some(9),
        }
    }

    #[test]
    fn each_field_is_taken_from_its_line() {
        assert_eq!(Status::parse(SAMPLE.as_bytes()), sample());
    }

    #[test]
    fn what_is_not_told_is_not_guessed() {
        assert_eq!(Status::parse(b""), Status::default());
        let cut = Status::parse(b"Name:\t\xd0\nSeccomp\nCapEff:\tnone\nUid:\t0\nNSpid:\t7\tx\nSeccomp_filters:\t1\n");
        assert_eq!(cut, Status { seccomp_filters: Some(1), ..Status::default() });
    }

    #[test]
    fn this_process_has_one() {
        let status = Status::read("self").unwrap();
        assert_eq!(status.uid, Some(nix::unistd::geteuid().as_raw()));
        assert_eq!(status.numbers.unwrap().first(), Some(&(std::process::id() as i32)));
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_parse(any: Vec<u8>, edits in fuzz::edits()) {
            let _ = Status::parse(&any);
            let _ = Status::parse(&fuzz::damaged(SAMPLE.as_bytes(), &edits));
        }

        #[test]
        fn fuzz_numbers_come_back_past_any_name(name: Vec<u8>, uid: u32, numbers: Vec<i32>, bounding: u64, switches: u64) {
            let all: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            let rest = format!(
                "\nUid:\t0\t{uid}\t0\t0\nNSpid:\t{}\nCapBnd:\t{bounding:016x}\nvoluntary_ctxt_switches:\t{switches}\n",
                all.join("\t")
            );
            let text = [&b"Name:\t"[..], &super::super::escaped(&name, b"\n\\"), rest.as_bytes()].concat();
            let expected = Status {
                uid: Some(uid),
                numbers: Some(numbers),
                bounding: Some(bounding),
                voluntary_switches: Some(switches),
                ..Status::default()
            };
            prop_assert_eq!(Status::parse(&text), expected);
        }
    }
}
