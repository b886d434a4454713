//! What differs, by loading all rows of both sides and comparing lists.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::Connection;

use crate::header::{Encoding, Header};
use crate::inspect::{quoted, tables};
use crate::vfs::open_image;

use super::{Change, Comparison, RowDifference, SchemaChanges, TableComparison, Value};

/// A value as a word: its type and its bytes.
type Word = String;

struct Table {
    columns: Vec<Column>,
    has_rowid: bool,
    encoding: Encoding,
    /// The collation of texts in its key.
    collation: Option<&'static str>,
    rows: Vec<Row>,
}

#[derive(Clone)]
struct Column {
    cid: i64,
    name: String,
    declared: String,
    not_null: bool,
    default: Option<String>,
    hidden: i64,
    is_key: bool,
}

struct Row {
    rowid: Option<i64>,
    values: Vec<Value>,
    /// By what each value is told apart in a key, byte for byte and with the collation of the table; `None` of NULL.
    words: Vec<Option<[Word; 2]>>,
}

/// Says where a comparison is not what it should be.
pub(super) fn check(left: &[u8], right: &[u8], comparison: &Comparison) -> Result<(), String> {
    let encoding = |image: &[u8]| Header::parse(image[..100].try_into().unwrap()).unwrap().encoding;
    let encodings = [encoding(left), encoding(right)];
    // Texts of two encodings are compared in a third.
    let is_utf8 = encodings[0] != encodings[1];
    let sides = [load(left, encodings[0], is_utf8), load(right, encodings[1], is_utf8)];
    let names: HashSet<&String> = sides.iter().flat_map(BTreeMap::keys).collect();
    if names.len() != comparison.tables.len() {
        return Err(format!("{} tables, not {}", comparison.tables.len(), names.len()));
    }
    for name in names {
        let found = comparison.tables.iter().find(|table| &table.name == name).ok_or(name.clone())?;
        check_table(found, [sides[0].get(name), sides[1].get(name)])
            .map_err(|why| format!("table {name}: {why}"))?;
    }
    let schema = [objects(left), objects(right)];
    let expected = numbers(&schema);
    let SchemaChanges { added, removed, changed } = &comparison.schema;
    let found = [added.len(), removed.len(), changed.len()];
    if found == expected { Ok(()) } else { Err(format!("schema: {found:?}, not {expected:?}")) }
}

fn check_table(found: &TableComparison, sides: [Option<&Table>; 2]) -> Result<(), String> {
    let counts = [found.rows[0], found.rows[1], found.added, found.removed, found.changed];
    if let Some(problem) = &found.problem {
        return Err(problem.clone());
    }
    let [Some(left), Some(right)] = sides else {
        let [left, right] = sides.map(|table| table.map_or(0, |table| table.rows.len() as u64));
        let expected = [left, right, right, left, 0];
        return if counts == expected { Ok(()) } else { Err(format!("{counts:?}, not {expected:?}")) };
    };
    let common = common(left, right);
    let expected = differences(left, right, &common);
    if counts != expected {
        return Err(format!("{counts:?}, not {expected:?}"));
    }
    let total = found.added + found.removed + found.changed;
    if found.listed.len() as u64 != total.min(1000) {
        return Err(format!("{} of {total} differences are listed", found.listed.len()));
    }
    if total <= 1000 { check_list(&found.listed, left, right, &common) } else { Ok(()) }
}

/// Makes the left side by the list of differences into the right one.
fn check_list(
    listed: &[RowDifference],
    left: &Table,
    right: &Table,
    common: &[(usize, usize)],
) -> Result<(), String> {
    let names: Vec<&str> = common.iter().map(|(_, place)| right.columns[*place].name.as_str()).collect();
    let told = |value: &Value, table: &Table| word(&value.clone().into_utf8(table.encoding));
    let mut rows: Vec<(Option<i64>, Vec<Word>)> = left
        .rows
        .iter()
        .map(|row| (row.rowid, common.iter().map(|(place, _)| told(&row.values[*place], left)).collect()))
        .collect();
    let place = |name: &str| names.iter().position(|one| *one == name);
    let mut came = Vec::new();
    for difference in listed {
        let key = difference.key.iter().map(|(name, value)| (name.as_str(), Some(value)));
        let columns = difference.columns.iter().map(|column| (column.name.as_str(), column.left.as_ref()));
        // Under a column that changed stands what it held; the key of a row may have changed as well.
        let known: Vec<(&str, &Value)> =
            key.chain(columns).filter_map(|(name, value)| Some((name, value?))).collect();
        if difference.change == Change::Added {
            let key = difference.key.iter().map(|(name, value)| (name.as_str(), value));
            let columns =
                difference.columns.iter().filter_map(|one| Some((one.name.as_str(), one.right.as_ref()?)));
            let values: HashMap<&str, Word> =
                key.chain(columns).map(|(name, value)| (name, word(value))).collect();
            let row: Option<Vec<Word>> = names.iter().map(|name| values.get(name).cloned()).collect();
            came.push((None, row.ok_or_else(|| format!("not all of {difference:?}"))?));
            continue;
        }
        let is_meant = |(rowid, row): &(Option<i64>, Vec<Word>)| {
            known.iter().all(|(name, value)| match place(name) {
                Some(place) => row[place] == word(value),
                None => *name == "rowid" && rowid.map(Value::Integer).as_ref() == Some(*value),
            })
        };
        let at = rows.iter().position(is_meant).ok_or_else(|| format!("no row for {difference:?}"))?;
        if difference.change == Change::Removed {
            rows.swap_remove(at);
            continue;
        }
        for column in &difference.columns {
            let place = place(&column.name).ok_or_else(|| format!("no column for {difference:?}"))?;
            rows[at].1[place] = column.right.as_ref().map(word).ok_or("a column without a value")?;
        }
    }
    let mut made: Vec<Vec<Word>> = rows.into_iter().chain(came).map(|(_, row)| row).collect();
    let of_right = |row: &Row| common.iter().map(|(_, place)| told(&row.values[*place], right)).collect();
    let mut expected: Vec<Vec<Word>> = right.rows.iter().map(of_right).collect();
    made.sort_unstable();
    expected.sort_unstable();
    if made == expected { Ok(()) } else { Err("the list does not make one side into the other".to_owned()) }
}

