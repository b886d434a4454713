//! A restore point before a change, and the way back after it.
//!
//! [`run`] backs databases up and verifies the backup; only then the task is run, which may be a program or a closure.
//! Afterwards the databases are looked at. When the task failed they are brought back, where it can be shown that nobody
//! else wrote; otherwise what it did is kept, and the report says what would have been lost. A guard that was killed is
//! explained and finished by [`resume`].

mod asleep;
mod database;
mod hold;
mod identity;
mod judge;
mod lookout;
mod openings;
mod patrol;
mod record;
mod resume;
mod server;
mod settle;
mod sockets;
mod still;
mod task;
mod undo;

use std::cell::Cell;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::database::{Guarded, configured, untouched};
use self::patrol::Patrol;
use self::record::{Claim, Phase, Record, Recorded};
use self::still::Standing;
use self::task::Family;
use crate::backup::{self, BackupRequest};
use crate::clock::Clock;
use crate::context::{Context, Watch};
use crate::integrity::Verify;
use crate::report::{
    BackupReport, BackupStatus, ErrorReport, GuardOutcome, GuardReport, GuardedStatus, VerifyStatus,
};
use crate::repository::{self, Store};
use crate::verify::{self, VerifyRequest};
use crate::{Error, ErrorKind, Result};

pub use resume::{Resume, resume};
pub use task::{Closure, Ended, SESSION_NAME, Start, Task, VARIABLE, closure, is_group_alive};

/// What to guard.
#[derive(Clone, Debug, Default)]
pub struct GuardRequest {
    /// Names of the configuration, files, directories, URLs, `env:NAME`; none means all that is configured.
    pub sources: Vec<String>,
    /// A tag for the snapshots.
    pub label: Option<String>,
    /// What is done when the task fails.
    pub on_failure: OnFailure,
    /// Queries that must give one value that says yes, on every database, or with `NAME:` before them on one.
    pub checks: Vec<String>,
    /// What is run, for people.
    pub command: Vec<String>,
}

/// What is done with the databases when the task fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They are brought back, where it can be shown that nobody else wrote.
    #[default]
    Restore,
    /// A person is asked, and again when others have written meanwhile who had not before.
    Ask,
    /// They stay as they are.
    Keep,
}

/// What a person chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Bring the databases back, whoever else wrote.
    Restore,
    /// Leave them as they are.
    Keep,
}

/// Asks a person, who sees what is known so far.
pub type Decide<'d> = dyn Fn(&GuardReport) -> Result<Choice> + 'd;

/// Backs up, verifies, runs `task`, and brings the databases back when it fails.
///
/// An error means that the task was not started, or that nobody could say any more what became of it; the record of
/// the guard is then still there, and [`resume`] goes on. In all other cases the report tells what happened.
pub fn run(
    context: &Context,
    request: &GuardRequest,
    task: &mut dyn Task,
    decide: &Decide<'_>,
    now: Timestamp,
    watch: &Watch,
) -> Result<GuardReport> {
    refuse_nested(context)?;
    let clock = Clock::start(now);
    let (context, names) = configured(context, &request.sources)?;
    let mut report = begin(request, now);
    report.notes = resume::clear_those_that_never_began(&context, &names, now, watch)?;
    let claim = Claim::take(&context, &names)?;
    refuse_unfinished(&claim, &names)?;

    let positions = server::positions(&context, &names, watch);
    let backup = back_up(&context, request, &names, now, watch)?;
    report.session.clone_from(&backup.session);
    report.databases = backup.databases.iter().map(of_backup).collect();
    report.notes.extend(remarks(&backup));
    let Some(store) = verified(&context, &backup, &clock, watch, &mut report)? else {
        report.finished = clock.now();
        return Ok(report);
    };
    watch.step("guard.verified");

    let databases = Guarded::of(store.context(), &backup)?;
    let family = Family::default();
    let in_process = task.is_in_process();
    let lookouts = databases.iter().map(|one| one.lookout(&backup.session, in_process)).collect();
    let patrol = Patrol::new(&family, lookouts);
    let mut run = Run {
        store: &store,
        claim: &claim,
        checks: &request.checks,
        record: record_of(request, &backup, &databases, now),
        databases,
        positions,
        standings: Vec::new(),
        patrol: &patrol,
        clock,
        watch,
    };
    run.claim.save(&run.record)?;
    watch.step("guard.recorded");
    let mut program = Program { task, family: &family, on_failure: request.on_failure };
    // Others are looked out for until nothing is left to be brought back.
    match patrol.during(|| run.guard(&mut program, decide, &mut report)) {
        Ok(guarded) => guarded?,
        Err(error) => {
            run.finish(&mut report);
            return Err(error);
        }
    }
    report.finished = clock.now();
    Ok(report)
}

