//! Objects in the place of others, whole as each is, and stores of other versions.

use crate::fixture::{Fixture, say};

/// Another store, of the same pages, as much encrypted as this one.
fn other(f: &Fixture) -> Fixture {
    let mut other = Fixture::empty(f.keys.are_given());
    other.commit();
    other.commit();
    other
}

fn first_pack(f: &Fixture) -> String {
    let second = f.pack_key();
    let mut packs = std::fs::read_dir(f.path("packs")).unwrap().map(|entry| entry.unwrap().file_name());
    packs.find_map(|name| Some(format!("packs/{}", name.to_str()?)).filter(|key| *key != second)).unwrap()
}

#[test]
fn swapped_objects() {
    insta::assert_snapshot!(say(&[
        ("another generation's manifest", |f| {
            f.commit();
            f.write("generations/2.manifest", f.read("generations/1.manifest"));
        }),
        ("another store's manifest", |f| {
            f.commit();
            f.write("generations/2.manifest", other(f).read("generations/2.manifest"));
        }),
        ("another generation's pack", |f| {
            f.commit();
            f.write(&f.pack_key(), f.read(&first_pack(f)));
        }),
        ("another store's pack", |f| {
            f.commit();
            let other = other(f);
            f.write(&f.pack_key(), other.read(&other.pack_key()));
        }),
        ("another store's head", |f| f.write("head", other(f).read("head"))),
        ("another store's format", |f| f.write("format", other(f).read("format"))),
        ("an earlier head", |f| {
            let head = f.read("head");
            f.commit();
            f.write("head", head);
        }),
        ("a manifest as head", |f| f.write("head", f.read(&f.manifest_key()))),
        ("head as format", |f| f.write("format", f.read("head"))),
        ("format as head", |f| f.write("head", f.read("format"))),
        ("a pack as manifest", |f| f.write(&f.manifest_key(), f.read(&f.pack_key()))),
        ("a manifest as pack", |f| f.write(&f.pack_key(), f.read(&f.manifest_key()))),
    ]));
}

#[test]
fn stores_of_other_versions() {
    insta::assert_snapshot!(say(&[
        ("of version 1, which had no format", |f| {
            f.remove("format");
            f.write("head", "{\"version\":1,\"generation\":1}\n");
        }),
        ("of version 1, of which the manifest alone is left", |f| {
            f.remove("format");
            f.remove("head");
            f.change(&f.manifest_key(), |object| object[8] = 1);
        }),
        ("of version 1, in which this freeze made a format", |f| {
            f.write("head", "{\"version\":1,\"generation\":1}\n");
            f.change(&f.manifest_key(), |object| object[8] = 1);
            f.change(&f.pack_key(), |pack| pack[7] = 1);
        }),
        ("of version 3", |f| {
            f.write("format", r#"{"version":3}"#);
            f.write("head", r#"{"version":3}"#);
            f.change(&f.manifest_key(), |object| object[8] = 3);
            f.change(&f.pack_key(), |pack| pack[7] = 3);
        }),
        ("of version 3, without its format", |f| {
            f.remove("format");
            f.write("head", r#"{"version":3}"#);
        }),
    ]));
}
