//! Why CRIU failed, in a sentence: what happened, to what, and what to do. One table, by the call that failed, its
//! errno and the kind of its object, as CRIU's log names them (criu/README.md, 0056). Pure. Never depends on the
//! wording of CRIU's messages.
//!
//! docs/reference/reasons.md shows the table, and a test here holds it to it.

use nix::errno::Errno::{self, *};
use percent_encoding::percent_decode_str;

/// The call that made CRIU give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub call: String,
    /// [`Errno::UnknownErrno`] if it is no system call.
    pub errno: Errno,
    pub kind: String,
    pub object: String,
}

/// Before a failure in a line of the log.
const MARK: &str = "Failure: call=";
/// Longest object that a sentence quotes, in characters.
const LONGEST: usize = 300;

impl Failure {
    /// The failure that a line of CRIU's log names.
    pub fn parse(line: &str) -> Option<Self> {
        // Before the mark there is at most a number, of the task that writes.
        let (before, fields) = line.split_once(MARK)?;
        if !before.chars().all(|c| c.is_ascii_digit() || " :.()pie".contains(c)) {
            return None;
        }
        let (call, rest) = fields.split_once(" errno=")?;
        let (errno, rest) = rest.split_once(" kind=")?;
        let (kind, object) = rest.split_once(" object=")?;
        Some(Self {
            call: call.to_owned(),
            errno: Errno::from_raw(errno.parse().ok()?),
            kind: kind.to_owned(),
            object: one_line(&percent_decode_str(object.trim_end()).decode_utf8_lossy()),
        })
    }

    /// Whether the failure is the death of a process. After an error in the log, it is a consequence of that error.
    pub fn is_death(&self) -> bool {
        self.kind == "death"
    }

    /// The end of a CRIU that named no failure.
    pub fn of_criu() -> Self {
        Self { call: "wait".into(), errno: UnknownErrno, kind: "criu".into(), object: "9".into() }
    }

    /// What a process that was killed died of, if the kernel tells whether memory ran out.
    pub fn with_memory(self, for_memory: Option<bool>) -> Self {
        let kind = match (self.kind.as_str(), self.object.as_str(), for_memory) {
            ("death", "0" | "9", Some(true)) | ("criu", _, Some(true)) => "out-of-memory",
            ("death", "9", Some(false)) => "killed",
            ("criu", _, Some(false)) => "criu-killed",
            _ => return self,
        };
        Self { kind: kind.into(), ..self }
    }

    fn row(&self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.has(self))
    }

    /// Whether another process took a PID, so that fresh PIDs or another attempt may help.
    pub fn numbers_were_taken(&self) -> bool {
        self.kind == "pid" && self.errno == EEXIST
    }

    /// Whether the service's clocks cannot continue in user space.
    pub fn is_of_clocks(&self) -> bool {
        self.kind == "clock"
    }

    /// What happened, to what, and what to do.
    pub fn sentence(&self) -> String {
        let (call, object) = (&self.call, &self.object);
        let Some(row) = self.row() else {
            let why = self.errno.desc();
            return format!("CRIU's call {call} failed for {object} ({}): {why}; CRIU's log has more", self.kind);
        };
        let sentence = row.sentence.replace("{}", object);
        match self.errno {
            UnknownErrno => sentence,
            errno => format!("{sentence} (CRIU: {call}: {errno:?})"),
        }
    }
}

/// `text` in one line, and not longer than a sentence bears.
pub fn one_line(text: &str) -> String {
    let shown: String = text.chars().take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() { format!("{shown}…") } else { shown }
}

/// A sentence and the failures that it explains. An empty list is for all. `{}` is the object.
struct Row {
    calls: &'static [&'static str],
    errnos: &'static [Errno],
    kinds: &'static [&'static str],
    sentence: &'static str,
}

impl Row {
    fn has(&self, failure: &Failure) -> bool {
        let among = |names: &[&str], name: &str| names.is_empty() || names.contains(&name);
        among(self.calls, &failure.call)
            && among(self.kinds, &failure.kind)
            && (self.errnos.is_empty() || self.errnos.contains(&failure.errno))
    }

    /// Calls, errnos and kinds, as the page has them.
    #[cfg(test)]
    fn columns(&self) -> [String; 3] {
        let list = |names: Vec<String>| if names.is_empty() { "any".to_owned() } else { names.join(", ") };
        let named = |names: &[&str]| list(names.iter().map(ToString::to_string).collect());
        let errnos = match self.errnos {
            [UnknownErrno] => "none".into(),
            errnos => list(errnos.iter().map(|errno| format!("{errno:?}")).collect()),
        };
        [named(self.calls), errnos, named(self.kinds)]
    }
}

