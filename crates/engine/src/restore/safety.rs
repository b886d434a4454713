//! The backup of what is there, before a restore overwrites it.
//!
//! It is a session of its own with the reason `pre-restore`: stored, verified before upload, acknowledged. It
//! never stands for the latest snapshot.

use dbkeep_repo::read::Reader;
use dbkeep_repo::write::Writer;
use dbkeep_repo::{Id, SharedLock};
use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::identify::{Kind, kind_of};

use super::{Lock, PlannedRestore, Restore};
use crate::backup::{BackupRequest, Past, Saved, Session};
use crate::catalog::PRE_RESTORE;
use crate::manifest::ImageFacts;
use crate::source::{Place, Source};
use crate::{Error, ErrorKind, Result};

/// Stores what is there, without its snapshot.
pub(super) type Save<'s> = dyn Fn(&Session<'_>, &mut Writer<'_>, &Source, &Past<'_>) -> Result<Saved> + 's;

/// What a safety backup found, and has kept.
pub(super) struct SafetyBackup {
    /// Its snapshot.
    pub(super) id: Id,
    image: ImageFacts,
    chunks: Vec<Id>,
}

impl SafetyBackup {
    /// Returns the ids of the chunks of a SQLite database as it was read, and none where it was cut in
    /// another way, or is not of this size.
    pub(super) fn chunks_of(&self, size: u64, chunk_size: u32) -> &[Id] {
        let is_as_asked = !self.image.raw && self.image.size == size && self.image.chunk_size == chunk_size;
        if is_as_asked { &self.chunks } else { &[] }
    }
}

impl Restore<'_> {
    /// Backs up the target as SQLite reads it. The caller holds its write lock, so nothing is committed between this
    /// and the restore.
    pub(super) fn safety_backup(&self, planned: &PlannedRestore) -> Result<Option<SafetyBackup>> {
        self.back_up(planned, None)
    }

    /// Backs up a target that SQLite may not be able to read, as bytes.
    pub(super) fn raw_safety_backup(&self, planned: &PlannedRestore) -> Result<Option<Id>> {
        let is_database = matches!(kind_of(&planned.path)?, Kind::Database(_));
        let kept = self.back_up(planned, (!is_database).then_some(Method::Raw))?;
        Ok(kept.map(|kept| kept.id))
    }

    fn back_up(&self, planned: &PlannedRestore, method: Option<Method>) -> Result<Option<SafetyBackup>> {
        let place = Place::File(planned.path.clone());
        self.keep(planned, place, &|session, writer, source, past| {
            let options = CaptureOptions { force_method: method, ..CaptureOptions::default() };
            let capture = Capture::open(&planned.path, &options)?;
            session.save(writer, source, past, capture, self.watch)
        })
    }

    /// Backs up what `save` reads, when the plan has a safety backup.
    pub(super) fn keep(
        &self,
        planned: &PlannedRestore,
        place: Place,
        save: &Save<'_>,
    ) -> Result<Option<SafetyBackup>> {
        let Some(lock) = self.writing_lock().filter(|_| planned.safety_backup) else { return Ok(None) };
        let kept = self.commit(planned, place, lock, save).map_err(|error| match error {
            error if error.kind() == ErrorKind::Interrupted => Error::Cancelled,
            error => Error::SafetyBackup { source: Box::new(error) },
        })?;
        self.kept.set(Some(kept.id));
        self.watch.step("restore.safety-backup");
        Ok(Some(kept))
    }

    /// Returns the lock by which safety backups are written.
    fn writing_lock(&self) -> Option<&SharedLock> {
        match self.lock {
            Lock::Writing(lock) => Some(lock),
            Lock::Reading { .. } => None,
        }
    }

    /// Returns the index to store by; it is loaded for the first safety backup.
    fn writing_reader(&self) -> Result<&Reader> {
        if self.writing_reader.get().is_none() {
            let _ = self.writing_reader.set(self.store.writing_reader(self.catalog)?);
        }
        Ok(self.writing_reader.get().expect("it was set just now"))
    }

    fn commit(
        &self,
        planned: &PlannedRestore,
        place: Place,
        lock: &SharedLock,
        save: &Save<'_>,
    ) -> Result<SafetyBackup> {
        let request = BackupRequest {
            reason: Some(PRE_RESTORE.to_owned()),
            verify: self.plan.request.safety_check,
            adopt_name: true,
            ..BackupRequest::default()
        };
        let mut session =
            Session::new(self.store, self.catalog, self.writing_reader()?, &request, self.clock);
        session.id.clone_from(self.safety_session.get_or_init(|| session.id.clone()));
        let mut writer = session.writer(lock, self.watch)?;
        let source = Source {
            name: planned.database.clone(),
            place,
            shown: planned.target.clone(),
            environment: None,
        };
        let past = session.past(&source.name);
        let saved = save(&session, &mut writer, &source, &past)?;
        let snapshot = writer.commit(saved.snapshot.clone())?;
        let id = snapshot.id.unwrap_or(Id::NULL);
        session.acknowledge(&[saved.reference(id)])?;
        Ok(SafetyBackup { id, image: saved.manifest.image, chunks: saved.chunks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_stand_for_the_target_only_where_they_are_cut_alike() {
        let backup = |raw| SafetyBackup {
            id: Id::NULL,
            image: ImageFacts {
                name: "shop.db".to_owned(),
                size: 40_000,
                chunk_size: 16_384,
                chunks: 3,
                parts: 0,
                root: Id::NULL,
                sha256: None,
                method: "locked-image".to_owned(),
                raw,
            },
            chunks: vec![Id::of(b"1"), Id::of(b"2"), Id::of(b"3")],
        };
        assert_eq!(backup(false).chunks_of(40_000, 16_384).len(), 3);
        assert!(backup(false).chunks_of(40_000, 32_768).is_empty(), "other chunks");
        assert!(backup(false).chunks_of(40_960, 16_384).is_empty(), "not what SQLite reads there");
        assert!(backup(true).chunks_of(40_000, 16_384).is_empty(), "bytes of files, without the log");
    }
}
