//! Large objects: values of up to 4 TB that live outside of tables and are known by number.
//!
//! They are read as two pseudo tables, with the text of COPY as all rows are: what they hold
//! (`pg_catalog.pg_largeobject`: number, place of the first byte, bytes) and whose they are
//! (`pg_catalog.pg_largeobject_metadata`: number, owner, comment, rights). The first is what a restore is measured
//! by; the second may differ after one, as owners of tables may. An empty object has one row without bytes.
//!
//! Everything works without rights over the server: who may read an object may back it up.

use std::collections::BTreeMap;

use memchr::memrchr;

use crate::catalog::{Catalog, Column, Name, Table, number, value};
use crate::conninfo::ConnInfo;
use crate::dump::{BY_INDEX, Dump, Receiver, Work, copy};
use crate::load::Nowhere;
use crate::plan::{Part, Range};
use crate::restore::{Loss, is_from_outside};
use crate::rows::RowSum;
use crate::schema::LOCK_TIMEOUT;
use crate::snapshot::{Holder, SETTINGS, begin, identifier};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// Bytes of an object in one row. Eight pages of the server, and short enough that a change makes little new.
const PIECE: u64 = 16 << 10;
/// About so many bytes are read at a time by one connection.
const PART: u64 = 64 << 20;
/// So many parts there are at most.
const MOST: u64 = 64;
/// After so many bytes, or so many rows, what was sent is put into objects and committed.
const BATCH: usize = 8 << 20;
const BATCH_ROWS: usize = 20_000;
/// Each change of an owner takes locks of the server until it is committed, and it has some thousand.
const BATCH_OWNERS: usize = 500;

/// What was read of large objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// What they hold.
    pub contents: RowSum,
    /// Whose they are.
    pub owners: RowSum,
}

/// Returns the pseudo table of what large objects hold.
pub fn contents() -> Table {
    pseudo("pg_largeobject", [("oid", "oid"), ("start", "bigint"), ("bytes", "bytea")].as_slice())
}

/// Returns the pseudo table of whose they are.
pub fn owners() -> Table {
    let columns = [("oid", "oid"), ("owner", "text"), ("comment", "text"), ("rights", "text")];
    pseudo("pg_largeobject_metadata", columns.as_slice())
}

fn pseudo(name: &str, columns: &[(&str, &str)]) -> Table {
    let column = |(name, type_name): &(&str, &str)| Column {
        name: (*name).to_owned(),
        type_name: (*type_name).to_owned(),
        ..Column::default()
    };
    Table {
        name: Name { schema: "pg_catalog".to_owned(), name: name.to_owned() },
        columns: columns.iter().map(column).collect(),
        logged: true,
        readable: true,
        ..Table::default()
    }
}

impl Dump<'_> {
    /// Reads all large objects of the moment. The receiver gets the parts of [`contents`] and of [`owners`]; their
    /// places are those behind the last table of the catalog. Where the catalog says that there are none, nothing is
    /// read.
    ///
    /// # Errors
    /// As [`Dump::run`]; the server names an object that this user may not read.
    pub fn large_objects(&self, receiver: &dyn Receiver) -> Result<Sums> {
        if self.catalog.large_objects == 0 {
            return Ok(Sums::default());
        }
        let place = self.catalog.tables.len();
        let parts = self.parts_of_large_objects(place)?;
        let (contents, owners) = (contents(), owners());
        let work = Work::new(parts, place + 2);
        let read = |connection: &mut Connection, part: &Part| {
            begin(connection, Some(self.snapshot))?;
            connection.execute(BY_INDEX)?;
            let (table, statement) = match part.table == place {
                true => (&contents, contents_statement(&part.range)),
                false => (&owners, OWNERS.to_owned()),
            };
            let sum = copy(connection, part, table, &statement, receiver)?;
            connection.execute("COMMIT")?;
            Ok(Some(sum))
        };
        self.each(&work, &read);
        let sums = work.end()?;
        let sum = |place: usize| sums.get(place).copied().unwrap_or_default();
        let sums = Sums { contents: sum(place), owners: sum(place + 1) };
        match sums.owners.rows == self.catalog.large_objects && sums.contents.rows >= sums.owners.rows {
            true => Ok(sums),
            false => Err(Error::protocol("another number of large objects than there are")),
        }
    }

    fn parts_of_large_objects(&self, place: usize) -> Result<Vec<Part>> {
        let part = |number, parts, bytes, range| Part { table: place, number, parts, bytes, range };
        let mut connection = Connection::open(self.info, self.options)?;
        begin(&mut connection, Some(self.snapshot))?;
        let (bytes, cuts) = cuts(&mut connection, self.catalog)?;
        let ranges = ranges(&cuts);
        let (count, each) = (ranges.len(), bytes / ranges.len() as u64);
        let all = ranges.into_iter().enumerate();
        let mut found: Vec<Part> = all.map(|(number, range)| part(number, count, each, range)).collect();
        found.push(Part { table: place + 1, number: 0, parts: 1, bytes: 0, range: Range::Whole });
        Ok(found)
    }
}

