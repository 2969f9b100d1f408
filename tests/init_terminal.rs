//! The terminal: the service has it as its controlling terminal, in the foreground, and its keys work.

mod init_support;

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::fd::OwnedFd,
};

use init_support::*;
use nix::pty::openpty;

/// Starts init as a container's engine does with `-t`: leader of a session with the terminal.
fn on_terminal(text: &str) -> (Init, File, BufReader<File>) {
    let pty = openpty(None, None).unwrap();
    let folder = folder();
    let command = ["setsid", "--ctty", program(), "run", "--", "sh", "-c", text];
    let mut command = command_at(Place::Pid1, folder.path(), &command);
    command.stdin(pty.slave);
    let init = Init::start(Place::Pid1, command, folder);
    let screen: OwnedFd = pty.master;
    let keys = File::from(screen.try_clone().unwrap());
    (init, keys, BufReader::new(File::from(screen)))
}

#[test]
fn the_service_is_in_the_foreground_of_its_terminal() {
    let (mut init, ..) = on_terminal("cut -d' ' -f5,6,8 /proc/$$/stat; ps -o tty= -p 1; exec sleep 1000");
    init.expect("1001 1001 1001");
    init.expect("?");
}

#[test]
fn the_interrupt_key_reaches_the_service() {
    let (mut init, mut keys, _) =
        on_terminal("trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.01; done");
    init.expect("ready");
    keys.write_all(b"\x03").unwrap();
    init.expect("interrupted");
    assert_eq!(init.end().0, 5);
}

#[test]
fn the_service_can_open_its_terminal() {
    let (init, _keys, mut screen) = on_terminal("echo hello >/dev/tty; exec sleep 1000");
    let mut line = String::new();
    screen.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "hello");
    drop(init);
}

#[test]
fn giving_up_the_terminal_hangs_nobody_up() {
    let (mut init, ..) = on_terminal(
        "trap 'echo hangup' HUP; trap 'echo continued' CONT; trap 'echo told' USR1; echo ready; while :; do sleep 0.01; done",
    );
    init.expect("ready");
    init.signal(10);
    init.expect("told");
}
