//! The policy that is carried out by itself: what it keeps, what makes it stop, and that restic's rules keep the same.

use std::collections::BTreeSet;

use dbkeep_testkit::restic::{Restic, SKIPPED};
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::Value;

use crate::environment::{Run, TestEnvironment};

const START: &str = "2026-01-05T10:00:00Z";

/// Returns the moment so many hours after the start.
fn at(hours: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
}

/// Runs a command as if it were `now`.
fn run_at(environment: &TestEnvironment, now: Timestamp, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = environment.command(std::iter::once("--json").chain(arguments.iter().copied()));
    command.env("DBKEEP_TEST_NOW", now.to_string());
    let run = Run::of(command);
    (run.code, run.document())
}

/// Takes a backup and returns the snapshot's id.
#[track_caller]
fn back_up_at(environment: &TestEnvironment, now: Timestamp, more: &[&str]) -> String {
    let (code, report) = run_at(environment, now, &[&["backup", "app.db"], more].concat());
    assert!(matches!(code, Some(0 | 4)), "{report:#}");
    report["databases"][0]["snapshot"].as_str().unwrap().to_owned()
}

fn ids(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn configure(environment: &TestEnvironment, retention: &str) {
    let others = "hourly = 0\ndaily = 0\nweekly = 0\nmonthly = 0\nyearly = 0\n";
    std::fs::write(environment.path("dbkeep.toml"), format!("[retention]\n{others}{retention}\n")).unwrap();
}

fn execute(environment: &TestEnvironment, sql: &str) {
    Connection::open(environment.path("app.db")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn default_policy_keeps_two_weeks_whole_and_thins_out_what_is_older() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 4);
    // Four a day for ten days, then a month of one every two days.
    for quarter in 0..40 {
        back_up_at(&environment, at(quarter * 6), &[]);
    }
    for day in 0..15 {
        back_up_at(&environment, at(240 + day * 48), &[]);
    }
    let (code, plan) = run_at(&environment, at(240 + 720), &["forget", "--dry-run"]);
    assert_eq!((code, plan["refused"].as_array().unwrap().len()), (Some(1), 23), "{plan:#}");
    assert_eq!(plan["frozen"][0]["why"], "23 of its 55 snapshots would go at once, more than a fifth");
    // The 15 newest and 9 more are the last hours that have any; of the ten days before, 8 more stand for theirs.
    let (code, done) = run_at(&environment, at(240 + 720), &["forget", "--accept"]);
    assert_eq!(code, Some(0), "{done:#}");
    assert_eq!((ids(&done["forgotten"]).len(), ids(&done["kept"]).len()), (23, 32));
    let (code, again) = run_at(&environment, at(240 + 721), &["forget"]);
    assert_eq!((code, &again["forgotten"]), (Some(0), &serde_json::json!([])));
    environment.ok(["check"]);
}

#[test]
fn policy_leaves_a_database_alone_that_lost_half_until_that_is_accepted() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 100);
    configure(&environment, "last = 3\nwithin = '0d'");
    let first = back_up_at(&environment, at(0), &[]);
    execute(&environment, "DELETE FROM users WHERE id > 40");
    let (_, report) = run_at(&environment, at(1), &["backup", "app.db"]);
    let notes = report["databases"][0]["notes"].to_string();
    assert!(notes.contains("its rows fell from 100 to 40") && notes.contains("--accept"), "{notes}");
    for hour in 2..4 {
        back_up_at(&environment, at(hour), &[]);
    }

    let (code, refused) = run_at(&environment, at(5), &["forget"]);
    assert_eq!(code, Some(1), "{refused:#}");
    assert_eq!(ids(&refused["refused"]), BTreeSet::from([first.clone()]));
    assert!(refused["error"]["hint"].as_str().unwrap().contains("--accept"), "{refused:#}");
    let status = environment.ok(["status"]).stdout;
    assert!(status.contains("its rows fell by half or more"), "{status}");
    // What a person asks for by hand is done.
    let (_, by_hand) = run_at(&environment, at(5), &["forget", "--keep-last", "3", "--dry-run"]);
    assert_eq!(ids(&by_hand["forgotten"]), BTreeSet::from([first.clone()]));

    let (code, planned) = run_at(&environment, at(6), &["forget", "--accept", "--dry-run"]);
    assert_eq!((code, ids(&planned["forgotten"])), (Some(0), BTreeSet::from([first.clone()])));
    assert_eq!(run_at(&environment, at(6), &["forget"]).0, Some(1), "a dry run accepts nothing");
    let (code, done) = run_at(&environment, at(6), &["forget", "--accept"]);
    assert_eq!((code, ids(&done["forgotten"])), (Some(0), BTreeSet::from([first])));
    // What was accepted stays so, and what looks wrong later does not count as that.
    back_up_at(&environment, at(7), &[]);
    assert_eq!(run_at(&environment, at(8), &["forget"]).0, Some(0));
    execute(&environment, "DROP TABLE users; VACUUM");
    back_up_at(&environment, at(9), &[]);
    assert_eq!(run_at(&environment, at(9), &["forget"]).0, Some(1));
    assert!(!environment.ok(["status"]).stdout.contains("nothing is wrong"));
}

