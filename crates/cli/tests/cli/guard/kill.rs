//! kill -9 of a guard at every step: no write is lost, the next guard says what happened, `--resume` finishes.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{line, resumed, rows};
use crate::environment::{TestEnvironment, ask};

/// A migration that fails half-way, and waits for nobody.
const FAILS: &str = "sqlite3 app.db 'DELETE FROM users WHERE id > 4'; exit 3";
const WORKS: &str = "sqlite3 app.db 'DELETE FROM users WHERE id > 4'";

/// Returns the steps of a guard's own that a run passes.
fn steps(script: &str) -> BTreeSet<String> {
    let environment = TestEnvironment::new();
    environment.users("app.db", 10);
    let run = environment.run([vec!["--progress=json"], line(&[], script)].concat());
    let events = run.stderr.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let steps = events.filter_map(|event| Some(event["step"].as_str()?.to_owned()));
    // Those of a backup alone have a test of their own.
    steps.filter(|step| !step.starts_with("init.") && !step.starts_with("verify.")).collect()
}

/// Waits until nothing of a killed guard's command is left.
fn wait_for_the_command(environment: &TestEnvironment) {
    let began = Instant::now();
    while environment.run(["guard", "--resume"]).stderr.contains("still runs") {
        assert!(began.elapsed() < Duration::from_secs(60), "the command does not end");
        thread::sleep(Duration::from_millis(20));
    }
}

fn killed_at(environment: &TestEnvironment, step: &str, script: &str) -> bool {
    let output = environment.command(line(&[], script)).env("DBKEEP_TEST_KILL_AT", step).output().unwrap();
    output.status.signal() == Some(9)
}

/// Makes sure that the database is exactly that of before, or what the command made of it.
#[track_caller]
fn expect_whole(path: &Path, step: &str) -> i64 {
    assert_eq!(ask::<String>(path, "PRAGMA integrity_check"), "ok", "after {step}");
    let found = rows(path);
    assert!(found == 10 || found == 4, "{found} rows after {step}");
    found
}

#[test]
fn guard_of_a_command_that_fails_is_finished_after_a_kill_at_any_step() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let steps = steps(FAILS);
    assert!(steps.iter().filter(|step| step.starts_with("guard.")).count() >= 10, "{steps:?}");
    assert!(steps.contains("restore.committed"), "{steps:?}");
    for step in &steps {
        let environment = TestEnvironment::new();
        let path = environment.users("app.db", 10);
        assert!(killed_at(&environment, step, FAILS), "{step} was not reached");
        wait_for_the_command(&environment);
        let found = expect_whole(&path, step);

        // Without being told, nothing is brought back that cannot be shown to be right.
        let run = environment.run(["--json", "guard", "--resume"]);
        match (run.code, found) {
            (Some(0), _) => assert_eq!(expect_whole(&path, step), 10, "{step}: {}", run.stdout),
            (Some(125), 4) => {
                let report = resumed(&run);
                assert_eq!(report["outcome"], "kept", "{step}: {report:#}");
                assert!(run.stderr.contains("--on-failure restore"), "{step}: {}", run.stderr);
                let next = environment.run(line(&[], "touch ran"));
                assert_eq!(next.code, Some(125), "{step}: {}", next.stderr);
                assert!(next.stderr.contains("an earlier guard did not end"), "{step}: {}", next.stderr);
                assert!(!environment.path("ran").exists(), "{step}");
                assert_eq!(rows(&path), 4, "{step}");
                let told = environment.ok_json(&["guard", "--resume", "--on-failure", "restore"]);
                assert_eq!(told["resumed"][0]["outcome"], "restored", "{step}: {told:#}");
                let safety = told["resumed"][0]["databases"][0]["safety_snapshot"].as_str().unwrap();
                assert_eq!(environment.ok_json(&["show", safety])["rows"], 4, "{step}");
            }
            (code, found) => panic!("{step}: {code:?} with {found} rows: {}{}", run.stdout, run.stderr),
        }
        assert_eq!(expect_whole(&path, step), 10, "{step}");
        // Nothing is in the way of the next one.
        let run = environment.run(line(&[], FAILS));
        assert_eq!((run.code, rows(&path)), (Some(3), 10), "{step}: {}", run.stderr);
        assert_eq!(environment.ok_json(&["check", "--read-data"])["ok"], true, "{step}");
    }
}

#[test]
fn guard_of_a_command_that_works_keeps_its_work_after_a_kill_at_any_step() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    for step in steps(WORKS).iter().filter(|step| step.starts_with("guard.")) {
        let environment = TestEnvironment::new();
        let path = environment.users("app.db", 10);
        assert!(killed_at(&environment, step, WORKS), "{step} was not reached");
        wait_for_the_command(&environment);
        let found = expect_whole(&path, step);
        let run = environment.run(["--json", "guard", "--resume"]);
        // Whether it succeeded is not known while its guard had not seen it end.
        if run.code == Some(125) {
            assert_eq!(found, 4, "{step}");
            environment.ok(["guard", "--resume", "--on-failure", "keep"]);
        } else {
            assert_eq!(run.code, Some(0), "{step}: {}", run.stderr);
        }
        assert_eq!(rows(&path), found, "{step}: nothing was brought back");
        environment.ok(line(&[], "true"));
    }
}

