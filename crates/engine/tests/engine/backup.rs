//! Sessions: what is stored, what is said of it, and what happens when a source is bad.

use dbkeep_engine::backup::BackupRequest;
use dbkeep_engine::report::{BackupStatus, SessionStatus, TableRows};
use dbkeep_engine::{Verify, show};

use crate::fixture::{Fixture, insert, of, to, told};

#[test]
fn session_stores_databases_and_describes_them() {
    let place = Fixture::new();
    drop(place.database("a.db", 100));
    drop(place.database("b.db", 0));
    let report =
        place.backup(&BackupRequest { tags: vec!["release".into()], ..of(&["a.db", "b.db"]) }).unwrap();
    assert_eq!((report.status, report.exit_code()), (SessionStatus::Ok, 0));
    assert_eq!(report.session, "20260102_030505");
    assert_eq!((report.totals.databases, report.totals.failed, report.totals.rows), (2, 0, 100));
    assert!(report.totals.bytes_stored > 0 && report.totals.ratio > 0.0);
    assert!(report.initialised.is_some());
    let first = &report.databases[0];
    assert_eq!((first.name.as_str(), first.source.as_str(), first.status), ("a", "a.db", BackupStatus::Ok));
    assert_eq!(first.tables, [TableRows { name: "items".into(), rows: 100 }]);
    assert_eq!(first.integrity, "ok");
    assert_eq!(first.parent, None);
    assert!(first.sha256.is_some());
    let expected = dbkeep_engine::Id::of(&std::fs::read(place.path("a.db")).unwrap());
    assert_eq!(first.sha256, Some(expected));

    let list = place.list();
    let names: Vec<_> = list.snapshots.iter().map(|row| row.database.clone().unwrap()).collect();
    assert_eq!(names.len(), 2);
    let row = list.snapshots.iter().find(|row| row.database.as_deref() == Some("a")).unwrap();
    assert_eq!((row.rows, row.tables, row.integrity.as_deref()), (Some(100), Some(1), Some("ok")));
    assert_eq!(
        (row.reason.as_deref(), row.tags.as_slice()),
        (Some("manual"), ["release".to_owned()].as_slice())
    );

    let store = place.open().unwrap();
    let shown = show::run(&store, "latest", Some("a"), place.now()).unwrap();
    let manifest = shown.manifest.unwrap();
    assert_eq!(manifest.image.root, first.root.unwrap());
    assert_eq!(manifest.sqlite.unwrap().encoding, "utf-8");
    assert!(shown.repository.good);
    assert_eq!(shown.repository.paths, ["/a"]);
    assert_eq!(place.warnings(), Vec::<String>::new());
}

#[test]
fn unchanged_database_is_not_read_and_gets_a_snapshot_all_the_same() {
    let place = Fixture::new();
    let live = place.database("a.db", 100);
    live.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&live, 1);
    let first = place.stored("a.db");
    let second = place.stored("a.db");
    assert_eq!((second.status, second.bytes_read, second.bytes_added), (BackupStatus::Unchanged, 0, 0));
    assert_eq!((second.parent, second.root, second.sha256), (first.snapshot, first.root, first.sha256));
    assert_eq!((second.rows, second.integrity.as_str()), (101, "ok"));
    assert_ne!(second.snapshot, first.snapshot);

    // A deeper check than the last one needs the data.
    let report = place.backup(&BackupRequest { verify: Verify::Full, ..of(&["a.db"]) }).unwrap();
    assert_eq!(report.databases[0].status, BackupStatus::Unchanged);
    assert!(report.databases[0].bytes_read > 0);

    insert(&live, 1);
    let third = place.stored("a.db");
    assert_eq!((third.status, third.rows), (BackupStatus::Ok, 102));
    assert_eq!(place.warnings(), Vec::<String>::new());
}

#[test]
fn last_manifest_is_read_once_and_where_it_is_lost_everything_is_read() {
    let place = Fixture::new();
    let live = place.database("a.db", 100);
    live.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&live, 1);
    let first = place.stored("a.db");
    place.objects("data").iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let second = place.stored("a.db");
    assert!(second.bytes_read > 0 && second.root == first.root, "{second:?}");
    let warnings = place.warnings();
    let start = format!("snapshot {} ", first.snapshot.unwrap().short());
    assert_eq!(warnings.iter().filter(|warning| warning.starts_with(&start)).count(), 1, "{warnings:?}");
    assert_eq!(place.restored(&to("again.db")).rows, 101);
}

