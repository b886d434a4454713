//! Restores: to new files, into their place, of sessions and tables; and what is refused.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use dbkeep_engine::report::{BackupStatus, RestoreOutcome, RestoreStatus, SessionStatus};
use dbkeep_engine::restore::{self, Action, RestoreRequest};
use dbkeep_engine::{Id, Verify};
use rusqlite::Connection;

use crate::fixture::{Fixture, in_place, insert, of, rows, to, told};

fn of_database(database: &str, request: RestoreRequest) -> RestoreRequest {
    RestoreRequest { database: Some(database.into()), ..request }
}

fn of_snapshot(id: Option<Id>, request: RestoreRequest) -> RestoreRequest {
    RestoreRequest { snapshot: Some(id.unwrap().to_string()), ..request }
}

fn siblings(path: &Path) -> Vec<String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|other| other.starts_with(name) && other != name).collect();
    names.sort();
    names
}

#[test]
fn new_file_is_the_database_byte_for_byte_with_its_mode() {
    let place = Fixture::new();
    drop(place.database("app.db", 500));
    std::fs::set_permissions(place.path("app.db"), PermissionsExt::from_mode(0o640)).unwrap();
    place.stored("app.db");
    let report = place.restored(&to("copy.db"));
    assert_eq!(report.target, place.path("copy.db").display().to_string());
    assert_eq!((report.rows, report.safety_snapshot, report.exit_code()), (500, None, 0));
    let bytes = std::fs::read(place.path("copy.db")).unwrap();
    assert_eq!(bytes, std::fs::read(place.path("app.db")).unwrap());
    assert_eq!((report.bytes_written, report.pages_written), (bytes.len() as u64, bytes.len() as u64 / 4096));
    assert_eq!(std::fs::metadata(place.path("copy.db")).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(!place.path(".dbkeep-restore").exists());
}

#[test]
fn index_is_read_once_for_a_plan_and_what_follows_and_again_after_a_backup_or_a_loss() {
    let place = Fixture::new();
    let connection = place.database("app.db", 300);
    place.stored("app.db");
    let store = place.open().unwrap();
    let readings = |target: &str| {
        place.heard.phases.lock().unwrap().clear();
        let plan = restore::plan(&store, &to(target), place.now()).unwrap();
        let outcome = restore::run(&store, &plan, place.now(), &place.watch());
        let phases = place.heard.phases.lock().unwrap();
        let count = phases.iter().filter(|phase| *phase == "reading the index").count();
        (count, outcome.map(|_| rows(&place.path(target)).len()))
    };
    assert!(matches!(readings("first.db"), (1, Ok(300))));
    insert(&connection, 1000);
    place.stored("app.db");
    assert!(matches!(readings("second.db"), (1, Ok(1300))));
    assert!(matches!(readings("third.db"), (0, Ok(1300))));

    // A pack that is gone is distrusted, and what the index says of it is another thing then.
    let data = place.path("backups/data");
    let packs: Vec<_> = std::fs::read_dir(data)
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|pack| pack.unwrap().path())
        .collect();
    std::fs::rename(&packs[0], place.path("aside")).unwrap();
    place.heard.phases.lock().unwrap().clear();
    // Planning reads the manifest, which may be in that pack.
    let _ = restore::plan(&store, &to("fourth.db"), place.now());
    assert!(place.heard.phases.lock().unwrap().iter().any(|phase| phase == "reading the index"));
}

#[test]
fn default_target_is_a_new_file_beside_the_original_never_over_it() {
    let place = Fixture::new();
    drop(place.database("data/app.db", 3));
    place.stored("data/app.db");
    let before = std::fs::read(place.path("data/app.db")).unwrap();
    let first = place.restored(&RestoreRequest::default());
    let second = place.restored(&RestoreRequest::default());
    let start = place.path("data/app.restored-20260102_03050").display().to_string();
    assert!(first.target.starts_with(&start) && first.target.ends_with(".db"), "{}", first.target);
    assert_eq!(second.target, first.target.replace(".db", "-2.db"));
    assert_eq!(rows(Path::new(&second.target)).len(), 3);
    assert_eq!(std::fs::read(place.path("data/app.db")).unwrap(), before);
}

