//! Five SQLite databases are backed up before they move to another engine, and come back.

use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;

use crate::environment::TestEnvironment;
use crate::export::shell;

/// Each database with its tables and how many rows they have, as the old system counted them.
const DATABASES: [(&str, &[(&str, u64)]); 5] = [
    (
        "mingus",
        &[
            ("health_spending_correlations", 1),
            ("onboarding_progress", 2),
            ("user_health_checkins", 2),
            ("user_profiles", 3),
            ("users", 3),
        ],
    ),
    (
        "business_intelligence",
        &[
            ("feature_usage", 0),
            ("roi_metrics", 0),
            ("score_accuracy", 0),
            ("sqlite_sequence", 1),
            ("user_feedback", 0),
            ("user_journey", 0),
            ("user_metrics", 5),
        ],
    ),
    ("cache", &[("cache_entries", 0)]),
    (
        "performance_metrics",
        &[
            ("api_metrics", 0),
            ("database_metrics", 0),
            ("score_metrics", 0),
            ("sqlite_sequence", 0),
            ("user_engagement", 0),
        ],
    ),
    ("alerts", &[("alert_channels", 3), ("alert_rules", 5), ("alerts", 0), ("sqlite_sequence", 2)]),
];

#[test]
fn session_over_five_databases_is_reported_verified_rolled_back_and_rehearsed() {
    let environment = TestEnvironment::new();
    let mut arguments = vec!["backup".to_owned(), "--reason".to_owned(), "pre-migration".to_owned()];
    for (name, tables) in DATABASES {
        make(&environment, name, tables);
        arguments.push(format!("{name}.db"));
    }
    arguments.extend(["--at-once", "--verify", "full", "--report", "backup_report.json"].map(str::to_owned));
    let before: Vec<String> =
        DATABASES.iter().map(|(name, _)| dump(&environment.path(&format!("{name}.db")))).collect();

    // A session id; per database status, tables, rows, sizes, integrity; totals; the ratio.
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = environment.ok_json(&arguments);
    let session = report["session"].as_str().unwrap();
    let shape: String = session.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "99999999_999999");
    assert_eq!(report["totals"]["databases"], 5);
    assert_eq!(report["totals"]["rows"], 27);
    let size: u64 =
        report["databases"].as_array().unwrap().iter().map(|one| one["bytes_source"].as_u64().unwrap()).sum();
    assert_eq!(report["totals"]["bytes_source"], size);
    let ratio = report["totals"]["ratio"].as_f64().unwrap();
    assert!(ratio > 0.8 && ratio < 1.0, "small databases are mostly air: {ratio}");
    for ((name, tables), database) in DATABASES.iter().zip(report["databases"].as_array().unwrap()) {
        assert_eq!(database["name"], *name);
        assert_eq!(database["status"], "ok");
        assert_eq!(database["integrity"], "ok");
        let expected: Vec<Value> =
            tables.iter().map(|(table, rows)| serde_json::json!({ "name": table, "rows": rows })).collect();
        assert_eq!(database["tables"], Value::Array(expected), "{name}");
        assert_eq!(database["rows"], tables.iter().map(|(_, rows)| rows).sum::<u64>(), "{name}");
    }
    let written: Value =
        serde_json::from_slice(&std::fs::read(environment.path("backup_report.json")).unwrap()).unwrap();
    assert_eq!(written, report);

    // What is stored is verified against the original's hashes and counts.
    let verify = environment.ok_json(&["verify", "--session", session]);
    assert_eq!((&verify["ok"], &verify["damaged"]), (&5.into(), &0.into()));

    // The directory that anyone can read, as the old system left it, and its facts.
    environment.ok_json(&["export", "--session", session, "--out", "database_backups"]);
    readable_directory(&environment, session);

    // The migration is rehearsed on a copy.
    environment.ok_json(&["restore", "--session", session, "--to", "rehearsal"]);
    for ((name, _), before) in DATABASES.iter().zip(&before) {
        let copy = environment.path("rehearsal").join(format!("{name}.db"));
        assert_eq!(&dump(&copy), before, "{name}");
    }

    // The migration goes wrong, and the session is rolled back, each database in its place.
    for (name, tables) in DATABASES {
        let connection = Connection::open(environment.path(&format!("{name}.db"))).unwrap();
        connection.execute_batch("CREATE TABLE half_done (x); INSERT INTO half_done VALUES (1);").unwrap();
        let moved = if tables.len() > 1 { "DROP TABLE" } else { "DELETE FROM" };
        connection.execute_batch(&format!("{moved} \"{}\";", tables[0].0)).unwrap();
    }
    let rolled_back = environment.ok_json(&["restore", "--session", session, "--in-place", "--yes"]);
    assert_eq!(rolled_back["status"], "ok");
    for ((name, _), before) in DATABASES.iter().zip(&before) {
        assert_eq!(&dump(&environment.path(&format!("{name}.db"))), before, "{name}");
    }
    environment.ok(["check", "--read-data"]);

    // Old backups are cleaned up: of each database the last one stays.
    environment.ok_json(&arguments[..arguments.len() - 2]);
    let cleaned = environment.ok_json(&["clean", "1"]);
    assert_eq!(cleaned["forgotten"].as_array().unwrap().len(), 5, "{cleaned:#}");
    let verify = environment.ok_json(&["verify", "--all"]);
    assert_eq!(verify["damaged"], 0);
}

