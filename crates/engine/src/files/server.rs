//! PostgreSQL in plain files: SQL text for `psql`, rows as COPY writes them, and the files of a snapshot.

use std::collections::BTreeSet;
use std::io::{BufRead, Read};

use dbkeep_postgres::Error as PostgresError;
use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::{Catalog, Name};
use dbkeep_postgres::rows::{RowSum, RowSummer};
use dbkeep_repo::write::PARTS_SUFFIX;

use super::collect::{Collected, Holding, Item};
use super::content::{self, Form};
use super::documents::{Document, directory};
use super::json;
use super::spool::{Unpacked, spool, unpacked};
use crate::manifest::{self, Manifest, TableProof};
use crate::report::{Engine, TableRows};
use crate::served::{self, ObjectHash, ObjectSum, shown};

/// The longest part of a line that is looked at.
const LONGEST_LINE: usize = 4096;

/// The line that ends what `pg_dump` writes.
const COMPLETE: [&str; 2] =
    ["-- PostgreSQL database dump complete", "-- PostgreSQL database cluster dump complete"];

/// What is known of the rows of a table.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// Rows, as COPY writes them; `None` when the last one has no end.
    Rows(Option<RowSum>),
    /// The hash of objects as text.
    Objects(ObjectSum),
    /// An archive of objects.
    Archive {
        /// Its version, where that is not known here, so that nothing of it was read.
        unknown: Option<(u8, u8)>,
    },
    /// The tables of a catalog of ours.
    Catalog(BTreeSet<Name>),
}

/// Says whether SQL text is of PostgreSQL.
pub(super) fn is_sql(text: &[u8]) -> bool {
    ["PostgreSQL", "standard_conforming_strings"]
        .iter()
        .any(|mark| text.windows(mark.len()).any(|window| window == mark.as_bytes()))
}

/// Sums up rows as COPY writes them.
pub(super) fn copy(text: &mut dyn BufRead) -> Result<Holding, Unpacked> {
    let mut summer = RowSummer::default();
    loop {
        let bytes = text.fill_buf().map_err(unpacked)?;
        if bytes.is_empty() {
            break;
        }
        summer.update(bytes);
        let length = bytes.len();
        text.consume(length);
    }
    Ok(Holding { proof: Some(Proof::Rows(summer.finish())), ..Holding::new(Form::Copy) })
}

/// Reads the list of an archive of objects. Where the file itself is read, others share its position, and its sum would
/// be that of other bytes.
pub(super) fn archive(from: &mut dyn BufRead) -> Result<Holding, Unpacked> {
    let (file, _) = spool(from)?;
    let unknown = match Archive::of(&file) {
        Ok(_) => None,
        Err(PostgresError::UnknownArchive { major, minor }) => Some((major, minor)),
        Err(error) => return Err(Unpacked::Damaged(error.to_string())),
    };
    Ok(Holding { proof: Some(Proof::Archive { unknown }), ..Holding::new(Form::Other) })
}

/// Reads the catalog of a snapshot; other JSON of that name is looked at as such.
pub(super) fn catalog(from: &mut dyn BufRead, name: &str) -> Result<Option<Holding>, Unpacked> {
    let mut bytes = Vec::new();
    from.take(manifest::LIMIT).read_to_end(&mut bytes).map_err(unpacked)?;
    match serde_json::from_slice::<Catalog>(&bytes) {
        Ok(catalog) => {
            let names = catalog.tables.into_iter().map(|table| table.name).collect();
            Ok(Some(Holding { proof: Some(Proof::Catalog(names)), ..Holding::new(Form::Json) }))
        }
        Err(_) => content::json(&mut bytes.as_slice().chain(from), name),
    }
}

/// Reads SQL text to its end and counts the rows in it. Nothing is carried out. Statements that are neither an export nor a
/// dump and have no rows, as those about roles, are no database.
pub(super) fn sql(text: &mut dyn BufRead) -> Result<Option<Holding>, Unpacked> {
    let mut script = Script::default();
    let mut line = Vec::new();
    let mut is_open = false;
    loop {
        let bytes = text.fill_buf().map_err(unpacked)?;
        if bytes.is_empty() {
            break;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.map_or(bytes.len(), |end| end + 1)];
        script.hash.update(part);
        let room = LONGEST_LINE.saturating_sub(line.len()).min(part.len());
        line.extend_from_slice(&part[..room]);
        is_open = end.is_none();
        if end.is_some() {
            script.line(&line);
            line.clear();
        }
        let length = part.len();
        text.consume(length);
    }
    if is_open {
        script.line(&line);
    }
    Ok(script.finish())
}

/// What was read of SQL text.
#[derive(Default)]
struct Script {
    hash: ObjectHash,
    lines: u64,
    tables: Vec<TableRows>,
    /// Whether the rows of the last table go on.
    in_rows: bool,
    heading: Vec<String>,
    /// What `\restrict` was given, which has to be given back.
    key: Option<String>,
    is_complete: bool,
}

