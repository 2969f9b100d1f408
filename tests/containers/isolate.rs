//! `--isolate auto`, and clocks that go on: what the service, its users and `exec` see of it.

use std::fs;

use nix::libc;

use crate::harness::{App, Container, Setting, text};

const AUTO: [&str; 2] = ["--isolate", "auto"];
const HOUR: i64 = 3600;

/// What each kind of container gets: nothing where capabilities, and PIDs that can be chosen, would be lost.
const LEVELS: [(Setting, &str); 9] = [
    (Setting::Restricted, "nothing"),
    (Setting::RestrictedPodman, "users"),
    (Setting::OpenShift, "nothing"),
    (Setting::Nested, "processes"),
    (Setting::Caps, "nothing"),
    (Setting::FileCaps, "nothing"),
    (Setting::Ambient, "nothing"),
    (Setting::UserNamespace, "nothing"),
    (Setting::Unconfined, "nothing"),
];

fn isolated(setting: Setting, service: &[&str]) -> App {
    App::with_options(setting, &AUTO, &[&["/services/service"], service].concat())
}

/// Whether init has got as far as blocking its signals. The relay, which init becomes, waits for them: then
/// they do not show as blocked (kernel/signal.c, do_sigtimedwait).
fn blocks_its_signals(init: i32) -> bool {
    let proc = |file: &str| fs::read_to_string(format!("/proc/{init}/{file}")).unwrap_or_default();
    let status = proc("status");
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigBlk:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (libc::SIGTERM - 1)) != 0) || proc("cmdline").starts_with("freeze-relay")
}

pub fn checkpoint(from: &Container) {
    from.checkpoint(&[]);
    assert_eq!(from.wait(), 172, "{}", from.story());
}

/// The next container, after a checkpoint that left the service running, and a move.
pub fn moved_on(app: &App, container: &Container) -> Container {
    container.verified();
    container.checkpoint(&["--leave-running"]);
    container.verified();
    checkpoint(container);
    app.start()
}

/// A number of the service's answer.
pub fn number(answer: &str, name: &str) -> i64 {
    let found = answer.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().unwrap()
}

