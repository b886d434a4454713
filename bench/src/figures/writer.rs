//! What a writer at full speed notices of a backup.

use std::thread;
use std::time::Duration;

use dbkeep_testkit::workload::{Options, Process, Report, Synchronous};

use super::{Bench, ours_first};
use crate::Result;
use crate::product::Ours;
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::scratch::settle;

/// Its throughput and its longest stall with and without a backup, in WAL mode.
pub(super) fn writer(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.copy(&bench.records, "written.db")?;
    let options = Options { synchronous: Synchronous::Normal, ..Options::new(&database, 9) };
    // Creates its tables and changes to WAL mode outside of what is measured.
    Process::start(&Options { transactions: Some(2000), ..options.clone() })?.wait()?;
    let mut length = time_of_a_backup(bench, &options)?;

    let (mut with, mut without) = (Sample::default(), Sample::default());
    let (mut stall_with, mut stall_without) = (Sample::default(), Sample::default());
    for round in 0..bench.rounds {
        let mut alone = |length: Duration| -> Result<()> {
            settle();
            let writer = Process::start(&options)?;
            thread::sleep(length);
            note(writer.stop()?, &mut without, &mut stall_without);
            Ok(())
        };
        if ours_first(round) {
            alone(length)?;
        }
        let ours = Ours::init(bench.scratch, "writer-ours")?;
        settle();
        let writer = Process::start(&options)?;
        let cost = ours.backup_under_load(&database, "quick")?.cost;
        note(writer.stop()?, &mut with, &mut stall_with);
        length = Duration::from_secs_f64(cost.seconds);
        if !ours_first(round) {
            alone(length)?;
        }
    }
    let longer = stall_with.median() - stall_without.median();
    Ok(vec![
        Line::new(
            "writer during a backup, throughput",
            100.0 * with.over(&without),
            "%",
            Goal::AtLeast(80.0),
        )
        .with("with /s", &with)
        .with("without /s", &without),
        Line::new(
            "writer during a backup, longest stall beyond that without",
            longer,
            "ms",
            Goal::AtMost(50.0),
        )
        .with("with ms", &stall_with)
        .with("without ms", &stall_without),
    ])
}

fn note(report: Report, rate: &mut Sample, stall: &mut Sample) {
    rate.add(report.per_second);
    stall.add(report.longest_stall_ms);
}

fn time_of_a_backup(bench: &Bench<'_>, options: &Options) -> Result<Duration> {
    let ours = Ours::init(bench.scratch, "writer-ours")?;
    let writer = Process::start(options)?;
    let cost = ours.backup_under_load(&options.database, "quick")?.cost;
    writer.stop()?;
    Ok(Duration::from_secs_f64(cost.seconds))
}
