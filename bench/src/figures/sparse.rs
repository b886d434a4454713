//! Memory does not grow with the database.

use super::{Bench, mib};
use crate::Result;
use crate::product::Ours;
use crate::report::{Goal, Line};
use crate::sample::Sample;

const SIZE: u64 = 20 << 30;

/// A database of 20 GiB that is almost all holes.
pub(super) fn sparse(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.sparse(SIZE)?;
    let (mut memory, mut seconds) = (Sample::default(), Sample::default());
    for verify in ["none", "quick"] {
        let cost = Ours::init(bench.scratch, "sparse-ours")?.backup(&database, verify)?.cost;
        memory.add(mib(cost.peak_rss));
        seconds.add(cost.seconds);
    }
    let line = Line::new("sparse 20 GiB, resident memory", memory.largest(), "MiB", Goal::AtMost(256.0));
    Ok(vec![line.with("seconds", &seconds)])
}
