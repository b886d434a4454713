//! The oracle must prove itself: it accepts every true prefix and catches what
//! `integrity_check` and row counts let pass.
#![allow(clippy::unwrap_used)] // a panic is how a test fails, in its helpers too

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dbkeep_testkit::oracle::plan::{Ddl, Op, link, transaction};
use dbkeep_testkit::oracle::{Finding, Oracle, apply, apply_op, head, set_up, verify};
use dbkeep_testkit::zoo;
use rusqlite::Connection;

const SEED: u64 = 31;

fn commit(connection: &mut Connection, seq: u64, ops: &[Op]) {
    let transaction = connection.transaction().unwrap();
    let (_, previous) = head(&transaction).unwrap();
    apply(&transaction, SEED, seq, &previous, ops).unwrap();
    transaction.commit().unwrap();
}

fn database(folder: &Path, transactions: u64) -> (PathBuf, Connection) {
    let path = folder.join("app.db");
    let mut connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    set_up(&mut connection, SEED).unwrap();
    for seq in 1..=transactions {
        commit(&mut connection, seq, &transaction(SEED, seq));
    }
    (path, connection)
}

fn looks_fine_to_sqlite(connection: &Connection) -> bool {
    let answer: String = connection.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    let dense: bool = connection
        .query_row("SELECT count(*) = max(seq) + 1 AND min(seq) = 0 FROM ledger", (), |row| row.get(0))
        .unwrap();
    answer == "ok" && dense
}

#[test]
fn every_prefix_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut connection) = database(folder.path(), 0);
    let oracle = Oracle::new(SEED);
    for seq in 1..=1300 {
        commit(&mut connection, seq, &transaction(SEED, seq));
        if seq % 50 <= 1 || seq < 20 {
            assert_eq!(oracle.verify(&path, &(seq..=seq)).unwrap(), seq);
        }
    }
}

#[test]
fn trimming_and_every_schema_change_are_modelled() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut connection) = database(folder.path(), 3000);
    for seq in 3001..=3850 {
        commit(&mut connection, seq, &transaction(SEED, seq));
    }
    let dropped =
        (1..=3850).flat_map(|seq| transaction(SEED, seq)).any(|op| matches!(op, Op::Ddl(Ddl::Drop { .. })));
    assert!(dropped);
    assert_eq!(verify(&path, SEED, &(3850..=3850)).unwrap(), 3850);
}

#[test]
fn upkeep_changes_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let (path, connection) = database(folder.path(), 400);
    connection.execute_batch("PRAGMA page_size = 1024; PRAGMA auto_vacuum = 2; VACUUM").unwrap();
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    assert_eq!(verify(&path, SEED, &(0..=400)).unwrap(), 400);
}

#[test]
fn transfer_undone_in_silence_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, connection) = database(folder.path(), 200);
    let Some(Op::Transfer { from, to, amount }) = transaction(SEED, 100).into_iter().next() else {
        panic!("every transaction begins with a transfer");
    };
    let sql = "UPDATE accounts SET balance = balance + ?1 WHERE id = ?2";
    connection.execute(sql, [amount, from]).unwrap();
    connection.execute(sql, [-amount, to]).unwrap();
    assert!(looks_fine_to_sqlite(&connection));
    let finding = verify(&path, SEED, &(200..=200)).unwrap_err();
    assert!(
        matches!(&finding, Finding::Rows { last: 200, tables } if tables.len() == 1
        && tables[0].starts_with("accounts ")),
        "{finding}"
    );
}

#[test]
fn transaction_lost_in_the_middle_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut connection) = database(folder.path(), 99);
    // Only its ledger row is written: nothing else of transaction 100 happened.
    commit(&mut connection, 100, &[]);
    connection.execute("UPDATE ledger SET h = ?1 WHERE seq = 100", [true_link(100)]).unwrap();
    connection.execute("UPDATE head SET h = ?1", [true_link(100)]).unwrap();
    for seq in 101..=150 {
        commit(&mut connection, seq, &transaction(SEED, seq));
    }
    assert!(looks_fine_to_sqlite(&connection));
    let finding = verify(&path, SEED, &(150..=150)).unwrap_err();
    assert!(matches!(finding, Finding::Rows { last: 150, .. }), "{finding}");
}

#[test]
fn transaction_without_its_ledger_row_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, connection) = database(folder.path(), 99);
    for op in transaction(SEED, 100) {
        apply_op(&connection, SEED, 99, &op).unwrap();
    }
    assert!(looks_fine_to_sqlite(&connection));
    let finding = verify(&path, SEED, &(0..=200)).unwrap_err();
    assert!(matches!(finding, Finding::Rows { last: 99, .. }), "{finding}");
}

#[test]
fn ledger_with_a_hole_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut connection) = database(folder.path(), 99);
    commit(&mut connection, 101, &transaction(SEED, 101));
    let finding = verify(&path, SEED, &(0..=200)).unwrap_err();
    assert!(matches!(finding, Finding::LedgerHasHoles { rows: 101, last: 101 }), "{finding}");
}

