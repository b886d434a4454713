//! `drill`: backups are restored, asked and thrown away; what is wrong is told, and nothing stays.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use serde_json::{Value, json};

use crate::environment::{TestEnvironment, restic};

/// An environment whose temporary directory is its own, and so is what is left there.
pub(crate) fn environment() -> (TestEnvironment, tempfile::TempDir) {
    use std::os::unix::fs::PermissionsExt as _;

    // The path of a socket is short, and the user of a server has to get through.
    let scratch = tempfile::Builder::new().prefix("d").tempdir_in("/tmp").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    (TestEnvironment::new().with("TMPDIR", scratch.path().to_str().unwrap()), scratch)
}

/// Returns what is in a directory.
fn left(scratch: &Path) -> Vec<PathBuf> {
    fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Returns when the newest snapshot was last drilled.
fn drilled(environment: &TestEnvironment) -> Value {
    environment.ok_json(&["list"])["snapshots"][0]["drilled"].clone()
}

#[test]
fn newest_backup_of_every_database_is_tried_and_nothing_stays() {
    let (environment, scratch) = environment();
    environment.run(["drill"]).expect_failure(10, "no repository", "dbkeep init");
    environment.users("app.db", 11);
    environment.users("other.db", 3);
    environment.ok(["backup", "app.db", "other.db"]);
    assert_eq!(drilled(&environment), Value::Null);
    let before = environment.tree().len();
    let report = environment.ok_json(&["drill"]);
    assert_eq!((&report["ok"], &report["failed"], &report["error"]), (&json!(2), &json!(0), &Value::Null));
    let first = &report["drills"][0];
    for key in "snapshot database status duration_ms rows findings assertions".split(' ') {
        assert!(first.get(key).is_some(), "no {key} in {first:#}");
    }
    assert_eq!(
        (&first["database"], &first["rows"], &first["status"]),
        (&json!("app"), &json!(11), &json!("ok"))
    );
    assert!(drilled(&environment).is_string(), "it is recorded");
    assert_eq!(left(scratch.path()), Vec::<PathBuf>::new());
    assert_eq!(environment.tree().len(), before + 2, "two facts, and nothing else");

    let run = environment.ok(["drill", "--database", "app", "--sql", "SELECT count(*) FROM users=11"]);
    assert!(run.stdout.contains("1 of 1"), "{}", run.stdout);
    assert!(run.stdout.ends_with("1 drill passed, none failed\n"), "{}", run.stdout);
}

#[test]
fn answer_that_is_wrong_fails_the_drill_and_leaves_the_snapshot_good() {
    let (environment, scratch) = environment();
    environment.users("app.db", 11);
    environment.ok(["backup", "app.db"]);
    let text = "[databases.app]\nsqlite = \"app.db\"\nassert = [\"SELECT count(*) FROM users = 11\"]\n";
    fs::write(environment.path("dbkeep.toml"), text).unwrap();
    let asked = [
        "SELECT name FROM users WHERE id = 1=nobody",
        "SELECT * FROM absent=1",
        "ATTACH '/nonexistent/other.db' AS other=1",
    ];
    let more: Vec<&str> =
        ["drill"].into_iter().chain(asked.into_iter().flat_map(|sql| ["--sql", sql])).collect();
    let (code, report) = environment.json(&more);
    assert_eq!((code, &report["failed"], &report["error"]), (Some(4), &json!(1), &Value::Null), "{report:#}");
    let drill = &report["drills"][0];
    assert_eq!((&drill["status"], &drill["findings"]), (&json!("failed"), &json!([])));
    assert_eq!(
        drill["assertions"].as_array().unwrap()[..2],
        [
            json!({"sql": "SELECT count(*) FROM users", "expected": "11", "found": "11", "ok": true}),
            json!({"sql": "SELECT name FROM users WHERE id = 1", "expected": "nobody", "found": "user 1", "ok": false})
        ]
    );
    for (place, found) in [(2, "no such table"), (3, "unable to open database")] {
        assert!(drill["assertions"][place]["found"].as_str().unwrap().contains(found), "{drill:#}");
    }
    let run = environment.run(more);
    run.expect(4);
    assert!(
        run.stdout.contains("SELECT name FROM users WHERE id = 1 gives user 1, expected is nobody"),
        "{}",
        run.stdout
    );
    assert_eq!(drilled(&environment), Value::Null, "it did not pass");
    assert_eq!(left(scratch.path()), Vec::<PathBuf>::new());
    // What is stored is as good as before.
    environment.ok(["restore", "latest", "--to", "again.db"]);
    environment.run(["drill", "--sql", "SELECT 1"]).expect_failure(
        2,
        "no query with its answer",
        "QUERY=EXPECTED",
    );
    fs::write(environment.path("dbkeep.toml"), text.replace(" = 11", "")).unwrap();
    environment.run(["drill"]).expect_failure(2, "databases.app.assert", "QUERY=EXPECTED");
}

/// Changes a byte in the middle of the largest pack.
fn damage(environment: &TestEnvironment) {
    let mut packs = environment.tree();
    packs.retain(|(path, _)| path.starts_with(environment.path("backups/data")));
    let (path, mut bytes) = packs.into_iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(&path, permissions).unwrap();
    fs::write(&path, bytes).unwrap();
}

#[test]
fn damaged_repository_is_found_and_a_copy_does_not_hide_it() {
    let (environment, scratch) = environment();
    environment.users("app.db", 4000);
    let text = "[[copies]]\nname = \"second\"\nlocation = \"second\"\n";
    fs::write(environment.path("dbkeep.toml"), text).unwrap();
    environment.ok(["backup", "app.db"]);
    damage(&environment);
    let (code, report) = environment.json(&["drill"]);
    assert_eq!((code, &report["drills"][0]["status"]), (Some(4), &json!("failed")), "{report:#}");
    let finding = report["drills"][0]["findings"][0].as_str().unwrap();
    assert!(finding.starts_with("pack "), "{finding}");
    assert_eq!(left(scratch.path()), Vec::<PathBuf>::new());
    let (code, _) = environment.json(&["drill", "--snapshot", "latest"]);
    assert_ne!(code, Some(0), "what is damaged is not the latest any more, and not good");
}

#[test]
fn killed_drill_leaves_nothing_that_the_next_one_does_not_remove() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let (environment, scratch) = environment();
    environment.users("app.db", 50);
    environment.ok(["backup", "app.db"]);
    for step in ["restore.begun", "drill.restored", "drill.asked"] {
        let output = environment.command(["drill"]).env("DBKEEP_TEST_KILL_AT", step).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step}");
        assert_eq!(left(scratch.path()).len(), 1, "{step}");
        assert_eq!(drilled(&environment), Value::Null, "{step}: what was not finished is not recorded");
    }
    environment.ok(["drill"]);
    assert_eq!(left(scratch.path()), Vec::<PathBuf>::new());
    environment.ok(["check", "--read-data"]);
}

