//! Starts, asks, freezes and ends containers. Looks at them from outside only, as whatever is started inside takes PIDs
//! that a restore needs.

#![allow(dead_code, unused, reason = "each test that includes this uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use freeze::fail_points::{self, Point};
use nix::sched::{CloneFlags, setns};

#[path = "hosts.rs"]
mod hosts;
use hosts::run;
pub use hosts::{Host, Hosts, sandbox};
#[path = "setting.rs"]
mod setting;
pub use setting::Setting;
pub(crate) use setting::in_all_settings;

/// The file in the runtime folder that names the fail point of the next worker.
const FAIL_POINT: &str = "fail-point";
/// The freeze of this build, with fail points.
pub const BUILT: &str = env!("CARGO_BIN_EXE_freeze");
/// How a worker's command line begins.
pub const WORKER: [&str; 2] = ["/proc/self/exe", "worker"];

/// How long anything may take that is waited for, on a busy machine with an emulated CPU.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// An application: a store, and one container after another.
pub struct App {
    setting: Setting,
    folder: tempfile::TempDir,
    options: Vec<String>,
    command: Vec<String>,
    url: String,
    env: Vec<String>,
    denied: Vec<String>,
    groups: String,
    terminal: bool,
    programs: PathBuf,
    binds: Vec<String>,
    /// PID of a process whose IPC namespace the containers share.
    pod: Option<i32>,
    /// More options for the sandbox.
    sandbox: Vec<String>,
    hosts: Hosts,
    /// How many containers there have been.
    started: AtomicI64,
}

impl App {
    /// One that runs the program `service` with these arguments.
    pub fn new(setting: Setting, service: &[&str]) -> Self {
        Self::with_options(setting, &[], &[&["/services/service"], service].concat())
    }

    /// One with options for `freeze run`, and any command.
    pub fn with_options(setting: Setting, options: &[&str], command: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let (options, command) = (owned(options), owned(command));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let url = "file:/store".to_owned();
        let programs = needed("FREEZE_TEST_OPT").into();
        let (env, denied, groups, binds, pod) = (vec![], vec![], String::new(), vec![], None);
        let (terminal, sandbox) = (false, vec![]);
        let (hosts, started) = (Hosts::given(), AtomicI64::new(0));
        let app = Self {
            setting,
            folder,
            options,
            command,
            url,
            env,
            denied,
            groups,
            terminal,
            programs,
            binds,
            pod,
            sandbox,
            hosts,
            started,
        };
        fs::create_dir(app.keys()).unwrap();
        setting.make_volume(&app.store());
        app
    }

    /// One whose checkpoints are in the store `url`, no folder, reached with these variables.
    pub fn with_store(self, url: &str, env: Vec<String>) -> Self {
        Self { url: url.to_owned(), env, ..self }
    }

    /// One whose containers share the IPC namespace of this process.
    pub fn in_pod(self, pod: i32) -> Self {
        Self { pod: Some(pod), ..self }
    }

    /// One whose containers are on these hosts, whatever the tests are run with.
    pub fn on_hosts(self, hosts: Hosts) -> Self {
        Self { hosts, ..self }
    }

    /// One with variables, `NAME=VALUE`, in all its containers.
    pub fn with_variables(self, variables: &[&str]) -> Self {
        Self { env: variables.iter().map(ToString::to_string).collect(), ..self }
    }

    /// One whose containers have freeze in a folder of the application's own.
    pub fn with_own_programs(self) -> Self {
        let programs = self.folder.path().join("programs");
        fs::create_dir(&programs).unwrap();
        ["freeze", "criu"].map(|name| fs::copy(self.programs.join(name), programs.join(name)).unwrap());
        Self { programs, ..self }
    }

