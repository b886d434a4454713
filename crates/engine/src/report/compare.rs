//! What a comparison tells.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// What differs between a snapshot and another one, or the live database.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CompareReport {
    /// Whether nothing differs. False where something could not be compared.
    pub same: bool,
    /// The one side.
    pub left: ComparedSide,
    /// The other.
    pub right: ComparedSide,
    /// What differs in the schema.
    pub schema: SchemaReport,
    /// Every table that was compared, by name.
    pub tables: Vec<ComparedTable>,
    /// Every sequence of a PostgreSQL database that stands elsewhere, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sequences: Vec<ComparedSequence>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl CompareReport {
    /// Returns what the process exits with: 4 where a table could not be compared, or something differs and `asked` says
    /// that this counts.
    pub fn exit_code(&self, asked: bool) -> u8 {
        let is_incomplete = self.tables.iter().any(|table| table.error.is_some());
        if is_incomplete || (asked && !self.same) { 4 } else { 0 }
    }
}

/// A sequence that stands elsewhere on each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ComparedSequence {
    /// Its name.
    pub name: String,
    /// Where it stands on the left side.
    pub left: SequenceValue,
    /// Where it stands on the right side.
    pub right: SequenceValue,
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SequenceValue {
    /// The last value that it gave, or the first one that it will give.
    pub last_value: i64,
    /// Whether that one was given already.
    pub is_called: bool,
}

impl ComparedSequence {
    /// Says whether the right side is ahead, as after numbers were given out; those are not given again.
    pub fn went_on(&self) -> bool {
        self.right > self.left
    }
}

/// One of the two sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ComparedSide {
    /// The snapshot; `None` for the live database.
    pub snapshot: Option<Id>,
    /// The name of the database.
    pub database: String,
    /// Where it is, or was when it was backed up.
    pub source: String,
    /// The moment that it shows.
    pub moment: Timestamp,
}

/// What differs in the schema.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SchemaReport {
    /// What only the right side has.
    pub added: Vec<SchemaChange>,
    /// What only the left side has.
    pub removed: Vec<SchemaChange>,
    /// What is made in another way.
    pub changed: Vec<SchemaChange>,
}

/// An object of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SchemaChange {
    /// `table`, `index`, `view`, `trigger`, or `setting` (`user_version`, `application_id`); of PostgreSQL what `pg_dump`
    /// calls it, as `fk constraint`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The SQL that makes it, or the value of a setting, on the left.
    pub left: Option<String>,
    /// The same on the right.
    pub right: Option<String>,
}

/// What differs in a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ComparedTable {
    /// Its name.
    pub name: String,
    /// The rows of the left side.
    pub rows_left: u64,
    /// The rows of the right side.
    pub rows_right: u64,
    /// Rows that only the right side has.
    pub added: u64,
    /// Rows that only the left side has.
    pub removed: u64,
    /// Rows that both sides have, with other values.
    pub changed: u64,
    /// Whether the left side has the table.
    pub in_left: bool,
    /// Whether the right side has the table.
    pub in_right: bool,
    /// The columns of the declared key that tells its rows apart; empty without one, and where nothing was read.
    pub key: Vec<String>,
    /// Columns that only the right side has; what they hold is not compared.
    pub columns_added: Vec<String>,
    /// Columns that only the left side has.
    pub columns_removed: Vec<String>,
    /// Columns that have another name on the right.
    pub columns_renamed: Vec<RenamedColumn>,
    /// The first rows that differ, where they were asked for.
    pub rows: Vec<RowChange>,
    /// How many more differ than are listed.
    pub more: u64,
    /// Why it could not be compared; the counts then mean nothing.
    pub error: Option<String>,
}

impl ComparedTable {
    /// Says whether it is the same on both sides.
    pub fn is_same(&self) -> bool {
        self.in_left
            && self.in_right
            && self.error.is_none()
            && self.added + self.removed + self.changed == 0
            && self.columns_added.is_empty()
            && self.columns_removed.is_empty()
    }
}

