//! Names and places that programs stumble over, damaged databases, and files that are none.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{Error, Fixture, Kind};
use crate::Rng;

/// File names that are allowed and that break quoting, URIs, globs, tables or terminals.
const NAMES: [(&str, &str); 15] = [
    ("space", "my app.db"),
    ("quotes", "it's \"quoted\".db"),
    ("newline", "two\nlines.db"),
    ("percent", "100%20.db"),
    ("question-mark", "what?mode=memory.db"),
    ("hash", "a#b.db"),
    ("unicode", "ünïcode-漢字-😀.db"),
    ("right-to-left", "a\u{202e}bd.b"),
    ("dash", "-rf.db"),
    ("backslash", "back\\slash.db"),
    ("comma", "a,b=c;d&e.db"),
    ("dots", "..app..db"),
    ("no-suffix", "database"),
    ("escape", "red\u{1b}[31m.db"),
    ("glob", "[a]*.db"),
];

pub(super) fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for (what, name) in NAMES {
        all.push(Fixture::new(format!("name-with-{what}"), Kind::Database, move |folder| {
            small(&folder.join(name))
        }));
    }
    all.push(Fixture::new("name-of-200-bytes", Kind::Database, |folder| {
        small(&folder.join("n".repeat(200)))
    }));
    all.push(Fixture::new("name-not-utf8", Kind::Database, |folder| {
        small(&folder.join(OsStr::from_bytes(b"caf\xe9.db")))
    }));
    all.push(Fixture::new("symlink", Kind::Database, |folder| linked(folder, false)));
    all.push(Fixture::new("symlink-to-symlink", Kind::Database, |folder| linked(folder, true)));
    all.push(Fixture::new("symlink-to-nothing", Kind::Missing, |folder| {
        let link = folder.join("app.db");
        symlink(folder.join("gone.db"), &link)?;
        Ok(link)
    }));
    all.push(Fixture::new("missing", Kind::Missing, |folder| Ok(folder.join("app.db"))));
    all.push(Fixture::new("corrupt-page", Kind::Corrupt, corrupt_page));
    all.push(Fixture::new("corrupt-index", Kind::Corrupt, corrupt_index));
    all.push(Fixture::new("corrupt-schema", Kind::Corrupt, corrupt_schema));
    all.push(Fixture::new("corrupt-freelist", Kind::Corrupt, corrupt_freelist));
    all.push(Fixture::new("truncated", Kind::Corrupt, truncated));
    all.push(Fixture::new("encrypted", Kind::Encrypted, |folder| {
        let mut bytes = vec![0; 20 * 4096];
        Rng::new(99).fill(&mut bytes);
        written(folder, &bytes)
    }));
    all.push(bytes("text", b"id,name\n1,one\n"));
    all.push(bytes("header-only", b"SQLite format 3\0"));
    all.push(bytes("other-magic", b"SQLite format 4\0 and more bytes that fill up a header, so that it is long enough to be looked at by a program"));
    // One byte would not do: SQLite takes such a file for an empty one.
    all.push(bytes("two-bytes", b"SQ"));
    all.push(Fixture::new("directory-without-databases", Kind::NotADatabase, |folder| {
        let path = folder.join("things");
        fs::create_dir(&path)?;
        fs::write(path.join("readme.txt"), "nothing")?;
        Ok(path)
    }));
    all
}

fn small(path: &Path) -> Result<PathBuf, Error> {
    Connection::open(path)?.execute_batch(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t(b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
         INSERT INTO t(b) SELECT 'row number ' || i FROM n;",
    )?;
    Ok(path.to_owned())
}

fn linked(folder: &Path, twice: bool) -> Result<PathBuf, Error> {
    let real = folder.join("real");
    fs::create_dir(&real)?;
    small(&real.join("real.db"))?;
    let link = folder.join("link.db");
    symlink("real/real.db", &link)?;
    if !twice {
        return Ok(link);
    }
    let second = folder.join("second.db");
    symlink("link.db", &second)?;
    Ok(second)
}

/// Garbage in the middle of a table.
fn corrupt_page(folder: &Path) -> Result<PathBuf, Error> {
    let path = small(&folder.join("app.db"))?;
    let mut bytes = vec![0; 4096];
    Rng::new(3).fill(&mut bytes);
    OpenOptions::new().write(true).open(&path)?.write_all_at(&bytes, 8 * 4096)?;
    Ok(path)
}

/// An index that does not fit its table; every page by itself is sound.
fn corrupt_index(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    let connection = Connection::open(&path)?;
    connection.execute_batch(
        "CREATE TABLE t(a INTEGER NOT NULL, b INTEGER NOT NULL); CREATE INDEX i ON t(a);
         CREATE TABLE u(x INTEGER NOT NULL UNIQUE);
         INSERT INTO t VALUES (1, 9), (2, 8), (3, 7); INSERT INTO u VALUES (5), (6);",
    )?;
    drop(connection);
    let connection = Connection::open(&path)?;
    connection.execute_batch(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'u')
          WHERE name = 'u2';
         UPDATE sqlite_schema SET sql = 'CREATE TABLE u(x INTEGER NOT NULL UNIQUE CHECK (x > 5))' WHERE name = 'u';
         UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(b)' WHERE name = 'i';",
    )?;
    drop(connection);
    // Only a full reading of the rows shows it: quick_check compares no index with its table,
    // but it does see the row that breaks its CHECK.
    Ok(path)
}

fn corrupt_schema(folder: &Path) -> Result<PathBuf, Error> {
    let path = small(&folder.join("app.db"))?;
    Connection::open(&path)?.execute_batch(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE t(' WHERE name = 't'",
    )?;
    Ok(path)
}

/// The freelist names a page that a table uses.
fn corrupt_freelist(folder: &Path) -> Result<PathBuf, Error> {
    let path = small(&folder.join("app.db"))?;
    let file = OpenOptions::new().write(true).open(&path)?;
    let fields = [2_u32.to_be_bytes(), 1_u32.to_be_bytes()].concat();
    file.write_all_at(&fields, 32)?;
    Ok(path)
}

fn truncated(folder: &Path) -> Result<PathBuf, Error> {
    let path = small(&folder.join("app.db"))?;
    let length = fs::metadata(&path)?.len();
    OpenOptions::new().write(true).open(&path)?.set_len(length / 2 + 1000)?;
    Ok(path)
}

fn bytes(name: &str, contents: &'static [u8]) -> Fixture {
    Fixture::new(name, Kind::NotADatabase, |folder| written(folder, contents))
}

fn written(folder: &Path, contents: &[u8]) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    fs::write(&path, contents)?;
    Ok(path)
}
