//! Opening an image that lies somewhere else as a database: a read-only VFS over a [`PageSource`].
//!
//! One VFS is registered for the life of the process; each image is a file of its own in it, so that
//! any number of them may be open at once and on any threads. The file announces itself as immutable:
//! SQLite takes no locks, looks for no journal and no log, and a header that says WAL opens as it is.
//! Temporary files go to the system's own VFS. The contract is <https://www.sqlite.org/vfs.html>.
//!
//! What the source says when it fails is kept: SQLite itself can only say "disk I/O error", and
//! [`source_error`] gives the reason. A panic of the source is caught at the border and counts as a failure.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::{Error, Result};

/// The bytes of a database image, to be read in any order and from several threads.
pub trait PageSource: Send + Sync {
    /// Returns the size of the image in bytes. It never changes.
    fn size(&self) -> u64;

    /// Fills `buffer` with the bytes at `offset`; never called for bytes at or beyond [`size`](Self::size).
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl PageSource for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// Opens the image as a read-only database.
///
/// The image is not trusted: functions with side effects are refused in its schema, cell sizes are
/// checked, and nothing can be written. The source is released when the connection is dropped.
pub fn open_image(source: Arc<dyn PageSource>) -> Result<Connection> {
    let vfs = image_vfs()?;
    let ticket = Ticket::new(source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(&ticket.name, flags, vfs)
        .map_err(|error| image_error(None, error))?;
    distrust(&connection).map_err(|error| image_error(Some(&connection), error))?;
    limit_values(&connection);
    Ok(connection)
}

/// Keeps expressions in the schema of a hostile image from making values out of nothing that fill the memory:
/// no value that is stored in an image is larger than the image.
fn limit_values(connection: &Connection) {
    const ALWAYS: u64 = 64 << 20;
    let size = opened_image(connection).map_or(0, |opened| opened.size).max(ALWAYS);
    // SQLite cuts what is above its own limit of 10^9.
    let limit = c_int::try_from(size).unwrap_or(c_int::MAX);
    // SAFETY: the connection is open; this only sets a number in it.
    unsafe { ffi::sqlite3_limit(connection.handle(), ffi::SQLITE_LIMIT_LENGTH, limit) };
}

/// Keeps statements that come from a file from touching any other file: nothing can be attached, which `VACUUM INTO`
/// needs as well.
pub(crate) fn forbid_attaching(connection: &Connection) {
    // SAFETY: the connection is open; this only sets a number in it.
    unsafe { ffi::sqlite3_limit(connection.handle(), ffi::SQLITE_LIMIT_ATTACHED, 0) };
}

/// Takes back what statements that came from a file may have set for the whole process.
pub(crate) fn lift_limits(connection: &Connection) {
    // SAFETY: both set a number of the library, which any thread may do at any time.
    unsafe {
        ffi::sqlite3_hard_heap_limit64(0);
        ffi::sqlite3_soft_heap_limit64(0);
    }
    // Without the pragma, which some builds lack, nothing was set.
    let _ = connection.execute_batch("PRAGMA temp_store_directory=''");
}

/// Takes the error with which the source of the image last failed, if it did since the last call.
///
/// Returns `None` for a connection that is not on an image.
pub fn source_error(connection: &Connection) -> Option<io::Error> {
    let opened = opened_image(connection)?;
    opened.take_error()
}

/// Turns an error of SQLite on an image into ours; the source's own reason comes first.
pub(crate) fn image_error(connection: Option<&Connection>, error: rusqlite::Error) -> Error {
    if let Some(source) = connection.and_then(source_error) {
        return Error::Source(source);
    }
    let path = connection.and_then(|connection| connection.path()).map_or_else(
        || PathBuf::from("the image"),
        |path| if path.starts_with(NAME_START) { PathBuf::from("the image") } else { PathBuf::from(path) },
    );
    Error::sqlite(&path, error)
}

/// Protects this process from a database that was made to attack it.
pub(crate) fn distrust(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    // Else a column that is not there would be a text: its own name.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.execute_batch("PRAGMA cell_size_check=1; PRAGMA mmap_size=0; PRAGMA cache_size=-8192;")
}

const VFS_NAME: &CStr = c"dbkeep-image";
const NAME_START: &str = "dbkeep-image-";

/// Sources that wait for SQLite to open them, by the name of their file.
static WAITING: Mutex<Option<HashMap<String, Arc<dyn PageSource>>>> = Mutex::new(None);

fn waiting() -> MutexGuard<'static, Option<HashMap<String, Arc<dyn PageSource>>>> {
    // The map is never left half-changed: each use is one insertion or removal.
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A source under a name of its own, until SQLite has opened it or failed to.
struct Ticket {
    name: String,
}

impl Ticket {
    fn new(source: Arc<dyn PageSource>) -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{NAME_START}{number}");
        waiting().get_or_insert_default().insert(name.clone(), source);
        Self { name }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let left = waiting().as_mut().and_then(|map| map.remove(&self.name));
        // Dropped here, after the lock is free: the source's own drop is foreign code.
        drop(left);
    }
}

/// What an open file of ours holds.
struct Opened {
    source: Arc<dyn PageSource>,
    size: u64,
    error: Mutex<Option<io::Error>>,
}

impl Opened {
    fn open(source: Arc<dyn PageSource>) -> Option<Self> {
        let size = catch_unwind(AssertUnwindSafe(|| source.size())).ok()?;
        // SQLite counts in signed 64-bit numbers.
        i64::try_from(size).ok()?;
        Some(Self { source, size, error: Mutex::new(None) })
    }

