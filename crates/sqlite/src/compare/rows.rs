//! The rows of a table of one image, from its pages or through SQLite, and what their columns hold.

use std::cell::OnceCell;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement};

use crate::header::Encoding;
use crate::inspect::quoted;
use crate::vfs::image_error;
use crate::{Error, Result};

use super::pages::damaged;
use super::record::{self, Value};
use super::schema::Shape;

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// `None` for a table WITHOUT ROWID, and where SQLite cannot be asked for it.
    pub(super) rowid: Option<i64>,
    pub(super) body: Body,
}

/// What a row holds.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// As it is stored.
    Record(Vec<u8>),
    /// The columns of the table's [`Shape`].
    Values(Vec<Value>),
}

/// Rows, one after the other. Those with rowids come in their order.
pub(super) trait Rows {
    fn next(&mut self) -> Result<Option<Row>>;
}

/// Tells the columns of rows.
pub(super) struct Columns<'s> {
    shape: &'s Shape,
    /// How texts are written in records.
    encoding: Encoding,
    /// What columns hold in rows that are older than the columns.
    defaults: OnceCell<Vec<Value>>,
}

impl<'s> Columns<'s> {
    pub(super) fn new(shape: &'s Shape, encoding: Encoding) -> Self {
        Self { shape, encoding, defaults: OnceCell::new() }
    }

    /// Returns the values of the columns of the shape.
    ///
    /// Fails with [`Error::Table`] where only SQLite itself can tell.
    pub(super) fn values(&self, row: &Row) -> Result<Vec<Value>> {
        let record = match &row.body {
            Body::Values(values) => return Ok(values.clone()),
            Body::Record(record) => record,
        };
        let columns = &self.shape.columns;
        let mut values = vec![None; columns.len()];
        for (value, column) in record::fields(record)?.into_iter().zip(&self.shape.fields) {
            values[*column] = Some(if columns[*column].is_real() { value.into_real() } else { value });
        }
        if let (Some(alias), Some(rowid)) = (self.shape.alias, row.rowid) {
            values[alias] = Some(Value::Integer(rowid));
        }
        let value = |(column, value): (usize, Option<Value>)| match value {
            Some(value) => Ok(value),
            None => Ok(self.defaults()?[column].clone()),
        };
        values.into_iter().enumerate().map(value).collect()
    }

    fn defaults(&self) -> Result<&Vec<Value>> {
        if self.defaults.get().is_none() {
            let defaults = self.shape.columns.iter().map(|column| match &column.default {
                None => Ok(Value::Null),
                Some(default) => self.default(&column.declared, default),
            });
            let _ = self.defaults.set(defaults.collect::<Result<_>>()?);
        }
        Ok(self.defaults.get().expect("it was set just now"))
    }

    /// Lets SQLite read a row that is older than a column with this default.
    fn default(&self, declared: &str, default: &str) -> Result<Value> {
        let strict = if self.shape.strict { " STRICT" } else { "" };
        let encoding = match self.encoding {
            Encoding::Utf8 => "UTF-8",
            Encoding::Utf16Le => "UTF-16le",
            Encoding::Utf16Be => "UTF-16be",
        };
        let run = || {
            let scratch = Connection::open_in_memory()?;
            scratch.execute_batch(&format!("PRAGMA encoding='{encoding}'; CREATE TABLE d(k INT){strict}"))?;
            scratch.execute("INSERT INTO d VALUES(1)", [])?;
            let plain =
                scratch.execute(&format!("ALTER TABLE d ADD COLUMN c {declared} DEFAULT {default}"), []);
            plain.or_else(|_| {
                scratch.execute(&format!("ALTER TABLE d ADD COLUMN c {declared} DEFAULT ({default})"), [])
            })?;
            let select = format!("SELECT {} FROM d", selected("c", self.encoding));
            scratch.query_row(&select, [], |row| value_of(row, 0, self.encoding))
        };
        let failed = |error: rusqlite::Error| Error::Table {
            table: self.shape.name.clone(),
            message: format!("what {default} as a default gives is not known: {error}"),
        };
        run().map_err(failed)
    }
}

