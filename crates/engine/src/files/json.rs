//! Reads JSON exports row by row, so that a document of any size needs the memory of one row.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dbkeep_repo::Id;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

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

/// Reads `{"metadata":…,"tables":{"users":[{…}]}}`, or `{"users":[{…}]}`.
pub(super) fn document(text: &mut dyn Read) -> Result<Document, io::Error> {
    let mut document = Document::default();
    let mut deserializer = serde_json::Deserializer::from_reader(text);
    let read = Top(&mut document).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match read {
        Ok(()) => {}
        Err(error) if error.is_io() => return Err(error.into()),
        Err(error) => document.problem = Some(format!("it is not valid JSON: {error}")),
    }
    compare(&mut document);
    Ok(document)
}

/// Compares what was counted with what the metadata says.
fn compare(document: &mut Document) {
    let Some(expected) = document.metadata.as_ref().and_then(|metadata| metadata.row_counts.as_ref()) else {
        return;
    };
    if document.problem.is_some() {
        return;
    }
    let found: BTreeMap<String, u64> =
        document.tables.iter().map(|table| (table.name.clone(), table.rows)).collect();
    for (table, rows) in expected {
        match found.get(table) {
            Some(count) if count == rows => {}
            Some(count) => {
                document.problem =
                    Some(format!("table {table:?} has {count} rows, its metadata says {rows}"));
            }
            None => document.problem = Some(format!("table {table:?} of its metadata is not there")),
        }
    }
    if let Some(table) = found.keys().find(|table| !expected.contains_key(*table)) {
        document.problem = Some(format!("table {table:?} is not in its metadata"));
    }
}

struct Top<'d>(&'d mut Document);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => self.0.metadata = Some(map.next_value()?),
                "tables" => map.next_value_seed(Tables(&mut *self.0))?,
                // Some scripts put the tables at the top.
                _ => map.next_value_seed(Rows { document: &mut *self.0, table: key, is_sure: false })?,
            }
        }
        Ok(())
    }
}

struct Tables<'d>(&'d mut Document);

impl<'de> DeserializeSeed<'de> for Tables<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tables<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(table) = map.next_key::<String>()? {
            if self.0.tables.iter().any(|one| one.name == table) {
                return Err(serde::de::Error::custom(format!("table {table:?} is there twice")));
            }
            map.next_value_seed(Rows { document: &mut *self.0, table, is_sure: true })?;
        }
        Ok(())
    }
}

/// The rows of a table; at the top of a document it may be something else.
struct Rows<'d> {
    document: &'d mut Document,
    table: String,
    is_sure: bool,
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.is_sure {
            true => deserializer.deserialize_seq(self),
            false => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        let mut count = 0;
        let mut are_objects = true;
        while let Some(row) = rows.next_element::<Value>()? {
            match row {
                Value::Object(row) => check_row(&row).map_err(serde::de::Error::custom)?,
                _ => are_objects = false,
            }
            count += 1;
        }
        if self.is_sure && !are_objects {
            return Err(serde::de::Error::custom(format!(
                "table {:?} holds something that is no row",
                self.table
            )));
        }
        if are_objects {
            self.document.tables.push(TableRows { name: self.table, rows: count });
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
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
fn check_row(row: &serde_json::Map<String, Value>) -> Result<(), String> {
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
    let mut document = Document::default();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut end = None;
    let (mut line, mut number) = (Vec::new(), 0u64);
    loop {
        line.clear();
        if text.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fail = |why: String| Some(format!("line {number}: {why}"));
        let object: serde_json::Map<String, Value> = match serde_json::from_slice(&line) {
            Ok(object) => object,
            Err(error) => {
                document.problem = fail(format!("it is not valid JSON: {error}"));
                return Ok(document);
            }
        };
        if end.is_some() {
            document.problem = fail("there is more behind the end".to_owned());
            return Ok(document);
        }
        if let Some(metadata) = object.get("metadata").filter(|_| number == 1) {
            match Metadata::deserialize(metadata) {
                Ok(metadata) => document.metadata = Some(metadata),
                Err(error) => document.problem = fail(format!("the metadata cannot be read: {error}")),
            }
            continue;
        }
        if let Some(totals) = object.get("end") {
            end = Some(totals.get("rows").and_then(Value::as_u64));
            continue;
        }
        let (table, row) = match (object.get("table"), object.get("row")) {
            (Some(Value::String(table)), Some(Value::Object(row))) => (table.as_str(), row),
            _ => (table, &object),
        };
        if let Err(why) = check_row(row) {
            document.problem = fail(why);
            return Ok(document);
        }
        match counts.get_mut(table) {
            Some(count) => *count += 1,
            None => {
                order.push(table.to_owned());
                counts.insert(table.to_owned(), 1);
            }
        }
    }
    let expected = document.metadata.as_ref().and_then(|metadata| metadata.row_counts.clone());
    let empty = expected.iter().flatten().filter(|(table, rows)| **rows == 0 && !counts.contains_key(*table));
    order.extend(empty.map(|(table, _)| table.clone()));
    let rows = |name: String| TableRows { rows: counts.get(&name).copied().unwrap_or(0), name };
    document.tables = order.into_iter().map(rows).collect();
    compare(&mut document);
    let total: u64 = document.tables.iter().map(|table| table.rows).sum();
    if document.metadata.is_some() && document.problem.is_none() {
        document.problem = match end {
            None => Some("it breaks off: the last line, with the totals, is missing".to_owned()),
            Some(rows) if rows != Some(total) => {
                Some(format!("it has {total} rows, its last line says otherwise"))
            }
            Some(_) => None,
        };
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(text: &str) -> Option<String> {
        document(&mut text.as_bytes()).unwrap().problem
    }

    #[test]
    fn rows_are_counted_and_compared_with_the_metadata() {
        let text = r#"{"metadata":{"row_counts":{"a":2,"b":0}},"tables":{"a":[{"x":1},{"x":{"$blob":"AA=="}}],"b":[]}}"#;
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
    }

    #[test]
    fn tables_at_the_top_are_found() {
        let text = r#"{"exported":"today","users":[{"id":1}],"stats":{"users":1},"tags":[1,2]}"#;
        let read = document(&mut text.as_bytes()).unwrap();
        assert_eq!(read.tables, [TableRows { name: "users".to_owned(), rows: 1 }]);
    }

    #[test]
    fn lines_without_their_end_are_told() {
        let text = "{\"metadata\":{\"row_counts\":{\"a\":1}}}\n{\"table\":\"a\",\"row\":{\"x\":1}}\n{\"end\":{\"tables\":1,\"rows\":1}}\n";
        let read = |text: &str| lines(&mut text.as_bytes(), "t").unwrap();
        assert_eq!(read(text).problem, None);
        let cut: String = text.split_inclusive('\n').take(2).collect();
        assert!(read(&cut).problem.unwrap().contains("breaks off"));
        assert!(read("{\"x\":1}\n{\"x\"").problem.unwrap().starts_with("line 2: it is not valid JSON"));
        assert_eq!(read("{\"x\":1}\n{\"x\":2}\n").tables, [TableRows { name: "t".to_owned(), rows: 2 }]);
    }
}
