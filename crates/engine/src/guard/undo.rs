//! Bringing the databases of a guard back.
//!
//! Nothing is overwritten before the failed state is in the repository: the restore itself sees to that, under the lock
//! by which it then writes.

use super::Run;
use crate::integrity::Verify;
use crate::report::{ErrorReport, GuardedDatabase, GuardedStatus, RestoreOutcome, RestoreReport};
use crate::restore::{self, LastWord, RestoreRequest};
use crate::source::Place;
use crate::{Error, Result};

impl Run<'_> {
    /// Restores a database, and says so in its part of the report. Returns what a person should know.
    ///
    /// `alone` says of which databases it was decided because nobody else had written them. Where that is not so any more
    /// at the last moment, nothing is touched, and the error says so.
    pub(super) fn undo(&self, place: usize, alone: &[bool], told: &mut GuardedDatabase) -> Vec<String> {
        let began = self.clock.now();
        let mut notes = Vec::new();
        match self.restore(place, &|| self.last_word(place, alone)) {
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

    /// Says whether what was decided still holds: this database cannot be written by others any more, or not for long.
    fn last_word(&self, place: usize, alone: &[bool]) -> Result<()> {
        if alone.get(place) == Some(&true) && self.has_moved(place) {
            let why = "it was written after the command had ended";
            self.patrol.doubt(place, why);
            return Err(self.others_came(place, why));
        }
        self.patrol.glance();
        let doubts = self.patrol.doubts();
        let first = (0..doubts.len()).find_map(|place| {
            let doubt = doubts[place].first().filter(|_| alone.get(place) == Some(&true))?;
            Some(self.others_came(place, doubt))
        });
        first.map_or(Ok(()), Err)
    }

    fn others_came(&self, place: usize, why: &str) -> Error {
        let name = &self.databases[place].source.name;
        Error::Refused {
            what: format!("others came after it was decided to bring {name} back: {why}"),
            hint: Some("`dbkeep guard --resume` says where the databases stand, and finishes it".to_owned()),
        }
    }

    fn restore(&self, place: usize, last_word: &LastWord<'_>) -> Result<RestoreReport> {
        let database = &self.databases[place];
        match &database.source.place {
            Place::File(_) => {
                let request = RestoreRequest {
                    // It is the file that was backed up, whatever the command has made of it.
                    force: true,
                    // The snapshot was verified just before the command, and every page is compared.
                    verify: Verify::None,
                    ..self.request_for(place)
                };
                self.restore_as(&request, last_word)
            }
            Place::Server(server) => self.restore_server(place, server, last_word),
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

    pub(super) fn restore_as(
        &self,
        request: &RestoreRequest,
        last_word: &LastWord<'_>,
    ) -> Result<RestoreReport> {
        let plan = restore::plan(self.store, request, self.clock.now())?;
        match restore::run_if(self.store, &plan, last_word, self.clock.now(), self.watch)? {
            RestoreOutcome::One(report) => Ok(*report),
            RestoreOutcome::Session(_) => Err(Error::usage("one snapshot is restored", "name a snapshot")),
        }
    }
}