    /// One whose freeze is of this build, and stops at fail points: see [`Container::stop_at`].
    pub fn with_fail_points(self) -> Self {
        if !cfg!(feature = "fail-points") {
            panic!("there are no fail points: run `make test`");
        }
        let variable = format!("{}=/runtime/{FAIL_POINT}", fail_points::VARIABLE);
        Self {
            env: [&self.env[..], &[variable]].concat(),
            binds: vec![format!("{BUILT}:/opt/freeze/freeze:ro")],
            ..self
        }
    }

    /// The same, as on a host with this `kernel.yama.ptrace_scope`.
    pub fn under_yama(self, scope: u32) -> Self {
        let app = self.with_fail_points();
        Self { env: [&app.env[..], &[format!("{}={scope}", fail_points::YAMA)]].concat(), ..app }
    }

    /// The same, and small processes are copied as well when it is left running.
    pub fn with_copies_of_all(self) -> Self {
        let app = self.with_fail_points();
        Self { env: [&app.env[..], &[format!("{}=0", fail_points::SNAPSHOT)]].concat(), ..app }
    }

    /// The same, and a move of it takes rounds, however small it is.
    pub fn with_rounds(self) -> Self {
        let app = self.with_copies_of_all();
        Self { env: [&app.env[..], &[format!("{}=0", fail_points::ROUNDS)]].concat(), ..app }
    }

    /// One with a volume at /volume, of `folder` if it is given: that of another application, from outside.
    pub fn with_volume(mut self, folder: Option<&Path>) -> Self {
        let volume = folder.map_or_else(|| self.volume(), Path::to_owned);
        if folder.is_none() {
            self.setting.make_volume(&volume);
        }
        self.binds.push(format!("{}:/volume", volume.display()));
        self
    }

    /// One with a folder that containers find at `point`: a path, and `:ro` if they may not write to it.
    pub fn with_folder(mut self, folder: &Path, point: &str) -> Self {
        self.binds.push(format!("{}:{point}", folder.display()));
        self
    }

