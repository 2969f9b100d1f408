//! Messages about what a target lacks (docs/reference/reasons.md). Each test takes something from the target after
//! freeze has checked it, so that CRIU fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use freeze::exit;
use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, needed, text};

fn run(command: &[&str]) {
    let out = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", text(&out.stderr));
}

/// In the container's network, as root of the host.
fn in_network(container: &Container, script: &str) {
    run(&["nsenter", &format!("--net=/proc/{}/ns/net", container.pid()), "sh", "-c", script]);
}

/// For a process of the container, and for all that it starts. Its own user may lower it.
pub fn limit(pid: i32, limit: &str) {
    let user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
    run(&[&user[..], &["prlimit", "--pid", &pid.to_string(), limit]].concat());
}

/// A container whose worker is about to restore a service, and stands still.
struct Target {
    container: Container,
    worker: i32,
    _app: App,
}

impl Target {
    fn of(app: App, point: Point) -> Self {
        let first = app.start();
        first.verified();
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        let container = app.start_stopping_at(Some(point), &[]);
        let worker = container.stopped();
        Self { container, worker, _app: app }
    }

    fn holding(object: &str) -> Self {
        Self::of(holds(object), Point::RestoreChecked)
    }

    /// It waits for the worker.
    fn criu(&self) -> i32 {
        self.container.find(&["/opt/freeze/criu", "restore"]).expect("there is a criu")
    }

    /// Lets the worker go on. The restore fails, and says why. Returns all that it says.
    fn fails(&self, reason: &str) -> String {
        kill(Pid::from_raw(self.worker), Signal::SIGCONT).unwrap();
        assert_eq!(self.container.wait(), i32::from(exit::RESTORE_FAILED), "{}", self.container.story());
        let said = self.container.logs().1;
        assert!(said.contains(reason), "{reason}\nis not in:\n{said}");
        said
    }

    /// The same; CRIU's last errors come before.
    fn fails_in_criu(&self, reason: &str) {
        let said = self.fails(reason);
        let (errors, sentence) = (said.find("CRIU's log: "), said.find(reason));
        assert!(errors.is_some() && errors < sentence, "{said}");
    }
}

fn holds(object: &str) -> App {
    App::new(Setting::Restricted, &["holds", object]).with_fail_points()
}

#[test]
fn a_port_below_the_lowest_for_users() {
    let target = Target::holding("tcp-wildcard");
    in_network(&target.container, "echo 7002 >/proc/sys/net/ipv4/ip_unprivileged_port_start");
    target.fails_in_criu("may not use a port so low; set the sysctl net.ipv4.ip_unprivileged_port_start=0");
}

#[test]
fn an_address_that_is_missing() {
    let target = Target::holding("tcp-address");
    in_network(&target.container, "ip address flush dev lo; ip address add 127.0.0.1/32 dev lo");
    target.fails_in_criu("the service uses 127.0.0.2:7001, an address that this container does not have");
}

#[test]
fn a_port_that_is_taken() {
    let target = Target::holding("tcp-wildcard");
    let _socket = target.container.listen(7001);
    target.fails_in_criu("the service uses 0.0.0.0:7001, and another process has that port here");
}

#[test]
fn a_process_without_address_space() {
    let app = holds("address-space-full");
    let container = app.start();
    container.verified();
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::DUMP.into()), "{said}");
    assert!(said.contains("has no address space left, and a checkpoint needs"), "{said}");
    container.verified();
}

#[test]
fn capabilities_that_may_not_be_set() {
    let target = Target::of(holds("tcp-wildcard").denying("EPERM=capset"), Point::RestoreChecked);
    target.fails_in_criu("users, groups or capabilities that this container's user may not take");
}

/// TCSETS.
#[test]
fn a_terminal_that_may_not_be_set_up() {
    let target = Target::of(holds("pty").denying("EPERM=ioctl:21506"), Point::RestoreChecked);
    target.fails_in_criu("a terminal of the service cannot be set up as it was (TCSETS)");
}

#[test]
fn locked_memory() {
    let target = Target::holding("locked-future");
    limit(target.worker, "--memlock=65536:65536");
    target.fails_in_criu(
        "the service has locked more memory (mlock) than this container allows; raise its limit (ulimit -l",
    );
}

#[test]
fn few_descriptors() {
    let target = Target::holding("tcp-wildcard");
    limit(target.worker, "--nofile=40:40");
    target.fails_in_criu("raise the hard limit of open files");
}

#[test]
fn few_processes() {
    let target = Target::of(holds("tcp-wildcard"), Point::RestoreCriu);
    limit(target.criu(), "--nproc=1:1");
    target.fails_in_criu("the service needs more processes and threads than this container may have");
}

#[test]
fn little_address_space() {
    let app = App::new(Setting::Restricted, &["big", "256"]).with_fail_points();
    let target = Target::of(app, Point::RestoreCriu);
    limit(target.criu(), "--as=200000000:200000000");
    target.fails_in_criu("the service has reserved more memory than this host allows");
}

