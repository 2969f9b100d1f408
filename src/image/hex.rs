//! Fixed-size byte arrays, written in JSON as lower-case hexadecimal digits. No other spelling is accepted.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::sys::random;

/// `N` bytes; in JSON `2 * N` hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hex<const N: usize>(
    /// The bytes.
    pub [u8; N],
);

impl<const N: usize> Hex<N> {
    pub(crate) fn random() -> Self {
        let mut bytes = [0; N];
        random::fill(&mut bytes);
        Self(bytes)
    }

    /// Parses exactly what [`Display`](fmt::Display) writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; N];
        if HEXLOWER.decode_len(text.len()) != Ok(N) {
            return None;
        }
        HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl<const N: usize> Default for Hex<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom(format_args!("expected {} hexadecimal digits", 2 * N)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn there_is_one_spelling() {
        assert_eq!(Hex::parse("00ff1a"), Some(Hex([0, 255, 26])));
        assert_eq!(Hex([0, 255, 26]).to_string(), "00ff1a");
        for text in ["", "00ff1", "00ff1a0", "00ff1a00", "00FF1A", "00ff1g", "+0ff1a", "0xff1a", "ä0000"] {
            assert_eq!(Hex::<3>::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_come_back(bytes: [u8; 16]) {
            let json = serde_json::to_string(&Hex(bytes)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Hex<16>>(&json).unwrap(), Hex(bytes));
        }

        #[test]
        fn fuzz_any_text_has_one_spelling(text in "[0-9a-gA-F+ä]{0,10}") {
            if let Some(found) = Hex::<4>::parse(&text) {
                prop_assert_eq!(found.to_string(), text);
            }
        }
    }
}
