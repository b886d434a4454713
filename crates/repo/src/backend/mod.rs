//! Where the objects of a repository are kept.
//!
//! A backend stores whole, immutable objects by kind and name. It knows nothing of
//! their contents. Every implementation runs the suite in `conformance.rs`.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::Id;
use crate::error::Result;

pub mod conformance;
mod local;
mod memory;

pub use local::LocalBackend;
pub use memory::MemoryBackend;

/// The most bytes that an object may have to be read whole; packs end at 128 MiB or so.
pub const OBJECT_LIMIT: u64 = 1 << 30;

/// How long storage that is not known better may take to show one client what another has written.
/// Stock restic waits as long.
pub const SETTLING_TIME: Duration = Duration::from_millis(200);

/// The kinds of objects in a repository, each in a folder of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// The one unnamed object that makes a place a repository; its name is [`Id::NULL`].
    Config,
    /// A password's access to the master key. Not sealed.
    Key,
    /// Somebody uses the repository.
    Lock,
    /// One database at one moment.
    Snapshot,
    /// Which pack holds which blobs.
    Index,
    /// Blobs, many in one file.
    Pack,
    /// What happened to a snapshot (`dbkeep/facts/`); stock tools ignore it.
    Fact,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Config, Self::Key, Self::Lock, Self::Snapshot, Self::Index, Self::Pack, Self::Fact];

    /// Returns the word for one object of this kind, for messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "key",
            Self::Lock => "lock",
            Self::Snapshot => "snapshot",
            Self::Index => "index",
            Self::Pack => "pack",
            Self::Fact => "fact",
        }
    }
}

/// One row of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileInfo {
    /// The name.
    pub id: Id,
    /// The size in bytes.
    pub size: u64,
}

/// Keeps the objects of one repository.
///
/// All methods may be called from several threads at once.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Returns where this is, for people; secrets are redacted.
    fn location(&self) -> String;

    /// Makes the folders of an empty repository. Nothing happens where they are.
    fn create(&self) -> Result<()>;

    /// Says whether there is nothing at the location besides what dbkeep's own, interrupted `init` may leave:
    /// empty folders, keys, temporary files.
    fn is_empty(&self) -> Result<bool>;

    /// Lists all objects of a kind, in no order.
    ///
    /// Complete or an error, never a part: a folder that is missing in a place that is a repository is
    /// [`crate::Error::Listing`]. Files whose names are no ids are left out (temporary files of stock tools).
    fn list(&self, kind: FileKind) -> Result<Vec<FileInfo>>;

    /// Returns the names of all objects of a kind, in no order. Complete or an error, as [`Backend::list`], and
    /// quicker where sizes cost extra.
    fn names(&self, kind: FileKind) -> Result<Vec<Id>> {
        Ok(self.list(kind)?.into_iter().map(|info| info.id).collect())
    }

    /// Reads a whole object; [`crate::Error::Missing`] when it is not there.
    fn read(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>>;

    /// Fills `buffer` from `offset`; an object that ends before is [`crate::Error::Short`].
    fn read_range(&self, kind: FileKind, id: &Id, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Stores an object. On return it is there whole and survives a power cut; after an
    /// error or a crash it is absent or whole. An object that is there already is left as
    /// it is when its size is the same (names are hashes of contents) and is an error otherwise.
    fn write(&self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()>;

    /// Removes an object, durably; one that is absent is no error.
    fn remove(&self, kind: FileKind, id: &Id) -> Result<()>;

    /// Removes objects, and calls `removed` after each; where that fails, the rest stays. On return, with that error as
    /// well, all removals survive a power cut, except that a pack may come back: nothing names it then. After another
    /// error or a crash any of them may have happened.
    ///
    /// Quicker than one by one where durability costs extra.
    fn remove_all(
        &self,
        kind: FileKind,
        ids: &[Id],
        removed: &mut dyn FnMut(&Id) -> Result<()>,
    ) -> Result<()> {
        ids.iter().try_for_each(|id| {
            self.remove(kind, id)?;
            removed(id)
        })
    }

    /// Makes what a listing of this kind shows survive a power cut, also what other processes have stored or removed:
    /// not all tools see to that, and one that ended early could not. To be called before anything is removed because
    /// of what is not in the listing.
    fn make_durable(&self, kind: FileKind) -> Result<()> {
        let _ = kind;
        Ok(())
    }

    /// Stores a lock and holds it in a way that ends with this process: see [`Backend::is_abandoned`].
    /// The returned guard ends the holding when dropped; it does not remove the object.
    fn write_held_lock(&self, id: &Id, contents: &[u8]) -> Result<Box<dyn LockHolder>>;

    /// Says whether a lock that *dbkeep* wrote with [`Backend::write_held_lock`] belongs to a process that is
    /// gone. `None` where the storage cannot tell. The caller makes sure that the lock is dbkeep's.
    fn is_abandoned(&self, id: &Id) -> Result<Option<bool>>;

    /// Returns the bytes free for us, where the storage can tell.
    fn free_space(&self) -> Result<Option<u64>>;

    /// Removes temporary files that writers who are gone have left. Returns how many.
    fn clean_temporary(&self) -> Result<usize>;

    /// Returns how long to wait until every client sees what was just written.
    fn settling_time(&self) -> Duration {
        SETTLING_TIME
    }

    /// Returns when an object was written, by the clock of the storage, where it can tell. Comparable
    /// only with times of the same storage.
    fn modified(&self, kind: FileKind, id: &Id) -> Result<Option<Timestamp>> {
        let _ = (kind, id);
        Ok(None)
    }
}

/// Holds a lock file for as long as it lives and the process runs.
pub trait LockHolder: Send + Sync + fmt::Debug {}
