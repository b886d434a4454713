//! What the formats that write rows have in common: what they say of the database, and JSON for every value.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dbkeep_repo::Id;
use dbkeep_sqlite::contents::{Object, Table, Value};
use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::rows::Opened;
use super::{Export, Subject};
use crate::Result;
use crate::manifest::Git;

/// The mark of a JSON document.
pub const JSON_FORMAT: &str = "dbkeep json 1";
/// The mark of a document of one JSON object a row.
pub const NDJSON_FORMAT: &str = "dbkeep ndjson 1";
/// The mark of a directory of CSV files.
pub const CSV_FORMAT: &str = "dbkeep csv 1";

/// The largest whole number up to which JavaScript, and whoever reads JSON numbers as it does, tells all apart.
const SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Where an export comes from.
#[derive(Debug, Serialize)]
pub(super) struct Origin<'m> {
    format: &'static str,
    dbkeep: &'static str,
    session: &'m str,
    database: &'m str,
    engine: &'static str,
    snapshot: Id,
    source: &'m str,
    environment: Option<&'m str>,
    moment: Timestamp,
    exported: Timestamp,
    backed_up_by: String,
    user: &'m str,
    host: &'m str,
    git: Option<&'m Git>,
    reason: &'m str,
    tags: &'m [String],
    integrity: String,
    bytes_source: u64,
    root: Id,
}

/// What is said of a database beside its rows.
#[derive(Debug, Serialize)]
pub(super) struct Metadata<'m> {
    #[serde(flatten)]
    origin: Origin<'m>,
    sha256: Option<Id>,
    settings: SettingsFacts<'m>,
    values: &'static str,
    pub(super) row_counts: Counts,
    rows: u64,
    columns: Columns,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) files: Option<BTreeMap<String, String>>,
    cycles: &'m [Vec<String>],
    schema: Vec<ObjectFacts<'m>>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SettingsFacts<'m> {
    page_size: u32,
    encoding: &'m str,
    auto_vacuum: u32,
    application_id: i32,
    user_version: i32,
}

#[derive(Debug, Serialize)]
struct ObjectFacts<'m> {
    #[serde(rename = "type")]
    kind: &'m str,
    name: &'m str,
    table: &'m str,
    sql: Option<&'m str>,
}

#[derive(Debug, Serialize)]
struct ColumnFacts {
    name: String,
    #[serde(rename = "type")]
    declared: String,
    generated: bool,
    key: u32,
}

/// Tables with their rows, in the order of the tables.
#[derive(Debug, Default)]
pub(super) struct Counts(pub(super) Vec<(String, u64)>);

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, rows) in &self.0 {
            map.serialize_entry(name, rows)?;
        }
        map.end()
    }
}

/// Tables with their columns, in the order of the tables.
#[derive(Debug, Default)]
struct Columns(Vec<(String, Vec<ColumnFacts>)>);

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, columns) in &self.0 {
            map.serialize_entry(name, columns)?;
        }
        map.end()
    }
}

impl Export<'_> {
    /// Says where an export comes from.
    pub(super) fn origin<'m>(&self, subject: &'m Subject, format: &'static str) -> Origin<'m> {
        let manifest = &subject.manifest;
        Origin {
            format,
            dbkeep: env!("CARGO_PKG_VERSION"),
            session: &manifest.session,
            database: &manifest.database,
            engine: manifest.engine.word(),
            snapshot: subject.entry.id,
            source: &manifest.source,
            environment: manifest.environment.as_deref(),
            moment: manifest.moment,
            exported: self.clock.now(),
            backed_up_by: format!("dbkeep {}", manifest.dbkeep),
            user: &manifest.user,
            host: manifest.identity.host(),
            git: manifest.git.as_ref(),
            reason: &manifest.options.reason,
            tags: &manifest.options.tags,
            integrity: manifest.integrity.summary(),
            bytes_source: manifest.image.size,
            root: manifest.image.root,
        }
    }

    /// Says what is known of a database. `notes` are about what is not in the export.
    pub(super) fn metadata<'m>(
        &self,
        subject: &'m Subject,
        opened: &'m Opened<'_>,
        tables: &[&Table],
        format: (&'static str, &'static str),
        notes: Vec<String>,
    ) -> Result<Metadata<'m>> {
        let manifest = &subject.manifest;
        let contents = &opened.contents;
        let counts = tables.iter().map(|table| Ok((table.name.clone(), opened.rows_of(table)?)));
        let row_counts = Counts(counts.collect::<Result<_>>()?);
        Ok(Metadata {
            origin: self.origin(subject, format.0),
            sha256: manifest.image.sha256,
            settings: SettingsFacts {
                page_size: contents.settings.page_size,
                encoding: &contents.settings.encoding,
                auto_vacuum: contents.settings.auto_vacuum,
                application_id: contents.settings.application_id,
                user_version: contents.settings.user_version,
            },
            values: format.1,
            rows: row_counts.0.iter().map(|(_, rows)| rows).sum(),
            row_counts,
            columns: Columns(tables.iter().map(|table| (table.name.clone(), columns(table))).collect()),
            files: None,
            cycles: &contents.cycles,
            schema: contents.schema.iter().map(object).collect(),
            notes,
        })
    }
}

