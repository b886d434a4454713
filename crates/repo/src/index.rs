//! Which blob is where.
//!
//! The union of all index files, in memory, small enough for a hundred million blobs
//! on a big machine and cheap enough to grow while a backup runs. Reading the files is
//! `index/load.rs`; writing them is `write/`.
//!
//! Source: restic's design document, "Indexing".

mod load;

use std::cmp::Reverse;
use std::mem::size_of;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::Id;
use crate::error::{Error, Result};
use crate::format::index::IndexFile;
use crate::format::pack::{BlobKind, PackBlob};

/// Tables of entry numbers, one for each first byte of an id: only one of them is copied at a time when it grows.
const SHARDS: usize = 256;
/// Entries in one piece of the store. Pieces are never moved, so growing costs no second copy.
const SEGMENT: usize = 2048;
/// The bit of [`Entry::pack`] that says that the blob is a tree.
const TREE: u32 = 1 << 31;

/// Where a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack that holds it.
    pub pack: Id,
    /// Where in the pack it begins, in bytes.
    pub offset: u32,
    /// Its sealed length, in bytes.
    pub length: u32,
    /// Its length before compression, in bytes; `None` when it is stored uncompressed.
    pub uncompressed_length: Option<u32>,
}

/// One blob: 48 bytes.
#[derive(Clone, Copy)]
struct Entry {
    id: Id,
    pack: u32,
    offset: u32,
    length: u32,
    /// 0 stands for "not compressed": the format has no compressed blob of nothing.
    uncompressed: u32,
}

const _: () = assert!(size_of::<Entry>() == 48);

/// A pack as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedPack {
    /// The name.
    pub id: Id,
    /// Its blobs may be read, but no new snapshot may rely on them: a prune has marked it, or it is not trusted.
    pub marked: bool,
    /// A prune has marked it, so it may be gone at any time.
    pub waits: bool,
    /// It is known to be damaged or gone: a blob is read from it only where no other pack has it.
    pub distrusted: bool,
}

impl IndexedPack {
    /// Says how gladly a blob is read from this pack: from one that stays, else from one that waits for its removal.
    /// Among equals the name decides, so that it does not matter which index file is read first.
    fn rank(&self) -> (u8, Reverse<Id>) {
        let trust = match (self.distrusted, self.waits) {
            (false, false) => 2,
            (false, true) => 1,
            (true, _) => 0,
        };
        (trust, Reverse(self.id))
    }
}

/// The index of a repository in memory: at most 64 bytes a blob, also while it grows.
///
/// Not synchronised; [`SharedIndex`] is.
pub struct Index {
    entries: Vec<Box<[Entry]>>,
    len: usize,
    shards: Vec<Shard>,
    packs: Vec<IndexedPack>,
}

