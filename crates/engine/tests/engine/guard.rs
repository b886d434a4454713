//! Guarded closures: when databases are brought back, and when they are not.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dbkeep_engine::backup::BackupRequest;
use dbkeep_engine::guard::{self, Choice, GuardRequest, OnFailure, Resume};
use dbkeep_engine::report::{GuardOutcome, GuardReport, GuardedStatus};
use dbkeep_engine::restore::RestoreRequest;
use dbkeep_engine::{ErrorKind, Result};
use rusqlite::Connection;

use crate::fixture::{Fixture, insert, to};

mod elsewhere;
mod late;
mod unfinished;

/// Guards a closure over `app.db`, or what the request names.
fn guarded(
    fixture: &Fixture,
    request: &GuardRequest,
    run: impl FnMut() -> Result<(), String>,
) -> Result<GuardReport> {
    let mut task = guard::closure(run);
    let never = |_: &GuardReport| -> Result<Choice> { panic!("nobody is asked") };
    guard::run(&fixture.context, request, &mut task, &never, fixture.now(), &fixture.watch())
}

fn of(sources: &[&str]) -> GuardRequest {
    GuardRequest {
        sources: sources.iter().map(|&source| source.to_owned()).collect(),
        command: vec!["migrate".to_owned()],
        ..GuardRequest::default()
    }
}

fn resumed(fixture: &Fixture, on_failure: Option<OnFailure>) -> Result<Vec<GuardReport>> {
    let request = Resume { sources: vec![], on_failure };
    let never = |_: &GuardReport| -> Result<Choice> { panic!("nobody is asked") };
    guard::resume(&fixture.context, &request, &never, fixture.now(), &fixture.watch())
}

fn execute(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn rows(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM items", [], |row| row.get(0)).unwrap()
}

/// A database of ten rows that nobody has open.
fn database(fixture: &Fixture, name: &str) -> PathBuf {
    drop(fixture.database(name, 10));
    fixture.path(name)
}

/// Returns a process that has a file open and does nothing else.
fn keep_open(path: &Path) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", "exec 3<\"$1\"; echo open; read -r _", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn change_that_works_is_kept_and_told() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let request =
        GuardRequest { checks: vec!["SELECT count(*) = 7 FROM items".to_owned()], ..of(&["app.db"]) };
    let report = guarded(&fixture, &request, || {
        execute(&path, "DELETE FROM items WHERE id > 7; CREATE TABLE orders(id INTEGER PRIMARY KEY)");
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.outcome, report.exit, report.exit_code()), (GuardOutcome::Succeeded, Some(0), 0));
    let one = &report.databases[0];
    assert_eq!((one.status, one.alone, one.integrity.as_str()), (GuardedStatus::Changed, true, "ok"));
    assert!(one.checks[0].ok && one.snapshot.is_some() && one.safety_snapshot.is_none());
    let changes = &report.changes[0];
    assert_eq!(changes.schema.added[0].name, "orders");
    let items = changes.tables.iter().find(|table| table.name == "items").unwrap();
    assert_eq!((items.rows_left, items.rows_right, items.removed), (10, 7, 3));
    assert_eq!(rows(&path), 7);
    assert_eq!(resumed(&fixture, None).unwrap(), [], "nothing is left to be resumed");
}

#[test]
fn change_that_fails_half_way_is_undone_and_its_state_is_kept_in_the_repository() {
    let fixture = Fixture::new();
    for journal in ["DELETE", "WAL"] {
        let name = format!("{journal}.db");
        let path = database(&fixture, &name);
        execute(&path, &format!("PRAGMA journal_mode = {journal}"));
        let before = rows(&path);
        let report = guarded(&fixture, &of(&[&name]), || {
            execute(&path, "DROP TABLE items; CREATE TABLE half(a)");
            Err("no such column: total".to_owned())
        });
        let report = report.unwrap();
        assert_eq!((report.outcome, report.exit_code()), (GuardOutcome::Restored, 1), "{report:#?}");
        assert_eq!(report.failure.as_deref(), Some("no such column: total"));
        assert_eq!(report.databases[0].status, GuardedStatus::Restored);
        assert!(report.databases[0].pages_written > 0);
        assert_eq!(rows(&path), before);
        let safety = report.databases[0].safety_snapshot.unwrap().to_string();
        let failed = fixture.path(&format!("failed-{name}"));
        let request = RestoreRequest { snapshot: Some(safety), ..to(&format!("failed-{name}")) };
        fixture.restored(&request);
        execute(&failed, "SELECT a FROM half");
    }
}

