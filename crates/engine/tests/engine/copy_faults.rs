//! Copies where something is wrong: with the contents, with the storage of the copy, with what happens meanwhile.

use dbkeep_engine::copy::CopyRequest;
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::prune::{self, PruneRequest};
use dbkeep_engine::report::{CopiedStatus, SnapshotRow};
use dbkeep_engine::restore::{self, RestoreRequest};
use dbkeep_engine::status;
use dbkeep_engine::verify::{self, VerifyRequest};
use jiff::SignedDuration;
use rusqlite::Connection;

use crate::copies::{Other, SECOND, all_to, copied, largest, objects, without_copies};
use crate::fixture::{Fixture, insert, of, rows, to};

/// Makes an index of other values than its table has: a quick check passes, a full one does not.
fn spoil_an_index(connection: &Connection) {
    connection
        .execute_batch(
            "CREATE INDEX by_text ON items(text);
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE INDEX by_text ON items(upper(text))' WHERE name = 'by_text';
             PRAGMA writable_schema = RESET;",
        )
        .unwrap();
}

/// Whether the only snapshot of a copy counts as good, and what is known of its integrity.
fn judged(other: &Other<'_>) -> (bool, String) {
    let status = status::run(&other.open(), other.place.now()).unwrap();
    let row = other.list().snapshots.remove(0);
    (status.databases[0].last_good.is_some(), row.integrity.unwrap())
}

#[test]
fn contents_that_are_wrong_are_wrong_in_every_copy_whenever_that_is_found() {
    for (copied_before, found_in_copy) in [(false, false), (true, false), (true, true)] {
        let place = Fixture::with_config(SECOND);
        spoil_an_index(&place.database("a.db", 50));
        let request = if copied_before { of(&["a.db"]) } else { without_copies(&["a.db"]) };
        assert_eq!(
            place.backup(&request).unwrap().databases[0].integrity,
            "ok",
            "a quick check sees nothing"
        );
        let other = Other::at(&place, "second");
        let store = if found_in_copy { other.open() } else { place.open().unwrap() };
        let proof = verify::run(&store, &VerifyRequest::default(), place.now(), &place.watch()).unwrap();
        assert_eq!(proof.damaged, 1, "{proof:?}");

        for again in [false, true] {
            let what = format!("copied before {copied_before}, found there {found_in_copy}, again {again}");
            let report = copied(&place, &all_to("second")).unwrap();
            assert_eq!(report.exit_code(), 0, "{what}: it is all there, as wrong as it is: {report:?}");
            assert_eq!(report.copied, u64::from(!copied_before && !again), "{what}: {report:?}");
            assert_eq!(judged(&other), (false, "damaged".to_owned()), "{what}");
        }
    }
}

#[test]
fn packs_that_a_copy_has_lost_are_stored_again_by_the_next_one() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 4000);
    place.stored("a.db");
    let expected = rows(&place.path("a.db"));
    insert(&a, 4000);
    place.stored("a.db");
    std::fs::remove_file(largest(objects(&place.path("second/data")))).unwrap();
    place.warnings();

    let report = copied(&place, &all_to("second")).unwrap();
    assert!(report.snapshots.iter().all(|one| one.status == CopiedStatus::Repaired), "{report:?}");
    assert!(report.copied > 0 && report.copied + report.present == 2, "{report:?}");
    let warnings = place.warnings();
    assert!(warnings.iter().any(|one| one.contains("1 packs are damaged or gone")), "{warnings:?}");
    let other = Other::at(&place, "second");
    let oldest = other.list().snapshots[1].id;
    assert_eq!(other.rows_of(&oldest, "oldest.db"), expected);
    assert_eq!(copied(&place, &all_to("second")).unwrap().present, 2, "now nothing is missing");

    // A prune drops the pack from the index.
    let request = PruneRequest { grace: SignedDuration::ZERO, ..PruneRequest::default() };
    prune::run(&other.open(), &request, place.now(), &place.watch()).unwrap();
    other.expect_sound();
}

#[test]
fn status_tells_what_is_wrong_in_a_copy() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 4000);
    place.stored("a.db");
    insert(&a, 1);
    place.stored("a.db");
    let problems =
        || status::run(&place.open().unwrap(), place.now()).unwrap().copies.remove(0).problems.join("; ");
    assert_eq!(problems(), "");
    let other = Other::at(&place, "second");
    std::fs::remove_file(largest(objects(&place.path("second/data")))).unwrap();
    let all = VerifyRequest { all: true, ..VerifyRequest::default() };
    assert_eq!(verify::run(&other.open(), &all, place.now(), &place.watch()).unwrap().damaged, 2);
    assert!(problems().contains("2 of its snapshots were found damaged there"), "{}", problems());
    let newest = other.list().snapshots[0].id;
    std::fs::remove_file(place.path("second/snapshots").join(newest.to_string())).unwrap();
    assert!(problems().contains("nothing of it is forgotten by itself, because snapshot"), "{}", problems());
    copied(&place, &all_to("second")).unwrap();
    assert_eq!(problems(), "");
}

