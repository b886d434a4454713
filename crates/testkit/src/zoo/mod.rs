//! SQLite files of every kind that a backup tool meets, and some that are none.
//!
//! [`all`] lists them; each is made on demand in a folder of its own. What a database
//! holds is compared by [`contents`], which knows the collation and the function that
//! some of them need and that no other program has.

mod crashed;
mod odd;
mod plain;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OpenFlags};

use crate::oracle::Digest;

/// The collation that only this crate knows.
pub const COLLATION: &str = "zoo_backwards";
/// The function that only this crate knows.
pub const FUNCTION: &str = "zoo_twice";

/// What a fixture is, and so what a backup tool must do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sound database.
    Database,
    /// A sound database whose schema needs a collation or function that others lack: it is
    /// stored, but its integrity check cannot run (or not fully).
    NeedsExtension,
    /// A file of no bytes, which SQLite takes for a database without tables.
    Empty,
    /// A database that is damaged: to be stored, and to be called corrupt.
    Corrupt,
    /// Bytes that look as an encrypted database does.
    Encrypted,
    /// Something else altogether.
    NotADatabase,
    /// Nothing is there.
    Missing,
}

type Error = Box<dyn std::error::Error + Send + Sync>;
type Maker = Box<dyn Fn(&Path) -> Result<PathBuf, Error> + Send + Sync>;

/// One animal of the zoo.
pub struct Fixture {
    /// A short name without spaces.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Takes more than a second or a gigabyte of address space: left out of quick runs.
    pub is_large: bool,
    maker: Maker,
}

impl std::fmt::Debug for Fixture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({:?})", self.name, self.kind)
    }
}

impl Fixture {
    fn new<F>(name: impl Into<String>, kind: Kind, maker: F) -> Self
    where
        F: Fn(&Path) -> Result<PathBuf, Error> + Send + Sync + 'static,
    {
        Self { name: name.into(), kind, is_large: false, maker: Box::new(maker) }
    }

    fn large(mut self) -> Self {
        self.is_large = true;
        self
    }

    /// Makes the fixture inside `folder`, which should be empty, and returns the path to back up.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn make(&self, folder: &Path) -> PathBuf {
        (self.maker)(folder).unwrap_or_else(|error| panic!("could not make {}: {error}", self.name))
    }

    /// Says whether the file is a database whose rows can be compared.
    pub fn has_contents(&self) -> bool {
        matches!(self.kind, Kind::Database | Kind::NeedsExtension | Kind::Empty)
    }
}

/// Returns the whole zoo.
pub fn all() -> Vec<Fixture> {
    let mut all = plain::fixtures();
    all.extend(crashed::fixtures());
    all.extend(odd::fixtures());
    all
}

/// What a database holds, independent of where its pages lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// All rows, the schema and the user version.
    pub digest: Digest,
    /// `page_size`, `encoding`, `auto_vacuum` and `application_id`.
    pub settings: Vec<(String, String)>,
}

/// Reads what the database at `path` holds, as the application that opens it next would see it.
///
/// Neither the file nor its siblings change: where there are any, a copy is opened.
pub fn contents(path: &Path) -> Result<Contents, Error> {
    let path = fs::canonicalize(path)?;
    let siblings: Vec<&str> =
        ["-wal", "-journal"].into_iter().filter(|suffix| sibling(&path, suffix).exists()).collect();
    if siblings.is_empty() {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        return contents_of(&extended(Connection::open_with_flags(immutable_uri(&path), flags)?)?);
    }
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy)?;
    for suffix in siblings {
        fs::copy(sibling(&path, suffix), sibling(&copy, suffix))?;
    }
    contents_of(&extended(Connection::open(&copy)?)?)
}

