//! `dbkeep guard`: a restore point before a command that changes databases, and the way back after it.

mod way_back;

use std::cell::Cell;
use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dbkeep_engine::guard::{self, Choice, GuardRequest, OnFailure, Resume};
use dbkeep_engine::report::{DatabaseChanges, GuardOutcome, GuardReport, GuardedDatabase, GuardedStatus};
use dbkeep_engine::{Context, Error, ErrorKind, redact_within};
use serde_json::json;

use super::compare::{schema_change, sequence_change};
use crate::app::{App, short};
use crate::child::{self, Program};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::prompt;
use crate::usage;

/// What the guard exits with when it failed itself.
pub(crate) const FAILED: Exit = Exit::OfCommand(125);

const HELP: &str = "\
Every database is backed up and the backup is read back. Only then COMMAND
runs, with its input, output and signals, and dbkeep exits as it does.

COMMAND has failed when it exits with something else than 0, when a signal ends
it, when it takes longer than --timeout, or when a --check does not hold or a
database is damaged after it. Then --on-failure decides:

  restore  bring the databases back, but only where it can be shown that
           nothing but COMMAND wrote to them; else keep      [without a terminal]
  ask      show what has changed and ask                   [on a terminal]
  keep     leave everything as it is

What is there is backed up before anything is brought back. SQLite databases
are brought back in place, also while applications have them open; PostgreSQL
databases are made anew and renamed.

A guard that was killed is explained and finished with --resume, which takes no
COMMAND: what can be shown to be right is done; with --on-failure restore or
keep that is done, whoever else wrote.

Examples:
  dbkeep guard app.db -- sqlite3 -bail app.db \".read migration.sql\"
  dbkeep guard --check \"SELECT count(*) > 0 FROM users\" -- alembic upgrade head
  dbkeep guard env:DATABASE_URL --timeout 10m -- psql -f migration.sql
  dbkeep guard --resume

Exit codes: that of COMMAND; 1 a check after it failed, 124 it took too long,
125 the guard itself failed, 126 COMMAND cannot be run, 127 there is no COMMAND,
128+N signal N ended it, 130 interrupted before COMMAND. --resume: 0 finished,
125 somebody has to decide, 130 interrupted";

/// Run a command that changes databases, and bring them back when it fails
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct GuardArgs {
    /// What to guard [default: all configured databases]
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,

    /// Tag for the snapshots, as the name of the migration
    #[arg(long, value_name = "LABEL")]
    pub(crate) name: Option<String>,

    /// What to do when COMMAND fails: restore, ask or keep [default: ask on a terminal, else restore]
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    pub(crate) on_failure: Option<How>,

    /// Query that has to give one value other than 0, false, "" and NULL, after COMMAND, on every database; `NAME: SQL`
    /// for one of them; may be repeated
    #[arg(long = "check", value_name = "SQL")]
    pub(crate) checks: Vec<String>,

    /// How long COMMAND may take, as 90s, 10m or 1h30m
    #[arg(long, value_name = "D")]
    pub(crate) timeout: Option<String>,

    /// Explain and finish a guard that was killed
    #[arg(long, conflicts_with_all = ["command", "name", "checks", "timeout"])]
    pub(crate) resume: bool,

    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What to do when the command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// Bring the databases back.
    Restore,
    /// Ask.
    Ask,
    /// Leave them.
    Keep,
}

impl How {
    fn on_failure(self) -> OnFailure {
        match self {
            Self::Restore => OnFailure::Restore,
            Self::Ask => OnFailure::Ask,
            Self::Keep => OnFailure::Keep,
        }
    }
}

