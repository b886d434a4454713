//! The harness around the binary and around restic, tried on programs that are known.
#![allow(clippy::unwrap_used)] // a panic is how a test fails, in its helpers too

use std::fs;
use std::time::Duration;

use dbkeep_testkit::process::Dbkeep;
use dbkeep_testkit::restic::{Restic, SKIPPED};

fn shell() -> Dbkeep {
    Dbkeep::new("/bin/sh").unwrap()
}

#[test]
fn nothing_of_our_environment_reaches_the_binary() {
    let dbkeep = shell().with_repository("/somewhere", "secret");
    let script = "echo \"$HOME|$DBKEEP_REPOSITORY|$DBKEEP_PASSWORD|$CARGO|$XDG_STATE_HOME\"; pwd; exit 3";
    let outcome = dbkeep.run(["-c", script]).go().expect_code(3);
    let home = dbkeep.home().display();
    assert_eq!(outcome.stdout, format!("{home}|/somewhere|secret||{home}/.local/state\n{home}\n"));
}

#[test]
fn process_is_killed_at_its_time() {
    let outcome =
        shell().run(["-c", "echo begun; exec sleep 60"]).killed_after(Duration::from_millis(50)).go();
    assert!(outcome.was_killed(), "{}", outcome.transcript());
    assert_eq!(outcome.code(), None);
}

#[test]
fn running_process_is_killed_on_demand() {
    let running = shell().run(["-c", "exec sleep 60"]).start();
    assert!(fs::exists(format!("/proc/{}", running.id())).unwrap());
    assert!(running.kill().was_killed());
}

#[test]
fn step_to_die_at_is_passed_on_and_json_is_read() {
    let script = "echo \"{\\\"step\\\":\\\"$DBKEEP_TEST_KILL_AT\\\"}\"; echo noise >&2";
    let outcome = shell().run(["-c", script]).killed_at("backup.pack-stored:2").success();
    assert_eq!(outcome.json()["step"], "backup.pack-stored:2");
    assert_eq!(outcome.stderr, "noise\n");
}

#[test]
fn memory_of_a_measured_run_is_its_own() {
    // This process is larger than what it measures, and must not count.
    let ballast = vec![1_u8; 300 << 20];
    let small = shell().run(["-c", "exit 7"]).measured().expect_code(7);
    let script = "x=$(head -c 50000000 /dev/zero | tr '\\0' x); test ${#x} = 50000000";
    let large = shell().run(["-c", script]).measured().success();
    let peak = |outcome: &dbkeep_testkit::process::Outcome| outcome.cost.unwrap().peak_rss >> 20;
    assert!(peak(&small) < 20, "{} MiB", peak(&small));
    assert!(peak(&large) > 50, "{} MiB", peak(&large));
    assert_eq!(ballast.len(), 300 << 20);
}

#[test]
fn command_line_is_watched() {
    let outcome = shell().run(["-c", "sleep 0.2; : canary"]).watch_command_line().success();
    assert!(outcome.command_lines.iter().any(|line| line.contains("canary")), "{:?}", outcome.command_lines);
}

#[test]
fn restic_answers() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    let Some(restic) = Restic::find(&repository, "secret") else {
        println!("{SKIPPED}");
        return;
    };
    let file = folder.path().join("a file");
    fs::write(&file, "contents").unwrap();
    restic.init();
    restic.backup(&file);
    restic.check();
    let snapshots = restic.snapshots();
    assert_eq!(snapshots.len(), 1);
    let id = snapshots[0]["short_id"].as_str().unwrap();
    assert!(restic.ls(id).contains(&file.display().to_string()));
    assert_eq!(restic.dump(id, &file.display().to_string()), b"contents");
    let target = folder.path().join("restored");
    restic.restore(id, &target);
    assert_eq!(fs::read(target.join(file.strip_prefix("/").unwrap())).unwrap(), b"contents");
}