fn load(image: &[u8], encoding: Encoding, is_utf8: bool) -> BTreeMap<String, Table> {
    let connection = open_image(Arc::new(image.to_vec())).unwrap();
    let load = |name: String| (name.clone(), load_table(&connection, &name, encoding, is_utf8));
    tables(&connection).unwrap().into_iter().map(|table| load(table.name)).collect()
}

fn load_table(connection: &Connection, name: &str, encoding: Encoding, is_utf8: bool) -> Table {
    let mut info = connection
        .prepare("SELECT cid, name, type, \"notnull\", dflt_value, hidden, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 2")
        .unwrap();
    let columns = info.query_map([name], |row| {
        Ok(Column {
            cid: row.get(0)?,
            name: row.get(1)?,
            declared: row.get(2)?,
            not_null: row.get(3)?,
            default: row.get(4)?,
            hidden: row.get(5)?,
            is_key: row.get::<_, i64>(6)? > 0,
        })
    });
    let columns: Vec<Column> = columns.unwrap().map(Result::unwrap).collect();
    let query = "SELECT sql FROM sqlite_schema WHERE name=?1 AND type='table'";
    let sql: String = connection.query_row(query, [name], |row| row.get(0)).unwrap();
    let sql = sql.to_uppercase();
    let has_rowid = !sql.contains("WITHOUT ROWID");
    // One collation for all that is text in a key.
    let collation = ["NOCASE", "RTRIM"].into_iter().find(|collation| sql.contains(collation));
    let mut list = Vec::new();
    for Column { name, .. } in &columns {
        let name = quoted(name);
        let text = match collation {
            None => "NULL".to_owned(),
            Some("NOCASE") => format!("lower({name})"),
            _ => format!("rtrim({name})"),
        };
        // Texts as they are stored, and as they are told apart.
        list.push(format!("CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END"));
        list.push(format!("typeof({name})"));
        list.push(format!("CASE typeof({name}) WHEN 'text' THEN {text} END"));
    }
    if has_rowid {
        list.push("rowid".to_owned());
    }
    let query = format!("SELECT {} FROM {} NOT INDEXED", list.join(", "), quoted(name));
    let mut select = connection.prepare(&query).unwrap();
    let (read, encoding) = if is_utf8 { (encoding, Encoding::Utf8) } else { (Encoding::Utf8, encoding) };
    let rows = select.query_map([], |row| load_row(row, columns.len(), has_rowid, read));
    let mut rows: Vec<Row> = rows.unwrap().map(Result::unwrap).collect();
    rows.sort_by_key(|row| row.rowid);
    Table { columns, has_rowid, encoding, collation, rows }
}

/// Reads a row; texts are turned from `encoding` into UTF-8.
fn load_row(
    row: &rusqlite::Row<'_>,
    columns: usize,
    has_rowid: bool,
    encoding: Encoding,
) -> rusqlite::Result<Row> {
    let mut values = Vec::new();
    let mut words = Vec::new();
    for at in 0..columns {
        let kind: String = row.get(3 * at + 1)?;
        let value = match Value::of(row.get_ref(3 * at)?) {
            Value::Blob(text) if kind == "text" => Value::Text(text).into_utf8(encoding),
            value => value,
        };
        let plain = match &value {
            Value::Real(real) if real.fract() == 0.0 && real.abs() < 1e18 => {
                format!("integer {real:.0}").replace("-0", "0")
            }
            value => word(value),
        };
        let folded = match Value::of(row.get_ref(3 * at + 2)?) {
            Value::Null => plain.clone(),
            folded => word(&folded),
        };
        words.push((value != Value::Null).then_some([plain, folded]));
        values.push(value);
    }
    let rowid = if has_rowid { Some(row.get(3 * columns)?) } else { None };
    Ok(Row { rowid, values, words })
}

