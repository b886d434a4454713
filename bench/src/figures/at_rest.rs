//! The full backup of a database that nobody writes.

use std::path::Path;

use dbkeep_testkit::process::{Cost, measured};
use dbkeep_testkit::restic::on_path;

use super::{Bench, mib, ours_first, remove};
use crate::Result;
use crate::product::{Ours, Theirs, text};
use crate::report::{Goal, Line};
use crate::sample::{Sample, Times};
use crate::scratch::settle;

/// Against `restic backup` and `zstd -3 -T2` of the same file, into empty repositories.
pub(super) fn full(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let (mut ours, mut theirs, mut zstd) = (Times::default(), Times::default(), Times::default());
    let mut memory = Sample::default();
    let store = |times: &mut Times, cost: Option<Cost>| {
        if let Some(cost) = cost {
            times.add(&cost);
        }
    };
    for round in 0..bench.rounds {
        let mut we = || -> Result<Option<Cost>> {
            let repository = Ours::init(bench.scratch, "full-ours")?;
            let cost = repository.backup(&bench.records, "none")?.cost;
            memory.add(mib(cost.peak_rss));
            Ok(Some(cost))
        };
        let they = || -> Result<Option<Cost>> {
            Theirs::init(bench.scratch, "full-theirs")?
                .map(|theirs| theirs.backup(&bench.records))
                .transpose()
        };
        if ours_first(round) {
            store(&mut ours, we()?);
            store(&mut theirs, they()?);
            store(&mut zstd, compress(bench, &bench.records)?);
        } else {
            store(&mut zstd, compress(bench, &bench.records)?);
            store(&mut theirs, they()?);
            store(&mut ours, we()?);
        }
    }
    Ok(vec![
        Line::new(
            "full backup, faster than restic backup",
            theirs.wall.over(&ours.wall),
            "x",
            Goal::AtLeast(1.8),
        )
        .with_times("ours", &ours)
        .with_times("restic", &theirs),
        Line::new(
            "full backup, time against zstd -3 -T2",
            ours.wall.over(&zstd.wall),
            "x",
            Goal::AtMost(2.1),
        )
        .with_times("zstd", &zstd),
        Line::new("full backup, resident memory", memory.largest(), "MiB", Goal::AtMost(256.0)),
    ])
}

fn compress(bench: &Bench<'_>, file: &Path) -> Result<Option<Cost>> {
    let Some(program) = on_path("zstd") else { return Ok(None) };
    let target = bench.scratch.fresh("records.zst")?;
    settle();
    let mut command = std::process::Command::new(program);
    command.args(["-3", "-T2", "-q", "-f", text(file)?, "-o", text(&target)?]);
    let outcome = measured(&command)?;
    remove(&target)?;
    if outcome.code() != Some(0) {
        return Err(outcome.transcript().into());
    }
    Ok(outcome.cost)
}

/// What the default integrity check and the row counts add.
pub(super) fn integrity_check(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let (mut with, mut without) = (Times::default(), Times::default());
    for round in 0..bench.rounds {
        let mut backup = |verify: &str| -> Result<()> {
            let times = if verify == "none" { &mut without } else { &mut with };
            times.add(&Ours::init(bench.scratch, "check-ours")?.backup(&bench.records, verify)?.cost);
            Ok(())
        };
        let order = if ours_first(round) { ["none", "quick"] } else { ["quick", "none"] };
        order.into_iter().try_for_each(&mut backup)?;
    }
    let what = "full backup, time with the default integrity check against without";
    let line = Line::new(what, with.wall.over(&without.wall), "x", Goal::AtMost(1.5));
    Ok(vec![line.with_times("quick", &with).with_times("none", &without)])
}
