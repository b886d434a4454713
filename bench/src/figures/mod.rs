//! The goals, one figure or a few a file.

mod at_rest;
mod changed;
mod compare;
mod guard;
mod image;
mod many;
mod proof;
mod prune;
mod sparse;
mod writer;

use std::path::{Path, PathBuf};

use crate::Result;
use crate::product::{Ours, Theirs};
use crate::report::{Line, Report, results};
use crate::scratch::{Scratch, settle, warm};

/// What all figures need.
#[derive(Debug)]
struct Bench<'s> {
    scratch: &'s Scratch,
    records: PathBuf,
    rounds: usize,
}

type Figure = fn(&Bench<'_>) -> Result<Vec<Line>>;

/// Names for `--only`, in the order of the table.
const FIGURES: [(&str, Figure); 12] = [
    ("full", at_rest::full),
    ("verify-quick", at_rest::integrity_check),
    ("changed", changed::changed),
    ("unchanged", changed::unchanged),
    ("compare", compare::compare),
    ("many", many::many),
    ("prune", prune::prune),
    ("restore", proof::restore_and_verify),
    ("guard", guard::undo),
    ("image", image::image),
    ("sparse", sparse::sparse),
    ("writer", writer::writer),
];

/// Runs the figures and returns whether all goals were met.
pub(crate) fn run(scratch: &Scratch, size: u64, rounds: usize, only: &[String]) -> Result<bool> {
    if let Some(unknown) = only.iter().find(|name| FIGURES.iter().all(|(known, _)| known != name)) {
        let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        return Err(format!("no figure {unknown}: {}", names.join(", ")).into());
    }
    scratch.clean()?;
    let bench = Bench { scratch, records: scratch.records(size)?, rounds };
    let mut report = Report::new(size, rounds);
    warm_up(&bench)?;
    for (name, figure) in FIGURES {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            eprintln!("{name}");
            report.add(figure(&bench)?);
        }
    }
    scratch.clean()?;
    report.publish(&results("latest.json"))?;
    Ok(report.all_met())
}

/// Runs everything once: the first touch of memory, of the page cache and of the programs costs extra.
fn warm_up(bench: &Bench<'_>) -> Result<()> {
    eprintln!("warming up");
    warm(&bench.records)?;
    let ours = Ours::init(bench.scratch, "warm-ours")?;
    ours.backup(&bench.records, "none")?;
    if let Some(theirs) = Theirs::init(bench.scratch, "warm-theirs")? {
        theirs.backup(&bench.records)?;
    }
    bench.scratch.clean()?;
    settle();
    Ok(())
}

/// Says whether ours goes first in this round: each goes first in turn.
fn ours_first(round: usize) -> bool {
    round.is_multiple_of(2)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Returns one number of a JSON report.
fn number(report: &serde_json::Value, pointer: &str) -> Result<f64> {
    let value = report.pointer(pointer).and_then(serde_json::Value::as_f64);
    value.ok_or_else(|| format!("the report has no {pointer}: {report}").into())
}

fn remove(path: &Path) -> Result<()> {
    if path.is_dir() {
        std::fs::remove_dir_all(path)?;
    } else {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
