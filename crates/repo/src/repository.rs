//! A repository: a place, its key, and the small objects in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

use jiff::Timestamp;

use crate::Id;
use crate::backend::{Backend, FileInfo, FileKind};
use crate::cache::{Cache, record};
use crate::crypto::MasterKey;
use crate::error::{Error, Result};
use crate::format::config::{Config, VERSION};
use crate::format::fact::{Fact, SnapshotRef};
use crate::format::snapshot::Snapshot;
use crate::format::{FormatError, unpacked};
use crate::keys::{self, KeyOptions};
use crate::lock::{self, RepositoryLock};
use crate::secret::Secret;

/// Fewer objects than this are read before a thread has begun.
const WORTH_A_THREAD: usize = 8;

/// An open repository. Cloning is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Repository(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn Backend>,
    config: Config,
    key: MasterKey,
    key_id: Id,
}

/// How a repository is made.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// How its first key is made.
    pub key: KeyOptions,
    /// What stock tools cut files with, taken over from the repository that this one will hold copies of, so that their
    /// chunks match; random by default.
    pub chunker_polynomial: Option<String>,
}

impl InitOptions {
    /// Options for tests: the password costs next to nothing to try.
    pub fn cheap() -> Self {
        Self { key: KeyOptions::cheap(), ..Self::default() }
    }
}

impl Repository {
    /// Makes a repository in a place where nothing is.
    ///
    /// The last write, `config`, makes it one: after a crash before it the place counts as empty and
    /// `init` may be repeated.
    pub fn init(
        backend: Arc<dyn Backend>,
        password: &Secret,
        options: &InitOptions,
        now: Timestamp,
    ) -> Result<Self> {
        if !backend.is_empty()? {
            return Err(Error::NotEmpty { location: backend.location() });
        }
        backend.create()?;
        let remains = backend.list(FileKind::Key).unwrap_or_default();

        let mut config = Config::generate()?;
        if let Some(polynomial) = &options.chunker_polynomial {
            config.chunker_polynomial.clone_from(polynomial);
        }
        let key = MasterKey::generate()?;
        let key_id = keys::store(&*backend, &key, password, &options.key, now)?;
        let mut sealed = Vec::new();
        key.seal(&config.encode(), &mut sealed)?;
        if let Err(error) = backend.write(FileKind::Config, &Id::NULL, &sealed) {
            // Best effort: without a config the key is of no use to anybody.
            _ = backend.remove(FileKind::Key, &key_id);
            return Err(match error {
                Error::Taken { .. } => Error::NotEmpty { location: backend.location() },
                error => error,
            });
        }

        // Keys of an init that was interrupted open nothing here, but stock tools would trip over them.
        for key in remains {
            backend.remove(FileKind::Key, &key.id)?;
        }
        Ok(Self(Arc::new(Inner { backend, config, key, key_id })))
    }

