//! Damage to bodies and to the table of chunks.

use crate::fixture::say;
use crate::wire::WireBody;

#[test]
fn forged_bodies() {
    insta::assert_snapshot!(say(&[
        ("no body", |f| f.forge(|m| m.images[0].body = None)),
        ("an absurd slice", |f| f.forge_body(|b| b.lengths[0] = 1 << 40)),
        ("an empty slice", |f| f.forge_body(|b| b.lengths[0] = 0)),
        ("an absurd zero run", |f| f.forge_body(|b| {
            b.lengths.push(u64::MAX);
            b.chunks.push(0);
        })),
        ("an empty zero run", |f| f.forge_body(|b| {
            b.lengths.push(0);
            b.chunks.push(0);
        })),
        ("absurd zero runs in many bodies", |f| f.forge(|m| {
            let zeros = WireBody { lengths: vec![1 << 52], chunks: vec![0], ..WireBody::default() };
            let image = m.images[1].clone();
            let body = crate::wire::changed(image.body.as_ref().unwrap(), |b| *b = zeros);
            m.images.extend(
                (0..5000).map(|n| freeze::image::CriuImage { name: format!("n{n}"), body: Some(body.clone()) }),
            );
        })),
        ("a chunk beyond the table", |f| f.forge_body(|b| b.chunks[0] = 99)),
        ("the last possible chunk", |f| f.forge_body(|b| b.chunks[0] = u32::MAX)),
        ("a slice that ends behind its chunk", |f| f.forge_body(|b| b.firsts[0] = 1)),
        ("a slice that begins behind its chunk", |f| f.forge_body(|b| b.firsts[0] = u32::MAX)),
        ("part of a page in the middle of a chunk", |f| f.forge_body(|b| b.lengths[0] -= 1)),
        ("a missing first page", |f| f.forge_body(|b| b.firsts.clear())),
        ("a first page too many", |f| f.forge_body(|b| b.firsts.push(0))),
        ("a missing length", |f| f.forge_body(|b| b.lengths.truncate(1))),
        ("inline and chunks", |f| f.forge_body(|b| b.whole = Some(vec![1]))),
        ("too much inline", |f| f
            .forge_body(|b| *b = WireBody { whole: Some(vec![0; 20_000]), ..WireBody::default() })),
        ("another size of a file", |f| f.forge(|m| m.files[0].size += 1)),
    ]));
}

#[test]
fn forged_chunks() {
    insta::assert_snapshot!(say(&[
        ("no table", |f| f.forge_chunks(|c| *c = Default::default())),
        ("a pack that is not listed", |f| f.forge_chunks(|c| c.packs[0] = 8)),
        ("no packs", |f| f.forge(|m| m.packs.clear())),
        ("an absurd chunk", |f| f.forge_chunks(|c| c.raw[0] = 1 << 30)),
        ("an offset behind the pack", |f| f.forge_chunks(|c| c.offsets[0] = u32::MAX)),
        ("an offset in the pack's head", |f| f.forge_chunks(|c| c.offsets[0] = 0)),
        ("longer encoded than raw", |f| f.forge_chunks(|c| c.encoded[0] += 1)),
        ("shorter encoded than it is", |f| f.forge_chunks(|c| *c.encoded.last_mut().unwrap() -= 1)),
        ("an empty chunk", |f| f.forge_chunks(|c| c.encoded[0] = 0)),
        ("a missing pack", |f| f.forge_chunks(|c| c.packs.truncate(1))),
        ("a missing offset", |f| f.forge_chunks(|c| c.offsets.clear())),
        ("a missing length", |f| f.forge_chunks(|c| c.encoded.truncate(1))),
        ("a missing name", |f| f.forge_chunks(|c| c.names.truncate(16))),
        ("a part of a name", |f| f.forge_chunks(|c| c.names.push(0))),
        ("another name", |f| f.forge_chunks(|c| c.names[3] ^= 1)),
        ("another chunk's name", |f| f.forge_chunks(|c| c.names.copy_within(16..32, 0))),
        ("another chunk's place", |f| f.forge_chunks(|c| c.offsets[0] = c.offsets[1])),
        ("a place beside it", |f| f.forge_chunks(|c| c.offsets[0] += 1)),
        ("a raw length that its slices do not reach", |f| f.forge_chunks(|c| *c.raw.last_mut().unwrap() += 1)),
        ("a raw length that its slices exceed", |f| f.forge_chunks(|c| *c.raw.last_mut().unwrap() -= 4096)),
    ]));
}
