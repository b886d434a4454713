//! What people get wrong, and what breaks: one clear sentence, a hint, the right exit code, and everything
//! left as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use rusqlite::Connection;

use crate::environment::{Run, TestEnvironment, ask, restic};

/// Runs a command that fails, and expects that nothing below the working directory changed.
#[track_caller]
fn fails(environment: &TestEnvironment, line: &[&str], code: i32, message: &str, hint: &str) -> Run {
    let before = environment.tree();
    let run = environment.run(line);
    run.expect_failure(code, message, hint);
    let after = environment.tree();
    assert!(
        before == after,
        "something changed: {:?}",
        after.iter().map(|(path, _)| path).collect::<Vec<_>>()
    );

    let (json_code, document) = environment.json(line);
    assert_eq!(json_code, Some(code), "{document:#}");
    let error = &document["error"];
    assert!(
        error["kind"].is_string() && error["message"].as_str().unwrap().contains(message),
        "{document:#}"
    );
    assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{document:#}");
    run
}

/// An environment whose repository holds one backup of `app.db`.
fn with_backup() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    environment
}

#[test]
fn file_that_is_no_database() {
    let environment = with_backup();
    fs::write(environment.path("letter.db"), "Dear friend, this is a letter and not a database.").unwrap();
    fails(&environment, &["backup", "letter.db"], 1, "letter.db is not a SQLite database", "");
}

#[test]
fn file_that_is_not_there() {
    let environment = with_backup();
    fails(&environment, &["backup", "ap.db"], 1, "ap.db", "");
    fails(&environment, &["backup", "no/such/dir/app.db"], 1, "no/such/dir/app.db", "");
}

#[test]
fn directory_without_databases() {
    let environment = with_backup();
    fs::create_dir(environment.path("empty")).unwrap();
    fs::write(environment.path("empty/notes.txt"), "nothing here").unwrap();
    fails(&environment, &["backup", "empty"], 1, "no SQLite database in", "by content");
}

#[test]
fn file_that_cannot_be_read() {
    let environment = with_backup();
    let path = environment.users("secret.db", 1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&path).is_ok() {
        eprintln!("skipped: this user can read everything");
        return;
    }
    fails(&environment, &["backup", "secret.db"], 1, "secret.db", "");
}

#[test]
fn damaged_database_is_stored_marked_and_never_counted_as_good() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 3000);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;").unwrap();
    drop(connection);
    environment.ok(["backup", "app.db"]);
    let mut bytes = fs::read(&path).unwrap();
    let page = 4096 * 3;
    bytes[page..page + 2000].fill(0xa5);
    fs::write(&path, &bytes).unwrap();

    let run = environment.run(["backup", "app.db"]);
    run.expect(4);
    assert!(run.stdout.contains("corrupt"), "{}", run.stdout);
    assert!(run.stderr.contains("warning: app is damaged"), "{}", run.stderr);
    let (code, report) = environment.json(&["backup", "app.db"]);
    assert_eq!(code, Some(4), "{report:#}");
    assert_eq!(report["databases"][0]["status"], "corrupt");
    assert_ne!(report["databases"][0]["integrity"], "ok");
    assert!(report.get("error").is_none());

    // `latest` is the newest good one.
    let restored = environment.ok_json(&["restore", "latest", "--to", "good.db"]);
    assert_eq!(restored["integrity"], "ok");
    assert_eq!(ask::<i64>(&environment.path("good.db"), "SELECT count(*) FROM users"), 3000);
    assert_eq!(fs::read(&path).unwrap(), bytes, "the source is as it was");
}

#[test]
fn encrypted_database_is_stored_as_it_is_and_not_called_good() {
    let environment = TestEnvironment::new();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(16384)
    .collect();
    fs::write(environment.path("vault.db"), &noise).unwrap();
    let run = environment.ok(["backup", "vault.db"]);
    let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("warning: vault")).collect();
    assert_eq!(warnings.len(), 1, "one sentence: {}", run.stderr);
    assert!(warnings[0].ends_with("not as an image that was checked: it looks encrypted"), "{}", run.stderr);
    let (_, hint) = run.stderr.split_once("encrypted\nhint: ").unwrap();
    assert!(hint.contains("never counts as good"), "{}", run.stderr);
    let report = environment.ok_json(&["backup", "vault.db"]);
    assert_eq!(report["databases"][0]["integrity"], "not run");
    let id = report["databases"][0]["snapshot"].as_str().unwrap();
    assert_eq!(environment.ok_json(&["show", id])["repository"]["good"], false);
    assert_eq!(environment.ok_json(&["list"])["snapshots"][0]["integrity"], "not run");
    let status = environment.run(["status"]);
    assert!(status.stdout.contains("vault: it has no good snapshot"), "{}", status.stdout);
    environment.ok(["restore", id, "--to", "back.db"]);
    assert!(fs::read(environment.path("back.db")).unwrap() == noise);
}