/// Returns what gives a column with its texts in the bytes of the database's encoding.
fn selected(column: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Utf8 => column.to_owned(),
        // SQLite would give texts in UTF-8, and replace what it cannot convert.
        _ => format!(
            "CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) ELSE {column} END, typeof({column})='text'"
        ),
    }
}

/// Reads the `index`-th column that was `selected`.
fn value_of(row: &rusqlite::Row<'_>, index: usize, encoding: Encoding) -> rusqlite::Result<Value> {
    if encoding == Encoding::Utf8 {
        return row.get_ref(index).map(Value::of);
    }
    match (row.get_ref(2 * index)?, row.get::<_, bool>(2 * index + 1)?) {
        (ValueRef::Blob(text), true) => Ok(Value::Text(text.to_vec())),
        (value, _) => Ok(Value::of(value)),
    }
}

/// Asks SQLite for all rows of a table, in the order of their rowids where they can be named.
///
/// Texts come in `encoding`: that of the database, or UTF-8.
pub(super) fn prepare<'c>(
    connection: &'c Connection,
    shape: &Shape,
    encoding: Encoding,
) -> Result<Statement<'c>> {
    let columns = shape.columns.iter().map(|column| selected(&quoted(&column.name), encoding));
    let table = quoted(&shape.name);
    let query = match shape.rowid_name() {
        Some(rowid) if shape.alias.is_some() => {
            let columns = columns.collect::<Vec<_>>().join(", ");
            format!("SELECT {columns} FROM main.{table} NOT INDEXED ORDER BY {rowid}")
        }
        Some(rowid) => {
            let columns = columns.chain([rowid.clone()]).collect::<Vec<_>>().join(", ");
            format!("SELECT {columns} FROM main.{table} NOT INDEXED ORDER BY {rowid}")
        }
        None => {
            let columns = columns.collect::<Vec<_>>().join(", ");
            format!("SELECT {columns} FROM main.{table} NOT INDEXED")
        }
    };
    connection.prepare(&query).map_err(|error| image_error(Some(connection), error))
}

/// Where the rowid is in what a statement gives.
#[derive(Clone, Copy)]
enum Rowid {
    /// In a column of the table. A table may have as many columns as a statement may give, so it is not asked for twice.
    Column(usize),
    /// Behind the columns.
    Behind,
    Nowhere,
}

/// The rows that a prepared statement gives.
pub(super) struct SqlRows<'s> {
    connection: &'s Connection,
    rows: rusqlite::Rows<'s>,
    columns: usize,
    rowid: Rowid,
    encoding: Encoding,
    last: Option<i64>,
}

impl<'s> SqlRows<'s> {
    pub(super) fn new(
        connection: &'s Connection,
        statement: &'s mut Statement<'_>,
        shape: &Shape,
        encoding: Encoding,
    ) -> Self {
        let rows = statement.raw_query();
        let rowid = match shape.alias {
            Some(alias) => Rowid::Column(alias),
            None if shape.rowid_name().is_some() => Rowid::Behind,
            None => Rowid::Nowhere,
        };
        Self { connection, rows, columns: shape.columns.len(), rowid, encoding, last: None }
    }

    fn read(&mut self) -> rusqlite::Result<Option<Row>> {
        let (columns, encoding) = (self.columns, self.encoding);
        let Some(row) = self.rows.next()? else { return Ok(None) };
        let values = (0..columns).map(|column| value_of(row, column, encoding)).collect::<Result<_, _>>()?;
        let place = |column: usize| if encoding == Encoding::Utf8 { column } else { 2 * column };
        let rowid = match self.rowid {
            Rowid::Column(alias) => Some(row.get(place(alias))?),
            Rowid::Behind => Some(row.get(place(columns))?),
            Rowid::Nowhere => None,
        };
        Ok(Some(Row { rowid, body: Body::Values(values) }))
    }
}

impl Rows for SqlRows<'_> {
    fn next(&mut self) -> Result<Option<Row>> {
        let row = self.read().map_err(|error| image_error(Some(self.connection), error))?;
        let rowid = row.as_ref().and_then(|row| row.rowid);
        if rowid.is_some() && rowid <= self.last {
            return Err(damaged("the rowids of a table are not in order"));
        }
        self.last = rowid;
        Ok(row)
    }
}
