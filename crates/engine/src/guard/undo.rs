//! Bringing the databases of a guard back.
//!
//! Nothing is overwritten before the failed state is in the repository: the restore itself sees to that, under the lock
//! by which it then writes.

use super::Run;
use super::record::Phase;
use super::still::Standing;
use crate::error::finished_by_resume;
use crate::integrity::Verify;
use crate::report::{
    ErrorReport, GuardOutcome, GuardReport, GuardedDatabase, GuardedStatus, RestoreOutcome, RestoreReport,
};
use crate::restore::{self, Action, LastWord, RestorePlan, RestoreRequest};
use crate::source::Place;
use crate::{Error, Result};

impl Run<'_> {
    /// Brings every changed database back. On disk it says what it is about to do before the first one is touched, and it
    /// stops at the first one that cannot be brought back. Where that is because others have come, and nothing was touched
    /// yet, it has to be decided again: then there is no error.
    pub(super) fn restore_all(&mut self, report: &mut GuardReport) -> Result<()> {
        let is_changed = |one: &GuardedDatabase| one.status == GuardedStatus::Changed;
        let changed: Vec<bool> = report.databases.iter().map(is_changed).collect();
        // What it was decided on. Who is seen from here on speaks against it.
        let mut alone: Vec<bool> = report.databases.iter().map(|one| is_changed(one) && one.alone).collect();
        self.say_that_it_begins(report, &changed);
        for place in (0..changed.len()).filter(|place| changed[*place]) {
            if self.watch.cancelled() {
                return Err(Error::Cancelled);
            }
            let notes = self.undo(place, &alone, &mut report.databases[place]);
            report.notes.extend(notes);
            self.add_doubts(report);
            if report.databases[place].error.is_some() {
                return self.stop_restoring(place, &alone, report);
            }
            alone[place] = false;
            self.watch.step("guard.restored-one");
        }
        report.outcome = GuardOutcome::Restored;
        Ok(())
    }

    fn say_that_it_begins(&mut self, report: &GuardReport, changed: &[bool]) {
        for (place, recorded) in
            self.record.databases.iter_mut().enumerate().filter(|(place, _)| changed[*place])
        {
            recorded.position = self.standings.get(place).and_then(Standing::position).cloned();
        }
        self.record.phase = Phase::Restoring { why: report.failure.clone().unwrap_or_default() };
        self.note(&self.record);
        self.watch.step("guard.restoring");
    }

    fn stop_restoring(&mut self, place: usize, alone: &[bool], report: &mut GuardReport) -> Result<()> {
        let none_is_back = report.databases.iter().all(|one| one.status != GuardedStatus::Restored);
        let others_came = (0..alone.len()).any(|place| alone[place] && !report.databases[place].alone);
        if none_is_back && others_came {
            report.databases[place].error = None;
            self.record.phase = Phase::Failed { why: report.failure.clone().unwrap_or_default() };
            self.note(&self.record);
            return Ok(());
        }
        report.error = report.databases[place].error.clone().map(|mut error| {
            error.hint = Some(finished_by_resume(error.hint.take()));
            error
        });
        Ok(())
    }

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
                    // The snapshot was verified just before the command, and what is written is compared.
                    verify: Verify::None,
                    // The failed state is stored as it is, and whoever waits for the database gains nothing by a check.
                    safety_check: Verify::None,
                    ..self.request_for(place)
                };
                match self.restore_as(&request, last_word) {
                    // Within a transaction its pages keep their size.
                    Err(Error::Sqlite(dbkeep_sqlite::Error::PageSizeDiffers { .. })) => {
                        self.replace_file(&request, last_word)
                    }
                    restored => restored,
                }
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
        self.carry_out(&restore::plan(self.store, request, self.clock.now())?, last_word)
    }

    /// Puts another file in the place of one that nobody has open.
    fn replace_file(&self, request: &RestoreRequest, last_word: &LastWord<'_>) -> Result<RestoreReport> {
        let mut plan = restore::plan(self.store, request, self.clock.now())?;
        plan.restores.iter_mut().for_each(|planned| planned.action = Action::ReplaceFile);
        self.carry_out(&plan, last_word)
    }

    fn carry_out(&self, plan: &RestorePlan, last_word: &LastWord<'_>) -> Result<RestoreReport> {
        match restore::run_if(self.store, plan, last_word, self.clock.now(), self.watch)? {
            RestoreOutcome::One(report) => Ok(*report),
            RestoreOutcome::Session(_) => Err(Error::usage("one snapshot is restored", "name a snapshot")),
        }
    }
}
