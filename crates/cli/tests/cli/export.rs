//! `export`: plain files that need no dbkeep, judged by the stock tools that people have: `sqlite3`, `gunzip`,
//! `sha256sum` and `tar`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use dbkeep_testkit::zoo;
use rusqlite::Connection;
use serde_json::Value;

use crate::environment::{Run, TestEnvironment};

/// Returns stock sqlite3; nothing, with a message, where it is missing.
pub(crate) fn sqlite3() -> Option<Command> {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        eprintln!("skipped: sqlite3 is not installed");
        return None;
    }
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail"]);
    Some(command)
}

/// Runs a line of shell in a directory and expects that it succeeds. Returns what it printed.
#[track_caller]
pub(crate) fn shell(directory: &Path, line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).current_dir(directory).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{line}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Loads SQL text into a new database with stock sqlite3.
#[track_caller]
fn load(text: &Path, target: &Path) -> Option<()> {
    let mut command = sqlite3()?;
    let output = command.arg(target).stdin(File::open(text).unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{}: {said}", text.display());
    Some(())
}

/// Returns the files below a directory by their names, sorted.
fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => found.push(path.strip_prefix(directory).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

fn exports(report: &Value) -> Vec<PathBuf> {
    let out = Path::new(report["out"].as_str().unwrap());
    report["files"].as_array().unwrap().iter().map(|file| out.join(file["path"].as_str().unwrap())).collect()
}

#[test]
fn every_sound_database_of_the_zoo_comes_back_from_its_sql_text_through_stock_sqlite3() {
    if sqlite3().is_none() {
        return;
    }
    let environment = TestEnvironment::new();
    let mut tried = 0;
    for (number, fixture) in zoo::all().into_iter().enumerate() {
        // What needs the functions of an application cannot be loaded without it.
        if fixture.kind != zoo::Kind::Database || fixture.is_large {
            continue;
        }
        let folder = environment.path(&format!("zoo{number}"));
        fs::create_dir(&folder).unwrap();
        let path = fixture.make(&folder);
        if path.to_str().is_none() {
            continue;
        }
        let before = zoo::contents(&path).unwrap();
        let name = format!("n{number}");
        let mut backup = environment.command(["--json", "backup", "--name", &name]);
        backup.arg("--").arg(&path);
        let report = Run::of(backup).document();
        let snapshot = report["databases"][0]["snapshot"].as_str().unwrap_or_else(|| panic!("{report:#}"));
        let out = environment.path(&format!("out{number}"));
        let report =
            environment.ok_json(&["export", snapshot, "--out", out.to_str().unwrap(), "--format", "sql"]);
        assert_eq!(report["databases"][0].get("notes"), None, "{fixture:?}: {report:#}");
        let loaded = environment.path(&format!("loaded{number}.db"));
        load(&exports(&report)[0], &loaded);
        let after = zoo::contents(&loaded).unwrap();
        assert_eq!(after.settings, before.settings, "{fixture:?}");
        assert!(after == before, "{fixture:?}: {:?}", after.digest.differences(&before.digest));
        assert_eq!(zoo::quick_check(&loaded).unwrap(), "ok", "{fixture:?}");
        tried += 1;
    }
    assert!(tried > 40, "{tried}");
}

#[test]
fn what_needs_the_functions_of_an_application_loads_where_they_are() {
    let environment = TestEnvironment::new();
    let mut tried = 0;
    for (number, fixture) in zoo::all().into_iter().enumerate() {
        if fixture.kind != zoo::Kind::NeedsExtension {
            continue;
        }
        let folder = environment.path(&format!("zoo{number}"));
        fs::create_dir(&folder).unwrap();
        let path = fixture.make(&folder);
        environment.ok(["backup", path.to_str().unwrap(), "--name", &format!("n{number}")]);
        let (name, out) = (format!("n{number}"), environment.path(&format!("out{number}")));
        let out = out.to_str().unwrap();
        let report =
            environment.ok_json(&["export", "latest", "--database", &name, "--out", out, "--format", "sql"]);
        let loaded = environment.path(&format!("loaded{number}.db"));
        let connection = zoo::extended(Connection::open(&loaded).unwrap()).unwrap();
        connection.execute_batch(&fs::read_to_string(&exports(&report)[0]).unwrap()).unwrap();
        drop(connection);
        assert_eq!(zoo::contents(&loaded).unwrap(), zoo::contents(&path).unwrap(), "{fixture:?}");
        // Where they are not, the file is not called damaged, and what is missing is said.
        let verified = environment.ok_json(&["verify", exports(&report)[0].to_str().unwrap()]);
        assert_eq!(verified["ok"], 1, "{fixture:?}: {verified:#}");
        tried += 1;
    }
    assert!(tried >= 3, "{tried}");
}

/// Returns the bits of numbers that are hard to read, and of many that are not.
fn numbers() -> Vec<u64> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    let any = (0..20_000).map(|_| next()).collect::<Vec<u64>>();
    let money = (0..20_000u32).map(|cents| (f64::from(cents) / 100.0).to_bits());
    let edges =
        [f64::MAX, f64::MIN_POSITIVE, 5e-324, 1e22, 1e23, 9_007_199_254_740_993.0, 0.1, 1e-7, f64::INFINITY]
            .into_iter()
            .flat_map(|edge| [edge, -edge])
            .map(f64::to_bits);
    any.into_iter().chain(money).chain(edges).filter(|bits| !f64::from_bits(*bits).is_nan()).collect()
}

#[test]
fn numbers_come_back_bit_by_bit_through_stock_sqlite3() {
    let environment = TestEnvironment::new();
    let path = environment.path("app.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA synchronous=OFF; CREATE TABLE t(v); BEGIN").unwrap();
    let numbers = numbers();
    for bits in &numbers {
        connection.execute("INSERT INTO t VALUES (?1)", [f64::from_bits(*bits)]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    environment.ok(["backup", "app.db"]);
    let report = environment.ok_json(&["export", "latest", "--out", "out", "--format", "sql"]);
    let loaded = environment.path("loaded.db");
    if load(&exports(&report)[0], &loaded).is_none() {
        return;
    }
    let connection = Connection::open(&loaded).unwrap();
    let mut select = connection.prepare("SELECT v FROM t ORDER BY rowid").unwrap();
    let found: Vec<u64> = select
        .query_map([], |row| row.get::<_, f64>(0))
        .unwrap()
        .map(|value| value.unwrap().to_bits())
        .collect();
    let wrong = found.iter().zip(&numbers).filter(|(found, expected)| found != expected).count();
    assert_eq!((found.len(), wrong), (numbers.len(), 0));
}

#[test]
fn database_file_comes_out_byte_for_byte_plain_and_compressed() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 4000);
    environment.ok(["backup", "app.db"]);
    environment.ok(["restore", "latest", "--to", "restored.db"]);
    let image = fs::read(environment.path("restored.db")).unwrap();
    let report = environment.ok_json(&["export", "latest", "--out", "plain", "--format", "db"]);
    let session = report["session"].as_str().unwrap();
    let name = format!("app_{session}.db");
    assert_eq!(files_below(&environment.path("plain")), [name.clone(), format!("{name}.sha256")]);
    assert_eq!(fs::read(environment.path("plain").join(&name)).unwrap(), image);
    shell(&environment.path("plain"), "sha256sum --strict -c *.sha256");

    environment.ok_json(&["export", "latest", "--out", "small", "--format", "gzip"]);
    let small = environment.path("small");
    shell(&small, "sha256sum --strict -c *.sha256 && gunzip *.gz");
    assert_eq!(fs::read(small.join(&name)).unwrap(), image);
}

#[test]
fn bundle_is_a_directory_that_stock_tools_read() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 40);
    environment.database("with space.db", "CREATE TABLE t(a); INSERT INTO t VALUES('x')");
    fs::create_dir_all(environment.path(".git/refs/heads")).unwrap();
    fs::write(environment.path(".git/HEAD"), "ref: refs/heads/migration\n").unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    fs::write(environment.path(".git/refs/heads/migration"), commit).unwrap();
    environment.ok(["backup", "app.db", "with space.db", "--tag", "blue", "--reason", "pre-migration"]);
    let report = environment.ok_json(&["export", "--session", "latest", "--out", "exports"]);
    let session = report["session"].as_str().unwrap();
    let bundle = environment.path("exports").join(format!("backup_{session}"));
    let database = |name: &str| format!("databases/{name}_{session}.db.gz");
    let (app, space) = (database("app"), database("with space"));
    let mut expected = vec![
        "SHA256SUMS".to_owned(),
        "backup_report.json".to_owned(),
        app.clone(),
        format!("{app}.sha256"),
        space.clone(),
        format!("{space}.sha256"),
        "logs/backup.log".to_owned(),
        "manifests/backup_manifest.json".to_owned(),
    ];
    expected.sort();
    assert_eq!(files_below(&bundle), expected);
    assert_eq!(exports(&report).len(), expected.len());
    shell(&bundle, "sha256sum --strict -c SHA256SUMS");
    shell(&bundle.join("databases"), "sha256sum --strict -c *.sha256");
    shell(&bundle.join("databases"), "gunzip --keep *.gz");
    if sqlite3().is_some() {
        let rows = shell(
            &bundle,
            &format!("sqlite3 databases/app_{session}.db 'SELECT count(*), max(name) FROM users'"),
        );
        assert_eq!(rows, "40|user 9\n");
    }

    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(bundle.join(name)).unwrap()).unwrap() };
    let manifest = read("manifests/backup_manifest.json");
    assert_eq!(manifest["backup_session"], session);
    assert_eq!(manifest["backup_directory"], format!("backup_{session}"));
    assert_eq!(
        (&manifest["compression_enabled"], &manifest["verification_enabled"]),
        (&true.into(), &true.into())
    );
    assert_eq!(manifest["git"], serde_json::json!({ "branch": "migration", "commit": commit }));
    assert_eq!(
        (&manifest["reason"], &manifest["tags"]),
        (&"pre-migration".into(), &serde_json::json!(["blue"]))
    );
    assert!(manifest["user"].is_string() && manifest["host"].is_string());
    assert_eq!(manifest["dbkeep"], env!("CARGO_PKG_VERSION"));
    let one = &manifest["databases"]["app"];
    let listed = environment.ok_json(&["list", "--database", "app"]);
    assert_eq!(one["snapshot"], listed["snapshots"][0]["id"]);
    assert_eq!(
        (&one["success"], &one["integrity_check"], &one["error"]),
        (&true.into(), &true.into(), &Value::Null)
    );
    assert_eq!((&one["tables"], &one["total_records"]), (&serde_json::json!(["users"]), &40.into()));
    assert_eq!(one["table_record_counts"], serde_json::json!({ "users": 40 }));
    assert_eq!(one["backup_path"], format!("backup_{session}/{app}"));
    let hash = |path: &str| shell(&bundle, &format!("sha256sum '{path}'"))[..64].to_owned();
    assert_eq!(one["backup_hash"], hash(&app));
    assert_eq!(one["original_hash"], hash(&format!("databases/app_{session}.db")));
    let size = |path: &str| fs::metadata(bundle.join(path)).unwrap().len();
    assert_eq!(one["backup_size_bytes"], size(&app));
    assert_eq!(one["original_size_bytes"], size(&format!("databases/app_{session}.db")));
    assert_eq!(one["git"]["branch"], "migration");
    let summary = &manifest["summary"];
    assert_eq!((&summary["total_databases"], &summary["successful_backups"]), (&2.into(), &2.into()));
    assert_eq!((&summary["failed_backups"], &summary["total_records"]), (&0.into(), &41.into()));

    let told = read("backup_report.json");
    let info = &told["databases"]["app"]["database_info"];
    assert_eq!((&info["table_count"], &info["total_records"]), (&1.into(), &40.into()));
    assert_eq!(info["file_hash"], one["original_hash"]);
    assert_eq!(told["databases"]["app"]["backup_hash"], one["backup_hash"]);
    assert_eq!(told["summary"], manifest["summary"]);
    assert_eq!(told["errors"], serde_json::json!([]));
    let log = fs::read_to_string(bundle.join("logs/backup.log")).unwrap();
    assert!(log.contains("event=table database=app table=users rows=40"), "{log}");
    assert!(log.contains("event=integrity database=\"with space\""), "{log}");
}

