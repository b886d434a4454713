//! kill -9 at every named step: nothing acknowledged is lost, and the next run needs no help.
//!
//! The steps are not listed here: a run with `-vvv` logs each one it passes.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;

use rusqlite::Connection;

use crate::environment::{TestEnvironment, ask};

/// Returns the names of the steps that a run logged.
fn steps(log: &str) -> BTreeSet<String> {
    log.lines()
        .filter_map(|line| {
            line.split_once(" step=").map(|(_, step)| step.split(' ').next().unwrap_or_default().to_owned())
        })
        .collect()
}

/// Runs a line that is to die at a step; says whether it did.
fn dies_at(environment: &TestEnvironment, step: &str, line: &[&str]) -> bool {
    let output = environment.command(line).env("DBKEEP_TEST_KILL_AT", step).output().unwrap();
    output.status.signal() == Some(9)
}

#[test]
fn backup_killed_at_any_step_loses_nothing_and_needs_no_help() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let line = ["backup", "app.db", "--name", "app"];
    let environment = TestEnvironment::new();
    environment.users("app.db", 50);
    let log = environment.ok(["-vvv", "backup", "app.db", "--name", "app"]).stderr;
    let steps = steps(&log);
    assert!(steps.len() >= 3, "{steps:?} in {log}");

    for step in &steps {
        let environment = TestEnvironment::new();
        let path = environment.users("app.db", 50);
        if step.starts_with("init.") {
            assert!(dies_at(&environment, step, &line), "{step} was not reached");
        } else {
            environment.ok(line);
            Connection::open(&path)
                .unwrap()
                .execute_batch("UPDATE users SET name = 'x' WHERE id = 7")
                .unwrap();
            assert!(dies_at(&environment, step, &line), "{step} was not reached");
            let list = environment.ok_json(&["list"]);
            assert!(!list["snapshots"].as_array().unwrap().is_empty(), "after {step}");
        }
        let again = environment.ok_json(&line);
        assert!(
            matches!(again["databases"][0]["status"].as_str(), Some("ok" | "unchanged")),
            "after {step}: {again:#}"
        );
        let check = environment.ok_json(&["check", "--read-data"]);
        assert_eq!(check["ok"], true, "after {step}: {check:#}");
        let verify = environment.ok_json(&["verify", "--all"]);
        assert_eq!(verify["damaged"], 0, "after {step}: {verify:#}");
    }
}

#[test]
fn restore_in_place_killed_at_any_step_leaves_the_old_or_the_new_database() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let prepared = || {
        let environment = TestEnvironment::new();
        let path = environment.users("app.db", 500);
        let snapshot = environment.ok_json(&["backup", "app.db"])["databases"][0]["snapshot"]
            .as_str()
            .unwrap()
            .to_owned();
        Connection::open(&path).unwrap().execute_batch("DELETE FROM users WHERE id > 100").unwrap();
        (environment, path, snapshot)
    };
    let (environment, _, snapshot) = prepared();
    let log = environment.ok(["-vvv", "restore", &snapshot, "--in-place", "--yes"]).stderr;
    let steps = steps(&log);
    assert!(steps.len() >= 3, "{steps:?} in {log}");

    for step in &steps {
        let (environment, path, snapshot) = prepared();
        let line = ["restore", snapshot.as_str(), "--in-place", "--yes"];
        assert!(dies_at(&environment, step, &line), "{step} was not reached");
        assert_eq!(ask::<String>(&path, "PRAGMA integrity_check"), "ok", "after {step}");
        let rows: i64 = ask(&path, "SELECT count(*) FROM users");
        assert!(rows == 100 || rows == 500, "{rows} rows after {step}");
        environment.ok(line);
        assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM users"), 500, "after {step}");
        assert_eq!(environment.ok_json(&["check", "--read-data"])["ok"], true, "after {step}");
    }
}
