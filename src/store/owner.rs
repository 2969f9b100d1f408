//! Who owns what root writes into a folder store: whoever owns the folder that it is in.
//!
//! The containers that use a store need not run as root, and one lock or object of root's would keep them out. So root may
//! look after a store from the host.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

/// Gives a new file or folder to the owner of the folder that it is in, where this process is root. Where root may not, as
/// over NFS, it stays root's.
pub(super) fn give(path: &Path) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path).metadata()?;
    if folder.uid() != 0 {
        let _ = chown(path, Some(folder.uid()), Some(folder.gid()));
    }
    Ok(())
}
