//! `dbkeep verify`: proves that snapshots keep their promise, and plain files what they say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dbkeep_engine::files;
use dbkeep_engine::report::{CheckedFile, FilesReport, Verified, VerifyReport, VerifyStatus};
use dbkeep_engine::verify::{self, VerifyRequest};

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};

const HELP: &str = "\
Reads the data back from the repository, decrypts it, compares every hash and
row count with the manifest and runs SQLite's full integrity check, with no
restore to disk. The result is recorded in the repository. Without SNAPSHOT
the newest good snapshot of every database is verified.

A FILE is looked at instead, without any repository: an exported bundle or
directory, its .tar.gz, .db, .db.gz, SQL text, JSON, NDJSON or CSV, also the
directories and archives of backup scripts. Checksums and manifests beside it
are compared, databases get the full integrity check, texts are read to their
end, and the report says what such a file cannot hold. What looks like an id is
one: write ./beef for a file of that name.

Examples:
  dbkeep verify
  dbkeep verify latest --database app
  dbkeep verify --all --json
  dbkeep verify exports/backup_20260102_030405

Exit codes: 0 all good, 1 failed, 2 usage, 4 something is damaged or missing,
10 no repository, 11 locked, 12 wrong password or no key, 130 interrupted";

/// Prove that snapshots can be restored
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct VerifyArgs {
    /// Starts of ids, `latest`, `latest~N`; or files and directories
    #[arg(value_name = "SNAPSHOT|FILE", conflicts_with_all = ["all", "session"])]
    pub(crate) snapshots: Vec<String>,

    /// Every snapshot
    #[arg(long, conflicts_with = "session")]
    pub(crate) all: bool,

    /// Only snapshots of this database
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// The snapshots of this session, or of the `latest`
    #[arg(long, value_name = "S")]
    pub(crate) session: Option<String>,
}

impl VerifyArgs {
    /// Verifies.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let environment = app.environment();
        let (paths, snapshots): (Vec<&String>, Vec<&String>) =
            self.snapshots.iter().partition(|word| files::is_file(word, environment));
        if let (Some(file), Some(snapshot)) = (paths.first(), snapshots.first()) {
            return Err(Failure::usage(
                format!("{file} is a file and {snapshot} a snapshot"),
                "verify them one after the other",
            ));
        }
        if !paths.is_empty() {
            return self.files(app, &paths);
        }
        let store = app.open()?;
        let request = VerifyRequest {
            snapshots: self.snapshots.clone(),
            all: self.all,
            database: self.database.clone(),
            session: self.session.clone(),
            ..VerifyRequest::default()
        };
        let report = verify::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }

    /// Looks at plain files.
    fn files(&self, app: &App, paths: &[&String]) -> Result<Exit, Failure> {
        if self.database.is_some() {
            return Err(Failure::usage("--database goes with snapshots, not with files", "leave it out"));
        }
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let report = files::verify(app.environment(), &paths, &app.observer())?;
        app.watch.finish();
        show_files(app, &report);
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }
}