const fn row(
    calls: &'static [&'static str],
    errnos: &'static [Errno],
    kinds: &'static [&'static str],
    sentence: &'static str,
) -> Row {
    Row { calls, errnos, kinds, sentence }
}

/// No system call failed.
const NONE: &[Errno] = &[UnknownErrno];

/// The first row that has a failure explains it.
#[rustfmt::skip]
static ROWS: &[Row] = &[
    // Sockets
    row(&["bind"], &[EACCES], &["inet"], "the service uses {}, and this container's user may not use a port so low; set the sysctl net.ipv4.ip_unprivileged_port_start=0 for the container (docker run --sysctl, securityContext.sysctls), or add the capability NET_BIND_SERVICE"),
    row(&["bind"], &[EADDRNOTAVAIL], &["inet"], "the service uses {}, an address that this container does not have; listen on 0.0.0.0 or ::, or give the container the address"),
    row(&["bind", "listen"], &[EADDRINUSE], &["inet"], "the service uses {}, and another process has that port here; end that process, or start the container with a network of its own"),
    row(&["bind"], &[EADDRINUSE], &["unix"], "the service has a socket {}, and another process has made one with that name; end that process and remove the file"),
    row(&["bind"], &[EACCES, EPERM, EROFS], &["unix"], "the service has a socket {}, and this container's user may not make it; give the user the right to write to its folder"),
    row(&["bind"], &[ENOENT, ENOTDIR], &["unix"], "the service has a socket {}, and its folder is missing here; provide it, or --include it at the checkpoint"),
    row(&["connect"], &[ECONNREFUSED, ENOENT], &["unix"], "the service is connected to the socket {}, and nobody listens there; start what listens there first"),
    row(&["connect"], &[ENETUNREACH, EHOSTUNREACH], &["inet"], "the service sends to {}, and this container has no route to it; give the container the same networks"),
    row(&["socket"], &[EPERM, EACCES, EAFNOSUPPORT, EPROTONOSUPPORT], &["socket"], "the service has a socket of a kind that this container may not make (family:type:protocol {}); start the container with the same capabilities, on a kernel with the same modules"),
    row(&["setsockopt"], &[EPERM, EACCES], &["socket-option"], "a socket of the service has an option that this container's user may not set (level:name {}); start the container with the same capabilities"),
    row(&["setsockopt"], &[ENODEV], &["socket-option"], "a socket of the service belongs to a network interface that is missing here; give the container the same networks"),
    // Files
    row(&["compare"], NONE, &["file-size"], "a file that the service uses, {}, has another size than at the checkpoint; use the same application files"),
    row(&["compare"], NONE, &["file-build-id"], "{} is another build of a program or library that the service runs; start the container from the same image"),
    row(&["compare"], NONE, &["file-mode"], "a file that the service uses, {}, is of another type than at the checkpoint; use the same application files"),
    row(&[], &[ENOENT], &["file"], "a file that the service uses, {}, is missing here; provide it, or --include it at the checkpoint"),
    row(&["open"], &[EACCES], &["file"], "a file that the service had open, {}, may not be opened by this container's user; give the user the right that its mode, or its folder's, denies"),
    row(&["open"], &[EPERM], &["file"], "a file that the service had open, {}, may not be opened in that way here: it is immutable or append-only (lsattr), or belongs to another user (O_NOATIME); give it the attributes and the owner that it had"),
    row(&[], &[ELOOP], &["file"], "a file that the service uses, {}, is behind symbolic links here, in a circle or where there was none; provide the file itself under that path"),
    row(&[], &[ENOTDIR], &["file"], "a file that the service uses, {}, has a file in its path here where a folder was; provide the same folders"),
    row(&["open"], &[EISDIR], &["file"], "a file that the service had open, {}, is a folder here; provide the same files"),
    row(&["open"], &[ENXIO, ENODEV], &["file"], "a device that the service had open, {}, is missing here; give the container that device"),
    row(&["open"], &[ETXTBSY], &["file"], "a file that the service had open for writing, {}, is a program that runs here; end that program"),
    row(&[], &[EROFS], &["file"], "a file that the service writes to, {}, is on a read-only file system here; mount it read-write"),
    row(&[], &[ENOSPC, EDQUOT], &["file", "memory"], "no space is left for what the service had open; free some on the disk or tmpfs, or give the container more"),
    row(&["create", "mkdir", "link", "chdir"], &[EACCES, EPERM], &["file"], "the service has a file open whose name must be created again, {}, and this container's user may not write there; give the user the right to write to its folder"),
    row(&[], &[EFBIG], &[], "a file of the service is larger than this container's limit of file size; raise the limit (ulimit -f)"),
    // Memory
    row(&["mmap", "mremap", "mlock2"], &[EAGAIN], &["memory", "file-memory"], "the service has locked more memory (mlock) than this container allows; raise its limit (ulimit -l, docker run --ulimit memlock=-1)"),
    row(&["mlock2"], &[ENOMEM, EPERM], &["memory"], "the service has locked more memory (mlock) than this container allows; raise its limit (ulimit -l, docker run --ulimit memlock=-1)"),
    row(&["mmap", "mremap"], &[ENOMEM], &["memory", "file-memory"], "the service has reserved more memory than this host allows; set vm.overcommit_memory to 0 or 1 on the host, or raise the container's limit of address space (ulimit -v and -d) or the host's vm.max_map_count"),
    row(&["mmap"], &[EPERM, EACCES], &["file-memory"], "the service executes a file that may not be executed here: its file system is mounted noexec; mount it with exec"),
    row(&["memfd_create"], &[EMFILE], &["injection"], "process {} has no descriptor left, and a checkpoint needs one in it for a moment; raise its limit of open files (ulimit -n)"),
    row(&["mmap"], &[EAGAIN], &["injection"], "process {} locks all its memory (mlockall) and may lock no more, and a checkpoint needs some in it for a moment; raise its limit (ulimit -l)"),
    row(&["mmap"], &[ENOMEM], &["injection"], "process {} has no address space left, and a checkpoint needs 4 MiB in it for a moment; raise its limit (ulimit -v), or the host's vm.max_map_count"),
    // Limits of a user or of a process
    row(&["inotify_init1"], &[EMFILE], &["inotify"], "the service needs an inotify instance, and none is left: the kernel counts those of all containers of this host that run as the same user; raise the sysctl fs.inotify.max_user_instances on the host, or use another host"),
    row(&["inotify_add_watch"], &[ENOSPC], &["inotify"], "the service needs inotify watches, and too few are left: the kernel counts those of all containers of this host that run as the same user; raise the sysctl fs.inotify.max_user_watches on the host, or use another host"),
    row(&["inotify_add_watch"], &[EACCES], &["inotify"], "the service watches {}, and this container's user may not read it; give the user that right"),
    row(&["fcntl"], &[EPERM], &["pipe-size"], "a pipe of the service has more data than the kernel lets its user keep in pipes: it counts the pipes of all containers of this host that run as the same user; raise the sysctl fs.pipe-user-pages-soft on the host, or use another host"),
    row(&["dup"], &[EMFILE], &["descriptors"], "the restore needs {} descriptors in a process, more than this container allows; raise the hard limit of open files (--ulimit nofile={})"),
    row(&[], &[EMFILE], &[], "the service needs more descriptors than this container lets a process have; raise the hard limit of open files (--ulimit nofile)"),
    row(&[], &[ENFILE], &[], "this host has no room for more open files; raise the sysctl fs.file-max on the host, or use another host"),
    row(&["dump"], &[EOPNOTSUPP], &["pipe-packets"], "a pipe of the service has packets (O_DIRECT) that nobody has read; checkpoint it again when they are read"),
    // Processes
    row(&["dump"], &[EOPNOTSUPP], &["rseq"], "thread {} has a restartable sequence (rseq) of its own, and this kernel does not tell where; run the service on a host with Linux 5.13 or later"),
    row(&["clone"], &[EEXIST], &["pid"], "another process, such as a probe or an exec, took a PID that the service needs ({}); start a new container, which has fresh PIDs"),
    row(&["clone"], &[EINVAL], &["pid"], "the service has PID {}, and PIDs end below it on this host; raise the host's kernel.pid_max"),
    row(&["clone"], &[EAGAIN], &["process"], "the service needs more processes and threads than this container may have; raise its PIDs limit (--pids-limit, podPidsLimit), or its user's (ulimit -u)"),
    row(&["ptrace"], &[EPERM, EACCES], &["process"], "process {} cannot be traced: it runs as a different user than freeze, is not dumpable, or has a tracer already (gdb, strace); run the service as one user, end the tracer, or add the capability SYS_PTRACE"),
    row(&["prctl"], &[EPERM, EACCES], &["attribute"], "a process of the service has an attribute that this container's user may not set (prctl {}); start the container with the same capabilities"),
    row(&["setgroups", "setresuid", "setresgid", "capset"], &[EPERM, EINVAL], &["credentials"], "a process of the service has users, groups or capabilities that this container's user may not take ({}); start the container as the same user, with the same groups and capabilities"),
    row(&["open"], &[EEXIST], &["terminal"], "the service has a terminal of its own, {}, and that number is taken here; end what has it, or start a new container"),
    row(&["ioctl", "chown"], &[], &["terminal"], "a terminal of the service cannot be set up as it was ({}); start the container with a terminal of its own (docker run -t), or none"),
    row(&["shmget", "semget", "msgget"], &[EEXIST], &["system-v"], "a System V object of the service needs an ID or a key that this IPC namespace does not give any more ({}); start a container or a pod with an IPC namespace of its own, and nothing else that uses it"),
    row(&["shmget", "semget", "msgget"], &[ENOSPC, EINVAL, ENOMEM], &["system-v"], "the IPC namespace has no room for a System V object of the service ({}); raise its limits (sysctl kernel.shmmax, shmall, shmmni, sem, msgmni)"),
    row(&["wait"], NONE, &["out-of-memory"], "the kernel killed a process of the service, or CRIU, for lack of memory; raise the container's memory limit"),
    row(&["wait"], NONE, &["killed"], "a process of the service was killed, and not for lack of memory; find out who killed it, and start the container again"),
    row(&["wait"], NONE, &["death"], "a process of the service died during the restore (signal {}), most often for lack of memory; raise the memory limit"),
    row(&["wait"], NONE, &["criu-killed"], "CRIU was killed, and not for lack of memory; find out who killed it, and try again"),
    row(&["wait"], NONE, &["criu"], "CRIU was killed, probably for lack of memory; raise the container's memory limit"),
    // Clocks
    row(&["shift"], NONE, &["clock"], "this host booted later, and CLOCK_MONOTONIC cannot go on for process {}; use a host that booted earlier, or a container that may make a time namespace (--isolate auto), or accept the jump (--clock host)"),
    // Images
    row(&["write"], &[EPIPE], &["image"], "freeze stopped reading CRIU's images; the message before says why"),
    row(&[], &[ENOMEM], &[], "the container does not have enough memory for the service; raise its memory limit"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The failure that a row is for, as CRIU writes it.
    fn provoked(row: &Row) -> String {
        let first = |names: &[&'static str], any| names.first().copied().unwrap_or(any);
        let errno = row.errnos.first().map_or(0, |errno| *errno as i32);
        format!(
            "  1001: {MARK}{} errno={errno} kind={} object=%2Fa%20b",
            first(row.calls, "open"),
            first(row.kinds, "file")
        )
    }

    #[test]
    fn every_row_explains_what_it_is_for() {
        let said: Vec<String> = ROWS
            .iter()
            .map(|row| {
                let failure = Failure::parse(&provoked(row)).unwrap();
                assert!(std::ptr::eq(failure.row().unwrap(), row), "an earlier row hides that of {failure:?}");
                failure.sentence()
            })
            .collect();
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn the_page_has_the_table() {
        let page = include_str!("../../docs/reference/reasons.md");
        let rows = ROWS.iter().map(|row| {
            let [calls, errnos, kinds] = row.columns();
            format!("| {calls} | {errnos} | {kinds} | {} |", row.sentence.replace("{}", "…"))
        });
        let expected: Vec<String> = rows.collect();
        let found: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert_eq!(found, expected, "docs/reference/reasons.md must have:\n{}", expected.join("\n"));
    }

    #[test]
    fn an_object_may_have_any_byte() {
        let failure =
            Failure::parse("Failure: call=open errno=2 kind=file object=/a%0AFailure:%20%25%FF%1B[2J").unwrap();
        assert_eq!(failure.object, "/a?Failure: %\u{fffd}?[2J");
        let long = Failure::parse(&format!("Failure: call=open errno=2 kind=file object=/{}", "%C3%A4".repeat(2000)));
        assert_eq!(long.unwrap().object.chars().count(), LONGEST + 1);
    }

    #[test]
    fn only_a_line_of_its_own_is_a_failure() {
        for line in [
            "Error (criu/x.c:1): Can't open Failure: call=open errno=2 kind=file object=/a",
            "Failure: call=open errno=two kind=file object=/a",
            "Failure: call=open errno=2",
            "",
        ] {
            assert_eq!(Failure::parse(line), None, "{line}");
        }
        assert!(Failure::parse("(00.01)pie: 1001: Failure: call=mmap errno=12 kind=memory object=4096").is_some());
    }

    #[test]
    fn a_failure_that_no_row_has_is_told_as_it_is() {
        let failure = Failure::parse("Failure: call=listen errno=95 kind=inet object=10.0.0.1:80").unwrap();
        insta::assert_snapshot!(failure.sentence(), @"CRIU's call listen failed for 10.0.0.1:80 (inet): Operation not supported on transport endpoint; CRIU's log has more");
    }
}
