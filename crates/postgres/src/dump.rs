//! Reading all rows of one moment, by several connections at once.
//!
//! Each part is read in a transaction of its own that takes over the snapshot: begin, lock the table, look whether its
//! rows are still those of the moment, copy, end. The lock lasts for one part, so a migration waits seconds for us at
//! most; what it rewrote is found by the look, because a rewritten table has another file. Such a table reads as empty
//! under the old snapshot, without an error, which is why nothing here relies on errors alone.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::catalog::{Catalog, Table};
use crate::conninfo::ConnInfo;
use crate::error::BoxError;
use crate::plan::{Cut, Part, READS_RANGES, cut, parts, shared_out, whole_tables};
use crate::restore::prepared_session;
use crate::rows::{RowEnd, RowSum, RowSummer};
use crate::snapshot::{Holder, begin, literal, version};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// Rows in the order of an index, as they come from it.
pub(crate) const BY_INDEX: &str = "SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off;
    SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on";
/// Rows as the table itself has them, whatever its indexes say.
const BY_TABLE: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off;
    SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off";

/// As the server reads by itself, for what the same transaction asks afterwards.
const AS_USUAL: &str = "SET LOCAL enable_sort = DEFAULT; SET LOCAL enable_seqscan = DEFAULT;
    SET LOCAL enable_indexscan = DEFAULT; SET LOCAL enable_indexonlyscan = DEFAULT;
    SET LOCAL enable_bitmapscan = DEFAULT";

/// Takes the rows of parts. Parts come at once, from several threads.
pub trait Receiver: Sync {
    /// Takes the rows of a part that is about to be read.
    ///
    /// # Errors
    /// Ends the reading of all parts.
    fn open(&self, part: &Part, table: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError>;
}

/// Takes the rows of one part, as COPY writes them.
pub trait PartReceiver {
    /// Takes the next bytes, and where rows end in them; a row may be in several.
    fn take(&mut self, bytes: &[u8], ends: &[RowEnd]) -> Result<(), BoxError>;

    /// All rows of the part have come.
    fn finish(self: Box<Self>, sum: RowSum) -> Result<(), BoxError>;
}

/// Reads the parts of a moment.
#[derive(Debug)]
pub struct Dump<'a> {
    /// How the server is reached.
    pub info: &'a ConnInfo,
    /// How connections behave.
    pub options: &'a Options,
    /// The snapshot.
    pub snapshot: &'a str,
    /// What is there.
    pub catalog: &'a Catalog,
    /// How many connections read.
    pub jobs: usize,
    /// How long one table is waited for.
    pub lock_timeout: Duration,
}

/// Returns all parts of a moment, cut by what the server knows of the values of keys.
///
/// # Errors
/// When the server cannot be asked.
pub fn plan(holder: &mut Holder, catalog: &Catalog) -> Result<Vec<Part>> {
    let connection = holder.connection();
    let by_pages = version(connection)? >= READS_RANGES;
    let mut bounds = HashMap::new();
    for table in catalog.with_rows() {
        if let Some(cut) = cut(table) {
            bounds.insert(table.oid, read_bounds(connection, table, cut)?);
        }
    }
    Ok(parts(catalog, by_pages, |table| bounds.get(&table.oid).cloned().unwrap_or_default()))
}

/// The collation of a column compares bytes, so nothing changes its order: `a` is the column, `l` the collation.
const COMPARES_BYTES: &str = "EXISTS (
    SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
    JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
    WHERE a.attrelid = $4::pg_catalog.oid AND a.attnum = $5::pg_catalog.int2 AND CASE l.collprovider
        WHEN 'b' THEN true
        WHEN 'c' THEN l.collcollate IN ('C', 'POSIX')
        WHEN 'd' THEN CASE coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c')
            WHEN 'b' THEN true WHEN 'c' THEN d.datcollate IN ('C', 'POSIX') ELSE false END
        ELSE false END)";

