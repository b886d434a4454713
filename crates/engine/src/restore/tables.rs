//! A restore of some tables: into a new file, or into the database where they were.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use dbkeep_repo::durable;
use dbkeep_repo::durable::Staged;
use dbkeep_sqlite::capture::Capture;
use dbkeep_sqlite::extract::{Extracted, Target, copy_tables};

use super::in_place::target_error;
use super::new_file::{FilePages, remove_staging, staging};
use super::plan::{held_while_looking, refuse_existing};
use super::{PlannedRestore, Restore, Restored, Subject, directory_of};
use crate::integrity::{StoredPages, Verify, look, look_at_image};
use crate::manifest::{Integrity, IntegrityResult};
use crate::report::TableRows;
use crate::{Error, Result};

impl Restore<'_> {
    /// Copies tables out of the image, straight from the repository.
    pub(super) fn copy_tables(&self, subject: &Subject<'_>, planned: &PlannedRestore) -> Result<Restored> {
        if planned.in_place && planned.path.exists() {
            self.tables_in_place(subject, planned)
        } else {
            self.tables_to_new_file(subject, planned)
        }
    }

    /// Replaces tables of a live database, in one transaction: the safety backup is taken under its write lock.
    fn tables_in_place(&self, subject: &Subject<'_>, planned: &PlannedRestore) -> Result<Restored> {
        let pages = self.stored_pages(subject)?;
        self.inspect_stored(subject, &pages)?;
        let mut safety = None;
        let mut locked = || {
            self.watch.step("restore.target-locked");
            safety = self.safety_backup(planned)?.map(|kept| kept.id);
            Ok(self.stop_if_cancelled()?)
        };
        let patience = self.store.context().lock_patience;
        let target = Target::Live { path: &planned.path, patience, locked: &mut locked };
        let extracted = self.extract(&pages, planned, target)?;
        self.watch.step("restore.committed");
        let integrity = self.inspect_live(planned)?;
        let mut restored = self.restored(extracted, integrity, &planned.path);
        restored.safety_snapshot = safety;
        Ok(restored)
    }

    /// Makes a database of these tables beside its place, and names it at the end.
    fn tables_to_new_file(&self, subject: &Subject<'_>, planned: &PlannedRestore) -> Result<Restored> {
        refuse_existing(&planned.path)?;
        let scratch = Scratch::beside(planned)?;
        let extracted = self.extract(&self.stored_pages(subject)?, planned, Target::New(&scratch.path))?;
        self.watch.step("restore.data-written");
        let integrity = self.inspect_scratch(&scratch)?;
        self.judge(&subject.manifest, &integrity)?;
        let restored = self.restored(extracted, integrity, &scratch.path);
        scratch.publish(planned)?;
        self.watch.step("restore.promoted");
        Ok(restored)
    }

    fn extract(
        &self,
        pages: &Arc<StoredPages>,
        planned: &PlannedRestore,
        target: Target<'_>,
    ) -> Result<Extracted> {
        let cancelled = || self.watch.cancelled();
        let extracted = copy_tables(Arc::clone(pages) as Arc<_>, &planned.tables, target, &cancelled);
        pages.failure().map_or(Ok(()), |error| Err(Error::Repo(error)))?;
        extracted.map_err(target_error)
    }

    fn inspect_scratch(&self, scratch: &Scratch) -> Result<Integrity> {
        let file = File::open(&scratch.path).map_err(Error::io("read", &scratch.path))?;
        let size = file.metadata().map_err(Error::io("read", &scratch.path))?.len();
        let pages = FilePages { file, size };
        let looked = look_at_image(Arc::new(pages), self.plan.verify, &|| self.watch.cancelled())?;
        self.watch.step("restore.inspected");
        Ok(looked.integrity)
    }

    /// Checks the live database after tables were put into it.
    fn inspect_live(&self, planned: &PlannedRestore) -> Result<Integrity> {
        let not_run = || Integrity::new(IntegrityResult::NotRun, Verify::None, vec![]);
        if self.plan.verify == Verify::None {
            return Ok(not_run());
        }
        let mut capture = Capture::open(&planned.path, &held_while_looking())?;
        let cancelled = || self.watch.cancelled();
        let looked = match capture.inspection()? {
            Some(inspection) => look(&inspection, self.plan.verify, &cancelled)?,
            // SQLite itself may still read it, or say what is wrong with it.
            None => match capture.connection() {
                Some(connection) => look(connection, self.plan.verify, &cancelled)?,
                None => return Ok(not_run()),
            },
        };
        Ok(looked.integrity)
    }

    fn restored(&self, extracted: Extracted, integrity: Integrity, written: &std::path::Path) -> Restored {
        let mut restored = Restored::new(integrity);
        let tables = extracted.tables.into_iter();
        restored.tables = tables.map(|table| TableRows { name: table.name, rows: table.rows }).collect();
        restored.notes = extracted.notes;
        restored.bytes_written = std::fs::metadata(written).map_or(0, |metadata| metadata.len());
        restored
    }
}

/// A database that is being built; removed unless it is published.
struct Scratch {
    path: PathBuf,
    /// Keeps the name: another restore takes it for a file in use.
    _name: Staged,
}

impl Scratch {
    fn beside(planned: &PlannedRestore) -> Result<Self> {
        let directory = staging(directory_of(&planned.path))?;
        let name = Staged::create(&directory).map_err(Error::io("write to", &directory))?;
        // Not the reserved file itself: there must be no file where a new database is made.
        let path = name.path().with_extension("db");
        Ok(Self { path, _name: name })
    }

    /// Gives the database its name. On return it survives a power cut.
    fn publish(self, planned: &PlannedRestore) -> Result<()> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Error::TargetExists { path: planned.path.clone() },
            _ => Error::io("write", &planned.path)(error),
        };
        let file = File::open(&self.path).map_err(Error::io("read", &self.path))?;
        file.sync_all().map_err(Error::io("write", &self.path))?;
        durable::rename_no_replace(&self.path, &planned.path).map_err(failed)?;
        durable::sync_parent(&planned.path).map_err(failed)?;
        drop(self);
        remove_staging(&planned.path);
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Absent once it is published; else of no use to anybody.
        let _ = std::fs::remove_file(&self.path);
    }
}
