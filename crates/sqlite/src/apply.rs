//! Restoring an image over a database that applications may have open.
//!
//! All is one write transaction of SQLite's own, which writes only the pages that differ
//! (<https://www.sqlite.org/dbpage.html>). So SQLite's locks keep everybody else out at the right moments,
//! its journal or log makes the whole thing happen or not happen, and every connection notices.
//!
//! The target is attached to a connection that has no schema of its own, so that a damaged schema
//! does not matter. What goes in is the image, except for a few fields of page 1 that belong to
//! the target: its journal mode (18, 19), the counters of the pager (24..28, 92..100), and the schema
//! cookie (40..44), which must be new: a connection with an older schema in memory and the same
//! cookie would go on with wrong root pages.
//!
//! Order within the transaction: pages 2 and up, page 1 with the old cookie, what was written read back and
//! compared, the order to truncate, page 1 with the new cookie, COMMIT. The cookie comes last
//! because SQLite would read the schema anew before the next statement, and the image's may be in
//! another encoding, or damaged.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement, params};

use crate::header::{Header, be32, lock_page};
use crate::identify::{canonical, refuse_siblings_of_empty};
use crate::raw::{self, GatedConnection};
use crate::{BoxError, Error, Result, holders};

/// How the target keeps its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMode {
    /// A rollback journal of any kind.
    Rollback,
    /// A write-ahead log.
    Wal,
}

/// What a restore in place wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Pages that differed and were written.
    pub pages_written: u64,
    /// The same in bytes.
    pub bytes_written: u64,
    /// Pages of the target before.
    pub pages_before: u64,
    /// Pages of the target afterwards.
    pub pages_after: u64,
}

/// An image in chunks, as a restore in place asks for it.
pub trait ChunkSource {
    /// Says whether the target is known to have the bytes of this chunk already: then it is not even read. Whoever says
    /// so has read the committed bytes while [`InPlace`] held the lock. The first chunk is never asked about.
    fn is_held(&self, _index: u64) -> bool {
        false
    }

    /// Gives the chunk of this index, given the target's bytes there (fewer at its end, none beyond). `None` says that
    /// those are the image's.
    fn chunk(&mut self, index: u64, live: Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError>;
}

/// A restore in place under way: the target's write lock is held.
///
/// Nobody else can write to the target meanwhile, and readers see the old contents until [`commit`](Self::commit).
/// Another connection of this process may read the unchanged database before [`apply`](Self::apply)
/// is called: the safety backup. Dropped without `commit`, everything is rolled back.
pub struct InPlace {
    /// Closing it rolls back what was not committed.
    connection: GatedConnection,
    path: PathBuf,
    page_size: u32,
    page_count: u32,
    journal_mode: JournalMode,
    changed: bool,
}

impl InPlace {
    /// Takes the write lock of the database `path`, waiting for it up to `patience`.
    ///
    /// A file of zero bytes gets the image's page size. Fails with [`Error::Busy`] and the names of those
    /// who have the database open, with [`Error::PageSizeDiffers`], and with an error for which
    /// [`Error::is_damage`] holds when the target is too damaged to be locked.
    pub fn begin(path: &Path, image: &Header, patience: Duration) -> Result<Self> {
        let path = canonical(path)?;
        refuse_siblings_of_empty(&path)?;
        let connection = attach(&path)?;
        let mut target = Self {
            connection,
            page_size: image.page_size,
            page_count: 0,
            journal_mode: JournalMode::Rollback,
            changed: false,
            path,
        };
        let failed = |error| Error::sqlite(&target.path, error);
        let deadline = Instant::now() + patience;
        let pages = retry(deadline, &target.path, || target.number("PRAGMA r.page_count"))?;
        if pages == 0 {
            target.execute(&format!("PRAGMA r.page_size={}", image.page_size)).map_err(failed)?;
        }
        retry(deadline, &target.path, || {
            let _gate = raw::while_locking();
            target.execute("BEGIN IMMEDIATE")
        })?;
        let failed = |error| Error::sqlite(&target.path, error);
        let page_size = target.number("PRAGMA r.page_size").map_err(failed)?;
        // Asked again: only now nobody can change it. An empty file has just been given its page 1.
        let page_count = if pages == 0 { 0 } else { target.number("PRAGMA r.page_count").map_err(failed)? };
        let journal_mode = match target.text("PRAGMA r.journal_mode").map_err(failed)?.as_str() {
            "wal" => JournalMode::Wal,
            _ => JournalMode::Rollback,
        };
        if page_size != image.page_size {
            return Err(Error::PageSizeDiffers {
                path: target.path.clone(),
                target: page_size,
                image: image.page_size,
            });
        }
        (target.page_count, target.journal_mode) = (page_count, journal_mode);
        Ok(target)
    }

