//! `dbkeep key`: the passwords that open the repository, and the recovery sheet.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dbkeep_engine::Secret;
use dbkeep_engine::keys::{self, NewKey};
use dbkeep_engine::report::KeyListReport;

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::output::Tone;
use crate::prompt;
use crate::table::{self, Value};

const HELP: &str = "\
Examples:
  dbkeep key list
  dbkeep key add --new-password-file second.txt
  dbkeep key show-recovery > sheet.txt

Exit codes: 0 done, 1 failed, 2 usage, 10 no repository, 11 locked, 12 wrong
password or no key";

const ADD_HELP: &str = "\
The new password comes from a file, from a random key that is made, or from a
question on a terminal; never from an argument.

Examples:
  dbkeep key add --new-password-file second.txt
  dbkeep key add --new-key

Exit codes: 0 added, 1 failed, 2 usage, 10 no repository, 12 wrong password or
no key";

const REMOVE_HELP: &str = "\
The last key, and the one in use, cannot be removed.

Example:
  dbkeep key remove 1f3c9a20

Exit codes: 0 removed, 1 failed or refused, 2 usage, 10 no repository,
12 wrong password or no key";

const RECOVERY_HELP: &str = "\
The sheet holds the location, the key itself and the commands that restore with
stock restic. Print it or write it down, and keep it away from this machine.
Until it was shown once, each backup reminds you.

Example:
  dbkeep key show-recovery > sheet.txt

Exit codes: 0 shown, 2 usage, 10 no repository, 12 wrong password or no key";

/// Manage the keys of the repository
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the keys
    #[command(after_help = "Exit codes: 0 listed, 2 usage, 10 no repository, 12 wrong password or no key")]
    List,

    /// Add a key
    #[command(after_help = ADD_HELP)]
    Add {
        /// File that holds the new password
        #[arg(long, value_name = "FILE", conflicts_with = "new_key")]
        new_password_file: Option<PathBuf>,

        /// Make a random key and write it to a file outside the repository
        #[arg(long)]
        new_key: bool,
    },

    /// Remove a key
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// The start of the key's id
        #[arg(value_name = "KEY")]
        key: String,
    },

    /// Print the sheet that brings everything back without this machine
    #[command(after_help = RECOVERY_HELP)]
    ShowRecovery,
}

impl KeyArgs {
    /// Does what was asked with the keys.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        match &self.command {
            KeyCommand::List => {
                let report = keys::list(&store)?;
                show_list(app, &report);
                app.output.document(&report);
            }
            KeyCommand::Add { new_password_file, new_key } => {
                let new = new_key_from(app, new_password_file.as_ref(), *new_key)?;
                let report = keys::add(&store, &new, app.now())?;
                app.output.line(format_args!("added key {}", short(&report.id)));
                if let Some(file) = &report.key_file {
                    super::init::say_where_the_key_is(app, store.context(), file);
                }
                app.output.document(&report);
            }
            KeyCommand::Remove { key } => {
                let report = keys::remove(&store, key)?;
                app.output.line(format_args!("removed key {}", short(&report.id)));
                app.output.document(&report);
            }
            KeyCommand::ShowRecovery => {
                let sheet = keys::recovery_sheet(&store)?;
                app.output.line(sheet.text().trim_end());
                app.output.document(&sheet);
            }
        }
        Ok(Exit::Done)
    }
}

/// Returns where the new key comes from; on a terminal the password is asked for when nothing says.
fn new_key_from(app: &App, file: Option<&PathBuf>, generate: bool) -> Result<NewKey, Failure> {
    match file {
        Some(file) => Ok(NewKey::File(file.clone())),
        None if generate => Ok(NewKey::Generate),
        None if app.can_ask() => Ok(NewKey::Password(Secret::new(prompt::new_password()?))),
        None => Err(Failure::usage(
            "no new password is given",
            "give a file with --new-password-file, or make a random key with --new-key",
        )),
    }
}

fn show_list(app: &App, report: &KeyListReport) {
    let columns = [
        table::text("KEY"),
        table::text("CREATED"),
        table::text("USER"),
        table::text("HOST"),
        table::text("IN USE"),
    ];
    let rows = report.keys.iter().map(|key| {
        vec![
            Value::toned(key.short_id.as_str(), Tone::Strong),
            key.created.map_or_else(Value::none, |time| app.time(time).into()),
            key.user.as_str().into(),
            key.host.as_str().into(),
            if key.current { "yes" } else { "" }.into(),
        ]
    });
    table::print(&app.output, &columns, rows);
}
