//! /proc/PID/stat (proc_pid_stat(5)): a process's name, state and relations.

use std::fmt::Display;
use std::fs;
use std::io;

use super::number;

/// Number of fields between `tty_nr` and `flags`, and between that and `starttime`.
const BETWEEN: [usize; 2] = [1, 12];
/// The bit of `flags` that a task gets when it begins to end (PF_EXITING in the kernel's sched.h).
const ENDING: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// In the PID namespace of this /proc.
    pub pid: i32,
    /// The name; it may contain any byte.
    pub comm: Vec<u8>,
    /// R, S, D, T, t, Z, X…
    pub state: char,
    /// Parent; 0 if it is outside the PID namespace.
    pub ppid: i32,
    pub pgid: i32,
    pub sid: i32,
    /// Device number of the controlling terminal; 0 if there is none.
    pub terminal: i32,
    /// It runs no more code of its own. Before it is a zombie it gives up its memory, and nobody but root may look at it.
    pub ending: bool,
    /// Start time in clock ticks since boot.
    pub start: u64,
}

impl Stat {
    /// `pid` is a number or `self`.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn read(pid: impl Display) -> io::Result<Self> {
        let file = super::path(pid, "stat");
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("{} has another format", file.display()));
        Self::parse(&fs::read(&file)?).ok_or_else(unknown)
    }

    /// The name is in parentheses and may contain parentheses and any other byte. After the last parenthesis
    /// there are only plain fields.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let begin = text.iter().position(|&byte| byte == b'(')?;
        let end = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let mut relation = || fields.next()?.parse().ok();
        Some(Self {
            pid: number(text[..begin].trim_ascii())?,
            comm: text.get(begin + 1..end)?.to_vec(),
            state,
            ppid: relation()?,
            pgid: relation()?,
            sid: relation()?,
            terminal: relation()?,
            ending: fields.nth(BETWEEN[0])?.parse::<u32>().ok()? & ENDING > 0,
            start: fields.nth(BETWEEN[1])?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    const REST: &str = "-1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 41801 3133440 389 18446744073709551615 1 1 0 0 0 0";

    #[test]
    fn a_name_may_hold_what_separates_fields() {
        let text = [&b"7 (a) T 1 (\xff) b\n) S 42 7 9 34816 "[..], REST.as_bytes(), b"\n"].concat();
        let stat = Stat::parse(&text).unwrap();
        assert_eq!((stat.pid, &*stat.comm, stat.state), (7, &b"a) T 1 (\xff) b\n"[..], 'S'));
        assert_eq!((stat.ppid, stat.pgid, stat.sid, stat.terminal, stat.start), (42, 7, 9, 34816, 41801));
    }

    #[test]
    fn one_that_ends_is_known_before_it_is_a_zombie() {
        let ending = |flags| Stat::parse(format!("7 (a) R 1 7 7 0 {}", REST.replace("4194304", flags)).as_bytes());
        assert!(ending("4194308").unwrap().ending && !ending("4194304").unwrap().ending);
    }

    #[test]
    fn a_cut_line_is_nothing() {
        for text in ["", "7 (a", "7 a)", ")(", "7 (a)", "7 (a) S", "7 (a) S x", "7 (a) S 1 7 9 0 -1"] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn this_process_has_one() {
        let us = std::process::id() as i32;
        assert_eq!(Stat::read(us).unwrap(), Stat { pid: us, ..Stat::read("self").unwrap() });
        assert!(Stat::read(i32::MAX).is_err());
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_parse_or_do_not(any: Vec<u8>, edits in fuzz::edits()) {
            let _ = Stat::parse(&any);
            let _ = Stat::parse(&fuzz::damaged(format!("7 (cat) R 1 7 7 0 {REST}\n").as_bytes(), &edits));
        }

        #[test]
        fn fuzz_a_process_comes_back(
            comm in prop::collection::vec(any::<u8>(), 0..64),
            state in "[A-Za-z]",
            (pid, ppid, pgid, sid, terminal) in any::<(i32, i32, i32, i32, i32)>(),
            start: u64,
        ) {
            let state = state.chars().next().unwrap_or('R');
            let rest = format!(") {state} {ppid} {pgid} {sid} {terminal} {}\n", REST.replace("41801", &start.to_string()));
            let text = [format!("{pid} (").as_bytes(), &comm, rest.as_bytes()].concat();
            prop_assert_eq!(Stat::parse(&text), Some(Stat { pid, comm, state, ppid, pgid, sid, terminal, ending: false, start }));
        }
    }
}
