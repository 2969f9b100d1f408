//! `freeze doctor` in fresh containers and beside a service: what it says is so, and nothing of it stays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use freeze::exit;
use freeze::image::{KeyFiles, Manifest, Vault, manifest_key};
use freeze::store::{self, Location, PutMode};

use crate::harness::{App, Setting, in_all_settings, needed, root, sandbox, text};

in_all_settings! {
    a_fresh_container;
    beside_a_service;
}

#[test]
fn a_fresh_container_of_any_other_setting() {
    for setting in [Setting::OpenShift, Setting::FileCaps, Setting::Ambient, Setting::Nested, Setting::UserNamespace] {
        a_fresh_container(setting);
    }
}

const FREEZE: &str = "/opt/freeze/freeze";

/// `command` as PID 1 of a container with that folder as /opt/freeze.
fn run(setting: Setting, opt: &Path, options: &[&str], root: &str, command: &[&str]) -> Output {
    let bind = format!("{}:/opt/freeze:ro", opt.display());
    let head = ["run", "--setting", setting.name(), "--bind", &bind];
    sandbox(&[&head[..], options, &[root], command].concat())
}

fn doctor(setting: Setting, options: &[&str], root: &str, arguments: &[&str]) -> Output {
    run(setting, needed("FREEZE_TEST_OPT").as_ref(), options, root, &[&[FREEZE, "doctor"], arguments].concat())
}

/// Its standard output, where it ended like that.
fn said(out: &Output, status: u8) -> String {
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(status.into()), "{said}{}", text(&out.stderr));
    said
}

fn a_fresh_container(setting: Setting) {
    let said = said(&doctor(setting, &[], &root(), &[]), exit::OK);
    let numbers = if setting == Setting::Unconfined { "under the same PIDs" } else { "with their PIDs moved up by" };
    let (in_time, own) = ("after a restore with --isolate auto; without it", "in which a restore chooses PIDs");
    let isolated = match setting {
        Setting::Nested => own,
        Setting::RestrictedPodman => in_time,
        Setting::Unconfined => "CLOCK_MONOTONIC and CLOCK_BOOTTIME",
        _ => "and continue in user space where those are behind",
    };
    let able = "\nServices can be checkpointed and restored here.\n";
    for part in ["\nclone3 with set_tid ", "proof: 4 processes", numbers, able, isolated] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let with = [Setting::Caps, Setting::Ambient, Setting::UserNamespace, Setting::Unconfined];
    let capability = with.contains(&setting);
    assert_eq!(said.contains("--cap-add CHECKPOINT_RESTORE"), !capability, "{said}");
}

fn beside_a_service(setting: Setting) {
    let app = App::new(setting, &["mixed"]);
    let container = app.start();
    container.verified();
    for _ in 0..2 {
        said(&container.exec(&[FREEZE, "doctor", "--json"]), exit::OK);
        assert_eq!(container.find(&[FREEZE, "doctor-subject"]), None);
    }
    container.verified();
    container.checkpoint(&[]);
    container.wait();
    let restored = app.start();
    restored.verified();
    let said = said(&restored.exec(&[FREEZE, "doctor"]), exit::OK);
    assert!(!said.contains("The service here") && !said.contains("The container's init"), "{said}");
    restored.verified();
}

#[test]
fn any_image_will_do_and_a_root_that_cannot_be_written() {
    let empty = root().replace("busybox", "empty");
    assert!(Path::new(&empty).is_dir(), "{empty}");
    for options in [&["--read-only"][..], &["--read-only", "--tmpfs", "/tmp"]] {
        said(&doctor(Setting::Restricted, options, &empty, &[]), exit::OK);
    }
}

#[test]
fn in_json_it_says_the_same() {
    let said = said(&doctor(Setting::Restricted, &[], &root(), &["--json"]), exit::OK);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found["proof"]["result"], "succeeded");
    assert_eq!(found["restore"]["pids"], "counted-up");
    assert!(found["proof"]["shifted"].as_u64().unwrap() > 0 && found["proof"]["pids"].as_u64().unwrap() < 1000);
    assert_eq!(found["abilities"]["answers"]["clone3"]["answer"], "no");
}

