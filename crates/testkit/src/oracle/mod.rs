//! Decides whether a restored database is exactly a committed prefix of its history.
//!
//! `integrity_check` and row counts see neither a lost transaction nor one that was
//! undone in the middle. Here every transaction is a pure function of a seed and its
//! number (`plan`), the database carries a hash chain of what was done (`sql`), and a
//! model that never saw the database says what all its rows must be (`model`).

mod digest;
mod model;
pub mod plan;
mod sql;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};

pub use digest::{Digest, Sum};
use model::Model;
pub use sql::{apply, apply_op, head, is_set_up, set_up};

/// The numbers of the last transaction that a restored database may end with: everything
/// acknowledged before the backup began must be there, nothing begun after its end can be.
pub type Bounds = RangeInclusive<u64>;

/// What is wrong with a restored database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// SQLite could not read it.
    #[error("could not read {path}")]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// SQLite's own check found damage.
    #[error("integrity check: {0}")]
    Integrity(String),
    /// A row refers to one that is absent.
    #[error("foreign key check: {0} violations")]
    ForeignKeys(u64),
    /// The ledger has holes or does not begin at 0.
    #[error("the ledger holds {rows} rows up to {last}")]
    LedgerHasHoles {
        /// How many rows it has.
        rows: u64,
        /// The number of its last row.
        last: u64,
    },
    /// The head and the ledger name different last transactions.
    #[error("the head is at {head}, the ledger at {ledger}")]
    HeadDiffers {
        /// Last transaction by the head.
        head: u64,
        /// Last transaction by the ledger.
        ledger: u64,
    },
    /// Money came or went.
    #[error("the accounts hold {found} instead of {expected}")]
    Sum {
        /// The sum found.
        found: i64,
        /// The sum that never changes.
        expected: i64,
    },
    /// A link of the chain is not the one that follows from the transactions.
    #[error("the hash chain breaks at transaction {seq}")]
    Chain {
        /// The first transaction whose link is wrong.
        seq: u64,
    },
    /// The prefix is too short or too long for the backup's time.
    #[error("ends with transaction {last}, but {first_allowed} to {last_allowed} was possible")]
    OutOfBounds {
        /// The last transaction in the database.
        last: u64,
        /// The last one acknowledged before the backup began.
        first_allowed: u64,
        /// The last one begun before the backup ended.
        last_allowed: u64,
    },
    /// Everything looks right, but the rows are not those of the history.
    #[error("not the state after {last} transactions: {} differ", tables.join(", "))]
    Rows {
        /// The last transaction in the database.
        last: u64,
        /// Tables that differ, with their number of rows.
        tables: Vec<String>,
    },
}

/// Verifies databases of one seed; keeps what it has worked out for the next question.
pub struct Oracle {
    seed: u64,
    model: Mutex<Model>,
}

impl Oracle {
    /// Returns the oracle of a seed.
    pub fn new(seed: u64) -> Self {
        let model = Model::new(seed).expect("a blank database in memory can be set up");
        Self { seed, model: Mutex::new(model) }
    }

    /// Returns the digest of all rows after `n` transactions.
    pub fn digest_after(&self, n: u64) -> Sum {
        self.after(n).0
    }