#[test]
fn failure_that_changed_nothing_is_no_reason_to_write() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let mut other = keep_open(&path);
    let report = guarded(&fixture, &of(&["app.db"]), || Err("could not connect".to_owned())).unwrap();
    assert_eq!(report.outcome, GuardOutcome::Restored);
    let one = &report.databases[0];
    assert_eq!((one.status, one.safety_snapshot, one.bytes_written), (GuardedStatus::Unchanged, None, 0));
    assert!(!one.alone, "somebody else had it open: {one:?}");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn database_that_others_have_open_at_any_time_is_kept() {
    type Opens = fn(&str) -> bool;
    let moments: [(&str, Opens); 3] = [
        ("before", |step| step == "backup.locked"),
        ("at the start", |step| step == "guard.recorded"),
        ("at the end", |step| step == "guard.started"),
    ];
    for (when, opens) in moments {
        let fixture = Fixture::new();
        let path = database(&fixture, "app.db");
        let other = std::sync::Arc::new(std::sync::Mutex::new(None));
        let (slot, file) = (std::sync::Arc::clone(&other), path.clone());
        fixture.at_step(move |step| {
            if opens(step) && slot.lock().unwrap().is_none() {
                *slot.lock().unwrap() = Some(keep_open(&file));
            }
        });
        let report = guarded(&fixture, &of(&["app.db"]), || {
            execute(&path, "DELETE FROM items");
            Err("x".to_owned())
        });
        let report = report.unwrap();
        let child = other.lock().unwrap().take().unwrap();
        let expected = format!("process {} (sh) had it open", child.id());
        end(child);
        assert_eq!(report.outcome, GuardOutcome::Kept, "{when}");
        assert_eq!(report.databases[0].doubts, [expected], "{when}");
        assert_eq!((report.databases[0].status, rows(&path)), (GuardedStatus::Changed, 0), "{when}");
    }
}

