//! Bounds the memory of decoding a protobuf message: counts its entries before any allocation.

use crate::image::error::Flaw;

/// Most fields of the outermost message: CRIU images, files, processes, packs, etc. A field takes two bytes
/// in a message and some hundred in memory.
const FIELDS_MAX: u64 = 1 << 20;
/// Most fields of inner messages: of files, their attributes and bodies. A field takes two bytes in a message and some
/// fifty in memory. Enough for any outermost message.
const INNER_MAX: u64 = FIELDS_MAX << 4;
/// Most numbers of all inner messages together: threads of processes, columns of bodies and of the chunk table. A number
/// takes one byte in a message and up to eight in memory. Enough for a service of 1 TiB.
const NUMBERS_MAX: u64 = 1 << 26;

/// The part of a field's type that determines how much decoding allocates.
enum Shape {
    /// A packed list of numbers.
    Numbers,
    /// A message: its fields to count, by number.
    Message(&'static [(usize, Shape)]),
}

/// Fields of [`Manifest`](super::manifest::Manifest) that are messages with lists of numbers. Add every new
/// list of an inner message here.
const MANIFEST: &[(usize, Shape)] = &[
    (12, Shape::Message(&[(6, Shape::Numbers)])),
    (14, Shape::Message(&[(2, BODY)])),
    (15, Shape::Message(&[(8, BODY)])),
    (19, Shape::Message(&[(1, Shape::Numbers), (2, Shape::Numbers), (3, Shape::Numbers), (4, Shape::Numbers)])),
    (27, Shape::Message(&[])),
];
const BODY: Shape = Shape::Message(&[(2, Shape::Numbers), (3, Shape::Numbers), (4, Shape::Numbers)]);

/// Fails if decoding a manifest's message would allocate too much.
pub(crate) fn count_entries(message: &[u8]) -> Result<(), Flaw> {
    let most = Entries { fields: FIELDS_MAX, inner: INNER_MAX, numbers: NUMBERS_MAX };
    count_within(message, &most)
}

/// How many there are of each kind, or may be.
#[derive(Debug, Default, Clone, Copy)]
struct Entries {
    fields: u64,
    inner: u64,
    numbers: u64,
}

fn count_within(message: &[u8], most: &Entries) -> Result<(), Flaw> {
    let mut found = Entries::default();
    each_field(message, &mut |tag, content| {
        found.fields += 1;
        Flaw::bound("number of entries", found.fields, most.fields)?;
        count_inner(MANIFEST, tag, content, &mut found, most)
    })
}

fn count_inner(
    message: &[(usize, Shape)],
    tag: usize,
    content: &[u8],
    found: &mut Entries,
    most: &Entries,
) -> Result<(), Flaw> {
    match message.iter().find(|(known, _)| *known == tag) {
        None => return Ok(()),
        // A varint ends with its only byte below 128.
        Some((_, Shape::Numbers)) => found.numbers += content.iter().filter(|byte| **byte < 128).count() as u64,
        Some((_, Shape::Message(inner))) => each_field(content, &mut |tag, content| {
            found.inner += 1;
            Flaw::bound("number of entries", found.inner, most.inner)?;
            count_inner(inner, tag, content, found, most)
        })?,
    }
    Flaw::bound("number of entries", found.numbers, most.numbers).map(drop)
}

/// Calls `with` for the number and content of each field. A varint's content is empty.
fn each_field<'a>(
    mut message: &'a [u8],
    with: &mut dyn FnMut(usize, &'a [u8]) -> Result<(), Flaw>,
) -> Result<(), Flaw> {
    let number =
        |message: &mut &[u8]| prost::decode_length_delimiter(message).map_err(|error| Flaw::Syntax(error.to_string()));
    while !message.is_empty() {
        let key = number(&mut message)?;
        let length = match key & 7 {
            0 => number(&mut message).map(|_| 0)?,
            1 => 8,
            2 => number(&mut message)?,
            5 => 4,
            _ => return Err(Flaw::Syntax("unknown wire type".into())),
        };
        let (content, rest) = message.split_at_checked(length).ok_or(Flaw::Truncated)?;
        with(key >> 3, content)?;
        message = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::encoding::{WireType, encode_key, encode_varint};

    use super::*;

    /// The field `tag` of a message, with this content.
    fn within(tag: u32, content: &[u8]) -> Vec<u8> {
        let mut field = Vec::new();
        encode_key(tag, WireType::LengthDelimited, &mut field);
        encode_varint(content.len() as u64, &mut field);
        [field, content.to_vec()].concat()
    }

    #[test]
    fn every_list_of_numbers_is_counted() {
        let numbers: Vec<u8> = [1, 0x80, 0x80, 1].repeat(5);
        let lists: [&[u32]; 11] = [
            &[12, 6],
            &[14, 2, 2],
            &[14, 2, 3],
            &[14, 2, 4],
            &[15, 8, 2],
            &[15, 8, 3],
            &[15, 8, 4],
            &[19, 1],
            &[19, 2],
            &[19, 3],
            &[19, 4],
        ];
        for path in lists {
            let message = path.iter().rev().fold(numbers.clone(), |content, tag| within(*tag, &content));
            let most = Entries { fields: 1, inner: path.len() as u64 - 1, numbers: 10 };
            assert_eq!(count_within(&message, &most), Ok(()), "{path:?}");
            for less in [Entries { numbers: 9, ..most }, Entries { inner: most.inner - 1, ..most }] {
                assert!(matches!(count_within(&message, &less), Err(Flaw::Bound { .. })), "{path:?}");
            }
        }
    }
}