fn contents_of(connection: &Connection) -> Result<Contents, Error> {
    let digest = Digest::of(connection)?;
    let setting = |name: &str| -> rusqlite::Result<(String, String)> {
        let value: rusqlite::types::Value = connection.pragma_query_value(None, name, |row| row.get(0))?;
        Ok((name.to_owned(), format!("{value:?}")))
    };
    let names = ["page_size", "encoding", "auto_vacuum", "application_id"];
    Ok(Contents { digest, settings: names.into_iter().map(setting).collect::<Result<_, _>>()? })
}

/// Returns SQLite's answer to `quick_check`, its lines joined; `ok` when all is well.
pub fn quick_check(path: &Path) -> Result<String, Error> {
    let connection = extended(Connection::open(path)?)?;
    let lines: Vec<String> = connection
        .prepare("PRAGMA quick_check")?
        .query_map((), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(lines.join("\n"))
}

/// Teaches a connection the collation and the function of the zoo.
pub fn extended(connection: Connection) -> rusqlite::Result<Connection> {
    connection.create_collation(COLLATION, |left: &str, right: &str| right.cmp(left))?;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function(FUNCTION, 1, flags, |context| {
        let text: String = context.get(0)?;
        Ok(text.repeat(2))
    })?;
    Ok(connection)
}

/// Returns the path of a database's sibling, as `app.db-wal`.
pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(suffix);
    name.into()
}

/// Returns the URI under which SQLite reads a file that nobody writes, creating nothing beside it.
pub fn immutable_uri(path: &Path) -> PathBuf {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri.into()
}

fn io_error(message: impl Into<String>) -> Error {
    io::Error::other(message.into()).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_animal_can_be_made_and_is_what_it_says() {
        let mut names = BTreeSet::new();
        for fixture in all() {
            assert!(names.insert(fixture.name.clone()), "{} is there twice", fixture.name);
            let folder = tempfile::tempdir().unwrap();
            let path = fixture.make(folder.path());
            assert_eq!(path.exists(), fixture.kind != Kind::Missing, "{fixture:?}");
            let checked = || {
                let copy = tempfile::tempdir().unwrap();
                let target = copy.path().join("copy.db");
                fs::copy(&path, &target).unwrap();
                for suffix in ["-wal", "-journal"] {
                    let _ = fs::copy(
                        sibling(&fs::canonicalize(&path).unwrap(), suffix),
                        sibling(&target, suffix),
                    );
                }
                quick_check(&target)
            };
            match fixture.kind {
                Kind::Database | Kind::NeedsExtension | Kind::Empty if fixture.is_large => {
                    contents(&path).unwrap();
                }
                Kind::Database | Kind::NeedsExtension => {
                    assert_eq!(checked().unwrap(), "ok", "{fixture:?}");
                    assert_eq!(contents(&path).unwrap(), contents(&path).unwrap(), "{fixture:?}");
                }
                Kind::Empty => assert_eq!(fs::metadata(&path).unwrap().len(), 0),
                Kind::Corrupt => {
                    assert!(checked().map_or(true, |answer| answer != "ok"), "{fixture:?} is sound");
                }
                Kind::Encrypted | Kind::NotADatabase => {
                    assert!(path.is_dir() || checked().is_err(), "{fixture:?} is a database");
                }
                Kind::Missing => {}
            }
        }
        assert!(names.len() > 50, "{}", names.len());
    }

    #[test]
    fn reading_contents_leaves_everything_as_it_was() {
        let list = |folder: &Path| -> BTreeSet<(PathBuf, Vec<u8>)> {
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries
                .filter(|path| path.is_file())
                .map(|path| (path.clone(), fs::read(path).unwrap()))
                .collect()
        };
        for fixture in all().into_iter().filter(|fixture| fixture.has_contents() && !fixture.is_large) {
            let folder = tempfile::tempdir().unwrap();
            let path = fixture.make(folder.path());
            let before = list(folder.path());
            contents(&path).unwrap();
            assert!(list(folder.path()) == before, "{fixture:?}");
        }
    }
}