impl Script {
    fn line(&mut self, line: &[u8]) {
        self.lines += 1;
        if self.in_rows {
            match line {
                b"\\.\n" | b"\\.\r\n" => self.in_rows = false,
                _ => self.tables.last_mut().into_iter().for_each(|table| table.rows += 1),
            }
            return;
        }
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        self.is_complete = COMPLETE.contains(&text)
            || text.starts_with("\\unrestrict ") && self.is_complete
            || self.key.as_ref().is_some_and(|key| text.strip_prefix("\\unrestrict ") == Some(key.as_str()));
        if let Some(key) = text.strip_prefix("\\restrict ").filter(|_| self.key.is_none()) {
            self.key = Some(key.to_owned());
        } else if let Some(copy) =
            text.strip_prefix("COPY ").and_then(|rest| rest.strip_suffix(" FROM stdin;"))
        {
            self.tables.push(TableRows { name: table_of(copy), rows: 0 });
            self.in_rows = true;
        } else if let Some(heading) = text.strip_prefix("-- ").filter(|_| self.lines < 20) {
            self.heading.push(heading.to_owned());
        }
    }

    fn finish(self) -> Option<Holding> {
        let mut holding = Holding::new(Form::PostgresSql);
        let line =
            |key: &str| self.heading.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let ours = self
            .heading
            .first()
            .and_then(|line| line.strip_prefix("PostgreSQL database ")?.split_once(", exported by dbkeep "));
        let is_dump = self.heading.iter().any(|line| {
            line.starts_with("PostgreSQL database dump")
                || line.starts_with("PostgreSQL database cluster dump")
        });
        if ours.is_none() && !is_dump && self.tables.is_empty() {
            return None;
        }
        if (ours.is_some() || is_dump) && (!self.is_complete || self.in_rows) {
            holding.findings.push("it breaks off: its last line is not there".to_owned());
        }
        let rows: u64 = self.tables.iter().map(|table| table.rows).sum();
        let expected = line("rows").and_then(|text| text.split_once(" in ")?.0.parse::<u64>().ok());
        if let Some(expected) = expected.filter(|expected| ours.is_some() && *expected != rows) {
            holding.findings.push(format!("there are {rows} rows in it, its heading says {expected}"));
        }
        holding.metadata = ours.map(|(database, version)| json::Metadata {
            dbkeep: Some(version.to_owned()),
            database: Some(database.to_owned()),
            session: line("session").map(str::to_owned),
            snapshot: line("snapshot").and_then(|id| id.parse().ok()),
            moment: line("moment").map(str::to_owned),
            ..json::Metadata::default()
        });
        if ours.is_none() && is_dump {
            holding
                .notes
                .push("it is what pg_dump writes: rows are counted, nothing was carried out".to_owned());
        }
        holding.proof = Some(Proof::Objects(self.hash.sum()));
        holding.tables = self.tables;
        Some(holding)
    }
}

/// Returns the table of a COPY statement, as people call it: without its columns.
fn table_of(copy: &str) -> String {
    let name = copy.split_once(" (").map_or(copy, |(name, _)| name);
    match crate::source::server::table_name(name, "public") {
        Some(name) => shown(&name),
        None => name.to_owned(),
    }
}

/// Reads the manifest of a snapshot of a server; another document of that name says nothing here.
pub(super) fn manifest(bytes: &[u8]) -> Document {
    match Manifest::decode(bytes, manifest::FILE) {
        Ok(manifest) if manifest.engine == Engine::Postgres => Document::Served(Box::new(manifest)),
        _ => match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
            Ok(_) => Document::Other,
            Err(error) => Document::Unreadable(format!("it cannot be read: {error}")),
        },
    }
}

/// Returns the snapshots of servers whose files lie in directories of their own.
pub(super) fn snapshots(found: &Collected) -> impl Iterator<Item = (&str, &Manifest)> {
    found.documents.iter().filter_map(|(path, document)| match document {
        Document::Served(manifest) => Some((path.as_str(), &**manifest)),
        _ => None,
    })
}

/// Says whether a file is part of the files of a snapshot, which is judged as a whole.
pub(super) fn is_part(found: &Collected, item: &Item) -> bool {
    snapshots(found).any(|(path, _)| item.path.starts_with(directory(path)))
}

/// Returns what is to be told of an archive that nothing was read of.
pub(super) fn of_unknown_archive(item: &Item) -> Option<String> {
    match item.holding.as_ref()?.proof {
        Some(Proof::Archive { unknown: Some((major, minor)) }) => Some(format!(
            "{} was not read: version {major}.{minor} of its format is not known here, only pg_restore reads it",
            item.path
        )),
        _ => None,
    }
}