    /// Opens a repository with the first of the passwords that opens a key.
    ///
    /// Removes the locks of dbkeep processes that are gone.
    pub fn open(backend: Arc<dyn Backend>, passwords: &[Secret]) -> Result<Self> {
        let sealed = read_config(&*backend)?;
        let open_config = |key: &MasterKey| decode_config(key, &sealed);
        let (key_id, key, config) = match keys::find(&*backend, passwords, open_config) {
            Err(Error::Listing { what, source }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Foreign {
                    location: backend.location(),
                    what: format!("no folder {what}"),
                });
            }
            found => found?,
        };
        if config.version != VERSION {
            return Err(Error::Version { found: config.version });
        }
        let repository = Self(Arc::new(Inner { backend, config, key, key_id }));
        // Where this fails, taking a lock fails too and says why; reading needs none.
        _ = lock::remove_abandoned(&repository);
        Ok(repository)
    }

    /// Returns the random name that the repository got when it was made.
    pub fn id(&self) -> &str {
        &self.0.config.id
    }

    /// Returns what stock tools cut files with here.
    pub fn chunker_polynomial(&self) -> &str {
        &self.0.config.chunker_polynomial
    }

    /// Returns where it is, for people.
    pub fn location(&self) -> String {
        self.0.backend.location()
    }

    /// Returns where its objects are.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// Returns the key that seals its objects.
    pub fn key(&self) -> &MasterKey {
        &self.0.key
    }

    /// Returns the name of the key file that it was opened with.
    pub fn key_id(&self) -> Id {
        self.0.key_id
    }

    /// Lists all objects of a kind.
    pub fn list(&self, kind: FileKind) -> Result<Vec<FileInfo>> {
        self.0.backend.list(kind)
    }

    /// Returns the names of all objects of a kind.
    pub fn names(&self, kind: FileKind) -> Result<Vec<Id>> {
        self.0.backend.names(kind)
    }

    /// Reads an index, snapshot, lock or fact: its name, MAC and encoding are checked.
    pub fn load_unpacked(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        let damaged = |what: String| Error::Damaged { kind, id: *id, what };
        let mut sealed = self.0.backend.read(kind, id)?;
        if Id::of(&sealed) != *id {
            return Err(damaged("its contents do not match its name".to_owned()));
        }
        let bytes = self.0.key.open(&mut sealed).map_err(|error| damaged(error.to_string()))?;
        unpacked::decode(bytes).map_err(|error| damaged(error.to_string()))
    }

    /// Makes sure that an object is there and has the contents that its name says.
    pub(crate) fn ensure_readable(&self, kind: FileKind, id: &Id) -> Result<()> {
        let bytes = self.0.backend.read(kind, id)?;
        if Id::of(&bytes) == *id {
            return Ok(());
        }
        Err(Error::Damaged { kind, id: *id, what: "its contents do not match its name".to_owned() })
    }

    /// Stores an index, snapshot, lock or fact and returns its name. On return it survives a power cut.
    pub fn save_unpacked(&self, kind: FileKind, json: &[u8]) -> Result<Id> {
        let (id, sealed) = self.seal_unpacked(json)?;
        self.0.backend.write(kind, &id, &sealed)?;
        Ok(id)
    }

    /// Returns the bytes of such an object, and the name that they will have.
    pub(crate) fn seal_unpacked(&self, json: &[u8]) -> Result<(Id, Vec<u8>)> {
        let mut sealed = Vec::new();
        self.0.key.seal(&unpacked::encode(json), &mut sealed)?;
        Ok((Id::of(&sealed), sealed))
    }

    /// Returns all snapshots, oldest first; the first one that cannot be read is the error.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.each_snapshot()?.into_iter().map(|(_, snapshot)| snapshot).collect()
    }

    /// Returns all snapshots, oldest first, and after them those that cannot be read, each with the reason.
    ///
    /// A snapshot that is removed meanwhile is left out; a listing that fails is an error.
    pub fn each_snapshot(&self) -> Result<Vec<(Id, Result<Snapshot>)>> {
        self.each_snapshot_through(None)
    }

    /// Does what [`Repository::each_snapshot`] does, and reads those that are in the cache from there: that one of them
    /// has become unreadable since is not noticed.
    pub fn each_snapshot_through(&self, cache: Option<&Cache>) -> Result<Vec<(Id, Result<Snapshot>)>> {
        let listed = self.names(FileKind::Snapshot)?;
        let mut snapshots = Vec::with_capacity(listed.len());
        let mut vanished = Vec::new();
        let mut sort = |id, snapshot| match snapshot {
            Err(Error::Missing { .. }) => vanished.push(id),
            snapshot => snapshots.push((id, snapshot)),
        };
        let Some(cache) = cache else {
            read_each(&listed, |id| self.snapshot(id)).into_iter().for_each(|(id, found)| sort(id, found));
            self.ensure_removed(&vanished)?;
            return Ok(oldest_first(snapshots));
        };
        let mut shelf = cache.shelf(FileKind::Snapshot, &listed);
        shelf.read(|id, bytes| {
            sort(id, Ok(Snapshot { id: Some(id), ..record::decode_snapshot(bytes)? }));
            Ok(())
        });
        for (id, snapshot) in read_each(&shelf.missing(), |id| self.snapshot(id)) {
            if let Ok(snapshot) = &snapshot {
                shelf.add(&id, &record::encode_snapshot(snapshot));
            }
            sort(id, snapshot);
        }
        shelf.finish();
        self.ensure_removed(&vanished)?;
        Ok(oldest_first(snapshots))
    }

    /// Makes sure that snapshots which could not be found are not listed any longer either.
    fn ensure_removed(&self, vanished: &[Id]) -> Result<()> {
        if vanished.is_empty() {
            return Ok(());
        }
        let listed: HashSet<Id> = self.names(FileKind::Snapshot)?.into_iter().collect();
        match vanished.iter().find(|id| listed.contains(id)) {
            Some(id) => Err(Error::Missing { kind: FileKind::Snapshot, id: *id }),
            None => Ok(()),
        }
    }

    /// Reads one snapshot.
    pub fn snapshot(&self, id: &Id) -> Result<Snapshot> {
        let json = self.load_unpacked(FileKind::Snapshot, id)?;
        let snapshot = Snapshot::decode(&json).map_err(|error| damaged(FileKind::Snapshot, id, &error))?;
        Ok(Snapshot { id: Some(*id), ..snapshot })
    }

    /// Drops snapshots: first the fact that they are dropped on purpose is stored, then they are removed.
    ///
    /// In between `look`, which gets the name of the fact, sees what other processes have stored meanwhile; where it
    /// fails, nothing is removed. Their data stays until a prune. All snapshots must be there and readable.
    pub fn forget<E: From<Error>>(
        &self,
        snapshots: &[Id],
        reason: &str,
        lock: &dyn RepositoryLock,
        now: Timestamp,
        look: impl FnOnce(Id) -> Result<(), E>,
    ) -> Result<(), E> {
        let dropped = snapshots
            .iter()
            .map(|id| self.snapshot(id).map(|snapshot| refer_to(&snapshot, *id)))
            .collect::<Result<Vec<_>>>()?;
        let heads = self.facts()?.heads();
        lock.ensure_valid()?;
        let fact = Fact::Forgotten { snapshots: dropped, reason: reason.to_owned() };
        look(self.append_fact(fact, &heads, now)?)?;
        // Made durable together: one by one it took longer than everything else of a prune of a thousand snapshots.
        Ok(self.0.backend.remove_all(FileKind::Snapshot, snapshots, &mut |_| Ok(()))?)
    }
}

