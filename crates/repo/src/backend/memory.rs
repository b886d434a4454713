//! A repository in memory, for tests: it can be damaged, copied, and made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::{fmt, io};

use jiff::Timestamp;

use super::{Backend, FileInfo, FileKind, LockHolder};
use crate::Id;
use crate::error::{Error, Result};

/// Keeps objects in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryBackend(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    objects: BTreeMap<(FileKind, Id), Vec<u8>>,
    /// When objects were written, by a clock that stands still until it is set; unknown before that.
    times: BTreeMap<(FileKind, Id), Timestamp>,
    time: Option<Timestamp>,
    held: BTreeSet<Id>,
    /// How many more changes succeed; all do when unset.
    changes_left: Option<u64>,
    changes: u64,
    unlistable: BTreeSet<FileKind>,
    /// What the next listing of its kind lacks.
    overlooked: BTreeSet<(FileKind, Id)>,
    made_durable: BTreeMap<FileKind, u64>,
    is_created: bool,
    interloper: Interloper,
}

/// What somebody else does just before a change of ours, and to which kind of objects that change is.
#[derive(Default)]
struct Interloper(Option<(FileKind, Act)>);

type Act = Box<dyn FnOnce(&MemoryBackend) + Send>;

impl Clone for Interloper {
    /// A copy of the storage is not used by anybody else.
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl fmt::Debug for Interloper {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Interloper({:?})", self.0.as_ref().map(|(kind, _)| kind))
    }
}

impl MemoryBackend {
    /// Makes an empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an independent copy of what is stored, as it would be found after a crash: no lock is held.
    pub fn after_crash(&self) -> Self {
        let mut state = self.state().clone();
        state.held.clear();
        state.changes_left = None;
        Self(Arc::new(Mutex::new(state)))
    }

    /// Lets `changes` more writes and removals succeed, and all others fail.
    pub fn fail_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// Lets everything succeed again.
    pub fn recover(&self) {
        let mut state = self.state();
        state.changes_left = None;
        state.unlistable.clear();
    }

    /// Makes listings of a kind fail.
    pub fn fail_listing(&self, kind: FileKind) {
        self.state().unlistable.insert(kind);
    }

    /// Makes the next listing of a kind lack an object, as one does that is made while the object comes.
    pub fn overlook(&self, kind: FileKind, id: &Id) {
        self.state().overlooked.insert((kind, *id));
    }

    /// Sets the clock of the storage. Objects that are written from then on have a time.
    pub fn set_time(&self, time: Timestamp) {
        self.state().time = Some(time);
    }

    /// Returns how many writes and removals succeeded so far.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Returns how often what a listing of a kind shows was made durable.
    pub fn times_made_durable(&self, kind: FileKind) -> u64 {
        self.state().made_durable.get(&kind).copied().unwrap_or(0)
    }

    /// Returns the names of all objects of a kind.
    pub fn names(&self, kind: FileKind) -> Vec<Id> {
        self.state().objects.keys().filter(|key| key.0 == kind).map(|key| key.1).collect()
    }

    /// Changes the bytes of an object behind the repository's back; none is no error.
    pub fn alter(&self, kind: FileKind, id: &Id, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(contents) = self.state().objects.get_mut(&(kind, *id)) {
            change(contents);
        }
    }

    /// Lets somebody else act once, just before the next object of a kind is written or removed.
    pub fn before_change(&self, kind: FileKind, act: impl FnOnce(&Self) + Send + 'static) {
        self.state().interloper = Interloper(Some((kind, Box::new(act))));
    }

