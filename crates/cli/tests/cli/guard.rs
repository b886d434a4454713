//! `dbkeep guard` with real programs: what passes through, exit codes, and what becomes of the databases.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use crate::environment::{Run, TestEnvironment, ask};

mod alembic;
mod jobs;
mod kill;
mod postgres;
mod sessions;
mod unseen;

/// Returns a line that guards `app.db` while a shell runs `script`.
pub(crate) fn line<'l>(options: &[&'l str], script: &'l str) -> Vec<&'l str> {
    [&["guard", "app.db"], options, &["--", "sh", "-c", script]].concat()
}

fn rows(path: &Path) -> i64 {
    ask(path, "SELECT count(*) FROM users")
}

/// Says whether a program is there; tests without it say that they are left out.
pub(crate) fn has(program: &str) -> bool {
    let there = std::process::Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

#[test]
fn migration_that_works_goes_through_with_its_output_and_input() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let mut command = environment.command(line(
        &["--check", "SELECT count(*) = 9 FROM users"],
        "read word; echo out $word; echo err >&2; echo $DBKEEP_GUARD > session; \
         sqlite3 app.db 'DELETE FROM users WHERE id = 1; CREATE TABLE orders(a)'",
    ));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "out hello\n", "only what the command prints");
    assert!(stderr.contains("err\n") && stderr.contains("+ table orders"), "{stderr}");
    assert!(stderr.contains("users: 10 → 9 rows, 0 added, 1 removed, 0 changed"), "{stderr}");
    assert_eq!(rows(&path), 9);
    let list = environment.ok_json(&["list"]);
    assert_eq!(list["snapshots"][0]["reason"], "pre-migration");
    let session = std::fs::read_to_string(environment.path("session")).unwrap();
    assert_eq!(list["snapshots"][0]["session"], session.split(' ').next().unwrap());
}

#[test]
fn report_has_the_keys_of_the_contract_and_standard_output_nothing_else() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 10);
    let script = "echo noise; sqlite3 app.db 'DELETE FROM users'; exit 3";
    let run = environment.run([vec!["--json"], line(&["--name", "drop-users"], script)].concat());
    run.expect(3);
    let report = run.document();
    for key in ["session", "command", "exit", "outcome", "databases", "changes", "error"] {
        assert!(report.get(key).is_some(), "{key} is missing in {report:#}");
    }
    assert!(run.stderr.contains("noise\n"), "{}", run.stderr);
    assert_eq!(report["command"], serde_json::json!(["sh", "-c", script]));
    assert_eq!((&report["exit"], &report["outcome"]), (&3.into(), &"restored".into()));
    assert_eq!(report["error"]["kind"], "command-failed");
    assert_eq!(report["error"]["message"], "the command failed: it exited with 3");
    let database = &report["databases"][0];
    assert_eq!((&database["name"], &database["status"]), (&"app".into(), &"restored".into()));
    assert_eq!((&database["alone"], &database["doubts"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(report["changes"][0]["tables"][0]["removed"], 10);
    let safety = environment.ok_json(&["show", database["safety_snapshot"].as_str().unwrap()]);
    assert_eq!(safety["rows"], 0, "{safety:#}");
    let before = environment.ok_json(&["list"]);
    assert_eq!(before["snapshots"][1]["tags"], serde_json::json!(["drop-users"]));
}

#[test]
fn exit_codes_are_those_of_the_command_or_of_timeout() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let change = "sqlite3 app.db 'DELETE FROM users';";
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 200", 200), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        let run = environment.run(line(&[], &format!("{change} {script}")));
        assert_eq!(run.code, Some(code), "{script}: {}", run.stderr);
        assert_eq!(rows(&path), if code == 0 { 0 } else { 10 }, "{script}");
        if code == 0 {
            environment.ok(["restore", "latest", "--in-place", "--yes"]);
        }
    }
}

