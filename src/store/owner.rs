//! Who owns what root writes into a folder store: whoever owns the folder that it is in.
//!
//! The containers that use a store need not run as root, and one lock or object of root's would keep them out. So root may
//! look after a store from the host. Must only ever give away what this process has just made, by its descriptor: whoever
//! owns the folder can put a link to anything in the place of a name.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Gives what this process has just made in `folder` to its owner, where this process is root. Where root may not, as over NFS,
/// it stays root's.
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
