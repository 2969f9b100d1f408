//! How much memory this container may still take: what its memory cgroups (cgroups(7), v2 and v1) leave, as far as the
//! container sees them.
//!
//! [`Headroom`] counts no swap: a service that is swapped out for a checkpoint has lost what the checkpoint is for.

use std::fs;
use std::path::{Path, PathBuf};

/// Names of one version's files.
struct Version {
    /// Mount point of the hierarchy in a container.
    root: &'static str,
    /// The field of its line in /proc/self/cgroup that names its controllers.
    controllers: &'static str,
    /// The lowest counts. Above memory.high the kernel makes processes wait, frozen or not.
    limits: &'static [&'static str],
    used: &'static str,
    /// Of the lines in memory.stat that count the cgroups below as well.
    prefix: &'static str,
    /// Its lines of cached files that are not written yet, and of mapped ones.
    dirty: [&'static str; 2],
    mapped: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        root: "/sys/fs/cgroup",
        controllers: "",
        limits: &["memory.max", "memory.high"],
        used: "memory.current",
        prefix: "",
        dirty: ["file_dirty", "file_writeback"],
        mapped: "file_mapped",
    },
    Version {
        root: "/sys/fs/cgroup/memory",
        controllers: "memory",
        limits: &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
        used: "memory.usage_in_bytes",
        prefix: "total_",
        dirty: ["dirty", "writeback"],
        mapped: "mapped_file",
    },
];

/// v1 counts no limit as the largest number of pages.
const UNLIMITED: u64 = 1 << 60;

/// A cgroup with a limit, at one moment. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    pub limit: u64,
    pub used: u64,
    /// Cached files and kernel objects that the kernel drops before it kills.
    clean: u64,
    /// Cached files that it drops after it has written them.
    dirty: u64,
}

impl Headroom {
    /// Of the cgroup that leaves least. None if no limit is seen.
    pub fn now() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        VERSIONS.iter().flat_map(|version| version.headrooms(Path::new(version.root), &cgroups)).min_by_key(Self::sure)
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

impl Version {
    /// Of this process's cgroup, and of each above it that is visible. In a cgroup namespace, and below a runtime's
    /// bind mount, the root is the process's own.
    fn headrooms(&self, root: &Path, cgroups: &str) -> Vec<Headroom> {
        let own = root.join(self.path(cgroups).unwrap_or_default());
        let own: &Path = if own.join(self.used).exists() { &own } else { root };
        own.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(|folder| self.read(folder)).collect()
    }

    fn path(&self, cgroups: &str) -> Option<PathBuf> {
        cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let ours = controllers.split(',').any(|controller| controller == self.controllers);
            ours.then(|| path.trim_start_matches('/').into())
        })
    }

    fn read(&self, folder: &Path) -> Option<Headroom> {
        let number = |name: &&str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        // v1 tells here of the limits above what is visible.
        let above = line(&stat, "hierarchical_memory_limit");
        let limit = self.limits.iter().filter_map(number).chain(above).min().filter(|limit| *limit < UNLIMITED)?;
        let of = |names: &[&str]| -> u64 {
            names.iter().filter_map(|name| line(&stat, &format!("{}{name}", self.prefix))).sum()
        };
        let files = of(&["inactive_file", "active_file"]);
        let dirty = of(&self.dirty).min(files);
        // A mapped file is in use: it would be read again at once.
        let mapped = of(&[self.mapped]);
        let clean = (files - dirty).saturating_sub(mapped) + of(&["slab_reclaimable"]);
        Some(Headroom { limit, used: number(&self.used)?, clean, dirty })
    }
}

/// The limit of this container's cgroup, of v2 or v1, with the swap that it may use. None for no limit.
pub fn limit_with_swap() -> Option<u64> {
    let number = |name: &str| fs::read_to_string(name).ok()?.trim().parse::<u64>().ok();
    let free = meminfo("SwapFree").unwrap_or(0);
    if let Some(limit) = number("/sys/fs/cgroup/memory.max") {
        let swap = number("/sys/fs/cgroup/memory.swap.max").unwrap_or(u64::MAX);
        return Some(limit.saturating_add(swap.min(free)));
    }
    let limit = number("/sys/fs/cgroup/memory/memory.limit_in_bytes")?;
    let both = number("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").unwrap_or(u64::MAX);
    Some(limit.saturating_add(free).min(both))
}

/// A line of /proc/meminfo, in bytes.
pub fn meminfo(name: &str) -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

fn line(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &Version = &VERSIONS[0];
    const V1: &Version = &VERSIONS[1];

    /// A cgroup of these files.
    fn cgroup(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }

    #[test]
    fn of_version_2_the_lower_limit_counts_and_what_is_in_use_is_not_free() {
        let root = tempfile::tempdir().unwrap();
        let stat = "anon 900\ninactive_file 100\nactive_file 50\nfile_mapped 20\nfile_dirty 30\nfile_writeback 5\nslab_reclaimable 7\n";
        let own =
            [("memory.max", "2000\n"), ("memory.high", "1500\n"), ("memory.current", "1200\n"), ("memory.stat", stat)];
        cgroup(root.path(), &own);
        let found = V2.headrooms(root.path(), "0::/\n");
        assert_eq!(found, [Headroom { limit: 1500, used: 1200, clean: 150 - 35 - 20 + 7, dirty: 35 }]);
        assert_eq!((found[0].sure(), found[0].last()), (402, 437));
    }

    #[test]
    fn each_visible_cgroup_counts() {
        let root = tempfile::tempdir().unwrap();
        let limited = |max, current| [("memory.max", max), ("memory.current", current)];
        cgroup(&root.path().join("pod/app"), &limited("max\n", "100\n"));
        cgroup(&root.path().join("pod"), &limited("1000\n", "900\n"));
        let found = V2.headrooms(root.path(), "3:cpu:/elsewhere\n0::/pod/app\n");
        assert_eq!(found.iter().map(Headroom::sure).collect::<Vec<_>>(), [100]);
    }

    #[test]
    fn of_version_1_a_limit_above_counts_and_the_largest_number_is_none() {
        let root = tempfile::tempdir().unwrap();
        let limits = |limit| [("memory.limit_in_bytes", limit), ("memory.usage_in_bytes", "600\n")];
        cgroup(root.path(), &limits("9223372036854771712\n"));
        // The path is the host's, where a runtime has mounted the container's own cgroup as the root.
        let cgroups = "5:memory:/docker/1234\n";
        assert_eq!(V1.headrooms(root.path(), cgroups), []);
        let stat = "cache 5\nhierarchical_memory_limit 800\ntotal_inactive_file 40\ntotal_active_file 10\ntotal_dirty 4\ntotal_mapped_file 1\n";
        cgroup(root.path(), &[("memory.stat", stat)]);
        assert_eq!(V1.headrooms(root.path(), cgroups), [Headroom { limit: 800, used: 600, clean: 45, dirty: 4 }]);
        cgroup(root.path(), &limits("700\n"));
        assert_eq!(V1.headrooms(root.path(), cgroups)[0].sure(), 145);
    }

    #[test]
    fn without_cgroups_there_is_no_limit() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(V2.headrooms(root.path(), ""), []);
        cgroup(root.path(), &[("memory.max", "?"), ("memory.current", "5")]);
        assert_eq!(V2.headrooms(root.path(), "0::/"), []);
    }
}
