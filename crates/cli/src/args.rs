//! What can be typed: the options of every command and the list of commands.
//!
//! The definition is made once, here and beside each command; help, completions, man pages and
//! the reference in `docs/` come from it.

use std::path::PathBuf;

use clap::builder::Styles;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::commands;

/// The layout of every help text: what it does, how to call it, the options, then the rest.
const HELP: &str = "{about-with-newline}\n{usage-heading} {usage}\n\n{all-args}{after-help}";

const EXAMPLES: &str = "\
A SOURCE is a path to a SQLite file, a directory (every SQLite file in it), a
name from the configuration, or env:NAME holding one. A SNAPSHOT is the start
of an id, `latest`, or `latest~N`.

Examples:
  dbkeep backup data/app.db          Back up into ./backups, made when absent
  dbkeep list                        See what there is
  dbkeep restore latest              Bring it back into a new file
  dbkeep restore latest --in-place   Bring it back where it was, while it runs
  dbkeep demo                        See all of this with sample databases

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 partly done, 4 done
with findings, 10 no repository, 11 locked, 12 wrong password, 130 interrupted";

/// Back up live databases, prove that each backup restores, bring a database back
#[derive(Debug, Parser)]
#[command(
    name = "dbkeep",
    version,
    about,
    long_about = None,
    help_template = HELP,
    max_term_width = 100,
    after_help = EXAMPLES,
    styles = Styles::plain(),
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = false
)]
pub(crate) struct Line {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration [env: DBKEEP_CONFIG] [default: ./dbkeep.toml, else that in ~/.config/dbkeep]
    #[arg(long, global = true, value_name = "FILE", display_order = 900)]
    pub(crate) config: Option<PathBuf>,

    /// Repository [env: DBKEEP_REPOSITORY] [default: the configuration's, ./backups]
    #[arg(long, global = true, value_name = "LOCATION", display_order = 901)]
    pub(crate) repo: Option<String>,

    /// File with the password [env: DBKEEP_PASSWORD_FILE, DBKEEP_PASSWORD]
    #[arg(long, global = true, value_name = "FILE", display_order = 902)]
    pub(crate) password_file: Option<PathBuf>,

    /// Leave the .env file of the working directory alone
    #[arg(long, global = true, display_order = 903)]
    pub(crate) no_env_file: bool,

    /// Print exactly one JSON document, also on failure
    #[arg(long, global = true, display_order = 904)]
    pub(crate) json: bool,

    /// Progress on standard error: auto (bars on a terminal), json (one event a line) or none
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true,
        display_order = 905
    )]
    pub(crate) progress: Progress,

    /// Print results, warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 906)]
    pub(crate) quiet: bool,

    /// Log what is done to standard error; -vv logs more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 907)]
    pub(crate) verbose: u8,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// Bars when standard error is a terminal.
    Auto,
    /// One JSON event a line on standard error.
    Json,
    /// Nothing.
    None,
}

/// Every command, one file each under `commands/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(commands::init::InitArgs),
    Backup(commands::backup::BackupArgs),
    List(commands::list::ListArgs),
    Show(commands::show::ShowArgs),
    Restore(commands::restore::RestoreArgs),
    Verify(commands::verify::VerifyArgs),
    Drill(commands::drill::DrillArgs),
    Guard(commands::guard::GuardArgs),
    Check(commands::check::CheckArgs),
    Compare(commands::compare::CompareArgs),
    Export(commands::export::ExportArgs),
    Copy(commands::copy::CopyArgs),
    Forget(commands::forget::ForgetArgs),
    Pin(commands::pin::PinArgs),
    Unpin(commands::pin::UnpinArgs),
    Clean(commands::clean::CleanArgs),
    Prune(commands::prune::PruneArgs),
    Size(commands::size::SizeArgs),
    Status(commands::status::StatusArgs),
    Doctor(commands::doctor::DoctorArgs),
    Key(commands::key::KeyArgs),
    Config(commands::config::ConfigArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::man::ManArgs),
    Demo(commands::demo::DemoArgs),
}

/// Returns the whole definition, with the same layout for the help of every command.
pub(crate) fn definition() -> clap::Command {
    laid_out(Line::command())
}

fn laid_out(command: clap::Command) -> clap::Command {
    command
        .help_template(HELP)
        .disable_help_flag(true)
        .arg(
            clap::Arg::new("help")
                .short('h')
                .long("help")
                .action(clap::ArgAction::HelpShort)
                .help("Print this help")
                .help_heading("Global options")
                .display_order(990),
        )
        .mut_subcommands(laid_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        definition().debug_assert();
    }
}
