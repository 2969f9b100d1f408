//! Moves between two mock sides. A shell script for each replaces `docker exec NAME`, and answers as freeze
//! would in a container whose state is a few files. tests/containers/migrate.rs moves a service between real
//! containers.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Answers for one side. The folder of `$0` has `state`, `generation`, `instance` and, once restored, `from`.
/// Its parent has both sides, the log of queries (`asked`) and the injected faults (`broken`).
const PLAYER: &str = r#"#!/bin/sh
me=$(dirname "$0")
other=$(cat "$me/other")
echo "$(basename "$me") $2 $3" >>"$me/../asked"
broken() { grep -qx "$(basename "$me") $1" "$me/../broken"; }
read_() { cat "$me/$1"; }
status() {
	restore=
	[ ! -e "$me/from" ] || restore=",\"restore\":{\"generation\":$(read_ generation),\"at_ms\":1,\"total_ms\":90,\"bytes\":1,\"from\":\"$(read_ from)\"}"
	echo "{\"event\":\"status\",\"version\":\"1\",\"instance\":\"$(read_ instance)\",\"state\":\"$(read_ state)\",\"service\":7,\"generation\":$(read_ generation),\"bytes\":0,\"total\":0,\"checkpoints\":0,\"failures\":0$restore}"
}
checkpointed() {
	echo '{"event":"progress","phase":"dump","bytes":1,"total":0}' >&2
	echo "{\"event\":\"checkpointed\",\"generation\":$1,\"bytes\":1,\"stored\":1,\"frozen_ms\":40,\"total_ms\":50,\"ended\":$2}"
}
taken() {
	echo running >"$other/state"
	echo $(($(read_ generation) + 1)) >"$other/generation"
	cp "$me/instance" "$other/from"
	echo ending >"$me/state"
}
if broken "$2" || broken "$2 $3" || [ ! -e "$me/state" ]; then echo "no such container" >&2; exit 1; fi
case "$2 $3" in
"status --json") status ;;
"wait idle")
	[ "$(read_ state)" != handing-over ] || taken
	[ "$(read_ state)" = running ] ;;
"wait restored") [ "$(read_ state)" = running ] ;;
"doctor --service")
	refused=false found=changed
	! broken refused || { refused=true found=refused; }
	[ $refused = true ] && can=false || can=true
	echo "{\"can_be_checkpointed\":$can,\"findings\":[{\"severity\":\"$found\",\"process\":{\"pid\":7,\"name\":\"app\"},\"place\":null,\"others\":0,\"what\":\"has a thing\",\"advice\":\"mind it\"}],\"left_out\":0,\"demands\":\"demands:00\"}" ;;
"doctor --for")
	if [ "$4" = demands:00 ]; then
		! broken old || exit 2
		! broken unsuited || { echo '{"fits":false,"missing":["the service has port 80"]}'; exit 1; }
		echo '{"fits":true,"missing":[],"remarks":["the clocks jump"]}'
		exit
	fi
	fits=true missing=
	! broken unfit || { fits=false missing='"this CPU lacks bmi2"'; }
	echo "{\"generation\":$4,\"fits\":$fits,\"missing\":[$missing],\"remarks\":[],\"time\":{\"count\":null,\"pids_ms\":0,\"bytes\":1,\"sampled\":1,\"rate\":null,\"bytes_ms\":0,\"total_ms\":90}}" ;;
"checkpoint --leave-running")
	broken fetch && echo ending >"$other/state"
	broken base && echo '{"event":"failed","message":"the store is away"}' && exit 7
	generation=$(($(read_ generation) + 1))
	echo $generation >"$me/generation"
	cp "$me/generation" "$other/generation"
	checkpointed $generation false ;;
"checkpoint --handover"*)
	broken handover && echo '{"event":"failed","message":"nobody took the service"}' && exit 8
	broken drained && taken && echo '{"event":"failed","message":"the service was checkpointed and has ended"}' && exit 1
	broken third && echo ending >"$me/state" && echo '{"event":"settled","taken_by":"third"}' >&2 && checkpointed 5 true && exit
	broken cut-before && exit 137
	taken
	broken cut-after && rm "$me/state" && exit 137
	checkpointed $(($(read_ generation) + 1)) true ;;
