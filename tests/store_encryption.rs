//! Encrypted stores: what others can learn from one, and what happens when they put one of its objects in another's place.

mod store_support;

use std::time::Instant;

use freeze::image::{
    self, CriuImage, Fetcher, ImageError, ImageWriter, KeyError, KeyFiles, Lease, Manifest, Vault, rekey,
};
use proptest::prelude::*;
use store_support::{Answer, Fixture, Odd, flip};

const MEMORY: u64 = 64 << 20;
const TEXT: &[u8] = b"a secret of the service's, longer than a page when it is repeated. ";

/// Commits the pages as whoever has the store now, and returns the packs' keys.
fn commit(vault: &Vault, pages: &[u8]) -> Vec<String> {
    let writer = ImageWriter::new(vault, MEMORY, 1).unwrap();
    let mut body = writer.begin();
    body.write_all(pages).unwrap();
    let id = body.finish().unwrap();
    let mut written = writer.finish().unwrap();
    let image = CriuImage { name: "pages-1.img".into(), body: Some(written.take(id)) };
    let (packs, chunks) = (written.packs, written.chunks);
    let mut manifest = Manifest { images: vec![image], packs, chunks, ..Manifest::default() };
    manifest.command = vec![TEXT.to_vec()];
    let lease = Lease::for_newest(vault).unwrap().unwrap_or_else(Lease::fresh);
    image::commit(vault, &mut manifest, lease, Instant::now()).unwrap();
    image::mark_committed(vault, manifest.generation);
    manifest.packs.iter().map(|pack| format!("packs/{}", pack.id)).collect()
}

/// Bytes that do not shrink, and differ from seed to seed.
fn noise(seed: u8) -> Vec<u8> {
    let mut data = vec![0; 200_000];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut data);
    data
}

fn read(fixture: &Fixture) -> Result<Vec<u8>, ImageError> {
    let vault = fixture.open_with(&fixture.keys)?.unwrap();
    let manifest = Manifest::load(&vault, None)?.unwrap();
    let body = manifest.image("pages-1.img").unwrap();
    Fetcher::new(&vault, &manifest, MEMORY, 1)?.read_to_vec(body, "the pages", 1 << 30)
}

fn say(fixture: &Fixture) -> String {
    let text = fixture.plainly(read(fixture).unwrap_err());
    let packs = fixture.objects().into_iter().filter(|key| key.starts_with("packs/"));
    packs.fold(text, |text, key| text.replace(&key, "packs/ID"))
}

#[test]
fn nothing_is_readable() {
    let fixture = Fixture::encrypted();
    let pages = TEXT.repeat(1000);
    commit(&fixture.vault(), &pages);
    assert_eq!(read(&fixture).unwrap(), pages);
    for key in fixture.objects() {
        let data = fixture.read(&key);
        assert!(!data.windows(8).any(|text| text == &TEXT[..8]), "{key}");
    }
}

