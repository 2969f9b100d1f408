//! What /proc says of processes of a container, from outside, without what is different in every container: inodes,
//! devices, mount IDs, times, and PIDs as this machine counts them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::mappings;

/// Lines of `status` that are left out, and why.
const STATUS: [&str; 17] = [
    // PIDs of this machine; those of the container are in NStgid, NSpid and `parent`.
    "Tgid",
    "Ngid",
    "Pid",
    "PPid",
    // How many descriptors the table has had room for: a larger one is kept until the process ends.
    "FDSize",
    // The most that there has ever been.
    "VmPeak",
    "VmHWM",
    // What is in memory at the moment, and the tables for that: the kernel pages in and out.
    "VmRSS",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmPTE",
    "VmSwap",
    // What counts as libraries depends on where the kernel puts the vdso.
    "VmLib",
    // Go on with time.
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
    // Of all processes of the user, in all containers. The limit is in `limits`.
    "SigQ",
];
/// Fields of `stat` that are kept, as proc(5) counts them, and their names. The others are in `status`, are times or counts
/// that go on, are PIDs of this machine, or are 0 since Linux 2.6.
const STAT: [(usize, &str); 20] = [
    (9, "flags"),
    (18, "priority"),
    (19, "nice"),
    (20, "threads"),
    (23, "size"),
    (25, "rss limit"),
    (26, "startcode"),
    (27, "endcode"),
    (28, "startstack"),
    (38, "exit_signal"),
    (40, "rt_priority"),
    (41, "policy"),
    (45, "start_data"),
    (46, "end_data"),
    (47, "start_brk"),
    (48, "arg_start"),
    (49, "arg_end"),
    (50, "env_start"),
    (51, "env_end"),
    (52, "exit_code"),
];
/// Files of /proc/PID that are compared as they are.
const FILES: [&str; 9] = [
    "limits",
    "cmdline",
    "environ",
    "comm",
    "oom_score_adj",
    "coredump_filter",
    "timerslack_ns",
    "personality",
    "auxv",
];

/// Processes of the container of process `init`, by the PIDs that they have inside.
fn processes(init: i32) -> BTreeMap<i32, PathBuf> {
    let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).ok();
    let here = |path: &Path| fs::read_link(path.join("ns/pid")).ok();
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let numbers = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().parse::<i32>().is_ok());
    // A zombie has no namespaces, but its parent is in the container.
    let of_it = |path: &PathBuf| here(path) == namespace || here(path).is_none() && inner(path).is_some();
    let found: Vec<_> = all.filter(numbers).filter(of_it).collect();
    found.into_iter().filter_map(|path| Some((inner(&path)?, path))).collect()
}

/// The PID or TID that it has in its own namespace, if that is not this one.
fn inner(path: &Path) -> Option<i32> {
    let status = fs::read_to_string(path.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers: Vec<_> = line.split_whitespace().collect();
    (numbers.len() > 1).then(|| numbers.last()?.parse().ok())?
}

/// What there is to see of those in a range of PIDs.
pub fn describe(init: i32, pids: &RangeInclusive<i32>) -> Vec<String> {
    let all = processes(init);
    let mut seen = Vec::new();
    let mut names = Names::default();
    for (pid, path) in all.range(pids.clone()) {
        let mut line = |what: &str, text: String| seen.push(format!("{pid} {what}: {text}"));
        line("parent", parent(path, &all));
        if is_zombie(path) {
            // The rest of it is nobody's any more.
            line("zombie", read(path, "comm"));
            let exit = stat(path).filter(|text| text.starts_with("exit_"));
            // Which signal its parent has got is of no use any more, but for what finds it: wait(2), or __WCLONE alone.
            exit.map(|text| text.replace("exit_signal 12", "exit_signal 0")).for_each(|text| line("stat", text));
            continue;
        }
        for file in FILES {
            read(path, file).split("\\n").for_each(|text| line(file, text.into()));
        }
        for link in ["cwd", "root"] {
            line(link, target(&path.join(link)));
        }
        status(path).for_each(|text| line("status", text));
        stat(path).for_each(|text| line("stat", text));
        mappings::describe(path, of_its_own).into_iter().for_each(|text| line("smaps", text));
        timers(path).for_each(|text| line("timers", text));
        // The first three are the container's own.
        for (number, fd) in numbered(&path.join("fd")).split_off(&3) {
            line(&format!("fd/{number}"), names.name(*pid, number, &target(&fd)));
            for text in fdinfo(&path.join(format!("fdinfo/{number}"))) {
                line(&format!("fdinfo/{number}"), text);
            }
        }
        for (_, task) in numbered(&path.join("task")) {
            let tid = inner(&task).unwrap_or_default();
            let comm = read(&task, "comm");
            let all = status(&task).chain(stat(&task)).chain(call(&task));
            all.for_each(|text| line(&format!("task {tid} {comm}"), text));
        }
    }
    seen
}

/// Pipes and sockets by the first descriptor of them: so it shows who shares what.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn name(&mut self, pid: i32, number: i32, target: &str) -> String {
        if !target.starts_with("pipe:[") && !target.starts_with("socket:[") {
            return target.to_owned();
        }
        self.0.entry(target.to_owned()).or_insert_with(|| format!("first of {pid}/{number}")).clone()
    }
}

fn read(path: &Path, file: &str) -> String {
    fs::read(path.join(file)).map_or_else(|error| error.kind().to_string(), |bytes| bytes.escape_ascii().to_string())
}

