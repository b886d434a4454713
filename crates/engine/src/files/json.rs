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

use crate::export::{JSON_FORMAT, NDJSON_FORMAT};
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
}

/// The most bytes of one row, or of the metadata: room for one value of the length that SQLite allows.
const LONGEST: u64 = 1_500_000_000;
/// The most tables of one document.
const MOST_TABLES: usize = 100_000;

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
    compare(&mut document, JSON_FORMAT);
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
fn compare(document: &mut Document, format: &str) {
    let Some(metadata) = &document.metadata else { return };
    if document.problem.is_some() {
        return;
    }
    let Some(expected) = &metadata.row_counts else {
        let is_ours = metadata.format.as_deref() == Some(format);
        document.problem = is_ours.then(|| "its metadata does not say which tables there are".to_owned());
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
fn metadata(value: Value, format: &str) -> Result<Option<Metadata>, serde_json::Error> {
    if !value.is_object() {
        return Ok(None);
    }
    let is_ours = value.get("format").and_then(Value::as_str) == Some(format);
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
                    let metadata = metadata(value, JSON_FORMAT).map_err(serde::de::Error::custom)?;
                    self.document.metadata = metadata;
                }
                "metadata" => return Err(serde::de::Error::custom("the metadata is there twice")),
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
        let is_ours = self.document.metadata.as_ref().and_then(|metadata| metadata.format.as_deref());
        let is_sure = is_ours == Some(JSON_FORMAT);
        Rows { document: self.document, reading: self.reading, met, table, is_sure, is_top: true }
    }
}

