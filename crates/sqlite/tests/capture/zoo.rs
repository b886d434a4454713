//! Databases of every shape, in WAL mode with frames in the log and in rollback mode.

use std::path::Path;

use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::identify::{self, Kind};
use rusqlite::{Connection, ffi};

use crate::support::{assert_same, beside, capture, dbpage, fill, integrity, open, place, read_all, read_in};

/// Captures in every way that fits and compares each image with what SQLite sees.
fn every_way_gives_the_same(path: &Path, wal: bool) -> Vec<u8> {
    let methods: &[Method] = if wal {
        &[Method::LockedImage, Method::DbPage]
    } else {
        &[Method::MemoryCopy, Method::LockedImage, Method::DbPage, Method::TwoPass]
    };
    let before = beside(path);
    let mut usual = capture(path);
    assert_eq!(usual.method(), methods[0]);
    let expected = dbpage(&Connection::open(path).unwrap());
    assert_same(&dbpage(&usual.inspection().unwrap().unwrap()), &expected);
    let image = read_all(&mut usual);
    assert_same(&image, &expected);
    usual.finish().unwrap();
    for &method in methods {
        let options = CaptureOptions { force_method: Some(method), ..CaptureOptions::default() };
        let mut capture = Capture::open(path, &options).unwrap();
        assert_eq!(capture.method(), method);
        assert_eq!(u64::from(capture.header().unwrap().page_size), u64::from(capture.page_size()));
        assert_same(&read_in(&mut capture, 8191), &expected);
        let finished = capture.finish().unwrap();
        assert_eq!(finished.warnings, Vec::<String>::new());
    }
    assert_eq!(beside(path), before);
    image
}

fn animal(name: &str, journal_mode: &str, sql: &str) -> (tempfile::TempDir, std::path::PathBuf, Connection) {
    let (folder, path) = place(name);
    let keeper = Connection::open(&path).unwrap();
    keeper
        .execute_batch(&format!(
            "{sql}; PRAGMA journal_mode = {journal_mode}; PRAGMA wal_autocheckpoint = 0; {}",
            fill(60)
        ))
        .unwrap();
    keeper.execute_batch("DELETE FROM t WHERE id % 3 = 0; UPDATE t SET v = v + 1").unwrap();
    (folder, path, keeper)
}

fn both_modes(name: &str, sql: &str, check: impl Fn(&Connection)) {
    for mode in ["wal", "delete"] {
        let (_folder, path, keeper) = animal(name, mode, sql);
        let image = every_way_gives_the_same(&path, mode == "wal");
        assert_eq!(integrity(&image), "ok", "{name} {mode}");
        check(&open(&image));
        drop(keeper);
    }
}

fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn every_page_size_and_auto_vacuum() {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for auto_vacuum in 0..3 {
            let sql = format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum}");
            both_modes("pages.db", &sql, |image| {
                assert_eq!(count(image, "SELECT count(*) FROM t"), 40);
                assert_eq!(count(image, "PRAGMA page_size"), page_size);
            });
        }
    }
}

#[test]
fn every_encoding() {
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let sql = format!(
            "PRAGMA encoding = '{encoding}'; CREATE TABLE w(a TEXT); INSERT INTO w VALUES('žluť 😀')"
        );
        both_modes("encoding.db", &sql, |image| {
            assert_eq!(count(image, "SELECT count(*) FROM w WHERE a = 'žluť 😀'"), 1);
        });
    }
}