#[test]
fn target_that_exists_or_has_something_beside_it_is_refused() {
    let place = Fixture::new();
    drop(place.database("app.db", 3));
    place.stored("app.db");
    for name in ["there.db", "new.db-wal"] {
        std::fs::write(place.path(name), "precious").unwrap();
    }
    for target in ["there.db", "new.db"] {
        let (kind, code, _) = told(&place.restore(&to(target)).unwrap_err());
        assert_eq!((kind, code), ("target-exists", 1));
    }
    assert_eq!(std::fs::read(place.path("there.db")).unwrap(), b"precious");
    assert!(!place.path("new.db").exists());
    assert_eq!(told(&place.restore(&to("no/such/dir.db")).unwrap_err()).0, "io");
    let error = place.restore(&to("postgres://u:hunter2@h/d")).unwrap_err();
    assert_eq!(told(&error).0, "usage");
    assert!(!error.full_message().contains("hunter2"), "{error}");
}

#[test]
fn target_that_appears_during_the_restore_is_left_alone() {
    let place = Fixture::new();
    drop(place.database("app.db", 3));
    place.stored("app.db");
    let target = place.path("new.db");
    place.at_step({
        let target = target.clone();
        move |step| {
            if step == "restore.inspected" {
                std::fs::write(&target, "somebody else's").unwrap();
            }
        }
    });
    assert_eq!(told(&place.restore(&to("new.db")).unwrap_err()).0, "target-exists");
    assert_eq!(std::fs::read(target).unwrap(), b"somebody else's");
}

#[test]
fn restore_in_place_brings_back_what_was_there_while_an_application_has_it_open() {
    for mode in ["delete", "wal"] {
        let place = Fixture::new();
        let application = place.database("app.db", 2000);
        application.pragma_update(None, "journal_mode", mode).unwrap();
        let before = rows(&place.path("app.db"));
        place.stored("app.db");
        application.execute_batch("DELETE FROM items WHERE id % 3 = 0; CREATE TABLE extra(x)").unwrap();
        insert(&application, 5);
        let lost = rows(&place.path("app.db"));

        let report = place.restored(&in_place());
        assert!(report.pages_written > 0, "{mode}");
        let through_application: i64 =
            application.query_row("SELECT count(*) FROM items", [], |row| row.get(0)).unwrap();
        assert_eq!(through_application, 2000);
        assert!(application.prepare("SELECT * FROM extra").is_err(), "the schema is the old one again");
        assert_eq!(rows(&place.path("app.db")), before);

        // The safety backup is the way back, and never the latest.
        let safety = report.safety_snapshot;
        let list = place.list();
        assert_eq!(list.snapshots[0].id, safety.unwrap());
        assert_eq!(list.snapshots[0].reason.as_deref(), Some("pre-restore"));
        assert_eq!(list.snapshots[0].rows, Some(lost.len() as u64));
        let back = place.restored(&of_snapshot(safety, in_place()));
        assert!(back.safety_snapshot.is_some());
        assert_eq!(rows(&place.path("app.db")), lost);

        // And a moment later once more.
        place.restored(&in_place());
        assert_eq!(rows(&place.path("app.db")), before);
        let again = place.restored(&in_place());
        assert_eq!(again.pages_written, 0, "nothing differs");
    }
}

/// Tries to commit a row at each step, from a connection of its own, and notes whether that was refused.
fn intrude_at_each_step(place: &Fixture) -> Arc<Mutex<Vec<(&'static str, bool)>>> {
    let tried = Arc::new(Mutex::new(Vec::new()));
    place.at_step({
        let (path, tried) = (place.path("app.db"), tried.clone());
        move |step| {
            if step.starts_with("restore.") || step.starts_with("backup.") {
                let writer = Connection::open(&path).unwrap();
                writer.busy_timeout(std::time::Duration::ZERO).unwrap();
                let busy = writer.execute_batch("INSERT INTO items(text) VALUES('late')").is_err();
                tried.lock().unwrap().push((step, busy));
            }
        }
    });
    tried
}