    /// Returns the bytes in a page, of target and image alike.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Returns the pages that the target has now; zero for an empty file.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Returns how the target keeps its transactions; it stays so.
    pub fn journal_mode(&self) -> JournalMode {
        self.journal_mode
    }

    /// Makes the target's contents those of the image, within the transaction.
    ///
    /// `source` is asked for each chunk, in order. When this returns, every chunk was either found to be as it has to be
    /// or written, read back and compared, and only [`commit`](Self::commit) makes that last. After an error the only
    /// thing to do is to drop `self`. May be called once.
    pub fn apply(
        &mut self,
        image_size: u64,
        chunk_size: u32,
        source: &mut dyn ChunkSource,
    ) -> Result<Applied> {
        let pages_after = self.pages_in(image_size, chunk_size)?;
        let mut writing = Writing::new(self, pages_after, chunk_size)?;
        for index in 0..image_size.div_ceil(u64::from(chunk_size)) {
            writing.chunk(index, source)?;
        }
        let applied = writing.finish()?;
        self.changed = applied.pages_written > 0;
        Ok(applied)
    }

    /// Makes what was applied last, and releases the target.
    ///
    /// On return the new contents are on disk. In rollback-journal mode this waits for readers up to
    /// `patience`; an error means that the target is as it was before.
    pub fn commit(self, patience: Duration) -> Result<()> {
        if !self.changed {
            return self.execute("ROLLBACK").map_err(|error| Error::sqlite(&self.path, error));
        }
        retry(Instant::now() + patience, &self.path, || self.execute("COMMIT"))
    }

    fn pages_in(&self, image_size: u64, chunk_size: u32) -> Result<u32> {
        let pages = image_size / u64::from(self.page_size);
        let whole = image_size.is_multiple_of(u64::from(self.page_size))
            && chunk_size > 0
            && chunk_size.is_multiple_of(self.page_size);
        u32::try_from(pages).ok().filter(|&pages| whole && pages > 0).ok_or_else(|| Error::Damaged {
            what: format!("an image of {image_size} bytes has no whole pages of {}", self.page_size),
        })
    }

    fn execute(&self, statements: &str) -> rusqlite::Result<()> {
        self.connection.execute_batch(statements)
    }

    fn number(&self, query: &str) -> rusqlite::Result<u32> {
        self.connection.query_row(query, [], |row| row.get(0))
    }

    fn text(&self, query: &str) -> rusqlite::Result<String> {
        self.connection.query_row(query, [], |row| row.get(0))
    }
}

/// Attaches the target as `r` to an empty database in memory.
fn attach(path: &Path) -> Result<GatedConnection> {
    // An attached database must have the encoding of the main one, and what the main file's header
    // says may be out of date while a log lies over it. So they are tried.
    let mut refusal = None;
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        match attach_as(path, encoding) {
            Ok(connection) => return Ok(connection),
            Err(error) if error.to_string().contains("same text encoding") => refusal = Some(error),
            Err(error) => return Err(Error::sqlite(path, error)),
        }
    }
    let refusal = refusal.expect("the loop ends only after three refusals");
    Err(Error::sqlite(path, refusal))
}

fn attach_as(path: &Path, encoding: &str) -> rusqlite::Result<GatedConnection> {
    // Without CREATE, which the attached database would inherit.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = GatedConnection::from(Connection::open_in_memory_with_flags(flags)?);
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Pages cannot be written to a database that defends itself.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    // With writable_schema, a schema that does not parse is no obstacle.
    connection.execute_batch(&format!(
        "PRAGMA encoding='{encoding}'; PRAGMA writable_schema=ON; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0; \
         CREATE VIRTUAL TABLE main.truncation USING sqlite_dbpage"
    ))?;
    let name = ToSqlOutput::Borrowed(ValueRef::Text(path.as_os_str().as_bytes()));
    // What cannot be attached is closed at once.
    let _gate = raw::while_closing();
    connection.execute("ATTACH ?1 AS r", params![name])?;
    // EXTRA also syncs the directory after the journal was deleted, which is the commit. Pages beyond
    // the cache go to the file or the log early and lock readers out; the limit bounds memory.
    connection.execute_batch("PRAGMA r.synchronous=EXTRA; PRAGMA r.cache_size=-65536")?;
    Ok(connection)
}

