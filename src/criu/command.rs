//! CRIU's command lines. They are the same in every container, since `--rootless` makes CRIU probe its
//! privileges; only the choice of the executable depends on the container.

use std::ffi::OsString;
use std::io;
use std::iter;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::fail_points;

/// CRIU's logs, in the work folder.
pub const DUMP_LOG: &str = "dump.log";
pub const RESTORE_LOG: &str = "restore.log";

/// Largest deleted but still open file that travels in the CRIU image.
const GHOST_LIMIT: &str = "4G";

/// KiB of a process's own memory from which on it is copied. Less is read as fast.
const COPIED_FROM: u32 = 1024;

/// The criu files in freeze's folder. The second one is optional.
pub const PLAIN: &str = "criu";
pub const WITH_CAPABILITIES: &str = "criu-caps";

/// Which criu file to execute. Both are the same program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criu {
    /// Has freeze's own capabilities.
    Plain,
    /// Has file capabilities.
    WithCapabilities,
}

/// The criu beside this freeze.
pub(super) fn path(criu: Criu) -> io::Result<PathBuf> {
    let name = match criu {
        Criu::Plain => PLAIN,
        Criu::WithCapabilities => WITH_CAPABILITIES,
    };
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// One `--inherit-fd`: CRIU's descriptor `fd` replaces the file that the service knew as `key`, such as
/// `pipe:[4026]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherit {
    pub fd: i32,
    pub key: String,
}

/// A folder that has another name in this container than at the checkpoint. Both paths are absolute, without
/// `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub from: PathBuf,
    pub to: PathBuf,
}

/// Files that criu does not find as they were at the checkpoint.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Folders, or single files, that have another name.
    pub moved: Vec<Moved>,
    /// Files that may have another size (criu/README.md, 0054).
    pub resized: Vec<PathBuf>,
}

/// The name under which criu records a container's System V objects in the IPC namespace, for its next start
/// (criu/README.md, 0027). `id` tells the container from others that share the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemV(String);

impl SystemV {
    pub fn of(id: impl std::fmt::Display) -> Self {
        Self(format!("/freeze-{id}"))
    }

    fn option(&self) -> [OsString; 2] {
        ["--sysv-ipc-record".into(), OsString::from(&self.0)]
    }
}

/// In what one dump differs from another.
#[derive(Debug, Clone, Copy, Default)]
pub struct DumpOptions<'a> {
    /// The files under inotify watches.
    pub watched: &'a [PathBuf],
    /// Without them, the System V objects are none of the tree's.
    pub objects: Option<&'a SystemV>,
    /// Who reads the private memory of large processes.
    pub reader: Reader,
    /// Copies of an earlier dump, which are none of the tree's.
    pub left_out: &'a [i32],
}

/// Who reads the private memory of processes from [`COPIED_FROM`] on, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reader {
    /// CRIU, while they stand still.
    #[default]
    Criu,
    /// CRIU, from copies, after the gate (criu/README.md, 0096).
    CriuFromCopies,
    /// Freeze, where CRIU says that it is (criu/README.md, 0098).
    Freeze,
}

/// Arguments of `criu dump` for the tree below `root`, which waits at the end for the gate `gate`. `external` are CRIU's
/// names of what the engine has given the container.
pub fn dump(root: i32, work: &Path, gate: i32, external: &[String], options: &DumpOptions) -> Vec<OsString> {
    let DumpOptions { watched, objects, reader, left_out } = *options;
    let mut args = common("dump", work, DUMP_LOG);
    args.extend(["-t".into(), root.to_string().into()]);
    args.extend(objects.into_iter().flat_map(|objects| iter::once("--sysv-ipc".into()).chain(objects.option())));
    // A connection that waits for accept is lost, as open ones are. It must not fail the dump.
    args.extend(["--skip-in-flight", "--ghost-limit", GHOST_LIMIT, "--link-remap", "--gate-fd"].map(OsString::from));
    args.push(gate.to_string().into());
    if reader != Reader::Criu {
        args.extend(["--snapshot".into(), fail_points::snapshot().unwrap_or(COPIED_FROM).to_string().into()]);
    }
    args.extend((reader == Reader::Freeze).then(|| "--list-pages".into()));
    args.extend(left_out.iter().flat_map(|copy| ["--leave-out".into(), copy.to_string().into()]));
    args.extend(watched.iter().flat_map(|path| ["--irmap-scan-path".into(), path.into()]));
    args.extend(external.iter().flat_map(|file| ["--external".into(), file.into()]));
    args
}

