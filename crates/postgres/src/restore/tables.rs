//! Bringing some tables back into a database that is in use.
//!
//! One transaction: the tables with their rows, indexes, constraints, triggers, policies, and with the sequences that are
//! theirs, or nothing. Their rows are read and summed up again before it is committed. Where tables of these names are
//! there already they are dropped in the same transaction; readers of them wait until its end. What else needs them
//! (views, foreign keys of other tables) would have to be dropped too, and is a reason to refuse.

use std::collections::BTreeSet;

use super::live::{Filled, dependents, empty, filled, foreign, missing, relation, sum, text};
use super::objects::{Losses, Maker, make_in_order, raise_memory, read_strings_as, session};
use super::pick::{Pick, pick};
use super::{Loss, RestoreOptions};
use crate::archive::{Archive, Stage};
use crate::catalog::{Catalog, Kind, Name, Sequence, Table, with_partitions};
use crate::conninfo::ConnInfo;
use crate::load::{Difference, Giver, put, set_sequences};
use crate::rows::RowSum;
use crate::snapshot::SETTINGS;
use crate::wire::{Connection, Options, Row};
use crate::{Error, Result};

/// So long readers may let the lock of a table wait: everybody who comes later waits behind it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '10s'";

/// Some tables of a backup, and where their rows are.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The tables. One that is partitioned stands for all of its partitions.
    pub names: &'a [Name],
    /// Everything in the backup.
    pub catalog: &'a Catalog,
    /// The tables of the backup that have rows, with their sums.
    pub expected: &'a [(&'a Table, RowSum)],
    /// Their rows.
    pub giver: &'a dyn Giver,
    /// Whether tables that are there are replaced; else they are an error.
    pub replace: bool,
    /// Called once with the tables that are there and are replaced, while nobody else can write to them: what is read
    /// then is what is replaced. Nothing is changed when it fails.
    pub before: &'a dyn Fn(&[Name]) -> Result<()>,
}

impl<'a> Wanted<'a> {
    /// Returns the names with those of all partitions.
    ///
    /// # Errors
    /// [`Error::Missing`] when the backup has no such table; what is only like one is none.
    pub(super) fn all(&self) -> Result<BTreeSet<Name>> {
        let is_table = |table: &&Table| matches!(table.kind, Kind::Ordinary | Kind::Partitioned);
        let there = self.catalog.tables.iter().filter(is_table);
        let there: BTreeSet<&Name> = there.map(|table| &table.name).collect();
        let absent = self.names.iter().filter(|name| !there.contains(name));
        let absent: Vec<String> = absent.map(|name| format!("table {}.{}", name.schema, name.name)).collect();
        match absent.is_empty() {
            true => Ok(with_partitions(&[self.catalog], self.names.iter().cloned())),
            false => Err(Error::Missing { place: "the backup", what: absent }),
        }
    }

    /// Returns the tables with rows among these names.
    pub(super) fn rows(&self, names: &BTreeSet<Name>) -> Vec<(&'a Table, RowSum)> {
        self.expected.iter().copied().filter(|(table, _)| names.contains(&table.name)).collect()
    }
}

/// Brings tables back with everything that is theirs, all or nothing. Returns what could not be restored.
///
/// # Errors
/// [`Error::Missing`] with what the database lacks, [`Error::Exists`] for tables that are there and are not to be
/// replaced, [`Error::Needed`] with what needs those that are. Nothing is changed then, nor after any other error.
pub fn restore_tables(
    info: &ConnInfo,
    options: &Options,
    how: &RestoreOptions,
    archive: &Archive,
    wanted: &Wanted<'_>,
) -> Result<Vec<Loss>> {
    run(info, options, how, archive, wanted, false)
}

