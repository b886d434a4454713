//! From one repository into another: what was sent is there, whatever the order in which it was wanted and wherever it
//! ended.

use std::collections::HashSet;
use std::sync::Arc;

use dbkeep_repo::backend::{Backend, FileKind};
use dbkeep_repo::check::{CheckOptions, ReadData, check};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::index::Index;
use dbkeep_repo::read::CopyError;
use dbkeep_repo::{Error, Repository, Result, Unobserved};
use proptest::prelude::*;

use crate::scene::{CHUNK, backup, bytes, load, memory, now, open, restore, small_packs};

/// Copies snapshots in the given order, as many at a time as it is said, and returns how many plain bytes were read.
fn copy(source: &Repository, target: &Repository, snapshots: &[&Snapshot], at_once: usize) -> Result<u64> {
    let lock = target.lock_shared(now())?;
    let index = Index::load(target, &Unobserved)?;
    let mut writer = target.writer(&lock, index, &small_packs(), Arc::new(Unobserved))?;
    let (reader, mut whole, mut bytes_read) = (load(source), HashSet::new(), 0);
    for some in snapshots.chunks(at_once) {
        for snapshot in some {
            let sent = reader.copy_tree(&snapshot.tree, &mut writer, &mut whole, &Unobserved);
            bytes_read += sent.map_err(|error| match error {
                CopyError::Source(error) | CopyError::Target(error) => error,
            })?;
        }
        writer.flush_and_read_back()?;
        for snapshot in some {
            assert!(reader.is_there(&snapshot.tree, &writer, &mut HashSet::new(), &Unobserved)?);
            writer.commit_copied(&snapshot.encode())?;
        }
    }
    Ok(bytes_read)
}

#[track_caller]
fn assert_sound(repository: &Repository, what: &str) {
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(repository, &options, &Unobserved).unwrap();
    assert!(report.ok, "{what}: {:?}", report.findings);
}

#[test]
fn crash_at_any_write_of_a_copy_leaves_no_snapshot_without_its_blobs() {
    let (_, source) = memory();
    let older = bytes(1, 60 * CHUNK as usize);
    let mut newer = bytes(2, 40 * CHUNK as usize);
    newer.extend_from_slice(&older);
    let snapshots = [backup(&source, &older).unwrap(), backup(&source, &newer).unwrap()];
    let contents = |snapshot: &Snapshot| if snapshot.tree == snapshots[0].tree { &older } else { &newer };
    let newest_first: Vec<&Snapshot> = snapshots.iter().rev().collect();
    for writes in 0.. {
        let (backend, target) = memory();
        backend.fail_after(writes);
        let done = copy(&source, &target, &newest_first, 1);
        // The power goes: what was not written is not there, and no lock is held.
        let target = open(Arc::new(backend.after_crash()));
        let what = format!("after {writes} writes");
        assert_sound(&target, &what);
        let found = target.snapshots().unwrap();
        for snapshot in &found {
            assert!(restore(&target, snapshot).unwrap() == *contents(snapshot), "{what}");
        }
        let missing: Vec<&Snapshot> = newest_first
            .iter()
            .copied()
            .filter(|wanted| found.iter().all(|snapshot| snapshot.tree != wanted.tree))
            .collect();
        copy(&source, &target, &missing, 2).unwrap();
        assert_eq!(target.snapshots().unwrap().len(), 2, "{what}");
        assert_sound(&target, &what);
        if done.is_ok() {
            assert!(writes > 10 && missing.is_empty(), "{writes}");
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_there_before_the_rest_is_sent_once(
        // Each snapshot is a row of pieces, and snapshots share pieces.
        recipes in prop::collection::vec(prop::collection::vec(0u64..6, 1..12), 1..6),
        before in prop::collection::vec(any::<bool>(), 6),
        at_once in 1usize..4,
    ) {
        let piece = |number: &u64| match number {
            0 => vec![0; 7 * CHUNK as usize],
            number => bytes(*number, 5 * CHUNK as usize),
        };
        let contents: Vec<Vec<u8>> =
            recipes.iter().map(|recipe| recipe.iter().flat_map(piece).collect()).collect();
        let ((_, source), (_, target)) = (memory(), memory());
        let snapshots: Vec<Snapshot> =
            contents.iter().map(|contents| backup(&source, contents).unwrap()).collect();
        let (there, missing): (Vec<_>, Vec<_>) =
            snapshots.iter().enumerate().partition(|(number, _)| before[*number]);
        let only = |some: Vec<(usize, &'_ Snapshot)>| -> Vec<Snapshot> {
            some.into_iter().map(|(_, snapshot)| snapshot.clone()).collect()
        };
        let (there, missing) = (only(there), only(missing));
        copy(&source, &target, &there.iter().collect::<Vec<_>>(), at_once).unwrap();
        copy(&source, &target, &missing.iter().collect::<Vec<_>>(), at_once).unwrap();
        prop_assert_eq!(target.snapshots().unwrap().len(), snapshots.len());
        for (snapshot, contents) in snapshots.iter().zip(&contents) {
            prop_assert!(restore(&target, snapshot).unwrap() == *contents);
        }
        // Nothing is stored twice, and nothing that is there is read again.
        let index = Index::load(&target, &Unobserved).unwrap();
        let mut blobs: Vec<_> = index.blobs().map(|(kind, id, _)| (kind, id)).collect();
        let count = blobs.len();
        blobs.sort_unstable();
        blobs.dedup();
        prop_assert_eq!(blobs.len(), count);
        prop_assert_eq!(copy(&source, &target, &[], 1).unwrap(), 0);
        let again: Vec<&Snapshot> = snapshots.iter().collect();
        prop_assert_eq!(copy(&source, &target, &again, at_once).unwrap(), 0);
        assert_sound(&target, "at the end");
    }
}

#[test]
fn everything_is_read_where_the_last_directory_was_met_before() {
    let (backend, repository) = memory();
    // Three parts, of which the last two are the same, and so are their directories.
    let mut contents = bytes(3, 1024 * CHUNK as usize);
    contents.resize(3 * contents.len(), 7);
    let snapshot = backup(&repository, &contents).unwrap();
    let read = || load(&repository).read_tree(&snapshot.tree, &mut HashSet::new(), &Unobserved);
    let distinct = 1025 * u64::from(CHUNK);
    assert!(read().unwrap() >= distinct);

    let packs = backend.list(FileKind::Pack).unwrap();
    let largest = packs.into_iter().max_by_key(|pack| pack.size).unwrap();
    backend.alter(FileKind::Pack, &largest.id, |bytes| bytes[1000] ^= 4);
    assert!(matches!(read(), Err(Error::Damaged { .. })), "{:?}", read());
}

#[test]
fn what_was_proved_once_is_not_read_again() {
    let (_, repository) = memory();
    let contents = bytes(4, 50 * CHUNK as usize);
    let snapshots = [(); 2].map(|()| backup(&repository, &contents).unwrap());
    let mut proved = HashSet::new();
    let reader = load(&repository);
    assert!(reader.read_tree(&snapshots[0].tree, &mut proved, &Unobserved).unwrap() > 0);
    assert_eq!(reader.read_tree(&snapshots[1].tree, &mut proved, &Unobserved).unwrap(), 0);
}