#[test]
fn each_container_gets_the_best_that_it_allows_and_says_so() {
    for (setting, level) in LEVELS {
        let app = isolated(setting, &["one"]);
        let container = app.start();
        container.verified();
        let status = container.status().unwrap();
        assert!(status.contains(&format!(r#""isolation":"{level}""#)), "{setting:?}: {status}");
        let says_why = || container.logs().1.contains("init runs without namespaces of its own: ");
        if level == "nothing" {
            container.eventually("the reason is not in the log", || says_why().then_some(()));
        } else {
            assert!(!says_why(), "{setting:?}");
        }
    }
    let app = App::new(Setting::Nested, &["one"]);
    let container = app.start();
    container.verified();
    assert!(!container.status().unwrap().contains("isolation"), "nobody asked for it");
}

/// Every shape of service three times in a row.
#[test]
fn services_move_as_they_do_otherwise() {
    for setting in [Setting::Nested, Setting::RestrictedPodman] {
        for service in [&["mixed"][..], &["prefork", "4"], &["daemon"], &["files", "/data"]] {
            let app = isolated(setting, service);
            let mut container = app.start();
            container.verified();
            for _ in 0..3 {
                checkpoint(&container);
                container = app.start();
                container.verified();
            }
        }
    }
}

/// From any kind of container to any other: the service has no capability, and a bounding set no larger than the container's.
#[test]
fn generations_go_into_isolation_and_out_of_it() {
    for setting in [Setting::Nested, Setting::RestrictedPodman] {
        let app = App::new(setting, &["prefork", "4"]);
        let mut container = app.start();
        for options in [&AUTO[..], &[], &AUTO] {
            container.verified();
            let (outside, service) = capabilities(&container);
            assert!(service.len() >= 4 * outside.len());
            assert_eq!(service, outside.repeat(service.len() / outside.len()), "{setting:?}, before {options:?}");
            checkpoint(&container);
            container = app.start_with(options);
        }
        container.verified();
    }
}

/// What a process that is executed in the container may do and may gain, and what each of the service's processes may.
fn capabilities(container: &Container) -> (String, String) {
    let show = r#"show() { grep -E '^(Cap|NoNewPrivs)' "$1/status"; }"#;
    let each = r#"for p in /proc/[0-9]*; do grep -q ^/services/service $p/cmdline && show $p; done"#;
    let run = |script: &str| text(&container.exec(&["sh", "-c", &format!("{show}; {script}; true")]).stdout);
    (run("show /proc/self"), run(each))
}

/// Those that the container was started with, whatever they were before: nobody without capabilities can change them, and in a user
/// namespace they have no numbers.
#[test]
fn supplementary_groups_are_the_containers() {
    for setting in [Setting::Restricted, Setting::RestrictedPodman, Setting::Nested] {
        let mut app = App::new(setting, &["prefork", "2"]);
        let mut before = "";
        for (groups, options) in [
            ("2000", &[][..]),
            ("2000", &AUTO),
            ("2000", &[]),
            ("3000,4000", &[]),
            ("", &AUTO),
            ("2000", &AUTO),
            ("3000", &AUTO),
            ("", &[]),
        ] {
            app.set_groups(groups);
            let container = app.start_with(options);
            container.verified();
            let each = r#"for p in /proc/[0-9]*; do grep -q ^/services/service $p/cmdline && grep ^Groups: $p/status; done; true"#;
            let found = text(&container.exec(&["sh", "-c", each]).stdout);
            let wanted = ["Groups:", &groups.replace(',', " ")].join("\t");
            assert!(found.lines().count() >= 2, "{found}");
            for line in found.lines() {
                assert_eq!(line.trim(), wanted.trim(), "{setting:?}, {options:?}, from groups {before}");
            }
            checkpoint(&container);
            before = groups;
        }
    }
}

/// A host that has been up for ten hours longer, and back.
#[test]
fn clocks_go_on_where_there_is_a_time_namespace() {
    for setting in [Setting::Nested, Setting::RestrictedPodman] {
        let app = isolated(setting, &["clock"]);
        let mut container = app.start_on_host(10, &[]);
        let first = container.verified();
        for hours in [0, 10] {
            checkpoint(&container);
            container = app.start_on_host(hours, &[]);
            let answer = container.verified();
            eprintln!("{setting:?}, to a host {hours} h ahead: {answer}\n{}", container.logs().0);
            for clock in ["monotonic", "boottime"] {
                assert!((0..HOUR).contains(&(number(&answer, clock) - number(&first, clock))), "{first} {answer}");
                assert_eq!(number(&answer, &format!("{clock}_back")), 0, "{answer}");
                assert!(number(&answer, &format!("{clock}_ahead")) < HOUR, "{answer}");
            }
            assert!(container.status().unwrap().contains(r#""clock_jump_ms":0"#));
            assert!(!container.logs().1.contains("CLOCK_MONOTONIC"), "{}", container.story());
        }
    }
}

#[test]
fn a_jump_of_the_clock_is_told_with_its_size() {
    for setting in [Setting::Restricted, Setting::Nested] {
        let app = App::with_options(setting, &["--clock", "host"], &["/services/service", "clock"]);
        let mut container = app.start_on_host(10, &[]);
        container.verified();
        for (hours, word, told) in [(0, "back", "jumps back by 9h 59m"), (10, "ahead", "jumps ahead by 10h")] {
            checkpoint(&container);
            container = app.start_on_host(hours, &[]);
            let answer = container.verified();
            eprintln!("{setting:?}, to a host {hours} h ahead: {answer}\n{}", container.logs().0);
            assert!((9 * HOUR..11 * HOUR).contains(&number(&answer, &format!("monotonic_{word}"))), "{answer}");
            container.eventually("nobody is warned", || container.logs().1.contains(told).then_some(()));
            let status = text(&container.exec(&["/opt/freeze/freeze", "status", "--runtime-dir", "/runtime"]).stdout);
            assert!(status.to_lowercase().contains(&format!("clock: jumped {word} by ")), "{status}");
        }
    }
    // On one host the clock goes on as for a process that was stopped, and nobody needs to know.
    let app = App::new(Setting::Restricted, &["clock"]);
    let first = app.start_on_host(0, &[]);
    first.verified();
    checkpoint(&first);
    let second = app.start_on_host(0, &[]);
    second.verified();
    assert!(!second.logs().1.contains("CLOCK_MONOTONIC"), "{}", second.story());
}

/// Through the relay, as from init itself.
#[test]
fn signals_and_exit_statuses_pass_the_relay() {
    for (word, status) in [("exit 0", 0), ("exit 7", 7), ("die 9", 137), ("die 15", 143)] {
        let app = isolated(Setting::Nested, &["one"]);
        let container = app.start();
        container.verified();
        container.ask(word);
        assert_eq!(container.wait(), status, "{word}");
    }
    let app = isolated(Setting::Nested, &["signals"]);
    let container = app.start();
    container.verified();
    for (signal, seen) in [("TERM", "TERM="), ("USR1", "USR1="), ("HUP", "HUP=")] {
        container.kill(signal);
        container.eventually(signal, || container.ask("verify").contains(seen).then_some(()));
    }
    // Sent as soon as PID 1 blocks it: before that, the kernel drops it (kernel/signal.c, sig_task_ignored).
    let app = isolated(Setting::Nested, &["one"]);
    let container = app.start();
    container.eventually("PID 1 does not block SIGTERM", || blocks_its_signals(container.pid()).then_some(()));
    container.kill("TERM");
    assert_eq!(container.wait(), 143, "{}", container.story());
}

#[test]
fn a_service_is_handed_over() {
    for setting in [Setting::Nested, Setting::RestrictedPodman] {
        let app = isolated(setting, &["clock"]);
        let source = app.start();
        source.verified();
        let target = app.start_with(&["--standby"]);
        target.reaches("standby");
        source.checkpoint(&["--handover=60s"]);
        assert_eq!(source.wait(), 172, "{}", source.story());
        let answer = target.verified();
        assert_eq!(number(&answer, "monotonic_back"), 0, "{answer}");
    }
}

/// `/proc/PID/exe`, by which programs start themselves again, is not CRIU as it is after other unprivileged restores.
#[test]
fn a_restored_program_is_the_file_that_it_was() {
    for setting in [Setting::Nested, Setting::RestrictedPodman] {
        let app = isolated(setting, &["one"]);
        let first = app.start();
        first.verified();
        checkpoint(&first);
        let second = app.start();
        second.verified();
        let find = "for p in /proc/[0-9]*; do grep -q ^/services/service $p/cmdline && readlink $p/exe; done; true";
        assert_eq!(text(&second.exec(&["sh", "-c", find]).stdout).trim(), "/services/service", "{setting:?}");
    }
}

/// A program that is executed in the container sees other PIDs, and reaches init all the same, also as a user without a name inside.
#[test]
fn exec_reaches_init() {
    let app = isolated(Setting::Nested, &["one"]);
    let container = app.start();
    container.verified();
    let freeze = |verb| container.exec(&["/opt/freeze/freeze", verb, "--runtime-dir", "/runtime"]);
    let status = text(&freeze("status").stdout);
    let here = status.lines().find_map(|line| line.strip_prefix("isolation: ")?.split_once("is process "));
    let here: i32 = here.unwrap_or_else(|| panic!("{status}")).1.parse().unwrap();
    let command = container.exec(&["cat", &format!("/proc/{here}/cmdline")]);
    assert!(text(&command.stdout).contains("/services/service\0one"), "{status}");
    // Its orphans are reaped by the relay.
    container.exec(&["sh", "-c", "(sleep 0.1 &)"]);
    container.eventually("orphans stay", || {
        text(&container.exec(&["ps"]).stdout).lines().all(|line| !line.contains("sleep")).then_some(())
    });
    container.checkpoint(&["--leave-running"]);
    container.verified();
}
