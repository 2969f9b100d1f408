//! The control socket: what clients get, and what nobody can do to init through it.

mod init_support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Output, Stdio},
};

use init_support::*;

fn running(place: Place) -> Init {
    let mut init = script(place, &[], "echo ready; exec sleep 1000");
    init.expect("ready");
    init
}

fn freeze(arguments: &[&str], runtime_dir: &Path) -> Output {
    Command::new(program()).args(arguments).arg("--runtime-dir").arg(runtime_dir).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn connect(init: &Init) -> UnixStream {
    UnixStream::connect(init.runtime_dir().join("control.sock")).unwrap()
}

/// Sends bytes and reads what comes until init closes.
fn talk(init: &Init, bytes: &[u8]) -> String {
    let mut stream = connect(init);
    let _ = stream.write_all(bytes);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn is_well(init: &Init) {
    assert!(text(&freeze(&["status"], &init.runtime_dir()).stdout).starts_with("running: the service is process "));
}

#[test]
fn status_is_a_sentence_or_json() {
    for place in PLACES {
        let init = running(place);
        is_well(&init);
        let (_, service) = init.tree();
        let pid = status_field(service, "NSpid:").unwrap().split_whitespace().last().unwrap().to_owned();
        let pid = if place == Place::Host { service.to_string() } else { pid };
        let json = freeze(&["status", "--json"], &init.runtime_dir());
        let status: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!((&status["event"], &status["state"]), (&"status".into(), &"running".into()));
        assert_eq!(status["service"], pid.parse::<i32>().unwrap());
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn a_probe_is_told_by_its_status_alone() {
    let init = running(Place::Pid1User);
    let ready = freeze(&["status", "--ready"], &init.runtime_dir());
    assert_eq!((ready.status.code(), text(&ready.stdout), text(&ready.stderr)), (Some(0), "", ""));
}

#[test]
fn metrics_name_the_state() {
    let folder = folder();
    let arguments = [program(), "run", "--instance", "a-1", "--", "sh", "-c", "echo ready; exec sleep 1000"];
    let mut init = Init::start(Place::Pid1, command_at(Place::Pid1, folder.path(), &arguments), folder);
    init.expect("ready");
    let page = freeze(&["status", "--prometheus"], &init.runtime_dir());
    let state = "\nfreeze_state{freeze_instance=\"a-1\",state=\"running\"} 1\n";
    assert!(text(&page.stdout).contains(state), "{}", text(&page.stdout));
}

#[test]
fn waiting_begins_before_init_and_ends_with_what_is_waited_for() {
    let folder = folder();
    let path = folder.path().to_owned();
    let waiter = |state, timeout| {
        let mut command = Command::new(program());
        command.args(["wait", state, "--timeout", timeout, "--runtime-dir"]).arg(path.join("run"));
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let early = ["running", "idle"].map(|state| waiter(state, "1min"));
    let late = waiter("checkpointed", "1min");
    let command = command_at(Place::Pid1, &path, &[program(), "run", "--", "sleep", "1000"]);
    let init = Init::start(Place::Pid1, command, folder);
    for waiter in early {
        assert_eq!(waiter.wait_with_output().unwrap().status.code(), Some(0));
    }
    let over = waiter("checkpointed", "10ms").wait_with_output().unwrap();
    assert_eq!(over.status.code(), Some(1));
    assert!(text(&over.stderr).starts_with("freeze: not checkpointed within 10ms"), "{}", text(&over.stderr));
    let never = waiter("restored", "1min").wait_with_output().unwrap();
    assert_eq!(never.status.code(), Some(1), "{}", text(&never.stderr));
    init.signal(15);
    assert_eq!(late.wait_with_output().unwrap().status.code(), Some(1));
}

#[test]
fn a_failure_has_the_status_of_its_step_and_is_remembered() {
    // There is no criu beside the executable.
    let init = running(Place::Pid1);
    let failed = freeze(&["checkpoint", "--leave-running", "--json"], &init.runtime_dir());
    assert_eq!(failed.status.code(), Some(5), "{}", text(&failed.stderr));
    let event: serde_json::Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((&event["event"], &event["phase"]), (&"failed".into(), &"dump".into()));
    let status = freeze(&["status", "--json"], &init.runtime_dir());
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["state"], &status["failures"]), (&"running".into(), &1.into()));
    assert_eq!((&status["failure"]["message"], &status["failure"]["reason"]), (&event["message"], &"command".into()));
    assert_eq!(freeze(&["wait", "checkpointed"], &init.runtime_dir()).status.code(), Some(1));
    assert_eq!(freeze(&["wait", "idle"], &init.runtime_dir()).status.code(), Some(0));
}

#[test]
fn there_is_nothing_to_cancel() {
    let output = freeze(&["cancel"], &running(Place::Pid1).runtime_dir());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no checkpoint or handover to cancel"), "{}", text(&output.stderr));
}

#[test]
fn who_follows_is_told_of_the_end() {
    let init = running(Place::Pid1);
    let mut follower = Command::new(program())
        .args(["status", "--follow", "--json", "--runtime-dir"])
        .arg(init.runtime_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("\"state\":\"running\""), "{line}");
    init.signal(15);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.lines().last().unwrap().contains("\"event\":\"failed\""), "{rest}");
    assert_eq!(follower.wait().unwrap().code(), Some(1));
}

#[test]
fn without_init_there_is_nothing_to_talk_to() {
    let folder = folder();
    for verb in
        [&["status"][..], &["status", "--ready"], &["checkpoint"], &["cancel"], &["wait", "idle", "--timeout", "1ms"]]
    {
        let output = freeze(verb, folder.path());
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).starts_with("freeze: no freeze init answers in this container"));
    }
}