/// Sorts snapshots by their time; those that cannot be read come last.
fn oldest_first(mut snapshots: Vec<(Id, Result<Snapshot>)>) -> Vec<(Id, Result<Snapshot>)> {
    snapshots.sort_by_key(|(id, snapshot)| {
        let time = snapshot.as_ref().map(|snapshot| snapshot.time).ok();
        (time.is_none(), time, *id)
    });
    snapshots
}

/// Reads objects on all cores and returns what became of each, in the same order.
pub(crate) fn read_each<T: Send>(ids: &[Id], read: impl Fn(&Id) -> Result<T> + Sync) -> Vec<(Id, Result<T>)> {
    let read_all = |ids: &[Id]| ids.iter().map(|id| (*id, read(id))).collect::<Vec<_>>();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = ids.len().div_ceil(threads);
    if share < WORTH_A_THREAD {
        return read_all(ids);
    }
    thread::scope(|scope| {
        let read_all = &read_all;
        let shares: Vec<_> = ids.chunks(share).map(|ids| scope.spawn(move || read_all(ids))).collect();
        let joined = |share: thread::ScopedJoinHandle<'_, Vec<(Id, Result<T>)>>| match share.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        shares.into_iter().flat_map(joined).collect()
    })
}

/// Returns how facts name a snapshot.
pub(crate) fn refer_to(snapshot: &Snapshot, id: Id) -> SnapshotRef {
    let database = snapshot.tag("database").unwrap_or_default().to_owned();
    SnapshotRef { id, tree: snapshot.tree, database }
}

/// Makes the error for an object whose plain bytes are not what they should be.
pub(crate) fn damaged(kind: FileKind, id: &Id, error: &FormatError) -> Error {
    Error::Damaged { kind, id: *id, what: error.to_string() }
}

/// Reads the sealed config; where there is none, says what there is instead.
fn read_config(backend: &dyn Backend) -> Result<Vec<u8>> {
    match backend.read(FileKind::Config, &Id::NULL) {
        Err(Error::Missing { .. }) => {
            let is_remains = backend.list(FileKind::Snapshot).is_ok_and(|snapshots| !snapshots.is_empty())
                || backend.list(FileKind::Index).is_ok_and(|indexes| !indexes.is_empty());
            let location = backend.location();
            Err(if is_remains {
                Error::Foreign { location, what: "its file config is missing".to_owned() }
            } else {
                Error::NoRepository { location }
            })
        }
        config => config,
    }
}

