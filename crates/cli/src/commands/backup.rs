//! `dbkeep backup`: one session over one or many databases.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dbkeep_engine::Context;
use dbkeep_engine::backup::{self, BackupRequest};
use dbkeep_engine::report::{BackupReport, BackupStatus, CopyReport, DatabaseBackup, SessionStatus};

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};
use crate::usage;

const HELP: &str = "\
Databases stay in use meanwhile: readers and writers go on. All configured
databases are taken when no SOURCE is given. The first backup into a local
place makes the repository, on a terminal or with --new-key with a random key.
Each database gets its own snapshot; one that fails does not hold back the
others. The last lines are the commands that restore what was stored.

Afterwards every copy of the configuration ([[copies]]) gets what it lacks. A copy
that fails does not fail the backup: it is told, and the next backup catches up.

--verify quick runs SQLite's quick_check on the image that was stored, full
runs its integrity_check, none runs nothing and the report says \"not run\".

Of a PostgreSQL database every row is read at one moment and summed up, whatever
--verify says. Its tables are locked against being changed or dropped meanwhile;
with --yield they are not: the backup makes way for who waits, and begins again at
a new moment.

Examples:
  dbkeep backup data/app.db
  dbkeep backup data/ --tag before-upgrade --at-once
  dbkeep backup data/app.db --reason pre-migration --verify full --json
  dbkeep backup env:DATABASE_URL --yield

Exit codes: 0 stored and good, 1 failed, 2 usage, 3 some databases or copies failed,
4 stored but a source is corrupt, 10 the repository is gone, 11 locked,
12 wrong password or no key, 130 interrupted";

/// Back up databases
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct BackupArgs {
    /// Names from the configuration, SQLite files, directories, PostgreSQL URLs, or env:NAME holding one
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,

    /// Name of the database in the repository [default: the configured name, or the file's stem]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Let the name, known for another file, mean this file from now on
    #[arg(long)]
    pub(crate) adopt_name: bool,

    /// Tag of the snapshots; may be repeated
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<String>,

    /// Why the backup is taken, as manual, schedule or pre-migration
    #[arg(long, value_name = "R", default_value = "manual")]
    pub(crate) reason: String,

    /// Integrity check of what was read: quick, full or none
    #[arg(long, value_name = "LEVEL", default_value = "quick", hide_possible_values = true)]
    pub(crate) verify: super::Level,

    /// Take all SQLite databases at one instant
    #[arg(long)]
    pub(crate) at_once: bool,

    /// Compute the plain SHA-256 of images above 256 MiB too
    #[arg(long)]
    pub(crate) sha256: bool,

    /// Write the JSON report to FILE as well
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Print what would be backed up and stop
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Level of zstd, 1 to 19 [default: the configuration's, 3]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) compression: Option<i32>,

    /// Make a random key when the repository has to be made
    #[arg(long)]
    pub(crate) new_key: bool,

    /// Make way for who waits for a PostgreSQL table, and begin again
    #[arg(long = "yield")]
    pub(crate) yields: bool,

    /// Copy to the configured copies afterwards: all or none
    #[arg(long, value_name = "WHICH", default_value = "all", hide_possible_values = true)]
    pub(crate) copies: Copies,
}

/// Which of the configured copies are brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Copies {
    /// Each of them.
    All,
    /// None.
    None,
}

