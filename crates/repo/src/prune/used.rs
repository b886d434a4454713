//! What snapshots need: every blob that a walk through their directories meets.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::tree::{NodeKind, Tree};
use crate::index::{Index, Location};
use crate::observe::Observer;
use crate::read::{Expected, Opener};
use crate::{Id, Repository};

/// A set of blobs, by their numbers in an index: one bit each.
pub(crate) struct Blobs(Vec<AtomicU64>);

impl Blobs {
    /// Makes an empty set for an index of so many blobs.
    pub(crate) fn none_of(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Adds a blob; says whether it is new.
    fn insert(&self, number: usize) -> bool {
        let bit = 1 << (number % 64);
        self.0[number / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    pub(crate) fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (number % 64) != 0)
    }
}

/// Adds all that these trees lead to, themselves included. What is in the set already was walked before.
///
/// Fails at the first directory that cannot be read and at the first blob that no index file names: what is needed
/// must be known completely, or nothing may be removed.
pub(crate) fn walk(
    repository: &Repository,
    index: &Index,
    trees: impl IntoIterator<Item = Id>,
    used: &Blobs,
    watch: &dyn Observer,
) -> Result<()> {
    let number = |id: Id| index.position(BlobKind::Tree, &id).ok_or_else(|| absent(BlobKind::Tree, &id));
    let numbers = trees.into_iter().map(number).collect::<Result<Vec<_>>>()?;
    let mut level: Vec<usize> = numbers.into_iter().filter(|number| used.insert(*number)).collect();
    while !level.is_empty() {
        // Neighbours in a pack are read one after the other.
        level.sort_unstable_by_key(|number| (index.pack_number(*number), index.location(*number).offset));
        level = visit_all(repository, index, &level, used, watch)?;
    }
    Ok(())
}

/// Visits directories on all cores. Returns the directories below them that were not met before.
fn visit_all(
    repository: &Repository,
    index: &Index,
    level: &[usize],
    used: &Blobs,
    watch: &dyn Observer,
) -> Result<Vec<usize>> {
    let next = AtomicUsize::new(0);
    let below = Mutex::new(Vec::new());
    let failure = Mutex::new(None);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(level.len());
    let work = || -> Result<()> {
        let mut visitor = Visitor { repository, index, used, opener: Opener::new(repository.key())? };
        let mut found = Vec::new();
        while let Some(number) = level.get(next.fetch_add(1, Ordering::Relaxed)) {
            if watch.cancelled() {
                return Err(Error::Cancelled);
            }
            visitor.visit(*number, &mut found)?;
        }
        below.lock().unwrap_or_else(PoisonError::into_inner).append(&mut found);
        Ok(())
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                if let Err(error) = work() {
                    next.store(level.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(below.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Visits directories on one thread.
struct Visitor<'a> {
    repository: &'a Repository,
    index: &'a Index,
    used: &'a Blobs,
    opener: Opener,
}

impl Visitor<'_> {
    fn visit(&mut self, number: usize, below: &mut Vec<usize>) -> Result<()> {
        let (id, location) = (self.index.id(number), self.index.location(number));
        for node in self.read(&id, &location)?.nodes {
            for id in node.content.iter().flatten() {
                self.used.insert(self.number(BlobKind::Data, id)?);
            }
            match node.subtree {
                Some(subtree) => {
                    let number = self.number(BlobKind::Tree, &subtree)?;
                    if self.used.insert(number) {
                        below.push(number);
                    }
                }
                None if node.kind == NodeKind::Directory => {
                    let what = format!("tree {id:.8}: the directory {:?} has no tree", node.name);
                    return Err(Error::Damaged { kind: FileKind::Pack, id: location.pack, what });
                }
                None => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, id: &Id, location: &Location) -> Result<Tree> {
        let Location { pack, offset, length, uncompressed_length } = *location;
        let mut sealed = vec![0; length as usize];
        self.repository.backend().read_range(FileKind::Pack, &pack, u64::from(offset), &mut sealed)?;
        let json = self.opener.open(&mut sealed, &Expected { pack, id: *id, uncompressed_length })?;
        let odd =
            |error| Error::Damaged { kind: FileKind::Pack, id: pack, what: format!("tree {id:.8}: {error}") };
        Tree::decode(json).map_err(odd)
    }

    fn number(&self, kind: BlobKind, id: &Id) -> Result<usize> {
        self.index.position(kind, id).ok_or_else(|| absent(kind, id))
    }
}

fn absent(kind: BlobKind, id: &Id) -> Error {
    Error::BlobMissing { kind, id: *id }
}
