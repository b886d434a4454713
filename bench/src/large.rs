//! What a small change costs in a very large database.
//!
//! The format keeps a file's whole list of chunks in one tree blob. Stored in parts, only
//! the list of the changed part is written anew.

use std::collections::BTreeMap;

use dbkeep_testkit::generate::sparse;

use crate::Result;
use crate::product::{Ours, Theirs};
use crate::report::{machine, results, write_json};
use crate::scratch::{Scratch, size_of};

const SIZE: u64 = 50 << 30;

/// Backs 50 GiB of holes up, changes ten rows, and backs up again.
pub(crate) fn run(scratch: &Scratch, with_restic: bool) -> Result<()> {
    scratch.clean()?;
    let data = scratch.sparse(SIZE)?;
    let database = scratch.copy(&data, "large.db")?;
    let mut figures: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    let mut note = |name: &str, value: f64| {
        println!("{name:<44} {value:>16.2}");
        figures.insert(name.to_owned(), value.into());
    };
    let ours = Ours::init(scratch, "large-ours")?;
    let empty = ours.size()?;
    let first = ours.backup(&database, "none")?.cost;
    let full = ours.size()?;
    note("first backup, seconds", first.seconds);
    note("first backup, MiB resident", mib(first.peak_rss));
    note("first backup, KiB stored", kib(full - empty));
    sparse::change(&database, 10, 1)?;
    let second = ours.backup(&database, "none")?;
    note("ten rows changed, seconds", second.cost.seconds);
    note("ten rows changed, MiB resident", mib(second.cost.peak_rss));
    note("ten rows changed, KiB stored in all", kib(ours.size()? - full));
    note("ten rows changed, KiB of database stored", kib_of(&second.report, "/totals/bytes_stored"));
    note("whole repository, KiB of packs", kib(size_of(&ours.repository().join("data"))?));
    if with_restic && let Some(theirs) = Theirs::init(scratch, "large-theirs")? {
        let first = theirs.backup(&database)?;
        let full = theirs.size()?;
        note("restic, first backup, seconds", first.seconds);
        sparse::change(&database, 10, 2)?;
        note("restic, ten rows changed, seconds", theirs.backup(&database)?.seconds);
        note("restic, ten rows changed, KiB stored in all", kib(theirs.size()? - full));
    }
    scratch.clean()?;
    write_json(&results("large.json"), &serde_json::json!({ "machine": machine(), "figures": figures }))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

fn kib_of(report: &serde_json::Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(serde_json::Value::as_f64).map_or(f64::NAN, |bytes| bytes / 1024.0)
}