#[test]
fn every_kind_of_table() {
    let sql = "CREATE TABLE wr(k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO wr VALUES('a', 1), ('b', 2);
        CREATE TABLE st(i INTEGER, r REAL, a ANY) STRICT; INSERT INTO st VALUES(1, 2.5, x'00');
        CREATE TABLE gen(a INTEGER, b AS (a * 2) STORED, c AS (a || 'x') VIRTUAL);
        CREATE INDEX gi ON gen(c); INSERT INTO gen(a) VALUES(1), (2);
        CREATE VIRTUAL TABLE ft USING fts5(body); INSERT INTO ft VALUES('the quick brown fox');
        CREATE VIRTUAL TABLE rt USING rtree(id, x0, x1); INSERT INTO rt VALUES(1, 0, 5);
        CREATE TABLE au(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO au DEFAULT VALUES;
        CREATE VIEW vw AS SELECT * FROM st; CREATE TRIGGER tr AFTER INSERT ON st BEGIN DELETE FROM au; END";
    both_modes("kinds.db", sql, |image| {
        assert_eq!(count(image, "SELECT count(*) FROM wr"), 2);
        assert_eq!(count(image, "SELECT b FROM gen WHERE c = '2x'"), 4);
        assert_eq!(count(image, "SELECT count(*) FROM ft WHERE ft MATCH 'quick'"), 1);
        assert_eq!(count(image, "SELECT id FROM rt WHERE x0 < 1"), 1);
    });
}

#[test]
fn unknown_collations_and_functions_do_not_matter() {
    for mode in ["wal", "delete"] {
        let (_folder, path, keeper) = animal("custom.db", mode, "SELECT 1");
        keeper.create_collation("BACKWARDS", |a, b| b.cmp(a)).unwrap();
        let flags = rusqlite::functions::FunctionFlags::SQLITE_DETERMINISTIC;
        keeper.create_scalar_function("twice", 1, flags, |context| Ok(2 * context.get::<i64>(0)?)).unwrap();
        keeper
            .execute_batch(
                "CREATE TABLE c(a TEXT COLLATE BACKWARDS PRIMARY KEY, b CHECK(twice(b) > 0));
                 CREATE INDEX ci ON c(twice(b)); INSERT INTO c VALUES('x', 1), ('y', 2)",
            )
            .unwrap();
        every_way_gives_the_same(&path, mode == "wal");
    }
}

#[test]
fn reserved_bytes_are_kept() {
    for reserved in [8u8, 32] {
        for mode in ["wal", "delete"] {
            let (_folder, path) = place("reserved.db");
            let keeper = Connection::open(&path).unwrap();
            let mut bytes = std::ffi::c_int::from(reserved);
            // SAFETY: the connection is open, and the operation takes a pointer to an int.
            let code = unsafe {
                ffi::sqlite3_file_control(
                    keeper.handle(),
                    c"main".as_ptr(),
                    ffi::SQLITE_FCNTL_RESERVE_BYTES,
                    (&raw mut bytes).cast(),
                )
            };
            assert_eq!(code, ffi::SQLITE_OK);
            keeper.execute_batch(&format!("VACUUM; PRAGMA journal_mode = {mode}; {}", fill(50))).unwrap();
            let image = every_way_gives_the_same(&path, mode == "wal");
            assert_eq!(image[20], reserved);
            assert_eq!(integrity(&image), "ok");
        }
    }
}

#[test]
fn database_across_the_lock_page_has_zeros_there() {
    const LOCK: u64 = 0x4000_0000;
    for mode in ["wal", "delete"] {
        let (_folder, path) = place("large.db");
        let sql = format!("PRAGMA page_size = 65536; PRAGMA journal_mode = {mode}; {}", fill(10));
        let keeper = Connection::open(&path).unwrap();
        keeper.execute_batch(&sql).unwrap();
        drop(keeper);
        // Pages nobody uses, up to three before the lock page, as holes.
        let pages = u32::try_from(LOCK / 65536).unwrap() - 3;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(u64::from(pages) * 65536).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &pages.to_be_bytes(), 28).unwrap();
        // What an index of WAL mode would count as written later, too.
        drop(file);
        let keeper = Connection::open(&path).unwrap();
        keeper.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
        keeper.execute_batch(&fill(900)).unwrap();
        if mode == "wal" {
            keeper.execute_batch("PRAGMA wal_checkpoint(passive)").unwrap();
            keeper.execute_batch("UPDATE t SET b = randomblob(1000) WHERE id > 500").unwrap();
        }

        let options = CaptureOptions { force_method: Some(Method::LockedImage), ..CaptureOptions::default() };
        let mut capture = Capture::open(&path, &options).unwrap();
        assert!(capture.size() > LOCK + 5 * 65536);
        let inspection = capture.inspection().unwrap().unwrap();
        assert_eq!(count(&inspection, "SELECT count(*) FROM t"), 910);
        let sqlite = Connection::open(&path).unwrap();
        let mut statement = sqlite.prepare("SELECT data FROM sqlite_dbpage('main') ORDER BY pgno").unwrap();
        let mut rows = statement.query([]).unwrap();
        let mut buffer = vec![0u8; 1 << 20];
        let mut offset = 0u64;
        loop {
            let got = capture.read(&mut buffer).unwrap();
            if got == 0 {
                break;
            }
            for page in buffer[..got].chunks(65536) {
                let row = rows.next().unwrap().unwrap();
                assert_same(page, row.get_ref(0).unwrap().as_blob().unwrap());
                if offset == LOCK {
                    assert!(page.iter().all(|&byte| byte == 0));
                }
                offset += 65536;
            }
        }
        assert_eq!(offset, capture.size());
        assert!(rows.next().unwrap().is_none());
    }
}

