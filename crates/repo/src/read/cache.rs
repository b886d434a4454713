//! Opened chunks that are kept, and which of them go first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A blob's place: number of its pack, offset. One blob that is many chunks is cached once.
pub(super) type Key = (u32, u32);

/// Buffers of chunks that fell out of the cache, kept for those that come next.
const SPARE: usize = 64;

/// Opened chunks. Those that were read from one end to the other go first, the latest of them before all others:
/// a second reading in the same order then finds the first ones still there. The rest goes by last use.
#[derive(Default)]
pub(super) struct Cache {
    limit: usize,
    size: usize,
    tick: u64,
    slots: HashMap<Key, (Arc<Vec<u8>>, Turn)>,
    by_turn: BTreeMap<Turn, Key>,
    spare: Vec<Vec<u8>>,
}

/// When it is an entry's turn to go: the smallest is the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Passed(std::cmp::Reverse<u64>),
    Used(u64),
}

impl Cache {
    /// Makes a cache that keeps up to about `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Says whether a blob is there, without counting it as used.
    pub(super) fn contains(&self, key: Key) -> bool {
        self.slots.contains_key(&key)
    }

    /// Returns a blob that is there.
    pub(super) fn get(&mut self, key: Key) -> Option<Arc<Vec<u8>>> {
        let bytes = Arc::clone(&self.slots.get(&key)?.0);
        self.tick += 1;
        self.turn(key, Turn::Used(self.tick));
        Some(bytes)
    }

    /// Notes that a blob was read from one end to the other.
    pub(super) fn pass(&mut self, key: Key) {
        self.tick += 1;
        self.turn(key, Turn::Passed(std::cmp::Reverse(self.tick)));
    }

    fn turn(&mut self, key: Key, turn: Turn) {
        if let Some((_, before)) = self.slots.get_mut(&key) {
            self.by_turn.remove(before);
            *before = turn;
            self.by_turn.insert(turn, key);
        }
    }

    /// Keeps a blob, and lets others go until there is room.
    pub(super) fn insert(&mut self, key: Key, bytes: Arc<Vec<u8>>) {
        self.tick += 1;
        let turn = Turn::Used(self.tick);
        self.size += bytes.len();
        if let Some((old, before)) = self.slots.insert(key, (bytes, turn)) {
            self.size -= old.len();
            self.by_turn.remove(&before);
        }
        self.by_turn.insert(turn, key);
        while self.size > self.limit && self.slots.len() > 1 {
            let Some((_, next)) = self.by_turn.pop_first() else { return };
            if let Some((bytes, _)) = self.slots.remove(&next) {
                self.size -= bytes.len();
                self.spare.extend(Arc::into_inner(bytes).filter(|_| self.spare.len() < SPARE));
            }
        }
    }

    /// Returns a buffer for a chunk, with anything in it.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cache: &Cache, keys: std::ops::Range<u32>) -> Vec<bool> {
        keys.map(|number| cache.contains((number, 0))).collect()
    }

    #[test]
    fn cache_keeps_what_was_used_last_within_its_limit() {
        let mut cache = Cache::new(300);
        for number in 0..3 {
            cache.insert((number, 0), Arc::new(vec![0; 100]));
        }
        assert!(cache.get((0, 0)).is_some());
        cache.insert((3, 0), Arc::new(vec![0; 100]));
        assert_eq!(kept(&cache, 0..4), [true, false, true, true]);
        // One that is larger than the limit is kept alone, so that its pages are not opened again and again.
        cache.insert((9, 0), Arc::new(vec![0; 1000]));
        assert!(cache.contains((9, 0)) && cache.slots.len() == 1 && cache.size == 1000);
    }

    #[test]
    fn cache_keeps_the_beginning_of_what_was_read_from_start_to_end() {
        let mut cache = Cache::new(300);
        cache.insert((0, 0), Arc::new(vec![0; 100]));
        for number in 1..8 {
            cache.insert((number, 0), Arc::new(vec![0; 100]));
            cache.pass((number, 0));
        }
        assert_eq!(kept(&cache, 0..8), [true, true, false, false, false, false, false, true]);
        // What is used again counts as any other.
        assert!(cache.get((1, 0)).is_some());
        cache.insert((8, 0), Arc::new(vec![0; 100]));
        cache.insert((9, 0), Arc::new(vec![0; 100]));
        assert_eq!(kept(&cache, 0..10).iter().filter(|kept| **kept).count(), 3);
        assert!(cache.contains((1, 0)) && !cache.contains((0, 0)) && !cache.contains((7, 0)));
        assert_eq!((cache.size, cache.by_turn.len()), (300, 3));
    }
}
