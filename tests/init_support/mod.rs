//! Runs the real executable as init: on the plain host, and as PID 1 of a PID namespace, as root and as an ordinary user.
#![allow(dead_code)]

pub mod play;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

/// The executable, where every user can execute it: the folder that cargo builds in may be closed to others.
pub fn program() -> &'static str {
    static COPY: LazyLock<String> = LazyLock::new(|| {
        // `make test` names the release build, which is what has to be small.
        let release = std::env::var("FREEZE_TEST_OPT").map(|folder| folder + "/freeze");
        let built = release.unwrap_or_else(|_| env!("CARGO_BIN_EXE_freeze").to_owned());
        let folder = tempfile::Builder::new().prefix("freeze-under-test-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(built, folder.path().join("freeze")).unwrap();
        // One name for all runs, so that only one copy is left behind.
        let name = std::env::temp_dir().join("freeze-under-test");
        fs::create_dir_all(&name).unwrap();
        fs::rename(folder.path().join("freeze"), name.join("freeze")).unwrap();
        name.join("freeze").to_str().unwrap().to_owned()
    });
    &COPY
}

/// Where init runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not PID 1.
    Host,
    /// PID 1 of a fresh PID namespace.
    Pid1,
    /// The same as user 1000 without any capability.
    Pid1User,
}

pub const PLACES: [Place; 3] = [Place::Host, Place::Pid1, Place::Pid1User];

/// A folder that every user can write, for one init.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// A command line that runs `arguments` at a place, with no setting of freeze's from outside but folders below `folder`.
pub fn command_at(place: Place, folder: &Path, arguments: &[&str]) -> Command {
    const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    const USER: [&str; 6] =
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "--bounding-set=-all"];
    let words: Vec<&str> = match place {
        Place::Host => arguments.to_vec(),
        Place::Pid1 => [&NAMESPACE, arguments].concat(),
        Place::Pid1User => [&NAMESPACE, &USER[..], arguments].concat(),
    };
    let mut command = Command::new(words[0]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FREEZE_")) {
        command.env_remove(name);
    }
    command.args(&words[1..]);
    command.env("FREEZE_RUNTIME_DIR", folder.join("run"));
    command.env("FREEZE_STORE", format!("file:{}", folder.join("store").display()));
    command
}

/// A running init.
pub struct Init {
    pub child: Child,
    /// Init's PID as seen from here.
    pub pid: i32,
    pub folder: tempfile::TempDir,
    output: BufReader<ChildStdout>,
}

/// Runs `freeze run OPTIONS -- sh -c SCRIPT`.
pub fn script(place: Place, options: &[&str], script: &str) -> Init {
    let folder = folder();
    let arguments = [&[program(), "run"], options, &["--", "sh", "-c", script]].concat();
    let mut command = command_at(place, folder.path(), &arguments);
    command.stdin(Stdio::null());
    Init::start(place, command, folder)
}

/// Runs to the end and gives status and standard error.
pub fn run(place: Place, options: &[&str], text: &str) -> (i32, String) {
    script(place, options, text).end()
}

impl Init {
    /// Starts a command made by [`command_at`].
    pub fn start(place: Place, mut command: Command, folder: tempfile::TempDir) -> Init {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let outer = child.id() as i32;
        // One that has ended already is not there to be found.
        let inner = || children(outer).first().copied().or_else(|| (!is_alive(outer)).then_some(outer));
        let pid = if place == Place::Host { outer } else { wait_for(inner) };
        Init { child, pid, folder, output }
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn expect(&mut self, text: &str) {
        assert_eq!(self.line(), text);
    }

    pub fn signal(&self, signal: i32) {
        kill(self.pid, signal);
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// PIDs, as seen from here, of the subreaper and of the service's first process.
    pub fn tree(&self) -> (i32, i32) {
        let subreaper = wait_for(|| children(self.pid).into_iter().find(|pid| !children(*pid).is_empty()));
        (subreaper, children(subreaper)[0])
    }

    /// Waits for the end; status (128 + signal where one killed it) and standard error, but for the line that each start without
    /// a store says.
    pub fn end(mut self) -> (i32, String) {
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        let store = self.folder.path().join("store");
        let usual = format!(
            "freeze: starting the command: file:{} does not exist, so there is nothing to restore\n",
            store.display()
        );
        (code(self.child.wait().unwrap()), error.replacen(&usual, "", 1))
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // Before it is waited for its number cannot be another's.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            kill_tree(self.child.id() as i32);
            let _ = self.child.wait();
        }
    }
}

/// Kills a process and all below it.
fn kill_tree(pid: i32) {
    children(pid).into_iter().for_each(kill_tree);
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
}

pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

pub fn kill(pid: i32, signal: i32) {
    // By shell, as the types of the usual libraries do not know all signals.
    assert!(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap().success());
}

/// Whether a process exists and has not ended.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != "Z")
}

/// The state letter of a process.
pub fn state(pid: i32) -> Option<String> {
    status_field(pid, "State:").map(|text| text[..1].to_owned())
}

/// One line of /proc/PID/status.
pub fn status_field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned())
}

pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits for something that gives no event, and fails after a long time.
pub fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited a minute in vain");
        std::thread::yield_now();
    }
}
