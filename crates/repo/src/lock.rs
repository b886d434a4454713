//! Locks: who uses a repository, in the way that stock restic understands.
//!
//! A lock is a file that is written, and then looked for conflicting ones; whoever finds one gives way.
//! Holders refresh theirs. A lock that dbkeep wrote and whose holder is gone is removed: on local storage
//! `flock` proves it of holders on this machine, else it must be old by the clock of its writer *and* by
//! the clock of the storage. Locks of other programs are never removed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use jiff::{SignedDuration, Timestamp};

use crate::Id;
use crate::backend::{Backend, FileKind, LockHolder};
use crate::error::{Error, Result};
use crate::format::lock::{LockFile, PROGRAM};
use crate::observe::Observer;
use crate::process::{self, Process};
use crate::repository::{Repository, damaged};

/// How often a holder says that it is still there.
const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);

/// How soon after a failed refresh the next one is tried.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// After how long without a refresh a lock may be taken for abandoned.
const STALE_AFTER: SignedDuration = SignedDuration::from_mins(30);

/// How long the release of a lock waits for a refresh that is under way.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Proof that a lock is held.
pub trait RepositoryLock: Send + Sync {
    /// Makes sure that the lock was there all the time, also when this process was paused: nobody can have
    /// deleted data since it was taken. To be called before anything is written that relies on other data.
    fn ensure_valid(&self) -> Result<()>;

    /// Says whether nobody else holds a lock.
    fn is_exclusive(&self) -> bool;

    /// Returns when the lock was last written, by the clock of the storage, where that can tell: not long ago.
    fn stored_at(&self) -> Result<Option<Timestamp>>;
}

/// Holds a lock that others may hold too: nothing is deleted meanwhile. Released when dropped.
#[derive(Debug)]
pub struct SharedLock(Held);

/// Holds the only lock. Released when dropped.
#[derive(Debug)]
pub struct ExclusiveLock(Held);

/// Holds a lock for reading, or none where none can be written.
#[derive(Debug)]
pub struct ReadLock(Option<SharedLock>);

impl SharedLock {
    /// See [`RepositoryLock::ensure_valid`].
    pub fn ensure_valid(&self) -> Result<()> {
        self.0.ensure_valid()
    }
}

impl ExclusiveLock {
    /// See [`RepositoryLock::ensure_valid`].
    pub fn ensure_valid(&self) -> Result<()> {
        self.0.ensure_valid()
    }
}

impl ReadLock {
    /// Says whether a lock could be written.
    pub fn is_locked(&self) -> bool {
        self.0.is_some()
    }
}

impl RepositoryLock for SharedLock {
    fn ensure_valid(&self) -> Result<()> {
        self.0.ensure_valid()
    }

    fn is_exclusive(&self) -> bool {
        false
    }

    fn stored_at(&self) -> Result<Option<Timestamp>> {
        self.0.stored_at()
    }
}

impl RepositoryLock for ExclusiveLock {
    fn ensure_valid(&self) -> Result<()> {
        self.0.ensure_valid()
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn stored_at(&self) -> Result<Option<Timestamp>> {
        self.0.stored_at()
    }
}

/// Where no lock could be written, nothing is known of what others do.
impl RepositoryLock for ReadLock {
    fn ensure_valid(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), SharedLock::ensure_valid)
    }

    fn is_exclusive(&self) -> bool {
        false
    }

    fn stored_at(&self) -> Result<Option<Timestamp>> {
        self.0.as_ref().map_or(Ok(None), RepositoryLock::stored_at)
    }
}

impl Repository {
    /// Takes a lock that others may hold too; [`Error::Locked`] when somebody holds an exclusive one.
    pub fn lock_shared(&self, now: Timestamp) -> Result<SharedLock> {
        Held::acquire(self, false, now).map(SharedLock)
    }

    /// Takes the only lock; [`Error::Locked`] when somebody holds any.
    pub fn lock_exclusive(&self, now: Timestamp) -> Result<ExclusiveLock> {
        Held::acquire(self, true, now).map(ExclusiveLock)
    }

    /// Takes a shared lock where one can be written. Where the storage is read-only or full, reading goes
    /// on without one, with a warning; an exclusive lock of somebody else is an error all the same.
    pub fn lock_for_reading(&self, watch: &dyn Observer, now: Timestamp) -> Result<ReadLock> {
        match self.lock_shared(now) {
            Ok(lock) => Ok(ReadLock(Some(lock))),
            Err(error) if error.is_read_only() || matches!(error, Error::NoSpace { .. }) => {
                // It may have failed before anybody looked for the locks of others.
                ensure_no_conflict(self, false, None, now)?;
                watch.warn(&format!("reading without a lock: {error}"));
                Ok(ReadLock(None))
            }
            Err(error) => Err(error),
        }
    }
}

