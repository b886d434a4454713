//! What JSON of other programs says of itself, and what its values tell of what was lost when it was written.
//!
//! Such a document has tables, as `{"tables":{"users":[{…}]}}`, with `data` instead of `tables`, with
//! `{"count":2,"rows":[{…}]}` instead of the list, or with the tables at the top; and numbers of rows, in its metadata or
//! beside the tables. All of it is taken for what it is called, and nothing else is guessed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::report::TableRows;

/// Under these names a document has numbers of rows by table.
const COUNTS: [&str; 7] =
    ["row_counts", "rowCounts", "table_counts", "tableCounts", "record_counts", "recordCounts", "tables"];
/// Under these it has such numbers and others.
pub(super) const STATISTICS: [&str; 4] = ["statistics", "stats", "counts", "summary"];
/// Under these a table has its rows.
pub(super) const ROWS: [&str; 3] = ["rows", "data", "records"];
/// Under these it says how many there are.
pub(super) const COUNT: [&str; 6] = ["count", "row_count", "rowCount", "record_count", "recordCount", "rows"];
/// The most columns of a table that are looked at.
const MOST_COLUMNS: usize = 10_000;
/// Beyond it programs with numbers of 64 bits do not tell whole numbers apart.
const SAFE_INTEGER: u64 = (1 << 53) - 1;

/// What a document says of the numbers of rows.
#[derive(Debug, Default)]
pub(super) struct Stated {
    /// Tables that must be there.
    sure: BTreeMap<String, u64>,
    /// Numbers that are those of tables if there are such.
    maybe: BTreeMap<String, u64>,
    /// Tables that are named.
    named: BTreeSet<String>,
}

impl Stated {
    /// Takes metadata, or what stands under one of [`STATISTICS`].
    pub(super) fn take(&mut self, value: &Value) {
        let Value::Object(map) = value else { return };
        for (key, value) in map {
            if COUNTS.contains(&key.as_str()) {
                self.counts(value);
            } else if STATISTICS.contains(&key.as_str()) {
                self.statistics(value);
            }
        }
    }

    /// Takes what stands under one of [`STATISTICS`].
    pub(super) fn statistics(&mut self, value: &Value) {
        self.take(value);
        for (table, value) in value.as_object().into_iter().flatten() {
            if let Some(rows) = count(value) {
                self.maybe.insert(table.clone(), rows);
            }
        }
    }

    /// Takes what a table says of itself.
    pub(super) fn table(&mut self, table: &str, rows: u64) {
        self.sure.insert(table.to_owned(), rows);
    }

    fn counts(&mut self, value: &Value) {
        for (table, value) in value.as_object().into_iter().flatten() {
            if let Some(rows) = count(value) {
                self.sure.insert(table.clone(), rows);
            }
        }
        let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        self.named.extend(names.map(str::to_owned));
    }

    /// Compares it with what was found. Returns the first thing that is wrong, and what else is to be said.
    pub(super) fn compare(&self, tables: &[TableRows]) -> (Option<String>, Vec<String>) {
        let found: BTreeMap<&str, u64> =
            tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
        let (mut problem, mut notes) = (None, Vec::new());
        for (table, rows) in self.sure.iter().chain(&self.maybe) {
            match found.get(table.as_str()) {
                Some(count) if count == rows => {}
                Some(count) => {
                    problem.get_or_insert(format!(
                        "table {table:?} has {count} rows, the document itself says {rows}"
                    ));
                }
                None if self.sure.contains_key(table) && *rows > 0 => {
                    problem
                        .get_or_insert(format!("table {table:?} should have {rows} rows and is not there"));
                }
                None => {}
            }
        }
        let absent =
            self.named.iter().chain(self.sure.keys()).filter(|table| !found.contains_key(table.as_str()));
        for table in absent.collect::<BTreeSet<_>>() {
            notes.push(format!("table {table:?} is named in it and has no rows there"));
        }
        (problem, notes)
    }
}

/// Returns the number of rows that stands for a table.
fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Object(map) => COUNT.iter().find_map(|key| map.get(*key)?.as_u64()),
        value => value.as_u64(),
    }
}

/// What the rows of a table tell.
#[derive(Debug, Default)]
pub(super) struct Observed {
    rows: u64,
    columns: BTreeMap<String, Column>,
}

/// What the values of a column tell.
#[derive(Debug, Default)]
struct Column {
    rows: u64,
    has_large: bool,
    has_milliseconds: bool,
    has_finer: bool,
    has_buffer: bool,
}

impl Observed {
    /// Takes a row.
    pub(super) fn row(&mut self, row: &Map<String, Value>) {
        self.rows += 1;
        for (name, value) in row {
            if !self.columns.contains_key(name) {
                if self.columns.len() == MOST_COLUMNS {
                    continue;
                }
                self.columns.insert(name.clone(), Column::default());
            }
            if let Some(column) = self.columns.get_mut(name) {
                column.value(value);
            }
        }
    }

