//! Where rows wait for their counterpart on the other side.
//!
//! Rows with a key wait for one with the same key. Rows without a key are the same when they hold the same: the first
//! of one side with the first of the other, the second with the second. What is left of them changed where both sides
//! have the same rowid. Rows wait in memory, and go to a file of SQLite's own, which has no name, when they are many.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

use rusqlite::{Connection, params};

use crate::inspect::with_interrupt;
use crate::{Error, Result};

use super::matching::{Change, Found, Locator};
use super::{LEFT, RIGHT};

type Hash = [u8; 32];

/// A row without a key.
pub(super) struct Loose {
    pub(super) content: Hash,
    pub(super) locator: Locator,
}

/// What waits.
pub(super) struct Pool {
    memory: usize,
    taken: usize,
    keyed: [HashMap<Vec<u8>, (Hash, Locator)>; 2],
    /// Of rows with the same contents, those that only one side has, in the order in which they came.
    loose: [HashMap<Hash, VecDeque<Locator>>; 2],
    changed: Vec<[Locator; 2]>,
    file: Option<File>,
}

impl Pool {
    pub(super) fn new(memory: usize) -> Self {
        let (keyed, loose) = (Default::default(), Default::default());
        Self { memory, taken: 0, keyed, loose, changed: Vec::new(), file: None }
    }

    /// Puts a row with a key. Two of one side with the same key are damage.
    pub(super) fn keyed(&mut self, side: usize, key: Vec<u8>, content: Hash, locator: Locator) -> Result<()> {
        if let Some(file) = &mut self.file {
            return file.add(Waiting { side, key: Some(key), content, locator });
        }
        if let Some((other, found)) = self.keyed[1 - side].remove(&key) {
            self.taken = self.taken.saturating_sub(cost(&key, &found));
            if other != content {
                let rows = if side == RIGHT { [found, locator] } else { [locator, found] };
                self.taken += cost(&[], &rows[LEFT]) + cost(&[], &rows[RIGHT]);
                self.changed.push(rows);
            }
            return self.spill_if_full();
        }
        self.taken += cost(&key, &locator);
        if self.keyed[side].insert(key, (content, locator)).is_some() {
            return Err(same_key());
        }
        self.spill_if_full()
    }

    /// Puts a row without a key. Those of a side come in the order of their rowids.
    pub(super) fn loose(&mut self, side: usize, row: Loose) -> Result<()> {
        if let Some(file) = &mut self.file {
            return file.add(Waiting { side, key: None, content: row.content, locator: row.locator });
        }
        if let Some(waiting) = self.loose[1 - side].get_mut(&row.content) {
            let met = waiting.pop_front();
            if waiting.is_empty() {
                self.loose[1 - side].remove(&row.content);
            }
            if let Some(met) = met {
                self.taken = self.taken.saturating_sub(cost(&row.content, &met));
                return Ok(());
            }
        }
        self.taken += cost(&row.content, &row.locator);
        self.loose[side].entry(row.content).or_default().push_back(row.locator);
        self.spill_if_full()
    }

