//! Verified backups around the schema migrations of a project, from its directory and its branch.
//!
//! The same through the client for TypeScript is in `clients/typescript/tests/system-c.test.ts`.

use std::fs;

use rusqlite::Connection;

use crate::environment::{TestEnvironment, ask};
use crate::export::shell;

const COMMIT: &str = "4a58796c0ffee4a58796c0ffee4a58796c0ffee0";

/// Makes a project with two databases, on a branch.
fn project() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.database(
        "agentdb.db",
        "CREATE TABLE episodes (id INTEGER PRIMARY KEY, task TEXT, reward REAL);
         INSERT INTO episodes VALUES (1, 'generate tests', 0.75), (2, 'find flaky ones', 1.0)",
    );
    environment.database(
        ".agentic-qe/memory.db",
        "CREATE TABLE patterns (id TEXT PRIMARY KEY, confidence REAL) WITHOUT ROWID;
         INSERT INTO patterns VALUES ('page object', 0.9)",
    );
    fs::create_dir_all(environment.path(".git/refs/heads")).unwrap();
    fs::write(environment.path(".git/HEAD"), "ref: refs/heads/add-embeddings\n").unwrap();
    fs::write(environment.path(".git/refs/heads/add-embeddings"), COMMIT).unwrap();
    environment
}

const SOURCES: [&str; 2] = ["agentdb.db", ".agentic-qe/memory.db"];

#[test]
fn migration_has_a_verified_backup_before_and_a_way_back() {
    let environment = project();
    let line: Vec<&str> =
        ["backup"].into_iter().chain(SOURCES).chain(["--reason", "pre-migration"]).collect();
    let report = environment.ok_json(&line);
    let session = report["session"].as_str().unwrap().to_owned();

    // Metadata: git branch and commit, time, user; sizes; what was checked.
    let info = environment.ok_json(&["show", "latest", "--database", "agentdb"]);
    assert_eq!(info["git"], serde_json::json!({ "branch": "add-embeddings", "commit": COMMIT }));
    assert!(info["user"].is_string() && info["moment"].is_string() && info["sqlite"].is_object());
    assert_eq!(info["options"]["reason"], "pre-migration");
    let verified = environment.ok_json(&["verify", "--session", &session]);
    assert_eq!((&verified["ok"], &verified["damaged"]), (&2.into(), &0.into()));

    // The migration fails half-way, and both databases go back.
    let agentdb = environment.path("agentdb.db");
    let failed = Connection::open(&agentdb).unwrap().execute_batch(
        "ALTER TABLE episodes ADD COLUMN embedding BLOB; DELETE FROM episodes WHERE id = 1;
         INSERT INTO episodes (id) VALUES (2);",
    );
    assert!(failed.is_err());
    let back = environment.ok_json(&["restore", "--session", &session, "--in-place", "--yes"]);
    assert_eq!((&back["status"], back["restores"].as_array().unwrap().len()), (&"ok".into(), 2));
    assert_eq!(
        ask::<String>(&agentdb, "SELECT group_concat(task) FROM episodes"),
        "generate tests,find flaky ones"
    );
    assert_eq!(ask::<i64>(&agentdb, "SELECT count(*) FROM pragma_table_info('episodes')"), 3);
    assert_eq!(ask::<f64>(&environment.path(SOURCES[1]), "SELECT confidence FROM patterns"), 0.9);

    // What was there before the way back is kept too.
    let safety = back["restores"][0]["safety_snapshot"].as_str().unwrap();
    environment.ok_json(&["restore", safety, "--to", "half-migrated.db"]);
    assert_eq!(ask::<i64>(&environment.path("half-migrated.db"), "SELECT count(*) FROM episodes"), 1);
}

#[test]
fn migration_with_a_backup_before_is_restored_when_it_fails_and_kept_when_it_works() {
    if !crate::guard::has("sqlite3") {
        return;
    }
    let environment = project();
    let agentdb = environment.path("agentdb.db");
    fs::write(
        environment.path("migrate.sql"),
        "ALTER TABLE episodes ADD COLUMN embedding BLOB; DELETE FROM episodes WHERE id = 1;
         INSERT INTO episodes (id) VALUES (2);",
    )
    .unwrap();
    let guard = |check: &str, sql: &str| {
        let line =
            [&["guard"][..], &SOURCES, &["--check", check, "--", "sqlite3", "-bail", "agentdb.db", sql]]
                .concat();
        environment.json(&line)
    };
    let episodes = "agentdb: SELECT count(*) = 2 FROM episodes";
    let (code, report) = guard(episodes, ".read migrate.sql");
    assert_eq!((code, &report["outcome"]), (Some(1), &"restored".into()), "{report:#}");
    let tasks = || ask::<String>(&agentdb, "SELECT group_concat(task) FROM episodes");
    assert_eq!(tasks(), "generate tests,find flaky ones");
    assert_eq!(ask::<i64>(&agentdb, "SELECT count(*) FROM pragma_table_info('episodes')"), 3);

    // One that works is kept, unless it did not do what it should.
    let (code, report) = guard(episodes, "DELETE FROM episodes");
    assert_eq!((code, &report["outcome"]), (Some(1), &"restored".into()), "{report:#}");
    assert_eq!(report["error"]["kind"], "check-failed");
    assert_eq!(tasks(), "generate tests,find flaky ones");
    let (code, report) = guard(episodes, "ALTER TABLE episodes ADD COLUMN embedding BLOB");
    assert_eq!((code, &report["outcome"]), (Some(0), &"succeeded".into()), "{report:#}");
    assert_eq!(report["changes"][0]["tables"][0]["columns_added"], serde_json::json!(["embedding"]));
    let info = environment.ok_json(&["show", "latest", "--database", "agentdb"]);
    assert_eq!(info["git"]["branch"], "add-embeddings");
    assert_eq!(info["options"]["reason"], "pre-migration");
}