#[test]
fn nothing_is_committed_between_the_safety_backup_and_the_restore() {
    let place = Fixture::new();
    let application = place.database("app.db", 100);
    application.pragma_update(None, "journal_mode", "wal").unwrap();
    place.stored("app.db");
    insert(&application, 1);
    let refused = intrude_at_each_step(&place);
    let report = place.restored(&in_place());
    let refused = refused.lock().unwrap();
    let from = refused.iter().position(|(step, _)| *step == "restore.target-locked").unwrap();
    let until = refused.iter().position(|(step, _)| *step == "restore.pages-written").unwrap();
    assert!(refused[from..=until].iter().any(|(step, _)| *step == "restore.safety-backup"), "{refused:?}");
    assert!(refused[from..=until].iter().all(|(_, busy)| *busy), "{refused:?}");
    assert!(refused[..from].iter().any(|(_, busy)| !busy), "the writer is kept out only under the lock");
    drop(refused);
    let late = rows(&place.path("app.db")).iter().filter(|(_, text)| text == "late").count();
    assert!(late <= 1, "only what came after the commit is there");
    assert!(report.safety_snapshot.is_some());
}

#[test]
fn nothing_is_committed_between_the_safety_backup_and_the_copy_of_tables() {
    for mode in ["delete", "wal"] {
        let place = Fixture::new();
        let application = place.database("app.db", 100);
        application.pragma_update(None, "journal_mode", mode).unwrap();
        place.stored("app.db");
        let tried = intrude_at_each_step(&place);
        let report = place.restored(&RestoreRequest { tables: vec!["items".into()], ..in_place() });
        *place.heard.at_step.lock().unwrap() = None;
        let tried = tried.lock().unwrap();
        let locked = tried.iter().position(|(step, _)| *step == "restore.target-locked").unwrap();
        let saved = tried.iter().position(|(step, _)| *step == "restore.safety-backup").unwrap();
        assert!(locked < saved && tried[locked..=saved].iter().all(|(_, busy)| *busy), "{mode}: {tried:?}");
        // Every row that was accepted before is in the safety backup, and so not lost.
        let accepted = tried[..locked].iter().filter(|(_, busy)| !busy).count();
        assert!(accepted > 0, "{tried:?}");
        place.restored(&of_snapshot(report.safety_snapshot, to("before.db")));
        assert_eq!(rows(&place.path("before.db")).len(), 100 + accepted, "{mode}");
    }
}

#[test]
fn what_the_check_has_read_is_not_read_again() {
    for tables in [vec![], vec!["items".to_owned()]] {
        let place = Fixture::new();
        let application = place.database("app.db", 2000);
        place.stored("app.db");
        application.execute_batch("DELETE FROM items WHERE id % 3 = 0").unwrap();
        place.at_step({
            let packs = place.objects("data");
            move |step| {
                if step == "restore.inspected" {
                    packs.iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
                }
            }
        });
        place.restored(&RestoreRequest { tables, safety_backup: false, ..in_place() });
        assert_eq!(rows(&place.path("app.db")).len(), 2000);
    }
}

#[test]
fn restore_cancelled_before_the_commit_leaves_the_target_as_it_was() {
    for step in ["restore.begun", "restore.target-locked", "restore.safety-backup", "restore.pages-written"] {
        let place = Fixture::new();
        let application = place.database("app.db", 100);
        place.stored("app.db");
        insert(&application, 7);
        *place.heard.cancel_at.lock().unwrap() = Some(step);
        let error = place.restore(&in_place()).unwrap_err();
        assert_eq!(error.exit_code(), 130, "{step}: {error:?}");
        assert_eq!(rows(&place.path("app.db")).len(), 107, "{step}");
        insert(&application, 1);
    }
}

