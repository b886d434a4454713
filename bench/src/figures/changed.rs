//! The second backup: after a change of one page in a hundred, and after none.

use std::thread;
use std::time::Duration;

use dbkeep_testkit::generate::records;

use super::{Bench, mib, number, ours_first};
use crate::Result;
use crate::product::{Ours, Theirs};
use crate::report::{Goal, Line};
use crate::sample::{Sample, Times};

/// One page in a hundred.
const PERMILLE: u64 = 10;

/// Against restic; the figure counts whole repositories, trees and index included.
pub(super) fn changed(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.copy(&bench.records, "changing.db")?;
    let ours = Ours::init(bench.scratch, "changed-ours")?;
    let theirs = Theirs::init(bench.scratch, "changed-theirs")?;
    ours.backup(&database, "none")?;
    if let Some(theirs) = &theirs {
        theirs.backup(&database)?;
    }
    let (mut our_time, mut their_time) = (Times::default(), Times::default());
    let (mut our_bytes, mut their_bytes) = (Sample::default(), Sample::default());
    for round in 0..bench.rounds {
        // Each round changes other pages; both programs saw the round before.
        records::change(&database, PERMILLE, 100 + round as u64)?;
        let mut we = || -> Result<()> {
            let before = ours.size()?;
            our_time.add(&ours.backup(&database, "none")?.cost);
            our_bytes.add(mib(ours.size()? - before));
            Ok(())
        };
        let mut they = || -> Result<()> {
            let Some(theirs) = &theirs else { return Ok(()) };
            let before = theirs.size()?;
            their_time.add(&theirs.backup(&database)?);
            their_bytes.add(mib(theirs.size()? - before));
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
            "1 % changed, faster than restic",
            their_time.wall.over(&our_time.wall),
            "x",
            Goal::AtLeast(5.0),
        )
        .with_times("ours", &our_time)
        .with_times("restic", &their_time),
        Line::new(
            "1 % changed, less added than restic",
            their_bytes.over(&our_bytes),
            "x",
            Goal::AtLeast(5.0),
        )
        .with("ours MiB", &our_bytes)
        .with("restic MiB", &their_bytes),
    ])
}

/// Against nothing but the time that it takes to open the repository.
pub(super) fn unchanged(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.copy(&bench.records, "unchanging.db")?;
    let ours = Ours::init(bench.scratch, "unchanged-ours")?;
    ours.backup(&database, "quick")?;
    // A file that was written a moment ago is never taken for unchanged; from now on it is old.
    thread::sleep(Duration::from_secs(5));
    ours.backup(&database, "quick")?;
    let (mut backup, mut opening, mut beyond) = (Sample::default(), Sample::default(), Sample::default());
    let mut read = Sample::default();
    for _ in 0..bench.rounds.max(5) {
        let run = ours.backup(&database, "quick")?;
        read.add(number(&run.report, "/totals/bytes_read")?);
        let open = ours.run(["list", "--last", "1"])?.cost.seconds * 1000.0;
        backup.add(run.cost.seconds * 1000.0);
        opening.add(open);
        beyond.add(run.cost.seconds * 1000.0 - open);
    }
    Ok(vec![
        Line::new("unchanged, beyond opening the repository", beyond.median(), "ms", Goal::AtMost(50.0))
            .with("backup ms", &backup)
            .with("list ms", &opening),
        Line::new("unchanged, data read", read.largest(), "bytes", Goal::AtMost(0.0)),
    ])
}
