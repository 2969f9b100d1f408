//! Every attribute that a process can set and read: what docs/reference/attributes.md says of each is what a move does.
//! The attributes are those of `tests/services/attributes*.c`.

use std::collections::BTreeSet;
use std::process::Command;

use freeze::exit;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::harness::{App, Setting, needed, text};

const GROUPS: &[&str] =
    &["file", "tcp", "tcp6", "udp", "udp6", "unix", "netlink", "tcp-closed", "memory", "process", "thread"];

/// What the page says of an attribute of one group.
struct Row {
    attribute: String,
    word: String,
}

/// Rows like ``| `NAME` | group, group | word | note |``.
fn page() -> Vec<Row> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/attributes.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`');
        let (groups, word) = (cells.next()?, cells.next()?.trim_end_matches(" |"));
        let row = |group| Row { attribute: format!("{group} {name}"), word: word.into() };
        Some(groups.split(", ").map(row).collect::<Vec<_>>())
    });
    rows.flatten().collect()
}

fn said(word: &str) -> BTreeSet<String> {
    page().into_iter().filter(|row| row.word == word).map(|row| row.attribute).collect()
}

/// Names of an answer of the service: `ok NAME (…); NAME (…);`.
fn names(answer: &str) -> BTreeSet<String> {
    let names = answer.trim_start_matches("ok").split(';').filter_map(|part| part.split_once(" ("));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// What is lost is what the page says is lost, as far as this container lets the service set it, in two generations. What
/// it does not let it set is returned.
fn moves(setting: Setting) -> BTreeSet<String> {
    let app = App::new(setting, &[&["attributes"], GROUPS].concat());
    let mut container = app.start();
    container.verified();
    let absent = names(&container.ask("absent"));
    container.checkpoint(&["--leave-running"]);
    assert_eq!(container.ask("changed"), "ok", "left running, {setting:?}");
    let lost: BTreeSet<_> = said("lost").difference(&absent).cloned().collect();
    for _ in 0..2 {
        container.checkpoint(&[]);
        assert_eq!(container.wait(), 172, "{}", container.story());
        container = app.start();
        container.verified();
        let changed = container.ask("changed");
        assert_eq!(names(&changed), lost, "in {setting:?}: {changed}\n{}", container.story());
    }
    absent
}

/// In each setting, and each attribute in at least one of them, unless the page says that no machine here has it.
#[test]
fn what_is_carried_and_what_is_lost() {
    let settings = [Setting::Restricted, Setting::RestrictedPodman, Setting::Caps, Setting::Unconfined];
    let absent = settings.into_iter().map(moves).reduce(|all, one| &all & &one).unwrap();
    let untried = said("not tried");
    assert!(absent.is_subset(&untried), "nowhere to be set: {:?}", absent.difference(&untried));
}

/// The container of the target has one CPU, and the service had the other.
#[test]
fn an_affinity_to_cpus_that_are_not_there_is_dropped() {
    let only = |cpu| {
        let mut cpus = CpuSet::new();
        cpus.set(cpu).unwrap();
        cpus
    };
    let app = App::new(Setting::Restricted, &["attributes", "sched_setaffinity"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only(1)).unwrap();
    let second = app.start();
    sched_setaffinity(Pid::from_raw(0), &all).unwrap();
    second.verified();
    assert!(second.ask("changed").contains("process sched_setaffinity (1, 2)"), "{}", second.ask("changed"));
    second.eventually("no warning", || second.story().contains("it is dropped").then_some(()));
}

/// What locks memory is lost where the container of the target does not allow it, but not in silence.
#[test]
fn a_lock_that_is_not_allowed_is_warned_of() {
    let app = App::new(Setting::Restricted, &["attributes", "MCL_FUTURE MCL_ONFAULT"]);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    let app = app.denying("EPERM=mlockall");
    let second = app.start();
    second.verified();
    assert!(second.ask("changed").contains("MCL_FUTURE"), "{}", second.ask("changed"));
    second.eventually("no warning", || second.story().contains("can't set MCL_FUTURE as it was").then_some(()));
}

/// They are refused, and stay as they are.
#[test]
fn what_is_refused() {
    for attribute in said("refused") {
        let name = attribute.trim_start_matches("refused ");
        let app = App::new(Setting::Restricted, &["attributes", name]);
        let container = app.start();
        container.verified();
        let out = container.try_checkpoint(&[]);
        let code = out.status.code();
        let expected = [exit::PREFLIGHT, exit::DUMP].map(i32::from);
        assert!(code.is_some_and(|code| expected.contains(&code)), "{name}: {}", text(&out.stderr));
        let word = name.split(' ').next().unwrap();
        assert!(text(&out.stderr).contains(word), "{name}: {}", text(&out.stderr));
        assert_eq!(container.ask("changed"), "ok", "{name}");
    }
}

/// The page has each attribute of the service once, and its counts are right.
#[test]
fn the_page_has_them_all() {
    let service = format!("{}/service", needed("FREEZE_TEST_SERVICES"));
    let list = text(&Command::new(service).args(["attributes", "list"]).output().unwrap().stdout);
    let mut held: Vec<&str> = list.lines().collect();
    let rows = page();
    let mut written: Vec<&str> = rows.iter().map(|row| row.attribute.as_str()).collect();
    held.sort_unstable();
    written.sort_unstable();
    assert_eq!(written, held);
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/attributes.md")).unwrap();
    for word in ["carried", "lost", "refused", "not tried"] {
        let count = format!("| **{word}** | {} |", said(word).len());
        assert!(text.contains(&count), "the page lacks: {count}");
    }
}
