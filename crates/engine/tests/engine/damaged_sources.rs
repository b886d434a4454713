//! Sources that are damaged at random: each is stored as it is, and called good only where SQLite agrees.

use std::fs;
use std::path::Path;

use dbkeep_engine::report::{BackupStatus, DatabaseBackup, RestoreOutcome};
use dbkeep_engine::restore::RestoreRequest;
use dbkeep_sqlite::identify::sibling;
use rusqlite::{Connection, OpenFlags};

use crate::fixture::{Fixture, of, snapshot, to};

/// How the application left its database.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// In rollback mode, small enough to be copied to memory.
    Rollback,
    /// In rollback mode, too large for that.
    LargeRollback,
    /// In WAL mode, closed.
    Closed,
    /// In WAL mode, with a log that holds pages.
    WithLog,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

fn make(path: &Path, left: Left) {
    let connection = Connection::open(path).unwrap();
    let (mode, rows, size) = match left {
        Left::Rollback => ("delete", 300, 300),
        Left::LargeRollback => ("delete", 300, 120_000),
        Left::Closed | Left::WithLog => ("wal", 300, 300),
    };
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = {mode};
             CREATE TABLE items(id INTEGER PRIMARY KEY, text TEXT NOT NULL, filler);
             CREATE INDEX by_text ON items(text);
             CREATE TABLE pairs(a, b, PRIMARY KEY(a, b)) WITHOUT ROWID;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                 INSERT INTO items SELECT i, 'row ' || i, randomblob({size}) FROM n;
             INSERT INTO pairs SELECT id, text FROM items;
             DELETE FROM items WHERE id % 9 = 0"
        ))
        .unwrap();
    if matches!(left, Left::WithLog) {
        connection
            .execute_batch("PRAGMA wal_checkpoint; UPDATE items SET text = text || '!' WHERE id % 4 = 0")
            .unwrap();
        // As a process leaves it that was killed: with its log.
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).unwrap();
        fs::copy(sibling(path, "-wal"), sibling(&copy, "-wal")).unwrap();
        drop(connection);
        fs::rename(&copy, path).unwrap();
        fs::rename(sibling(&copy, "-wal"), sibling(path, "-wal")).unwrap();
    }
}

/// Damages the main file and says how.
fn damage(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).unwrap();
    let pages = bytes.len() / 4096;
    let page = random.below(pages) * 4096;
    let what = match random.below(8) {
        0 | 1 => {
            let (at, bit) = (page + random.below(4096), random.below(8));
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        2 => {
            // The header of the page, where the tree hangs.
            let at = page + if page == 0 { 100 } else { 0 } + random.below(12);
            bytes[at] = u8::try_from(random.below(256)).unwrap();
            format!("byte {at} of a page header set to {}", bytes[at])
        }
        3 => {
            let value = if random.below(2) == 0 { 0 } else { 0xff };
            bytes[page..page + 4096].fill(value);
            format!("page at {page} filled with {value}")
        }
        4 => {
            let other = random.below(pages) * 4096;
            let copy = bytes[other..other + 4096].to_vec();
            bytes[page..page + 4096].copy_from_slice(&copy);
            format!("page at {page} replaced by that at {other}")
        }
        5 => {
            let keep = random.below(bytes.len());
            bytes.truncate(keep);
            format!("cut to {keep} bytes")
        }
        6 => {
            let more = random.below(9000);
            bytes.extend((0..more).map(|_| 0x33));
            format!("{more} bytes too long")
        }
        _ => {
            let at = 16 + random.below(84);
            bytes[at] = u8::try_from(random.below(256)).unwrap();
            format!("byte {at} of the header set to {}", bytes[at])
        }
    };
    fs::write(path, &bytes).unwrap();
    what
}

/// What SQLite's own check says of a copy of a database and its log; `None` when it found nothing.
fn problem(path: &Path) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    fs::copy(path, &copy).unwrap();
    if sibling(path, "-wal").exists() {
        fs::copy(sibling(path, "-wal"), sibling(&copy, "-wal")).unwrap();
    }
    let asked =
        Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|connection| {
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        });
    match asked {
        Ok(answer) if answer == "ok" => None,
        Ok(answer) => Some(answer),
        Err(error) => Some(error.to_string()),
    }
}

