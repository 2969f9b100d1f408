//! Signals: each one reaches the service, none is lost, and what the launcher had set is the service's again.

mod init_support;

use std::{fs::OpenOptions, os::unix::fs::FileExt, process::Stdio};

use init_support::*;

/// Prints the number of every signal that it can trap, and waits.
const LISTENER: &str = "for n in $SIGNALS; do trap \"echo $n\" $n; done
    sleep 1000 & sleeper=$!
    echo ready
    while :; do wait $sleeper; done";

fn listener(place: Place, options: &[&str]) -> Init {
    let folder = folder();
    let numbers: Vec<String> = trappable().map(|signal| signal.to_string()).collect();
    let mut command =
        command_at(place, folder.path(), &[&[program(), "run"], options, &["--", "bash", "-c", LISTENER]].concat());
    command.stdin(Stdio::null()).env("SIGNALS", numbers.join(" "));
    let mut init = Init::start(place, command, folder);
    init.expect("ready");
    init
}

/// All that a shell can catch; 32 and 33 belong to the C library, SIGCHLD to init, and the stop signals have a test of their own.
fn trappable() -> impl Iterator<Item = i32> {
    (1..=64).filter(|signal| ![9, 17, 19, 20, 21, 22, 32, 33].contains(signal))
}

#[test]
fn every_signal_is_forwarded() {
    for place in PLACES {
        let mut init = listener(place, &["--checkpoint-signal", "0"]);
        for signal in trappable() {
            init.signal(signal);
            init.expect(&signal.to_string());
        }
    }
}

#[test]
fn stop_signals_stop_the_service_and_sigcont_continues_it() {
    for (place, signal) in [(Place::Pid1, 20), (Place::Pid1User, 21), (Place::Pid1, 22), (Place::Host, 20)] {
        let init = listener(place, &[]);
        let (_, service) = init.tree();
        init.signal(signal);
        wait_for(|| state(service).filter(|state| state == "T"));
        if place == Place::Host {
            wait_for(|| state(init.pid).filter(|state| state == "T"));
        }
        init.signal(18);
        wait_for(|| state(service).filter(|state| state == "S"));
    }
}

#[test]
fn rewriting_and_dropping() {
    let mut init = listener(Place::Pid1, &["--rewrite", "TERM:QUIT", "--rewrite", "HUP:0,USR1:RTMIN+1"]);
    for (sent, got) in [(15, 3), (10, 35)] {
        init.signal(sent);
        init.expect(&got.to_string());
    }
    init.signal(1);
    init.signal(12);
    init.expect("12");
}

#[test]
fn a_group_gets_what_is_sent_to_the_group() {
    let text = "sh -c 'trap \"echo child; exit\" TERM; echo ready; while :; do sleep 0.01; done' & trap : TERM; wait; wait; echo parent";
    let mut init = script(Place::Pid1, &["--to-group"], text);
    init.expect("ready");
    init.signal(15);
    init.expect("child");
    init.expect("parent");
    assert_eq!(init.end().0, 0);
}

#[test]
fn a_service_that_ignores_sigterm_is_killed_in_the_end() {
    for place in PLACES {
        let mut init = script(place, &["--kill-timeout", "50ms"], "trap '' TERM; echo ready; exec sleep 1000");
        init.expect("ready");
        init.signal(15);
        assert_eq!(init.end().0, 137);
    }
}

#[test]
fn a_sigterm_that_is_pending_at_exec_ends_the_start() {
    for place in [Place::Host, Place::Pid1] {
        for _ in 0..100 {
            let folder = folder();
            let text = format!("kill -TERM $$; exec {freeze} run -- sleep 1000", freeze = program());
            let mut command = command_at(place, folder.path(), &["env", "--block-signal=TERM", "bash", "-c", &text]);
            command.stdin(Stdio::null());
            assert_eq!(Init::start(place, command, folder).end().0, 143);
        }
    }
}

#[test]
fn a_sigterm_in_the_first_moments_is_not_lost() {
    for _ in 0..100 {
        let init = script(Place::Pid1, &[], "exec sleep 1000");
        wait_for(|| status_field(init.pid, "SigBlk:").filter(|mask| mask == "fffffffffffbfeff"));
        init.signal(15);
        assert_eq!(init.end().0, 143);
    }
}

/// What a program finds that was started by a launcher with these traps, without init and with it.
fn masks(launcher: &str) -> (Vec<String>, Vec<String>) {
    let folder = folder();
    let look = "grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let text = format!("{launcher}; {look}; exec {freeze} run -- {look}", freeze = program());
    let mut command = command_at(Place::Host, folder.path(), &["env", "--block-signal=USR2", "bash", "-c", &text]);
    command.stdin(Stdio::null());
    let mut init = Init::start(Place::Host, command, folder);
    let mut two = || vec![init.line(), init.line()];
    (two(), two())
}

#[test]
fn mask_and_dispositions_are_those_of_the_launcher() {
    let (without, with) = masks("trap '' CHLD USR1 PIPE");
    assert_eq!(with, without);
    assert_eq!(without[0], "SigBlk:\t0000000000000800");
    assert!(without[1].ends_with("11200"), "{without:?}");
}

#[test]
fn what_the_launcher_did_not_ignore_the_service_does_not_either() {
    let (without, with) = masks("true");
    assert_eq!(with, without);
    assert!(without[1].ends_with("00000"), "{without:?}");
}

#[test]
fn the_death_of_the_parent_is_told() {
    let folder = folder();
    let text = format!(
        "{freeze} run --parent-death-signal USR1 -- sh -c 'trap \"echo told; exit\" USR1; echo ready; while :; do sleep 0.01; done' & wait",
        freeze = program()
    );
    let mut command = command_at(Place::Host, folder.path(), &["bash", "-c", &text]);
    command.stdin(Stdio::null());
    let mut init = Init::start(Place::Host, command, folder);
    init.expect("ready");
    init.signal(9);
    init.expect("told");
}

#[test]
fn a_fault_of_inits_own_kills_even_pid_1() {
    let mut init = script(Place::Pid1, &[], "echo ready; exec sleep 1000");
    init.expect("ready");
    // An invalid instruction where it will return to from poll(2), which is system call 7 there.
    let call = wait_for(|| {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", init.pid)).ok()?;
        call.starts_with("7 ").then_some(call)
    });
    let address = call.split_whitespace().last().unwrap().trim_start_matches("0x");
    let memory = OpenOptions::new().write(true).open(format!("/proc/{}/mem", init.pid)).unwrap();
    memory.write_all_at(b"\x0f\x0b", u64::from_str_radix(address, 16).unwrap()).unwrap();
    init.signal(10);
    assert_eq!(init.end().0, 128 + 4);
}
