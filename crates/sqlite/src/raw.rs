//! Reading a database file through SQLite's own file layer, without a connection.
//!
//! POSIX locks belong to a process and die when *any* descriptor of the file is closed in
//! it. SQLite's unix layer knows all descriptors of a file in this process and puts off
//! closing one while a lock is held. So no code of ours opens a live database by any other
//! way. The `-shm` file is not opened here either: SQLite keeps locks on it too, and its
//! own bookkeeping for that file is a different one.

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rusqlite::{Connection, ffi};

use crate::identify::Identity;
use crate::{Error, Result};

/// Keeps closing apart from locking within this process.
///
/// SQLite looks whether a lock is held and closes the descriptor in two steps; a lock that
/// another thread takes between them would be cancelled by the close. Whoever takes a first
/// lock on a database holds this shared, whoever closes one holds it alone.
static GATE: RwLock<()> = RwLock::new(());

pub(crate) fn while_locking() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn while_closing() -> RwLockWriteGuard<'static, ()> {
    GATE.write().unwrap_or_else(PoisonError::into_inner)
}

/// A connection whose closing is kept apart from the taking of locks.
pub(crate) struct GatedConnection(Option<Connection>);

impl From<Connection> for GatedConnection {
    fn from(connection: Connection) -> Self {
        GatedConnection(Some(connection))
    }
}

impl Deref for GatedConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0.as_ref().expect("only `drop` takes the connection out")
    }
}

impl Drop for GatedConnection {
    fn drop(&mut self) {
        let _gate = while_closing();
        drop(self.0.take());
    }
}

/// Runs `action` with a descriptor that SQLite has open on this file, if there is one.
///
/// Borrowing is the only sound way to make a system call on a live database: a descriptor of
/// our own, or a duplicate, would cancel all locks when it is closed. The caller keeps a
/// connection open meanwhile, and the gate keeps our own connections from being closed.
pub(crate) fn with_descriptor<T>(identity: &Identity, action: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
    let _gate = while_locking();
    let is_ours = |descriptor: &BorrowedFd<'_>| {
        rustix::fs::fstat(descriptor)
            .is_ok_and(|stat| stat.st_dev == identity.device && stat.st_ino == identity.inode)
    };
    let numbers = std::fs::read_dir("/proc/self/fd").ok()?;
    let descriptor = numbers
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // SAFETY: the number was just listed. Should another thread of this process close it
        // meanwhile, `fstat` fails or finds another file, and it is passed over.
        .map(|number| unsafe { BorrowedFd::borrow_raw(number) })
        .find(is_ours)?;
    let result = action(descriptor);
    is_ours(&descriptor).then_some(result)
}

/// A file that SQLite has open, borrowed from whoever keeps it open.
pub(crate) struct VfsFile<'a> {
    file: NonNull<ffi::sqlite3_file>,
    path: &'a Path,
    owner: PhantomData<&'a ()>,
}

impl<'a> VfsFile<'a> {
    /// # Safety
    ///
    /// `file` was opened by a VFS, stays open for `'a`, and no other thread uses it meanwhile.
    pub(crate) unsafe fn new(file: NonNull<ffi::sqlite3_file>, path: &'a Path) -> Self {
        VfsFile { file, path, owner: PhantomData }
    }

    fn methods(&self) -> Result<&ffi::sqlite3_io_methods> {
        // SAFETY: `file` is open (contract of `new`), and the methods of an open file are a
        // table that lives as long as its VFS.
        unsafe { self.file.as_ref().pMethods.as_ref() }.ok_or_else(|| self.unsupported("is not open"))
    }

