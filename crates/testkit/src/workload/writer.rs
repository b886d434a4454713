//! Writes the transactions of a seed into a database.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::log::{Log, LogWriter};
use crate::oracle::{self, plan};
use plan::{Checkpoint, Upkeep};

/// How SQLite keeps its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMode {
    /// A write-ahead log.
    Wal,
    /// A journal that is deleted at each commit.
    Delete,
    /// A journal that is cut to nothing at each commit.
    Truncate,
    /// A journal whose header is overwritten at each commit.
    Persist,
}

impl JournalMode {
    /// Returns the word SQLite uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Persist => "persist",
        }
    }

    /// Returns the mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Wal, Self::Delete, Self::Truncate, Self::Persist].into_iter().find(|mode| mode.name() == name)
    }
}

/// How often SQLite waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Never.
    Off,
    /// At checkpoints.
    Normal,
    /// At each commit.
    Full,
}

impl Synchronous {
    /// Returns the word SQLite uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Normal => "normal",
            Self::Full => "full",
        }
    }

    /// Returns the setting of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Off, Self::Normal, Self::Full].into_iter().find(|setting| setting.name() == name)
    }
}

/// What to write, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database; made when it is absent.
    pub database: PathBuf,
    /// Decides all transactions.
    pub seed: u64,
    /// How the journal is kept.
    pub journal: JournalMode,
    /// How often to wait for the disk.
    pub synchronous: Synchronous,
    /// Transactions a second; `None` is as fast as it goes.
    pub rate: Option<u64>,
    /// Ends after this many transactions of this process.
    pub transactions: Option<u64>,
    /// Ends after this time.
    pub duration: Option<Duration>,
    /// Checkpoints of all kinds, VACUUM, journal switches, closing and opening, as planned by the seed.
    pub hostile: bool,
    /// Size of a page in a database that is made.
    pub page_size: Option<u32>,
    /// Pages that the log may hold before SQLite moves it into the file by itself.
    pub autocheckpoint: Option<u32>,
    /// Where begun and acknowledged transactions are noted.
    pub log: Option<PathBuf>,
}

impl Options {
    /// Returns a writer at full speed in WAL mode that never ends by itself.
    pub fn new(database: impl Into<PathBuf>, seed: u64) -> Self {
        Self {
            database: database.into(),
            seed,
            journal: JournalMode::Wal,
            synchronous: Synchronous::Off,
            rate: None,
            transactions: None,
            duration: None,
            hostile: false,
            page_size: None,
            autocheckpoint: None,
            log: None,
        }
    }
}

/// What a writer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Number of the last transaction committed.
    pub last: u64,
    /// Transactions committed by this process.
    pub transactions: u64,
    /// From the first to the last, in milliseconds.
    pub milliseconds: f64,
    /// Transactions a second.
    pub per_second: f64,
    /// The longest time between the end of one transaction and the end of the next, in milliseconds.
    pub longest_stall_ms: f64,
    /// The time that one transaction in a hundred exceeds, in milliseconds.
    pub p99_ms: f64,
}

/// A writer with its connection.
pub struct Writer {
    options: Options,
    connection: Connection,
    log: Option<LogWriter>,
    /// Milliseconds of each transaction, as a histogram of 10-microsecond steps.
    times: Histogram,
}

/// Longer than any backup blocks writers; a writer that waits longer has found a fault.
const PATIENCE: Duration = Duration::from_secs(60);

impl Writer {
    /// Opens or makes the database.
    pub fn open(options: Options) -> rusqlite::Result<Self> {
        let mut connection = connect(&options)?;
        if !oracle::is_set_up(&connection)? {
            match oracle::set_up(&mut connection, options.seed) {
                // Another writer was first.
                Err(_) if oracle::is_set_up(&connection)? => {}
                other => other?,
            }
        }
        let log = match &options.log {
            Some(path) => Some(Log::at(path).writer().map_err(into_sql)?),
            None => None,
        };
        Ok(Self { options, connection, log, times: Histogram::default() })
    }

    /// Writes until the options say enough, or `stop` does. `progress` hears of each transaction.
    pub fn run(
        &mut self,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(u64),
    ) -> rusqlite::Result<Report> {
        let began = Instant::now();
        let mut report = Report::default();
        let mut previous = began;
        while !self.is_done(&report, began) && !stop() {
            self.pace(report.transactions, began);
            let stall_from = if self.options.rate.is_some() { Instant::now() } else { previous };
            report.last = self.commit_next()?;
            report.transactions += 1;
            if self.options.hostile
                && let Some(upkeep) = plan::upkeep(self.options.seed, report.last)
            {
                self.carry_out(upkeep)?;
            }
            previous = Instant::now();
            self.times.add(previous - stall_from);
            progress(report.last);
        }
        report.milliseconds = began.elapsed().as_secs_f64() * 1000.0;
        report.per_second = report.transactions as f64 / began.elapsed().as_secs_f64();
        report.longest_stall_ms = self.times.longest.as_secs_f64() * 1000.0;
        report.p99_ms = self.times.exceeded_by_one_in(100);
        Ok(report)
    }

