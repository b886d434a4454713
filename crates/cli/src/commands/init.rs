//! `dbkeep init`: makes a repository.

use std::path::Path;

use clap::Args;
use dbkeep_engine::Context;
use dbkeep_engine::report::InitReport;
use dbkeep_engine::repository::{self, InitRequest};
use dbkeep_engine::setup;

use crate::app::App;
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;

const HELP: &str = "\
The place must be empty or absent. Without a password source a random key is
made, on a terminal or with --new-key; it is written to a file outside the
repository that only you can read. Keep a copy of it: without it nobody can
read the backups.

Examples:
  dbkeep init --new-key
  dbkeep --repo /mnt/backups --password-file ~/secret init
  dbkeep init --setup --new-key

Exit codes: 0 made, 1 failed or not empty, 2 usage";

/// Make a repository
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct InitArgs {
    /// Make a random key and write it to a file outside the repository
    #[arg(long)]
    pub(crate) new_key: bool,

    /// Also make directories, a commented configuration and a .gitignore entry, and the first backup
    #[arg(long)]
    pub(crate) setup: bool,
}

impl InitArgs {
    /// Makes the repository.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let context = app.context()?;
        let request = InitRequest { new_key: self.new_key };
        let make = if self.setup { setup::run } else { repository::init };
        let report = make(&context, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &context, &report);
        show_setup(app, &report);
        if let Some(backup) = &report.backup {
            super::backup::show(app, backup, true);
            super::backup::say_how_to_restore(app, &context, backup);
        }
        app.output.document(&report);
        Ok(report.backup.as_ref().map_or(Exit::Done, |backup| Exit::from_code(backup.exit_code())))
    }
}

/// Says what `--setup` took care of, and what is left to do.
fn show_setup(app: &App, report: &InitReport) {
    for item in &report.setup {
        let done = if item.made { "wrote" } else { "kept" };
        app.output.line(format_args!("{done} {}", human::visible(&item.path.to_string_lossy())));
    }
    if !report.setup.is_empty() && report.backup.is_none() {
        app.output.line("no database was found here: name yours in dbkeep.toml, then run `dbkeep backup`");
    }
}

/// Says what was made, and how to keep the key.
pub(crate) fn show(app: &App, context: &Context, report: &InitReport) {
    app.output.line(format_args!(
        "made an encrypted repository in {}",
        app.output.paint(Tone::Strong, human::visible(&report.repository))
    ));
    if let Some(file) = &report.key_file {
        say_where_the_key_is(app, context, file);
    }
}

/// Says where a generated key is and how to keep a copy of it.
pub(crate) fn say_where_the_key_is(app: &App, context: &Context, file: &Path) {
    let sheet = app.command_line(context, &["key", "show-recovery"]);
    app.output.line(format_args!("its key is in {}", human::visible(&file.to_string_lossy())));
    app.output.line("without the key nobody can read the backups: keep a copy away from this machine");
    app.output.line(format_args!("this prints a sheet to keep: {sheet}"));
}