/// Reads values that cut a table into pieces of about equal size. They are sorted as the server compares them now: the
/// statistics may be of a time when it did so in another way.
fn read_bounds(connection: &mut Connection, table: &Table, cut: Cut<'_>) -> Result<Vec<String>> {
    let Cut { column, type_name, is_text } = cut;
    let (collation, condition) =
        if is_text { ("COLLATE pg_catalog.\"C\"", COMPARES_BYTES) } else { ("", "true") };
    let sql = format!(
        "SELECT bound FROM (
             SELECT DISTINCT value::pg_catalog.{type_name} {collation} AS bound FROM pg_catalog.pg_stats s,
                    pg_catalog.unnest(s.histogram_bounds::pg_catalog.text::pg_catalog.text[]) AS value
             WHERE s.schemaname = $1 AND s.tablename = $2 AND s.attname = $3 AND NOT s.inherited AND {condition}
         ) AS bounds ORDER BY bound"
    );
    let (oid, number) = (table.oid.to_string(), column.number.to_string());
    let mut parameters = vec![&table.name.schema, &table.name.name, &column.name];
    parameters.extend(is_text.then_some([&oid, &number]).into_iter().flatten());
    let parameters: Vec<Option<&str>> = parameters.into_iter().map(|text| Some(text.as_str())).collect();
    Ok(connection.query(&sql, &parameters)?.into_iter().flatten().flatten().collect())
}

/// How a part gets the lock of its table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// It waits for it, for so long.
    Waits(Duration),
    /// It waits until it has it: whoever has it is one of our own, and ends.
    Endless,
    /// It does not: whoever is before it waits for a lock of ours, so that all three would wait for each other.
    Never,
}

