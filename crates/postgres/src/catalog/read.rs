//! The questions by which a catalog is read.

use std::collections::{BTreeMap, HashMap};

use super::{
    Catalog, Column, ExtensionRows, ForeignKey, Identity, Key, Kind, Name, OLDEST, Sequence, Table, Unread,
};
use crate::snapshot::version;
use crate::wire::{Connection, Row};
use crate::{Error, Result};

/// Schemas that belong to the server.
const NOT_OF_SERVER: &str = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// Reads what the transaction of a connection sees.
pub(super) fn catalog(connection: &mut Connection) -> Result<Catalog> {
    let version = version(connection)?;
    if version < OLDEST {
        return Err(Error::TooOld { version: version / 10_000, oldest: OLDEST / 10_000 });
    }
    let mut columns = read_columns(connection)?;
    let mut keys = read_keys(connection)?;
    let mut foreign_keys = read_foreign_keys(connection)?;
    let mut parents = read_parents(connection)?;
    let mut extensions = read_extension_rows(connection)?;
    let (mut tables, mut unread) = (Vec::new(), Vec::new());
    for row in connection.query(&tables_query(), &[])? {
        let mut table = read_table(&row)?;
        table.extension = extensions.remove(&table.oid);
        if let (Some(extension), None) = (row.get(11).cloned().flatten(), &table.extension) {
            if value(&row, 14)? == "t" {
                unread.push(Unread::OfExtension { table: table.name, extension });
            }
            continue;
        }
        table.columns = columns.remove(&table.oid).unwrap_or_default();
        table.key = keys.remove(&table.oid);
        table.foreign_keys = foreign_keys.remove(&table.oid).unwrap_or_default();
        table.parents = parents.remove(&table.oid).unwrap_or_default();
        tables.push(table);
    }
    tables.sort_by(|one, other| one.name.cmp(&other.name));
    // Reading a sequence locks it until the transaction ends, or this part of it: nobody shall wait to drop one.
    connection.execute("SAVEPOINT sequences")?;
    let (sequences, unknown) = read_sequences(connection)?;
    unread.extend(unknown.into_iter().map(Unread::Sequence));
    connection.execute("ROLLBACK TO SAVEPOINT sequences; RELEASE SAVEPOINT sequences")?;
    let large_objects = read_large_objects(connection)?;
    Ok(Catalog { tables, sequences, large_objects, unread, database: None })
}

fn tables_query() -> String {
    // The size of a table that was dropped meanwhile is unknown.
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relfilenode,
                coalesce(pg_catalog.pg_table_size(c.oid), 0),
                coalesce(pg_catalog.pg_relation_size(c.oid), 0) / pg_catalog.current_setting('block_size')::pg_catalog.int8,
                c.relpersistence,
                c.relrowsecurity, pg_catalog.has_table_privilege(c.oid, 'SELECT'),
                pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
                e.extname, c.relispartition, pg_catalog.row_security_active(c.oid),
                c.relkind = 'r' AND coalesce(pg_catalog.pg_relation_size(c.oid), 0) > 0
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
              AND d.objsubid = 0 AND d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
         LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
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
    let name = name(row, 1)?;
    // What the server thinks of rights is not of the moment: of a table that is gone it knows nothing.
    let may = |column: usize| match row.get(column).and_then(Option::as_deref) {
        Some(answer) => Ok(answer == "t"),
        None => Err(Error::Changed { table: name.quoted(), what: "was dropped" }),
    };
    let readable = may(9)? && may(10)?;
    Ok(Table {
        oid: number(row, 0)?,
        kind,
        filenode: number(row, 4)?,
        bytes: number(row, 5)?,
        pages: number(row, 6)?,
        logged: value(row, 7)? == "p",
        row_security: value(row, 8)? == "t",
        readable,
        partition: value(row, 12)? == "t",
        hidden: value(row, 13)? == "t",
        name,
        ..Table::default()
    })
}

fn read_columns(connection: &mut Connection) -> Result<HashMap<u32, Vec<Column>>> {
    let sql = format!(
        "SELECT a.attrelid, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated, {NEVER_NULL},
                a.attidentity, pg_catalog.pg_get_expr(d.adbin, d.adrelid), o.nspname, l.collname, a.attnum,
                {BASE_TYPE}
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation AND a.attcollation <> t.typcollation
         LEFT JOIN pg_catalog.pg_namespace o ON o.oid = l.collnamespace
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f') AND {NOT_OF_SERVER}
         ORDER BY a.attrelid, a.attnum"
    );
    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in connection.query(&sql, &[])? {
        columns.entry(number(&row, 0)?).or_default().push(read_column(&row)?);
    }
    Ok(columns)
}

