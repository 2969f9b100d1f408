//! A folder of our own, closed to others, even below a world-writable one such as /tmp. Never accepts a link,
//! or a folder of another user.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// It cannot be created or inspected.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A file or a symbolic link.
    #[error("it is not a folder")]
    NotAFolder,
    /// Its owner could replace its content.
    #[error("it belongs to user {0}")]
    Foreign(u32),
}

/// Creates the folder if it is missing, and closes it to others.
///
/// # Errors
/// [`NotOurs`]; another user's folder stays as it is.
pub fn prepare(folder: &Path) -> Result<(), NotOurs> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let metadata = fs::symlink_metadata(folder)?;
    let us = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(NotOurs::NotAFolder);
    }
    if metadata.uid() != us {
        return Err(NotOurs::Foreign(metadata.uid()));
    }
    if metadata.mode() & 0o777 != 0o700 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_one_and_an_open_one_of_ours_are_closed_to_others() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        prepare(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        prepare(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
    }

    #[test]
    fn a_link_a_file_and_a_folder_of_another_user_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (link, file) = (parent.path().join("link"), parent.path().join("file"));
        symlink(parent.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        assert!(matches!(prepare(&link), Err(NotOurs::NotAFolder)));
        assert!(matches!(prepare(&file), Err(NotOurs::NotAFolder)));
        // Only root can give a folder away. For other users, /proc is a foreign folder.
        let theirs = parent.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        let given = std::os::unix::fs::chown(&theirs, Some(1000), None).is_ok() && nix::unistd::geteuid().is_root();
        let foreign = if given { &theirs } else { Path::new("/proc") };
        assert!(matches!(prepare(foreign), Err(NotOurs::Foreign(_))));
    }
}
