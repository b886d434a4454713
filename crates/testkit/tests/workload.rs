//! The writer as a process: killed, hostile, in company, in all journal modes.

use std::time::Duration;

use dbkeep_testkit::oracle::Oracle;
use dbkeep_testkit::workload::{JournalMode, Log, Options, Process};

const MODES: [JournalMode; 4] =
    [JournalMode::Wal, JournalMode::Delete, JournalMode::Truncate, JournalMode::Persist];

#[test]
fn killed_writer_leaves_a_prefix_within_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let oracle = Oracle::new(8);
    for mode in MODES {
        let path = folder.path().join(format!("{}.db", mode.name()));
        let log = Log::at(folder.path().join(format!("{}.log", mode.name())));
        for round in 0..4 {
            let options = Options {
                journal: mode,
                hostile: true,
                log: Some(log.path().to_owned()),
                ..Options::new(&path, 8)
            };
            let process = Process::start(&options).unwrap();
            let until = log.last_acknowledged().unwrap() + 150 + 70 * round;
            while log.last_acknowledged().unwrap() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            process.kill().unwrap();
            let bounds = log.last_acknowledged().unwrap()..=log.last_started().unwrap();
            assert!(bounds.end() - bounds.start() <= 1, "{bounds:?}");
            oracle.verify(&path, &bounds).unwrap_or_else(|finding| panic!("{mode:?}: {finding}"));
        }
    }
}

#[test]
fn hostile_writers_in_company_keep_one_history() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [JournalMode::Wal, JournalMode::Persist] {
        let path = folder.path().join(format!("{}.db", mode.name()));
        let log = folder.path().join(format!("{}.log", mode.name()));
        let options = Options {
            journal: mode,
            hostile: true,
            transactions: Some(1500),
            log: Some(log.clone()),
            ..Options::new(&path, 77)
        };
        let processes: Vec<_> = (0..3).map(|_| Process::start(&options).unwrap()).collect();
        let reports: Vec<_> = processes.into_iter().map(|process| process.wait().unwrap()).collect();
        assert!(reports.iter().all(|report| report.transactions == 1500));
        assert_eq!(Log::at(&log).last_acknowledged().unwrap(), 4500);
        Oracle::new(77).verify(&path, &(4500..=4500)).unwrap();
    }
}

#[test]
fn writer_ends_when_asked_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let process = Process::start(&Options { rate: Some(500), ..Options::new(&path, 1) }).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let report = process.stop().unwrap();
    assert!(report.transactions > 0 && report.last == report.transactions);
    assert!(report.longest_stall_ms >= report.p99_ms);
    Oracle::new(1).verify(&path, &(report.last..=report.last)).unwrap();
}
