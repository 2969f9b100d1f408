//! Finds a folder for the control socket and listens there. The folder has mode 0700 and the socket 0600.

use std::{
    fs, io,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use super::protocol::SOCKET_NAME;
use crate::sys::private_folder::{self, NotOurs};

/// Folders to try in this order, if none is named.
pub const DEFAULTS: [&str; 3] = ["/run/freeze", "/dev/shm/freeze", "/tmp/freeze"];

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{0} cannot hold the control socket: {1}")]
    Unusable(PathBuf, Reason),
    #[error("no folder can hold the control socket ({0}): set --runtime-dir to a folder that this user can write to")]
    NoneUsable(String),
}

/// Why a folder cannot hold the socket.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("{0}")]
    Folder(#[from] NotOurs),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A process accepts connections on the existing socket.
    #[error("another freeze init uses it")]
    InUse,
}

/// Listens in `named`, or else in the first usable folder of [`DEFAULTS`]. The listener is non-blocking.
///
/// # Errors
/// `named` is unusable, or every default is.
pub fn listen(named: Option<&Path>) -> Result<(PathBuf, UnixListener), FolderError> {
    if let Some(folder) = named {
        let listener = listen_in(folder).map_err(|reason| FolderError::Unusable(folder.to_owned(), reason))?;
        return Ok((folder.to_owned(), listener));
    }
    let mut reasons = Vec::new();
    for folder in DEFAULTS {
        match listen_in(Path::new(folder)) {
            Ok(listener) => return Ok((folder.into(), listener)),
            Err(reason) => reasons.push(format!("{folder}: {reason}")),
        }
    }
    Err(FolderError::NoneUsable(reasons.join("; ")))
}

fn listen_in(folder: &Path) -> Result<UnixListener, Reason> {
    private_folder::prepare(folder)?;
    let path = folder.join(SOCKET_NAME);
    let listener = match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(&path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(&path)?,
                _ => return Err(Reason::InUse),
            }
            UnixListener::bind(&path)?
        }
        other => other?,
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn folder_and_socket_are_for_their_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        let _listener = listen_in(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&folder.join(SOCKET_NAME))), (0o700, 0o600));
    }

    #[test]
    fn an_open_folder_of_ours_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        listen_in(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o700);
    }

    #[test]
    fn a_link_is_no_folder() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(matches!(listen_in(&link), Err(Reason::Folder(NotOurs::NotAFolder))));
    }

    #[test]
    fn the_socket_of_a_dead_init_is_replaced_and_that_of_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = listen_in(folder.path()).unwrap();
        assert!(matches!(listen_in(folder.path()), Err(Reason::InUse)));
        drop(first);
        listen_in(folder.path()).unwrap();
    }
}
