//! The container's terminal, which is another one in the next container, and terminals of the service's own.

use std::io::Write;
use std::process::Command;

use freeze::fail_points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting};

const SETTINGS: &[Setting] = &[Setting::Restricted, Setting::RestrictedPodman, Setting::Caps];
const INTERRUPT: &[u8] = b"\x03";

fn app(setting: Setting, object: &str) -> App {
    let mut app = App::new(setting, &["holds", object]);
    app.set_terminal(true);
    app
}

fn moved(app: &App, from: &Container) -> Container {
    from.checkpoint(&[]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    app.start()
}

fn says(container: &Container, words: &str) {
    let answer = container.verified();
    assert!(answer.contains(words), "{words} is not in: {answer}\n{}", container.story());
}

fn interrupted(container: &Container, times: u32) {
    container.keys().write_all(INTERRUPT).unwrap();
    let words = format!("interrupted={times}");
    container.eventually("the key has no effect", || container.verified().contains(&words).then_some(()));
}

#[test]
fn a_shell_keeps_its_terminal_and_its_jobs() {
    for setting in SETTINGS {
        keeps_its_terminal(&app(*setting, "terminal"));
    }
}

/// Where init is in namespaces of its own, the container's first process had the terminal before.
#[test]
fn a_shell_in_namespaces_keeps_its_terminal_and_its_jobs() {
    for setting in [Setting::Nested, Setting::RestrictedPodman] {
        let command = ["/services/service", "holds", "terminal"];
        let mut app = App::with_options(setting, &["--isolate", "auto"], &command);
        app.set_terminal(true);
        keeps_its_terminal(&app);
    }
}

fn keeps_its_terminal(app: &App) {
    let first = app.start();
    says(&first, "size=33x101 interrupted=0 resized=0 hung_up=0");
    first.checkpoint(&["--leave-running"]);
    says(&first, "size=33x101 interrupted=0 resized=0 hung_up=0");
    interrupted(&first, 1);
    let second = moved(app, &first);
    says(&second, "size=33x101 interrupted=1 resized=0 hung_up=0");
    interrupted(&second, 2);
    let third = moved(app, &second);
    says(&third, "size=33x101 interrupted=2 resized=0 hung_up=0");
    interrupted(&third, 3);
}

/// The service reads the end of its input, and its output is in the log, until it has a terminal again.
#[test]
fn a_container_without_a_terminal_does() {
    for setting in SETTINGS {
        for object in ["terminal-any", "terminal-polled"] {
            let mut app = app(*setting, object);
            let first = app.start();
            says(&first, "terminals=111 read=-1");
            app.set_terminal(false);
            let second = moved(&app, &first);
            says(&second, "terminals=000 read=0");
            logged(&second, 2);
            let err = second.logs().1;
            assert!(err.contains("the service had a terminal, and this container has none"), "{err}");
            second.checkpoint(&["--leave-running"]);
            let third = moved(&app, &second);
            says(&third, "terminals=000 read=0");
            logged(&third, 3);
            let err = third.logs().1;
            assert!(!err.contains("had a terminal"), "{err}");
        }
    }
}

fn logged(container: &Container, line: u32) {
    container.eventually("the output is not in the log", || {
        let (out, err) = container.logs();
        let line = format!("line {line} of the ");
        (out.contains(&format!("{line}output")) && err.contains(&format!("{line}errors"))).then_some(())
    });
}

/// The terminal is its output. It controls no session, as before.
#[test]
fn a_service_that_had_no_terminal_writes_to_one() {
    for setting in SETTINGS {
        let mut app = app(*setting, "terminal-any");
        app.set_terminal(false);
        let first = app.start();
        says(&first, "terminals=000 read=0");
        app.set_terminal(true);
        let second = moved(&app, &first);
        says(&second, "terminals=011 read=0");
        assert!(second.logs().0.contains("line 2 of the errors"), "{}", second.story());
        second.checkpoint(&["--leave-running"]);
        says(&moved(&app, &second), "terminals=011 read=0");
    }
}

#[test]
fn a_terminal_that_nobody_has_open_still_controls_the_session() {
    for setting in SETTINGS {
        let app = app(*setting, "terminal-closed");
        let first = app.start();
        first.verified();
        first.checkpoint(&["--leave-running"]);
        let second = moved(&app, &first);
        second.verified();
        moved(&app, &second).verified();
    }
}

/// As in tmux, script and sshd: with the container's terminal, and without one.
#[test]
fn a_terminal_of_the_services_own_keeps_its_session() {
    for setting in SETTINGS {
        for (terminal, name) in [(true, "name=/dev/pts/1"), (false, "name=/dev/pts/0")] {
            let mut app = app(*setting, "terminal-own");
            app.set_terminal(terminal);
            let first = app.start();
            says(&first, name);
            first.checkpoint(&["--leave-running"]);
            says(&first, name);
            let second = moved(&app, &first);
            says(&second, name);
            says(&moved(&app, &second), name);
        }
    }
}

/// Its number is that of the new container's terminal.
#[test]
fn a_terminal_of_the_services_own_has_another_number_where_that_is_taken() {
    for setting in SETTINGS {
        let mut app = app(*setting, "terminal-own");
        app.set_terminal(false);
        let first = app.start();
        says(&first, "name=/dev/pts/0");
        app.set_terminal(true);
        let second = moved(&app, &first);
        says(&second, "name=/dev/pts/1");
        says(&moved(&app, &second), "name=/dev/pts/1");
    }
}

/// Somebody's window. Without a size by itself the terminal has the one that the service knows.
#[test]
fn a_window_of_another_size_is_told_to_the_foreground() {
    let app = app(Setting::Restricted, "terminal").with_fail_points();
    let first = app.start();
    says(&first, "size=33x101");
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start_stopping_at(Some(Point::RestoreCriu), &[]);
    let worker = second.stopped();
    let terminal = format!("/proc/{}/root/dev/pts/0", second.pid());
    let resized = Command::new("stty").args(["-F", &terminal, "rows", "40", "cols", "120"]).status().unwrap();
    assert!(resized.success());
    kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    says(&second, "size=40x120 interrupted=0");
    second.eventually("no process gets SIGWINCH", || {
        let told = second.verified();
        (!told.contains("resized=0")).then_some(())
    });
}

/// Busybox's: a job that is stopped, and one in the background, are still there.
#[test]
fn an_interactive_shell_comes_back() {
    let mut app = App::with_options(Setting::Restricted, &[], &["sh", "-i"]);
    app.set_terminal(true);
    let first = app.start();
    first.running();
    let mut keys = first.keys();
    let mut types = |text: &str, shown: &str| {
        keys.write_all(text.as_bytes()).unwrap();
        first.eventually(&format!("{shown} is not shown"), || first.logs().0.contains(shown).then_some(()));
    };
    types("N=41; /services/service holds churn & echo begun\n", "\nbegun");
    // The shell gives the terminal the settings of its jobs before it starts one: what is typed earlier is lost.
    types("echo up; cat\n", "\nup");
    types("first\n", "first\r\nfirst");
    types("\x1a", "Stopped");
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start();
    second.running();
    let mut keys = second.keys();
    let mut types = |text: &str, shown: &str| {
        keys.write_all(text.as_bytes()).unwrap();
        second.eventually(&format!("{shown} is not shown"), || second.logs().0.contains(shown).then_some(()));
    };
    types("jobs; echo $((N + 1))\n", "\n42");
    let shown = second.logs().0;
    assert!(shown.contains("Running") && shown.contains("Stopped"), "{shown}");
    types("fg %2\n", "fg %2\r\ncat");
    types("second\n", "second\r\nsecond");
    types("\x03", "^C\r\n~ $");
    types("echo $((N + 2))\n", "\n43");
    types("exit 7\n", "exit 7");
    assert_eq!(second.wait(), 7, "{}", second.story());
}

#[test]
fn the_interrupt_key_ends_a_container_whose_service_does_not_run_yet() {
    let app = app(Setting::Restricted, "terminal").with_fail_points();
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let second = app.start_stopping_at(Some(Point::RestoreChecked), &[]);
    second.stopped();
    second.keys().write_all(INTERRUPT).unwrap();
    assert_eq!(second.wait(), 130, "{}", second.story());
}