/// Prints what files hold, a line a database, and every finding below.
fn show_files(app: &App, report: &FilesReport) {
    let output = &app.output;
    for facts in &report.files {
        let by = facts.written_by.as_deref().unwrap_or("unknown");
        output.line(format_args!(
            "{}, written by {}",
            output.paint(Tone::Strong, human::visible(&facts.path)),
            human::visible(by)
        ));
        let git = facts.git_branch.as_ref().map(|branch| {
            let commit: String =
                facts.git_commit.as_deref().unwrap_or("no commit").chars().take(12).collect();
            format!("{branch} ({commit})")
        });
        let all = [
            ("session", &facts.session),
            ("time", &facts.time),
            ("user", &facts.user),
            ("host", &facts.host),
            ("git", &git),
        ];
        for (what, text) in all {
            if let Some(text) = text {
                output.line(format_args!("  {what:<8} {}", human::visible(text)));
            }
        }
        for note in &facts.notes {
            output.note(format_args!("note: {}", human::visible(note)));
        }
    }
    let columns = [
        table::text("DATABASE"),
        table::text("STATUS"),
        table::text("FORM"),
        table::number("TABLES"),
        table::number("ROWS"),
        table::text("CHECKSUM"),
        table::text("INTEGRITY"),
        table::text("FILE").spare(1),
    ];
    table::print(output, &columns, report.checked.iter().map(file_row));
    for one in &report.checked {
        let name = human::visible(&one.file);
        for table in one.tables.iter().take(if app.global.verbose > 0 { usize::MAX } else { 0 }) {
            output.line(format_args!(
                "  {} {}: {}",
                human::visible(&one.database),
                human::visible(&table.name),
                human::counted(table.rows, "row")
            ));
        }
        for note in &one.notes {
            output.note(format_args!("note: {name}: {}", human::visible(note)));
        }
        for finding in &one.findings {
            output.line(format_args!(
                "{} {name}: {}",
                output.paint(Tone::Bad, "finding:"),
                human::visible(finding)
            ));
        }
    }
    let mut said = BTreeSet::new();
    for what in report.checked.iter().flat_map(|one| one.cannot_hold.iter().map(|what| (&one.form, what))) {
        if said.insert(what) {
            output.line(format_args!("{} cannot hold {}", what.0, human::visible(what.1)));
        }
    }
    let damaged = match report.damaged {
        0 => "none damaged".to_owned(),
        damaged => output.paint(Tone::Bad, format_args!("{damaged} damaged or missing")),
    };
    output.line(format_args!("{} good, {damaged}", human::counted(report.ok, "database")));
}

fn file_row(one: &CheckedFile) -> Vec<Value> {
    vec![
        Value::toned(one.database.as_str(), Tone::Strong),
        status(one.status),
        one.form.as_str().into(),
        human::count(one.tables.len() as u64).into(),
        human::count(one.rows).into(),
        match one.checksum.as_str() {
            "ok" => Value::toned("ok", Tone::Good),
            "wrong" => Value::toned("wrong", Tone::Bad),
            other => Value::toned(other, Tone::Notice),
        },
        super::integrity(&one.integrity),
        one.file.as_str().into(),
    ]
}

fn status(status: VerifyStatus) -> Value {
    match status {
        VerifyStatus::Ok => Value::toned("ok", Tone::Good),
        VerifyStatus::Damaged => Value::toned("damaged", Tone::Bad),
        VerifyStatus::Missing => Value::toned("missing", Tone::Bad),
    }
}

/// Prints what was found, a line a snapshot, and every finding below.
fn show(app: &App, report: &VerifyReport) {
    let columns = [
        table::text("SNAPSHOT"),
        table::text("DATABASE"),
        table::text("STATUS"),
        table::text("INTEGRITY"),
        table::text("TIME").spare(1),
        table::number("READ").spare(3),
        table::number("TOOK").spare(2),
    ];
    table::print(&app.output, &columns, report.checked.iter().map(|one| row(app, one)));
    for one in &report.checked {
        for note in &one.notes {
            app.output.note(format_args!(
                "{} {}: {}",
                short(&one.snapshot),
                human::visible(&one.database),
                human::visible(note)
            ));
        }
        for finding in &one.findings {
            app.output.line(format_args!(
                "{} {} {}: {}",
                app.output.paint(Tone::Bad, "finding:"),
                short(&one.snapshot),
                human::visible(&one.database),
                human::visible(finding)
            ));
        }
    }
    let damaged = match report.damaged {
        0 => "none damaged".to_owned(),
        damaged => app.output.paint(Tone::Bad, format_args!("{damaged} damaged or missing")),
    };
    app.output.line(format_args!("{} good, {damaged}", human::counted(report.ok, "snapshot")));
    if report.damaged > 0 {
        app.output.warn(
            "what is damaged cannot be trusted any more",
            Some("take a new backup now, then see what else is affected with `dbkeep check --read-data`"),
        );
    }
}

fn row(app: &App, one: &Verified) -> Vec<Value> {
    vec![
        Value::toned(short(&one.snapshot), Tone::Strong),
        one.database.as_str().into(),
        status(one.status),
        super::integrity(&one.integrity),
        one.time.map_or_else(Value::none, |time| app.time(time).into()),
        human::size(one.bytes_read).into(),
        human::duration(Duration::from_millis(one.duration_ms)).into(),
    ]
}
