//! Databases that are stored in parts and read in two passes: more than 64 MiB.

use dbkeep_engine::report::BackupStatus;
use dbkeep_engine::verify::VerifyRequest;
use dbkeep_engine::{Id, show};
use rusqlite::Connection;

use crate::fixture::{Fixture, in_place, of, to};

/// Makes a database of about 70 MiB.
fn large(place: &Fixture, mode: &str) -> Connection {
    let connection = place.database("large.db", 10);
    connection.pragma_update(None, "journal_mode", mode).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE blobs(id INTEGER PRIMARY KEY, bytes BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
             INSERT INTO blobs(bytes) SELECT randomblob(100000) FROM n;",
        )
        .unwrap();
    connection
}

#[test]
fn commit_between_the_passes_is_in_the_image_wholly() {
    let place = Fixture::new();
    drop(large(&place, "delete"));
    let path = place.path("large.db");
    place.at_step({
        let path = path.clone();
        let mut done = false;
        move |step| {
            if step == "backup.image-streamed" && !done {
                done = true;
                let writer = Connection::open(&path).unwrap();
                writer
                    .execute_batch(
                        "BEGIN; UPDATE blobs SET bytes = randomblob(100000) WHERE id = 350;
                         INSERT INTO blobs(bytes) SELECT randomblob(100000) FROM blobs WHERE id < 30;
                         DELETE FROM items WHERE id = 1; COMMIT",
                    )
                    .unwrap();
            }
        }
    });
    let report = place.stored("large.db");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((report.status, report.integrity.as_str()), (BackupStatus::Ok, "ok"));
    let rows: Vec<_> = report.tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
    assert_eq!(rows, [("blobs", 729), ("items", 9)]);
    assert_eq!(report.bytes_source, bytes.len() as u64);
    assert_eq!(report.sha256, Some(Id::of(&bytes)), "the hash is of what was settled");
    place.restored(&to("copy.db"));
    assert!(std::fs::read(place.path("copy.db")).unwrap() == bytes, "byte for byte");
    assert_eq!(place.warnings(), Vec::<String>::new());
}

#[test]
fn large_database_is_stored_in_parts_and_a_small_change_costs_little() {
    let place = Fixture::new();
    let live = large(&place, "wal");
    let first = place.stored("large.db");
    let shown = show::run(&place.open().unwrap(), "latest", None, place.now()).unwrap();
    let image = shown.manifest.unwrap().image;
    assert!(image.parts > 1 && image.parts == image.chunks.div_ceil(1024), "{image:?}");
    assert_eq!(shown.repository.chunks, image.chunks);

    let again = place.stored("large.db");
    assert_eq!((again.status, again.bytes_read, again.root), (BackupStatus::Unchanged, 0, first.root));

    live.execute("UPDATE blobs SET bytes = zeroblob(100000) WHERE id = 600", []).unwrap();
    let changed = place.stored("large.db");
    assert_eq!(changed.status, BackupStatus::Ok);
    assert!(changed.bytes_added <= 8 * 65536, "{}", changed.bytes_added);
    assert_eq!(place.verify(&VerifyRequest { all: true, ..VerifyRequest::default() }).ok, 3);

    let undone = place.restored(&crate::fixture::snapshot(&again, in_place()));
    assert!((20..100).contains(&undone.pages_written), "{}", undone.pages_written);
    let zeros: i64 = live
        .query_row("SELECT count(*) FROM blobs WHERE bytes = zeroblob(100000)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(zeros, 0);
    place.restored(&crate::fixture::snapshot(&again, to("copy.db")));
    let report = place.backup(&of(&["copy.db"])).unwrap();
    assert_eq!(report.databases[0].root, first.root, "the same image from another file");
}
