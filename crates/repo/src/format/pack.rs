//! Packs: many sealed blobs in one file, with a sealed header at the end that lists them.
//!
//! Source: restic's design document, "Pack Format":
//! `blob … blob | sealed header | length of the sealed header (u32, little endian)`.

use super::{FormatError, FormatResult};
use crate::Id;
use crate::crypto::OVERHEAD;

/// What a blob holds. The kinds are kept in different packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory.
    Tree,
}

/// Where one blob is in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackBlob {
    /// The SHA-256 of the plain bytes.
    pub id: Id,
    /// What it holds.
    pub kind: BlobKind,
    /// Where the sealed bytes begin in the pack.
    pub offset: u32,
    /// How many sealed bytes there are.
    pub length: u32,
    /// How many plain bytes there are, when they are compressed; never `Some(0)`, which the format
    /// cannot tell from "not compressed".
    pub uncompressed_length: Option<u32>,
}

impl PackBlob {
    /// Returns how many plain bytes the blob has.
    pub fn plain_length(&self) -> u32 {
        let uncompressed = self.length.saturating_sub(OVERHEAD_32);
        self.uncompressed_length.unwrap_or(uncompressed)
    }

    /// Returns where the sealed bytes end in the pack.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }
}

const OVERHEAD_32: u32 = 32;
const _: () = assert!(OVERHEAD == OVERHEAD_32 as usize);

/// The bytes of the length at the very end of a pack.
pub const TRAILER: usize = 4;

/// The most bytes a sealed header may have; restic's own limit.
pub const HEADER_LIMIT: u32 = 16 << 20;

const PLAIN_ENTRY: usize = 1 + 4 + 32;
const COMPRESSED_ENTRY: usize = 1 + 4 + 4 + 32;

/// Returns how many bytes a blob takes in the (unsealed) header.
pub fn entry_size(blob: &PackBlob) -> usize {
    if blob.uncompressed_length.is_some() { COMPRESSED_ENTRY } else { PLAIN_ENTRY }
}

/// Returns the header that lists `blobs`, to be sealed. The blobs follow each other without gaps, in
/// this order; their offsets are not stored.
pub fn encode_header(blobs: &[PackBlob]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY);
    for blob in blobs {
        let tree = u8::from(blob.kind == BlobKind::Tree);
        header.push(tree | u8::from(blob.uncompressed_length.is_some()) << 1);
        header.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(length) = blob.uncompressed_length {
            header.extend_from_slice(&length.to_le_bytes());
        }
        header.extend_from_slice(blob.id.as_bytes());
    }
    header
}

/// Reads the last four bytes of a pack of `pack_size` bytes: the length of the sealed header before them.
pub fn decode_trailer(trailer: [u8; TRAILER], pack_size: u64) -> FormatResult<u32> {
    let length = u32::from_le_bytes(trailer);
    if !(OVERHEAD_32..=HEADER_LIMIT).contains(&length) {
        return Err(FormatError::new(format!("a header of {length} bytes is impossible")));
    }
    if u64::from(length) + TRAILER as u64 > pack_size {
        return Err(FormatError::new(format!("a header of {length} bytes does not fit {pack_size} bytes")));
    }
    Ok(length)
}

/// Reads an opened header, computes the offsets, and makes sure that blobs, header and trailer fill a
/// pack of `pack_size` bytes exactly.
pub fn decode_header(header: &[u8], pack_size: u64) -> FormatResult<Vec<PackBlob>> {
    let mut blobs = Vec::with_capacity(header.len() / PLAIN_ENTRY);
    let mut rest = header;
    let mut offset = 0u32;
    while !rest.is_empty() {
        let blob = decode_entry(&mut rest, offset)?;
        offset = offset
            .checked_add(blob.length)
            .ok_or_else(|| FormatError::new("the blobs in the header are longer than 4 GiB"))?;
        blobs.push(blob);
    }
    let size = u64::from(offset) + header.len() as u64 + (OVERHEAD + TRAILER) as u64;
    if size != pack_size {
        return Err(FormatError::new(format!("the header describes {size} bytes, not {pack_size}")));
    }
    Ok(blobs)
}

