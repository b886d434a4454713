//! Index files written anew: packs marked, dropped or taken back, and small files merged.
//!
//! > what replaces is durable before what is replaced goes: marks, then index files, then the removal of the old ones
//!
//! Each state in between is sound. A pack that one file names and another one marks counts as named: a backup may have
//! relied on it since. So whatever a crash leaves, a mark holds only from the moment on when nobody names the pack.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::survey::File;
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::index::{IndexFile, IndexPack};
use crate::lock::RepositoryLock;
use crate::observe::Observer;
use crate::repository::damaged;
use crate::write::{INDEX_BLOBS, split};
use crate::{Id, Repository};

/// Files with fewer blobs than this are small.
const SMALL: usize = INDEX_BLOBS / 4;
/// Small files are merged when there are so many.
const MERGE_AT_LEAST: usize = 8;

/// What becomes of a pack in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It waits for its deletion from now on, also where it was marked before.
    Mark,
    /// It is no longer mentioned.
    Drop,
    /// It was marked and is named again.
    TakeBack,
}

/// Changes of packs by their names.
pub(super) type Changes = HashMap<Id, Change>;

/// The index files of a repository, under the only lock.
pub(super) struct IndexFiles<'a> {
    pub(super) repository: &'a Repository,
    pub(super) lock: &'a dyn RepositoryLock,
    pub(super) watch: &'a dyn Observer,
    pub(super) now: Timestamp,
    files: Vec<File>,
    /// Bytes of the files that were written.
    pub(super) bytes_written: u64,
}

/// Files that are replaced together, and what replaces them.
#[derive(Default)]
struct Group {
    sources: Vec<Id>,
    live: Vec<IndexPack>,
    marks: Vec<IndexPack>,
    /// Blobs of both.
    blobs: usize,
}

