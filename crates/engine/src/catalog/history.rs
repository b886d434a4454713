//! What happened to snapshots, as the facts of a repository tell.

use std::collections::{HashMap, HashSet};

use dbkeep_repo::Id;
use dbkeep_repo::format::fact::{Fact, SnapshotRef};
use jiff::Timestamp;

use crate::finding::is_of_storage;
use crate::integrity::Verify;

/// The level of the proof that a copy leaves: what it stored was read back.
pub(crate) const COPIED: &str = "copied";

/// The level of the proof that a repair of a copy leaves: all of it was read. No integrity check was run.
pub(crate) const READ: &str = "read";

/// How the reason begins for which a guard holds the snapshot that it may go back to.
pub(crate) const HELD_BY_GUARD: &str = "guard ";

/// What happened to a snapshot.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// When it was last proved.
    pub verified: Option<Timestamp>,
    /// When it was last restored in a drill, and passed.
    pub drilled: Option<Timestamp>,
    /// Whether it is held for good, or as long as a guard may need it.
    pub pinned: bool,
    /// Why it is.
    pub(crate) held_by: Option<String>,
    /// What was found damaged since it was last proved.
    pub damage: Vec<String>,
    /// Whether somebody said that what looks wrong about it is in order.
    pub cleared: bool,
    /// Whether an integrity check of what is stored here was ever run and found it sound.
    pub(crate) inspected: bool,
    /// Whether the user was told that it is stored here.
    pub(crate) acknowledged: bool,
    /// Whether it was ever held for good, or let go.
    pub(crate) pin_decided: bool,
}

impl History {
    /// Whether it is held for good, and not only as long as a guard may need it.
    pub(crate) fn is_held_for_good(&self) -> bool {
        self.pinned && !self.held_by.as_deref().is_some_and(|why| why.starts_with(HELD_BY_GUARD))
    }
}

/// Returns the packs that findings of damage name, as `pack 0123…: what`.
pub(super) fn damaged_packs<'a>(facts: impl Iterator<Item = &'a Fact>) -> HashSet<String> {
    let findings = facts.filter_map(|fact| match fact {
        Fact::Damaged { findings, .. } => Some(findings),
        _ => None,
    });
    let pack = |finding: &String| finding.strip_prefix("pack ")?.split(':').next().map(str::to_owned);
    findings.flatten().filter_map(pack).filter(|pack| pack.len() == 64).collect()
}

/// Returns the trees of the snapshots that were dropped on purpose and not stored again since.
pub(super) fn dropped<'a>(facts: impl Iterator<Item = &'a Fact>) -> HashSet<Id> {
    let mut dropped = HashSet::new();
    for fact in facts {
        match fact {
            Fact::Forgotten { snapshots, .. } | Fact::Accepted { snapshots, .. } => {
                dropped.extend(snapshots.iter().map(|snapshot| snapshot.tree));
            }
            Fact::Acknowledged { snapshots, .. } => {
                for snapshot in snapshots {
                    dropped.remove(&snapshot.tree);
                }
            }
            _ => {}
        }
    }
    dropped
}

