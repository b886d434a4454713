//! What a database holds, to be written out in another form: its settings, its schema, its tables in the order in
//! which they depend on each other, and their rows as the values they are.

mod order;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::inspect::{quoted, text};
use crate::vfs::image_error;
use crate::{BoxError, Error, Result};

/// The most result columns that SQLite allows by default.
const MOST_COLUMNS: usize = 2000;

/// Settings in the header of a database that are its own, whichever SQLite opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes a page.
    pub page_size: u32,
    /// `UTF-8`, `UTF-16le` or `UTF-16be`, as SQLite writes it.
    pub encoding: String,
    /// 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u32,
    /// The application's own mark.
    pub application_id: i32,
    /// The application's own version.
    pub user_version: i32,
}

/// One line of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table it belongs to.
    pub table: String,
    /// What makes it; `None` for indexes that SQLite makes by itself.
    pub sql: Option<String>,
    /// Whether `sql` is what the database has: bytes of it that are no valid text were replaced where it is not.
    pub is_exact: bool,
}

/// What kind of table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Rows with a rowid.
    Rowid,
    /// Rows by their primary key.
    WithoutRowid,
    /// A virtual table: its module decides where its rows are.
    Virtual,
    /// A table in which a virtual one keeps its data.
    Shadow,
    /// A table of SQLite itself, as `sqlite_sequence`.
    System,
}

/// A column as a query gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The declared type, which may be empty.
    pub declared: String,
    /// Whether it is computed from others.
    pub generated: bool,
    /// Its place in the primary key, from 1; 0 when it is no part of it.
    pub key: u32,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// What kind it is.
    pub kind: TableKind,
    /// What makes it; empty where the schema has nothing.
    pub sql: String,
    /// Its columns in order; none for a virtual table whose module is unknown here.
    pub columns: Vec<Column>,
    /// Why a virtual table cannot be read here.
    pub unreadable: Option<String>,
    /// A name under which the rowid can be read and written, where it is in no column of its own.
    pub rowid: Option<&'static str>,
}

/// What a database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The settings of its own.
    pub settings: Settings,
    /// All tables. One that refers to others by foreign keys comes after them; SQLite's own come last.
    pub tables: Vec<Table>,
    /// Tables that refer to each other in a circle, so that no order serves all.
    pub cycles: Vec<Vec<String>>,
    /// The whole schema in its own order.
    pub schema: Vec<Object>,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'r> {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating-point number; SQLite stores no NaN.
    Real(f64),
    /// A text.
    Text(&'r str),
    /// A text whose bytes are not valid in the encoding of the database: these bytes, in that encoding.
    OddText(&'r [u8]),
    /// Bytes.
    Blob(&'r [u8]),
}

impl Contents {
    /// Reads the schema. Names that are not valid text are an error: a query cannot have them.
    pub fn read(connection: &Connection) -> Result<Self> {
        let failed = |error| image_error(Some(connection), error);
        let schema = schema(connection)?;
        let settings = settings(connection).map_err(failed)?;
        let tables = tables(connection, &schema)?;
        let references = references(connection, &tables)?;
        let (order, cycles) = order::parents_first(&references);
        let names = |cycle: Vec<usize>| cycle.into_iter().map(|table| tables[table].name.clone()).collect();
        let cycles = cycles.into_iter().map(names).collect();
        let mut place = vec![0; tables.len()];
        order.iter().enumerate().for_each(|(at, table)| place[*table] = at);
        let mut tables: Vec<(usize, Table)> = place.into_iter().zip(tables).collect();
        tables.sort_by_key(|(place, table)| (table.kind == TableKind::System, *place));
        let tables = tables.into_iter().map(|(_, table)| table).collect();
        Ok(Self { settings, tables, cycles, schema })
    }
}

impl Table {
    /// Says whether it is an index over texts that it does not keep, so that its rows show nothing of them.
    pub fn keeps_no_text(&self) -> bool {
        let sql: String = self.sql.to_lowercase().split_whitespace().collect();
        let module = |name: &str| sql.contains(&format!("using{name}("));
        let is_search = ["fts3", "fts4", "fts5"].into_iter().any(module);
        is_search && (sql.contains("content=''") || sql.contains("content=\"\""))
    }
}

fn schema(connection: &Connection) -> Result<Vec<Object>> {
    let failed = |error| image_error(Some(connection), error);
    let names = Names::default();
    let mut statement = connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid")
        .map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut objects = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let object = || {
            let (sql, is_exact) = match row.get_ref(3)? {
                ValueRef::Null => (None, true),
                stored => (Some(text(row, 3)?), is_valid(stored)),
            };
            let [kind, name, table] = [text(row, 0)?, names.read(row, 1)?, names.read(row, 2)?];
            Ok(Object { kind, name, table, sql, is_exact })
        };
        objects.push(object().map_err(failed)?);
    }
    names.refuse_odd(|| "the schema has a name that is not valid text".to_owned())?;
    Ok(objects)
}

/// Reads names, and notes whether one of them is no valid text.
#[derive(Default)]
struct Names {
    met_odd: Cell<bool>,
}

impl Names {
    fn read(&self, row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
        self.met_odd.set(self.met_odd.get() || !is_valid(row.get_ref(column)?));
        text(row, column)
    }

    /// Fails where one was met: in its place a query would have a name that nothing has.
    fn refuse_odd(&self, what: impl FnOnce() -> String) -> Result<()> {
        match self.met_odd.get() {
            true => Err(Error::Unsupported {
                path: PathBuf::from("the image"),
                what: what(),
                hint: Some("take the database out as the file that it is".to_owned()),
            }),
            false => Ok(()),
        }
    }
}

fn is_valid(value: ValueRef<'_>) -> bool {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => std::str::from_utf8(bytes).is_ok(),
        _ => true,
    }
}

