//! Unix sockets whose files have other names than they were bound to, or none, and those with a peer outside the
//! service.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use freeze::exit;

use crate::harness::{App, Container, Setting, in_all_settings, text};

in_all_settings! {
    names_in_the_overlay;
    names_in_memory;
    names_on_a_volume;
}

fn move_once(app: &App, from: &Container) -> Container {
    from.checkpoint(&[]);
    assert_eq!(from.wait(), 172, "{}", from.story());
    app.start()
}

/// Lets the service run on once, and moves it twice.
fn names(setting: Setting, folder: &str) {
    let app = App::new(setting, &["sockets", folder]).with_volume(None);
    let first = app.start();
    first.verified();
    first.checkpoint(&["--leave-running"]);
    first.verified();
    let second = move_once(&app, &first);
    second.verified();
    move_once(&app, &second).verified();
}

fn names_in_the_overlay(setting: Setting) {
    names(setting, "/data");
}

fn names_in_memory(setting: Setting) {
    names(setting, "/dev/shm");
}

fn names_on_a_volume(setting: Setting) {
    names(setting, "/volume");
}

/// What another container puts on a shared volume meanwhile is neither removed nor followed.
fn spares(exchange: impl Fn(&Path), words: &str) {
    let app = App::new(Setting::Restricted, &["sockets", "/volume"]).with_volume(None);
    let first = app.start();
    first.verified();
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    exchange(&app.volume().join("sockets"));
    let second = app.start();
    assert_eq!(second.wait(), i32::from(exit::RESTORE_FAILED));
    let said = second.logs().1;
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_file_with_the_path_of_a_socket_stays() {
    spares(
        |folder| {
            fs::remove_file(folder.join("renamed")).unwrap();
            fs::write(folder.join("renamed"), "another's").unwrap();
        },
        "that is no socket",
    );
}

#[test]
fn a_link_in_the_path_of_a_socket_is_not_followed() {
    spares(
        |folder| {
            fs::rename(folder.join("sub folder"), folder.join("before")).unwrap();
            symlink("before", folder.join("sub folder")).unwrap();
        },
        "Not a directory",
    );
}

fn says(container: &Container, words: &str) {
    let answer = container.verified();
    assert!(answer.contains(words), "{words} is not in: {answer}\n{}", container.story());
}

fn doctor_says(container: &Container, words: &str) {
    let out = container.exec(&["/opt/freeze/freeze", "doctor", "--service", "--runtime-dir", "/runtime"]);
    let table = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{table}");
    assert!(table.contains("changed") && table.contains(words), "{table}");
}

/// Its connection is closed by each move, and by nothing else.
fn closes(app: &App, words: &str) {
    let first = app.start();
    says(&first, "closed=0");
    doctor_says(&first, words);
    first.checkpoint(&["--leave-running"]);
    says(&first, "closed=0");
    let second = move_once(app, &first);
    says(&second, "closed=1");
    says(&move_once(app, &second), "closed=1");
}

#[test]
fn a_connection_to_a_program_of_the_container_is_closed() {
    for setting in [Setting::Restricted, Setting::RestrictedPodman, Setting::Caps] {
        closes(&App::new(setting, &["holds", "unix-outside"]), "connected to 1 (freeze), outside the service");
    }
}

/// An agent of the host's, in another network namespace: accepted, and not yet.
#[test]
fn a_connection_to_a_program_of_the_host_is_closed() {
    let app = App::new(Setting::Restricted, &["holds", "unix-agent"]);
    let agent = UnixListener::bind(app.store().join("agent")).unwrap();
    open_to_all(&app, "agent");
    let first = app.start();
    says(&first, "closed=0");
    let second = move_once(&app, &first);
    says(&second, "closed=1");
    let app = App::new(Setting::Restricted, &["holds", "unix-agent"]);
    drop(agent);
    let agent = UnixListener::bind(app.store().join("agent")).unwrap();
    open_to_all(&app, "agent");
    std::thread::spawn(move || agent.accept().map(std::mem::forget));
    let first = app.start();
    first.verified();
    first.eventually("nobody accepts", || {
        let out = first.exec(&["/opt/freeze/freeze", "doctor", "--service", "--runtime-dir", "/runtime"]);
        text(&out.stdout).contains("a program in another container or on the host").then_some(())
    });
    says(&move_once(&app, &first), "closed=1");
}

fn open_to_all(app: &App, name: &str) {
    std::fs::set_permissions(app.store().join(name), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
}

/// A sidecar's, which runs on.
#[test]
fn a_datagram_socket_is_connected_again_where_its_peer_is() {
    for setting in [Setting::Restricted, Setting::Caps] {
        let sink = App::new(setting, &["holds", "unix-sink"]).with_volume(None);
        let log = sink.start();
        log.verified();
        let app = App::new(setting, &["holds", "unix-to-sink"]).with_volume(Some(&sink.volume()));
        let first = app.start();
        says(&first, "sent=5");
        doctor_says(&first, "a restore connects it again");
        first.checkpoint(&["--leave-running"]);
        let second = move_once(&app, &first);
        says(&second, "sent=5");
        let third = move_once(&app, &second);
        says(&third, "sent=5");
        says(&log, "received=3");
        std::fs::remove_file(sink.volume().join("log")).unwrap();
        says(&move_once(&app, &third), "sent=-1");
    }
}

/// A log daemon of the host's, where it has another name.
#[test]
fn a_datagram_socket_to_the_host_stays_unconnected() {
    let app = App::new(Setting::Restricted, &["holds", "unix-log"]);
    let _log = UnixDatagram::bind(app.store().join("log")).unwrap();
    open_to_all(&app, "log");
    let first = app.start();
    first.verified();
    doctor_says(&first, "a restore connects it again if its name is there");
    move_once(&app, &first).verified();
}