#[test]
fn snapshot_that_is_dropped_while_it_is_copied_is_no_failure() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    let first = place.backup(&without_copies(&["a.db"])).unwrap().databases[0].snapshot.unwrap();
    insert(&a, 1);
    place.backup(&without_copies(&["a.db"])).unwrap();
    let (store, now) = (place.open().unwrap(), place.now());
    let mut left = Some(first);
    let quiet: dbkeep_engine::Watch = std::sync::Arc::new(dbkeep_engine::Unobserved);
    place.at_step(move |step| {
        if let (Some(id), "copy.locked") = (left, step) {
            left = None;
            let choice = Choice::Named { snapshots: vec![id.to_string()], force: false };
            let request = ForgetRequest { choice, database: None, dry_run: false };
            assert_eq!(forget::run(&store, &request, now, &quiet).unwrap().forgotten.len(), 1);
        }
    });
    let report = copied(&place, &all_to("second")).unwrap();
    assert_eq!((report.copied, report.failed, report.exit_code()), (1, 0, 0), "{report:?}");
    assert_eq!(place.list().snapshots.len(), 1);

    // One that just vanishes is one.
    let gone = place.list().snapshots[0].id;
    let file = place.path("backups/snapshots").join(gone.to_string());
    place.at_step(move |step| {
        if step == "copy.locked" {
            std::fs::remove_file(&file).unwrap();
        }
    });
    let report = copied(&place, &all_to("./third")).unwrap();
    assert_eq!((report.copied, report.failed, report.exit_code()), (0, 1, 1), "{report:?}");
}

#[test]
fn copy_of_single_snapshots_forgets_nothing_of_what_else_is_there() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    place.stored("a.db");
    insert(&a, 1);
    place.stored("a.db");
    let copies =
        || place.list().snapshots.iter().map(|row: &SnapshotRow| row.copies.len()).collect::<Vec<_>>();
    assert_eq!(copies(), [1, 1]);
    std::fs::rename(place.path("second"), place.path("unmounted")).unwrap();
    place.backup(&of(&["a.db"])).unwrap();
    std::fs::rename(place.path("unmounted"), place.path("second")).unwrap();
    for request in [
        CopyRequest { snapshots: vec!["latest~1".to_owned()], ..all_to("second") },
        CopyRequest { snapshots: vec!["latest~2".to_owned()], ..all_to("second") },
    ] {
        assert_eq!(copied(&place, &request).unwrap().exit_code(), 0);
        assert_eq!(copies(), [0, 1, 1]);
    }
    let status = status::run(&place.open().unwrap(), place.now()).unwrap().copies.remove(0);
    assert!(status.error.is_some(), "not all that failed is caught up: {status:?}");
    copied(&place, &all_to("second")).unwrap();
    assert_eq!(copies(), [1, 1, 1]);
    let status = status::run(&place.open().unwrap(), place.now()).unwrap().copies.remove(0);
    assert_eq!((status.error, status.problems), (None, vec![]));
}

/// Restores from whatever can be opened, and returns the copy that was read with the warnings.
fn restored_anyhow(place: &Fixture, request: &RestoreRequest) -> (Option<String>, Vec<String>) {
    place.warnings();
    let store = restore::open(&place.context, place.now(), &place.watch()).unwrap();
    let plan = restore::plan(&store, request, place.now()).unwrap();
    restore::run(&store, &plan, place.now(), &place.watch()).unwrap();
    (plan.restores[0].copy.clone(), place.warnings())
}

#[test]
fn repository_that_lost_its_keys_is_damaged_and_a_copy_stands_in() {
    for generated in [false, true] {
        let mut place = Fixture::with_config(SECOND);
        if generated {
            place.context.environment.variables.remove("DBKEEP_PASSWORD");
        }
        drop(place.database("a.db", 10));
        let request = dbkeep_engine::backup::BackupRequest { new_key: generated, ..of(&["a.db"]) };
        assert_eq!(place.backup(&request).unwrap().exit_code(), 0);
        place.objects("keys").iter().for_each(|key| std::fs::remove_file(key).unwrap());
        let error = place.open().unwrap_err();
        assert_eq!((error.kind().word(), error.exit_code()), ("no-password", 12));
        assert!(error.hint().unwrap().contains("the folder `keys` from a copy"), "{error:?}");
        assert_eq!(restored_anyhow(&place, &to("back.db")).0.as_deref(), Some("second"));
        assert_eq!(rows(&place.path("back.db")).len(), 10);
    }
}

