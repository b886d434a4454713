//! Explaining and finishing a guard that was killed.
//!
//! What its command did is known only as far as its record says. So a database is brought back by itself only where it was
//! decided already, and the database stands where it stood then; everything else is for a person to say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;

use super::database::{Guarded, configured, untouched};
use super::patrol::Patrol;
use super::record::{Claim, Phase, Record, Recorded, unfinished};
use super::settle::{can_be_shown, has_changed};
use super::still::Standing;
use super::task::{self, Family};
use super::{Choice, Decide, OnFailure, Run, VARIABLE};
use crate::clock::Clock;
use crate::context::{Context, Watch};
use crate::report::{ErrorReport, GuardOutcome, GuardReport, GuardedStatus};
use crate::repository;
use crate::{Error, ErrorKind, Result};

/// What to resume.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// The databases of the guard, as they were given to it; none means every guard that did not end.
    pub sources: Vec<String>,
    /// What to do where a command failed, or nobody knows how it ended. By default only what can be shown to be right.
    pub on_failure: Option<OnFailure>,
}

/// Explains and finishes guards that did not end, one report each. Where somebody has to decide, or one cannot be finished
/// (its command still runs, another guard is at work, the database is another one), the report has an error that says so,
/// and the guard can be resumed again.
///
/// # Errors
/// When the sources or the records cannot be read, or somebody interrupts it.
pub fn resume(
    context: &Context,
    request: &Resume,
    decide: &Decide<'_>,
    now: Timestamp,
    watch: &Watch,
) -> Result<Vec<GuardReport>> {
    let (context, named) = match request.sources.as_slice() {
        [] => (context.clone(), Vec::new()),
        given => configured(context, given)?,
    };
    let of_interest =
        |record: &Record| named.is_empty() || record.databases.iter().any(|one| named.contains(&one.name));
    let mut reports = Vec::new();
    let finish = Finish { context: &context, now, watch };
    for record in unfinished(&context)?.into_iter().filter(of_interest) {
        match finish.guard(&record, request.on_failure, decide) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            // It speaks for this guard alone.
            Err(error) => reports.push(not_finished(&record, now, &error)),
            Ok(report) => reports.extend(report),
        }
    }
    Ok(reports)
}

/// Removes what is left of guards of these databases that were killed before they started their command. Returns what a
/// person should know.
pub(super) fn clear_those_that_never_began(
    context: &Context,
    names: &[String],
    now: Timestamp,
    watch: &Watch,
) -> Result<Vec<String>> {
    let never_began = |record: &Record| {
        record.phase == Phase::Ready && record.databases.iter().any(|one| names.contains(&one.name))
    };
    let finish = Finish { context, now, watch };
    let mut notes = Vec::new();
    for record in unfinished(context)?.into_iter().filter(never_began) {
        // It may have begun since it was read.
        if let Some((claim, record)) = finish.claimed(&record)?
            && record.phase == Phase::Ready
        {
            notes.extend(finish.conclude(&claim, record, None, &|_| Ok(Choice::Keep))?.notes);
        }
    }
    Ok(notes)
}

/// What guards are finished with.
struct Finish<'f> {
    context: &'f Context,
    now: Timestamp,
    watch: &'f Watch,
}

