//! The container's terminal, which is another one in the next container, and terminals of the service's own.

use std::io::Write;

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
        let app = app(*setting, "terminal");
        let first = app.start();
        says(&first, "size=33x101 interrupted=0 resized=0 hung_up=0");
        first.checkpoint(&["--leave-running"]);
        says(&first, "size=33x101 interrupted=0 resized=0 hung_up=0");
        interrupted(&first, 1);
        let second = moved(&app, &first);
        says(&second, "size=33x101 interrupted=1 resized=0 hung_up=0");
        interrupted(&second, 2);
        let third = moved(&app, &second);
        says(&third, "size=33x101 interrupted=2 resized=0 hung_up=0");
        interrupted(&third, 3);
    }
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
            let (out, err) = second.logs();
            assert!(out.contains("line 2 of the output") && err.contains("line 2 of the errors"), "{out}{err}");
            assert!(err.contains("the service had a terminal, and this container has none"), "{err}");
            second.checkpoint(&["--leave-running"]);
            let third = moved(&app, &second);
            says(&third, "terminals=000 read=0");
            let (out, err) = third.logs();
            assert!(out.contains("line 3 of the output") && !err.contains("had a terminal"), "{out}{err}");
        }
    }
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
