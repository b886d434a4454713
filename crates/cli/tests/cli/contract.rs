//! What programs rely on: the keys of every JSON document, and exit codes.

use serde_json::Value;

use crate::environment::{TestEnvironment, ask};

/// Expects that `document` is an object that has all of `keys`.
#[track_caller]
fn has(document: &Value, keys: &str) {
    let object = document.as_object().unwrap_or_else(|| panic!("no object: {document}"));
    for key in keys.split_whitespace() {
        assert!(object.contains_key(key), "{key:?} is missing in {document:#}");
    }
}

fn is_id(value: &Value) -> bool {
    let digits =
        |id: &str| id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    value.as_str().is_some_and(digits)
}

fn is_utc(value: &Value) -> bool {
    value.as_str().is_some_and(|time| time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok())
}

#[test]
fn backup_report_has_the_keys_and_values_of_the_contract() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 11);
    let report = environment.ok_json(&["backup", "app.db"]);
    has(&report, "session status started finished repository totals databases copies");
    has(&report["totals"], "databases failed rows bytes_source bytes_read bytes_added bytes_stored ratio");
    let database = &report["databases"][0];
    has(
        database,
        "name engine source status snapshot parent bytes_source bytes_read bytes_added bytes_stored root sha256 tables \
         rows integrity duration_ms error",
    );
    assert!(report.get("error").is_none(), "{report:#}");
    assert_eq!(report["status"], "ok");
    assert!(is_utc(&report["started"]) && is_utc(&report["finished"]));
    assert_eq!(report["copies"], serde_json::json!([]));
    assert_eq!(report["totals"]["databases"], 1);
    assert_eq!(report["totals"]["rows"], 11);
    assert!(report["totals"]["ratio"].is_f64());
    assert_eq!(
        (&database["name"], &database["engine"], &database["source"], &database["status"]),
        (&"app".into(), &"sqlite".into(), &"app.db".into(), &"ok".into())
    );
    assert!(is_id(&database["snapshot"]) && is_id(&database["root"]) && is_id(&database["sha256"]));
    assert_eq!(database["parent"], Value::Null);
    assert_eq!(database["tables"], serde_json::json!([{ "name": "users", "rows": 11 }]));
    assert_eq!(database["integrity"], "ok");
    assert_eq!(database["error"], Value::Null);

    let again = environment.ok_json(&["backup", "app.db"]);
    let unchanged = &again["databases"][0];
    assert_eq!(unchanged["status"], "unchanged");
    assert_eq!(unchanged["parent"], database["snapshot"]);
    assert_ne!(unchanged["snapshot"], database["snapshot"]);
    assert_eq!(unchanged["root"], database["root"]);
    assert_eq!(unchanged["rows"], 11);
    assert_eq!(unchanged["bytes_added"], 0);
    assert_ne!(again["session"], report["session"]);
}

#[test]
fn session_with_a_bad_source_is_partial_and_keeps_the_good_one() {
    let environment = TestEnvironment::new();
    environment.users("good.db", 2);
    std::fs::write(environment.path("bad.db"), "this is not a database, it is a letter to a friend").unwrap();
    let (code, report) = environment.json(&["backup", "good.db", "bad.db"]);
    assert_eq!(code, Some(3), "{report:#}");
    assert_eq!(report["status"], "partial");
    assert_eq!(report["totals"]["failed"], 1);
    assert_eq!(report["databases"][0]["status"], "ok");
    assert_eq!(report["databases"][1]["status"], "failed");
    assert_eq!(report["databases"][1]["snapshot"], Value::Null);
    has(&report["databases"][1]["error"], "kind message hint");
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 1);
}

#[test]
fn session_where_all_failed_is_a_failure_beside_its_report() {
    let environment = TestEnvironment::new();
    std::fs::write(environment.path("a.db"), "not a database at all, and long enough to be looked at")
        .unwrap();
    std::fs::write(environment.path("b.db"), "not a database at all, and long enough to be looked at")
        .unwrap();
    let (code, report) = environment.json(&["backup", "a.db", "b.db"]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["status"], "failed");
    has(&report["error"], "kind message hint");
    assert_eq!(report["databases"].as_array().unwrap().len(), 2);
}