#[test]
fn lost_state_costs_time_and_not_truth() {
    let place = Fixture::new();
    let live = place.database("a.db", 100);
    let first = place.stored("a.db");
    std::fs::remove_dir_all(&place.context.environment.state_directory).unwrap();
    let second = place.stored("a.db");
    assert_eq!((second.status, second.parent), (BackupStatus::Unchanged, first.snapshot));
    assert!(second.bytes_read > 0);
    assert_eq!(second.bytes_added, 0);
    drop(live);
}

#[test]
fn one_bad_source_does_not_stop_the_others() {
    let place = Fixture::new();
    drop(place.database("good.db", 3));
    std::fs::write(
        place.path("text.txt"),
        "this is no database, but a text that is long enough to be looked at\n".repeat(9),
    )
    .unwrap();
    let report = place.backup(&of(&["text.txt", "good.db", "gone.db"])).unwrap();
    assert_eq!((report.status, report.exit_code()), (SessionStatus::Partial, 3));
    let told: Vec<_> =
        report.databases.iter().map(|one| one.error.as_ref().map(|error| error.kind.as_str())).collect();
    assert_eq!(told, [Some("not-a-database"), None, Some("missing")]);
    assert_eq!(place.list().snapshots.len(), 1);
}

#[test]
fn session_without_a_usable_source_makes_nothing() {
    let place = Fixture::new();
    std::fs::write(place.path("text.txt"), "no database\n".repeat(99)).unwrap();
    let report = place.backup(&of(&["gone.db"])).unwrap();
    assert_eq!((report.status, report.exit_code()), (SessionStatus::Failed, 1));
    assert_eq!(report.error.as_ref().unwrap().kind, "missing");
    assert!(!place.path("backups").exists());
    let report = place.backup(&of(&["text.txt"])).unwrap();
    assert_eq!(report.error.as_ref().unwrap().kind, "not-a-database");
    assert!(!place.path("backups").exists(), "a file that is no database makes no repository");
}

#[test]
fn same_name_with_another_identity_is_refused() {
    let place = Fixture::new();
    drop(place.database("one/app.db", 1));
    drop(place.database("two/app.db", 2));
    place.stored("one/app.db");
    let report = place.backup(&of(&["two/app.db"])).unwrap();
    assert_eq!(report.exit_code(), 2);
    let error = report.error.unwrap();
    assert_eq!(error.kind, "name-taken");
    assert!(error.hint.unwrap().contains("--name"));
    assert_eq!(place.list().snapshots.len(), 1);

    let named = place.backup(&BackupRequest { name: Some("other".into()), ..of(&["two/app.db"]) }).unwrap();
    assert_eq!(named.exit_code(), 0);
    let adopted = place.backup(&BackupRequest { adopt_name: true, ..of(&["two/app.db"]) }).unwrap();
    assert_eq!(adopted.exit_code(), 0);
}

#[test]
fn moved_and_restored_databases_keep_their_name() {
    let place = Fixture::new();
    drop(place.database("app.db", 1));
    place.stored("app.db");
    std::fs::create_dir(place.path("moved")).unwrap();
    std::fs::rename(place.path("app.db"), place.path("moved/app.db")).unwrap();
    place.stored("moved/app.db");
    std::fs::copy(place.path("moved/app.db"), place.path("copy")).unwrap();
    std::fs::rename(place.path("copy"), place.path("moved/app.db")).unwrap();
    place.stored("moved/app.db");
}

#[test]
fn damaged_database_is_stored_and_never_good() {
    let place = Fixture::new();
    drop(place.database("a.db", 3000));
    place.stored("a.db");
    let mut bytes = std::fs::read(place.path("a.db")).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    std::fs::write(place.path("a.db"), &bytes).unwrap();
    for _ in 0..2 {
        let report = place.backup(&of(&["a.db"])).unwrap();
        assert_eq!((report.status, report.exit_code()), (SessionStatus::Ok, 4));
        let one = &report.databases[0];
        assert_eq!(one.status, BackupStatus::Corrupt);
        assert!(!["ok", "not run"].contains(&one.integrity.as_str()), "{}", one.integrity);
        assert!(one.notes.iter().any(|note| note.starts_with("the rows could not be counted")));
    }
    let store = place.open().unwrap();
    let latest = show::run(&store, "latest", None, place.now()).unwrap();
    assert_eq!(latest.manifest.unwrap().rows, 3000, "a corrupt one never stands for the latest");
}