#[test]
fn wrong_password() {
    let environment = with_backup();
    fs::write(environment.path("wrong"), "battery staple\n").unwrap();
    for line in [&["list"][..], &["backup", "app.db"], &["restore", "latest"], &["check"], &["key", "list"]] {
        let line = [&["--password-file", "wrong"], line].concat();
        let run = fails(&environment, &line, 12, "wrong password", "");
        assert!(!run.stderr.contains("battery"), "{}", run.stderr);
    }
}

#[test]
fn password_file_that_is_not_there() {
    let environment = with_backup();
    let named = ["--password-file", "nowhere", "list"];
    let run = fails(&environment, &named, 1, "nowhere does not exist", "--password-file names it");
    assert!(!run.stderr.contains("entity"), "{}", run.stderr);
}

#[test]
fn no_password_at_all() {
    let environment = with_backup();
    let bare = |line: &[&str]| {
        let mut command = environment.command(line);
        command.env_remove("DBKEEP_PASSWORD_FILE");
        Run::of(command)
    };
    bare(&["list"]).expect_failure(12, "no password for the repository", "--password-file");
    bare(&["--repo", "new", "backup", "app.db"]).expect_failure(
        2,
        "no password for a new repository",
        "--new-key",
    );
    bare(&["--repo", "new", "init"]).expect_failure(2, "no password for a new repository", "--new-key");
    assert!(!environment.path("new").exists());
    assert!(!environment.home().join(".config").exists());
}

#[test]
fn no_repository() {
    let environment = TestEnvironment::new();
    for line in [
        &["list"][..],
        &["show", "latest"],
        &["restore", "latest"],
        &["verify"],
        &["check"],
        &["status"],
        &["forget", "latest"],
        &["key", "list"],
        &["key", "show-recovery"],
    ] {
        fails(&environment, line, 10, "no repository at", "dbkeep init");
    }
}

#[test]
fn repository_that_was_there_and_is_gone_is_never_made_anew() {
    let environment = with_backup();
    fs::rename(environment.path("backups"), environment.path("elsewhere")).unwrap();
    for line in [&["backup", "app.db"][..], &["list"], &["check"]] {
        let run = fails(&environment, line, 10, "is gone", "mounted");
        let error = run.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        let last_used = error.rsplit_once(' ').unwrap().1;
        assert!(last_used.len() == 20 && last_used.ends_with('Z'), "whole seconds: {error}");
    }
    fs::create_dir(environment.path("backups")).unwrap();
    fails(&environment, &["backup", "app.db"], 10, "is gone", "mounted");
    fs::remove_dir(environment.path("backups")).unwrap();
    fs::rename(environment.path("elsewhere"), environment.path("backups")).unwrap();
    environment.ok(["backup", "app.db"]);
}

#[test]
fn place_that_holds_something_else() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    fs::create_dir(environment.path("backups")).unwrap();
    fs::write(environment.path("backups/holiday.jpg"), "a picture").unwrap();
    fails(&environment, &["init"], 1, "not empty", "");
    fails(&environment, &["backup", "app.db"], 10, "no repository at", "--repo");
}

#[test]
fn init_where_a_repository_is() {
    let environment = with_backup();
    fails(&environment, &["init"], 2, "there is a repository at", "dbkeep status");
}

