//! Locks that one program holds and the other meets.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use dbkeep_repo::Error;
use jiff::Timestamp;

use crate::stock::{Stock, complaint, count};

#[test]
fn our_locks_keep_restic_out_where_its_own_would() {
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_ours();
    std::fs::write(stock.path("file"), b"contents").unwrap();
    let file = stock.path("file").to_str().unwrap().to_owned();

    let exclusive = ours.lock_exclusive(Timestamp::now()).unwrap();
    let output = stock.attempt("secret", &["backup", &file]);
    assert!(complaint(&output).contains("locked exclusively"), "{output:?}");
    let listed = stock.run(&["--no-lock", "list", "locks"]);
    let lock = stock.json(&["--no-lock", "cat", "lock", listed.trim()]);
    assert_eq!(lock["pid"], std::process::id());
    drop(exclusive);

    let shared = ours.lock_shared(Timestamp::now()).unwrap();
    stock.run(&["backup", &file]);
    assert!(complaint(&stock.attempt("secret", &["prune"])).contains("locked"));
    stock.run(&["unlock"]);
    shared.ensure_valid().unwrap();
    stock.run(&["unlock", "--remove-all"]);
    assert!(matches!(shared.ensure_valid(), Err(Error::LockLost)));
    drop(shared);
    stock.run(&["prune"]);
    assert_eq!(count(&stock.repository().join("locks")), 0);
}

#[test]
fn lock_of_restic_keeps_us_out_and_is_never_removed() {
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_theirs();
    let mut restic = stock.start_holding_a_lock();
    ours.lock_shared(Timestamp::now()).unwrap();
    match ours.lock_exclusive(Timestamp::now()) {
        Err(Error::Locked { program, pid, exclusive: false, .. }) => {
            assert_eq!((&*program, pid), ("restic", restic.id()));
        }
        other => panic!("{other:?}"),
    }
    restic.kill().unwrap();
    restic.wait().unwrap();

    // Nothing tells us whether restic runs on another host, so its lock stays.
    let error = stock.open("secret").unwrap().lock_exclusive(Timestamp::now()).unwrap_err();
    assert!(error.hint().unwrap().contains("restic unlock"), "{error:?}");
    stock.run(&["unlock"]);
    ours.lock_exclusive(Timestamp::now()).unwrap();
}

#[test]
fn lock_of_a_killed_dbkeep_stands_in_nobodys_way() {
    // The holder is this test in another process.
    if let Some(password) = std::env::var_os("DBKEEP_TEST_HOLD_IN") {
        let backend = dbkeep_repo::backend::LocalBackend::new(password);
        let passwords = [dbkeep_repo::Secret::from("secret")];
        let repository = dbkeep_repo::Repository::open(std::sync::Arc::new(backend), &passwords).unwrap();
        let _lock = repository.lock_exclusive(Timestamp::now()).unwrap();
        println!("\nholding");
        loop {
            std::thread::park();
        }
    }
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_ours();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "locks::lock_of_a_killed_dbkeep_stands_in_nobodys_way", "--nocapture"])
        .env("DBKEEP_TEST_HOLD_IN", stock.repository())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(holder.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap() == "holding"));
    match ours.lock_shared(Timestamp::now()) {
        Err(Error::Locked { program, pid, .. }) => assert_eq!((&*program, pid), ("dbkeep", holder.id())),
        other => panic!("{other:?}"),
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(count(&stock.repository().join("locks")), 1);

    stock.open("secret").unwrap();
    assert_eq!(count(&stock.repository().join("locks")), 0);
    stock.run(&["check"]);
    ours.lock_exclusive(Timestamp::now()).unwrap();
}