#[test]
fn list_and_show_have_the_keys_of_the_contract() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 3);
    let backup = environment.ok_json(&["backup", "app.db", "--tag", "blue", "--reason", "pre-migration"]);
    let list = environment.ok_json(&["list"]);
    let row = &list["snapshots"][0];
    has(
        row,
        "id short_id time database engine session reason tags host rows tables bytes_source bytes_added integrity \
         verified drilled pinned",
    );
    assert_eq!(row["id"], backup["databases"][0]["snapshot"]);
    assert_eq!(row["short_id"].as_str().unwrap(), &row["id"].as_str().unwrap()[..8]);
    assert!(is_utc(&row["time"]));
    assert_eq!(row["session"], backup["session"]);
    assert_eq!(row["reason"], "pre-migration");
    assert_eq!(row["tags"], serde_json::json!(["blue"]));
    assert_eq!((&row["rows"], &row["tables"]), (&3.into(), &1.into()));
    assert_eq!(
        (&row["integrity"], &row["verified"], &row["pinned"]),
        (&"ok".into(), &Value::Null, &false.into())
    );

    let show = environment.ok_json(&["show", row["short_id"].as_str().unwrap()]);
    has(&show, "format dbkeep session database identity tables rows repository");
    has(&show["repository"], "id tree parent chunks");
    assert_eq!(show["repository"]["id"], row["id"]);
    assert_eq!(show["tables"], serde_json::json!([{ "name": "users", "rows": 3 }]));
}

#[test]
fn list_is_newest_first_and_narrows() {
    let environment = TestEnvironment::new();
    environment.users("a.db", 1);
    environment.users("b.db", 2);
    let first = environment.ok_json(&["backup", "a.db", "--tag", "one"]);
    let second = environment.ok_json(&["backup", "a.db", "b.db"]);
    let names = |arguments: &[&str]| -> Vec<String> {
        let list = environment.ok_json(&[&["list"], arguments].concat());
        list["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["session"].as_str().unwrap().to_owned())
            .collect()
    };
    let (first, second) = (first["session"].as_str().unwrap(), second["session"].as_str().unwrap());
    assert_eq!(names(&[]), [second, second, first]);
    assert_eq!(names(&["--database", "a"]), [second, first]);
    assert_eq!(names(&["--session", first]), [first]);
    assert_eq!(names(&["--session", "latest"]), [second, second]);
    assert_eq!(names(&["--tag", "one"]), [first]);
    assert_eq!(names(&["--last", "1"]), [second]);
}

#[test]
fn restore_report_has_the_keys_of_the_contract_and_the_file_is_the_database() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 5);
    let backup = environment.ok_json(&["backup", "app.db"]);
    let report = environment.ok_json(&["restore", "latest", "--to", "restored.db"]);
    has(
        &report,
        "snapshot database target moment safety_snapshot rows bytes_written pages_written integrity duration_ms verified",
    );
    assert_eq!(report["snapshot"], backup["databases"][0]["snapshot"]);
    assert_eq!(report["database"], "app");
    assert_eq!(report["safety_snapshot"], Value::Null);
    assert_eq!(report["verified"], true);
    assert_eq!(report["integrity"], "ok");
    assert_eq!(report["rows"], 5);
    assert_eq!(ask::<i64>(&environment.path("restored.db"), "SELECT count(*) FROM users"), 5);
}

#[test]
fn restore_in_place_brings_rows_back_and_its_safety_backup_takes_them_away_again() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    rusqlite::Connection::open(&path).unwrap().execute_batch("DELETE FROM users WHERE id > 1").unwrap();
    let report = environment.ok_json(&["restore", "latest", "--in-place", "--yes"]);
    assert!(is_id(&report["safety_snapshot"]), "{report:#}");
    assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM users"), 5);
    let safety = report["safety_snapshot"].as_str().unwrap();
    environment.ok(["restore", safety, "--in-place", "--yes"]);
    assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM users"), 1);
}

