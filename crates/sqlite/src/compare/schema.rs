//! What a database has: its objects, and the columns and keys of its tables.

use std::collections::HashSet;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ToSql};

use crate::Result;
use crate::inspect::{quoted, text};
use crate::vfs::image_error;

use super::pages::damaged;
use super::record::Collation;

/// What the schema of one side holds.
pub(super) struct Schema {
    pub(super) objects: Vec<Object>,
}

/// A table, an index, a view, a trigger or a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    /// The table that it belongs to.
    pub(super) table: String,
    pub(super) root: u32,
    /// How it is made, in UTF-8 if that is valid; for a setting its value.
    pub(super) sql: Option<Vec<u8>>,
}

impl Object {
    /// Returns what it is known by: SQLite does not regard the case of names.
    pub(super) fn id(&self) -> (String, String) {
        (self.kind.clone(), self.name.to_ascii_lowercase())
    }

    /// Says whether it is a table with rows of its own. A virtual one has none, and no tree.
    pub(super) fn has_rows(&self) -> bool {
        // SQLite writes the SQL of a table itself, up to its name.
        let is_virtual = self.sql.as_ref().is_some_and(|sql| sql.starts_with(b"CREATE VIRTUAL TABLE "));
        self.kind == "table" && !(is_virtual && self.root == 0)
    }
}

impl Schema {
    pub(super) fn read(connection: &Connection) -> Result<Self> {
        let query = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY rowid";
        let mut objects = rows(connection, query, &[], |row| {
            let sql = match row.get_ref(4)? {
                ValueRef::Text(sql) | ValueRef::Blob(sql) => Some(sql.to_vec()),
                _ => None,
            };
            let root = row.get::<_, Option<u32>>(3)?.unwrap_or(0);
            Ok(Object { kind: text(row, 0)?, name: text(row, 1)?, table: text(row, 2)?, root, sql })
        })?;
        // What an application marks a version of its schema with.
        for setting in ["user_version", "application_id"] {
            let value = rows(connection, &format!("PRAGMA main.{setting}"), &[], |row| text(row, 0))?;
            let sql = value.into_iter().next().map(String::into_bytes);
            let (kind, name) = ("setting".to_owned(), setting.to_owned());
            objects.push(Object { kind, name, table: String::new(), root: 0, sql });
        }
        // Two that seem to have one name, because of bytes in it that are no UTF-8, would be taken for one.
        let mut ids = HashSet::new();
        match objects.iter().find(|object| !ids.insert(object.id())) {
            Some(twice) => Err(damaged(format!("the schema has two of the name {}", twice.name))),
            None => Ok(Self { objects }),
        }
    }

    /// Returns the tables with rows of their own.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|object| object.has_rows())
    }
}

/// The columns and the key of a table.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) without_rowid: bool,
    pub(super) strict: bool,
    /// The columns that are stored: generated ones are only where they are.
    pub(super) columns: Vec<Column>,
    /// The column that each field of a record is of.
    pub(super) fields: Vec<usize>,
    /// The column that is another name of the rowid.
    pub(super) alias: Option<usize>,
    /// The columns of the declared key that is not the rowid.
    pub(super) key: Vec<(usize, Collation)>,
    /// A name of the rowid that no column hides.
    free_rowid_name: Option<&'static str>,
}

/// A column that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) cid: i64,
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) not_null: bool,
    pub(super) default: Option<String>,
    /// 0, or 3 for a generated column that is stored.
    pub(super) hidden: i64,
}

impl Column {
    /// Says whether whole numbers in it are read as real ones
    /// (<https://www.sqlite.org/datatype3.html#determination_of_column_affinity>).
    pub(super) fn is_real(&self) -> bool {
        let declared = self.declared.to_ascii_uppercase();
        let any = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
        !any(&["INT", "CHAR", "CLOB", "TEXT", "BLOB"]) && any(&["REAL", "FLOA", "DOUB"])
    }
}

