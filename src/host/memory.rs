//! How much memory this container may still take: what its memory cgroups (cgroups(7), v2 and v1) leave, as far as the
//! container sees them.
//!
//! [`Headroom`] counts no swap: a service that is swapped out for a checkpoint has lost what the checkpoint is for.

use std::fs;

use super::cgroup::{self, Cgroup, Version, line};

/// Names of one version's files.
struct Names {
    /// The lowest counts. Above memory.high the kernel makes processes wait, frozen or not.
    limits: &'static [&'static str],
    used: &'static str,
    /// Of the lines in memory.stat that count the cgroups below as well.
    prefix: &'static str,
    /// Its lines of cached files that are not written yet.
    dirty: [&'static str; 2],
}

const NAMES_2: Names = Names {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    prefix: "",
    dirty: ["file_dirty", "file_writeback"],
};

const NAMES_1: Names = Names {
    limits: &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    prefix: "total_",
    dirty: ["dirty", "writeback"],
};

/// v1 counts no limit as the largest number of pages.
const UNLIMITED: u64 = 1 << 60;

/// A cgroup with a limit, at one moment. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    pub limit: u64,
    pub used: u64,
    /// Cached files and kernel objects that the kernel drops before it kills. Mapped files are among them: where a
    /// container is the first on its host, 20 MiB may be of freeze itself, and the service stands still.
    clean: u64,
    /// Cached files that it drops after it has written them.
    dirty: u64,
}

impl Headroom {
    /// Of the cgroup that leaves least. None if no limit is seen.
    pub fn now() -> Option<Self> {
        cgroup::visible("memory").iter().filter_map(Self::of).min_by_key(Self::sure)
    }

    fn of(cgroup: &Cgroup) -> Option<Self> {
        let names = match cgroup.version {
            Version::Two => NAMES_2,
            Version::One => NAMES_1,
        };
        let stat = cgroup.read("memory.stat").unwrap_or_default();
        // v1 tells here of the limits above what is visible.
        let above = line(&stat, "hierarchical_memory_limit");
        let limits = names.limits.iter().filter_map(|name| cgroup.number(name)).chain(above);
        let limit = limits.min().filter(|limit| *limit < UNLIMITED)?;
        let of = |lines: &[&str]| -> u64 {
            lines.iter().filter_map(|name| line(&stat, &format!("{}{name}", names.prefix))).sum()
        };
        let files = of(&["inactive_file", "active_file"]);
        let dirty = of(&names.dirty).min(files);
        let clean = files - dirty + of(&["slab_reclaimable"]);
        Some(Self { limit, used: cgroup.number(names.used)?, clean, dirty })
    }

    /// Without any cache.
    #[cfg(test)]
    pub fn with(limit: u64, used: u64) -> Self {
        Self { limit, used, clean: 0, dirty: 0 }
    }

    /// Bytes that can be had at once.
    pub fn sure(&self) -> u64 {
        (self.limit + self.clean).saturating_sub(self.used)
    }

    /// Bytes before the kernel kills.
    pub fn last(&self) -> u64 {
        (self.limit + self.clean + self.dirty).saturating_sub(self.used)
    }
}

/// The lowest limit of this container's cgroups, with the swap that it may use. None for no limit.
pub fn limit_with_swap() -> Option<u64> {
    let free = meminfo("SwapFree").unwrap_or(0);
    cgroup::visible("memory").iter().filter_map(|cgroup| with_swap(cgroup, free)).min()
}

fn with_swap(cgroup: &Cgroup, free: u64) -> Option<u64> {
    let least = |names: &[&str]| names.iter().filter_map(|name| cgroup.number::<u64>(name)).min();
    let limit = match cgroup.version {
        Version::Two => {
            let swap = cgroup.number("memory.swap.max").unwrap_or(u64::MAX);
            least(NAMES_2.limits)?.saturating_add(swap.min(free))
        }
        Version::One => {
            let above = cgroup.read("memory.stat").and_then(|stat| line(&stat, "hierarchical_memory_limit"));
            let limit = least(&NAMES_1.limits[..1])?.min(above.unwrap_or(u64::MAX));
            limit.saturating_add(free).min(least(&NAMES_1.limits[1..]).unwrap_or(u64::MAX))
        }
    };
    Some(limit).filter(|limit| *limit < UNLIMITED)
}

