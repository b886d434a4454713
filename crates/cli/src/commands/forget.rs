//! `dbkeep forget`: drops snapshots by id.

use clap::Args;
use dbkeep_engine::forget::{self, ForgetRequest};
use dbkeep_engine::report::ForgetReport;

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;

const HELP: &str = "\
The snapshots are gone at once; the space they take is not given back yet. The
last good snapshot of a database is kept unless --force says otherwise.

Examples:
  dbkeep forget 4f2a91c0 --dry-run
  dbkeep forget 4f2a91c0 9be1d3aa

Exit codes: 0 forgotten, 1 failed, or all refused, 2 usage, 3 some refused,
10 no repository, 11 locked, 12 wrong password or no key";

/// Forget snapshots
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ForgetArgs {
    /// Starts of ids, `latest`, or `latest~N`
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub(crate) snapshots: Vec<String>,

    /// The database that `latest` means
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// Forget also what is refused: the last good snapshot of a database
    #[arg(long)]
    pub(crate) force: bool,

    /// Print what would be forgotten and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl ForgetArgs {
    /// Forgets.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = ForgetRequest {
            snapshots: self.snapshots.clone(),
            database: self.database.clone(),
            force: self.force,
            dry_run: self.dry_run,
        };
        let report = forget::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        let exit = Exit::from_code(report.exit_code());
        if exit == Exit::Failed {
            return Err(all_refused(&report).with_report(&report));
        }
        app.output.document(&report);
        Ok(exit)
    }
}

fn all_refused(report: &ForgetReport) -> Failure {
    let why = report.refused.first().map(|refused| format!(": {}", refused.why)).unwrap_or_default();
    Failure::failed(
        "refused",
        format!("nothing was forgotten{why}"),
        Some("--force forgets it all the same".into()),
    )
}

/// Prints what is gone and what stays, with the reason.
fn show(app: &App, report: &ForgetReport) {
    let (done, left) = if report.dry_run { ("would forget", "would keep") } else { ("forgot", "kept") };
    for forgotten in &report.forgotten {
        app.output.line(format_args!("{done} {}", short(&forgotten.id)));
    }
    for refused in &report.refused {
        app.output.line(format_args!(
            "{} {}: {}",
            app.output.paint(Tone::Notice, left),
            short(&refused.id),
            human::visible(&refused.why)
        ));
    }
}