#[test]
fn process_that_opens_it_only_while_the_command_runs_is_seen() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let report = guarded(&fixture, &of(&["app.db"]), || {
        let other = keep_open(&path);
        // Until it was seen, however long that takes on a busy machine: there is nothing else to wait for.
        std::thread::sleep(std::time::Duration::from_secs(2));
        end(other);
        execute(&path, "DELETE FROM items");
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!(report.outcome, GuardOutcome::Kept);
    assert!(report.databases[0].doubts[0].contains("(sh) had it open"), "{:?}", report.databases[0].doubts);
}

#[test]
fn programs_that_a_closure_starts_are_not_taken_for_others_while_they_start() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let report = guarded(&fixture, &of(&["app.db"]), || {
        // What is forked has the file open until it is a program of its own.
        let open = Connection::open(&path).unwrap();
        open.execute_batch("DELETE FROM items").unwrap();
        for _ in 0..500 {
            assert!(Command::new("true").status().unwrap().success());
        }
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!(report.databases[0].doubts, [] as [String; 0]);
    assert_eq!((report.outcome, rows(&path)), (GuardOutcome::Restored, 10));
}

#[test]
fn what_was_written_between_backup_and_start_is_not_lost() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let file = path.clone();
    fixture.at_step(move |step| {
        if step == "guard.verified" {
            insert(&Connection::open(&file).unwrap(), 1);
        }
    });
    let report = guarded(&fixture, &of(&["app.db"]), || {
        execute(&path, "DELETE FROM items WHERE id < 5");
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!(report.outcome, GuardOutcome::Kept);
    assert_eq!(
        report.databases[0].doubts,
        ["it was written between the backup and the start of the command"]
    );
    assert_eq!(rows(&path), 7, "eleven rows without four");
}

#[test]
fn check_that_does_not_hold_undoes_a_command_that_said_it_succeeded() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let other = database(&fixture, "other.db");
    let checks = vec!["SELECT 1".to_owned(), "other: SELECT count(*) FROM items".to_owned()];
    let request = GuardRequest { checks, ..of(&["app.db", "other.db"]) };
    let report = guarded(&fixture, &request, || {
        execute(&path, "UPDATE items SET text = 'x'");
        execute(&other, "DELETE FROM items");
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!(
        report.failure.as_deref(),
        Some("other: the check \"SELECT count(*) FROM items\" answers \"0\"")
    );
    assert_eq!((report.outcome, report.check_failed, report.exit), (GuardOutcome::Restored, true, Some(0)));
    assert_eq!(report.exit_code(), 1);
    assert_eq!(report.databases[0].checks.len(), 1);
    assert!(report.databases.iter().all(|one| one.status == GuardedStatus::Restored));
    assert_eq!((rows(&path), rows(&other)), (10, 10));
    let text: String = Connection::open(&path)
        .unwrap()
        .query_row("SELECT max(text) FROM items", [], |row| row.get(0))
        .unwrap();
    assert_ne!(text, "x");
}

#[test]
fn all_databases_go_back_or_none() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let other = database(&fixture, "other.db");
    let holder = keep_open(&other);
    let report = guarded(&fixture, &of(&["app.db", "other.db"]), || {
        execute(&path, "DELETE FROM items");
        execute(&other, "DELETE FROM items");
        Err("x".to_owned())
    });
    let report = report.unwrap();
    end(holder);
    assert_eq!(report.outcome, GuardOutcome::Kept);
    assert_eq!((report.databases[0].alone, report.databases[1].alone), (true, false));
    assert_eq!((rows(&path), rows(&other)), (0, 0));
}

#[test]
fn file_that_was_deleted_or_replaced_is_brought_back() {
    let fixture = Fixture::new();
    let path = database(&fixture, "gone.db");
    let report = guarded(&fixture, &of(&["gone.db"]), || {
        std::fs::remove_file(&path).unwrap();
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.outcome, rows(&path)), (GuardOutcome::Restored, 10), "{report:#?}");

    let path = database(&fixture, "replaced.db");
    let report = guarded(&fixture, &of(&["replaced.db"]), || {
        let copy = fixture.path("copy");
        execute(&copy, "CREATE TABLE other(a)");
        std::fs::rename(&copy, &path).unwrap();
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!((report.outcome, rows(&path)), (GuardOutcome::Restored, 10), "{report:#?}");
}

#[test]
fn file_whose_pages_have_another_size_is_brought_back() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let report = guarded(&fixture, &of(&["app.db"]), || {
        execute(&path, "DELETE FROM items; PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM");
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!((report.outcome, &report.error), (GuardOutcome::Restored, &None), "{report:#?}");
    assert!(report.databases[0].safety_snapshot.is_some());
    assert_eq!(rows(&path), 10);
}

#[test]
fn keep_leaves_everything_and_a_person_may_go_back_whoever_wrote() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let request = GuardRequest { on_failure: OnFailure::Keep, ..of(&["app.db"]) };
    let fails = || {
        execute(&path, "DELETE FROM items");
        Err("x".to_owned())
    };
    let report = guarded(&fixture, &request, fails).unwrap();
    assert_eq!((report.outcome, rows(&path)), (GuardOutcome::Kept, 0));

    insert(&Connection::open(&path).unwrap(), 3);
    let holder = keep_open(&path);
    let request = GuardRequest { on_failure: OnFailure::Ask, ..of(&["app.db"]) };
    let mut task = guard::closure(fails);
    let decide = |report: &GuardReport| {
        assert_eq!(report.changes[0].tables[0].removed, 3, "a person sees what has changed");
        assert!(!report.databases[0].alone);
        Ok(Choice::Restore)
    };
    let report =
        guard::run(&fixture.context, &request, &mut task, &decide, fixture.now(), &fixture.watch()).unwrap();
    end(holder);
    assert_eq!((report.outcome, rows(&path)), (GuardOutcome::Restored, 3));
}

#[test]
fn nothing_runs_without_a_verified_backup() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    std::fs::write(fixture.path("bad.db"), "this is not a database, it is a letter to a friend").unwrap();
    let report = guarded(&fixture, &of(&["app.db", "bad.db"]), || panic!("it must not run")).unwrap();
    assert_eq!((report.outcome, report.exit, report.exit_code()), (GuardOutcome::BackupFailed, None, 125));
    assert_eq!(report.error.as_ref().unwrap().kind, "not-a-database");
    assert!(report.databases[1].error.is_some() && report.databases[0].error.is_none());
    assert_eq!(rows(&path), 10);

    let error = guarded(&fixture, &of(&["absent.db"]), || panic!("it must not run")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    let error = guarded(&fixture, &of(&[]), || panic!("it must not run")).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn backup_that_is_damaged_when_it_is_read_back_is_none() {
    let fixture = Fixture::new();
    database(&fixture, "app.db");
    let folder = fixture.path("backups/data");
    fixture.at_step(move |step| {
        if step == "guard.backed-up" {
            for pack in packs(&folder) {
                let mut bytes = std::fs::read(&pack).unwrap();
                bytes[40] ^= 1;
                std::fs::write(&pack, bytes).unwrap();
            }
        }
    });
    let report = guarded(&fixture, &of(&["app.db"]), || panic!("it must not run")).unwrap();
    assert_eq!((report.outcome, report.exit_code()), (GuardOutcome::BackupFailed, 125));
    assert_eq!(report.error.unwrap().kind, "damaged");
}

/// Returns the files two levels below a folder.
fn packs(folder: &Path) -> Vec<PathBuf> {
    let inner = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    inner(folder).iter().flat_map(|folder| inner(folder)).collect()
}

#[test]
fn guard_within_a_guard_is_refused() {
    let mut fixture = Fixture::new();
    database(&fixture, "app.db");
    fixture.context.environment.variables.insert("DBKEEP_GUARD".to_owned(), "20260102_030405".to_owned());
    let error = guarded(&fixture, &of(&["app.db"]), || panic!("it must not run")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("20260102_030405"), "{error}");
}

#[test]
fn guard_that_was_stopped_is_explained_refuses_the_next_one_and_is_finished() {
    for finish in [OnFailure::Restore, OnFailure::Keep] {
        let fixture = Fixture::new();
        let path = database(&fixture, "app.db");
        *fixture.heard.cancel_at.lock().unwrap() = Some("guard.taken-down");
        let stopped = guarded(&fixture, &of(&["app.db"]), || {
            execute(&path, "DELETE FROM items WHERE id > 4");
            Err("no such table".to_owned())
        });
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
        *fixture.heard.cancel_at.lock().unwrap() = None;

        let error = guarded(&fixture, &of(&["app.db"]), || panic!("it must not run")).unwrap_err();
        assert!(error.to_string().contains("its command failed: no such table"), "{error}");
        assert!(error.hint().unwrap().contains("--resume"));

        let report = resumed(&fixture, None).unwrap().remove(0);
        assert_eq!(report.outcome, GuardOutcome::Kept);
        let error = report.error.unwrap();
        assert!(error.hint.unwrap().contains("--on-failure restore"), "{}", error.message);
        assert_eq!(rows(&path), 4, "nobody has said what to do");

        let report = resumed(&fixture, Some(finish)).unwrap().remove(0);
        assert_eq!(report.error, None);
        let (outcome, expected) = match finish {
            OnFailure::Restore => (GuardOutcome::Restored, 10),
            _ => (GuardOutcome::Kept, 4),
        };
        assert_eq!((report.outcome, rows(&path)), (outcome, expected));
        assert_eq!(report.databases[0].safety_snapshot.is_some(), finish == OnFailure::Restore);
        assert_eq!(resumed(&fixture, None).unwrap(), []);
        guarded(&fixture, &of(&["app.db"]), || Ok(())).unwrap();
    }
}

#[test]
fn restore_that_was_decided_and_cut_is_finished_without_asking_where_nothing_moved() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    execute(&path, "PRAGMA journal_mode = WAL");
    // With a log its position tells, however short ago it was written.
    let held = Connection::open(&path).unwrap();
    held.execute_batch("PRAGMA wal_autocheckpoint = 0; SELECT count(*) FROM items").unwrap();
    let stop = || {
        // The step of the time before is not that of this time.
        fixture.heard.steps.lock().unwrap().clear();
        *fixture.heard.cancel_at.lock().unwrap() = Some("guard.restoring");
        let stopped = guarded(&fixture, &of(&["app.db"]), || {
            execute(&path, "DELETE FROM items WHERE id > 4");
            Err("x".to_owned())
        });
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
        *fixture.heard.cancel_at.lock().unwrap() = None;
    };
    stop();
    let report = resumed(&fixture, None).unwrap().remove(0);
    assert_eq!((report.outcome, report.error), (GuardOutcome::Restored, None));
    assert_eq!(rows(&path), 10);

    stop();
    insert(&Connection::open(&path).unwrap(), 1);
    let report = resumed(&fixture, None).unwrap().remove(0);
    assert_eq!(report.outcome, GuardOutcome::Kept);
    assert!(report.error.is_some(), "somebody wrote since");
    assert_eq!(rows(&path), 5);
    drop(held);
}

#[test]
fn safety_backups_of_a_guard_are_never_the_latest() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    guarded(&fixture, &of(&["app.db"]), || {
        execute(&path, "DELETE FROM items");
        Err("x".to_owned())
    })
    .unwrap();
    let listed = fixture.list();
    let reasons: Vec<_> = listed.snapshots.iter().map(|row| row.reason.clone().unwrap_or_default()).collect();
    assert_eq!(reasons, ["pre-restore", "pre-migration"]);
    let after = fixture.backup(&BackupRequest::default());
    assert!(after.is_err(), "nothing is configured: what a guard was given is remembered nowhere");
}
