//! Bringing a database back, and proving that it could be.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use super::{Bench, mib, ours_first, remove};
use crate::Result;
use crate::product::{Ours, Theirs, text};
use crate::report::{Goal, Line};
use crate::sample::{Sample, Times};

/// Against `restic restore` and `restic check --read-data`. Our restore ends when the file is on the disk, that of
/// restic when it is in memory; so there is a figure with a sync of its file as well. `verify` does as it does for a
/// user: every hash and row count, and the full integrity check (`integrity_check`), which restic has nothing like.
pub(super) fn restore_and_verify(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let ours = Ours::init(bench.scratch, "proof-ours")?;
    let theirs = Theirs::init(bench.scratch, "proof-theirs")?;
    ours.backup(&bench.records, "none")?;
    if let Some(theirs) = &theirs {
        theirs.backup(&bench.records)?;
    }
    let (mut our_restore, mut their_restore) = (Times::default(), Times::default());
    let mut their_durable_restore = Sample::default();
    let (mut our_verify, mut their_check) = (Times::default(), Times::default());
    let (mut restore_memory, mut verify_memory) = (Sample::default(), Sample::default());
    for round in 0..=bench.rounds {
        let counts = round > 0; // The first restore of each is the first touch of much memory.
        let mut we = || -> Result<()> {
            let target = bench.scratch.fresh("restored-ours.db")?;
            let restore = ours.run(["restore", "latest", "--to", text(&target)?, "--verify", "none"])?.cost;
            remove(&target)?;
            let verify = ours.run(["verify", "latest"])?.cost;
            if counts {
                our_restore.add(&restore);
                our_verify.add(&verify);
                restore_memory.add(mib(restore.peak_rss));
                verify_memory.add(mib(verify.peak_rss));
            }
            Ok(())
        };
        let mut they = || -> Result<()> {
            let Some(theirs) = &theirs else { return Ok(()) };
            let target = bench.scratch.fresh("restored-theirs")?;
            let restore = theirs.run(["restore", "latest", "--target", text(&target)?])?;
            let ended = Instant::now();
            sync_all(&target)?;
            let durable = restore.seconds + ended.elapsed().as_secs_f64();
            remove(&target)?;
            let check = theirs.run(["check", "--read-data"])?;
            if counts {
                their_restore.add(&restore);
                their_durable_restore.add(durable);
                their_check.add(&check);
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
    Ok(vec![
        Line::new(
            "restore, faster than restic restore",
            their_restore.wall.over(&our_restore.wall),
            "x",
            Goal::AtLeast(2.3),
        )
        .with_times("ours", &our_restore)
        .with_times("restic", &their_restore),
        Line::new(
            "restore, faster than restic restore and a sync",
            their_durable_restore.over(&our_restore.wall),
            "x",
            Goal::None,
        ),
        Line::new("restore, resident memory", restore_memory.largest(), "MiB", Goal::AtMost(256.0)),
        Line::new(
            "verify, faster than restic check --read-data",
            their_check.wall.over(&our_verify.wall),
            "x",
            Goal::AtLeast(1.0),
        )
        .with_times("ours", &our_verify)
        .with_times("restic", &their_check),
        Line::new("verify, resident memory", verify_memory.largest(), "MiB", Goal::None),
    ])
}

/// Waits until a file, or everything below a folder, is on the disk.
fn sync_all(path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in path.read_dir()? {
            sync_all(&entry?.path())?;
        }
    }
    Ok(File::open(path)?.sync_all()?)
}