/// Returns how many bytes all objects have, about, and numbers that cut them into parts of as many objects.
fn cuts(connection: &mut Connection, catalog: &Catalog) -> Result<(u64, Vec<String>)> {
    let sql =
        "SELECT pg_catalog.pg_table_size('pg_catalog.pg_largeobject'::pg_catalog.regclass::pg_catalog.oid)";
    let rows = connection.query(sql, &[])?;
    let bytes: u64 = rows.first().map_or(Ok(0), |row| number(row, 0))?;
    let step = catalog.large_objects.div_ceil(bytes.div_ceil(PART).clamp(1, MOST)).max(1);
    let sql = "SELECT oid FROM (SELECT oid, pg_catalog.row_number() OVER (ORDER BY oid) AS place
                                FROM pg_catalog.pg_largeobject_metadata) AS objects
               WHERE place > 1 AND place % $1::pg_catalog.int8 = 1 % $1::pg_catalog.int8 ORDER BY oid";
    let rows = connection.query(sql, &[Some(&step.to_string())])?;
    let cuts: Result<Vec<String>> = rows.iter().map(|row| value(row, 0).map(str::to_owned)).collect();
    Ok((bytes, cuts?))
}

fn ranges(cuts: &[String]) -> Vec<Range> {
    let from = std::iter::once(None).chain(cuts.iter().cloned().map(Some));
    let to = cuts.iter().cloned().map(Some).chain([None]);
    from.zip(to).map(|(from, to)| Range::Keys { from, to }).collect()
}

/// Returns the statement that reads what the objects of a range hold. Each is opened to learn its length and closed
/// again, so that however many there are, one is open.
fn contents_statement(range: &Range) -> String {
    let mut condition = String::new();
    if let Range::Keys { from, to } = range {
        let is = |comparison: &str, bound: &Option<String>| {
            let bound = bound.as_deref().and_then(|bound| bound.parse::<u32>().ok());
            bound.map(|bound| format!("m.oid {comparison} {bound}::pg_catalog.oid"))
        };
        let conditions: Vec<String> = is(">=", from).into_iter().chain(is("<", to)).collect();
        if !conditions.is_empty() {
            condition = format!("WHERE {}", conditions.join(" AND "));
        }
    }
    format!(
        "COPY (SELECT o.oid, s.start, pg_catalog.lo_get(o.oid, s.start, {PIECE})
         FROM (SELECT m.oid, pg_catalog.lo_open(m.oid, 262144) AS handle
               FROM pg_catalog.pg_largeobject_metadata m {condition} ORDER BY m.oid OFFSET 0) AS o,
              LATERAL (SELECT pg_catalog.lo_lseek64(o.handle, 0, 2) AS size OFFSET 0) AS z,
              LATERAL (SELECT pg_catalog.lo_close(o.handle) AS closed WHERE z.size >= 0 OFFSET 0) AS c,
              LATERAL pg_catalog.generate_series(0, greatest(z.size - 1, 0), {PIECE}) AS s (start)
         WHERE c.closed = 0) TO STDOUT"
    )
}

/// Reads whose the objects are. Rights are absent where nobody ever changed them.
const OWNERS: &str = "COPY (
    SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner), pg_catalog.obj_description(m.oid, 'pg_largeobject'),
           CASE WHEN m.lomacl IS NOT NULL THEN (
               SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                          'grantee', CASE a.grantee WHEN 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                          'privilege', a.privilege_type, 'grantable', a.is_grantable,
                          'grantor', pg_catalog.pg_get_userbyid(a.grantor))), '[]')
               FROM pg_catalog.aclexplode(m.lomacl) AS a) END
    FROM pg_catalog.pg_largeobject_metadata m ORDER BY m.oid) TO STDOUT";

/// Reads all large objects of a database, by `jobs` connections, and sums them up as a backup does.
///
/// # Errors
/// When any of them cannot be read.
pub(crate) fn sums(info: &ConnInfo, options: &Options, jobs: usize) -> Result<Sums> {
    let mut holder = Holder::begin(Connection::open(info, options)?)?;
    let sql = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata";
    let rows = holder.connection().query(sql, &[])?;
    let large_objects = rows.first().map_or(Ok(0), |row| number(row, 0))?;
    let catalog = Catalog { large_objects, ..Catalog::default() };
    Dump { info, options, snapshot: holder.id(), catalog: &catalog, jobs, lock_timeout: LOCK_TIMEOUT }
        .large_objects(&Nowhere)
}