/// Open addressing with linear probing.
#[derive(Default)]
struct Shard {
    /// One byte of the id of each entry, so that hardly any entry is looked at in vain; 0 is an empty slot.
    tags: Box<[u8]>,
    /// The number of each entry.
    slots: Box<[u32]>,
    used: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// Makes an index that knows nothing.
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { entries: Vec::new(), len: 0, shards, packs: Vec::new() }
    }

    /// Makes room for so many blobs in all at once, which saves most of the time that growing takes.
    fn reserve(&mut self, blobs: usize) {
        for shard in &mut self.shards {
            shard.resize(table_size(blobs / SHARDS), &self.entries);
        }
    }

    /// Gives back the room for blobs that did not come.
    fn trim(&mut self) {
        for shard in &mut self.shards {
            let size = table_size(shard.used);
            if size < shard.slots.len() {
                shard.resize(size, &self.entries);
            }
        }
    }

    /// Adds what one index file says.
    pub fn add_file(&mut self, file: &IndexFile) -> Result<()> {
        self.add_file_distrusting(file, &|_| false)
    }

    fn add_file_distrusting(&mut self, file: &IndexFile, distrusted: &dyn Fn(&Id) -> bool) -> Result<()> {
        for pack in &file.packs {
            self.add_blobs(indexed(pack.id, false, distrusted), pack.blobs.iter().copied())?;
        }
        for pack in &file.packs_to_delete {
            self.add_blobs(indexed(pack.id, true, distrusted), pack.blobs.iter().copied())?;
        }
        Ok(())
    }

    /// Adds a pack with its blobs. A `marked` pack is about to be deleted.
    ///
    /// A blob that is known keeps its place, except that an unmarked pack replaces a marked one, a marked one replaces
    /// one that is not trusted, and among equals the one whose name comes first stands.
    pub fn add_pack(&mut self, pack: Id, blobs: &[PackBlob], marked: bool) -> Result<()> {
        self.add_blobs(indexed(pack, marked, &|_| false), blobs.iter().copied())
    }

    fn add_blobs(&mut self, pack: IndexedPack, blobs: impl Iterator<Item = PackBlob>) -> Result<()> {
        let number = u32::try_from(self.packs.len()).ok().filter(|number| number & TREE == 0);
        let number = number.ok_or_else(|| too_many("packs"))?;
        self.packs.push(pack);
        for blob in blobs {
            let entry = Entry {
                id: blob.id,
                pack: number | tree_bit(blob.kind),
                offset: blob.offset,
                length: blob.length,
                uncompressed: blob.uncompressed_length.unwrap_or(0),
            };
            match self.position(blob.kind, &blob.id) {
                None => self.push(entry)?,
                Some(position) if pack.rank() > self.packs[self.pack_number(position)].rank() => {
                    *self.entry_mut(position) = entry;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Says whether a new snapshot may rely on this blob: it is stored, in a pack that no prune has marked.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.position(kind, id).is_some_and(|position| !self.is_marked(self.entry(position)))
    }

    /// Returns where a blob is, also when its pack is marked: for reading only.
    pub fn get(&self, kind: BlobKind, id: &Id) -> Option<Location> {
        self.position(kind, id).map(|position| self.location(position))
    }

    /// Returns where a blob is, and in what kind of pack.
    pub(crate) fn find(&self, kind: BlobKind, id: &Id) -> Option<(Location, IndexedPack)> {
        let position = self.position(kind, id)?;
        Some((self.location(position), self.packs[self.pack_number(position)]))
    }

    /// Returns the number of blobs.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether no blob is known.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns all packs, in the order in which they were added; one that several index files name, as often.
    pub fn packs(&self) -> &[IndexedPack] {
        &self.packs
    }

    /// Returns all blobs, each once, in no order.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobKind, Id, Location)> + '_ {
        (0..self.len).map(|position| {
            let entry = self.entry(position);
            (self.kind(position), entry.id, self.location(position))
        })
    }

    /// Returns the bytes of memory that this index has allocated.
    pub fn memory(&self) -> usize {
        self.entries.len() * SEGMENT * size_of::<Entry>()
            + self.entries.capacity() * size_of::<Box<[Entry]>>()
            + self.shards.iter().map(|shard| shard.slots.len() * (size_of::<u32>() + 1)).sum::<usize>()
            + self.shards.capacity() * size_of::<Shard>()
            + self.packs.capacity() * size_of::<IndexedPack>()
    }

    /// Returns a number for this blob, dense from 0 and stable while the index lives.
    pub(crate) fn position(&self, kind: BlobKind, id: &Id) -> Option<usize> {
        let shard = &self.shards[usize::from(id.as_bytes()[0])];
        let tree = tree_bit(kind);
        let mut slots = shard.probe(id);
        slots.find_map(|slot| {
            let position = slot as usize;
            let entry = self.entry(position);
            (entry.id == *id && entry.pack & TREE == tree).then_some(position)
        })
    }

    /// Returns the name of the blob with this number.
    pub(crate) fn id(&self, position: usize) -> Id {
        self.entry(position).id
    }

    /// Returns what the blob with this number holds.
    pub(crate) fn kind(&self, position: usize) -> BlobKind {
        if self.entry(position).pack & TREE != 0 { BlobKind::Tree } else { BlobKind::Data }
    }

    /// Returns the number of the pack that holds the blob with this number, as in [`Index::packs`].
    pub(crate) fn pack_number(&self, position: usize) -> usize {
        (self.entry(position).pack & !TREE) as usize
    }

    /// Returns where the blob with this number is.
    pub(crate) fn location(&self, position: usize) -> Location {
        let entry = self.entry(position);
        Location {
            pack: self.packs[self.pack_number(position)].id,
            offset: entry.offset,
            length: entry.length,
            uncompressed_length: (entry.uncompressed != 0).then_some(entry.uncompressed),
        }
    }

    fn entry(&self, position: usize) -> &Entry {
        &self.entries[position / SEGMENT][position % SEGMENT]
    }

    fn entry_mut(&mut self, position: usize) -> &mut Entry {
        &mut self.entries[position / SEGMENT][position % SEGMENT]
    }

    fn is_marked(&self, entry: &Entry) -> bool {
        self.packs[(entry.pack & !TREE) as usize].marked
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        let slot = u32::try_from(self.len).map_err(|_| too_many("blobs"))?;
        if self.len == self.entries.len() * SEGMENT {
            self.entries.push(vec![entry; SEGMENT].into_boxed_slice());
        }
        *self.entry_mut(self.len) = entry;
        self.len += 1;
        let shard = &mut self.shards[usize::from(entry.id.as_bytes()[0])];
        if shard.is_full() {
            shard.grow(&self.entries);
        }
        shard.insert(&entry.id, slot);
        Ok(())
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Index({} blobs in {} packs)", self.len, self.packs.len())
    }
}

impl Shard {
    /// Seven eighths full: probes stay short and no more than 11.5 bytes a blob are spent after a doubling.
    fn is_full(&self) -> bool {
        self.used >= self.slots.len() / 8 * 7
    }

    fn grow(&mut self, entries: &[Box<[Entry]>]) {
        self.resize((self.slots.len() * 2).max(8), entries);
    }

    fn resize(&mut self, size: usize, entries: &[Box<[Entry]>]) {
        let tags = std::mem::replace(&mut self.tags, vec![0; size].into_boxed_slice());
        let slots = std::mem::replace(&mut self.slots, vec![0; size].into_boxed_slice());
        self.used = 0;
        for (slot, _) in slots.into_iter().zip(tags).filter(|(_, tag)| *tag != 0) {
            let position = slot as usize;
            self.insert(&entries[position / SEGMENT][position % SEGMENT].id, slot);
        }
    }

    fn insert(&mut self, id: &Id, slot: u32) {
        let mask = self.slots.len() - 1;
        let mut at = home(id) & mask;
        while self.tags[at] != 0 {
            at = (at + 1) & mask;
        }
        self.tags[at] = tag(id);
        self.slots[at] = slot;
        self.used += 1;
    }

    /// Returns the entries that may have an id, from its home on, up to the first empty slot.
    fn probe(&self, id: &Id) -> impl Iterator<Item = u32> + '_ {
        let mask = self.tags.len().wrapping_sub(1);
        let (home, tag) = (home(id), tag(id));
        (0..self.tags.len())
            .map(move |step| (home + step) & mask)
            .take_while(|at| self.tags[*at] != 0)
            .filter(move |at| self.tags[*at] == tag)
            .map(|at| self.slots[at])
    }
}

