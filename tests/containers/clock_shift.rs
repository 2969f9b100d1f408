//! Clocks that go on without a time namespace, on hosts that booted later and earlier (docs/explanation/clocks.md).

use freeze::exit;

use crate::harness::{App, Container, Host, Setting};
use crate::isolate::{checkpoint, number};

const STATIC: &str = "/services/service";
const DYNAMIC: &str = "/services/service-dynamic";
const SETTINGS: [Setting; 3] = [Setting::Restricted, Setting::RestrictedPodman, Setting::Caps];

/// Hours that a host has been up for longer than this one.
const EARLY: i64 = 555;
const MIDDLE: i64 = 277;
const HOUR: i64 = 3600;
/// Seconds that a move takes at most, with the clock's rounding.
const MOVE: i64 = 120;

fn waiting(setting: Setting, program: &str) -> App {
    let options: &[&str] = if setting == Setting::Nested { &["--isolate", "auto"] } else { &[] };
    App::with_options(setting, options, &[program, "clock-waits"])
}

/// Ends the service there, and gives its container on the next host.
fn move_to(app: &App, from: &Container, host: impl Into<Host>, options: &[&str]) -> Container {
    checkpoint(from);
    app.start_on_host(host, options)
}

/// Moves the service over these hosts, each with the hours by which the service's clocks jump ahead there. All waits end,
/// none early, and no clock goes back.
fn goes_on(app: &App, hosts: &[(impl Into<Host> + Copy, impl Into<Host> + Copy)]) {
    let mut container = app.start_on_host(hosts[0].0, &[]);
    let mut last = container.verified();
    for &(host, ahead) in &hosts[1..] {
        let (host, ahead) = (host.into(), ahead.into());
        container.checkpoint(&["--leave-running"]);
        container.verified();
        container = move_to(app, &container, host, &[]);
        let answer = container.verified();
        for (clock, hours) in [("monotonic", ahead.monotonic), ("boottime", ahead.boottime)] {
            let step = number(&answer, clock) - number(&last, clock) - hours * HOUR;
            assert!((0..MOVE).contains(&step), "{clock} at {host:?}, {last}: {answer}\n{}", container.story());
        }
        if ahead == Host::default() {
            assert!(!container.logs().1.contains("CLOCK_MONOTONIC"), "{}", container.story());
        }
        last = answer;
    }
}

#[test]
fn waits_go_on_over_hosts_that_booted_later() {
    for (setting, program) in SETTINGS.into_iter().flat_map(|setting| [(setting, DYNAMIC), (setting, STATIC)]) {
        goes_on(&waiting(setting, program), &[(EARLY, 0), (0, 0), (MIDDLE, 0), (0, 0)]);
    }
}

/// Later, earlier and later again, with the C library of this folder beside the services (tests/services/library).
fn goes_on_with(library: &str) {
    let program = format!("/services/{library}/service");
    goes_on(&waiting(Setting::Restricted, &program), &[(MIDDLE, 0), (0, 0), (EARLY, EARLY - MIDDLE), (0, 0)]);
}

#[test]
fn musl() {
    goes_on_with("musl");
}

#[test]
#[ignore = "make test-clocks builds what it needs"]
fn glibc_2_31() {
    goes_on_with("bullseye");
}

#[test]
#[ignore = "make test-clocks builds what it needs"]
fn glibc_2_41() {
    goes_on_with("trixie");
}

/// Where a time namespace can be made, no host changes anything.
#[test]
fn in_a_time_namespace_waits_go_on_over_all_hosts() {
    for program in [DYNAMIC, STATIC] {
        goes_on(&waiting(Setting::Nested, program), &[(MIDDLE, 0), (0, 0), (EARLY, 0), (0, 0)]);
    }
}

/// There the kernel's clock is ahead, and the offset becomes 0, until it is needed again.
#[test]
fn a_host_that_booted_earlier_takes_over_and_loses_no_wait() {
    for program in [DYNAMIC, STATIC] {
        goes_on(
            &waiting(Setting::Restricted, program),
            &[(0, 0), (MIDDLE, MIDDLE), (0, 0), (EARLY, EARLY - MIDDLE), (0, 0)],
        );
    }
}