impl Finish<'_> {
    /// Finishes one guard; `None` when it has ended by itself.
    fn guard(
        &self,
        record: &Record,
        on_failure: Option<OnFailure>,
        decide: &Decide<'_>,
    ) -> Result<Option<GuardReport>> {
        let Some((claim, record)) = self.claimed(record)? else { return Ok(None) };
        refuse_while_it_runs(&record)?;
        match self.conclude(&claim, record.clone(), on_failure, decide) {
            // What is kept need not be there to be looked at, nor the repository.
            Err(error) if on_failure == Some(OnFailure::Keep) && may_be_gone(error.kind()) => {
                claim.remove(&record)?;
                Ok(Some(kept_unseen(&record, self.now, &error)))
            }
            concluded => concluded.map(Some),
        }
    }

    /// Takes the right to finish a guard, and reads its record again: what was read before may be what a guard wrote that
    /// was at work and has ended. `None` then.
    fn claimed(&self, record: &Record) -> Result<Option<(Claim, Record)>> {
        let names: Vec<String> = record.databases.iter().map(|one| one.name.clone()).collect();
        let claim = Claim::take(self.context, &names)?;
        Ok(claim.reload(&record.session)?.map(|record| (claim, record)))
    }

    fn conclude(
        &self,
        claim: &Claim,
        record: Record,
        on_failure: Option<OnFailure>,
        decide: &Decide<'_>,
    ) -> Result<GuardReport> {
        let store = repository::open(self.context, self.now, self.watch)?;
        let find = |one: &Recorded| located(self.context, one);
        let never_began = record.phase == Phase::Ready;
        let databases = record.databases.iter().filter(|_| !never_began).map(find);
        let databases = databases.collect::<Result<Vec<_>>>()?;
        // A source that is found by what the record says of it is a configured one from here on.
        let mut configured = store.context().clone();
        for (context, _) in &databases {
            configured.config.databases.extend(context.config.databases.clone());
        }
        let store = repository::open(&configured, self.now, self.watch)?;
        let checks = record.checks.clone();
        let standing = |one: &Recorded| one.position.clone().map_or_else(Standing::default, Standing::at);
        let clock = Clock::start(self.now);
        // Who had them open since is for a person to say; that nobody has written is shown by where they stand.
        let family = Family::default();
        let patrol = Patrol::new(&family, Vec::new());
        let mut run = Run {
            store: &store,
            claim,
            checks: &checks,
            databases: databases.into_iter().map(|(_, database)| database).collect(),
            positions: BTreeMap::new(),
            standings: record.databases.iter().map(standing).collect(),
            record,
            patrol: &patrol,
            clock,
            watch: self.watch,
        };
        let left = left_by(&run.record);
        let mut report = retold(&run.record, self.now);
        for (place, told) in report.databases.iter_mut().enumerate().filter(|_| !never_began) {
            if !run.stands_as_decided(place) {
                told.doubts.push("nobody looked out for others since its guard was killed".to_owned());
            }
            told.doubts.extend(left.clone());
            told.alone = told.doubts.is_empty();
        }
        if never_began {
            run.finish(&mut report);
        } else {
            run.refuse_other_databases()?;
            run.ask_all(&mut report)?;
            run.compare_all(&mut report)?;
            run.settle_again(on_failure, decide, &mut report)?;
        }
        report.finished = clock.now();
        Ok(report)
    }
}

/// Finds a database of a record: the configured one of its name, else where the record says that it was.
fn located(context: &Context, recorded: &Recorded) -> Result<(Context, Guarded)> {
    let (name, snapshot) = (&recorded.name, recorded.snapshot);
    if context.config.databases.contains_key(name) {
        return Ok((context.clone(), Guarded::find(context, name, snapshot)?));
    }
    if let Some(path) = &recorded.path {
        return Ok(Guarded::at(context, recorded, path));
    }
    let (context, _) = configured(context, std::slice::from_ref(&recorded.source))?;
    let found = Guarded::find(&context, name, snapshot)?;
    Ok((context, found))
}

/// Says whether an error is one of what is not needed to keep everything as it is.
fn may_be_gone(kind: ErrorKind) -> bool {
    ![ErrorKind::Interrupted, ErrorKind::Refused].contains(&kind)
}

