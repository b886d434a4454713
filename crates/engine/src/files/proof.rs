//! What rows of JSON are compared with, and how those are read that are not looked into.

use std::collections::BTreeMap;
use std::fmt;

use dbkeep_postgres::rows::RowSummer;
use dbkeep_postgres::text::push_row;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What the rows of each table of a lossless export come to, and what they must come to.
pub(super) struct Sums(BTreeMap<String, Sum>);

struct Sum {
    /// The columns that rows have, in their order.
    columns: Vec<String>,
    expected: String,
    summer: RowSummer,
    /// The row that is being put together.
    row: Vec<u8>,
}

/// A table, as the metadata of an export says it.
#[derive(Deserialize)]
struct Table {
    name: String,
    row_hash: String,
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    generated: bool,
}

impl Sums {
    /// Reads what rows must come to.
    pub(super) fn expected(tables: Option<&Value>) -> Result<Self, String> {
        let tables = tables.ok_or("the metadata does not say what rows must come to")?;
        let tables = Vec::<Table>::deserialize(tables);
        let tables = tables.map_err(|error| format!("the metadata cannot be read: {error}"))?;
        let sum = |table: Table| {
            let columns = table.columns.into_iter().filter(|column| !column.generated);
            let columns = columns.map(|column| column.name).collect();
            let sum =
                Sum { columns, expected: table.row_hash, summer: RowSummer::default(), row: Vec::new() };
            (table.name, sum)
        };
        Ok(Self(tables.into_iter().map(sum).collect()))
    }

    /// Adds a row: each column of the table once, a string or `null`, and nothing else.
    pub(super) fn row(&mut self, table: &str, row: &Map<String, Value>) -> Result<(), String> {
        let sum = self.0.get_mut(table).ok_or_else(|| format!("table {table:?} is not in the metadata"))?;
        let value = |column: &String| match row.get(column) {
            Some(Value::String(text)) => Ok(Some(text.as_bytes())),
            Some(Value::Null) => Ok(None),
            Some(_) => Err(format!("the value of column {column:?} is neither a string nor null")),
            None => Err(format!("there is no column {column:?}")),
        };
        let values = sum.columns.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        if values.len() != row.len() {
            return Err(format!("there are other columns than those of table {table:?}"));
        }
        sum.row.clear();
        push_row(&mut sum.row, values);
        sum.summer.update(&sum.row);
        Ok(())
    }

    /// Says which table has other rows than it must have.
    pub(super) fn difference(&self) -> Option<String> {
        let differs = |(_, sum): &(&String, &Sum)| {
            let found = sum.summer.sum();
            found.is_none_or(|found| found.hash.to_string() != sum.expected)
        };
        let (table, _) = self.0.iter().find(differs)?;
        Some(format!("the rows of table {table:?} are not those of the snapshot"))
    }
}

/// Whether something is an object, whatever is in it: numbers of any length, halves of characters, any depth.
pub(super) struct Shape {
    pub(super) is_object: bool,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

const OTHER: Shape = Shape { is_object: false };

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Shape { is_object: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Shape, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(OTHER)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(OTHER)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(OTHER)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(OTHER)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(OTHER)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(OTHER)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(OTHER)
    }
}

/// Reads rows where a list is, and returns the number where a number is.
pub(super) struct RowsOrCount<V>(pub(super) V);

impl<'de, V: Visitor<'de, Value = ()>> DeserializeSeed<'de> for RowsOrCount<V> {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, V: Visitor<'de, Value = ()>> Visitor<'de> for RowsOrCount<V> {
    type Value = Option<u64>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("rows, or how many there are")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, rows: A) -> Result<Self::Value, A::Error> {
        self.0.visit_seq(rows).map(|()| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_u64<E>(self, count: u64) -> Result<Self::Value, E> {
        Ok(Some(count))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_compared_with_the_sums_that_they_must_have() {
        let mut summer = RowSummer::default();
        summer.update(b"1\t\\N\n2\ta\\tb\n");
        let hash = summer.finish().unwrap().hash.to_string();
        let tables = json!([{ "name": "t", "row_hash": hash, "columns": [
            { "name": "id", "generated": false }, { "name": "twice", "generated": true }, { "name": "x", "generated": false }] }]);
        let rows = [json!({ "id": "2", "x": "a\tb" }), json!({ "x": null, "id": "1" })];
        let mut sums = Sums::expected(Some(&tables)).unwrap();
        for row in &rows {
            assert!(sums.difference().is_some());
            sums.row("t", row.as_object().unwrap()).unwrap();
        }
        assert_eq!(sums.difference(), None);
        for (row, problem) in [
            (json!({ "id": "1" }), "there is no column \"x\""),
            (json!({ "id": 1, "x": null }), "the value of column \"id\" is neither a string nor null"),
            (json!({ "id": "1", "x": "", "y": "" }), "there are other columns than those of table \"t\""),
        ] {
            assert_eq!(sums.row("t", row.as_object().unwrap()).unwrap_err(), problem);
        }
        assert!(sums.row("u", &Map::new()).is_err());
        assert!(Sums::expected(None).is_err() && Sums::expected(Some(&json!({}))).is_err());
    }

    #[test]
    fn values_that_no_reader_takes_are_part_of_a_row() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
        for text in [deep.as_str(), r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, "{}"] {
            assert!(serde_json::from_str::<Shape>(text).unwrap().is_object, "{text}");
        }
        for text in ["[{}]", "7", "\"x\"", "null", "true", "-1.5"] {
            assert!(!serde_json::from_str::<Shape>(text).unwrap().is_object, "{text}");
        }
    }
}