/// Does the same in a database that has nothing yet: what the tables need is made too, but no other table.
pub(super) fn run(
    info: &ConnInfo,
    options: &Options,
    how: &RestoreOptions,
    archive: &Archive,
    wanted: &Wanted<'_>,
    with_needs: bool,
) -> Result<Vec<Loss>> {
    let names = wanted.all()?;
    let picked = pick(archive, wanted.catalog, &names, with_needs);
    let mut connection = session(info, options)?;
    raise_memory(&mut connection, 1)?;
    connection.execute("BEGIN")?;
    connection.execute(SETTINGS)?;
    connection.execute("SET LOCAL synchronous_commit = on")?;
    let lacking = missing(&mut connection, &picked.needs)?;
    if !lacking.is_empty() {
        return Err(Error::Missing { place: "the database", what: lacking });
    }
    make_room(&mut connection, &names, wanted)?;
    let mut losses = Losses::default();
    losses.all.extend(of_publications(archive, &picked));
    read_strings_as(&mut connection, archive)?;
    let mut maker = Maker::within(connection, archive, how, !with_needs);
    make_in_order(&mut maker, picked.at(Stage::BeforeRows), &mut losses)?;
    maker.connection.execute("SET LOCAL standard_conforming_strings = on")?;
    let wanted_rows = wanted.rows(&names);
    let rows = filled(&mut maker.connection, &wanted_rows)?;
    if let Some((table, _)) =
        wanted_rows.iter().find(|(table, _)| !rows.iter().any(|one| one.stored.name == table.name))
    {
        // One of an extension that was not made.
        let Name { schema, name } = &table.name;
        return Err(Error::Missing { place: "the database", what: vec![format!("table {schema}.{name}")] });
    }
    for one in &rows {
        let freeze = empty(&mut maker.connection, &one.table, true)?;
        put(&mut maker.connection, one.stored, 0..wanted.giver.pieces(one.stored)?, wanted.giver, freeze)?;
    }
    let sequences = wanted.catalog.sequences.iter();
    let owned = sequences.filter(|it| it.owned_by.as_ref().is_some_and(|table| names.contains(table)));
    let owned: Vec<Sequence> = owned.cloned().collect();
    set_sequences(&mut maker.connection, &owned)?;
    read_strings_as(&mut maker.connection, archive)?;
    make_in_order(&mut maker, picked.at(Stage::AfterRows), &mut losses)?;
    if how.privileges {
        for name in names.iter().chain(owned.iter().map(|sequence| &sequence.name)) {
            take_back_rights(&mut maker.connection, name)?;
        }
        make_in_order(&mut maker, picked.at(Stage::Privileges), &mut losses)?;
    }
    for one in &rows {
        maker.connection.execute(&format!("ANALYZE {}", one.table.name.quoted()))?;
    }
    verify(&mut maker.connection, &rows)?;
    // From here on policies may hide rows even from us.
    make_in_order(&mut maker, picked.at(Stage::Last), &mut losses)?;
    maker.connection.execute("COMMIT")?;
    Ok(losses.all)
}

/// Takes back what the database gives others on whatever is made there (`ALTER DEFAULT PRIVILEGES`): an archive says only
/// which rights are others than those that a table has by itself.
///
/// # Errors
/// [`Error::Open`] when others keep any: of what belongs to somebody else, a server lets this user take nothing back, and
/// says so in a warning at most.
fn take_back_rights(connection: &mut Connection, name: &Name) -> Result<()> {
    let rights = connection.query(RIGHTS, &[Some(&name.quoted())])?;
    for row in &rights {
        match connection.execute(&text(row, 0)?) {
            Err(error) if error.code() == Some("42501") => ensure_closed(name, &rights).and(Err(error))?,
            result => result?,
        }
    }
    ensure_closed(name, &connection.query(RIGHTS, &[Some(&name.quoted())])?)
}

/// Makes sure that of all rights there are none to be taken from somebody.
fn ensure_closed(name: &Name, rights: &[Row]) -> Result<()> {
    let to: Vec<String> = rights.iter().filter_map(|row| row.get(1).cloned().flatten()).collect();
    match to.is_empty() {
        true => Ok(()),
        false => Err(Error::Open { what: format!("{}.{}", name.schema, name.name), to }),
    }
}

/// The statements after which only the owner of a table or sequence may do something with it, and that is everything; and
/// from whom they take rights.
const RIGHTS: &str = "
    WITH made AS (SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || $1::pg_catalog.text AS what, relowner, relacl
                  FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1) AND relacl IS NOT NULL),
         others AS (SELECT DISTINCT what, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(rolname) END AS grantee
                    FROM made CROSS JOIN LATERAL pg_catalog.aclexplode(relacl) LEFT JOIN pg_catalog.pg_roles r ON r.oid = grantee
                    WHERE grantee <> relowner)
    SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s', what, grantee), grantee FROM others
    UNION ALL
    SELECT pg_catalog.format('GRANT ALL ON %s TO %I', what, rolname), NULL
    FROM made JOIN pg_catalog.pg_roles r ON r.oid = relowner
    ORDER BY 2";

