//! Verify: finds every damage, says which generations it costs, and takes nothing whole for damaged.

mod upkeep_support;

use std::fs;
use std::sync::Arc;

use freeze::image::{CriuImage, ImageWriter, KeyFiles, Manifest, Vault};
use freeze::store::PutMode;
use freeze::upkeep::verify::{Options, Verified, verify};
use freeze::upkeep::{Quiet, UpkeepError};

use upkeep_support::{Call, Fixture, Watched, flip_a_bit, rewrite, stray_pack};

fn run(store: &Fixture, options: Options) -> Verified {
    verify(&store.vault, &options, &Quiet).unwrap()
}

fn all(store: &Fixture) -> Verified {
    run(store, Options::default())
}

/// Generations 1 and 2 have a pack each, and 3 has that of 2.
fn three() -> Fixture {
    let store = Fixture::new();
    store.generation(1);
    store.generation(2);
    store.same_again(2, 3);
    store
}

fn pack(store: &Fixture, generation: u64) -> String {
    let manifest = Manifest::load(&store.vault, Some(generation)).unwrap().unwrap();
    format!("packs/{}", manifest.packs[0].id)
}

#[test]
fn a_whole_store_is_well() {
    let store = three();
    let found = all(&store);
    assert_eq!(found.damaged, []);
    assert_eq!((found.generations, found.packs, found.packs_read), (3, 2, 2));
    assert_eq!(found.bytes_read, store.vault.store().list("packs/").unwrap().iter().map(|pack| pack.size).sum::<u64>());
    assert!(found.chunks_read >= 6);
}

/// A prune removes generation 1 and a leftover right before they are read.
#[test]
fn what_a_prune_removes_meanwhile_is_not_damaged() {
    let store = three();
    store.leftover(4);
    let inner = store.vault.store().clone();
    let before = move |call, key: &str| {
        let going = ["generations/1.manifest", "generations/4.manifest"].contains(&key);
        !(call == Call::Get && going) || inner.delete(key).is_ok()
    };
    let vault = store.wrapped(Arc::new(Watched { inner: store.vault.store().clone(), before }));
    let found = verify(&vault, &Options::default(), &Quiet).unwrap();
    assert_eq!((found.generations, &found.damaged[..], &found.leftovers[..]), (2, &[][..], &[][..]));
}

#[test]
fn a_flipped_bit_is_found_in_every_object() {
    for key in three().keys() {
        let place = three().keys().iter().position(|other| *other == key).unwrap_or(0);
        let store = three();
        let key = store.keys()[place].clone();
        flip_a_bit(&store.path(&key));
        // Opened anew, as the command does.
        let vault = match Vault::open(store.vault.store().clone(), &KeyFiles::default()) {
            Ok(vault) => vault.unwrap(),
            Err(error) => {
                assert!(error.to_string().contains(&key), "{key}: {error}");
                continue;
            }
        };
        match verify(&vault, &Options::default(), &Quiet) {
            // Without head, or what the store is, there is nothing to go by.
            Err(error) => assert!(error.to_string().contains(&key), "{key}: {error}"),
            Ok(found) => {
                assert_eq!(found.damaged.iter().map(|damage| &damage.object).collect::<Vec<_>>(), [&key]);
                assert!(found.damaged[0].error.contains(&key), "{found:?}");
            }
        }
    }
}

/// Every byte of a pack counts: its beginning, chunks, index and end.
#[test]
fn a_flipped_bit_is_found_anywhere_in_a_pack() {
    let store = three();
    let path = store.path(&pack(&store, 1));
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 60).chain([7, 8, whole.len() - 1]) {
        let mut data = whole.clone();
        data[at] ^= 0x10;
        rewrite(&path, &data);
        assert_eq!(all(&store).damaged.len(), 1, "byte {at}");
    }
}

