//! A store and the keys that open it. All reads and writes of generations go through a [`Vault`].

use std::sync::Arc;

use super::keys::KeyFiles;
use super::seal::Seal;
use super::store_format::{self, Format};
use crate::image::error::Result;
use crate::image::hex::Hex;
use crate::image::layout::FORMAT;
use crate::store::{PutMode, Store, StoreError};

/// An open store: the store and its keys.
#[derive(Clone)]
pub struct Vault {
    store: Arc<dyn Store>,
    id: Hex<16>,
    seal: Seal,
}

impl Vault {
    /// Opens the store. None if it is empty.
    ///
    /// Reads the key file even then, so an unreadable one is reported before the first checkpoint needs it.
    pub fn open(store: Arc<dyn Store>, keys: &KeyFiles) -> Result<Option<Self>> {
        let secret = keys.read()?;
        let Some((format, _)) = store_format::read(&*store)? else { return Ok(None) };
        let seal = format.open(secret.as_ref(), store.url())?;
        Ok(Some(Self { store, id: format.id, seal }))
    }

    /// Opens the store. Writes `format` first if the store is empty: encrypted if `keys` are given.
    pub fn create(store: Arc<dyn Store>, keys: &KeyFiles) -> Result<Self> {
        if let Some(vault) = Self::open(store.clone(), keys)? {
            return Ok(vault);
        }
        let (format, seal) = Format::new(keys.read()?.as_ref())?;
        match store.put(FORMAT, format.encode().into(), PutMode::Create) {
            Ok(()) => Ok(Self { store, id: format.id, seal }),
            // Another writer was first, or the reply to this put was lost.
            Err(error @ StoreError::Exists { .. }) => Self::open(store, keys)?.ok_or_else(|| error.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store's URL, for messages.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    pub(crate) fn id(&self) -> Hex<16> {
        self.id
    }

    /// Seals and opens this store's objects.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }
}

/// Replaces the secret `old` of a store by `new`. False if the store is empty, or if `new` names no file.
///
/// The master key stays the same: the old secret and a copy of the old `format` still open the store.
pub fn rekey(store: &dyn Store, old: &KeyFiles, new: &KeyFiles) -> Result<bool> {
    let (old, new) = (old.read()?, new.read()?);
    let (Some((format, version)), Some(new)) = (store_format::read(store)?, new) else { return Ok(false) };
    let wrapped = format.rewrap(old.as_ref(), &new, store.url())?;
    match store.put(FORMAT, wrapped.encode().into(), PutMode::Update(version)) {
        Ok(()) => Ok(true),
        Err(error) => match store_format::read(store) {
            // The salt is random, so this is our own put, whose reply was lost.
            Ok(Some((found, _))) if found == wrapped => Ok(true),
            _ => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::error::{ImageError, KeyError};
    use crate::store::FileStore;
    use std::path::Path;

    fn store(folder: &Path) -> Arc<dyn Store> {
        Arc::new(FileStore::new(&format!("file:{}/store", folder.display())).unwrap())
    }

    fn key(folder: &Path, name: &str) -> KeyFiles {
        let path = folder.join(name);
        std::fs::write(&path, name.repeat(32)).unwrap();
        KeyFiles { passphrase_file: None, key_file: Some(path) }
    }

    #[test]
    fn an_empty_store_is_none_but_a_missing_key_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Vault::open(store(folder.path()), &KeyFiles::default()).unwrap().is_none());
        let missing = KeyFiles { passphrase_file: None, key_file: Some(folder.path().join("missing")) };
        assert!(matches!(Vault::open(store(folder.path()), &missing), Err(ImageError::Key(_))));
    }

    #[test]
    fn all_who_create_at_once_have_the_same_store() {
        let folder = tempfile::tempdir().unwrap();
        let key = key(folder.path(), "a");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let create = || Vault::create(store(folder.path()), &key).unwrap().id().0;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn rekeying_shuts_the_old_key_out() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (key(folder.path(), "a"), key(folder.path(), "b"));
        assert!(!rekey(&*store(folder.path()), &old, &new).unwrap());
        let sealed = Vault::create(store(folder.path()), &old).unwrap().seal().seal_message("k", b"message");
        assert!(rekey(&*store(folder.path()), &old, &new).unwrap());
        let vault = Vault::open(store(folder.path()), &new).unwrap().unwrap();
        assert_eq!(vault.seal().open_message("k", &sealed).unwrap(), b"message");
        for refused in [Vault::open(store(folder.path()), &old).err(), Vault::create(store(folder.path()), &old).err()]
        {
            assert!(matches!(refused, Some(ImageError::Key(KeyError::Wrong { .. }))));
        }
        assert!(rekey(&*store(folder.path()), &old, &new).is_err());
    }

    #[test]
    fn a_format_that_was_removed_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.put("generations/1.manifest", "".into(), PutMode::Create).unwrap();
        assert!(matches!(Vault::create(store.clone(), &KeyFiles::default()), Err(ImageError::NoFormat { .. })));
        store.put("head", r#"{"version":1,"generation":1}"#.into(), PutMode::Create).unwrap();
        assert!(matches!(Vault::open(store, &KeyFiles::default()), Err(ImageError::OldStore { .. })));
    }
}
