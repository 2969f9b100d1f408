//! Compresses a chunk by zstd, or stores it raw if that is not shorter: stored length = raw length means raw.
//!
//! Never produces more than the declared raw length.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// Compresses chunks. One per thread, since its tables are large.
pub(crate) struct Encoder {
    zstd: Compressor<'static>,
    scratch: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(largest: usize) -> io::Result<Self> {
        Ok(Self { zstd: Compressor::default(), scratch: Vec::with_capacity(zstd::zstd_safe::compress_bound(largest)) })
    }

    /// The form that this level of zstd gives, or None if it is not shorter than `raw`.
    pub(crate) fn encode(&mut self, raw: &[u8], level: i32) -> Option<&[u8]> {
        self.zstd.set_compression_level(level).ok()?;
        match self.zstd.compress_to_buffer(raw, &mut self.scratch) {
            Ok(length) if length < raw.len() => Some(&self.scratch[..length]),
            _ => None,
        }
    }
}

/// Decompresses chunks.
pub(crate) struct Decoder(Decompressor<'static>);

impl Decoder {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Decompressor::new()?))
    }

    /// Decodes a chunk. None unless it has exactly `raw` bytes.
    pub(crate) fn decode(&mut self, encoded: &[u8], raw: usize) -> Option<Vec<u8>> {
        if encoded.len() == raw {
            return Some(encoded.to_vec());
        }
        let mut data = Vec::with_capacity(raw);
        self.0.decompress_to_buffer(encoded, &mut data).ok().filter(|length| *length == raw)?;
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use proptest::prelude::*;

    fn round(raw: &[u8]) -> usize {
        let mut encoder = Encoder::new(raw.len()).unwrap();
        let encoded = encoder.encode(raw, 1).unwrap_or(raw).to_vec();
        assert_eq!(Decoder::new().unwrap().decode(&encoded, raw.len()).unwrap(), raw);
        encoded.len()
    }

    #[test]
    fn text_shrinks_and_noise_stays() {
        assert!(round(&b"the same again ".repeat(1000)) < 200);
        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(round(&noise), 4096);
        assert_eq!(round(b"x"), 1);
    }

    #[test]
    fn a_bomb_is_stopped_at_the_declared_size() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert_eq!(Decoder::new().unwrap().decode(&bomb, 1 << 20), None);
    }

    #[test]
    fn less_than_declared_is_an_error() {
        let short = zstd::bulk::compress(&[7; 100], 1).unwrap();
        assert_eq!(Decoder::new().unwrap().decode(&short, 200), None);
        assert_eq!(Decoder::new().unwrap().decode(b"nonsense", 200), None);
    }

    #[test]
    fn fuzz_a_damaged_chunk_has_its_size_or_is_none() {
        let text = b"the same again, and again ".repeat(300);
        let frame = zstd::bulk::compress(&text, 1).unwrap();
        let decoder = std::cell::RefCell::new(Decoder::new().unwrap());
        proptest!(|(edits in fuzz::edits(), any in prop::collection::vec(any::<u8>(), 0..200), raw in 0usize..10_000)| {
            for (encoded, raw) in [(fuzz::damaged(&frame, &edits), text.len()), (frame.clone(), raw), (any, raw)] {
                if let Some(decoded) = decoder.borrow_mut().decode(&encoded, raw) {
                    prop_assert_eq!(decoded.len(), raw);
                }
            }
            // An earlier failure leaves no trace in the decoder.
            prop_assert!(decoder.borrow_mut().decode(&frame, text.len()).as_ref() == Some(&text));
        });
    }
}
