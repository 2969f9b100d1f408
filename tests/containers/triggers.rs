//! Who asks for a checkpoint beside the command, what runs beside it, and what is restored.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{App, Container, Setting, in_all_settings};

in_all_settings! {
    sigterm_moves_the_service;
    the_signal_moves_the_service;
}

/// What the service answers, which must be well: how often it has counted.
fn ticks(container: &Container) -> u64 {
    let answer = container.verified();
    let ticks = answer.split(' ').find_map(|word| word.strip_prefix("ticks="));
    ticks.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

fn moves_by(setting: Setting, options: &[&str], signal: &str) {
    let app = App::with_options(setting, options, &["/services/service", "mixed"]);
    let mut last = 0;
    for _ in 0..3 {
        let container = app.start();
        let now = ticks(&container);
        assert!(now >= last, "{now} ticks after {last}");
        last = now;
        container.kill(signal);
        assert_eq!(container.wait(), 172, "{}", container.story());
    }
}

fn sigterm_moves_the_service(setting: Setting) {
    moves_by(setting, &["--on-term", "checkpoint"], "TERM");
}

fn the_signal_moves_the_service(setting: Setting) {
    // RTMIN+1, as runc knows it.
    moves_by(setting, &[], "35");
}

/// `one` ends by SIGTERM with a status of its own.
#[test]
fn a_drain_without_a_store_ends_the_service_in_order() {
    let app = App::with_options(
        Setting::Restricted,
        &["--on-term", "checkpoint", "--term-grace", "30s"],
        &["sh", "-c", "trap 'echo in order; exit 7' TERM; while :; do sleep 0.1; done"],
    );
    let container = app.start();
    container.running();
    fs::set_permissions(app.store(), fs::Permissions::from_mode(0o555)).unwrap();
    container.kill("TERM");
    assert_eq!(container.wait(), 7, "{}", container.story());
    let (out, err) = container.logs();
    assert!(out.contains("in order"), "{out}");
    assert!(err.contains("the checkpoint requested by SIGTERM failed"), "{err}");
}

#[test]
fn the_timer_leaves_generations_behind() {
    let app = App::with_options(Setting::Restricted, &["--every", "300ms"], &["/services/service", "prefork"]);
    let container = app.start();
    container.verified();
    container
        .eventually("there are no checkpoints", || container.status()?.contains(r#""checkpoints":3"#).then_some(()));
    let before = ticks(&container);
    container.kill("KILL");
    container.wait();
    let next = app.start();
    next.verified();
    assert!(before > 0 && next.status().unwrap().contains(r#""restore":{"generation":"#));
}

/// The new container's environment, and an id that is another one after each restore.
#[test]
fn a_restored_service_can_learn_where_it_is() {
    let note = "sh -c '. $FREEZE_RUNTIME_DIR/env; echo $PLACE $(cat $FREEZE_RUNTIME_DIR/generation-id) $FREEZE_HOOK_GENERATION \
                >/runtime/note'";
    let app = App::new(Setting::Restricted, &["one"]);
    let mut ids = Vec::new();
    for place in ["first", "it's the second", "third"] {
        let container = app.start_with_variable(&["--on-restore", note], &format!("PLACE={place}"));
        container.verified();
        let id = fs::read_to_string(container.runtime().join("generation-id")).unwrap();
        assert_eq!(id.trim().len(), 32, "{id}");
        assert!(!ids.contains(&id));
        if !ids.is_empty() {
            let note = container.eventually("no note", || {
                fs::read_to_string(container.runtime().join("note")).ok().filter(|note| note.ends_with('\n'))
            });
            assert_eq!(note, format!("{place} {} {}\n", id.trim(), ids.len()));
            let mode = fs::metadata(container.runtime().join("env")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        ids.push(id);
        // Nothing may be left of the hook.
        container.eventually("the hook goes on", || container.status()?.contains(r#""state":"running""#).then_some(()));
        container.checkpoint(&[]);
        container.wait();
    }
}

/// One with three generations, the newest of which is damaged.
fn damaged() -> App {
    let app = App::new(Setting::Restricted, &["one"]);
    let container = app.start();
    container.verified();
    (0..3).for_each(|_| drop(container.checkpoint(&["--leave-running"])));
    container.kill("KILL");
    container.wait();
    fs::write(app.store().join("generations/3.manifest"), "damage").unwrap();
    app
}

#[test]
fn policies_choose_what_comes_back() {
    let app = damaged();
    for (options, generation, said) in [
        (&["--restore", "1"][..], "1", "restoring generation 1"),
        (&["--restore-failure", "retry-earlier"], "2", "restoring generation 2"),
        (&["--restore", "never"], "", "starting the command"),
        (&["--restore-failure", "start"], "", "starting the command afresh: the restore failed: "),
    ] {
        let container = app.start_with(options);
        container.verified();
        let status = container.status().unwrap();
        let restored = format!(r#""restore":{{"generation":{generation},"#);
        assert!(
            if generation.is_empty() { !status.contains("\"restore\"") } else { status.contains(&restored) },
            "{status}"
        );
        container.eventually(said, || container.logs().1.contains(said).then_some(()));
        container.kill("KILL");
    }
    let container = app.start();
    assert_eq!(container.wait(), 171);
    assert!(container.logs().1.contains("generation 3 cannot be restored"), "{}", container.story());
}