#[test]
fn missing_original_is_created_and_leftovers_beside_it_do_no_harm() {
    let place = Fixture::new();
    let application = place.database("app.db", 10);
    application.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&application, 1);
    let expected = rows(&place.path("app.db"));
    place.stored("app.db");
    insert(&application, 50);
    // The log of the lost database is left: replayed into the restored one it would add rows.
    std::fs::copy(place.path("app.db-wal"), place.path("keep")).unwrap();
    drop(application);
    std::fs::remove_file(place.path("app.db")).unwrap();
    std::fs::rename(place.path("keep"), place.path("app.db-wal")).unwrap();
    assert_eq!(place.plan(&in_place()).unwrap().restores[0].action, Action::Create);
    let report = place.restored(&in_place());
    assert_eq!(report.safety_snapshot, None);
    assert_eq!(rows(&place.path("app.db")), expected);
    let left = siblings(&place.path("app.db"));
    assert!(left.iter().any(|name| name.starts_with("app.db.before-restore-")), "{left:?}");
}

#[test]
fn damaged_original_is_kept_in_the_repository_and_aside_and_replaced() {
    let place = Fixture::new();
    drop(place.database("app.db", 300));
    let expected = rows(&place.path("app.db"));
    place.stored("app.db");
    let mut damaged = std::fs::read(place.path("app.db")).unwrap();
    damaged[20..100].fill(0xff);
    std::fs::write(place.path("app.db"), &damaged).unwrap();
    let plan = place.plan(&in_place()).unwrap();
    assert_eq!(plan.restores[0].action, Action::ReplaceFile);
    assert!(plan.overwrites());
    let report = place.restored(&in_place());
    assert_eq!(rows(&place.path("app.db")), expected);
    let aside = report.moved_aside.unwrap();
    assert_eq!(std::fs::read(&aside).unwrap(), damaged);
    // The raw copy is a snapshot: byte for byte what was there.
    let safety = of_snapshot(report.safety_snapshot, RestoreRequest { force: true, ..to("raw") });
    let RestoreOutcome::One(raw) = place.restore(&safety).unwrap() else { panic!() };
    assert!(!raw.verified);
    assert_eq!(std::fs::read(place.path("raw")).unwrap(), damaged);
}

#[test]
fn database_damaged_inside_is_restored_by_its_pages() {
    let place = Fixture::new();
    drop(place.database("app.db", 3000));
    let expected = rows(&place.path("app.db"));
    place.stored("app.db");
    let mut damaged = std::fs::read(place.path("app.db")).unwrap();
    let middle = damaged.len() / 2 / 4096 * 4096;
    damaged[middle..middle + 4096].fill(0x5a);
    std::fs::write(place.path("app.db"), &damaged).unwrap();
    assert_eq!(place.backup(&of(&["app.db"])).unwrap().databases[0].status, BackupStatus::Corrupt);
    let report = place.restored(&in_place());
    assert!(report.safety_snapshot.is_some());
    assert_eq!(rows(&place.path("app.db")), expected);
}

#[test]
fn database_that_the_disk_has_changed_is_restored_though_nobody_wrote() {
    let place = Fixture::new();
    let application = place.database("app.db", 3000);
    // What was committed last is in the log, which tells where the database stands; all else is in the main file.
    application.execute_batch("PRAGMA journal_mode = wal; INSERT INTO items(text) VALUES('last')").unwrap();
    let expected = rows(&place.path("app.db"));
    place.stored("app.db");
    let path = place.path("app.db");
    let middle = std::fs::metadata(&path).unwrap().len() / 2 / 4096;
    // By another process: closing the file here would take the application's locks away.
    let damaged = std::process::Command::new("dd")
        .args([
            "if=/dev/zero",
            "bs=4096",
            "count=1",
            "conv=notrunc",
            "status=none",
            &format!("seek={middle}"),
        ])
        .arg(format!("of={}", path.display()))
        .status();
    assert!(damaged.unwrap().success());
    let report = place.restored(&in_place());
    assert_eq!(report.pages_written, 2, "the damaged one, and the first");
    assert_eq!(rows(&path), expected);
    let kept = of_snapshot(report.safety_snapshot, RestoreRequest { force: true, ..to("kept.db") });
    place.restore(&kept).unwrap();
    let page = |path: &Path| {
        let at = usize::try_from(middle * 4096).unwrap();
        std::fs::read(path).unwrap()[at..at + 4096].to_vec()
    };
    assert!(
        page(&place.path("kept.db")).iter().all(|byte| *byte == 0),
        "the safety backup has what was there"
    );
}