    /// Fills `buffer` from `offset`; what lies beyond the end of the file is zero.
    /// Says whether all of it was there.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        let read = self.methods()?.xRead.ok_or_else(|| self.unsupported("cannot be read"))?;
        let mut whole = true;
        // The length is an int in SQLite; one call reads at most a mebibyte anyway.
        for (index, part) in buffer.chunks_mut(1 << 20).enumerate() {
            let at = offset
                .checked_add(index as u64 * (1 << 20))
                .and_then(|at| i64::try_from(at).ok())
                .ok_or_else(|| self.unsupported("has an impossible size"))?;
            let length = c_int::try_from(part.len()).expect("a part has at most 2^20 bytes");
            // SAFETY: the file is open and ours alone (contract of `new`); the buffer is
            // valid for `length` bytes.
            let code = unsafe { read(self.file.as_ptr(), part.as_mut_ptr().cast(), length, at) };
            match code {
                ffi::SQLITE_OK => {}
                // SQLite's layer has filled the rest with zeros.
                ffi::SQLITE_IOERR_SHORT_READ => whole = false,
                _ => return Err(self.failed("read", code)),
            }
        }
        Ok(whole)
    }

    /// Returns the size of the file in bytes.
    pub(crate) fn size(&self) -> Result<u64> {
        let file_size = self.methods()?.xFileSize.ok_or_else(|| self.unsupported("has no size"))?;
        let mut size = 0i64;
        // SAFETY: the file is open (contract of `new`) and `size` outlives the call.
        let code = unsafe { file_size(self.file.as_ptr(), &raw mut size) };
        if code != ffi::SQLITE_OK {
            return Err(self.failed("read the size of", code));
        }
        u64::try_from(size).map_err(|_| self.unsupported("has a negative size"))
    }

    /// Fills `buffer` from `offset` and returns how many bytes the file had there.
    pub(crate) fn read_some(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if self.read(offset, buffer)? {
            return Ok(buffer.len());
        }
        let there = self.size()?.saturating_sub(offset);
        Ok(usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len()))
    }

    fn control<T>(&self, operation: c_int, argument: &mut T) -> Result<c_int> {
        let control = self.methods()?.xFileControl.ok_or_else(|| self.unsupported("has no control"))?;
        // SAFETY: the file is open (contract of `new`); callers pass the argument type that
        // the operation is documented to take.
        Ok(unsafe { control(self.file.as_ptr(), operation, ptr::from_mut(argument).cast::<c_void>()) })
    }

    fn failed(&self, action: &'static str, code: c_int) -> Error {
        let mut errno: c_int = 0;
        let _ = self.control(ffi::SQLITE_FCNTL_LAST_ERRNO, &mut errno);
        match errno {
            0 => Error::from_code(self.path, code, message_of(code)),
            errno => Error::io(action, self.path, io::Error::from_raw_os_error(errno)),
        }
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported { path: self.path.to_path_buf(), what: what.to_string(), hint: None }
    }
}

/// Returns SQLite's own words for a result code.
pub(crate) fn message_of(code: c_int) -> String {
    // SAFETY: sqlite3_errstr returns a static string for any code.
    let text = unsafe { ffi::sqlite3_errstr(code) };
    if text.is_null() {
        return "unknown error".into();
    }
    // SAFETY: just found not to be null; static and terminated.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A database file opened for reading, through SQLite's default file layer.
///
/// Closing it cancels no lock that SQLite holds on the same file in this process.
pub struct RawFile {
    file: NonNull<ffi::sqlite3_file>,
    /// The memory behind `file`; its size is the VFS's choice.
    _memory: Box<[u64]>,
    name: ffi::sqlite3_filename,
    path: PathBuf,
    locked: bool,
}

// SAFETY: the unix layer of SQLite guards what files share by its own mutexes, and a file
// may be used by any thread, one at a time: methods that need that take `&mut self` or the
// value is not `Sync`.
unsafe impl Send for RawFile {}

impl RawFile {
    /// Opens `path` read-only. The path must be absolute and free of symbolic links
    /// (`identify::canonical`), as SQLite's own are.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io("open", path, source))?;
        if !metadata.is_file() {
            return Err(Error::NotAFile { path: path.to_path_buf() });
        }
        let vfs = default_vfs(path)?;
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::Missing { path: path.to_path_buf() })?;
        // SAFETY: all strings are terminated and outlive the call; there are no parameters.
        let name = unsafe {
            ffi::sqlite3_create_filename(c_path.as_ptr(), c"".as_ptr(), c"".as_ptr(), 0, ptr::null_mut())
        };
        if name.is_null() {
            return Err(Error::from_code(path, ffi::SQLITE_NOMEM, message_of(ffi::SQLITE_NOMEM)));
        }
        let size = usize::try_from(vfs.szOsFile).unwrap_or(0).max(size_of::<ffi::sqlite3_file>());
        let mut memory = vec![0u64; size.div_ceil(8)].into_boxed_slice();
        let file = NonNull::new(memory.as_mut_ptr().cast::<ffi::sqlite3_file>())
            .expect("a boxed slice of more than zero words has an address");
        let raw = RawFile { file, _memory: memory, name, path: path.to_path_buf(), locked: false };
        let flags = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_MAIN_DB;
        let open = vfs.xOpen.ok_or_else(|| raw.vfs_file().unsupported("cannot be opened"))?;
        let _gate = while_locking();
        // SAFETY: `name` comes from sqlite3_create_filename as xOpen demands and lives as
        // long as the file; `file` points to szOsFile zeroed bytes, aligned to 8.
        let code =
            unsafe { open(ptr::from_ref(vfs).cast_mut(), name, raw.file.as_ptr(), flags, ptr::null_mut()) };
        if code == ffi::SQLITE_OK {
            return Ok(raw);
        }
        Err(open_failure(vfs, path, code))
    }

    fn vfs_file(&self) -> VfsFile<'_> {
        // SAFETY: `self` keeps the file open, and is not `Sync`.
        unsafe { VfsFile::new(self.file, &self.path) }
    }

    /// Borrows the file for reading.
    pub(crate) fn file(&self) -> VfsFile<'_> {
        self.vfs_file()
    }

    /// Returns the path the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> Result<u64> {
        self.vfs_file().size()
    }

    /// Fills `buffer` from `offset` and returns how many bytes the file had there.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.vfs_file().read_some(offset, buffer)
    }

    /// Takes SQLite's SHARED lock; `false` says that someone else's lock is in the way.
    ///
    /// While it is held nobody commits in rollback mode, and in WAL mode nobody deletes the
    /// log or its index.
    pub fn try_lock_shared(&mut self) -> Result<bool> {
        let lock =
            self.vfs_file().methods()?.xLock.ok_or_else(|| self.vfs_file().unsupported("has no locks"))?;
        let _gate = while_locking();
        // SAFETY: the file is open; NONE to SHARED is an allowed step.
        match unsafe { lock(self.file.as_ptr(), ffi::SQLITE_LOCK_SHARED) } {
            ffi::SQLITE_OK => {
                self.locked = true;
                Ok(true)
            }
            code if code & 0xff == ffi::SQLITE_BUSY => Ok(false),
            code => Err(self.vfs_file().failed("lock", code)),
        }
    }

    /// Gives the SHARED lock back.
    pub fn unlock(&mut self) -> Result<()> {
        if !self.locked {
            return Ok(());
        }
        let methods = self.vfs_file();
        let unlock = methods.methods()?.xUnlock.ok_or_else(|| methods.unsupported("has no locks"))?;
        // Unlocking the last lock closes descriptors whose closing was put off.
        let _gate = while_closing();
        // SAFETY: the file is open and holds SHARED.
        match unsafe { unlock(self.file.as_ptr(), ffi::SQLITE_LOCK_NONE) } {
            ffi::SQLITE_OK => {
                self.locked = false;
                Ok(())
            }
            code => Err(self.vfs_file().failed("unlock", code)),
        }
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        let _gate = while_closing();
        // SAFETY: `file` points to memory of ours. Methods are null unless xOpen set them, and
        // then xClose must be called once. The name is freed after the file that used it.
        unsafe {
            if let Some(close) = self.file.as_ref().pMethods.as_ref().and_then(|methods| methods.xClose) {
                close(self.file.as_ptr());
            }
            ffi::sqlite3_free_filename(self.name);
        }
    }
}