/// A folder with freeze and what `criu` says.
fn opt(criu: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(Path::new(&needed("FREEZE_TEST_OPT")).join("freeze"), folder.path().join("freeze")).unwrap();
    if let Some(script) = criu {
        let path = folder.path().join("criu");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

#[test]
fn without_criu_the_proof_fails_and_says_why() {
    let out = run(Setting::Restricted, opt(None).path(), &[], &root(), &[FREEZE, "doctor"]);
    let said = said(&out, exit::FAILED);
    assert!(said.contains("proof: failed: cannot start CRIU from /opt/freeze/criu ("), "{said}");
    assert!(said.contains("\nServices cannot be checkpointed and restored here: cannot start CRIU"), "{said}");
}

#[test]
fn a_proof_that_failed_leaves_no_process_and_no_file() {
    // The process that runs doctor is the parent of orphans here, as PID 1.
    let script =
        "/opt/freeze/freeze doctor > /dev/null; echo ended with $?; cat /proc/[0-9]*/comm; ls /run /dev/shm /tmp";
    let criu = opt(Some("#!/bin/sh\nexit 7\n"));
    let said = said(&run(Setting::Caps, criu.path(), &[], &root(), &["sh", "-c", script]), exit::OK);
    assert!(said.contains("ended with 1\n") && said.contains("\nsh\n") && !said.contains("freeze"), "{said}");
}

#[test]
fn one_that_is_told_to_end_leaves_nothing_either() {
    let script = "/opt/freeze/freeze doctor > /tmp/said &
        until ls /run/freeze-doctor-* > /dev/null 2>&1; do :; done
        kill -TERM $!; wait $!; echo ended with $?
        cat /tmp/said /proc/[0-9]*/comm; ls -d /run/freeze-doctor-*";
    let criu = opt(Some("#!/bin/sh\nexec sleep 600\n"));
    let out = run(Setting::Caps, criu.path(), &[], &root(), &["sh", "-c", script]);
    let (said, err) = (text(&out.stdout), text(&out.stderr));
    for part in
        ["ended with 1\n", "proof: not completed: signal 15 ended the proof\n", "\nThe proof was not completed, "]
    {
        assert!(said.contains(part), "{part}: {said}{err}");
    }
    assert!(err.contains("No such file") && !said.contains("sleep\n"), "{said}{err}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let said = said(&doctor(Setting::Restricted, &[], &root(), &["--runtime-dir", "/sys"]), exit::FAILED);
    assert!(said.contains("proof: not completed: no folder is writable (/sys: "), "{said}");
}

/// A service that was checkpointed, as `doctor --for` finds it.
fn checkpointed() -> App {
    let app = App::new(Setting::Restricted, &["mixed"]);
    let container = app.start();
    container.verified();
    container.checkpoint(&[]);
    container.wait();
    app
}

fn doctor_for(app: &App, generation: &str) -> Output {
    let store = format!("{}:/store", app.store().display());
    let services = format!("{}:/services:ro", needed("FREEZE_TEST_SERVICES"));
    let options = ["--bind", &store, "--bind", &services, "--env", "FREEZE_STORE=file:/store"];
    doctor(Setting::Restricted, &options, &root(), &["--for", generation])
}

#[test]
fn a_generation_that_can_be_restored_and_one_that_is_not_there() {
    let app = checkpointed();
    let found = said(&doctor_for(&app, "newest"), exit::OK);
    assert!(
        found.starts_with("generation 1 can be restored here: about ") && found.contains("to count PIDs"),
        "{found}"
    );
    assert!(text(&doctor_for(&app, "7").stderr).contains("no generation 7"));
    // That it was asked for took nothing.
    app.start().verified();
}

#[test]
fn all_that_is_missing_for_a_generation_of_another_machine_is_said() {
    let app = checkpointed();
    let store = store::open(&Location::at(&format!("file:{}", app.store().display()))).unwrap();
    let vault = Vault::open(store, &KeyFiles::default()).unwrap().unwrap();
    let mut manifest = Manifest::load(&vault, Some(1)).unwrap().unwrap();
    let demands = manifest.demands.as_mut().unwrap();
    demands.cpu_features.push("amx_future".into());
    demands.page_size = 16_384;
    demands.uid = 7;
    manifest.executables[0].path = b"/opt/application".to_vec();
    vault.store().put(&manifest_key(1), manifest.encode(vault.seal()).into(), PutMode::Overwrite).unwrap();

    let found = said(&doctor_for(&app, "1"), exit::FAILED);
    for part in [
        "generation 1 cannot be restored here:\n",
        "- this CPU lacks amx_future",
        "- the checkpoint has pages of 16384 bytes, and this host's kernel has pages of 4096 bytes",
        "- the service ran as uid 7",
        "- the application's file /opt/application",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    let container = app.start();
    assert_eq!(container.wait(), i32::from(exit::RESTORE_FAILED));
    let log = container.logs().1;
    assert!(
        log.contains("this CPU lacks amx_future") && log.contains("(and 3 more: `freeze doctor --for GENERATION`"),
        "{log}"
    );
}
