//! What a copy has to do. Pure: the snapshots that are meant and what is there in, one step for each out.

use std::collections::BTreeMap;

use dbkeep_repo::Id;
use dbkeep_repo::format::snapshot::Snapshot;

use crate::catalog::{Catalog, Entry};
use crate::finding::is_of_storage;

/// What is to be done with one snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'c> {
    /// It is not there.
    Copy(&'c Entry),
    /// What is stored of it there was found damaged, or is gone. Contents that are wrong are so here too.
    Repair(&'c Entry, &'c Entry),
    /// It is there.
    Leave(&'c Entry, &'c Entry),
    /// It was dropped there on purpose.
    Dropped,
}

/// Decides what is to be done with each of `wanted`, in their order. What was dropped in the copy is copied again only
/// where it is named.
pub(super) fn plan<'c>(wanted: &[&'c Entry], there: &'c Catalog, named: bool) -> Vec<Step<'c>> {
    let mut by_tree: BTreeMap<&Id, Vec<&'c Entry>> = BTreeMap::new();
    for entry in &there.entries {
        by_tree.entry(&entry.snapshot.tree).or_default().push(entry);
    }
    let decide = |entry: &&'c Entry| {
        let alike = by_tree.get(&entry.snapshot.tree).map_or(&[][..], Vec::as_slice);
        match alike.iter().find(|other| is_same(&entry.snapshot, &other.snapshot)) {
            Some(copy) if copy.history.damage.iter().any(|found| is_of_storage(found)) => {
                Step::Repair(entry, copy)
            }
            Some(copy) => Step::Leave(entry, copy),
            None if there.dropped.contains(&entry.snapshot.tree) && !named => Step::Dropped,
            None => Step::Copy(entry),
        }
    };
    wanted.iter().map(decide).collect()
}

/// Says whether two snapshots of two repositories are the same: the same contents, and both come from the same first
/// one. That is how stock restic marks what it copies, and it survives a change of tags.
pub(crate) fn is_same(one: &Snapshot, other: &Snapshot) -> bool {
    one.tree == other.tree && first_of(one) == first_of(other)
}