/// Returns how many bytes this thread has read from files.
fn bytes_read() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn target_is_read_once_by_its_safety_backup_and_the_restore() {
    for mode in ["delete", "wal"] {
        let place = Fixture::new();
        let application = place.database("app.db", 10);
        application.execute_batch(&format!("PRAGMA journal_mode = {mode}")).unwrap();
        insert(&application, 150_000);
        application.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        place.stored("app.db");
        application.execute_batch("UPDATE items SET text = 'changed' WHERE id = 70000").unwrap();
        let size = std::fs::metadata(place.path("app.db")).unwrap().len();
        let before = bytes_read();
        let request = RestoreRequest { verify: Verify::None, safety_check: Verify::None, ..in_place() };
        let RestoreOutcome::One(report) = place.restore(&request).unwrap() else { panic!() };
        let read = bytes_read() - before;
        assert!(read >= size, "{mode}: it is read by this thread");
        assert!(read < size * 3 / 2, "{mode}: {read} bytes read of {size}");
        assert!((1..10).contains(&report.pages_written), "{mode}: {}", report.pages_written);
        let text = "SELECT text FROM items WHERE id = 70000";
        let text: String = application.query_row(text, [], |row| row.get(0)).unwrap();
        assert_ne!(text, "changed");
    }
}

#[test]
fn snapshot_of_a_damaged_database_needs_force_and_is_exit_4() {
    let place = Fixture::new();
    drop(place.database("app.db", 3000));
    let mut damaged = std::fs::read(place.path("app.db")).unwrap();
    let middle = damaged.len() / 2 / 4096 * 4096;
    damaged[middle..middle + 4096].fill(0x5a);
    std::fs::write(place.path("app.db"), &damaged).unwrap();
    let snapshot = place.backup(&of(&["app.db"])).unwrap().databases[0].snapshot;
    let request = of_snapshot(snapshot, to("copy.db"));
    let error = place.restore(&request).unwrap_err();
    assert_eq!(told(&error).0, "refused");
    assert!(error.hint().unwrap().contains("--force"));
    assert!(!place.path("copy.db").exists());
    let RestoreOutcome::One(report) = place.restore(&RestoreRequest { force: true, ..request }).unwrap()
    else {
        panic!()
    };
    assert_eq!((report.verified, report.exit_code()), (false, 4));
    assert_eq!(std::fs::read(place.path("copy.db")).unwrap(), damaged);
}

#[test]
fn another_database_in_the_original_place_is_refused() {
    let place = Fixture::new();
    drop(place.database("app.db", 3));
    place.stored("app.db");
    std::fs::remove_file(place.path("app.db")).unwrap();
    let other = Connection::open(place.path("app.db")).unwrap();
    other.execute_batch("CREATE TABLE patients(name); INSERT INTO patients VALUES('Ada')").unwrap();
    let error = place.restore(&in_place()).unwrap_err();
    assert_eq!(told(&error).0, "refused");
    assert!(error.hint().unwrap().contains("--force"));
    let patients: i64 = other.query_row("SELECT count(*) FROM patients", [], |row| row.get(0)).unwrap();
    assert_eq!(patients, 1);
    std::fs::write(place.path("app.db"), "a letter to my grandmother\n".repeat(99)).unwrap();
    assert_eq!(told(&place.restore(&in_place()).unwrap_err()).0, "refused");
}

#[test]
fn target_whose_writer_does_not_let_go_is_in_use() {
    let place = Fixture::new();
    let application = place.database("app.db", 3);
    place.stored("app.db");
    insert(&application, 1);
    let plan = place.plan(&in_place()).unwrap();
    application.execute_batch("BEGIN IMMEDIATE").unwrap();
    let store = place.open().unwrap();
    let error = dbkeep_engine::restore::run(&store, &plan, place.now(), &place.watch()).unwrap_err();
    assert_eq!((told(&error).0, told(&error).1), ("target-in-use", 1));
    application.execute_batch("COMMIT").unwrap();
    assert_eq!(rows(&place.path("app.db")).len(), 4);
}

