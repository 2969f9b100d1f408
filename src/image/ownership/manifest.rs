//! Reads manifests from a store. Never returns an unchecked manifest.

use super::head;
use crate::image::crypto::vault::Vault;
use crate::image::error::{ImageError, Result};
use crate::image::format::check;
use crate::image::format::manifest::{Manifest, OBJECT_LIMIT, Refusal};
use crate::image::layout::{VERSION, manifest_key};
use crate::store::StoreError;

impl Manifest {
    /// Reads and checks the manifest of `generation`, or of the newest generation. None if nothing was
    /// committed.
    pub fn load(vault: &Vault, generation: Option<u64>) -> Result<Option<Manifest>> {
        let Some(newest) = head::newest(vault)? else { return Ok(None) };
        read(vault, generation.unwrap_or(newest)).map(Some)
    }
}

/// Reads and checks the manifest of `generation`, committed or not.
pub(crate) fn read(vault: &Vault, generation: u64) -> Result<Manifest> {
    let object = manifest_key(generation);
    let url = vault.url().to_owned();
    match vault.store().get(&object, OBJECT_LIMIT) {
        Ok((data, _)) => open(&data, generation, vault),
        Err(StoreError::NotFound { .. }) if head::newest(vault)? == Some(generation) => {
            Err(ImageError::NoManifest { url, generation, object })
        }
        Err(StoreError::NotFound { .. }) => Err(ImageError::NoGeneration { url, generation }),
        Err(e) => Err(e.into()),
    }
}