#[test]
fn log_with_other_bytes_than_were_committed_is_never_good() {
    let place = Fixture::new();
    let a = place.database("a.db", 500);
    a.execute_batch("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0").unwrap();
    insert(&a, 500);
    // One bit in the text of a row, deep in a page of the log.
    let log = place.path("a.db-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let at =
        bytes.windows(8).rposition(|eight| eight == b"row 499 " || eight.starts_with(b"row 49")).unwrap();
    bytes[at] ^= 1;
    let file = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).unwrap();
    let report = place.backup(&of(&["a.db"])).unwrap();
    let one = &report.databases[0];
    assert_eq!((one.status, report.exit_code()), (BackupStatus::Corrupt, 4), "{one:?}");
    assert!(one.integrity.contains("chain of checksums breaks"), "{}", one.integrity);
}

#[test]
fn database_with_a_damaged_schema_is_stored_in_every_journal_mode() {
    let place = Fixture::new();
    for (name, mode) in [("rollback.db", "delete"), ("wal.db", "wal")] {
        let connection = place.database(name, 300);
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        drop(connection);
        let mut bytes = std::fs::read(place.path(name)).unwrap();
        bytes[100..300].fill(0xff);
        std::fs::write(place.path(name), &bytes).unwrap();
        let report = place.backup(&of(&[name])).unwrap();
        assert_eq!((report.status, report.exit_code()), (SessionStatus::Ok, 4), "{name}");
        assert_eq!(report.databases[0].status, BackupStatus::Corrupt, "{name}");
        assert_eq!(report.databases[0].bytes_read, bytes.len() as u64, "{name}");
    }
}

#[test]
fn place_where_a_repository_was_and_is_gone_stays_empty() {
    let place = Fixture::new();
    drop(place.database("a.db", 1));
    place.stored("a.db");
    std::fs::remove_dir_all(place.path("backups")).unwrap();
    for location_exists in [false, true] {
        if location_exists {
            std::fs::create_dir(place.path("backups")).unwrap();
        }
        let (kind, code, message) = told(&place.backup(&of(&["a.db"])).unwrap_err());
        assert_eq!((kind, code), ("repository-gone", 10));
        assert!(message.contains("is gone"), "{message}");
    }
    assert_eq!(std::fs::read_dir(place.path("backups")).unwrap().count(), 0);
}

#[test]
fn place_with_other_things_in_it_is_left_alone() {
    let place = Fixture::new();
    drop(place.database("a.db", 1));
    std::fs::create_dir(place.path("backups")).unwrap();
    std::fs::write(place.path("backups/holiday.jpg"), "x").unwrap();
    let (kind, code, _) = told(&place.backup(&of(&["a.db"])).unwrap_err());
    assert_eq!((kind, code), ("no-repository", 10));
    assert_eq!(std::fs::read_dir(place.path("backups")).unwrap().count(), 1);
}

#[test]
fn wrong_password_and_none_are_exit_12() {
    let mut place = Fixture::new();
    drop(place.database("a.db", 1));
    place.stored("a.db");
    place.context.environment.variables.insert("DBKEEP_PASSWORD".into(), "wrong".into());
    let (kind, code, _) = told(&place.backup(&of(&["a.db"])).unwrap_err());
    assert_eq!((kind, code), ("wrong-password", 12));
    place.context.environment.variables.remove("DBKEEP_PASSWORD");
    let (kind, code, _) = told(&place.open().unwrap_err());
    assert_eq!((kind, code), ("no-password", 12));
}