impl<'a> IndexFiles<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        lock: &'a dyn RepositoryLock,
        watch: &'a dyn Observer,
        now: Timestamp,
        files: Vec<File>,
    ) -> Self {
        Self { repository, lock, watch, now, files, bytes_written: 0 }
    }

    /// Carries out changes, and merges small files where there are many and `merge` says so.
    ///
    /// Needs room for one index file at a time. May be interrupted anywhere.
    pub(super) fn change(&mut self, changes: &Changes, merge: bool) -> Result<()> {
        let live: HashSet<Id> = self.files.iter().flat_map(|file| &file.live).copied().collect();
        let chosen = self.chosen(changes, &live, merge);
        let mut written = HashSet::new();
        let mut group = Group::default();
        for id in chosen {
            if self.watch.cancelled() {
                return Err(Error::Cancelled);
            }
            let file = self.load(&id)?;
            self.sort(file, changes, &live, &mut written, &mut group);
            group.sources.push(id);
            if group.blobs >= INDEX_BLOBS {
                self.replace(std::mem::take(&mut group))?;
            }
        }
        self.replace(group)
    }

    /// Returns the files that have to be written anew.
    fn chosen(&self, changes: &Changes, live: &HashSet<Id>, merge: bool) -> Vec<Id> {
        let is_small = |file: &&File| file.blobs < SMALL && !file.live.is_empty();
        let merge = merge && self.files.iter().filter(is_small).count() >= MERGE_AT_LEAST;
        let concerns = |file: &&File| {
            let names_one = file.live.iter().any(|pack| changes.contains_key(pack));
            let marks_one = |pack: &Id| live.contains(pack) || changes.contains_key(pack);
            names_one || file.marks.iter().any(marks_one) || merge && is_small(file)
        };
        self.files.iter().filter(concerns).map(|file| file.id).collect()
    }

    fn load(&self, id: &Id) -> Result<IndexFile> {
        let json = self.repository.load_unpacked(FileKind::Index, id)?;
        IndexFile::decode(&json).map_err(|error| damaged(FileKind::Index, id, &error))
    }

    /// Puts what stays of a file into the group that replaces it.
    fn sort(
        &self,
        file: IndexFile,
        changes: &Changes,
        live: &HashSet<Id>,
        written: &mut HashSet<Id>,
        group: &mut Group,
    ) {
        for pack in file.packs {
            match changes.get(&pack.id) {
                Some(Change::Drop) => {}
                Some(Change::Mark) if written.insert(pack.id) => {
                    group.mark(IndexPack { time: Some(self.now), ..pack });
                }
                Some(Change::Mark) => {}
                None | Some(Change::TakeBack) if written.insert(pack.id) => group.name(pack),
                None | Some(Change::TakeBack) => {}
            }
        }
        for pack in file.packs_to_delete {
            // What is named as well is not waiting: that mark is of a prune that did not get far.
            let waits = !live.contains(&pack.id);
            match changes.get(&pack.id) {
                Some(Change::TakeBack) if written.insert(pack.id) => group.name(pack),
                Some(Change::Mark) if waits && written.insert(pack.id) => {
                    group.mark(IndexPack { time: Some(self.now), ..pack });
                }
                None if waits && written.insert(pack.id) => group.mark(pack),
                _ => {}
            }
        }
    }

    /// Stores what replaces some files, durably, and removes them after that.
    fn replace(&mut self, group: Group) -> Result<()> {
        let Group { sources, live, marks, .. } = group;
        if sources.is_empty() {
            return Ok(());
        }
        self.lock.ensure_valid()?;
        let mut new = Vec::new();
        let stored = self.store_all(marks, live, &mut new).and_then(|()| self.lock.ensure_valid());
        let backend = self.repository.backend();
        if let Err(error) = stored {
            // Whoever took the lock away may have removed what these files name, and others would rely on it. What
            // they were to replace is still there, or replaced by somebody else.
            let new: Vec<Id> = new.iter().map(|file| file.id).collect();
            _ = backend.remove_all(FileKind::Index, &new, &mut |_| Ok(()));
            return Err(error);
        }
        backend.remove_all(FileKind::Index, &sources, &mut |_| {
            self.watch.step("prune.old-index-removed");
            // Somebody who took the lock away may rely on the next of them.
            self.lock.ensure_valid()
        })?;
        let sources: HashSet<Id> = sources.into_iter().collect();
        self.files.retain(|file| !sources.contains(&file.id));
        self.files.append(&mut new);
        Ok(())
    }

    /// Stores index files, durably: one that marks packs, and those that name others. Notes each one in `new`.
    fn store_all(&mut self, marks: Vec<IndexPack>, live: Vec<IndexPack>, new: &mut Vec<File>) -> Result<()> {
        if !marks.is_empty() {
            let names = marks.iter().map(|pack| pack.id).collect();
            let id = self.store(&IndexFile { packs_to_delete: marks, ..IndexFile::default() })?;
            new.push(File { id, live: Vec::new(), marks: names, blobs: 0 });
            self.watch.step("prune.marks-stored");
        }
        for packs in split(live) {
            let live = packs.iter().map(|pack| pack.id).collect();
            let blobs = packs.iter().map(|pack| pack.blobs.len()).sum();
            let id = self.store(&IndexFile { packs, ..IndexFile::default() })?;
            new.push(File { id, live, blobs, marks: Vec::new() });
            self.watch.step("prune.index-stored");
        }
        Ok(())
    }

    fn store(&mut self, file: &IndexFile) -> Result<Id> {
        let (id, sealed) = self.repository.seal_unpacked(&file.encode())?;
        self.repository.backend().write(FileKind::Index, &id, &sealed)?;
        self.bytes_written += sealed.len() as u64;
        Ok(id)
    }
}

impl Group {
    fn name(&mut self, pack: IndexPack) {
        self.blobs += pack.blobs.len();
        self.live.push(pack);
    }

    fn mark(&mut self, pack: IndexPack) {
        self.blobs += pack.blobs.len();
        self.marks.push(pack);
    }
}