#[test]
fn command_that_cannot_be_started_costs_no_backup() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    std::fs::write(environment.path("script"), "#!/bin/sh\n").unwrap();
    for (command, code, hint) in
        [("no-such-program", 127, "spelled"), ("./absent", 127, "spelled"), ("./script", 126, "chmod")]
    {
        let run = environment.run(["guard", "app.db", "--", command]);
        run.expect_failure(code, command, hint);
        assert!(!environment.path("backups").exists(), "{command}");
    }
    // One that is found and cannot be run: nothing has changed, and nothing is left behind.
    std::fs::write(environment.path("script"), "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(environment.path("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = environment.run(["guard", "app.db", "--", "./script"]);
    run.expect_failure(127, "./script could not be started", "spelled");
    environment.ok(["guard", "app.db", "--", "true"]);
}

#[test]
fn wrong_lines_are_failures_of_the_guard_itself() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    environment.run(["guard", "app.db"]).expect_failure(125, "no command is given", "--");
    environment.run(["guard", "app.db", "--on-failur=keep", "--", "true"]).expect_failure(
        125,
        "--on-failur",
        "help",
    );
    environment.run(["guard", "--", "true"]).expect_failure(125, "nothing to back up", "dbkeep.toml");
    environment.run(["guard", "gone.db", "--", "true"]).expect_failure(125, "gone.db", "path");
    environment.run(line(&["--timeout", "soon"], "true")).expect_failure(
        125,
        "\"soon\" is no duration",
        "10m",
    );
    environment.run(line(&["--on-failure", "ask"], "true")).expect_failure(
        125,
        "no terminal",
        "--on-failure keep",
    );
    let (code, document) = environment.json(&["guard", "gone.db", "--", "true"]);
    assert_eq!((code, &document["error"]["kind"]), (Some(125), &"missing".into()));
    assert!(!environment.path("backups").exists(), "nothing was begun");
}

#[test]
fn guard_within_a_guard_is_refused_and_the_outer_one_sees_it_fail() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    let dbkeep = env!("CARGO_BIN_EXE_dbkeep");
    let run = environment.run(line(&[], &format!("{dbkeep} guard app.db -- touch ran")));
    run.expect(125);
    assert!(run.stderr.contains("within the command of a guard already"), "{}", run.stderr);
    assert!(!environment.path("ran").exists());
    assert_eq!(environment.json(&["guard", "--resume"]).1["resumed"], serde_json::json!([]));
}

#[test]
fn command_that_hangs_is_ended_with_all_that_it_started() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    // One that leaves on request, and one that goes on in the background.
    let script = "sqlite3 app.db 'DELETE FROM users WHERE id > 5'; sleep 1000 & sleep 1000";
    let run = environment.run(line(&["--timeout", "1"], script));
    run.expect(124);
    assert!(run.stderr.contains("it took longer than 1 s"), "{}", run.stderr);
    assert_eq!(rows(&path), 10);
    // Nothing of it is left.
    let session = environment.ok_json(&["list"])["snapshots"][1]["session"].as_str().unwrap().to_owned();
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|process| {
        let text = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // Another test may have a guard of the same second.
        text.contains(&format!("DBKEEP_GUARD={session} "))
            && text.contains(&environment.home().display().to_string())
    });
    assert_eq!(left.count(), 0);
    assert_eq!(environment.json(&["guard", "--resume"]).1["resumed"], serde_json::json!([]));
}