#[test]
fn another_version_is_told_so() {
    let answer = talk(&running(Place::Pid1), b"{\"version\":7,\"op\":\"status\"}\n");
    assert!(answer.contains("the client speaks protocol version 7, and this init version 1"), "{answer}");
}

#[test]
fn what_is_no_request_is_told_so() {
    let init = running(Place::Pid1);
    for request in [&b"hello\n"[..], b"{}\n", b"\n", b"\xff\xff\n", b"{\"version\":1,\"op\":\"dance\"}\n", b"[[[[\n"] {
        assert!(talk(&init, request).contains("cannot parse the request"), "{request:?}");
    }
    is_well(&init);
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    let init = running(Place::Pid1);
    assert_eq!(talk(&init, &vec![b'x'; 1 << 20]), "");
    is_well(&init);
}

#[test]
fn requests_that_never_come_keep_nobody_out() {
    let init = running(Place::Pid1);
    let mut idle: Vec<UnixStream> = (0..100).map(|_| connect(&init)).collect();
    idle.iter_mut().for_each(|stream| drop(stream.write_all(b"{\"version\"")));
    is_well(&init);
    drop(idle);
    is_well(&init);
}

#[test]
fn a_request_may_come_in_pieces() {
    let init = running(Place::Pid1);
    let mut stream = connect(&init);
    for byte in b"{\"version\":1,\"op\":\"status\"}\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("running"), "{answer}");
}

#[test]
fn only_root_and_inits_own_user_are_heard() {
    for (place, user, heard) in
        [(Place::Pid1, 1000, false), (Place::Pid1User, 1000, true), (Place::Pid1User, 1001, false)]
    {
        let init = running(place);
        // As if someone had opened the folder to all: the kernel's word on who the peer is still counts.
        fs::set_permissions(init.runtime_dir(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(init.runtime_dir().join("control.sock"), fs::Permissions::from_mode(0o666)).unwrap();
        let script = format!(
            "exec setpriv --reuid={user} --regid={user} --clear-groups {freeze} status --runtime-dir {}",
            init.runtime_dir().display(),
            freeze = program()
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.status.success(), heard, "{}", text(&output.stderr));
        is_well(&init);
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_named_and_nothing_starts() {
    let folder = folder();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    for (runtime_dir, why) in
        [(link.as_path(), "it is not a folder"), (Path::new("/proc/nothing"), "No such file"), (Path::new("/"), "")]
    {
        let output = Command::new("setpriv")
            .args(["--reuid=1000", "--regid=1000", "--clear-groups", program(), "run", "--runtime-dir"])
            .arg(runtime_dir)
            .args(["--", "echo", "started"])
            .output()
            .unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(170), ""));
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    }
}

#[test]
fn the_socket_is_gone_with_init() {
    let init = script(Place::Host, &[], "exit 0");
    let socket = init.runtime_dir().join("control.sock");
    let folder = init.folder.path().to_owned();
    assert!(folder.exists());
    let mut init = init;
    assert_eq!(code(init.child.wait().unwrap()), 0);
    assert!(!socket.exists());
}