impl BackupArgs {
    /// Backs up and says what was stored.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let mut context = app.context()?;
        for source in &self.sources {
            let hint = "keep the URL in an environment variable or in .env, and give env:NAME as the source";
            usage::warn_of_password(&app.output, source, hint);
        }
        self.refuse_lost_report(&context)?;
        let request = self.request();
        backup::give_way();
        let report = app.with_password(&mut context, |context| {
            backup::run(context, &request, app.now(), &app.observer())
        })?;
        app.watch.finish();
        log(&report);
        if let Some(made) = &report.initialised {
            super::init::show(app, &context, made);
        }
        show(app, &report, self.verify != super::Level::None && !self.dry_run);
        say_how_to_restore(app, &context, &report);
        if report.recovery_sheet_due && report.status != SessionStatus::Failed && !report.dry_run {
            let sheet = app.command_line(&context, &["key", "show-recovery"]);
            app.output.note(format_args!("reminder: keep a copy of the key away from this machine: {sheet}"));
        }
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }

    fn request(&self) -> BackupRequest {
        BackupRequest {
            sources: self.sources.clone(),
            name: self.name.clone(),
            adopt_name: self.adopt_name,
            tags: self.tags.clone(),
            reason: Some(self.reason.clone()),
            verify: self.verify.depth(),
            at_once: self.at_once,
            sha256: self.sha256,
            report: self.report.clone(),
            dry_run: self.dry_run,
            compression: self.compression,
            new_key: self.new_key,
            copies: self.copies == Copies::All,
            yields: self.yields,
        }
    }

    /// Finds out before a long backup that its report has no place.
    fn refuse_lost_report(&self, context: &Context) -> Result<(), Failure> {
        let Some(report) = &self.report else { return Ok(()) };
        let path = context.environment.resolve_argument(report);
        match path.parent() {
            Some(parent) if parent.is_dir() && !path.is_dir() => Ok(()),
            _ => Err(Failure::failed(
                "io",
                format!("could not write {}", report.display()),
                Some("--report needs a file in a directory that exists".into()),
            )),
        }
    }
}

/// Logs what became of each database.
fn log(report: &BackupReport) {
    for one in &report.databases {
        let snapshot = one.snapshot.as_ref().map(short);
        let error = one.error.as_ref().map(|error| error.message.as_str());
        tracing::info!(
            event = "backed-up",
            session = report.session,
            database = one.name,
            snapshot,
            bytes_added = one.bytes_added,
            integrity = one.integrity,
            duration_ms = one.duration_ms,
            error
        );
    }
}

/// Prints the report for people. `checked`: an integrity check was asked for.
pub(crate) fn show(app: &App, report: &BackupReport, checked: bool) {
    if report.status != SessionStatus::Failed {
        show_table(app, report);
    }
    for copy in &report.copies {
        show_copy(app, copy);
    }
    for warning in &report.warnings {
        app.output.warn(warning, None);
    }
    for database in &report.databases {
        say_notes(app, database, checked);
    }
    // The error of the only database was just told.
    let told = |_: &&_| matches!(report.databases.as_slice(), [one] if one.error.is_some());
    if let Some(error) = report.error.as_ref().filter(|error| !told(error)) {
        app.failed(None, error);
    }
}

/// Prints what became of each database, and the totals.
fn show_table(app: &App, report: &BackupReport) {
    let output = &app.output;
    if report.dry_run {
        output.line(format_args!("would back up into {}:", human::visible(&report.repository)));
    } else {
        output.line(format_args!("session {} in {}", report.session, human::visible(&report.repository)));
    }
    let columns = [
        table::text("DATABASE"),
        table::text("STATUS"),
        table::text("SNAPSHOT"),
        table::number("TABLES").spare(4),
        table::number("ROWS").spare(2),
        table::number("SIZE"),
        table::number("NEW").spare(5),
        table::number("STORED").spare(3),
        table::text("INTEGRITY"),
        table::number("TOOK").spare(6),
    ];
    table::print(output, &columns, report.databases.iter().map(row));
    if !report.dry_run {
        output.line(totals(report));
    }
}

fn row(database: &DatabaseBackup) -> Vec<Value> {
    let (status, tone) = match database.status {
        BackupStatus::Ok => ("ok", Tone::Good),
        BackupStatus::Unchanged => ("unchanged", Tone::Good),
        BackupStatus::Corrupt => ("corrupt", Tone::Bad),
        BackupStatus::Failed => ("failed", Tone::Bad),
    };
    let stored = database.snapshot.is_some();
    let figure = |text: String| if stored { text.into() } else { Value::none() };
    vec![
        database.name.as_str().into(),
        Value::toned(status, tone),
        figure(database.snapshot.as_ref().map(short).unwrap_or_default()),
        figure(human::count(database.tables.len() as u64)),
        figure(human::count(database.rows)),
        figure(human::size(database.bytes_source)),
        figure(human::size(database.bytes_added)),
        figure(human::size(database.bytes_stored)),
        if stored { super::integrity(&database.integrity) } else { Value::none() },
        figure(human::duration(Duration::from_millis(database.duration_ms))),
    ]
}