#[test]
fn child_that_would_write_after_the_verdict_ends_before_it() {
    if !has("sqlite3") {
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script = "(sleep 1; sqlite3 app.db 'DELETE FROM users'; touch written) & exit 3";
    let run = environment.run(line(&[], script));
    run.expect(3);
    assert!(run.stderr.contains("as it was before the command"), "{}", run.stderr);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((rows(&path), environment.path("written").exists()), (10, false));

    // Where everything is to stay as it is, it does, and that is said.
    let run = environment.run(line(&["--on-failure", "keep"], script));
    run.expect(3);
    assert!(run.stderr.contains("processes of the command still run"), "{}", run.stderr);
    while !environment.path("written").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(rows(&path), 0);
}

#[test]
fn command_that_was_killed_in_a_transaction_after_another_one_is_undone() {
    if !has("python3") {
        return;
    }
    for journal in ["DELETE", "WAL"] {
        let environment = TestEnvironment::new();
        let path = environment.users("app.db", 10);
        // A journal that has to be rolled back, or a log that nobody has taken over, lies beside the file.
        let script = format!(
            "import os, sqlite3
db = sqlite3.connect('app.db', isolation_level=None)
db.execute('PRAGMA journal_mode = {journal}')
db.execute('DELETE FROM users WHERE id > 4')
db.execute('PRAGMA cache_size = 1')
db.execute('BEGIN IMMEDIATE')
db.execute('CREATE TABLE filler (a)')
db.executemany('INSERT INTO filler VALUES (?)', [('x' * 4000,)] * 200)
os.kill(os.getpid(), 9)"
        );
        let run = environment.run(["guard", "app.db", "--", "python3", "-c", &script]);
        run.expect(137);
        assert!(run.stderr.contains("app: restored from snapshot"), "{journal}: {}", run.stderr);
        assert_eq!(rows(&path), 10, "{journal}");
        assert_eq!(ask::<String>(&path, "PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn what_a_guard_has_left_running_may_be_guarded_itself() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 10);
    environment.users("other.db", 10);
    // It waits until the guard that started it has ended.
    let dbkeep = env!("CARGO_BIN_EXE_dbkeep");
    let script = format!(
        "setsid sh -c 'while [ ! -e ended ]; do sleep 0.02; done; {dbkeep} guard other.db -- true; echo $? > code.new; \
         mv code.new code' > log 2>&1 & exit 0"
    );
    let run = environment.run(line(&[], &script));
    run.expect(0);
    std::fs::write(environment.path("ended"), "").unwrap();
    while !environment.path("code").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = std::fs::read_to_string(environment.path("log")).unwrap();
    assert_eq!(std::fs::read_to_string(environment.path("code")).unwrap(), "0\n", "{log}");
}

#[test]
fn transaction_that_was_left_open_by_a_killed_command_is_in_nobodys_way() {
    if !has("sqlite3") {
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script = "(echo 'BEGIN IMMEDIATE; DELETE FROM users;'; sleep 1000) | sqlite3 app.db";
    let run = environment.run(line(&["--timeout", "1"], script));
    run.expect(124);
    assert_eq!(rows(&path), 10);
}

#[test]
fn migration_without_a_transaction_that_fails_half_way_is_undone() {
    if !has("sqlite3") {
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    std::fs::write(
        environment.path("migration.sql"),
        "ALTER TABLE users ADD COLUMN email TEXT;
         UPDATE users SET name = upper(name);
         DROP TABLE users;
         SELECT nonsense;
         CREATE TABLE never(a);",
    )
    .unwrap();
    let run = environment.run(["guard", "app.db", "--", "sqlite3", "-bail", "app.db", ".read migration.sql"]);
    run.expect(1);
    assert!(run.stderr.contains("nonsense"), "{}", run.stderr);
    assert!(run.stderr.contains("- table users"), "{}", run.stderr);
    assert_eq!(
        ask::<String>(&path, "SELECT group_concat(sql) FROM sqlite_schema"),
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)"
    );
    assert_eq!(ask::<String>(&path, "SELECT name FROM users WHERE id = 3"), "user 3");
}

#[test]
fn application_that_has_it_open_goes_on_with_the_old_contents_when_a_person_says_so() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let application = Connection::open(&path).unwrap();
    let count =
        || application.query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 10);
    let run = environment.run(line(&[], "sqlite3 app.db 'DELETE FROM users'; exit 1"));
    run.expect(1);
    assert!(run.stderr.contains("had it open, so a restore may lose what others wrote"), "{}", run.stderr);
    assert_eq!(count(), 0, "this test has it open, so nothing is brought back by itself");

    // The way back that was printed.
    let printed =
        run.stderr.lines().skip_while(|line| !line.contains("back to how it was before")).nth(1).unwrap();
    let words: Vec<&str> = printed.trim().split(' ').skip(1).chain(["--yes"]).collect();
    environment.ok(words);
    assert_eq!(count(), 10);
}

/// A process that writes a row now and then, as an application does that opens the database for each.
fn start_writer(environment: &TestEnvironment) -> Child {
    let script = "i=0; while :; do i=$((i+1)); \
                  sqlite3 -cmd '.timeout 5000' app.db \"INSERT INTO log VALUES ($i)\" && echo $i; sleep 0.05; done";
    std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(environment.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn nothing_that_others_write_meanwhile_is_lost() {
    if !has("sqlite3") {
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE log(i INTEGER)").unwrap();
    let mut writer = start_writer(&environment);
    let mut acknowledged = BufReader::new(writer.stdout.take().unwrap());
    acknowledged.read_line(&mut String::new()).unwrap();
    let run = environment
        .run(line(&[], "sqlite3 -cmd '.timeout 5000' app.db 'DELETE FROM users'; sleep 1; exit 1"));
    run.expect(1);
    let report = environment.ok_json(&["list"]);
    writer.kill().unwrap();
    writer.wait().unwrap();
    let mut rest = String::new();
    acknowledged.read_to_string(&mut rest).unwrap();
    let last: i64 = rest.lines().last().unwrap().parse().unwrap();
    let kept: i64 = ask(&path, "SELECT count(DISTINCT i) FROM log");
    assert!(kept >= last, "{kept} of {last} rows are there: {}", run.stderr);
    assert_eq!(rows(&path), 0, "what the command did was kept: {}", run.stderr);
    assert_eq!(report["snapshots"].as_array().unwrap().len(), 1, "nothing was overwritten");
}

#[test]
fn signals_reach_the_command_and_the_guard_brings_everything_back() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    for (signal, code) in [("TERM", 40), ("INT", 41), ("HUP", 42)] {
        let script = format!(
            "trap 'exit {code}' {signal}; sqlite3 app.db 'DELETE FROM users'; echo ready; while :; do sleep 0.05; done"
        );
        // Whoever runs the tests may ignore a signal, as `nohup` does; a shell could not trap it then.
        let mut command = environment.program("env");
        command.args(["--default-signal", env!("CARGO_BIN_EXE_dbkeep")]).args(line(&[], &script));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut word = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut word).unwrap();
        assert_eq!(word, "ready\n");
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{signal}: {stderr}");
        assert_eq!(rows(&path), 10, "{signal}: {stderr}");
    }
}

#[test]
fn full_repository_keeps_the_command_from_starting() {
    let Some(disk) = std::env::var_os("DBKEEP_TEST_SMALL_DISK") else {
        eprintln!("skipped: no small disk");
        return;
    };
    let folder = tempfile::tempdir_in(disk).unwrap();
    let repository = folder.path().join("repository");
    let environment = TestEnvironment::new();
    let path = environment.database(
        "app.db",
        "CREATE TABLE users(id INTEGER PRIMARY KEY, name BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
         INSERT INTO users SELECT i, randomblob(20000) FROM n",
    );
    let repository = repository.to_str().unwrap();
    let run = environment.run([vec!["--repo", repository, "--json"], line(&[], "touch ran")].concat());
    run.expect(125);
    let report = run.document();
    assert_eq!((&report["outcome"], &report["exit"]), (&"backup-failed".into(), &Value::Null), "{report:#}");
    assert_eq!(report["error"]["kind"], "no-space", "{report:#}");
    assert!(!environment.path("ran").exists());
    assert_eq!(rows(&path), 400);
}

#[test]
fn command_that_takes_the_terminal_gets_it_and_gives_it_back() {
    // `script` runs a line on a terminal of its own.
    if !has("script") {
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let dbkeep = env!("CARGO_BIN_EXE_dbkeep");
    let inner = format!(
        "{dbkeep} guard app.db --on-failure restore -- sh -c 'read word </dev/tty; echo got $word; \
         sqlite3 app.db \"DELETE FROM users\"; exit 5'; echo code $?; read after </dev/tty; echo after $after"
    );
    let mut command = environment.program("script");
    command.args(["-qec", &inner, "/dev/null"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut seen = String::new();
    let began = Instant::now();
    let mut buffer = [0; 4096];
    while !seen.contains("code 5") && began.elapsed() < Duration::from_secs(60) {
        let count = output.read(&mut buffer).unwrap();
        assert!(count > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    input.write_all(b"again\n").unwrap();
    output.read_to_string(&mut seen).unwrap();
    child.wait().unwrap();
    assert!(seen.contains("got hello") && seen.contains("after again"), "{seen}");
    assert_eq!(rows(&path), 10);
}

/// Returns the report of the only guard that was resumed.
fn resumed(run: &Run) -> Value {
    run.document()["resumed"][0].clone()
}
