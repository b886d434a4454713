//! What a database holds, as far as reading its rows needs to know: tables, their columns and keys, sequences, large
//! objects.
//!
//! All of it is read in the transaction whose moment is backed up. What the objects look like to the last detail is
//! `pg_dump`'s to say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::snapshot::identifier;
use crate::wire::{Connection, Row};
use crate::{Error, Result};

/// The oldest server that is understood: from 12 on generated columns are marked.
pub const OLDEST: u32 = 120_000;

/// What a database holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// All tables and what is like them, by schema and name.
    pub tables: Vec<Table>,
    /// All sequences, by schema and name.
    pub sequences: Vec<Sequence>,
    /// The numbers of all large objects.
    pub large_objects: Vec<u32>,
}

/// A table, or something like one.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its number.
    pub oid: u32,
    /// Its schema and name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// The file that holds its rows; another one holds them after they were rewritten or cut off.
    pub filenode: u32,
    /// Bytes on disk, with long values, without indexes.
    pub bytes: u64,
    /// Pages of its main file.
    pub pages: u64,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The columns that tell its rows apart, in the order of their index.
    pub key: Option<Key>,
    /// Whether its rows survive a crash of the server.
    pub logged: bool,
    /// Whether policies may hide rows.
    pub row_security: bool,
    /// Whether this user may read it.
    pub readable: bool,
    /// For a table of an extension: which of its rows are the user's.
    pub extension: Option<ExtensionRows>,
}

/// The name of a table or a sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

impl Name {
    /// Returns it as SQL takes it.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// What a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One with rows of its own.
    Ordinary,
    /// One whose rows are in its partitions.
    Partitioned,
    /// The kept answer to a query; it is asked again after a restore.
    Materialized,
    /// One whose rows are on another server.
    Foreign,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as `numeric(10,2)`.
    pub type_name: String,
    /// Whether it is computed from others, so that it cannot be restored and need not be.
    pub generated: bool,
}

/// Columns that tell rows apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Their names, in the order of the index.
    pub columns: Vec<String>,
    /// How well the rows of the table lie in the order of the first: from -1 to 1, unknown where it was never analyzed.
    pub correlation: Option<f32>,
}

/// Which rows of an extension's table are the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionRows {
    /// The extension.
    pub name: String,
    /// The condition, as `WHERE id > 100`; empty for all.
    pub condition: String,
}

/// A sequence and where it stands. That is not part of the moment: PostgreSQL shows the newest value, which is never
/// behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its number.
    pub oid: u32,
    /// Its schema and name.
    pub name: Name,
    /// The last value, or the first one that it will give.
    pub last_value: i64,
    /// Whether that one was given already.
    pub is_called: bool,
}

/// Schemas that belong to the server.
const NOT_OF_SERVER: &str = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

impl Catalog {
    /// Reads what the transaction of a connection sees. The connection must be in one of [`crate::snapshot::begin`].
    ///
    /// # Errors
    /// When the server cannot be asked, or is too old.
    pub fn read(connection: &mut Connection) -> Result<Self> {
        let mut columns = read_columns(connection)?;
        let mut keys = read_keys(connection)?;
        let mut extensions = read_extension_rows(connection)?;
        let mut tables = Vec::new();
        for row in connection.query(&tables_query(), &[])? {
            let mut table = read_table(&row)?;
            let belongs_to_extension = value(&row, 11)? == "t";
            table.extension = extensions.remove(&table.oid);
            if belongs_to_extension && table.extension.is_none() {
                continue;
            }
            table.columns = columns.remove(&table.oid).unwrap_or_default();
            table.key = keys.remove(&table.oid);
            tables.push(table);
        }
        tables.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self {
            tables,
            sequences: read_sequences(connection)?,
            large_objects: read_large_objects(connection)?,
        })
    }

    /// Returns the tables whose rows have to be read.
    pub fn with_rows(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| table.has_rows())
    }
}

impl Table {
    /// Returns whether rows of its own have to be read.
    pub fn has_rows(&self) -> bool {
        self.kind == Kind::Ordinary
    }

    /// Returns the names of the columns that are stored, quoted, as COPY takes them.
    pub fn stored_columns(&self) -> String {
        let stored = self.columns.iter().filter(|column| !column.generated);
        stored.map(|column| identifier(&column.name)).collect::<Vec<_>>().join(", ")
    }
}

fn tables_query() -> String {
    // The size of a table that was dropped meanwhile is unknown.
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relfilenode,
                coalesce(pg_catalog.pg_table_size(c.oid), 0), greatest(c.relpages, 0), c.relpersistence,
                c.relrowsecurity, pg_catalog.has_table_privilege(c.oid, 'SELECT'),
                pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
                EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                        AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e')
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't' AND {NOT_OF_SERVER}"
    )
}

fn read_table(row: &Row) -> Result<Table> {
    let kind = match value(row, 3)? {
        "r" => Kind::Ordinary,
        "p" => Kind::Partitioned,
        "m" => Kind::Materialized,
        "f" => Kind::Foreign,
        other => return Err(Error::protocol(format!("a table of the kind {other:?}"))),
    };
    Ok(Table {
        oid: number(row, 0)?,
        name: name(row, 1)?,
        kind,
        filenode: number(row, 4)?,
        bytes: number(row, 5)?,
        pages: number(row, 6)?,
        columns: Vec::new(),
        key: None,
        logged: value(row, 7)? == "p",
        row_security: value(row, 8)? == "t",
        readable: value(row, 9)? == "t" && value(row, 10)? == "t",
        extension: None,
    })
}

