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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fact::{Fact, FactFile, SnapshotRef};
    use super::index::{IndexFile, IndexPack};
    use super::key::{Cost, KeyFile};
    use super::lock::LockFile;
    use super::pack::{BlobKind, PackBlob, decode_header, encode_header};
    use super::snapshot::Snapshot;
    use super::tree::{Node, Tree};
    use super::*;
    use crate::Id;
    use crate::crypto::MasterKey;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn blob(id: [u8; 32], length: u32, uncompressed_length: Option<u32>) -> PackBlob {
        PackBlob { id: Id::new(id), kind: BlobKind::Data, offset: 0, length, uncompressed_length }
    }

    type Decode = fn(&[u8]) -> bool;

    /// One valid example of each kind of JSON, and what reads it.
    fn examples() -> Vec<(&'static str, Vec<u8>, Decode)> {
        let key = MasterKey::generate().unwrap();
        let cost = Cost { log_n: 1, r: 1, p: 1 };
        let reference = SnapshotRef { id: Id::of(b"s"), tree: Id::of(b"t"), database: "d".to_owned() };
        let fact = Fact::Forgotten { snapshots: vec![reference], reason: "r".to_owned() };
        let packs =
            vec![IndexPack { id: Id::NULL, time: Some(NOW), blobs: vec![blob([1; 32], 40, Some(9))] }];
        let nodes = vec![Node::file("a\n", NOW, 9, vec![Id::NULL]), Node::directory("b", NOW, Id::NULL)];
        let lock =
            br#"{"time":"2015-06-27T12:18:51.7+02:00","exclusive":true,"hostname":"k","pid":1,"uid":2}"#;
        let previous = vec![Id::NULL];
        let fact = FactFile { version: 1, time: NOW, hostname: String::new(), previous, fact };
        let index = IndexFile { supersedes: vec![Id::NULL], packs: packs.clone(), packs_to_delete: packs };
        vec![
            ("config", config::Config::generate().unwrap().encode(), |json| {
                config::Config::decode(json).is_ok()
            }),
            ("key", KeyFile::wrap_master(&key, "p", cost, "u", "h", NOW).unwrap().encode(), |json| {
                KeyFile::decode(json).is_ok()
            }),
            ("index", index.encode(), |json| IndexFile::decode(json).is_ok()),
            ("snapshot", Snapshot::new(NOW, Id::NULL).encode(), |json| Snapshot::decode(json).is_ok()),
            ("tree", Tree { nodes }.encode().unwrap(), |json| Tree::decode(json).is_ok()),
            ("lock", lock.to_vec(), |json| LockFile::decode(json).is_ok()),
            ("fact", fact.encode(), |json| FactFile::decode(json).is_ok()),
        ]
    }

    #[test]
    fn no_damage_to_any_object_makes_a_parser_panic() {
        for (what, json, decode) in examples() {
            assert!(decode(&json), "{what}");
            let end = json.trim_ascii_end().len();
            for length in 0..json.len() {
                assert_eq!(decode(&json[..length]), length >= end, "{what} cut at {length}");
            }
            for position in 0..json.len() {
                for bit in 0..8 {
                    let mut damaged = json.clone();
                    damaged[position] ^= 1 << bit;
                    decode(&damaged);
                    unpacked::decode(&damaged).ok();
                }
            }
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = [b"{\"version\":1,\"fact\":".to_vec(), b"[".repeat(1_000_000)].concat();
        for (what, _, decode) in examples() {
            assert!(!decode(&deep), "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), size: u64) {
            for (_, _, decode) in examples() {
                decode(&bytes);
            }
            decode_header(&bytes, size).ok();
            unpacked::decode(&bytes).ok();
            let mut compressed = bytes.clone();
            compressed.insert(0, 2);
            unpacked::decode(&compressed).ok();
        }

        #[test]
        fn any_header_is_read_back(entries in proptest::collection::vec(
            (any::<[u8; 32]>(), 33..1_000_000u32, proptest::option::of(1..u32::MAX)), 0..50)
        ) {
            let mut blobs: Vec<_> = entries.into_iter().map(|(id, length, plain)| blob(id, length, plain)).collect();
            let mut offset = 0;
            for blob in &mut blobs {
                blob.offset = offset;
                offset += blob.length;
            }
            let header = encode_header(&blobs);
            let size = u64::from(offset) + header.len() as u64 + 36;
            prop_assert_eq!(decode_header(&header, size).unwrap(), blobs);
        }

        #[test]
        fn any_name_survives_a_tree(name in "[^/\0]{1,40}") {
            prop_assume!(name != "." && name != "..");
            let tree = Tree { nodes: vec![Node::directory(&name, NOW, Id::NULL)] };
            prop_assert_eq!(Tree::decode(&tree.encode().unwrap()).unwrap(), tree);
        }

        #[test]
        fn any_json_survives_wrapping(text in ".{0,2000}") {
            let json = serde_json::to_vec(&[&text]).unwrap();
            prop_assert_eq!(unpacked::decode(&unpacked::encode(&json)).unwrap(), json);
        }
    }
}
