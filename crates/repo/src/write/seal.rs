//! From plain bytes to a sealed blob, and the proof that the way back leads to the same bytes.
//!
//! A blob is compressed, sealed, then opened and decompressed again, and the result is
//! compared with a fingerprint that was taken before its id: a memory or processor fault
//! anywhere on the way is found while the source is still there.

use std::io;

use crate::Id;
use crate::crypto::{MasterKey, OVERHEAD};
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;

/// The largest blob we store, in bytes. The format allows more, but whoever reads one has to hold it in memory.
pub(super) const MAX_BLOB: u32 = 512 << 20;

/// The keyed BLAKE3 of a chunk.
pub type Fingerprint = [u8; 32];

/// A sealed blob, ready to be put into a pack.
#[derive(Clone, Copy)]
pub(super) struct Sealed<'a> {
    pub(super) id: Id,
    pub(super) kind: BlobKind,
    pub(super) bytes: &'a [u8],
    pub(super) uncompressed_length: u32,
}

/// Seals blobs, one after the other, on one thread. Its contexts and buffers are reused.
pub(super) struct Sealer {
    key: MasterKey,
    fingerprint_key: [u8; 32],
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    compressed: Vec<u8>,
    sealed: Vec<u8>,
    opened: Vec<u8>,
    plain: Vec<u8>,
    zeros: Option<Zeros>,
}

/// What is known about a chunk of so many zeros.
struct Zeros {
    length: usize,
    fingerprint: Fingerprint,
    id: Option<Id>,
}

impl Sealer {
    /// Prepares contexts for a zstd level.
    pub(super) fn new(key: &MasterKey, level: i32) -> Result<Self> {
        Ok(Self {
            key: key.clone(),
            fingerprint_key: key.fingerprint_key(),
            compressor: zstd::bulk::Compressor::new(level).map_err(compression)?,
            decompressor: zstd::bulk::Decompressor::new().map_err(compression)?,
            compressed: Vec::new(),
            sealed: Vec::new(),
            opened: Vec::new(),
            plain: Vec::new(),
            zeros: None,
        })
    }

    /// Returns the keyed fingerprint of `plain`; that of zeros is remembered.
    pub(super) fn fingerprint(&mut self, plain: &[u8]) -> Fingerprint {
        if !is_zero(plain) {
            return *blake3::keyed_hash(&self.fingerprint_key, plain).as_bytes();
        }
        if let Some(zeros) = &self.zeros
            && zeros.length == plain.len()
        {
            return zeros.fingerprint;
        }
        let fingerprint = *blake3::keyed_hash(&self.fingerprint_key, plain).as_bytes();
        self.zeros = Some(Zeros { length: plain.len(), fingerprint, id: None });
        fingerprint
    }

    /// Returns the id of `plain`, whose fingerprint was just taken; that of zeros is remembered.
    pub(super) fn id(&mut self, plain: &[u8], fingerprint: &Fingerprint) -> Id {
        match &mut self.zeros {
            Some(zeros) if zeros.length == plain.len() && zeros.fingerprint == *fingerprint => {
                *zeros.id.get_or_insert_with(|| Id::of(plain))
            }
            _ => Id::of(plain),
        }
    }

    /// Compresses, seals and verifies a blob. What is returned lives until the next call.
    pub(super) fn seal(
        &mut self,
        kind: BlobKind,
        id: Id,
        plain: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Sealed<'_>> {
        let uncompressed_length = u32::try_from(plain.len())
            .ok()
            .filter(|length| *length <= MAX_BLOB)
            .ok_or_else(|| Error::Unsupported {
                what: format!("a blob of {} bytes is too large: {MAX_BLOB} is the limit", plain.len()),
            })?;
        let bound = zstd::zstd_safe::compress_bound(plain.len());
        reserve(&mut self.compressed, bound);
        let compressed =
            self.compressor.compress_to_buffer(plain, &mut self.compressed[..bound]).map_err(compression)?;
        self.sealed.clear();
        self.sealed.reserve(compressed + OVERHEAD);
        self.key.seal(&self.compressed[..compressed], &mut self.sealed)?;
        if !self.opens_to(plain.len(), fingerprint) {
            return Err(Error::Memory { what: format!("blob {id:.8} does not open to what was sealed") });
        }
        Ok(Sealed { id, kind, bytes: &self.sealed, uncompressed_length })
    }

    /// Says whether the sealed bytes lead back to `length` bytes with this fingerprint.
    fn opens_to(&mut self, length: usize, fingerprint: &Fingerprint) -> bool {
        self.opened.clear();
        self.opened.extend_from_slice(&self.sealed);
        let Ok(compressed) = self.key.open(&mut self.opened) else { return false };
        reserve(&mut self.plain, length);
        let plain = &mut self.plain[..length];
        match self.decompressor.decompress_to_buffer(compressed, plain) {
            Ok(written) if written == length => {
                blake3::keyed_hash(&self.fingerprint_key, plain).as_bytes() == fingerprint
            }
            _ => false,
        }
    }
}

fn compression(source: io::Error) -> Error {
    Error::Io { what: "compress".to_owned(), source }
}

/// Makes sure that a scratch buffer has at least `length` bytes.
fn reserve(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}

/// Says whether all bytes are zero; quick where they are not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (head, body) = bytes.split_at(bytes.len().min(64));
    // A chunk that differs from zeros nearly always does so at its start.
    head.iter().all(|byte| *byte == 0)
        && body.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}
