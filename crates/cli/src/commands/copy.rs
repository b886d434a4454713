//! `dbkeep copy`: brings snapshots into a second repository.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dbkeep_engine::copy::{self, CopyRequest};
use dbkeep_engine::report::{CopiedSnapshot, CopiedStatus, CopyRunReport, SessionStatus};

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};

const HELP: &str = "\
Without SNAPSHOT everything is copied that the other repository lacks. Only what
is missing travels; it is sealed for the other repository's key and read back
there before it counts. The other repository is made where there is none and none
was ever seen. It opens with the password configured for it, or with
--to-password-file, else with the same one.

What was forgotten there stays forgotten, unless it is named. A snapshot that
cannot be read is told with what is damaged, and the others are copied. So is a
database whose name belongs to another one there: two never share one history.

Examples:
  dbkeep copy --to secondary
  dbkeep copy --to /mnt/usb/backups
  dbkeep copy latest --database app --to secondary
  dbkeep copy --to secondary --dry-run

Exit codes: 0 everything is there, 1 failed, 2 usage, or the place is the
repository itself, 3 some snapshots failed, 10 no repository, or the copy is gone,
11 locked, 12 wrong password or no key, 130 interrupted";

/// Copy snapshots into a second repository
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CopyArgs {
    /// Starts of ids, `latest`, or `latest~N` [default: all that the copy lacks]
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshots: Vec<String>,

    /// A copy of the configuration, or a directory
    #[arg(long, value_name = "NAME|LOCATION")]
    pub(crate) to: String,

    /// The database that `latest` means, or the only one that is copied
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// File with the password of the copy
    #[arg(long, value_name = "FILE")]
    pub(crate) to_password_file: Option<PathBuf>,

    /// A database that another one of its name belongs to in the copy is the same one in a new place
    #[arg(long)]
    pub(crate) adopt_name: bool,

    /// Print what would be copied and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl CopyArgs {
    /// Copies and says what is there now.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = CopyRequest {
            snapshots: self.snapshots.clone(),
            database: self.database.clone(),
            to: self.to.clone(),
            password_file: self.to_password_file.clone(),
            adopt_name: self.adopt_name,
            dry_run: self.dry_run,
        };
        let report = copy::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }
}

/// Prints what was copied.
fn show(app: &App, report: &CopyRunReport) {
    let columns = [
        table::text("SNAPSHOT"),
        table::text("TIME").spare(1),
        table::text("DATABASE"),
        table::text(if report.dry_run { "WOULD BE" } else { "STATUS" }),
        table::text("COPY"),
    ];
    if !report.snapshots.is_empty() {
        table::print(&app.output, &columns, report.snapshots.iter().map(|one| row(app, one)));
    }
    for one in &report.snapshots {
        if let Some(error) = &one.error {
            app.failed(Some(&short(&one.snapshot)), error);
        }
    }
    if let Some(error) = report.error.as_ref().filter(|_| report.snapshots.len() != 1 || report.failed == 0) {
        app.failed(None, error);
    }
    app.output.line(totals(report));
}

fn row(app: &App, one: &CopiedSnapshot) -> Vec<Value> {
    let status = match one.status {
        CopiedStatus::Copied => Value::toned("copied", Tone::Good),
        CopiedStatus::Repaired => Value::toned("repaired", Tone::Good),
        CopiedStatus::Present => Value::toned("there already", Tone::Good),
        CopiedStatus::Failed => Value::toned("failed", Tone::Bad),
    };
    vec![
        Value::toned(short(&one.snapshot), Tone::Strong),
        one.time.map_or_else(Value::none, |time| app.time(time).into()),
        one.database.as_deref().map_or_else(|| Value::toned("(not ours)", Tone::Faint), Value::from),
        status,
        one.copy.as_ref().map_or_else(Value::none, |copy| short(copy).into()),
    ]
}

fn totals(report: &CopyRunReport) -> String {
    let place = human::visible(&report.copy);
    let failed = match report.failed {
        0 => String::new(),
        count => format!(", {} failed", human::count(count)),
    };
    if report.dry_run {
        let count = human::counted(report.copied, "snapshot");
        return format!("{count} would be copied to {place}, {} there already", human::count(report.present));
    }
    let end = match report.status {
        SessionStatus::Ok => "complete",
        SessionStatus::Partial | SessionStatus::Failed => "not complete",
    };
    format!(
        "copy {place} is {end}: {} copied, {} there before{failed}; {} read, {} stored, {} read back, {}",
        human::counted(report.copied, "snapshot"),
        human::count(report.present),
        human::size(report.bytes_read),
        human::size(report.bytes_stored),
        human::size(report.bytes_verified),
        human::duration(Duration::from_millis(report.duration_ms)),
    )
}