#[test]
fn the_key_is_asked_for_and_told_from_another() {
    let fixture = Fixture::encrypted();
    commit(&fixture.vault(), TEXT);
    let passphrase = KeyFiles { passphrase_file: fixture.keys.key_file.clone(), key_file: None };
    let texts = [KeyFiles::default(), fixture.key("other", &[8; 32]), fixture.key("short", b"x"), passphrase]
        .map(|keys| fixture.plainly(fixture.open_with(&keys).err().unwrap()));
    let plain = Fixture::plain();
    commit(&plain.vault(), TEXT);
    let not_encrypted = plain.plainly(plain.open_with(&plain.key("key", &[7; 32])).err().unwrap());
    insta::assert_snapshot!(format!("{}\n{not_encrypted}", texts.join("\n")), @r"
    file:/FOLDER/store is encrypted, and no key was given. Give the file of its key as --key-file or FREEZE_KEY_FILE
    the key in /FOLDER/other does not open file:/FOLDER/store. Use the key with which the store was created, or the new one after `freeze rekey`
    the key in /FOLDER/short has 1 bytes, but a key needs at least 32: create one with `head -c 32 /dev/urandom > FILE`, or use a passphrase
    file:/FOLDER/store needs a key, but /FOLDER/key was given as a passphrase. If it is the right file, name it with --key-file
    file:/FOLDER/store is not encrypted, so the key in /FOLDER/key does not belong to it. Remove the option, or begin with an empty store, which freeze then encrypts
    ");
}

#[test]
fn what_is_put_in_anothers_place_is_noticed() {
    type Damage = fn(&Fixture, &Fixture, &[Vec<String>]);
    let swap: &[(&str, Damage)] = &[
        ("another generation's manifest", |f, _, _| {
            f.write("generations/2.manifest", &f.read("generations/1.manifest"));
        }),
        ("another store's manifest", |f, other, _| {
            f.write("generations/2.manifest", &other.read("generations/2.manifest"));
        }),
        ("another generation's pack", |f, _, packs| f.write(&packs[1][0], &f.read(&packs[0][0]))),
        ("another store's head", |f, other, _| f.write("head", &other.read("head"))),
        ("another store's format", |f, other, _| f.write("format", &other.read("format"))),
        ("no format", |f, _, _| std::fs::remove_file(f.path("format")).unwrap()),
        ("no head", |f, _, _| std::fs::remove_file(f.path("head")).unwrap()),
        ("a head by hand", |f, _, _| {
            let head = String::from_utf8(f.read("head")).unwrap();
            f.write("head", head.replace("\"generation\":2", "\"generation\":1").as_bytes());
        }),
        ("another digit in format", |f, _, _| {
            let mut format = f.read("format");
            let id = format.windows(6).position(|text| text == b"\"id\":\"").unwrap() + 6;
            format[id] = if format[id] == b'a' { b'b' } else { b'a' };
            f.write("format", &format);
        }),
        ("a flipped bit in the manifest", |f, _, _| flip(&f.path("generations/2.manifest"), 200)),
        ("a flipped bit in the pack", |f, _, packs| flip(&f.path(&packs[1][0]), 1000)),
        ("a marker by hand", |f, _, _| f.write("generations/9.committed", b"x")),
        ("a marker of another generation", |f, _, _| {
            f.write("generations/9.committed", &f.read("generations/2.committed"));
        }),
    ];
    let mut texts = String::new();
    for (name, damage) in swap {
        let [fixture, other] = [(); 2].map(|()| Fixture::encrypted());
        commit(&other.vault(), &noise(1));
        commit(&other.vault(), &noise(2));
        let vault = fixture.vault();
        let packs = [commit(&vault, &noise(1)), commit(&vault, &noise(2))];
        assert_eq!(read(&fixture).unwrap(), noise(2));
        damage(&fixture, &other, &packs);
        texts += &format!("{name}:\n    {}\n", say(&fixture));
    }
    insta::assert_snapshot!(texts, @r"
    another generation's manifest:
        generations/2.manifest in file:/FOLDER/store is damaged: its seal does not match, so somebody changed it, or it belongs to another place or store. Put it back from a copy of the store, or start afresh with an empty store
    another store's manifest:
        generations/2.manifest in file:/FOLDER/store is damaged: its seal does not match, so somebody changed it, or it belongs to another place or store. Put it back from a copy of the store, or start afresh with an empty store
    another generation's pack:
        packs/ID in file:/FOLDER/store is damaged: the chunk at byte 8 does not match the hash in its manifest. Put it back from a copy of the store, or start afresh with an empty store
    another store's head:
        head in file:/FOLDER/store is damaged: its seal does not match, so somebody changed it, or it belongs to another place or store. Put it back from a copy of the store, or start afresh with an empty store
    another store's format:
        head in file:/FOLDER/store is damaged: its seal does not match, so somebody changed it, or it belongs to another place or store. Put it back from a copy of the store, or start afresh with an empty store
    no format:
        file:/FOLDER/store holds checkpoints but no format object, so somebody removed it. Put it back from a copy of the store: without it nothing can be read
    no head:
        file:/FOLDER/store holds generations but no head, so somebody removed head. Put it back from a copy of the store; to start afresh on purpose, use an empty store
    a head by hand:
        head in file:/FOLDER/store is damaged: its seal does not match, so somebody changed it, or it belongs to another place or store. Put it back from a copy of the store, or start afresh with an empty store
    another digit in format:
        format in file:/FOLDER/store is damaged: its content does not match its hash. Put it back from a copy of the store, or start afresh with an empty store
    a flipped bit in the manifest:
        generations/2.manifest in file:/FOLDER/store is damaged: its seal does not match, so somebody changed it, or it belongs to another place or store. Put it back from a copy of the store, or start afresh with an empty store
    a flipped bit in the pack:
        packs/ID in file:/FOLDER/store is damaged: the chunk at byte 8 does not match the hash in its manifest. Put it back from a copy of the store, or start afresh with an empty store
    a marker by hand:
        generations/9.committed in file:/FOLDER/store is damaged: it ends too early. Put it back from a copy of the store, or start afresh with an empty store
    a marker of another generation:
        generations/9.committed in file:/FOLDER/store is damaged: its seal does not match, so somebody changed it, or it belongs to another place or store. Put it back from a copy of the store, or start afresh with an empty store
    ");
}

#[test]
fn an_old_head_put_back_is_noticed() {
    let fixture = Fixture::encrypted();
    commit(&fixture.vault(), &noise(1));
    let old = fixture.read("head");
    commit(&fixture.vault(), &noise(2));
    fixture.write("head", &old);
    insta::assert_snapshot!(say(&fixture), @r"head of file:/FOLDER/store names generation 1, but generation 2 was committed: an old copy of head, or of the store, was put back. Put the newest head back from a copy of the store");
    let vault = fixture.vault();
    for result in [image::newest(&vault).map(drop), image::generations(&vault).map(drop)] {
        assert!(matches!(result, Err(ImageError::OldHead { found: 1, known: 2, .. })));
    }
}

#[test]
fn a_marker_that_could_not_be_written_is_no_failure() {
    let fixture = Fixture::encrypted();
    commit(&Odd::over(&fixture.vault(), &fixture.keys, "generations/1.committed", Answer::Refused), &noise(1));
    assert!(!fixture.path("generations/1.committed").exists());
    assert_eq!(read(&fixture).unwrap(), noise(1));
}

#[test]
fn a_plain_store_has_no_markers() {
    let fixture = Fixture::plain();
    commit(&fixture.vault(), TEXT);
    assert!(!fixture.objects().iter().any(|key| key.ends_with(".committed")));
}

#[test]
fn the_key_can_be_changed_and_nothing_is_written_anew() {
    let mut fixture = Fixture::encrypted();
    commit(&fixture.vault(), &noise(1));
    let objects = fixture.objects();
    let before: Vec<_> = objects.iter().map(|key| fixture.read(key)).collect();
    let file = fixture.key("passphrase", b"correct horse\n").key_file;
    let passphrase = KeyFiles { passphrase_file: file, key_file: None };
    assert!(rekey(&*fixture.store(), &fixture.keys, &passphrase).unwrap());
    assert!(matches!(fixture.open_with(&fixture.keys), Err(ImageError::Key(KeyError::OtherKind { .. }))));
    fixture.keys = passphrase;
    assert_eq!(read(&fixture).unwrap(), noise(1));
    let changed = objects.iter().zip(before).filter(|(key, before)| fixture.read(key) != *before);
    assert_eq!(changed.map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["format"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bit of whatever object: the store is whole, or says that it is not.
    #[test]
    fn no_flipped_bit_brings_back_other_pages(object in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let fixture = Fixture::encrypted();
        commit(&fixture.vault(), &noise(1));
        let objects = fixture.objects();
        let key = object.get(&objects);
        let mut data = fixture.read(key);
        let at = at.index(data.len());
        data[at] ^= 1u8 << bit;
        fixture.write(key, &data);
        if let Ok(pages) = read(&fixture) {
            prop_assert!(pages == noise(1), "{} {}", key, at);
            prop_assert!(key.starts_with("packs/") || key.ends_with(".committed"), "{} {}", key, at);
        }
    }
}
