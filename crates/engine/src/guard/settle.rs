//! What becomes of the databases when the command has ended.

use super::record::Phase;
use super::still::Standing;
use super::{Choice, Decide, OnFailure, Program, Run};
use crate::error::finished_by_resume;
use crate::report::{
    CompareReport, ComparedSequence, ComparedTable, DatabaseChanges, ErrorReport, GuardOutcome, GuardReport,
    GuardedDatabase, GuardedStatus, SchemaReport,
};
use crate::{Error, ErrorKind, Result};

impl Run<'_> {
    /// Asks every database whether it is sound and says what it should. Where one is not, the command has failed, and what
    /// is left of it ends.
    pub(super) fn judge_all(&mut self, program: &mut Program<'_>, report: &mut GuardReport) -> Result<()> {
        self.ask_all(report)?;
        if report.check_failed {
            let was_alive = program.is_alive();
            self.end_rest(program, report);
            self.patrol.end_rest();
            if was_alive {
                self.take_stands();
            }
        }
        Ok(())
    }

    /// Asks the databases until one speaks against the command.
    pub(super) fn ask_all(&mut self, report: &mut GuardReport) -> Result<()> {
        for place in 0..self.databases.len() {
            if report.failure.is_none() {
                self.judge_one(place, report)?;
            }
        }
        if let Some(why) = report.failure.as_ref().filter(|_| report.check_failed) {
            self.record.phase = Phase::Failed { why: why.clone() };
            self.note(&self.record);
        }
        Ok(())
    }

    /// Finds out what has changed in each database.
    pub(super) fn compare_all(&self, report: &mut GuardReport) -> Result<()> {
        report.changes.clear();
        for place in 0..self.databases.len() {
            let changes = self.changes(place)?;
            let status =
                if is_untouched(&changes) { GuardedStatus::Unchanged } else { GuardedStatus::Changed };
            report.databases[place].status = status;
            report.changes.push(changes);
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

    /// Brings every changed database back, or none where others have come since that was decided: then it has to be
    /// decided again. On disk it says what it is about to do before the first one is touched.
    fn restore_all(&mut self, report: &mut GuardReport) -> Result<()> {
        let changed: Vec<usize> =
            (0..self.databases.len()).filter(|&place| is_changed(report, place)).collect();
        for place in &changed {
            let standing = self.standings.get(*place);
            self.record.databases[*place].position = standing.and_then(Standing::position).cloned();
        }
        self.record.phase = Phase::Restoring { why: report.failure.clone().unwrap_or_default() };
        self.note(&self.record);
        self.watch.step("guard.restoring");
        for place in changed {
            if self.watch.cancelled() {
                return Err(Error::Cancelled);
            }
            let alone = |one: &GuardedDatabase| one.alone && one.status == GuardedStatus::Changed;
            let alone: Vec<bool> = report.databases.iter().map(alone).collect();
            let notes = self.undo(place, &alone, &mut report.databases[place]);
            report.notes.extend(notes);
            self.add_doubts(report);
            let is_first = report.databases.iter().all(|one| one.status != GuardedStatus::Restored);
            let others_came = (0..alone.len()).any(|place| alone[place] && !report.databases[place].alone);
            if is_first && others_came && report.databases[place].error.take().is_some() {
                self.record.phase = Phase::Failed { why: report.failure.clone().unwrap_or_default() };
                self.note(&self.record);
                return Ok(());
            }
            self.watch.step("guard.restored-one");
        }
        let failed: Vec<&ErrorReport> =
            report.databases.iter().filter_map(|one| one.error.as_ref()).collect();
        match failed.as_slice() {
            [] => report.outcome = GuardOutcome::Restored,
            failed => {
                let mut error = crate::backup::overall(failed);
                error.hint = Some(finished_by_resume(error.hint.take()));
                report.error = Some(error);
            }
        }
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

fn is_changed(report: &GuardReport, place: usize) -> bool {
    report.databases[place].status == GuardedStatus::Changed
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
