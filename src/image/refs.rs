//! What lies in a store and what refers to what, for those who look after it. Must never judge: what is kept is their business.

use std::time::SystemTime;

use super::body::Body;
use super::manifest::Manifest;
use super::vault::Vault;
use super::{Result, generation, pack};
use crate::store::ObjectMeta;

/// Says of a committed generation that it is one, in encrypted stores; removed with its manifest.
const MARKER_SUFFIX: &str = ".committed";

/// A pack as the store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPack {
    /// Its name.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's own clock.
    pub modified: SystemTime,
}

/// A manifest as the store lists it, committed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its generation.
    pub number: u64,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's own clock.
    pub modified: SystemTime,
}

/// All packs, also those that nothing names, in the order of their names.
pub fn packs(vault: &Vault) -> Result<Vec<StoredPack>> {
    let pack = |object: ObjectMeta| {
        let id = object.key.strip_prefix("packs/").filter(|id| pack::is_id(id))?.to_owned();
        Some(StoredPack { id, size: object.size, modified: object.modified })
    };
    Ok(vault.store().list("packs/")?.into_iter().filter_map(pack).collect())
}

/// All manifests in the order of their numbers, also those that were never committed.
pub fn manifests(vault: &Vault) -> Result<Vec<StoredManifest>> {
    let manifest = |object: ObjectMeta| {
        let number = object.key.strip_prefix("generations/")?.strip_suffix(".manifest")?.parse().ok()?;
        let whole = number > 0 && generation::manifest_key(number) == object.key;
        whole.then_some(StoredManifest { number, size: object.size, modified: object.modified })
    };
    let mut found: Vec<_> = vault.store().list("generations/")?.into_iter().filter_map(manifest).collect();
    found.sort_by_key(|manifest| manifest.number);
    Ok(found)
}

/// Removes a generation's manifest, and before it what says that it was committed. Its packs stay.
pub fn remove_manifest(vault: &Vault, number: u64) -> Result<()> {
    vault.store().delete(&generation::marker_key(number))?;
    Ok(vault.store().delete(&generation::manifest_key(number))?)
}

/// Removes a pack. Whoever calls this knows that no generation refers to it, nor will one that is being written.
pub fn remove_pack(vault: &Vault, id: &str) -> Result<()> {
    Ok(vault.store().delete(&pack::key(id))?)
}

/// Whether freeze writes objects of that name.
pub fn is_known(key: &str) -> bool {
    let generation = |name: &str| {
        let number = name.strip_suffix(".manifest").or_else(|| name.strip_suffix(MARKER_SUFFIX));
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    match key.split_once('/') {
        None => matches!(key, "head" | "format" | "holder"),
        Some(("packs", id)) => pack::is_id(id),
        Some(("generations", name)) => generation(name),
        Some((folder, _)) => matches!(folder, "condemned" | "outcomes"),
    }
}

impl Manifest {
    /// The bodies of all images and files in the order of [`bodies`](Self::bodies), to be replaced.
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Body> {
        let images = self.images.iter_mut().map(|image| &mut image.body);
        images.chain(self.files.iter_mut().map(|file| &mut file.body)).flatten()
    }

    /// Whether both are of the same moment of the same service, wherever their bytes lie.
    pub fn is_same_checkpoint(&self, other: &Self) -> bool {
        let images = |manifest: &Self| -> Vec<_> {
            manifest.images.iter().map(|image| (image.name.clone(), image.body.as_ref().map(Body::size))).collect()
        };
        let files = |manifest: &Self| -> Vec<_> {
            manifest.files.iter().map(|file| (file.path.clone(), file.size, file.mtime_ns)).collect()
        };
        (self.created_ms, self.root_pid, &self.kernel, &self.command, &self.processes)
            == (other.created_ms, other.root_pid, &other.kernel, &other.command, &other.processes)
            && images(self) == images(other)
            && files(self) == files(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, test_vault};
    use crate::store::PutMode;

    #[test]
    fn only_what_freeze_writes_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let id = "0123456789abcdef0123456789abcdef";
        let keys = ["packs/x", "generations/10.manifest", "generations/2.manifest", "generations/02.manifest"];
        let pack_key = pack::key(id);
        for key in keys.into_iter().chain(["generations/0.manifest", "generations/2.committed", &pack_key]) {
            vault.store().put(key, key.to_owned().into(), PutMode::Create).unwrap();
        }
        let numbers = || manifests(&vault).unwrap().into_iter().map(|found| found.number).collect::<Vec<_>>();
        assert_eq!(numbers(), [2, 10]);
        assert_eq!(packs(&vault).unwrap().iter().map(|pack| (&*pack.id, pack.size)).collect::<Vec<_>>(), [(id, 38)]);
        remove_manifest(&vault, 2).unwrap();
        assert_eq!(numbers(), [10]);
        assert!(vault.store().list("generations/2.").unwrap().is_empty());
    }

    #[test]
    fn strange_objects_are_told_from_ours() {
        let ours = [
            "head",
            "format",
            "holder",
            "generations/1.manifest",
            "generations/1.committed",
            "condemned/a",
            "outcomes/1",
        ];
        assert!(ours.iter().all(|key| is_known(key)));
        assert!(["x", "packs/x", "generations/x.manifest", "a/head"].iter().all(|key| !is_known(key)));
    }

    #[test]
    fn a_copy_is_the_same_checkpoint_and_the_next_one_is_not() {
        let image = Image { name: "a.img".into(), body: Some(Body::from_inline(vec![1, 2])) };
        let one = Manifest { created_ms: 5, images: vec![image], ..Manifest::default() };
        let mut two = Manifest { generation: 9, ..one.clone() };
        assert!(one.is_same_checkpoint(&two));
        two.images[0].body = Some(Body::from_inline(vec![1]));
        assert!(!one.is_same_checkpoint(&two));
        assert!(!one.is_same_checkpoint(&Manifest { created_ms: 6, ..one.clone() }));
    }
}
