//! Reads JSON exports row by row, so that a document of any size needs the memory of one row.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dbkeep_repo::Id;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::foreign::{self, Observed, Stated};
use super::proof::{RowsOrCount, Shape, Sums};
use crate::export::{
    CSV_FORMAT, JSON_FORMAT, NDJSON_FORMAT, SERVED_CSV_FORMAT, SERVED_JSON_FORMAT, SERVED_NDJSON_FORMAT,
};
use crate::report::TableRows;

/// What a document says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) format: Option<String>,
    pub(super) dbkeep: Option<String>,
    pub(super) session: Option<String>,
    pub(super) database: Option<String>,
    pub(super) snapshot: Option<Id>,
    pub(super) moment: Option<String>,
    pub(super) user: Option<String>,
    pub(super) host: Option<String>,
    pub(super) git: Option<GitFacts>,
    pub(super) row_counts: Option<BTreeMap<String, u64>>,
    pub(super) schema: Option<Vec<IgnoredAny>>,
    pub(super) files: Option<BTreeMap<String, String>>,
    pub(super) notes: Vec<String>,
    /// What an export of a server says of its tables; other programs have something else there.
    pub(super) tables: Option<Value>,
}

impl Metadata {
    /// Says whether it is of rows of a PostgreSQL database, exported by us.
    pub(super) fn is_served(&self) -> bool {
        let served = [SERVED_JSON_FORMAT, SERVED_NDJSON_FORMAT, SERVED_CSV_FORMAT];
        self.format.as_deref().is_some_and(|format| served.contains(&format))
    }

    /// Says whether it is of readable JSON, which loses something of them.
    pub(super) fn is_readable(&self) -> bool {
        self.format.as_deref() == Some(SERVED_JSON_FORMAT)
    }

    /// Says whether it is ours.
    fn is_ours(&self) -> bool {
        let ours = [JSON_FORMAT, NDJSON_FORMAT, CSV_FORMAT];
        self.is_served() || self.format.as_deref().is_some_and(|format| ours.contains(&format))
    }
}

/// Branch and commit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GitFacts {
    pub(super) branch: Option<String>,
    pub(super) commit: Option<String>,
}

/// What a document holds.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) metadata: Option<Metadata>,
    pub(super) tables: Vec<TableRows>,
    pub(super) problem: Option<String>,
    /// Whether every row was compared with sums that the document has.
    pub(super) is_proved: bool,
    /// What a document of another program says of the numbers of rows.
    stated: Stated,
    /// What values of another program tell.
    pub(super) notes: Vec<String>,
}

/// The most bytes of one row, or of the metadata: room for one value of the length that SQLite allows.
const LONGEST: u64 = 1_500_000_000;
/// The most tables of one document.
const MOST_TABLES: usize = 100_000;
/// The most notes about the values of a document.
const MOST_NOTES: usize = 20;

/// Reads `{"metadata":…,"tables":{"users":[{…}]}}`, or `{"users":[{…}]}`.
pub(super) fn document(text: &mut dyn Read) -> Result<Document, io::Error> {
    document_of(text, LONGEST)
}

fn document_of(text: &mut dyn Read, longest: u64) -> Result<Document, io::Error> {
    let mut document = Document::default();
    let left = Cell::new(longest);
    let reading = Reading { left: &left, longest };
    let text = Limited { text, left: &left };
    let mut deserializer = serde_json::Deserializer::from_reader(text);
    let top = Top { document: &mut document, reading: &reading };
    let read = top.deserialize(&mut deserializer).and_then(|()| {
        left.set(longest);
        deserializer.end()
    });
    match read {
        Ok(()) => {}
        Err(error) if error.is_io() => return Err(error.into()),
        Err(error) => document.problem = Some(format!("it is not valid JSON: {error}")),
    }
    compare(&mut document);
    Ok(document)
}

/// Lets so much be read until it is told to begin anew.
struct Limited<'r> {
    text: &'r mut dyn Read,
    left: &'r Cell<u64>,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(too_long());
        }
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.text.read(&mut buffer[..wanted])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

/// The error for what is not looked at because it would have to be in memory.
fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("a row is longer than {LONGEST} bytes, so the file was not looked at"),
    )
}

/// What is known while a document is read.
struct Reading<'r> {
    left: &'r Cell<u64>,
    longest: u64,
}