/// Compares the files of a snapshot with its manifest. Returns the tables and what is wrong; the paths of the files that
/// were looked at are put into `met`.
pub(super) fn compare<'f>(
    path: &str,
    manifest: &Manifest,
    find: &dyn Fn(&str) -> Option<&'f Item>,
    met: &mut BTreeSet<&'f str>,
) -> (Vec<TableRows>, Vec<String>) {
    let (mut tables, mut findings) = (Vec::new(), Vec::new());
    let Some(facts) = &manifest.postgres else {
        return (tables, vec![format!("{path} does not say which tables there are")]);
    };
    let below = directory(path);
    let mut file = |name: &str, findings: &mut Vec<String>| {
        let item = find(&format!("{below}{name}"));
        match item {
            Some(item) => _ = met.insert(item.path.as_str()),
            None if find(&format!("{below}{name}{PARTS_SUFFIX}/00000/part")).is_some() => {
                findings.push(format!(
                    "{below}{name} is in parts, which are not read here: unpack the archive first"
                ));
            }
            None => findings.push(format!("{below}{name} is not there")),
        }
        item
    };
    if let Some(item) = file(served::ARCHIVE, &mut findings) {
        let problems = item.holding.iter().flat_map(|holding| &holding.findings);
        findings.extend(problems.map(|problem| format!("{}: {problem}", item.path)));
    }
    if let Some(item) = file(served::CATALOG, &mut findings) {
        match item.holding.as_ref().and_then(|holding| holding.proof.as_ref()) {
            Some(Proof::Catalog(names)) => {
                let absent =
                    facts.tables.iter().map(TableProof::table).filter(|table| !names.contains(table));
                findings.extend(absent.map(|table| format!("{} does not have {}", item.path, shown(&table))));
            }
            _ => findings.push(format!("{} cannot be read", item.path)),
        }
    }
    for name in [served::GLOBALS, served::SETTINGS] {
        file(name, &mut findings);
    }
    let text = file(served::TEXT, &mut findings)
        .map(|item| item.holding.as_ref().and_then(|one| one.proof.as_ref()));
    if text.is_some_and(|proof| !matches!(proof, Some(Proof::Objects(sum)) if sum.is(facts.objects))) {
        findings.push(format!("{} is not what {} says", served::TEXT, manifest::FILE));
    }
    for (proof, is_table) in
        facts.tables.iter().map(|one| (one, true)).chain(facts.large_objects.iter().map(|one| (one, false)))
    {
        let name = format!("{}/{}", served::DATA, served::file_name(&proof.table()));
        let Some(item) = file(&name, &mut findings) else { continue };
        let sum = match item.holding.as_ref().and_then(|holding| holding.proof.as_ref()) {
            Some(Proof::Rows(sum)) => *sum,
            _ => None,
        };
        findings.extend(difference(proof, sum));
        if is_table {
            let rows = sum.map_or(0, |sum| sum.rows);
            tables.push(TableRows { name: shown(&proof.table()), rows });
        }
    }
    (tables, findings)
}

/// Returns what of the files of a snapshot was not compared with anything, because its manifest has no sum of it.
pub(super) fn not_compared() -> String {
    format!(
        "{} and {} were read, {} and {} were not: there is nothing to compare them with. `dbkeep verify SNAPSHOT` reads \
         them from the repository",
        served::ARCHIVE,
        served::CATALOG,
        served::GLOBALS,
        served::SETTINGS
    )
}

fn difference(proof: &TableProof, sum: Option<RowSum>) -> Option<String> {
    let name = shown(&proof.table());
    let name = name.strip_prefix("public.").unwrap_or(&name);
    match sum {
        None => Some(format!("the last row of {name} has no end")),
        Some(sum) if sum.rows != proof.rows => {
            Some(format!("{name} has {} rows, {} says {}", sum.rows, manifest::FILE, proof.rows))
        }
        Some(sum) if sum.hash.to_string() != proof.hash => {
            Some(format!("the rows of {name} have another hash than {} says", manifest::FILE))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Holding {
        sql(&mut text.as_bytes()).ok().unwrap().unwrap()
    }

    #[test]
    fn rows_of_a_dump_are_counted_and_its_end_is_missed() {
        let text = "--\n-- PostgreSQL database dump\n--\n\n\\restrict k\nCREATE TABLE a ();\n\
            COPY public.users (id, name) FROM stdin;\n1\tAda\n2\tCOPY a FROM stdin;\n\\.\n\n\
            COPY \"Odd one\".b FROM stdin;\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict k\n";
        let holding = read(text);
        assert_eq!(holding.findings, [""; 0]);
        let tables: Vec<(&str, u64)> =
            holding.tables.iter().map(|one| (one.name.as_str(), one.rows)).collect();
        assert_eq!(tables, [("public.users", 2), ("\"Odd one\".b", 0)]);
        for length in [text.len() - 60, text.find("2\tCOPY").unwrap(), 60] {
            assert_eq!(
                read(&text[..length]).findings,
                ["it breaks off: its last line is not there"],
                "{length}"
            );
        }
        let roles = "SET standard_conforming_strings = on;\nCREATE ROLE a;\n";
        assert!(sql(&mut roles.as_bytes()).ok().unwrap().is_none());
    }
}
