//! One live business database is protected: set-up in one command, backups while it is used, retention, copies
//! that anyone can verify, and a restore that can be taken back.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;

use crate::environment::{Run, TestEnvironment, ask};
use crate::export::shell;

/// The tables with their rows, as the old system counted them.
const TABLES: [(&str, u64); 5] = [
    ("purchase_orders", 23),
    ("po_lines", 53),
    ("tablet_types", 15),
    ("product_details", 21),
    ("employees", 3),
];

/// Makes the database of about 120 KB, with the application connected to it.
fn application(environment: &TestEnvironment) -> Connection {
    let path = environment.path("tablet_counter.db");
    let connection = Connection::open(path).unwrap();
    for (table, rows) in TABLES {
        connection
            .execute_batch(&format!(
                "CREATE TABLE {table} (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, notes TEXT);
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                 INSERT INTO {table} (name, notes) SELECT '{table} ' || i, printf('%0500d', i) FROM n;"
            ))
            .unwrap();
    }
    connection
}

fn rows(path: &Path) -> Vec<(String, u64)> {
    let count = |table: &str| ask::<i64>(path, &format!("SELECT count(*) FROM {table}"));
    TABLES.iter().map(|(table, _)| ((*table).to_owned(), count(table).unsigned_abs())).collect()
}

fn expected() -> Vec<(String, u64)> {
    TABLES.iter().map(|(table, rows)| ((*table).to_owned(), *rows)).collect()
}

/// Runs a command as if it were this time.
#[track_caller]
fn at(environment: &TestEnvironment, now: &str, line: &[&str]) -> Value {
    let mut command = environment.command(std::iter::once("--json").chain(line.iter().copied()));
    command.env("DBKEEP_TEST_NOW", now);
    let run = Run::of(command);
    run.expect(0);
    run.document()
}

