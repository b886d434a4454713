//! Locks against each other, against restic's, against crashes, and against clocks.

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
    let file = left_behind(program, exclusive, time);
    repository.save_unpacked(FileKind::Lock, &file.encode()).unwrap()
}

fn left_behind(program: &str, exclusive: bool, time: Timestamp) -> LockFile {
    let process = Process::current();
    LockFile {
        time,
        exclusive,
        hostname: "elsewhere".to_owned(),
        username: "ann".to_owned(),
        pid: 4711,
        uid: 1,
        gid: 1,
        program: program.to_owned(),
        machine_id: process.machine_id.clone(),
        boot_id: process.boot_id.clone(),
    }
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
fn lock_of_another_machine_is_not_taken_for_abandoned_on_local_storage() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Arc::new(LocalBackend::new(folder.path().join("r")));
    let repository = repository_on(Arc::clone(&backend) as Arc<dyn Backend>);
    let ours = left_behind(PROGRAM, true, NOW);
    let elsewhere =
        LockFile { machine_id: "another".to_owned(), boot_id: "another".to_owned(), ..ours.clone() };
    let id = repository.save_unpacked(FileKind::Lock, &elsewhere.encode()).unwrap();
    assert!(matches!(repository.lock_shared(NOW), Err(Error::Locked { .. })));
    Repository::open(Arc::clone(&backend) as Arc<dyn Backend>, &[Secret::from("x")]).unwrap();
    let left = || backend.list(FileKind::Lock).unwrap().into_iter().map(|info| info.id).collect::<Vec<_>>();
    assert_eq!(left(), [id]);

    backend.remove(FileKind::Lock, &id).unwrap();
    // Another container of this machine, or this machine before it was restarted.
    for left_behind in [
        LockFile { machine_id: "another".to_owned(), ..ours.clone() },
        LockFile { boot_id: "before".to_owned(), ..ours },
    ] {
        if left_behind.machine_id.is_empty() || left_behind.boot_id.is_empty() {
            continue;
        }
        repository.save_unpacked(FileKind::Lock, &left_behind.encode()).unwrap();
        repository.lock_exclusive(NOW).unwrap();
        assert_eq!(left(), []);
    }
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
    removals_fail: AtomicUsize,
    abandoned: Mutex<Option<bool>>,
    /// Called once, after a list of locks was read and before it is returned.
    after_list: Mutex<Option<Hook>>,
}

/// Changes a listing.
type Change = Box<dyn FnOnce(&mut Vec<FileInfo>) + Send>;

struct Hook(Change);

impl std::fmt::Debug for Hook {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Hook")
    }
}

impl Remote {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryBackend::new(),
            ages: Mutex::default(),
            writes_fail: AtomicUsize::new(0),
            removals_fail: AtomicUsize::new(0),
            abandoned: Mutex::new(None),
            after_list: Mutex::new(None),
        })
    }

    fn after_list(&self, change: impl FnOnce(&mut Vec<FileInfo>) + Send + 'static) {
        *self.after_list.lock().unwrap() = Some(Hook(Box::new(change)));
    }

    fn read_only() -> Error {
        let source = std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem);
        Error::Io { what: "write a lock".to_owned(), source }
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
        let mut list = self.memory.list(kind)?;
        if kind == FileKind::Lock {
            let hook = self.after_list.lock().unwrap().take();
            if let Some(Hook(change)) = hook {
                change(&mut list);
            }
        }
        Ok(list)
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
        if self.removals_fail.load(Ordering::Relaxed) > 0 {
            return Err(Self::read_only());
        }
        self.memory.remove(kind, id)
    }
    fn write_held_lock(&self, id: &Id, contents: &[u8]) -> Result<Box<dyn LockHolder>> {
        if self.writes_fail.load(Ordering::Relaxed) > 0 {
            return Err(Self::read_only());
        }
        self.memory.write_held_lock(id, contents)
    }
    fn is_abandoned(&self, _: &Id) -> Result<Option<bool>> {
        Ok(*self.abandoned.lock().unwrap())
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

#[test]
fn lock_that_is_refreshed_while_others_look_is_seen() {
    let remote = Remote::new();
    let repository = repository_on(Arc::clone(&remote) as Arc<dyn Backend>);
    let held = Arc::new(repository.lock_shared(NOW).unwrap());
    let own = leave(&repository, PROGRAM, true, NOW);
    let look = || ensure_no_conflict(&repository, true, Some(&own), NOW);

    // The listed file is gone before it can be read.
    let refreshed = Arc::clone(&held);
    remote.after_list(move |_| refreshed.0.lock.refresh().unwrap());
    assert!(matches!(look(), Err(Error::Locked { exclusive: false, .. })));

    // The folder was read behind the place of the new file and before that of the old one.
    let refreshed = Arc::clone(&held);
    remote.after_list(move |list| {
        refreshed.0.lock.refresh().unwrap();
        list.retain(|info| info.id == own);
    });
    assert!(matches!(look(), Err(Error::Locked { exclusive: false, .. })));
}

#[test]
fn reading_without_a_lock_gives_way_to_an_exclusive_one_also_where_a_dead_one_cannot_be_removed() {
    let remote = Remote::new();
    let repository = repository_on(Arc::clone(&remote) as Arc<dyn Backend>);
    let dead = leave(&repository, PROGRAM, true, NOW);
    *remote.abandoned.lock().unwrap() = Some(true);
    remote.removals_fail.store(1, Ordering::Relaxed);
    let warnings = Warnings(AtomicUsize::new(0));
    assert!(!repository.lock_for_reading(&warnings, NOW).unwrap().is_locked(), "{dead} has no holder");
    leave(&repository, "", true, NOW);
    assert!(matches!(repository.lock_for_reading(&warnings, NOW), Err(Error::Locked { .. })));
}
