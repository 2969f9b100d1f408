//! How /proc is mounted: what runtimes hide and protect in it. Reads /proc/self/mountinfo only.

use std::fs;

use serde::Serialize;

/// The container's /proc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Proc {
    /// It is there.
    pub mounted: bool,
    /// Options that hide processes: `hidepid=…`, `subset=pid`.
    pub hides: Vec<String>,
    /// What is mounted over parts of it. The kernel lets nobody mount a new /proc in a user namespace then ("mount too revealing",
    /// fs/namespace.c).
    pub masked: Vec<String>,
    /// /proc/sys is read-only.
    pub sys_read_only: bool,
}

impl Proc {
    /// Reads it.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut fields = line.split(' ');
            let (Some(point), Some(options)) = (fields.nth(4), fields.next()) else { continue };
            let own = line.split_once(" - ").map_or("", |(_, rest)| rest.rsplit(' ').next().unwrap_or(""));
            let read_only = options.split(',').any(|option| option == "ro");
            if point == "/proc" {
                let hides =
                    |option: &&str| option.starts_with("subset=") || option.starts_with("hidepid=") && !is_off(option);
                found = Self { mounted: true, sys_read_only: read_only, ..Self::default() };
                found.hides = own.split(',').filter(hides).map(str::to_owned).collect();
            } else if point.starts_with("/proc/") && found.mounted {
                found.sys_read_only |= point == "/proc/sys" && read_only;
                found.masked.push(point.to_owned());
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

    #[test]
    fn a_runtimes_proc_is_masked_and_protected() {
        let found = Proc::parse(
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
        let found = Proc::parse("2 1 0:2 / /proc rw,relatime shared:5 - proc proc rw,hidepid=0\n");
        assert_eq!(found, Proc { mounted: true, ..Proc::default() });
        assert_eq!(Proc::parse("1 0 0:1 / / rw - overlay overlay rw\n"), Proc::default());
    }

    #[test]
    fn of_two_the_later_one_is_seen() {
        let found = Proc::parse(
            "2 1 0:2 / /proc rw - proc proc rw\n3 2 0:2 /sys /proc/sys ro - proc proc rw\n4 1 0:9 / /proc rw - proc proc rw\n",
        );
        assert_eq!(found, Proc { mounted: true, ..Proc::default() });
    }
}
