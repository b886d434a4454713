//! Bringing the databases of a guard back.
//!
//! Nothing is overwritten before the failed state is in the repository: the restore itself sees to that, under the lock
//! by which it then writes.

use super::Run;
use crate::integrity::Verify;
use crate::report::ErrorReport;
use crate::report::{GuardedDatabase, GuardedStatus, RestoreOutcome, RestoreReport};
use crate::restore::{self, RestoreRequest};
use crate::source::Place;
use crate::{Error, Result};

impl Run<'_> {
    /// Restores a database, and says so in its part of the report. Returns what a person should know.
    pub(super) fn undo(&self, place: usize, told: &mut GuardedDatabase) -> Vec<String> {
        let began = self.clock.now();
        let mut notes = Vec::new();
        match self.restore(place) {
            Ok(report) => {
                told.status = GuardedStatus::Restored;
                told.safety_snapshot = report.safety_snapshot;
                told.bytes_written = report.bytes_written;
                told.pages_written = report.pages_written;
                notes.extend(report.notes.iter().map(|note| format!("{}: {note}", told.name)));
            }
            Err(error) => told.error = Some(ErrorReport::from(&error)),
        }
        told.restore_ms = self.clock.milliseconds_since(began);
        notes
    }

    fn restore(&self, place: usize) -> Result<RestoreReport> {
        let database = &self.databases[place];
        match &database.source.place {
            Place::File(_) => self.restore_as(&RestoreRequest {
                // It is the file that was backed up, whatever the command has made of it.
                force: true,
                // The snapshot was verified just before the command, and every page is compared.
                verify: Verify::None,
                ..self.request_for(place)
            }),
            Place::Server(server) => self.restore_server(place, server),
        }
    }

    /// Returns what both engines are asked for.
    pub(super) fn request_for(&self, place: usize) -> RestoreRequest {
        RestoreRequest {
            snapshot: Some(self.databases[place].snapshot.to_string()),
            in_place: true,
            ..RestoreRequest::default()
        }
    }

    pub(super) fn restore_as(&self, request: &RestoreRequest) -> Result<RestoreReport> {
        let plan = restore::plan(self.store, request, self.clock.now())?;
        match restore::run(self.store, &plan, self.clock.now(), self.watch)? {
            RestoreOutcome::One(report) => Ok(*report),
            RestoreOutcome::Session(_) => Err(Error::usage("one snapshot is restored", "name a snapshot")),
        }
    }
}