#[test]
fn policy_waits_while_the_clock_cannot_be_right() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 4);
    configure(&environment, "last = 2\nwithin = '0d'");
    for hour in 0..3 {
        back_up_at(&environment, at(hour), &[]);
    }
    let refused = |now: Timestamp, what: &str| {
        let (code, document) = run_at(&environment, now, &["forget"]);
        assert_eq!(code, Some(1), "{document:#}");
        let error = &document["error"];
        assert!(error["message"].as_str().unwrap().contains(what), "{error:#}");
        assert!(error["hint"].as_str().unwrap().contains("--accept"), "{error:#}");
    };
    refused(at(1), "before the newest snapshot");
    assert_eq!(ids(&run_at(&environment, at(3), &["forget"]).1["forgotten"]).len(), 1);

    back_up_at(&environment, at(4), &[]);
    // The machine has run for moments since the last run, and the clock says a month.
    refused(at(30 * 24), "jumped by more than a day");
    refused(at(5), "jumped by more than a day");
    let (code, done) = run_at(&environment, at(5), &["forget", "--accept"]);
    assert_eq!((code, ids(&done["forgotten"]).len()), (Some(0), 1), "{done:#}");
    assert_eq!(run_at(&environment, at(6), &["forget"]).0, Some(0));
}

#[test]
fn whoever_accepts_the_clock_has_accepted_nothing_else() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 100);
    configure(&environment, "last = 1\nwithin = '0d'");
    back_up_at(&environment, at(0), &[]);
    assert_eq!(run_at(&environment, at(0), &["forget"]).0, Some(0));
    execute(&environment, "DELETE FROM users");
    back_up_at(&environment, at(48), &[]);
    let (code, document) = run_at(&environment, at(48), &["forget", "--accept"]);
    assert_eq!((code, &document["frozen"][0]["database"]), (Some(1), &"app".into()), "{document:#}");
    let status = environment.ok(["status"]).stdout;
    assert!(status.contains("--accept --database app") && !status.contains("clock"), "{status}");
    let (code, document) = run_at(&environment, at(48), &["forget", "--accept", "--database", "app"]);
    assert_eq!((code, document["forgotten"].as_array().unwrap().len()), (Some(0), 1), "{document:#}");
}

#[test]
fn damaged_source_freezes_its_own_database_and_no_other() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 2_000);
    environment.users("other.db", 4);
    configure(&environment, "last = 1\nwithin = '0d'");
    back_up_at(&environment, at(0), &[]);
    for hour in 0..2 {
        run_at(&environment, at(hour), &["backup", "other.db"]);
    }
    execute(&environment, "PRAGMA wal_checkpoint(TRUNCATE)");
    let mut bytes = std::fs::read(environment.path("app.db")).unwrap();
    bytes[4096 * 2..][..64].fill(0xff);
    std::fs::write(environment.path("app.db"), bytes).unwrap();
    let (code, report) = run_at(&environment, at(2), &["backup", "app.db"]);
    assert_eq!((code, &report["databases"][0]["status"]), (Some(4), &"corrupt".into()));

    let (code, done) = run_at(&environment, at(3), &["forget"]);
    assert_eq!(code, Some(4), "{done:#}");
    assert_eq!(
        (done["forgotten"].as_array().unwrap().len(), &done["forgotten"][0]["database"]),
        (1, &"other".into())
    );
    assert_eq!(
        (&done["frozen"][0]["database"], done["frozen"].as_array().unwrap().len()),
        (&"app".into(), 1)
    );
}

#[test]
fn restic_keeps_the_same_snapshots_by_the_same_rules() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 4);
    // Dense at the end, thin before, over more than four years; every ninth is tagged.
    let mut hours: Vec<i64> = (0..40).map(|number| number * 950).collect();
    hours.extend((0..40).map(|number| 38_000 + number * 13));
    hours.extend((0..30).map(|number| 38_600 + number / 3));
    for (number, &hour) in hours.iter().enumerate() {
        let now = at(hour) + SignedDuration::from_mins(number as i64 % 3 * 17);
        let tag: &[&str] = if number % 9 == 0 { &["--tag", "release"] } else { &[] };
        back_up_at(&environment, now, tag);
    }
    let Some(restic) = Restic::find(environment.path("backups"), "correct horse") else {
        println!("{SKIPPED}");
        return;
    };
    let now = at(*hours.last().unwrap() + 1);
    for policy in [
        &["--keep-last", "7"] as &[&str],
        &["--keep-hourly", "6"],
        &["--keep-daily", "9"],
        &["--keep-weekly", "12"],
        &["--keep-monthly", "20"],
        &["--keep-yearly", "4"],
        &["--keep-tag", "release", "--keep-last", "1"],
        &[
            "--keep-last",
            "3",
            "--keep-hourly",
            "8",
            "--keep-daily",
            "10",
            "--keep-weekly",
            "6",
            "--keep-monthly",
            "12",
        ],
    ] {
        let (code, ours) = run_at(&environment, now, &[&["forget", "--dry-run"], policy].concat());
        assert_eq!(code, Some(0), "{ours:#}");
        let theirs = [&["forget", "--dry-run", "--json", "--no-lock"], policy].concat();
        let theirs: Value = serde_json::from_slice(&restic.success(theirs)).unwrap();
        assert_eq!(ids(&ours["kept"]), ids(&theirs[0]["keep"]), "{policy:?}");
        assert_eq!(ids(&ours["forgotten"]), ids(&theirs[0]["remove"]), "{policy:?}");
    }
}