fn settings(connection: &Connection) -> rusqlite::Result<Settings> {
    let number =
        |name: &str| connection.query_row(&format!("PRAGMA main.{name}"), [], |row| row.get::<_, i64>(0));
    let whole = |value: i64| u32::try_from(value).unwrap_or_default();
    // Both are signed 32-bit numbers of the header.
    let signed = |value: i64| i32::try_from(value).unwrap_or_default();
    Ok(Settings {
        page_size: whole(number("page_size")?),
        encoding: connection.query_row("PRAGMA main.encoding", [], |row| text(row, 0))?,
        auto_vacuum: whole(number("auto_vacuum")?),
        application_id: signed(number("application_id")?),
        user_version: signed(number("user_version")?),
    })
}

/// Returns all tables in the order of the schema.
fn tables(connection: &Connection, schema: &[Object]) -> Result<Vec<Table>> {
    let failed = |error| image_error(Some(connection), error);
    let kinds = kinds(connection).map_err(failed)?;
    let mut tables = Vec::new();
    for object in schema.iter().filter(|object| object.kind == "table") {
        let (kind, without_rowid) = kinds.get(&object.name).cloned().unwrap_or_default();
        let kind = match kind.as_str() {
            _ if object.name.to_ascii_lowercase().starts_with("sqlite_") => TableKind::System,
            "virtual" => TableKind::Virtual,
            "shadow" => TableKind::Shadow,
            _ if without_rowid => TableKind::WithoutRowid,
            _ => TableKind::Rowid,
        };
        let names = Names::default();
        let (columns, unreadable) = match columns(connection, &object.name, &names) {
            Ok(columns) => (columns, None),
            Err(error) if kind == TableKind::Virtual => (Vec::new(), Some(error.to_string())),
            Err(error) => return Err(failed(error)),
        };
        names.refuse_odd(|| format!("table {:?} has a column whose name is not valid text", object.name))?;
        let has_rowid = matches!(kind, TableKind::Rowid | TableKind::Shadow) && !without_rowid;
        let rowid = match has_rowid && !is_alias(connection, &object.name, &columns).map_err(failed)? {
            true => rowid_name(&columns),
            false => None,
        };
        let sql = object.sql.clone().unwrap_or_default();
        tables.push(Table { name: object.name.clone(), kind, sql, columns, unreadable, rowid });
    }
    Ok(tables)
}

