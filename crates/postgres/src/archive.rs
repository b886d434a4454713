//! The table of contents of an archive that `pg_dump` wrote in its custom format: every object with the statements that
//! make it, whom it belongs to, and what it needs.
//!
//! We restore objects ourselves and by this list, not by `pg_restore`: then each failure belongs to one object and has
//! the code of the server, whatever language its messages are in; indexes and constraints of a table can be made at
//! once; and a restore needs no program of PostgreSQL at all. `pg_restore` reads the same file.
//!
//! Source: `pg_backup_archiver.c` and `pg_backup_custom.c` of PostgreSQL, versions 1.12 (PostgreSQL 9.0) to 1.16
//! (PostgreSQL 17 and 18) of the format.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use crate::catalog::Name;
use crate::snapshot::identifier;
use crate::{Error, Result};

/// The versions of the format that are understood.
const VERSIONS: std::ops::RangeInclusive<(u8, u8)> = (1, 12)..=(1, 16);
/// From this one on the compression has a byte of its own.
const COMPRESSION_BYTE: (u8, u8) = (1, 15);
/// From this one on an object says how its rows are stored.
const ACCESS_METHOD: (u8, u8) = (1, 14);
/// From this one on an object says what kind of table it is.
const RELATION_KIND: (u8, u8) = (1, 16);
/// The number of the custom format.
const CUSTOM: u8 = 1;

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The version of the server that it came from, as `15.18 (Debian …)`.
    pub server: Option<String>,
    /// All objects, each behind what it needs.
    pub entries: Vec<Entry>,
}

/// An object of an archive, or something that is said of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the archive.
    pub id: i32,
    /// What it is, as `TABLE` or `FK CONSTRAINT`.
    pub kind: String,
    /// Its name; that of a function has its parameters.
    pub tag: String,
    /// The schema; none for what is in none.
    pub schema: Option<String>,
    /// Whom it belongs to; empty for what belongs to nobody.
    pub owner: String,
    /// When its turn comes.
    pub stage: Stage,
    /// The statements that make it; they are carried out together.
    pub definition: String,
    /// The statement that drops it.
    pub drop: String,
    /// The tablespace, where it is not the usual one.
    pub tablespace: Option<String>,
    /// How rows are stored, where that can be chosen.
    pub access_method: Option<String>,
    /// The numbers of what it needs, not all of which are in the archive.
    pub needs: Vec<i32>,
}

#[cfg(test)]
impl Entry {
    /// Returns an object that is called by its number and belongs to nobody, for tests.
    pub(crate) fn sample(id: i32, kind: &str, stage: Stage, needs: &[i32]) -> Self {
        Self {
            id,
            kind: kind.to_owned(),
            tag: id.to_string(),
            schema: None,
            owner: String::new(),
            stage,
            definition: String::new(),
            drop: String::new(),
            tablespace: None,
            access_method: None,
            needs: needs.to_vec(),
        }
    }
}

/// When the turn of an object comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before the rows.
    BeforeRows,
    /// The rows: nothing of that is in an archive of ours.
    Rows,
    /// After the rows.
    AfterRows,
    /// Who may use what: after everything that the owner has to be able to do.
    Privileges,
    /// What hides rows (so they are verified before), asks queries of everything else, or watches: row security,
    /// materialized views and event triggers.
    Last,
}

/// Why an archive cannot be read.
enum Fault {
    /// It ends before all is there that it says is in it.
    Cut,
    /// It is something else.
    Foreign,
    /// It is of a later version than is known here.
    Unknown(u8, u8),
    /// A text in it is not UTF-8.
    Encoding,
    Damaged(String),
    /// Its file cannot be read.
    Unread(io::Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let what = match fault {
            Fault::Unknown(major, minor) => return Self::UnknownArchive { major, minor },
            Fault::Unread(source) => return Self::System { what: "read the archive of objects", source },
            Fault::Cut => "it is cut off".to_owned(),
            Fault::Foreign => "it is no archive of pg_dump".to_owned(),
            Fault::Encoding => "a text that is not UTF-8".to_owned(),
            Fault::Damaged(what) => what,
        };
        Self::Archive { what }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::Unread(error),
        }
    }
}