/// Removes the locks of dbkeep processes that are gone, where the storage can prove that they are.
/// Returns how many.
pub(crate) fn remove_abandoned(repository: &Repository) -> Result<usize> {
    let backend = repository.backend();
    let mut removed = 0;
    for info in backend.list(FileKind::Lock)? {
        // Cheap for held locks; only of an abandoned one we need to know whose it is.
        if info.size == 0 || backend.is_abandoned(&info.id)? != Some(true) {
            continue;
        }
        if load(repository, &info.id)?.is_some_and(|lock| can_be_proved_gone(&lock)) {
            backend.remove(FileKind::Lock, &info.id)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Says whether the storage's proof that a lock has no holder holds for this lock.
///
/// A dbkeep on another machine may use our local folder through a network file system (a NAS that runs a
/// check of its own): its `flock` lives in a kernel that ours does not ask.
fn can_be_proved_gone(lock: &LockFile) -> bool {
    let process = Process::current();
    let is_same = |theirs: &str, ours: &str| !ours.is_empty() && theirs == ours;
    // Containers of one kernel differ in the machine's id; a machine that was restarted in that of the boot.
    lock.is_ours()
        && (is_same(&lock.boot_id, &process.boot_id) || is_same(&lock.machine_id, &process.machine_id))
}

/// Reads a lock; `None` when it was released meanwhile.
fn load(repository: &Repository, id: &Id) -> Result<Option<LockFile>> {
    match repository.load_unpacked(FileKind::Lock, id) {
        Err(Error::Missing { .. }) => Ok(None),
        json => LockFile::decode(&json?).map(Some).map_err(|error| damaged(FileKind::Lock, id, &error)),
    }
}

/// Fails when somebody holds a lock that does not go with the wanted one. With `own`, the name of our lock
/// that is written already, locks whose holders are gone are removed; without it they are passed over.
///
/// A holder that refreshes its lock replaces the file, and who lists just then may see neither the old one
/// nor the new one. So the list is read twice, and again when a lock vanished before it could be read.
fn ensure_no_conflict(
    repository: &Repository,
    exclusive: bool,
    own: Option<&Id>,
    now: Timestamp,
) -> Result<()> {
    let mut judged: BTreeSet<Id> = own.copied().into_iter().collect();
    let mut is_certain = false;
    loop {
        let mut has_vanished = false;
        for info in repository.list(FileKind::Lock)? {
            // Some storage shows a file before it has its contents; stock restic ignores such locks too.
            if info.size == 0 || !judged.insert(info.id) {
                continue;
            }
            match load(repository, &info.id)? {
                Some(lock) if lock.conflicts_with(exclusive) => {
                    give_way_to(repository, &info.id, lock, own, now)?;
                }
                Some(_) => {}
                None => has_vanished = true,
            }
        }
        if is_certain && !has_vanished {
            return Ok(());
        }
        is_certain = true;
    }
}

/// Fails unless the holder of a conflicting lock is gone.
fn give_way_to(
    repository: &Repository,
    id: &Id,
    lock: LockFile,
    own: Option<&Id>,
    now: Timestamp,
) -> Result<()> {
    let backend = repository.backend();
    let is_gone = can_be_proved_gone(&lock) && backend.is_abandoned(id)? == Some(true);
    let is_old = lock.is_ours() && now.duration_since(lock.time) > STALE_AFTER;
    match own {
        None if is_gone || is_old => Ok(()),
        Some(own) if is_gone || is_old && is_stale(&**backend, id, own)? => {
            backend.remove(FileKind::Lock, id)
        }
        _ => Err(locked(lock)),
    }
}

/// Says whether a lock is much older than our fresh one by the clock of the storage.
fn is_stale(backend: &dyn Backend, id: &Id, own: &Id) -> Result<bool> {
    if backend.is_abandoned(id)? == Some(false) {
        return Ok(false);
    }
    let times = (backend.modified(FileKind::Lock, id)?, backend.modified(FileKind::Lock, own)?);
    Ok(matches!(times, (Some(theirs), Some(ours)) if ours.duration_since(theirs) > STALE_AFTER))
}

fn locked(lock: LockFile) -> Error {
    Error::Locked {
        host: lock.host().to_owned(),
        exclusive: lock.exclusive,
        program: if lock.program.is_empty() { "restic".to_owned() } else { lock.program },
        pid: lock.pid,
        user: lock.username,
        since: lock.time,
    }
}

/// A lock, and the thread that keeps it alive.
#[derive(Debug)]
struct Held {
    lock: Arc<Lock>,
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// A lock of ours in a repository.
#[derive(Debug)]
struct Lock {
    repository: Repository,
    /// Held while a refresh is under way, so that nobody sees the lock between two files.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: LockFile,
    id: Id,
    /// Says to others on the same machine that we live.
    holder: Box<dyn LockHolder>,
    /// When `file.time` was, by the clock that runs on while the computer sleeps.
    refreshed: Duration,
    is_lost: bool,
}

impl Held {
    fn acquire(repository: &Repository, exclusive: bool, now: Timestamp) -> Result<Self> {
        remove_abandoned(repository)?;
        ensure_no_conflict(repository, exclusive, None, now)?;
        // Whoever cannot clean up may still be able to do what it came for.
        if let Err(error) = repository.backend().clean_temporary() {
            tracing::warn!(event = "temporary-files-not-removed", %error);
        }

        let lock = Lock::write(repository, exclusive, now)?;
        thread::sleep(repository.backend().settling_time());
        let id = lock.state().id;
        if let Err(error) = ensure_no_conflict(repository, exclusive, Some(&id), now) {
            lock.remove();
            return Err(error);
        }
        Self::keep_alive(Arc::new(lock))
    }

    fn keep_alive(lock: Arc<Lock>) -> Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let (end, ended) = bounded::<()>(0);
        let refreshed = Arc::clone(&lock);
        let refresh = move || {
            let _end = end;
            let mut wait = REFRESH_EVERY;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = match refreshed.refresh() {
                    Ok(()) => REFRESH_EVERY,
                    Err(Error::LockLost) => return,
                    // Whoever writes next learns from `ensure_valid` whether the lock is still there.
                    Err(error) => {
                        tracing::warn!(event = "lock-refresh-failed", %error);
                        RETRY_AFTER
                    }
                };
            }
        };
        match thread::Builder::new().name("lock-refresh".to_owned()).spawn(refresh) {
            Ok(_) => Ok(Self { lock, stop: Some(stop), ended }),
            Err(source) => {
                lock.remove();
                Err(Error::Io { what: "start a thread".to_owned(), source })
            }
        }
    }

    fn ensure_valid(&self) -> Result<()> {
        self.lock.ensure_valid()
    }

    fn stored_at(&self) -> Result<Option<Timestamp>> {
        let state = self.lock.state();
        self.lock.repository.backend().modified(FileKind::Lock, &state.id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A refresh that hangs keeps the lock; it is abandoned when the process ends.
        if self.ended.recv_timeout(STOP_WITHIN) == Err(RecvTimeoutError::Disconnected) {
            self.lock.remove();
        }
    }
}

impl Lock {
    fn write(repository: &Repository, exclusive: bool, now: Timestamp) -> Result<Self> {
        let process = Process::current();
        let file = LockFile {
            time: now,
            exclusive,
            hostname: LockFile::mark_host(&process.hostname),
            username: process.username.clone(),
            pid: process.pid,
            uid: process.uid,
            gid: process.gid,
            program: PROGRAM.to_owned(),
            machine_id: process.machine_id.clone(),
            boot_id: process.boot_id.clone(),
        };
        let refreshed = process::running_time();
        let (id, holder) = store(repository, &file)?;
        let state = State { file, id, holder, refreshed, is_lost: false };
        Ok(Self { repository: repository.clone(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ensure_valid(&self) -> Result<()> {
        let mut state = self.state();
        self.ensure_present(&mut state)?;
        // After a pause others were free to take the lock for abandoned.
        if process::running_time().saturating_sub(state.refreshed) > 2 * REFRESH_EVERY {
            self.refresh_present(&mut state)?;
        }
        Ok(())
    }

    fn refresh(&self) -> Result<()> {
        let mut state = self.state();
        self.ensure_present(&mut state)?;
        self.refresh_present(&mut state)
    }

    /// Fails when somebody removed the lock. Names are random, so one that is there was never removed.
    fn ensure_present(&self, state: &mut State) -> Result<()> {
        if !state.is_lost {
            let locks = self.repository.list(FileKind::Lock)?;
            state.is_lost = !locks.iter().any(|info| info.id == state.id);
        }
        if state.is_lost { Err(Error::LockLost) } else { Ok(()) }
    }

    /// Writes the lock anew with the present time, then removes the old one.
    fn refresh_present(&self, state: &mut State) -> Result<()> {
        let refreshed = process::running_time();
        let passed = refreshed.saturating_sub(state.refreshed);
        let time =
            SignedDuration::try_from(passed).ok().and_then(|passed| state.file.time.checked_add(passed).ok());
        let file = LockFile { time: time.unwrap_or(state.file.time), ..state.file.clone() };
        let (id, holder) = store(&self.repository, &file)?;
        // Somebody may have removed the old one just before the new one was there.
        if let Err(error) = self.ensure_present(state) {
            drop(holder);
            _ = self.repository.backend().remove(FileKind::Lock, &id);
            return Err(error);
        }
        let old = std::mem::replace(&mut state.id, id);
        state.holder = holder;
        state.file = file;
        state.refreshed = refreshed;
        self.repository.backend().remove(FileKind::Lock, &old)
    }

    /// Releases the lock. Where that fails the lock is abandoned, which the next dbkeep notices.
    fn remove(&self) {
        let state = self.state();
        if let Err(error) = self.repository.backend().remove(FileKind::Lock, &state.id) {
            tracing::warn!(event = "lock-not-removed", %error);
        }
    }
}

fn store(repository: &Repository, file: &LockFile) -> Result<(Id, Box<dyn LockHolder>)> {
    let (id, sealed) = repository.seal_unpacked(&file.encode())?;
    let holder = repository.backend().write_held_lock(&id, &sealed)?;
    Ok((id, holder))
}

#[cfg(test)]
mod tests;