    /// The folder that is /volume inside, from outside.
    pub fn volume(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    /// The folder that is /opt/freeze inside, from outside.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// One whose containers refuse system calls besides: `EPERM=NAME,…` or `ENOSYS=NAME,…`.
    pub fn denying(self, calls: &str) -> Self {
        Self { denied: vec![calls.to_owned()], ..self }
    }

    /// Gives the containers that are started from now on these supplementary groups, `GID,…`.
    pub fn set_groups(&mut self, groups: &str) {
        groups.clone_into(&mut self.groups);
    }

    /// Gives the containers that are started from now on a terminal, or none.
    pub fn set_terminal(&mut self, terminal: bool) {
        self.terminal = terminal;
    }

    /// Gives the containers that are started from now on these options of the sandbox.
    pub fn set_sandbox(&mut self, options: &[&str]) {
        self.sandbox = options.iter().map(ToString::to_string).collect();
    }

    /// The store's folder, from outside.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// A folder of secrets, from outside; inside it is /keys.
    pub fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Runs freeze on the store outside of any container, as root.
    pub fn freeze(&self, args: &[&str]) -> Output {
        let program = Path::new(&needed("FREEZE_TEST_OPT")).join("freeze");
        let mut command = Command::new(program);
        command.args(args);
        let folder = self.folder.path().display().to_string();
        command.env("FREEZE_STORE", self.url.replace("file:", &format!("file:{folder}"))).output().unwrap()
    }

    /// A fresh container: it restores where there is a generation, else it starts the service.
    pub fn start(&self) -> Container {
        self.start_in(&root())
    }

    /// The same with more options for `freeze run`.
    pub fn start_with(&self, options: &[&str]) -> Container {
        self.launch(&root(), options, &[])
    }

    /// The same on a host that has been up for so many hours longer than this one, which must have been up for longer than that where
    /// they are negative.
    pub fn start_on_host(&self, host: impl Into<Host>, options: &[&str]) -> Container {
        self.launch_on(Some(host.into()), &root(), options, &[], None)
    }

    /// The same with a variable, `NAME=VALUE`.
    pub fn start_with_variable(&self, options: &[&str], variable: &str) -> Container {
        self.launch(&root(), options, &[variable])
    }

    /// The same on another root.
    pub fn start_in(&self, root: &str) -> Container {
        self.launch(root, &[], &[])
    }

    /// The same with more options for `freeze run`; its first worker stops at this point.
    pub fn start_stopping_at(&self, point: Option<Point>, options: &[&str]) -> Container {
        self.launch_on(None, &root(), options, &[], point)
    }

    fn launch(&self, root: &str, options: &[&str], variables: &[&str]) -> Container {
        self.launch_on(None, root, options, variables, None)
    }

    fn launch_on(
        &self,
        host: Option<Host>,
        root: &str,
        options: &[&str],
        variables: &[&str],
        point: Option<Point>,
    ) -> Container {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let host = host.unwrap_or_else(|| self.hosts.hours(self.started.fetch_add(1, Ordering::Relaxed)).into());
        let id = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let runtime = self.folder.path().join(&id);
        self.setting.make_volume(&runtime);
        if let Some(point) = point {
            fs::write(runtime.join(FAIL_POINT), point.name()).unwrap();
        }
        let binds = [
            format!("{}:/opt/freeze:ro", self.programs.display()),
            format!("{}:/services:ro", needed("FREEZE_TEST_SERVICES")),
            format!("{}:/store", self.store().display()),
            format!("{}:/keys:ro", self.keys().display()),
            format!("{}:/runtime", runtime.display()),
        ];
        let mut args = vec!["start", "--id", &id, "--setting", self.setting.name()];
        args.extend(binds.iter().chain(&self.binds).flat_map(|bind| ["--bind", bind.as_str()]));
        args.extend(self.denied.iter().flat_map(|calls| ["--deny", calls.as_str()]));
        args.extend(["--groups", &self.groups]);
        args.extend(self.sandbox.iter().map(String::as_str));
        if self.terminal {
            args.extend(["--tty", "--interactive"]);
        }
        args.extend(self.env.iter().flat_map(|variable| ["--env", variable.as_str()]));
        args.extend(variables.iter().flat_map(|variable| ["--env", variable]));
        args.extend([root, "/opt/freeze/freeze", "run", "--store", &self.url]);
        args.extend(["--runtime-dir", self.setting.runtime_dir()]);
        args.extend(self.options.iter().map(String::as_str));
        args.extend(options);
        args.push("--");
        args.extend(self.command.iter().map(String::as_str));
        let out = match self.pod {
            None => host.sandbox(&args),
            Some(pod) => {
                args.splice(1..1, ["--ipc", "caller"]);
                let ipc = format!("--ipc=/proc/{pod}/ns/ipc");
                run(&[&["nsenter".to_owned(), ipc], &host.command()[..]].concat(), &args)
            }
        };
        assert!(out.status.success(), "the sandbox did not start: {}", text(&out.stderr));
        let pid = text(&out.stdout).trim().parse().unwrap();
        let runtime = self.folder.path().join(self.setting.runtime_dir().replacen("/runtime", &id, 1));
        Container { id, pid, runtime, setting: self.setting, host }
    }
}

/// One container; removed when dropped.
pub struct Container {
    id: String,
    pid: i32,
    runtime: PathBuf,
    /// What looks at it must be on that as well.
    host: Host,
    setting: Setting,
}

impl Container {
    /// Waits until the service runs, started or restored, and answers its first question.
    pub fn verified(&self) -> String {
        self.running();
        let answer = self.ask("verify");
        assert!(answer.starts_with("ok"), "{answer}\n{}", self.story());
        answer
    }

    /// Has the next worker that reaches this point stop there.
    pub fn stop_at(&self, point: Point) {
        fs::write(self.runtime.join(FAIL_POINT), point.name()).unwrap();
    }

    /// The worker, once it has stopped at the point.
    pub fn stopped(&self) -> i32 {
        self.eventually("no worker stops", || {
            let stands = |pid: &i32| states(*pid).iter().all(|state| *state == 'T');
            (!self.runtime.join(FAIL_POINT).exists()).then(|| self.find(&WORKER).filter(stands))?
        })
    }

