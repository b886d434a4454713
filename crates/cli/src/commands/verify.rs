//! `dbkeep verify`: proves that snapshots keep their promise.

use std::time::Duration;

use clap::Args;
use dbkeep_engine::report::{Verified, VerifyReport, VerifyStatus};
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

Examples:
  dbkeep verify
  dbkeep verify latest --database app
  dbkeep verify --all --json

Exit codes: 0 all good, 1 failed, 2 usage, 4 something is damaged or missing,
10 no repository, 11 locked, 12 wrong password or no key, 130 interrupted";

/// Prove that snapshots can be restored
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct VerifyArgs {
    /// Starts of ids, `latest`, or `latest~N`
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["all", "session"])]
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
        match one.status {
            VerifyStatus::Ok => Value::toned("ok", Tone::Good),
            VerifyStatus::Damaged => Value::toned("damaged", Tone::Bad),
            VerifyStatus::Missing => Value::toned("missing", Tone::Bad),
        },
        super::integrity(&one.integrity),
        one.time.map_or_else(Value::none, |time| app.time(time).into()),
        human::size(one.bytes_read).into(),
        human::duration(Duration::from_millis(one.duration_ms)).into(),
    ]
}
