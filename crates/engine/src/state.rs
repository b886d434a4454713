//! What this host remembers of repositories it used, below `$XDG_STATE_HOME/dbkeep`.
//!
//! ```text
//! repositories/<hash of the location>    which repository is there, and what was shown of it
//! guards/<hash of the location>/         guards that are at work, or were (`guard/record.rs`)
//! <repository id>/heads                  the newest facts that are known
//! <repository id>/sessions               the ids that sessions were given
//! <repository id>/cache/                 what the small objects of the repository say (`dbkeep_repo::cache`)
//! <repository id>/clocks                 what the clocks said when a policy last ran by itself
//! <repository id>/summaries              what the manifests of snapshots say
//! <repository id>/copies/<hash of the location>    what became of copying there
//! <repository id>/databases/<name>/chunks      the known chunks of the last image
//! <repository id>/databases/<name>/position    where the source was when it was taken
//! ```
//!
//! State that is lost or damaged costs time, never truth: each file begins with the SHA-256 of what follows,
//! and one that does not fit counts as absent.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use dbkeep_repo::{Id, durable};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host_lock::HostLock;
use crate::report::{Engine, ErrorReport};
use crate::retention::careful::Clocks;
use crate::{Error, Result, name, session};

/// The largest file that is read; known chunks take 64 bytes each.
const LIMIT: u64 = 4 << 30;

/// The state of this host.
#[derive(Clone, Debug)]
pub(crate) struct State {
    directory: PathBuf,
}

/// What is remembered of a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownPlace {
    /// Where.
    pub(crate) location: String,
    /// The repository that was there.
    pub(crate) id: String,
    /// When it was last used.
    pub(crate) last_used: Timestamp,
    /// Whether the recovery sheet was shown.
    pub(crate) recovery_sheet_shown: bool,
}

impl State {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Returns what is remembered of a place.
    pub(crate) fn place(&self, location: &Path) -> Option<KnownPlace> {
        load(&self.place_file(location))
    }

    /// Remembers what is at a place.
    pub(crate) fn remember(&self, location: &Path, place: &KnownPlace) -> Result<()> {
        save(&self.place_file(location), place)
    }

    /// Returns the state of one repository.
    pub(crate) fn repository(&self, id: &str) -> RepositoryState {
        RepositoryState { directory: self.directory.join(name::encode(id)) }
    }

    /// Returns the folder of guards at work whose backups are in the repository at `location`. It is there on return.
    pub(crate) fn guards(&self, location: &Path) -> Result<PathBuf> {
        let folder = self.directory.join("guards").join(digits(location));
        private_directory(&folder)?;
        for folder in folder.ancestors().take(3) {
            durable::sync_parent(folder).map_err(Error::io("sync", folder))?;
        }
        Ok(folder)
    }

    fn place_file(&self, location: &Path) -> PathBuf {
        self.directory.join("repositories").join(digits(location))
    }
}

/// Returns the name of a place among state files.
fn digits(location: &Path) -> String {
    // By the words of the path: it may lead over a symbolic link to a disk that is gone.
    let digest = Id::of(plain(location).as_os_str().as_encoded_bytes());
    digest.to_string()[..32].to_owned()
}

/// Returns a path without `.`, `..` and doubled slashes, so that a place has one name however it is written.
pub(crate) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// What is remembered of one repository.
#[derive(Clone, Debug)]
pub(crate) struct RepositoryState {
    directory: PathBuf,
}

/// Where a source was when its last snapshot was taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedPosition {
    /// The snapshot.
    pub(crate) snapshot: Id,
    /// The position in the source.
    pub(crate) position: dbkeep_sqlite::position::Position,
}

/// What a list shows of a snapshot; taken from its manifest, which never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) engine: Engine,
    pub(crate) rows: u64,
    pub(crate) tables: u64,
    pub(crate) bytes_source: u64,
    pub(crate) bytes_added: u64,
    pub(crate) integrity: String,
    pub(crate) source: String,
}