/// The type behind domains, which is what the server says of an answer.
pub(crate) const BASE_TYPE: &str = "CASE WHEN t.typtype <> 'd' THEN t.oid ELSE (
    WITH RECURSIVE base (oid, typtype, next) AS (
        SELECT t.oid, t.typtype, t.typbasetype UNION ALL
        SELECT b.oid, b.typtype, b.typbasetype FROM base JOIN pg_catalog.pg_type b ON base.typtype = 'd' AND b.oid = base.next
    ) SELECT oid FROM base WHERE typtype <> 'd') END";

fn read_column(row: &Row) -> Result<Column> {
    let may_be = |column: usize| row.get(column).cloned().flatten();
    let identity = match value(row, 5)? {
        "a" => Some(Identity::Always),
        "d" => Some(Identity::ByDefault),
        _ => None,
    };
    Ok(Column {
        name: value(row, 1)?.to_owned(),
        number: number(row, 9)?,
        type_oid: number(row, 10)?,
        type_name: value(row, 2)?.to_owned(),
        generated: !value(row, 3)?.is_empty(),
        not_null: value(row, 4)? == "t",
        identity,
        default: may_be(6),
        collation: may_be(7).zip(may_be(8)).map(|(schema, name)| Name { schema, name }),
    })
}

/// Reads the foreign keys of all tables, by their names.
fn read_foreign_keys(connection: &mut Connection) -> Result<HashMap<u32, Vec<ForeignKey>>> {
    // A row for each column: a list of names as text would have to be taken apart.
    let sql = format!(
        "SELECT k.conrelid, k.oid, k.conname, k.conparentid <> 0, rn.nspname, r.relname, a.attname, b.attname
         FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
         JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
         CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey))
                    WITH ORDINALITY AS p (here, there, place)
         JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.here
         JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = p.there
         WHERE k.contype = 'f' AND {NOT_OF_SERVER}
         ORDER BY k.conrelid, k.conname, k.oid, p.place"
    );
    let mut keys: HashMap<u32, Vec<ForeignKey>> = HashMap::new();
    let mut last = None;
    for row in connection.query(&sql, &[])? {
        let (table, constraint): (u32, u32) = (number(&row, 0)?, number(&row, 1)?);
        let of_table = keys.entry(table).or_default();
        if last != Some(constraint) {
            let (key, inherited) = (value(&row, 2)?.to_owned(), value(&row, 3)? == "t");
            of_table.push(ForeignKey {
                name: key,
                table: name(&row, 4)?,
                inherited,
                ..ForeignKey::default()
            });
            last = Some(constraint);
        }
        if let Some(key) = of_table.last_mut() {
            key.columns.push(value(&row, 6)?.to_owned());
            key.referenced.push(value(&row, 7)?.to_owned());
        }
    }
    Ok(keys)
}

/// Reads from which tables others inherit.
fn read_parents(connection: &mut Connection) -> Result<HashMap<u32, Vec<Name>>> {
    let sql = format!(
        "SELECT i.inhrelid, n.nspname, p.relname FROM pg_catalog.pg_inherits i
         JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
         JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
         WHERE p.relkind IN ('r', 'p', 'f') AND {NOT_OF_SERVER} ORDER BY i.inhrelid, i.inhseqno"
    );
    let mut parents: HashMap<u32, Vec<Name>> = HashMap::new();
    for row in connection.query(&sql, &[])? {
        parents.entry(number(&row, 0)?).or_default().push(name(&row, 1)?);
    }
    Ok(parents)
}

/// A column `a` is never NULL. A constraint that was never validated sets the same mark, from version 18 on.
const NEVER_NULL: &str = "a.attnotnull AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_constraint v
    WHERE v.conrelid = a.attrelid AND v.contype = 'n' AND NOT v.convalidated AND a.attnum = ANY (v.conkey))";

