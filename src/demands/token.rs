//! Demands as one word, by which a source asks its target before it takes a checkpoint: `demands:` and hexadecimal
//! digits of the compressed message.

use data_encoding::HEXLOWER;

use crate::image::Demands;

const PREFIX: &str = "demands:";
/// Most characters of a word: half of what one argument of a program may have (execve(2)).
const WORD_LIMIT: usize = 64 << 10;
/// Most bytes of a message.
const MESSAGE_LIMIT: usize = 1 << 20;

impl Demands {
    /// None if they are too long for a word.
    pub fn to_word(&self) -> Option<String> {
        let message = zstd::bulk::compress(&prost::Message::encode_to_vec(self), 0).ok()?;
        let word = format!("{PREFIX}{}", HEXLOWER.encode(&message));
        (word.len() <= WORD_LIMIT).then_some(word)
    }

    /// None if it is no such word.
    pub fn from_word(word: &str) -> Option<Self> {
        let digits = word.strip_prefix(PREFIX).filter(|_| word.len() <= WORD_LIMIT)?;
        let bytes = HEXLOWER.decode(digits.as_bytes()).ok()?;
        let message = zstd::bulk::decompress(&bytes, MESSAGE_LIMIT).ok()?;
        prost::Message::decode(&*message).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Bound;
    use proptest::prelude::*;

    #[test]
    fn a_word_comes_back_and_one_that_is_too_long_is_none() {
        let bound = |port| Bound { address: vec![port as u8; 16], port, datagrams: true };
        let demands =
            |ports| Demands { arch: "x86_64".into(), bound: (0..ports).map(bound).collect(), ..Demands::default() };
        let word = demands(9).to_word().unwrap();
        assert!(word.chars().all(|c| c.is_ascii_alphanumeric() || c == ':'), "{word}");
        assert_eq!(Demands::from_word(&word), Some(demands(9)));
        assert_eq!(demands(60_000).to_word(), None);
    }

    proptest! {
        #[test]
        fn fuzz_any_word_is_demands_or_not(word: String, bytes: Vec<u8>) {
            let _ = Demands::from_word(&word);
            let _ = Demands::from_word(&format!("{PREFIX}{}", HEXLOWER.encode(&bytes)));
        }
    }
}
