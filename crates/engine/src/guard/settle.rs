//! What becomes of the databases when the command has ended.

use super::record::Phase;
use super::{Choice, Decide, OnFailure, Run};
use crate::report::{
    CompareReport, ComparedTable, DatabaseChanges, ErrorReport, GuardOutcome, GuardReport, GuardedStatus,
    SchemaReport,
};
use crate::{Error, ErrorKind, Result};

impl Run<'_> {
    /// Looks at every database: whether it is sound and says what it should, and what has changed in it.
    pub(super) fn look_at_all(&mut self, report: &mut GuardReport) -> Result<()> {
        for place in 0..self.databases.len() {
            if report.failure.is_none() {
                self.judge_one(place, report)?;
            }
        }
        report.changes.clear();
        for place in 0..self.databases.len() {
            let changes = self.changes(place)?;
            let same = changes.same && changes.error.is_none();
            let status = if same { GuardedStatus::Unchanged } else { GuardedStatus::Changed };
            report.databases[place].status = status;
            report.changes.push(changes);
        }
        if let Some(why) = report.failure.as_ref().filter(|_| report.check_failed) {
            self.record.phase = Phase::Failed { why: why.clone() };
            self.note();
        }
        Ok(())
    }

    /// Asks one database. What speaks against it is a failure of the command, whatever that says.
    fn judge_one(&self, place: usize, report: &mut GuardReport) -> Result<()> {
        let judged = self.judge(place)?;
        let told = &mut report.databases[place];
        told.integrity = judged.integrity;
        told.checks = judged.checks;
        if let Some(failure) = judged.failure {
            report.failure = Some(format!("{}: {failure}", told.name));
            report.check_failed = true;
        }
        Ok(())
    }

    /// Returns what differs between a database and its snapshot. One that cannot be compared has changed.
    fn changes(&self, place: usize) -> Result<DatabaseChanges> {
        let name = self.databases[place].source.name.clone();
        match self.compared(place) {
            Ok(compared) => Ok(changes_of(name, compared)),
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => Ok(DatabaseChanges {
                database: name,
                same: false,
                schema: SchemaReport::default(),
                tables: Vec::new(),
                notes: Vec::new(),
                error: Some(ErrorReport::from(&error)),
            }),
        }
    }

    /// Decides, acts, and removes the record when nothing is left to be done.
    pub(super) fn settle(
        &mut self,
        on_failure: OnFailure,
        end_rest: &mut dyn FnMut(),
        decide: &Decide<'_>,
        report: &mut GuardReport,
    ) -> Result<()> {
        if report.failure.is_none() {
            report.outcome = GuardOutcome::Succeeded;
            return self.finish();
        }
        report.outcome = GuardOutcome::Kept;
        if !has_changed(report) {
            report.outcome = GuardOutcome::Restored;
            return self.finish();
        }
        let choice = match on_failure {
            OnFailure::Keep => Choice::Keep,
            OnFailure::Ask => decide(report)?,
            OnFailure::Restore if can_be_shown(report) => Choice::Restore,
            OnFailure::Restore => Choice::Keep,
        };
        if choice == Choice::Restore {
            end_rest();
            self.restore_all(report)?;
        }
        if report.error.is_some() {
            // The record stays: the next guard, and `--resume`, say where the databases stand.
            return Ok(());
        }
        self.finish()
    }

    /// Brings every changed database back. On disk it says so before the first one is touched.
    pub(super) fn restore_all(&mut self, report: &mut GuardReport) -> Result<()> {
        let changed: Vec<usize> = (0..self.databases.len())
            .filter(|place| report.databases[*place].status == GuardedStatus::Changed)
            .collect();
        for place in &changed {
            self.record.databases[*place].position = self.position(*place);
        }
        self.record.phase = Phase::Restoring { why: report.failure.clone().unwrap_or_default() };
        self.note();
        self.watch.step("guard.restoring");
        for place in changed {
            if self.watch.cancelled() {
                return Err(Error::Cancelled);
            }
            let notes = self.undo(place, &mut report.databases[place]);
            report.notes.extend(notes);
            self.watch.step("guard.restored-one");
        }
        let failed: Vec<&ErrorReport> =
            report.databases.iter().filter_map(|one| one.error.as_ref()).collect();
        match failed.as_slice() {
            [] => report.outcome = GuardOutcome::Restored,
            failed => report.error = Some(crate::backup::overall(failed)),
        }
        Ok(())
    }

    /// Removes the record: the guard has ended.
    pub(super) fn finish(&self) -> Result<()> {
        self.watch.step("guard.settled");
        self.claim.remove(&self.record)?;
        self.watch.step("guard.finished");
        Ok(())
    }
}

/// Says whether anything has to be brought back.
pub(super) fn has_changed(report: &GuardReport) -> bool {
    report.databases.iter().any(|one| one.status == GuardedStatus::Changed)
}

/// Says whether nobody else wrote any of the databases that changed.
pub(super) fn can_be_shown(report: &GuardReport) -> bool {
    report.databases.iter().filter(|one| one.status == GuardedStatus::Changed).all(|one| one.alone)
}

fn changes_of(database: String, compared: CompareReport) -> DatabaseChanges {
    let same = compared.same;
    let tables = compared.tables.into_iter().filter(|table: &ComparedTable| !table.is_same()).collect();
    DatabaseChanges { database, same, schema: compared.schema, tables, notes: compared.notes, error: None }
}
