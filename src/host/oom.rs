//! Whether the kernel kills processes of this container for lack of memory: the count of its memory cgroup.

use super::cgroup::{self, Cgroup, Version};

/// The count at one moment. None if this container does not see it.
#[derive(Debug, Clone, Copy)]
pub struct OomKills(Option<u64>);

impl OomKills {
    pub fn now() -> Self {
        Self(cgroup::visible("memory").iter().find_map(count))
    }

    /// Whether there was one since that moment.
    pub fn since(self) -> Option<bool> {
        let (before, now) = (self.0?, Self::now().0?);
        Some(now > before)
    }
}

fn count(cgroup: &Cgroup) -> Option<u64> {
    let file = match cgroup.version {
        Version::Two => "memory.events",
        Version::One => "memory.oom_control",
    };
    cgroup::line(&cgroup.read(file)?, "oom_kill")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn both_versions_count() {
        let mounts = tempfile::tempdir().unwrap();
        let counted = || cgroup::below(mounts.path(), "memory", "").iter().find_map(count);
        fs::create_dir(mounts.path().join("memory")).unwrap();
        let old = mounts.path().join("memory/memory.oom_control");
        fs::write(&old, "oom_kill_disable 0\nunder_oom 0\n").unwrap();
        assert_eq!(counted(), None);
        fs::write(&old, "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n").unwrap();
        assert_eq!(counted(), Some(5));
        let new = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n";
        fs::write(mounts.path().join("memory.events"), new).unwrap();
        assert_eq!(counted(), Some(3));
    }
}