impl GuardArgs {
    /// Guards. Its own failures get exit codes that no command is likely to have.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        for source in &self.sources {
            let hint = "keep the URL in an environment variable or in .env, and give env:NAME";
            usage::warn_of_password(&app.output, source, hint);
        }
        let has_begun = Cell::new(false);
        let done = if self.resume { self.finish(app) } else { self.guard(app, &has_begun) };
        done.map_err(|failure| of_guard(failure, has_begun.get()))
    }

    /// `has_begun` is set when an error comes after the command was started.
    fn guard(&self, app: &App, has_begun: &Cell<bool>) -> Result<Exit, Failure> {
        let Some(program) = self.command.first() else {
            return Err(Failure::usage(
                "no command is given",
                "write it after `--`, as in `dbkeep guard app.db -- ./migrate.sh`",
            ));
        };
        let timeout = self.timeout.as_deref().map(duration).transpose()?;
        let on_failure = self.on_failure(app)?;
        let environment = app.environment();
        child::find(program, environment.variable("PATH"), &environment.working_directory)?;
        let mut context = app.context()?;
        let request = GuardRequest {
            sources: self.sources.clone(),
            label: self.name.clone(),
            on_failure,
            checks: self.checks.clone(),
            command: self.words(),
        };
        let json = app.output.json();
        let report = app.with_password(&mut context, |context| {
            let mut task = Program::new(&self.command, timeout, json, &app.stop);
            let decide = |report: &GuardReport| ask(app, context, report);
            guard::run(context, &request, &mut task, &decide, app.now(), &app.observer())
                .inspect_err(|error| has_begun.set(matches!(error, Error::GuardUnfinished { .. })))
        })?;
        app.watch.finish();
        show(app, &context, &report);
        Ok(tell(app, &report))
    }

    /// Finishes guards that were killed.
    fn finish(&self, app: &App) -> Result<Exit, Failure> {
        let on_failure = match self.on_failure {
            Some(_) => Some(self.on_failure(app)?),
            None => app.can_ask().then_some(OnFailure::Ask),
        };
        let request = Resume { sources: self.sources.clone(), on_failure };
        let mut context = app.context()?;
        let reports = app.with_password(&mut context, |context| {
            let decide = |report: &GuardReport| ask(app, context, report);
            guard::resume(context, &request, &decide, app.now(), &app.observer())
        })?;
        app.watch.finish();
        if reports.is_empty() {
            app.output.note("no guard was left unfinished");
        }
        for report in &reports {
            show(app, &context, report);
            if let Some(error) = &report.error {
                app.failed(None, error);
            }
        }
        let open = reports.iter().find_map(|report| report.error.as_ref());
        let mut document = json!({ "resumed": reports });
        if let Some(error) = open {
            document["error"] = json!(error);
        }
        app.output.document(&document);
        Ok(if open.is_some() { FAILED } else { Exit::Done })
    }

    fn on_failure(&self, app: &App) -> Result<OnFailure, Failure> {
        match self.on_failure {
            Some(How::Ask) if !app.can_ask() => Err(Failure::usage(
                "there is no terminal to ask on",
                "give --on-failure restore or --on-failure keep",
            )),
            Some(how) => Ok(how.on_failure()),
            None if app.can_ask() => Ok(OnFailure::Ask),
            None => Ok(OnFailure::Restore),
        }
    }

    /// Returns the command as it may be shown and kept.
    fn words(&self) -> Vec<String> {
        self.command.iter().map(|word| redact_within(&word.to_string_lossy())).collect()
    }
}

/// Reads a duration: a number is one of seconds.
fn duration(text: &str) -> Result<Duration, Failure> {
    let wrong = || Failure::usage(format!("{text:?} is no duration"), "write it as 90s, 10m or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return if seconds > 0 { Ok(Duration::from_secs(seconds)) } else { Err(wrong()) };
    }
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero()).ok_or_else(wrong)
}

/// Returns a failure of the guard itself with an exit code that no command should be taken to have: as `timeout(1)` has
/// them before the command was started, and one for all afterwards.
fn of_guard(failure: Failure, has_begun: bool) -> Failure {
    let exit = match ErrorKind::of_word(&failure.kind) {
        _ if has_begun => FAILED,
        Some(ErrorKind::Interrupted) => Exit::Interrupted,
        Some(ErrorKind::CommandNotFound) => Exit::OfCommand(127),
        Some(ErrorKind::CommandNotExecutable) => Exit::OfCommand(126),
        _ => FAILED,
    };
    let resume = || "`dbkeep guard --resume` says whether anything is left to be finished".to_owned();
    let hint = failure.hint.clone().or_else(|| (exit == Exit::Interrupted).then(resume));
    Failure { exit, hint, ..failure }
}

/// Shows what has changed, and asks.
fn ask(app: &App, context: &Context, report: &GuardReport) -> Result<Choice, Error> {
    app.watch.finish();
    show(app, context, report);
    let rows = vec![
        "bring the databases back; what is there now is backed up first".to_owned(),
        "keep them as they are".to_owned(),
    ];
    match prompt::choice("The command failed. What now?", rows) {
        Ok(0) => Ok(Choice::Restore),
        Ok(_) => Ok(Choice::Keep),
        Err(_) => Err(Error::Cancelled),
    }
}

/// Prints the document, and what failed; returns what the process exits with.
fn tell(app: &App, report: &GuardReport) -> Exit {
    let code = report.exit_code();
    let error = match (&report.error, &report.failure) {
        (Some(error), _) => Some(json!(error)),
        (None, Some(failure)) => Some(json!({
            "kind": if report.check_failed { ErrorKind::CheckFailed } else { ErrorKind::CommandFailed }.word(),
            "message": if report.check_failed { failure.clone() } else { format!("the command failed: {failure}") },
            "hint": hint(report),
        })),
        (None, None) => None,
    };
    let mut document = json!(report);
    if let Some(error) = error {
        app.output.failed(
            error["kind"].as_str().unwrap_or_default(),
            error["message"].as_str().unwrap_or_default(),
            error["hint"].as_str(),
        );
        document["error"] = error;
    }
    app.output.document(&document);
    Exit::OfCommand(code)
}