#[test]
fn repository_that_another_process_has_locked() {
    use dbkeep_engine::{Context, Environment, GlobalOptions, Unobserved, Watch, repository};
    let environment = with_backup();
    let options = GlobalOptions {
        repository: Some(environment.path("backups").display().to_string()),
        password_file: Some(environment.path("../password")),
        ..GlobalOptions::default()
    };
    let holder = tempfile::tempdir().unwrap();
    let context = Context::load(Environment::isolated(holder.path()), &options).unwrap();
    let watch: Watch = std::sync::Arc::new(Unobserved);
    let store = repository::open(&context, jiff::Timestamp::now(), &watch).unwrap();
    let lock = store.repository().lock_exclusive(jiff::Timestamp::now()).unwrap();
    let run = fails(&environment, &["backup", "app.db"], 11, "locked", "");
    assert!(run.stderr.contains(&std::process::id().to_string()), "the holder is named: {}", run.stderr);
    drop(lock);
    environment.ok(["backup", "app.db"]);
}

#[test]
fn damage_in_the_repository_is_named_with_the_snapshots_it_affects() {
    let environment = with_backup();
    let id = environment.ok_json(&["list"])["snapshots"][0]["id"].as_str().unwrap().to_owned();
    for (path, mut bytes) in environment.tree() {
        if path.starts_with(environment.path("backups/data")) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
    let run = environment.run(["check", "--read-data"]);
    run.expect(4);
    assert!(
        run.stdout.contains("finding:") && run.stdout.contains(&format!("affects {} of app", &id[..8])),
        "{}",
        run.stdout
    );
    let (code, check) = environment.json(&["check", "--read-data"]);
    assert_eq!((code, &check["ok"]), (Some(4), &false.into()));
    assert_eq!(check["findings"][0]["affects"], serde_json::json!([id]));
    assert!(check.get("error").is_none(), "a finding is no failure: {check:#}");

    let (code, verify) = environment.json(&["verify", &id]);
    assert_eq!(code, Some(4), "{verify:#}");
    assert_eq!(verify["checked"][0]["status"], "damaged");
    let run = environment.run(["restore", &id, "--to", "back.db"]);
    run.expect_failure(1, "damaged", "");
    assert!(!environment.path("back.db").exists(), "nothing damaged is restored");
}

#[test]
fn repository_of_version_1() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    let Some(mut restic) = restic(&environment) else { return };
    let made = restic.args(["init", "--repository-version", "1"]).stdout(Stdio::null()).status().unwrap();
    assert!(made.success());
    fails(&environment, &["list"], 1, "version 1", "");
    fails(&environment, &["backup", "app.db"], 1, "version 1", "");
}

#[test]
fn another_repository_than_before() {
    let environment = with_backup();
    fs::rename(environment.path("backups"), environment.path("first")).unwrap();
    let other = TestEnvironment::new();
    other.ok(["init"]);
    fs::rename(other.path("backups"), environment.path("backups")).unwrap();
    let run = environment.run(["list"]);
    run.expect(0);
    assert!(run.stderr.contains("warning: another repository than before"), "{}", run.stderr);
}

#[test]
fn configuration_with_an_unknown_key() {
    let environment = TestEnvironment::new();
    fs::write(environment.path("dbkeep.toml"), "[repository]\nlocaton = \"store\"\n").unwrap();
    let run = fails(&environment, &["list"], 2, "locaton", "location");
    assert!(run.stderr.contains("dbkeep.toml:2"), "{}", run.stderr);
    fails(&environment, &["config", "check"], 2, "locaton", "location");
}

#[test]
fn configuration_that_is_not_there() {
    let environment = TestEnvironment::new();
    fails(&environment, &["--config", "nowhere.toml", "list"], 2, "nowhere.toml", "");
}