fn totals(report: &BackupReport) -> String {
    let totals = &report.totals;
    let took = report.finished.duration_since(report.started).unsigned_abs();
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    // The rate of a moment says nothing.
    let rate = human::rate(totals.bytes_read, milliseconds).filter(|_| totals.bytes_read >= 1 << 20);
    let rate = rate.map(|rate| format!(", {rate}")).unwrap_or_default();
    format!(
        "{}{}, {}: {} read, {} new, {} stored ({:.1} % saved), {}{rate}",
        human::counted(totals.databases, "database"),
        if totals.failed > 0 { format!(" ({} failed)", totals.failed) } else { String::new() },
        human::counted(totals.rows, "row"),
        human::size(totals.bytes_read),
        human::size(totals.bytes_added),
        human::size(totals.bytes_stored),
        // What cannot be compressed takes a little more than it is.
        totals.ratio.max(0.0) * 100.0,
        human::duration(took),
    )
}

/// Prints what became of a copy.
fn show_copy(app: &App, copy: &CopyReport) {
    tracing::info!(
        event = "copied",
        copy = copy.name,
        status = copy.status,
        copied = copy.copied,
        bytes_stored = copy.bytes_stored,
        error = copy.error.as_ref().map(|error| error.message.as_str())
    );
    let tone = if copy.error.is_none() { Tone::Good } else { Tone::Bad };
    app.output.line(format_args!(
        "copy {}: {}, {} copied, {} stored",
        human::visible(&copy.name),
        app.output.paint(tone, &copy.status),
        human::counted(copy.copied, "snapshot"),
        human::size(copy.bytes_stored)
    ));
    if let Some(error) = &copy.error {
        app.failed(None, error);
    }
}

/// What to do where a check could not run.
const NOT_RUN: &str = "it is stored as it is and never counts as good; restore a copy and open it with its own application to be sure";

fn say_notes(app: &App, database: &DatabaseBackup, checked: bool) {
    let not_run = checked && database.snapshot.is_some() && database.integrity.starts_with("not run");
    let notes: Vec<String> = database.notes.iter().map(|note| format!("{}: {note}", database.name)).collect();
    match notes.split_last() {
        Some((why, others)) if not_run => {
            others.iter().for_each(|note| app.output.warn(note, None));
            app.output.warn(why, Some(NOT_RUN));
        }
        None if not_run => {
            let what = format!("{}: the integrity check could not run", database.name);
            app.output.warn(&what, Some(NOT_RUN));
        }
        _ => notes.iter().for_each(|note| app.output.note(human::visible(note))),
    }
    if database.status == BackupStatus::Corrupt {
        app.output.warn(
            &format!("{} is damaged: {}; it was stored as it is", database.name, database.integrity),
            Some("an older snapshot may be good: see `dbkeep list`; this one never counts as good"),
        );
    }
    if let Some(error) = &database.error {
        app.failed(Some(&database.name), error);
    }
}

/// Prints the exact commands that bring back what was stored.
pub(crate) fn say_how_to_restore(app: &App, context: &Context, report: &BackupReport) {
    let stored: Vec<_> = report.databases.iter().filter_map(|one| Some((one, one.snapshot?))).collect();
    if stored.is_empty() || report.dry_run {
        return;
    }
    app.output.line("restore with:");
    for (_, snapshot) in &stored {
        app.output.line(format_args!("  {}", app.command_line(context, &["restore", &short(snapshot)])));
    }
    if stored.len() > 1 {
        let directory = format!("restored_{}", report.session);
        let words = ["restore", "--session", &report.session, "--to", &directory];
        app.output.line(format_args!("  {}", app.command_line(context, &words)));
    }
}