/// Refuses a guard within the command of another one: two ways back would cross.
fn refuse_nested(context: &Context) -> Result<()> {
    // What the command of a guard has left running is not within it for ever.
    match context.environment.variable(VARIABLE).filter(|mark| task::is_at_work(mark)) {
        None => Ok(()),
        Some(mark) => Err(Error::Refused {
            what: format!(
                "this runs within the command of a guard already (session {})",
                task::session_of(mark)
            ),
            hint: Some(format!(
                "name all databases at the outer guard, and call the command itself within it; where that guard is \
                     over, unset {VARIABLE}"
            )),
        }),
    }
}

/// Refuses to begin where an earlier guard did not end: what its command left is not a state to go back to.
fn refuse_unfinished(claim: &Claim, names: &[String]) -> Result<()> {
    match claim.unfinished(names)?.first() {
        None => Ok(()),
        Some(record) => Err(Error::Refused {
            what: format!("an earlier guard did not end: {}", resume::explained(record)),
            hint: Some("`dbkeep guard --resume` says where the databases stand, and finishes it".to_owned()),
        }),
    }
}

fn begin(request: &GuardRequest, now: Timestamp) -> GuardReport {
    GuardReport {
        session: String::new(),
        command: request.command.clone(),
        exit: None,
        outcome: GuardOutcome::BackupFailed,
        failure: None,
        check_failed: false,
        started: now,
        finished: now,
        duration_ms: 0,
        databases: Vec::new(),
        changes: Vec::new(),
        notes: Vec::new(),
        error: None,
    }
}

/// Backs all databases up. That it could not begin is told like any other failure of a backup.
fn back_up(
    context: &Context,
    request: &GuardRequest,
    names: &[String],
    now: Timestamp,
    watch: &Watch,
) -> Result<BackupReport> {
    let request = BackupRequest {
        sources: names.to_vec(),
        tags: request.label.iter().cloned().collect(),
        reason: Some("pre-migration".to_owned()),
        // The next backup catches up; a copy that cannot be reached is no reason not to migrate.
        copies: false,
        ..BackupRequest::default()
    };
    let report = backup::run(context, &request, now, watch)?;
    watch.step("guard.backed-up");
    Ok(report)
}

/// Returns what a person should know of the backup.
fn remarks(backup: &BackupReport) -> Vec<String> {
    let made =
        backup.initialised.as_ref().map(|made| format!("a repository was made at {}", made.repository));
    let key = backup.initialised.as_ref().and_then(|made| made.key_file.as_ref()).map(|file| {
        format!("its key is in {}: keep a copy, `dbkeep key show-recovery` prints it", file.display())
    });
    made.into_iter().chain(key).chain(backup.warnings.iter().cloned()).collect()
}

fn of_backup(database: &crate::report::DatabaseBackup) -> crate::report::GuardedDatabase {
    crate::report::GuardedDatabase {
        error: database.error.clone(),
        ..untouched(&database.name, database.engine, &database.source, database.snapshot)
    }
}

