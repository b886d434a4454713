//! The `dbkeep` command: parses the line, runs the command, ends with its exit code.

mod app;
mod args;
mod child;
mod commands;
mod event;
mod exit;
#[cfg(feature = "fault-injection")]
mod fault;
mod human;
mod logging;
mod output;
mod prompt;
#[cfg(test)]
mod reference;
mod signals;
mod table;
mod terminal;
mod usage;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::FromArgMatches;

use crate::app::App;
use crate::args::{Command, Line, Progress};
use crate::exit::{Exit, Failure};
use crate::output::{Choices, Output};
use crate::usage::Answer;

fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    let shown: Vec<String> = line.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let parsed =
        args::definition().try_get_matches_from(&line).and_then(|matches| Line::from_arg_matches(&matches));
    let exit = match parsed {
        Ok(parsed) => run(&parsed, &shown),
        Err(error) => say(&error, &shown),
    };
    ExitCode::from(exit.code())
}

/// Runs the command and says how it ended. `typed` is the line as it was typed.
fn run(line: &Line, typed: &[String]) -> Exit {
    let started = Instant::now();
    let output = Arc::new(Output::new(Choices {
        json: line.global.json,
        quiet: line.global.quiet,
        events: line.global.progress == Progress::Json,
        bars: line.global.progress == Progress::Auto,
        colours: colours_wanted(),
    }));
    if let Some(repository) = &line.global.repo {
        let hint = "keep the location in DBKEEP_REPOSITORY or in the configuration";
        usage::warn_of_password(&output, repository, hint);
    }
    let done = App::start(Arc::clone(&output), &line.global)
        .and_then(|app| dispatch(&app, &line.command).inspect_err(|_| app.watch.finish()));
    let exit = match done {
        Ok(exit) => exit,
        Err(failure) => {
            let failure = failure.without_typed(typed);
            tracing::error!(event = "failed", kind = failure.kind, message = failure.message);
            output.failure(&failure);
            failure.exit
        }
    };
    tracing::info!(event = "finished", exit = exit.code(), duration_ms = milliseconds(started.elapsed()));
    exit
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn dispatch(app: &App, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => args.run(app),
        Command::Backup(args) => args.run(app),
        Command::List(args) => args.run(app),
        Command::Show(args) => args.run(app),
        Command::Restore(args) => args.run(app),
        Command::Verify(args) => args.run(app),
        Command::Drill(args) => args.run(app),
        Command::Guard(args) => args.run(app),
        Command::Check(args) => args.run(app),
        Command::Compare(args) => args.run(app),
        Command::Export(args) => args.run(app),
        Command::Copy(args) => args.run(app),
        Command::Forget(args) => args.run(app),
        Command::Pin(args) => args.run(app),
        Command::Unpin(args) => args.run(app),
        Command::Clean(args) => args.run(app),
        Command::Prune(args) => args.run(app),
        Command::Size(args) => args.run(app),
        Command::Status(args) => args.run(app),
        Command::Doctor(args) => args.run(app),
        Command::Key(args) => args.run(app),
        Command::Config(args) => args.run(app),
        Command::Completions(args) => args.run(&app.output),
        Command::Man(args) => args.run(&app.output),
        Command::Demo(args) => args.run(app),
    }
}

/// Answers a line that is no command to run: help, the version, or what is wrong with it.
fn say(error: &clap::Error, shown: &[String]) -> Exit {
    let output = Output::new(Choices {
        json: usage::asks_for_json(shown),
        events: usage::asks_for_events(shown),
        colours: colours_wanted(),
        ..Choices::default()
    });
    match usage::answer(error, shown) {
        Answer::Text(text) => {
            output.raw(text.as_bytes());
            output.document(&serde_json::json!({ "text": text }));
            Exit::Done
        }
        Answer::Wrong(failure) => {
            output.failure(&failure);
            // Its own failures must not be taken for those of the command.
            if usage::is_guard(shown) { commands::guard::FAILED } else { failure.exit }
        }
    }
}

/// Colours are for terminals that have them and people who want them: <https://no-color.org>.
fn colours_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}