/// Decodes and checks the object of `generation`.
pub(crate) fn open(object: &[u8], generation: u64, vault: &Vault) -> Result<Manifest> {
    let (url, key) = (vault.url().to_owned(), manifest_key(generation));
    let decoded = Manifest::decode(object, generation, vault.seal());
    let checked = decoded.and_then(|manifest| Ok(check::manifest(&manifest, generation).map(|()| manifest)?));
    checked.map_err(|refusal| match refusal {
        Refusal::Version(found) => ImageError::Version { url, object: key, found, supported: VERSION },
        Refusal::Flaw(flaw) => ImageError::Damaged { url, object: key, flaw },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::fuzz;
    use crate::image::error::Flaw;
    use crate::image::format::body::BODY_MAX;
    use crate::image::format::manifest::MAGIC;
    use crate::image::{
        Body, ChunkRef, ChunkTable, Clocks, CriuImage, Extent, Figures, File, FolderLink, Kind, PackInfo, Process,
        SavedRegisters, Slice, Stdio, test_vault,
    };

    fn sample() -> Manifest {
        let mut body = Body::default();
        body.push(Extent::Zero(8192));
        body.push(Extent::Slice(Slice { chunk: 0, first: 0, length: 4096 }));
        let mut chunks = ChunkTable::default();
        chunks.push(&ChunkRef { pack: 0, offset: 8, encoded: 100, raw: 4096, name: [9; 16] });
        let file = File { path: b"/a/b".into(), kind: Kind::Regular.into(), size: 3, ..File::default() };
        let link = File { path: b"/l".into(), kind: Kind::Symlink.into(), target: b"../x".into(), ..File::default() };
        Manifest {
            generation: 7,
            created_ms: 1_700_000_000_000,
            command: vec![b"sh".into(), b"-c".into()],
            processes: vec![Process { pid: 1000, comm: "sh".into(), threads: vec![1000, 1003], ..Process::default() }],
            folder_links: vec![FolderLink { folder: b"/v/1".into(), link: b"/v/now".into() }],
            stdio: vec![Stdio { fd: 1, target: b"pipe:[5]".into() }],
            images: vec![CriuImage { name: "pages-1.img".into(), body: Some(body) }],
            files: vec![File { body: Some(Body::from_inline(b"abc".into())), ..file }, link],
            packs: vec![PackInfo { id: "0".repeat(32), size: 1000, tail: 100 }],
            chunks,
            clocks: Some(Clocks { monotonic_ns: 6, boottime_ns: 7, in_user_space: true }),
            saved_registers: Some(SavedRegisters { components: 7, bytes: 832 }),
            figures: Some(Figures { bytes: 1, stored: 2, frozen_ms: 3, new: 4, shared: 5 }),
            ..Manifest::default()
        }
    }

    fn vault() -> (tempfile::TempDir, Vault) {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        (folder, vault)
    }

    /// An object of any message. The seal is right.
    fn wrap(message: &[u8], vault: &Vault) -> Vec<u8> {
        let mut rest = (message.len() as u64).to_le_bytes().to_vec();
        rest.extend_from_slice(&zstd::bulk::compress(message, 1).unwrap());
        let sealed = vault.seal().seal_message("generations/7.manifest", &rest);
        [MAGIC, &VERSION.to_le_bytes()[..], &sealed].concat()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let (_folder, vault) = vault();
        let object = sample().encode(vault.seal());
        assert_eq!(open(&object, 7, &vault).unwrap(), sample());
        assert_eq!(object, wrap(&sample().encode_to_vec(), &vault));
        assert!(matches!(open(&object, 8, &vault), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn an_image_is_found_by_its_name() {
        assert_eq!(sample().image("pages-1.img").unwrap().size(), 8192 + 4096);
        assert!(sample().image("pages-2.img").is_none());
    }

    #[test]
    fn fields_of_a_later_freeze_are_skipped() {
        let mut message = sample().encode_to_vec();
        message.extend_from_slice(&[0xfa, 0x3f, 2, 1, 2]); // Field 1023, of two bytes.
        let (_folder, vault) = vault();
        assert_eq!(open(&wrap(&message, &vault), 7, &vault).unwrap(), sample());
    }

    #[test]
    fn every_path_that_a_restore_follows_is_whole() {
        let (_folder, vault) = vault();
        let link = |folder: &str, link: &str| FolderLink { folder: folder.into(), link: link.into() };
        for forged in [
            Manifest { deleted: vec![b"/a/../b".into()], ..sample() },
            Manifest { folder_links: vec![link("/v/..", "/v/now")], ..sample() },
            Manifest { folder_links: vec![link("/v/1", "now")], ..sample() },
        ] {
            let error = open(&wrap(&forged.encode_to_vec(), &vault), 7, &vault).unwrap_err();
            assert!(matches!(error, ImageError::Damaged { flaw: Flaw::Name { what: "the path", .. }, .. }), "{error}");
        }
    }

    #[test]
    fn numbers_in_a_body_are_counted_before_they_are_decoded() {
        let (_folder, vault) = vault();
        let tagged = |tag: u8, content: &[u8]| {
            let mut field = vec![tag << 3 | 2];
            prost::encode_length_delimiter(content.len(), &mut field).unwrap();
            [&field[..], content].concat()
        };
        // Field 14: CRIU image. Its field 2: body. Its field 2: lengths, one byte each.
        let bomb = tagged(14, &tagged(2, &tagged(2, &vec![1; (1 << 26) + 1])));
        let error = open(&wrap(&bomb, &vault), 7, &vault).unwrap_err();
        assert!(
            matches!(error, ImageError::Damaged { flaw: Flaw::Bound { what: "number of entries", .. }, .. }),
            "{error}"
        );
    }

    #[test]
    fn fuzz_any_object_decodes_or_does_not() {
        let (_folder, vault) = vault();
        proptest!(|(data in prop::collection::vec(any::<u8>(), 0..400))| {
            let _ = open(&data, 7, &vault);
            let _ = open(&wrap(&data, &vault), 7, &vault);
        });
    }

    #[test]
    fn fuzz_a_damaged_object_is_refused() {
        let (_folder, vault) = vault();
        let whole = sample().encode(vault.seal());
        proptest!(|(at in any::<prop::sample::Index>(), bit in 0..8, edits in fuzz::edits())| {
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1u8 << bit;
            prop_assert!(open(&flipped, 7, &vault).is_err());
            let damaged = fuzz::damaged(&whole, &edits);
            prop_assert!(damaged == whole || open(&damaged, 7, &vault).is_err());
        });
    }

    /// The seal is right: whatever decodes has passed the check.
    #[test]
    fn fuzz_a_forged_message_decodes_to_something_checked() {
        let (_folder, vault) = vault();
        let message = sample().encode_to_vec();
        proptest!(|(edits in fuzz::edits())| {
            let forged = wrap(&fuzz::damaged(&message, &edits), &vault);
            if let Ok(manifest) = open(&forged, 7, &vault) {
                let mut total = 0;
                for body in manifest.bodies() {
                    let extents = body.extents().map(|extent| match extent {
                        Extent::Zero(length) => length,
                        Extent::Slice(slice) => slice.length.into(),
                    });
                    prop_assert_eq!(body.inline().len() as u64 + extents.sum::<u64>(), body.size());
                    total += body.size();
                }
                prop_assert!(total <= BODY_MAX);
                prop_assert_eq!(manifest.every_chunk().check(&manifest.chunks), Ok(()));
                let again = manifest.encode(vault.seal());
                prop_assert_eq!(open(&again, 7, &vault).unwrap(), manifest);
            }
        });
    }
}