#[test]
fn archive_holds_the_tree_of_a_bundle_in_one_file() {
    let environment = TestEnvironment::new();
    let source = environment.users("app.db", 40);
    let report = environment.ok_json(&["backup", "app.db"]);
    let session = report["session"].as_str().unwrap();
    environment.ok(["export", "latest", "--out", "out", "--format", "tar.gz"]);
    let out = environment.path("out");
    let name = format!("backup_{session}.tar.gz");
    assert_eq!(files_below(&out), [name.clone(), format!("{name}.sha256")]);
    shell(
        &out,
        "sha256sum --strict -c *.sha256 && tar xzf *.tar.gz && cd backup_* && sha256sum --strict -c SHA256SUMS",
    );
    shell(&out, "cd backup_*/databases && sha256sum --strict -c *.sha256");
    let database = out.join(format!("backup_{session}/databases/app_{session}.db"));
    assert_eq!(zoo::contents(&database).unwrap(), zoo::contents(&source).unwrap());
    let manifest: Value = serde_json::from_slice(
        &fs::read(out.join(format!("backup_{session}/manifests/backup_manifest.json"))).unwrap(),
    )
    .unwrap();
    assert_eq!(manifest["compression_enabled"], false);
    assert_eq!(manifest["databases"]["app"]["backup_hash"], manifest["databases"]["app"]["original_hash"]);
}