/// A server with a small database.
fn server() -> Option<Server> {
    let Some(programs) = Programs::newest_with_tls() else {
        eprintln!("{SKIPPED}");
        return None;
    };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql(
        "shop",
        "CREATE ROLE clerk;
         CREATE TABLE users (id int PRIMARY KEY, name text);
         INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 11) n;
         CREATE TABLE orders (id int PRIMARY KEY, of int REFERENCES users); INSERT INTO orders VALUES (1, 1);
         GRANT SELECT ON users TO clerk; ALTER TABLE users OWNER TO clerk;",
    );
    Some(server)
}

#[test]
fn postgres_backup_is_tried_on_a_server_of_its_own_that_goes_again() {
    let Some(server) = server() else { return };
    let (environment, scratch) = environment();
    let text = format!(
        "[databases.shop]\npostgres = \"{}\"\nassert = [\"SELECT count(*) FROM users = 11\"]\n",
        server.url("shop")
    );
    fs::write(environment.path("dbkeep.toml"), text).unwrap();
    environment.ok(["backup"]);
    let asked = ["drill", "--sql", "SELECT rolsuper FROM pg_roles WHERE rolname = current_user=f"];
    let report = environment.ok_json(&asked);
    let drill = &report["drills"][0];
    assert_eq!((&drill["database"], &drill["rows"]), (&json!("shop"), &json!(12)), "{report:#}");
    assert_eq!(
        (&drill["assertions"][0]["ok"], &drill["assertions"][1]["found"]),
        (&json!(true), &json!("f"))
    );
    assert!(drilled(&environment).is_string());
    assert_eq!(left(scratch.path()), Vec::<PathBuf>::new());
    let databases = "SELECT count(*) FROM pg_database WHERE datname LIKE 'dbkeep%'";
    assert_eq!(server.sql("postgres", databases), "0", "the server that was backed up is left alone");
    let (code, report) = environment.json(&["drill", "--sql", "SELECT count(*) FROM orders=2"]);
    assert_eq!((code, &report["drills"][0]["assertions"][1]["found"]), (Some(4), &json!("1")), "{report:#}");

    // Where the session ends there is no answer; one that was wrong before stays wrong.
    let before = drilled(&environment);
    let ends = "SELECT pg_terminate_backend(pg_backend_pid())=t";
    let (code, report) = environment.json(&["drill", "--sql", ends]);
    let drill = &report["drills"][0];
    assert_eq!((code, &drill["error"]["kind"]), (Some(1), &json!("connection-lost")), "{report:#}");
    assert_eq!((&drill["assertions"][1], drilled(&environment)), (&Value::Null, before), "{report:#}");
    let wrong = "SELECT count(*) FROM orders=2";
    let (code, report) = environment.json(&["drill", "--sql", wrong, "--sql", ends]);
    let drill = &report["drills"][0];
    assert_eq!((code, &drill["error"]), (Some(4), &Value::Null), "{report:#}");
    assert!(drill["notes"].to_string().contains("not all of it was tried: "), "{drill:#}");

    if cfg!(feature = "fault-injection") {
        for step in ["drill.server-started", "restore.rows-written", "drill.restored"] {
            let output = environment.command(["drill"]).env("DBKEEP_TEST_KILL_AT", step).output().unwrap();
            assert_eq!(output.status.signal(), Some(9), "{step}");
            wait_until(|| left(scratch.path()).is_empty(), "the folder of a killed drill goes by itself");
        }
    }
    damage(&environment);
    let (code, report) = environment.json(&["drill"]);
    assert_eq!((code, &report["failed"]), (Some(4), &json!(1)), "{report:#}");
    assert_eq!(left(scratch.path()), Vec::<PathBuf>::new());
}

