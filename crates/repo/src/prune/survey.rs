//! What is stored: all snapshots, all index files, all packs, and how much of each pack is needed.
//!
//! Nothing is guessed: a listing that fails, an object that cannot be read, a blob that nobody has, a needed pack that
//! is gone or has another size than the index says is an error, and then nothing is changed.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::plan::{Holds, Pack, State};
use super::used::{Blobs, walk};
use crate::backend::FileKind;
use crate::check::{Claim, claim};
use crate::crypto::OVERHEAD;
use crate::error::{Error, Result};
use crate::format::index::{IndexFile, IndexPack};
use crate::format::pack::{self, BlobKind, PackBlob, TRAILER};
use crate::index::{Index, Location, SharedIndex};
use crate::lock::RepositoryLock;
use crate::observe::Observer;
use crate::{Id, Repository};

/// What a pack has besides its blobs and their entries in its header.
const FRAME: u64 = (OVERHEAD + TRAILER) as u64;

/// How to look.
pub(super) struct Look<'a> {
    pub(super) repository: &'a Repository,
    pub(super) lock: &'a dyn RepositoryLock,
    /// Snapshots that are to be taken for gone.
    pub(super) without: &'a HashSet<Id>,
    /// Says whether damage was found in a pack: a blob that another pack has too is needed there.
    pub(super) damaged: &'a dyn Fn(&Id) -> bool,
    pub(super) grace: SignedDuration,
    pub(super) now: Timestamp,
    pub(super) watch: &'a dyn Observer,
}

/// What was found.
pub(super) struct Survey {
    /// All snapshots that were there.
    pub(super) snapshots: HashSet<Id>,
    pub(super) index: SharedIndex,
    /// The blobs that snapshots need.
    pub(super) used: Blobs,
    pub(super) files: Vec<File>,
    /// All packs that are stored.
    pub(super) packs: Vec<Pack>,
    /// When each of them was written, as far as the index says.
    pub(super) written: HashMap<Id, Timestamp>,
    /// Packs that the index names, that are not stored, and that nobody needs.
    pub(super) gone: Vec<Id>,
}

/// An index file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) id: Id,
    /// The packs that it names.
    pub(super) live: Vec<Id>,
    /// The packs that it marks.
    pub(super) marks: Vec<Id>,
    /// How many blobs the former have.
    pub(super) blobs: usize,
}

/// What all index files together say of one pack.
struct Named {
    claim: Claim,
    holds: Holds,
    is_live: bool,
    marks: Vec<Mark>,
    time: Option<Timestamp>,
}

struct Mark {
    time: Option<Timestamp>,
    file: Id,
}