#[test]
fn generated_key_opens_the_repository_wherever_it_is_moved() {
    let mut place = Fixture::new();
    drop(place.database("a.db", 1));
    place.context.environment.variables.remove("DBKEEP_PASSWORD");
    let (kind, code, _) = told(&place.backup(&of(&["a.db"])).unwrap_err());
    assert_eq!((kind, code), ("usage", 2));
    assert!(!place.path("backups").exists());
    let report = place.backup(&BackupRequest { new_key: true, ..of(&["a.db"]) }).unwrap();
    let key_file = report.initialised.unwrap().key_file.unwrap();
    assert!(report.recovery_sheet_due);
    assert!(key_file.starts_with(&place.context.environment.config_directory));
    std::fs::rename(place.path("backups"), place.path("elsewhere")).unwrap();
    place.context.location = place.path("elsewhere");
    let store = place.open().unwrap();
    let sheet = dbkeep_engine::keys::recovery_sheet(&store).unwrap();
    assert_eq!(format!("{}\n", sheet.key), std::fs::read_to_string(key_file).unwrap());
    assert!(!place.backup(&of(&["a.db"])).unwrap().recovery_sheet_due);
}

#[test]
fn dry_run_writes_nothing() {
    let place = Fixture::new();
    drop(place.database("a.db", 10));
    let request = BackupRequest { dry_run: true, ..of(&["a.db", "gone.db"]) };
    let report = place.backup(&request).unwrap();
    assert!(report.dry_run);
    assert_eq!(report.databases[0].status, BackupStatus::Ok);
    assert!(report.databases[0].bytes_source > 0);
    assert_eq!(report.databases[1].status, BackupStatus::Failed);
    assert!(!place.path("backups").exists());
    place.stored("a.db");
    place.backup(&request).unwrap();
    assert_eq!(place.list().snapshots.len(), 1);
}

#[test]
fn sources_at_one_instant_are_all_stored() {
    let place = Fixture::new();
    let wal = place.database("wal.db", 5);
    wal.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&wal, 5);
    drop(place.database("rollback.db", 7));
    let request = BackupRequest { at_once: true, ..of(&["wal.db", "gone.db", "rollback.db"]) };
    let report = place.backup(&request).unwrap();
    let rows: Vec<_> = report.databases.iter().map(|one| (one.name.as_str(), one.rows)).collect();
    assert_eq!(rows, [("wal", 10), ("gone", 0), ("rollback", 7)]);
    assert_eq!(report.exit_code(), 3);
}

#[test]
fn report_is_written_to_a_file_as_it_is_returned() {
    let place = Fixture::new();
    drop(place.database("a.db", 1));
    let request = BackupRequest { report: Some("report.json".into()), ..of(&["a.db"]) };
    let report = place.backup(&request).unwrap();
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("report.json")).unwrap()).unwrap();
    assert_eq!(written, serde_json::to_value(&report).unwrap());
    let keys: Vec<&String> = written.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 8, "{keys:?}");
}

#[test]
fn report_whose_directory_vanished_during_the_backup_is_told_beside_what_was_stored() {
    let place = Fixture::new();
    drop(place.database("a.db", 1));
    std::fs::create_dir(place.path("reports")).unwrap();
    place.at_step({
        let reports = place.path("reports");
        move |step| {
            if step == "backup.acknowledged" {
                std::fs::remove_dir(&reports).unwrap();
            }
        }
    });
    let request = BackupRequest { report: Some("reports/a.json".into()), ..of(&["a.db"]) };
    let report = place.backup(&request).unwrap();
    assert_eq!((report.exit_code(), report.status), (1, SessionStatus::Ok));
    assert_eq!(report.databases[0].snapshot, Some(place.list().snapshots[0].id));
    let error = report.error.unwrap();
    assert!(error.message.contains("reports/a.json"), "{error:?}");
    assert!(error.hint.unwrap().contains("safe"));
}

