//! The keeper as programs use it: opening, errors, stopping, several at once, and what it leaves alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use dbkeep_engine::check::{self, CheckRequest, ReadData};
use dbkeep_engine::jiff::Timestamp;
use dbkeep_engine::keeper::{
    BackupOptions, CompareOptions, Error, ForgetOptions, GuardOptions, Keeper, ListOptions, Progress, Report,
    RestoreOptions, Settings, Undecided, VerifyOptions,
};
use dbkeep_engine::report::{BackupStatus, GuardOutcome, SessionStatus, VerifyStatus};
use dbkeep_engine::retention::Policy;
use dbkeep_engine::{Environment, ErrorKind, KeyCost, Observer};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::fixture::{insert, rows};

/// A temporary directory for databases, a repository and what is remembered of it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings::new(self.path("backups"), self.path("state")).password("secret").key_cost(KeyCost::Cheap)
    }

    fn keeper(&self) -> Keeper {
        Keeper::open(self.settings().patience(Duration::from_millis(50))).unwrap()
    }

    /// Makes a database with a table `items` of so many rows.
    fn database(&self, name: &str, rows: u32) -> Connection {
        let connection = Connection::open(self.path(name)).unwrap();
        connection.execute_batch("CREATE TABLE items(id INTEGER PRIMARY KEY, text TEXT NOT NULL)").unwrap();
        insert(&connection, rows);
        connection
    }

    fn source(&self, name: &str) -> BackupOptions {
        BackupOptions::new().source(self.path(name))
    }
}

/// Makes sure that the repository is sound to the last byte, and says how many snapshots it has.
fn sound(keeper: &Keeper) -> u64 {
    let request = CheckRequest { read_data: ReadData::All, ..CheckRequest::default() };
    let report = check::run(&keeper.store().unwrap(), &request, Timestamp::now(), keeper.watch()).unwrap();
    assert!(report.ok, "{report:?}");
    report.snapshots
}

fn told(error: &Error) -> (ErrorKind, String) {
    (error.kind(), format!("{error:#}"))
}

#[test]
fn types_of_the_keeper_may_go_to_other_threads_and_live_for_ever() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Keeper>();
    check::<Settings>();
    check::<Progress>();
    check::<Error>();
    check::<Report>();
    check::<BackupOptions>();
    check::<RestoreOptions>();
    check::<ForgetOptions>();
}