impl Look<'_> {
    /// Looks at everything.
    pub(super) fn survey(&self) -> Result<Survey> {
        self.lock.ensure_valid()?;
        // Before the index: whatever a snapshot in this list needs was indexed before it was written.
        let mut trees = Vec::new();
        let mut snapshots = HashSet::new();
        for snapshot in self.repository.snapshots()? {
            let id = snapshot.id.unwrap_or(Id::NULL);
            snapshots.insert(id);
            if !self.without.contains(&id) {
                trees.push(snapshot.tree);
            }
        }
        let stored = self.stored()?;
        let mut names = Names::new(self.damaged);
        let distrusted = |id: &Id| !stored.contains_key(id) || (self.damaged)(id);
        let mut see = |id: &Id, file: &IndexFile| names.add(id, file);
        let index = Index::load_seeing(self.repository, self.watch, &distrusted, &mut see)?;
        if let Some(error) = names.odd {
            return Err(error);
        }
        self.watch.phase("walking the snapshots", 0);
        let used = Blobs::none_of(index.len());
        walk(self.repository, &index, trees, &used, self.watch)?;
        let mut needed = needed(&index, &used);
        names.damaged.retain(|id, _| stored.contains_key(id));
        add_doubtful(&index, &used, &names.damaged, &mut needed);
        let (packs, gone) = self.judge(&stored, &names.packs, &needed)?;
        let written = names.packs.iter().filter_map(|(id, named)| Some((*id, named.time?))).collect();
        let (files, index) = (names.files, SharedIndex::from(index));
        Ok(Survey { snapshots, index, used, files, packs, written, gone })
    }

    /// Lists the packs.
    fn stored(&self) -> Result<HashMap<Id, u64>> {
        let listed = self.repository.list(FileKind::Pack)?;
        Ok(listed.into_iter().map(|file| (file.id, file.size)).collect())
    }

    /// Brings together what is stored, what the index says and what is needed. Returns also what is only in the index.
    fn judge(
        &self,
        stored: &HashMap<Id, u64>,
        named: &HashMap<Id, Named>,
        needed: &HashMap<Id, u64>,
    ) -> Result<(Vec<Pack>, Vec<Id>)> {
        let storage_time = self.lock.stored_at()?;
        let mut packs = Vec::with_capacity(stored.len());
        let mut gone = Vec::new();
        for (id, named) in named {
            let used = needed.get(id).copied().unwrap_or(0);
            match stored.get(id) {
                None if used > 0 => return Err(Error::Missing { kind: FileKind::Pack, id: *id }),
                None => gone.push(*id),
                Some(size) if *size != named.claim.size && used > 0 => {
                    let what = format!("it has {size} bytes, the index says {}", named.claim.size);
                    return Err(Error::Damaged { kind: FileKind::Pack, id: *id, what });
                }
                Some(size) => packs.push(Pack {
                    id: *id,
                    holds: named.holds,
                    size: *size,
                    used,
                    unused: size.saturating_sub(FRAME).saturating_sub(used),
                    state: self.state(named, storage_time)?,
                    damaged: (self.damaged)(id),
                }),
            }
        }
        for (id, size) in stored.iter().filter(|(id, _)| !named.contains_key(id)) {
            let ready = self.is_old_enough(None, self.modified(FileKind::Pack, id)?, storage_time);
            let state = State::Unnamed { ready };
            let (id, size, holds) = (*id, *size, Holds::Both);
            packs.push(Pack { id, holds, size, used: 0, unused: size, state, damaged: false });
        }
        packs.sort_unstable_by_key(|pack| pack.id);
        gone.sort_unstable();
        Ok((packs, gone))
    }

    /// Returns how the repository knows a pack. The newest of its marks counts.
    fn state(&self, named: &Named, storage_time: Option<Timestamp>) -> Result<State> {
        if named.is_live {
            return Ok(State::Live);
        }
        let mut ready = !named.marks.is_empty();
        for mark in &named.marks {
            let stored = self.modified(FileKind::Index, &mark.file)?;
            if self.is_far_ahead(mark.time, stored, storage_time) {
                return Ok(State::Misdated);
            }
            ready &= self.is_old_enough(mark.time, stored, storage_time);
        }
        Ok(State::Marked { ready })
    }

    /// Says whether something was written by a clock that was ahead, so that it would wait for more than another time
    /// of grace.
    fn is_far_ahead(
        &self,
        written: Option<Timestamp>,
        stored: Option<Timestamp>,
        storage_time: Option<Timestamp>,
    ) -> bool {
        let is_ahead = |time: Timestamp, now: Option<Timestamp>| {
            now.is_some_and(|now| time.duration_since(now) > self.grace)
        };
        self.grace > SignedDuration::ZERO
            && (written.is_some_and(|time| is_ahead(time, Some(self.now)))
                || stored.is_some_and(|time| is_ahead(time, storage_time)))
    }

    /// Says whether the time of grace has passed by the clock of whoever wrote something, and by that of the storage.
    /// One that cannot tell has no say, but one of them has to.
    fn is_old_enough(
        &self,
        written: Option<Timestamp>,
        stored: Option<Timestamp>,
        storage_time: Option<Timestamp>,
    ) -> bool {
        if self.grace <= SignedDuration::ZERO {
            return true;
        }
        let by_writer = written.map(|written| self.now.duration_since(written) >= self.grace);
        let by_storage =
            stored.zip(storage_time).map(|(stored, now)| now.duration_since(stored) >= self.grace);
        match (by_writer, by_storage) {
            (None, None) => false,
            (by_writer, by_storage) => by_writer.unwrap_or(true) && by_storage.unwrap_or(true),
        }
    }

    fn modified(&self, kind: FileKind, id: &Id) -> Result<Option<Timestamp>> {
        if self.grace <= SignedDuration::ZERO {
            Ok(None)
        } else {
            self.repository.backend().modified(kind, id)
        }
    }
}

