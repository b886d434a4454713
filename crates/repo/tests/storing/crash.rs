//! Writes that fail and processes that die, at every write in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dbkeep_repo::backend::{Backend, FileInfo, FileKind, LockHolder, MemoryBackend};
use dbkeep_repo::check::{CheckOptions, ReadData, check};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::write::{ImageOptions, PART_CHUNKS};
use dbkeep_repo::{Error, Id, Repository, Result, Unobserved};

use crate::scene::{CHUNK, Slice, backup, bytes, commit, memory, now, open, options, restore, small_packs};

fn assert_sound(repository: &Repository, what: &str) {
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(repository, &options, &Unobserved).unwrap();
    assert!(report.ok, "{what}: {:?}", report.findings);
}

#[test]
fn crash_at_any_write_keeps_all_earlier_snapshots_and_makes_no_half_one() {
    let before = bytes(1, 20 * CHUNK as usize);
    let mut after = bytes(2, 150 * CHUNK as usize);
    after.extend_from_slice(&before);
    for writes in 0.. {
        let (backend, repository) = memory();
        let first = backup(&repository, &before).unwrap();
        backend.fail_after(writes);
        let second = backup(&repository, &after);
        // The power goes: what was not written is not there, and no lock is held.
        let found = backend.after_crash();
        let repository = open(Arc::new(found.clone()));
        let what = format!("after {writes} writes");
        assert_sound(&repository, &what);
        let snapshots = repository.snapshots().unwrap();
        assert!(restore(&repository, &first).unwrap() == before, "{what}");
        for snapshot in snapshots.iter().filter(|snapshot| snapshot.id != first.id) {
            assert!(restore(&repository, snapshot).unwrap() == after, "{what}");
        }
        // Whatever was left behind, the next backup works.
        let third = backup(&repository, &after).unwrap();
        assert!(restore(&repository, &third).unwrap() == after, "{what}");
        assert_sound(&repository, &what);
        assert!(found.names(FileKind::Lock).is_empty(), "{what}");
        if second.is_ok() {
            // The lock's removal is the last change, and its failure harms nothing.
            assert_eq!(snapshots.len(), 2);
            assert!(writes > 10, "{writes}");
            return;
        }
        assert!(matches!(second, Err(Error::Io { .. })), "{what}: {second:?}");
    }
}

/// Says at one write that the disk is full, and works again afterwards.
#[derive(Debug)]
pub(crate) struct FailsOnce {
    inner: MemoryBackend,
    kind: FileKind,
    left: AtomicU64,
}

impl FailsOnce {
    /// Lets the `nth` write of a kind fail.
    pub(crate) fn new(inner: MemoryBackend, kind: FileKind, nth: u64) -> Self {
        Self { inner, kind, left: AtomicU64::new(nth) }
    }

    pub(crate) fn has_failed(&self) -> bool {
        // It goes on counting below zero.
        !(1..u64::MAX / 2).contains(&self.left.load(Ordering::SeqCst))
    }
}