    fn spill_if_full(&mut self) -> Result<()> {
        if self.taken <= self.memory {
            return Ok(());
        }
        tracing::debug!("rows that wait for their counterpart go to a file");
        let mut file = File::make()?;
        for (side, rows) in self.keyed.iter_mut().enumerate() {
            for (key, (content, locator)) in rows.drain() {
                file.add(Waiting { side, key: Some(key), content, locator })?;
            }
        }
        for (side, rows) in self.loose.iter_mut().enumerate() {
            for (content, locators) in rows.drain() {
                for locator in locators {
                    file.add(Waiting { side, key: None, content, locator })?;
                }
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Tells what became of all rows.
    pub(super) fn finish(self, found: &mut Found, cancelled: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        for [left, right] in self.changed {
            found.add(Change::Changed, [Some(left), Some(right)]);
        }
        if let Some(file) = self.file {
            return file.finish(found, cancelled);
        }
        let [left, right] = self.keyed;
        left.into_values().for_each(|(_, row)| found.add(Change::Removed, [Some(row), None]));
        right.into_values().for_each(|(_, row)| found.add(Change::Added, [None, Some(row)]));
        let [left, right] = self.loose.map(|rows| {
            let mut rows: Vec<Locator> = rows.into_values().flatten().collect();
            rows.sort_unstable();
            rows
        });
        pair_by_place(left, right, found);
        Ok(())
    }
}

/// What a waiting row takes in memory, about.
fn cost(key: &[u8], locator: &Locator) -> usize {
    let locator = match locator {
        Locator::Key(key) => key.len(),
        Locator::Rowid(_) | Locator::Content(_) => 0,
    };
    160 + key.len() + locator
}

/// Rows that hold what no row of the other side does: those of one rowid changed.
fn pair_by_place(left: Vec<Locator>, right: Vec<Locator>, found: &mut Found) {
    let mut of_left: BTreeMap<Locator, u64> = BTreeMap::new();
    for row in left {
        *of_left.entry(row).or_default() += 1;
    }
    for row in right {
        match of_left.get_mut(&row) {
            // Rows that are known by their contents are not the same row.
            Some(count) if matches!(row, Locator::Rowid(_)) && *count > 0 => {
                *count -= 1;
                found.add(Change::Changed, [Some(row.clone()), Some(row)]);
            }
            _ => found.add(Change::Added, [None, Some(row)]),
        }
    }
    for (row, count) in of_left {
        (0..count).for_each(|_| found.add(Change::Removed, [Some(row.clone()), None]));
    }
}

/// The pool in a file.
struct File {
    database: Connection,
    /// Rows on their way there, and what they take in memory.
    batch: Vec<Waiting>,
    taken: usize,
}

/// What rows that go to the file together may take in memory, in bytes.
const BATCH: usize = 1 << 20;

struct Waiting {
    side: usize,
    key: Option<Vec<u8>>,
    content: Hash,
    locator: Locator,
}

impl File {
    fn make() -> Result<Self> {
        // Without a name SQLite makes a file of its own, which nobody else can open, and removes it.
        let make = || {
            let database = Connection::open("")?;
            database.execute_batch(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16384; PRAGMA temp_store=FILE;
                 CREATE TABLE keyed(key BLOB, side INT, content BLOB, place BLOB, PRIMARY KEY(key, side))
                 WITHOUT ROWID;
                 CREATE TABLE loose(seq INTEGER PRIMARY KEY, side INT, content BLOB, place BLOB);
                 BEGIN",
            )?;
            Ok(Self { database, batch: Vec::new(), taken: 0 })
        };
        make().map_err(failed)
    }

    fn add(&mut self, row: Waiting) -> Result<()> {
        self.taken += cost(row.key.as_deref().unwrap_or_default(), &row.locator);
        self.batch.push(row);
        if self.taken < BATCH { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.taken = 0;
        let write = || {
            let mut keyed = self.database.prepare("INSERT OR IGNORE INTO keyed VALUES(?1, ?2, ?3, ?4)")?;
            let mut loose =
                self.database.prepare("INSERT INTO loose(side, content, place) VALUES(?1, ?2, ?3)")?;
            for row in &batch {
                let (side, place) = (row.side == RIGHT, row.locator.encode());
                let added = match &row.key {
                    Some(key) => keyed.execute(params![key, side, row.content, place])?,
                    None => loose.execute(params![side, row.content, place])?,
                };
                if added == 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if write().map_err(failed)? { Ok(()) } else { Err(same_key()) }
    }

    fn finish(mut self, found: &mut Found, cancelled: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        self.write()?;
        with_interrupt(&self.database, cancelled, || self.pair(found))
    }

    fn pair(&self, found: &mut Found) -> Result<()> {
        self.read(
            "SELECT l.place, r.place FROM keyed l LEFT JOIN keyed r ON r.key=l.key AND r.side=1
             WHERE l.side=0 AND r.content IS NOT l.content
             UNION ALL
             SELECT NULL, r.place FROM keyed r LEFT JOIN keyed l ON l.key=r.key AND l.side=0
             WHERE r.side=1 AND l.key IS NULL",
            found,
        )?;
        let rest = "CREATE TABLE rest AS SELECT min(side) side, min(place) place FROM
                      (SELECT side, content, place,
                              row_number() OVER (PARTITION BY content, side ORDER BY seq) number FROM loose)
                    GROUP BY content, number HAVING count(*)=1;
                    CREATE INDEX rest_place ON rest(place, side)";
        self.database.execute_batch(rest).map_err(failed)?;
        // Of each side a rowid is there once; what is known by its contents has no counterpart.
        self.read(
            "SELECT l.place, r.place FROM rest l LEFT JOIN rest r ON r.place=l.place AND r.side=1 WHERE l.side=0
             UNION ALL
             SELECT NULL, r.place FROM rest r
             WHERE r.side=1 AND NOT EXISTS (SELECT 1 FROM rest l WHERE l.place=r.place AND l.side=0)",
            found,
        )
    }

    fn read(&self, query: &str, found: &mut Found) -> Result<()> {
        let mut read = || {
            let mut statement = self.database.prepare(query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let place = |at: usize| -> rusqlite::Result<Option<Locator>> {
                    Ok(row.get::<_, Option<Vec<u8>>>(at)?.as_deref().and_then(Locator::decode))
                };
                let rows = [place(0)?, place(1)?];
                let change = match &rows {
                    [Some(_), None] => Change::Removed,
                    [None, _] => Change::Added,
                    _ => Change::Changed,
                };
                found.add(change, rows);
            }
            Ok(())
        };
        read().map_err(failed)
    }
}

fn same_key() -> Error {
    Error::Damaged { what: "two rows have the same key".to_owned() }
}

fn failed(error: rusqlite::Error) -> Error {
    Error::sqlite(&PathBuf::from("the file of rows to compare"), error)
}
