//! Whether the content of a folder vanishes with the container.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::mounts::{Kind, Mounts};

/// ramfs (linux/magic.h).
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Where an ephemeral folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ephemeral {
    /// On the container's root, beside the files of the container image.
    Layer,
    /// On a tmpfs or ramfs of this container. A memory volume of a pod looks the same.
    Memory,
}

impl fmt::Display for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ephemeral::Layer => "in the container's own file system",
            Ephemeral::Memory => "in memory (a tmpfs)",
        })
    }
}

impl Ephemeral {
    /// None if `folder`, which must exist, is on a volume and so outlives the container.
    pub fn of(folder: &Path) -> io::Result<Option<Self>> {
        let folder = fs::canonicalize(folder)?;
        let kind = Mounts::read()?.kind(&folder);
        Ok(Self::on(kind, statfs(&folder)?.filesystem_type()))
    }

    fn on(kind: Kind, fstype: FsType) -> Option<Self> {
        match kind {
            Kind::Root => Some(Self::Layer),
            Kind::Own if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&fstype) => Some(Self::Memory),
            // An emptyDir outlives a container of its pod; an anonymous volume outlives a stop of its
            // container.
            Kind::Own | Kind::Foreign => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::statfs::{EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC};

    use super::*;

    #[test]
    fn what_is_on_no_volume_is_ephemeral() {
        for (kind, fstype, expected) in [
            (Kind::Root, OVERLAYFS_SUPER_MAGIC, Some(Ephemeral::Layer)),
            (Kind::Root, TMPFS_MAGIC, Some(Ephemeral::Layer)),
            (Kind::Own, TMPFS_MAGIC, Some(Ephemeral::Memory)),
            (Kind::Own, RAMFS_MAGIC, Some(Ephemeral::Memory)),
            (Kind::Own, EXT4_SUPER_MAGIC, None),
            (Kind::Foreign, EXT4_SUPER_MAGIC, None),
            // A folder of the engine's tmpfs.
            (Kind::Foreign, TMPFS_MAGIC, None),
        ] {
            assert_eq!(Ephemeral::on(kind, fstype), expected, "{kind:?} {fstype:?}");
        }
    }

    #[test]
    fn a_link_is_where_it_leads_to() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let elsewhere = tempfile::tempdir_in("/var/tmp").unwrap();
        let link = elsewhere.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert_eq!(Ephemeral::of(&link).unwrap(), Some(Ephemeral::Memory));
        assert_ne!(Ephemeral::of(elsewhere.path()).unwrap(), Some(Ephemeral::Memory));
    }
}
