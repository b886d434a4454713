//! Index files: which pack holds which blobs.
//!
//! Source: restic's design document, "Indexing"; `time` and `packs_to_delete` are rustic's additions,
//! which restic ignores: packs that are no longer needed and will be deleted after a time of grace.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::pack::{BlobKind, PackBlob};
use super::{FormatError, FormatResult, null_as_default};
use crate::Id;
use crate::crypto::OVERHEAD;

/// The contents of an index file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFile {
    /// Index files that this one replaces.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<Id>,
    /// The packs described.
    #[serde(default, deserialize_with = "null_as_default")]
    pub packs: Vec<IndexPack>,
    /// Packs that wait to be deleted. Their blobs can be read, but nothing new may rely on them.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub packs_to_delete: Vec<IndexPack>,
}

/// One pack and its blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPack {
    /// The name of the pack.
    pub id: Id,
    /// When the pack was written, or marked for deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The blobs in it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub blobs: Vec<PackBlob>,
}

/// A blob as the JSON has it.
#[derive(Serialize, Deserialize)]
struct BlobJson {
    id: Id,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "super::is_zero")]
    uncompressed_length: u32,
}

impl Serialize for PackBlob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        BlobJson {
            id: self.id,
            kind: self.kind,
            offset: self.offset,
            length: self.length,
            uncompressed_length: self.uncompressed_length.unwrap_or(0),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PackBlob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let blob = BlobJson::deserialize(deserializer)?;
        let uncompressed_length = (blob.uncompressed_length != 0).then_some(blob.uncompressed_length);
        Ok(Self {
            id: blob.id,
            kind: blob.kind,
            offset: blob.offset,
            length: blob.length,
            uncompressed_length,
        })
    }
}

impl IndexFile {
    /// Returns the JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("ids, numbers and times always become JSON")
    }

    /// Reads the JSON. Every blob is at least as long as a seal and ends within 4 GiB, and no two blobs of a pack
    /// share bytes: what is at a place has one name.
    pub fn decode(json: &[u8]) -> FormatResult<Self> {
        let index: Self = serde_json::from_slice(json)?;
        for pack in index.packs.iter().chain(&index.packs_to_delete) {
            for blob in &pack.blobs {
                let too_short = usize::try_from(blob.length).is_ok_and(|length| length < OVERHEAD);
                if too_short || blob.offset.checked_add(blob.length).is_none() {
                    let id = blob.id;
                    return Err(FormatError::new(format!("blob {id:.8} has an impossible place")));
                }
            }
            if has_overlaps(&pack.blobs) {
                return Err(FormatError::new(format!("blobs of pack {:.8} overlap", pack.id)));
            }
        }
        Ok(index)
    }
}

/// Says whether two different blobs share bytes. One that is listed twice is only superfluous.
fn has_overlaps(blobs: &[PackBlob]) -> bool {
    let overlap = |one: &PackBlob, next: &PackBlob| one != next && one.end() > u64::from(next.offset);
    if !blobs.windows(2).any(|pair| overlap(&pair[0], &pair[1])) {
        // In order of their places, as writers list them.
        return false;
    }
    let mut sorted: Vec<&PackBlob> = blobs.iter().collect();
    sorted.sort_unstable_by_key(|blob| (blob.offset, blob.length, blob.id));
    sorted.windows(2).any(|pair| overlap(pair[0], pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_the_design_document_is_read() {
        let json = br#"{"supersedes":["ed54ae36197f4745ebc4b54d10e0f623eaaaedd03013eb7ae90df881b7781452"],
            "packs":[{"id":"73d04e6125cf3c28a299cc2f3cca3b78ceac396e4fcf9575e34536b26782413c","blobs":[
            {"id":"3ec79977ef0cf5de7b08cd12b874cd0f62bbaf7f07f3497a5b1bbcc8cb39b1ce","type":"data","offset":0,"length":38},
            {"id":"9ccb846e60d90d4eb915848add7aa7ea1e4bbabfc60e573db9f7bfb2789afbae","type":"tree","offset":38,"length":112,
             "uncompressed_length":511, "later": [1]}]}]}"#;
        let index = IndexFile::decode(json).unwrap();
        assert_eq!(index.supersedes.len(), 1);
        assert_eq!(index.packs[0].blobs[0].uncompressed_length, None);
        assert_eq!(index.packs[0].blobs[1].kind, BlobKind::Tree);
        assert_eq!(index.packs[0].blobs[1].uncompressed_length, Some(511));
        assert_eq!(IndexFile::decode(&index.encode()).unwrap(), index);
    }

    #[test]
    fn nothing_that_is_empty_is_written() {
        let index = IndexFile {
            packs: vec![IndexPack {
                id: Id::NULL,
                time: None,
                blobs: vec![PackBlob {
                    id: Id::NULL,
                    kind: BlobKind::Data,
                    offset: 0,
                    length: 38,
                    uncompressed_length: None,
                }],
            }],
            ..IndexFile::default()
        };
        let zeros = "0".repeat(64);
        let expected = format!(
            r#"{{"packs":[{{"id":"{zeros}","blobs":[{{"id":"{zeros}","type":"data","offset":0,"length":38}}]}}]}}"#
        );
        assert_eq!(String::from_utf8(index.encode()).unwrap(), expected);
    }

    #[test]
    fn lists_may_be_null() {
        assert_eq!(IndexFile::decode(br#"{"packs":null}"#).unwrap(), IndexFile::default());
    }

    #[test]
    fn impossible_places_are_refused() {
        let zeros = "0".repeat(64);
        for place in
            [r#""offset":0,"length":31"#, r#""offset":4294967295,"length":64"#, r#""offset":-1,"length":64"#]
        {
            let json = format!(
                r#"{{"packs":[{{"id":"{zeros}","blobs":[{{"id":"{zeros}","type":"data",{place}}}]}}]}}"#
            );
            assert!(IndexFile::decode(json.as_bytes()).is_err(), "{place}");
        }
    }

    #[test]
    fn place_with_two_names_is_refused() {
        let blob = |name: &[u8], offset, length| PackBlob {
            id: Id::of(name),
            kind: BlobKind::Data,
            offset,
            length,
            uncompressed_length: None,
        };
        let decoded = |blobs: &[PackBlob]| {
            let packs = vec![IndexPack { id: Id::NULL, time: None, blobs: blobs.to_vec() }];
            IndexFile::decode(&IndexFile { packs, ..IndexFile::default() }.encode())
        };
        let (first, second, third) = (blob(b"a", 0, 40), blob(b"b", 40, 40), blob(b"c", 80, 40));
        for sound in [&[first, second, third][..], &[third, first, second], &[first, first, second], &[]] {
            decoded(sound).unwrap();
        }
        for odd in [blob(b"d", 0, 40), blob(b"d", 39, 41), blob(b"a", 0, 41), blob(b"d", 79, 33)] {
            assert!(decoded(&[first, second, third, odd]).is_err(), "{odd:?}");
            assert!(decoded(&[odd, third, second, first]).is_err(), "{odd:?}");
        }
    }
}