#[test]
fn newest_of_a_copy_that_is_behind_is_restored_with_a_word_about_what_it_lacks() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    place.stored("a.db");
    let lacks = |warnings: &[String]| warnings.iter().any(|one| one.contains("was never copied to"));
    let gone = |gone: bool| {
        let (from, to) = if gone { ("backups", "away") } else { ("away", "backups") };
        std::fs::rename(place.path(from), place.path(to)).unwrap();
    };
    gone(true);
    let (copy, warnings) = restored_anyhow(&place, &to("complete.db"));
    assert!(copy.is_some() && !lacks(&warnings), "it has the last one: {warnings:?}");
    gone(false);

    insert(&a, 1);
    let last = place.backup(&without_copies(&["a.db"])).unwrap().databases[0].snapshot.unwrap();
    gone(true);
    let (_, warnings) = restored_anyhow(&place, &to("behind.db"));
    assert!(lacks(&warnings) && warnings.iter().any(|one| one.contains(&last.short())), "{warnings:?}");
    let at = RestoreRequest { at: Some("2026-01-02 23:00".to_owned()), ..to("at.db") };
    assert!(lacks(&restored_anyhow(&place, &at).1), "nor by a time after it");
    let older = Other::at(&place, "second").list().snapshots[0].id;
    let by_id = RestoreRequest { snapshot: Some(older.to_string()), ..to("by-id.db") };
    assert!(!lacks(&restored_anyhow(&place, &by_id).1), "it is what was asked for");
}

#[test]
fn databases_of_one_name_never_share_a_history_in_a_copy() {
    let place = Fixture::new();
    let ours = place.database("one/app.db", 10);
    drop(place.database("one/more.db", 1));
    place.backup(&of(&["one/app.db", "one/more.db"])).unwrap();
    copied(&place, &all_to("./shared")).unwrap();
    let mut elsewhere = place.context.clone();
    elsewhere.location = place.path("elsewhere");
    let theirs = place.database("two/app.db", 20);
    drop(place.database("two/theirs.db", 2));
    let back_up = |sources: &[&str]| {
        dbkeep_engine::backup::run(&elsewhere, &of(sources), place.now(), &place.watch()).unwrap()
    };
    back_up(&["two/app.db", "two/theirs.db"]);
    let copy_theirs = |request: &CopyRequest| {
        let store = dbkeep_engine::repository::open(&elsewhere, place.now(), &place.watch()).unwrap();
        dbkeep_engine::copy::run(&store, request, place.now(), &place.watch()).unwrap()
    };
    for dry_run in [true, false] {
        let report = copy_theirs(&CopyRequest { dry_run, ..all_to("./shared") });
        assert_eq!((report.copied, report.failed, report.exit_code()), (1, 1, 3), "{report:?}");
        let refused = report.snapshots.iter().find(|one| one.status == CopiedStatus::Failed).unwrap();
        let error = refused.error.as_ref().unwrap();
        assert_eq!((error.kind.as_str(), refused.database.as_deref()), ("name-taken", Some("app")));
        assert!(error.message.contains("one/app.db") && error.message.contains("two/app.db"), "{error:?}");
        assert!(error.hint.as_ref().unwrap().contains("--adopt-name"), "{error:?}");
    }
    let of_app = || {
        let rows = Other::at(&place, "shared").list().snapshots;
        rows.iter().filter(|row| row.database.as_deref() == Some("app")).count()
    };
    assert_eq!(of_app(), 1);

    // Whoever was there first goes on, also when all that it has copied is forgotten here since.
    insert(&ours, 1);
    place.stored("one/app.db");
    let oldest =
        place.list().snapshots.iter().rfind(|row| row.database.as_deref() == Some("app")).unwrap().id;
    let choice = Choice::Named { snapshots: vec![oldest.to_string()], force: false };
    let request = ForgetRequest { choice, database: None, dry_run: false };
    forget::run(&place.open().unwrap(), &request, place.now(), &place.watch()).unwrap();
    assert_eq!(copied(&place, &all_to("./shared")).unwrap().copied, 1);
    assert_eq!(of_app(), 2);

    // And one that is really the same.
    let adopted = copy_theirs(&CopyRequest { adopt_name: true, ..all_to("./shared") });
    assert_eq!((adopted.copied, adopted.exit_code()), (1, 0));
    insert(&theirs, 1);
    back_up(&["two/app.db"]);
    assert_eq!(copy_theirs(&all_to("./shared")).copied, 1);
}
