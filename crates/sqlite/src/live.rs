//! A connection to a live database that reads and leaves no trace.
//!
//! It takes SQLite's read lock, learns exactly which moment that is, and lends out the files
//! that SQLite has open, so that the image can be read past the page cache. It never creates
//! a database, never checkpoints, never deletes a log when it closes, never writes; only an
//! interrupted transaction of a dead writer is rolled back by SQLite itself, as the
//! application would do on its next start.

use std::ffi::{c_int, c_void};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::header::{self, HEADER_SIZE, Header};
use crate::identify::{self, Identity};
use crate::position::FileState;
use crate::raw::{self, GatedConnection, VfsFile};
use crate::wal::WalIndexHeader;
use crate::{Error, Result};

/// How often a lock is asked for again while another holds it.
const RETRY: Duration = Duration::from_millis(2);

/// The moment of a read transaction.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Bytes in a page.
    pub page_size: u32,
    /// Pages in the database.
    pub page_count: u32,
    /// Where the transaction ends in the log. `None` when the main file alone is the database.
    pub wal: Option<WalIndexHeader>,
    /// The size of the log when the transaction began, whether or not it is needed.
    pub wal_size: u64,
    /// What the system says about the main file, asked while the lock is held.
    pub file: FileState,
    /// The first bytes of the main file. Where a log lies over it they may be older than the moment.
    pub main_header: [u8; HEADER_SIZE],
}

/// A connection to a database that others may be using.
pub struct Live {
    connection: GatedConnection,
    main: NonNull<ffi::sqlite3_file>,
    identity: Identity,
}

// SAFETY: a connection opened without a mutex may be used by any thread, one at a time; the
// pointers belong to that connection, and no method gives them out beyond a borrow of `self`.
unsafe impl Send for Live {}

impl Live {
    /// Opens the database at a canonical path, for reading and writing where that is
    /// permitted, since only then SQLite can roll back an interrupted transaction.
    ///
    /// Nothing of the database is read yet.
    pub fn open(identity: &Identity) -> Result<Self> {
        let path = &identity.path;
        let writable = rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        let connection = open_connection(path, writable)?;
        let main = main_file(&connection, path)?;
        Ok(Live { connection, main, identity: identity.clone() })
    }

    /// Begins the read transaction, waiting for locks at most `busy_timeout`.
    ///
    /// While it lasts, nobody commits (rollback mode), or commits go to the log behind our
    /// mark and the log is not begun anew (WAL mode).
    pub fn begin(&mut self, busy_timeout: Duration) -> Result<Moment> {
        let deadline = Instant::now() + busy_timeout;
        loop {
            match self.try_begin() {
                Err(Error::Busy { .. }) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(Error::Busy { path, .. }) => {
                    return Err(Error::Busy { path, holder: self.holder() });
                }
                other => return other,
            }
        }
    }

    /// Begins the read transaction if no lock is in the way.
    pub fn try_begin(&mut self) -> Result<Moment> {
        self.end();
        let moment = self.begin_once();
        if moment.is_err() {
            self.end();
        }
        moment
    }

    fn begin_once(&mut self) -> Result<Moment> {
        let mut snapshot = self.begin_transaction()?;
        if snapshot.is_some() {
            // The first transaction of a connection learns only on its way that the file is
            // in WAL mode, and may then have taken a lock that lets the log begin anew. A
            // second one asks for the right lock from the start.
            self.execute("ROLLBACK")?;
            snapshot = self.begin_transaction()?;
        }
        self.check_not_moved()?;
        self.moment(snapshot.as_ref())
    }

