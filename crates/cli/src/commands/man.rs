//! `dbkeep man`: writes the manual pages.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man;
use serde::Serialize;

use crate::args;
use crate::exit::{Exit, Failure};
use crate::output::Output;

const HELP: &str = "\
Writes one page a command. DIR is made when absent; pages there are replaced.

Example:
  dbkeep man ~/.local/share/man/man1 && man dbkeep-restore

Exit codes: 0 written, 1 failed, 2 usage";

/// Write manual pages into a directory
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ManArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// What was written.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ManReport<'r> {
    /// Where.
    directory: &'r Path,
    /// Each page.
    pages: &'r [PathBuf],
}

impl ManArgs {
    /// Writes the pages.
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        fs::create_dir_all(&self.directory).map_err(|error| failed(&self.directory, &error))?;
        let mut definition = args::definition().disable_help_subcommand(true);
        definition.build();
        let mut pages = Vec::new();
        for (name, command) in pages_of("dbkeep", &definition) {
            let path = self.directory.join(format!("{name}.1"));
            let mut page = Vec::new();
            Man::new(command).render(&mut page).map_err(|error| failed(&path, &error))?;
            fs::write(&path, page).map_err(|error| failed(&path, &error))?;
            pages.push(path);
        }
        output.line(format_args!("wrote {} pages to {}", pages.len(), self.directory.display()));
        output.document(&ManReport { directory: &self.directory, pages: &pages });
        Ok(Exit::Done)
    }
}

/// Returns each command below `command` with the name of its page, as `dbkeep-key-add`.
fn pages_of(name: &str, command: &clap::Command) -> Vec<(String, clap::Command)> {
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let mut pages = vec![(name.to_owned(), command.clone().name(title).display_name(title))];
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        pages.extend(pages_of(&format!("{name}-{}", below.get_name()), below));
    }
    pages
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(
        "io",
        format!("could not write {}: {error}", path.display()),
        Some("give a directory that you may write to".into()),
    )
}
