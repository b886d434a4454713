//! A repository: a place, its key, and the small objects in it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::Id;
use crate::backend::{Backend, FileInfo, FileKind};
use crate::crypto::MasterKey;
use crate::error::{Error, Result};
use crate::format::config::{Config, VERSION};
use crate::format::fact::{Fact, SnapshotRef};
use crate::format::snapshot::Snapshot;
use crate::format::{FormatError, unpacked};
use crate::keys::{self, KeyOptions};
use crate::lock::{self, RepositoryLock};
use crate::secret::Secret;

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
}

impl InitOptions {
    /// Options for tests: the password costs next to nothing to try.
    pub fn cheap() -> Self {
        Self { key: KeyOptions::cheap() }
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

        let config = Config::generate()?;
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
        let mut snapshots = Vec::new();
        let mut vanished = Vec::new();
        for info in self.list(FileKind::Snapshot)? {
            match self.snapshot(&info.id) {
                Err(Error::Missing { .. }) => vanished.push(info.id),
                snapshot => snapshots.push((info.id, snapshot)),
            }
        }
        self.ensure_removed(&vanished)?;
        snapshots.sort_by_key(|(id, snapshot)| {
            let time = snapshot.as_ref().map(|snapshot| snapshot.time).ok();
            (time.is_none(), time, *id)
        });
        Ok(snapshots)
    }

    /// Makes sure that snapshots which could not be found are not listed any longer either.
    fn ensure_removed(&self, vanished: &[Id]) -> Result<()> {
        if vanished.is_empty() {
            return Ok(());
        }
        let listed = self.list(FileKind::Snapshot)?;
        match vanished.iter().find(|id| listed.iter().any(|info| info.id == **id)) {
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
    /// Their data stays until a prune. All of them must be there and readable. Returns the name of the fact.
    pub fn forget(
        &self,
        snapshots: &[Id],
        reason: &str,
        lock: &dyn RepositoryLock,
        now: Timestamp,
    ) -> Result<Id> {
        let dropped = snapshots
            .iter()
            .map(|id| self.snapshot(id).map(|snapshot| refer_to(&snapshot, *id)))
            .collect::<Result<Vec<_>>>()?;
        let heads = self.facts()?.heads();
        lock.ensure_valid()?;
        let fact = Fact::Forgotten { snapshots: dropped, reason: reason.to_owned() };
        let fact = self.append_fact(fact, &heads, now)?;
        for id in snapshots {
            self.0.backend.remove(FileKind::Snapshot, id)?;
        }
        Ok(fact)
    }
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