#[test]
fn status_shows_the_last_backup_and_not_the_safety_backup() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 5);
    let backup = environment.ok_json(&["backup", "app.db"]);
    rusqlite::Connection::open(&path).unwrap().execute_batch("DELETE FROM users WHERE id > 1").unwrap();
    environment.ok(["restore", "latest", "--in-place", "--yes"]);
    let status = environment.ok_json(&["status"]);
    let database = &status["databases"][0];
    assert_eq!(database["snapshots"], 2);
    assert_eq!(database["last_snapshot"], backup["databases"][0]["snapshot"]);
    assert_eq!(database["rows"], 5);
}

#[test]
fn restore_of_a_session_answers_for_each_database() {
    let environment = TestEnvironment::new();
    environment.users("a.db", 1);
    environment.users("b.db", 2);
    let backup = environment.ok_json(&["backup", "a.db", "b.db"]);
    let report = environment.ok_json(&["restore", "--session", "latest", "--to", "restored"]);
    has(&report, "session status restores");
    assert_eq!(report["session"], backup["session"]);
    assert_eq!(report["status"], "ok");
    assert_eq!(report["restores"].as_array().unwrap().len(), 2);
    for restored in report["restores"].as_array().unwrap() {
        let target = environment.path("").join(restored["target"].as_str().unwrap());
        let rows = if restored["database"] == "a" { 1 } else { 2 };
        assert_eq!(ask::<i64>(&target, "SELECT count(*) FROM users"), rows, "{restored:#}");
    }
}

#[test]
fn restore_dry_run_changes_nothing() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    rusqlite::Connection::open(&path).unwrap().execute_batch("DELETE FROM users").unwrap();
    let before = environment.tree();
    environment.ok_json(&["restore", "latest", "--to", "restored.db", "--dry-run"]);
    environment.ok_json(&["restore", "latest", "--in-place", "--dry-run"]);
    assert_eq!(environment.tree(), before);
}

#[test]
fn verify_check_and_status_have_the_keys_of_the_contract() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 4);
    let backup = environment.ok_json(&["backup", "app.db"]);
    let snapshot = &backup["databases"][0]["snapshot"];

    let verify = environment.ok_json(&["verify", "latest"]);
    has(&verify, "checked ok damaged");
    has(&verify["checked"][0], "snapshot database status findings");
    assert_eq!((&verify["ok"], &verify["damaged"]), (&1.into(), &0.into()));
    assert_eq!(&verify["checked"][0]["snapshot"], snapshot);
    assert!(is_utc(&environment.ok_json(&["list"])["snapshots"][0]["verified"]));

    let check = environment.ok_json(&["check"]);
    has(&check, "ok packs blobs snapshots bytes_read findings");
    assert_eq!(
        (&check["ok"], &check["snapshots"], &check["findings"]),
        (&true.into(), &1.into(), &serde_json::json!([]))
    );
    let read = environment.ok_json(&["check", "--read-data"]);
    assert!(read["bytes_read"].as_u64().unwrap() > check["bytes_read"].as_u64().unwrap());

    let status = environment.ok_json(&["status"]);
    has(&status, "repository databases");
    assert_eq!(status["databases"][0]["name"], "app");
}

#[test]
fn forget_by_id_keeps_the_last_good_one_unless_forced() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 4);
    let first = environment.ok_json(&["backup", "app.db"])["databases"][0]["snapshot"].clone();
    environment.ok(["backup", "app.db"]);
    let first = first.as_str().unwrap();

    let planned = environment.ok_json(&["forget", first, "--dry-run"]);
    has(&planned, "kept forgotten refused");
    has(&planned["kept"][0], "id reasons time database");
    assert_eq!((&planned["forgotten"][0]["id"], &planned["forgotten"][1]), (&first.into(), &Value::Null));
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 2);

    assert_eq!(environment.ok_json(&["forget", first])["forgotten"][0]["id"], first);
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 1);

    let (code, refused) = environment.json(&["forget", "latest"]);
    assert_eq!(code, Some(1), "{refused:#}");
    has(&refused["refused"][0], "id why");
    has(&refused["error"], "kind message hint");
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 1);

    environment.ok(["forget", "latest", "--force"]);
    assert_eq!(environment.ok_json(&["list"])["snapshots"], serde_json::json!([]));
    environment.ok(["check"]);
}

