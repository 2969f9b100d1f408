//! A service that an agent of the host watches by uprobes: it moves without their breakpoints, and refuses to move only
//! where a return address is the kernel's.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use freeze::exit;

use crate::harness::{App, Container, Setting, needed, text};

/// One probe, by the kernel's files of probes, of a copy of the service's program that only this test runs; removed when
/// dropped.
struct Probe {
    tracing: tempfile::TempDir,
    name: String,
}

impl Probe {
    /// `kind` is `p` at a function's start, and `r` at its end as well.
    fn new(app: &App, kind: char, function: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("freeze_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let probe = Self { tracing: tempfile::tempdir().unwrap(), name };
        let mounted = Command::new("mount").args(["-t", "tracefs", "tracefs"]).arg(probe.tracing.path()).status();
        assert!(mounted.unwrap().success(), "tracefs");
        let program = app.volume().join("service");
        let offset = offset_of(&program, function);
        probe.write("uprobe_events", &format!("{kind}:{} {}:{offset:#x}", probe.name, program.display()));
        probe.write(&format!("events/uprobes/{}/enable", probe.name), "1");
        probe
    }

    fn write(&self, file: &str, line: &str) {
        let path = self.tracing.path().join(file);
        let file = fs::OpenOptions::new().append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {line}: {error}", path.display()));
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.write(&format!("events/uprobes/{}/enable", self.name), "0");
        self.write("uprobe_events", &format!("-:{}", self.name));
        let _ = Command::new("umount").arg(self.tracing.path()).status();
    }
}

/// An application that runs a copy of its own of the service, from its volume.
fn application(setting: Setting) -> App {
    let app = App::with_options(setting, &[], &["/volume/service", "one"]).with_volume(None);
    fs::copy(Path::new(&needed("FREEZE_TEST_SERVICES")).join("service"), app.volume().join("service")).unwrap();
    app
}

/// Where a function is in the file of a program that is linked to the usual address.
fn offset_of(program: &Path, function: &str) -> u64 {
    const BASE: u64 = 0x40_0000;
    let symbols = text(&Command::new("nm").arg(program).output().unwrap().stdout);
    let line = symbols.lines().find(|line| line.ends_with(&format!(" {function}"))).expect(function);
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap() - BASE
}

/// What `maps` has of the kernel's area for probes.
fn has_area(container: &Container) -> bool {
    let service = container.find(&["/volume/service"]).unwrap();
    fs::read_to_string(format!("/proc/{service}/maps")).unwrap().contains("[uprobes]")
}

/// The breakpoint is in the memory of the source, and nobody catches it in the target.
#[test]
fn a_service_that_is_probed_moves() {
    for setting in [Setting::Restricted, Setting::Caps] {
        let app = application(setting);
        let first = app.start();
        let probe = Probe::new(&app, 'p', "checksum");
        first.verified();
        assert!(has_area(&first), "the probe was not reached");
        first.checkpoint(&["--leave-running"]);
        first.verified();
        first.checkpoint(&[]);
        assert_eq!(first.wait(), 172, "{}", first.story());
        drop(probe);
        let second = app.start();
        second.verified();
        assert!(!has_area(&second));
    }
}

/// The area stays when the agent has gone.
#[test]
fn a_service_that_was_probed_moves() {
    let app = application(Setting::Restricted);
    let first = app.start();
    let probe = Probe::new(&app, 'p', "checksum");
    first.verified();
    drop(probe);
    assert!(has_area(&first));
    first.checkpoint(&[]);
    assert_eq!(first.wait(), 172, "{}", first.story());
    app.start().verified();
}

/// Of the function in which the service spends its life.
#[test]
fn a_watched_return_is_refused() {
    let app = application(Setting::Restricted);
    let probe = Probe::new(&app, 'r', "poll");
    let container = app.start();
    container.verified();
    assert!(has_area(&container), "the probe was not reached");
    let out = container.try_checkpoint(&[]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit::DUMP.into()), "{said}");
    assert!(said.contains("is in a function whose end a uprobe watches"), "{said}");
    container.verified();
    drop(probe);
}