/// Reads the primary key of each table, or else a unique index over columns that are never NULL.
fn read_keys(connection: &mut Connection) -> Result<HashMap<u32, Key>> {
    let sql = format!(
        "SELECT i.indrelid, i.indexrelid, i.indisprimary, a.attname, s.correlation,
                o.opcdefault AND k.sorting = a.attcollation, k.direction
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
         JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
         CROSS JOIN LATERAL ROWS FROM (
             pg_catalog.unnest(i.indkey::pg_catalog.int2[]), pg_catalog.unnest(i.indclass::pg_catalog.oid[]),
             pg_catalog.unnest(i.indcollation::pg_catalog.oid[]), pg_catalog.unnest(i.indoption::pg_catalog.int2[])
         ) WITH ORDINALITY AS k (attnum, class, sorting, direction, place)
         LEFT JOIN pg_catalog.pg_opclass o ON o.oid = k.class
         LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND {NEVER_NULL}
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
    // A column that may be NULL is not joined above: such an index tells no rows apart.
    let keys = indexes.into_iter().filter_map(|(table, indexes)| {
        let key = indexes.into_values().find_map(|rows| key_of(&rows))?;
        Some((table, key))
    });
    Ok(keys.collect())
}

/// Returns the key that the rows about an index make, unless a column of it may be NULL.
fn key_of(rows: &[Row]) -> Option<Key> {
    let columns: Option<Vec<String>> = rows.iter().map(|row| row.get(3).cloned().flatten()).collect();
    let correlation = rows.first().and_then(|row| row.get(4)?.as_deref()?.parse().ok());
    let said = |column: usize, text: &str| {
        rows.iter().all(|row| row.get(column).and_then(Option::as_deref) == Some(text))
    };
    // Ascending with NULL at the end, or all of that the other way round and read backwards.
    let as_asked = said(5, "t") && (said(6, "0") || said(6, "3"));
    Some(Key { columns: columns?, correlation, sorted_otherwise: !as_asked })
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

/// Reads where all sequences stand, a few hundred at a time. Those of which that is not known come apart.
fn read_sequences(connection: &mut Connection) -> Result<(Vec<Sequence>, Vec<Sequence>)> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
                AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'), d.deptype, tn.nspname, t.relname,
                c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery()
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
              AND d.objsubid = 0 AND d.refclassid = d.classid AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
         LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
         LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
         WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {NOT_OF_SERVER}
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                           WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                             AND d.objsubid = 0 AND d.deptype = 'e')
         ORDER BY n.nspname, c.relname"
    );
    let listed = connection.query(&sql, &[])?;
    let (mut sequences, mut unknown) = (Vec::new(), Vec::new());
    for row in &listed {
        // A standby refuses to read what is not logged.
        let into = if value(row, 7)? == "t" { &mut unknown } else { &mut sequences };
        into.push(read_sequence(row)?);
    }
    for some in sequences.chunks_mut(300) {
        let readable = some.iter().filter(|sequence| sequence.readable);
        let each = |sequence: &Sequence| {
            let (oid, name) = (sequence.oid, sequence.name.quoted());
            format!("SELECT {oid}::pg_catalog.oid, last_value, is_called FROM {name}")
        };
        let asked: Vec<String> = readable.map(each).collect();
        if asked.is_empty() {
            continue;
        }
        let found = connection.query(&asked.join(" UNION ALL "), &[]).map_err(|error| gone(error, some))?;
        let mut found: HashMap<u32, Row> =
            found.into_iter().map(|row| Ok((number(&row, 0)?, row))).collect::<Result<_>>()?;
        for sequence in some.iter_mut().filter(|sequence| sequence.readable) {
            let row = found.remove(&sequence.oid);
            let row = row.ok_or_else(|| Error::protocol("no answer about a sequence"))?;
            (sequence.last_value, sequence.is_called) = (number(&row, 1)?, value(&row, 2)? == "t");
        }
    }
    sequences.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((sequences, unknown))
}

fn read_sequence(row: &Row) -> Result<Sequence> {
    let name = name(row, 1)?;
    let Some(readable) = row.get(3).and_then(Option::as_deref) else {
        return Err(Error::Changed { table: name.quoted(), what: "was dropped" });
    };
    let may_be = |column: usize| row.get(column).cloned().flatten();
    Ok(Sequence {
        oid: number(row, 0)?,
        name,
        readable: readable == "t",
        identity: may_be(4).as_deref() == Some("i"),
        owned_by: may_be(5).zip(may_be(6)).map(|(schema, name)| Name { schema, name }),
        ..Sequence::default()
    })
}

/// A sequence that is not there any more was dropped after the moment.
fn gone(error: Error, asked: &[Sequence]) -> Error {
    match error.code() {
        Some("42P01" | "3F000") => {
            let message = error.to_string();
            let named = |sequence: &&Sequence| {
                message.contains(&format!("\"{}.{}\"", sequence.name.schema, sequence.name.name))
            };
            let name = asked.iter().find(named).map(|sequence| sequence.name.quoted());
            Error::Changed { table: name.unwrap_or_else(|| "a sequence".to_owned()), what: "was dropped" }
        }
        _ => error,
    }
}

fn read_large_objects(connection: &mut Connection) -> Result<u64> {
    let rows = connection.query("SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata", &[])?;
    rows.first().map_or(Ok(0), |row| number(row, 0))
}

pub(crate) fn value(row: &Row, column: usize) -> Result<&str> {
    let found = row.get(column).and_then(Option::as_deref);
    found.ok_or_else(|| Error::protocol(format!("column {column} of an answer is missing")))
}

pub(crate) fn number<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T> {
    let text = value(row, column)?;
    text.parse().map_err(|_| Error::protocol(format!("{text:?} is no number")))
}

pub(crate) fn name(row: &Row, column: usize) -> Result<Name> {
    Ok(Name { schema: value(row, column)?.to_owned(), name: value(row, column + 1)?.to_owned() })
}
