//! `dbkeep completions`: what makes a shell complete our commands.

use clap::Args;
use clap_complete::Shell;
use serde::Serialize;

use crate::args;
use crate::exit::{Exit, Failure};
use crate::output::Output;

const HELP: &str = "\
Examples:
  dbkeep completions bash > ~/.local/share/bash-completion/completions/dbkeep
  dbkeep completions zsh > ~/.zfunc/_dbkeep
  dbkeep completions fish > ~/.config/fish/completions/dbkeep.fish

Exit codes: 0 printed, 2 usage";

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// What was printed.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CompletionsReport<'r> {
    /// The shell.
    shell: &'r str,
    /// The script.
    script: &'r str,
}

impl CompletionsArgs {
    /// Prints the script.
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut args::definition(), "dbkeep", &mut script);
        output.raw(&script);
        let script = String::from_utf8_lossy(&script);
        output.document(&CompletionsReport { shell: &self.shell.to_string(), script: &script });
        Ok(Exit::Done)
    }
}