/// Checks what became of one damaged source.
fn judge(place: &Fixture, name: &str, one: &DatabaseBackup, case: &str) {
    let path = place.path(name);
    let problem = problem(&path);
    if let BackupStatus::Failed = one.status {
        // Only what is no database any more, or names a file that is not its own, may not be stored.
        let error = one.error.as_ref().unwrap();
        let bytes = fs::read(&path).unwrap();
        let is_recognisable = bytes.len() >= 512 && bytes.starts_with(b"SQLite format 3\0");
        assert!(!is_recognisable, "{case}: not stored: {error:?}");
        return;
    }
    let is_good = one.integrity == "ok";
    assert!(!is_good || problem.is_none(), "{case}: called good, but SQLite says: {problem:?}");
    assert_eq!(
        one.status == BackupStatus::Corrupt,
        !is_good && one.integrity != "not run",
        "{case}: {one:?}"
    );
    assert!(is_good || problem.is_some() || one.integrity == "not run", "{case}: called {}", one.integrity);

    let target = format!("restored-{name}");
    let request = snapshot(one, RestoreRequest { force: true, ..to(&target) });
    match place.restore(&request) {
        Ok(RestoreOutcome::One(_)) => {}
        Ok(other) => panic!("{case}: {other:?}"),
        Err(error) => panic!("{case}: {}: {:?}", error.full_message(), error.hint()),
    }
    if !sibling(&path, "-wal").exists() {
        let (stored, mut source) = (fs::read(place.path(&target)).unwrap(), fs::read(&path).unwrap());
        // SQLite reads the missing end of a last page as zeros.
        source.resize(source.len().max(stored.len().min(source.len().next_multiple_of(4096))), 0);
        assert!(source.starts_with(&stored), "{case}: other bytes were stored");
        assert!(
            stored.len() + 4096 * 4 > source.len() || is_good,
            "{case}: {} of {}",
            stored.len(),
            source.len()
        );
    }
}

/// How many seeds are tried: a slice by default, more in a campaign.
fn seeds(few: u64) -> u64 {
    if std::env::var_os("DBKEEP_CAMPAIGN").is_some() { few * 20 } else { few }
}

fn stored_as_they_are(left: Left, few: u64) {
    let all: Vec<u64> = (0..seeds(few)).collect();
    // Not too many in one repository: each backup reads its snapshots.
    for some in all.chunks(40) {
        let place = Fixture::new();
        let template = place.path("template.db");
        make(&template, left);
        for &seed in some {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            random.below(2);
            stored_as_it_is(&place, &template, &format!("{left:?}, seed {seed}"), &mut |path| {
                damage(path, &mut random)
            });
        }
    }
}

fn stored_as_it_is(place: &Fixture, template: &Path, case: &str, damage: &mut dyn FnMut(&Path) -> String) {
    // A name of its own: where the log is the same as at the last backup, nothing is read, and rot is not seen.
    let name = format!("{}.db", case.replace(", ", "-"));
    let path = place.path(&name);
    fs::copy(template, &path).unwrap();
    if sibling(template, "-wal").exists() {
        fs::copy(sibling(template, "-wal"), sibling(&path, "-wal")).unwrap();
    }
    let case = format!("{case}, {}", damage(&path));
    let before = fs::read(&path).unwrap();
    let report =
        place.backup(&of(&[&name])).unwrap_or_else(|error| panic!("{case}: {}", error.full_message()));
    judge(place, &name, &report.databases[0], &case);
    assert_eq!(fs::read(&path).unwrap(), before, "{case}: the source was changed");
    _ = fs::remove_file(place.path(&format!("restored-{name}")));
}

#[test]
fn damaged_in_rollback_mode() {
    stored_as_they_are(Left::Rollback, 50);
}

#[test]
fn damaged_and_large_in_rollback_mode() {
    stored_as_they_are(Left::LargeRollback, 6);
}

#[test]
fn damaged_and_closed_in_wal_mode() {
    stored_as_they_are(Left::Closed, 50);
}

#[test]
fn damaged_with_a_log() {
    stored_as_they_are(Left::WithLog, 50);
}

#[test]
fn schema_format_that_sqlite_does_not_know_is_no_reason_not_to_store_it() {
    for left in [Left::Rollback, Left::LargeRollback, Left::Closed, Left::WithLog] {
        let place = Fixture::new();
        let template = place.path("template.db");
        make(&template, left);
        stored_as_it_is(&place, &template, &format!("{left:?}"), &mut |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[47] = 184;
            fs::write(path, &bytes).unwrap();
            "schema format 184".to_owned()
        });
    }
}
