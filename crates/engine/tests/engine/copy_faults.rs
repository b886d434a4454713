//! Copies where something is wrong: with the contents, with the storage of the copy, with what happens meanwhile.

use dbkeep_engine::prune::{self, PruneRequest};
use dbkeep_engine::report::CopiedStatus;
use dbkeep_engine::status;
use dbkeep_engine::verify::{self, VerifyRequest};
use jiff::SignedDuration;
use rusqlite::Connection;

use crate::copies::{Other, SECOND, all_to, copied, largest, objects, without_copies};
use crate::fixture::{Fixture, insert, of, rows};

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