#[test]
fn forget_by_a_policy_shows_what_stays_and_why() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 4);
    let ids: Vec<String> = (0..3)
        .map(|_| {
            environment.ok_json(&["backup", "app.db"])["databases"][0]["snapshot"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    has(&environment.ok_json(&["pin", &ids[0]]), "snapshot database pinned changed");

    let planned = environment.ok(["forget", "--keep-last", "1", "--dry-run"]).stdout;
    let line = |id: &str| planned.lines().find(|line| line.contains(&id[..8])).unwrap();
    assert!(line(&ids[2]).contains("keep") && line(&ids[2]).contains("one of the newest"), "{planned}");
    assert!(line(&ids[1]).contains("forget"), "{planned}");
    assert!(line(&ids[0]).contains("held for good"), "{planned}");

    let done = environment.ok_json(&["forget", "--keep-last", "1", "--keep-within", "1ns"]);
    has(&done, "kept forgotten refused");
    assert_eq!(done["forgotten"][0]["id"], ids[1]);
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 2);
    environment.ok(["unpin", &ids[0]]);
    environment.ok(["forget", "--keep-last", "1"]);
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 1);
    environment.ok(["check"]);

    for wrong in [
        &["forget", "--keep-last", "0"] as &[&str],
        &["forget", "--keep-within", "soon"],
        &["forget", "--keep-last", "1", "--force"],
        &["forget", "latest", "--keep-last", "1"],
    ] {
        assert_eq!(environment.json(wrong).0, Some(2), "{wrong:?}");
    }
    assert_eq!(environment.json(&["forget", "--keep-last", "1", "--database", "ap"]).0, Some(1));
}

#[test]
fn keys_are_added_listed_used_and_removed() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    environment.ok(["backup", "app.db"]);
    std::fs::write(environment.path("second"), "another one\n").unwrap();
    let added = environment.ok_json(&["key", "add", "--new-password-file", "second"]);
    assert!(is_id(&added["id"]));
    let keys = environment.ok_json(&["key", "list"]);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    has(&keys["keys"][0], "id short_id created user host current");
    let with_second = environment.ok_json(&["--password-file", "second", "key", "list"]);
    let current: Vec<_> =
        with_second["keys"].as_array().unwrap().iter().filter(|key| key["current"] == true).collect();
    assert_eq!(current[0]["id"], added["id"]);

    let (code, document) =
        environment.json(&["--password-file", "second", "key", "remove", added["id"].as_str().unwrap()]);
    assert_eq!(code, Some(1), "the key in use stays: {document:#}");
    environment.ok(["key", "remove", added["id"].as_str().unwrap()]);
    let run = environment.run(["--password-file", "second", "list"]);
    run.expect_failure(12, "wrong password", "");
}