fn word(value: &Value) -> Word {
    match value {
        Value::Null => "null".to_owned(),
        Value::Integer(number) => format!("integer {number}"),
        Value::Real(number) => format!("real {:x}", number.to_bits()),
        Value::Text(text) => format!("text {text:?}"),
        Value::Blob(blob) => format!("blob {blob:?}"),
    }
}

/// Pairs columns of one name, and of the rest those of one place that are otherwise alike.
fn common(left: &Table, right: &Table) -> Vec<(usize, usize)> {
    let mut common = Vec::new();
    for (at, one) in left.columns.iter().enumerate() {
        let other = right.columns.iter().position(|other| other.name.eq_ignore_ascii_case(&one.name));
        common.extend(other.map(|other| (at, other)));
    }
    let named = common.clone();
    for (at, one) in left.columns.iter().enumerate() {
        let is_alike = |other: &Column| {
            let what = |column: &Column| {
                let Column { cid, declared, not_null, default, hidden, .. } = column.clone();
                (cid, declared, not_null, default, hidden)
            };
            what(other) == what(one)
        };
        let other = right.columns.iter().position(is_alike);
        let is_free = |other: usize| named.iter().all(|pair| pair.0 != at && pair.1 != other);
        common.extend(other.filter(|other| is_free(*other)).map(|other| (at, other)));
    }
    common.sort_unstable();
    common
}

/// Returns the columns of the key, where it is the same on both sides, as places in each.
fn key(left: &Table, right: &Table, common: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let keys = |table: &Table| table.columns.iter().filter(|column| column.is_key).count();
    let mut both = common.to_vec();
    both.retain(|(one, other)| left.columns[*one].is_key && right.columns[*other].is_key);
    if both.len() == keys(left) && both.len() == keys(right) { both } else { Vec::new() }
}

/// Returns the rows of each side, and those added, removed and changed.
fn differences(left: &Table, right: &Table, common: &[(usize, usize)]) -> [u64; 5] {
    type Content = Vec<Word>;
    let of_left = |row: &Row| common.iter().map(|(place, _)| word(&row.values[*place])).collect::<Content>();
    let of_right = |row: &Row| common.iter().map(|(_, place)| word(&row.values[*place])).collect::<Content>();
    let key = key(left, right, common);
    let which = usize::from(left.collation == right.collation);
    let words = |row: &Row, places: &mut dyn Iterator<Item = usize>| -> Option<Vec<Word>> {
        let words = places.map(|place| row.words[place].as_ref().map(|words| words[which].clone()));
        words.collect::<Option<Vec<Word>>>().filter(|words| !words.is_empty())
    };
    let (mut added, mut removed, mut changed) = (0, 0, 0);

    let mut keyed = HashMap::new();
    let mut loose: [Vec<(Option<i64>, Content)>; 2] = [Vec::new(), Vec::new()];
    for row in &left.rows {
        match words(row, &mut key.iter().map(|pair| pair.0)) {
            Some(key) => assert!(keyed.insert(key, of_left(row)).is_none()),
            None => loose[0].push((row.rowid, of_left(row))),
        }
    }
    for row in &right.rows {
        match words(row, &mut key.iter().map(|pair| pair.1)) {
            None => loose[1].push((row.rowid, of_right(row))),
            Some(key) => match keyed.remove(&key) {
                None => added += 1,
                Some(before) if before != of_right(row) => changed += 1,
                Some(_) => {}
            },
        }
    }
    removed += keyed.len() as u64;

    let both_have_rowids = left.has_rowid && right.has_rowid;
    let [mut left_loose, mut right_loose] = loose;
    // The same under the same rowid; then the same, the first with the first; then under the same rowid.
    if both_have_rowids {
        let there: HashSet<_> = right_loose.iter().cloned().collect();
        let same: HashSet<_> = left_loose.iter().filter(|row| there.contains(row)).cloned().collect();
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

/// Returns what is made by SQL, and the settings.
fn objects(image: &[u8]) -> BTreeMap<String, String> {
    let connection = open_image(Arc::new(image.to_vec())).unwrap();
    let query = "SELECT type || ' ' || lower(name), sql FROM sqlite_schema WHERE sql IS NOT NULL
                 UNION ALL SELECT 'user_version', user_version FROM pragma_user_version
                 UNION ALL SELECT 'application_id', application_id FROM pragma_application_id";
    let mut select = connection.prepare(query).unwrap();
    let objects = select.query_map([], |row| Ok((row.get(0)?, word(&Value::of(row.get_ref(1)?)))));
    objects.unwrap().map(Result::unwrap).collect()
}

/// Returns how many came, went and changed.
fn numbers([left, right]: &[BTreeMap<String, String>; 2]) -> [usize; 3] {
    let added = right.keys().filter(|id| !left.contains_key(*id)).count();
    let removed = left.keys().filter(|id| !right.contains_key(*id)).count();
    let changed = left.iter().filter(|(id, sql)| right.get(*id).is_some_and(|other| other != *sql)).count();
    [added, removed, changed]
}
