//! Whether the kernel kills processes of this container for lack of memory: the count of its memory cgroup.

use std::fs;

/// Of cgroup v2 and v1.
const COUNTS: [&str; 2] = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];

/// The count at one moment. None if this container does not see it.
#[derive(Debug, Clone, Copy)]
pub struct OomKills(Option<u64>);

impl OomKills {
    pub fn now() -> Self {
        Self(COUNTS.iter().find_map(|file| count(&fs::read_to_string(file).ok()?)))
    }

    /// Whether there was one since that moment.
    pub fn since(self) -> Option<bool> {
        let (before, now) = (self.0?, Self::now().0?);
        Some(now > before)
    }
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_cgroup_count() {
        assert_eq!(count("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"), Some(3));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"), Some(5));
        assert_eq!(count("oom_kill_disable 0\n"), None);
    }
}