#[test]
fn wrong_password_is_told_when_the_keeper_is_opened() {
    let place = Place::new();
    drop(place.database("app.db", 3));
    place.keeper().backup(&place.source("app.db")).unwrap();
    let error = Keeper::open(place.settings().password("guessed")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPassword);
    assert_eq!(error.hint(), Some("is it the password or key file of this repository?"));
    assert!(error.report().is_none());

    std::fs::write(place.path("key"), "secret\n").unwrap();
    let keeper = Keeper::open(place.settings().password_file(place.path("key"))).unwrap();
    assert_eq!(keeper.list(&ListOptions::new()).unwrap().snapshots.len(), 1);
    let error = Keeper::open(place.settings().password_file(place.path("absent"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.hint().is_some_and(|hint| hint.contains("mount the disk")), "{error:?}");
}

#[test]
fn place_without_a_repository_is_left_empty_until_the_first_backup() {
    let place = Place::new();
    let keeper = place.keeper();
    for error in [
        keeper.list(&ListOptions::new()).unwrap_err(),
        keeper.verify(&VerifyOptions::new()).unwrap_err(),
        keeper.restore(&RestoreOptions::new()).unwrap_err(),
        keeper.forget(&ForgetOptions::configured()).unwrap_err(),
        keeper.status().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NoRepository, "{error:?}");
        assert!(error.hint().is_some());
    }
    assert!(!place.path("backups").exists() && !place.path("state").exists());
    assert_eq!(keeper.backup(&BackupOptions::new()).unwrap_err().kind(), ErrorKind::Usage);
    assert!(!place.path("backups").exists(), "nothing to back up makes no repository");

    drop(place.database("app.db", 3));
    let report = keeper.backup(&place.source("app.db")).unwrap();
    assert!(report.initialised.is_some());
    assert_eq!(sound(&keeper), 1);
}

#[test]
fn repository_that_vanished_is_never_made_anew() {
    let place = Place::new();
    drop(place.database("app.db", 3));
    let keeper = place.keeper();
    keeper.backup(&place.source("app.db")).unwrap();
    std::fs::rename(place.path("backups"), place.path("unmounted")).unwrap();
    for error in [
        Keeper::open(place.settings()).unwrap_err(),
        keeper.backup(&place.source("app.db")).unwrap_err(),
        keeper.list(&ListOptions::new()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::RepositoryGone, "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("is the disk mounted?")));
    }
    assert!(!place.path("backups").exists());
    std::fs::rename(place.path("unmounted"), place.path("backups")).unwrap();
    keeper.backup(&place.source("app.db")).unwrap();
}

#[test]
fn copy_stands_in_for_a_repository_that_vanished() {
    let place = Place::new();
    let app = place.database("app.db", 7);
    let other = place.path("copy").display().to_string();
    let settings = || {
        place.settings().configure(|config| {
            let copy = dbkeep_engine::config::CopyConfig {
                name: "second".to_owned(),
                location: other.clone(),
                ..Default::default()
            };
            config.copies.push(copy);
        })
    };
    let report = Keeper::open(settings()).unwrap().backup(&place.source("app.db")).unwrap();
    assert_eq!(report.copies.iter().map(|copy| copy.status.as_str()).collect::<Vec<_>>(), ["ok"]);
    std::fs::remove_dir_all(place.path("backups")).unwrap();
    let progress = Progress::new();
    let keeper = Keeper::open(settings()).unwrap().watched(Arc::new(progress.clone()));
    let restored = keeper.restore(&RestoreOptions::new().to(place.path("back.db"))).unwrap();
    assert_eq!((restored.copy.as_deref(), restored.rows), (Some("second"), 7));
    assert!(progress.take_warnings().iter().any(|warning| warning.contains("\"second\"")));
    drop(app);
    assert_eq!(rows(&place.path("back.db")), rows(&place.path("app.db")));
}

#[test]
fn settings_of_code_are_checked_as_those_of_a_file() {
    let place = Place::new();
    let refused = |settings: Settings| told(&Keeper::open(settings).unwrap_err());
    assert_eq!(
        refused(place.settings().configure(|config| config.repository.compression = Some(99))),
        (ErrorKind::Usage, "`repository.compression` is not between 1 and 19".to_owned())
    );
    assert_eq!(refused(place.settings().sqlite("", "app.db")).0, ErrorKind::Usage);
    assert_eq!(refused(place.settings().repository("")).0, ErrorKind::Usage);
    let no_text: &OsStr = OsStrExt::from_bytes(b"app\xff.db");
    let expected = (ErrorKind::Usage, "app\u{fffd}.db is no text in UTF-8".to_owned());
    assert_eq!(refused(place.settings().sqlite("app", no_text)), expected);
    let error = place.keeper().backup(&BackupOptions::new().source(no_text)).unwrap_err();
    assert_eq!(told(&error), expected);
    assert_eq!(
        refused(place.settings().repository("s3:bucket")),
        (
            ErrorKind::Unsupported,
            "repositories at s3: locations are not supported by this version".to_owned()
        )
    );
    let file = place.path("dbkeep.toml");
    std::fs::write(&file, "[repository]\npasword-file = \"x\"\n").unwrap();
    let error = Settings::from_file(&file, place.path("state")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.hint(), Some("did you mean `password-file`?"));
    let error = Settings::from_file(place.path("absent.toml"), place.path("state")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// Stops at the nth question whether to.
struct StopsAt(AtomicUsize);

impl Observer for StopsAt {
    fn cancelled(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        left == 0 || self.0.compare_exchange(left, left - 1, Ordering::Relaxed, Ordering::Relaxed) == Ok(1)
    }
}

#[test]
fn backup_that_is_stopped_anywhere_leaves_a_sound_repository() {
    let place = Place::new();
    drop(place.database("first.db", 10));
    drop(place.database("app.db", 40_000));
    let keeper = place.keeper();
    keeper.backup(&place.source("first.db")).unwrap();
    let mut stopped = 0;
    for questions in (0..24).map(|power| 1 << power) {
        let watched = keeper.watched(Arc::new(StopsAt(AtomicUsize::new(questions))));
        match watched.backup(&place.source("app.db")) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}");
                assert_eq!(sound(&keeper), 1, "after {questions} questions");
                stopped += 1;
            }
            Ok(report) => {
                assert_eq!(report.status, SessionStatus::Ok);
                break;
            }
        }
    }
    assert!(stopped > 1, "it was stopped {stopped} times");
    assert_eq!(sound(&keeper), 2);
    let report = keeper.restore(&RestoreOptions::new().database("app").to(place.path("back.db"))).unwrap();
    assert_eq!(report.rows, 40_000);
}

#[test]
fn restore_that_is_stopped_leaves_its_target_as_it_was() {
    let place = Place::new();
    let app = place.database("app.db", 2_000);
    let keeper = place.keeper();
    keeper.backup(&place.source("app.db")).unwrap();
    app.execute_batch("DELETE FROM items").unwrap();
    let progress = Progress::new();
    progress.cancel();
    let stopped = keeper.watched(Arc::new(progress));
    let error = stopped.restore(&RestoreOptions::new().in_place(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let error = stopped.restore(&RestoreOptions::new().to(place.path("new.db"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(!place.path("new.db").exists());
    assert!(rows(&place.path("app.db")).is_empty());
}

/// Adds up what each phase reports.
#[derive(Default)]
struct Sums(Mutex<Vec<(String, u64, u64)>>);

impl Observer for Sums {
    fn phase(&self, name: &str, total: u64) {
        self.0.lock().unwrap().push((name.to_owned(), total, 0));
    }

    fn advance(&self, bytes: u64) {
        let mut phases = self.0.lock().unwrap();
        phases.last_mut().expect("bytes belong to a phase").2 += bytes;
    }
}

#[test]
fn progress_of_each_phase_adds_up_to_what_it_announced() {
    let place = Place::new();
    drop(place.database("app.db", 60_000));
    let size = std::fs::metadata(place.path("app.db")).unwrap().len();
    let sums = Arc::new(Sums::default());
    let keeper = place.keeper().watched(sums.clone());
    let phases = |what: &str| {
        let phases = std::mem::take(&mut *sums.0.lock().unwrap());
        assert!(!phases.is_empty(), "{what} tells nothing");
        for (name, total, done) in phases.iter().filter(|(_, total, _)| *total > 0) {
            assert_eq!(done, total, "{what}: {name}");
        }
        phases.into_iter().map(|(_, total, _)| total).max().unwrap()
    };
    keeper.backup(&place.source("app.db")).unwrap();
    assert_eq!(phases("backup"), size);
    keeper.verify(&VerifyOptions::new()).unwrap();
    assert_eq!(phases("verify"), size);
    keeper.restore(&RestoreOptions::new().to(place.path("back.db"))).unwrap();
    assert_eq!(phases("restore"), size);
}

#[test]
fn two_keepers_back_up_into_one_repository_at_once() {
    let place = Place::new();
    drop(place.database("first.db", 5));
    place.keeper().backup(&place.source("first.db")).unwrap();
    let names = ["one.db", "two.db"];
    for name in names {
        drop(place.database(name, 20_000));
    }
    let start = Barrier::new(names.len());
    let sessions: Vec<String> = thread::scope(|scope| {
        let running = names.map(|name| {
            let (place, start) = (&place, &start);
            scope.spawn(move || {
                let keeper = place.keeper();
                start.wait();
                keeper.backup(&place.source(name)).unwrap().session
            })
        });
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_ne!(sessions[0], sessions[1]);
    let keeper = place.keeper();
    assert_eq!(sound(&keeper), 3);
    assert_eq!(keeper.verify(&VerifyOptions::new()).unwrap().ok, 3);
}

#[test]
fn one_keeper_is_used_by_several_threads() {
    let place = Place::new();
    drop(place.database("first.db", 5));
    let keeper = place.keeper();
    keeper.backup(&place.source("first.db")).unwrap();
    drop(place.database("app.db", 5_000));
    thread::scope(|scope| {
        scope.spawn(|| keeper.backup(&place.source("app.db")).unwrap());
        scope.spawn(|| keeper.verify(&VerifyOptions::new().database("first")).unwrap());
        scope.spawn(|| {
            let options = RestoreOptions::new().database("first").to(place.path("back.db"));
            keeper.restore(&options).unwrap()
        });
        scope.spawn(|| {
            let policy = Policy { last: 1, ..Policy::default() };
            keeper.forget(&ForgetOptions::policy(policy).database("first")).unwrap()
        });
        for _ in 0..5 {
            assert!(!keeper.list(&ListOptions::new()).unwrap().snapshots.is_empty());
        }
    });
    assert_eq!(sound(&keeper), 2);
    assert_eq!(rows(&place.path("back.db")), rows(&place.path("first.db")));
}

#[test]
fn unknown_snapshot_has_a_kind_and_a_hint() {
    let place = Place::new();
    drop(place.database("app.db", 3));
    let keeper = place.keeper();
    keeper.backup(&place.source("app.db")).unwrap();
    for error in [
        keeper.restore(&RestoreOptions::new().snapshot("ffffffff")).unwrap_err(),
        keeper.verify(&VerifyOptions::new().snapshot("ffffffff")).unwrap_err(),
        keeper.compare(&CompareOptions::new("ffffffff")).unwrap_err(),
        keeper.forget(&ForgetOptions::snapshots(["ffffffff"])).unwrap_err(),
    ] {
        assert_eq!(told(&error), (ErrorKind::NoSnapshot, "no snapshot \"ffffffff\"".to_owned()));
        assert!(error.hint().is_some_and(|hint| hint.contains("dbkeep list")), "{error:?}");
    }
}

#[test]
fn causes_are_chained_and_not_repeated() {
    let place = Place::new();
    drop(place.database("app.db", 1));
    place.keeper().backup(&place.source("app.db")).unwrap();
    let error = Keeper::open(place.settings().password_file(place.0.path())).unwrap_err();
    let path = place.0.path().display();
    assert_eq!(error.to_string(), format!("could not read {path}"));
    assert_eq!(format!("{error:#}"), format!("could not read {path}: not a regular file"));
    let cause = std::error::Error::source(&error).expect("there is a cause");
    assert_eq!(cause.to_string(), "not a regular file");
}

#[test]
fn backup_of_which_a_part_failed_is_an_error_that_tells_what_is_stored() {
    let place = Place::new();
    drop(place.database("app.db", 3));
    let keeper = place.keeper();
    let error = keeper.backup(&place.source("app.db").source(place.path("absent.db"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains("absent.db"), "{error}");
    let Some(Report::Backup(report)) = error.report() else { panic!("{error:?}") };
    assert_eq!(report.status, SessionStatus::Partial);
    assert_eq!(report.databases.iter().filter(|one| one.snapshot.is_some()).count(), 1);
    assert_eq!(sound(&keeper), 1);

    std::fs::write(place.path("text.db"), "no database".repeat(100)).unwrap();
    let three = place.source("app.db").source(place.path("absent.db")).source(place.path("text.db"));
    let error = keeper.backup(&three).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SomeFailed);
    assert!(error.to_string().starts_with("2 of 3 databases and copies failed; the first: "), "{error}");
}

#[test]
fn backup_of_a_damaged_database_is_stored_and_an_error() {
    let place = Place::new();
    drop(place.database("app.db", 3_000));
    let mut image = std::fs::read(place.path("app.db")).unwrap();
    let middle = image.len() / 2 / 4096 * 4096;
    image[middle..middle + 4096].fill(0xee);
    std::fs::write(place.path("app.db"), image).unwrap();
    let keeper = place.keeper();
    let error = keeper.backup(&place.source("app.db")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let Some(Report::Backup(report)) = error.report() else { panic!("{error:?}") };
    assert_eq!(report.databases[0].status, BackupStatus::Corrupt);
    assert!(error.to_string().contains(&report.databases[0].integrity), "{error}");
    assert_eq!(keeper.list(&ListOptions::new()).unwrap().snapshots.len(), 1);
}

#[test]
fn verification_that_finds_damage_is_an_error_with_the_findings() {
    let place = Place::new();
    drop(place.database("app.db", 3_000));
    let keeper = place.keeper();
    let report = keeper.backup(&place.source("app.db")).unwrap();
    // The largest pack has the rows.
    let packs = walk(&place.path("backups/data"));
    let pack = packs.into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let error = keeper.verify(&VerifyOptions::new().session(&report.session)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().starts_with("1 of 1 snapshots cannot be trusted: app "), "{error}");
    let Some(Report::Verify(report)) = error.report() else { panic!("{error:?}") };
    assert_eq!(report.checked[0].status, VerifyStatus::Damaged);
    assert!(!report.checked[0].findings.is_empty());
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn last_good_snapshot_goes_by_force_only() {
    let place = Place::new();
    drop(place.database("app.db", 3));
    let keeper = place.keeper();
    keeper.backup(&place.source("app.db")).unwrap();
    let error = keeper.forget(&ForgetOptions::snapshots(["latest"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let Some(Report::Forget(report)) = error.report() else { panic!("{error:?}") };
    assert_eq!((report.here.forgotten.len(), report.here.refused.len()), (0, 1));
    assert!(error.to_string().contains(&report.here.refused[0].why), "{error}");
    let report = keeper.forget(&ForgetOptions::snapshots(["latest"]).force(true)).unwrap();
    assert_eq!(report.here.forgotten.len(), 1);
}

#[test]
fn migration_is_undone_while_the_program_has_its_database_open() {
    let place = Place::new();
    let app = place.database("app.db", 500);
    app.pragma_update(None, "journal_mode", "wal").unwrap();
    let keeper = place.keeper();
    let before = keeper.safety_backup(&place.source("app.db")).unwrap();
    assert_eq!(before.snapshots().count(), 1);
    assert_eq!(before.proof.ok, 1);
    let listed = keeper.list(&ListOptions::new().session(&before.session)).unwrap().snapshots;
    assert_eq!(listed[0].reason.as_deref(), Some("pre-migration"));
    assert!(listed[0].verified.is_some());

    app.execute_batch("DELETE FROM items WHERE id > 100; CREATE TABLE more(x); INSERT INTO more VALUES(1)")
        .unwrap();
    let changes = keeper.compare(&CompareOptions::new(listed[0].id)).unwrap();
    let items = changes.tables.iter().find(|table| table.name == "items").unwrap();
    assert_eq!((items.added, items.removed, items.changed), (0, 400, 0));

    let report = keeper.restore_session(&before.session, &RestoreOptions::new().in_place(true)).unwrap();
    assert_eq!(report.restores.len(), 1);
    let safety = report.restores[0].safety_snapshot.expect("what was there is kept");
    // The very connection sees the restored database, and can go on.
    let count: i64 = app.query_row("SELECT count(*) FROM items", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 500);
    insert(&app, 1);
    let kept = RestoreOptions::new().snapshot(safety).to(place.path("failed.db"));
    assert_eq!(keeper.restore(&kept).unwrap().rows, 101);
}

/// SQLite's locks are POSIX locks, which die when any descriptor of the file is closed in the process.
#[cfg(target_os = "linux")]
#[test]
fn locks_of_the_program_survive_what_a_keeper_does() {
    use std::os::unix::fs::MetadataExt;

    let place = Place::new();
    for mode in ["wal", "delete"] {
        let name = format!("{mode}.db");
        let app = place.database(&name, 500);
        app.pragma_update(None, "journal_mode", mode).unwrap();
        app.execute_batch("BEGIN; SELECT count(*) FROM items").unwrap();
        let inode = std::fs::metadata(place.path(&name)).unwrap().ino();
        // Each without its number. While others come and go, the list may tell one twice, or leave one out.
        let locks = || -> BTreeSet<String> {
            let all = std::fs::read_to_string("/proc/locks").unwrap();
            let ours = format!(" {} ", std::process::id());
            let mine =
                all.lines().filter(|line| line.contains(&ours) && line.contains(&format!(":{inode} ")));
            mine.filter_map(|line| Some(line.split_once(':')?.1.to_owned())).collect()
        };
        let held = locks();
        assert!(!held.is_empty(), "a reader holds a lock on {name}");
        // What was lost does not come back.
        let locks = || (0..20).map(|_| locks()).find(|now| *now == held).unwrap_or_else(&locks);
        let keeper = place.keeper();
        keeper.safety_backup(&place.source(&name)).unwrap();
        assert_eq!(locks(), held, "after a backup of {name}");
        keeper.compare(&CompareOptions::new("latest").database(mode)).unwrap();
        assert_eq!(locks(), held, "after a comparison of {name}");
        keeper.backup(&BackupOptions::new().source(place.0.path())).unwrap();
        assert_eq!(locks(), held, "after looking for databases beside {name}");
        app.execute_batch("COMMIT").unwrap();
    }
}

#[test]
fn nothing_of_the_environment_counts_but_where_it_was_asked_for() {
    let place = Place::new();
    drop(place.database("app.db", 3));
    place.keeper().backup(&place.source("app.db")).unwrap();
    let misleading = || {
        let mut environment = Environment::isolated(place.0.path());
        let mut set = |name: &str, value: &str| {
            environment.variables.insert(name.to_owned(), value.to_owned());
        };
        set("DBKEEP_REPOSITORY", "elsewhere");
        set("DBKEEP_PASSWORD", "guessed");
        set("DBKEEP_PASSWORD_FILE", "/nowhere");
        set("DATABASE_URL", "app.db");
        environment.terminal = true;
        environment
    };
    // Asked for: the environment says where the repository is, and a source is found in it.
    let settings = Settings::in_environment(misleading()).unwrap();
    let keeper = Keeper::open(settings.clone().password("secret")).unwrap();
    assert_eq!(keeper.repository(), place.path("elsewhere"));
    // What code says counts before.
    let keeper = Keeper::open(settings.repository(place.path("backups")).password("secret")).unwrap();
    keeper.backup(&BackupOptions::new().source("env:DATABASE_URL")).unwrap();
    // Not asked for: nothing of it is known.
    let error = place.keeper().backup(&BackupOptions::new().source("env:DATABASE_URL")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoVariable);
    let given = place.settings().variable("DATABASE_URL", place.path("app.db").display().to_string());
    Keeper::open(given).unwrap().backup(&BackupOptions::new().source("env:DATABASE_URL")).unwrap();
    assert!(!place.path("elsewhere").exists());
}

#[test]
fn configuration_that_others_can_write_is_used_only_where_it_was_named() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    let file = place.path("dbkeep.toml");
    std::fs::write(&file, "[repository]\nlocation = \"backups\"\npassword-command = \"echo secret\"\n")
        .unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    let error = Settings::in_environment(Environment::isolated(place.0.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsafeFile);
    drop(place.database("app.db", 3));
    let named = Settings::from_file(&file, place.path("state")).unwrap().key_cost(KeyCost::Cheap);
    Keeper::open(named).unwrap().backup(&place.source("app.db")).unwrap();
    place.keeper().list(&ListOptions::new()).unwrap();
}

#[test]
fn secrets_are_shown_nowhere() {
    let place = Place::new();
    let settings = place
        .settings()
        .postgres("clinic", "postgresql://me:hunter2@127.0.0.1:1/clinic?connect_timeout=2")
        .variable("URL", "hunter2");
    let shown = format!("{settings:?}");
    let keeper = Keeper::open(settings).unwrap();
    let error = keeper.backup(&BackupOptions::new().source("clinic")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    for text in [shown, format!("{keeper:?}"), format!("{error:?}"), format!("{error:#}")] {
        assert!(!text.contains("hunter2") && !text.contains("\"secret\""), "{text}");
    }
}

#[test]
fn change_that_fails_under_a_guard_is_undone_and_one_that_succeeds_stays() {
    let place = Place::new();
    let app = place.database("app.db", 50);
    let keeper = place.keeper();
    let options = || GuardOptions::new().source(place.path("app.db"));
    let guarded =
        keeper.guard(&options(), || app.execute("UPDATE items SET text = 'new' WHERE id = 1", [])).unwrap();
    assert_eq!(guarded.value, 1);
    assert_eq!(guarded.report.outcome, GuardOutcome::Succeeded);
    assert_eq!(guarded.report.changes[0].tables[0].changed, 1);

    let fails = || app.execute_batch("DELETE FROM items; DROP TABLE absent");
    let error = keeper.guard(&options(), fails).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandFailed);
    assert!(error.to_string().contains("no such table: absent"), "{error}");
    let Some(Report::Guard(report)) = error.report() else { panic!("{error:?}") };
    assert_eq!(report.outcome, GuardOutcome::Restored, "{report:?}");
    assert_eq!(rows(&place.path("app.db")).len(), 50);

    let error = keeper.guard(&options().keep(true), fails).unwrap_err();
    let Some(Report::Guard(report)) = error.report() else { panic!("{error:?}") };
    assert_eq!(report.outcome, GuardOutcome::Kept);
    assert_eq!(rows(&place.path("app.db")).len(), 0);

    let check = options().check("SELECT count(*) = 0 FROM items");
    let error = keeper.guard(&check, || app.execute("INSERT INTO items(text) VALUES ('x')", [])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckFailed);
    assert_eq!(rows(&place.path("app.db")).len(), 0);
}

#[test]
fn change_is_not_begun_without_a_backup() {
    let place = Place::new();
    let keeper = place.keeper();
    let mut begun = false;
    let absent = GuardOptions::new().source(place.path("absent.db"));
    let change = || -> Result<(), Error> {
        begun = true;
        Ok(())
    };
    let error = keeper.guard(&absent, change).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error:?}");
    assert!(!begun);
}

#[test]
fn change_that_panics_is_left_for_the_next_guard_to_explain() {
    let place = Place::new();
    let app = place.database("app.db", 5);
    let keeper = place.keeper();
    let options = GuardOptions::new().source(place.path("app.db"));
    let panics = || -> Result<(), Error> {
        app.execute_batch("DELETE FROM items").unwrap();
        panic!("half-way")
    };
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| keeper.guard(&options, panics)));
    assert!(unwound.is_err(), "the panic goes on to the program");
    let error = keeper.guard(&options, || Ok::<_, Error>(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("dbkeep guard --resume")), "{error:?}");

    let report = keeper.resume_guards(Undecided::Report).unwrap().remove(0);
    assert!(report.error.unwrap().message.contains("somebody has to say"));
    assert_eq!(rows(&place.path("app.db")).len(), 0);
    let report = keeper.resume_guards(Undecided::Restore).unwrap().remove(0);
    assert_eq!((report.outcome, report.error), (GuardOutcome::Restored, None));
    assert_eq!(rows(&place.path("app.db")).len(), 5);
    assert_eq!(keeper.resume_guards(Undecided::Keep).unwrap(), []);
}
