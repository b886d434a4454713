//! Which packs go, which are written anew, and which stay.
//!
//! Pure: packs with their sizes and how much of them is used in, decisions out. What is used was found out by a walk
//! through all snapshots (`used.rs`); what is decided here is done by `mod.rs`.

use std::cmp::Reverse;

use crate::Id;

/// Small packs are merged when at least so many of them come together.
const MERGE_AT_LEAST: usize = 8;
/// The largest of the packs that are merged has at most this part of the bytes of the others: what comes out is at
/// least four times as large as anything that went in, so a byte is copied a few times in its life.
const MERGE_SHARE: u64 = 3;
/// Packs of data below this part of a full one are small.
const SMALL_DATA: u64 = 16;
/// Packs of trees below this part of a full pack of data are small: full ones have a quarter of its size.
const SMALL_TREES: u64 = 64;

/// What the blobs of a pack are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holds {
    /// Pieces of files.
    Data,
    /// Directories.
    Trees,
    /// Both, as old tools made them.
    Both,
}

/// How the repository knows a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// An index file names it.
    Live,
    /// An earlier prune marked it, and no index file names it otherwise.
    Marked {
        /// The time of grace has passed, by every clock that can tell.
        ready: bool,
    },
    /// An earlier prune marked it at a time that has not come yet, so the mark does not tell how long ago that was.
    Misdated,
    /// It is stored and no index file names it.
    Unnamed {
        /// It is older than the time of grace by the clock of the storage.
        ready: bool,
    },
}

/// A pack that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack {
    /// The name.
    pub id: Id,
    /// What its blobs are.
    pub holds: Holds,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of it that snapshots need from here: not those of blobs that are read from another pack.
    pub used: u64,
    /// Bytes of it that they do not.
    pub unused: u64,
    /// How the repository knows it.
    pub state: State,
    /// Damage was found in it, so it cannot be written anew.
    pub damaged: bool,
}

/// What may stay unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxUnused {
    /// Tenths of a per cent of all that stays, up to 1000.
    per_mille: u16,
}

impl MaxUnused {
    /// Makes a limit in tenths of a per cent; more than 1000 is 1000.
    pub fn per_mille(share: u16) -> Self {
        Self { per_mille: share.min(1000) }
    }

    /// Returns how many unused bytes may stay beside so many used ones.
    fn beside(self, used: u64) -> u64 {
        let share = u128::from(self.per_mille);
        let rest = 1000 - share;
        if rest == 0 {
            return u64::MAX;
        }
        u64::try_from(u128::from(used) * share / rest).unwrap_or(u64::MAX)
    }
}

impl Default for MaxUnused {
    fn default() -> Self {
        Self::per_mille(50)
    }
}

/// What to decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What may stay unused within packs that are partly used.
    pub max_unused: MaxUnused,
    /// What a full pack has, in bytes.
    pub pack_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_unused: MaxUnused::default(), pack_size: 16 << 20 }
    }
}

/// What a prune will do, as places in the list of packs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Removed now: marked long enough ago, or in no index for as long.
    pub remove: Vec<usize>,
    /// Marked, and needed again: back into the index.
    pub take_back: Vec<usize>,
    /// Marked, and not long enough ago.
    pub wait: Vec<usize>,
    /// In no index, and too young to be told from what is being written.
    pub leave: Vec<usize>,
    /// Nothing in them is used: marked now, or marked anew.
    pub mark: Vec<usize>,
    /// What is used of them is copied into new packs, then they are marked.
    pub rewrite: Vec<usize>,
}

impl Plan {
    /// Returns each fate in a word, with the places of the packs that have it. A pack in no list stays as it is.
    pub fn fates(&self) -> [(&'static str, &[usize]); 6] {
        [
            ("remove", &self.remove),
            ("take back", &self.take_back),
            ("wait", &self.wait),
            ("leave", &self.leave),
            ("mark", &self.mark),
            ("rewrite", &self.rewrite),
        ]
    }
}

/// Decides about all packs.
pub fn plan(packs: &[Pack], limits: Limits) -> Plan {
    let mut plan = Plan::default();
    let mut partly = Vec::new();
    let mut whole = Vec::new();
    let (mut used, mut unused) = (0, 0);
    for (place, pack) in packs.iter().enumerate() {
        match pack.state {
            State::Unnamed { ready: true } => plan.remove.push(place),
            State::Unnamed { ready: false } => plan.leave.push(place),
            State::Marked { ready: true } if pack.used == 0 => plan.remove.push(place),
            State::Marked { ready: false } if pack.used == 0 => plan.wait.push(place),
            State::Live | State::Misdated if pack.used == 0 => plan.mark.push(place),
            State::Marked { .. } | State::Misdated => {
                plan.take_back.push(place);
                used += pack.used;
                unused += pack.unused;
            }
            State::Live => {
                used += pack.used;
                unused += pack.unused;
                let candidates = if pack.unused > 0 { &mut partly } else { &mut whole };
                candidates.push(place);
            }
        }
    }
    plan.rewrite = most_unused(packs, &mut partly, unused, limits.max_unused.beside(used));
    let stay = partly.into_iter().chain(whole).filter(|place| !packs[*place].damaged).collect();
    plan.rewrite.extend(small(packs, stay, limits.pack_size));
    plan.rewrite.sort_unstable();
    plan
}

/// Takes those packs out of `partly` that have to be written anew so that at most `allowed` bytes stay unused: the
/// emptiest first, as they give back most for what is copied.
fn most_unused(packs: &[Pack], partly: &mut Vec<usize>, mut unused: u64, allowed: u64) -> Vec<usize> {
    let share = |pack: &Pack| Share { part: pack.unused, of: pack.used + pack.unused };
    partly.sort_by_key(|place| (Reverse(share(&packs[*place])), packs[*place].id));
    let mut taken = Vec::new();
    partly.retain(|place| {
        let is_taken = unused > allowed && !packs[*place].damaged;
        if is_taken {
            unused -= packs[*place].unused;
            taken.push(*place);
        }
        !is_taken
    });
    taken
}

/// Returns the small packs that are worth merging.
fn small(packs: &[Pack], stay: Vec<usize>, full: u64) -> Vec<usize> {
    let (mut data, mut trees) = (Vec::new(), Vec::new());
    for place in stay {
        let pack = &packs[place];
        match pack.holds {
            Holds::Data if pack.size < full / SMALL_DATA => data.push(place),
            Holds::Trees if pack.size < full / SMALL_TREES => trees.push(place),
            _ => {}
        }
    }
    [data, trees].into_iter().flat_map(|places| worth_merging(packs, places)).collect()
}

/// Returns the most of these packs of which none is large beside the others together.
fn worth_merging(packs: &[Pack], mut places: Vec<usize>) -> Vec<usize> {
    places.sort_by_key(|place| (packs[*place].size, packs[*place].id));
    let mut sum = 0u64;
    let mut count = 0;
    for (before, place) in places.iter().enumerate() {
        let size = packs[*place].size;
        if size.saturating_mul(MERGE_SHARE) <= sum {
            count = before + 1;
        }
        sum = sum.saturating_add(size);
    }
    if count < MERGE_AT_LEAST {
        return Vec::new();
    }
    places.truncate(count);
    places
}

/// A part of a whole, compared without rounding.
#[derive(Clone, Copy)]
struct Share {
    part: u64,
    of: u64,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let product = |one: u64, two: u64| u128::from(one) * u128::from(two);
        product(self.part, other.of).cmp(&product(other.part, self.of))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Share {}

#[cfg(test)]
mod tests;
