//! What must never happen, tried on the real binary as a black box: a lost or torn transaction, a lost
//! backup, damage that is called good, a target that is neither old nor new.
//!
//! Databases are written by a separate process whose history an oracle can replay, so a restored file is
//! compared row by row with what was committed, not by its counts. The usual run takes a seeded slice;
//! `DBKEEP_CAMPAIGN` set gives the full counts.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "a test says what it left out and how much it tried")]
#![allow(clippy::cast_possible_truncation, reason = "numbers here are small")]

mod copy;
mod damage;
mod guard;
mod kill;
mod postgres;
mod prefix;
mod prune;
mod races;
mod space;

use std::path::{Path, PathBuf};

use dbkeep_testkit::oracle::{self, Oracle};
use dbkeep_testkit::process::{Dbkeep, Outcome};
use dbkeep_testkit::restic::Restic;
use dbkeep_testkit::workload::{JournalMode, Options, Writer};
use rusqlite::Connection;
use serde_json::Value;

const PASSWORD: &str = "correct horse";

/// Returns how often something random is tried: `usual`, or `full` in a campaign.
fn times(usual: usize, full: usize) -> usize {
    if std::env::var_os("DBKEEP_CAMPAIGN").is_some() { full } else { usual }
}

/// A folder with a database, a repository, and the binary with a home of its own.
struct World {
    folder: tempfile::TempDir,
    dbkeep: Dbkeep,
    repository: PathBuf,
}

impl World {
    /// Makes one, in memory where the machine has such a place: what is tried here is kill -9, not power loss.
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.unwrap();
        let repository = folder.path().join("repository");
        Self::with_repository(folder, repository)
    }

    /// Makes one on a disk of its own, where processes outside of a container cannot be.
    fn on_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        Self::with_repository(folder, repository)
    }

    fn with_repository(folder: tempfile::TempDir, repository: PathBuf) -> Self {
        let dbkeep = Dbkeep::new(env!("CARGO_BIN_EXE_dbkeep"))
            .unwrap()
            .with_repository(&repository, PASSWORD)
            .with("DBKEEP_TEST_CHEAP_KEYS", "1");
        Self { folder, dbkeep, repository }
    }

    /// Returns a copy as another machine sees it, which has nothing else.
    fn of_copy(&self, repository: &Path) -> Self {
        Self::with_repository(tempfile::tempdir_in(self.folder.path()).unwrap(), repository.to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn database(&self) -> PathBuf {
        self.path("app.db")
    }

    fn repository(&self) -> PathBuf {
        self.repository.clone()
    }

    /// Returns what stock restic says, where it is installed.
    fn restic(&self) -> Option<Restic> {
        let restic = Restic::find(self.repository(), PASSWORD);
        if restic.is_none() {
            println!("skipped: restic is not installed");
        }
        restic
    }

    /// Commits transactions of the history of `seed` until number `last` is there.
    fn write_until(&self, seed: u64, journal: JournalMode, last: u64) {
        let mut writer = Writer::open(Options { journal, ..Options::new(self.database(), seed) }).unwrap();
        let connection = Connection::open(self.database()).unwrap();
        while oracle::head(&connection).unwrap().0 < last {
            writer.commit_next().unwrap();
        }
    }

    /// Backs the database up and returns the id of the snapshot.
    fn backup(&self) -> String {
        let database = self.database();
        let outcome = self.dbkeep.run([Path::new("backup"), &database, Path::new("--json")]).success();
        snapshot_of(&outcome)
    }

    /// Restores a snapshot into a new file.
    fn restore(&self, snapshot: &str, to: &Path) -> Outcome {
        let to = to.to_str().unwrap();
        self.dbkeep.run(["restore", snapshot, "--to", to, "--json"]).go()
    }

    /// Makes sure that a snapshot restores to the state after exactly `last` transactions.
    #[track_caller]
    fn expect_restores(&self, oracle: &Oracle, snapshot: &str, last: u64) {
        let to = self.path("restored.db");
        let report = self.restore(snapshot, &to).success().json();
        assert_eq!(report["verified"], true, "{report}");
        let found = oracle.verify(&to, &(last..=last));
        std::fs::remove_file(&to).unwrap();
        assert_eq!(found.unwrap(), last);
    }

    /// Makes sure that the repository is sound, by our own word and by that of stock restic.
    #[track_caller]
    fn expect_sound(&self) {
        let report = self.dbkeep.run(["check", "--read-data", "--json"]).success().json();
        assert_eq!(report["findings"], Value::Array(vec![]));
        if let Some(restic) = self.restic() {
            restic.check();
        }
    }
}

/// Returns the id of the only snapshot that a backup made.
fn snapshot_of(outcome: &Outcome) -> String {
    outcome.json()["databases"][0]["snapshot"].as_str().unwrap().to_owned()
}
