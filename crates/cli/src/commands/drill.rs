//! `dbkeep drill`: restores snapshots to scratch, asks the restored databases, and throws them away.

use std::time::Duration;

use clap::Args;
use dbkeep_engine::drill::{self, Assertion, DrillRequest};
use dbkeep_engine::report::{DrillReport, DrillStatus, Drilled};

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};
use crate::usage;

const HELP: &str = "\
Restores the newest good snapshot of every database, or the one that is named,
into a place of its own, opens it, compares rows and hashes with the manifest
(and for SQLite runs the full integrity check), asks it what --sql and `assert`
in dbkeep.toml say, and throws it away, also when it fails or is interrupted.
The result and how long it took are recorded in the repository. Copies do not
help: it is this repository that is tried.

SQLite databases go into a private directory of the temporary directory
(TMPDIR). PostgreSQL databases go into a server that is made for the drill from
the programs of this machine, on a socket in such a directory and without a
port; as root it runs as the user postgres. With --server, or `server` under
[drill] in dbkeep.toml, they go into a database of that server, whose name
begins with dbkeep_drill_.

What could not be made there (extensions, for one) is listed and counted as left
out. Where rows are among it the drill fails: they were not tried.

An answer is one value, compared as text. It stands behind the last = of --sql;
NULL stands for none. Under a database in dbkeep.toml:
  assert = [\"SELECT count(*) FROM users = 11\"]

Examples:
  dbkeep drill
  dbkeep drill --database shop --sql \"SELECT count(*) FROM users=11\"
  dbkeep drill --snapshot 4f2a91c0 --json

Exit codes: 0 all passed, 1 none could be tried, 2 usage, 3 some could not be
tried, 4 damage was found, rows did not come back or an answer is wrong,
10 no repository, 11 locked, 12 wrong password or no key, 130 interrupted";

/// Restore backups to scratch, ask them, throw them away
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DrillArgs {
    /// Only this database
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// The start of an id, `latest`, or `latest~N` [default: the newest good one of every database]
    #[arg(long, value_name = "S")]
    pub(crate) snapshot: Option<String>,

    /// Ask this, and expect what stands behind the last =; may be repeated
    #[arg(long = "sql", value_name = "QUERY=EXPECTED")]
    pub(crate) assertions: Vec<String>,

    /// The PostgreSQL server to restore on, as env:NAME or a URL [default: the configured one, else one of its own]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
}

impl DrillArgs {
    /// Drills.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        if let Some(server) = &self.server {
            let hint = "keep the URL in an environment variable or in .env, and give --server env:NAME";
            usage::warn_of_password(&app.output, server, hint);
        }
        let assertions: Result<Vec<Assertion>, _> = self.assertions.iter().map(|text| text.parse()).collect();
        let request = DrillRequest {
            database: self.database.clone(),
            snapshot: self.snapshot.clone(),
            assertions: assertions?,
            server: self.server.clone(),
        };
        let store = app.open()?;
        let report = drill::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }
}

/// Prints what came out, a line a snapshot, and everything that is wrong below.
fn show(app: &App, report: &DrillReport) {
    let columns = [
        table::text("SNAPSHOT"),
        table::text("DATABASE"),
        table::text("STATUS"),
        table::number("ROWS"),
        table::text("ANSWERS").spare(1),
        table::number("TOOK").spare(2),
    ];
    table::print(&app.output, &columns, report.drills.iter().map(row));
    for drill in &report.drills {
        show_one(app, drill);
    }
    let failed = match report.failed {
        0 => "none failed".to_owned(),
        failed => app.output.paint(Tone::Bad, format_args!("{failed} failed")),
    };
    let left_out: u64 = report.drills.iter().map(|drill| drill.left_out).sum();
    let left_out = match left_out {
        0 => String::new(),
        count => format!("; {} could not be restored, as noted", human::counted(count, "thing")),
    };
    app.output.line(format_args!("{} passed, {failed}{left_out}", human::counted(report.ok, "drill")));
}

fn show_one(app: &App, drill: &Drilled) {
    let name = format!("{} {}", short(&drill.snapshot), human::visible(&drill.database));
    for note in &drill.notes {
        app.output.note(format_args!("{name}: {}", human::visible(note)));
    }
    let wrong = drill
        .assertions
        .iter()
        .filter(|tried| !tried.ok)
        .map(|tried| format!("{} gives {}, expected is {}", tried.sql, tried.found, tried.expected));
    for finding in drill.findings.iter().cloned().chain(wrong) {
        app.output.line(format_args!(
            "{} {name}: {}",
            app.output.paint(Tone::Bad, "finding:"),
            human::visible(&finding)
        ));
    }
    if let Some(error) = &drill.error {
        app.failed(Some(&drill.database), error);
    }
}

fn row(drill: &Drilled) -> Vec<Value> {
    let good = drill.assertions.iter().filter(|tried| tried.ok).count();
    vec![
        Value::toned(short(&drill.snapshot), Tone::Strong),
        drill.database.as_str().into(),
        match (&drill.error, drill.status) {
            (Some(_), _) => Value::toned("not tried", Tone::Notice),
            (None, DrillStatus::Ok) if drill.left_out > 0 => {
                Value::toned(format!("ok, {} left out", drill.left_out), Tone::Notice)
            }
            (None, DrillStatus::Ok) => Value::toned("ok", Tone::Good),
            (None, DrillStatus::Failed) => Value::toned("failed", Tone::Bad),
        },
        human::count(drill.rows).into(),
        match drill.assertions.len() {
            0 => Value::none(),
            all => format!("{good} of {all}").into(),
        },
        human::duration(Duration::from_millis(drill.duration_ms)).into(),
    ]
}
