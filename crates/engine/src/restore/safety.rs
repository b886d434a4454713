//! The backup of what is there, before a restore overwrites it.
//!
//! It is a session of its own with the reason `pre-restore`: stored, verified before upload, acknowledged. It
//! never stands for the latest snapshot.

use dbkeep_repo::Id;
use dbkeep_repo::read::Reader;
use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::identify::{Kind, kind_of};

use super::{Lock, PlannedRestore, Restore};
use crate::backup::{BackupRequest, Session};
use crate::catalog::PRE_RESTORE;
use crate::integrity::Verify;
use crate::source::{Place, Source};
use crate::{Error, Result};

impl Restore<'_> {
    /// Backs up the target as SQLite reads it. The caller holds its write lock, so nothing is committed between this
    /// and the restore.
    pub(super) fn safety_backup(&self, planned: &PlannedRestore) -> Result<Option<Id>> {
        self.back_up(planned, None)
    }

    /// Backs up a target that SQLite may not be able to read, as bytes.
    pub(super) fn raw_safety_backup(&self, planned: &PlannedRestore) -> Result<Option<Id>> {
        let is_database = matches!(kind_of(&planned.path)?, Kind::Database(_));
        self.back_up(planned, (!is_database).then_some(Method::Raw))
    }

    fn back_up(&self, planned: &PlannedRestore, method: Option<Method>) -> Result<Option<Id>> {
        let Some(lock) = self.writing_lock() else { return Ok(None) };
        if !planned.safety_backup {
            return Ok(None);
        }
        let saved = self.save(planned, lock, method);
        let id = saved.map_err(|error| match error {
            error if error.kind() == "interrupted" => Error::Cancelled,
            error => Error::SafetyBackup { source: Box::new(error) },
        })?;
        self.watch.step("restore.safety-backup");
        Ok(Some(id))
    }

    /// Returns the lock by which safety backups are written.
    pub(super) fn writing_lock(&self) -> Option<&dbkeep_repo::SharedLock> {
        match self.lock {
            Lock::Writing(lock) => Some(lock),
            Lock::Reading { .. } => None,
        }
    }

    /// Returns the index to store by; it is loaded for the first safety backup.
    pub(super) fn writing_reader(&self) -> Result<&Reader> {
        if self.writing_reader.get().is_none() {
            let _ = self.writing_reader.set(self.store.writing_reader(self.catalog)?);
        }
        Ok(self.writing_reader.get().expect("it was set just now"))
    }

    fn save(
        &self,
        planned: &PlannedRestore,
        lock: &dbkeep_repo::SharedLock,
        method: Option<Method>,
    ) -> Result<Id> {
        let request = BackupRequest {
            reason: Some(PRE_RESTORE.to_owned()),
            verify: Verify::Quick,
            adopt_name: true,
            ..BackupRequest::default()
        };
        let mut session =
            Session::new(self.store, self.catalog, self.writing_reader()?, &request, self.clock);
        session.id.clone_from(self.safety_session.get_or_init(|| session.id.clone()));
        let mut writer = session.writer(lock, self.watch)?;
        let source = Source {
            name: planned.database.clone(),
            place: Place::File(planned.path.clone()),
            shown: planned.target.clone(),
            environment: None,
        };
        let options = CaptureOptions { force_method: method, ..session.capture_options() };
        let past = session.past(&source.name);
        let capture = Capture::open(&planned.path, &options)?;
        let saved = session.save(&mut writer, &source, &past, capture, self.watch)?;
        let snapshot = writer.commit(saved.snapshot.clone())?;
        let id = snapshot.id.unwrap_or(Id::NULL);
        session.acknowledge(&[saved.reference(id)])?;
        Ok(id)
    }
}