impl Dump<'_> {
    /// Reads all parts, the first first. Returns the sums of all tables, as the catalog has them.
    ///
    /// # Errors
    /// The first that any connection met; nothing of what was received counts then. [`Error::Changed`] says that the
    /// moment is over and another one may succeed.
    pub fn run(&self, parts: Vec<Part>, receiver: &dyn Receiver) -> Result<Vec<RowSum>> {
        let work = Work::new(parts, self.catalog.tables.len());
        let waits = Patience::Waits(self.lock_timeout);
        self.each(&work, &|connection, part| self.read(connection, part, waits, receiver, &work));
        self.complete(work)
    }

    /// Reads all tables in a database that nobody else knows: who has a lock is one of our own sessions, and is waited for.
    /// The tables in the places `held` are read when `freed` has returned. `by_pages` says whether the server can read a
    /// range of pages, so that a large table may be shared out.
    ///
    /// # Errors
    /// As [`Dump::run`], and that of `freed`.
    pub(crate) fn run_alone(
        &self,
        receiver: &dyn Receiver,
        by_pages: bool,
        held: BTreeSet<usize>,
        freed: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<RowSum>> {
        let work = Work::new(whole_tables(self.catalog), self.catalog.tables.len()).without(held);
        let work = Work { alone: Some(Alone { catalog: self.catalog, jobs: self.jobs, by_pages }), ..work };
        let read = |connection: &mut Connection, part: &Part| {
            self.read(connection, part, Patience::Endless, receiver, &work)
        };
        thread::scope(|scope| {
            let read = || self.each(&work, &read);
            let started = thread::Builder::new().name("read rows".to_owned()).spawn_scoped(scope, read);
            let started = started.map_err(|source| Error::System { what: "start a thread", source });
            match started.and_then(|_| freed()) {
                Ok(()) => work.release(),
                Err(error) => work.note(Err(error)),
            }
        });
        self.complete(work)
    }

    /// Does the same where the connection of the holder has locked all tables already. It reads itself what others
    /// could not lock, because somebody waits to change the table.
    ///
    /// # Errors
    /// As [`Dump::run`].
    pub fn run_locked(
        &self,
        parts: Vec<Part>,
        holder: &Mutex<Holder>,
        receiver: &dyn Receiver,
    ) -> Result<Vec<RowSum>> {
        let work = Work::new(parts, self.catalog.tables.len());
        self.each(&work, &|connection, part| self.read(connection, part, Patience::Never, receiver, &work));
        for part in work.left_over() {
            let mut holder = holder.lock().unwrap_or_else(PoisonError::into_inner);
            let read =
                self.read_on(holder.connection(), &part, Patience::Waits(self.lock_timeout), receiver, &work);
            let read = read.and_then(|sum| sum.ok_or_else(|| Error::protocol("a table that was not locked")));
            let read = read.and_then(|sum| holder.connection().execute(AS_USUAL).map(|()| sum));
            work.note(read.map(|sum| work.add(part.table, sum)));
        }
        self.complete(work)
    }

    /// Returns the sums of all tables, of which those that were read by an index must have as many rows as the table.
    fn complete(&self, work: Work<'_>) -> Result<Vec<RowSum>> {
        let counts = std::mem::take(&mut *work.counts.lock().unwrap_or_else(PoisonError::into_inner));
        let sums = work.end()?;
        for (place, there) in counts {
            let read = sums.get(place).map_or(0, |sum| sum.rows);
            if read != there {
                let table =
                    self.catalog.tables.get(place).map(|table| table.name.quoted()).unwrap_or_default();
                return Err(Error::Index { table, read, there });
            }
        }
        Ok(sums)
    }

    /// Does something to each part, by several connections at once. What comes to nothing is left over.
    pub(crate) fn each(&self, work: &Work<'_>, read: &Reading<'_>) {
        let jobs = self.jobs.clamp(1, work.readers());
        thread::scope(|scope| {
            for number in 0..jobs {
                let name = format!("read rows {number}");
                let worker = || work.note(self.work(work, read));
                if let Err(source) = thread::Builder::new().name(name).spawn_scoped(scope, worker) {
                    work.note(Err(Error::System { what: "start a thread", source }));
                }
            }
        });
    }

    fn work(&self, work: &Work<'_>, read: &Reading<'_>) -> Result<()> {
        let mut connection = None;
        while let Some(part) = work.next() {
            if (self.options.stop)() {
                return Err(Error::Stopped);
            }
            let connection = match &mut connection {
                Some(connection) => connection,
                // It may have to wait for longer than servers let sessions be idle.
                None if work.alone.is_some() => connection.insert(prepared_session(self.info, self.options)?),
                None => connection.insert(Connection::open(self.info, self.options)?),
            };
            match read(connection, &part)? {
                Some(sum) => work.add(part.table, sum),
                None => work.leave_over(part),
            }
        }
        Ok(())
    }

    fn read(
        &self,
        connection: &mut Connection,
        part: &Part,
        patience: Patience,
        receiver: &dyn Receiver,
        work: &Work<'_>,
    ) -> Result<Option<RowSum>> {
        begin(connection, Some(self.snapshot))?;
        let sum = self.read_on(connection, part, patience, receiver, work)?;
        connection.execute(if sum.is_some() { "COMMIT" } else { "ROLLBACK" })?;
        Ok(sum)
    }

    /// Reads a part in the transaction of a connection. Returns nothing where the lock is not to be had.
    fn read_on(
        &self,
        connection: &mut Connection,
        part: &Part,
        patience: Patience,
        receiver: &dyn Receiver,
        work: &Work<'_>,
    ) -> Result<Option<RowSum>> {
        let table =
            self.catalog.tables.get(part.table).ok_or_else(|| Error::protocol("a part of no table"))?;
        if part.is_in_order(table) {
            // By the index, which has them in order: sorting would fill the disk of the server with temporary files.
            connection.execute(BY_INDEX)?;
        }
        match (lock(connection, table, patience), patience) {
            (Err(error), Patience::Never) if error.code() == Some("55P03") => return Ok(None),
            (Err(error), Patience::Waits(after)) if error.code() == Some("55P03") => {
                let table = table.name.quoted();
                return Err(Error::Locked { table, by: "somebody".to_owned(), after });
            }
            (locked, _) => locked?,
        }
        let sum = copy(connection, part, table, &part.statement(table), receiver)?;
        if part.number == 0 && part.is_in_order(table) {
            work.expect(part.table, count(connection, table)?);
        }
        Ok(Some(sum))
    }
}

/// What reads a part; nothing comes of a part that is left over.
type Reading<'a> = dyn Fn(&mut Connection, &Part) -> Result<Option<RowSum>> + Sync + 'a;

/// Locks a table against being changed, and makes sure that it was not.
fn lock(connection: &mut Connection, table: &Table, patience: Patience) -> Result<()> {
    let name = table.name.quoted();
    let (timeout, nowait) = match patience {
        Patience::Waits(time) => (format!("SET LOCAL lock_timeout = {};", time.as_millis()), ""),
        Patience::Endless => ("SET LOCAL lock_timeout = 0;".to_owned(), ""),
        Patience::Never => (String::new(), " NOWAIT"),
    };
    let statement = format!("{timeout} LOCK TABLE ONLY {name} IN ACCESS SHARE MODE{nowait}");
    connection.execute(&statement).map_err(|error| dropped(error, table))?;
    check_files(connection, &[table])?;
    check_columns(connection, table)
}