#[test]
fn configuration_that_others_can_write() {
    let environment = TestEnvironment::new();
    let path = environment.path("dbkeep.toml");
    fs::write(&path, "[repository]\nlocation = \"store\"\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    fails(&environment, &["list"], 2, "dbkeep.toml is not used", "chmod");
}

#[test]
fn nothing_to_back_up() {
    let environment = TestEnvironment::new();
    fails(&environment, &["backup"], 2, "nothing to back up", "give a path");
}

#[test]
fn snapshot_that_is_not_there() {
    let environment = with_backup();
    fails(&environment, &["show", "0123456789abcdef"], 1, "no snapshot", "");
    fails(&environment, &["restore", "latest~7"], 1, "no snapshot", "");
    fails(&environment, &["restore", "latest", "--database", "ap"], 1, "ap", "");
}

#[test]
fn id_that_fits_two_snapshots() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    // Seventeen ids have two that begin with the same of sixteen digits.
    for _ in 0..17 {
        environment.ok(["backup", "app.db"]);
    }
    let list = environment.ok_json(&["list"]);
    let ids: Vec<&str> =
        list["snapshots"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    let digit =
        ids.iter().map(|id| &id[..1]).find(|digit| ids.iter().filter(|id| id.starts_with(digit)).count() > 1);
    let digit = digit.unwrap();
    let run = fails(&environment, &["show", digit], 1, "snapshots", "more digits");
    for id in ids.iter().filter(|id| id.starts_with(digit)) {
        assert!(run.stderr.contains(&id[..8]), "{id} is not named in {}", run.stderr);
    }
}

#[test]
fn latest_of_several_databases() {
    let environment = with_backup();
    environment.users("shop.db", 2);
    environment.ok(["backup", "shop.db"]);
    let run = fails(&environment, &["restore", "latest"], 2, "several databases", "--database");
    assert!(run.stderr.contains("app") && run.stderr.contains("shop"), "{}", run.stderr);
}

#[test]
fn name_that_belongs_to_another_database() {
    let environment = with_backup();
    environment.users("other/app.db", 9);
    fails(&environment, &["backup", "other/app.db"], 2, "belongs to another database", "--name");
    environment.ok(["backup", "other/app.db", "--name", "app-of-other"]);
}

#[test]
fn two_sources_with_one_name() {
    let environment = TestEnvironment::new();
    environment.users("a/app.db", 1);
    environment.users("b/app.db", 2);
    fails(
        &environment,
        &["backup", "a/app.db", "b/app.db"],
        2,
        "two databases would be called \"app\"",
        "--name",
    );
}

#[test]
fn restore_over_a_file_that_exists() {
    let environment = with_backup();
    environment.users("other.db", 9);
    fails(&environment, &["restore", "latest", "--to", "other.db"], 1, "other.db exists", "--in-place");
    fails(&environment, &["restore", "latest", "--to", "app.db"], 1, "app.db exists", "--in-place");
}

#[test]
fn restore_in_place_over_something_that_is_not_the_same_database() {
    let environment = with_backup();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(environment.path(&format!("app.db{suffix}")));
    }
    environment.database(
        "app.db",
        "PRAGMA application_id = 77; CREATE TABLE accounting (x); INSERT INTO accounting VALUES (1);",
    );
    fails(&environment, &["restore", "latest", "--in-place", "--yes"], 1, "app.db", "--force");
}

#[test]
fn restore_in_place_without_a_confirmation() {
    let environment = with_backup();
    fails(&environment, &["restore", "latest", "--in-place"], 2, "confirm", "--yes");
}

#[test]
fn restore_without_a_snapshot_off_a_terminal() {
    let environment = with_backup();
    fails(&environment, &["restore"], 2, "which snapshot", "latest");
}

#[test]
fn restore_at_a_time_that_cannot_be_read_or_has_no_snapshot() {
    let environment = with_backup();
    fails(&environment, &["restore", "--at", "some day"], 2, "some day", "");
    let run =
        fails(&environment, &["restore", "--at", "2001-01-01"], 1, "2001-01-01T23:59:59", "the oldest is");
    assert!(!run.stderr.contains('.'), "whole seconds: {}", run.stderr);
}

#[test]
fn table_that_is_not_there_names_what_is() {
    let environment = with_backup();
    let run = fails(&environment, &["restore", "latest", "--table", "usres", "--to", "t.db"], 1, "usres", "");
    assert!(run.stderr.contains("users"), "{}", run.stderr);
}

#[test]
fn target_in_use() {
    let environment = with_backup();
    let connection = Connection::open(environment.path("app.db")).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO users VALUES (99, 'in flight');").unwrap();
    let run = environment.run(["restore", "latest", "--in-place", "--yes"]);
    run.expect_failure(1, "app.db", "");
    connection.execute_batch("COMMIT").unwrap();
    assert_eq!(ask::<i64>(&environment.path("app.db"), "SELECT count(*) FROM users"), 6);
}

