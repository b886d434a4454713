//! `dbkeep clean`: keeps the newest, and gives back the space of the rest.

use clap::Args;
use dbkeep_engine::forget::Choice;
use dbkeep_engine::retention::Policy;

use super::forget;
use crate::app::App;
use crate::exit::{Exit, Failure};

const HELP: &str = "\
The same as `dbkeep forget --keep-last N --prune`: of each database the newest N
snapshots stay, and the space of the others is given back. The last good snapshot,
those that are held and those of other tools always stay.

Examples:
  dbkeep clean 10 --dry-run
  dbkeep clean 10

Exit codes: 0 done, 1 failed, or refused, 2 usage, 10 no repository, 11 locked,
12 wrong password or no key";

/// Keep the newest N snapshots of each database
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CleanArgs {
    /// How many stay
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep: u32,

    /// The only database that is cleaned up
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// Print what would go, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl CleanArgs {
    /// Forgets and prunes.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let choice = Choice::Policy(Policy { last: self.keep, ..Policy::default() });
        forget::forget(app, choice, self.database.as_deref(), self.dry_run, true)
    }
}
