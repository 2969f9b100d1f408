//! Ownership of what root writes into a folder store: the containing folder's owner gets it.
//!
//! Containers that use a store need not run as root, and one lock or object of root's would keep them out.
//! With this, root can maintain a store from the host. Gives away only what this process has just created,
//! and only by its descriptor, because the folder's owner can replace any name by a link.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Gives a file or folder that this process has just created in `folder` to the owner of `folder`, if this
/// process is root. It remains root's if the file system refuses, as over NFS.
pub(super) fn give(made: &File, folder: &Path) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let folder = folder.metadata()?;
    if folder.uid() != 0 {
        let _ = fchown(made, Some(folder.uid()), Some(folder.gid()));
    }
    Ok(())
}