fn default_vfs(path: &Path) -> Result<&'static ffi::sqlite3_vfs> {
    // SAFETY: initialises SQLite if need be; the default VFS is never unregistered.
    unsafe { ffi::sqlite3_vfs_find(ptr::null()).as_ref() }.ok_or_else(|| Error::Unsupported {
        path: path.to_path_buf(),
        what: "SQLite has no file layer here".into(),
        hint: None,
    })
}

fn open_failure(vfs: &ffi::sqlite3_vfs, path: &Path, code: c_int) -> Error {
    let errno = vfs.xGetLastError.map_or(0, |last| {
        // SAFETY: the VFS is registered; no text is asked for.
        unsafe { last(ptr::from_ref(vfs).cast_mut(), 0, ptr::null_mut()) }
    });
    match errno {
        0 => Error::from_code(path, code, message_of(code)),
        errno => Error::io("open", path, io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_size_are_those_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("some 'file' %41?x=1#y\n.db");
        let contents: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        let file = RawFile::open(&path).unwrap();
        assert_eq!(file.size().unwrap(), 3_000_000);
        let mut buffer = vec![1u8; 2_500_000];
        assert_eq!(file.read_at(1_000_000, &mut buffer).unwrap(), 2_000_000);
        assert_eq!(buffer[..2_000_000], contents[1_000_000..]);
        assert!(buffer[2_000_000..].iter().all(|&byte| byte == 0));
        assert_eq!(file.read_at(9_000_000, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn missing_files_and_directories_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(RawFile::open(folder.path()), Err(Error::NotAFile { .. })));
        assert!(matches!(RawFile::open(&folder.path().join("no")), Err(Error::Missing { .. })));
    }

    #[test]
    fn shared_lock_holds_off_a_writer_until_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("a.db");
        let writer = rusqlite::Connection::open(&path).unwrap();
        writer.execute_batch("CREATE TABLE t(x)").unwrap();
        let mut file = RawFile::open(&path).unwrap();
        assert!(file.try_lock_shared().unwrap());
        writer.busy_timeout(std::time::Duration::ZERO).unwrap();
        assert!(writer.execute_batch("INSERT INTO t VALUES(1)").is_err());
        file.unlock().unwrap();
        writer.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert!(!file.try_lock_shared().unwrap());
    }
}