/// Sums up whose the large objects of a database are.
///
/// # Errors
/// When the server cannot be asked.
pub fn sum_of_owners(connection: &mut Connection) -> Result<RowSum> {
    begin(connection, None)?;
    let part = Part { table: 0, number: 0, parts: 1, bytes: 0, range: Range::Whole };
    let sum = copy(connection, &part, &owners(), OWNERS, &Nowhere)?;
    connection.execute("COMMIT")?;
    Ok(sum)
}

/// Puts large objects into a database. They come as the rows that [`Dump::large_objects`] gave, in any pieces; what
/// arrived is committed from time to time, so a restore that dies leaves some of them.
#[derive(Debug)]
pub struct Restorer<'a> {
    connection: &'a mut Connection,
    what: What,
    /// Rows, the last of which may be cut.
    rows: Vec<u8>,
    count: u64,
    /// What could not be given, of how many objects, and why the first one could not.
    refused: BTreeMap<String, (u64, String)>,
}

/// What is restored of large objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// What they hold. None of these objects may hold anything yet.
    Contents,
    /// Comments, and, as they are wanted, owners and rights, of objects that are there. Those that this user may not
    /// give are left out and told.
    Owners {
        /// Whether they belong again to whom they belonged.
        owners: bool,
        /// Whether the same roles may use them again.
        privileges: bool,
    },
}

/// Where rows wait until they are put into objects. It is empty after each commit.
const WAITING: &str = "pg_temp.dbkeep_large_objects";

impl<'a> Restorer<'a> {
    /// Begins. The connection must be in no transaction.
    pub fn begin(connection: &'a mut Connection, what: What) -> Result<Self> {
        let columns = match what {
            What::Contents => "oid pg_catalog.oid, start pg_catalog.int8, bytes pg_catalog.bytea",
            What::Owners { .. } => {
                "oid pg_catalog.oid, owner pg_catalog.text, comment pg_catalog.text, rights pg_catalog.json"
            }
        };
        connection.execute(&format!(
            "DROP TABLE IF EXISTS {WAITING}; CREATE TEMP TABLE dbkeep_large_objects ({columns}) ON COMMIT DELETE ROWS"
        ))?;
        Ok(Self { connection, what, rows: Vec::new(), count: 0, refused: BTreeMap::new() })
    }

