//! Checks that a generation is complete: each path in CRIU's images is captured, or a new container has it by itself. A
//! new container has the image's files, its mounts, and the devices that the engine makes.
//!
//! Runs while the service is frozen, before the commit. Reads the paths from the images, independent of the capture, so
//! it finds files that the capture has missed.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::capture::Captured;
use super::resolve::{self, Unresolved};
use super::used::{Rules, Used};
use crate::criu::named::Named;
use crate::proc::tree::Process;
use crate::proc::{self, fd, maps};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    #[error(
        "{user} uses {path}, which is no longer there, so it could not be restored; try again, and make sure that nothing else removes the service's files"
    )]
    Gone { user: String, path: PathBuf },
    #[error(
        "{user} uses {path}, which was not captured and which a new container lacks; name it with --include, or keep it on a volume"
    )]
    LeftOut { user: String, path: PathBuf },
}

enum Fault {
    Gone,
    LeftOut,
}

/// Looks for every path that the images name among the captured files, and then here.
pub fn check(
    named: &Named,
    files: &[Captured],
    used: &Used,
    rules: &Rules,
    processes: &[Process],
) -> Result<(), Incomplete> {
    let captured: BTreeSet<&Path> = files.iter().map(|(file, _)| file.path()).collect();
    let folders = named.socket_folders.iter().flat_map(|folder| match resolve::follow(folder) {
        Ok((links, real)) => [links, vec![real]].concat(),
        Err(_) => vec![folder.clone()],
    });
    for path in named.files.iter().cloned().chain(folders).filter(|path| !captured.contains(path.as_path())) {
        let user = || user(&path, processes);
        match fault(&path, used, rules) {
            None => {}
            Some(Fault::Gone) => return Err(Incomplete::Gone { user: user(), path }),
            Some(Fault::LeftOut) => return Err(Incomplete::LeftOut { user: user(), path }),
        }
    }
    Ok(())
}

/// Why a new container would lack the file at `path`, which is not captured.
fn fault(path: &Path, used: &Used, rules: &Rules) -> Option<Fault> {
    let found = resolve::place(path).and_then(|place| Ok(place.metadata()?));
    match found {
        Ok(meta) if path == Path::new("/") || is_device(&meta) => None,
        Ok(meta) => rules.travels(path, &meta, used.is_written(path)).then_some(Fault::LeftOut),
        Err(Unresolved::Io(error)) if is_gone(&error) => Some(Fault::Gone),
        // It is there, and freeze may not look at it, or it is at a path of another mount namespace.
        Err(_) => None,
    }
}

