//! What the packs hold, and for whom.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use super::plan::{Pack, State};
use super::survey::{Look, size_in_pack};
use super::used::{Blobs, walk};
use crate::error::Result;
use crate::index::Index;
use crate::lock::RepositoryLock;
use crate::observe::Observer;
use crate::{Id, Repository};

/// A blob that no group needs.
const NOBODY: u32 = 0;
/// A blob that several groups need.
const SEVERAL: u32 = u32::MAX;

/// What the packs of a repository hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// How many packs are stored.
    pub packs: u64,
    /// Their bytes.
    pub bytes_stored: u64,
    /// Bytes that no snapshot needs.
    pub bytes_unused: u64,
    /// Of those, bytes of packs that a prune has marked.
    pub bytes_waiting: u64,
    /// Bytes that several groups of snapshots need.
    pub bytes_shared: u64,
    /// For each group, bytes that it alone needs.
    pub bytes_unique: Vec<u64>,
}

impl Repository {
    /// Measures what groups of snapshots need: their trees, one list a group. Snapshots that are in no group need
    /// what they need all the same.
    ///
    /// Fails as a prune does when anything that is needed is missing or cannot be read. Takes 5 bytes a blob besides
    /// the index.
    pub fn space(
        &self,
        lock: &dyn RepositoryLock,
        groups: &[Vec<Id>],
        damaged: &HashSet<Id>,
        watch: &dyn Observer,
    ) -> Result<Space> {
        let look = Look {
            repository: self,
            lock,
            without: &HashSet::new(),
            damaged: &|pack| damaged.contains(pack),
            grace: SignedDuration::ZERO,
            now: Timestamp::UNIX_EPOCH,
            watch,
        };
        let survey = look.survey()?;
        let index = survey.index.read();
        let mut space = Space { bytes_unique: vec![0; groups.len()], ..Space::default() };
        for (number, owner) in owners(self, &index, groups, watch)?.into_iter().enumerate() {
            let size = size_in_pack(&index.location(number));
            match owner {
                NOBODY => {}
                SEVERAL => space.bytes_shared += size,
                owner => space.bytes_unique[owner as usize - 1] += size,
            }
        }
        space.add_packs(&survey.packs);
        Ok(space)
    }
}

/// Returns which group needs each blob of the index: [`NOBODY`], the number of one from 1 on, or [`SEVERAL`].
fn owners(
    repository: &Repository,
    index: &Index,
    groups: &[Vec<Id>],
    watch: &dyn Observer,
) -> Result<Vec<u32>> {
    let mut owners = vec![NOBODY; index.len()];
    for (owner, trees) in (1..SEVERAL).zip(groups) {
        let needed = Blobs::none_of(index.len());
        walk(repository, index, trees.iter().copied(), &needed, watch)?;
        for (_, found) in owners.iter_mut().enumerate().filter(|(number, _)| needed.contains(*number)) {
            *found = if *found == NOBODY { owner } else { SEVERAL };
        }
    }
    Ok(owners)
}

impl Space {
    /// Adds what is stored, and what of it is of no use.
    fn add_packs(&mut self, packs: &[Pack]) {
        for pack in packs {
            self.packs += 1;
            self.bytes_stored += pack.size;
            self.bytes_unused += if pack.used == 0 { pack.size } else { pack.unused };
            if matches!(pack.state, State::Marked { .. }) && pack.used == 0 {
                self.bytes_waiting += pack.size;
            }
        }
    }
}