/// A column with two names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RenamedColumn {
    /// Its name on the left.
    pub left: String,
    /// Its name on the right.
    pub right: String,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RowChange {
    /// What became of it.
    pub change: RowKind,
    /// The columns that tell it apart, or its `rowid`; empty where a table has neither.
    #[serde(serialize_with = "as_map")]
    #[cfg_attr(feature = "schema", schemars(with = "std::collections::BTreeMap<String, CellValue>"))]
    pub key: Vec<(String, CellValue)>,
    /// The columns that differ; of a row that one side has, all but those of the key.
    pub columns: Vec<ColumnChange>,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RowKind {
    /// Only the right side has it.
    Added,
    /// Only the left side has it.
    Removed,
    /// Both have it, with other values.
    Changed,
}

/// A column that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ColumnChange {
    /// Its name.
    pub name: String,
    /// What it held; absent where there was no row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<CellValue>,
    /// What it holds; absent where there is no row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<CellValue>,
}

/// A value of a database. JSON has it without loss, written as in an export: what JSON has no word for is an object
/// with one key, `{"$blob":"<base64>"}`, `{"$integer":"9223372036854775807"}` beyond 2^53, `{"$real":"Infinity"}`,
/// `{"$text":"<base64>"}` for a text that is not valid. Only
/// of the long values of a server there is not all: `{"$long":{"begin":"…","bytes":100000}}`.
#[derive(Clone, Debug, PartialEq)]
pub enum CellValue {
    /// NULL.
    Null,
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Real(f64),
    /// A text.
    Text(String),
    /// A text that is no UTF-8.
    TextBytes(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
    /// The beginning of a long text of a server.
    Long {
        /// What it begins with.
        begin: String,
        /// How many bytes it has in all.
        bytes: u64,
    },
}

/// From here on not every reader of JSON has whole numbers exactly.
const EXACT: u64 = 1 << 53;

impl Serialize for CellValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Blob(bytes) => serializer.collect_map([("$blob", STANDARD.encode(bytes))]),
            Self::TextBytes(bytes) => serializer.collect_map([("$text", STANDARD.encode(bytes))]),
            Self::Real(number) if !number.is_finite() => {
                let word = if *number > 0.0 { "Infinity" } else { "-Infinity" };
                serializer.collect_map([("$real", word)])
            }
            Self::Integer(number) if number.unsigned_abs() >= EXACT => {
                serializer.collect_map([("$integer", number.to_string())])
            }
            Self::Long { begin, bytes } => {
                let parts = serde_json::json!({ "begin": begin, "bytes": bytes });
                serializer.collect_map([("$long", parts)])
            }
            Self::Null => serializer.serialize_unit(),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Real(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CellValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CellValue".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = |key: &str, inner: serde_json::Value| serde_json::json!({ "type": "object", "properties": { key: inner }, "required": [key] });
        let text = || serde_json::json!({ "type": "string" });
        let long = serde_json::json!({
            "type": "object",
            "properties": { "begin": { "type": "string" }, "bytes": { "type": "integer", "minimum": 0 } },
            "required": ["begin", "bytes"]
        });
        schemars::json_schema!({
            "description": "A value of a database. What JSON has no word for is an object with one key: `$blob` and \
                `$text` (not valid as text) in base64, `$integer` beyond 2^53, `$real`, `$long` for the beginning of \
                a long text.",
            "anyOf": [
                { "type": ["null", "number", "string"] },
                one("$blob", text()), one("$text", text()), one("$integer", text()), one("$real", text()),
                one("$long", long)
            ]
        })
    }
}

/// Writes bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn as_map<S: Serializer>(pairs: &[(String, CellValue)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_to_json_without_loss() {
        let values = [
            (CellValue::Null, "null"),
            (CellValue::Integer((1 << 53) - 1), "9007199254740991"),
            (CellValue::Integer(i64::MIN), r#"{"$integer":"-9223372036854775808"}"#),
            (CellValue::Real(1.0), "1.0"),
            (CellValue::Real(-0.0), "-0.0"),
            (CellValue::Real(f64::NEG_INFINITY), r#"{"$real":"-Infinity"}"#),
            (CellValue::Text("a\u{0}\"".to_owned()), r#""a\u0000\"""#),
            (CellValue::TextBytes(vec![0xff]), r#"{"$text":"/w=="}"#),
            (CellValue::Blob(vec![0, 0xff]), r#"{"$blob":"AP8="}"#),
            (
                CellValue::Long { begin: "ab".to_owned(), bytes: 70_000 },
                r#"{"$long":{"begin":"ab","bytes":70000}}"#,
            ),
        ];
        for (value, json) in values {
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
    }
}