/// What this host remembers of copying a repository to a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopyMemory {
    /// When it last went well.
    pub(crate) succeeded: Option<Timestamp>,
    /// When it last went wrong, unless it went well since.
    pub(crate) failed: Option<Timestamp>,
    /// Why.
    pub(crate) error: Option<ErrorReport>,
    /// The snapshots of the repository that were there after the last look.
    pub(crate) held: Vec<Id>,
}

/// Summaries by the id of the snapshot.
pub(crate) type Summaries = BTreeMap<Id, Summary>;

impl RepositoryState {
    /// Returns the id of a new session that begins at `now`: not one of `taken`, and none that another process of
    /// this host was given.
    pub(crate) fn reserve_session(&self, now: Timestamp, mut taken: HashSet<String>) -> String {
        // Without the file the ids in the repository are all that is known.
        let _held = self.lock_sessions();
        let file = self.directory.join("sessions");
        let given: Vec<String> = load(&file).unwrap_or_default();
        taken.extend(given.iter().cloned());
        let id = session::next_id(now, &taken);
        // Those of sessions that are stored are in the repository; a few more are under way.
        let newest = given.into_iter().rev().take(99).rev();
        // A session that was under way in a power cut is not any more.
        let _ = write_for_this_boot(&file, &encoded(&newest.chain([id.clone()]).collect::<Vec<_>>()));
        id
    }

    /// Keeps other processes of this host from reserving while the file lives.
    fn lock_sessions(&self) -> Option<std::fs::File> {
        private_directory(&self.directory).ok()?;
        let path = self.directory.join("sessions.lock");
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(path).ok()?;
        file.lock().ok()?;
        Some(file)
    }

    /// Returns the folder of what this host remembers of the repository.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the folder of what this host keeps of the repository's objects.
    pub(crate) fn cache(&self) -> PathBuf {
        self.directory.join("cache")
    }

    /// Returns the newest facts that this host knows.
    pub(crate) fn fact_heads(&self) -> Vec<Id> {
        load(&self.directory.join("heads")).unwrap_or_default()
    }

    pub(crate) fn save_fact_heads(&self, heads: &[Id]) -> Result<()> {
        save(&self.directory.join("heads"), &heads)
    }

    pub(crate) fn summaries(&self) -> Summaries {
        load(&self.directory.join("summaries")).unwrap_or_default()
    }

    pub(crate) fn save_summaries(&self, summaries: &Summaries) -> Result<()> {
        save(&self.directory.join("summaries"), summaries)
    }

    /// Returns what the clocks said when a policy last ran by itself.
    pub(crate) fn clocks(&self) -> Option<Clocks> {
        load(&self.directory.join("clocks"))
    }

    pub(crate) fn save_clocks(&self, clocks: &Clocks) -> Result<()> {
        save(&self.directory.join("clocks"), clocks)
    }

    /// Returns the list of known chunks, as the writer encoded it.
    pub(crate) fn known_chunks(&self, database: &str) -> Option<Vec<u8>> {
        read(&self.database(database).join("chunks"))
    }

    pub(crate) fn save_known_chunks(&self, database: &str, encoded: &[u8]) -> Result<()> {
        write(&self.database(database).join("chunks"), encoded)
    }

    pub(crate) fn position(&self, database: &str) -> Option<SavedPosition> {
        load(&self.database(database).join("position"))
    }

    /// Remembers a position, or that there is none. No position outlives a power cut, so it is not synced.
    pub(crate) fn save_position(&self, database: &str, position: Option<&SavedPosition>) -> Result<()> {
        write_for_this_boot(&self.database(database).join("position"), &encoded(&position))
    }

    /// Returns what is remembered of copying to a place.
    pub(crate) fn copy(&self, location: &Path) -> CopyMemory {
        load(&self.copy_file(location)).unwrap_or_default()
    }

    /// Remembers what became of copying to a place. It is only shown, so it is not synced.
    pub(crate) fn save_copy(&self, location: &Path, memory: &CopyMemory) -> Result<()> {
        write_for_this_boot(&self.copy_file(location), &encoded(memory))
    }

    /// Keeps other processes of this host from copying to the same place while the lock lives. `None` where no state
    /// can be kept.
    pub(crate) fn lock_copy(&self, location: &Path) -> Result<Option<HostLock>> {
        let path = self.copy_file(location).with_extension("lock");
        if private_directory(folder(&path)).is_err() {
            return Ok(None);
        }
        match HostLock::take(&path) {
            Ok(None) => Err(Error::CopyBusy),
            taken => Ok(taken.unwrap_or_default()),
        }
    }

