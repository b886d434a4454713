//! Sealed blobs are collected here until they fill a pack.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::seal::Outbox;
use crate::format::pack::PackBlob;

/// The most blobs in a pack: stock tools count them in small numbers, and headers stay small.
pub(super) const MAX_BLOBS: usize = 10_000;
/// The largest pack we make, in bytes; one blob that is larger alone gets a pack of its own.
pub(super) const MAX_PACK: usize = 128 << 20;
/// Room for the header of a full pack: 41 bytes a blob, sealing and the length.
const HEADER_ROOM: usize = 64 << 10;

/// A pack without its header.
#[derive(Default)]
pub(super) struct FullPack {
    pub(super) bytes: Vec<u8>,
    pub(super) blobs: Vec<PackBlob>,
}

/// Collects blobs of one kind. Trees and data have packs of their own, so that trees can be read (and cached) alone.
pub(super) struct Packer {
    target: usize,
    open: Mutex<Open>,
    /// Buffers of packs that are stored: a fresh 16 MiB costs the kernel more than filling it costs us.
    emptied: Receiver<FullPack>,
}

/// The pack being filled and where it goes.
struct Open {
    pack: FullPack,
    /// `None` after [`Packer::close`].
    full: Option<Sender<FullPack>>,
}

/// The packer is closed: the session is over.
pub(super) struct Stopped;

impl Packer {
    /// Makes packs of about `target` bytes and sends them to `full`.
    pub(super) fn new(target: usize, full: Sender<FullPack>, emptied: Receiver<FullPack>) -> Self {
        let open = Open { pack: FullPack::default(), full: Some(full) };
        Self { target, open: Mutex::new(open), emptied }
    }

    /// Appends blobs, and sends the pack on when it would grow beyond its size. `sending` is called
    /// just before that.
    ///
    /// Neighbours in an image stay neighbours in a pack, so that a restore reads and writes long stretches.
    /// Blocks while the pack in hand cannot be sent: that bounds the memory of all packs.
    pub(super) fn append(&self, outbox: &Outbox, sending: impl Fn()) -> Result<(), Stopped> {
        let mut open = self.lock();
        for blob in &outbox.blobs {
            let start = blob.offset as usize;
            let sealed = &outbox.bytes[start..start + blob.length as usize];
            let end = open.pack.bytes.len() + sealed.len();
            if !open.pack.blobs.is_empty() && (end > self.target || open.pack.blobs.len() == MAX_BLOBS) {
                sending();
                open.send()?;
            }
            if open.pack.bytes.capacity() == 0 {
                open.pack = self.fresh();
            }
            // Fits: a pack ends at `MAX_PACK`.
            let offset = u32::try_from(open.pack.bytes.len()).unwrap_or(u32::MAX);
            open.pack.bytes.extend_from_slice(sealed);
            open.pack.blobs.push(PackBlob { offset, ..*blob });
        }
        Ok(())
    }

    /// Sends the pack on, full or not, unless it is empty.
    pub(super) fn send(&self, sending: impl FnOnce()) -> Result<(), Stopped> {
        let mut open = self.lock();
        if open.pack.blobs.is_empty() {
            return Ok(());
        }
        sending();
        open.send()
    }

    /// Ends the packer: nothing is sent any more, and who receives packs learns that there will be none.
    pub(super) fn close(&self) {
        self.lock().full = None;
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> FullPack {
        self.emptied.try_recv().unwrap_or_else(|_| FullPack {
            bytes: Vec::with_capacity(self.target + HEADER_ROOM),
            blobs: Vec::new(),
        })
    }
}

impl Open {
    fn send(&mut self) -> Result<(), Stopped> {
        let full = self.full.as_ref().ok_or(Stopped)?;
        full.send(std::mem::take(&mut self.pack)).map_err(|_| Stopped)
    }
}
