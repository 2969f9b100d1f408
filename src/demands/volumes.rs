//! Files on volumes that the service has open. They stay where they are, so the next container must let its user open
//! them as the service did.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{AccessFlags, eaccess, geteuid};

use crate::files::mounts::{Kind, Mounts};
use crate::files::swapped;
use crate::image::{Manifest, Opened};
use crate::proc::fd::Descriptor;
use crate::proc::fdinfo::FdInfo;

/// Most files that are recorded, so that a target can be asked in one word.
const LIMIT: usize = 256;
/// The kernel's file systems are in every container.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The files on volumes among the descriptors of each process, by their present names.
pub fn opened(open: &[(i32, &[Descriptor])]) -> Vec<Opened> {
    let Ok(mounts) = Mounts::read() else { return Vec::new() };
    let all = open.iter().flat_map(|(pid, all)| all.iter().map(move |one| (*pid, one)));
    let mut found: Vec<(PathBuf, Opened)> = all.filter_map(|(pid, one)| on_volume(pid, one, &mounts)).collect();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found.dedup_by(|(path, again), (kept, file)| {
        file.read |= again.read && path == kept;
        file.write |= again.write && path == kept;
        path == kept
    });
    found.truncate(LIMIT);
    // The folder may have another name there, where the same link leads to it.
    let links = swapped::links(found.iter().map(|(path, _)| path), &mounts);
    let named = |path: PathBuf| {
        let by_link = links.iter().find_map(|link| {
            let rest = path.strip_prefix(OsStr::from_bytes(&link.folder)).ok()?;
            Some(Path::new(OsStr::from_bytes(&link.link)).join(rest))
        });
        by_link.unwrap_or(path).into_os_string().into_vec()
    };
    found.into_iter().map(|(path, file)| Opened { path: named(path), ..file }).collect()
}

fn on_volume(pid: i32, descriptor: &Descriptor, mounts: &Mounts) -> Option<(PathBuf, Opened)> {
    let path = Path::new(&descriptor.target);
    if !path.is_absolute() || KERNELS.iter().any(|kernel| path.starts_with(kernel)) {
        return None;
    }
    let is_file = [libc::S_IFREG, libc::S_IFDIR, libc::S_IFIFO].contains(&(descriptor.mode & libc::S_IFMT));
    let meta = fs::symlink_metadata(path).ok()?;
    // The name may be of another mount namespace, or of a file that has taken its place.
    let is_here = descriptor.inode == Some(meta.ino()) && descriptor.device == meta.dev();
    if !(is_file && is_here && mounts.kind(path) == Kind::Foreign) {
        return None;
    }
    let flags = FdInfo::read(pid, descriptor.fd).ok()?.flags;
    let mode = flags & libc::O_ACCMODE;
    let opens = flags & libc::O_PATH == 0;
    let file =
        Opened { read: opens && mode != libc::O_WRONLY, write: opens && mode != libc::O_RDONLY, ..Opened::default() };
    Some((path.to_owned(), file))
}

/// Leaves out what travels all the same (`--include`). What is compared with the volume may be absent: then that has
/// changed since.
pub fn with(files: Vec<Opened>, manifest: &Manifest) -> Vec<Opened> {
    let travels = |file: &Opened| manifest.files.iter().any(|other| other.path == file.path);
    let is_compared = |file: &Opened| manifest.volume_files.iter().any(|other| other.path == file.path);
    let stays = files.into_iter().filter(|file| !travels(file));
    stays.map(|file| Opened { may_be_absent: is_compared(&file), ..file }).collect()
}

/// Why this user cannot open the file as the service had it open. The owner may give himself the right for a moment, as
/// CRIU does.
pub fn refusal(file: &Opened) -> Option<String> {
    let path = file.path();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(_) if file.may_be_absent => return None,
        Err(error) => return Some(format!("cannot be found here ({error})")),
    };
    let right = |is_needed, right| if is_needed { right } else { AccessFlags::empty() };
    let needed = right(file.read, AccessFlags::R_OK) | right(file.write, AccessFlags::W_OK);
    match eaccess(path, needed | AccessFlags::F_OK) {
        Ok(()) => None,
        Err(Errno::EACCES) if meta.uid() == geteuid().as_raw() => None,
        Err(errno) if file.write => Some(format!("may not be written here ({})", errno.desc())),
        Err(errno) => Some(format!("may not be read here ({})", errno.desc())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::image::{File, VolumeFile};

    fn file(path: &Path) -> Opened {
        Opened { path: path.as_os_str().as_bytes().to_vec(), read: true, write: true, ..Opened::default() }
    }

    #[test]
    fn a_file_must_be_there_unless_its_absence_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(refusal(&file(&path)).unwrap().starts_with("cannot be found here (No such file"));
        assert_eq!(refusal(&Opened { may_be_absent: true, ..file(&path) }), None);
        fs::write(&path, "").unwrap();
        assert_eq!(refusal(&file(&path)), None);
    }

    #[test]
    fn its_owner_may_open_it_whatever_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(refusal(&file(&path)), None);
    }

    #[test]
    fn what_travels_is_left_out_and_what_is_compared_may_be_absent() {
        let [travels, compared, read] = ["/v/1", "/v/2", "/v/3"].map(|path| file(Path::new(path)));
        let manifest = Manifest {
            files: vec![File { path: travels.path.clone(), ..File::default() }],
            volume_files: vec![VolumeFile { path: compared.path.clone(), ..VolumeFile::default() }],
            ..Manifest::default()
        };
        let expected = vec![Opened { may_be_absent: true, ..compared.clone() }, read.clone()];
        assert_eq!(with(vec![travels, compared, read], &manifest), expected);
    }
}
