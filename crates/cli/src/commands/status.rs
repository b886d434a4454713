//! `dbkeep status`: everything on one screen.

use clap::Args;
use dbkeep_engine::report::{CopyStatus, DatabaseStatus, StatusReport};
use dbkeep_engine::status;
use jiff::Timestamp;

use crate::app::App;
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};

const HELP: &str = "\
Each database with its last backup and last proof, the space used and free,
each copy with what it has, and what is wrong. Copies are opened and looked at;
of one that cannot be opened it says what this host remembers.

Examples:
  dbkeep status
  dbkeep status --json

Exit codes: 0 shown, 2 usage, 10 no repository, 12 wrong password or no key";

/// Show databases, backups and problems on one screen
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct StatusArgs {}

impl StatusArgs {
    /// Looks.
    #[expect(clippy::unused_self, reason = "as every command")]
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let now = app.now();
        let report = status::run(&store, now)?;
        app.watch.finish();
        show(app, &report, now);
        app.output.document(&report);
        Ok(Exit::Done)
    }
}

/// Prints the one screen.
fn show(app: &App, report: &StatusReport, now: Timestamp) {
    let output = &app.output;
    let free = report.disk_free.map(|free| format!(", {} free there", human::size(free))).unwrap_or_default();
    output.line(format_args!(
        "repository {} ({})",
        human::visible(&report.repository),
        clipped_id(&report.id)
    ));
    output.line(format_args!(
        "{}, {} stored{free}",
        human::counted(report.snapshots, "snapshot"),
        human::size(report.bytes_stored)
    ));
    output.line("");
    if report.databases.is_empty() {
        output.line("no databases yet: `dbkeep backup path/to/app.db` takes the first backup");
    } else {
        let columns = [
            table::text("DATABASE"),
            table::text("LAST BACKUP"),
            table::text("LAST GOOD").spare(1),
            table::text("VERIFIED"),
            table::number("SNAPSHOTS").spare(4),
            table::number("SIZE").spare(3),
            table::number("ROWS").spare(5),
            table::text("NEXT RUN").spare(6),
            table::text("SOURCE").spare(7),
        ];
        table::print(output, &columns, report.databases.iter().map(|database| row(app, database, now)));
    }
    for copy in &report.copies {
        show_copy(app, copy, now);
    }
    output.line("");
    let problems =
        report.problems.iter().map(|problem| (None, problem)).chain(report.databases.iter().flat_map(
            |database| database.problems.iter().map(move |problem| (Some(database.name.as_str()), problem)),
        ));
    let of_copies = report
        .copies
        .iter()
        .flat_map(|copy| copy.problems.iter().map(move |problem| (Some(copy.name.as_str()), problem)));
    let mut any = false;
    for (name, problem) in problems.chain(of_copies) {
        any = true;
        let name = name.map(|name| format!("{}: ", human::visible(name))).unwrap_or_default();
        output.line(format_args!(
            "{} {name}{}",
            output.paint(Tone::Notice, "problem:"),
            human::visible(problem)
        ));
    }
    if !any {
        output.line(output.paint(Tone::Good, "nothing is wrong"));
    }
    if !report.recovery_sheet_shown {
        output.note("reminder: `dbkeep key show-recovery` prints the sheet to keep away from this machine");
    }
}

/// Prints one copy: what it has, and when that was last brought up to date.
fn show_copy(app: &App, copy: &CopyStatus, now: Timestamp) {
    let when = match copy.last_copied {
        Some(time) => format!("last copied {}", human::age(time, now)),
        None => "never copied from here".to_owned(),
    };
    let behind = match copy.behind {
        0 => app.output.paint(Tone::Good, "complete"),
        count => app.output.paint(Tone::Notice, format!("{} behind", human::count(count))),
    };
    let known = if copy.reachable { "" } else { " when it was last seen" };
    app.output.line(format_args!(
        "copy {} in {}: {}{known}, {behind}, {when}",
        human::visible(&copy.name),
        human::visible(&copy.location),
        snapshots_of(copy),
    ));
}

/// Says what a copy has of this repository, and how much else.
pub(super) fn snapshots_of(copy: &CopyStatus) -> String {
    let ours = human::counted(copy.snapshots, "snapshot");
    match copy.other_snapshots {
        None | Some(0) => ours,
        Some(others) => {
            format!("{ours} (and {} more that this repository does not have)", human::count(others))
        }
    }
}

fn row(app: &App, database: &DatabaseStatus, now: Timestamp) -> Vec<Value> {
    let ago = |time: Option<Timestamp>| time.map_or_else(Value::none, |time| human::age(time, now).into());
    let bad = !database.problems.is_empty();
    vec![
        if bad { Value::toned(database.name.as_str(), Tone::Notice) } else { database.name.as_str().into() },
        match database.last_backup {
            Some(time) => format!("{} ({})", app.time(time), human::age(time, now)).into(),
            None => Value::toned("never", Tone::Bad),
        },
        ago(database.last_good),
        ago(database.last_verified),
        human::count(database.snapshots).into(),
        database.bytes_source.map_or_else(Value::none, |bytes| human::size(bytes).into()),
        database.rows.map_or_else(Value::none, |rows| human::count(rows).into()),
        database.next_run.map_or_else(Value::none, |time| app.time(time).into()),
        database.source.as_deref().map_or_else(Value::none, Value::from),
    ]
}

fn clipped_id(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
