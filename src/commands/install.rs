//! `freeze install`: copies freeze, its criu and Docker's seccomp profile into a folder, such as a volume
//! that an application's container mounts at `/opt/freeze`. So freeze's container image needs no shell and no
//! `cp`. Never leaves half a program under its name.
//!
//! Does not copy `criu-caps`: a copy by an ordinary user loses file capabilities.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::say;
use crate::criu::command;
use crate::doctor::seccomp;
use crate::exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to: a folder, created if it is missing. Programs of an earlier version are replaced
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("cannot create the folder {} ({error}). Mount a volume there that uid {uid} can write to", folder.display())]
    Folder { folder: PathBuf, error: io::Error, uid: u32 },
    #[error("cannot copy {} to {} ({error}). Free space there, or give uid {uid} write permission", from.display(), to.display())]
    Copy { from: PathBuf, to: PathBuf, error: io::Error, uid: u32 },
    #[error("cannot find freeze's own folder ({0}). Mount /proc, or copy the programs by hand")]
    Nowhere(io::Error),
}

pub fn main(arguments: &Arguments) -> u8 {
    let from = std::env::current_exe().map_err(InstallError::Nowhere);
    match from.and_then(|freeze| install(&freeze, &arguments.folder)) {
        Ok(()) => exit::OK,
        Err(error) => {
            say(&error.to_string());
            exit::FAILED
        }
    }
}

fn install(freeze: &Path, folder: &Path) -> Result<(), InstallError> {
    let uid = nix::unistd::geteuid().as_raw();
    fs::create_dir_all(folder).map_err(|error| InstallError::Folder { folder: folder.to_owned(), error, uid })?;
    // freeze comes last: once it is there, so are the others.
    let (criu, profile) = (freeze.with_file_name(command::PLAIN), freeze.with_file_name(seccomp::DOCKER));
    for (from, name, mode) in
        [(criu, command::PLAIN, 0o755), (profile, seccomp::DOCKER, 0o644), (freeze.to_owned(), "freeze", 0o755)]
    {
        // Only the doctor needs the profile, and it names the missing file.
        if name == seccomp::DOCKER && !from.exists() {
            continue;
        }
        let to = folder.join(name);
        copy(&from, folder, &to, mode).map_err(|error| InstallError::Copy { from, to, error, uid })?;
    }
    Ok(())
}

/// Replaces `to` atomically: a running program cannot be written to, and an init container may run twice.
/// Keeps an identical file, as containers may be executing it.
fn copy(from: &Path, folder: &Path, to: &Path, mode: u32) -> io::Result<()> {
    if is_same(from, to, mode).unwrap_or(false) {
        return Ok(());
    }
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(&mut fs::File::open(from)?, file.as_file_mut())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(to)?;
    Ok(())
}

/// Whether `to` already has these bytes and this mode.
fn is_same(from: &Path, to: &Path, mode: u32) -> io::Result<bool> {
    let (mut from, mut to) = (fs::File::open(from)?, fs::File::open(to)?);
    if from.metadata()?.len() != to.metadata()?.len() || to.metadata()?.permissions().mode() & 0o7777 != mode {
        return Ok(false);
    }
    let (mut here, mut there) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = from.read(&mut here)?;
        if read == 0 {
            return Ok(true);
        }
        to.read_exact(&mut there[..read])?;
        if here[..read] != there[..read] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn programs(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(folder.path().join(name), name).unwrap());
        folder
    }

    fn found(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_there_is_replaced_and_can_be_executed() {
        let (source, target) = (programs(&["freeze", "criu", "docker-seccomp.json"]), tempfile::tempdir().unwrap());
        let folder = target.path().join("opt/freeze");
        install(&source.path().join("freeze"), &folder).unwrap();
        fs::write(folder.join("criu"), "old").unwrap();
        install(&source.path().join("freeze"), &folder).unwrap();
        assert_eq!(found(&folder), ["criu", "docker-seccomp.json", "freeze"]);
        assert_eq!(fs::read(folder.join("criu")).unwrap(), b"criu");
        let mode = |name: &String| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found(&folder).iter().map(mode).collect::<Vec<_>>(), [0o755, 0o644, 0o755]);
    }

    #[test]
    fn what_is_the_same_stays_the_very_file() {
        let (source, target) = (programs(&["freeze", "criu"]), tempfile::tempdir().unwrap());
        let inodes = || ["criu", "freeze"].map(|name| fs::metadata(target.path().join(name)).unwrap().ino());
        install(&source.path().join("freeze"), target.path()).unwrap();
        let before = inodes();
        install(&source.path().join("freeze"), target.path()).unwrap();
        assert_eq!(inodes(), before);
        fs::write(source.path().join("criu"), "next").unwrap();
        install(&source.path().join("freeze"), target.path()).unwrap();
        assert_ne!(inodes()[0], before[0]);
        assert_eq!(inodes()[1], before[1]);
        assert_eq!(fs::read(target.path().join("criu")).unwrap(), b"next");
    }

    #[test]
    fn without_criu_there_is_no_freeze_either() {
        let (source, target) = (programs(&["freeze"]), tempfile::tempdir().unwrap());
        let error = install(&source.path().join("freeze"), target.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot copy ") && error.contains("/criu to "), "{error}");
        assert!(found(target.path()).is_empty());
        let file = source.path().join("freeze/below");
        let error = install(&source.path().join("freeze"), &file).unwrap_err().to_string();
        assert!(error.starts_with("cannot create the folder "), "{error}");
    }
}