*) exit 2 ;;
esac
"#;

struct Play {
    folder: tempfile::TempDir,
}

impl Play {
    fn new() -> Self {
        let play = Self { folder: tempfile::tempdir().unwrap() };
        for (side, other, state) in [("source", "target", "running"), ("target", "source", "standby")] {
            fs::create_dir(play.folder.path().join(side)).unwrap();
            let other = play.folder.path().join(other).display().to_string();
            for (file, text) in
                [("exec", PLAYER), ("state", state), ("generation", "3"), ("instance", side), ("other", &other)]
            {
                play.set(side, file, text);
            }
            fs::set_permissions(play.folder.path().join(side).join("exec"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        play.broken(&[]);
        play
    }

    fn set(&self, side: &str, file: &str, text: &str) {
        fs::write(self.folder.path().join(side).join(file), text).unwrap();
    }

    fn broken(&self, what: &[&str]) {
        fs::write(self.folder.path().join("broken"), what.join("\n")).unwrap();
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default()
    }

    fn script(&self, text: &str) -> Vec<String> {
        ["sh", "-c", &text.replace("HERE", &self.folder.path().display().to_string())].map(str::to_owned).to_vec()
    }

    fn migration(&self) -> Migration {
        let side = |name: &str| {
            let exec = vec![self.folder.path().join(name).join("exec").display().to_string()];
            Side { template: Template { exec, start: None, stop: None }, program: "freeze".into() }
        };
        Migration { source: side("source"), target: side("target"), timeout: Duration::from_secs(1), pace: Vec::new() }
    }

    fn migrate(&self) -> (Result<Moved>, Vec<String>) {
        self.with(&self.migration())
    }

    fn with(&self, migration: &Migration) -> (Result<Moved>, Vec<String>) {
        let notes = RefCell::new(Vec::new());
        let result = migrate(migration, &|note| notes.borrow_mut().push(format!("{note:?}")));
        (result, notes.into_inner())
    }
}

/// The message without the path of the temporary folder.
fn sentence(play: &Play, failure: &Failure) -> String {
    failure.to_string().replace(&play.folder.path().display().to_string(), "HERE")
}

#[test]
fn a_service_moves_by_few_questions() {
    let play = Play::new();
    let (moved, notes) = play.migrate();
    let expected = Moved {
        generation: 5,
        from: "source".into(),
        to: "target".into(),
        downtime_ms: Some(40),
        restore_ms: 90,
        unstopped: None,
    };
    assert_eq!(moved.unwrap(), expected);
    insta::assert_snapshot!(play.asked(), @r"
    source status --json
    target status --json
    source doctor --service
    target doctor --for
    source checkpoint --leave-running
    target doctor --for
    target status --json
    source checkpoint --handover=1000ms
    target wait restored
    target status --json
    ");
    assert!(notes.iter().any(|note| note.contains("HandingOver { predicted_ms: 130 }")), "{notes:?}");
    assert!(
        notes.iter().any(|note| note.starts_with("Changed("))
            && notes.iter().any(|note| note.starts_with("Event(Progress"))
    );
}

#[test]
fn the_target_is_started_and_the_source_stopped() {
    let play = Play::new();
    fs::remove_file(play.folder.path().join("target/state")).unwrap();
    let mut migration = play.migration();
    migration.target.template.start = Some(play.script("echo standby >HERE/target/state"));
    migration.source.template.stop = Some(play.script("rm HERE/source/state"));
    let (moved, notes) = play.with(&migration);
    assert_eq!(moved.unwrap().generation, 5);
    assert!(!play.folder.path().join("source/state").exists());
    assert!(notes.contains(&"Step(Starting)".to_owned()) && notes.contains(&"Step(Stopping)".to_owned()), "{notes:?}");
}

#[test]
fn what_is_in_the_way_leaves_the_service_where_it_is() {
    let mut told = String::new();
    let ways = [
        "source refused",
        "source base",
        "source fetch",
        "source handover",
        "source doctor",
        "target unsuited",
        "target unfit",
        "target status",
        "target doctor",
    ];
    for what in ways {
        let play = Play::new();
        play.broken(&[what]);
        let failure = play.migrate().0.unwrap_err();
        assert_eq!((failure.runs, failure.status()), (Runs::Source, 1), "{what}: {failure}");
        assert_eq!(fs::read_to_string(play.folder.path().join("source/state")).unwrap(), "running");
        told += &format!("{what}: {}\n", sentence(&play, &failure));
    }
    insta::assert_snapshot!(told, @r"
    source refused: the service cannot be checkpointed: process 7 (app) has a thing (mind it). The service keeps running in the source
    source base: the checkpoint before the move failed: the store is away. The service keeps running in the source
    source fetch: the target is not a standby: it is ending. Run this command again when `freeze status` there says standby. The service keeps running in the source
    source handover: the handover failed: nobody took the service. The service keeps running in the source
    source doctor: the source cannot run the preflight: `HERE/source/exec freeze doctor --service --json` ended with exit status: 1: no such container. The service keeps running in the source
    target unsuited: the target cannot restore the service: the service has port 80. The service keeps running in the source
    target unfit: the target cannot restore the service: this CPU lacks bmi2. The service keeps running in the source
    target status: the target is not a standby: `HERE/target/exec freeze status --json` ended with exit status: 1: no such container. Start its container with FREEZE_STANDBY=1 and the source's FREEZE_STORE, or use --start-target. The service keeps running in the source
    target doctor: the target cannot be asked whether it could restore the service: `HERE/target/exec freeze doctor --for demands:…` ended with exit status: 1: no such container. The service keeps running in the source
    ");
}

#[test]
fn the_target_is_asked_before_the_source_takes_a_checkpoint() {
    let play = Play::new();
    play.broken(&["target unsuited"]);
    play.migrate().0.unwrap_err();
    assert!(!play.asked().contains("checkpoint"), "{}", play.asked());
}

#[test]
fn an_older_freeze_in_the_target_is_asked_about_a_generation_alone() {
    let play = Play::new();
    play.broken(&["target old"]);
    play.migrate().0.unwrap();
}

#[test]
fn a_target_that_cannot_be_one_is_refused() {
    let play = Play::new();
    let mut told = String::new();
    for (instance, state) in [("source", "standby"), ("target", "running"), ("target", "ending")] {
        play.set("target", "instance", instance);
        play.set("target", "state", state);
        told += &format!("{}\n", play.migrate().0.unwrap_err());
    }
    fs::remove_file(play.folder.path().join("target/state")).unwrap();
    let mut migration = play.migration();
    migration.target.template.start = Some(play.script("echo running >HERE/target/state"));
    told += &format!("{}\n", play.with(&migration).0.unwrap_err());
    insta::assert_snapshot!(told, @r#"
    source and target are both named "source". Give the target another host name, or FREEZE_INSTANCE. The service keeps running in the source
    the target already runs a service of its own (generation 3). Start it with FREEZE_STANDBY=1, so that it waits for this service. The service keeps running in the source
    the target is not a standby: it is ending. Run this command again when `freeze status` there says standby. The service keeps running in the source
    the target started without standby, so a second copy of the service runs in target now. Stop it, and start it with FREEZE_STANDBY=1; if the source now refuses checkpoints, start the source again. The service keeps running in the source
    "#);
}

#[test]
fn where_the_service_runs_is_asked_and_not_assumed() {
    // The source was drained before the handover.
    let play = Play::new();
    play.broken(&["source drained"]);
    let failure = play.migrate().0.unwrap_err();
    assert_eq!((failure.runs, failure.status()), (Runs::Target, 9));
    let play = Play::new();
    play.broken(&["source third"]);
    let failure = play.migrate().0.unwrap_err();
    assert_eq!((failure.runs, failure.status()), (Runs::Elsewhere, 10));
    insta::assert_snapshot!(failure, @"another standby of this application, third, has taken the service. The service runs there");
}

#[test]
fn a_connection_that_is_lost_says_nothing_of_the_service() {
    let play = Play::new();
    play.broken(&["source cut-before"]);
    let failure = play.migrate().0.unwrap_err();
    assert_eq!(failure.runs, Runs::Source);
    insta::assert_snapshot!(sentence(&play, &failure), @"could not follow the handover to its end (`HERE/source/exec freeze checkpoint --handover=1000ms --json` ended with exit status: 137: no output), and the target did not take the service. Run this command again. The service keeps running in the source");
    // The connection breaks after the target has taken the service.
    play.broken(&["source cut-after"]);
    let moved = play.migrate().0.unwrap();
    assert_eq!((moved.generation, moved.downtime_ms), (6, None));
}

#[test]
fn a_second_run_finishes_what_a_first_one_began() {
    let play = Play::new();
    play.migrate().0.unwrap();
    for state in ["ending", "standby"] {
        play.set("source", "state", state);
        let moved = play.migrate().0.unwrap();
        assert_eq!((moved.generation, moved.from.as_str(), moved.downtime_ms), (5, "source", None));
    }
    // The first run was killed while the source held the service.
    let play = Play::new();
    play.set("source", "state", "handing-over");
    assert_eq!(play.migrate().0.unwrap().generation, 4);
}

#[test]
fn a_source_that_does_not_answer_is_not_stopped() {
    let play = Play::new();
    play.migrate().0.unwrap();
    play.set("source", "state", "running");
    play.broken(&["source status"]);
    let mut migration = play.migration();
    migration.source.template.stop = Some(play.script("rm HERE/source/state"));
    let (moved, notes) = play.with(&migration);
    assert_eq!(moved.unwrap().generation, 5);
    assert!(play.folder.path().join("source/state").exists());
    assert!(notes.iter().any(|note| note.contains("it was not changed")), "{notes:?}");
}

#[test]
fn a_target_with_a_service_from_elsewhere_is_none_that_has_it() {
    let play = Play::new();
    play.migrate().0.unwrap();
    play.set("source", "state", "standby");
    play.set("target", "from", "stranger");
    let failure = play.migrate().0.unwrap_err();
    assert_eq!(failure.runs, Runs::Unknown);
    insta::assert_snapshot!(failure, @"neither side runs the service: the source is standing by, the target is running a service that came from stranger. It is unknown where the service runs; the committed generations are in the store");
}

#[test]
fn a_source_that_cannot_be_stopped_is_told_and_may_be_tried_again() {
    let play = Play::new();
    let mut migration = play.migration();
    migration.source.template.stop = Some(play.script("echo it is busy >&2; exit 1"));
    let moved = play.with(&migration).0.unwrap();
    insta::assert_snapshot!(moved.unstopped.unwrap(), @"`sh -c echo it is busy >&2; exit 1` ended with exit status: 1: it is busy");
    migration.source.template.stop = Some(play.script("true"));
    assert_eq!(play.with(&migration).0.unwrap().unstopped, None);
}

#[test]
fn where_nobody_answers_nothing_is_claimed() {
    let play = Play::new();
    play.broken(&["source status", "target status"]);
    let failure = play.migrate().0.unwrap_err();
    assert_eq!((failure.runs, failure.status()), (Runs::Unknown, 10));
    insta::assert_snapshot!(sentence(&play, &failure), @"neither side runs the service: the source is unreachable: `HERE/source/exec freeze status --json` ended with exit status: 1: no such container, the target is unreachable: `HERE/target/exec freeze status --json` ended with exit status: 1: no such container. It is unknown where the service runs; the committed generations are in the store");
    // The target's service was started there, not moved.
    play.broken(&["source status"]);
    play.set("target", "state", "running");
    assert_eq!(play.migrate().0.unwrap_err().runs, Runs::Unknown);
}

#[test]
fn a_rehearsal_changes_nothing() {
    let play = Play::new();
    let found = rehearse(&play.migration(), &|_| {}).unwrap();
    let expected = Rehearsal {
        from: "source".into(),
        to: Some("target".into()),
        frozen_ms: None,
        restore_ms: Some(90),
        predicted_ms: None,
    };
    assert_eq!(found, expected);
    assert!(!play.asked().contains("checkpoint"), "{}", play.asked());
    play.broken(&["target unfit"]);
    assert_eq!(rehearse(&play.migration(), &|_| {}).unwrap_err().runs, Runs::Source);
}
