//! Damage to a manifest, but to what it says of chunks.

use freeze::image::{File, Kind};

use crate::fixture::{Fixture, say};

fn add(f: &Fixture, path: &[u8], kind: Kind, target: &[u8]) {
    let file = File { path: path.into(), kind: kind.into(), target: target.into(), ..File::default() };
    f.forge(|m| m.files.push(file));
}

#[test]
fn damaged_manifest() {
    insta::assert_snapshot!(say(&[
        ("missing", |f| f.remove(&f.manifest_key())),
        ("a flipped bit in the magic", |f| f.flip(&f.manifest_key(), 3)),
        ("a flipped bit in the hash or nonce", |f| f.flip(&f.manifest_key(), 20)),
        ("a flipped bit in the size", |f| f.flip(&f.manifest_key(), 45)),
        ("a flipped bit in the content", |f| f.flip(&f.manifest_key(), 100)),
        ("empty", |f| f.resize(&f.manifest_key(), 0)),
        ("truncated in its version", |f| f.resize(&f.manifest_key(), 10)),
        ("truncated in its hash or nonce", |f| f.resize(&f.manifest_key(), 30)),
        ("truncated in its content", |f| f.resize(&f.manifest_key(), 100)),
        ("huge", |f| f.resize(&f.manifest_key(), 1 << 40)),
        ("of version 1", |f| f.change(&f.manifest_key(), |object| object[8] = 1)),
        ("of version 3", |f| f.change(&f.manifest_key(), |object| object[8] = 3)),
        ("another generation's", |f| f.forge(|m| m.generation = 5)),
        ("its own parent", |f| f.forge(|m| m.parent = 1)),
    ]));
}

#[test]
fn damaged_message() {
    insta::assert_snapshot!(say(&[
        ("an absurd size", |f| f.forge_frame(b"", 1 << 60)),
        ("no frame", |f| f.forge_frame(b"", 0)),
        ("a bomb", |f| f.forge_frame(&zstd::bulk::compress(&vec![0; 300 << 20], 1).unwrap(), 1000)),
        ("less than its size", |f| f.forge_frame(&zstd::bulk::compress(&[0; 10], 1).unwrap(), 1000)),
        ("no message", |f| f.forge_message(b"\xff\xff")),
        ("an empty message", |f| f.forge_message(b"")),
        ("a field that does not end", |f| f.forge_message(&[0x72, 0xff, 0xff, 0x03])),
        ("two million empty processes", |f| f.forge_message(&[0x62, 0].repeat(2 << 20))),
    ]));
}

#[test]
fn forged_names() {
    insta::assert_snapshot!(say(&[
        ("a path out of its folder", |f| add(f, b"/data/../etc/passwd", Kind::Directory, b"")),
        ("a path that ends above its folder", |f| add(f, b"/data/..", Kind::Directory, b"")),
        ("a path with a dot", |f| add(f, b"/data/./x", Kind::Directory, b"")),
        ("a path with an empty part", |f| add(f, b"/data//x", Kind::Directory, b"")),
        ("a relative path", |f| add(f, b"etc/passwd", Kind::Directory, b"")),
        ("no path", |f| add(f, b"", Kind::Directory, b"")),
        ("the root", |f| add(f, b"/", Kind::Directory, b"")),
        ("a zero byte in a path", |f| add(f, b"/a\0b", Kind::Fifo, b"")),
        ("a path twice", |f| add(f, b"/data/dump", Kind::Directory, b"")),
        ("a link to nowhere", |f| add(f, b"/link", Kind::Symlink, b"")),
        ("a zero byte in a link", |f| add(f, b"/link", Kind::Symlink, b"a\0b")),
        ("another name of a file that is not there", |f| add(f, b"/a", Kind::HardLink, b"/etc/shadow")),
        ("another name of itself", |f| add(f, b"/a", Kind::HardLink, b"/a")),
        ("an unknown kind", |f| add(f, b"/a", Kind::Unknown, b"")),
        ("a regular file without content", |f| add(f, b"/a", Kind::Regular, b"")),
        ("bits beside the mode", |f| f.forge(|m| m.files[0].mode = 0o100_644)),
        ("an image with a path", |f| f.forge(|m| m.images[0].name = "../pages-1.img".into())),
        ("an image without a name", |f| f.forge(|m| m.images[0].name = String::new())),
        ("an image twice", |f| f.forge(|m| m.images[1].name = "pages-1.img".into())),
        ("a pack with a path", |f| f.forge(|m| m.packs[0].id = "../../../../etc/shadow".into())),
    ]));
}

/// The longest path is shown by its length alone, so that the snapshot stays readable.
#[test]
fn paths_longer_than_linux_allows_are_refused() {
    let said = say(&[("a path of 4096 bytes", |f| add(f, &[b"/", &[b'a'; 4095][..]].concat(), Kind::Fifo, b""))]);
    assert!(said.contains("aaaa\" is not allowed") && !said.contains("encrypted"), "{said}");
}
