//! `verify FILE`: exports of ours, and archives as backup scripts wrote them, sound and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::environment::TestEnvironment;
use crate::export::shell;

const FORMATS: [&str; 8] = ["bundle", "db", "gzip", "tar.gz", "sql", "json", "ndjson", "csv"];

/// Backs up a database with a few kinds of values and exports it; returns what was exported.
fn exported(environment: &TestEnvironment, format: &str) -> PathBuf {
    let out = environment.path(&format!("out-{format}"));
    let report =
        environment.ok_json(&["export", "latest", "--out", out.to_str().unwrap(), "--format", format]);
    let first = report["files"][0]["path"].as_str().unwrap();
    out.join(first.split('/').next().unwrap())
}

fn with_backup() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.database(
        "app.db",
        "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, picture BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO users SELECT i, 'user \"' || i || '\"', zeroblob(i % 7) FROM n;
         CREATE TABLE empty(a); CREATE INDEX by_name ON users(name);",
    );
    environment.ok(["backup", "app.db"]);
    environment
}

/// Verifies a path; returns the exit code and the report.
fn verify(environment: &TestEnvironment, path: &Path) -> (Option<i32>, Value) {
    environment.json(&["verify", path.to_str().unwrap()])
}

#[test]
fn every_export_is_read_back_with_its_tables_and_rows() {
    let environment = with_backup();
    let snapshot = environment.ok_json(&["list"])["snapshots"][0]["id"].clone();
    for format in FORMATS {
        let path = exported(&environment, format);
        let (code, report) = verify(&environment, &path);
        assert_eq!(code, Some(0), "{format}: {report:#}");
        assert_eq!((&report["ok"], &report["damaged"]), (&1.into(), &0.into()), "{format}: {report:#}");
        let one = &report["checked"][0];
        assert_eq!((&one["database"], &one["status"]), (&"app".into(), &"ok".into()), "{format}: {report:#}");
        assert_eq!((&one["rows"], &one["checksum"]), (&200.into(), &"ok".into()), "{format}: {report:#}");
        let mut tables: Vec<(&str, u64)> = one["tables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|table| (table["name"].as_str().unwrap(), table["rows"].as_u64().unwrap()))
            .collect();
        tables.sort_unstable();
        assert_eq!(tables, [("empty", 0), ("users", 200)], "{format}");
        let is_image = ["bundle", "db", "gzip", "tar.gz"].contains(&format);
        assert_eq!(one["integrity"], if is_image || format == "sql" { "ok" } else { "not run" }, "{format}");
        assert_eq!(one["cannot_hold"].as_array().unwrap().is_empty(), is_image, "{format}: {report:#}");
        let knows_snapshot = !["db", "gzip"].contains(&format);
        assert_eq!(one["snapshot"], if knows_snapshot { snapshot.clone() } else { Value::Null }, "{format}");
        let by =
            if knows_snapshot { json!(concat!("dbkeep ", env!("CARGO_PKG_VERSION"))) } else { Value::Null };
        assert_eq!(report["files"][0]["written_by"], by, "{format}: {report:#}");
        let people = environment.ok([Path::new("verify"), &path]);
        assert!(people.stdout.contains("1 database good, none damaged"), "{}", people.stdout);
    }
}

#[test]
fn file_without_its_checksum_is_judged_by_its_contents() {
    let environment = with_backup();
    for format in ["db", "gzip", "tar.gz", "sql", "json", "ndjson"] {
        let path = exported(&environment, format);
        fs::remove_file(format!("{}.sha256", path.display())).unwrap();
        let (code, report) = verify(&environment, &path);
        assert_eq!(code, Some(0), "{format}: {report:#}");
        let checksum = if format == "tar.gz" { "ok" } else { "none" };
        assert_eq!(report["checked"][0]["checksum"], checksum, "{format}: {report:#}");
        // Cut off, it is never called good, whatever it is.
        let bytes = fs::read(&path).unwrap();
        for keep in [bytes.len() - 1, bytes.len() - 10, bytes.len() / 2, bytes.len() / 10] {
            fs::write(&path, &bytes[..keep]).unwrap();
            let (code, report) = verify(&environment, &path);
            // The line end after the last line says nothing.
            if keep + 1 == bytes.len() && ["sql", "json", "ndjson"].contains(&format) {
                continue;
            }
            assert_eq!(code, Some(4), "{format} cut to {keep} of {}: {report:#}", bytes.len());
        }
    }
}

#[test]
fn any_changed_byte_of_any_file_of_an_export_is_found() {
    let environment = with_backup();
    for format in FORMATS {
        let path = exported(&environment, format);
        let mut files = Vec::new();
        let root = path.parent().unwrap().to_owned();
        let mut directories = vec![root];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { directories.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        for file in files {
            let bytes = fs::read(&file).unwrap();
            for at in [0, bytes.len() / 3, bytes.len() * 2 / 3] {
                let mut changed = bytes.clone();
                changed[at] ^= 0x20;
                fs::write(&file, &changed).unwrap();
                let (code, report) = verify(&environment, &path);
                assert_eq!(code, Some(4), "{format}: byte {at} of {}: {report:#}", file.display());
                assert!(report["damaged"].as_u64().unwrap() > 0);
            }
            fs::write(&file, &bytes).unwrap();
        }
        assert_eq!(verify(&environment, &path).0, Some(0));
    }
}

#[test]
fn file_that_is_missing_from_a_bundle_is_named() {
    let environment = with_backup();
    let bundle = exported(&environment, "bundle");
    let database = fs::read_dir(bundle.join("databases")).unwrap().map(|entry| entry.unwrap().path());
    let database =
        database.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "gz")).unwrap();
    fs::remove_file(&database).unwrap();
    let (code, report) = verify(&environment, &bundle);
    assert_eq!(code, Some(4), "{report:#}");
    let missing = report["checked"].as_array().unwrap().iter().find(|one| one["database"] == "app").unwrap();
    assert_eq!(missing["status"], "missing");
    fs::remove_file(bundle.join("logs/backup.log")).unwrap();
    let (_, report) = verify(&environment, &bundle);
    let files: Vec<&str> =
        report["checked"].as_array().unwrap().iter().map(|one| one["file"].as_str().unwrap()).collect();
    assert!(files.contains(&"logs/backup.log"), "{files:?}");
}

