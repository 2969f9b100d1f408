//! `freeze doctor --service` from beside init and from above its PID namespace, where its processes have other numbers.

mod init_support;

use std::process::{Command, Output};

use init_support::{Init, Place, program, script, wait_for};

fn doctor(init: &Init) -> Output {
    let mut command = Command::new(program());
    command.args(["doctor", "--service", "--runtime-dir"]).arg(init.runtime_dir());
    // Init opens its socket before it starts the service.
    wait_for(|| Some(command.output().unwrap()).filter(|out| !String::from_utf8_lossy(&out.stderr).contains("freeze:")))
}

#[test]
fn the_service_is_found_by_the_numbers_that_count_here() {
    for place in [Place::Host, Place::Pid1] {
        let mut init = script(place, &[], "echo up; exec sleep 60");
        init.expect("up");
        let (_, service) = init.tree();
        let sleeping = || std::fs::read_to_string(format!("/proc/{service}/comm")).is_ok_and(|comm| comm == "sleep\n");
        wait_for(|| sleeping().then_some(()));
        let out = doctor(&init);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        // Before that, the files of this machine that would travel.
        let last = said.lines().last();
        assert_eq!((out.status.code(), last), (Some(0), Some("this service can be checkpointed")), "{place:?}: {said}");
    }
}

#[test]
fn a_process_is_named_by_its_number_here() {
    let mut init = script(Place::Pid1, &[], "ulimit -n 8; echo up; exec sleep 60");
    init.expect("up");
    let (_, service) = init.tree();
    let out = doctor(&init);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("refused   {service} (")) && said.contains("files open and a hard limit of 8"),
        "{said}"
    );
}

#[test]
fn without_an_init_there_is_nothing_to_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let out =
        Command::new(program()).args(["doctor", "--service", "--runtime-dir"]).arg(folder.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no freeze init answers in this container"));
}