#[test]
fn migration_that_fails_at_the_third_database_takes_all_five_back() {
    if !crate::guard::has("sqlite3") {
        return;
    }
    let environment = TestEnvironment::new();
    let mut sources = Vec::new();
    for (name, tables) in DATABASES {
        make(&environment, name, tables);
        sources.push(format!("{name}.db"));
    }
    let contents = || -> Vec<String> {
        DATABASES.iter().map(|(name, _)| dump(&environment.path(&format!("{name}.db")))).collect()
    };
    let before = contents();
    let migrate = "set -e; for name in mingus business_intelligence alerts nothing_else; do \
                   test $name != nothing_else; \
                   sqlite3 -bail $name.db 'CREATE TABLE migrated (x); PRAGMA user_version = 2'; done";
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let line = [&["guard"][..], &sources, &["--", "sh", "-c", migrate]].concat();
    let (code, report) = environment.json(&line);
    assert_eq!((code, &report["outcome"]), (Some(1), &"restored".into()), "{report:#}");
    assert_eq!(contents(), before);
    let status = |name: &str| {
        let all = report["databases"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["status"].clone()
    };
    assert_eq!(
        (status("mingus"), status("alerts"), status("cache")),
        ("restored".into(), "restored".into(), "unchanged".into())
    );
    // One session goes back to before, and what failed is kept too.
    let session = report["session"].as_str().unwrap();
    let verify = environment.ok_json(&["verify", "--session", session]);
    assert_eq!((&verify["ok"], &verify["damaged"]), (&5.into(), &0.into()));
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 8);
}

/// Expects `backup_<session>/` with a compressed copy of each database, that stock tools can check and read, and a
/// manifest and a report that say of each what the old system said.
fn readable_directory(environment: &TestEnvironment, session: &str) {
    let bundle = environment.path("database_backups").join(format!("backup_{session}"));
    shell(&bundle, "sha256sum --strict -c SHA256SUMS");
    shell(&bundle.join("databases"), "sha256sum --strict -c *.sha256 && gzip -t *.gz && gunzip --keep *.gz");
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(bundle.join(name)).unwrap()).unwrap() };
    let manifest = read("manifests/backup_manifest.json");
    let report = read("backup_report.json");
    let summary = &manifest["summary"];
    assert_eq!((&summary["total_databases"], &summary["successful_backups"]), (&5.into(), &5.into()));
    assert_eq!((&summary["failed_backups"], &summary["total_records"]), (&0.into(), &27.into()));
    let saved = summary["space_saved"].as_f64().unwrap();
    // They reported 96.5 % of their databases.
    assert!(saved > 0.9 && saved < 1.0, "{saved}");
    assert_eq!(manifest["backup_session"], session);
    for (name, tables) in DATABASES {
        let rows: u64 = tables.iter().map(|(_, rows)| rows).sum();
        let names: Vec<&str> = tables.iter().map(|(table, _)| *table).collect();
        let one = &manifest["databases"][name];
        assert_eq!((&one["success"], &one["integrity_check"]), (&true.into(), &true.into()), "{name}");
        assert_eq!(
            (&one["tables"], &one["total_records"]),
            (&serde_json::json!(names), &rows.into()),
            "{name}"
        );
        let counts: serde_json::Map<String, Value> =
            tables.iter().map(|(table, rows)| ((*table).to_owned(), (*rows).into())).collect();
        assert_eq!(one["table_record_counts"], Value::Object(counts), "{name}");
        let file = format!("databases/{name}_{session}.db.gz");
        assert_eq!(one["backup_path"], format!("backup_{session}/{file}"));
        let packed = std::fs::metadata(bundle.join(&file)).unwrap().len();
        assert_eq!(one["backup_size_bytes"], packed, "{name}");
        let info = &report["databases"][name]["database_info"];
        assert_eq!(
            (&info["table_count"], &info["total_records"]),
            (&names.len().into(), &rows.into()),
            "{name}"
        );
        // The copy is the original.
        let copy = bundle.join(format!("databases/{name}_{session}.db"));
        assert_eq!(dump(&copy), dump(&environment.path(&format!("{name}.db"))), "{name}");
        assert_eq!(one["original_size_bytes"], std::fs::metadata(&copy).unwrap().len());
        std::fs::remove_file(copy).unwrap();
    }
    let log = std::fs::read_to_string(bundle.join("logs/backup.log")).unwrap();
    assert!(log.contains("event=table database=alerts table=alert_rules rows=5"), "{log}");
    // The whole is verified again, with no repository.
    let verified = environment.ok_json(&["verify", bundle.to_str().unwrap()]);
    assert_eq!((&verified["ok"], &verified["damaged"]), (&5.into(), &0.into()), "{verified:#}");
}

/// Makes a database with these tables and rows.
fn make(environment: &TestEnvironment, name: &str, tables: &[(&str, u64)]) {
    let counted = tables.iter().any(|(table, _)| *table == "sqlite_sequence");
    let key = if counted { "INTEGER PRIMARY KEY AUTOINCREMENT" } else { "INTEGER PRIMARY KEY" };
    let mut sql = "PRAGMA journal_mode = WAL;".to_owned();
    for (table, rows) in tables.iter().filter(|(table, _)| *table != "sqlite_sequence") {
        sql += &format!("CREATE TABLE \"{table}\" (id {key}, word TEXT);");
        for row in 0..*rows {
            sql += &format!("INSERT INTO \"{table}\" (word) VALUES ('{table} {row}');");
        }
    }
    environment.database(&format!("{name}.db"), &sql);
}

/// Returns everything a database says when asked: its schema, and every row of every table.
fn dump(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    let mut text = String::new();
    let mut schema =
        connection.prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY name").unwrap();
    let entries: Vec<(String, String, String)> = schema
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for (kind, name, sql) in entries {
        text += &format!("{kind} {name} {sql}\n");
        if kind == "table" {
            let mut rows = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let width = rows.column_count();
            let mut rows = rows.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                for column in 0..width {
                    text += &format!("{:?};", row.get_ref(column).unwrap());
                }
                text.push('\n');
            }
        }
    }
    text
}