/// Returns the size of a table that is not full with so many entries.
fn table_size(count: usize) -> usize {
    (count / 7 * 8 + 8).next_power_of_two()
}

/// Returns a byte of an id that is not 0 and has nothing to do with its home.
fn tag(id: &Id) -> u8 {
    id.as_bytes()[5] | 1
}

/// Returns where an id's probing starts. Ids are hashes, so any of their bytes will do.
fn home(id: &Id) -> usize {
    let bytes = id.as_bytes();
    u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize
}

fn tree_bit(kind: BlobKind) -> u32 {
    match kind {
        BlobKind::Tree => TREE,
        BlobKind::Data => 0,
    }
}

/// Returns a pack as an index file names it.
fn indexed(id: Id, waits: bool, distrusted: &dyn Fn(&Id) -> bool) -> IndexedPack {
    let distrusted = distrusted(&id);
    IndexedPack { id, marked: waits || distrusted, waits, distrusted }
}

fn too_many(what: &str) -> Error {
    Error::Unsupported { what: format!("the repository has more {what} than fit into an index") }
}

/// An index that a writer adds to while readers use it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedIndex(Arc<RwLock<Index>>);

impl SharedIndex {
    /// Gives access to look things up.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives access to add packs.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Index> for SharedIndex {
    fn from(index: Index) -> Self {
        Self(Arc::new(RwLock::new(index)))
    }
}