/// Refuses to judge what a command did while it still does it. A process that has left its group may be a server that
/// stays for good, and is no reason to wait.
fn refuse_while_it_runs(record: &Record) -> Result<()> {
    let running = |what: String, end: String| Error::Refused {
        what: format!("the command of session {} still runs ({what})", record.session),
        hint: Some(format!("wait until it has ended, or end it with `{end}`")),
    };
    match record.phase {
        Phase::Running { group, began } if task::is_still_there(group, began) => {
            Err(running(format!("process group {group}"), format!("kill -TERM -- -{group}")))
        }
        // Its group is not known.
        Phase::Starting => match processes_of(&record.session, record.process).first() {
            Some(first) => Err(running(format!("process {first}"), format!("kill -TERM {first}"))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Returns the processes that the command of a guard has left, by the variable that it was given; `guard` is the number of
/// the guard's own process.
pub(super) fn processes_of(session: &str, guard: u32) -> Vec<u32> {
    let wanted = format!("{VARIABLE}={session} {guard} ");
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let has = |pid: &u32| {
        let environment = fs::read(Path::new("/proc").join(pid.to_string()).join("environ"));
        environment
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|one| one.starts_with(wanted.as_bytes())))
    };
    let own = std::process::id();
    processes.flatten().filter_map(number).filter(|pid| *pid != own).filter(has).collect()
}

impl Run<'_> {
    /// Says whether it was decided to bring a database back, and it stands where it stood then.
    fn stands_as_decided(&self, place: usize) -> bool {
        let is_decided = matches!(self.record.phase, Phase::Restoring { .. });
        is_decided && self.record.databases[place].position.is_some() && !self.has_moved(place)
    }

    /// Decides and acts as far as that is for us to do.
    fn settle_again(
        &mut self,
        on_failure: Option<OnFailure>,
        decide: &Decide<'_>,
        report: &mut GuardReport,
    ) -> Result<()> {
        let shown = can_be_shown(report);
        let open = report.failure.is_some() && has_changed(report);
        match on_failure {
            None if open && !shown => {
                let error = Error::Refused {
                    what: format!("somebody has to say what becomes of {}", changed(report)),
                    hint: Some(
                        "`dbkeep guard --resume --on-failure restore` goes back, and backs up what is there now first; \
                         `--on-failure keep` leaves it as it is"
                            .to_owned(),
                    ),
                };
                report.error = Some(ErrorReport::from(&error));
                Ok(())
            }
            // Whoever says it has been told what it means.
            Some(OnFailure::Restore) if open => self.settle(OnFailure::Ask, &|_| Ok(Choice::Restore), report),
            Some(how) => self.settle(how, decide, report),
            None => self.settle(OnFailure::Restore, decide, report),
        }
    }
}

/// Returns what a record tells, before the databases are looked at.
fn retold(record: &Record, now: Timestamp) -> GuardReport {
    let failure = match &record.phase {
        Phase::Ready => Some("its guard was killed before it was started".to_owned()),
        Phase::Starting | Phase::Running { .. } => {
            Some("its guard was killed, so how it ended is not known".to_owned())
        }
        Phase::Succeeded => None,
        Phase::Failed { why } | Phase::Restoring { why } => Some(why.clone()),
    };
    let database = |recorded: &Recorded| crate::report::GuardedDatabase {
        doubts: recorded.doubts.clone(),
        ..untouched(&recorded.name, recorded.engine, &recorded.source, Some(recorded.snapshot))
    };
    GuardReport {
        session: record.session.clone(),
        command: record.command.clone(),
        exit: None,
        outcome: match record.phase {
            Phase::Ready => GuardOutcome::NotStarted,
            _ => GuardOutcome::Kept,
        },
        failure,
        check_failed: false,
        started: record.started,
        finished: now,
        duration_ms: 0,
        databases: record.databases.iter().map(database).collect(),
        changes: Vec::new(),
        notes: vec![format!("an earlier guard did not end: {}", explained(record))],
        error: None,
    }
}

/// Returns the report of a guard that could not be finished now. Nothing is known of its databases.
fn not_finished(record: &Record, now: Timestamp, error: &Error) -> GuardReport {
    GuardReport { databases: Vec::new(), error: Some(ErrorReport::from(error)), ..retold(record, now) }
}

/// Returns the report of a guard that was finished without a look at its databases, which stay as they are.
fn kept_unseen(record: &Record, now: Timestamp, error: &Error) -> GuardReport {
    let mut report = GuardReport { databases: Vec::new(), ..retold(record, now) };
    report.notes.push(format!("what has changed could not be found out: {}", error.full_message()));
    report.notes.push(format!(
        "the snapshots of session {} may still be held; `dbkeep pin --remove` lets them go",
        record.session
    ));
    report
}

/// Says which process the command has left, that still runs.
fn left_by(record: &Record) -> Option<String> {
    let process = *processes_of(&record.session, record.process).first()?;
    Some(format!("process {process}, which the command has left, still runs, and may have written it"))
}

fn changed(report: &GuardReport) -> String {
    let changed = report.databases.iter().filter(|one| one.status == GuardedStatus::Changed);
    changed.map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Says in words how far a guard came.
pub(super) fn explained(record: &Record) -> String {
    let how = match &record.phase {
        Phase::Ready => "its command was not started".to_owned(),
        Phase::Starting | Phase::Running { .. } => "how its command ended is not known".to_owned(),
        Phase::Succeeded => "its command succeeded, and its checks were not finished".to_owned(),
        Phase::Failed { why } => format!("its command failed: {why}"),
        Phase::Restoring { why } => format!("its command failed: {why}; databases were being brought back"),
    };
    let names: Vec<&str> = record.databases.iter().map(|one| one.name.as_str()).collect();
    let command = record.command.join(" ");
    crate::name::printable(&format!("session {} of {}, {command:?}; {how}", record.session, names.join(", ")))
}