#[test]
fn moment_chooses_the_newest_snapshot_before_it() {
    let place = Fixture::new();
    let application = place.database("app.db", 1);
    let first = place.stored("app.db"); // 03:05:05
    insert(&application, 1);
    place.stored("app.db"); // 03:06:05
    let at = |at: &str| RestoreRequest { at: Some(at.into()), ..RestoreRequest::default() };
    assert_eq!(Some(place.plan(&at("2026-01-02 03:06")).unwrap().restores[0].snapshot), first.snapshot);
    let report = place.restored(&RestoreRequest { to: Some("then.db".into()), ..at("2026-01-02 03:06") });
    // The clock goes on while a backup is made, so the time of the snapshot itself is what is expected.
    let listed = place.list().snapshots;
    let taken = listed.iter().find(|row| Some(row.id) == first.snapshot).unwrap().time;
    assert_eq!(report.moment, taken);
    assert_eq!(taken.to_string()[..17], *"2026-01-02T03:05:");
    assert_eq!(rows(&place.path("then.db")).len(), 1);
    assert_eq!(place.restored(&RestoreRequest { to: Some("now.db".into()), ..at("now") }).rows, 2);
    let (kind, code, _) = told(&place.restore(&at("2026-01-01")).unwrap_err());
    assert_eq!((kind, code), ("no-snapshot", 1));
    assert_eq!(told(&place.restore(&at("soon")).unwrap_err()).1, 2);
}

#[test]
fn session_is_restored_with_one_answer_each() {
    let place = Fixture::new();
    let a = place.database("a.db", 1);
    let b = place.database("b.db", 2);
    let session = place.backup(&of(&["a.db", "b.db"])).unwrap().session;
    let request = RestoreRequest {
        session: Some(session.clone()),
        to: Some("all".into()),
        ..RestoreRequest::default()
    };
    let RestoreOutcome::Session(report) = place.restore(&request).unwrap() else { panic!() };
    assert_eq!((report.status, report.session.as_str()), (SessionStatus::Ok, session.as_str()));
    assert_eq!(rows(&place.path("all/a.db")).len(), 1);
    assert_eq!(rows(&place.path("all/b.db")).len(), 2);

    insert(&a, 5);
    insert(&b, 5);
    let request = RestoreRequest { session: Some("latest".into()), ..in_place() };
    let plan = place.plan(&request).unwrap();
    assert_eq!(plan.confirmation(), session);
    b.execute_batch("BEGIN IMMEDIATE").unwrap();
    let store = place.open().unwrap();
    let outcome = dbkeep_engine::restore::run(&store, &plan, place.now(), &place.watch()).unwrap();
    b.execute_batch("ROLLBACK").unwrap();
    let RestoreOutcome::Session(report) = outcome else { panic!() };
    assert_eq!((report.status, report.exit_code()), (SessionStatus::Partial, 3));
    let answers: Vec<_> =
        report.restores.iter().map(|one| (one.database.as_str(), one.status.unwrap())).collect();
    assert_eq!(answers, [("a", RestoreStatus::Ok), ("b", RestoreStatus::Failed)]);
    assert_eq!(report.restores[1].error.as_ref().unwrap().kind, "target-in-use");
    // The safety backup of the first is in its report, and is none of the second.
    assert!(report.restores[0].safety_snapshot.is_some());
    assert_eq!(place.warnings(), [""; 0]);
    assert_eq!((rows(&place.path("a.db")).len(), rows(&place.path("b.db")).len()), (1, 7));
}

#[test]
fn restore_that_ends_after_its_safety_backup_says_where_that_is() {
    let place = Fixture::new();
    let application = place.database("app.db", 1);
    place.stored("app.db");
    insert(&application, 2);
    *place.heard.cancel_at.lock().unwrap() = Some("restore.safety-backup");
    assert_eq!(place.restore(&in_place()).unwrap_err().kind().word(), "interrupted");
    *place.heard.cancel_at.lock().unwrap() = None;
    let kept =
        place.list().snapshots.into_iter().find(|row| row.reason.as_deref() == Some("pre-restore")).unwrap();
    assert_eq!(place.warnings(), [format!("what was there before is kept as snapshot {}", kept.id.short())]);
    assert_eq!(rows(&place.path("app.db")).len(), 3);
}

