//! A restore into a database that applications may have open: one write transaction of SQLite's own.
//!
//! The write lock comes first, then the safety backup under it, then the pages that differ, so that no commit
//! falls between. The commit of the transaction is the commit point: before it the target is as it was.
//!
//! The safety backup reads the target anyway, and names its chunks: those that the image has at the same place are not
//! read again.

use std::sync::Arc;
use std::time::Duration;

use dbkeep_repo::Id;
use dbkeep_repo::read::{Image, ImageReader};
use dbkeep_sqlite::BoxError;
use dbkeep_sqlite::apply::{ChunkSource, InPlace};
use dbkeep_sqlite::header::{HEADER_SIZE, Header};

use super::{PlannedRestore, Restore, Restored, Subject};
use crate::context::Watch;
use crate::integrity::{StoredPages, look_at_stored};
use crate::manifest::Integrity;
use crate::{Error, Result};

/// How long readers of a database in rollback mode are waited for at the end.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);

/// What may be kept in memory of the image.
const CACHE: usize = 64 << 20;

impl Restore<'_> {
    /// Makes the target's contents those of the image, by its pages that differ.
    pub(super) fn replace_pages(&self, subject: &Subject<'_>, planned: &PlannedRestore) -> Result<Restored> {
        let chunk_size = chunk_size(&subject.image)?;
        let pages = self.stored_pages(subject)?;
        let integrity = self.inspect_stored(subject, &pages)?;
        let header = header_of(pages.reader())?;

        let mut target = match InPlace::begin(&planned.path, &header, self.store.context().lock_patience) {
            Ok(target) => target,
            Err(error) if error.is_damage() => return self.replace_file(subject, planned),
            Err(error) => return Err(target_error(error)),
        };
        self.watch.step("restore.target-locked");
        (self.last_word)()?;
        let safety = self.safety_backup(planned)?;
        self.watch.phase(&format!("restore {}", planned.database), subject.image.size());
        let size = u64::from(target.page_count()) * u64::from(target.page_size());
        let held = safety.as_ref().map_or(&[][..], |safety| safety.chunks_of(size, chunk_size));
        let mut chunks = Chunks { watch: self.watch, subject, image: pages.reader(), held, told: 0 };
        let applied = target.apply(subject.image.size(), chunk_size, &mut chunks).map_err(target_error)?;
        chunks.reach(subject.image.size());
        self.watch.step("restore.pages-written");
        self.stop_if_cancelled()?;
        target.commit(COMMIT_PATIENCE).map_err(target_error)?;
        self.watch.step("restore.committed");

        let mut restored = Restored::new(integrity);
        restored.safety_snapshot = safety.map(|safety| safety.id);
        restored.pages_written = applied.pages_written;
        restored.bytes_written = applied.bytes_written;
        Ok(restored)
    }

    /// Opens the image in the repository. What the check has read is still in memory when it is written, as far as
    /// there is room for it.
    pub(super) fn stored_pages(&self, subject: &Subject<'_>) -> Result<Arc<StoredPages>> {
        Ok(StoredPages::new(self.reader.random(&subject.image, CACHE, None)?))
    }

    /// Checks the image in the repository, before the target is locked. Chunks of which something is then written are
    /// read back and compared within the transaction.
    pub(super) fn inspect_stored(
        &self,
        subject: &Subject<'_>,
        pages: &Arc<StoredPages>,
    ) -> Result<Integrity> {
        self.watch.phase(&format!("check {}", subject.manifest.database), subject.image.size());
        let looked = look_at_stored(pages, self.plan.verify, &|| self.watch.cancelled())?;
        self.judge(&subject.manifest, &looked.integrity)?;
        self.watch.step("restore.inspected");
        Ok(looked.integrity)
    }
}

/// The chunks that a target has to have, by their ids: the SHA-256 of each.
struct Chunks<'c> {
    watch: &'c Watch,
    subject: &'c Subject<'c>,
    image: &'c ImageReader,
    /// What the target was found to hold.
    held: &'c [Id],
    /// How many bytes of the image are told to be done.
    told: u64,
}

impl Chunks<'_> {
    /// Tells how far it has come.
    fn reach(&mut self, end: u64) {
        self.watch.advance(end.saturating_sub(self.told));
        self.told = end;
    }
}

impl ChunkSource for Chunks<'_> {
    fn is_held(&self, index: u64) -> bool {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        self.held.get(place).is_some_and(|held| self.subject.image.ids().get(place) == Some(held))
    }

    fn chunk(&mut self, index: u64, live: Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError> {
        if self.watch.cancelled() {
            return Err(Box::new(Error::Cancelled));
        }
        let (place, image) = (usize::try_from(index)?, &self.subject.image);
        let id = image.ids().get(place).ok_or("a chunk behind the end of the image")?;
        let (offset, length) = image.span(place);
        self.reach(offset + u64::from(length));
        if live.is_some_and(|live| live.len() == length as usize && Id::of(live) == *id) {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.image.read_at(offset, &mut bytes)?;
        Ok(Some(bytes))
    }
}

/// Returns the length of the image's chunks, all but the last.
fn chunk_size(image: &Image) -> Result<u32> {
    image.chunk_size().ok_or_else(|| Error::Unsupported {
        what: "an image with chunks of different lengths cannot be restored in place".to_owned(),
        hint: Some("restore it to a new file with --to".to_owned()),
    })
}

/// Returns the header of an image.
fn header_of(image: &ImageReader) -> Result<Header> {
    let mut bytes = [0; HEADER_SIZE];
    image.read_at(0, &mut bytes)?;
    Ok(Header::parse(&bytes)?)
}

/// Says who uses the target, and returns our own error where it went through the transaction.
pub(super) fn target_error(error: dbkeep_sqlite::Error) -> Error {
    let inner = match error {
        dbkeep_sqlite::Error::Busy { path, holder } => {
            return Error::TargetInUse { path, by: Some(holder) };
        }
        dbkeep_sqlite::Error::Consumer(inner) => inner,
        other => return other.into(),
    };
    let inner = match inner.downcast::<Error>() {
        Ok(error) => return *error,
        Err(inner) => inner,
    };
    match inner.downcast::<dbkeep_repo::Error>() {
        Ok(error) => Error::Repo(*error),
        Err(inner) => Error::Sqlite(dbkeep_sqlite::Error::Consumer(inner)),
    }
}