    fn take_error(&self) -> Option<io::Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads, zero-filling what lies beyond the end, and returns SQLite's result code.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> c_int {
        let there = self.size.saturating_sub(offset).min(buffer.len() as u64);
        let there = usize::try_from(there).expect("not longer than the buffer");
        let (inside, beyond) = buffer.split_at_mut(there);
        beyond.fill(0);
        if !inside.is_empty()
            && let Err(error) = self.read_source(offset, inside)
        {
            // Whatever was read before the failure is not to be taken for content.
            inside.fill(0);
            *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            return ffi::SQLITE_IOERR_READ;
        }
        if beyond.is_empty() { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_SHORT_READ }
    }

    fn read_source(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        catch_unwind(AssertUnwindSafe(|| self.source.read_at(offset, buffer)))
            .unwrap_or_else(|_| Err(io::Error::other("the source of the image panicked")))
    }
}

/// Our file as SQLite sees it: its own part first.
#[repr(C)]
struct ImageFile {
    base: ffi::sqlite3_file,
    opened: *mut Opened,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Version 1: no shared memory and no memory mapping.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Registers the VFS at its first use and returns its name.
fn image_vfs() -> Result<&'static CStr> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    match *REGISTERED.get_or_init(register) {
        ffi::SQLITE_OK => Ok(VFS_NAME),
        code => Err(Error::from_code(
            &PathBuf::from("the image"),
            code,
            "could not register the VFS for images".into(),
        )),
    }
}

fn register() -> c_int {
    // SAFETY: both calls only ask SQLite to initialise itself and to name its default VFS, which
    // lives as long as the process.
    let system = unsafe {
        if ffi::sqlite3_initialize() != ffi::SQLITE_OK {
            return ffi::SQLITE_ERROR;
        }
        ffi::sqlite3_vfs_find(ptr::null())
    };
    if system.is_null() {
        return ffi::SQLITE_ERROR;
    }
    // SAFETY: `system` is a registered VFS, whose plain fields are never changed after registration.
    let (system_file, system_path) = unsafe { ((*system).szOsFile, (*system).mxPathname) };
    let ours = c_int::try_from(size_of::<ImageFile>()).expect("a few words");
    let vfs = Box::new(ffi::sqlite3_vfs {
        iVersion: 1,
        // Temporary files are opened by the system's VFS in the same memory.
        szOsFile: ours.max(system_file),
        mxPathname: system_path.max(64),
        pNext: ptr::null_mut(),
        zName: VFS_NAME.as_ptr(),
        pAppData: system.cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: None,
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    });
    // SAFETY: the structure is leaked, so it lives as long as SQLite may use it; all mandatory
    // methods of version 1 are set; extension loading, whose methods are absent, is off.
    unsafe { ffi::sqlite3_vfs_register(Box::leak(vfs), 0) }
}

/// Returns what the main file of `connection` holds, when it is one of ours.
fn opened_image(connection: &Connection) -> Option<&Opened> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is valid while `connection` is borrowed; this file control writes one
    // pointer to the place given and nothing else.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            ptr::from_mut(&mut file).cast(),
        )
    };
    if code != ffi::SQLITE_OK || file.is_null() {
        return None;
    }
    // SAFETY: the pointer is that of the connection's open main file. Only files of ours carry the
    // address of `METHODS`, and those are an `ImageFile` whose `opened` lives until `close`, which
    // needs the connection that is borrowed here.
    unsafe {
        if !ptr::eq((*file).pMethods, &METHODS) {
            return None;
        }
        (*file.cast::<ImageFile>()).opened.as_ref()
    }
}

