//! Stores damaged in every way that we could think of, and what freeze says of each.
//!
//! Each table names a damage and does it. It is done to a store that is not encrypted and to one that is; what a restore and
//! `verify` say of both is in `snapshots/`. Where all say the same it is there once. Damage behind a hash or seal is made
//! with the right one, by the words of `docs/reference/store-format.md`.

mod bodies;
mod fixture;
mod manifests;
mod packs;
mod places;
mod roots;
mod secrets;
mod wire;

use fixture::Fixture;

#[test]
fn what_is_not_damaged_comes_back() {
    insta::assert_snapshot!(fixture::say(&[
        ("nothing", |_| ()),
        ("two generations", |f| f.commit()),
        ("the same manifest again", |f| f.forge(|_| ())),
        ("the same index again", |f| f.forge_index(|_| ())),
        ("the same format again", |f| f.forge_format(|_| ())),
        ("a head of the next epoch", |f| f.forge_head(1, 2)),
    ]));
}

#[test]
fn one_damaged_manifest_does_not_hide_the_others() {
    for encrypt in [false, true] {
        let mut fixture = Fixture::new(encrypt);
        fixture.commit();
        fixture.flip("generations/1.manifest", 100);
        let generations = freeze::image::generations(&fixture.open().unwrap()).unwrap();
        let whole: Vec<_> = generations.iter().map(|found| (found.number, found.manifest.is_ok())).collect();
        assert_eq!(whole, [(1, false), (2, true)]);
    }
}
