//! A digest of everything a database holds, independent of the order of rows.
//!
//! Each row is hashed together with its table's name, and the hashes are added up,
//! so that a change of one row changes the sum by one subtraction and one addition.
//! The schema counts as rows too, and so does the user version.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

/// The name under which the rows of `sqlite_schema` are added.
pub(super) const SCHEMA: &str = "sqlite_schema";
/// The name under which header fields are added.
pub(super) const HEADER: &str = "(header)";

/// A sum of row hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum([u64; 4]);

impl Sum {
    /// Adds a row.
    pub fn add(&mut self, row: Sum) {
        self.0.iter_mut().zip(row.0).for_each(|(lane, other)| *lane = lane.wrapping_add(other));
    }

    /// Takes a row away that was added before.
    pub fn remove(&mut self, row: Sum) {
        self.0.iter_mut().zip(row.0).for_each(|(lane, other)| *lane = lane.wrapping_sub(other));
    }
}

/// Hashes one row, column by column. Types count: `1`, `1.0` and `'1'` differ.
pub(super) struct Row(blake3::Hasher);

impl Row {
    /// Begins a row of `table`.
    pub(super) fn of(table: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(table.as_bytes()).update(&[0xFF]);
        Self(hasher)
    }

    fn value(mut self, tag: u8, bytes: &[u8]) -> Self {
        let mut head = [tag; 9];
        head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.update(&head).update(bytes);
        self
    }

    /// Adds a NULL.
    pub(super) fn null(self) -> Self {
        self.value(b'n', &[])
    }

    /// Adds a whole number.
    pub(super) fn integer(self, value: i64) -> Self {
        self.value(b'i', &value.to_le_bytes())
    }

    /// Adds a floating-point number.
    pub(super) fn real(self, value: f64) -> Self {
        self.value(b'r', &value.to_bits().to_le_bytes())
    }

    /// Adds a text.
    pub(super) fn text(self, value: &str) -> Self {
        self.value(b't', value.as_bytes())
    }

    /// Adds a blob.
    pub(super) fn blob(self, value: &[u8]) -> Self {
        self.value(b'b', value)
    }

    fn any(self, value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => self.null(),
            ValueRef::Integer(value) => self.integer(value),
            ValueRef::Real(value) => self.real(value),
            ValueRef::Text(bytes) => self.value(b't', bytes),
            ValueRef::Blob(bytes) => self.blob(bytes),
        }
    }

    /// Returns the row's share of the sum.
    pub(super) fn sum(self) -> Sum {
        let hash = self.0.finalize();
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
            *lane = u64::from_le_bytes(*bytes);
        }
        Sum(lanes)
    }
}

/// The digest of each table and of all together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// All rows of all tables, the schema and the header.
    pub total: Sum,
    /// Sum and number of rows by table; empty tables are absent.
    pub tables: BTreeMap<String, (Sum, u64)>,
}

impl Digest {
    /// Adds a row of `table`.
    pub fn add(&mut self, table: &str, row: Sum) {
        self.total.add(row);
        if let Some((sum, rows)) = self.tables.get_mut(table) {
            sum.add(row);
            *rows += 1;
        } else {
            self.tables.insert(table.to_owned(), (row, 1));
        }
    }

    /// Takes a row of `table` away that was added before.
    pub fn remove(&mut self, table: &str, row: Sum) {
        self.total.remove(row);
        let (sum, rows) = self.tables.get_mut(table).expect("a row is removed only after it was added");
        sum.remove(row);
        *rows -= 1;
        if *rows == 0 {
            self.tables.remove(table);
        }
    }

    /// Reads the digest of a database. Collations and functions that its schema uses must be known.
    ///
    /// Tables of our own that hold an FTS5 or R-tree index are left out: they depend on the
    /// history of merges. The virtual tables above them are in, and `integrity_check`
    /// compares the two.
    pub fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let mut digest = Self::default();
        add_rows(connection, SCHEMA, "SELECT type, name, tbl_name, sql FROM sqlite_schema", &mut digest)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        digest.add(HEADER, user_version(version));
        for (table, is_virtual) in tables(connection)? {
            let rowid = if is_virtual { "rowid, " } else { "" };
            let sql = format!("SELECT {rowid}* FROM \"{}\" NOT INDEXED", table.replace('"', "\"\""));
            let sql = if is_virtual { sql.replace(" NOT INDEXED", "") } else { sql };
            add_rows(connection, &table, &sql, &mut digest)?;
        }
        Ok(digest)
    }

    /// Names the tables in which `self` and `other` differ, with the number of rows on both sides.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.tables.keys().chain(other.tables.keys()).collect();
        let rows = |digest: &Self, name| digest.tables.get(name).map_or(0, |(_, rows)| *rows);
        names
            .into_iter()
            .filter(|name| self.tables.get(*name) != other.tables.get(*name))
            .map(|name| format!("{name} ({} rows, expected {})", rows(self, name), rows(other, name)))
            .collect()
    }
}

/// Returns the share of the user version.
pub(super) fn user_version(version: i64) -> Sum {
    Row::of(HEADER).text("user_version").integer(version).sum()
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<(String, bool)>> {
    connection
        .prepare(
            "SELECT name, type = 'virtual' FROM pragma_table_list \
             WHERE schema = 'main' AND type IN ('table', 'virtual') AND name <> 'sqlite_schema' ORDER BY name",
        )?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn add_rows(connection: &Connection, table: &str, sql: &str, digest: &mut Digest) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        let mut hash = Row::of(table);
        for column in 0..columns {
            hash = hash.any(row.get_ref(column)?);
        }
        digest.add(table, hash.sum());
    }
    Ok(())
}