    /// PID 1, as seen from outside.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its runtime folder, from outside; inside it is /runtime.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Waits until init says that the service runs.
    pub fn running(&self) {
        self.eventually("the service does not run", || self.status()?.contains(r#""state":"running""#).then_some(()));
    }

    /// Waits until init says that it is in this state.
    pub fn reaches(&self, state: &str) {
        let wanted = format!(r#""state":"{state}""#);
        self.eventually(&format!("it is not {state}"), || self.status()?.contains(&wanted).then_some(()));
    }

    /// Whether PID 1 has ended.
    pub fn has_ended(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).map_or(true, |stat| stat.contains(") Z "))
    }

    /// Init's answer to a status request, if there is an init.
    pub fn status(&self) -> Option<String> {
        const REQUEST: &str = "{\"version\":1,\"op\":\"status\"}\n";
        let path = self.runtime.join("control.sock");
        if self.setting == Setting::UserNamespace {
            return ask_as(self.setting.owner(), &path, REQUEST);
        }
        let mut socket = UnixStream::connect(path).ok()?;
        socket.write_all(REQUEST.as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).ok()?;
        Some(line)
    }

    /// How many tracers init says are left above the service; none if it has none.
    pub fn tracers(&self) -> Option<u64> {
        serde_json::from_str::<serde_json::Value>(&self.status()?).unwrap()["tracers"].as_u64()
    }

    /// Asks the service over its TCP port.
    pub fn ask(&self, word: &str) -> String {
        self.eventually("the service does not answer", || self.try_ask(word))
    }

    fn try_ask(&self, word: &str) -> Option<String> {
        self.ask_within(PATIENCE, word)
    }

    /// Asks once, and waits so long for the answer: one that stands still has none.
    pub fn ask_within(&self, limit: Duration, word: &str) -> Option<String> {
        let word = word.to_owned();
        self.in_its_network(move || {
            let mut stream = TcpStream::connect("127.0.0.1:7000").ok()?;
            stream.set_read_timeout(Some(limit)).ok()?;
            stream.write_all(format!("{word}\n").as_bytes()).ok()?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            (!line.is_empty()).then(|| line.trim_end().to_owned())
        })
    }

    /// A socket that listens in its network, and that is accepted from outside.
    pub fn listen(&self, port: u16) -> TcpListener {
        let socket = self.in_its_network(move || TcpListener::bind(("127.0.0.1", port)).ok());
        socket.unwrap_or_else(|| panic!("no socket in the container's network\n{}", self.story()))
    }

    /// From a thread of ours that enters the container's network alone: sockets stay in the network where they were made.
    fn in_its_network<T: Send + 'static>(&self, act: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
        let network = format!("/proc/{}/ns/net", self.pid);
        let entered = std::thread::spawn(move || {
            setns(fs::File::open(network).ok()?, CloneFlags::CLONE_NEWNET).ok()?;
            act()
        });
        entered.join().unwrap()
    }

    /// The keys of its terminal. When they are dropped no others follow.
    pub fn keys(&self) -> fs::File {
        let folder = text(&sandbox(&["dir", &self.id]).stdout);
        fs::OpenOptions::new().write(true).open(Path::new(folder.trim()).join("stdin")).unwrap()
    }

    /// Runs a command inside, as `docker exec` would.
    pub fn exec(&self, command: &[&str]) -> Output {
        self.host.sandbox(&[&["exec", self.id.as_str()], command].concat())
    }

    /// What executes a command inside, for `freeze migrate`.
    pub fn exec_template(&self) -> String {
        let sandbox = format!("{}/integration/sandbox/sandbox", env!("CARGO_MANIFEST_DIR"));
        [&self.host.command()[..], &[sandbox, "exec".to_owned(), self.id.clone()]].concat().join(" ")
    }

    /// `freeze checkpoint` inside; it must succeed.
    pub fn checkpoint(&self, options: &[&str]) -> String {
        let out = self.try_checkpoint(options);
        assert!(out.status.success(), "{}: {}{}", out.status, text(&out.stderr), self.story());
        text(&out.stdout)
    }

    /// `freeze checkpoint` inside.
    pub fn try_checkpoint(&self, options: &[&str]) -> Output {
        self.exec(
            &[&["/opt/freeze/freeze", "checkpoint", "--runtime-dir", self.setting.runtime_dir()], options].concat(),
        )
    }

    /// A connection to init's control socket, from outside.
    pub fn control(&self) -> UnixStream {
        UnixStream::connect(self.runtime.join("control.sock")).unwrap()
    }

    /// Signals PID 1.
    pub fn kill(&self, signal: &str) {
        assert!(self.host.sandbox(&["kill", &self.id, signal]).status.success());
    }

    /// Waits for the end of PID 1 and gives its exit status.
    pub fn wait(&self) -> i32 {
        let out = self.host.sandbox(&["wait", &self.id]);
        text(&out.stdout).trim().parse().unwrap_or_else(|_| panic!("no exit status: {}", text(&out.stderr)))
    }

    /// What it has written to stdout and stderr.
    pub fn logs(&self) -> (String, String) {
        let out = self.host.sandbox(&["logs", &self.id]);
        (text(&out.stdout), text(&out.stderr))
    }

    /// What freeze has warned of, but for a jump of the clock, which is right where [`Hosts`] differ.
    pub fn warnings(&self) -> Vec<String> {
        let warns = |line: &&str| line.contains("warning") && !line.contains("CLOCK_MONOTONIC");
        self.logs().1.lines().filter(warns).map(str::to_owned).collect()
    }

    /// PID outside of the first process whose command line begins with `words`.
    pub fn find(&self, words: &[&str]) -> Option<i32> {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.pid)).ok()?;
        let wanted = words.join("\0");
        fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let inside = fs::read_link(entry.path().join("ns/pid")).ok()? == namespace;
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (inside && line.starts_with(&wanted)).then(|| entry.file_name().to_str()?.parse().ok())?
        })
    }

    /// Repeats `attempt` until it gives something.
    pub fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = attempt() {
                return found;
            }
            assert!(Instant::now() < until, "{what}\n{}", self.story());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// For messages of failing tests.
    pub fn story(&self) -> String {
        let tail = |text: &str| {
            text.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let (out, err) = self.logs();
        let criu = ["dump.log", "restore.log"].map(|log| {
            let log = fs::read_to_string(self.runtime.join(log)).unwrap_or_default();
            log.lines().filter(|line| line.contains("Error") || line.contains("Warn")).collect::<Vec<_>>().join("\n")
        });
        format!("--- stdout\n{}\n--- stderr\n{}\n--- criu\n{}", tail(&out), tail(&err), criu.join("\n"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.host.sandbox(&["rm", &self.id]);
    }
}

/// What `make test` provides.
pub fn needed(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run `make test`"))
}

/// The tests' ordinary root.
pub fn root() -> String {
    needed("FREEZE_TEST_ROOT")
}

/// Asks at a socket as another user: in a user namespace root of outside is nobody.
fn ask_as(uid: u32, socket: &Path, request: &str) -> Option<String> {
    let id = uid.to_string();
    let mut nc = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "nc", "-N", "-U"])
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It may have ended already, as there is no socket yet.
    let _ = nc.stdin.take().unwrap().write_all(request.as_bytes());
    let answer = text(&nc.wait_with_output().unwrap().stdout);
    (!answer.is_empty()).then_some(answer)
}

/// States of all threads (proc(5)); none where there is no such process.
pub fn states(pid: i32) -> Vec<char> {
    let state = |stat: String| stat.rsplit_once(") ")?.1.chars().next();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| state(fs::read_to_string(task.path().join("stat")).ok()?)).collect()
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
