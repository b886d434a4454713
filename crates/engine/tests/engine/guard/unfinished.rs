//! What is left of guards that did not end, and what is held for them.

use dbkeep_engine::forget::{self, Choice as What, ForgetRequest};

use super::*;

/// Stops a guard of `app.db` after its command has failed.
fn stop(fixture: &Fixture, request: &GuardRequest, step: &'static str, run: impl Fn()) {
    fixture.heard.steps.lock().unwrap().clear();
    *fixture.heard.cancel_at.lock().unwrap() = Some(step);
    let stopped = guarded(fixture, request, || {
        run();
        Err("x".to_owned())
    });
    let error = stopped.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(error.hint().unwrap().contains("guard --resume"), "{error}");
    *fixture.heard.cancel_at.lock().unwrap() = None;
}

#[test]
fn guard_is_not_finished_at_another_database_of_the_name() {
    let config = "[databases.app]\nsqlite = \"env:APP\"\n";
    let mut fixture = Fixture::with_config(config);
    let (path, other) = (database(&fixture, "app.db"), database(&fixture, "other.db"));
    insert(&Connection::open(&other).unwrap(), 3);
    let set = |fixture: &mut Fixture, path: &Path| {
        let variables = &mut fixture.context.environment.variables;
        variables.insert("APP".to_owned(), path.to_str().unwrap().to_owned());
    };
    set(&mut fixture, &path);
    stop(&fixture, &of(&["app"]), "guard.taken-down", || execute(&path, "DELETE FROM items"));

    set(&mut fixture, &other);
    for how in [None, Some(OnFailure::Restore), Some(OnFailure::Keep)] {
        let report = resumed(&fixture, how).unwrap().remove(0);
        let error = report.error.unwrap();
        assert_eq!(error.kind, "refused", "{}", error.message);
        assert!(error.message.contains("the guard's was another database"), "{}", error.message);
    }
    assert_eq!((rows(&path), rows(&other)), (0, 13));

    // Another file in its place is what the command may have left.
    set(&mut fixture, &path);
    std::fs::remove_file(&path).unwrap();
    execute(&path, "CREATE TABLE other(a)");
    let report = resumed(&fixture, Some(OnFailure::Restore)).unwrap().remove(0);
    assert_eq!((report.outcome, rows(&path), rows(&other)), (GuardOutcome::Restored, 10, 13), "{report:#?}");
}

#[test]
fn file_that_is_gone_comes_back_when_its_guard_is_finished() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    stop(&fixture, &of(&["app.db"]), "guard.taken-down", || std::fs::remove_file(&path).unwrap());
    let report = resumed(&fixture, None).unwrap().remove(0);
    assert!(report.error.unwrap().message.contains("somebody has to say"));
    let report = resumed(&fixture, Some(OnFailure::Restore)).unwrap().remove(0);
    assert_eq!((report.outcome, report.error, rows(&path)), (GuardOutcome::Restored, None, 10));
}

#[test]
fn what_is_kept_needs_no_repository() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    stop(&fixture, &of(&["app.db"]), "guard.taken-down", || execute(&path, "DELETE FROM items"));
    let (backups, aside) = (fixture.path("backups"), fixture.path("aside"));
    std::fs::rename(&backups, &aside).unwrap();
    let report = resumed(&fixture, Some(OnFailure::Restore)).unwrap().remove(0);
    assert!(report.error.is_some());
    let report = resumed(&fixture, Some(OnFailure::Keep)).unwrap().remove(0);
    assert_eq!((report.outcome, report.error), (GuardOutcome::Kept, None));
    assert!(report.notes.iter().any(|note| note.contains("could not be found out")), "{:?}", report.notes);
    std::fs::rename(&aside, &backups).unwrap();
    assert_eq!((resumed(&fixture, None).unwrap(), rows(&path)), (vec![], 0));
}