fn decode_entry(rest: &mut &[u8], offset: u32) -> FormatResult<PackBlob> {
    let cut = || FormatError::new("the header ends inside of an entry");
    let (&[kind], after) = rest.split_first_chunk::<1>().ok_or_else(cut)?;
    let (length, mut after) = after.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = u32::from_le_bytes(*length);
    let minimum = if kind & 2 == 0 { OVERHEAD_32 } else { OVERHEAD_32 + 1 };
    if kind > 3 || length < minimum {
        return Err(FormatError::new(format!("a blob of type {kind} with {length} bytes is impossible")));
    }
    let mut uncompressed_length = None;
    if kind & 2 != 0 {
        let (length, rest) = after.split_first_chunk::<4>().ok_or_else(cut)?;
        uncompressed_length = Some(u32::from_le_bytes(*length));
        after = rest;
    }
    if uncompressed_length == Some(0) {
        return Err(FormatError::new("a compressed blob of no bytes is impossible"));
    }
    let (id, after) = after.split_first_chunk::<32>().ok_or_else(cut)?;
    *rest = after;
    let kind = if kind & 1 == 0 { BlobKind::Data } else { BlobKind::Tree };
    Ok(PackBlob { id: Id::new(*id), kind, offset, length, uncompressed_length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (Vec<PackBlob>, u64) {
        let blob = |text: &[u8], kind, offset, length, uncompressed_length| PackBlob {
            id: Id::of(text),
            kind,
            offset,
            length,
            uncompressed_length,
        };
        let blobs = vec![
            blob(b"a", BlobKind::Data, 0, 38, None),
            blob(b"b", BlobKind::Data, 38, 112, Some(511)),
            blob(b"c", BlobKind::Tree, 150, 32, None),
            blob(b"d", BlobKind::Tree, 182, 123, Some(234)),
        ];
        let size = 305 + (37 + 41) * 2 + 32 + 4;
        (blobs, size)
    }

    #[test]
    fn header_is_read_back() {
        let (blobs, size) = blobs();
        let header = encode_header(&blobs);
        assert_eq!(header.len(), blobs.iter().map(entry_size).sum::<usize>());
        assert_eq!(decode_header(&header, size).unwrap(), blobs);
        assert_eq!(blobs[0].plain_length(), 6);
        assert_eq!(blobs[1].plain_length(), 511);
    }

    #[test]
    fn layout_is_the_documented_one() {
        let blob = PackBlob {
            id: Id::new([7; 32]),
            kind: BlobKind::Tree,
            offset: 0,
            length: 0x0102_0304,
            uncompressed_length: Some(0x0a0b_0c0d),
        };
        let mut expected = vec![3, 4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a];
        expected.extend([7; 32]);
        assert_eq!(encode_header(&[blob]), expected);
    }

    #[test]
    fn header_that_does_not_fill_the_pack_is_refused() {
        let (blobs, size) = blobs();
        let header = encode_header(&blobs);
        for wrong in [0, size - 1, size + 1, u64::MAX] {
            assert!(decode_header(&header, wrong).is_err());
        }
    }

    #[test]
    fn no_truncation_and_no_flipped_length_passes() {
        let (blobs, size) = blobs();
        let header = encode_header(&blobs);
        for length in 0..header.len() {
            assert!(decode_header(&header[..length], size).is_err(), "{length}");
        }
        for position in 0..header.len() {
            for bit in 0..8 {
                let mut damaged = header.clone();
                damaged[position] ^= 1 << bit;
                if let Ok(found) = decode_header(&damaged, size) {
                    assert_ne!(found, blobs, "byte {position} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let blob = |length| PackBlob {
            id: Id::NULL,
            kind: BlobKind::Data,
            offset: 0,
            length,
            uncompressed_length: None,
        };
        let header = encode_header(&[blob(u32::MAX), blob(u32::MAX)]);
        assert!(decode_header(&header, 1 << 40).is_err());
        assert!(decode_trailer(u32::MAX.to_le_bytes(), 1 << 40).is_err());
        assert!(decode_trailer(31u32.to_le_bytes(), 1000).is_err());
        assert!(decode_trailer(100u32.to_le_bytes(), 103).is_err());
        assert_eq!(decode_trailer(100u32.to_le_bytes(), 104), Ok(100));
    }
}