    fn let_others_act(&self, kind: FileKind) {
        let act = self.state().interloper.0.take_if(|(awaited, _)| *awaited == kind);
        if let Some((_, act)) = act {
            act(self);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn count_change(&mut self, action: &str) -> Result<()> {
        if self.changes_left == Some(0) {
            let source = io::Error::other("made to fail");
            return Err(Error::Io { what: format!("{action} in memory"), source });
        }
        self.changes_left = self.changes_left.map(|left| left - 1);
        self.changes += 1;
        Ok(())
    }

    fn insert(&mut self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()> {
        match self.objects.get(&(kind, *id)) {
            Some(stored) if is_same(kind, stored, contents) => Ok(()),
            Some(_) => Err(Error::Taken { kind, id: *id }),
            None => {
                self.count_change("write")?;
                self.objects.insert((kind, *id), contents.to_vec());
                if let Some(time) = self.time {
                    self.times.insert((kind, *id), time);
                }
                Ok(())
            }
        }
    }
}

/// Says whether a stored object is what was to be written. The config's name says nothing of its contents.
fn is_same(kind: FileKind, stored: &[u8], contents: &[u8]) -> bool {
    if kind == FileKind::Config { stored == contents } else { stored.len() == contents.len() }
}

impl Backend for MemoryBackend {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn create(&self) -> Result<()> {
        self.state().is_created = true;
        Ok(())
    }

    fn is_empty(&self) -> Result<bool> {
        Ok(self.state().objects.keys().all(|key| key.0 == FileKind::Key))
    }

    fn list(&self, kind: FileKind) -> Result<Vec<FileInfo>> {
        let mut state = self.state();
        if !state.is_created || state.unlistable.contains(&kind) {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::Listing { what: format!("{}s in memory", kind.word()), source });
        }
        let overlooked: BTreeSet<_> = state.overlooked.extract_if(.., |key| key.0 == kind).collect();
        let is_listed = |key: &(FileKind, Id)| key.0 == kind && !overlooked.contains(key);
        let objects = state.objects.iter().filter(|(key, _)| is_listed(key));
        Ok(objects.map(|(key, contents)| FileInfo { id: key.1, size: contents.len() as u64 }).collect())
    }

    fn read(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        let missing = Error::Missing { kind, id: *id };
        self.state().objects.get(&(kind, *id)).cloned().ok_or(missing)
    }

    fn read_range(&self, kind: FileKind, id: &Id, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let state = self.state();
        let contents = state.objects.get(&(kind, *id)).ok_or(Error::Missing { kind, id: *id })?;
        let end = offset.saturating_add(buffer.len() as u64);
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(start, end)| contents.get(start..end));
        buffer.copy_from_slice(bytes.ok_or(Error::Short { kind, id: *id, end })?);
        Ok(())
    }

    fn write(&self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()> {
        self.let_others_act(kind);
        self.state().insert(kind, id, contents)
    }

    fn remove(&self, kind: FileKind, id: &Id) -> Result<()> {
        self.let_others_act(kind);
        let mut state = self.state();
        if state.objects.contains_key(&(kind, *id)) {
            state.count_change("remove")?;
            state.objects.remove(&(kind, *id));
            state.times.remove(&(kind, *id));
        }
        Ok(())
    }

    fn make_durable(&self, kind: FileKind) -> Result<()> {
        *self.state().made_durable.entry(kind).or_default() += 1;
        Ok(())
    }

    fn write_held_lock(&self, id: &Id, contents: &[u8]) -> Result<Box<dyn LockHolder>> {
        let mut state = self.state();
        state.insert(FileKind::Lock, id, contents)?;
        state.held.insert(*id);
        Ok(Box::new(Holder { backend: self.clone(), id: *id }))
    }

    fn is_abandoned(&self, id: &Id) -> Result<Option<bool>> {
        Ok(Some(!self.state().held.contains(id)))
    }

    fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn clean_temporary(&self) -> Result<usize> {
        Ok(0)
    }

    fn settling_time(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    fn modified(&self, kind: FileKind, id: &Id) -> Result<Option<Timestamp>> {
        Ok(self.state().times.get(&(kind, *id)).copied())
    }
}

#[derive(Debug)]
struct Holder {
    backend: MemoryBackend,
    id: Id,
}

impl LockHolder for Holder {}

impl Drop for Holder {
    fn drop(&mut self) {
        self.backend.state().held.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_conforms() {
        super::super::conformance::run(&|| Arc::new(MemoryBackend::new()));
    }

    #[test]
    fn copy_after_a_crash_holds_no_lock_and_fails_no_more() {
        let memory = MemoryBackend::new();
        memory.create().unwrap();
        let _holder = memory.write_held_lock(&Id::of(b"l"), b"l").unwrap();
        memory.fail_after(0);
        assert!(memory.write(FileKind::Pack, &Id::of(b"p"), b"p").is_err());
        let copy = memory.after_crash();
        assert_eq!(copy.is_abandoned(&Id::of(b"l")).unwrap(), Some(true));
        copy.write(FileKind::Pack, &Id::of(b"p"), b"p").unwrap();
        assert!(memory.names(FileKind::Pack).is_empty());
    }
}
