//! The name of everything in a repository: a SHA-256.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SHA-256, the name of a blob, a pack, an index, a snapshot, a lock, a key or a fact.
///
/// Written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 32]);

/// The text was not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of 64 hexadecimal digits: {0:?}")]
pub struct ParseIdError(String);

impl Id {
    /// The id of nothing; used where the format has an object without a name (`config`).
    pub const NULL: Self = Self([0; 32]);

    /// Wraps 32 bytes that are already an id.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the id of `contents`.
    pub fn of(contents: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, contents);
        Self(digest.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// Returns the id of each of `contents`.
    pub fn of_each(contents: &[&[u8]]) -> Vec<Self> {
        let mut ids = Vec::with_capacity(contents.len());
        crate::sha::ids(contents, &mut ids);
        ids
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first eight digits, as people are shown.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }

    /// Says whether the digits of this id start with `prefix`.
    pub fn starts_with(&self, prefix: &str) -> bool {
        self.to_string().starts_with(&prefix.to_ascii_lowercase())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        out.pad(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Id({self:.8})")
    }
}

impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(ParseIdError(text.to_owned()));
        }
        let mut bytes = [0u8; 32];
        let mut wrong = 0;
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            wrong |= high | low;
            *byte = high << 4 | low & 15;
        }
        if wrong & NO_DIGIT == 0 { Ok(Self(bytes)) } else { Err(ParseIdError(text.to_owned())) }
    }
}

/// The value of what is no digit; that of a digit is below 16.
const NO_DIGIT: u8 = 0x80;

/// The value of each character as a lower-case hexadecimal digit; a table, as listings parse ids by the thousand.
///
/// Upper case is refused: stock tools compare names as text.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let digits = b"0123456789abcdef";
    let mut value = 0;
    while value < 16 {
        values[digits[value as usize] as usize] = value;
        value += 1;
    }
    values
};

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Id {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "A SHA-256: 64 lower-case hexadecimal digits."
        })
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Id;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an id of 64 hexadecimal digits")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_nothing_is_the_known_sha_256() {
        let id = Id::of(b"");
        assert_eq!(id.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(id.to_string().parse::<Id>(), Ok(id));
        assert_eq!(id.short(), "e3b0c442");
        assert!(id.starts_with("E3B0") && !id.starts_with("e3b1"));
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        let mostly = |odd: &str| format!("{}{odd}{}", "0".repeat(31), "f".repeat(32));
        let texts = ["", "e3b0", &"g".repeat(64), &"E".repeat(64), &"0".repeat(65), &"é".repeat(32)];
        for text in texts.map(str::to_owned).into_iter().chain(["A", "/", ":", "`", "g", " "].map(mostly)) {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }
}
