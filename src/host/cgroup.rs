//! The cgroups that limit this container (cgroups(7)): where their files are, as far as the container sees them.
//!
//! A limit of any level counts, so each level that is visible is looked at: the process's own cgroup first, then those
//! above it.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Two,
    One,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    pub version: Version,
    folder: PathBuf,
}

/// This process's cgroups of `controller`, and those above. A cgroup of version 2 may lack the controller, and its files.
pub fn visible(controller: &str) -> Vec<Cgroup> {
    let paths = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    below(Path::new("/sys/fs/cgroup"), controller, &paths)
}

/// The same where the hierarchies are mounted at `mounts`, and this process has `paths`.
pub fn below(mounts: &Path, controller: &str, paths: &str) -> Vec<Cgroup> {
    let levels = |version, root: PathBuf, controllers: &str| -> Vec<Cgroup> {
        // In a cgroup namespace, and below a runtime's bind mount, the root is the process's own.
        let own = Some(root.join(path(paths, controllers))).filter(|own| own.is_dir()).unwrap_or_else(|| root.clone());
        let folders = own.ancestors().take_while(|folder| folder.starts_with(&root));
        folders.map(|folder| Cgroup { version, folder: folder.to_owned() }).collect()
    };
    [levels(Version::Two, mounts.into(), ""), levels(Version::One, mounts.join(controller), controller)].concat()
}

/// The path of the line that names this controller; that of version 2 names none.
fn path<'a>(paths: &'a str, controller: &str) -> &'a str {
    let of_line = |line: &'a str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|one| one == controller).then(|| path.trim_start_matches('/'))
    };
    paths.lines().find_map(of_line).unwrap_or_default()
}

impl Cgroup {
    pub fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    /// None for no number, such as `max`.
    pub fn number<T: FromStr>(&self, file: &str) -> Option<T> {
        self.read(file)?.trim().parse().ok()
    }
}

/// The number behind `name` in a file with a name and a number in each line.
pub fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers in `max` of all cgroups that are found.
    fn found(mounts: &Path, paths: &str) -> Vec<(Version, u64)> {
        let all = below(mounts, "pids", paths).into_iter();
        all.filter_map(|cgroup| Some((cgroup.version, cgroup.number("max")?))).collect()
    }

    fn cgroup(folder: &Path, max: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("max"), max).unwrap();
    }

    #[test]
    fn each_visible_level_is_found_the_own_first() {
        let mounts = tempfile::tempdir().unwrap();
        cgroup(&mounts.path().join("pod/app"), "1\n");
        cgroup(&mounts.path().join("pod"), "2\n");
        cgroup(&mounts.path().join("pids/a/b"), "3\n");
        cgroup(&mounts.path().join("pids/a"), "max\n");
        let paths = "7:cpu,pids:/a/b\n3:memory:/elsewhere\n0::/pod/app\n";
        assert_eq!(found(mounts.path(), paths), [(Version::Two, 1), (Version::Two, 2), (Version::One, 3)]);
    }

    /// The path is the host's, where a runtime has mounted the container's own cgroup as the root.
    #[test]
    fn a_path_that_is_not_visible_is_the_root() {
        let mounts = tempfile::tempdir().unwrap();
        cgroup(&mounts.path().join("pids"), "4\n");
        assert_eq!(found(mounts.path(), "7:pids:/docker/1234\n0::/\n"), [(Version::One, 4)]);
        assert_eq!(found(mounts.path(), ""), [(Version::One, 4)]);
    }

    #[test]
    fn a_line_is_found_by_its_whole_name() {
        let text = "oom 2\noom_kill 3\noom_group_kill 0\n";
        assert_eq!([line(text, "oom_kill"), line(text, "oom"), line(text, "max")], [Some(3), Some(2), None]);
    }
}
