//! What a person sees: tables, hints, prompts, colours, progress; and what a terminal must not be told.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::environment::{Run, TestEnvironment, ask};

/// Runs a line on a terminal that `script` makes; types `answer` once `question` is on the screen. `None`,
/// with a message, where there is no `script`.
fn on_terminal(environment: &TestEnvironment, line: &[&str], question: &str, answer: &str) -> Option<Run> {
    let quoted: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    let inner = format!("stty cols 200 rows 50; '{}' {}", env!("CARGO_BIN_EXE_dbkeep"), quoted.join(" "));
    let mut command = environment.program("script");
    command
        .args(["-qefc", &inner, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: script is not installed");
        return None;
    };
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut asked = question.is_empty();
    let mut buffer = [0; 4096];
    loop {
        let count = screen.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        shown.extend_from_slice(&buffer[..count]);
        if !asked && String::from_utf8_lossy(&shown).contains(question) {
            asked = true;
            keyboard.write_all(answer.as_bytes()).unwrap();
            keyboard.flush().unwrap();
        }
    }
    let status = child.wait().unwrap();
    drop(keyboard);
    let stdout = String::from_utf8_lossy(&shown).into_owned();
    assert!(asked, "{question:?} was not asked in:\n{stdout}");
    Some(Run { code: status.code(), stdout, stderr: String::new() })
}

#[test]
fn backup_ends_with_the_exact_command_that_restores_it() {
    let environment = TestEnvironment::new();
    environment.users("it's a shop.db", 7);
    let run = environment.ok(["backup", "it's a shop.db"]);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let at = lines.iter().position(|line| *line == "restore with:").unwrap();
    let command = lines[at + 1].trim();
    assert_eq!(lines.len(), at + 2, "nothing comes after it: {}", run.stdout);
    assert!(command.contains(" restore "), "{command}");

    // As a person would: copied into a shell, in another directory.
    let elsewhere = environment.home();
    let mut shell = environment.program("sh");
    shell.args(["-c", &format!("{command} --to \"$PWD/back.db\"")]).current_dir(&elsewhere);
    Run::of(shell).expect(0);
    assert_eq!(ask::<i64>(&elsewhere.join("back.db"), "SELECT count(*) FROM users"), 7);
}

#[test]
fn reminder_of_the_recovery_sheet_ends_when_it_was_shown() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    assert!(environment.ok(["backup", "app.db"]).stderr.contains("reminder: keep a copy of the key"));
    assert!(environment.ok(["backup", "app.db"]).stderr.contains("reminder: keep a copy of the key"));
    let sheet = environment.ok(["key", "show-recovery"]).stdout;
    assert!(sheet.contains("correct horse") && sheet.contains("restic -r"), "{sheet}");
    assert!(!environment.ok(["backup", "app.db"]).stderr.contains("reminder"));
}

#[test]
fn first_backup_with_a_new_key_says_where_the_key_is() {
    let environment = TestEnvironment::without_password();
    environment.users("app.db", 1);
    let run = environment.ok(["backup", "app.db", "--new-key"]);
    let keys = environment.home().join(".config/dbkeep/keys");
    assert!(run.stdout.contains("made an encrypted repository in"), "{}", run.stdout);
    assert!(run.stdout.contains(&format!("its key is in {}", keys.display())), "{}", run.stdout);
    assert!(run.stdout.contains("key show-recovery"), "{}", run.stdout);
    assert!(environment.path("backups/config").exists());
    assert!(environment.ok(["list"]).stdout.contains("app"));
}

#[test]
fn quiet_keeps_results_and_drops_messages() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    let run = environment.ok(["-q", "backup", "app.db"]);
    assert_eq!(run.stderr, "");
    assert!(run.stdout.contains("restore with:"));
    assert_eq!(environment.ok(["-q", "list"]).stderr, "");
}

#[test]
fn no_colours_and_no_bars_where_there_is_no_terminal() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 100);
    for line in
        [&["backup", "app.db"][..], &["list"], &["verify"], &["check"], &["status"], &["show", "latest"]]
    {
        let run = environment.ok(line);
        assert!(!run.stdout.contains('\x1b') && !run.stderr.contains('\x1b'), "{line:?}");
        assert!(!run.stderr.contains('\r'), "{line:?}: {}", run.stderr);
    }
}

#[test]
fn control_characters_of_names_are_shown_not_obeyed() {
    let environment = TestEnvironment::new();
    let name = "evil\x1b[31m\u{202e}name\n.db";
    environment.database(
        name,
        "CREATE TABLE \"t\x1b]0;title\x07\" (x); INSERT INTO \"t\x1b]0;title\x07\" VALUES (1);",
    );
    let backup = environment.ok(["backup", name]);
    let id = environment.ok_json(&["list"])["snapshots"][0]["short_id"].as_str().unwrap().to_owned();
    for run in [
        backup,
        environment.ok(["list"]),
        environment.ok(["show", &id]),
        environment.ok(["verify"]),
        environment.ok(["status"]),
    ] {
        let all = run.stdout + &run.stderr;
        assert!(!all.contains(['\x1b', '\x07', '\u{202e}']), "{all:?}");
    }
    let list = environment.ok_json(&["list"]);
    assert_eq!(list["snapshots"][0]["database"], "evil\x1b[31m\u{202e}name\n", "machines get the true name");
}

