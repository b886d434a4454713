//! What differs, by loading all rows of both sides and comparing maps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::inspect::{quoted, tables};
use crate::vfs::open_image;

/// A value as a word: its type and its bytes.
type Word = String;

struct Table {
    columns: Vec<String>,
    /// The columns of the declared key, and whether the case of letters counts in them.
    key: Vec<(String, bool)>,
    has_rowid: bool,
    rows: Vec<(Option<i64>, HashMap<String, Word>)>,
}

/// Returns the rows of each side, and those added, removed and changed, of each table.
pub(super) fn differences(left: &[u8], right: &[u8]) -> BTreeMap<String, [u64; 5]> {
    let (left, right) = (load(left), load(right));
    let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let one = |name: &String| match (left.get(name), right.get(name)) {
        (Some(left), Some(right)) => table(left, right),
        (left, right) => {
            let rows = |table: Option<&Table>| table.map_or(0, |table| table.rows.len() as u64);
            [rows(left), rows(right), rows(right), rows(left), 0]
        }
    };
    names.into_iter().map(|name| (name.clone(), one(name))).collect()
}

fn load(image: &[u8]) -> BTreeMap<String, Table> {
    let connection = open_image(Arc::new(image.to_vec())).unwrap();
    let tables = tables(&connection).unwrap();
    tables.into_iter().map(|table| (table.name.clone(), load_table(&connection, &table.name))).collect()
}

fn load_table(connection: &Connection, name: &str) -> Table {
    let mut info =
        connection.prepare("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 2").unwrap();
    let columns: Vec<(String, i64)> =
        info.query_map([name], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let sql: String = connection
        .query_row("SELECT sql FROM sqlite_schema WHERE name=?1 AND type='table'", [name], |row| row.get(0))
        .unwrap();
    let has_rowid = !sql.to_uppercase().contains("WITHOUT ROWID");
    let keys: Vec<(String, bool)> = columns
        .iter()
        .filter(|(_, pk)| *pk > 0)
        .map(|(column, _)| (column.clone(), !sql.to_uppercase().contains("NOCASE")))
        .collect();
    let mut list: Vec<String> = columns.iter().map(|(column, _)| quoted(column)).collect();
    if has_rowid {
        list.push("rowid".to_owned());
    }
    let query = format!("SELECT {} FROM {}", list.join(", "), quoted(name));
    let mut select = connection.prepare(&query).unwrap();
    let rows = select.query_map([], |row| {
        let words = columns
            .iter()
            .enumerate()
            .map(|(at, (column, _))| (column.clone(), word(row.get_ref(at).unwrap())));
        let rowid = has_rowid.then(|| row.get(columns.len()).unwrap());
        Ok((rowid, words.collect()))
    });
    let mut rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
    rows.sort_by_key(|(rowid, _)| *rowid);
    let columns = columns.into_iter().map(|(column, _)| column).collect();
    Table { columns, key: keys, has_rowid, rows }
}

fn word(value: ValueRef<'_>) -> Word {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(number) => format!("integer {number}"),
        ValueRef::Real(number) => format!("real {:x}", number.to_bits()),
        ValueRef::Text(text) => format!("text {text:?}"),
        ValueRef::Blob(blob) => format!("blob {blob:?}"),
    }
}

/// Returns what a key is compared by; `None` when there is none or NULL is in it.
fn key(table: &Table, row: &HashMap<String, Word>) -> Option<Vec<Word>> {
    let part = |(column, has_case): &(String, bool)| {
        let word = row[column].clone();
        if word == "null" {
            return None;
        }
        let real =
            word.strip_prefix("real ").map(|bits| f64::from_bits(u64::from_str_radix(bits, 16).unwrap()));
        if let Some(real) = real.filter(|real| real.fract() == 0.0 && real.abs() < 1e18) {
            return Some(format!("integer {real:.0}").replace("-0", "0"));
        }
        Some(if *has_case || !word.starts_with("text") { word } else { fold(&word) })
    };
    if table.key.is_empty() { None } else { table.key.iter().map(part).collect() }
}

/// Folds the upper-case letters in the list of a text's bytes.
fn fold(word: &str) -> String {
    let bytes =
        word.trim_start_matches("text [").trim_end_matches(']').split(", ").filter(|byte| !byte.is_empty());
    let folded = bytes.map(|byte| byte.parse::<u8>().unwrap().to_ascii_lowercase());
    format!("text {:?}", folded.collect::<Vec<u8>>())
}

fn table(left: &Table, right: &Table) -> [u64; 5] {
    let common: Vec<&String> = left.columns.iter().filter(|column| right.columns.contains(column)).collect();
    let content =
        |row: &HashMap<String, Word>| common.iter().map(|column| row[*column].clone()).collect::<Vec<_>>();
    let (mut added, mut removed, mut changed) = (0, 0, 0);

    let mut of_left = HashMap::new();
    let mut loose: [Vec<(Option<i64>, Vec<Word>)>; 2] = [Vec::new(), Vec::new()];
    for (rowid, row) in &left.rows {
        match key(left, row) {
            Some(key) => assert!(of_left.insert(key, content(row)).is_none()),
            None => loose[0].push((*rowid, content(row))),
        }
    }
    for (rowid, row) in &right.rows {
        match key(right, row) {
            None => loose[1].push((*rowid, content(row))),
            Some(key) => match of_left.remove(&key) {
                None => added += 1,
                Some(before) if before != content(row) => changed += 1,
                Some(_) => {}
            },
        }
    }
    removed += of_left.len() as u64;

    let both_have_rowids = left.has_rowid && right.has_rowid;
    let [mut left_loose, mut right_loose] = loose;
    // The same under the same rowid; then the same, the first with the first; then under the same rowid.
    if both_have_rowids {
        let there: std::collections::HashSet<_> = right_loose.iter().cloned().collect();
        let same: std::collections::HashSet<_> =
            left_loose.iter().filter(|row| there.contains(row)).cloned().collect();
        left_loose.retain(|row| !same.contains(row));
        right_loose.retain(|row| !same.contains(row));
    }
    let mut rest = Vec::new();
    for row in left_loose {
        match right_loose.iter().position(|other| other.1 == row.1) {
            Some(place) => drop(right_loose.remove(place)),
            None => rest.push(row),
        }
    }
    for row in rest {
        match right_loose.iter().position(|other| both_have_rowids && other.0 == row.0) {
            Some(place) => {
                right_loose.remove(place);
                changed += 1;
            }
            None => removed += 1,
        }
    }
    added += right_loose.len() as u64;
    [left.rows.len() as u64, right.rows.len() as u64, added, removed, changed]
}