#[test]
fn guard_that_was_killed_before_its_command_is_no_reason_to_refuse_the_next_one() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    assert!(killed_at(&environment, "guard.recorded", WORKS));
    let run = environment.run(["--json", "guard", "--resume"]);
    run.expect(0);
    assert_eq!(resumed(&run)["outcome"], "not-started");

    assert!(killed_at(&environment, "guard.looked", WORKS));
    // What others wrote since is theirs.
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM users WHERE id = 1", []).unwrap();
    let run = environment.run(line(&[], WORKS));
    run.expect(0);
    assert!(run.stderr.contains("its command was not started"), "{}", run.stderr);
    assert_eq!(rows(&path), 3);
    let listed = environment.ok_json(&["list"]);
    let pinned = listed["snapshots"].as_array().unwrap().iter().filter(|row| row["pinned"] == true).count();
    assert_eq!(pinned, 0, "{listed:#}");
}

#[test]
fn guard_of_two_databases_is_finished_after_a_kill_at_any_step() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let script = "for db in app other; do sqlite3 $db.db 'DELETE FROM users WHERE id > 4'; done; exit 3";
    let line = ["guard", "app.db", "other.db", "--", "sh", "-c", script];
    let steps = [
        "guard.starting",
        "guard.taken-down",
        "guard.restoring",
        "restore.pages-written:2",
        "restore.committed",
    ];
    for step in steps.into_iter().chain(["guard.restored-one", "guard.restored-one:2"]) {
        let environment = TestEnvironment::new();
        let paths = [environment.users("app.db", 10), environment.users("other.db", 10)];
        let output = environment.command(line).env("DBKEEP_TEST_KILL_AT", step).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step} was not reached");
        wait_for_the_command(&environment);
        for path in &paths {
            expect_whole(path, step);
        }
        let run = environment.run(["guard", "--resume", "--on-failure", "restore"]);
        assert!(run.code == Some(0), "{step}: {}", run.stderr);
        assert_eq!(paths.map(|path| expect_whole(&path, step)), [10, 10], "{step}: {}", run.stderr);
        assert_eq!(environment.json(&["guard", "--resume"]).1["resumed"], serde_json::json!([]), "{step}");
    }
}

fn signal(process: &std::process::Child, signal: &str) {
    let status = std::process::Command::new("kill").args([signal, &process.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn guard_that_was_stopped_itself_knows_that_it_saw_nothing() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script = "sqlite3 app.db 'DELETE FROM users WHERE id > 4'; touch ready; while [ ! -e end ]; do sleep 0.02; done; exit 3";
    let guard = environment.command(line(&[], script)).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !environment.path("ready").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    signal(&guard, "-STOP");
    thread::sleep(Duration::from_secs(7));
    signal(&guard, "-CONT");
    std::fs::write(environment.path("end"), "").unwrap();
    let output = guard.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), rows(&path)), (Some(3), 4), "{told}");
    assert!(told.contains("nobody looked out for others for"), "{told}");
}

#[test]
fn interrupt_after_the_command_has_run_is_a_failure_of_the_guard() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let go_on = environment.path("go-on");
    let mut command = environment.command(line(&[], "sqlite3 app.db 'DELETE FROM users'; touch ran; exit 3"));
    command.env("DBKEEP_TEST_WAIT_AT", format!("guard.judged:{}", go_on.display()));
    let guard = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !environment.path("ran").exists() && began.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(10));
    }
    // Until its signals are its own again.
    thread::sleep(Duration::from_secs(1));
    signal(&guard, "-INT");
    thread::sleep(Duration::from_millis(200));
    std::fs::write(&go_on, "").unwrap();
    let output = guard.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), rows(&path)), (Some(125), 0), "{told}");
    assert!(told.contains("guard --resume"), "{told}");
    environment.ok(["guard", "--resume", "--on-failure", "restore"]);
    assert_eq!(rows(&path), 10);
}

#[test]
fn command_that_outlives_its_guard_is_told_and_waited_for() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script = "sqlite3 app.db 'DELETE FROM users WHERE id > 4'; touch ready; while [ ! -e end ]; do sleep 0.02; done";
    let mut guard = environment.command(line(&[], script)).spawn().unwrap();
    while !environment.path("ready").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let second = environment.run(line(&[], "true"));
    second.expect_failure(125, "app is guarded already", "wait");
    environment.run(["guard", "--resume"]).expect_failure(125, "app is guarded already", "wait");
    guard.kill().unwrap();
    guard.wait().unwrap();
    environment.run(["guard", "--resume"]).expect_failure(125, "still runs (process", "kill -TERM -- -");
    std::fs::write(environment.path("end"), "").unwrap();
    wait_for_the_command(&environment);
    let run = environment.run(["guard", "--resume"]);
    run.expect(125);
    assert!(run.stderr.contains("how its command ended is not known"), "{}", run.stderr);
    assert_eq!(rows(&path), 4);
    environment.ok(["guard", "--resume", "--on-failure", "keep"]);
    assert_eq!(rows(&path), 4);
    environment.ok(line(&[], "true"));
}