/// Returns what happened to each snapshot, by its id and by its tree. Trees are unique: each holds a manifest.
///
/// The facts come in their own order, each after those that its writer knew; clocks do not matter.
pub(super) fn histories<'a>(facts: impl Iterator<Item = (Timestamp, &'a Fact)>) -> HashMap<Id, History> {
    let mut histories: HashMap<Id, History> = HashMap::new();
    let mut change = |snapshot: &SnapshotRef, change: &dyn Fn(&mut History)| {
        for id in [snapshot.id, snapshot.tree] {
            change(histories.entry(id).or_default());
        }
    };
    for (time, fact) in facts {
        match fact {
            Fact::Verified { snapshot, level } => change(snapshot, &|history| {
                history.verified = Some(time);
                history.inspected |= ![COPIED, READ].contains(&level.as_str());
                history.damage.retain(|finding| !clears(level, finding));
            }),
            Fact::Drilled { snapshot, passed: true, .. } => {
                change(snapshot, &|history| history.drilled = Some(time));
            }
            Fact::Pinned { snapshot, reason } => change(snapshot, &|history| {
                (history.pinned, history.pin_decided) = (true, true);
                history.held_by = Some(reason.clone());
            }),
            Fact::Unpinned { snapshot } => change(snapshot, &|history| {
                (history.pinned, history.pin_decided, history.held_by) = (false, true, None);
            }),
            Fact::Acknowledged { snapshots, .. } => {
                for snapshot in snapshots {
                    change(snapshot, &|history| history.acknowledged = true);
                }
            }
            Fact::Damaged { snapshots, findings } => {
                for snapshot in snapshots {
                    change(snapshot, &|history| history.damage.extend(findings.iter().cloned()));
                }
            }
            Fact::Cleared { snapshots, .. } => {
                for snapshot in snapshots {
                    change(snapshot, &|history| history.cleared = true);
                }
            }
            _ => {}
        }
    }
    histories
}

/// Says whether a proof of this level shows that a finding does not hold any more.
fn clears(level: &str, finding: &str) -> bool {
    match level {
        // A copy reads back what it stores, and not what was there before.
        COPIED => false,
        // The contents are as wrong as they were: a check that looks at less, or at hashes only, does not see it.
        level if level != Verify::Full.word() => is_of_storage(finding),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_repo::format::snapshot::Snapshot;

    use super::*;
    use crate::catalog::Entry;

    fn reference() -> SnapshotRef {
        SnapshotRef { id: Id::of(b"s"), tree: Id::of(b"t"), database: "shop".to_owned() }
    }

    fn damaged(finding: &str) -> Fact {
        Fact::Damaged { snapshots: vec![reference()], findings: vec![finding.to_owned()] }
    }

    fn verified(level: &str) -> Fact {
        Fact::Verified { snapshot: reference(), level: level.to_owned() }
    }

    #[test]
    fn what_copies_prove_is_less_than_a_check() {
        let rotten = damaged(&format!("pack {}: it is missing", Id::of(b"pack")));
        let malformed = damaged("the database is damaged: row 3 missing from index users_name");
        let judged = |level: &str, integrity: &str, before: &[&Fact]| {
            let last = verified(level);
            let facts = before.iter().copied().chain([&last]).map(|fact| (Timestamp::UNIX_EPOCH, fact));
            let history = histories(facts).remove(&reference().id).unwrap();
            let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, reference().tree);
            snapshot.tags = vec!["database=shop".to_owned(), integrity.to_owned()];
            Entry { snapshot, id: reference().id, database: Some("shop".to_owned()), history }.is_good()
        };
        for (level, unchecked, after_rot, after_malformed) in [
            ("copied", false, false, false),
            ("read", false, true, false),
            ("quick", true, true, false),
            ("full", true, true, true),
        ] {
            assert!(judged(level, "integrity=ok", &[]), "{level}");
            assert_eq!(judged(level, "integrity=not-run", &[]), unchecked, "{level}");
            assert_eq!(judged(level, "integrity=ok", &[&rotten]), after_rot, "{level}");
            assert_eq!(judged(level, "integrity=ok", &[&malformed]), after_malformed, "{level}");
            assert_eq!(judged(level, "integrity=ok", &[&malformed, &rotten]), after_malformed, "{level}");
        }
    }

    #[test]
    fn damage_counts_until_the_snapshot_is_proved_again() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (verified, damaged) = (verified("full"), damaged("gone"));
        let history = |facts: &[(Timestamp, &Fact)]| {
            histories(facts.iter().copied()).remove(&reference().tree).unwrap()
        };
        let worse = history(&[(at(1), &verified), (at(2), &damaged)]);
        assert_eq!((worse.verified, worse.damage.as_slice()), (Some(at(1)), ["gone".to_owned()].as_slice()));
        let better = history(&[(at(1), &damaged), (at(2), &verified)]);
        assert_eq!((better.verified, better.damage.len()), (Some(at(2)), 0));
    }
}
