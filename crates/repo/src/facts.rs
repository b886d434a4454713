//! What happened to the snapshots of a repository, as far as its facts tell.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

use jiff::Timestamp;

use crate::Id;
use crate::backend::FileKind;
use crate::cache::{Cache, record};
use crate::error::{Error, Result};
use crate::format::fact::{Fact, FactFile, SnapshotRef, VERSION};
use crate::format::snapshot::Snapshot;
use crate::process::Process;
use crate::repository::{Repository, damaged, read_each};

/// How often facts are read until none is named that their listing lacks and a second one has. What is lacking after that
/// counts as gone.
const MOST_READINGS: usize = 3;

/// All facts of a repository that can be read.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The facts, each after all of its predecessors.
    records: Vec<Record>,
    damaged: Vec<(Id, String)>,
}

/// One fact.
#[derive(Clone, Debug)]
pub struct Record {
    /// The name of the object.
    pub id: Id,
    /// What it says.
    pub file: FactFile,
}

/// The last word on whether a snapshot is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It was verified at that time, to that level, and not found damaged since.
    Verified {
        /// When.
        at: Timestamp,
        /// How thoroughly.
        level: String,
    },
    /// It was found damaged at that time, and not verified since.
    Damaged {
        /// When.
        at: Timestamp,
        /// What was found.
        findings: Vec<String>,
    },
}

impl Repository {
    /// Reads all facts. One that is damaged is kept aside (see [`Facts::damaged`]); a listing or a read
    /// that fails is an error.
    pub fn facts(&self) -> Result<Facts> {
        self.facts_through(None)
    }

    /// Does what [`Repository::facts`] does, and reads those that are in the cache from there: that one of them has
    /// become unreadable since is not noticed.
    ///
    /// A fact that another one names was stored before that one. A listing that is made while both come may have the
    /// later one only, so what is named and not listed is looked for again.
    pub fn facts_through(&self, cache: Option<&Cache>) -> Result<Facts> {
        for _ in 1..MOST_READINGS {
            let facts = self.facts_of_one_listing(cache)?;
            let missing = facts.missing(&[]);
            if missing.is_empty() || !self.names(FileKind::Fact)?.iter().any(|id| missing.contains(id)) {
                return Ok(facts);
            }
        }
        self.facts_of_one_listing(cache)
    }

    fn facts_of_one_listing(&self, cache: Option<&Cache>) -> Result<Facts> {
        let listed = self.names(FileKind::Fact)?;
        let mut records = Vec::with_capacity(listed.len());
        let mut unreadable = Vec::new();
        let mut sort = |id, file| match file {
            Ok(file) => {
                records.push(Record { id, file });
                Ok(())
            }
            Err(Error::Damaged { id, what, .. }) => {
                unreadable.push((id, what));
                Ok(())
            }
            Err(error) => Err(error),
        };
        match cache.map(|cache| cache.shelf(FileKind::Fact, &listed)) {
            None => {
                let found = read_each(&listed, |id| self.fact(id));
                found.into_iter().try_for_each(|(id, file)| sort(id, file))?;
            }
            Some(mut shelf) => {
                let mut kept = Vec::with_capacity(listed.len());
                shelf.read(|id, bytes| {
                    kept.push((id, Ok(record::decode_fact(bytes)?)));
                    Ok(())
                });
                let missing = read_each(&shelf.missing(), |id| self.fact(id));
                for (id, file) in &missing {
                    if let Some(bytes) = file.as_ref().ok().and_then(record::encode_fact) {
                        shelf.add(id, &bytes);
                    }
                }
                shelf.finish();
                kept.into_iter().chain(missing).try_for_each(|(id, file)| sort(id, file))?;
            }
        }
        Ok(Facts { records: in_order(records), damaged: unreadable })
    }

    fn fact(&self, id: &Id) -> Result<FactFile> {
        let json = self.load_unpacked(FileKind::Fact, id)?;
        FactFile::decode(&json).map_err(|error| damaged(FileKind::Fact, id, &error))
    }