/// Returns, by name, what SQLite calls each table, and whether it is one without rowid.
fn kinds(connection: &Connection) -> rusqlite::Result<HashMap<String, (String, bool)>> {
    let query = "SELECT name, type, wr FROM pragma_table_list WHERE schema='main'";
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((text(row, 0)?, (text(row, 1)?, row.get(2)?))))?;
    rows.collect()
}

/// Returns the columns that `SELECT *` gives.
fn columns(connection: &Connection, table: &str, names: &Names) -> rusqlite::Result<Vec<Column>> {
    let query = "SELECT name, type, hidden, pk FROM pragma_table_xinfo(?1) WHERE hidden<>1 ORDER BY cid";
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([table], |row| {
        let hidden: i64 = row.get(2)?;
        Ok(Column {
            name: names.read(row, 0)?,
            declared: text(row, 1)?,
            generated: hidden > 1,
            key: row.get(3)?,
        })
    })?;
    rows.collect()
}

/// Says whether the only column of the primary key is the rowid under another name.
fn is_alias(connection: &Connection, table: &str, columns: &[Column]) -> rusqlite::Result<bool> {
    let mut keys = columns.iter().filter(|column| column.key > 0);
    let (Some(key), None) = (keys.next(), keys.next()) else { return Ok(false) };
    if !key.declared.eq_ignore_ascii_case("INTEGER") {
        return Ok(false);
    }
    // `INTEGER PRIMARY KEY DESC` is no alias, by an old mistake of SQLite: it has an index.
    let query = "SELECT count(*) FROM pragma_index_list(?1) WHERE origin='pk'";
    Ok(connection.query_row(query, [table], |row| row.get::<_, i64>(0))? == 0)
}

/// Returns a name under which the rowid can be read, or `None` when columns hide all three.
fn rowid_name(columns: &[Column]) -> Option<&'static str> {
    let taken = |name: &&str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name))
}

/// Returns, for each table, the places of those that its foreign keys refer to.
fn references(connection: &Connection, tables: &[Table]) -> Result<Vec<Vec<usize>>> {
    let lower = tables.iter().enumerate().map(|(at, table)| (table.name.to_ascii_lowercase(), at));
    let places: HashMap<String, usize> = lower.collect();
    let parents = |table: &Table| -> rusqlite::Result<Vec<usize>> {
        if matches!(table.kind, TableKind::Virtual | TableKind::System) {
            return Ok(Vec::new());
        }
        let query = "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list(?1)";
        let mut statement = connection.prepare(query)?;
        let names = statement.query_map([&table.name], |row| text(row, 0))?;
        let names: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
        let mut parents: Vec<usize> =
            names.iter().filter_map(|name| places.get(&name.to_ascii_lowercase()).copied()).collect();
        parents.sort_unstable();
        Ok(parents)
    };
    let all: rusqlite::Result<Vec<Vec<usize>>> = tables.iter().map(parents).collect();
    all.map_err(|error| image_error(Some(connection), error))
}

/// Which columns of a table are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The names, as SQL has them: quoted, or that of the rowid.
    names: Vec<String>,
}

impl Selection {
    /// Selects the columns of `table` that are stored, with the rowid first where that is wanted.
    pub fn stored(table: &Table, with_rowid: bool) -> Self {
        let rowid = table.rowid.filter(|_| with_rowid).map(str::to_owned);
        let stored = table.columns.iter().filter(|column| !column.generated);
        Self { names: rowid.into_iter().chain(stored.map(|column| quoted(&column.name))).collect() }
    }

    /// Selects all columns, computed ones as well.
    pub fn all(table: &Table) -> Self {
        Self { names: table.columns.iter().map(|column| quoted(&column.name)).collect() }
    }

    /// Returns the names separated by commas, for SQL.
    pub fn list(&self) -> String {
        self.names.join(",")
    }

    /// Says whether a query of them can be prepared: a computed column may need a function that only the
    /// application has.
    pub fn is_possible(&self, connection: &Connection, table: &Table) -> bool {
        connection.prepare(&self.query(table, &[])).is_ok()
    }

