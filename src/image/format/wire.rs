//! Bounds a protobuf message before it is decoded: what it would allocate is counted first.

use crate::image::error::Flaw;

/// Most fields of the outermost message: images, files, processes, packs and the like together. One costs two bytes in a
/// message and some hundred in memory, so they are counted before anything is allocated for them.
const FIELDS_MAX: u64 = 1 << 20;
/// Counts the fields of a protobuf message without decoding it.
pub(crate) fn count_fields(mut message: &[u8]) -> Result<(), Flaw> {
    let syntax = |e: prost::DecodeError| Flaw::Syntax(e.to_string());
    let mut count = 0;
    while !message.is_empty() {
        count += 1;
        Flaw::bound("number of entries", count, FIELDS_MAX)?;
        let key = prost::decode_length_delimiter(&mut message).map_err(syntax)?;
        let value = |message: &mut &[u8]| prost::decode_length_delimiter(message).map_err(syntax);
        let skipped = match key & 7 {
            0 => value(&mut message).map(|_| 0)?,
            1 => 8,
            2 => value(&mut message)?,
            5 => 4,
            _ => return Err(Flaw::Syntax("unknown wire type".into())),
        };
        message = message.get(skipped..).ok_or(Flaw::Truncated)?;
    }
    Ok(())
}