/// Returns the id of the first snapshot of which this is a copy: its own, when it is none.
pub(crate) fn first_of(snapshot: &Snapshot) -> Option<Id> {
    snapshot.original.or(snapshot.id)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::History;

    /// A snapshot of some contents: the first of its kind, or a copy of the one that has this number.
    fn entry(contents: u8, first: u8, copy_of: Option<u8>, damage: &[&str]) -> Entry {
        let id = |number: u8, place: &str| Id::of(format!("{place} {number}").as_bytes());
        let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, Id::of(&[contents]));
        let place = if copy_of.is_some() { "there" } else { "here" };
        snapshot.id = Some(id(first, place));
        snapshot.original = copy_of.map(|first| id(first, "here"));
        let damage = damage.iter().map(|found| (*found).to_owned()).collect();
        let id = id(first, place);
        Entry {
            snapshot,
            id,
            database: Some("shop".to_owned()),
            history: History { damage, ..History::default() },
        }
    }

    /// What happened to the copy of one snapshot.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Absent,
        Dropped,
        /// Dropped, and its file is still there.
        Going,
        Sound,
        Rotten,
        Malformed,
    }

    fn states() -> impl Strategy<Value = Vec<State>> {
        use State::{Absent, Dropped, Going, Malformed, Rotten, Sound};
        prop::collection::vec(
            prop::sample::select(vec![Absent, Dropped, Going, Sound, Rotten, Malformed]),
            0..24,
        )
    }

    /// The copy as it is by these states, beside snapshots that come from elsewhere.
    fn there(states: &[State], strangers: u8) -> Catalog {
        let mut catalog = Catalog::default();
        for (number, state) in (0..).zip(states) {
            let damage: &[&str] = match state {
                State::Rotten => &["pack 0123456789abcdef: it is missing", "the database is damaged: row 3"],
                State::Malformed => &["the database is damaged: row 3"],
                _ => &[],
            };
            if matches!(state, State::Dropped | State::Going) {
                catalog.dropped.insert(Id::of(&[number]));
            }
            if !matches!(state, State::Absent | State::Dropped) {
                catalog.entries.push(entry(number, number, Some(number), damage));
            }
        }
        // Of the same contents and of another first snapshot, as a stock tool makes them.
        catalog
            .entries
            .extend((0..strangers).map(|number| entry(number, 200 + number, Some(200 + number), &[])));
        catalog
    }

    fn count(states: &[State]) -> u8 {
        u8::try_from(states.len()).unwrap()
    }

    /// Says what a step does, with the number of its snapshot.
    fn told(step: &Step<'_>, wanted: &Entry) -> (&'static str, bool) {
        match step {
            Step::Copy(entry) => ("copy", entry.id == wanted.id),
            Step::Repair(entry, copy) => {
                ("repair", entry.id == wanted.id && is_same(&entry.snapshot, &copy.snapshot))
            }
            Step::Leave(entry, copy) => {
                ("leave", entry.id == wanted.id && is_same(&entry.snapshot, &copy.snapshot))
            }
            Step::Dropped => ("dropped", true),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_planned_is_what_is_missing(states in states(), strangers in 0u8..6, named: bool) {
            let here: Vec<Entry> = (0..count(&states)).map(|number| entry(number, number, None, &[])).collect();
            let wanted: Vec<&Entry> = here.iter().rev().collect();
            let catalog = there(&states, strangers);
            let steps = plan(&wanted, &catalog, named);
            prop_assert_eq!(steps.len(), wanted.len(), "one step for each, in their order");
            for ((step, wanted), state) in steps.iter().zip(&wanted).zip(states.iter().rev()) {
                let expected = match state {
                    State::Dropped if !named => "dropped",
                    State::Absent | State::Dropped => "copy",
                    State::Rotten => "repair",
                    State::Going | State::Sound | State::Malformed => "leave",
                };
                prop_assert_eq!(told(step, wanted), (expected, true), "{:?}", state);
            }
        }

        #[test]
        fn what_was_done_is_not_planned_again(states in states(), strangers in 0u8..6, named: bool) {
            let here: Vec<Entry> = (0..count(&states)).map(|number| entry(number, number, None, &[])).collect();
            let wanted: Vec<&Entry> = here.iter().collect();
            let mut catalog = there(&states, strangers);
            let mut made = Vec::new();
            let mut mended = HashSet::new();
            for step in plan(&wanted, &catalog, named) {
                match step {
                    Step::Copy(one) => made.push(one.snapshot.tree),
                    Step::Repair(_, copy) => drop(mended.insert(copy.id)),
                    Step::Leave(..) | Step::Dropped => {}
                }
            }
            let distinct: HashSet<&Id> = made.iter().collect();
            prop_assert_eq!(distinct.len(), made.len(), "nothing is made twice");
            for entry in catalog.entries.iter_mut().filter(|entry| mended.contains(&entry.id)) {
                entry.history.damage.retain(|found| !is_of_storage(found));
            }
            for number in (0..count(&states)).filter(|number| made.contains(&Id::of(&[*number]))) {
                catalog.dropped.remove(&Id::of(&[number]));
                catalog.entries.push(entry(number, number, Some(number), &[]));
            }
            let again = plan(&wanted, &catalog, named);
            prop_assert!(again.iter().all(|step| matches!(step, Step::Leave(..) | Step::Dropped)), "{:?}", again);
        }
    }

    #[test]
    fn copies_of_copies_are_the_same_and_equal_contents_are_not() {
        let first = entry(1, 1, None, &[]);
        let copy = entry(1, 1, Some(1), &[]);
        let mut third = entry(1, 3, Some(3), &[]);
        third.snapshot.original = copy.snapshot.original;
        for (one, other) in [(&first, &copy), (&first, &third), (&copy, &third)] {
            assert!(is_same(&one.snapshot, &other.snapshot) && is_same(&other.snapshot, &one.snapshot));
        }
        // Another snapshot of the same contents, and the same one after a tool has changed its contents.
        assert!(!is_same(&first.snapshot, &entry(1, 2, None, &[]).snapshot));
        assert!(!is_same(&first.snapshot, &entry(2, 1, Some(1), &[]).snapshot));
        assert_eq!(first_of(&third.snapshot), Some(first.id));
    }
}