#[test]
fn names_of_every_kind_and_symbolic_links() {
    let names = [
        "with space.db",
        "quote'and\"double.db",
        "new\nline.db",
        "100%41.db",
        "what?mode=memory",
        "hash#tag.db",
        "file:uri.db?cache=shared",
        "žluťoučký-数据库-😀.db",
        "-wal",
        "back\\slash;semi.db",
    ];
    for name in names {
        for mode in ["wal", "delete"] {
            let (folder, path, keeper) = animal(name, mode, "SELECT 1");
            let image = every_way_gives_the_same(&path, mode == "wal");
            assert_eq!(integrity(&image), "ok");
            let elsewhere = tempfile::tempdir().unwrap();
            let link = elsewhere.path().join("link.db");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let mut through = capture(&link);
            assert_eq!(through.identity().path, path);
            assert_same(&read_all(&mut through), &image);
            assert_eq!(beside(&link), ["link.db"], "siblings lie beside the target");
            drop((keeper, folder));
        }
    }
}

#[test]
fn name_that_is_not_unicode() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join(std::ffi::OsStr::from_bytes(b"b\xffd.db"));
    let keeper = Connection::open(&path).unwrap();
    keeper.execute_batch(&format!("PRAGMA journal_mode = wal; {}", fill(5))).unwrap();
    assert!(matches!(identify::kind_of(&path).unwrap(), Kind::Database(_)));
    assert_eq!(integrity(&read_all(&mut capture(&path))), "ok");
}

#[test]
fn header_of_the_moment_is_read_through_the_log() {
    let (_folder, path, keeper) = animal("header.db", "wal", "PRAGMA user_version = 1");
    keeper.execute_batch("PRAGMA wal_checkpoint(passive); PRAGMA user_version = 42").unwrap();
    let capture = capture(&path);
    assert_eq!(capture.header().unwrap().user_version, 42);
}

#[test]
fn log_larger_than_one_read_is_laid_over() {
    let (_folder, path, keeper) = animal("log.db", "wal", "SELECT 1");
    for round in 0..4 {
        keeper.execute_batch(&fill(700)).unwrap();
        keeper.execute_batch(&format!("UPDATE t SET v = {round} WHERE id % 7 = {round}")).unwrap();
    }
    keeper.execute_batch("DELETE FROM t WHERE id > 2000").unwrap();
    assert!(std::fs::metadata(identify::sibling(&path, "-wal")).unwrap().len() > 3 << 20);
    assert_eq!(integrity(&every_way_gives_the_same(&path, true)), "ok");
    keeper.execute_batch("VACUUM").unwrap();
    assert_eq!(integrity(&every_way_gives_the_same(&path, true)), "ok");
}

/// Clones need a file system that shares blocks (XFS, btrfs): `DBKEEP_TEST_REFLINK_DIR` names a folder on one.
#[test]
fn reflink_gives_the_same_image_and_lets_writers_go_at_once() {
    let Some(folder) = std::env::var_os("DBKEEP_TEST_REFLINK_DIR") else {
        println!("skipped: DBKEEP_TEST_REFLINK_DIR names no folder on a file system that can clone");
        return;
    };
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().canonicalize().unwrap().join("cloned.db");
    crate::support::make(&path, &fill(3000));
    let mut writer = crate::support::Other::start("sql", &path);
    let options = CaptureOptions { memory_limit: 0, ..CaptureOptions::default() };
    let mut capture = Capture::open(&path, &options).unwrap();
    assert_eq!(capture.method(), Method::Reflink);
    assert_eq!(beside(&path), ["cloned.db"]);
    let expected = std::fs::read(&path).unwrap();
    assert_eq!(writer.ask("UPDATE t SET v = -1; DELETE FROM t WHERE id > 100"), "ok");
    let inspection = capture.inspection().unwrap().unwrap();
    assert_eq!(count(&inspection, "SELECT count(*) FROM t WHERE v > 0"), 3000);
    assert_same(&read_all(&mut capture), &expected);
    assert!(!capture.needs_settling());
    let earlier = capture.position().unwrap().clone();
    capture.finish().unwrap();
    assert!(!Capture::open(&path, &options).unwrap().is_unchanged_since(&earlier));
    assert_eq!(beside(&path), ["cloned.db"]);
}