#[test]
fn any_earlier_moment_is_restored_by_its_time_and_verified_before() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let environment = project();
    let agentdb = environment.path("agentdb.db");
    for (number, time) in
        ["2025-01-16T12:00:00Z", "2025-01-17T12:00:00Z", "2025-01-18T12:00:00Z"].iter().enumerate()
    {
        Connection::open(&agentdb)
            .unwrap()
            .execute("UPDATE episodes SET reward = ?1 WHERE id = 1", [number as f64])
            .unwrap();
        let output =
            environment.command(["backup", "agentdb.db"]).env("DBKEEP_TEST_NOW", time).output().unwrap();
        assert!(output.status.success());
    }
    let restored = environment.ok_json(&["restore", "--at", "2025-01-17 18:00", "--to", "then.db"]);
    assert!(restored["moment"].as_str().unwrap().starts_with("2025-01-17T12:00:00"), "{restored:#}");
    assert_eq!(restored["verified"], true);
    assert_eq!(ask::<f64>(&environment.path("then.db"), "SELECT reward FROM episodes WHERE id = 1"), 1.0);
    let listed = environment.ok_json(&["list"]);
    let sizes =
        listed["snapshots"].as_array().unwrap().iter().map(|one| one["bytes_source"].as_u64().unwrap());
    assert!(sizes.into_iter().all(|size| size > 0));
    let all = environment.ok_json(&["verify", "--all"]);
    assert_eq!((&all["ok"], &all["damaged"]), (&3.into(), &0.into()));
    // The last ten are kept; here the last two.
    let kept = environment.ok_json(&["forget", "--keep-last", "2", "--database", "agentdb"]);
    assert_eq!((kept["kept"].as_array().unwrap().len(), kept["forgotten"].as_array().unwrap().len()), (2, 1));
}

#[test]
fn artifact_of_a_scheduled_run_is_one_archive_that_is_verified_on_its_own() {
    let environment = project();
    let line: Vec<&str> = ["backup"].into_iter().chain(SOURCES).collect();
    let session = environment.ok_json(&line)["session"].as_str().unwrap().to_owned();
    environment.ok(["export", "--session", &session, "--out", "artifact", "--format", "tar.gz"]);
    let archive = environment.path("artifact").join(format!("backup_{session}.tar.gz"));
    // Elsewhere, with neither repository nor password.
    let elsewhere = TestEnvironment::without_password();
    let report = elsewhere.ok_json(&["verify", archive.to_str().unwrap()]);
    assert_eq!((&report["ok"], &report["damaged"]), (&2.into(), &0.into()), "{report:#}");
    let facts = &report["files"][0];
    assert_eq!((&facts["git_branch"], &facts["git_commit"]), (&"add-embeddings".into(), &COMMIT.into()));
    assert_eq!(facts["session"], session);
    shell(&elsewhere.path(""), &format!("tar xzf {}", archive.display()));
    let database = elsewhere.path(&format!("backup_{session}/databases/agentdb_{session}.db"));
    assert_eq!(ask::<f64>(&database, "SELECT sum(reward) FROM episodes"), 1.75);
}

#[test]
fn backups_are_listed_compared_sized_and_cleaned_up_to_the_last_ten() {
    let environment = project();
    let agentdb = environment.path("agentdb.db");
    let line: Vec<&str> = ["backup"].into_iter().chain(SOURCES).collect();
    for number in 0..12 {
        Connection::open(&agentdb)
            .unwrap()
            .execute("INSERT INTO episodes (task, reward) VALUES ('again', ?1)", [f64::from(number)])
            .unwrap();
        environment.ok_json(&line);
    }
    // What changed since the last backup, and between two of them.
    Connection::open(&agentdb)
        .unwrap()
        .execute("DELETE FROM episodes WHERE task = 'find flaky ones'", [])
        .unwrap();
    let compared = environment.ok_json(&["compare", "latest", "--database", "agentdb"]);
    assert_eq!(compared["same"], false);
    let table = &compared["tables"][0];
    assert_eq!(
        (&table["name"], &table["rows_left"], &table["rows_right"]),
        (&"episodes".into(), &14.into(), &13.into())
    );
    assert_eq!((&table["added"], &table["removed"], &table["changed"]), (&0.into(), &1.into(), &0.into()));
    let memory = environment.ok_json(&["compare", "latest~3", "latest", "--database", "memory"]);
    assert_eq!(memory["same"], true);

    // The last ten of each are kept, and the sizes are told.
    let cleaned = environment.ok_json(&["clean", "10"]);
    assert_eq!(cleaned["forgotten"].as_array().unwrap().len(), 4, "two of each: {cleaned:#}");
    let listed = environment.ok_json(&["list"]);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 20);
    let size = environment.ok_json(&["size"]);
    for name in ["agentdb", "memory"] {
        let one = size["databases"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
        assert_eq!(one["snapshots"], 10, "{name}: {size:#}");
        assert!(one["bytes_source"].as_u64().unwrap() > 0);
    }
    assert!(size["bytes_stored"].as_u64().unwrap() > 0);
    // What is left is sound, the oldest too.
    let all = environment.ok_json(&["verify", "--all"]);
    assert_eq!((&all["ok"], &all["damaged"]), (&20.into(), &0.into()));
    environment.ok_json(&["restore", "latest~9", "--database", "agentdb", "--to", "oldest.db"]);
    assert_eq!(ask::<i64>(&environment.path("oldest.db"), "SELECT count(*) FROM episodes"), 5);
    environment.ok(["check", "--read-data"]);
}
