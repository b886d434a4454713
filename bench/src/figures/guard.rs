//! A migration that changed one page in a hundred and failed: undone by its guard, and by copying the file back.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use super::{Bench, mib, number, remove};
use crate::Result;
use crate::product::{Ours, text};
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::scratch::settle;

/// What a guard takes to undo counts from the decision: the failed state is backed up, and what differs is written. The
/// other way a copy of before is written over the file, and synced; nothing of the failed state is kept.
pub(super) fn undo(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.copy(&bench.records, "guarded.db")?;
    let ours = Ours::init(bench.scratch, "guard-ours")?;
    ours.backup(&database, "none")?;
    let migration = std::env::current_exe()?;
    let (mut undone, mut copied) = (Sample::default(), Sample::default());
    let (mut written, mut whole) = (Sample::default(), Sample::default());
    for round in 0..bench.rounds {
        let seed = (200 + round).to_string();
        let command = [text(&migration)?, "change-and-fail", text(&database)?, &seed];
        let line = ["guard", "--on-failure", "restore", text(&database)?, "--"];
        let report = ours.run_to(1, line.into_iter().chain(command))?;
        if report.pointer("/outcome").and_then(serde_json::Value::as_str) != Some("restored") {
            return Err(format!("it was not undone: {report}").into());
        }
        undone.add(number(&report, "/databases/0/restore_ms")? / 1000.0);
        written.add(number(&report, "/databases/0/bytes_written")? / f64::from(1 << 20));

        copied.add(copy_over(&bench.records, &database)?);
        whole.add(mib(fs::metadata(&database)?.len()));
    }
    remove(&database)?;
    Ok(vec![
        Line::new(
            "a failed migration of 1 % undone, faster than copying back",
            copied.over(&undone),
            "x",
            Goal::AtLeast(1.0),
        )
        .with("ours s", &undone)
        .with("copy s", &copied),
        Line::new(
            "a failed migration of 1 % undone, less written than by copying back",
            whole.over(&written),
            "x",
            Goal::AtLeast(20.0),
        )
        .with("ours MiB", &written)
        .with("copy MiB", &whole),
    ])
}

/// Copies a file over another one, and returns the seconds until it is on the disk.
fn copy_over(from: &Path, to: &Path) -> Result<f64> {
    settle();
    let began = Instant::now();
    fs::copy(from, to)?;
    File::open(to)?.sync_all()?;
    Ok(began.elapsed().as_secs_f64())
}