#[test]
fn tables_are_restored_alone_to_a_new_file_and_into_the_live_database() {
    let place = Fixture::new();
    let application = place.database("app.db", 20);
    application
        .execute_batch("CREATE TABLE users(name TEXT); INSERT INTO users VALUES('Ada'),('Grace'); CREATE INDEX u ON users(name)")
        .unwrap();
    place.stored("app.db");
    let tables = |tables: &[&str], request| RestoreRequest {
        tables: tables.iter().map(|table| (*table).to_owned()).collect(),
        ..request
    };
    let report = place.restored(&tables(&["users"], to("users.db")));
    assert_eq!((report.rows, report.tables[0].name.as_str()), (2, "users"));
    let copy = Connection::open(place.path("users.db")).unwrap();
    let names: Vec<String> = copy
        .prepare("SELECT name FROM sqlite_schema ORDER BY name")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(names, ["u", "users"]);

    application.execute_batch("DROP TABLE users; CREATE TABLE users(name TEXT)").unwrap();
    insert(&application, 3);
    let report = place.restored(&tables(&["users"], in_place()));
    assert!(report.safety_snapshot.is_some());
    let users: i64 = application.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).unwrap();
    let items: i64 = application.query_row("SELECT count(*) FROM items", [], |row| row.get(0)).unwrap();
    assert_eq!((users, items), (2, 23), "other tables stay as they are");

    let error = place.restore(&tables(&["usres"], to("no.db"))).unwrap_err();
    assert!(error.full_message().contains("usres"), "{error}");
    assert!(!place.path("no.db").exists() && !place.path(".dbkeep-restore").join("x").exists());
}

#[test]
fn plan_changes_nothing_and_says_what_would_happen() {
    let place = Fixture::new();
    let application = place.database("app.db", 5);
    place.stored("app.db");
    insert(&application, 5);
    let plan = place.plan(&in_place()).unwrap();
    let one = &plan.restores[0];
    assert_eq!((one.action, one.safety_backup, plan.overwrites()), (Action::ReplacePages, true, true));
    assert_eq!(plan.confirmation(), "app");
    assert_eq!(one.target, place.path("app.db").display().to_string());
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["restores"][0]["action"], "replace-pages");
    assert_eq!(rows(&place.path("app.db")).len(), 10);
    assert_eq!(place.list().snapshots.len(), 1);
}

#[test]
fn damaged_pack_restores_nothing_and_the_target_stays() {
    let place = Fixture::new();
    let application = place.database("app.db", 5000);
    place.stored("app.db");
    let pack =
        place.objects("data").into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    std::fs::set_permissions(&pack, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    application.execute_batch("DELETE FROM items").unwrap();
    for request in [to("copy.db"), in_place(), RestoreRequest { verify: Verify::None, ..in_place() }] {
        let error = place.restore(&request).unwrap_err();
        assert_eq!((error.kind().word(), error.exit_code()), ("damaged", 1), "{error:?}");
    }
    assert!(!place.path("copy.db").exists());
    assert_eq!(rows(&place.path("app.db")).len(), 0);
}

#[test]
fn contradictory_requests_are_wrong_usage() {
    let place = Fixture::new();
    drop(place.database("app.db", 1));
    place.stored("app.db");
    let requests = [
        RestoreRequest { to: Some("x".into()), ..in_place() },
        RestoreRequest {
            at: Some("now".into()),
            snapshot: Some("latest".into()),
            ..RestoreRequest::default()
        },
        RestoreRequest {
            session: Some("latest".into()),
            tables: vec!["t".into()],
            ..RestoreRequest::default()
        },
    ];
    for request in requests {
        assert_eq!(told(&place.restore(&request).unwrap_err()).1, 2, "{request:?}");
    }
    let unknown = of_database("ap", to("x.db"));
    assert_eq!(place.restore(&unknown).unwrap_err().hint().as_deref(), Some("did you mean \"app\"?"));
}