/// Arguments of `criu restore`. It detaches the tree, so init adopts it once CRIU and the worker have ended.
/// It waits at the end for the gate `gate`. With `shift_clocks` the service's clocks go on where the kernel's are
/// behind, without a time namespace (criu/README.md, 0084).
pub fn restore(
    work: &Path,
    inherit: &[Inherit],
    elsewhere: &Elsewhere,
    gate: i32,
    objects: Option<&SystemV>,
    shift_clocks: bool,
) -> Vec<OsString> {
    let mut args = common("restore", work, RESTORE_LOG);
    args.extend(shift_clocks.then(|| "--shift-clocks".into()));
    args.extend(objects.into_iter().flat_map(SystemV::option));
    // Engines give the root directory different modes: Docker 0755, Podman 0555.
    args.extend(["-d", "--skip-file-rwx-check", "--gate-fd"].map(OsString::from));
    args.push(gate.to_string().into());
    args.extend(elsewhere.resized.iter().flat_map(|path| ["--resized".into(), path.into()]));
    for one in &elsewhere.moved {
        args.extend(["--moved".into(), [one.from.as_os_str(), one.to.as_os_str()].join("/".as_ref())]);
    }
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

#[derive(Debug, thiserror::Error)]
#[error("cannot start CRIU from {path} ({error}); freeze and criu must be in the same folder, as in freeze's image")]
pub struct NotStarted {
    path: PathBuf,
    error: io::Error,
}

impl NotStarted {
    pub(super) fn new(path: PathBuf, error: io::Error) -> Self {
        Self { path, error }
    }
}

/// Fails if there is no criu beside this freeze that can be executed.
pub fn look_for(criu: Criu) -> Result<(), NotStarted> {
    let path = path(criu).map_err(|error| NotStarted { path: PLAIN.into(), error })?;
    let found = nix::unistd::access(&path, nix::unistd::AccessFlags::X_OK);
    found.map_err(|error| NotStarted { path, error: error.into() })
}

/// The number of `fd` in this process, and in a criu that inherits it.
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
        let (watched, objects) = (["/app".into()], SystemV::of("ab"));
        let options =
            DumpOptions { watched: &watched, objects: Some(&objects), reader: Reader::Freeze, left_out: &[2000] };
        insta::assert_snapshot!(text(dump(1000, Path::new("/run/freeze/w"), 7, &["file[1a:7b]".into()], &options)), @"dump --no-default-config --unprivileged --rootless --stream -v2 -o dump.log -D /run/freeze/w --file-locks --tcp-close -t 1000 --sysv-ipc --sysv-ipc-record /freeze-ab --skip-in-flight --ghost-limit 4G --link-remap --gate-fd 7 --snapshot 1024 --list-pages --leave-out 2000 --irmap-scan-path /app --external file[1a:7b]");
    }

    #[test]
    fn restore_line() {
        let inherit = [Inherit { fd: 1, key: "pipe:[12]".into() }, Inherit { fd: 2, key: "pipe:[13]".into() }];
        let moved = vec![Moved { from: "/v/1".into(), to: "/v/2".into() }];
        let elsewhere = Elsewhere { moved, resized: vec!["/v/log".into()] };
        insta::assert_snapshot!(text(restore(Path::new("/w"), &inherit, &elsewhere, 7, Some(&SystemV::of("ab")), true)), @"restore --no-default-config --unprivileged --rootless --stream -v2 -o restore.log -D /w --file-locks --tcp-close --shift-clocks --sysv-ipc-record /freeze-ab -d --skip-file-rwx-check --gate-fd 7 --resized /v/log --moved /v/1//v/2 --inherit-fd fd[1]:pipe:[12] --inherit-fd fd[2]:pipe:[13]");
    }
}