impl From<&SharedIndex> for SharedIndex {
    fn from(index: &SharedIndex) -> Self {
        index.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::IndexPack;

    fn id(number: u64) -> Id {
        Id::of(&number.to_le_bytes())
    }

    fn blob(number: u64, kind: BlobKind) -> PackBlob {
        PackBlob { id: id(number), kind, offset: 7, length: 1000, uncompressed_length: Some(65536) }
    }

    #[test]
    fn blobs_are_found_by_kind_and_id() {
        let mut index = Index::new();
        let mut plain = blob(2, BlobKind::Data);
        plain.uncompressed_length = None;
        index.add_pack(id(100), &[blob(1, BlobKind::Data), plain], false).unwrap();
        index.add_pack(id(101), &[blob(1, BlobKind::Tree)], false).unwrap();
        assert_eq!(index.get(BlobKind::Data, &id(1)).unwrap().pack, id(100));
        assert_eq!(index.get(BlobKind::Tree, &id(1)).unwrap().pack, id(101));
        assert_eq!(index.get(BlobKind::Data, &id(2)).unwrap().uncompressed_length, None);
        assert_eq!(index.get(BlobKind::Tree, &id(2)), None);
        assert_eq!((index.len(), index.packs().len(), index.blobs().count()), (3, 2, 3));
    }

    #[test]
    fn place_of_a_blob_does_not_depend_on_what_is_read_first() {
        let found = |packs: [u64; 3]| {
            let mut index = Index::new();
            for pack in packs {
                index.add_pack(id(pack), &[blob(1, BlobKind::Data)], pack == 102).unwrap();
            }
            assert_eq!(index.len(), 1);
            index.get(BlobKind::Data, &id(1)).unwrap().pack
        };
        let first = id(100).min(id(101));
        for order in [[100, 101, 102], [101, 100, 102], [102, 100, 101], [102, 101, 100]] {
            assert_eq!(found(order), first);
        }
    }

    #[test]
    fn marked_packs_are_for_reading_only() {
        let mut index = Index::new();
        index.add_pack(id(100), &[blob(1, BlobKind::Data), blob(2, BlobKind::Data)], true).unwrap();
        assert!(!index.contains(BlobKind::Data, &id(1)));
        assert_eq!(index.get(BlobKind::Data, &id(1)).unwrap().pack, id(100));

        // Stored again by someone: from now on it may be relied on, from there.
        index.add_pack(id(101), &[blob(1, BlobKind::Data)], false).unwrap();
        assert!(index.contains(BlobKind::Data, &id(1)));
        assert_eq!(index.get(BlobKind::Data, &id(1)).unwrap().pack, id(101));
        assert!(!index.contains(BlobKind::Data, &id(2)));

        // The order in which index files are read makes no difference.
        index.add_pack(id(100), &[blob(1, BlobKind::Data)], true).unwrap();
        assert_eq!(index.get(BlobKind::Data, &id(1)).unwrap().pack, id(101));
    }

    #[test]
    fn blob_is_read_from_a_pack_that_stays_else_from_one_that_waits_else_from_one_that_is_damaged() {
        let pack = |number| IndexPack { id: id(number), time: None, blobs: vec![blob(1, BlobKind::Data)] };
        let distrusted = |pack: &Id| *pack == id(100);
        let damaged = IndexFile { packs: vec![pack(100)], ..IndexFile::default() };
        let waiting = IndexFile { packs_to_delete: vec![pack(101)], ..IndexFile::default() };
        let sound = IndexFile { packs: vec![pack(102)], ..IndexFile::default() };
        let read_from = |files: &[&IndexFile]| {
            let mut index = Index::new();
            files.iter().for_each(|file| index.add_file_distrusting(file, &distrusted).unwrap());
            let is_relied_on = index.contains(BlobKind::Data, &id(1));
            (index.get(BlobKind::Data, &id(1)).unwrap().pack, is_relied_on)
        };
        assert_eq!(read_from(&[&damaged]), (id(100), false));
        for files in [[&damaged, &waiting], [&waiting, &damaged]] {
            assert_eq!(read_from(&files), (id(101), false));
        }
        for files in
            [[&damaged, &sound, &waiting], [&waiting, &damaged, &sound], [&sound, &waiting, &damaged]]
        {
            assert_eq!(read_from(&files), (id(102), true));
        }
    }

    #[test]
    fn index_takes_at_most_64_bytes_a_blob_while_it_grows() {
        let mut index = Index::new();
        let mut number = 0u64;
        let mut worst = 0.0f64;
        while number < 1_000_000 {
            // Packs of 16 MiB hold about 400 blobs of 64 KiB.
            let blobs: Vec<_> = (number..number + 400).map(|number| blob(number, BlobKind::Data)).collect();
            number += 400;
            index.add_pack(id(number), &blobs, false).unwrap();
            if number >= 50_000 {
                // The transient copy of one table of numbers counts as well.
                let copied = index.shards.iter().map(|shard| shard.slots.len()).max().unwrap() * 5 / 2;
                worst = worst.max((index.memory() + copied) as f64 / index.len() as f64);
            }
        }
        assert_eq!(index.len(), 1_000_000);
        assert!((0..1_000_000).step_by(997).all(|number| index.contains(BlobKind::Data, &id(number))));
        assert!(!index.contains(BlobKind::Data, &id(1_000_001)));
        assert!(worst <= 64.0, "{worst:.1} bytes a blob");
    }

    #[test]
    fn room_that_was_made_in_vain_is_given_back() {
        for (expected, come) in
            [(1_000_000, 100_000), (100_000, 100_000), (1_000, 100_000), (60_000, 100_000)]
        {
            let mut index = Index::new();
            index.reserve(expected);
            let blobs: Vec<_> = (0..come).map(|number| blob(number, BlobKind::Data)).collect();
            index.add_pack(id(come), &blobs, false).unwrap();
            index.trim();
            assert!(blobs.iter().all(|blob| index.contains(BlobKind::Data, &blob.id)));
            assert!(
                !index.contains(BlobKind::Tree, &blobs[0].id) && !index.contains(BlobKind::Data, &id(come))
            );
            let each = index.memory() as f64 / index.len() as f64;
            assert!(each <= 64.0, "{each:.1} bytes a blob where {expected} were expected");
        }
    }
}