/// Whether the kernel promises memory that it may not have: any mode but 2 of overcommit (proc_sys_vm(5)).
pub fn is_promised_freely() -> bool {
    fs::read_to_string("/proc/sys/vm/overcommit_memory").map_or(true, |mode| mode.trim() != "2")
}

/// A line of /proc/meminfo, in bytes.
pub fn meminfo(name: &str) -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A cgroup of these files.
    fn cgroup(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }

    fn headrooms(mounts: &Path, paths: &str) -> Vec<Headroom> {
        cgroup::below(mounts, "memory", paths).iter().filter_map(Headroom::of).collect()
    }

    fn limits(mounts: &Path, free: u64) -> Vec<u64> {
        cgroup::below(mounts, "memory", "0::/pod").iter().filter_map(|cgroup| with_swap(cgroup, free)).collect()
    }

    #[test]
    fn of_version_2_the_lower_limit_counts_and_clean_files_are_free() {
        let root = tempfile::tempdir().unwrap();
        let stat = "anon 900\ninactive_file 100\nactive_file 50\nfile_mapped 20\nfile_dirty 30\nfile_writeback 5\nslab_reclaimable 7\n";
        let own =
            [("memory.max", "2000\n"), ("memory.high", "1500\n"), ("memory.current", "1200\n"), ("memory.stat", stat)];
        cgroup(root.path(), &own);
        let found = headrooms(root.path(), "0::/\n");
        assert_eq!(found, [Headroom { limit: 1500, used: 1200, clean: 150 - 35 + 7, dirty: 35 }]);
        assert_eq!((found[0].sure(), found[0].last()), (422, 457));
    }

    #[test]
    fn a_level_without_a_limit_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let limited = |max, current| [("memory.max", max), ("memory.current", current)];
        cgroup(&root.path().join("pod/app"), &limited("max\n", "100\n"));
        cgroup(&root.path().join("pod"), &limited("1000\n", "900\n"));
        let found = headrooms(root.path(), "3:cpu:/elsewhere\n0::/pod/app\n");
        assert_eq!(found.iter().map(Headroom::sure).collect::<Vec<_>>(), [100]);
    }

    #[test]
    fn of_version_1_a_limit_above_counts_and_the_largest_number_is_none() {
        let root = tempfile::tempdir().unwrap();
        let memory = root.path().join("memory");
        let limits = |limit| [("memory.limit_in_bytes", limit), ("memory.usage_in_bytes", "600\n")];
        cgroup(&memory, &limits("9223372036854771712\n"));
        assert_eq!(headrooms(root.path(), ""), []);
        let stat = "cache 5\nhierarchical_memory_limit 800\ntotal_inactive_file 40\ntotal_active_file 10\ntotal_dirty 4\ntotal_mapped_file 50\n";
        cgroup(&memory, &[("memory.stat", stat)]);
        assert_eq!(headrooms(root.path(), ""), [Headroom { limit: 800, used: 600, clean: 46, dirty: 4 }]);
        cgroup(&memory, &limits("700\n"));
        assert_eq!(headrooms(root.path(), "")[0].sure(), 146);
    }

    #[test]
    fn without_cgroups_there_is_no_limit() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(headrooms(root.path(), ""), []);
        cgroup(root.path(), &[("memory.max", "?"), ("memory.current", "5")]);
        assert_eq!(headrooms(root.path(), "0::/"), []);
    }

    #[test]
    fn a_restore_may_use_the_lowest_limit_and_the_swap_that_is_free_and_allowed() {
        let root = tempfile::tempdir().unwrap();
        cgroup(&root.path().join("pod"), &[("memory.max", "max"), ("memory.high", "900"), ("memory.swap.max", "50")]);
        cgroup(root.path(), &[("memory.max", "2000")]);
        assert_eq!(limits(root.path(), 70), [950, 2070]);
    }

    #[test]
    fn of_version_1_a_restore_has_the_limit_above_and_that_of_memory_and_swap() {
        let root = tempfile::tempdir().unwrap();
        let memory = root.path().join("memory");
        cgroup(&memory, &[("memory.limit_in_bytes", "9223372036854771712")]);
        assert!(limits(root.path(), 70).is_empty());
        cgroup(&memory, &[("memory.stat", "hierarchical_memory_limit 800\n")]);
        assert_eq!(limits(root.path(), 70), [870]);
        cgroup(&memory, &[("memory.memsw.limit_in_bytes", "820")]);
        assert_eq!(limits(root.path(), 70), [820]);
    }
}
