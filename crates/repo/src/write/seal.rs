//! From plain bytes to a sealed blob, and the proof that the way back leads to the same bytes.
//!
//! A blob is compressed, sealed, then opened and decompressed again, and the result is
//! compared with a fingerprint that was taken before its id: a memory or processor fault
//! anywhere on the way is found while the source is still there.

use std::io;

use twox_hash::XxHash3_128;

use crate::Id;
use crate::crypto::MasterKey;
use crate::error::{Error, Result};
use crate::format::pack::{BlobKind, PackBlob};

/// The largest blob we store, in bytes. The format allows more, but whoever reads one has to hold it in memory.
pub(super) const MAX_BLOB: u32 = 512 << 20;

/// The keyed BLAKE3 of a chunk.
pub type Fingerprint = [u8; 32];

/// What plain bytes are recognised by after they were sealed and opened again. Taken before their id.
#[derive(Clone, Copy)]
pub(super) enum Mark<'a> {
    /// The keyed BLAKE3 of a chunk, where it is needed anyway.
    Fingerprint(&'a Fingerprint),
    /// The XXH3 of a piece of a stream or of a tree, which for short pieces takes a tenth of the time. It tells faults,
    /// which is all that it has to.
    Quick(u128),
}

impl Mark<'_> {
    /// Takes the quick mark.
    pub(super) fn quick(plain: &[u8]) -> Self {
        Self::Quick(XxHash3_128::oneshot(plain))
    }
}

/// Sealed blobs, one behind the other, on their way into a pack.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(super) bytes: Vec<u8>,
    /// Their offsets are those in `bytes`.
    pub(super) blobs: Vec<PackBlob>,
}

impl Outbox {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.blobs.clear();
    }

    /// Adds a blob that is sealed already.
    pub(crate) fn push(&mut self, blob: &PackBlob, sealed: &[u8]) {
        // An outbox holds one blob or a few MiB.
        let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.blobs.push(PackBlob { offset, ..*blob });
        self.bytes.extend_from_slice(sealed);
    }
}

/// Seals blobs, one after the other, on one thread. Its contexts and buffers are reused.
pub(super) struct Sealer {
    key: MasterKey,
    fingerprint_key: [u8; 32],
    compressor: zstd::bulk::Compressor<'static>,
    /// For the pieces of streams, and for trees, which are nearly all random names.
    stream_compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    compressed: Vec<u8>,
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
    /// Prepares contexts for the zstd levels of chunks, and of the pieces of streams and trees.
    pub(super) fn new(key: &MasterKey, [level, stream_level]: [i32; 2]) -> Result<Self> {
        Ok(Self {
            key: key.clone(),
            fingerprint_key: key.fingerprint_key(),
            compressor: zstd::bulk::Compressor::new(level).map_err(compression)?,
            stream_compressor: zstd::bulk::Compressor::new(stream_level).map_err(compression)?,
            decompressor: zstd::bulk::Decompressor::new().map_err(compression)?,
            compressed: Vec::new(),
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

    /// Returns the id of zeros whose fingerprint was just taken, when it was computed before.
    pub(super) fn id_of_zeros(&self, length: usize, fingerprint: &Fingerprint) -> Option<Id> {
        let zeros = self.zeros.as_ref()?;
        (zeros.length == length && zeros.fingerprint == *fingerprint).then_some(zeros.id?)
    }

    /// Remembers an id, in case that the fingerprint is that of zeros.
    pub(super) fn remember(&mut self, length: usize, fingerprint: &Fingerprint, id: Id) {
        if let Some(zeros) = &mut self.zeros
            && zeros.length == length
            && zeros.fingerprint == *fingerprint
        {
            zeros.id = Some(id);
        }
    }

    /// Compresses, seals and verifies a blob, and puts it into the outbox. Returns its sealed size.
    pub(super) fn seal(
        &mut self,
        kind: BlobKind,
        id: Id,
        plain: &[u8],
        mark: Mark<'_>,
        outbox: &mut Outbox,
    ) -> Result<usize> {
        let uncompressed_length = u32::try_from(plain.len())
            .ok()
            .filter(|length| *length <= MAX_BLOB)
            .ok_or_else(|| Error::Unsupported {
                what: format!("a blob of {} bytes is too large: {MAX_BLOB} is the limit", plain.len()),
            })?;
        let bound = zstd::zstd_safe::compress_bound(plain.len());
        reserve(&mut self.compressed, bound);
        let compressor = match mark {
            Mark::Fingerprint(_) => &mut self.compressor,
            Mark::Quick(_) => &mut self.stream_compressor,
        };
        let compressed =
            compressor.compress_to_buffer(plain, &mut self.compressed[..bound]).map_err(compression)?;
        let start = outbox.bytes.len();
        self.key.seal(&self.compressed[..compressed], &mut outbox.bytes)?;
        let sealed = &outbox.bytes[start..];
        if !self.opens_to(sealed, plain.len(), mark) {
            return Err(Error::Memory { what: format!("blob {id:.8} does not open to what was sealed") });
        }
        // An outbox holds a stretch of an image or one blob, of less than `MAX_BLOB` and some bytes.
        let place = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        outbox.blobs.push(PackBlob {
            id,
            kind,
            offset: place(start),
            length: place(sealed.len()),
            uncompressed_length: Some(uncompressed_length),
        });
        Ok(sealed.len())
    }

    /// Says whether the sealed bytes lead back to `length` bytes with this mark.
    fn opens_to(&mut self, sealed: &[u8], length: usize, mark: Mark<'_>) -> bool {
        self.opened.clear();
        self.opened.extend_from_slice(sealed);
        let Ok(compressed) = self.key.open(&mut self.opened) else { return false };
        reserve(&mut self.plain, length);
        let plain = &mut self.plain[..length];
        match self.decompressor.decompress_to_buffer(compressed, plain) {
            Ok(written) if written == length => match mark {
                Mark::Fingerprint(mark) => {
                    blake3::keyed_hash(&self.fingerprint_key, plain).as_bytes() == mark
                }
                Mark::Quick(mark) => XxHash3_128::oneshot(plain) == mark,
            },
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