#[test]
fn guard_that_cannot_be_finished_holds_back_no_other() {
    let fixture = Fixture::new();
    let (path, other) = (database(&fixture, "app.db"), database(&fixture, "other.db"));
    stop(&fixture, &of(&["app.db"]), "guard.taken-down", || execute(&path, "DELETE FROM items"));
    fixture.later(jiff::SignedDuration::from_secs(60));
    stop(&fixture, &of(&["other.db"]), "guard.taken-down", || execute(&other, "DELETE FROM items"));
    let guards = std::fs::read_dir(fixture.context.environment.state_directory.join("guards")).unwrap();
    let lock = guards.flatten().next().unwrap().path().join("app.lock");
    let at_work = std::fs::File::options().write(true).open(lock).unwrap();
    at_work.try_lock().unwrap();
    let reports = resumed(&fixture, Some(OnFailure::Restore)).unwrap();
    assert!(reports[0].error.as_ref().unwrap().message.contains("app is guarded already"), "{reports:#?}");
    assert_eq!((reports[1].outcome, &reports[1].error), (GuardOutcome::Restored, &None), "{reports:#?}");
    assert_eq!((rows(&path), rows(&other)), (0, 10));
}

#[test]
fn snapshot_to_go_back_to_is_held_until_its_guard_has_ended() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let forgotten = |force: bool| {
        let choice = What::Named { snapshots: vec!["latest".to_owned()], force };
        let request = ForgetRequest { choice, database: None, dry_run: true };
        forget::run(&fixture.open().unwrap(), &request, fixture.now(), &fixture.watch()).unwrap()
    };
    let why = "a guard that has not ended may go back to it: --force drops it";
    let pinned = || fixture.list().snapshots.iter().any(|row| row.pinned);

    let report = guarded(&fixture, &of(&["app.db"]), || {
        assert_eq!(forgotten(false).refused[0].why, why);
        Ok(())
    });
    assert_eq!(report.unwrap().outcome, GuardOutcome::Succeeded);
    assert!(!pinned());

    stop(&fixture, &of(&["app.db"]), "guard.taken-down", || execute(&path, "DELETE FROM items"));
    assert_eq!(forgotten(false).refused[0].why, why);
    assert_eq!(forgotten(true).forgotten.len(), 1);
    resumed(&fixture, Some(OnFailure::Keep)).unwrap();
    assert!(!pinned());
}

#[test]
fn snapshot_that_was_forgotten_while_it_was_verified_is_no_way_back() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    // Its own steps are nobody's.
    let (context, now, watch) = (fixture.context.clone(), fixture.now(), Fixture::new().watch());
    fixture.at_step(move |step| {
        if step == "guard.recorded" {
            let choice = What::Named { snapshots: vec!["latest".to_owned()], force: true };
            let request = ForgetRequest { choice, database: None, dry_run: false };
            let store = dbkeep_engine::repository::open(&context, now, &watch).unwrap();
            assert_eq!(forget::run(&store, &request, now, &watch).unwrap().forgotten.len(), 1);
        }
    });
    let error = guarded(&fixture, &of(&["app.db"]), || panic!("it must not run")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSnapshot, "{error}");
    assert_eq!((rows(&path), resumed(&fixture, None).unwrap()), (10, vec![]));
}

#[test]
fn record_that_cannot_be_removed_takes_no_report_away() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let guards = fixture.context.environment.state_directory.join("guards");
    fixture.at_step(move |step| {
        if step == "guard.settled" {
            for record in records(&guards) {
                std::fs::remove_file(&record).unwrap();
                std::fs::create_dir(&record).unwrap();
                std::fs::write(record.join("file"), "x").unwrap();
            }
        }
    });
    let report = guarded(&fixture, &of(&["app.db"]), || {
        execute(&path, "DELETE FROM items WHERE id > 4");
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.outcome, report.exit_code()), (GuardOutcome::Succeeded, 125));
    assert_eq!(report.changes[0].tables[0].removed, 6, "what was found out is told");
    assert!(report.error.unwrap().message.contains("guards"));

    let error = guarded(&fixture, &of(&["app.db"]), || panic!("it must not run")).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(error.hint().unwrap().contains("move the file away"));
}

/// Returns the records of guards.
fn records(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = entries(folder).flat_map(|folder| entries(&folder).collect::<Vec<_>>());
    all.filter(|path| path.extension().is_none()).collect()
}
