//! The benchmark: every goal has a figure, every figure is a ratio of runs side by side.
//!
//! `bench/run` builds everything and starts this program. The data is generated, so that
//! anybody can repeat a run; it stays in the scratch folder until the program is told otherwise.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for people

mod chunk_size;
mod figures;
mod large;
mod postgres;
mod product;
mod report;
mod sample;
mod scratch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dbkeep_testkit::generate::parse_size;

/// What can go wrong in a benchmark; it is shown and ends the program.
type Error = Box<dyn std::error::Error>;
/// The result of a step.
type Result<T, E = Error> = std::result::Result<T, E>;

/// Measure dbkeep side by side with other tools
#[derive(Debug, Parser)]
#[command(name = "bench/run", version)]
struct Arguments {
    #[command(subcommand)]
    study: Option<Study>,

    /// Size of the generated database
    #[arg(long, global = true, value_parser = size, default_value = "2G")]
    size: u64,

    /// How often each pair is run; medians are shown
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,

    /// Where the data and the repositories go; needs about 12 times the size
    #[arg(long, global = true, env = "DBKEEP_BENCH_DIR", value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// Run these figures only
    #[arg(long, global = true, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Study {
    /// What each chunk size costs on three workloads
    ChunkSize,
    /// What a small change costs in a very large, sparse database
    Large {
        /// Let restic store the same database
        #[arg(long)]
        with_restic: bool,
    },
    /// PostgreSQL beside pg_dump, pg_restore and restic; the size is that of the largest table, 1G at most
    Postgres,
    /// A migration of one page in a hundred that fails, for the figure of guards
    #[command(hide = true)]
    ChangeAndFail {
        /// The database
        database: PathBuf,
        /// Which pages
        seed: u64,
    },
    /// One cell of the chunk size study, in a process of its own
    #[command(hide = true)]
    ChunkSizeCell(chunk_size::Cell),
}

fn size(text: &str) -> std::result::Result<u64, String> {
    parse_size(text).ok_or_else(|| format!("{text} is not a size as 256M or 2G"))
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(4),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all goals were met.
fn run(arguments: Arguments) -> Result<bool> {
    if let Some(Study::ChunkSizeCell(cell)) = &arguments.study {
        chunk_size::measure(cell)?;
        return Ok(true);
    }
    if let Some(Study::ChangeAndFail { database, seed }) = &arguments.study {
        dbkeep_testkit::generate::records::change(database, 10, *seed)?;
        return Err("half-way".into());
    }
    let scratch = scratch::Scratch::open(arguments.scratch)?;
    match arguments.study {
        None => figures::run(&scratch, arguments.size, arguments.rounds, &arguments.only),
        Some(Study::ChunkSize) => {
            chunk_size::run(&scratch, arguments.size.min(1 << 30), arguments.rounds).map(|()| true)
        }
        Some(Study::Postgres) => {
            postgres::run(&scratch, arguments.size.min(1 << 30), arguments.rounds, &arguments.only)
        }
        Some(Study::Large { with_restic }) => large::run(&scratch, with_restic).map(|()| true),
        Some(Study::ChunkSizeCell(_) | Study::ChangeAndFail { .. }) => Ok(true),
    }
}