/// Borrows what a file of ours holds.
///
/// # Safety
/// `file` is an open file of this VFS, as SQLite passes it to the methods in `METHODS`.
unsafe fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a Opened {
    // SAFETY: by the caller's promise this is an `ImageFile` between `open` and `close`, in which
    // `opened` points to a boxed `Opened` that is only ever shared.
    unsafe { &*(*file.cast::<ImageFile>()).opened }
}

/// Returns the system's VFS, which does what has nothing to do with images.
///
/// # Safety
/// `vfs` is the VFS that `register` made.
unsafe fn system(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: `register` stored a registered VFS there and nothing changes it.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    if flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        // SAFETY: `system` is the default VFS; the memory behind `file` has room for its files, by
        // `szOsFile`, and the other arguments are passed on as SQLite gave them.
        return unsafe {
            let system = system(vfs);
            match (*system).xOpen {
                Some(open) => open(system, name, file, flags, out_flags),
                None => ffi::SQLITE_CANTOPEN,
            }
        };
    }
    // SAFETY: SQLite passes room for `szOsFile` bytes. Absent methods tell it that the file is not
    // open and must not be closed, until the last line below.
    unsafe { (*file).pMethods = ptr::null() };
    if name.is_null() {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: the name is a C string that lives during this call.
    let name = unsafe { CStr::from_ptr(name) };
    let source = name.to_str().ok().and_then(|name| waiting().as_mut()?.remove(name));
    let Some(opened) = source.and_then(Opened::open) else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: as above; `out_flags` is null or a place for one number.
    unsafe {
        let file = file.cast::<ImageFile>();
        (*file).opened = Box::into_raw(Box::new(opened));
        if !out_flags.is_null() {
            *out_flags = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_MAIN_DB;
        }
        (*file).base.pMethods = &METHODS;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and calls no method of it afterwards; the box was made by
    // `open`.
    let opened = unsafe {
        let file = file.cast::<ImageFile>();
        (*file).base.pMethods = ptr::null();
        Box::from_raw(ptr::replace(&raw mut (*file).opened, ptr::null_mut()))
    };
    match catch_unwind(AssertUnwindSafe(|| drop(opened))) {
        Ok(()) => ffi::SQLITE_OK,
        Err(_) => ffi::SQLITE_IOERR_CLOSE,
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: the file is open; SQLite gives a buffer of `amount` bytes that nobody else uses during
    // the call. It may be uninitialised for Rust, so it is zeroed through the raw pointer first.
    let (opened, buffer) = unsafe {
        ptr::write_bytes(buffer.cast::<u8>(), 0, amount);
        (opened(file), std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount))
    };
    catch_unwind(AssertUnwindSafe(|| opened.read(offset, buffer))).unwrap_or(ffi::SQLITE_IOERR_READ)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: the file is open; `size` is a place for one number.
    unsafe { *size = opened(file).size.cast_signed() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn write(
    _: *mut ffi::sqlite3_file,
    _: *const c_void,
    _: c_int,
    _: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn truncate(_: *mut ffi::sqlite3_file, _: ffi::sqlite3_int64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // Nobody else can have the image open for writing.
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, reserved: *mut c_int) -> c_int {
    // SAFETY: `reserved` is a place for one number.
    unsafe { *reserved = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_IMMUTABLE
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_IOERR_DELETE
}

unsafe extern "C" fn access(
    _: *mut ffi::sqlite3_vfs,
    _: *const c_char,
    _: c_int,
    result: *mut c_int,
) -> c_int {
    // There is no journal and no log beside an image.
    // SAFETY: `result` is a place for one number.
    unsafe { *result = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: `name` is a C string and `out` has room for `room` bytes; the copy ends with the zero
    // and is made only when it fits.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > usize::try_from(room).unwrap_or(0) {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(vfs: *mut ffi::sqlite3_vfs, amount: c_int, out: *mut c_char) -> c_int {
    // SAFETY: the arguments are passed on to the default VFS as SQLite gave them.
    unsafe {
        let system = system(vfs);
        (*system).xRandomness.map_or(0, |randomness| randomness(system, amount, out))
    }
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    // SAFETY: as in `randomness`.
    unsafe {
        let system = system(vfs);
        (*system).xSleep.map_or(0, |sleep| sleep(system, microseconds))
    }
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, now: *mut f64) -> c_int {
    // SAFETY: as in `randomness`.
    unsafe {
        let system = system(vfs);
        (*system).xCurrentTime.map_or(ffi::SQLITE_ERROR, |current_time| current_time(system, now))
    }
}

#[cfg(test)]
mod tests;