fn hint(report: &GuardReport) -> &'static str {
    match report.outcome {
        GuardOutcome::Restored => "every database is as it was before the command",
        GuardOutcome::NotStarted => "run it again",
        _ => "what the command did was kept; how to go back is said above, with each database",
    }
}

/// Says what happened to each database, on standard error: standard output is the command's.
fn show(app: &App, context: &Context, report: &GuardReport) {
    for note in &report.notes {
        app.output.note(human::visible(note));
    }
    for (place, one) in report.databases.iter().enumerate() {
        let changes = report.changes.get(place);
        show_database(app, one, changes);
        show_way_back(app, context, report, one);
    }
}

fn show_database(app: &App, one: &GuardedDatabase, changes: Option<&DatabaseChanges>) {
    let output = &app.output;
    let name = human::visible(&one.name);
    let snapshot = one.snapshot.as_ref().map(short).unwrap_or_default();
    match one.status {
        GuardedStatus::Untouched => output.note(format_args!("{name}: the command was not started")),
        GuardedStatus::Unchanged => output.note(format_args!("{name}: as it was before the command")),
        GuardedStatus::Changed => output.note(format_args!("{name}: changed since snapshot {snapshot}")),
        GuardedStatus::Restored => output.note(format_args!(
            "{name}: restored from snapshot {snapshot}, {} written, {}",
            human::size(one.bytes_written),
            human::duration(Duration::from_millis(one.restore_ms))
        )),
    }
    for line in changes.into_iter().flat_map(lines) {
        output.note(line);
    }
    for check in one.checks.iter().filter(|check| !check.ok) {
        output.note(format_args!(
            "   check {} gives {}",
            human::visible(&check.sql),
            human::visible(&check.found)
        ));
    }
    if let Some(error) = &one.error {
        app.failed(Some(&one.name), error);
    }
}

/// Returns what has changed in a database, a line a thing.
fn lines(changes: &DatabaseChanges) -> Vec<String> {
    let schema = &changes.schema;
    let mut lines = Vec::new();
    for (sign, all) in [("+", &schema.added), ("-", &schema.removed), ("~", &schema.changed)] {
        lines.extend(all.iter().map(|change| format!(" {sign} {}", schema_change(change))));
    }
    for table in &changes.tables {
        let name = human::visible(&table.name);
        lines.push(match &table.error {
            Some(error) => format!("   {name}: not compared: {}", human::visible(error)),
            None => format!(
                "   {name}: {} → {} rows, {} added, {} removed, {} changed",
                human::count(table.rows_left),
                human::count(table.rows_right),
                human::count(table.added),
                human::count(table.removed),
                human::count(table.changed)
            ),
        });
    }
    lines.extend(changes.sequences.iter().map(|one| format!(" ~ {}", sequence_change(one))));
    if let Some(error) = &changes.error {
        lines.push(format!("   what has changed is not known: {}", human::visible(&error.message)));
    }
    lines.extend(changes.notes.iter().map(|note| format!("   note: {}", human::visible(note))));
    lines
}

/// Says how to go on by hand.
fn show_way_back(app: &App, context: &Context, report: &GuardReport, one: &GuardedDatabase) {
    if let Some(safety) = &one.safety_snapshot {
        let line = app.command_line(context, &["restore", &short(safety), "--in-place"]);
        app.output.note(format_args!("   what the command left is kept; back to it with:\n     {line}"));
    }
    let Some(snapshot) = one.snapshot.as_ref().filter(|_| one.status == GuardedStatus::Changed) else {
        return;
    };
    if report.failure.is_some() {
        for doubt in &one.doubts {
            let text = format!("{}: {doubt}, so a restore may lose what others wrote", one.name);
            app.output.warn(&text, None);
        }
    }
    way_back::show(app, context, snapshot, one);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let seconds =
            |text: &str| duration(text).map(|read| read.as_secs_f64()).map_err(|error| error.message);
        for (text, expected) in
            [("5", 5.0), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("1d", 86400.0)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0s", "-5s", "soon", "1 month"] {
            assert_eq!(seconds(text).unwrap_err(), format!("{text:?} is no duration"));
        }
    }

    #[test]
    fn failures_of_the_guard_have_codes_of_their_own() {
        let code = |kind: &str| of_guard(Failure::failed(kind, "x", None), false).exit.code();
        assert_eq!(code("usage"), 125);
        assert_eq!(code("wrong-password"), 125);
        assert_eq!(code("interrupted"), 130);
        assert_eq!((code("command-not-executable"), code("command-not-found")), (126, 127));
        let interrupted = of_guard(Failure::failed("interrupted", "x", None), true);
        assert_eq!(interrupted.exit.code(), 125, "its command has run");
    }
}