    /// Returns the snapshots that were acknowledged, not dropped on purpose, and are gone. `facts` and `present`
    /// are what was read of both, in any order.
    ///
    /// A backup or a forget between those two readings looks like a loss, so a suspicion is looked at again:
    /// the snapshots first, as whoever drops one writes the fact before.
    pub fn lost_snapshots(
        &self,
        facts: &Facts,
        present: &[Snapshot],
        cache: Option<&Cache>,
    ) -> Result<Vec<SnapshotRef>> {
        let mut lost = facts.acknowledged_but_absent(present);
        if lost.is_empty() {
            return Ok(lost);
        }
        let again = self.each_snapshot_through(cache)?;
        let present: Vec<Snapshot> = again.into_iter().filter_map(|(_, snapshot)| snapshot.ok()).collect();
        let absent = self.facts_through(cache)?.acknowledged_but_absent(&present);
        let absent: HashSet<Id> = absent.iter().map(|snapshot| snapshot.id).collect();
        lost.retain(|snapshot| absent.contains(&snapshot.id));
        Ok(lost)
    }

    /// Stores a fact that follows `known_heads`, and returns its name, which is then the only head of those
    /// known. On return it survives a power cut.
    pub fn append_fact(&self, fact: Fact, known_heads: &[Id], now: Timestamp) -> Result<Id> {
        let file = FactFile {
            version: VERSION,
            time: now,
            hostname: Process::current().hostname.clone(),
            previous: known_heads.to_vec(),
            fact,
        };
        self.save_unpacked(FileKind::Fact, &file.encode())
    }
}

impl Facts {
    /// Returns the facts, each after all of its predecessors.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns the facts that cannot be read, each with the reason.
    pub fn damaged(&self) -> &[(Id, String)] {
        &self.damaged
    }

    /// Returns the facts that no other one names as a predecessor: what a new fact follows.
    pub fn heads(&self) -> Vec<Id> {
        let followed: HashSet<&Id> = self.records.iter().flat_map(|record| &record.file.previous).collect();
        self.records.iter().map(|record| record.id).filter(|id| !followed.contains(id)).collect()
    }

    /// Returns the facts that others, or `known_heads` that were remembered elsewhere, name and that are
    /// gone. A fact that is damaged is not gone. What was gone when somebody accepted that does not count.
    pub fn missing(&self, known_heads: &[Id]) -> Vec<Id> {
        let present: HashSet<&Id> = self
            .records
            .iter()
            .map(|record| &record.id)
            .chain(self.damaged.iter().map(|(id, _)| id))
            .collect();
        let accepted = self.before_acceptances();
        let counts = |record: &&Record| !accepted.contains(&record.id);
        let named =
            self.records.iter().filter(counts).flat_map(|record| &record.file.previous).chain(known_heads);
        let missing: BTreeSet<Id> = named.filter(|id| !present.contains(id)).copied().collect();
        missing.into_iter().collect()
    }

    /// Returns the facts that somebody knew who accepted what was gone.
    fn before_acceptances(&self) -> HashSet<Id> {
        let mut before = HashSet::new();
        // Each fact comes after its predecessors, so from the end all that follow one were seen before it.
        for record in self.records.iter().rev() {
            if before.contains(&record.id) || matches!(record.file.fact, Fact::Accepted { .. }) {
                before.extend(record.file.previous.iter().copied());
            }
        }
        before
    }