impl Shape {
    pub(super) fn read(connection: &Connection, table: &str) -> Result<Self> {
        let of_table: &[&dyn ToSql] = &[&table];
        let (mut all, mut pks) = (Vec::new(), Vec::new());
        let query = "SELECT cid, name, type, \"notnull\", dflt_value, pk, hidden \
                     FROM pragma_table_xinfo(?1) ORDER BY cid";
        rows(connection, query, of_table, |row| {
            pks.push(row.get::<_, i64>(5)?);
            all.push(column(row));
            Ok(())
        })?;
        // Without its columns any two rows would be the same.
        let unread = || damaged(format!("the columns of table {table} cannot be read"));
        let all: Vec<Column> = all.into_iter().collect::<rusqlite::Result<_>>().map_err(|_| unread())?;
        let flags = "SELECT wr, strict FROM pragma_table_list(?1) WHERE schema='main'";
        let flags =
            rows(connection, flags, of_table, |row| Ok((row.get::<_, bool>(0)?, row.get::<_, bool>(1)?)))?;
        let (without_rowid, strict) = flags.first().copied().unwrap_or_default();
        let key_index = key_index(connection, table)?;
        let is_column = |name: &str| all.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let free_rowid_name = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !is_column(name));
        let of_key: Vec<usize> = (0..all.len()).filter(|at| pks[*at] > 0).collect();
        let alias_cid = match (of_key.as_slice(), &key_index) {
            ([only], None) if !without_rowid => Some(all[*only].cid),
            _ => None,
        };
        // Virtual generated columns take no room in a record.
        let columns: Vec<Column> = all.into_iter().filter(|column| column.hidden != 2).collect();
        let place = |cid: i64| columns.iter().position(|column| column.cid == cid);
        let index = key_index.unwrap_or_default();
        let key = index.iter().filter(|part| part.is_key);
        let key = key.filter_map(|part| Some((place(part.cid)?, part.collation))).collect();
        let fields: Vec<usize> = match without_rowid {
            true => index.iter().filter_map(|part| place(part.cid)).collect(),
            false => (0..columns.len()).collect(),
        };
        let alias = alias_cid.and_then(place);
        // The key of a table WITHOUT ROWID may have a column twice, with two collations.
        let has_all = (0..columns.len()).all(|place| fields.contains(&place));
        if flags.is_empty() || columns.is_empty() || !has_all {
            return Err(unread());
        }
        let name = table.to_owned();
        Ok(Self { name, without_rowid, strict, fields, alias, key, free_rowid_name, columns })
    }

    /// Returns the columns of the declared key; none where there is no key.
    pub(super) fn declared_key(&self) -> Vec<(usize, Collation)> {
        match self.alias {
            Some(alias) => vec![(alias, Collation::Binary)],
            None => self.key.clone(),
        }
    }

    /// Returns by what SQLite can be asked for the rowid.
    pub(super) fn rowid_name(&self) -> Option<String> {
        match self.alias {
            _ if self.without_rowid => None,
            Some(alias) => Some(quoted(&self.columns[alias].name)),
            None => self.free_rowid_name.map(str::to_owned),
        }
    }
}

/// Reads a line of `pragma_table_xinfo`. Fails for what is no UTF-8: replaced, two names or defaults could seem to be
/// one.
fn column(row: &rusqlite::Row<'_>) -> rusqlite::Result<Column> {
    Ok(Column {
        cid: row.get(0)?,
        name: row.get(1)?,
        declared: row.get(2)?,
        not_null: row.get(3)?,
        default: row.get(4)?,
        hidden: row.get(6)?,
    })
}

/// A column in the index of the key.
struct KeyPart {
    cid: i64,
    collation: Collation,
    is_key: bool,
}

/// Returns the columns of the index that keeps the declared key; for a table WITHOUT ROWID, those of its records.
fn key_index(connection: &Connection, table: &str) -> Result<Option<Vec<KeyPart>>> {
    let query = "SELECT name FROM pragma_index_list(?1) WHERE origin='pk'";
    let Some(index) = rows(connection, query, &[&table], |row| text(row, 0))?.into_iter().next() else {
        return Ok(None);
    };
    let query = "SELECT cid, coll, key FROM pragma_index_xinfo(?1) ORDER BY seqno";
    let part = |row: &rusqlite::Row<'_>| {
        Ok(KeyPart { cid: row.get(0)?, collation: Collation::named(&text(row, 1)?), is_key: row.get(2)? })
    };
    rows(connection, query, &[&index], part).map(Some)
}

/// Asks SQLite.
pub(super) fn rows<T>(
    connection: &Connection,
    query: &str,
    parameters: &[&dyn ToSql],
    row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let run = || connection.prepare(query)?.query_map(parameters, row)?.collect::<rusqlite::Result<Vec<_>>>();
    run().map_err(|error| image_error(Some(connection), error))
}
