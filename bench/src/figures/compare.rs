//! What differs after a change of one page in a hundred: found by us, and by dumping both sides.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use dbkeep_testkit::generate::records;

use super::{Bench, mib, number, ours_first, remove};
use crate::Result;
use crate::product::{Ours, text};
use crate::report::{Goal, Line};
use crate::sample::{Sample, Times};
use crate::scratch::settle;

/// One page in a hundred.
const PERMILLE: u64 = 10;

/// Against `sqlite3 .dump` of both sides and `diff`, which is what there was before. They are given both databases as
/// files; a backup would have to be restored first.
pub(super) fn compare(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.copy(&bench.records, "comparing.db")?;
    let ours = Ours::init(bench.scratch, "compare-ours")?;
    ours.backup(&database, "none")?;
    records::change(&database, PERMILLE, 100)?;
    ours.backup(&database, "none")?;
    let (mut snapshots, mut live, mut theirs) = (Times::default(), Times::default(), Sample::default());
    let (mut memory, mut rows) = (Sample::default(), Sample::default());
    for round in 0..bench.rounds {
        let mut we = || -> Result<()> {
            let between = ours.run(["compare", "latest~1", "latest"])?;
            rows.add(number(&between.report, "/tables/0/changed")?);
            snapshots.add(&between.cost);
            let now = ours.run(["compare", "latest~1"])?;
            memory.add(mib(between.cost.peak_rss.max(now.cost.peak_rss)));
            live.add(&now.cost);
            Ok(())
        };
        let mut they = || -> Result<()> {
            if let Some(seconds) = dump_and_diff(bench, &database)? {
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
    let faster = |what: &str, ours: &Times| {
        Line::new(what, theirs.over(&ours.wall), "x", Goal::AtLeast(10.0))
            .with_times("ours", ours)
            .with("dump and diff s", &theirs)
    };
    Ok(vec![
        faster("1 % changed, compare two snapshots, faster than dump and diff", &snapshots)
            .with("rows changed", &rows),
        faster("1 % changed, compare with the live database, faster than dump and diff", &live),
        Line::new("compare, resident memory", memory.largest(), "MiB", Goal::AtMost(512.0)),
    ])
}

/// Returns the seconds that two dumps and their difference take; `None` where a program is missing.
fn dump_and_diff(bench: &Bench<'_>, changed: &Path) -> Result<Option<f64>> {
    let has = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !has("sqlite3") || !has("diff") {
        return Ok(None);
    }
    let (before, after) = (bench.scratch.fresh("before.sql")?, bench.scratch.fresh("after.sql")?);
    settle();
    let began = Instant::now();
    for (database, dump) in [(bench.records.as_path(), &before), (changed, &after)] {
        let done = Command::new("sqlite3")
            .args(["-readonly", text(database)?, ".dump"])
            .stdout(File::create(dump)?)
            .status()?;
        if !done.success() {
            return Err(format!("sqlite3 failed: {done}").into());
        }
    }
    let found = Command::new("diff").arg(&before).arg(&after).stdout(Stdio::null()).status()?;
    let seconds = began.elapsed().as_secs_f64();
    remove(&before)?;
    remove(&after)?;
    // 1: they differ.
    if found.code() == Some(1) { Ok(Some(seconds)) } else { Err(format!("diff: {found}").into()) }
}
