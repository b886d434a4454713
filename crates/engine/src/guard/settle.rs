//! What has changed in the databases, and what becomes of them.

use super::{Choice, Decide, OnFailure, Run};
use crate::report::{
    CompareReport, ComparedSequence, ComparedTable, DatabaseChanges, ErrorReport, GuardOutcome, GuardReport,
    GuardedStatus, SchemaReport,
};
use crate::{ErrorKind, Result};

impl Run<'_> {
    /// Finds out what has changed in each database.
    pub(super) fn compare_all(&self, report: &mut GuardReport) -> Result<()> {
        report.changes.clear();
        for place in 0..self.databases.len() {
            let changes = self.changes(place)?;
            // What is left of the command may commit a moment later.
            let is_same = is_untouched(&changes) && !self.patrol.is_left(place);
            let status = if is_same { GuardedStatus::Unchanged } else { GuardedStatus::Changed };
            report.databases[place].status = status;
            report.changes.push(changes);
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
                sequences: Vec::new(),
                notes: Vec::new(),
                error: Some(ErrorReport::from(&error)),
            }),
        }
    }

    /// Decides, acts, and removes the record when nothing is left to be done.
    pub(super) fn settle(
        &mut self,
        on_failure: OnFailure,
        decide: &Decide<'_>,
        report: &mut GuardReport,
    ) -> Result<()> {
        if report.failure.is_none() {
            report.outcome = GuardOutcome::Succeeded;
            self.finish(report);
            return Ok(());
        }
        report.outcome = if has_changed(report) { GuardOutcome::Kept } else { GuardOutcome::Restored };
        // Each time round one database less is the command's alone.
        while has_changed(report) && report.error.is_none() {
            self.add_doubts(report);
            let choice = match on_failure {
                OnFailure::Keep => Choice::Keep,
                OnFailure::Ask => decide(report)?,
                OnFailure::Restore if can_be_shown(report) => Choice::Restore,
                OnFailure::Restore => Choice::Keep,
            };
            if choice == Choice::Keep {
                break;
            }
            self.restore_all(report)?;
        }
        if report.error.is_none() {
            self.finish(report);
        }
        // Else the record stays: the next guard, and `--resume`, say where the databases stand.
        Ok(())
    }

    /// Lets the snapshots go and removes the record: the guard has ended. Where that cannot be done, the report says so,
    /// since the next guard will.
    pub(super) fn finish(&self, report: &mut GuardReport) {
        self.watch.step("guard.settled");
        if let Err(error) = self.let_go() {
            self.watch.warn(&format!(
                "the snapshots that the guard held are still held, and `dbkeep pin --remove` lets them go: {}",
                error.full_message()
            ));
        }
        if let Err(error) = self.claim.remove(&self.record) {
            report.error.get_or_insert_with(|| ErrorReport::from(&error));
        }
        self.watch.step("guard.finished");
    }
}

/// Says whether there is nothing to bring back. What was rolled back has used numbers of sequences up all the same: nobody
/// misses them, and a sequence that was put back would be missed.
fn is_untouched(changes: &DatabaseChanges) -> bool {
    let rows_are_same = changes.tables.is_empty() && changes.schema == SchemaReport::default();
    let only_went_on =
        !changes.sequences.is_empty() && changes.sequences.iter().all(ComparedSequence::went_on);
    changes.error.is_none() && (changes.same || (rows_are_same && only_went_on))
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
    DatabaseChanges {
        database,
        same,
        schema: compared.schema,
        tables,
        sequences: compared.sequences,
        notes: compared.notes,
        error: None,
    }
}