fn is_device(meta: &Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_char_device() || kind.is_block_device()
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// `process 1001 (app)`, if one has the path by its present or former name.
fn user(path: &Path, processes: &[Process]) -> String {
    let is_it = |name: &Path| {
        let name = name.as_os_str().as_bytes();
        name.strip_suffix(b" (deleted)").unwrap_or(name) == path.as_os_str().as_bytes()
    };
    let has_it = |process: &&Process| {
        let link = |name| fs::read_link(proc::path(process.pid, name)).is_ok_and(|target| is_it(&target));
        link("cwd")
            || link("exe")
            || fd::links(process.pid).is_ok_and(|links| links.iter().any(|(_, target)| is_it(target)))
            || maps::read(process.pid).is_ok_and(|maps| maps.iter().filter_map(|one| one.path()).any(is_it))
    };
    match processes.iter().find(has_it) {
        Some(process) => format!("process {}", process.name()),
        None => "the service".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::files::how_used::Use;
    use crate::files::selection::Selection;
    use crate::image::File;

    /// A folder on the root whose files the container has made.
    fn changed() -> (tempfile::TempDir, PathBuf, Rules) {
        let folder = resolve::folder_on_root();
        let top = folder.path().canonicalize().unwrap();
        let mut rules = Rules::of_this_container(std::process::id() as i32, Vec::new(), Selection::default()).unwrap();
        rules.began(SystemTime::now() - Duration::from_secs(3600));
        (folder, top, rules)
    }

    fn files(paths: &[&Path]) -> Named {
        Named { files: paths.iter().map(|path| path.to_path_buf()).collect(), ..Named::default() }
    }

    fn captured(path: &Path) -> Captured {
        (File { path: path.as_os_str().as_bytes().to_vec(), ..File::default() }, None)
    }

    fn of(named: &Named, captured: &[Captured], rules: &Rules) -> Result<(), Incomplete> {
        check(named, captured, &Used::default(), rules, &[])
    }

    fn left_out(path: &Path) -> Result<(), Incomplete> {
        Err(Incomplete::LeftOut { user: "the service".into(), path: path.to_owned() })
    }

    #[test]
    fn what_was_made_here_must_be_captured() {
        let (_folder, top, rules) = changed();
        let [file, below, link, pipe] = ["file", "folder", "link", "pipe"].map(|name| top.join(name));
        fs::write(&file, "").unwrap();
        fs::create_dir(&below).unwrap();
        symlink("file", &link).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [&file, &below, &link, &pipe] {
            assert_eq!(of(&files(&[path]), &[], &rules), left_out(path));
            assert_eq!(of(&files(&[path]), &[captured(path)], &rules), Ok(()));
        }
    }

    #[test]
    fn what_is_gone_is_said_to_be() {
        let (_folder, top, rules) = changed();
        let gone = top.join("gone");
        let said = of(&files(&[&gone]), &[], &rules).unwrap_err();
        assert_eq!(said, Incomplete::Gone { user: "the service".into(), path: gone.clone() });
        assert_eq!(of(&files(&[&gone]), &[captured(&gone)], &rules), Ok(()), "removed after the capture");
        fs::write(top.join("file"), "").unwrap();
        assert!(matches!(of(&files(&[&top.join("file/below")]), &[], &rules), Err(Incomplete::Gone { .. })));
    }

    #[test]
    fn the_folder_of_a_socket_and_the_links_to_it_must_be_captured() {
        let (_folder, top, rules) = changed();
        let [real, link] = ["real", "link"].map(|name| top.join(name));
        fs::create_dir(&real).unwrap();
        symlink("real", &link).unwrap();
        let named = Named { socket_folders: [link.clone()].into(), ..Named::default() };
        assert_eq!(of(&named, &[captured(&link)], &rules), left_out(&real));
        assert_eq!(of(&named, &[captured(&real)], &rules), left_out(&link));
        assert_eq!(of(&named, &[captured(&link), captured(&real)], &rules), Ok(()));
    }

    #[test]
    fn a_new_container_has_the_images_files_devices_and_the_kernels_file_systems() {
        let (_folder, top, mut rules) = changed();
        let file = top.join("file");
        fs::write(&file, "").unwrap();
        for path in ["/", "/dev/null", "/proc/version", "/sys"] {
            assert_eq!(of(&files(&[Path::new(path)]), &[], &rules), Ok(()), "{path}");
        }
        rules.began(SystemTime::now() + Duration::from_secs(3600));
        assert_eq!(of(&files(&[&file]), &[], &rules), Ok(()), "of the image");
        let written = Used([(file.clone(), Use { written: true, ..Use::default() })].into());
        let said = check(&files(&[&file]), &[], &written, &rules, &[]);
        assert_eq!(said, left_out(&file), "a file of the image that is open for writing");
    }

    #[test]
    fn the_process_is_named() {
        let (_folder, top, rules) = changed();
        let path = top.join("file");
        let _open = fs::File::create(&path).unwrap();
        let us = proc::tree::read(std::process::id() as i32).unwrap();
        let said = |path: &Path| check(&files(&[path]), &[], &Used::default(), &rules, std::slice::from_ref(&us));
        let user = format!("process {}", us.name());
        assert_eq!(said(&path), Err(Incomplete::LeftOut { user: user.clone(), path: path.clone() }));
        fs::remove_file(&path).unwrap();
        assert_eq!(said(&path), Err(Incomplete::Gone { user, path: path.clone() }));
    }
}