fn decode_config(key: &MasterKey, sealed: &[u8]) -> Result<Config> {
    let damaged = |what: String| Error::Damaged { kind: FileKind::Config, id: Id::NULL, what };
    let mut sealed = sealed.to_vec();
    let json = key.open(&mut sealed).map_err(|error| damaged(error.to_string()))?;
    Config::decode(json).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn password() -> Secret {
        Secret::from("secret")
    }

    fn repository() -> (MemoryBackend, Repository) {
        let memory = MemoryBackend::new();
        let backend = Arc::new(memory.clone());
        let repository = Repository::init(backend, &password(), &InitOptions::cheap(), NOW).unwrap();
        (memory, repository)
    }

    fn open(memory: &MemoryBackend, password: &str) -> Result<Repository> {
        Repository::open(Arc::new(memory.clone()), &[Secret::from(password)])
    }

    fn save(repository: &Repository, second: i64, tags: &[&str]) -> Id {
        let time = Timestamp::from_second(second).unwrap();
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        let snapshot = Snapshot { tags, ..Snapshot::new(time, Id::of(b"tree")) };
        repository.save_unpacked(FileKind::Snapshot, &snapshot.encode()).unwrap()
    }

    #[test]
    fn new_repository_is_opened_with_its_password_only() {
        let (memory, repository) = repository();
        let opened = open(&memory, "secret").unwrap();
        assert_eq!((opened.id(), opened.key_id()), (repository.id(), repository.key_id()));
        assert!(matches!(open(&memory, "wrong"), Err(Error::WrongPassword)));
        assert!(matches!(Repository::open(Arc::new(memory), &[]), Err(Error::NoKey)));
    }

    #[test]
    fn init_refuses_a_place_where_something_is() {
        let (memory, _) = repository();
        let again = Repository::init(Arc::new(memory), &password(), &InitOptions::cheap(), NOW);
        assert!(matches!(again, Err(Error::NotEmpty { .. })));
    }

    #[test]
    fn init_interrupted_after_any_write_can_be_repeated() {
        let mut changes = 0;
        loop {
            let memory = MemoryBackend::new();
            memory.fail_after(changes);
            let backend = || Arc::new(memory.clone());
            let first = Repository::init(backend(), &password(), &InitOptions::cheap(), NOW);
            memory.recover();
            if first.is_ok() {
                break;
            }
            assert!(matches!(open(&memory, "secret"), Err(Error::NoRepository { .. })));
            let second = Repository::init(backend(), &password(), &InitOptions::cheap(), NOW).unwrap();
            assert_eq!(memory.names(FileKind::Key), [second.key_id()], "no key of the first try is left");
            open(&memory, "secret").unwrap();
            changes += 1;
        }
        assert_eq!(changes, 2);
    }

    #[test]
    fn place_without_a_repository_is_told_from_one_that_lost_its_config() {
        let memory = MemoryBackend::new();
        assert!(matches!(open(&memory, "secret"), Err(Error::NoRepository { .. })));
        let (memory, repository) = repository();
        save(&repository, 0, &[]);
        memory.remove(FileKind::Config, &Id::NULL).unwrap();
        assert!(matches!(open(&memory, "secret"), Err(Error::Foreign { .. })));
    }

    #[test]
    fn version_1_is_refused() {
        let (memory, repository) = repository();
        let config = Config { version: 1, ..Config::generate().unwrap() };
        let mut sealed = Vec::new();
        repository.key().seal(&config.encode(), &mut sealed).unwrap();
        memory.alter(FileKind::Config, &Id::NULL, |contents| *contents = sealed);
        let error = open(&memory, "secret").unwrap_err();
        assert!(matches!(error, Error::Version { found: 1 }));
        assert!(error.hint().unwrap().contains("upgrade_repo_v2"));
    }

    #[test]
    fn every_damage_to_the_config_is_found() {
        let (memory, _) = repository();
        let config = memory.read(FileKind::Config, &Id::NULL).unwrap();
        for position in 0..config.len() {
            let copy = memory.after_crash();
            copy.alter(FileKind::Config, &Id::NULL, |contents| contents[position] ^= 1);
            let opened = open(&copy, "secret");
            assert!(matches!(opened, Err(Error::Damaged { kind: FileKind::Config, .. })), "{opened:?}");
            copy.alter(FileKind::Config, &Id::NULL, |contents| contents.truncate(position));
            assert!(open(&copy, "secret").is_err());
        }
    }

    #[test]
    fn every_damage_to_the_only_key_is_called_damage_or_harmless() {
        let (memory, repository) = repository();
        let id = repository.key_id();
        let length = memory.read(FileKind::Key, &id).unwrap().len();
        for position in 0..length {
            for bit in [0, 5] {
                let copy = memory.after_crash();
                copy.alter(FileKind::Key, &id, |contents| contents[position] ^= 1 << bit);
                match open(&copy, "secret") {
                    // A flip in the maker's name, for example, keeps nobody out.
                    Ok(opened) => assert_eq!(opened.id(), repository.id()),
                    Err(Error::KeyDamaged { id: damaged }) => assert_eq!(damaged, id),
                    other => panic!("byte {position}: {other:?}"),
                }
            }
            let copy = memory.after_crash();
            copy.alter(FileKind::Key, &id, |contents| contents.truncate(position));
            assert!(matches!(open(&copy, "secret"), Err(Error::KeyDamaged { .. })));
        }
    }

    #[test]
    fn damaged_key_does_not_keep_another_from_opening() {
        let (memory, repository) = repository();
        repository.add_key(&Secret::from("second"), &KeyOptions::cheap(), NOW).unwrap();
        memory.alter(FileKind::Key, &repository.key_id(), |contents| contents.truncate(20));
        let opened = open(&memory, "second").unwrap();
        assert!(matches!(open(&memory, "secret"), Err(Error::KeyDamaged { .. })));
        let problems: Vec<bool> = opened.keys().unwrap().iter().map(|key| key.problem.is_some()).collect();
        assert_eq!(problems.iter().filter(|problem| **problem).count(), 1);
    }

    #[test]
    fn any_password_of_several_opens_any_key_of_several() {
        let (memory, repository) = repository();
        for second in 1..4 {
            let now = Timestamp::from_second(second).unwrap();
            repository.add_key(&Secret::from(&*format!("p{second}")), &KeyOptions::cheap(), now).unwrap();
        }
        for password in ["secret", "p1", "p2", "p3"] {
            open(&memory, password).unwrap();
        }
        let passwords = [Secret::from("wrong"), Secret::from("p2")];
        let opened = Repository::open(Arc::new(memory.clone()), &passwords).unwrap();
        let current: Vec<_> = opened.keys().unwrap().into_iter().map(|key| key.is_current).collect();
        assert_eq!(current, [false, false, true, false]);
    }

    #[test]
    fn only_the_newest_keys_are_tried() {
        let (memory, repository) = repository();
        for second in 1..=20 {
            let now = Timestamp::from_second(second).unwrap();
            repository.add_key(&Secret::from("other"), &KeyOptions::cheap(), now).unwrap();
        }
        let error = open(&memory, "secret").unwrap_err();
        assert!(matches!(error, Error::TooManyKeys { tried: 20, keys: 21 }), "{error:?}");
        open(&memory, "other").unwrap();
    }

    #[test]
    fn key_in_use_is_never_removed() {
        let (memory, repository) = repository();
        let own = repository.key_id();
        assert!(matches!(repository.remove_key(&own), Err(Error::KeyNeeded { .. })));
        let second = repository.add_key(&Secret::from("second"), &KeyOptions::cheap(), NOW).unwrap();
        repository.remove_key(&second).unwrap();
        assert!(matches!(repository.remove_key(&second), Err(Error::Missing { .. })));
        let third = repository.add_key(&Secret::from("third"), &KeyOptions::cheap(), NOW).unwrap();
        open(&memory, "third").unwrap().remove_key(&own).unwrap();
        assert!(matches!(repository.remove_key(&third), Err(Error::KeyNeeded { .. })));
        assert_eq!(memory.names(FileKind::Key), [third]);
    }

    #[test]
    fn two_who_remove_each_others_key_at_once_leave_one() {
        let (memory, repository) = repository();
        let first = repository.key_id();
        let second = repository.add_key(&Secret::from("second"), &KeyOptions::cheap(), NOW).unwrap();
        memory.before_change(FileKind::Key, move |memory| memory.remove(FileKind::Key, &first).unwrap());
        repository.remove_key(&second).unwrap();
        assert_eq!(memory.names(FileKind::Key), [first]);
        open(&memory, "secret").unwrap();
    }

    #[test]
    fn key_of_another_repository_with_the_same_password_is_passed_over() {
        let (memory, repository) = repository();
        let now = Timestamp::from_second(1).unwrap();
        let other = MasterKey::generate().unwrap();
        keys::store(&memory, &other, &password(), &KeyOptions::cheap(), now).unwrap();
        assert_eq!(open(&memory, "secret").unwrap().key_id(), repository.key_id());
    }

    #[test]
    fn snapshots_come_oldest_first_and_damage_is_named() {
        let (memory, repository) = repository();
        let ids: Vec<_> = [3, 1, 2].map(|second| save(&repository, second, &["database=shop"])).to_vec();
        let listed: Vec<_> = repository.snapshots().unwrap().into_iter().map(|found| found.id).collect();
        assert_eq!(listed, [Some(ids[1]), Some(ids[2]), Some(ids[0])]);

        let size = memory.read(FileKind::Snapshot, &ids[1]).unwrap().len();
        for position in 0..size {
            let copy = memory.after_crash();
            copy.alter(FileKind::Snapshot, &ids[1], |contents| contents[position] ^= 0x10);
            let opened = open(&copy, "secret").unwrap();
            let error = opened.snapshots().unwrap_err();
            assert!(matches!(error, Error::Damaged { kind: FileKind::Snapshot, id, .. } if id == ids[1]));
            let each = opened.each_snapshot().unwrap();
            assert_eq!(each.iter().filter(|(_, snapshot)| snapshot.is_ok()).count(), 2);
            assert_eq!(each[2].0, ids[1], "the damaged one comes last");
        }
    }

    #[test]
    fn object_under_the_name_of_another_is_found() {
        let (memory, repository) = repository();
        let (one, other) = (save(&repository, 1, &[]), save(&repository, 2, &[]));
        let swapped = memory.read(FileKind::Snapshot, &other).unwrap();
        memory.alter(FileKind::Snapshot, &one, |contents| *contents = swapped);
        assert!(matches!(repository.snapshot(&one), Err(Error::Damaged { .. })));
    }

    #[test]
    fn listing_that_fails_is_an_error() {
        let (memory, repository) = repository();
        save(&repository, 1, &[]);
        memory.fail_listing(FileKind::Snapshot);
        assert!(matches!(repository.snapshots(), Err(Error::Listing { .. })));
        memory.fail_listing(FileKind::Fact);
        assert!(repository.facts().is_err());
        memory.fail_listing(FileKind::Lock);
        assert!(repository.lock_shared(NOW).is_err());
        memory.fail_listing(FileKind::Key);
        assert!(matches!(open(&memory, "secret"), Err(Error::Foreign { .. } | Error::Listing { .. })));
    }

    #[test]
    fn forget_interrupted_after_any_write_never_drops_without_the_fact() {
        for changes in 0..4 {
            let (memory, repository) = repository();
            let ids = [save(&repository, 1, &["database=a"]), save(&repository, 2, &["database=b"])];
            let lock = repository.lock_shared(NOW).unwrap();
            memory.fail_after(changes);
            let outcome = repository.forget(&ids, "test", &lock, NOW, |_| Ok::<_, crate::Error>(()));
            assert_eq!(outcome.is_ok(), changes == 3);
            let copy = open(&memory.after_crash(), "secret").unwrap();
            let left = copy.snapshots().unwrap().len();
            let facts = copy.facts().unwrap();
            assert_eq!(left, [2, 2, 1, 0][usize::try_from(changes).unwrap()]);
            assert_eq!(facts.records().len(), usize::from(changes > 0));
            if let Some(record) = facts.records().first() {
                let Fact::Forgotten { snapshots, reason } = &record.file.fact else { panic!("{record:?}") };
                assert_eq!((snapshots.len(), &*snapshots[0].database, &**reason), (2, "a", "test"));
            }
            memory.recover();
        }
    }

    #[test]
    fn forget_of_a_snapshot_that_is_not_there_changes_nothing() {
        let (memory, repository) = repository();
        let there = save(&repository, 1, &[]);
        let lock = repository.lock_exclusive(NOW).unwrap();
        let before = memory.changes();
        assert!(
            repository
                .forget(&[there, Id::of(b"absent")], "test", &lock, NOW, |_| Ok::<_, crate::Error>(()))
                .is_err()
        );
        assert_eq!(memory.changes(), before);
    }
}
