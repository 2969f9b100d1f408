//! Room for content on file systems, before it is there. Counts down from what the kernel tells (statvfs(3)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::sys::statvfs::fstatvfs;

/// Bytes left of each device that was asked for.
#[derive(Debug, Default)]
pub struct Room(BTreeMap<u64, u64>);

impl Room {
    /// Takes `bytes` of the file system of `place`. Returns whether it had them.
    pub fn take(&mut self, place: &File, bytes: u64) -> io::Result<bool> {
        let device = place.metadata()?.dev();
        let left = match self.0.get_mut(&device) {
            Some(left) => left,
            None => self.0.entry(device).or_insert(free(place)?),
        };
        match left.checked_sub(bytes) {
            Some(rest) => *left = rest,
            None => return Ok(false),
        }
        Ok(true)
    }

    #[cfg(test)]
    pub fn set(&mut self, place: &File, bytes: u64) {
        self.0.insert(place.metadata().unwrap().dev(), bytes);
    }
}

fn free(place: &File) -> io::Result<u64> {
    let stat = fstatvfs(place)?;
    // A file system that does not know its size counts no blocks: tmpfs without a limit, and some network ones.
    Ok(if stat.blocks() == 0 { u64::MAX } else { stat.blocks_available().saturating_mul(stat.fragment_size()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_left_to_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let place = File::open(folder.path()).unwrap();
        let mut room = Room::default();
        assert!(room.take(&place, 1).unwrap());
        assert!(!room.take(&place, u64::MAX - 1).unwrap());
        room.set(&place, 10);
        assert_eq!([6, 5, 4, 1].map(|bytes| room.take(&place, bytes).unwrap()), [true, false, true, false]);
    }
}
