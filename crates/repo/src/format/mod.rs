//! The objects of a repository as bytes: what restic's design document says of them, and our facts.
//!
//! Nothing here does I/O. Whatever parses bytes that somebody else wrote is bounded by the length of
//! its input, checks every length, and returns [`FormatError`] instead of panicking.

pub mod config;
pub mod fact;
pub mod index;
pub mod key;
pub mod lock;
pub mod pack;
pub mod snapshot;
pub mod tree;
pub mod unpacked;

use serde::{Deserialize, Deserializer};

/// The bytes are not what they should be; the text says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

impl FormatError {
    /// Makes an error that says `what` is wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl From<serde_json::Error> for FormatError {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("unexpected JSON: {error}"))
    }
}

/// The result of parsing.
pub type FormatResult<T> = std::result::Result<T, FormatError>;

/// Reads JSON's `null` as the type's default: Go writes an empty list so.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Says whether a number is zero, which Go leaves out of its JSON.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