/// Makes sure that every database has a good snapshot, and reads each one back. Where not, the report says why.
fn verified(
    context: &Context,
    backup: &BackupReport,
    clock: &Clock,
    watch: &Watch,
    report: &mut GuardReport,
) -> Result<Option<Store>> {
    let failed: Vec<&ErrorReport> = backup.databases.iter().filter_map(|one| one.error.as_ref()).collect();
    if failed.iter().any(|error| error.exit_code == 130) {
        return Err(Error::Cancelled);
    }
    if !failed.is_empty() {
        report.error = Some(backup::overall(&failed));
        return Ok(None);
    }
    if let Some(error) = &backup.error {
        report.error = Some(error.clone());
        return Ok(None);
    }
    if let Some(corrupt) = backup.databases.iter().find(|one| one.status == BackupStatus::Corrupt) {
        let error = Error::Damaged { what: corrupt.name.clone(), finding: corrupt.integrity.clone() };
        report.error = Some(ErrorReport::from(&error));
        return Ok(None);
    }
    let store = repository::open(context, clock.now(), watch)?;
    let snapshots = backup.databases.iter().filter_map(|one| one.snapshot).map(|id| id.to_string()).collect();
    // The source itself was checked by the backup; here every stored byte is read back and compared.
    let request = VerifyRequest { snapshots, level: Verify::Quick, ..VerifyRequest::default() };
    let checked = verify::run(&store, &request, clock.now(), watch)?;
    let proved = match checked.checked.iter().find(|one| one.status != VerifyStatus::Ok) {
        None => server::prove_way_back(&store, backup, clock.now(), watch),
        Some(bad) => {
            let finding = bad.findings.first().cloned().unwrap_or_default();
            Err(Error::Damaged { what: format!("the backup of {}", bad.database), finding })
        }
    };
    match proved {
        Ok(()) => Ok(Some(store)),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => {
            report.error = Some(ErrorReport::from(&error));
            Ok(None)
        }
    }
}

fn record_of(request: &GuardRequest, backup: &BackupReport, databases: &[Guarded], now: Timestamp) -> Record {
    let recorded = |one: &Guarded| Recorded {
        name: one.source.name.clone(),
        engine: one.source.engine(),
        source: one.source.shown.clone(),
        path: one.source.file().and_then(|path| std::path::absolute(path).ok()),
        snapshot: one.snapshot,
        doubts: Vec::new(),
        position: None,
    };
    Record {
        session: backup.session.clone(),
        started: now,
        process: std::process::id(),
        command: request.command.clone(),
        on_failure: request.on_failure,
        checks: request.checks.clone(),
        databases: databases.iter().map(recorded).collect(),
        phase: Phase::Ready,
    }
}

/// What is run, and what is done when it fails.
struct Program<'p> {
    task: &'p mut dyn Task,
    family: &'p Family,
    on_failure: OnFailure,
}

impl Program<'_> {
    /// Says whether any of it still runs.
    fn is_alive(&self) -> bool {
        self.family.lock().is_some_and(is_group_alive)
    }
}

/// A guard under way: its databases are backed up.
struct Run<'r> {
    store: &'r Store,
    claim: &'r Claim,
    checks: &'r [String],
    databases: Vec<Guarded>,
    /// Where databases on servers stood before the backup, by their names.
    positions: BTreeMap<String, String>,
    /// Where files stood when the command had ended, in the order of the databases.
    standings: Vec<Standing>,
    record: Record,
    patrol: &'r Patrol<'r>,
    clock: Clock,
    watch: &'r Watch,
}