/// There is no table or no schema of that name any more.
fn dropped(error: Error, table: &Table) -> Error {
    match error.code() {
        Some("42P01" | "3F000") => Error::Changed { table: table.name.quoted(), what: "was dropped" },
        _ => error,
    }
}

/// Makes sure that locked tables are those of the moment, with the same files. What functions of the server say is of
/// now, whatever the transaction sees.
pub(crate) fn check_files(connection: &mut Connection, tables: &[&Table]) -> Result<()> {
    let place = |(place, table): (usize, &&Table)| {
        format!("({place}, {}::pg_catalog.oid, {})", table.oid, literal(&table.name.quoted()))
    };
    let values: Vec<String> = tables.iter().enumerate().map(place).collect();
    let sql = format!(
        "SELECT pg_catalog.pg_relation_filenode(oid), pg_catalog.to_regclass(name)::pg_catalog.oid
         FROM (VALUES {}) AS tables (place, oid, name) ORDER BY place",
        values.join(", ")
    );
    let rows = connection.query(&sql, &[])?;
    for (number, table) in tables.iter().enumerate() {
        let value = |column: usize| rows.get(number).and_then(|row| row.get(column)?.clone());
        let changed = |what| Err(Error::Changed { table: table.name.quoted(), what });
        if value(1) != Some(table.oid.to_string()) {
            return changed("is another table now");
        }
        // A table whose rows are elsewhere has no file.
        if table.has_rows() && value(0) != Some(table.filenode.to_string()) {
            return changed("was rewritten or emptied");
        }
    }
    Ok(())
}

/// Makes sure that the columns of a locked table are those of the moment: a column that took the name of another one
/// would be read in its place.
fn check_columns(connection: &mut Connection, table: &Table) -> Result<()> {
    let columns = table.stored_columns();
    if columns.is_empty() {
        return Ok(());
    }
    let changed = |what| Error::Changed { table: table.name.quoted(), what };
    let now = connection.describe(&format!("SELECT {columns} FROM ONLY {}", table.name.quoted()));
    let now = now.map_err(|error| match error.code() {
        Some("42703") => changed("lost a column"),
        _ => error,
    })?;
    let stored = table.columns.iter().filter(|column| !column.generated);
    let same = stored.zip(&now).all(|(column, now)| {
        (column.number, column.type_oid) == (now.number, now.type_oid) && now.table == table.oid
    });
    if same { Ok(()) } else { Err(changed("has other columns")) }
}

/// Counts the rows of a table without any index: a damaged one has fewer, and nobody would see it.
fn count(connection: &mut Connection, table: &Table) -> Result<u64> {
    connection.execute(BY_TABLE)?;
    let condition = Part::of_all().condition(table);
    let sql = format!("SELECT pg_catalog.count(*) FROM ONLY {}{condition}", table.name.quoted());
    let found = connection.query(&sql, &[])?.pop().and_then(|mut row| row.pop()?);
    let found = found.and_then(|count| count.parse().ok());
    found.ok_or_else(|| Error::protocol("a count that is no number"))
}

pub(crate) fn copy(
    connection: &mut Connection,
    part: &Part,
    table: &Table,
    statement: &str,
    receiver: &dyn Receiver,
) -> Result<RowSum> {
    let too_long = |error| too_long(error, table);
    let mut rows = connection.copy_out(statement).map_err(too_long)?;
    let mut open = receiver.open(part, table).map_err(Error::Receiver)?;
    let mut summer = RowSummer::default();
    while let Some(piece) = rows.next_piece().map_err(too_long)? {
        let ends = summer.update(piece);
        open.take(piece, ends).map_err(Error::Receiver)?;
    }
    let sum = summer.finish().ok_or_else(|| Error::protocol("a row without an end"))?;
    open.finish(sum).map_err(Error::Receiver)?;
    Ok(sum)
}

