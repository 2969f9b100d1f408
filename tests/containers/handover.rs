//! A service that is handed over, seen from the container that gives it away: the outcome in the store decides, whoever dies
//! meanwhile, and until it is there nothing runs.

use std::io::{BufRead, BufReader, Write};

use freeze::control::protocol::Event;
use freeze::image::{self, Hex, KeyFiles, Outcome, Party, Vault};
use freeze::store::{self, Location};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{App, Container, Setting, in_all_settings, states};

in_all_settings! {
    nobody_takes_it;
    another_takes_it;
    what_was_stopped_before_is_stopped_after;
    criu_dies_while_it_can_be_taken;
    the_worker_dies_while_it_can_be_taken;
}

/// Longer than any test.
const LONG: u64 = 3_600_000;

fn app(setting: Setting) -> (App, Container) {
    let app = App::new(setting, &["big", "8"]);
    let container = app.start();
    container.verified();
    (app, container)
}

/// Hands the service over while `meanwhile` does something, and returns the answer.
fn hand_over(container: &Container, time: u64, meanwhile: impl FnOnce()) -> Event {
    let mut socket = container.control();
    writeln!(socket, r#"{{"version":1,"op":"checkpoint","handover_ms":{time}}}"#).unwrap();
    meanwhile();
    BufReader::new(socket)
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .find(|event| matches!(event, Event::Checkpointed(_) | Event::Failed { .. }))
        .unwrap_or_else(|| panic!("no answer\n{}", container.story()))
}

/// The store, once init holds the service for another container to take.
fn offered(app: &App, container: &Container) -> Vault {
    let says = |status: String| status.contains(r#""state":"handing-over""#);
    container.eventually("the service is not held", || container.status().is_some_and(says).then_some(()));
    vault(app)
}

fn vault(app: &App) -> Vault {
    let store = store::open(&Location::at(&format!("file:{}", app.store().display()))).unwrap();
    Vault::open(store, &KeyFiles::default()).unwrap().unwrap()
}

/// Decides as another container would that takes the first generation.
fn take(vault: &Vault) -> Outcome {
    let by = Party { instance: "another".to_owned(), writer: Hex([1; 8]) };
    image::decide(vault, 1, &Outcome::Taken { by, from: "this".to_owned() }).unwrap()
}

fn service(container: &Container) -> i32 {
    container.find(&["/services/service"]).expect("there is a service")
}

/// Kills the process whose command line begins with `words`, and waits until the service is stopped for all that.
fn kill_and_see_it_stop(container: &Container, words: &[&str]) {
    let service = service(container);
    kill(Pid::from_raw(container.find(words).expect("it waits")), Signal::SIGKILL).unwrap();
    container
        .eventually("the service is not stopped", || states(service).iter().all(|state| *state == 'T').then_some(()));
}

fn went_on(app: &App, container: &Container, answer: &Event) {
    let Event::Failed { message, .. } = answer else { panic!("{answer:?}\n{}", container.story()) };
    assert!(message.contains("the service keeps running"), "{message}");
    container.running();
    container.verified();
    assert!(matches!(take(&vault(app)), Outcome::Withdrawn { .. }));
    container.checkpoint(&[]);
    assert_eq!(container.wait(), 172, "{}", container.story());
}

fn ended(container: &Container, answer: &Event) {
    assert!(matches!(answer, Event::Checkpointed(report) if report.ended && report.generation == 1), "{answer:?}");
    assert_eq!(container.wait(), 172, "{}", container.story());
}

fn nobody_takes_it(setting: Setting) {
    let (app, container) = app(setting);
    let answer = hand_over(&container, 200, || ());
    assert!(
        matches!(&answer, Event::Failed { message, .. } if message.contains("no container took generation 1 within 200ms"))
    );
    went_on(&app, &container, &answer);
}

fn another_takes_it(setting: Setting) {
    let (app, container) = app(setting);
    let service = service(&container);
    let answer = hand_over(&container, LONG, || {
        let vault = offered(&app, &container);
        assert!(states(service).iter().all(|state| *state == 't'));
        assert!(matches!(take(&vault), Outcome::Taken { .. }));
    });
    ended(&container, &answer);
}

fn what_was_stopped_before_is_stopped_after(setting: Setting) {
    let (app, container) = app(setting);
    let service = service(&container);
    let signal = |signal| kill(Pid::from_raw(service), signal).unwrap();
    let is_stopped = || states(service).iter().all(|state| *state == 'T').then_some(());
    signal(Signal::SIGSTOP);
    container.eventually("the service is not stopped", is_stopped);
    let answer = hand_over(&container, 200, || ());
    container.eventually("the service is no longer stopped", is_stopped);
    signal(Signal::SIGCONT);
    went_on(&app, &container, &answer);
}

fn criu_dies_while_it_can_be_taken(setting: Setting) {
    for taken in [true, false] {
        let (app, container) = app(setting);
        let answer = hand_over(&container, if taken { LONG } else { 2000 }, || {
            let vault = offered(&app, &container);
            kill_and_see_it_stop(&container, &["/opt/freeze/criu", "dump"]);
            if taken {
                take(&vault);
            }
        });
        if taken { ended(&container, &answer) } else { went_on(&app, &container, &answer) }
    }
}

fn the_worker_dies_while_it_can_be_taken(setting: Setting) {
    for taken in [true, false] {
        let (app, container) = app(setting);
        let answer = hand_over(&container, if taken { LONG } else { 2000 }, || {
            let vault = offered(&app, &container);
            kill_and_see_it_stop(&container, &["/proc/self/exe", "worker"]);
            if taken {
                take(&vault);
            }
        });
        if taken { ended(&container, &answer) } else { went_on(&app, &container, &answer) }
    }
}