#[test]
fn what_holds_no_database_is_unknown_with_a_hint() {
    let environment = with_backup();
    fs::write(environment.path("letter.txt"), "Dear friend, this is a letter.").unwrap();
    environment.run(["verify", "letter.txt"]).expect_failure(1, "letter.txt holds no database", "known are");
    environment.run(["verify", "./gone.db"]).expect_failure(1, "gone.db", "check the path");
    environment.run(["verify", "./backups"]).expect_failure(
        1,
        "holds no database",
        "`dbkeep check` looks at it",
    );
    fs::write(environment.path("other.sql"), "-- PostgreSQL database dump\nCOPY x FROM stdin;\n1\n\\.\n")
        .unwrap();
    assert_ne!(environment.run(["verify", "other.sql"]).code, Some(0));
    fs::write(environment.path("package.txt"), "{\"name\":\"x\",\"tags\":[1,2]}").unwrap();
    environment.run(["verify", "package.txt"]).expect_failure(1, "holds no database", "known are");
    // Named as what it is not, it is damaged.
    fs::write(environment.path("app2.db.gz"), "not compressed").unwrap();
    assert_eq!(verify(&environment, &environment.path("app2.db.gz")).0, Some(4));
    environment.run(["verify", "app.db", "latest"]).expect_failure(
        2,
        "app.db is a file and latest a snapshot",
        "one after the other",
    );
}

#[test]
fn text_that_was_cut_off_before_its_first_row_is_never_called_good() {
    let environment = TestEnvironment::without_password();
    let whole = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCOMMIT;\n";
    for (name, text, finding) in [
        ("a.sql", "", "it makes no table"),
        ("a.sql", "-- a dump\n", "it makes no table"),
        ("a.sql", &whole[..25], "it makes no table"),
        ("a.sql", &whole[..44], "the text ends within a transaction"),
        ("a.sql", "CREATE TABLE t(a);\n\0\0\0INSERT INTO t VALUES(1);\n", "line 2: a zero byte"),
        ("a.csv", "", "it is empty"),
        ("a.ndjson", "", "it is not JSON"),
        ("a.json", "", "it is not JSON"),
        ("a.sqlite3", "", "it is not a SQLite database"),
    ] {
        fs::write(environment.path(name), text).unwrap();
        let (code, report) = verify(&environment, &environment.path(name));
        assert_eq!(code, Some(4), "{name} {text:?}: {report:#}");
        let found = report["checked"][0]["findings"][0].as_str().unwrap();
        assert!(found.contains(finding), "{name} {text:?}: {found}");
    }
    fs::write(environment.path("a.sql"), whole).unwrap();
    assert_eq!(verify(&environment, &environment.path("a.sql")).0, Some(0), "a database without tables");
}