    fn copy_file(&self, location: &Path) -> PathBuf {
        self.directory.join("copies").join(digits(location))
    }

    fn database(&self, database: &str) -> PathBuf {
        self.directory.join("databases").join(name::encode(database))
    }
}

/// Reads a state file; `None` when it is absent or damaged.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read(path)?).ok()
}

/// Replaces a state file. It is on disk on return.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write(path, &encoded(value))
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("state has string keys only")
}

/// Returns the contents of a state file; `None` when it is absent or damaged.
fn read(path: &Path) -> Option<Vec<u8>> {
    let length = std::fs::metadata(path).ok()?.len();
    if length > LIMIT {
        return None;
    }
    let mut bytes = std::fs::read(path).ok()?;
    let digest: [u8; 32] = bytes.get(..32)?.try_into().ok()?;
    bytes.drain(..32);
    if Id::of(&bytes) != Id::new(digest) {
        tracing::warn!(file = %path.display(), "local state is damaged and is built anew");
        return None;
    }
    Some(bytes)
}

/// Replaces a state file, so that a crash leaves the old one or the new one.
fn write(path: &Path, contents: &[u8]) -> Result<()> {
    private_directory(folder(path))?;
    durable::replace(path, &sealed(contents)).map_err(Error::io("write", path))
}

/// Replaces a state file that need not survive a power cut. What one leaves of it is whole or known to be damaged.
fn write_for_this_boot(path: &Path, contents: &[u8]) -> Result<()> {
    private_directory(folder(path))?;
    durable::replace_unsynced(path, &sealed(contents)).map_err(Error::io("write", path))
}

/// Returns the contents behind their digest.
fn sealed(contents: &[u8]) -> Vec<u8> {
    [Id::of(contents).as_bytes(), contents].concat()
}

fn folder(path: &Path) -> &Path {
    path.parent().expect("every state file is below the state directory")
}

/// Makes a directory, and those above it, that only the user can read.
pub(crate) fn private_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_remembered_and_damage_is_forgetting() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        let location = Path::new("/backups");
        assert_eq!(state.place(location), None);
        let place = KnownPlace {
            location: "/backups".to_owned(),
            id: "aa".to_owned(),
            last_used: Timestamp::UNIX_EPOCH,
            recovery_sheet_shown: true,
        };
        state.remember(location, &place).unwrap();
        for written in ["/backups", "/backups/", "/./backups", "/srv/..//backups"] {
            assert_eq!(state.place(Path::new(written)), Some(place.clone()), "{written}");
        }

        let file = state.place_file(location);
        let sound = std::fs::read(&file).unwrap();
        for position in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[position] ^= 1;
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(state.place(location), None, "bit flipped in byte {position}");
        }
        std::fs::write(&file, &sound[..20]).unwrap();
        assert_eq!(state.place(location), None, "cut off");
    }

    #[test]
    fn sessions_that_begin_in_one_second_get_seconds_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path()).repository("id");
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| state.reserve_session(now, HashSet::new()))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<HashSet<_>>()
        });
        assert_eq!(ids.len(), 8, "{ids:?}");
        assert!(ids.contains("20260102_030405") && ids.contains("20260102_030412"));
    }

    #[test]
    fn state_for_this_boot_is_replaced_whole_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state");
        for contents in [&b"first, which is longer"[..], b"second"] {
            write_for_this_boot(&file, contents).unwrap();
            assert_eq!(read(&file).as_deref(), Some(contents));
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        std::fs::write(&file, "").unwrap();
        assert_eq!(read(&file), None, "what a power cut may leave");
    }

    #[test]
    fn state_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(&directory.path().join("state")).repository("id");
        state.save_known_chunks("a/b", b"list").unwrap();
        assert_eq!(state.known_chunks("a/b").as_deref(), Some(&b"list"[..]));
        let file = state.database("a/b").join("chunks");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(file.parent().unwrap()), 0o700);
    }
}
