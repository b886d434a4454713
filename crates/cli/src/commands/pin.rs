//! `dbkeep pin` and `dbkeep unpin`: a snapshot that is held for good.

use clap::Args;
use dbkeep_engine::pin::{self, PinRequest};

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;

const HELP: &str = "\
A snapshot that is held stays whatever a policy says, and `dbkeep forget` refuses
it without --force. `dbkeep list` shows which are held.

Examples:
  dbkeep pin latest --database app
  dbkeep unpin 4f2a91c0

Exit codes: 0 done, also when it was so already, 1 failed, 2 usage,
10 no repository, 11 locked, 12 wrong password or no key";

/// Hold a snapshot for good
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct PinArgs {
    /// Start of an id, `latest`, or `latest~N`
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,

    /// The database that `latest` means
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,
}

/// Hold a snapshot no longer
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct UnpinArgs {
    #[command(flatten)]
    pub(crate) which: PinArgs,
}

impl PinArgs {
    /// Holds it.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        self.set(app, true)
    }

    fn set(&self, app: &App, pinned: bool) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = PinRequest { snapshot: self.snapshot.clone(), database: self.database.clone(), pinned };
        let report = pin::run(&store, &request, app.now())?;
        app.watch.finish();
        let word = match (report.pinned, report.changed) {
            (true, true) => "held for good from now on",
            (true, false) => "was held for good already",
            (false, true) => "no longer held",
            (false, false) => "was not held",
        };
        app.output.line(format_args!(
            "{} ({}, {}): {word}",
            short(&report.snapshot),
            human::visible(report.database.as_deref().unwrap_or("made by another tool")),
            app.time(report.time),
        ));
        app.output.document(&report);
        Ok(Exit::Done)
    }
}

impl UnpinArgs {
    /// Lets it go.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        self.which.set(app, false)
    }
}