/// Both clocks have one offset, the greater one, because a timer does not tell its clock. So one of them jumps ahead by the
/// time that one host was suspended for and the other was not.
#[test]
fn waits_go_on_over_hosts_that_were_suspended() {
    let host = |monotonic, boottime| Host { monotonic, boottime };
    for program in [DYNAMIC, STATIC] {
        goes_on(
            &waiting(Setting::Restricted, program),
            &[
                (host(EARLY, EARLY + 45), host(0, 0)),
                (host(0, 0), host(45, 0)),
                (host(MIDDLE, MIDDLE + 300), host(0, 300)),
                (host(0, 0), host(300, 0)),
            ],
        );
    }
}

/// And gives back: the service's clock is recorded, not the kernel's.
#[test]
fn a_time_namespace_takes_over() {
    let app = waiting(Setting::RestrictedPodman, DYNAMIC);
    let mut container = app.start_on_host(EARLY, &[]);
    let mut last = container.verified();
    for options in [&[][..], &["--isolate", "auto"], &[]] {
        container = move_to(&app, &container, 0, options);
        let answer = container.verified();
        let step = number(&answer, "monotonic") - number(&last, "monotonic");
        assert!((0..MOVE).contains(&step), "{options:?}, {last}: {answer}\n{}", container.story());
        last = answer;
    }
}

/// A program that is executed after a move has the host's clock, and keeps that one.
#[test]
fn each_process_has_its_own_offset() {
    let app = App::new(Setting::Restricted, &["clock"]);
    let first = app.start_on_host(EARLY, &[]);
    let parent = number(&first.verified(), "monotonic");
    let second = move_to(&app, &first, MIDDLE, &[]);
    second.verified();
    second.ask("exec");
    let child = number(&second.ask("child"), "monotonic");
    assert!(((EARLY - MIDDLE - 1) * HOUR..).contains(&(parent - child)), "{parent} {child}");
    let third = move_to(&app, &second, MIDDLE - 10, &[]);
    for (word, before) in [("verify", parent), ("child", child)] {
        let answer = third.ask(word);
        let step = number(&answer, "monotonic") - before;
        assert!((0..MOVE).contains(&step), "{word}: {before}, then {answer}\n{}", third.story());
        assert_eq!(number(&answer, "monotonic_back"), 0, "{answer}");
        assert_eq!(number(&answer, "boottime_back"), 0, "{answer}");
    }
}

/// It is found before anything runs, and the service can go back.
fn is_refused(program: &str, word: &str, reason: &str) {
    let app = waiting(Setting::Restricted, program);
    let first = app.start_on_host(EARLY, &[]);
    first.verified();
    first.ask(word);
    first.verified();
    let second = move_to(&app, &first, 0, &[]);
    assert_eq!(second.wait(), i32::from(exit::CLOCK_BACK), "{}", second.story());
    let said = second.logs().1;
    let reasons = ["this host booted later, and CLOCK_MONOTONIC cannot go on for process ", reason];
    assert!(reasons.iter().all(|reason| said.contains(reason)), "{word}: {said}");
    app.start_on_host(EARLY, &[]).verified();
}

#[test]
fn what_cannot_be_covered_is_refused_by_name() {
    is_refused(DYNAMIC, "elsewhere", " waits until a time, at 0x");
    for program in [DYNAMIC, STATIC] {
        is_refused(program, "reserve", " 1001: there is no free memory within 2 GiB of 0x");
    }
    is_refused(DYNAMIC, "thirty-two", ": it is a 32-bit program");
    is_refused(DYNAMIC, "without-vdso", ": it has no vDSO");
}

/// What a restore has changed in a library is gone with it, and is not looked for in what is mapped there afterwards.
#[test]
fn a_library_that_is_gone_is_left_alone() {
    let app = waiting(Setting::Restricted, DYNAMIC);
    let first = app.start_on_host(EARLY, &[]);
    first.verified();
    first.ask("map");
    assert_eq!(number(&first.ask("compare"), "changed"), 0);
    let second = move_to(&app, &first, 0, &[]);
    second.verified();
    assert_eq!(number(&second.ask("compare"), "changed"), 1);
    second.ask("remap");
    let third = move_to(&app, &second, EARLY + 10, &[]);
    third.verified();
    assert_eq!(number(&third.ask("compare"), "changed"), 0);
    // There its own system calls are found.
    let fourth = move_to(&app, &third, 0, &[]);
    fourth.verified();
    assert_eq!(number(&fourth.ask("compare"), "changed"), 1);
}
