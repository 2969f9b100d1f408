//! What criu makes of a tree where it can only count PIDs up: restores it in a PID namespace of its own, and looks at what came back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use freeze::proc::tree::Process;
use tempfile::TempDir;

use crate::corpus::Node;
use crate::subject::Subject;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pid_order/subject.c");
/// As freeze runs criu; errors are in `log`.
const OPTIONS: &str = "--no-default-config --unprivileged --rootless -D . -v3 -o log";
/// Makes the subject, and waits until all of it is there.
const DUMP: &str = "../subject $PWD/../ready & until [ -e ../ready ] || ! kill -0 $!; do sleep 0.01; done; \"$CRIU\" dump $OPTIONS -t $!";
/// Criu blocks SIGTERM.
const RESTORE: &str = "timeout -s KILL 30 \"$CRIU\" restore $OPTIONS -d && cd /proc && grep . [0-9]*/task/*/stat";

/// What became of a tree.
#[derive(Debug, PartialEq, Eq)]
pub enum Restored {
    /// The first error of criu's log.
    Refused(String),
    /// No error within half a minute.
    Hung,
    /// What is there afterwards, as [`as_text`] has it.
    Tree(String),
}

/// criu, and the images that it restores.
pub struct Criu {
    program: PathBuf,
    folder: TempDir,
    subject: Subject,
}

impl Criu {
    /// Builds, starts and dumps the subject.
    pub fn new() -> Self {
        let opt = std::env::var_os("FREEZE_TEST_OPT").expect("FREEZE_TEST_OPT is the folder with freeze and criu");
        let (program, folder) = (Path::new(&opt).join("criu"), TempDir::new().unwrap());
        let mut cc = Command::new("cc");
        let built = cc.args(["-static", "-pthread", "-o", "subject", SOURCE]).current_dir(&folder).status().unwrap();
        assert!(built.success(), "{SOURCE} could not be built");
        let images = folder.path().join("images");
        fs::create_dir(&images).unwrap();
        let dumped = run(&program, &images, DUMP);
        assert!(dumped.status.success(), "{dumped:?} {:?}", first_error(&images));
        Self { program, subject: Subject::of(&images), folder }
    }

    /// Restores a tree.
    pub fn restore(&self, tree: &[Node]) -> Restored {
        let images = tempfile::tempdir_in(&self.folder).unwrap();
        self.subject.write(tree, images.path());
        let restored = run(&self.program, images.path(), RESTORE);
        if restored.status.success() {
            return Restored::Tree(what_is_there(&String::from_utf8(restored.stdout).unwrap()));
        }
        first_error(images.path()).map_or(Restored::Hung, Restored::Refused)
    }
}

/// Runs a script as PID 1 of a new PID namespace, without any capability.
fn run(criu: &Path, images: &Path, script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "sh", "-c"]);
    command.arg(script).current_dir(images).env("CRIU", criu).env("OPTIONS", OPTIONS).output().unwrap()
}

fn first_error(images: &Path) -> Option<String> {
    let log = fs::read_to_string(images.join("log")).unwrap_or_default();
    Some(log.lines().find(|line| line.contains("Error ("))?.to_owned())
}

/// A tree, a line for each process, to be compared.
pub fn as_text<'a>(tree: impl IntoIterator<Item = &'a Process>) -> String {
    let mut tree: Vec<&Process> = tree.into_iter().collect();
    tree.sort_by_key(|process| process.pid);
    let line = |process: &&Process| {
        let Process { pid, ppid, sid, pgid, threads, .. } = process;
        let state = if process.is_zombie() { " zombie" } else { "" };
        format!("{pid} {ppid} {sid} {pgid} {threads:?}{state}\n")
    };
    tree.iter().map(line).collect()
}

/// The processes in lines of `PID/task/TID/stat:TID (NAME) STATE PPID PGID SID …`, beside PID 1 and what lists them.
fn what_is_there(stats: &str) -> String {
    let mut found: BTreeMap<i32, Process> = BTreeMap::new();
    for stat in stats.lines().filter(|stat| !stat.starts_with("1/") && !stat.contains("(grep)")) {
        let (path, fields) = stat.split_once(':').unwrap();
        let [pid, tid] = [0, 2].map(|part| path.split('/').nth(part).unwrap().parse().unwrap());
        let (_, fields) = fields.rsplit_once(") ").unwrap();
        let mut fields = fields.split(' ');
        let state = fields.next().unwrap().chars().next().unwrap();
        let [ppid, pgid, sid] = [(); 3].map(|()| fields.next().unwrap().parse().unwrap());
        let process = Process { pid, ppid, pgid, sid, state, ..Process::default() };
        let threads = &mut found.entry(pid).or_insert(process).threads;
        threads.push(tid);
        threads.sort_unstable();
    }
    as_text(found.values())
}
