//! What is left beside a database when its last user died, and what looks like it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::plain::write_history;
use super::{Error, Fixture, Kind, io_error, sibling};

pub(super) fn fixtures() -> Vec<Fixture> {
    vec![
        Fixture::new("wal-left-by-a-crash", Kind::Database, |folder| wal(folder, Wal::WithShm)),
        Fixture::new("wal-left-without-shm", Kind::Database, |folder| wal(folder, Wal::Alone)),
        Fixture::new("wal-with-torn-tail", Kind::Database, |folder| wal(folder, Wal::TornTail)),
        Fixture::new("wal-with-stale-tail", Kind::Database, |folder| wal(folder, Wal::StaleTail)),
        Fixture::new("wal-fully-checkpointed", Kind::Database, |folder| wal(folder, Wal::Checkpointed)),
        Fixture::new("wal-uncommitted-tail", Kind::Database, wal_uncommitted),
        Fixture::new("wal-mode-cleanly-closed", Kind::Database, wal_closed),
        Fixture::new("hot-journal", Kind::Database, hot_journal),
        Fixture::new("journal-persisted", Kind::Database, |folder| cold_journal(folder, "persist")),
        Fixture::new("journal-truncated", Kind::Database, |folder| cold_journal(folder, "truncate")),
        Fixture::new("zero-bytes", Kind::Empty, |folder| zero_bytes(folder, false)),
        Fixture::new("zero-bytes-with-wal", Kind::Empty, |folder| zero_bytes(folder, true)),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wal {
    WithShm,
    Alone,
    TornTail,
    StaleTail,
    Checkpointed,
}

/// Copies the files of a database while a connection holds them open: what a crash leaves.
fn crash(live: &Path, folder: &Path, suffixes: &[&str]) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    fs::copy(live, &path)?;
    for suffix in suffixes {
        fs::copy(sibling(live, suffix), sibling(&path, suffix))?;
    }
    Ok(path)
}

fn wal(folder: &Path, shape: Wal) -> Result<PathBuf, Error> {
    let scratch = tempfile::tempdir()?;
    let live = scratch.path().join("live.db");
    let mut connection = Connection::open(&live)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")?;
    write_history(&mut connection)?;
    let checkpoint =
        |kind: &str| connection.query_row(&format!("PRAGMA wal_checkpoint({kind})"), (), |_| Ok(()));
    match shape {
        Wal::StaleTail => {
            checkpoint("RESTART")?;
            connection.execute_batch("CREATE TABLE newer(a); INSERT INTO newer VALUES (1)")?;
        }
        Wal::Checkpointed => checkpoint("PASSIVE")?,
        Wal::WithShm | Wal::Alone | Wal::TornTail => {}
    }
    let suffixes: &[&str] = if shape == Wal::WithShm { &["-wal", "-shm"] } else { &["-wal"] };
    let path = crash(&live, folder, suffixes)?;
    if shape == Wal::TornTail {
        let mut log = OpenOptions::new().append(true).open(sibling(&path, "-wal"))?;
        log.write_all(&[0xA5; 3000])?;
    }
    Ok(path)
}

/// The log ends with whole frames of a transaction that was never committed.
fn wal_uncommitted(folder: &Path) -> Result<PathBuf, Error> {
    let scratch = tempfile::tempdir()?;
    let live = scratch.path().join("live.db");
    let mut connection = Connection::open(&live)?;
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 10")?;
    write_history(&mut connection)?;
    let before = fs::metadata(sibling(&live, "-wal"))?.len();
    connection.execute_batch(
        "BEGIN; CREATE TABLE never(a); INSERT INTO never SELECT randomblob(2000) FROM ledger",
    )?;
    if fs::metadata(sibling(&live, "-wal"))?.len() <= before {
        return Err(io_error("the transaction did not spill into the log"));
    }
    crash(&live, folder, &["-wal", "-shm"])
}

fn wal_closed(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    let mut connection = Connection::open(&path)?;
    connection.execute_batch("PRAGMA journal_mode = WAL")?;
    write_history(&mut connection)?;
    connection.close().map_err(|(_, error)| error)?;
    if sibling(&path, "-wal").exists() {
        return Err(io_error("the log is still there after closing"));
    }
    Ok(path)
}

/// A transaction had begun to write into the file; its journal must be rolled back.
fn hot_journal(folder: &Path) -> Result<PathBuf, Error> {
    let scratch = tempfile::tempdir()?;
    let live = scratch.path().join("live.db");
    let mut connection = Connection::open(&live)?;
    write_history(&mut connection)?;
    let before = fs::read(&live)?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = 5; BEGIN;
         UPDATE blobs SET body = randomblob(length(body)); UPDATE accounts SET balance = 0;",
    )?;
    if fs::read(&live)? == before {
        return Err(io_error("the transaction did not spill into the file"));
    }
    crash(&live, folder, &["-journal"])
}

/// A journal that means nothing: its transaction is complete.
fn cold_journal(folder: &Path, mode: &str) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    let mut connection = Connection::open(&path)?;
    connection.query_row(&format!("PRAGMA journal_mode = {mode}"), (), |_| Ok(()))?;
    write_history(&mut connection)?;
    Ok(path)
}

/// Merely reading such a file with a log beside it makes SQLite delete the log.
fn zero_bytes(folder: &Path, with_wal: bool) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    if with_wal {
        wal(folder, Wal::Alone)?;
    }
    fs::write(&path, [])?;
    Ok(path)
}