impl Reading<'_> {
    /// Lets the next row, or what else is kept in memory, be as long as any.
    fn begin(&self) {
        self.left.set(self.longest);
    }
}

/// Compares what was counted with what the metadata says. A document of ours says it.
fn compare(document: &mut Document) {
    if document.problem.is_some() {
        return;
    }
    let is_ours = document.metadata.as_ref().is_some_and(Metadata::is_ours);
    if !is_ours {
        let (problem, notes) = document.stated.compare(&document.tables);
        document.problem = problem;
        document.notes.extend(notes);
    }
    let Some(metadata) = &document.metadata else { return };
    let Some(expected) = &metadata.row_counts else {
        document.problem = document
            .problem
            .take()
            .or_else(|| is_ours.then(|| "its metadata does not say which tables there are".to_owned()));
        return;
    };
    let found: BTreeMap<&str, u64> =
        document.tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
    for (table, rows) in expected {
        match found.get(table.as_str()) {
            Some(count) if count == rows => {}
            Some(count) => {
                document.problem =
                    Some(format!("table {table:?} has {count} rows, its metadata says {rows}"));
            }
            None => document.problem = Some(format!("table {table:?} of its metadata is not there")),
        }
    }
    if let Some(table) = found.keys().find(|table| !expected.contains_key(**table)) {
        document.problem = Some(format!("table {table:?} is not in its metadata"));
    }
}

/// Returns what a value says as metadata. That of another program, which has its own fields, says nothing.
fn metadata(value: Value) -> Result<Option<Metadata>, serde_json::Error> {
    if !value.is_object() {
        return Ok(None);
    }
    let format = value.get("format").and_then(Value::as_str).map(str::to_owned);
    let is_ours = Metadata { format, ..Metadata::default() }.is_ours();
    match serde_json::from_value(value) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if is_ours => Err(error),
        Err(_) => Ok(None),
    }
}

struct Top<'d, 'r> {
    document: &'d mut Document,
    reading: &'r Reading<'r>,
}

impl<'de> DeserializeSeed<'de> for Top<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with tables")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut tables = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.reading.begin();
            match key.as_str() {
                "metadata" if self.document.metadata.is_none() => {
                    let value = map.next_value()?;
                    self.document.stated.take(&value);
                    self.document.metadata = metadata(value).map_err(serde::de::Error::custom)?;
                }
                "metadata" => return Err(serde::de::Error::custom("the metadata is there twice")),
                key if foreign::STATISTICS.contains(&key) && self.own() == Own::None => {
                    self.statistics(key.to_owned(), map.next_value()?);
                }
                // Some scripts put the tables at the top.
                _ => map.next_value_seed(self.rows(key, &mut tables))?,
            }
        }
        Ok(())
    }
}

impl<'r> Top<'_, 'r> {
    /// Returns what reads the value of a key: the rows of a table, or, behind `tables`, those of all of them.
    fn rows<'s>(&'s mut self, table: String, met: &'s mut BTreeSet<String>) -> Rows<'s, 'r> {
        let own = self.own();
        Rows { document: self.document, reading: self.reading, met, table, own, is_top: true }
    }

    /// Says whose document it is.
    fn own(&self) -> Own {
        let metadata = self.document.metadata.as_ref();
        match metadata.and_then(|metadata| metadata.format.as_deref()) {
            Some(JSON_FORMAT) => Own::File,
            Some(SERVED_JSON_FORMAT) => Own::Server,
            _ => Own::None,
        }
    }

    /// Takes what may be numbers of rows, or rows of a table of that name.
    fn statistics(&mut self, key: String, value: Value) {
        match value {
            Value::Array(rows) if !rows.is_empty() && rows.iter().all(Value::is_object) => {
                self.document.tables.push(TableRows { name: key, rows: rows.len() as u64 });
            }
            value => self.document.stated.statistics(&value),
        }
    }
}

/// Whose document it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// Ours, of a file.
    File,
    /// Ours, of a database of a server.
    Server,
    /// That of another program.
    None,
}