    /// Takes the next bytes; a row may be in several.
    ///
    /// # Errors
    /// When the server refuses an object: what was committed before stays.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.rows.extend_from_slice(bytes);
        while self.rows.len() >= BATCH {
            let Some(end) = memrchr(b'\n', &self.rows) else { break };
            self.put(end + 1)?;
        }
        Ok(())
    }

    /// Ends the rows. Returns how many there were, and what could not be given: owners, rights, comments.
    ///
    /// # Errors
    /// When the last row is cut, or the server refuses an object.
    pub fn finish(mut self) -> Result<(u64, Vec<Loss>)> {
        while let Some(end) = memrchr(b'\n', &self.rows) {
            self.put(end + 1)?;
        }
        if !self.rows.is_empty() {
            return Err(Error::protocol("a row of a large object that is cut"));
        }
        self.connection.execute(&format!("DROP TABLE IF EXISTS {WAITING}"))?;
        let loss = |(what, (count, why)): (String, (u64, String))| {
            let objects = if count == 1 { "object" } else { "objects" };
            Loss { what: format!("{what} of {count} large {objects}"), why }
        };
        Ok((self.count, self.refused.into_iter().map(loss).collect()))
    }

    /// Puts rows into objects, some of these bytes, and forgets them.
    fn put(&mut self, end: usize) -> Result<()> {
        let most = match self.what {
            What::Contents => BATCH_ROWS,
            What::Owners { .. } => BATCH_OWNERS,
        };
        let ends = memchr::memchr_iter(b'\n', &self.rows[..end]);
        let some = ends.take(most).last().map_or(end, |last| last + 1);
        self.connection.execute("BEGIN")?;
        self.connection.execute(SETTINGS)?;
        let mut copy = self.connection.copy_in(&format!("COPY {WAITING} FROM STDIN"))?;
        copy.write(&self.rows[..some])?;
        self.count += copy.finish()?;
        match self.what {
            What::Contents => self.fill()?,
            What::Owners { owners, privileges } => self.describe(owners, privileges)?,
        }
        self.connection.execute("COMMIT")?;
        self.rows.drain(..some);
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let there = self.connection.query(
            &format!(
                "SELECT oid FROM {WAITING} AS w WHERE start = 0
                 AND EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata AS m WHERE m.oid = w.oid)"
            ),
            &[],
        )?;
        for row in there {
            let oid = value(&row, 0)?;
            let begin = self.connection.query(
                "SELECT pg_catalog.length(pg_catalog.lo_get($1::pg_catalog.oid, 0, 1))",
                &[Some(oid)],
            )?;
            if begin.first().and_then(|row| row.first()?.as_deref()) != Some("0") {
                return Err(Error::Exists { what: format!("large object {oid}") });
            }
        }
        self.connection.query(
            &format!(
                "SELECT pg_catalog.lo_create(oid) FROM (SELECT DISTINCT oid FROM {WAITING} ORDER BY oid OFFSET 0) AS w
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata AS m WHERE m.oid = w.oid)"
            ),
            &[],
        )?;
        let put = format!(
            "SELECT pg_catalog.lo_put(oid, start, bytes) FROM {WAITING} WHERE pg_catalog.length(bytes) > 0"
        );
        self.connection.query(&put, &[]).map(drop)
    }

    /// Has the server write the statements, which quotes all names, and sends them back.
    fn describe(&mut self, owners: bool, privileges: bool) -> Result<()> {
        for (what, statement) in descriptions(owners, privileges) {
            let rows = self.connection.query(&statement, &[])?;
            let made: Vec<String> = rows.iter().filter_map(|row| row.first()?.clone()).collect();
            if made.is_empty() || self.carry_out(&made.join(";\n"))?.is_none() {
                continue;
            }
            // One of them is refused, and this says which.
            for (row, statement) in rows.iter().zip(&made) {
                let Some(why) = self.carry_out(statement)? else { continue };
                let role = row.get(1).cloned().flatten().map(|role| format!(" {}", identifier(&role)));
                let what = format!("{what}{}", role.unwrap_or_default());
                self.refused.entry(what).or_insert((0, why)).0 += 1;
            }
        }
        Ok(())
    }

    /// Carries statements out, all or none of them. Returns why the server refuses them.
    fn carry_out(&mut self, statements: &str) -> Result<Option<String>> {
        self.connection.execute("SAVEPOINT objects")?;
        match self.connection.execute(statements) {
            Ok(()) => self.connection.execute("RELEASE SAVEPOINT objects").map(|()| None),
            Err(Error::Server(error)) if !is_from_outside(&error.code) => {
                let back = "ROLLBACK TO SAVEPOINT objects; RELEASE SAVEPOINT objects";
                self.connection.execute(back).map(|()| Some(error.message))
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the queries for the statements about objects, each with what they give. Beside a statement stands the role
/// that it is about.
fn descriptions(owners: bool, privileges: bool) -> Vec<(&'static str, String)> {
    let comments = format!(
        "SELECT pg_catalog.format('COMMENT ON LARGE OBJECT %s IS %L', oid, comment) FROM {WAITING}
         WHERE comment IS NOT NULL"
    );
    let mut queries = vec![("comment", comments)];
    // Owners come before rights, which are given by them.
    if owners {
        let give = "SELECT pg_catalog.format('ALTER LARGE OBJECT %s OWNER TO %I', oid, owner), owner";
        queries.push(("owner", format!("{give} FROM {WAITING}")));
    }
    if privileges {
        let none = format!(
            "SELECT pg_catalog.format('REVOKE ALL ON LARGE OBJECT %s FROM PUBLIC; REVOKE ALL ON LARGE OBJECT %s FROM %I',
                                      oid, oid, pg_catalog.pg_get_userbyid(m.lomowner))
             FROM {WAITING} AS w JOIN pg_catalog.pg_largeobject_metadata AS m USING (oid) WHERE rights IS NOT NULL"
        );
        queries.push(("privileges", none));
        // Who passed a right on does so again.
        let granted = format!(
            "SELECT pg_catalog.format('%sGRANT %s ON LARGE OBJECT %s TO %s%s%s',
                    CASE WHEN r.grantor <> w.owner THEN pg_catalog.format('SET LOCAL ROLE %I; ', r.grantor) END,
                    CASE WHEN r.privilege IN ('SELECT', 'UPDATE') THEN r.privilege END, w.oid,
                    coalesce(pg_catalog.quote_ident(r.grantee), 'PUBLIC'),
                    CASE WHEN r.grantable THEN ' WITH GRANT OPTION' END,
                    CASE WHEN r.grantor <> w.owner THEN '; RESET ROLE' END), coalesce(r.grantee, 'PUBLIC')
             FROM {WAITING} AS w, LATERAL ROWS FROM (pg_catalog.json_to_recordset(w.rights) AS (
                      grantee pg_catalog.text, privilege pg_catalog.text, grantable pg_catalog.bool,
                      grantor pg_catalog.text)) WITH ORDINALITY
                  AS r (grantee, privilege, grantable, grantor, place) ORDER BY w.oid, r.place"
        );
        queries.push(("privileges for", granted));
    }
    queries
}

#[cfg(test)]
mod tests;