    fn is_done(&self, report: &Report, began: Instant) -> bool {
        self.options.transactions.is_some_and(|limit| report.transactions >= limit)
            || self.options.duration.is_some_and(|limit| began.elapsed() >= limit)
    }

    fn pace(&self, done: u64, began: Instant) {
        if let Some(rate) = self.options.rate {
            let due = Duration::from_secs_f64(done as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }

    /// Commits the transaction that follows the last one in the database and returns its number.
    pub fn commit_next(&mut self) -> rusqlite::Result<u64> {
        let seed = self.options.seed;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (last, link) = oracle::head(&transaction)?;
        let seq = last + 1;
        oracle::apply(&transaction, seed, seq, &link, &plan::transaction(seed, seq))?;
        if let Some(log) = &mut self.log {
            log.start(seq).map_err(into_sql)?;
        }
        commit(transaction)?;
        if let Some(log) = &mut self.log {
            log.ok(seq).map_err(into_sql)?;
        }
        Ok(seq)
    }

    fn carry_out(&mut self, upkeep: Upkeep) -> rusqlite::Result<()> {
        let connection = &self.connection;
        let done = match upkeep {
            Upkeep::Vacuum => {
                connection.flush_prepared_statement_cache();
                connection.execute_batch("VACUUM")
            }
            Upkeep::IncrementalVacuum => drain(connection, "PRAGMA incremental_vacuum(20)"),
            Upkeep::JournalSwitch => self.switch_journal(),
            Upkeep::Checkpoint(kind) => drain(connection, checkpoint_sql(kind)),
            Upkeep::Reopen => {
                self.connection = connect(&self.options)?;
                Ok(())
            }
        };
        match done {
            // Someone reads or writes: a nuisance does not insist.
            Err(error) if is_busy(&error) => Ok(()),
            other => other,
        }
    }

    fn switch_journal(&self) -> rusqlite::Result<()> {
        let other = if self.options.journal == JournalMode::Wal { "delete" } else { "truncate" };
        self.connection.flush_prepared_statement_cache();
        let away = drain(&self.connection, &format!("PRAGMA journal_mode = {other}"));
        let back = drain(&self.connection, &format!("PRAGMA journal_mode = {}", self.options.journal.name()));
        away.and(back)
    }
}

fn checkpoint_sql(kind: Checkpoint) -> &'static str {
    match kind {
        Checkpoint::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Checkpoint::Full => "PRAGMA wal_checkpoint(FULL)",
        Checkpoint::Restart => "PRAGMA wal_checkpoint(RESTART)",
        Checkpoint::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    }
}

fn connect(options: &Options) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags(&options.database, flags)?;
    connection.busy_timeout(PATIENCE)?;
    if let Some(size) = options.page_size {
        connection.pragma_update(None, "page_size", size)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    match drain(&connection, &format!("PRAGMA journal_mode = {}", options.journal.name())) {
        // Another writer keeps the mode it has; it is the same unless told otherwise.
        Err(error) if is_busy(&error) => {}
        other => other?,
    }
    connection.pragma_update(None, "synchronous", options.synchronous.name())?;
    if let Some(pages) = options.autocheckpoint {
        drain(&connection, &format!("PRAGMA wal_autocheckpoint = {pages}"))?;
    }
    Ok(connection)
}

/// Commits, waiting as long as readers stand in the way of a rollback-mode commit.
fn commit(transaction: rusqlite::Transaction<'_>) -> rusqlite::Result<()> {
    let began = Instant::now();
    loop {
        match transaction.execute_batch("COMMIT") {
            Err(error) if is_busy(&error) && began.elapsed() < PATIENCE => {}
            done => {
                // After COMMIT there is nothing left to roll back, and dropping knows it.
                drop(transaction);
                return done;
            }
        }
    }
}

fn drain(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn into_sql(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

/// Counts durations in steps of ten microseconds, up to one second.
struct Histogram {
    counts: Vec<u64>,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; 100_001], longest: Duration::ZERO }
    }
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let step = (time.as_micros() / 10).min(100_000) as usize;
        self.counts[step] += 1;
        self.longest = self.longest.max(time);
    }

    fn exceeded_by_one_in(&self, of: u64) -> f64 {
        let mut left = self.counts.iter().sum::<u64>() / of;
        for (step, count) in self.counts.iter().enumerate().rev() {
            if *count > left {
                return step as f64 / 100.0;
            }
            left -= count;
        }
        0.0
    }
}