#[test]
fn postgres_and_its_password_are_named_but_not_shown() {
    let environment = TestEnvironment::new();
    let run = environment.run(["backup", "postgres://ada:hunter2@db.example/app"]);
    run.expect_failure(1, "db.example", "");
    let warning =
        "warning: a password on the command line can be seen by other users of this machine\nhint: ";
    let advice = run.stderr.split_once(warning).expect(&run.stderr).1;
    assert!(advice.lines().next().unwrap().contains("env:NAME"), "{}", run.stderr);
    assert!(!run.stderr.contains("hunter2") && !run.stdout.contains("hunter2"), "{}", run.stderr);
    let (_, document) = environment.json(&["backup", "postgres://ada:hunter2@db.example/app"]);
    assert!(!document.to_string().contains("hunter2"), "{document:#}");
}

#[test]
fn variable_that_is_not_set() {
    let environment = with_backup();
    fails(&environment, &["backup", "env:DATABASE_URL"], 2, "DATABASE_URL is not set", "");
}

#[test]
fn address_of_an_api_is_no_connection_string_and_the_hint_says_where_that_is() {
    let environment = with_backup();
    let hint = "the connection string is in the dashboard of the project under Connect";
    let api = "SUPABASE_URL=https://abcdefghijklm.supabase.co\nSUPABASE_ANON_KEY=secret\n";
    fs::write(environment.path(".env"), api).unwrap();
    fails(&environment, &["backup", "env:DATABASE_URL"], 2, "DATABASE_URL is not set", hint);
    fs::write(environment.path("dbkeep.toml"), "[databases.app]\npostgres = \"env:DATABASE_URL\"\n").unwrap();
    fails(&environment, &["backup"], 2, "DATABASE_URL is not set", hint);
    let told = "env:SUPABASE_URL leads to a web page or an API, and to no database";
    let run = fails(&environment, &["backup", "env:SUPABASE_URL"], 1, told, hint);
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("abcdefghijklm"), "{}", run.stderr);
}

#[test]
fn report_that_cannot_be_written_after_the_backup_does_not_hide_what_was_stored() {
    let environment = with_backup();
    // A name that no file system takes: found only when it is written.
    let name = "r".repeat(300);
    let line = ["backup", "app.db", "--report", &name];
    let run = environment.run(line);
    run.expect_failure(1, "could not write the report", "is safe");
    assert!(run.stdout.contains("restore with:") && run.stdout.contains("unchanged"), "{}", run.stdout);
    let (code, document) = environment.json(&line);
    assert_eq!(code, Some(1));
    assert_eq!(
        (&document["status"], &document["error"]["kind"]),
        (&"ok".into(), &"io".into()),
        "{document:#}"
    );
    let snapshot = document["databases"][0]["snapshot"].as_str().unwrap();
    environment.ok(["restore", snapshot, "--to", "back.db"]);

    // With databases that failed, the exit code stays theirs.
    let run = environment.run(["backup", "app.db", "nowhere.db", "--report", &name]);
    run.expect(3);
    assert!(run.stderr.contains("warning: could not write the report"), "{}", run.stderr);
}

#[test]
fn report_that_cannot_be_written_fails_before_anything_is_stored() {
    let environment = with_backup();
    fails(
        &environment,
        &["backup", "app.db", "--report", "no/such/dir/report.json"],
        1,
        "no/such/dir/report.json",
        "",
    );
}

#[test]
fn comparison_of_what_cannot_be_compared() {
    let environment = with_backup();
    environment.users("other.db", 5);
    environment.ok(["backup", "other.db"]);
    fails(&environment, &["compare", "latest"], 2, "several databases: app, other", "--database app");
    fails(&environment, &["compare", "0123"], 1, "no snapshot", "list");
    let latest = |database: &str| {
        let list = environment.ok_json(&["list", "--database", database]);
        list["snapshots"][0]["id"].as_str().unwrap().to_owned()
    };
    let (app, other) = (latest("app"), latest("other"));
    fails(&environment, &["compare", &app, &other], 1, "are of different databases", "--force");
    fails(&environment, &["compare", &app, "--table", "usres"], 1, "no table usres", "did you mean users?");
    fails(&environment, &["compare", &app, "--limit", "3"], 2, "--rows", "--help");
    fs::remove_file(environment.path("app.db")).unwrap();
    for sibling in ["app.db-wal", "app.db-shm"] {
        let _ = fs::remove_file(environment.path(sibling));
    }
    fails(&environment, &["compare", &app], 1, "app.db", "");
}