    /// Returns the snapshots that were acknowledged, not dropped on purpose, and are not among `present`.
    ///
    /// A stock tool that changes tags stores a snapshot anew: one with the same tree that says from which
    /// snapshot it comes, or that is of the same database, stands for it.
    pub fn acknowledged_but_absent(&self, present: &[Snapshot]) -> Vec<SnapshotRef> {
        let mut expected = Expected::default();
        for record in &self.records {
            match &record.file.fact {
                Fact::Acknowledged { snapshots, .. } => snapshots.iter().for_each(|one| expected.add(one)),
                Fact::Forgotten { snapshots, .. } | Fact::Accepted { snapshots, .. } => {
                    snapshots.iter().for_each(|one| expected.drop(one));
                }
                _ => {}
            }
        }
        let ids: HashSet<&Id> = present.iter().filter_map(|snapshot| snapshot.id.as_ref()).collect();
        let mut absent: Vec<&SnapshotRef> =
            expected.by_id.into_values().filter(|wanted| !ids.contains(&wanted.id)).collect();
        if !absent.is_empty() {
            let mut by_tree: HashMap<&Id, Vec<&Snapshot>> = HashMap::new();
            for snapshot in present {
                by_tree.entry(&snapshot.tree).or_default().push(snapshot);
            }
            let of_tree = |tree: &Id| by_tree.get(tree).map_or(&[][..], Vec::as_slice);
            absent
                .retain(|wanted| !of_tree(&wanted.tree).iter().any(|snapshot| stands_for(snapshot, wanted)));
        }
        absent.sort_unstable_by_key(|wanted| wanted.id);
        absent.into_iter().cloned().collect()
    }

    /// Returns the last word on a snapshot, if it was ever verified or found damaged.
    pub fn judgement(&self, snapshot: &Id) -> Option<Judgement> {
        self.records.iter().rev().find_map(|record| {
            let at = record.file.time;
            match &record.file.fact {
                Fact::Verified { snapshot: verified, level } if verified.id == *snapshot => {
                    Some(Judgement::Verified { at, level: level.clone() })
                }
                Fact::Damaged { snapshots, findings } if names(snapshots, snapshot) => {
                    Some(Judgement::Damaged { at, findings: findings.clone() })
                }
                _ => None,
            }
        })
    }

    /// Returns when a snapshot was last verified, if it was not found damaged since.
    pub fn verified_at(&self, snapshot: &Id) -> Option<Timestamp> {
        match self.judgement(snapshot) {
            Some(Judgement::Verified { at, .. }) => Some(at),
            _ => None,
        }
    }

    /// Says whether a snapshot was found damaged and not verified since.
    pub fn is_damaged(&self, snapshot: &Id) -> bool {
        matches!(self.judgement(snapshot), Some(Judgement::Damaged { .. }))
    }

    /// Says whether a snapshot is kept whatever the retention says.
    pub fn is_pinned(&self, snapshot: &Id) -> bool {
        let last = self.records.iter().rev().find_map(|record| match &record.file.fact {
            Fact::Pinned { snapshot: pinned, .. } if pinned.id == *snapshot => Some(true),
            Fact::Unpinned { snapshot: unpinned } if unpinned.id == *snapshot => Some(false),
            _ => None,
        });
        last.unwrap_or(false)
    }
}

fn names(snapshots: &[SnapshotRef], id: &Id) -> bool {
    snapshots.iter().any(|snapshot| snapshot.id == *id)
}

/// The snapshots that should be there.
#[derive(Default)]
struct Expected<'f> {
    by_id: HashMap<Id, &'f SnapshotRef>,
    /// Those that ever were expected.
    by_tree: HashMap<Id, Vec<Id>>,
}

impl<'f> Expected<'f> {
    fn add(&mut self, snapshot: &'f SnapshotRef) {
        self.by_id.insert(snapshot.id, snapshot);
        self.by_tree.entry(snapshot.tree).or_default().push(snapshot.id);
    }

    /// Takes a dropped snapshot off; after a change of tags it has another id.
    fn drop(&mut self, dropped: &SnapshotRef) {
        if self.by_id.remove(&dropped.id).is_some() {
            return;
        }
        let of_tree = self.by_tree.get(&dropped.tree).into_iter().flatten();
        let of_database =
            |id: &&Id| self.by_id.get(*id).is_some_and(|known| known.database == dropped.database);
        if let Some(id) = of_tree.filter(of_database).min().copied() {
            self.by_id.remove(&id);
        }
    }
}

/// Says whether a snapshot with another id than the wanted one is the same after a change of tags.
fn stands_for(snapshot: &Snapshot, wanted: &SnapshotRef) -> bool {
    snapshot.tree == wanted.tree
        && (snapshot.original == Some(wanted.id) || snapshot.tag("database") == Some(&wanted.database))
}

