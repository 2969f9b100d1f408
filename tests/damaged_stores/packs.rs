//! Damage to a pack, and to what a manifest says of one. A restore reads no more of a pack than the chunks that it needs.

use crate::fixture::{Fixture, say};

/// Where the pack's tail begins, seen from its end.
fn tail(f: &Fixture) -> usize {
    f.manifest.packs[0].tail as usize
}

/// Puts a frame in the place of the last chunk, with the right seal.
fn replace_text(f: &Fixture, frame: &[u8]) {
    let (text, id) = (f.text(), &f.manifest.packs[0].id);
    f.forge_chunks(|c| *c.encoded.last_mut().unwrap() = frame.len() as u32);
    let sealed = f.secrets().seal_chunk(id, text.offset, frame);
    f.change(&f.pack_key(), |pack| pack[text.offset as usize..][..sealed.len()].copy_from_slice(&sealed));
}

#[test]
fn damaged_pack() {
    insta::assert_snapshot!(say(&[
        ("missing", |f| f.remove(&f.pack_key())),
        ("empty", |f| f.resize(&f.pack_key(), 0)),
        ("truncated", |f| f.resize(&f.pack_key(), 5000)),
        ("truncated by a byte", |f| f.resize(&f.pack_key(), f.manifest.packs[0].size - 1)),
        ("longer by a byte", |f| f.resize(&f.pack_key(), f.manifest.packs[0].size + 1)),
        ("of version 1", |f| f.change(&f.pack_key(), |pack| {
            pack[7] = 1;
            *pack.last_mut().unwrap() = 1;
        })),
        ("of version 3", |f| f.change(&f.pack_key(), |pack| {
            pack[7] = 3;
            *pack.last_mut().unwrap() = 3;
        })),
        ("a flipped bit in the header", |f| f.flip(&f.pack_key(), 2)),
        ("a flipped bit in a chunk stored as it is", |f| f.flip(&f.pack_key(), 1000)),
        ("a flipped bit in a compressed chunk", |f| f.flip(&f.pack_key(), f.text().offset as usize + 30)),
        ("a flipped bit in the index's hash or nonce", |f| {
            f.change(&f.pack_key(), |pack| *pack.iter_mut().nth_back(tail(f) - 1).unwrap() ^= 1);
        }),
        ("a flipped bit in the index", |f| f.change(&f.pack_key(), |pack| *pack.iter_mut().nth_back(40).unwrap() ^= 1)),
        ("a flipped bit in the trailer", |f| f
            .change(&f.pack_key(), |pack| *pack.iter_mut().nth_back(3).unwrap() ^= 1)),
        ("an absurd length of the index", |f| {
            f.change(&f.pack_key(), |pack| *pack.iter_mut().nth_back(8).unwrap() = 0xff);
        }),
        ("an index longer than the pack", |f| {
            f.change(&f.pack_key(), |pack| *pack.iter_mut().nth_back(9).unwrap() = 0x80);
        }),
        ("no index", |f| f.change(&f.pack_key(), |pack| {
            let length = pack.len();
            pack[length - 12..length - 8].fill(0);
        })),
        ("a bomb in the place of a chunk", |f| {
            replace_text(f, &zstd::bulk::compress(&vec![0; 4 << 20], 1).unwrap());
        }),
        ("nonsense in the place of a chunk", |f| replace_text(f, b"nonsense")),
        ("other bytes in the place of a chunk", |f| {
            replace_text(f, &zstd::bulk::compress(&vec![b'x'; f.text().raw as usize], 1).unwrap());
        }),
    ]));
}

#[test]
fn forged_index() {
    insta::assert_snapshot!(say(&[
        ("empty", |f| f.forge_index(|index| index.clear())),
        ("one byte", |f| f.forge_index(|index| index.truncate(1))),
        ("truncated in its names", |f| f.forge_index(|index| index.truncate(20))),
        ("a byte too many", |f| f.forge_index(|index| index.push(0))),
        ("an empty chunk", |f| f.forge_index(|index| index[..4].fill(0))),
        ("an absurd chunk", |f| f.forge_index(|index| index[4..8].fill(0xff))),
        ("longer encoded than raw", |f| f.forge_index(|index| index[..4].fill(0xff))),
        ("a chunk twice", |f| f.forge_index(|index| index.extend_from_within(..))),
        ("another page's name", |f| f.forge_index(|index| index[8] ^= 1)),
    ]));
}

#[test]
fn forged_packs() {
    insta::assert_snapshot!(say(&[
        ("an absurd size", |f| f.forge(|m| m.packs[0].size = 1 << 40)),
        ("a smaller size", |f| f.forge(|m| m.packs[0].size -= 1)),
        ("a size below its chunks", |f| f.forge(|m| m.packs[0].size = 100)),
        ("a larger size", |f| f.forge(|m| m.packs[0].size += 1)),
        ("an absurd tail", |f| f.forge(|m| m.packs[0].tail = u64::MAX)),
        ("a tail longer than the pack", |f| f.forge(|m| m.packs[0].tail = m.packs[0].size + 1)),
        ("a shorter tail", |f| f.forge(|m| m.packs[0].tail = 3)),
        ("a pack twice", |f| f.forge(|m| m.packs.push(m.packs[0].clone()))),
        ("a pack that is not there", |f| f.forge(|m| m.packs[0].id = "0".repeat(32))),
    ]));
}