fn wait_until(done: impl Fn() -> bool, what: &str) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < until, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn postgres_backup_is_tried_on_the_server_that_is_named_for_it() {
    let Some(server) = server() else { return };
    let (environment, scratch) = environment();
    let environment = environment.with("DRILLS", &server.url("postgres")).with("SHOP", &server.url("shop"));
    environment.ok(["backup", "env:SHOP"]);
    let databases = || server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'dbkeep%'");
    let report = environment.ok_json(&["drill", "--server", "env:DRILLS"]);
    assert_eq!(report["drills"][0]["rows"], 12, "{report:#}");
    assert_eq!(databases(), "");
    fs::write(environment.path("dbkeep.toml"), "[drill]\nserver = \"env:DRILLS\"\n").unwrap();
    if cfg!(feature = "fault-injection") {
        let output =
            environment.command(["drill"]).env("DBKEEP_TEST_KILL_AT", "drill.restored").output().unwrap();
        assert_eq!(output.status.signal(), Some(9));
        assert!(databases().starts_with("dbkeep_drill_"), "{}", databases());
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dbkeep%'";
        wait_until(|| server.sql("postgres", sessions) == "0", "the session of a killed drill ends");
    }
    environment.ok(["drill", "--sql", "SELECT count(*) FROM users=11"]);
    assert_eq!(databases(), "", "what the killed one left was dropped");
    assert_eq!(left(scratch.path()), Vec::<PathBuf>::new());

    let (code, report) = environment.json(&["drill", "--server", "postgresql://u:hunter2@127.0.0.1:1/x"]);
    assert_eq!((code, &report["error"]["kind"]), (Some(1), &json!("unreachable")), "{report:#}");
    assert_eq!(report["drills"][0]["status"], "failed");
    assert!(!report.to_string().contains("hunter2"));
    environment.run(["drill", "--server", "env:ABSENT"]).expect_failure(2, "ABSENT", ".env");
    if restic(&environment).is_some_and(|mut restic| !restic.args(["check"]).status().unwrap().success()) {
        panic!("restic does not like what a drill recorded");
    }
}