#[test]
fn transactions_in_another_order_are_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut connection) = database(folder.path(), 99);
    let (first, second) = (transaction(SEED, 101), transaction(SEED, 102));
    commit(&mut connection, 100, &second);
    commit(&mut connection, 101, &first);
    assert!(looks_fine_to_sqlite(&connection));
    let finding = verify(&path, SEED, &(0..=200)).unwrap_err();
    assert!(matches!(finding, Finding::Chain { seq: 100 }), "{finding}");
}

#[test]
fn reordered_transactions_with_a_forged_chain_are_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut connection) = database(folder.path(), 99);
    commit(&mut connection, 100, &transaction(SEED, 101));
    commit(&mut connection, 101, &transaction(SEED, 100));
    for seq in [100, 101] {
        connection.execute("UPDATE ledger SET h = ?1 WHERE seq = ?2", (true_link(seq), seq as i64)).unwrap();
    }
    connection.execute("UPDATE head SET h = ?1", [true_link(101)]).unwrap();
    assert!(looks_fine_to_sqlite(&connection));
    let finding = verify(&path, SEED, &(0..=200)).unwrap_err();
    assert!(matches!(finding, Finding::Rows { last: 101, .. }), "{finding}");
}

#[test]
fn stale_page_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut connection) = database(folder.path(), 300);
    let before = folder.path().join("before.db");
    fs::copy(&path, &before).unwrap();
    for seq in 301..=310 {
        commit(&mut connection, seq, &transaction(SEED, seq));
    }
    connection.close().unwrap();
    let (old, new) = (fs::read(&before).unwrap(), fs::read(&path).unwrap());
    let oracle = Oracle::new(SEED);
    assert_eq!(oracle.verify(&path, &(310..=310)).unwrap(), 310);
    let mut seen_by_sqlite = 0;
    let mut stale = 0;
    // Each changed page in turn keeps what it held before: the lost write of a backup.
    for offset in (0..old.len().min(new.len())).step_by(4096) {
        let (was, is) = (&old[offset..offset + 4096], &new[offset..offset + 4096]);
        // A page that differs in counters of the header only holds no row.
        if was == is || offset == 0 {
            continue;
        }
        let copy = folder.path().join("stale.db");
        fs::write(&copy, &new).unwrap();
        OpenOptions::new().write(true).open(&copy).unwrap().write_all_at(was, offset as u64).unwrap();
        assert!(oracle.verify(&copy, &(310..=310)).is_err(), "stale page at {offset} passed");
        seen_by_sqlite += usize::from(zoo::quick_check(&copy).map_or(true, |answer| answer != "ok"));
        stale += 1;
    }
    assert!(stale > 10, "{stale}");
    assert!(seen_by_sqlite < stale, "quick_check alone would have done");
}

#[test]
fn foreign_log_beside_the_database_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
    set_up(&mut connection, SEED).unwrap();
    (1..=20).for_each(|seq| commit(&mut connection, seq, &transaction(SEED, seq)));
    let restored = folder.path().join("restored.db");
    let other = tempfile::tempdir().unwrap();
    let (earlier, _keep) = database(other.path(), 10);
    fs::copy(&earlier, &restored).unwrap();
    assert_eq!(verify(&restored, SEED, &(10..=10)).unwrap(), 10);
    fs::copy(zoo::sibling(&path, "-wal"), zoo::sibling(&restored, "-wal")).unwrap();
    // SQLite replays the log over the older file and says nothing; here it yields another prefix.
    assert!(verify(&restored, SEED, &(10..=10)).is_err());
}

#[test]
fn prefix_outside_the_bounds_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _connection) = database(folder.path(), 60);
    assert_eq!(verify(&path, SEED, &(55..=65)).unwrap(), 60);
    let early = verify(&path, SEED, &(61..=70)).unwrap_err();
    assert!(
        matches!(early, Finding::OutOfBounds { last: 60, first_allowed: 61, last_allowed: 70 }),
        "{early}"
    );
    assert!(matches!(verify(&path, SEED, &(0..=59)).unwrap_err(), Finding::OutOfBounds { .. }));
}

#[test]
fn wrong_sum_and_missing_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (path, connection) = database(folder.path(), 5);
    connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 3", ()).unwrap();
    assert!(matches!(verify(&path, SEED, &(5..=5)).unwrap_err(), Finding::Sum { .. }));
    let absent = folder.path().join("absent.db");
    assert!(matches!(verify(&absent, SEED, &(5..=5)).unwrap_err(), Finding::Unreadable { .. }));
    assert!(!absent.exists());
}

/// The link that the true history has at `seq`.
fn true_link(seq: u64) -> dbkeep_testkit::oracle::plan::Link {
    let genesis = dbkeep_testkit::oracle::plan::genesis(SEED);
    (1..=seq).fold(genesis, |previous, seq| link(&previous, seq, &transaction(SEED, seq)))
}