fn target(link: &Path) -> String {
    fs::read_link(link)
        .map_or_else(|error| error.kind().to_string(), |target| of_its_own(&target.display().to_string()))
}

/// A deleted file has the name that CRIU gave it last, and may be a memfd where nobody can map another. Shared anonymous
/// memory is one as well.
fn of_its_own(name: &str) -> String {
    if let Some((kind, _)) = name.split_once(":[").filter(|(kind, _)| !["pipe", "socket"].contains(kind)) {
        return format!("{kind} of its own");
    }
    let Some(deleted) = name.strip_suffix(" (deleted)") else { return name.to_owned() };
    let last = deleted.rsplit('/').next().unwrap_or_default().replace("memfd:", "").replace(".cr_link", "");
    // A key is gone with the removal of its memory.
    let last = if last.starts_with("SYSV") { "SYSV".to_owned() } else { last };
    format!("deleted {}", if last == "zero" { "" } else { &last })
}

/// Entries whose names are numbers, in their order.
fn numbered(folder: &Path) -> BTreeMap<i32, PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect()
}

fn is_zombie(path: &Path) -> bool {
    fs::read_to_string(path.join("status")).is_ok_and(|status| status.contains("State:\tZ"))
}

/// Whether it waits or runs at the moment is nothing of its own.
fn status(path: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(path.join("status")).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let kept = lines.into_iter().filter(|line| {
        let key = line.split(':').next().unwrap_or_default();
        !STATUS.contains(&key)
    });
    kept.map(|line| match line.split_once(':') {
        Some(("State", state)) => {
            format!("State: {}", state.trim().replace(['R', 'D'], "S").split(' ').next().unwrap())
        }
        Some((key, ids)) if key.starts_with("NS") => {
            format!("{key}: {}", ids.split_whitespace().last().unwrap_or_default())
        }
        // Of no effect: a stopped process has it pending until SIGCONT removes it.
        Some((key @ ("SigPnd" | "ShdPnd"), set)) => {
            format!("{key}: {:x}", u64::from_str_radix(set.trim(), 16).unwrap() & !(1 << (Signal::SIGSTOP as u64 - 1)))
        }
        _ => line,
    })
}

/// Calls with a time limit that the kernel goes on with by restart_syscall(2) after any stop.
const RESTARTED: [&str; 5] = ["7", "35", "202", "219", "230"];

/// The system call that a thread waits in: its number, where its stack and its code are. Not its arguments, as what is left
/// of a time limit is one. Nothing for a thread that is stopped.
fn call(path: &Path) -> Option<String> {
    if status(path).any(|line| line == "State: T") {
        return None;
    }
    // One that has just been asked, or let go, is on its way to where it waits.
    for _ in 0..200 {
        let words = read(path, "syscall");
        let words: Vec<_> = words.trim_end_matches("\\n").split(' ').collect();
        if let [number, _, .., stack, code] = words[..]
            && number != "-1"
        {
            let number = if RESTARTED.contains(&number) { "restarted" } else { number };
            return Some(format!("call {number} {stack} {code}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Some("runs on".to_owned())
}

fn parent(path: &Path, all: &BTreeMap<i32, PathBuf>) -> String {
    let text = fs::read_to_string(path.join("status")).unwrap_or_default();
    let pid = text.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default().trim();
    let known = all.iter().find(|(_, path)| path.ends_with(pid));
    known.map_or("outside".into(), |(pid, _)| pid.to_string())
}

fn stat(path: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(path.join("stat")).unwrap_or_default();
    let fields: Vec<_> = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').map(str::to_owned).collect();
    STAT.iter().filter_map(move |(number, name)| {
        let field = fields.get(number - 3)?;
        // PF_FORKNOEXEC, PF_SUPERPRIV and PF_SIGNALED, as an example, are history.
        (*name != "flags").then(|| format!("{name} {field}"))
    })
}

fn timers(path: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(path.join("timers")).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.into_iter().map(|line| match line.split_once("pid.").or_else(|| line.split_once("tid.")) {
        Some((start, _)) => start.to_owned(),
        None => line,
    })
}

/// Words that follow one of these are different in every container, or go on.
const WORDS: [&str; 8] =
    ["ino:", "sdev:", "fhandle-bytes:", "fhandle-type:", "f_handle:", "pos:", "eventfd-id:", "mnt_id:"];

fn fdinfo(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines =
        text.lines().filter(|line| !["mnt_id:", "ino:", "eventfd-id:", "Pid:"].iter().any(|key| line.starts_with(key)));
    lines
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["lock:", _, kind, how, what, _, _, from, to] => format!("lock {kind} {how} {what} {from} {to}"),
                ["it_value:", ..] => format!("it_value {}", if line.contains("(0, 0)") { "none" } else { "some" }),
                ["NSpid:", .., last] => format!("NSpid {last}"),
                ["inotify", ref rest @ ..] | ["tfd:", ref rest @ ..] => without_inodes(rest),
                _ => words.join(" "),
            }
        })
        .collect()
}

/// `inotify wd:1 ino:2 …` and `tfd: 5 events: 19 data: 7 pos:0 ino:2 sdev:3`.
fn without_inodes(words: &[&str]) -> String {
    let kept = words.iter().filter(|word| !WORDS.iter().any(|start| word.starts_with(start)));
    kept.copied().collect::<Vec<_>>().join(" ")
}