impl Backend for FailsOnce {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn create(&self) -> Result<()> {
        self.inner.create()
    }
    fn is_empty(&self) -> Result<bool> {
        self.inner.is_empty()
    }
    fn list(&self, kind: FileKind) -> Result<Vec<FileInfo>> {
        self.inner.list(kind)
    }
    fn read(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        self.inner.read(kind, id)
    }
    fn read_range(&self, kind: FileKind, id: &Id, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_range(kind, id, offset, buffer)
    }
    fn write(&self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()> {
        if kind == self.kind && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            return Err(Error::NoSpace {
                path: "/backups".into(),
                needed: contents.len() as u64,
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        self.inner.write(kind, id, contents)
    }
    fn remove(&self, kind: FileKind, id: &Id) -> Result<()> {
        self.inner.remove(kind, id)
    }
    fn make_durable(&self, kind: FileKind) -> Result<()> {
        self.inner.make_durable(kind)
    }
    fn write_held_lock(&self, id: &Id, contents: &[u8]) -> Result<Box<dyn LockHolder>> {
        self.inner.write_held_lock(id, contents)
    }
    fn is_abandoned(&self, id: &Id) -> Result<Option<bool>> {
        self.inner.is_abandoned(id)
    }
    fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space()
    }
    fn clean_temporary(&self) -> Result<usize> {
        self.inner.clean_temporary()
    }
    fn settling_time(&self) -> std::time::Duration {
        self.inner.settling_time()
    }
}

#[test]
fn write_that_fails_once_ends_the_session_with_its_error_and_without_a_snapshot() {
    let contents = bytes(3, 100 * CHUNK as usize);
    let cases = [(FileKind::Pack, 1), (FileKind::Pack, 3), (FileKind::Index, 1), (FileKind::Snapshot, 1)];
    for (kind, nth) in cases {
        let (inner, repository) = memory();
        drop(repository);
        let backend = FailsOnce::new(inner.clone(), kind, nth);
        let repository = open(Arc::new(backend));
        let failed = backup(&repository, &contents);
        assert!(matches!(failed, Err(Error::NoSpace { .. })), "{kind:?} {nth}: {failed:?}");
        assert!(inner.names(FileKind::Snapshot).is_empty());
        assert!(inner.names(FileKind::Lock).is_empty());
        // Whoever comes next needs some room: what no index file names does not stay.
        assert_eq!(inner.names(FileKind::Pack).is_empty(), kind != FileKind::Snapshot, "{kind:?} {nth}");
        let snapshot = backup(&repository, &contents).unwrap();
        assert!(restore(&repository, &snapshot).unwrap() == contents);
        assert_sound(&repository, &format!("{kind:?} {nth}"));
    }
}

#[test]
fn list_of_chunks_that_cannot_be_stored_ends_the_session() {
    // Five parts, which fill more than one pack.
    let contents = bytes(8, (4 * PART_CHUNKS + 100) * 1024);
    let options = ImageOptions { chunk_size: 1024, ..options() };
    let save = |repository: &Repository| -> Result<Snapshot> {
        let lock = repository.lock_shared(now())?;
        let index = dbkeep_repo::index::Index::new();
        let mut writer = repository.writer(&lock, index, &small_packs(), Arc::new(Unobserved))?;
        let image = writer.save_image(&mut Slice(&contents), &options)?;
        commit(&mut writer, &image)
    };
    let (whole, repository) = memory();
    save(&repository).unwrap();
    let packs = whole.names(FileKind::Pack).len() as u64;
    for nth in packs - 4..packs {
        let (inner, repository) = memory();
        drop(repository);
        let repository = open(Arc::new(FailsOnce::new(inner.clone(), FileKind::Pack, nth)));
        let failed = save(&repository);
        assert!(matches!(failed, Err(Error::NoSpace { .. })), "{nth} of {packs}: {failed:?}");
        assert!(inner.names(FileKind::Snapshot).is_empty());
        let snapshot = save(&repository).unwrap();
        assert!(restore(&repository, &snapshot).unwrap() == contents);
        assert_sound(&repository, &format!("{nth} of {packs}"));
    }
}

#[test]
fn session_that_has_failed_stays_failed() {
    let (inner, repository) = memory();
    drop(repository);
    let backend = FailsOnce::new(inner, FileKind::Pack, 1);
    let repository = open(Arc::new(backend));
    let lock = repository.lock_shared(now()).unwrap();
    let index = dbkeep_repo::index::Index::new();
    let mut writer = repository.writer(&lock, index, &small_packs(), Arc::new(Unobserved)).unwrap();
    // Large enough that the error comes while there is much more to read: the reading stops early.
    let contents = bytes(4, 5_000_000);
    assert!(matches!(writer.save_image(&mut Slice(&contents), &options()), Err(Error::NoSpace { .. })));
    assert!(writer.totals().bytes_read <= contents.len() as u64);
    assert!(writer.save_image(&mut Slice(b"more"), &options()).is_err());
    assert!(writer.save_file("name", b"contents", &crate::scene::meta()).is_err());
    assert!(writer.flush().is_err());
}

#[test]
fn lock_that_was_lost_lets_no_snapshot_be_made() {
    let (backend, repository) = memory();
    let lock = repository.lock_shared(now()).unwrap();
    let index = dbkeep_repo::index::Index::new();
    let mut writer = repository.writer(&lock, index, &small_packs(), Arc::new(Unobserved)).unwrap();
    let image = writer.save_image(&mut Slice(&bytes(5, 100_000)), &options()).unwrap();
    for id in backend.names(FileKind::Lock) {
        backend.remove(FileKind::Lock, &id).unwrap();
    }
    let refused = crate::scene::commit(&mut writer, &image);
    assert!(matches!(refused, Err(Error::LockLost)), "{refused:?}");
    assert!(backend.names(FileKind::Snapshot).is_empty());
    assert!(backend.names(FileKind::Index).is_empty());
}

#[test]
fn lock_that_is_lost_while_the_snapshot_is_written_lets_no_snapshot_stay() {
    let (backend, repository) = memory();
    let paused = bytes(6, 100_000);
    backend.before_change(FileKind::Snapshot, |backend| {
        for id in backend.names(FileKind::Lock) {
            backend.remove(FileKind::Lock, &id).unwrap();
        }
    });
    assert!(matches!(backup(&repository, &paused), Err(Error::LockLost)));
    assert!(backend.names(FileKind::Snapshot).is_empty());
    let snapshot = backup(&repository, &paused).unwrap();
    assert!(restore(&repository, &snapshot).unwrap() == paused);
}
