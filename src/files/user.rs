//! What the user of the container, whom freeze and the service run as, can change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::libc::S_ISVTX;
use nix::unistd::{AccessFlags, eaccess, geteuid};

use crate::proc::status::Status;
use crate::proc::tree::Process;

/// Write permission of others than the owner.
const WRITABLE: u32 = 0o022;

#[derive(Debug, Clone, Copy)]
pub struct User {
    pub uid: u32,
    /// Permissions do not bind it.
    pub is_free: bool,
}

impl User {
    pub fn ours() -> Self {
        let is_free = caps::has_cap(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE).unwrap_or(false);
        Self { uid: geteuid().as_raw(), is_free }
    }

    /// The user of one of the processes whose own files are out of reach.
    pub fn does_not_reach(&self, processes: &[Process]) -> Option<u32> {
        let mut users = processes.iter().filter_map(|process| Status::read(process.pid).ok()?.uid);
        users.find(|uid| !self.is_free && *uid != self.uid)
    }

    pub fn owns(&self, meta: &Metadata) -> bool {
        self.is_free || meta.uid() == self.uid
    }

    /// Whether the user may be able to change a file, or the names in a folder. The group's permission stands for
    /// those of an access control list, too.
    pub fn may_change(&self, meta: &Metadata) -> bool {
        self.owns(meta) || (!meta.is_symlink() && meta.mode() & WRITABLE != 0)
    }

    pub fn can_write(&self, path: &Path, meta: &Metadata) -> bool {
        self.owns(meta) || (self.may_change(meta) && eaccess(path, AccessFlags::W_OK).is_ok())
    }

    /// Whether the user can make, remove and rename any name in the folder.
    pub fn can_rename_in(&self, folder: &Path, meta: &Metadata) -> bool {
        self.owns(meta) || (meta.mode() & S_ISVTX == 0 && self.can_write(folder, meta))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn as_root_anothers_files_can_change_only_where_a_mode_allows_it() {
        let folder = tempfile::tempdir().unwrap();
        let other = User { uid: 1000, is_free: false };
        for (mode, may_change, can_rename) in [(0o755, false, false), (0o775, true, true), (0o1777, true, false)] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let meta = fs::metadata(folder.path()).unwrap();
            // This test is root, so access(2) lets it write everything.
            assert_eq!((other.may_change(&meta), other.can_rename_in(folder.path(), &meta)), (may_change, can_rename));
            assert!(
                User { uid: 0, ..other }.can_rename_in(folder.path(), &meta)
                    && User { is_free: true, ..other }.owns(&meta)
            );
        }
        symlink("x", folder.path().join("link")).unwrap();
        assert!(!other.may_change(&fs::symlink_metadata(folder.path().join("link")).unwrap()));
    }

    #[test]
    fn files_of_a_process_of_another_user_are_out_of_reach() {
        let us = [crate::proc::tree::read(std::process::id() as i32).unwrap()];
        let uid = geteuid().as_raw();
        let user = |uid, is_free| User { uid, is_free };
        let found = [user(uid, false), user(uid + 1, false), user(uid + 1, true)].map(|user| user.does_not_reach(&us));
        assert_eq!(found, [None, Some(uid), None]);
    }
}