impl Archive {
    /// Reads the table of contents of a file.
    ///
    /// # Errors
    /// [`Error::Archive`] when it is none, [`Error::UnknownArchive`] when it is of a version that is not known.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(&File::open(path).map_err(Fault::from)?)
    }

    /// Reads the table of contents of a file that is open, from its begin.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(file: &File) -> Result<Self> {
        Ok(Reader::of(file)?.archive()?)
    }

    /// Reads the table of contents. No text in it is longer than `size`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(input: impl Read, size: u64) -> Result<Self> {
        Ok(Reader::new(input, size).archive()?)
    }

    /// Reads the table of contents of what `pg_dump` has just written, from its begin, and keeps nothing of it. Returns
    /// the version of the format when it is not known: then nothing can be said of the rest.
    ///
    /// # Errors
    /// [`Error::CutOff`] when it ends too early, [`Error::NoArchive`] when it is something else, [`Error::NotUtf8`] when a
    /// name in it is in another encoding, [`Error::Archive`] when it contradicts itself.
    pub(crate) fn check(file: &File) -> Result<Option<(u8, u8)>> {
        match Reader::of(file)?.walk(|_| ()) {
            Ok(_) => Ok(None),
            Err(Fault::Unknown(major, minor)) => Ok(Some((major, minor))),
            Err(Fault::Cut) => Err(Error::CutOff { program: "pg_dump" }),
            Err(Fault::Foreign) => Err(Error::NoArchive),
            Err(Fault::Encoding) => Err(Error::NotUtf8),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Returns the names of all objects of a kind that are in schemas.
    pub(crate) fn named(&self, kind: &str) -> impl Iterator<Item = Name> {
        let of_kind = self.entries.iter().filter(move |entry| entry.kind == kind);
        of_kind.filter_map(Entry::name)
    }

    /// Returns the major version of the server that it came from.
    pub fn server_major(&self) -> Option<u32> {
        self.server.as_deref().and_then(major)
    }
}

/// Returns the major version in one that a server says of itself, as 18 of `18beta1`.
pub(crate) fn major(version: &str) -> Option<u32> {
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

impl Entry {
    /// Returns its name; `None` for what is in no schema.
    pub(crate) fn name(&self) -> Option<Name> {
        Some(Name { schema: self.schema.clone()?, name: self.tag.clone() })
    }

    /// Returns what people call it.
    pub fn title(&self) -> String {
        let schema = self.schema.as_deref().map(|schema| format!("{schema}.")).unwrap_or_default();
        format!("{} {schema}{}", self.kind.to_lowercase(), self.tag)
    }

    /// Returns whether it says who may use what.
    pub fn is_privilege(&self) -> bool {
        self.stage == Stage::Privileges
    }

    /// Returns the statement that gives it to somebody; none for what cannot belong to anybody by itself.
    pub fn give_to(&self, owner: &str) -> Option<String> {
        if owner.is_empty() || self.drop.is_empty() {
            return None;
        }
        let object = match self.kind.as_str() {
            "COLLATION"
            | "CONVERSION"
            | "DOMAIN"
            | "FOREIGN TABLE"
            | "MATERIALIZED VIEW"
            | "SEQUENCE"
            | "STATISTICS"
            | "TABLE"
            | "TEXT SEARCH DICTIONARY"
            | "TEXT SEARCH CONFIGURATION"
            | "TYPE"
            | "VIEW"
            | "PROCEDURAL LANGUAGE"
            | "SCHEMA"
            | "EVENT TRIGGER"
            | "FOREIGN DATA WRAPPER"
            | "SERVER"
            | "PUBLICATION"
            | "SUBSCRIPTION" => {
                let schema = self.schema.as_deref().map(|schema| format!("{}.", identifier(schema)));
                format!("{} {}{}", self.kind, schema.unwrap_or_default(), identifier(&self.tag))
            }
            // What tells these apart are their parameters, which stand in the statement that drops them.
            "AGGREGATE" | "FUNCTION" | "OPERATOR" | "OPERATOR CLASS" | "OPERATOR FAMILY" | "PROCEDURE" => {
                let object = self.drop.trim_end().strip_prefix("DROP ")?;
                object.strip_suffix(';').unwrap_or(object).to_owned()
            }
            _ => return None,
        };
        Some(format!("ALTER {object} OWNER TO {}", identifier(owner)))
    }
}

/// Returns when the turn of an entry comes. What has no section of its own belongs to the one before it.
fn stage(kind: &str, tag: &str, section: Stage) -> Stage {
    match kind {
        _ if section == Stage::Rows => Stage::Rows,
        "ACL" | "ACL LANGUAGE" | "DEFAULT ACL" => Stage::Privileges,
        "EVENT TRIGGER" | "MATERIALIZED VIEW DATA" | "ROW SECURITY" => Stage::Last,
        "COMMENT" | "SECURITY LABEL" if tag.starts_with("EVENT TRIGGER ") => Stage::Last,
        _ => section,
    }
}

struct Reader<R> {
    input: R,
    size: u64,
    /// Bytes of a number, behind its sign.
    integer: u8,
    /// Bytes of a place in the file.
    offset: u8,
    version: (u8, u8),
}

fn damaged(what: impl Into<String>) -> Fault {
    Fault::Damaged(what.into())
}

impl<'f> Reader<BufReader<&'f File>> {
    /// Reads a file from its begin.
    fn of(mut file: &'f File) -> Result<Self, Fault> {
        file.rewind()?;
        let size = file.metadata()?.len();
        Ok(Self::new(BufReader::new(file), size))
    }
}

impl<R: Read> Reader<R> {
    fn new(input: R, size: u64) -> Self {
        Self { input, size, integer: 0, offset: 0, version: (0, 0) }
    }

    fn archive(self) -> Result<Archive, Fault> {
        let mut entries = Vec::new();
        let server = self.walk(|entry| entries.push(entry))?;
        Ok(Archive { server, entries })
    }

    /// Gives one entry after the other. Returns the version of the server.
    fn walk(mut self, mut take: impl FnMut(Entry)) -> Result<Option<String>, Fault> {
        let mut magic = [0; 5];
        self.bytes(&mut magic)?;
        if &magic != b"PGDMP" {
            return Err(Fault::Foreign);
        }
        self.version = (self.byte()?, self.byte()?);
        let _revision = self.byte()?;
        if self.version > *VERSIONS.end() {
            return Err(Fault::Unknown(self.version.0, self.version.1));
        }
        if self.version < *VERSIONS.start() {
            return Err(damaged("it is of a version that no server of today writes"));
        }
        (self.integer, self.offset) = (self.byte()?, self.byte()?);
        if !(1..=8).contains(&self.integer) || !(1..=8).contains(&self.offset) {
            return Err(damaged("numbers of an impossible length"));
        }
        if self.byte()? != CUSTOM {
            return Err(damaged("it is not in the custom format"));
        }
        if self.version >= COMPRESSION_BYTE { self.byte().map(drop) } else { self.number().map(drop) }?;
        for _time in 0..7 {
            self.number()?;
        }
        let _database = self.text()?;
        let server = self.text()?;
        let _program = self.text()?;
        let (count, mut section) = (self.number()?, Stage::BeforeRows);
        for _ in 0..count {
            take(self.entry(&mut section)?);
        }
        Ok(server)
    }

    fn entry(&mut self, section: &mut Stage) -> Result<Entry, Fault> {
        let id = self.small()?;
        let _has_rows = self.number()?;
        let _catalog = (self.text()?, self.text()?);
        let (tag, kind) = (self.text()?.unwrap_or_default(), self.text()?.unwrap_or_default());
        *section = match self.number()? {
            1 => *section,
            2 => Stage::BeforeRows,
            3 => Stage::Rows,
            4 => Stage::AfterRows,
            other => return Err(damaged(format!("{kind} {tag} is in section {other}"))),
        };
        let (definition, drop) = (self.text()?.unwrap_or_default(), self.text()?.unwrap_or_default());
        let _copy = self.text()?;
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (schema, tablespace) = (filled(self.text()?), filled(self.text()?));
        let access_method = if self.version >= ACCESS_METHOD { filled(self.text()?) } else { None };
        if self.version >= RELATION_KIND {
            self.number()?;
        }
        let owner = self.text()?.unwrap_or_default();
        let _has_oids = self.text()?;
        let needs = self.needs()?;
        self.skip_offset()?;
        let stage = stage(&kind, &tag, *section);
        Ok(Entry { id, kind, tag, schema, owner, stage, definition, drop, tablespace, access_method, needs })
    }

    /// Reads numbers that are written as texts, up to a text that is absent.
    fn needs(&mut self) -> Result<Vec<i32>, Fault> {
        let mut needs = Vec::new();
        while let Some(text) = self.text()? {
            needs.push(text.parse().map_err(|_| damaged(format!("{text:?} is no number")))?);
        }
        Ok(needs)
    }

    fn skip_offset(&mut self) -> Result<(), Fault> {
        for _ in 0..=self.offset {
            self.byte()?;
        }
        Ok(())
    }

    fn small(&mut self) -> Result<i32, Fault> {
        let number = self.number()?;
        i32::try_from(number).map_err(|_| damaged(format!("{number} is no number of an object")))
    }

    /// Reads a number: its sign, then its bytes, the lowest first.
    fn number(&mut self) -> Result<i64, Fault> {
        let negative = self.byte()? != 0;
        let mut number: u64 = 0;
        for place in 0..u32::from(self.integer) {
            number |= u64::from(self.byte()?) << (8 * place);
        }
        let number = i64::try_from(number).map_err(|_| damaged("a number that is too large"))?;
        Ok(if negative { -number } else { number })
    }

    fn text(&mut self) -> Result<Option<String>, Fault> {
        let length = self.number()?;
        let Ok(length) = u64::try_from(length) else { return Ok(None) };
        if length > self.size {
            return Err(Fault::Cut);
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(Fault::Cut);
        }
        String::from_utf8(bytes).map(Some).map_err(|_| Fault::Encoding)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let mut byte = [0];
        self.bytes(&mut byte)?;
        Ok(byte[0])
    }

    fn bytes(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        Ok(self.input.read_exact(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::extent::Extent;
    use crate::place::Place;
    use crate::schema::dump;
    use crate::tools::Tools;

    const SQL: &str = "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE \"t\nx\" (id serial PRIMARY KEY, m mood);
        CREATE FUNCTION f(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
        COMMENT ON TABLE \"t\nx\" IS 'c'; GRANT SELECT ON \"t\nx\" TO pg_monitor;
        CREATE MATERIALIZED VIEW v AS SELECT 1 AS n; CREATE INDEX i ON v (n)";

    /// Returns what `pg_dump` writes of a database.
    fn archive_of(place: &Place) -> Vec<u8> {
        let programs = place.server.programs();
        let tools = Tools::find(programs.major, Some(&programs.program("")), None).unwrap();
        let (mut holder, _) = place.hold();
        let host = holder.connection().host().clone();
        let file = tempfile::NamedTempFile::new().unwrap();
        let (filter, out) = (Extent::default(), file.reopen().unwrap());
        dump(&tools, &place.info, &host, &place.options, holder.id(), &filter, out).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Archive> {
        Archive::read(bytes, bytes.len() as u64)
    }

    #[test]
    fn entries_of_each_version_say_what_they_are_and_what_they_need() {
        for place in Place::on_all("archived", SQL) {
            let archive = read(&archive_of(&place)).unwrap();
            assert_eq!(archive.server_major(), Some(place.server.programs().major));
            let find = |kind: &str| archive.entries.iter().find(|entry| entry.kind == kind).unwrap();
            let (table, kind) = (find("TABLE"), find("TYPE"));
            assert_eq!((table.tag.as_str(), table.schema.as_deref()), ("t\nx", Some("public")));
            assert!(table.needs.contains(&kind.id) && table.definition.contains("public.mood"));
            assert_eq!((table.stage, table.access_method.as_deref()), (Stage::BeforeRows, Some("heap")));
            let owner = "ALTER TABLE \"public\".\"t\nx\" OWNER TO \"it's\"";
            assert_eq!(table.give_to("it's").as_deref(), Some(owner));
            let owner = "ALTER FUNCTION public.f(integer, text) OWNER TO \"me\"";
            assert_eq!(find("FUNCTION").give_to("me").as_deref(), Some(owner));
            assert_eq!(find("CONSTRAINT").give_to("me"), None);
            assert!(find("CONSTRAINT").needs.contains(&table.id));
            let stages =
                ["COMMENT", "CONSTRAINT", "ACL", "MATERIALIZED VIEW DATA"].map(|kind| find(kind).stage);
            assert_eq!(stages, [Stage::BeforeRows, Stage::AfterRows, Stage::Privileges, Stage::Last]);
        }
    }

    fn is_refused(bytes: &[u8]) -> bool {
        match read(bytes) {
            Ok(_) => false,
            Err(Error::Archive { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn archive_that_is_cut_or_foreign_is_refused() {
        let Some(place) = Place::new("cut_archive", SQL) else { return };
        let bytes = archive_of(&place);
        let whole = read(&bytes).unwrap();
        // Some versions of pg_dump write the list twice, and the second one is read by nobody.
        let enough = (0..=bytes.len()).find(|length| !is_refused(&bytes[..*length])).unwrap();
        assert!(enough > bytes.len() / 3, "{enough} of {} bytes", bytes.len());
        assert_eq!(format!("{:?}", read(&bytes[..enough]).unwrap()), format!("{whole:?}"));
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&bytes).unwrap();
        assert_eq!(Archive::check(&file).unwrap(), None);
        for length in (0..enough).rev().step_by(97) {
            file.set_len(length as u64).unwrap();
            let error = Archive::check(&file).unwrap_err();
            assert!(matches!(error, Error::CutOff { .. }), "{length} of {enough} bytes: {error}");
        }
        (&file).rewind().unwrap();
        (&file).write_all(b"Welcome to this machine").unwrap();
        assert!(matches!(Archive::check(&file), Err(Error::NoArchive)));
        // No byte makes it panic or take memory without end.
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x81;
            let _ = read(&changed);
        }
        let mut newer = bytes;
        newer[6] = 99;
        file.set_len(0).unwrap();
        (&file).rewind().unwrap();
        (&file).write_all(&newer).unwrap();
        assert_eq!(Archive::check(&file).unwrap(), Some((1, 99)));
        let mut older = newer.clone();
        older[6] = 3;
        assert!(is_refused(&older));
        let error = read(&newer).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not read the archive of objects: version 1.99 of the format is not known"
        );
    }
}
