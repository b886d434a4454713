//! What an image is cut into, and what is remembered of it until the next backup.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::seal::Fingerprint;
use crate::Id;
use crate::error::BoxError;

/// The bytes of a database image, from front to back.
pub trait ImageSource {
    /// Fills `buffer` and returns how many bytes that were; fewer than asked for only at the
    /// end of the image, 0 after it.
    fn read(&mut self, buffer: &mut [u8]) -> std::result::Result<usize, BoxError>;
}

impl<F: FnMut(&mut [u8]) -> std::result::Result<usize, BoxError>> ImageSource for F {
    fn read(&mut self, buffer: &mut [u8]) -> std::result::Result<usize, BoxError> {
        self(buffer)
    }
}

/// How to cut and recognise an image.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions<'a> {
    /// The length of every chunk but the last, in bytes; 1 KiB to 16 MiB.
    pub chunk_size: u32,
    /// The chunks of the image's last backup. Ignored when they have another size.
    pub known: Option<&'a KnownChunks>,
    /// Whether to take the SHA-256 of the whole image as well. It costs a second, sequential pass of hashing.
    pub sha256: bool,
}

/// A chunk that was stored once: how to recognise it, and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownChunk {
    /// The BLAKE3 of its bytes under [`crate::crypto::MasterKey::fingerprint_key`].
    pub fingerprint: Fingerprint,
    /// The SHA-256 of its bytes.
    pub id: Id,
}

/// The chunks of an image in order, for the local state: the next backup recognises those
/// that did not change without SHA-256. Losing it costs time, never truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownChunks {
    /// The length of every chunk but the last, in bytes.
    pub chunk_size: u32,
    /// One entry a chunk.
    pub chunks: Vec<KnownChunk>,
}

/// A list of known chunks could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of known chunks is damaged")]
pub struct DamagedKnownChunks;

/// How encoded lists begin; the number is the version.
const MAGIC: &[u8; 16] = b"dbkeep chunks 1\n";
const HEADER: usize = MAGIC.len() + 4;
const ENTRY: usize = 64;
const CHECKSUM: usize = 32;

impl KnownChunks {
    /// Returns the list as bytes: magic, chunk size (little-endian), entries, BLAKE3 of all that.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.chunks.len() * ENTRY + CHECKSUM);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.chunk_size.to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.fingerprint);
            bytes.extend_from_slice(chunk.id.as_bytes());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// Reads what [`KnownChunks::encode`] wrote; anything else is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedKnownChunks> {
        let split =
            bytes.len().checked_sub(CHECKSUM).filter(|end| *end >= HEADER).ok_or(DamagedKnownChunks)?;
        let (contents, checksum) = bytes.split_at(split);
        let (header, entries) = contents.split_at(HEADER);
        let (magic, chunk_size) = header.split_at(MAGIC.len());
        let sound = magic == MAGIC
            && entries.len().is_multiple_of(ENTRY)
            && blake3::hash(contents).as_bytes().as_slice() == checksum;
        let chunk_size = chunk_size.try_into().map_err(|_| DamagedKnownChunks)?;
        if !sound {
            return Err(DamagedKnownChunks);
        }
        let chunks = entries.chunks_exact(ENTRY).map(|entry| {
            let mut chunk = KnownChunk { fingerprint: [0; 32], id: Id::NULL };
            let mut id = [0; 32];
            chunk.fingerprint.copy_from_slice(&entry[..32]);
            id.copy_from_slice(&entry[32..]);
            chunk.id = Id::new(id);
            chunk
        });
        Ok(Self { chunk_size: u32::from_le_bytes(chunk_size), chunks: chunks.collect() })
    }
}

/// An image whose chunks are stored, or will be when the writer is flushed.
#[derive(Clone)]
pub struct StoredImage {
    /// The length of every chunk but the last, in bytes.
    pub chunk_size: u32,
    /// The length of the image, in bytes.
    pub size: u64,
    /// One entry a chunk, in order.
    pub chunks: Vec<KnownChunk>,
    /// The SHA-256 of the whole image, when it was asked for and no chunk was replaced since.
    pub sha256: Option<[u8; 32]>,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Plain bytes that were not in the repository before. Chunks replaced later count.
    pub bytes_added: u64,
    /// The same, compressed and sealed. Chunks replaced later count in [`super::Totals`] only.
    pub bytes_stored: u64,
}

impl StoredImage {
    /// Returns the SHA-256 over the ordered chunk ids: equal roots and chunk sizes mean equal images.
    pub fn root(&self) -> Id {
        root(self.chunks.iter().map(|chunk| &chunk.id))
    }

    /// Returns what the next backup of the same database can use.
    pub fn known(&self) -> KnownChunks {
        KnownChunks { chunk_size: self.chunk_size, chunks: self.chunks.clone() }
    }
}

impl fmt::Debug for StoredImage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "StoredImage({} bytes, {} chunks of {})", self.size, self.chunks.len(), self.chunk_size)
    }
}

/// Returns the SHA-256 over chunk ids in order.
pub(crate) fn root<'a>(ids: impl Iterator<Item = &'a Id>) -> Id {
    let mut context = Context::new(&SHA256);
    for id in ids {
        context.update(id.as_bytes());
    }
    Id::new(digest_of(context))
}

/// Returns the 32 bytes of a SHA-256 that was fed piece by piece.
pub(crate) fn digest_of(context: Context) -> [u8; 32] {
    context.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> KnownChunks {
        let chunk = |number: u8| KnownChunk { fingerprint: [number; 32], id: Id::of(&[number]) };
        KnownChunks { chunk_size: 65536, chunks: (0..5).map(chunk).collect() }
    }

    #[test]
    fn known_chunks_come_back_as_they_were() {
        assert_eq!(KnownChunks::decode(&list().encode()), Ok(list()));
        let none = KnownChunks { chunk_size: 4096, chunks: Vec::new() };
        assert_eq!(KnownChunks::decode(&none.encode()), Ok(none));
    }

    #[test]
    fn any_damage_to_known_chunks_is_refused() {
        let bytes = list().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(KnownChunks::decode(&damaged), Err(DamagedKnownChunks), "byte {at}");
            assert_eq!(KnownChunks::decode(&bytes[..at]), Err(DamagedKnownChunks), "cut at {at}");
        }
    }
}