    fn after(&self, n: u64) -> (Sum, plan::Link) {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).after(n)
    }

    /// Returns the number of the last transaction in the database at `path`.
    ///
    /// All five checks run: SQLite's own and the foreign keys, a ledger without holes,
    /// the sum of the accounts, the hash chain, and all rows of all tables with the
    /// schema against the model. `bounds` are checked last.
    pub fn verify(&self, path: &Path, bounds: &Bounds) -> Result<u64, Finding> {
        let unreadable = |source| Finding::Unreadable { path: path.to_owned(), source };
        let connection = open_as_found(path).map_err(unreadable)?;
        self.verify_connection(&connection, bounds).map_err(|problem| match problem {
            Problem::Found(finding) => finding,
            Problem::Sql(source) => unreadable(source),
        })
    }

    fn verify_connection(&self, connection: &Connection, bounds: &Bounds) -> Result<u64, Problem> {
        check_integrity(connection)?;
        let last = check_ledger(connection)?;
        check_sum(connection)?;
        self.check_chain(connection)?;
        self.check_rows(connection, last)?;
        if !bounds.contains(&last) {
            let (first_allowed, last_allowed) = (*bounds.start(), *bounds.end());
            return Err(Finding::OutOfBounds { last, first_allowed, last_allowed }.into());
        }
        Ok(last)
    }

    fn check_chain(&self, connection: &Connection) -> Result<(), Problem> {
        let mut statement = connection.prepare("SELECT seq, h FROM ledger ORDER BY seq")?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let seq = row.get::<_, i64>(0)? as u64;
            if row.get::<_, Vec<u8>>(1)? != self.after(seq).1 {
                return Err(Finding::Chain { seq }.into());
            }
        }
        Ok(())
    }

    fn check_rows(&self, connection: &Connection, last: u64) -> Result<(), Problem> {
        let found = Digest::of(connection)?;
        if found.total == self.after(last).0 {
            return Ok(());
        }
        let mut replayed = Model::new(self.seed)?;
        replayed.after(last);
        Err(Finding::Rows { last, tables: found.differences(replayed.digest()) }.into())
    }
}

/// Verifies one database; see [`Oracle::verify`]. For many of one seed keep an [`Oracle`].
pub fn verify(path: &Path, seed: u64, bounds: &Bounds) -> Result<u64, Finding> {
    Oracle::new(seed).verify(path, bounds)
}

enum Problem {
    Found(Finding),
    Sql(rusqlite::Error),
}

impl From<Finding> for Problem {
    fn from(finding: Finding) -> Self {
        Self::Found(finding)
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Opens the database as the application would: with its siblings, when it has any.
/// Without siblings nothing is created beside it.
fn open_as_found(path: &Path) -> rusqlite::Result<Connection> {
    let alone = ["-wal", "-journal"].iter().all(|suffix| !crate::zoo::sibling(path, suffix).exists());
    if !path.is_file() {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        return Connection::open_with_flags(path, flags);
    }
    if alone {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        return Connection::open_with_flags(crate::zoo::immutable_uri(path), flags);
    }
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn check_integrity(connection: &Connection) -> Result<(), Problem> {
    let answers: Vec<String> = connection
        .prepare("PRAGMA integrity_check(20)")?
        .query_map((), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if answers != ["ok"] {
        return Err(Finding::Integrity(answers.join("; ")).into());
    }
    let violations: i64 =
        connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", (), |row| row.get(0))?;
    if violations != 0 {
        return Err(Finding::ForeignKeys(violations as u64).into());
    }
    Ok(())
}

fn check_ledger(connection: &Connection) -> Result<u64, Problem> {
    let (rows, first, last): (i64, Option<i64>, Option<i64>) =
        connection.query_row("SELECT count(*), min(seq), max(seq) FROM ledger", (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let last_seq = last.unwrap_or(-1);
    if first != Some(0) || rows != last_seq + 1 {
        return Err(Finding::LedgerHasHoles { rows: rows as u64, last: last_seq.max(0) as u64 }.into());
    }
    let (head, _) = head(connection)?;
    if head != last_seq as u64 {
        return Err(Finding::HeadDiffers { head, ledger: last_seq as u64 }.into());
    }
    Ok(head)
}

fn check_sum(connection: &Connection) -> Result<(), Problem> {
    let found: i64 = connection.query_row("SELECT sum(balance) FROM accounts", (), |row| row.get(0))?;
    let expected = plan::OPENING_BALANCE * plan::ACCOUNTS as i64;
    if found == expected { Ok(()) } else { Err(Finding::Sum { found, expected }.into()) }
}
