//! Bringing a database back, and proving that it could be.

use super::{Bench, mib, ours_first, remove};
use crate::Result;
use crate::product::{Ours, Theirs, text};
use crate::report::{Goal, Line};
use crate::sample::Sample;

/// Against `restic restore` and `restic check --read-data`.
pub(super) fn restore_and_verify(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let ours = Ours::init(bench.scratch, "proof-ours")?;
    let theirs = Theirs::init(bench.scratch, "proof-theirs")?;
    ours.backup(&bench.records, "none")?;
    if let Some(theirs) = &theirs {
        theirs.backup(&bench.records)?;
    }
    let (mut our_restore, mut their_restore) = (Sample::default(), Sample::default());
    let (mut our_verify, mut their_check) = (Sample::default(), Sample::default());
    let (mut restore_memory, mut verify_memory) = (Sample::default(), Sample::default());
    for round in 0..=bench.rounds {
        let counts = round > 0; // The first restore of each is the first touch of much memory.
        let mut we = || -> Result<()> {
            let target = bench.scratch.fresh("restored-ours.db")?;
            let restore = ours.run(["restore", "latest", "--to", text(&target)?, "--verify", "none"])?.cost;
            remove(&target)?;
            let verify = ours.run(["verify", "latest"])?.cost;
            if counts {
                our_restore.add(restore.seconds);
                our_verify.add(verify.seconds);
                restore_memory.add(mib(restore.peak_rss));
                verify_memory.add(mib(verify.peak_rss));
            }
            Ok(())
        };
        let mut they = || -> Result<()> {
            let Some(theirs) = &theirs else { return Ok(()) };
            let target = bench.scratch.fresh("restored-theirs")?;
            let restore = theirs.run(["restore", "latest", "--target", text(&target)?])?;
            remove(&target)?;
            let check = theirs.run(["check", "--read-data"])?;
            if counts {
                their_restore.add(restore.seconds);
                their_check.add(check.seconds);
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
            their_restore.over(&our_restore),
            "x",
            Goal::AtLeast(2.3),
        )
        .with("ours s", &our_restore)
        .with("restic s", &their_restore),
        Line::new("restore, resident memory", restore_memory.largest(), "MiB", Goal::AtMost(256.0)),
        Line::new(
            "verify, faster than restic check --read-data",
            their_check.over(&our_verify),
            "x",
            Goal::AtLeast(1.0),
        )
        .with("ours s", &our_verify)
        .with("restic s", &their_check),
        Line::new("verify, resident memory", verify_memory.largest(), "MiB", Goal::None),
    ])
}
