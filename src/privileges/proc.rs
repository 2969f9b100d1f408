//! How /proc is mounted: what runtimes hide and protect in it. Reads /proc/self/mountinfo only.

use std::path::Path;

use serde::Serialize;

use super::Facts;
use crate::proc::mountinfo::{self, Mount};

/// The container's /proc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Proc {
    pub mounted: bool,
    /// Mount options that hide something: `hidepid=…`, `subset=pid` (proc(5)).
    pub hides: Vec<String>,
    /// Mounts over parts of it. They make the kernel refuse a new /proc in a user namespace ("mount too
    /// revealing", fs/namespace.c).
    pub masked: Vec<String>,
    pub sys_read_only: bool,
}

impl Proc {
    pub fn read() -> Self {
        Self::of(&mountinfo::read("self").unwrap_or_default())
    }

    /// What a dump needs and /proc hides. `hidepid=1` hides no process. 2 and 4 hide processes that this one
    /// may not trace; those are of other users, which only a service with SETUID can have. `subset=pid` hides
    /// /proc/sys, without which CRIU neither dumps nor restores.
    pub fn hidden(&self, facts: &Facts) -> Option<&'static str> {
        let others = facts.has("SETUID") && !facts.has("SYS_PTRACE");
        match self {
            Self { mounted: false, .. } => Some("/proc is not mounted"),
            _ if self.lacks_sys() => Some("subset=pid leaves out /proc/sys"),
            _ if others && self.hides_processes() => Some("hidepid hides processes of other users"),
            _ => None,
        }
    }

    pub fn lacks_sys(&self) -> bool {
        self.hides.iter().any(|option| option.starts_with("subset="))
    }

    fn hides_processes(&self) -> bool {
        let hiding = ["hidepid=2", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable"];
        self.hides.iter().any(|option| hiding.contains(&option.as_str()))
    }

    fn of(mounts: &[Mount]) -> Self {
        let mut found = Self::default();
        for mount in mounts {
            if mount.point == Path::new("/proc") {
                let hides =
                    |option: &&str| option.starts_with("subset=") || option.starts_with("hidepid=") && !is_off(option);
                found = Self { mounted: true, sys_read_only: !mount.writable, ..Self::default() };
                found.hides = mount.options.split(',').filter(hides).map(str::to_owned).collect();
            } else if mount.point.starts_with("/proc") && found.mounted {
                found.sys_read_only |= mount.point == Path::new("/proc/sys") && !mount.writable;
                found.masked.push(mount.point.to_string_lossy().into_owned());
            }
        }
        found
    }
}

fn is_off(option: &str) -> bool {
    ["hidepid=0", "hidepid=off"].contains(&option)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Proc {
        Proc::of(&mountinfo::parse(text.as_bytes()))
    }

    #[test]
    fn a_runtimes_proc_is_masked_and_protected() {
        let found = parse(
            "1 0 0:1 / / rw - overlay overlay rw\n\
             2 1 0:2 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw,hidepid=invisible\n\
             3 2 0:2 /sys /proc/sys ro,nosuid - proc proc rw\n\
             4 2 0:3 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw,size=64k\n",
        );
        assert_eq!(found.masked, ["/proc/sys", "/proc/kcore"]);
        assert_eq!(found.hides, ["hidepid=invisible"]);
        assert!(found.mounted && found.sys_read_only);
    }

    #[test]
    fn a_bare_proc_is_neither() {
        let found = parse("2 1 0:2 / /proc rw,relatime shared:5 - proc proc rw,hidepid=0\n");
        assert_eq!(found, Proc { mounted: true, ..Proc::default() });
        assert_eq!(parse("1 0 0:1 / / rw - overlay overlay rw\n"), Proc::default());
    }

    #[test]
    fn an_option_matters_by_what_it_hides_from_whom() {
        let hidden = |options: &str, capabilities: &[&str]| {
            let effective = capabilities.iter().map(ToString::to_string).collect();
            let proc = parse(&format!("2 1 0:2 / /proc rw - proc proc rw,{options}\n"));
            proc.hidden(&Facts { effective, ..Facts::default() })
        };
        for fine in ["hidepid=noaccess", "hidepid=1", "hidepid=2", "hidepid=ptraceable"] {
            assert_eq!(hidden(fine, &[]), None);
        }
        assert_eq!(hidden("hidepid=invisible", &["SETUID", "SYS_PTRACE"]), None);
        insta::assert_snapshot!(hidden("hidepid=invisible", &["SETUID"]).unwrap(), @"hidepid hides processes of other users");
        insta::assert_snapshot!(hidden("subset=pid", &["SETUID", "SYS_PTRACE"]).unwrap(), @"subset=pid leaves out /proc/sys");
        insta::assert_snapshot!(Proc::default().hidden(&Facts::default()).unwrap(), @"/proc is not mounted");
    }

    #[test]
    fn a_mount_whose_name_is_no_text_hides_nothing() {
        let mounts = mountinfo::parse(b"1 0 0:1 / /\xff rw - tmpfs \xff rw\n2 1 0:2 / /proc rw - proc proc rw\n");
        assert_eq!(Proc::of(&mounts), Proc { mounted: true, ..Proc::default() });
    }

    #[test]
    fn of_two_the_later_one_is_seen() {
        let found = parse(
            "2 1 0:2 / /proc rw - proc proc rw\n3 2 0:2 /sys /proc/sys ro - proc proc rw\n4 1 0:9 / /proc rw - proc proc rw\n",
        );
        assert_eq!(found, Proc { mounted: true, ..Proc::default() });
    }
}