/// The rows of a table, or something else: at the top of a document, and in those of other programs.
struct Rows<'d, 'r> {
    document: &'d mut Document,
    reading: &'r Reading<'r>,
    /// The tables so far.
    met: &'d mut BTreeSet<String>,
    table: String,
    /// Whose document it is. Ours holds nothing else.
    own: Own,
    is_top: bool,
}

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match (self.own != Own::None, self.is_top) {
            (true, true) if self.table == "tables" => deserializer.deserialize_map(self),
            (true, false) => deserializer.deserialize_seq(self),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.is_top { "an object of tables" } else { "a list of rows" })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        use serde::de::Error as _;
        let mut count = 0;
        let mut are_objects = true;
        let mut observed = Observed::default();
        self.reading.begin();
        loop {
            let row = match self.own {
                // What stands there as it is (json) may be beyond what any reader here would take.
                Own::Server => rows.next_element::<Shape>()?.map(|Shape { is_object }| match is_object {
                    true => Value::Object(Map::new()),
                    false => Value::Null,
                }),
                Own::File | Own::None => rows.next_element::<Value>()?,
            };
            match (row, self.own) {
                (None, _) => break,
                (Some(Value::Object(row)), Own::File) => check_row(&row).map_err(A::Error::custom)?,
                (Some(Value::Object(row)), Own::None) => observed.row(&row),
                (Some(Value::Object(_)), Own::Server) => {}
                _ => are_objects = false,
            }
            count += 1;
            self.reading.begin();
        }
        if self.own != Own::None && !self.is_top && !are_objects {
            return Err(A::Error::custom(format!("table {:?} holds something that is no row", self.table)));
        }
        if !are_objects {
            return Ok(());
        }
        if self.met.len() == MOST_TABLES {
            return Err(A::Error::custom(format!("there are more than {MOST_TABLES} tables")));
        }
        if !self.met.insert(self.table.clone()) {
            return Err(A::Error::custom(format!("table {:?} is there twice", self.table)));
        }
        let notes = observed.notes(&self.table);
        self.document
            .notes
            .extend(notes.into_iter().take(MOST_NOTES.saturating_sub(self.document.notes.len())));
        self.document.tables.push(TableRows { name: self.table, rows: count });
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if !self.is_top && self.own == Own::None {
            return self.table_object(map);
        }
        if !self.is_top || self.table != "tables" && (self.table != "data" || self.own != Own::None) {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                self.reading.begin();
            }
            return Ok(());
        }
        while let Some(table) = map.next_key::<String>()? {
            self.reading.begin();
            let (document, met) = (&mut *self.document, &mut *self.met);
            let (reading, own) = (self.reading, self.own);
            map.next_value_seed(Rows { document, reading, met, table, own, is_top: false })?;
        }
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

