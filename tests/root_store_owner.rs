//! A store that root writes into belongs to the owner of its folder: only root can give files away, so this runs as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use bytes::Bytes;
use freeze::store::{self, Location, PutMode};

#[test]
fn what_root_writes_belongs_to_the_owner_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(1000), Some(1000)).unwrap();
    let root = folder.path().join("a/store");
    let store = store::open(&Location::at(&format!("file:{}", root.display()))).unwrap();
    store.put("packs/a", Bytes::from_static(b"1"), PutMode::Overwrite).unwrap();
    let lock = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_file());
    for path in [root.clone(), root.join("packs"), root.join("packs/a"), lock.unwrap()] {
        assert_eq!(fs::metadata(&path).unwrap().uid(), 1000, "{path:?}");
    }
}