/// A folder with a file that the service has open, as on a volume.
fn volume() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/key"), "first revision\n").unwrap();
    symlink("sub", folder.path().join("..data")).unwrap();
    symlink("sub/key", folder.path().join("key")).unwrap();
    folder
}

fn with_another_file(change: impl FnOnce(&Path), reason: &str) {
    let folder = volume();
    let target = Target::of(holds("config-open").with_folder(folder.path(), "/config"), Point::RestoreChecked);
    change(&folder.path().join("sub"));
    target.fails_in_criu(reason);
}

#[test]
fn a_file_that_is_closed_missing_or_another() {
    let key = |folder: &Path| folder.join("key");
    with_another_file(
        |folder| fs::set_permissions(key(folder), fs::Permissions::from_mode(0o600)).unwrap(),
        "/config/sub/key, may not be opened by this container's user",
    );
    with_another_file(|folder| fs::remove_file(key(folder)).unwrap(), "/config/sub/key, is missing here");
    with_another_file(
        |folder| {
            fs::remove_file(key(folder)).unwrap();
            symlink("key", key(folder)).unwrap();
        },
        "/config/sub/key, is behind symbolic links here",
    );
    with_another_file(
        |folder| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, "").unwrap();
        },
        "/config/sub/key, has a file in its path here where a folder was",
    );
    with_another_file(
        |folder| fs::write(key(folder), "another").unwrap(),
        "/config/sub/key, has another size than at the checkpoint",
    );
}

/// The same program, built once more: of the same size, with another build ID.
#[test]
fn another_build_of_the_program() {
    let folder = volume();
    let program = folder.path().join("service");
    fs::copy(Path::new(&needed("FREEZE_TEST_SERVICES")).join("service"), &program).unwrap();
    let app = App::with_options(Setting::Restricted, &[], &["/programs/service", "one"]).with_fail_points();
    let target = Target::of(app.with_folder(folder.path(), "/programs"), Point::RestoreChecked);
    let mut bytes = fs::read(&program).unwrap();
    let note = bytes.windows(8).position(|bytes| bytes == b"\x03\0\0\0GNU\0").expect("the program has a build ID");
    bytes[note + 8] ^= 1;
    fs::write(&program, bytes).unwrap();
    target.fails_in_criu("/programs/service is another build of a program or library that the service runs");
}

#[test]
fn packets_that_nobody_has_read() {
    let app = holds("packets");
    let container = app.start();
    container.verified();
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::DUMP.into()), "{said}");
    assert!(said.contains("a pipe of the service has packets (O_DIRECT) that nobody has read"), "{said}");
    assert!(said.contains("CRIU's log: "), "{said}");
    container.verified();
}

#[test]
fn criu_was_killed_and_memory_did_not_run_out() {
    let target = Target::of(holds("tcp-wildcard"), Point::RestoreCriu);
    kill(Pid::from_raw(target.criu()), Signal::SIGKILL).unwrap();
    target.fails("CRIU was killed");
}

/// The worker is not killed (SIGXFSZ), and the service runs on.
#[test]
fn a_store_whose_files_may_not_be_that_large() {
    let app = App::new(Setting::Restricted, &["big", "64"]);
    let container = app.start();
    container.verified();
    limit(container.pid(), "--fsize=1048576:1048576");
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert!(said.contains("is larger than this container's limit of file size; raise the limit (ulimit -f)"), "{said}");
    container.running();
    container.verified();
}

#[test]
fn a_store_that_has_become_read_only_is_told_at_once() {
    let app = App::new(Setting::Restricted, &["one"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    run(&["chattr", "-R", "+i", app.store().to_str().unwrap()]);
    let second = app.start();
    let status = second.wait();
    run(&["chattr", "-R", "-i", app.store().to_str().unwrap()]);
    let said = second.logs().1;
    assert_eq!(status, i32::from(exit::RESTORE_FAILED), "{said}");
    assert!(said.contains("permission denied for uid 1000"), "{said}");
    drop(second);
    app.start().verified();
}

/// Before anything is frozen.
#[test]
fn what_is_to_be_included_and_is_closed_is_refused() {
    let folder = volume();
    let app = App::with_options(Setting::Restricted, &["--include", "/data"], &["/services/service", "one"]);
    let app = app.with_folder(folder.path(), "/data");
    let container = app.start();
    container.verified();
    for (name, open) in [("sub", 0o755), ("sub/key", 0o644)] {
        let mode = |mode| fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        let out = container.try_checkpoint(&[]);
        let said = text(&out.stderr);
        mode(open);
        assert_eq!(out.status.code(), Some(exit::PREFLIGHT.into()), "{said}");
        assert!(said.contains(&format!("--include cannot read /data/{name} (Permission denied")), "{said}");
        assert!(!said.contains("CRIU's log"), "{said}");
    }
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
}