#[test]
fn all_damage_is_reported_and_what_it_costs() {
    let store = three();
    let (one, two) = (pack(&store, 1), pack(&store, 2));
    fs::remove_file(store.path(&one)).unwrap();
    let data = fs::read(store.path(&two)).unwrap();
    rewrite(&store.path(&two), &data[..data.len() - 1]);
    store.leftover(4);
    flip_a_bit(&store.path("generations/4.manifest"));
    let found = all(&store);
    let mut expected = vec![("generations/4.manifest".to_owned(), vec![]), (one, vec![1]), (two, vec![2, 3])];
    expected.sort();
    let damage: Vec<_> =
        found.damaged.iter().map(|damage| (damage.object.clone(), damage.generations.clone())).collect();
    assert_eq!(damage, expected);
    let url = store.vault.url().to_owned();
    let mut text: Vec<_> = found.damaged.iter().map(|damage| damage.error.replace(&url, "URL")).collect();
    for (object, _) in &expected {
        text.iter_mut().for_each(|text| {
            *text = text.replace(&**object, if object.starts_with('g') { "MANIFEST" } else { "PACK" })
        });
    }
    text.sort();
    insta::assert_snapshot!(text.join("\n").replace(&data.len().to_string(), "N").replace(&(data.len() - 1).to_string(), "N-1"), @r"
    MANIFEST in URL is damaged: its content does not match its hash. Put it back from a copy of the store, or start afresh with an empty store
    PACK in URL has N-1 bytes, but its manifest says N. It was truncated or replaced: put it back from a copy of the store
    PACK is missing from URL. Put it back from a copy of the store
    ");
}

/// A pack that is whole by itself, and as large as the one in whose place it is.
#[test]
fn a_pack_in_the_place_of_another_is_found() {
    let store = Fixture::new();
    for seed in [1, 2] {
        let writer = ImageWriter::new(&store.vault, upkeep_support::MEMORY, 1).unwrap();
        let mut body = writer.begin();
        body.write_all(&upkeep_support::noise(seed, 50_000)).unwrap();
        let id = body.finish().unwrap();
        let mut written = writer.finish().unwrap();
        let images = vec![CriuImage { name: "pages-1.img".into(), body: Some(written.take(id)) }];
        let (packs, chunks) = (written.packs, written.chunks);
        upkeep_support::commit(&store.vault, Manifest { images, packs, chunks, ..Manifest::default() });
    }
    let (one, two) = (store.path(&pack(&store, 1)), store.path(&pack(&store, 2)));
    let (first, second) = (fs::read(&one).unwrap(), fs::read(&two).unwrap());
    assert_eq!(first.len(), second.len());
    rewrite(&one, &second);
    rewrite(&two, &first);
    assert_eq!(all(&store).damaged.len(), 2);
}

#[test]
fn what_no_generation_needs_is_told() {
    let store = three();
    let stray = stray_pack(&store.vault, 77);
    store.leftover(9);
    store.vault.store().put("notes.txt", "x".into(), PutMode::Create).unwrap();
    let found = all(&store);
    assert_eq!(found.damaged, []);
    assert_eq!((found.unreferenced_packs > 0, found.leftovers), (true, vec![9]));
    assert!(found.unreferenced_bytes >= stray.size);
    assert_eq!(found.strangers, ["notes.txt"]);
}

#[test]
fn one_generation_can_be_verified_alone() {
    let store = three();
    let one = pack(&store, 1);
    flip_a_bit(&store.path(&one));
    let alone = |number| run(&store, Options { generation: Some(number), sample: None });
    assert_eq!((alone(2).damaged.len(), alone(2).packs), (0, 1));
    assert_eq!(alone(1).damaged[0].object, one);
    let missing = verify(&store.vault, &Options { generation: Some(7), sample: None }, &Quiet);
    assert!(matches!(missing, Err(UpkeepError::Image(_))));
}

#[test]
fn a_sample_reads_some_and_misses_no_missing_pack() {
    let store = Fixture::new();
    store.generations(1..=10);
    let sample = |percent| run(&store, Options { generation: None, sample: Some(percent) });
    assert_eq!((sample(20).packs_read, sample(20).packs), (2, 10));
    fs::remove_file(store.path(&pack(&store, 5))).unwrap();
    assert_eq!(sample(1).damaged.len(), 1);
}