#[test]
fn set_up_in_one_command_then_backup_status_list_and_emergency_restore() {
    let environment = TestEnvironment::new();
    let connection = application(&environment);
    fs::write(environment.path(".gitignore"), "*.pyc\n").unwrap();

    // Directories, configuration, the entry for git, and the first backup.
    let setup = environment.ok_json(&["init", "--setup"]);
    assert_eq!(setup["backup"]["databases"][0]["name"], "tablet_counter");
    let ignored = fs::read_to_string(environment.path(".gitignore")).unwrap();
    assert_eq!(ignored, "*.pyc\n/backups/\n");
    assert!(environment.path("dbkeep.toml").exists());

    // Safe during use: a reader and a writer are in the middle of something.
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    connection.execute("INSERT INTO employees (name) VALUES ('Nina')", []).unwrap();
    let reader = Connection::open(environment.path("tablet_counter.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM employees;").unwrap();
    connection.execute_batch("BEGIN; INSERT INTO employees (name) VALUES ('not committed')").unwrap();
    let report = environment.ok_json(&["backup"]);
    let database = &report["databases"][0];
    assert_eq!((&database["status"], &database["integrity"]), (&"ok".into(), &"ok".into()));
    connection.execute_batch("ROLLBACK").unwrap();
    drop(reader);
    let counted: Vec<(String, u64)> = database["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| (table["name"].as_str().unwrap().to_owned(), table["rows"].as_u64().unwrap()))
        .filter(|(table, _)| table != "sqlite_sequence")
        .collect();
    let mut with_nina = expected();
    with_nina.last_mut().unwrap().1 = 4;
    with_nina.sort();
    assert_eq!(counted, with_nina);
    assert!(report["totals"]["ratio"].as_f64().unwrap() > 0.9, "{report:#}");

    // Status and list.
    let status = environment.ok_json(&["status"]);
    assert_eq!(status["databases"][0]["snapshots"], 2);
    assert_eq!(status["problems"], serde_json::json!([]));
    let list = environment.ok_json(&["list"]);
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 2);

    // The emergency: the newest backup into its place, with a safety backup, verified afterwards.
    connection.execute_batch("DELETE FROM purchase_orders; DROP TABLE tablet_types;").unwrap();
    environment.run(["restore", "latest", "--in-place"]).expect_failure(2, "needs a confirmation", "--yes");
    let restored = environment.ok_json(&["restore", "latest", "--in-place", "--yes"]);
    assert_eq!((&restored["verified"], &restored["integrity"]), (&true.into(), &"ok".into()));
    let mut found = rows(&environment.path("tablet_counter.db"));
    found.sort();
    assert_eq!(found, with_nina);

    // The restore itself is rolled back.
    let safety = restored["safety_snapshot"].as_str().unwrap();
    environment.ok_json(&["restore", safety, "--in-place", "--yes"]);
    let path = environment.path("tablet_counter.db");
    assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM purchase_orders"), 0);
    assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM sqlite_schema WHERE name = 'tablet_types'"), 0);
    environment.ok_json(&["restore", "latest~1", "--in-place", "--yes"]);
    assert_eq!(rows(&path), expected());
    environment.ok(["check", "--read-data"]);
}

#[test]
fn year_of_backups_keeps_24_hours_30_days_12_weeks_24_months_and_10_years() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let environment = TestEnvironment::new();
    let connection = application(&environment);
    // The first of each month, two of them with a later backup, a fortnight of days, and hours over midnight.
    let mut times: Vec<String> = (1..=12).map(|month| format!("2024-{month:02}-01T04:00:00")).collect();
    times.extend((1..=10).map(|month| format!("2025-{month:02}-01T04:00:00")));
    times.extend(["2024-03-10T04:00:00", "2024-05-10T04:00:00"].map(str::to_owned));
    times.extend((1..=14).map(|day| format!("2025-11-{day:02}T02:00:00")));
    times.extend((18..24).map(|hour| format!("2025-11-14T{hour}:00:00")));
    times.extend((0..24).map(|hour| format!("2025-11-15T{hour:02}:00:00")));
    times.sort();
    for (number, time) in times.iter().enumerate() {
        connection.execute("UPDATE employees SET notes = ?1 WHERE id = 1", [number as i64]).unwrap();
        at(&environment, &format!("{time}Z"), &["backup", "tablet_counter.db"]);
    }
    let policy = [
        "forget",
        "--keep-hourly",
        "24",
        "--keep-daily",
        "30",
        "--keep-weekly",
        "12",
        "--keep-monthly",
        "24",
        "--keep-yearly",
        "10",
    ];
    let now = "2025-11-15T23:30:00Z";
    let dry: Vec<&str> = policy.iter().copied().chain(["--dry-run"]).collect();
    let planned = at(&environment, now, &dry);
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), times.len());
    let report = at(&environment, now, &policy);
    assert_eq!((&report["kept"], &report["forgotten"]), (&planned["kept"], &planned["forgotten"]));
    // The clock of a test goes on: on a busy machine the first backup, which makes the key, is a second late.
    let minutes = |rows: &Value| -> Vec<String> {
        let times = rows.as_array().unwrap().iter().map(|one| one["time"].as_str().unwrap()[..16].to_owned());
        let mut times: Vec<String> = times.collect();
        times.sort();
        times
    };
    // The last 24 hours stay, and of each earlier day and month the newest: all else goes.
    let gone = [
        "2024-03-01T04:00",
        "2024-05-01T04:00",
        "2025-11-14T02:00",
        "2025-11-14T18:00",
        "2025-11-14T19:00",
        "2025-11-14T20:00",
        "2025-11-14T21:00",
        "2025-11-14T22:00",
    ];
    assert_eq!(minutes(&report["forgotten"]), gone);
    times.iter_mut().for_each(|time| time.truncate(16));
    times.retain(|time| !gone.contains(&time.as_str()));
    assert_eq!(minutes(&environment.ok_json(&["list"])["snapshots"]), times);
    // What is left restores to its own moment.
    environment.ok_json(&["restore", "--at", "2024-03-15", "--to", "march.db"]);
    assert_eq!(ask::<String>(&environment.path("march.db"), "SELECT notes FROM employees WHERE id = 1"), "3");
}

/// Three places, each with a key and a policy of its own: the old system's numbers, days only, months and years only.
const PLACES: &str = "\
[repository]
location = \"backups/primary\"

[retention]
hourly = 24
daily = 30
weekly = 12
monthly = 24
yearly = 10
within = \"0d\"

[databases.tablet_counter]
sqlite = \"tablet_counter.db\"

[[copies]]
name = \"secondary\"
location = \"backups/secondary\"
password-file = \"secondary.key\"
retention = { hourly = 0, daily = 3, weekly = 0 }

[[copies]]
name = \"archive\"
location = \"backups/archive\"
password-file = \"archive.key\"
retention = { hourly = 0, daily = 0, weekly = 0 }
";

