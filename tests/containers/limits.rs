//! Limits that the kernel counts by user, for all containers of a host together.

use std::fs;
use std::process::Command;

use freeze::exit;
use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, text};

/// The soft and the hard limit of open files that the service has.
fn open_files(container: &Container) -> Vec<String> {
    let service = container.find(&["/services/service"]).unwrap();
    let limits = fs::read_to_string(format!("/proc/{service}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

/// Soft and hard one: criu alone would leave its own.
#[test]
fn a_limit_beyond_the_containers_is_lowered_with_a_warning() {
    for setting in [Setting::Restricted, Setting::Caps] {
        let mut app = App::new(setting, &["one"]);
        app.set_sandbox(&["--ulimit", "nofile=8192"]);
        let first = app.start();
        first.verified();
        assert_eq!(open_files(&first), ["8192", "8192"]);
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        app.set_sandbox(&["--ulimit", "nofile=4096"]);
        let second = app.start();
        second.verified();
        assert_eq!(open_files(&second), ["4096", "4096"]);
        let said = second.logs().1;
        assert!(said.contains("open files, was 8192 at the checkpoint and is 4096 here"), "{said}");
    }
}

/// Lets no process of the container make more inotify instances: those of others have used them up.
fn no_instances(container: &Container) {
    let path = format!("--user=/proc/{}/ns/user", container.pid());
    let limit = "echo 0 >/proc/sys/user/max_inotify_instances";
    let set = Command::new("nsenter").args([&path, "sh", "-c", limit]).output().unwrap();
    assert!(set.status.success(), "{}", text(&set.stderr));
}

#[test]
fn a_service_without_inotify_needs_no_instance() {
    let app = App::new(Setting::UserNamespace, &["one"]).with_fail_points();
    let first = app.start();
    first.verified();
    no_instances(&first);
    let second = moved_without_instances(&app, &first);
    second.verified();
}

#[test]
fn a_service_that_needs_an_instance_is_told_of_the_limit() {
    let app = App::new(Setting::UserNamespace, &["holds", "inotify-none"]).with_fail_points();
    let first = app.start();
    first.verified();
    let second = moved_without_instances(&app, &first);
    assert_eq!(second.wait(), i32::from(exit::RESTORE_FAILED));
    let said = second.logs().1;
    assert!(said.contains("raise the sysctl fs.inotify.max_user_instances on the host"), "{said}");
}

/// The next container has no instances by the time that it restores.
fn moved_without_instances(app: &App, first: &Container) -> Container {
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start_stopping_at(Some(Point::RestoreBegun), &[]);
    let worker = second.stopped();
    no_instances(&second);
    kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    second
}