/// Repeats `action` while the target is busy, until `deadline`.
fn retry<T>(deadline: Instant, path: &Path, mut action: impl FnMut() -> rusqlite::Result<T>) -> Result<T> {
    loop {
        let error = match action() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if error.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseBusy) {
            return Err(Error::sqlite(path, error));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Busy { path: path.to_path_buf(), holder: holders::describe(path) });
        }
        thread::sleep(left.min(Duration::from_millis(5)));
    }
}

/// The pass over all chunks.
struct Writing<'t> {
    target: &'t InPlace,
    read: Statement<'t>,
    write: Statement<'t>,
    pages_after: u32,
    chunk_size: u32,
    live: Vec<u8>,
    /// Page 1 of the image, once it was seen.
    page_one: Vec<u8>,
    /// Page 1 of the target, as it was.
    live_page_one: Vec<u8>,
    /// What the chunks that were written must be when they are read back. The first one always is.
    expected: Vec<(u64, [u8; 16])>,
    written: u64,
}

impl<'t> Writing<'t> {
    fn new(target: &'t InPlace, pages_after: u32, chunk_size: u32) -> Result<Self> {
        let prepare = |query| target.connection.prepare(query).map_err(|e| Error::sqlite(&target.path, e));
        let mut writing = Self {
            target,
            read: prepare("SELECT data FROM sqlite_dbpage('r') WHERE pgno=?1")?,
            write: prepare("INSERT INTO sqlite_dbpage(pgno, data, schema) VALUES(?1, ?2, 'r')")?,
            pages_after,
            chunk_size,
            live: Vec::new(),
            page_one: Vec::new(),
            live_page_one: Vec::new(),
            expected: Vec::new(),
            written: 0,
        };
        writing.read_pages(1..2)?;
        writing.live_page_one = writing.live.clone();
        Ok(writing)
    }

    fn chunk(&mut self, index: u64, source: &mut dyn ChunkSource) -> Result<()> {
        let (pages, end) = (self.pages_of(index), self.target.page_count + 1);
        if index > 0 && pages.end <= end && source.is_held(index) {
            return Ok(());
        }
        self.read_pages(pages.start..pages.end.min(end))?;
        let live = (!self.live.is_empty()).then_some(self.live.as_slice());
        let new = source.chunk(index, live).map_err(Error::Consumer)?;
        let mut content = new.unwrap_or_else(|| self.live.clone());
        let length = pages.len() * self.target.page_size as usize;
        if content.len() != length {
            return Err(Error::Damaged {
                what: format!("chunk {index} has {} bytes instead of {length}", content.len()),
            });
        }
        let written_before = self.written;
        self.write_pages_that_differ(pages, &content)?;
        if index == 0 {
            mask(&mut content);
        }
        if index == 0 || self.written > written_before {
            self.expected.push((index, digest(&content)));
        }
        Ok(())
    }

    /// Writes pages of a chunk whose present content is in `live`; page 1 is only kept for later.
    fn write_pages_that_differ(&mut self, pages: std::ops::Range<u32>, content: &[u8]) -> Result<()> {
        let page_size = self.target.page_size as usize;
        for (place, (number, page)) in pages.zip(content.chunks_exact(page_size)).enumerate() {
            let at = place * page_size;
            let same = self.live.get(at..at + page_size) == Some(page);
            if number == 1 {
                self.page_one = page.to_vec();
            } else if !same && number != lock_page(self.target.page_size) {
                self.before_first_write()?;
                self.write_page(number, page)?;
            }
        }
        Ok(())
    }

    /// Writes page 1, compares what was written, and prepares the truncation. Nothing when nothing differs.
    fn finish(mut self) -> Result<Applied> {
        let pages_before = self.target.page_count;
        let same_page_one = masked(&self.page_one_of(0)) == masked(&self.live_page_one);
        if self.written > 0 || !same_page_one || pages_before != self.pages_after {
            self.before_first_write()?;
            let old_cookie = be32(&self.live_page_one, 40);
            let page = self.page_one_of(old_cookie);
            self.put(1, &page)?;
            self.compare(&page)?;
            let new_cookie = old_cookie.max(be32(&self.page_one, 40)).wrapping_add(1);
            self.truncate()?;
            // No statement may come after this one: SQLite would read the schema anew before it.
            let page = self.page_one_of(new_cookie);
            self.write_page(1, &page)?;
        }
        Ok(Applied {
            pages_written: self.written,
            bytes_written: self.written * u64::from(self.target.page_size),
            pages_before: u64::from(pages_before),
            pages_after: u64::from(self.pages_after),
        })
    }

