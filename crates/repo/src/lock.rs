//! Locks: who uses a repository, in the way that stock restic understands.
//!
//! A lock is a file that is written, and then looked for conflicting ones; whoever finds one gives way.
//! Holders refresh theirs. A lock that dbkeep wrote and whose holder is gone is removed: on local storage
//! `flock` proves it, elsewhere it must be old by the clock of its writer *and* by the clock of the
//! storage. Locks of other programs are never removed.

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
use crate::process::Process;
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
}

impl RepositoryLock for ExclusiveLock {
    fn ensure_valid(&self) -> Result<()> {
        self.0.ensure_valid()
    }

    fn is_exclusive(&self) -> bool {
        true
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
        if load(repository, &info.id)?.is_some_and(|lock| lock.is_ours()) {
            backend.remove(FileKind::Lock, &info.id)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Reads a lock; `None` when it was released meanwhile.
fn load(repository: &Repository, id: &Id) -> Result<Option<LockFile>> {
    match repository.load_unpacked(FileKind::Lock, id) {
        Err(Error::Missing { .. }) => Ok(None),
        json => LockFile::decode(&json?).map(Some).map_err(|error| damaged(FileKind::Lock, id, &error)),
    }
}

/// Fails when somebody holds a lock that does not go with the wanted one. With `own`, the name of our lock
/// that is written already, locks that are stale by both clocks are removed; without it they are passed over.
fn ensure_no_conflict(
    repository: &Repository,
    exclusive: bool,
    own: Option<&Id>,
    now: Timestamp,
) -> Result<()> {
    let backend = repository.backend();
    for info in backend.list(FileKind::Lock)? {
        // Some storage shows a file before it has its contents; stock restic ignores such locks too.
        if info.size == 0 || Some(&info.id) == own {
            continue;
        }
        let Some(lock) = load(repository, &info.id)? else { continue };
        if !lock.conflicts_with(exclusive) {
            continue;
        }
        let is_old = lock.is_ours() && now.duration_since(lock.time) > STALE_AFTER;
        match own {
            None if is_old => {}
            Some(own) if is_old && is_stale(&**backend, &info.id, own)? => {
                backend.remove(FileKind::Lock, &info.id)?;
            }
            _ => return Err(locked(lock)),
        }
    }
    Ok(())
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
            host_id: process.host_id.clone(),
        };
        let refreshed = running_time();
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
        if running_time().saturating_sub(state.refreshed) > 2 * REFRESH_EVERY {
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
        let refreshed = running_time();
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

/// Returns a time that only ever grows, also while the computer sleeps.
fn running_time() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::backend::{FileInfo, LocalBackend, MemoryBackend};
    use crate::repository::InitOptions;
    use crate::secret::Secret;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn repository_on(backend: Arc<dyn Backend>) -> Repository {
        Repository::init(backend, &Secret::from("x"), &InitOptions::cheap(), NOW).unwrap()
    }

    fn repository() -> (MemoryBackend, Repository) {
        let memory = MemoryBackend::new();
        let repository = repository_on(Arc::new(memory.clone()));
        (memory, repository)
    }

    /// Writes a lock as another program, or another dbkeep that is gone, would have left it.
    fn leave(repository: &Repository, program: &str, exclusive: bool, time: Timestamp) -> Id {
        let file = LockFile {
            time,
            exclusive,
            hostname: "elsewhere".to_owned(),
            username: "ann".to_owned(),
            pid: 4711,
            uid: 1,
            gid: 1,
            program: program.to_owned(),
            host_id: String::new(),
        };
        repository.save_unpacked(FileKind::Lock, &file.encode()).unwrap()
    }

    #[test]
    fn shared_locks_go_together_and_an_exclusive_one_goes_alone() {
        let (memory, repository) = repository();
        let one = repository.lock_shared(NOW).unwrap();
        let two = repository.lock_shared(NOW).unwrap();
        assert!(matches!(repository.lock_exclusive(NOW), Err(Error::Locked { exclusive: false, .. })));
        assert_eq!(memory.names(FileKind::Lock).len(), 2, "the one that gave way left nothing");
        drop((one, two));
        let only = repository.lock_exclusive(NOW).unwrap();
        assert!(matches!(repository.lock_shared(NOW), Err(Error::Locked { exclusive: true, .. })));
        assert!(matches!(repository.lock_exclusive(NOW), Err(Error::Locked { .. })));
        only.ensure_valid().unwrap();
        drop(only);
        assert!(memory.names(FileKind::Lock).is_empty());
    }

    #[test]
    fn lock_of_restic_is_respected_however_old_and_never_removed() {
        let (memory, repository) = repository();
        leave(&repository, "", true, Timestamp::from_second(-1_000_000).unwrap());
        match repository.lock_shared(NOW) {
            Err(Error::Locked { program, pid: 4711, host, user, exclusive: true, .. }) => {
                assert_eq!((&*program, &*host, &*user), ("restic", "elsewhere", "ann"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(memory.names(FileKind::Lock).len(), 1);
        let (_, repository) = self::repository();
        leave(&repository, "", false, NOW);
        repository.lock_shared(NOW).unwrap();
        assert!(repository.lock_exclusive(NOW).is_err());
    }

    #[test]
    fn lock_of_a_dbkeep_that_is_gone_is_removed_by_the_next() {
        let (memory, repository) = repository();
        leave(&repository, PROGRAM, true, NOW);
        repository.lock_exclusive(NOW).unwrap();
        assert!(memory.names(FileKind::Lock).is_empty());
        leave(&repository, PROGRAM, true, NOW);
        Repository::open(Arc::new(memory.clone()), &[Secret::from("x")]).unwrap();
        assert!(memory.names(FileKind::Lock).is_empty(), "opening removes it too");
    }

    #[test]
    fn live_lock_survives_the_opening_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(LocalBackend::new(folder.path().join("r")));
        let repository = repository_on(Arc::clone(&backend) as Arc<dyn Backend>);
        let lock = repository.lock_exclusive(NOW).unwrap();
        let other = Repository::open(backend, &[Secret::from("x")]).unwrap();
        assert!(matches!(other.lock_shared(NOW), Err(Error::Locked { .. })));
        lock.ensure_valid().unwrap();
        drop(lock);
        other.lock_exclusive(NOW).unwrap();
    }

    #[test]
    fn lock_left_by_a_crash_is_removed_on_local_storage() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(LocalBackend::new(folder.path().join("r")));
        let repository = repository_on(Arc::clone(&backend) as Arc<dyn Backend>);
        leave(&repository, PROGRAM, true, NOW);
        let foreign = leave(&repository, "", false, NOW);
        repository.lock_shared(NOW).unwrap();
        let left: Vec<_> = backend.list(FileKind::Lock).unwrap().into_iter().map(|info| info.id).collect();
        assert_eq!(left, [foreign]);
    }

    #[test]
    fn reading_goes_on_in_a_folder_that_may_not_be_written() {
        // Root may write everywhere, so the test runs itself in a namespace where it has no privileges.
        if let Ok(folder) = std::env::var("DBKEEP_TEST_READ_ONLY") {
            let backend = Arc::new(LocalBackend::new(folder));
            let repository = Repository::open(backend, &[Secret::from("x")]).unwrap();
            let warnings = Warnings(AtomicUsize::new(0));
            assert!(!repository.lock_for_reading(&warnings, NOW).unwrap().is_locked());
            assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
            assert!(repository.lock_shared(NOW).unwrap_err().is_read_only());
            assert!(repository.snapshots().unwrap().is_empty());
            let hidden = repository.list(FileKind::Index);
            assert!(matches!(hidden, Err(Error::Listing { .. })), "{hidden:?}");
            return;
        }
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("r");
        repository_on(Arc::new(LocalBackend::new(&folder)));
        for (name, mode) in [("locks", 0o500), ("dbkeep/tmp", 0o500), ("index", 0o300)] {
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let output = std::process::Command::new("unshare")
            .args(["--user".as_ref(), std::env::current_exe().unwrap().as_os_str()])
            .args(["--exact", "lock::tests::reading_goes_on_in_a_folder_that_may_not_be_written"])
            .env("DBKEEP_TEST_READ_ONLY", &folder)
            .output();
        match output {
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
                assert!(output.status.success(), "{output:?}");
            }
            other => println!("skipped: no namespace without privileges: {other:?}"),
        }
    }

    #[test]
    fn lock_that_somebody_removed_is_lost_for_good() {
        let (memory, repository) = repository();
        let lock = repository.lock_shared(NOW).unwrap();
        let id = memory.names(FileKind::Lock)[0];
        let contents = memory.read(FileKind::Lock, &id).unwrap();
        memory.remove(FileKind::Lock, &id).unwrap();
        assert!(matches!(lock.ensure_valid(), Err(Error::LockLost)));
        memory.write(FileKind::Lock, &id, &contents).unwrap();
        assert!(matches!(lock.ensure_valid(), Err(Error::LockLost)), "it was away, so others could act");
        assert!(matches!(lock.0.lock.refresh(), Err(Error::LockLost)));
    }

    #[test]
    fn refresh_replaces_the_lock_and_moves_its_time() {
        let (memory, repository) = repository();
        let lock = repository.lock_shared(NOW).unwrap();
        let before = memory.names(FileKind::Lock);
        // As if a quarter of an hour had passed.
        let passed = Duration::from_secs(15 * 60);
        let state = || lock.0.lock.state();
        let earlier = state().refreshed.checked_sub(passed);
        if let Some(earlier) = earlier {
            state().refreshed = earlier;
            lock.ensure_valid().unwrap();
            let after = memory.names(FileKind::Lock);
            assert_eq!(after.len(), 1);
            assert_ne!(after, before);
            let file = load(&repository, &after[0]).unwrap().unwrap();
            assert!(file.time.duration_since(NOW) >= SignedDuration::from_mins(15));
            assert!(file.time.duration_since(NOW) < SignedDuration::from_mins(16));
        }
        lock.0.lock.refresh().unwrap();
        lock.ensure_valid().unwrap();
        drop(lock);
        assert!(memory.names(FileKind::Lock).is_empty());
    }

    #[test]
    fn refresh_that_fails_keeps_the_old_lock() {
        let (memory, repository) = repository();
        let lock = repository.lock_shared(NOW).unwrap();
        memory.fail_after(0);
        assert!(matches!(lock.0.lock.refresh(), Err(Error::Io { .. })));
        lock.ensure_valid().unwrap();
        memory.fail_after(1);
        assert!(lock.0.lock.refresh().is_err(), "the old one cannot be removed");
        memory.recover();
        lock.ensure_valid().unwrap();
        drop(lock);
        // The old one has no holder any more, so the next dbkeep removes it.
        repository.lock_exclusive(NOW).unwrap();
    }

    #[test]
    fn empty_lock_is_passed_over_and_a_damaged_one_is_an_error() {
        let (memory, repository) = repository();
        memory.write(FileKind::Lock, &Id::of(b""), b"").unwrap();
        repository.lock_exclusive(NOW).unwrap();
        memory.write(FileKind::Lock, &Id::of(b"junk"), b"junk").unwrap();
        assert!(matches!(repository.lock_shared(NOW), Err(Error::Damaged { kind: FileKind::Lock, .. })));
    }

    #[test]
    fn no_two_threads_hold_an_exclusive_lock_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let repository = repository_on(Arc::new(LocalBackend::new(folder.path().join("r"))));
        // What a killed prune left; several look at it at the same time.
        leave(&repository, PROGRAM, true, NOW);
        let (holders, exclusive, shared) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for thread in 0..6 {
                let (repository, holders) = (&repository, &holders);
                let won = if thread % 2 == 0 { &exclusive } else { &shared };
                scope.spawn(move || {
                    for _ in 0..60 {
                        if thread % 2 == 0 {
                            let Ok(_lock) = repository.lock_exclusive(NOW) else { continue };
                            assert_eq!(holders.fetch_add(1000, Ordering::SeqCst), 0);
                            holders.fetch_sub(1000, Ordering::SeqCst);
                        } else {
                            let Ok(_lock) = repository.lock_shared(NOW) else { continue };
                            assert!(holders.fetch_add(1, Ordering::SeqCst) < 1000);
                            holders.fetch_sub(1, Ordering::SeqCst);
                        }
                        won.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(exclusive.into_inner() + shared.into_inner() > 0);
        assert_eq!(repository.list(FileKind::Lock).unwrap(), []);
    }

    /// Storage that cannot prove whether a holder lives, and has a clock of its own.
    #[derive(Debug)]
    struct Remote {
        memory: MemoryBackend,
        ages: Mutex<std::collections::BTreeMap<Id, i64>>,
        writes_fail: AtomicUsize,
    }

    impl Remote {
        fn new() -> Arc<Self> {
            let (memory, ages) = (MemoryBackend::new(), Mutex::default());
            Arc::new(Self { memory, ages, writes_fail: AtomicUsize::new(0) })
        }
    }

    impl Backend for Remote {
        fn location(&self) -> String {
            self.memory.location()
        }
        fn create(&self) -> Result<()> {
            self.memory.create()
        }
        fn is_empty(&self) -> Result<bool> {
            self.memory.is_empty()
        }
        fn list(&self, kind: FileKind) -> Result<Vec<FileInfo>> {
            self.memory.list(kind)
        }
        fn read(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
            self.memory.read(kind, id)
        }
        fn read_range(&self, kind: FileKind, id: &Id, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.memory.read_range(kind, id, offset, buffer)
        }
        fn write(&self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()> {
            self.memory.write(kind, id, contents)
        }
        fn remove(&self, kind: FileKind, id: &Id) -> Result<()> {
            self.memory.remove(kind, id)
        }
        fn write_held_lock(&self, id: &Id, contents: &[u8]) -> Result<Box<dyn LockHolder>> {
            if self.writes_fail.load(Ordering::Relaxed) > 0 {
                let source = std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem);
                return Err(Error::Io { what: "write a lock".to_owned(), source });
            }
            self.memory.write_held_lock(id, contents)
        }
        fn is_abandoned(&self, _: &Id) -> Result<Option<bool>> {
            Ok(None)
        }
        fn free_space(&self) -> Result<Option<u64>> {
            Ok(None)
        }
        fn clean_temporary(&self) -> Result<usize> {
            Ok(0)
        }
        fn settling_time(&self) -> Duration {
            Duration::ZERO
        }
        fn modified(&self, _: FileKind, id: &Id) -> Result<Option<Timestamp>> {
            let age = self.ages.lock().unwrap().get(id).copied().unwrap_or(0);
            Ok(Some(Timestamp::from_second(1_000_000 - age).unwrap()))
        }
    }

    #[test]
    fn without_proof_a_lock_is_stale_only_by_both_clocks() {
        let old = Timestamp::from_second(-31 * 60).unwrap();
        for (program, time, age, is_removed) in [
            (PROGRAM, old, 31 * 60, true),
            (PROGRAM, old, 29 * 60, false),
            (PROGRAM, NOW, 31 * 60, false),
            ("", old, 31 * 60, false),
        ] {
            let remote = Remote::new();
            let repository = repository_on(Arc::clone(&remote) as Arc<dyn Backend>);
            let left = leave(&repository, program, true, time);
            remote.ages.lock().unwrap().insert(left, age);
            let locked = repository.lock_shared(NOW);
            assert_eq!(locked.is_ok(), is_removed, "{program:?} {time} {age}");
            let is_there = remote.memory.names(FileKind::Lock).contains(&left);
            assert_eq!(is_there, !is_removed);
            drop(locked);
            assert_eq!(remote.memory.names(FileKind::Lock).len(), usize::from(!is_removed));
        }
    }

    struct Warnings(AtomicUsize);

    impl Observer for Warnings {
        fn warn(&self, message: &str) {
            assert!(message.contains("without a lock"), "{message}");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn reading_goes_on_with_a_warning_where_no_lock_can_be_written() {
        let remote = Remote::new();
        let repository = repository_on(Arc::clone(&remote) as Arc<dyn Backend>);
        let warnings = Warnings(AtomicUsize::new(0));
        assert!(repository.lock_for_reading(&warnings, NOW).unwrap().is_locked());
        remote.writes_fail.store(1, Ordering::Relaxed);
        assert!(!repository.lock_for_reading(&warnings, NOW).unwrap().is_locked());
        assert_eq!(warnings.0.load(Ordering::Relaxed), 1);
        assert!(repository.lock_shared(NOW).is_err());
        leave(&repository, "", true, NOW);
        assert!(matches!(repository.lock_for_reading(&warnings, NOW), Err(Error::Locked { .. })));
    }
}
