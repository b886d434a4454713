//! Others whom the guard cannot look at: of another user, or outside of its container.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use super::{has, rows};
use crate::environment::TestEnvironment;

const USER: u32 = 1000;

/// Says whether this test may become other users; those that cannot say that they are left out.
fn is_root() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    if !is_root {
        eprintln!("skipped: not root");
    }
    is_root && has("setpriv") && has("unshare")
}

fn give_away(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

/// Runs the binary by `wrapper`, with the variables of the environment.
fn run_by(environment: &TestEnvironment, wrapper: &[&str], arguments: &[&str]) -> Output {
    let mut command = environment.program(wrapper[0]);
    command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_dbkeep")).args(arguments).output().unwrap()
}

fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

const BY_USER: [&str; 6] = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"];

/// An environment that belongs to an ordinary user.
fn of_user() -> (TestEnvironment, std::path::PathBuf) {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    give_away(environment.home().parent().unwrap());
    (environment, path)
}

#[test]
fn ordinary_user_gets_his_database_back() {
    if !is_root() {
        return;
    }
    let (environment, path) = of_user();
    let script = "sqlite3 app.db 'DELETE FROM users'; exit 3";
    let output = run_by(&environment, &BY_USER, &["--json", "guard", "app.db", "--", "sh", "-c", script]);
    let report = document(&output);
    assert_eq!((&report["outcome"], output.status.code()), (&"restored".into(), Some(3)), "{report:#}");
    assert_eq!(rows(&path), 10);
}

#[test]
fn process_of_another_user_that_may_not_be_looked_at_is_seen_by_its_locks() {
    if !is_root() {
        return;
    }
    let (environment, path) = of_user();
    let script =
        "touch now; while ! test -e written; do sleep 0.05; done; sqlite3 app.db 'DELETE FROM users'; exit 1";
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            while !environment.path("now").exists() {
                thread::sleep(Duration::from_millis(10));
            }
            // This test is root, so an ordinary user cannot see what it has open; and it is gone before the end.
            let other = Connection::open(&path).unwrap();
            other.execute_batch("BEGIN IMMEDIATE; INSERT INTO users VALUES (11, 'theirs')").unwrap();
            // As long as a look of the guard takes on a busy machine.
            thread::sleep(Duration::from_secs(2));
            other.execute_batch("COMMIT").unwrap();
            drop(other);
            for beside in ["app.db", "app.db-wal", "app.db-shm"] {
                let _ = chown(environment.path(beside), Some(USER), Some(USER));
            }
            std::fs::write(environment.path("written"), "").unwrap();
        });
        run_by(&environment, &BY_USER, &["--json", "guard", "app.db", "--", "sh", "-c", script])
    });
    let report = document(&output);
    assert_eq!(report["outcome"], "kept", "{report:#}");
    let doubts = report["databases"][0]["doubts"].to_string();
    assert!(doubts.contains(&format!("process {} ", std::process::id())), "{doubts}");
    assert_eq!(rows(&path), 0);
}

#[test]
fn file_that_another_user_may_write_to_unseen_is_kept() {
    if !is_root() {
        return;
    }
    let (environment, path) = of_user();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut other = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "1000"])
        .spawn()
        .unwrap();
    let script = "sqlite3 app.db 'DELETE FROM users'; exit 1";
    let output = run_by(&environment, &BY_USER, &["--json", "guard", "app.db", "--", "sh", "-c", script]);
    other.kill().unwrap();
    other.wait().unwrap();
    let report = document(&output);
    assert_eq!(report["outcome"], "kept", "{report:#}");
    let doubts = report["databases"][0]["doubts"].to_string();
    assert!(doubts.contains("one of another user may have had it open"), "{doubts}");
    assert_eq!(rows(&path), 0);
}

#[test]
fn what_processes_outside_of_a_container_write_is_not_taken_for_nothing() {
    if !is_root() {
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script =
        "touch now; while ! test -e written; do sleep 0.05; done; sqlite3 app.db 'DELETE FROM users'; exit 1";
    let container = ["unshare", "--pid", "--fork", "--mount-proc"];
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            while !environment.path("now").exists() {
                thread::sleep(Duration::from_millis(10));
            }
            Connection::open(&path).unwrap().execute("INSERT INTO users VALUES (11, 'theirs')", []).unwrap();
            std::fs::write(environment.path("written"), "").unwrap();
        });
        run_by(&environment, &container, &["--json", "guard", "app.db", "--", "sh", "-c", script])
    });
    if String::from_utf8_lossy(&output.stderr).contains("Operation not permitted") {
        return eprintln!("skipped: no name spaces");
    }
    let report = document(&output);
    assert_eq!(report["outcome"], "kept", "{report:#}");
    let doubts = report["databases"][0]["doubts"].to_string();
    assert!(doubts.contains("outside of this container"), "{doubts}");
    assert_eq!(rows(&path), 0);
}

#[test]
fn file_is_kept_where_nobody_could_tell_that_it_was_written_meanwhile() {
    if !is_root() {
        return;
    }
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let masked = "mount --bind /dev/null /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let without_boot = ["unshare", "--mount", "sh", "-c", masked, "sh"];
    let script = "sqlite3 app.db 'DELETE FROM users'; exit 1";
    let output =
        run_by(&environment, &without_boot, &["--json", "guard", "app.db", "--", "sh", "-c", script]);
    let told = String::from_utf8_lossy(&output.stderr);
    if told.contains("Operation not permitted") || told.contains("permission denied") {
        return eprintln!("skipped: no name spaces");
    }
    let report = document(&output);
    assert_eq!(report["outcome"], "kept", "{report:#}");
    let doubts = report["databases"][0]["doubts"].to_string();
    assert!(doubts.contains("cannot be told on this system"), "{doubts}");
    assert_eq!(rows(&path), 0);
}
