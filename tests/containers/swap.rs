//! Shared memory that is swapped out, on a host with swap: the kernel shows it as pages that are not there.

use std::fs;
use std::process::Command;

use crate::harness::{App, Container, Setting, text};

const SIZE: usize = 64 << 20;

/// A file of swap. This host has none where it is not allowed to have any.
struct Swap(tempfile::NamedTempFile);

impl Swap {
    fn new() -> Option<Self> {
        // /tmp may be in memory itself.
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        fs::write(file.path(), vec![0; SIZE]).unwrap();
        let has = |command| Command::new(command).arg(file.path()).output().unwrap().status.success();
        (has("mkswap") && has("swapon")).then_some(Self(file))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let out = Command::new("swapoff").arg(self.0.path()).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
}

/// Has the kernel drop what it keeps of pages that are swapped out: until then it shows them.
fn drop_cached(container: &Container) {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    for group in groups.lines() {
        let (file, amount) = match group.splitn(3, ':').collect::<Vec<_>>()[..] {
            [_, "memory", path] => (format!("/sys/fs/cgroup/memory{path}/memory.force_empty"), "0"),
            ["0", "", path] => (format!("/sys/fs/cgroup{path}/memory.reclaim"), "256M"),
            _ => continue,
        };
        // Of the second kind it is an error that there is less.
        let _ = fs::write(file, amount);
    }
}

/// Of the service, in KiB.
fn swapped(container: &Container) -> u64 {
    let service = container.find(&["/services/service"]).unwrap();
    let maps = fs::read_to_string(format!("/proc/{service}/smaps")).unwrap();
    let sizes =
        maps.lines().filter_map(|line| line.strip_prefix("Swap:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    sizes.sum()
}

fn has_swapped_out(container: &Container) {
    container.verified();
    container.eventually("nothing is swapped out", || {
        drop_cached(container);
        (swapped(container) >= 8 << 10).then_some(())
    });
}

#[test]
fn shared_memory_that_is_swapped_out_comes_back() {
    let Some(_swap) = Swap::new() else { return eprintln!("this host allows no swap: nothing was tried") };
    for setting in [Setting::Restricted, Setting::RestrictedPodman, Setting::Caps] {
        let app = App::new(setting, &["holds", "swapped"]);
        let mut container = app.start();
        has_swapped_out(&container);
        container.checkpoint(&["--leave-running"]);
        for _ in 0..2 {
            has_swapped_out(&container);
            container.checkpoint(&[]);
            assert_eq!(container.wait(), 172, "{}", container.story());
            container = app.start();
        }
        container.verified();
    }
}
