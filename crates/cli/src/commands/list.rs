//! `dbkeep list`: the snapshots, newest first.

use clap::Args;
use dbkeep_engine::list::{self, ListRequest};
use dbkeep_engine::report::{ListReport, SnapshotRow};
use dbkeep_engine::repository::Store;
use jiff::Timestamp;

use crate::app::App;
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};

const HELP: &str = "\
Newest first. Snapshots that other tools made are listed too. COPIES names the
configured copies that have a snapshot, as far as this host knows.

Examples:
  dbkeep list
  dbkeep list --database app --last 5
  dbkeep list --session 20260102_030405 --json

Exit codes: 0 listed, also when there are none, 2 usage, 10 no repository,
12 wrong password or no key";

/// List snapshots
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ListArgs {
    /// Only snapshots of this database
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// Only snapshots of this session, or of the `latest`
    #[arg(long, value_name = "S")]
    pub(crate) session: Option<String>,

    /// Only snapshots with this tag
    #[arg(long, value_name = "T")]
    pub(crate) tag: Option<String>,

    /// Only the newest N
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<usize>,
}

impl ListArgs {
    /// Lists.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = ListRequest {
            database: self.database.clone(),
            session: self.session(&store)?,
            tag: self.tag.clone(),
            last: self.last,
        };
        let report = list::run(&store, &request)?;
        app.watch.finish();
        show(app, &report, app.now());
        app.output.document(&report);
        Ok(Exit::Done)
    }

    /// Returns the session that is meant; `latest` is the newest that was no safety backup.
    fn session(&self, store: &Store) -> Result<Option<String>, Failure> {
        if self.session.as_deref() != Some("latest") {
            return Ok(self.session.clone());
        }
        let all = ListRequest { database: self.database.clone(), ..ListRequest::default() };
        let mut rows = list::run(store, &all)?.snapshots.into_iter();
        let newest = rows.find(|row| row.session.is_some() && row.reason.as_deref() != Some("pre-restore"));
        Ok(newest.and_then(|row| row.session))
    }
}

/// Prints the snapshots for people.
fn show(app: &App, report: &ListReport, now: Timestamp) {
    if report.snapshots.is_empty() {
        app.output.note("no snapshots");
        return;
    }
    let mut columns = vec![
        table::text("SNAPSHOT"),
        table::text("TIME"),
        table::text("AGE").spare(3),
        table::text("DATABASE"),
        table::number("TABLES").spare(7),
        table::number("ROWS").spare(4),
        table::number("SIZE"),
        table::number("NEW").spare(6),
        table::text("INTEGRITY"),
        table::text("VERIFIED").spare(2),
        table::text("REASON").spare(5),
        table::text("SESSION").spare(8),
    ];
    let any = |has: fn(&SnapshotRow) -> bool| report.snapshots.iter().any(has);
    let copied = any(|row| !row.copies.is_empty());
    let tagged = any(|row| row.pinned || !row.tags.is_empty());
    if copied {
        columns.push(table::text("COPIES").spare(1));
    }
    if tagged {
        columns.push(table::text("TAGS").spare(1));
    }
    let rows = report.snapshots.iter().map(|row| {
        let mut cells = cells(app, row, now);
        if copied {
            cells.push(if row.copies.is_empty() { Value::none() } else { row.copies.join(", ").into() });
        }
        if tagged {
            cells.push(tags(row).into());
        }
        cells
    });
    table::print(&app.output, &columns, rows);
    app.output.note(human::counted(report.snapshots.len() as u64, "snapshot"));
}

fn cells(app: &App, row: &SnapshotRow, now: Timestamp) -> Vec<Value> {
    let figure = |value: Option<u64>, text: fn(u64) -> String| {
        value.map_or_else(Value::none, |value| text(value).into())
    };
    vec![
        Value::toned(row.short_id.as_str(), Tone::Strong),
        app.time(row.time).into(),
        human::age(row.time, now).into(),
        row.database.as_deref().map_or_else(|| Value::toned("(not ours)", Tone::Faint), Value::from),
        figure(row.tables, human::count),
        figure(row.rows, human::count),
        figure(row.bytes_source, human::size),
        figure(row.bytes_added, human::size),
        row.integrity.as_deref().map_or_else(Value::none, super::integrity),
        row.verified.map_or_else(Value::none, |time| human::age(time, now).into()),
        row.reason.as_deref().map_or_else(Value::none, Value::from),
        row.session.as_deref().map_or_else(Value::none, Value::from),
    ]
}

fn tags(row: &SnapshotRow) -> String {
    let pinned = row.pinned.then_some("pinned");
    row.tags.iter().map(String::as_str).chain(pinned).collect::<Vec<_>>().join(", ")
}