    /// Says what was lost, as far as it can be seen.
    pub(super) fn notes(&self, table: &str) -> Vec<String> {
        let names = |is: &dyn Fn(&Column) -> bool| {
            let names: Vec<String> = self
                .columns
                .iter()
                .filter(|(_, column)| is(column))
                .map(|(name, _)| format!("{name:?}"))
                .collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        let partial = names(&|column| column.rows < self.rows).map(|names| {
            format!("some rows of {table:?} have no {names}: whether that was NULL is not known any more")
        });
        let large = names(&|column| column.has_large).map(|names| {
            format!("{names} of {table:?} has whole numbers beyond 2^53: a program with numbers of 64 bits has rounded them")
        });
        let times = names(&|column| column.has_milliseconds && !column.has_finer).map(|names| {
            format!("{names} of {table:?} has times with milliseconds: finer ones were cut off")
        });
        let buffers = names(&|column| column.has_buffer).map(|names| {
            format!("{names} of {table:?} has bytes as Node.js writes them (Buffer): no database takes that")
        });
        [partial, large, times, buffers].into_iter().flatten().collect()
    }
}

impl Column {
    fn value(&mut self, value: &Value) {
        self.rows += 1;
        match value {
            Value::Number(number) => {
                let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
                #[expect(clippy::cast_precision_loss, reason = "only whether it is larger is asked")]
                let is_large = match whole {
                    Some(whole) => whole > SAFE_INTEGER,
                    None => number.as_f64().is_some_and(|number| number.abs() > SAFE_INTEGER as f64),
                };
                self.has_large |= is_large;
            }
            Value::String(text) => {
                if let Some(digits) = second_digits(text) {
                    self.has_milliseconds |= digits == 3;
                    self.has_finer |= digits > 3;
                }
            }
            Value::Object(map) => {
                self.has_buffer |= map.get("type").and_then(Value::as_str) == Some("Buffer")
                    && map.get("data").is_some_and(Value::is_array);
            }
            _ => {}
        }
    }
}

/// Returns how many digits of a second a time has; none for what is no time.
fn second_digits(text: &str) -> Option<usize> {
    let (date, rest) = text.split_at_checked(10)?;
    let is_date = date.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let time = rest.strip_prefix(['T', ' '])?;
    let (_, fraction) = time.split_at_checked(8)?;
    let digits = fraction.strip_prefix('.')?.bytes().take_while(u8::is_ascii_digit).count();
    (is_date && time.as_bytes().get(2) == Some(&b':')).then_some(digits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tables(rows: &[(&str, u64)]) -> Vec<TableRows> {
        rows.iter().map(|(name, rows)| TableRows { name: (*name).to_owned(), rows: *rows }).collect()
    }

    #[test]
    fn numbers_of_rows_are_compared_wherever_a_document_has_them() {
        let users = tables(&[("users", 2)]);
        let problem = |metadata: Value| {
            let mut stated = Stated::default();
            stated.take(&metadata);
            stated.compare(&users).0
        };
        for fine in [
            json!({ "rowCounts": { "users": 2, "gone": 0 } }),
            json!({ "tables": { "users": { "rowCount": 2, "size": 7 } } }),
            json!({ "tables": ["users", "gone"] }),
            json!({ "statistics": { "total_rows": 9, "users": 2, "tables": { "users": { "count": 2 } } } }),
            json!({ "tables": 6, "environment": "production" }),
            json!("text"),
        ] {
            assert_eq!(problem(fine.clone()), None, "{fine}");
        }
        for wrong in [
            json!({ "rowCounts": { "users": 3 } }),
            json!({ "tables": { "users": { "rows": 3 } } }),
            json!({ "stats": { "users": 3 } }),
        ] {
            assert_eq!(
                problem(wrong.clone()).unwrap(),
                "table \"users\" has 2 rows, the document itself says 3"
            );
        }
        let gone = problem(json!({ "tableCounts": { "users": 2, "gone": 1 } })).unwrap();
        assert_eq!(gone, "table \"gone\" should have 1 rows and is not there");
        let mut stated = Stated::default();
        stated.take(&json!({ "tables": ["users", "gone"] }));
        assert_eq!(stated.compare(&users).1, ["table \"gone\" is named in it and has no rows there"]);
    }

    #[test]
    fn values_tell_what_was_lost_when_they_were_written() {
        let mut observed = Observed::default();
        for row in [
            json!({ "id": 9_007_199_254_740_993_u64, "at": "2025-01-16T12:00:00.123Z", "fine": "2025-01-16 12:00:00.123456+00" }),
            json!({ "id": 2, "picture": { "type": "Buffer", "data": [1] }, "at": "2025-01-16 12:00", "fine": "x" }),
        ] {
            observed.row(row.as_object().unwrap());
        }
        let notes = observed.notes("t");
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(notes[0].starts_with("some rows of \"t\" have no \"picture\""), "{notes:?}");
        assert!(notes[1].starts_with("\"id\" of \"t\" has whole numbers beyond 2^53"), "{notes:?}");
        assert!(notes[2].starts_with("\"at\" of \"t\" has times with milliseconds"), "{notes:?}");
        assert!(notes[3].starts_with("\"picture\" of \"t\" has bytes as Node.js"), "{notes:?}");
        let mut plain = Observed::default();
        plain.row(json!({ "id": 1, "name": null }).as_object().unwrap());
        assert_eq!(plain.notes("t"), [""; 0]);
    }
}