/// Says which table it is that has a row longer than a server can hold as text. It has no code of its own for that.
fn too_long(error: Error, table: &Table) -> Error {
    match error {
        Error::Server(source)
            if source.code == "54000"
                || source.code == "XX000"
                    && source.message.starts_with("invalid memory alloc request size") =>
        {
            Error::RowTooLong { table: table.name.quoted(), source }
        }
        error => error,
    }
}

/// What is left to read, and what came of it.
pub(crate) struct Work<'c> {
    queue: Mutex<Queue>,
    /// Something in the queue is to be looked at again by who waits.
    changed: Condvar,
    sums: Mutex<Vec<RowSum>>,
    /// How many rows tables have that are read by an index.
    counts: Mutex<Vec<(usize, u64)>>,
    left_over: Mutex<Vec<Part>>,
    /// How that is done where nobody else is.
    alone: Option<Alone<'c>>,
}

/// Readers who share out what takes longest.
struct Alone<'c> {
    catalog: &'c Catalog,
    /// How many they are.
    jobs: usize,
    /// Whether the server can read a range of pages.
    by_pages: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Part>,
    /// The places of tables that may not be read yet.
    held: BTreeSet<usize>,
    failed: Option<Error>,
}

impl Work<'_> {
    /// Begins with parts of so many tables.
    pub(crate) fn new(parts: Vec<Part>, tables: usize) -> Self {
        Self {
            queue: Mutex::new(Queue { waiting: parts.into(), ..Queue::default() }),
            changed: Condvar::new(),
            sums: Mutex::new(vec![RowSum::default(); tables]),
            counts: Mutex::default(),
            left_over: Mutex::new(Vec::new()),
            alone: None,
        }
    }

    /// Holds tables back until [`Work::release`].
    fn without(self, held: BTreeSet<usize>) -> Self {
        self.queue().held = held;
        self
    }

    /// Lets all tables be read.
    fn release(&self) {
        self.queue().held.clear();
        self.changed.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of how many rows a table has.
    fn expect(&self, table: usize, rows: u64) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push((table, rows));
    }

    /// Returns the sums of all tables, or the first failure.
    pub(crate) fn end(self) -> Result<Vec<RowSum>> {
        match self.queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
            Some(error) => Err(error),
            None => Ok(self.sums.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn leave_over(&self, part: Part) {
        self.left_over.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }

    /// Returns what was left over; nothing after a failure.
    fn left_over(&self) -> Vec<Part> {
        if self.queue().failed.is_some() {
            return Vec::new();
        }
        std::mem::take(&mut self.left_over.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns how many may find something to read.
    fn readers(&self) -> usize {
        let parts = self.queue().waiting.len();
        self.alone.as_ref().map_or(parts, |alone| alone.jobs).max(1)
    }

    /// Returns the next part, waiting for one of a table that is held back; none after a failure.
    fn next(&self) -> Option<Part> {
        let mut queue = self.queue();
        while queue.failed.is_none() && !queue.waiting.is_empty() {
            let free = queue.waiting.iter().position(|part| !queue.held.contains(&part.table));
            if let Some(part) = free.and_then(|free| queue.waiting.remove(free)) {
                return Some(self.begin_of(part, &mut queue));
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Returns a part, or the first piece of it where others may take the rest.
    fn begin_of(&self, part: Part, queue: &mut Queue) -> Part {
        let Some(alone) = self.alone.as_ref().filter(|alone| alone.by_pages) else { return part };
        let Some(table) = alone.catalog.tables.get(part.table) else { return part };
        let left = part.bytes + queue.waiting.iter().map(|part| part.bytes).sum::<u64>();
        let mut pieces = VecDeque::from(shared_out(part.clone(), table, left, alone.jobs));
        let first = pieces.pop_front().unwrap_or(part);
        // The largest stays the first.
        let place = queue.waiting.partition_point(|waiting| waiting.bytes > first.bytes);
        let behind = queue.waiting.split_off(place);
        queue.waiting.extend(pieces);
        queue.waiting.extend(behind);
        self.changed.notify_all();
        first
    }

    fn add(&self, table: usize, sum: RowSum) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = sums.get_mut(table) {
            *all = all.plus(sum);
        }
    }

    fn note(&self, result: Result<()>) {
        if let Err(error) = result {
            self.queue().failed.get_or_insert(error);
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
