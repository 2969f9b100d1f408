//! CRIU's command lines. What a container allows is CRIU's to find out (`--rootless`), so these are the same everywhere; only which
//! file is executed depends on it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde::Serialize;

use crate::sys::fd;

/// Name of CRIU's log of a dump, in the work folder.
pub const DUMP_LOG: &str = "dump.log";
/// Name of CRIU's log of a restore, in the work folder.
pub const RESTORE_LOG: &str = "restore.log";

/// Deleted files that are still open travel in the image; up to this size each.
const GHOST_LIMIT: &str = "4G";

/// Name of the criu that has what freeze has, in freeze's folder.
pub const PLAIN: &str = "criu";
/// Name of the criu that has capabilities by its file, if it is there.
pub const WITH_CAPABILITIES: &str = "criu-caps";

/// Which of the two criu files is executed. They are the same program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criu {
    /// The one that has what freeze has.
    Plain,
    /// The one with capabilities of its file.
    WithCapabilities,
}

/// A criu that belongs to this freeze: a file beside it.
fn path(criu: Criu) -> io::Result<PathBuf> {
    let name = match criu {
        Criu::Plain => PLAIN,
        Criu::WithCapabilities => WITH_CAPABILITIES,
    };
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// One `--inherit-fd`: CRIU's descriptor `fd` takes the place of what the service knew as `key`, such as `pipe:[4026]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherit {
    /// Descriptor number in the criu process.
    pub fd: i32,
    /// CRIU's name of the file.
    pub key: String,
}

/// Arguments of `criu dump` for the tree below `root`, held at the end until `hold` says what becomes of the tasks.
/// `watched` are the files that its tasks watch by inotify, `outside` CRIU's names of those that are on none of the container's mounts.
pub fn dump(root: i32, work: &Path, hold: i32, watched: &[PathBuf], outside: &[String]) -> Vec<OsString> {
    let mut args = common("dump", work, DUMP_LOG);
    args.extend(["-t".into(), root.to_string().into()]);
    // A connection that waits to be accepted is lost, as the open ones are; it must not spoil the dump.
    args.extend(["--skip-in-flight", "--ghost-limit", GHOST_LIMIT, "--link-remap", "--hold-fd"].map(OsString::from));
    args.push(hold.to_string().into());
    args.extend(watched.iter().flat_map(|path| ["--irmap-scan-path".into(), path.into()]));
    args.extend(outside.iter().flat_map(|file| ["--external".into(), file.into()]));
    args
}

/// Arguments of `criu restore`: detached, so that the tree is init's once CRIU and the worker have ended, and held at the end until
/// `hold` says that the tasks may run.
pub fn restore(work: &Path, inherit: &[Inherit], hold: i32) -> Vec<OsString> {
    let mut args = common("restore", work, RESTORE_LOG);
    // Engines give the root directory different modes: Docker 0755, Podman 0555.
    args.extend(["-d", "--skip-file-rwx-check", "--hold-fd"].map(OsString::from));
    args.push(hold.to_string().into());
    for one in inherit {
        args.extend(["--inherit-fd".into(), format!("fd[{}]:{}", one.fd, one.key).into()]);
    }
    args
}

fn common(verb: &str, work: &Path, log: &str) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        [verb, "--no-default-config", "--unprivileged", "--rootless", "--stream", "-v2", "-o", log, "-D"]
            .map(OsString::from)
            .into();
    args.push(work.into());
    args.extend(["--file-locks", "--tcp-close"].map(OsString::from));
    args
}

/// No criu beside freeze, or not one that can be executed.
#[derive(Debug, thiserror::Error)]
#[error("CRIU cannot be started from {path} ({error}); freeze and criu must lie in one folder, as in freeze's image")]
pub struct NotStarted {
    path: PathBuf,
    error: io::Error,
}

/// Whether a criu that belongs to this freeze could be started.
///
/// # Errors
/// [`NotStarted`].
pub fn look_for(criu: Criu) -> Result<(), NotStarted> {
    let path = path(criu).map_err(|error| NotStarted { path: PLAIN.into(), error })?;
    let found = nix::unistd::access(&path, nix::unistd::AccessFlags::X_OK);
    found.map_err(|error| NotStarted { path, error: error.into() })
}

/// Starts the criu that belongs to this freeze, with the worker's stdio and the descriptors `keep` beside it. `prepare` says in whose
/// time it lives.
///
/// # Errors
/// [`NotStarted`].
pub fn spawn(
    criu: Criu,
    args: &[OsString],
    keep: &[BorrowedFd],
    prepare: impl FnOnce(&mut Command),
) -> Result<Child, NotStarted> {
    let path = path(criu).map_err(|error| NotStarted { path: PLAIN.into(), error })?;
    execute(&path, args, keep, prepare).map_err(|error| NotStarted { path, error })
}

fn execute(
    criu: &Path,
    args: &[OsString],
    keep: &[BorrowedFd],
    prepare: impl FnOnce(&mut Command),
) -> io::Result<Child> {
    for fd in keep {
        fd::inherit(*fd)?;
    }
    let mut command = Command::new(criu);
    command.args(args).env_clear().current_dir("/");
    prepare(&mut command);
    let child = command.spawn();
    for fd in keep {
        fd::keep_from_exec(*fd)?;
    }
    child
}

/// The number that `fd` has in this process, and so in a criu that it is passed to.
pub fn number(fd: BorrowedFd) -> i32 {
    fd.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(args: Vec<OsString>) -> String {
        args.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn dump_line() {
        insta::assert_snapshot!(text(dump(1000, Path::new("/run/freeze/w"), 7, &["/app".into()], &["file[1a:7b]".into()])), @"dump --no-default-config --unprivileged --rootless --stream -v2 -o dump.log -D /run/freeze/w --file-locks --tcp-close -t 1000 --skip-in-flight --ghost-limit 4G --link-remap --hold-fd 7 --irmap-scan-path /app --external file[1a:7b]");
    }

    #[test]
    fn restore_line() {
        let inherit = [Inherit { fd: 1, key: "pipe:[12]".into() }, Inherit { fd: 2, key: "pipe:[13]".into() }];
        insta::assert_snapshot!(text(restore(Path::new("/w"), &inherit, 7)), @"restore --no-default-config --unprivileged --rootless --stream -v2 -o restore.log -D /w --file-locks --tcp-close -d --skip-file-rwx-check --hold-fd 7 --inherit-fd fd[1]:pipe:[12] --inherit-fd fd[2]:pipe:[13]");
    }
}