#[test]
fn snapshots_that_cannot_be_acknowledged_are_told_with_the_error() {
    let place = Fixture::new();
    drop(place.database("a.db", 1));
    place.stored("a.db");
    drop(place.database("b.db", 2));
    place.at_step({
        let facts = place.path("backups/dbkeep/facts");
        move |step| {
            if step == "backup.index-stored" && facts.is_dir() {
                // As a full disk does, this lets no fact be written.
                std::fs::rename(&facts, facts.with_file_name("away")).unwrap();
                std::fs::write(&facts, "").unwrap();
            }
        }
    });
    let report = place.backup(&of(&["a.db", "b.db"])).unwrap();
    assert_eq!((report.exit_code(), report.status), (1, SessionStatus::Partial));
    let stored: Vec<_> = report.databases.iter().map(|one| (one.status, one.snapshot.is_some())).collect();
    assert_eq!(stored, [(BackupStatus::Unchanged, true), (BackupStatus::Ok, true)]);
    let error = report.error.clone().unwrap();
    assert_eq!(error.kind, "unacknowledged");
    assert!(error.message.starts_with("2 snapshots are stored but could not be acknowledged: "), "{error:?}");
    assert!(error.hint.unwrap().contains("back up again"));

    let facts = place.path("backups/dbkeep/facts");
    std::fs::remove_file(&facts).unwrap();
    std::fs::rename(facts.with_file_name("away"), &facts).unwrap();
    let listed: Vec<_> = place.list().snapshots.iter().map(|snapshot| snapshot.id).collect();
    assert!(report.databases.iter().all(|one| listed.contains(&one.snapshot.unwrap())));
    *place.heard.at_step.lock().unwrap() = None;
    assert_eq!(place.backup(&of(&["a.db", "b.db"])).unwrap().exit_code(), 0);
}

/// Commits whenever it is told that something of the repository could not be read.
struct Application {
    database: std::path::PathBuf,
    commits: std::sync::atomic::AtomicUsize,
}

impl dbkeep_engine::Observer for Application {
    fn warn(&self, _message: &str) {
        let connection = rusqlite::Connection::open(&self.database).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        insert(&connection, 1);
        self.commits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn application_in_rollback_mode_does_not_wait_for_the_repository() {
    let place = Fixture::new();
    drop(place.database("a.db", 100));
    place.stored("a.db");
    let application = std::sync::Arc::new(Application {
        database: place.path("a.db"),
        commits: std::sync::atomic::AtomicUsize::new(0),
    });
    let backup = || {
        let watch: dbkeep_engine::Watch = application.clone();
        let report = dbkeep_engine::backup::run(&place.context, &of(&["a.db"]), place.now(), &watch).unwrap();
        let [one] = report.databases.as_slice() else { panic!("{report:?}") };
        assert_eq!(one.error, None);
        (one.rows, application.commits.swap(0, std::sync::atomic::Ordering::Relaxed))
    };

    // Its manifest cannot be read.
    let packs = place.objects("data");
    packs.iter().for_each(|pack| std::fs::rename(pack, pack.with_extension("away")).unwrap());
    let (rows, commits) = backup();
    assert!(commits > 0);
    assert_eq!(rows, 100 + commits as u64);
}

#[test]
fn interrupted_session_is_exit_130_and_keeps_what_was_done() {
    let place = Fixture::new();
    drop(place.database("a.db", 1));
    place.stored("a.db");
    place.heard.steps.lock().unwrap().clear();
    *place.heard.cancel_at.lock().unwrap() = Some("backup.captured");
    let report = place.backup(&of(&["a.db"])).unwrap();
    assert_eq!((report.exit_code(), report.error.unwrap().kind.as_str()), (130, "interrupted"));
    *place.heard.cancel_at.lock().unwrap() = None;
    assert_eq!(place.list().snapshots.len(), 1);
}

#[test]
fn tags_and_reasons_that_are_ours_are_refused() {
    let place = Fixture::new();
    drop(place.database("a.db", 1));
    for tag in ["session=x", "a,b", "", "a\nb"] {
        let request = BackupRequest { tags: vec![tag.into()], ..of(&["a.db"]) };
        assert_eq!(told(&place.backup(&request).unwrap_err()).1, 2, "{tag:?}");
    }
    let request = BackupRequest { reason: Some("pre-restore".into()), ..of(&["a.db"]) };
    assert_eq!(told(&place.backup(&request).unwrap_err()).1, 2);
}

#[test]
fn hundred_small_databases_fill_a_few_packs() {
    let place = Fixture::new();
    for number in 0..100 {
        drop(place.database(&format!("many/db{number}.db"), 2));
    }
    let report = place.backup(&of(&["many"])).unwrap();
    assert_eq!((report.databases.len(), report.exit_code()), (100, 0));
    let packs = walk(&place.path("backups/data"));
    assert!(packs <= 4, "{packs} packs");
    assert_eq!(place.list().snapshots.len(), 100);
}

fn walk(directory: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}
