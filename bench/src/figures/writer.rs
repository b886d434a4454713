//! What a writer at full speed notices of a backup.

use std::fs::File;
use std::io::Read;
use std::thread;
use std::time::Duration;

use dbkeep_testkit::workload::{Options, Process, Report, Synchronous};

use super::{Bench, ours_first};
use crate::Result;
use crate::product::Ours;
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::scratch::settle;

/// How long the writer goes on after the backup: its next commit checkpoints a log that has grown.
const AFTERWARDS: Duration = Duration::from_millis(250);

/// What the page cache leaves free by itself.
const LEFT_FREE: u64 = 512 << 20;

/// A longest stall is one value of a run, so it takes several runs to mean something.
const LEAST_ROUNDS: usize = 3;

/// Its throughput and its longest stall with and without a backup, in WAL mode. The repository lies on the same disk.
pub(super) fn writer(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let database = bench.scratch.copy(&bench.records, "written.db")?;
    let options = Options { synchronous: Synchronous::Normal, ..Options::new(&database, 9) };
    // Creates its tables and changes to WAL mode outside of what is measured.
    Process::start(&Options { transactions: Some(2000), ..options.clone() })?.wait()?;
    fill_memory(bench)?;
    let mut transactions = run_with_a_backup(bench, &options)?.transactions;

    let (mut with, mut without) = (Sample::default(), Sample::default());
    let (mut stall_with, mut stall_without) = (Sample::default(), Sample::default());
    for round in 0..bench.rounds.max(LEAST_ROUNDS) {
        // As many transactions as with the backup, so that both have as many chances of a long one.
        let mut alone = |transactions: u64| -> Result<()> {
            settle();
            let limited = Options { transactions: Some(transactions), ..options.clone() };
            note(Process::start(&limited)?.wait()?, &mut without, &mut stall_without);
            Ok(())
        };
        if ours_first(round) {
            alone(transactions)?;
        }
        let report = run_with_a_backup(bench, &options)?;
        transactions = report.transactions;
        note(report, &mut with, &mut stall_with);
        if !ours_first(round) {
            alone(transactions)?;
        }
    }
    let longer = stall_with.largest() - stall_without.largest();
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

/// Leaves no memory that nobody has touched yet, on a machine with up to 20 GiB that are free.
///
/// During a backup the log grows into pages that the page cache never held. A virtual machine may get each of them
/// from its host at its first touch, which costs the writer more than the backup does; after some days of running
/// there are no such pages.
fn fill_memory(bench: &Bench<'_>) -> Result<()> {
    // Holes cost no disk, and as many pages as anything else.
    let mut file = File::open(bench.scratch.sparse(20 << 30)?)?;
    let mut buffer = vec![0; 1 << 20];
    while free_memory()? > LEFT_FREE && file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Returns the bytes of memory that nothing is in.
fn free_memory() -> Result<u64> {
    let information = std::fs::read_to_string("/proc/meminfo")?;
    let line = information.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.ok_or("/proc/meminfo tells no free memory")?.trim().parse::<u64>()? << 10)
}

fn note(report: Report, rate: &mut Sample, stall: &mut Sample) {
    rate.add(report.per_second);
    stall.add(report.longest_stall_ms);
}

/// Lets the writer write from shortly before a backup until shortly after it.
fn run_with_a_backup(bench: &Bench<'_>, options: &Options) -> Result<Report> {
    let ours = Ours::init(bench.scratch, "writer-ours")?;
    settle();
    let writer = Process::start(options)?;
    ours.backup_under_load(&options.database, "quick")?;
    thread::sleep(AFTERWARDS);
    Ok(writer.stop()?)
}