impl Run<'_> {
    /// Runs the task, looks at what it did, and settles what becomes of it.
    fn guard(
        &mut self,
        program: &mut Program<'_>,
        decide: &Decide<'_>,
        report: &mut GuardReport,
    ) -> Result<()> {
        let has_begun = Cell::new(false);
        let ended = self.start_and_wait(program, &has_begun, report);
        if !has_begun.get()
            && let Err(error) = ended
        {
            // Nothing is there to go back from.
            self.finish(report);
            return Err(error);
        }
        let session = self.record.session.clone();
        ended
            .and_then(|ended| self.conclude(&ended, program, decide, report))
            .map_err(|source| Error::GuardUnfinished { session, source: Box::new(source) })
    }

    /// Looks at what the task did, and settles what becomes of it. After an error the record stays.
    fn conclude(
        &mut self,
        ended: &Ended,
        program: &mut Program<'_>,
        decide: &Decide<'_>,
        report: &mut GuardReport,
    ) -> Result<()> {
        self.watch.step("guard.ended");
        if !ended.is_success() {
            self.end_rest(program, report);
        }
        self.take_stands();
        self.take_down(ended, report);
        self.judge_all(program, report)?;
        self.compare_all(report)?;
        self.watch.step("guard.judged");
        self.settle(program.on_failure, decide, report)
    }

    /// Starts the task, and waits until it has ended.
    fn start_and_wait(
        &mut self,
        program: &mut Program<'_>,
        has_begun: &Cell<bool>,
        report: &mut GuardReport,
    ) -> Result<Ended> {
        self.hold()?;
        self.patrol.look();
        self.see_that_all_stand_still()?;
        self.patrol.look();
        self.watch.step("guard.looked");
        self.record.phase = Phase::Starting;
        self.claim.save(&self.record)?;
        self.watch.step("guard.starting");
        let began = self.clock.now();
        let begun = |group: Option<u32>| {
            has_begun.set(true);
            if let Some(group) = group {
                let phase = Phase::Running { group, began: task::began(group) };
                self.note(&Record { phase, ..self.record.clone() });
            }
            self.watch.step("guard.started");
        };
        let start = Start { session: &self.record.session, family: program.family, begun: &begun };
        let ended = program.task.run(&start);
        program.family.set_running(false);
        report.duration_ms = self.clock.milliseconds_since(began);
        ended
    }

    /// Notes what was written between the backup and now: a restore would lose it.
    fn see_that_all_stand_still(&self) -> Result<()> {
        for place in 0..self.databases.len() {
            match self.is_still(place) {
                Ok(true) => {}
                Ok(false) => {
                    let why = "it was written between the backup and the start of the command";
                    self.patrol.doubt(place, why);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => self.patrol.doubt(
                    place,
                    &format!(
                        "whether it was written before the command cannot be told: {}",
                        error.full_message()
                    ),
                ),
            }
        }
        if self.watch.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Ends what is left of a command that failed, so that nothing changes any more of what is judged; or says that it
    /// lives, where everything is to stay as it is.
    fn end_rest(&self, program: &mut Program<'_>, report: &mut GuardReport) {
        if program.on_failure != OnFailure::Keep {
            program.task.end_rest();
        }
        if program.is_alive() {
            report.notes.push("processes of the command still run, and may go on to write".to_owned());
        }
    }

    /// Takes down how the task ended, in the report and on disk.
    fn take_down(&mut self, ended: &Ended, report: &mut GuardReport) {
        report.exit = Some(ended.exit_code());
        report.failure = ended.failure();
        self.record.phase = match &report.failure {
            None => Phase::Succeeded,
            Some(why) => Phase::Failed { why: why.clone() },
        };
        self.add_doubts(report);
        self.note(&self.record);
        self.watch.step("guard.taken-down");
    }

    /// Adds what was seen of others until now to the report and to the record.
    fn add_doubts(&mut self, report: &mut GuardReport) {
        for (place, doubts) in self.patrol.doubts().into_iter().enumerate() {
            let told = &mut report.databases[place];
            if told.status == GuardedStatus::Restored {
                // Whoever comes now meets what was there before.
                continue;
            }
            told.doubts.extend(doubts);
            told.doubts.sort();
            told.doubts.dedup();
            told.alone = told.doubts.is_empty();
            self.record.databases[place].doubts.clone_from(&told.doubts);
        }
    }

    /// Brings the record up to date. Where that fails the guard goes on: it knows more than its record, and a command that
    /// failed still has to be undone.
    fn note(&self, record: &Record) {
        if let Err(error) = self.claim.save(record) {
            self.watch.warn(&format!("the record of the guard is out of date: {}", error.full_message()));
        }
    }
}
