//! Reading the image, with nothing after it, against SQLite's own backup.

use std::path::Path;
use std::time::Instant;

use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::{Bench, ours_first, remove};
use crate::Result;
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::scratch::{settle, warm};

/// In WAL mode with an open log, which is how applications leave it.
pub(super) fn image(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.copy(&bench.records, "image.db")?;
    let application = Connection::open(&database)?;
    application.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(()))?;
    application.execute("UPDATE messages SET sent = '2026-01-01 00:00' WHERE id <= 1000", ())?;
    warm(&bench.records)?;
    let size = std::fs::metadata(&database)?.len();
    let (mut ours, mut theirs) = (Sample::default(), Sample::default());
    for round in 0..=bench.rounds {
        let mut we = || -> Result<()> {
            let seconds = capture(&database, Method::LockedImage)?;
            if round > 0 {
                ours.add(seconds);
            }
            Ok(())
        };
        let mut they = || -> Result<()> {
            let seconds = backup(bench, &database)?;
            if round > 0 {
                theirs.add(seconds);
            }
            Ok(())
        };
        if ours_first(round) {
            we()?;
            they()?;
        } else {
            they()?;
            we()?;
        }
    }
    drop(application);
    let (mut two_passes, mut rate) = (Sample::default(), Sample::default());
    let resting = bench.scratch.copy(&bench.records, "image.db")?;
    for _ in 0..bench.rounds {
        two_passes.add(capture(&resting, Method::TwoPass)?);
    }
    ours.0.iter().for_each(|seconds| rate.add(size as f64 / seconds / 1e9));
    Ok(vec![
        Line::new(
            "reading the image, faster than SQLite's backup",
            theirs.over(&ours),
            "x",
            Goal::AtLeast(5.0),
        )
        .with("ours s", &ours)
        .with("backup s", &theirs)
        .with("ours GB/s", &rate),
        Line::new(
            "rollback mode, both passes, against SQLite's backup",
            theirs.over(&two_passes),
            "x",
            Goal::None,
        )
        .with("two passes s", &two_passes),
    ])
}

fn capture(database: &Path, method: Method) -> Result<f64> {
    let options = CaptureOptions { force_method: Some(method), ..CaptureOptions::default() };
    let mut buffer = vec![0; 1 << 20];
    let began = Instant::now();
    let mut capture = Capture::open(database, &options)?;
    let mut total = 0;
    loop {
        match capture.read(&mut buffer)? {
            0 => break,
            count => total += count as u64,
        }
    }
    if total != capture.size() {
        return Err(format!("{total} bytes of {} were read", capture.size()).into());
    }
    if capture.needs_settling() {
        capture.settle(64 << 10, &mut |_, _| Ok(()))?;
    }
    capture.finish()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Into a new file without any waiting for the disk: the backup API has no other way out.
fn backup(bench: &Bench<'_>, database: &Path) -> Result<f64> {
    let target = bench.scratch.fresh("image-backup.db")?;
    settle();
    let began = Instant::now();
    let source = Connection::open(database)?;
    let mut copy = Connection::open(&target)?;
    copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
    let outcome = Backup::new(&source, &mut copy)?.step(-1)?;
    if outcome != StepResult::Done {
        return Err(format!("SQLite's backup stopped: {outcome:?}").into());
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(copy);
    remove(&target)?;
    Ok(seconds)
}