/// The rows of a table, or something else: at the top of a document, and in those of other programs.
struct Rows<'d, 'r> {
    document: &'d mut Document,
    reading: &'r Reading<'r>,
    /// The tables so far.
    met: &'d mut BTreeSet<String>,
    table: String,
    /// Whether it is a document of ours, which holds nothing else.
    is_sure: bool,
    is_top: bool,
}

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match (self.is_sure, self.is_top) {
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
        self.reading.begin();
        while let Some(row) = rows.next_element::<Value>()? {
            match row {
                Value::Object(row) if self.is_sure => check_row(&row).map_err(A::Error::custom)?,
                Value::Object(_) => {}
                _ => are_objects = false,
            }
            count += 1;
            self.reading.begin();
        }
        if self.is_sure && !self.is_top && !are_objects {
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
        self.document.tables.push(TableRows { name: self.table, rows: count });
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if !self.is_top || self.table != "tables" {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                self.reading.begin();
            }
            return Ok(());
        }
        while let Some(table) = map.next_key::<String>()? {
            self.reading.begin();
            let (document, met) = (&mut *self.document, &mut *self.met);
            let (reading, is_sure) = (self.reading, self.is_sure);
            map.next_value_seed(Rows { document, reading, met, table, is_sure, is_top: false })?;
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
            let metadata = metadata(value, NDJSON_FORMAT);
            let metadata = metadata.map_err(|error| format!("the metadata cannot be read: {error}"))?;
            self.document.metadata = Some(metadata.unwrap_or_default());
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
                check_row(row)?;
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
        let Self { mut document, places, end, .. } = self;
        let expected = document.metadata.as_ref().and_then(|metadata| metadata.row_counts.as_ref());
        let empty = expected
            .into_iter()
            .flatten()
            .filter(|(table, rows)| **rows == 0 && !places.contains_key(*table));
        let empty: Vec<TableRows> =
            empty.map(|(table, _)| TableRows { name: table.clone(), rows: 0 }).collect();
        document.tables.extend(empty);
        compare(&mut document, NDJSON_FORMAT);
        let rows: u64 = document.tables.iter().map(|table| table.rows).sum();
        if document.metadata.is_some() && document.problem.is_none() {
            document.problem = match end {
                None => Some("it breaks off: the last line, with the totals, is missing".to_owned()),
                Some(end) if (end.tables, end.rows) != (document.tables.len(), rows) => {
                    Some(format!("it has {rows} rows, its last line says otherwise"))
                }
                Some(_) => None,
            };
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(text: &str) -> Option<String> {
        document(&mut text.as_bytes()).unwrap().problem
    }

    #[test]
    fn rows_are_counted_and_compared_with_the_metadata() {
        let text = r#"{"metadata":{"format":"dbkeep json 1","row_counts":{"a":2,"b":0}},"tables":{"a":[{"x":1},{"x":{"$blob":"AA=="}}],"b":[]}}"#;
        let read = document(&mut text.as_bytes()).unwrap();
        assert_eq!(read.problem, None);
        let tables: Vec<(&str, u64)> = read.tables.iter().map(|t| (t.name.as_str(), t.rows)).collect();
        assert_eq!(tables, [("a", 2), ("b", 0)]);
        let fewer = text.replace(r#"{"x":1},"#, "");
        assert_eq!(problem_of(&fewer).unwrap(), "table \"a\" has 1 rows, its metadata says 2");
        assert!(problem_of(&text[..text.len() - 1]).unwrap().contains("not valid JSON"));
        assert!(problem_of(&text.replace("AA==", "A!==")).unwrap().contains("cannot be read"));
        assert!(problem_of(&format!("{text} x")).is_some());
        assert!(problem_of(&text.replace("\"b\":[]", "\"c\":[]")).is_some());
        assert!(problem_of(&text.replace("\"b\":[]", "\"a\":[]")).unwrap().contains("is there twice"));
        assert!(problem_of(&text.replace("\"b\":[]", "\"b\":7")).is_some());
        assert!(problem_of(&text.replace("row_counts", "row_sounts")).unwrap().contains("does not say"));
        let twice = text.replace("\"tables\"", "\"metadata\":{},\"tables\"");
        assert!(problem_of(&twice).unwrap().contains("the metadata is there twice"));
    }

    #[test]
    fn documents_of_other_programs_are_read_for_what_they_have() {
        let tables = |text: &str| -> Vec<(String, u64)> {
            let read = document(&mut text.as_bytes()).unwrap();
            assert_eq!(read.problem, None, "{text}");
            read.tables.into_iter().map(|table| (table.name, table.rows)).collect()
        };
        let users = |rows: u64| vec![("users".to_owned(), rows)];
        let text =
            r#"{"exported":"today","users":[{"id":1}],"stats":{"users":1},"tags":[1,2],"x":{"y":[{}]}}"#;
        assert_eq!(tables(text), users(1));
        assert_eq!(tables(r#"{"metadata":{"database":7},"tables":{"users":[{},{"$blob":"-"}]}}"#), users(2));
        assert_eq!(tables(r#"{"tables":["users","orders"],"users":[{}]}"#), users(1));
        assert_eq!(tables(r#"{"tables":{"users":{"rows":[{}]}}}"#), []);
    }

    #[test]
    fn row_that_would_fill_the_memory_is_refused_and_many_rows_are_not() {
        let row = format!("{{\"x\":\"{}\"}}", "y".repeat(300));
        let rows = vec![row; 100].join(",");
        let text = format!("{{\"a\":[{rows}],\"b\":[{rows}]}}");
        let read = document_of(&mut text.as_bytes(), 1000).unwrap();
        assert_eq!((read.problem, read.tables.len(), read.tables[1].rows), (None, 2, 100));
        let text = format!("{{\"a\":[{{\"x\":\"{}\"}}]}}", "y".repeat(2000));
        let error = document_of(&mut text.as_bytes(), 1000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let error = lines_of(&mut text.as_bytes(), "t", 1000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(lines_of(&mut text.as_bytes(), "t", 3000).unwrap().tables[0].rows, 1);
    }

    #[test]
    fn lines_without_their_end_are_told() {
        let text = "{\"metadata\":{\"row_counts\":{\"a\":1,\"b\":0}}}\n{\"table\":\"a\",\"row\":{\"x\":1}}\n{\"end\":{\"tables\":2,\"rows\":1}}\n";
        let read = |text: &str| lines(&mut text.as_bytes(), "t").unwrap();
        assert_eq!(read(text).problem, None);
        let cut: String = text.split_inclusive('\n').take(2).collect();
        assert!(read(&cut).problem.unwrap().contains("breaks off"));
        assert!(read(&format!("{text}{{}}")).problem.unwrap().contains("more behind the end"));
        assert!(read(&text.replace("\"tables\":2", "\"tables\":3")).problem.is_some());
        assert!(read(&text.replace("\"row\"", "\"raw\"")).problem.unwrap().contains("no row of a table"));
        assert!(read("{\"x\":1}\n{\"x\"").problem.unwrap().starts_with("line 2: it is not valid JSON"));
        assert_eq!(read("{\"x\":1}\n{\"x\":2}\n").tables, [TableRows { name: "t".to_owned(), rows: 2 }]);
    }

    #[test]
    fn lines_of_other_programs_may_have_any_columns() {
        let text = "{\"metadata\":{\"a\":1},\"end\":\"x\"}\n{\"table\":\"u\",\"row\":{}}\n{\"end\":{\"rows\":1}}\n{\"metadata\":{}}\n";
        let read = lines(&mut text.as_bytes(), "t").unwrap();
        assert_eq!(read.problem, None);
        assert_eq!(read.tables, [TableRows { name: "t".to_owned(), rows: 4 }]);
    }
}