impl Rows<'_, '_> {
    /// Reads a table that is an object: its rows are under one key, and how many there are may be under another.
    fn table_object<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            self.reading.begin();
            let (document, met) = (&mut *self.document, &mut *self.met);
            if foreign::ROWS.contains(&key.as_str()) {
                let before = document.tables.len();
                let table = self.table.clone();
                let rows =
                    Rows { document, reading: self.reading, met, table, own: Own::None, is_top: false };
                let stated = map.next_value_seed(RowsOrCount(rows))?;
                let is_there = self.document.tables.len() > before;
                if let Some(count) = stated.filter(|_| !is_there) {
                    self.document.stated.table(&self.table, count);
                }
            } else if foreign::COUNT.contains(&key.as_str()) {
                if let Some(count) = map.next_value::<Value>()?.as_u64() {
                    document.stated.table(&self.table, count);
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Expects that what is marked as a value that JSON has no word for can be read as one.
fn check_row(row: &Map<String, Value>) -> Result<(), String> {
    for (column, value) in row {
        let Value::Object(marked) = value else { continue };
        let Some((mark, Value::String(text))) = marked.iter().next().filter(|_| marked.len() == 1) else {
            continue;
        };
        let is_readable = match mark.as_str() {
            "$blob" | "$text" => STANDARD.decode(text).is_ok(),
            "$integer" => text.parse::<i64>().is_ok(),
            "$real" => matches!(text.as_str(), "Infinity" | "-Infinity"),
            _ => true,
        };
        if !is_readable {
            return Err(format!("the value of column {column:?} cannot be read: {marked:?}"));
        }
    }
    Ok(())
}

/// Reads one JSON object a line: ours, or rows of one table without more.
pub(super) fn lines(text: &mut dyn BufRead, table: &str) -> Result<Document, io::Error> {
    lines_of(text, table, LONGEST)
}

fn lines_of(text: &mut dyn BufRead, table: &str, longest: u64) -> Result<Document, io::Error> {
    let mut lines = Lines { table, ..Lines::default() };
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = (&mut *text).take(longest).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if read as u64 == longest {
            return Err(too_long());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Err(why) = lines.line(&line, number == 1) {
            lines.document.problem = Some(format!("line {number}: {why}"));
            return Ok(lines.document);
        }
    }
    Ok(lines.finish())
}

/// What was read of a document of one JSON object a line.
#[derive(Default)]
struct Lines<'t> {
    /// The table of rows that name none.
    table: &'t str,
    document: Document,
    /// The place of each table among those of the document.
    places: HashMap<String, usize>,
    end: Option<End>,
    /// What the rows of each table come to, where the metadata says what they must come to.
    sums: Option<Sums>,
}

/// The totals in the last line.
#[derive(Deserialize)]
struct End {
    tables: usize,
    rows: u64,
}

impl Lines<'_> {
    fn line(&mut self, line: &[u8], is_first: bool) -> Result<(), String> {
        let mut object: Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| format!("it is not valid JSON: {error}"))?;
        if self.end.is_some() {
            return Err("there is more behind the end".to_owned());
        }
        let is_one = object.len() == 1;
        // A row of another program may well have a column of that name.
        let is_ours = |value: &Value| value.get("format").is_some() || value.get("row_counts").is_some();
        let is_heading = is_first && is_one && object.get("metadata").is_some_and(is_ours);
        if let Some(value) = object.remove("metadata").filter(|_| is_heading) {
            let metadata = metadata(value);
            let metadata = metadata.map_err(|error| format!("the metadata cannot be read: {error}"))?;
            let metadata = metadata.unwrap_or_default();
            if metadata.format.as_deref() == Some(SERVED_NDJSON_FORMAT) {
                self.sums = Some(Sums::expected(metadata.tables.as_ref())?);
            }
            self.document.metadata = Some(metadata);
            return Ok(());
        }
        let is_ours = self.document.metadata.is_some();
        if let Some(end) = object.get("end").filter(|_| is_ours && is_one) {
            let end = End::deserialize(end);
            self.end = Some(end.map_err(|error| format!("the totals cannot be read: {error}"))?);
            return Ok(());
        }
        match (object.get("table"), object.get("row")) {
            (Some(Value::String(table)), Some(Value::Object(row))) if is_ours => {
                match &mut self.sums {
                    Some(sums) => sums.row(table, row)?,
                    None => check_row(row)?,
                }
                self.count(table)
            }
            _ if is_ours => Err("it is no row of a table".to_owned()),
            _ => self.count(self.table),
        }
    }

    fn count(&mut self, table: &str) -> Result<(), String> {
        let tables = &mut self.document.tables;
        if let Some(place) = self.places.get(table) {
            tables[*place].rows += 1;
            return Ok(());
        }
        if tables.len() == MOST_TABLES {
            return Err(format!("there are more than {MOST_TABLES} tables"));
        }
        self.places.insert(table.to_owned(), tables.len());
        tables.push(TableRows { name: table.to_owned(), rows: 1 });
        Ok(())
    }

    fn finish(self) -> Document {
        let Self { mut document, places, end, sums, .. } = self;
        let expected = document.metadata.as_ref().and_then(|metadata| metadata.row_counts.as_ref());
        let empty = expected
            .into_iter()
            .flatten()
            .filter(|(table, rows)| **rows == 0 && !places.contains_key(*table));
        let empty: Vec<TableRows> =
            empty.map(|(table, _)| TableRows { name: table.clone(), rows: 0 }).collect();
        document.tables.extend(empty);
        compare(&mut document);
        let rows: u64 = document.tables.iter().map(|table| table.rows).sum();
        if document.metadata.is_some() && document.problem.is_none() {
            document.problem = match end {
                None => Some("it breaks off: the last line, with the totals, is missing".to_owned()),
                Some(end) if (end.tables, end.rows) != (document.tables.len(), rows) => {
                    Some(format!("it has {rows} rows, its last line says otherwise"))
                }
                Some(_) => sums.as_ref().and_then(Sums::difference),
            };
            document.is_proved = sums.is_some() && document.problem.is_none();
        }
        document
    }
}

#[cfg(test)]
mod tests;
