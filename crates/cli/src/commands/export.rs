//! `dbkeep export`: writes databases out as plain files.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dbkeep_engine::export::{self, ExportRequest, Format};
use dbkeep_engine::report::ExportReport;

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;

const HELP: &str = "\
The files need no dbkeep and are not encrypted: they are for this user only,
and where they go from there is up to you. Every hash is compared on the way;
files get their names when they are whole.

Formats:
  bundle  A directory backup_<session>: compressed databases, checksums, a
          manifest, a report and a log
  db      The database file, byte for byte
  gzip    The same, compressed: gunzip gives it back
  tar.gz  The bundle in one archive, with the database files as they are
  sql     SQL text: sqlite3 new.db < FILE
  json    One document: {\"metadata\":{...},\"tables\":{\"users\":[{...}]}}
  ndjson  One JSON object a row
  csv     A directory with one file a table (RFC 4180)

A PostgreSQL database has no file: db and gzip are refused, bundle and tar.gz
hold the files of its snapshot, sql is for psql (with the roles in a file
beside it), ndjson loses nothing of a row, json is for reading.

DIR is made when absent; one that holds anything but exports is refused, and
nothing is ever overwritten. `dbkeep verify FILE` looks at what was exported.

Examples:
  dbkeep export latest --database app --out exports
  dbkeep export --session latest --out exports
  dbkeep export 4f2a91c0 --out exports --format sql

Exit codes: 0 done, 1 failed, 2 usage, 3 done, but a snapshot of the session is
lost, 4 done, but a database was damaged when it was backed up, 10 no
repository, 11 locked, 12 wrong password or no key, 130 interrupted";

/// Write databases out as plain files that need no dbkeep
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ExportArgs {
    /// The start of an id, `latest`, or `latest~N`
    #[arg(value_name = "SNAPSHOT", required_unless_present = "session", conflicts_with = "session")]
    pub(crate) snapshot: Option<String>,

    /// All databases of this session, or of the `latest`
    #[arg(long, value_name = "S")]
    pub(crate) session: Option<String>,

    /// The database that `latest` means, or the only one of the session
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// Directory that the files go into
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// What the files are: bundle, db, gzip, tar.gz, sql, json, ndjson or csv
    #[arg(long, value_name = "FORMAT", default_value = "bundle", value_parser = format)]
    pub(crate) format: Format,
}

fn format(text: &str) -> Result<Format, String> {
    text.parse().map_err(|error: dbkeep_engine::Error| match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    })
}

impl ExportArgs {
    /// Exports.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = ExportRequest {
            snapshot: self.snapshot.clone(),
            database: self.database.clone(),
            session: self.session.clone(),
            out: self.out.clone(),
            format: self.format,
        };
        let report = export::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }
}

/// Prints what was written.
fn show(app: &App, report: &ExportReport) {
    let output = &app.output;
    for one in &report.databases {
        output.line(format_args!(
            "exported {} from snapshot {} of {} ({}, {})",
            output.paint(Tone::Strong, human::visible(&one.database)),
            short(&one.snapshot),
            app.time(one.moment),
            human::size(one.bytes_source),
            human::counted(one.rows, "row"),
        ));
        if one.status == "corrupt" {
            let problem = format!("{} was damaged when it was backed up: {}", one.database, one.integrity);
            output.warn(&problem, Some("an older snapshot may be sound: see `dbkeep list`"));
        }
        for note in &one.notes {
            output.note(format_args!("note: {}: {}", human::visible(&one.database), human::visible(note)));
        }
    }
    const MOST: usize = 20;
    for file in report.files.iter().take(MOST) {
        output.line(format_args!("  {:>10}  {}", human::size(file.bytes), human::visible(&file.path)));
    }
    if report.files.len() > MOST {
        output.line(format_args!("  and {} more files", report.files.len() - MOST));
    }
    output.line(format_args!(
        "session {}: {} as {} into {}, {} in {}",
        human::visible(&report.session),
        human::counted(report.totals.databases, "database"),
        report.format,
        human::visible(&report.out),
        human::size(report.totals.bytes_written),
        human::duration(Duration::from_millis(report.duration_ms)),
    ));
}
