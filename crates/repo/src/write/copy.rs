//! Blobs that are sealed already, on their way into the packs of a session.

use std::sync::Arc;

use super::Writer;
use super::seal::Outbox;
use super::work::Line;
use crate::Id;
use crate::error::Result;
use crate::format::pack::BlobKind;

/// Puts sealed blobs into the packs of a session. Clones, on any threads, fill the same packs.
#[derive(Clone)]
pub(crate) struct Copier(Arc<Line>);

impl Writer<'_> {
    /// Returns what puts blobs of the same repository, sealed and proved, into the packs of this session. What it was
    /// given is stored by the next flush.
    pub(crate) fn copier(&self) -> Copier {
        Copier(Arc::clone(&self.line))
    }
}

impl Copier {
    /// Appends blobs of one kind. Blocks while packs cannot be stored as fast.
    pub(crate) fn append(&self, kind: BlobKind, sealed: &Outbox) -> Result<()> {
        self.0.session.check()?;
        for blob in &sealed.blobs {
            self.0.session.count_added(blob.plain_length() as usize, blob.length as usize);
        }
        self.0.send(kind, sealed)
    }

    /// Returns all packs that the session has stored so far; all that it ever stores once its writer is dropped.
    pub(crate) fn stored(&self) -> Vec<Id> {
        self.0.session.stored()
    }
}