#[test]
fn primary_secondary_and_archive_keep_their_own_and_each_brings_the_database_back() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let environment = TestEnvironment::new();
    let connection = application(&environment);
    fs::write(environment.path("dbkeep.toml"), PLACES).unwrap();
    fs::write(environment.path("secondary.key"), "of the second disk\n").unwrap();
    fs::write(environment.path("archive.key"), "of the third disk\n").unwrap();
    let months = ["2024-11", "2024-12", "2025-01", "2025-02"].map(|month| format!("{month}-01T04"));
    let days = (10..=13).map(|day| format!("2025-02-{day}T02"));
    let hours = (0..24).map(|hour| format!("2025-02-14T{hour:02}"));
    let last_hours = (0..4).map(|hour| format!("2025-02-15T{hour:02}"));
    let times: Vec<String> = months.into_iter().chain(days).chain(hours).chain(last_hours).collect();
    for (number, time) in times.iter().enumerate() {
        connection.execute("UPDATE employees SET notes = ?1 WHERE id = 1", [number as i64]).unwrap();
        let report = at(&environment, &format!("{time}:00:00Z"), &["backup"]);
        assert_eq!((&report["copies"][0]["copied"], &report["copies"][1]["copied"]), (&1.into(), &1.into()));
        // The machine has not run for as long as the clock of this test says.
        at(&environment, &format!("{time}:10:00Z"), &["forget", "--accept"]);
    }
    let left = |place: &str, key: &str| -> Vec<String> {
        let list = environment.ok_json(&["--repo", place, "--password-file", key, "list"]);
        let times = list["snapshots"].as_array().unwrap().iter();
        let mut times: Vec<String> =
            times.map(|one| one["time"].as_str().unwrap()[..13].to_owned()).collect();
        times.sort();
        times
    };
    let gone = ["2025-02-14T00", "2025-02-14T01", "2025-02-14T02", "2025-02-14T03"];
    let stay: Vec<&String> = times.iter().filter(|time| !gone.contains(&time.as_str())).collect();
    assert_eq!(left("backups/primary", "../password").iter().collect::<Vec<_>>(), stay);
    let earlier = ["2024-11-01T04", "2024-12-01T04", "2025-01-01T04"];
    let in_secondary = [&earlier[..], &["2025-02-13T02", "2025-02-14T23", "2025-02-15T03"]].concat();
    assert_eq!(left("backups/secondary", "secondary.key"), in_secondary);
    assert_eq!(left("backups/archive", "archive.key"), [&earlier[..], &["2025-02-15T03"]].concat());
    // What a place has dropped by its policy is not missed there.
    let status = environment.ok_json(&["status"]);
    for copy in status["copies"].as_array().unwrap() {
        assert_eq!((&copy["behind"], &copy["problems"]), (&0.into(), &serde_json::json!([])), "{copy:#}");
    }
    for (place, key) in
        [("primary", "../password"), ("secondary", "secondary.key"), ("archive", "archive.key")]
    {
        let repository = format!("backups/{place}");
        environment.ok(["--repo", &repository, "--password-file", key, "verify", "--all"]);
        environment.ok(["--repo", &repository, "--password-file", key, "check", "--read-data"]);
    }

    // One disk after the other is lost.
    let number = |file: &str| -> String {
        assert_eq!(rows(&environment.path(file)), expected());
        ask(&environment.path(file), "SELECT notes FROM employees WHERE id = 1")
    };
    fs::remove_dir_all(environment.path("backups/primary")).unwrap();
    let report = environment.ok_json(&["restore", "latest", "--to", "newest.db"]);
    assert_eq!((&report["copy"], number("newest.db")), (&"secondary".into(), (times.len() - 1).to_string()));
    let report = environment.ok_json(&["restore", "--at", "2025-02-14T00:30:00Z", "--to", "day.db"]);
    let moment = report["moment"].as_str().unwrap();
    assert_eq!((&moment[..13], number("day.db")), ("2025-02-13T02", "7".to_owned()));
    fs::remove_dir_all(environment.path("backups/secondary")).unwrap();
    let report = environment.ok_json(&["restore", "--at", "2024-12-20", "--to", "december.db"]);
    assert_eq!((&report["copy"], number("december.db")), (&"archive".into(), "1".to_owned()));
}

#[test]
fn compressed_copy_with_checksum_and_metadata_leaves_for_the_archive() {
    let environment = TestEnvironment::new();
    let connection = application(&environment);
    connection.execute_batch("VACUUM").unwrap();
    let report = environment.ok_json(&["backup", "tablet_counter.db", "--verify", "full"]);
    let session = report["session"].as_str().unwrap();
    environment.ok_json(&["export", "latest", "--out", "archive", "--format", "gzip"]);
    let archive = environment.path("archive");
    let name = format!("tablet_counter_{session}.db.gz");
    let (packed, size) = (
        fs::metadata(archive.join(&name)).unwrap().len(),
        report["databases"][0]["bytes_source"].as_u64().unwrap(),
    );
    assert!(packed * 10 < size, "{packed} of {size}: they saved 95 %");
    shell(&archive, "sha256sum --strict -c *.sha256 && gunzip --keep *.gz");
    assert_eq!(rows(&archive.join(format!("tablet_counter_{session}.db"))), expected());
    let verified = environment.ok_json(&["verify", archive.join(&name).to_str().unwrap()]);
    let one = &verified["checked"][0];
    assert_eq!((&one["checksum"], &one["integrity"]), (&"ok".into(), &"ok".into()));
    assert_eq!(one["database"], "tablet_counter");
    // Metadata of every backup: what, when, who, how large, which checks.
    let manifest = environment.ok_json(&["show", "latest"]);
    for key in ["session", "moment", "user", "tables", "rows", "integrity", "image"] {
        assert!(!manifest[key].is_null(), "{key}");
    }
    assert_eq!(manifest["integrity"]["level"], "full");
}