fn columns(table: &Table) -> Vec<ColumnFacts> {
    let facts = table.columns.iter().map(|column| ColumnFacts {
        name: column.name.clone(),
        declared: column.declared.clone(),
        generated: column.generated,
        key: column.key,
    });
    facts.collect()
}

fn object(object: &Object) -> ObjectFacts<'_> {
    ObjectFacts { kind: &object.kind, name: &object.name, table: &object.table, sql: object.sql.as_deref() }
}

/// How values stand in JSON; part of the metadata, for whoever reads it.
pub(super) const JSON_VALUES: &str = "NULL is null; whole numbers up to 2^53-1 and floating-point numbers (always with a point or an exponent) are numbers; text is a string; an object is what JSON has no word for: {\"$integer\":\"9223372036854775807\"}, {\"$real\":\"Infinity\"}, {\"$blob\":\"<base64>\"}, {\"$text\":\"<base64 of bytes that are not valid in the encoding of the database>\"}";

/// Adds a value as JSON.
///
/// No value of SQLite is an object, so one with a `$` key can only be what it says, and a text that looks like one
/// is a string.
pub(super) fn push_json(line: &mut String, value: Value<'_>) {
    match value {
        Value::Null => line.push_str("null"),
        // Writing to a String cannot fail, here and below.
        Value::Integer(number) if number.unsigned_abs() <= SAFE_INTEGER => _ = write!(line, "{number}"),
        Value::Integer(number) => _ = write!(line, "{{\"$integer\":\"{number}\"}}"),
        Value::Real(number) if number.is_infinite() => {
            let sign = if number < 0.0 { "-" } else { "" };
            _ = write!(line, "{{\"$real\":\"{sign}Infinity\"}}");
        }
        Value::Real(number) if number.is_nan() => line.push_str("null"),
        Value::Real(number) => _ = write!(line, "{number:?}"),
        Value::Text(text) => push_string(line, text),
        Value::OddText(bytes) => _ = write!(line, "{{\"$text\":\"{}\"}}", STANDARD.encode(bytes)),
        Value::Blob(bytes) => _ = write!(line, "{{\"$blob\":\"{}\"}}", STANDARD.encode(bytes)),
    }
}

/// Adds a text as a JSON string.
pub(super) fn push_string(line: &mut String, text: &str) {
    line.push_str(&serde_json::to_string(text).expect("a text is a string in JSON"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: Value<'_>) -> String {
        let mut line = String::new();
        push_json(&mut line, value);
        line
    }

    #[test]
    fn every_kind_of_value_has_one_form() {
        for (value, expected) in [
            (Value::Null, "null"),
            (Value::Integer(9_007_199_254_740_991), "9007199254740991"),
            (Value::Integer(9_007_199_254_740_992), r#"{"$integer":"9007199254740992"}"#),
            (Value::Integer(i64::MIN), r#"{"$integer":"-9223372036854775808"}"#),
            (Value::Real(1.0), "1.0"),
            (Value::Real(-0.0), "-0.0"),
            (Value::Real(1e300), "1e300"),
            (Value::Real(f64::NEG_INFINITY), r#"{"$real":"-Infinity"}"#),
            (Value::Text("a\"\0\n"), r#""a\"\u0000\n""#),
            (Value::Text(r#"{"$blob":"AA=="}"#), r#""{\"$blob\":\"AA==\"}""#),
            (Value::OddText(b"\xff\0"), r#"{"$text":"/wA="}"#),
            (Value::Blob(b""), r#"{"$blob":""}"#),
        ] {
            assert_eq!(json(value), expected);
        }
    }
}