#[test]
fn init_report_says_where_the_generated_key_is() {
    let environment = TestEnvironment::without_password();
    let report = environment.ok_json(&["init", "--new-key"]);
    has(&report, "repository id key_file");
    let key_file = std::path::PathBuf::from(report["key_file"].as_str().unwrap());
    assert!(key_file.starts_with(environment.home().join(".config/dbkeep/keys")), "{report:#}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    environment.users("app.db", 1);
    environment.ok(["backup", "app.db"]);
    environment.ok(["list"]);
}

#[test]
fn config_commands_check_show_and_explain() {
    let environment = TestEnvironment::new();
    let example = environment.ok(["config", "example"]).stdout;
    std::fs::write(environment.path("dbkeep.toml"), "[repository]\nlocation = \"store\"\n").unwrap();
    environment.ok(["config", "check"]);
    let shown = environment.ok_json(&["config", "show"]);
    has(&shown, "file repository repository_from config");
    assert!(shown["repository"].as_str().unwrap().ends_with("/store"), "{shown:#}");
    let schema = environment.ok_json(&["config", "schema"]);
    has(&schema, "$schema properties");
    std::fs::write(environment.path("example.toml"), example).unwrap();
    environment.ok(["--config", "example.toml", "config", "check"]);
}

#[test]
fn setup_makes_a_configuration_an_ignore_entry_and_the_first_backup() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 3);
    environment.users("data/shop.db", 4);
    let report = environment.ok_json(&["init", "--setup"]);
    has(&report, "repository id key_file setup backup");
    assert_eq!(report["backup"]["totals"]["rows"], 7);
    let ignored = std::fs::read_to_string(environment.path(".gitignore")).unwrap();
    assert!(ignored.lines().any(|line| line == "/backups/" || line == "/backups"), "{ignored}");
    environment.ok(["config", "check"]);
    // From now on no source has to be named.
    let again = environment.ok_json(&["backup"]);
    assert_eq!(again["totals"]["databases"], 2);

    let shown = TestEnvironment::new();
    shown.users("app.db", 3);
    let run = shown.ok(["init", "--setup"]);
    assert!(run.stdout.contains("dbkeep.toml") && run.stdout.contains("restore with:"), "{}", run.stdout);
}

#[test]
fn snapshots_of_other_tools_are_listed_and_left_alone() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 3);
    environment.ok(["backup", "app.db"]);
    let Some(mut restic) = crate::environment::restic(&environment) else { return };
    assert!(
        restic.args(["-q", "backup", "app.db"]).current_dir(environment.path("")).status().unwrap().success()
    );
    let list = environment.ok_json(&["list"]);
    let rows = list["snapshots"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let theirs = rows.iter().find(|row| row["database"].is_null()).unwrap();
    assert!(environment.ok(["list"]).stdout.contains("(not ours)"));
    environment.ok(["show", theirs["id"].as_str().unwrap()]);
    let (code, document) = environment.json(&["forget", theirs["id"].as_str().unwrap()]);
    assert_eq!(code, Some(1), "{document:#}");
    assert_eq!(environment.ok_json(&["restore", "latest", "--to", "back.db"])["database"], "app");
    environment.ok(["check", "--read-data"]);
}

#[test]
fn export_and_verify_of_files_have_their_keys() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 11);
    let backup = environment.ok_json(&["backup", "app.db"]);
    let report = environment.ok_json(&["export", "latest", "--out", "out", "--format", "json"]);
    has(&report, "session format out totals databases files duration_ms");
    has(&report["totals"], "databases rows bytes_source bytes_written");
    let one = &report["databases"][0];
    has(one, "database snapshot moment status tables rows bytes_source bytes_written sha256 integrity");
    assert_eq!(one["snapshot"], backup["databases"][0]["snapshot"]);
    assert_eq!((&report["session"], &report["format"]), (&backup["session"], &"json".into()));
    let session = report["session"].as_str().unwrap();
    let files = report["files"].as_array().unwrap();
    assert_eq!(files[0]["path"], format!("app_{session}.json"));
    assert!(is_id(&files[0]["sha256"]) && files[0]["bytes"].as_u64().unwrap() > 0);

    let text = std::fs::read(environment.path(&format!("out/app_{session}.json"))).unwrap();
    let document: Value = serde_json::from_slice(&text).unwrap();
    has(&document, "metadata tables");
    has(
        &document["metadata"],
        "format dbkeep session database engine snapshot source environment moment exported user host git reason tags \
         integrity bytes_source root sha256 settings values row_counts rows columns cycles schema notes",
    );
    assert_eq!(document["tables"]["users"][0], serde_json::json!({ "id": 1, "name": "user 1" }));

    let report = environment.ok_json(&["verify", &format!("out/app_{session}.json")]);
    has(&report, "checked ok damaged files");
    has(
        &report["checked"][0],
        "snapshot database status findings file form tables rows bytes sha256 checksum integrity cannot_hold",
    );
    has(&report["files"][0], "path written_by session time user host git_branch git_commit");
}