/// Everything that index files say.
struct Names<'l> {
    is_damaged: &'l dyn Fn(&Id) -> bool,
    packs: HashMap<Id, Named>,
    files: Vec<File>,
    /// What is in the packs in which damage was found.
    damaged: HashMap<Id, Vec<PackBlob>>,
    /// The first contradiction.
    odd: Option<Error>,
}

impl<'l> Names<'l> {
    fn new(is_damaged: &'l dyn Fn(&Id) -> bool) -> Self {
        let (packs, files, damaged) = (HashMap::new(), Vec::new(), HashMap::new());
        Self { is_damaged, packs, files, damaged, odd: None }
    }

    fn add(&mut self, id: &Id, file: &IndexFile) {
        let names = |packs: &[IndexPack]| packs.iter().map(|pack| pack.id).collect::<Vec<_>>();
        self.files.push(File {
            id: *id,
            live: names(&file.packs),
            marks: names(&file.packs_to_delete),
            blobs: file.packs.iter().map(|pack| pack.blobs.len()).sum(),
        });
        for pack in &file.packs {
            if let Some(named) = self.named(id, pack) {
                named.is_live = true;
                named.time = named.time.max(pack.time);
            }
        }
        for pack in &file.packs_to_delete {
            if let Some(named) = self.named(id, pack) {
                named.marks.push(Mark { time: pack.time, file: *id });
            }
        }
        for pack in file.packs.iter().chain(&file.packs_to_delete) {
            if (self.is_damaged)(&pack.id) {
                self.damaged.insert(pack.id, pack.blobs.clone());
            }
        }
    }

    /// Returns what is known of a pack, where this file does not contradict it.
    fn named(&mut self, file: &Id, pack: &IndexPack) -> Option<&mut Named> {
        let mut odd = |what: String| {
            self.odd.get_or_insert(Error::Damaged { kind: FileKind::Index, id: *file, what });
            None
        };
        let Some(claim) = claim(pack) else {
            return odd(format!("blobs of pack {} do not follow each other", pack.id));
        };
        let holds = holds(&pack.blobs);
        let new = Named { claim, holds, is_live: false, marks: Vec::new(), time: None };
        let named = self.packs.entry(pack.id).or_insert(new);
        if named.claim != claim {
            return odd(format!("another index file says otherwise about pack {}", pack.id));
        }
        Some(named)
    }
}

fn holds(blobs: &[PackBlob]) -> Holds {
    let has = |kind| blobs.iter().any(|blob| blob.kind == kind);
    match (has(BlobKind::Data), has(BlobKind::Tree)) {
        (true, true) => Holds::Both,
        (false, true) => Holds::Trees,
        _ => Holds::Data,
    }
}

/// Returns how many bytes of each pack are needed: those of blobs that are read from there.
fn needed(index: &Index, used: &Blobs) -> HashMap<Id, u64> {
    let mut by_number = vec![0; index.packs().len()];
    for number in (0..index.len()).filter(|number| used.contains(*number)) {
        by_number[index.pack_number(number)] += size_in_pack(&index.location(number));
    }
    let mut needed = HashMap::new();
    for (pack, bytes) in index.packs().iter().zip(by_number).filter(|(_, bytes)| *bytes > 0) {
        *needed.entry(pack.id).or_default() += bytes;
    }
    needed
}

/// Adds what is needed of damaged packs besides: a blob that only such packs have is needed in each of them, as nobody
/// knows in which it is sound.
fn add_doubtful(
    index: &Index,
    used: &Blobs,
    damaged: &HashMap<Id, Vec<PackBlob>>,
    needed: &mut HashMap<Id, u64>,
) {
    for (pack, blobs) in damaged {
        for number in blobs.iter().filter_map(|blob| index.position(blob.kind, &blob.id)) {
            let read_from = index.packs()[index.pack_number(number)];
            if used.contains(number) && read_from.distrusted && read_from.id != *pack {
                *needed.entry(*pack).or_default() += size_in_pack(&index.location(number));
            }
        }
    }
}

/// Returns what a blob takes of its pack: its sealed bytes and its entry in the header.
pub(super) fn size_in_pack(location: &Location) -> u64 {
    let blob = PackBlob {
        id: Id::NULL,
        kind: BlobKind::Data,
        offset: 0,
        length: location.length,
        uncompressed_length: location.uncompressed_length,
    };
    u64::from(location.length) + pack::entry_size(&blob) as u64
}