#[test]
fn database_without_tables_is_good_in_every_form() {
    let environment = TestEnvironment::new();
    environment.database("app.db", "PRAGMA user_version = 3");
    environment.ok(["backup", "app.db"]);
    for format in FORMATS {
        let path = exported(&environment, format);
        let (code, report) = verify(&environment, &path);
        assert_eq!((code, &report["ok"]), (Some(0), &1.into()), "{format}: {report:#}");
    }
}

#[test]
fn checksum_file_that_is_given_means_what_it_names() {
    let environment = with_backup();
    let bundle = exported(&environment, "bundle");
    let dump = exported(&environment, "sql");
    let (code, report) = verify(&environment, &PathBuf::from(format!("{}.sha256", dump.display())));
    assert_eq!((code, &report["checked"][0]["checksum"]), (Some(0), &"ok".into()), "{report:#}");
    let (code, report) = verify(&environment, &bundle.join("SHA256SUMS"));
    assert_eq!((code, &report["ok"]), (Some(0), &1.into()), "{report:#}");
    let manifest = bundle.join("manifests/backup_manifest.json");
    environment.run([Path::new("verify"), &manifest]).expect_failure(
        1,
        "tells of other files and holds none",
        "verify the directory",
    );
    let bytes = fs::read(&dump).unwrap();
    fs::write(&dump, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(verify(&environment, &PathBuf::from(format!("{}.sha256", dump.display()))).0, Some(4));
    fs::remove_file(&dump).unwrap();
    let (code, report) = verify(&environment, &PathBuf::from(format!("{}.sha256", dump.display())));
    assert_eq!((code, &report["checked"][0]["status"]), (Some(4), &"missing".into()), "{report:#}");
}

#[test]
fn checksums_of_odd_names_are_read_as_sha256sum_writes_them() {
    let environment = TestEnvironment::without_password();
    let folder = environment.path("odd");
    for name in ["back\\slash.db", "line\nend.db", " space.db", "-dash.db"] {
        environment.users(&format!("odd/{name}"), 2);
        shell(&folder, "rm -f *-wal *-shm ./-dash.db-wal ./-dash.db-shm");
    }
    shell(
        &folder,
        "find . -name '*.db' -exec sha256sum {} + > SHA256SUMS && sha256sum --strict -c SHA256SUMS",
    );
    let (code, report) = verify(&environment, &folder);
    assert_eq!((code, &report["ok"]), (Some(0), &4.into()), "{report:#}");
    assert!(report["checked"].as_array().unwrap().iter().all(|one| one["checksum"] == "ok"), "{report:#}");
    fs::remove_file(folder.join("line\nend.db")).unwrap();
    assert_eq!(verify(&environment, &folder).0, Some(4));
}

#[test]
fn one_of_several_that_is_unknown_hides_nothing_of_the_others() {
    let environment = with_backup();
    fs::write(environment.path("letter.txt"), "Dear friend").unwrap();
    fs::write(environment.path("bad.db"), "not a database").unwrap();
    let (code, report) = environment.json(&["verify", "letter.txt", "./gone.db", "bad.db", "app.db"]);
    assert_eq!((code, &report["ok"], &report["damaged"]), (Some(4), &1.into(), &3.into()), "{report:#}");
    let status = |at: usize| report["checked"][at]["status"].as_str().unwrap();
    assert_eq!((status(0), status(1), status(2), status(3)), ("damaged", "missing", "damaged", "ok"));
    assert!(report["checked"][0]["findings"][0].as_str().unwrap().contains("holds no database"));
}

#[test]
fn text_cannot_take_the_memory_from_what_is_looked_at_after_it() {
    let environment = TestEnvironment::without_password();
    environment.users("app.db", 3);
    let text = "PRAGMA hard_heap_limit = 1;\nPRAGMA temp_store_directory = '/gone';\nCREATE TABLE t(a);\n";
    fs::write(environment.path("a.sql"), text).unwrap();
    let (code, report) = environment.json(&["verify", "a.sql", "app.db"]);
    assert_eq!((code, &report["checked"][1]["status"]), (Some(4), &"ok".into()), "{report:#}");
}

#[test]
fn what_lies_beside_a_database_and_was_not_looked_at_is_named() {
    let environment = TestEnvironment::without_password();
    let connection = Connection::open(environment.users("kept/app.db", 3)).unwrap();
    connection.execute_batch("INSERT INTO users VALUES (99, 'in the log')").unwrap();
    fs::write(environment.path("kept/other.db-journal"), "hot").unwrap();
    fs::write(environment.path("kept/README"), "read me").unwrap();
    let notes = |path: &str| -> Vec<String> {
        let report = environment.ok_json(&["verify", path]);
        let notes = report["files"][0]["notes"].as_array().unwrap().iter();
        notes.map(|note| note.as_str().unwrap().to_owned()).collect()
    };
    let beside = |name: &str| format!("{name} lies beside it: the changes in it were not looked at");
    assert_eq!(notes("./kept/app.db"), [beside("app.db-wal")]);
    let all = notes("./kept");
    assert!(all.contains(&beside("app.db-wal")) && all.contains(&beside("other.db-journal")), "{all:?}");
    assert!(all.contains(&"README holds no database".to_owned()), "{all:?}");
    drop(connection);
}

#[test]
fn sparse_files_in_archives_are_read_or_named() {
    let environment = TestEnvironment::without_password();
    environment
        .database("holes.db", "CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(4000000)), ('after')");
    let line = "cp --sparse=always holes.db sparse.db && tar --sparse --format=gnu -cf gnu.tar sparse.db \
                && tar --sparse --format=posix -cf posix.tar sparse.db && tar cf both.tar holes.db posix.tar";
    shell(&environment.path(""), line);
    let report = environment.ok_json(&["verify", "gnu.tar"]);
    assert_eq!((&report["ok"], &report["checked"][0]["rows"]), (&1.into(), &2.into()), "{report:#}");
    environment.run(["verify", "posix.tar"]).expect_failure(1, "holds no database", "known are");
    let report = environment.ok_json(&["verify", "both.tar"]);
    let note = report["files"][0]["notes"][0].as_str().unwrap();
    assert!(note.contains("sparse.db was not looked at") && note.contains("unpack the archive"), "{note}");
}

#[test]
fn several_files_are_looked_at_without_a_repository() {
    let environment = TestEnvironment::without_password();
    environment.users("one.db", 3);
    environment.users("two.db", 4);
    let report = environment.ok_json(&["verify", "one.db", "two.db"]);
    assert_eq!(report["ok"], 2);
    assert_eq!(report["checked"][1]["rows"], 4);
    assert!(!environment.path("backups").exists());
}

#[test]
fn sql_text_of_stock_sqlite3_is_loaded_and_one_that_failed_is_told() {
    let environment = TestEnvironment::without_password();
    environment.users("app.db", 30);
    if crate::export::sqlite3().is_none() {
        return;
    }
    shell(&environment.path(""), "sqlite3 app.db .dump > app.sql && gzip -k app.sql");
    for file in ["app.sql", "app.sql.gz"] {
        let report = environment.ok_json(&["verify", file]);
        assert_eq!(
            (&report["checked"][0]["rows"], &report["checked"][0]["database"]),
            (&30.into(), &"app".into())
        );
    }
    let text = fs::read_to_string(environment.path("app.sql")).unwrap();
    fs::write(environment.path("app.sql"), text.replace("COMMIT;", "ROLLBACK; -- due to errors")).unwrap();
    assert_eq!(verify(&environment, &environment.path("app.sql")).0, Some(4));
}

/// Makes a database file as an application leaves it.
fn database(path: &Path, sql: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn sha256(path: &Path) -> String {
    shell(path.parent().unwrap(), &format!("sha256sum '{}'", path.display()))[..64].to_owned()
}

/// Makes what a script left that copies databases before a migration: compressed copies and one manifest, whose
/// paths begin where the script was run.
fn copies_before_a_migration(environment: &TestEnvironment) -> PathBuf {
    let directory = environment.path("database_backups/backup_20250724_185858");
    let mut databases = serde_json::Map::new();
    for (name, sql, tables, rows) in [
        (
            "alerts",
            "CREATE TABLE alert_rules(id INTEGER PRIMARY KEY AUTOINCREMENT, n); INSERT INTO alert_rules(n) VALUES(1),(2)",
            vec!["alert_rules", "sqlite_sequence"],
            3,
        ),
        ("cache", "CREATE TABLE cache_entries(key TEXT PRIMARY KEY, value BLOB)", vec!["cache_entries"], 0),
    ] {
        let path = directory.join(format!("databases/{name}_20250724_185858.db"));
        database(&path, sql);
        shell(&directory, &format!("gzip databases/{name}_20250724_185858.db"));
        let packed = PathBuf::from(format!("{}.gz", path.display()));
        databases.insert(
            name.to_owned(),
            json!({
                "success": true, "original_size_mb": 0.04, "backup_size_mb": 0.0, "compression_ratio": 0.0,
                "tables": tables, "total_records": rows, "integrity_check": true,
                "backup_path": format!("database_backups/backup_20250724_185858/databases/{name}_20250724_185858.db.gz"),
                "backup_hash": sha256(&packed), "error": null,
            }),
        );
    }
    let manifest = json!({
        "backup_session": "20250724_185858", "backup_date": "2025-07-24T18:58:58.874950",
        "backup_directory": "database_backups/backup_20250724_185858",
        "compression_enabled": true, "verification_enabled": true, "databases": databases,
        "summary": { "total_databases": 2, "successful_backups": 2, "failed_backups": 0,
            "total_backup_size_mb": 0.0, "total_original_size_mb": 0.08, "overall_compression_ratio": 0.0 },
    });
    fs::create_dir_all(directory.join("manifests")).unwrap();
    fs::create_dir_all(directory.join("logs")).unwrap();
    fs::write(
        directory.join("manifests/backup_manifest.json"),
        serde_json::to_vec_pretty(&manifest).unwrap(),
    )
    .unwrap();
    directory
}

#[test]
fn directory_of_a_script_that_copied_databases_before_a_migration_is_read() {
    let environment = TestEnvironment::without_password();
    let directory = copies_before_a_migration(&environment);
    let (code, report) = verify(&environment, &directory);
    assert_eq!(code, Some(0), "{report:#}");
    let facts = &report["files"][0];
    assert_eq!(facts["written_by"], "a backup script (backup_manifest.json)");
    assert_eq!(
        (&facts["session"], &facts["time"]),
        (&"20250724_185858".into(), &"2025-07-24T18:58:58.874950".into())
    );
    let checked = report["checked"].as_array().unwrap();
    assert_eq!(checked.len(), 2);
    assert_eq!((&checked[0]["database"], &checked[0]["rows"]), (&"alerts".into(), &3.into()));
    assert!(
        checked
            .iter()
            .all(|one| one["checksum"] == "ok" && one["integrity"] == "ok" && one["form"] == "gzip")
    );

    // The same packed into one archive.
    shell(directory.parent().unwrap(), "tar czf all.tar.gz backup_20250724_185858");
    let (code, report) = verify(&environment, &environment.path("database_backups/all.tar.gz"));
    assert_eq!((code, &report["ok"]), (Some(0), &2.into()), "{report:#}");

    // A database that is another than the one that was counted; one that is gone; one whose backup failed.
    let alerts = directory.join("databases/alerts_20250724_185858.db.gz");
    let sound = fs::read(&alerts).unwrap();
    database(&environment.path("x.db"), "CREATE TABLE alert_rules(n)");
    shell(&environment.path(""), &format!("gzip -c x.db > {}", alerts.display()));
    let (code, report) = verify(&environment, &directory);
    let findings = report["checked"][0]["findings"].as_array().unwrap();
    assert_eq!((code, findings.len()), (Some(4), 3), "hash, tables and rows: {report:#}");
    fs::remove_file(&alerts).unwrap();
    let (code, report) = verify(&environment, &directory);
    assert_eq!(code, Some(4));
    assert!(
        report["checked"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["database"] == "alerts" && one["status"] == "missing")
    );
    fs::write(&alerts, sound).unwrap();
    let manifest = directory.join("manifests/backup_manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let failed = text.replacen("\"success\": true", "\"success\": false", 1);
    fs::write(&manifest, failed).unwrap();
    assert_eq!(verify(&environment, &directory).0, Some(4));
}

#[test]
fn backups_with_a_checksum_and_metadata_beside_each_are_read() {
    let environment = TestEnvironment::without_password();
    let directory = environment.path("backups/primary");
    let name = "tablet_counter_hourly_20251206_140000.db";
    database(
        &directory.join(name),
        "CREATE TABLE purchase_orders(id INTEGER PRIMARY KEY); CREATE TABLE employees(id INTEGER PRIMARY KEY);
         INSERT INTO purchase_orders VALUES(1),(2); INSERT INTO employees VALUES(1)",
    );
    shell(&directory, &format!("gzip -9 {name} && sha256sum {name}.gz > {name}.gz.sha256"));
    let packed = directory.join(format!("{name}.gz"));
    let meta = json!({
        "timestamp": "2025-12-06T14:00:00.000001", "type": "hourly", "filename": format!("{name}.gz"),
        "size_bytes": fs::metadata(&packed).unwrap().len(), "checksum": sha256(&packed),
        "database_stats": { "size_bytes": 12288, "size_kb": 12.0, "tables": { "purchase_orders": 2, "employees": 1 } },
        "verified": true,
    });
    let meta_file = directory.join(format!("{name}.gz.meta.json"));
    fs::write(&meta_file, meta.to_string()).unwrap();
    for path in [&packed, &directory] {
        let (code, report) = verify(&environment, path);
        assert_eq!(code, Some(0), "{report:#}");
        assert_eq!(report["files"][0]["written_by"], "a backup script (.meta.json)");
        let one = &report["checked"][0];
        assert_eq!((&one["database"], &one["rows"]), (&"tablet_counter_hourly".into(), &3.into()));
        assert_eq!((&one["checksum"], &one["integrity"]), (&"ok".into(), &"ok".into()));
    }
    fs::write(&meta_file, meta.to_string().replace("\"employees\":1", "\"employees\":3")).unwrap();
    let (code, report) = verify(&environment, &packed);
    assert_eq!(code, Some(4));
    assert!(
        report["checked"][0]["findings"][0].as_str().unwrap().contains("\"employees\" has 1 rows"),
        "{report:#}"
    );
}

#[test]
fn copies_whose_checksums_name_the_original_are_read_with_their_branch() {
    let environment = TestEnvironment::without_password();
    let project = environment.path("project");
    let time = "20250116-120000";
    let backups = project.join(".agentic-qe/backups");
    fs::create_dir_all(&backups).unwrap();
    database(
        &project.join("agentdb.db"),
        "PRAGMA journal_mode=WAL; CREATE TABLE episodes(id INTEGER PRIMARY KEY); INSERT INTO episodes VALUES(1)",
    );
    database(&project.join(".agentic-qe/memory.db"), "CREATE TABLE patterns(id INTEGER PRIMARY KEY, p TEXT)");
    shell(
        &project,
        &format!(
            "b=.agentic-qe/backups
             cp agentdb.db $b/agentdb.db.backup.{time} && sha256sum agentdb.db > $b/agentdb.db.backup.{time}.sha256
             cp .agentic-qe/memory.db $b/memory.db.backup.{time} && sha256sum .agentic-qe/memory.db > $b/memory.db.backup.{time}.sha256"
        ),
    );
    let metadata = json!({ "timestamp": time, "date": "2025-01-16T12:00:00+00:00", "hostname": "laptop", "user": "ada",
        "git_commit": "4a58796c0ffee", "git_branch": "main", "compressed": true });
    fs::write(backups.join(format!("backup-metadata.{time}.json")), metadata.to_string()).unwrap();
    shell(
        &backups,
        &format!(
            "tar -czf databases-backup-{time}.tar.gz --exclude='*.tar.gz' $(ls -1 | grep {time} | grep -v .tar.gz)"
        ),
    );
    let archive = backups.join(format!("databases-backup-{time}.tar.gz"));
    let single = backups.join(format!("agentdb.db.backup.{time}"));
    for (path, databases) in [(&archive, 2), (&single, 1), (&backups, 4)] {
        let (code, report) = verify(&environment, path);
        assert_eq!((code, &report["ok"]), (Some(0), &databases.into()), "{}: {report:#}", path.display());
        let facts = &report["files"][0];
        assert_eq!(facts["written_by"], "a backup script (backup-metadata)");
        assert_eq!((&facts["user"], &facts["host"]), (&"ada".into(), &"laptop".into()));
        assert_eq!((&facts["git_branch"], &facts["git_commit"]), (&"main".into(), &"4a58796c0ffee".into()));
        assert_eq!((&facts["session"], &facts["time"]), (&time.into(), &"2025-01-16T12:00:00+00:00".into()));
        let one =
            report["checked"].as_array().unwrap().iter().find(|one| one["database"] == "agentdb").unwrap();
        assert_eq!(
            (&one["rows"], &one["checksum"], &one["integrity"]),
            (&1.into(), &"ok".into(), &"ok".into())
        );
        assert!(one["notes"][0].as_str().unwrap().contains("copied the file alone"), "{report:#}");
    }
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    assert_eq!(verify(&environment, &archive).0, Some(4));
}

#[test]
fn json_exports_of_postgresql_by_other_programs_say_what_they_hold_and_what_they_lost() {
    let environment = TestEnvironment::without_password();
    // Of a hosted project: metadata with the environment and statistics, tables with their counts, a checksum beside it.
    let project = r#"{"metadata":{"environment":"production","timestamp":"2025-01-16T12:00:00.000Z",
        "statistics":{"total_rows":3,"tables":{"profiles":{"row_count":2},"posts":{"row_count":1}}}},
        "tables":{"profiles":{"count":2,"rows":[{"id":"a","joined":"2025-01-16T12:00:00.123Z","bio":null},{"id":"b","joined":null}]},
        "posts":{"count":1,"rows":[{"id":9007199254740993,"picture":{"type":"Buffer","data":[0,255]}}]}}}"#;
    fs::write(environment.path("project.json"), project).unwrap();
    shell(&environment.path(""), "sha256sum project.json > project.json.sha256");
    // Of an application: rows under `data`, counts beside them, a table that was missing.
    let application = r#"{"exported_at":"2025-01-16","data":{"users":[{"id":"u1"}],"patients":[]},
        "statistics":{"users":1,"patients":0,"total":1,"tables":["users","patients","sessions"]}}"#;
    fs::write(environment.path("application.json"), application).unwrap();

    let report = environment.ok_json(&["verify", "project.json", "application.json"]);
    let [project_found, application_found] = [0, 1].map(|at| &report["checked"][at]);
    assert_eq!((&project_found["checksum"], &project_found["rows"]), (&"ok".into(), &3.into()), "{report:#}");
    let tables = |found: &Value| found["tables"].to_string();
    assert_eq!(tables(project_found), r#"[{"name":"profiles","rows":2},{"name":"posts","rows":1}]"#);
    assert_eq!(tables(application_found), r#"[{"name":"users","rows":1},{"name":"patients","rows":0}]"#);
    let lost = project_found["cannot_hold"].to_string();
    for what in [
        "the schema: types, keys",
        "sequences, constraints",
        "precision of numbers",
        "timestamps",
        "left out",
    ] {
        assert!(lost.contains(what), "{what:?} is not in {lost}");
    }
    let notes = project_found["notes"].to_string();
    for note in ["have no \\\"bio\\\"", "beyond 2^53", "times with milliseconds", "(Buffer)"] {
        assert!(notes.contains(note), "{note:?} is not in {notes}");
    }
    let notes = application_found["notes"].to_string();
    assert!(notes.contains("table \\\"sessions\\\" is named in it and has no rows there"), "{notes}");

    // A row less than the document says, and a table less.
    fs::write(environment.path("short.json"), project.replace(r#",{"id":"b","joined":null}"#, "")).unwrap();
    let (code, report) = environment.json(&["verify", "short.json"]);
    let finding = "table \"profiles\" has 1 rows, the document itself says 2";
    assert_eq!((code, &report["checked"][0]["findings"][0]), (Some(4), &finding.into()), "{report:#}");
    fs::write(environment.path("less.json"), project.replace("\"posts\":{\"count\"", "\"older\":{\"count\""))
        .unwrap();
    let (code, report) = environment.json(&["verify", "less.json"]);
    let finding = "table \"posts\" should have 1 rows and is not there";
    assert_eq!((code, &report["checked"][0]["findings"][0]), (Some(4), &finding.into()), "{report:#}");
}