    fn query(&self, table: &Table, more: &[String]) -> String {
        let list = if self.names.is_empty() { "NULL".to_owned() } else { self.list() };
        let more: String = more.iter().map(|expression| format!(",{expression}")).collect();
        // In the order of the table's own tree: that is the fastest, and what a new tree grows best by.
        let hint = if table.kind == TableKind::Virtual { "" } else { " NOT INDEXED" };
        format!("SELECT {list}{more} FROM main.{}{hint}", quoted(&table.name))
    }
}

/// Calls `each` with every row of a table and returns how many there were. One row is in memory at a time.
///
/// `cancelled` is asked every thousand rows. An error of `each` comes back as [`Error::Consumer`].
pub fn rows(
    connection: &Connection,
    contents: &Contents,
    table: &Table,
    selection: &Selection,
    cancelled: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&[Value<'_>]) -> Result<(), BoxError>,
) -> Result<u64> {
    let failed = |error| image_error(Some(connection), error);
    let width = selection.names.len();
    let wide = Wide::of(&contents.settings.encoding);
    let encoding = wide.filter(|_| width * 2 <= MOST_COLUMNS);
    // SQLite gives every text as UTF-8, in which what is no valid UTF-16 is lost; a cast to bytes keeps it.
    let raw: Vec<String> = match encoding {
        Some(_) => selection.names.iter().map(|name| format!("CAST({name} AS BLOB)")).collect(),
        None => Vec::new(),
    };
    let mut statement = connection.prepare(&selection.query(table, &raw)).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut count = 0u64;
    while let Some(row) = rows.next().map_err(failed)? {
        let mut values = Vec::with_capacity(width);
        for at in 0..width {
            let value = match row.get_ref(at).map_err(failed)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Real(number) => Value::Real(number),
                ValueRef::Blob(bytes) => Value::Blob(bytes),
                ValueRef::Text(bytes) => match encoding {
                    None => as_it_is(bytes, wide.is_some(), table)?,
                    Some(wide) => wide.text(bytes, row.get_ref(width + at).map_err(failed)?),
                },
            };
            values.push(value);
        }
        each(&values).map_err(Error::Consumer)?;
        count += 1;
        if count.is_multiple_of(1000) && cancelled() {
            return Err(Error::Cancelled);
        }
    }
    Ok(count)
}

/// Returns a text that SQLite gave as UTF-8. Where that was made of another encoding, and what is stored cannot be
/// asked for, one that may have lost something is an error.
fn as_it_is<'r>(bytes: &'r [u8], is_converted: bool, table: &Table) -> Result<Value<'r>> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !(is_converted && text.contains(char::REPLACEMENT_CHARACTER)) => Ok(Value::Text(text)),
        _ if is_converted => Err(Error::Unsupported {
            path: PathBuf::from("the image"),
            what: format!("table {:?} is too wide for texts that are not valid in its encoding", table.name),
            hint: Some("take the database out as the file that it is".to_owned()),
        }),
        _ => Ok(Value::OddText(bytes)),
    }
}

/// An encoding of two bytes a unit.
#[derive(Clone, Copy)]
pub(crate) enum Wide {
    Little,
    Big,
}

impl Wide {
    /// Reads SQLite's name of an encoding; `None` for UTF-8.
    pub(crate) fn of(encoding: &str) -> Option<Self> {
        match encoding.to_ascii_lowercase().as_str() {
            "utf-16le" => Some(Self::Little),
            "utf-16be" => Some(Self::Big),
            _ => None,
        }
    }

    /// Returns the bytes of a text.
    pub(crate) fn encode(self, text: &str) -> Vec<u8> {
        let bytes = |unit: u16| match self {
            Self::Little => unit.to_le_bytes(),
            Self::Big => unit.to_be_bytes(),
        };
        text.encode_utf16().flat_map(bytes).collect()
    }

    /// Returns a text that SQLite gave as UTF-8, where that is what is stored, else what is stored.
    fn text<'r>(self, utf8: &'r [u8], stored: ValueRef<'r>) -> Value<'r> {
        let (ValueRef::Blob(stored) | ValueRef::Text(stored)) = stored else { return Value::OddText(utf8) };
        match std::str::from_utf8(utf8) {
            Ok(text) if self.encode(text) == stored => Value::Text(text),
            _ => Value::OddText(stored),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
