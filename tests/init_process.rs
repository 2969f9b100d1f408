//! Processes: exit statuses, orphans, descriptors, the terminal, and what init costs at rest.

mod init_support;

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use init_support::*;

#[test]
fn the_exit_status_is_the_services() {
    for place in PLACES {
        for (text, code) in
            [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -64 $$", 192)]
        {
            assert_eq!(run(place, &[], text).0, code, "{place:?}: {text}");
        }
    }
}

#[test]
fn exit_statuses_are_remapped() {
    for (text, code) in [("exit 3", 4), ("kill -TERM $$", 0), ("exit 5", 5)] {
        assert_eq!(run(Place::Pid1, &["--remap-exit", "3:4,143:0"], text).0, code);
    }
}

#[test]
fn what_cannot_be_executed_is_126_or_127_even_with_stderr_closed() {
    for place in PLACES {
        for (missing, code) in [("/nowhere/at-all", 127), ("no-such-program", 127), ("/etc/passwd", 126), ("/", 126)] {
            let folder = folder();
            let text = format!("exec {freeze} run -- {missing} 2>&-", freeze = program());
            let mut command = command_at(place, folder.path(), &["sh", "-c", &text]);
            command.stdin(Stdio::null());
            assert_eq!(Init::start(place, command, folder).end().0, code, "{place:?}: {missing}");
        }
    }
}

#[test]
fn what_cannot_be_executed_is_named() {
    let folder = folder();
    let mut command = command_at(Place::Pid1, folder.path(), &[program(), "run", "--", "no-such-program"]);
    command.stdin(Stdio::null());
    let (code, error) = Init::start(Place::Pid1, command, folder).end();
    assert_eq!(
        (code, error.as_str()),
        (127, "freeze: cannot execute no-such-program: No such file or directory (os error 2)\n")
    );
}

#[test]
fn values_that_cannot_be_used_are_refused_at_the_start() {
    for options in [
        &["--no-such-option"][..],
        &["--rewrite", "TERM"],
        &["--rewrite", "KILL:TERM"],
        &["--remap-exit", "256:0"],
        &["--first-pid", "1"],
        &["--kill-timeout", "soon"],
        &["--memory-limit", "much"],
        &["--parent-death-signal", "99"],
        &["--checkpointed-status", "300"],
        &["--checkpoint-signal", "RTMIN+99"],
        &["--on-term", "ignore"],
        &["--every", "often"],
        &["--every", "0s"],
        &["--standby-poll", "0s"],
        &["--checkpoint-signal", "KILL"],
        &["--before-checkpoint", "echo 'it"],
        &["--on-restore", "signal:NONE"],
        &["--restore", "newest"],
        &["--restore-failure", "hope"],
        &["--volume-changed", "hope"],
        &["--clock", "hope"],
        &["--standby-poll", "1"],
        &["--instance", "two words"],
    ] {
        let (code, error) = run(Place::Host, options, "echo started");
        assert_eq!(code, 2, "{options:?}");
        assert!(error.contains(options[0]), "{error}");
    }
}

#[test]
fn every_option_has_an_environment_twin() {
    let help = Command::new(program()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let options: Vec<_> =
        help.lines().filter_map(|line| line.trim().strip_prefix("--")?.split([' ', '[']).next()).collect();
    assert!(options.len() > 10, "{help}");
    for option in options {
        assert!(help.contains(&format!("FREEZE_{}=]", option.to_uppercase().replace('-', "_"))), "{option}");
    }
}

#[test]
fn sigchld_ignored_by_the_launcher_does_not_hang() {
    for place in PLACES {
        let folder = folder();
        let text = format!("trap '' CHLD; exec {freeze} run -- sh -c 'exit 7'", freeze = program());
        let mut command = command_at(place, folder.path(), &["bash", "-c", &text]);
        command.stdin(Stdio::null());
        assert_eq!(Init::start(place, command, folder).end().0, 7, "{place:?}");
    }
}

#[test]
fn closed_standard_descriptors_are_survived() {
    for place in PLACES {
        let folder = folder();
        let text = format!("exec {freeze} run -- sh -c 'exit 7' <&- >&- 2>&-", freeze = program());
        let command = command_at(place, folder.path(), &["sh", "-c", &text]);
        assert_eq!(Init::start(place, command, folder).end().0, 7, "{place:?}");
    }
}

#[test]
fn descriptors_above_two_are_closed() {
    let folder = folder();
    let look = "for n in 3 4 5 77; do test ! -e /proc/$$/fd/$n || echo $n; done; echo done";
    let text = format!("exec 3</dev/null 77</dev/null; exec {freeze} run -- sh -c '{look}'", freeze = program());
    let mut command = command_at(Place::Pid1User, folder.path(), &["bash", "-c", &text]);
    command.stdin(Stdio::null());
    Init::start(Place::Pid1User, command, folder).expect("done");
}

#[test]
fn stdin_passes_a_pipe_through() {
    let folder = folder();
    let mut command = command_at(Place::Pid1User, folder.path(), &[program(), "run", "--", "cat"]);
    command.stdin(Stdio::piped());
    let mut init = Init::start(Place::Pid1User, command, folder);
    let mut input = init.child.stdin.take().unwrap();
    input.write_all(b"through\n").unwrap();
    drop(input);
    init.expect("through");
    assert_eq!(init.end().0, 0);
}

#[test]
fn the_service_has_the_launchers_folder_and_init_none() {
    let folder = folder();
    let here = folder.path().canonicalize().unwrap();
    let mut command =
        command_at(Place::Pid1User, folder.path(), &[program(), "run", "--", "sh", "-c", "pwd -P; exec sleep 1000"]);
    command.stdin(Stdio::null()).current_dir(&here);
    let mut init = Init::start(Place::Pid1User, command, folder);
    init.expect(here.to_str().unwrap());
    let (subreaper, _) = init.tree();
    for pid in [init.pid, subreaper] {
        wait_for(|| fs::read_link(format!("/proc/{pid}/cwd")).ok().filter(|cwd| cwd.to_str() == Some("/")));
    }
}

#[test]
fn the_service_leads_a_session_below_the_holder() {
    for place in PLACES {
        let mut init = script(place, &[], "echo ready; exec sleep 1000");
        init.expect("ready");
        let (subreaper, service) = init.tree();
        wait_for(|| {
            fs::read_to_string(format!("/proc/{subreaper}/cmdline"))
                .ok()
                .filter(|name| name.starts_with("freeze-subreaper"))
        });
        assert_eq!(fs::read_dir(format!("/proc/{subreaper}/fd")).unwrap().count(), 0);
        assert_eq!(
            fs::read_link(format!("/proc/{subreaper}/exe")).unwrap().to_str(),
            Some("/memfd:freeze-subreaper (deleted)")
        );
        for pid in [subreaper, service] {
            let own = |name| status_field(pid, name).unwrap().split_whitespace().last().unwrap().to_owned();
            assert_eq!(own("NSsid:"), own("NSpid:"));
        }
        let pids = [subreaper, service]
            .map(|pid| status_field(pid, "NSpid:").unwrap().split_whitespace().last().unwrap().to_owned());
        if place != Place::Host {
            assert_eq!(pids, ["1000", "1001"]);
        }
    }
}

#[test]
fn another_first_pid_can_be_chosen() {
    for place in [Place::Pid1, Place::Pid1User] {
        assert_eq!(script(place, &["--first-pid", "1234"], "echo $$").line(), "1235");
    }
}

#[test]
fn a_daemon_stays_below_the_holder_and_is_reaped_there() {
    for place in PLACES {
        let mut init = script(place, &[], "sh -c 'sleep 0.05 & sleep 1000 &'; echo ready; exec sleep 1000");
        init.expect("ready");
        let (subreaper, service) = init.tree();
        wait_for(|| (children(subreaper).len() == 2).then_some(()));
        assert_eq!(children(init.pid), [subreaper]);
        assert!(children(subreaper).contains(&service) && children(service).is_empty());
    }
}

#[test]
fn init_takes_over_where_the_holder_is_killed() {
    for place in PLACES {
        let text = "trap 'exit 9' TERM; sh -c 'sleep 0.05 &'; echo ready; while :; do sleep 0.01; done";
        let mut init = script(place, &[], text);
        init.expect("ready");
        let (subreaper, service) = init.tree();
        kill(subreaper, 9);
        wait_for(|| children(init.pid).contains(&service).then_some(()));
        let answer =
            Command::new(program()).args(["checkpoint", "--runtime-dir"]).arg(init.runtime_dir()).output().unwrap();
        assert_eq!(answer.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&answer.stderr).contains("the service's subreaper was killed"));
        init.signal(15);
        assert_eq!(init.end().0, 9, "{place:?}");
    }
}

#[test]
fn orphans_of_what_is_executed_from_outside_are_reaped() {
    let mut init = script(Place::Pid1, &[], "echo ready; exec sleep 1000");
    init.expect("ready");
    let (subreaper, _) = init.tree();
    let enter = ["-p", "-m", "-t", &init.pid.to_string(), "sh", "-c", "for i in 1 2 3; do sleep 0.05 & done"];
    assert!(Command::new("nsenter").args(enter).status().unwrap().success());
    wait_for(|| (children(init.pid) == [subreaper]).then_some(()));
}

#[test]
fn it_warns_where_it_is_not_pid_1() {
    assert!(run(Place::Host, &[], "exit 0").1.starts_with("freeze: warning: freeze is not PID 1 here"));
    assert_eq!(run(Place::Pid1User, &[], "exit 0").1, "");
}

#[test]
fn a_read_only_root_and_no_shell_are_enough() {
    let folder = folder();
    let root = folder.path().join("root");
    let shell = "set -e; mkdir -p $R/proc $R/dev/shm; cp $F $R/freeze; mount --bind $R $R; mount -t proc proc $R/proc
        mount -t tmpfs tmpfs $R/dev/shm; chmod 1777 $R/dev/shm; mount -o remount,ro,bind $R
        exec setpriv --reuid=4242 --regid=0 --clear-groups chroot $R /freeze run -- /freeze --version";
    let arguments = [
        "sh",
        "-c",
        &shell.replace("setpriv --reuid=4242 --regid=0 --clear-groups chroot $R", "chroot --userspec=4242:0 $R"),
    ];
    let mut command = command_at(Place::Pid1, folder.path(), &arguments);
    command.stdin(Stdio::null()).env("R", &root).env("F", program()).env_remove("FREEZE_RUNTIME_DIR");
    let mut init = Init::start(Place::Pid1, command, folder);
    assert!(init.line().starts_with("freeze "));
    let (code, error) = init.end();
    assert!(code == 0 && error.lines().count() <= 1, "{code} {error}");
}

#[test]
fn it_rests_in_one_mib_of_its_own_without_waking() {
    for place in PLACES {
        let mut init = script(place, &[], "echo ready; exec sleep 1000");
        init.expect("ready");
        // Asleep in poll(2), after it has given back what the start took.
        wait_for(|| fs::read_link(format!("/proc/{}/cwd", init.pid)).ok().filter(|cwd| cwd.to_str() == Some("/")));
        wait_for(|| state(init.pid).filter(|state| state == "S"));
        let switches = || {
            ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
                .map(|name| status_field(init.pid, name).unwrap())
        };
        let before = switches();
        // The one thing to be shown here is that nothing happens in a time.
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(switches(), before);
        // Without the executable's pages: in this build, which is not optimised, they are far apart and many.
        // images/freeze/test holds the released build, with them.
        let own: u32 = status_field(init.pid, "RssAnon:").unwrap().trim_end_matches(" kB").parse().unwrap();
        assert!(own <= 1024, "{own} kB");
    }
}