    /// Opens a transaction and returns its snapshot; `None` without a log or with an empty one.
    fn begin_transaction(&self) -> Result<Option<Snapshot>> {
        let _gate = raw::while_locking();
        self.execute("BEGIN")?;
        let mut snapshot = ptr::null_mut();
        // SAFETY: the connection is open and ours alone; `snapshot` outlives the call.
        // The call opens the read transaction itself, without reading the schema, so it works
        // on databases whose schema is damaged.
        let (code, state) = unsafe {
            let handle = self.connection.handle();
            let code = ffi::sqlite3_snapshot_get(handle, c"main".as_ptr(), &raw mut snapshot);
            (code, ffi::sqlite3_txn_state(handle, c"main".as_ptr()))
        };
        match (code, state) {
            (ffi::SQLITE_OK, _) => Ok(NonNull::new(snapshot).map(Snapshot)),
            // "No snapshot here": rollback mode, or a log without a single frame.
            (ffi::SQLITE_ERROR, ffi::SQLITE_TXN_READ) => Ok(None),
            _ => Err(self.failure(code)),
        }
    }

    fn moment(&self, snapshot: Option<&Snapshot>) -> Result<Moment> {
        let main = self.main();
        let mut main_header = [0u8; HEADER_SIZE];
        main.read(0, &mut main_header)?;
        let file = FileState::of(&self.identity.path)?;
        if (file.device, file.inode) != (self.identity.device, self.identity.inode) {
            return Err(Error::Replaced { path: self.identity.path.clone() });
        }
        let wal_size = match self.wal() {
            Some(wal) => wal.size()?,
            None => 0,
        };
        let index = snapshot.map(Snapshot::header);
        let (page_size, page_count, wal) = match index {
            // An index that was begun anew but has no frame yet: all is in the main file.
            Some(index) if index.mark.frame > 0 => (index.page_size, index.mark.page_count, Some(index)),
            _ => {
                let header = Header::parse(&main_header)?;
                let pages = header.pages_in(main.size()?);
                let pages = u32::try_from(pages)
                    .map_err(|_| Error::Damaged { what: format!("{pages} pages in the header") })?;
                (header.page_size, pages, None)
            }
        };
        Ok(Moment { page_size, page_count, wal, wal_size, file, main_header })
    }

    /// Ends the read transaction, if there is one, and gives the locks back.
    pub fn end(&mut self) {
        if !self.connection.is_autocommit() {
            let _gate = raw::while_closing();
            // Ending a read transaction fails only where there is none.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Borrows SQLite's connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns which file this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Borrows the main file.
    pub(crate) fn main(&self) -> VfsFile<'_> {
        // SAFETY: SQLite keeps the main file of a connection open until the connection is
        // closed, which the borrow of `self` prevents; `Live` is not `Sync`.
        unsafe { VfsFile::new(self.main, &self.identity.path) }
    }

    /// Borrows the log's file; `None` in rollback mode.
    pub(crate) fn wal(&self) -> Option<VfsFile<'_>> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let code = control(&self.connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER, &raw mut file);
        let file = NonNull::new(file).filter(|_| code == ffi::SQLITE_OK)?;
        // SAFETY: a file structure of this connection, whether or not it is open.
        let is_open = unsafe { !file.as_ref().pMethods.is_null() };
        // SAFETY: as for `main`: in WAL mode the log stays open as long as the connection
        // stays in that mode, which only another statement on this connection could end.
        is_open.then(|| unsafe { VfsFile::new(file, &self.identity.path) })
    }

    /// Fails if another file took the place of the one that is open.
    pub fn check_not_moved(&self) -> Result<()> {
        let mut moved: c_int = 0;
        let code = control(&self.connection, ffi::SQLITE_FCNTL_HAS_MOVED, &raw mut moved);
        let now = identify::metadata(&self.identity.path);
        let same = now.is_ok_and(|now| (now.dev(), now.ino()) == (self.identity.device, self.identity.inode));
        if (code == ffi::SQLITE_OK && moved != 0) || !same {
            return Err(Error::Replaced { path: self.identity.path.clone() });
        }
        Ok(())
    }

    /// Says who holds the lock that is in the way, as far as the system tells.
    fn holder(&self) -> String {
        lock_holder(&self.identity).unwrap_or_else(|| "another process".into())
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(|error| Error::sqlite(&self.identity.path, error))
    }