    /// Returns the image's page 1 as it has to be in this target.
    fn page_one_of(&self, cookie: u32) -> Vec<u8> {
        let version = if self.target.journal_mode == JournalMode::Wal { 2 } else { 1 };
        let mut page = self.page_one.clone();
        page[18..20].fill(version);
        page[24..28].copy_from_slice(&self.live_page_one[24..28]);
        page[92..100].copy_from_slice(&self.live_page_one[92..100]);
        page[40..44].copy_from_slice(&cookie.to_be_bytes());
        // Very old SQLite did not keep the number of pages; from this commit on it counts as valid.
        page[28..32].copy_from_slice(&self.pages_after.to_be_bytes());
        page
    }

    /// Keeps SQLite from moving pages about when the transaction commits.
    fn before_first_write(&mut self) -> Result<()> {
        let full_auto_vacuum = be32(&self.live_page_one, 52) != 0 && be32(&self.live_page_one, 64) == 0;
        if self.written == 0 && full_auto_vacuum {
            // With auto_vacuum=FULL a commit would free pages by the target's old idea of its size.
            self.target.execute("PRAGMA r.auto_vacuum=INCREMENTAL").map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn write_page(&mut self, number: u32, page: &[u8]) -> Result<()> {
        self.written += 1;
        self.put(number, page)
    }

    fn put(&mut self, number: u32, page: &[u8]) -> Result<()> {
        let blob = ToSqlOutput::Borrowed(ValueRef::Blob(page));
        let put = self.write.execute(params![number, blob]);
        put.map(drop).map_err(|error| Error::sqlite(&self.target.path, error))
    }

    /// Orders the commit to cut the file behind the image's last page.
    fn truncate(&self) -> Result<()> {
        if self.pages_after >= self.target.page_count {
            return Ok(());
        }
        // Through a table of its own: the one that pages are written through forgets the order with the
        // next page. Neither statement may write two rows: SQLite would then take the number of
        // pages from page 1 too early and find nothing to cut.
        let query = "INSERT INTO truncation(pgno, data, schema) VALUES(?1, NULL, 'r')";
        let cut = self.target.connection.execute(query, [i64::from(self.pages_after) + 1]);
        cut.map(drop).map_err(|error| self.failed(error))
    }

    /// Reads every chunk back that was written, and compares it with what it has to be.
    fn compare(&mut self, page_one: &[u8]) -> Result<()> {
        if self.pages_after > self.target.page_count {
            // Makes SQLite take the number of pages from page 1 again, so that the new ones can be read.
            let refresh = self.target.execute("SAVEPOINT pages; RELEASE pages");
            refresh.map_err(|error| self.failed(error))?;
        }
        for (index, expected) in std::mem::take(&mut self.expected) {
            let pages = self.pages_of(index);
            let first = pages.start;
            self.read_pages(pages)?;
            if index == 0 {
                if !self.live.starts_with(page_one) {
                    return Err(self.differs("page 1"));
                }
                mask(&mut self.live);
            }
            if digest(&self.live) != expected {
                return Err(self.differs(&format!("chunk {index}, from page {first} on")));
            }
        }
        Ok(())
    }

    fn differs(&self, what: &str) -> Error {
        Error::ReadBack { path: self.target.path.clone(), what: what.to_string() }
    }

    fn pages_of(&self, index: u64) -> std::ops::Range<u32> {
        let pages = u64::from(self.chunk_size / self.target.page_size);
        let last = u64::from(self.pages_after) + 1;
        let page = |index: u64| u32::try_from((index * pages + 1).min(last)).unwrap_or(u32::MAX);
        page(index)..page(index + 1)
    }

    /// Reads pages of the target, as the transaction sees them, into `live`.
    fn read_pages(&mut self, pages: std::ops::Range<u32>) -> Result<()> {
        self.live.clear();
        for number in pages {
            let live = &mut self.live;
            let read = self.read.query_row([number], |row| {
                live.extend_from_slice(row.get_ref(0)?.as_blob()?);
                Ok(())
            });
            read.map_err(|error| Error::sqlite(&self.target.path, error))?;
        }
        Ok(())
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        Error::sqlite(&self.target.path, error)
    }
}

/// Blanks the fields of page 1 that belong to the target and not to the image.
fn mask(first_chunk: &mut [u8]) {
    for field in [18..20, 24..32, 40..44, 92..100] {
        first_chunk[field].fill(0);
    }
}

fn masked(page_one: &[u8]) -> Vec<u8> {
    let mut page = page_one.to_vec();
    mask(&mut page);
    page
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    digest
}

#[cfg(test)]
pub(crate) mod tests;