/// Returns what is left alone: publications are not what somebody means who restores a table.
fn of_publications(archive: &Archive, picked: &Pick<'_>) -> Vec<Loss> {
    let ids: BTreeSet<i32> = picked.entries.iter().map(|entry| entry.id).collect();
    let members = archive.entries.iter().filter(|entry| entry.kind == "PUBLICATION TABLE");
    let members = members.filter(|entry| entry.needs.iter().any(|need| ids.contains(need)));
    let why = "a restore of tables leaves publications alone";
    members.map(|entry| Loss::of(entry, why.to_owned())).collect()
}

/// Locks tables against everybody who would write to them.
pub(super) fn keep_writers_out(connection: &mut Connection, tables: &str) -> Result<()> {
    lock(connection, tables, "SHARE ROW EXCLUSIVE")
}

/// Locks tables against everybody.
pub(super) fn keep_all_out(connection: &mut Connection, tables: &str) -> Result<()> {
    lock(connection, tables, "ACCESS EXCLUSIVE")
}

fn lock(connection: &mut Connection, tables: &str, mode: &str) -> Result<()> {
    connection.execute(LOCK_TIMEOUT)?;
    connection.execute(&format!("LOCK TABLE {tables} IN {mode} MODE"))?;
    connection.execute("SET LOCAL lock_timeout = 0")
}

/// Drops tables that are there, or says that they are in the way.
fn make_room(connection: &mut Connection, names: &BTreeSet<Name>, wanted: &Wanted<'_>) -> Result<()> {
    let mut there = Vec::new();
    for name in names {
        there.extend(relation(connection, name)?.map(|_| name.clone()));
    }
    if there.is_empty() {
        return Ok(());
    }
    let list = |names: &[Name]| names.iter().map(Name::quoted).collect::<Vec<_>>().join(", ");
    if !wanted.replace {
        return Err(Error::Exists { what: format!("table {}", list(&there)) });
    }
    // A foreign partition cannot be locked, and has no rows here.
    let is_foreign = foreign(connection, names)?;
    let (foreign, own): (Vec<Name>, Vec<Name>) =
        there.iter().cloned().partition(|name| is_foreign.contains(name));
    if !own.is_empty() {
        keep_writers_out(connection, &list(&own))?;
    }
    refuse_needed(connection, names, &list(&there))?;
    (wanted.before)(&there)?;
    if !own.is_empty() {
        keep_all_out(connection, &list(&own))?;
    }
    // A view may have come meanwhile.
    refuse_needed(connection, names, &list(&there))?;
    connection.execute(LOCK_TIMEOUT)?;
    drop_all(connection, "FOREIGN TABLE", &list(&foreign))?;
    drop_all(connection, "TABLE", &list(&own))?;
    connection.execute("SET LOCAL lock_timeout = 0")
}

/// Drops what is in a list, which may be empty.
fn drop_all(connection: &mut Connection, kind: &str, list: &str) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    connection.execute(&format!("DROP {kind} {list}")).map_err(|error| match error {
        Error::Server(error) if error.code == "2BP01" => {
            Error::Needed { what: list.to_owned(), by: error.detail.into_iter().collect() }
        }
        error => error,
    })
}

/// Returns whether the rows of a table were on another server.
pub(super) fn was_foreign(catalog: &Catalog, name: &Name) -> bool {
    catalog.tables.iter().any(|table| table.name == *name && table.kind == Kind::Foreign)
}

/// Makes sure that nothing else needs tables that are locked.
fn refuse_needed(connection: &mut Connection, names: &BTreeSet<Name>, tables: &str) -> Result<()> {
    let mut numbers = Vec::new();
    for name in names {
        numbers.extend(relation(connection, name)?);
    }
    let by = dependents(connection, &numbers)?;
    if by.is_empty() { Ok(()) } else { Err(Error::Needed { what: tables.to_owned(), by }) }
}

/// Reads rows again, before anybody else can.
///
/// # Errors
/// [`Error::Differs`] with the first table that does not hold what it should.
pub(super) fn verify(connection: &mut Connection, rows: &[Filled<'_>]) -> Result<()> {
    for Filled { table, expected, .. } in rows {
        let found = sum(connection, table)?;
        if found != *expected {
            let difference =
                Difference { table: table.name.clone(), expected: *expected, found: Some(found) };
            return Err(Error::Differs { difference: Box::new(difference) });
        }
    }
    Ok(())
}