    fn failure(&self, code: c_int) -> Error {
        // SAFETY: the connection is open.
        let errno = unsafe { ffi::sqlite3_system_errno(self.connection.handle()) };
        let path = &self.identity.path;
        match (code & 0xff, errno) {
            (ffi::SQLITE_CANTOPEN | ffi::SQLITE_IOERR, errno) if errno != 0 => {
                Error::io("open", path, std::io::Error::from_raw_os_error(errno))
            }
            _ => Error::from_code(path, code, raw::message_of(code)),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

/// The write lock of a database in WAL mode, under which nobody commits. Writes nothing.
pub(crate) struct WriteGate {
    _connection: GatedConnection,
}

impl WriteGate {
    /// Takes the write lock, or fails as busy.
    pub(crate) fn try_take(identity: &Identity) -> Result<Self> {
        let connection = open_connection(&identity.path, true)?;
        let _gate = raw::while_locking();
        connection
            .execute_batch("PRAGMA query_only = 0; BEGIN IMMEDIATE")
            .map_err(|error| Error::sqlite(&identity.path, error))?;
        Ok(WriteGate { _connection: connection })
    }
}

/// The snapshot of a read transaction in WAL mode.
struct Snapshot(NonNull<ffi::sqlite3_snapshot>);

impl Snapshot {
    fn header(&self) -> WalIndexHeader {
        // SAFETY: a snapshot is alive until it is freed by `drop`, and holds 48 bytes.
        WalIndexHeader::parse(unsafe { &self.0.as_ref().hidden })
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // SAFETY: came from sqlite3_snapshot_get and is freed once.
        unsafe { ffi::sqlite3_snapshot_free(self.0.as_ptr()) };
    }
}

/// Returns who holds a lock that keeps us from reading, as `process 4711 (app)`.
///
/// A connection to the file has to be open in this process.
pub(crate) fn lock_holder(identity: &Identity) -> Option<String> {
    let pid = raw::with_descriptor(identity, |descriptor| {
        // The PENDING byte, and the range that readers share and a committing writer owns.
        [(header::LOCK_BYTE, 1), (header::LOCK_BYTE + 2, 510)].into_iter().find_map(|(start, length)| {
            let mut lock = Flock::from(FlockType::ReadLock);
            (lock.start, lock.length) = (start, length);
            fcntl_getlk(descriptor, &lock).ok()??.pid
        })
    })??;
    let pid = pid.as_raw_nonzero();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => Some(format!("process {pid}")),
        name => Some(format!("process {pid} ({name})")),
    }
}

fn open_connection(path: &Path, writable: bool) -> Result<GatedConnection> {
    let access = if writable { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| Error::sqlite(path, error);
    // An absolute path is never taken for a URI, so no character in it means anything.
    let connection =
        GatedConnection::from(Connection::open_with_flags(absolute(path)?, flags).map_err(failed)?);
    connection.busy_timeout(Duration::ZERO).map_err(failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map_err(failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(failed)?;
    let mut keep: c_int = 1;
    control(&connection, ffi::SQLITE_FCNTL_PERSIST_WAL, &raw mut keep);
    connection
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 0; PRAGMA query_only = 1; PRAGMA mmap_size = 0; \
             PRAGMA cell_size_check = 1; PRAGMA temp_store = memory;",
        )
        .map_err(failed)?;
    Ok(connection)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    if path.is_absolute() { Ok(path.to_path_buf()) } else { identify::canonical(path) }
}

fn main_file(connection: &GatedConnection, path: &Path) -> Result<NonNull<ffi::sqlite3_file>> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    control(connection, ffi::SQLITE_FCNTL_FILE_POINTER, &raw mut file);
    NonNull::new(file).ok_or_else(|| Error::Unsupported {
        path: path.to_path_buf(),
        what: "SQLite does not lend out its file".into(),
        hint: None,
    })
}

fn control<T>(connection: &GatedConnection, operation: c_int, argument: *mut T) -> c_int {
    // SAFETY: the connection is open; callers pass the argument type that the operation is
    // documented to take, alive during the call.
    unsafe {
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), operation, argument.cast::<c_void>())
    }
}