fn read_columns(connection: &mut Connection) -> Result<HashMap<u32, Vec<Column>>> {
    let sql = format!(
        "SELECT a.attrelid, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f') AND {NOT_OF_SERVER}
         ORDER BY a.attrelid, a.attnum"
    );
    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in connection.query(&sql, &[])? {
        let column = Column {
            name: value(&row, 1)?.to_owned(),
            type_name: value(&row, 2)?.to_owned(),
            generated: !value(&row, 3)?.is_empty(),
        };
        columns.entry(number(&row, 0)?).or_default().push(column);
    }
    Ok(columns)
}

/// Reads the primary key of each table, or else a unique index over columns that are never NULL.
fn read_keys(connection: &mut Connection) -> Result<HashMap<u32, Key>> {
    let sql = format!(
        "SELECT i.indrelid, i.indexrelid, i.indisprimary, a.attname, s.correlation
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
         JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
         CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (attnum, place)
         LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND a.attnotnull
         LEFT JOIN pg_catalog.pg_stats s ON k.place = 1 AND s.schemaname = n.nspname AND s.tablename = c.relname
                                        AND s.attname = a.attname AND NOT s.inherited
         WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
           AND k.place <= i.indnkeyatts AND c.relkind = 'r' AND {NOT_OF_SERVER}
         ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid, k.place"
    );
    let mut indexes: BTreeMap<u32, BTreeMap<(bool, u32), Vec<Row>>> = BTreeMap::new();
    for row in connection.query(&sql, &[])? {
        let index = (value(&row, 2)? != "t", number(&row, 1)?);
        indexes.entry(number(&row, 0)?).or_default().entry(index).or_default().push(row);
    }
    let mut keys = HashMap::new();
    for (table, indexes) in indexes {
        for rows in indexes.into_values() {
            // A column that may be NULL is not joined above: such an index tells no rows apart.
            let columns: Option<Vec<String>> = rows.iter().map(|row| row.get(3).cloned().flatten()).collect();
            let Some(columns) = columns else { continue };
            let correlation = rows.first().and_then(|row| row.get(4)?.as_deref()?.parse().ok());
            keys.insert(table, Key { columns, correlation });
            break;
        }
    }
    Ok(keys)
}

/// Reads which tables of extensions hold rows of the user (`pg_extension_config_dump`).
fn read_extension_rows(connection: &mut Connection) -> Result<HashMap<u32, ExtensionRows>> {
    let sql = "SELECT c.oid, e.extname, coalesce(c.condition, '') FROM pg_catalog.pg_extension e,
               LATERAL ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition)) AS c (oid, condition)";
    let rows = connection.query(sql, &[])?;
    let read = |row: &Row| {
        let rows = ExtensionRows { name: value(row, 1)?.to_owned(), condition: value(row, 2)?.to_owned() };
        Ok((number(row, 0)?, rows))
    };
    rows.iter().map(read).collect()
}

/// Reads where all sequences stand, a few hundred at a time.
fn read_sequences(connection: &mut Connection) -> Result<Vec<Sequence>> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {NOT_OF_SERVER}
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                           WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                             AND d.objsubid = 0 AND d.deptype = 'e')
         ORDER BY n.nspname, c.relname"
    );
    let listed = connection.query(&sql, &[])?;
    let mut sequences = Vec::with_capacity(listed.len());
    for some in listed.chunks(300) {
        let each = |row: &Row| {
            let name = name(row, 1)?;
            Ok(format!(
                "SELECT {}::pg_catalog.oid, last_value, is_called FROM {}",
                value(row, 0)?,
                name.quoted()
            ))
        };
        let asked: Result<Vec<String>> = some.iter().map(each).collect();
        let found = connection.query(&asked?.join(" UNION ALL "), &[])?;
        let names: HashMap<u32, Name> =
            some.iter().map(|row| Ok((number(row, 0)?, name(row, 1)?))).collect::<Result<_>>()?;
        for row in found {
            let oid = number(&row, 0)?;
            let name = names.get(&oid).ok_or_else(|| Error::protocol("a sequence that was not asked for"))?;
            let (last_value, is_called) = (number(&row, 1)?, value(&row, 2)? == "t");
            sequences.push(Sequence { oid, name: name.clone(), last_value, is_called });
        }
    }
    sequences.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sequences)
}

fn read_large_objects(connection: &mut Connection) -> Result<Vec<u32>> {
    let rows = connection.query("SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid", &[])?;
    rows.iter().map(|row| number(row, 0)).collect()
}

/// Tables that were asked for and are not there.
pub fn missing<'a>(catalog: &Catalog, wanted: &'a [Name]) -> Vec<&'a Name> {
    let there: BTreeSet<&Name> = catalog.tables.iter().map(|table| &table.name).collect();
    wanted.iter().filter(|name| !there.contains(name)).collect()
}

fn value(row: &Row, column: usize) -> Result<&str> {
    let found = row.get(column).and_then(Option::as_deref);
    found.ok_or_else(|| Error::protocol(format!("column {column} of an answer is missing")))
}

fn number<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T> {
    let text = value(row, column)?;
    text.parse().map_err(|_| Error::protocol(format!("{text:?} is no number")))
}

fn name(row: &Row, column: usize) -> Result<Name> {
    Ok(Name { schema: value(row, column)?.to_owned(), name: value(row, column + 1)?.to_owned() })
}