#[test]
fn progress_as_json_is_one_event_a_line() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 2000);
    let run = environment.ok(["--progress=json", "backup", "app.db"]);
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["event"] == "phase"), "{}", run.stderr);
    assert!(
        events.iter().any(|event| event["event"] == "progress" && event["done"].as_u64() > Some(0)),
        "{}",
        run.stderr
    );
    let failed = environment.run(["--progress=json", "show", "0123"]);
    failed.expect(1);
    let last: Value = serde_json::from_str(failed.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "error");
}

#[test]
fn reader_that_goes_away_changes_nothing() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    let mut child = environment
        .command(["backup", "app.db"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 1);
}

#[test]
fn log_file_has_one_event_a_line() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    let configuration = |format: &str| {
        let text = format!(
            "[log]\nfile = \"log/{format}.log\"\nformat = \"{format}\"\nrotate = \"never\"\nlevel = \"trace\"\n"
        );
        std::fs::write(environment.path("dbkeep.toml"), text).unwrap();
    };
    configuration("text");
    environment.ok(["backup", "app.db"]);
    let text = std::fs::read_to_string(environment.path("log/text.log")).unwrap();
    assert!(text.contains("event=backed-up session=") && text.contains("event=finished exit=0"), "{text}");
    for line in text.lines() {
        assert!(line.starts_with("time=") && line.contains(" level="), "{line}");
    }
    configuration("json");
    environment.ok(["backup", "app.db"]);
    let json = std::fs::read_to_string(environment.path("log/json.log")).unwrap();
    assert!(!json.is_empty());
    for line in json.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event["level"].is_string() && event["timestamp"].is_string(), "{line}");
    }
    assert!(!(text + &json).contains("correct horse"));
}

#[test]
fn terminal_gets_colours_unless_they_are_not_wanted() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 1);
    environment.ok(["backup", "app.db"]);
    let Some(run) = on_terminal(&environment, &["list"], "", "") else { return };
    run.expect(0);
    assert!(run.stdout.contains("\x1b[32m") || run.stdout.contains("\x1b[38;5;"), "{:?}", run.stdout);
    let plain = environment.with("NO_COLOR", "1");
    let run = on_terminal(&plain, &["list"], "", "").unwrap();
    assert!(!run.stdout.contains("\x1b["), "{:?}", run.stdout);
}

#[test]
fn first_backup_on_a_terminal_makes_a_key_and_says_so() {
    let environment = TestEnvironment::without_password();
    environment.users("app.db", 1);
    let Some(run) = on_terminal(&environment, &["backup", "app.db"], "", "") else { return };
    run.expect(0);
    assert!(run.stdout.contains("its key is in"), "{}", run.stdout);
}

#[test]
fn name_typed_on_a_terminal_confirms_a_restore_in_place() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    Connection::open(&path).unwrap().execute_batch("DELETE FROM users").unwrap();
    let Some(run) = on_terminal(&environment, &["restore", "latest", "--in-place"], "Type app", "ap\r")
    else {
        return;
    };
    run.expect(2);
    assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM users"), 0);
    let run = on_terminal(&environment, &["restore", "latest", "--in-place"], "Type app", "app\r").unwrap();
    run.expect(0);
    assert_eq!(ask::<i64>(&path, "SELECT count(*) FROM users"), 5);
}

#[test]
fn snapshot_is_chosen_from_a_list_on_a_terminal() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    Connection::open(&path).unwrap().execute_batch("DELETE FROM users").unwrap();
    environment.ok(["backup", "app.db"]);
    // One down from the newest.
    let Some(run) = on_terminal(&environment, &["restore", "--to", "older.db"], "Restore which", "\x1b[B\r")
    else {
        return;
    };
    run.expect(0);
    assert_eq!(ask::<i64>(&environment.path("older.db"), "SELECT count(*) FROM users"), 5);
}

#[test]
fn password_is_asked_for_on_a_terminal_when_nothing_gives_one() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    let bare = environment.with("DBKEEP_PASSWORD_FILE", "");
    let Some(run) = on_terminal(&bare, &["list"], "Password of", "correct horse\r") else { return };
    run.expect(0);
    assert!(run.stdout.contains("app"), "{}", run.stdout);
    assert!(!run.stdout.contains("correct horse"), "{}", run.stdout);
    on_terminal(&bare, &["list"], "Password of", "battery staple\r").unwrap().expect(12);
}

#[test]
fn interrupted_backup_ends_with_130_and_a_sound_store() {
    let environment = TestEnvironment::new();
    // Large enough that the signal arrives before the end; a backup that was faster is no failure.
    environment.database(
        "app.db",
        "PRAGMA journal_mode = WAL; CREATE TABLE t (x BLOB);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
         INSERT INTO t SELECT randomblob(20000) FROM n;",
    );
    environment.ok(["init"]);
    let mut command = environment.command(["--json", "--progress=json", "backup", "app.db"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first event says that the work has begun.
    let mut events = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut events, &mut line).unwrap();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    std::io::copy(&mut events, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(130), "{document:#}");
        assert_eq!(document["error"]["kind"], "interrupted", "{document:#}");
        assert_eq!(environment.ok_json(&["list"])["snapshots"], serde_json::json!([]));
    }
    assert_eq!(environment.ok_json(&["check", "--read-data"])["ok"], true);
    environment.ok(["backup", "app.db"]);
}