/// Sorts facts so that each comes after its predecessors; those that do not depend on each other by time.
fn in_order(records: Vec<Record>) -> Vec<Record> {
    let places: HashMap<Id, usize> = records.iter().enumerate().map(|(at, record)| (record.id, at)).collect();
    let mut waiting = vec![0usize; records.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    for (at, record) in records.iter().enumerate() {
        let mut previous: Vec<usize> =
            record.file.previous.iter().filter_map(|id| places.get(id).copied()).collect();
        previous.sort_unstable();
        previous.dedup();
        waiting[at] = previous.len();
        for previous in previous {
            followers[previous].push(at);
        }
    }
    let key = |at: usize| Reverse((records[at].file.time, records[at].id, at));
    let mut ready: BinaryHeap<_> = (0..records.len()).filter(|at| waiting[*at] == 0).map(key).collect();
    let mut order = Vec::with_capacity(records.len());
    while let Some(Reverse((_, _, at))) = ready.pop() {
        order.push(at);
        for &follower in &followers[at] {
            waiting[follower] -= 1;
            if waiting[follower] == 0 {
                ready.push(key(follower));
            }
        }
    }
    // A circle cannot be made, as names are hashes of contents; nothing is left out all the same.
    order.extend((0..records.len()).filter(|at| waiting[*at] > 0));
    let mut records: Vec<Option<Record>> = records.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| records[at].take()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::{Backend, MemoryBackend};
    use crate::repository::{InitOptions, refer_to};
    use crate::secret::Secret;

    fn repository() -> (MemoryBackend, Repository) {
        let memory = MemoryBackend::new();
        let (backend, password) = (Arc::new(memory.clone()), Secret::from("x"));
        let now = Timestamp::UNIX_EPOCH;
        let repository = Repository::init(backend, &password, &InitOptions::cheap(), now).unwrap();
        (memory, repository)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn snapshot(name: &str) -> SnapshotRef {
        SnapshotRef {
            id: Id::of(name.as_bytes()),
            tree: Id::of(format!("{name} tree").as_bytes()),
            database: name.to_owned(),
        }
    }

    fn stored(name: &str) -> Snapshot {
        let named = snapshot(name);
        Snapshot {
            id: Some(named.id),
            tags: vec![format!("database={name}")],
            ..Snapshot::new(at(0), named.tree)
        }
    }

    fn acknowledged(names: &[&str]) -> Fact {
        let snapshots = names.iter().map(|name| snapshot(name)).collect();
        Fact::Acknowledged { session: "20260301_140500".to_owned(), snapshots }
    }

    #[test]
    fn each_fact_follows_the_heads_and_becomes_the_head() {
        let (_, repository) = repository();
        let first = repository.append_fact(acknowledged(&["a"]), &[], at(9)).unwrap();
        let second = repository.append_fact(acknowledged(&["b"]), &[first], at(5)).unwrap();
        let facts = repository.facts().unwrap();
        assert_eq!(facts.heads(), [second]);
        let order: Vec<_> = facts.records().iter().map(|record| record.id).collect();
        assert_eq!(order, [first, second], "the chain counts, not the clock");
        assert!(facts.missing(&[second]).is_empty());
    }

    #[test]
    fn backup_or_forget_between_two_readings_is_no_loss() {
        let (_, repository) = repository();
        let session = || "20260301_140500".to_owned();
        let store = |second| {
            let snapshot = Snapshot::new(at(second), Id::of(b"tree"));
            let id = repository.save_unpacked(FileKind::Snapshot, &snapshot.encode()).unwrap();
            refer_to(&snapshot, id)
        };
        // Listed before the backup was made, while the facts were read after it.
        let listed = repository.snapshots().unwrap();
        let made = store(1);
        let fact = Fact::Acknowledged { session: session(), snapshots: vec![made.clone()] };
        repository.append_fact(fact, &[], at(1)).unwrap();
        let facts = repository.facts().unwrap();
        assert_eq!(facts.acknowledged_but_absent(&listed).len(), 1);
        assert_eq!(repository.lost_snapshots(&facts, &listed, None).unwrap(), []);

        // The facts were read before it was forgotten, and the snapshots after.
        let lock = repository.lock_shared(at(2)).unwrap();
        repository.forget(&[made.id], "test", &lock, at(2), |_| Ok::<_, crate::Error>(())).unwrap();
        let listed = repository.snapshots().unwrap();
        assert_eq!(repository.lost_snapshots(&facts, &listed, None).unwrap(), []);

        let stolen = store(3);
        let fact = Fact::Acknowledged { session: session(), snapshots: vec![stolen.clone()] };
        repository.append_fact(fact, &[], at(3)).unwrap();
        repository.backend().remove(FileKind::Snapshot, &stolen.id).unwrap();
        let facts = repository.facts().unwrap();
        assert_eq!(repository.lost_snapshots(&facts, &[], None).unwrap(), [stolen]);
    }

    #[test]
    fn two_hosts_that_do_not_know_of_each_other_make_two_heads_that_are_joined() {
        let (_, repository) = repository();
        let first = repository.append_fact(acknowledged(&["a"]), &[], at(1)).unwrap();
        let one = repository.append_fact(acknowledged(&["b"]), &[first], at(2)).unwrap();
        let two = repository.append_fact(acknowledged(&["c"]), &[first], at(3)).unwrap();
        let heads = repository.facts().unwrap().heads();
        assert_eq!(heads, [one, two]);
        let joined = repository.append_fact(acknowledged(&["d"]), &heads, at(4)).unwrap();
        assert_eq!(repository.facts().unwrap().heads(), [joined]);
    }

    #[test]
    fn fact_that_was_removed_leaves_a_hole() {
        let (memory, repository) = repository();
        let first = repository.append_fact(acknowledged(&["a"]), &[], at(1)).unwrap();
        let second = repository.append_fact(acknowledged(&["b"]), &[first], at(2)).unwrap();
        memory.remove(FileKind::Fact, &first).unwrap();
        assert_eq!(repository.facts().unwrap().missing(&[]), [first]);
        memory.remove(FileKind::Fact, &second).unwrap();
        let facts = repository.facts().unwrap();
        assert!(facts.missing(&[]).is_empty(), "only who remembers the head knows");
        assert_eq!(facts.missing(&[second]), [second]);
    }

    #[test]
    fn fact_that_came_during_a_listing_is_no_hole() {
        let (memory, repository) = repository();
        let first = repository.append_fact(acknowledged(&["a"]), &[], at(1)).unwrap();
        let second = repository.append_fact(acknowledged(&["b"]), &[first], at(2)).unwrap();
        memory.overlook(FileKind::Fact, &first);
        let facts = repository.facts().unwrap();
        assert_eq!((facts.missing(&[]), facts.records().len()), (vec![], 2));
        // That another fact is still there says nothing of the one that is gone.
        memory.remove(FileKind::Fact, &first).unwrap();
        let third = repository.append_fact(acknowledged(&["c"]), &[second], at(3)).unwrap();
        memory.overlook(FileKind::Fact, &third);
        assert_eq!(repository.facts().unwrap().missing(&[]), [first]);
    }

    #[test]
    fn hole_that_was_accepted_is_none_and_a_later_one_is() {
        let (memory, repository) = repository();
        let first = repository.append_fact(acknowledged(&["a"]), &[], at(1)).unwrap();
        let second = repository.append_fact(acknowledged(&["b"]), &[first], at(2)).unwrap();
        memory.remove(FileKind::Fact, &first).unwrap();
        let accepted = Fact::Accepted { snapshots: Vec::new(), why: "known".to_owned() };
        let third = repository.append_fact(accepted, &[second], at(3)).unwrap();
        assert!(repository.facts().unwrap().missing(&[]).is_empty());
        let fourth = repository.append_fact(acknowledged(&["c"]), &[third], at(4)).unwrap();
        repository.append_fact(acknowledged(&["d"]), &[fourth], at(5)).unwrap();
        memory.remove(FileKind::Fact, &fourth).unwrap();
        assert_eq!(repository.facts().unwrap().missing(&[]), [fourth]);
    }

    #[test]
    fn damaged_fact_is_named_and_the_others_are_read() {
        let (memory, repository) = repository();
        let first = repository.append_fact(acknowledged(&["a"]), &[], at(1)).unwrap();
        let second = repository.append_fact(acknowledged(&["b"]), &[first], at(2)).unwrap();
        memory.alter(FileKind::Fact, &first, |contents| contents[20] ^= 1);
        let facts = repository.facts().unwrap();
        assert_eq!(facts.damaged()[0].0, first);
        assert_eq!(facts.heads(), [second]);
        assert!(facts.missing(&[]).is_empty());
    }

    #[test]
    fn snapshot_that_vanished_is_told_from_one_that_was_dropped() {
        let (_, repository) = repository();
        let facts = [
            acknowledged(&["a", "b", "c", "d", "e"]),
            Fact::Forgotten { snapshots: vec![snapshot("b")], reason: String::new() },
            Fact::Accepted { snapshots: vec![snapshot("c")], why: String::new() },
        ];
        let mut heads = Vec::new();
        for (second, fact) in (1..).zip(facts) {
            heads = vec![repository.append_fact(fact, &heads, at(second)).unwrap()];
        }
        let absent = repository.facts().unwrap().acknowledged_but_absent(&[stored("a"), stored("e")]);
        assert_eq!(absent, [snapshot("d")]);
    }

    #[test]
    fn snapshot_whose_tags_restic_changed_is_not_gone() {
        let (_, repository) = repository();
        repository.append_fact(acknowledged(&["a"]), &[], at(1)).unwrap();
        let facts = repository.facts().unwrap();
        let absent = |changed: Snapshot| facts.acknowledged_but_absent(&[changed]).len();
        let changed = Snapshot { id: Some(Id::of(b"new")), tags: Vec::new(), ..stored("a") };
        assert_eq!(absent(Snapshot { original: Some(snapshot("a").id), ..changed.clone() }), 0);
        assert_eq!(absent(Snapshot { tags: vec!["database=a".to_owned()], ..changed.clone() }), 0);
        assert_eq!(absent(changed.clone()), 1, "the same tree of something else");
        assert_eq!(absent(Snapshot { tree: Id::NULL, original: Some(snapshot("a").id), ..changed }), 1);
    }

    #[test]
    fn last_judgement_counts() {
        let (_, repository) = repository();
        let verified = || Fact::Verified { snapshot: snapshot("a"), level: "full".to_owned() };
        let damaged =
            Fact::Damaged { snapshots: vec![snapshot("a")], findings: vec!["pack gone".to_owned()] };
        let mut heads = Vec::new();
        let mut judge = |second, fact| {
            heads = vec![repository.append_fact(fact, &heads, at(second)).unwrap()];
            let facts = repository.facts().unwrap();
            (facts.verified_at(&snapshot("a").id), facts.is_damaged(&snapshot("a").id))
        };
        assert_eq!(judge(1, acknowledged(&["a"])), (None, false));
        assert_eq!(judge(2, verified()), (Some(at(2)), false));
        assert_eq!(judge(3, damaged), (None, true));
        assert_eq!(judge(4, verified()), (Some(at(4)), false));
    }

    #[test]
    fn pin_holds_until_it_is_taken_off() {
        let (_, repository) = repository();
        let pin = Fact::Pinned { snapshot: snapshot("a"), reason: String::new() };
        let first = repository.append_fact(pin, &[], at(1)).unwrap();
        assert!(repository.facts().unwrap().is_pinned(&snapshot("a").id));
        repository.append_fact(Fact::Unpinned { snapshot: snapshot("a") }, &[first], at(1)).unwrap();
        let facts = repository.facts().unwrap();
        assert!(!facts.is_pinned(&snapshot("a").id) && !facts.is_pinned(&snapshot("b").id));
    }
}
