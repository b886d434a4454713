//! Space is given back, nothing that is needed is ever lost, and whatever interrupts a prune leaves a sound repository.

use std::collections::HashSet;
use std::sync::Arc;

use dbkeep_repo::backend::{Backend, FileKind, MemoryBackend};
use dbkeep_repo::check::{CheckOptions, ReadData, check};
use dbkeep_repo::format::index::IndexFile;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::index::Index;
use dbkeep_repo::prune::{Limits, MaxUnused, PruneOptions, PruneReport};
use dbkeep_repo::{Error, Id, Observer, Repository, Result, Unobserved};
use jiff::{SignedDuration, Timestamp};

use crate::scene::{CHUNK, backup, bytes, memory, now, open, restore};

pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

pub(crate) fn watch() -> Arc<dyn Observer> {
    Arc::new(Unobserved)
}

/// Packs as small as those of the tests count as full, so that they are not merged.
pub(crate) fn limits(per_mille: u16) -> Limits {
    Limits { max_unused: MaxUnused::per_mille(per_mille), pack_size: 40_000 }
}

/// Marks, and removes what was marked a day before.
pub(crate) fn daily() -> PruneOptions {
    PruneOptions { limits: limits(50), ..PruneOptions::default() }
}

pub(crate) fn at_once() -> PruneOptions {
    PruneOptions { grace: SignedDuration::ZERO, ..daily() }
}

pub(crate) fn prune(repository: &Repository, options: &PruneOptions, now: Timestamp) -> Result<PruneReport> {
    let lock = repository.lock_exclusive(now)?;
    let prune = repository.plan_prune(&lock, options, now, &watch())?;
    let forecast = prune.forecast();
    let report = prune.run(&lock)?;
    assert_eq!(
        PruneReport { bytes_rewritten: 0, bytes_index: 0, ..report },
        PruneReport { bytes_rewritten: 0, ..forecast }
    );
    Ok(report)
}

pub(crate) fn forget(repository: &Repository, snapshots: &[&Snapshot]) {
    let lock = repository.lock_shared(now()).unwrap();
    let ids: Vec<Id> = snapshots.iter().map(|snapshot| snapshot.id.unwrap()).collect();
    repository.forget(&ids, "test", &lock, now(), |_| Ok::<_, dbkeep_repo::Error>(())).unwrap();
}

#[track_caller]
pub(crate) fn assert_sound(repository: &Repository) {
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(repository, &options, &Unobserved).unwrap();
    assert!(report.ok, "{:?}", report.findings);
}

fn packs(backend: &MemoryBackend) -> HashSet<Id> {
    backend.names(FileKind::Pack).into_iter().collect()
}

/// An image whose chunks are those of `seeds`.
pub(crate) fn image(seeds: &[u64]) -> Vec<u8> {
    seeds.iter().flat_map(|seed| bytes(1000 + *seed, CHUNK as usize)).collect()
}

/// A repository with three snapshots; the first and the second share half of their chunks. Returns their contents too.
pub(crate) fn scene() -> (MemoryBackend, Repository, Vec<(Snapshot, Vec<u8>)>) {
    let (backend, repository) = memory();
    let contents = [(0..40).collect::<Vec<u64>>(), (20..60).collect(), (100..140).collect()];
    let snapshots = contents.map(|seeds| {
        let contents = image(&seeds);
        (backup(&repository, &contents).unwrap(), contents)
    });
    (backend, repository, snapshots.into())
}

#[test]
fn unused_packs_are_marked_and_removed_after_the_time_of_grace() {
    let (backend, repository, snapshots) = scene();
    let before = packs(&backend);
    assert_eq!(prune(&repository, &daily(), now()).unwrap().packs_marked, 0);
    assert_eq!(packs(&backend), before, "nothing was unused");

    forget(&repository, &[&snapshots[2].0]);
    let marked = prune(&repository, &daily(), now()).unwrap();
    assert!(marked.packs_marked >= 4 && marked.packs_removed == 0, "{marked:?}");
    assert!(marked.bytes_marked > 40 * u64::from(CHUNK) / 2);
    assert_eq!(packs(&backend), before, "nothing is removed yet");
    assert_sound(&repository);

    let waits = prune(&repository, &daily(), now() + DAY - SignedDuration::from_secs(1)).unwrap();
    assert_eq!((waits.packs_removed, waits.packs_marked), (0, 0));
    assert_eq!((waits.packs_waiting, waits.bytes_waiting), (marked.packs_marked, marked.bytes_marked));
    let removed = prune(&repository, &daily(), now() + DAY).unwrap();
    assert_eq!((removed.packs_removed, removed.bytes_freed), (marked.packs_marked, marked.bytes_marked));
    assert_eq!(packs(&backend).len() as u64, before.len() as u64 - removed.packs_removed);
    for (snapshot, contents) in &snapshots[..2] {
        assert!(restore(&repository, snapshot).unwrap() == *contents);
    }
    assert_sound(&repository);
    let last = prune(&repository, &daily(), now() + DAY).unwrap();
    assert_eq!((last.packs_removed, last.packs_marked, last.packs_waiting), (0, 0, 0));
}

#[test]
fn everything_goes_at_once_without_a_time_of_grace() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[0].0, &snapshots[1].0, &snapshots[2].0]);
    let report = prune(&repository, &at_once(), now()).unwrap();
    assert!(report.packs_removed > 0 && report.packs_marked == 0, "{report:?}");
    assert!(packs(&backend).is_empty() && backend.names(FileKind::Index).is_empty());
    assert_sound(&repository);
    let again = backup(&repository, &snapshots[0].1).unwrap();
    assert!(restore(&repository, &again).unwrap() == snapshots[0].1);
}

#[test]
fn partly_used_packs_are_copied_as_far_as_they_are_used() {
    let (backend, repository, snapshots) = scene();
    // Half of the chunks of the first are still needed by the second.
    forget(&repository, &[&snapshots[0].0]);
    let keep = PruneOptions { limits: limits(1000), ..daily() };
    assert_eq!(prune(&repository, &keep, now()).unwrap().packs_rewritten, 0);
    let none = PruneOptions { limits: limits(0), ..daily() };
    let report = prune(&repository, &none, now()).unwrap();
    assert!(report.packs_rewritten > 0 && report.bytes_rewritten > 0, "{report:?}");
    assert_eq!(report.bytes_unused, 0);
    assert_sound(&repository);
    prune(&repository, &none, now() + DAY).unwrap();
    assert_sound(&repository);
    for (snapshot, contents) in &snapshots[1..] {
        assert!(restore(&repository, snapshot).unwrap() == *contents);
    }
    // What is left is what is needed: copies of the same contents elsewhere take as much.
    let (other, elsewhere) = memory();
    for (_, contents) in &snapshots[1..] {
        backup(&elsewhere, contents).unwrap();
    }
    let size = |backend: &MemoryBackend| -> u64 {
        backend.list(FileKind::Pack).unwrap().iter().map(|pack| pack.size).sum()
    };
    assert!(size(&backend).abs_diff(size(&other)) < 1000, "{} {}", size(&backend), size(&other));
}

#[test]
fn backup_between_marking_and_removing_relies_on_nothing_that_is_marked() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[2].0]);
    prune(&repository, &daily(), now()).unwrap();
    let again = backup(&repository, &snapshots[2].1).unwrap();
    assert_sound(&repository);
    let report = prune(&repository, &daily(), now() + DAY).unwrap();
    assert!(report.packs_removed > 0 && report.packs_taken_back == 0, "{report:?}");
    assert!(restore(&repository, &again).unwrap() == snapshots[2].1);
    assert_sound(&repository);
    assert!(backend.names(FileKind::Lock).is_empty());
}

#[test]
fn marked_pack_that_is_needed_again_is_taken_back() {
    let (backend, repository, snapshots) = scene();
    let lost = &snapshots[2].0;
    let sealed = backend.read(FileKind::Snapshot, &lost.id.unwrap()).unwrap();
    forget(&repository, &[lost]);
    let marked = prune(&repository, &daily(), now()).unwrap();
    // A writer whose lock nobody honoured makes its snapshot after the prune.
    backend.write(FileKind::Snapshot, &lost.id.unwrap(), &sealed).unwrap();
    let found = check(&repository, &CheckOptions::default(), &Unobserved).unwrap();
    assert!(found.findings.iter().any(|finding| finding.kind == "blob-waiting"), "{found:?}");
    assert!(found.findings.iter().all(|finding| finding.affects == [lost.id.unwrap()]));
    // It can be restored in this state, and the next prune brings the packs back, however late it comes.
    assert!(restore(&repository, lost).unwrap() == snapshots[2].1);
    let report = prune(&repository, &daily(), now() + DAY * 2).unwrap();
    assert_eq!((report.packs_taken_back, report.packs_removed), (marked.packs_marked, 0));
    assert_sound(&repository);
    let index = Index::load(&repository, &Unobserved).unwrap();
    assert!(index.packs().iter().all(|pack| !pack.waits));
    assert!(restore(&repository, lost).unwrap() == snapshots[2].1);
}

#[test]
fn snapshot_that_comes_in_in_spite_of_the_lock_stops_the_removal() {
    for options in [daily(), at_once()] {
        let (backend, repository, snapshots) = scene();
        let lost = &snapshots[2].0;
        let id = lost.id.unwrap();
        let sealed = backend.read(FileKind::Snapshot, &id).unwrap();
        forget(&repository, &[lost]);
        if options.grace != SignedDuration::ZERO {
            prune(&repository, &options, now()).unwrap();
        }
        let late = now() + DAY;
        let lock = repository.lock_exclusive(late).unwrap();
        let plan = repository.plan_prune(&lock, &options, late, &watch()).unwrap();
        backend.write(FileKind::Snapshot, &id, &sealed).unwrap();
        let before = packs(&backend);
        assert!(matches!(plan.run(&lock), Err(Error::Changed { .. })));
        assert_eq!(packs(&backend), before);
        drop(lock);
        assert!(restore(&repository, lost).unwrap() == snapshots[2].1);
        prune(&repository, &options, late).unwrap();
        assert_sound(&repository);
        assert!(restore(&repository, lost).unwrap() == snapshots[2].1);
    }
}

#[test]
fn lock_that_is_lost_ends_the_prune() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[2].0]);
    let lock = repository.lock_exclusive(now()).unwrap();
    let plan = repository.plan_prune(&lock, &at_once(), now(), &watch()).unwrap();
    for id in backend.names(FileKind::Lock) {
        backend.remove(FileKind::Lock, &id).unwrap();
    }
    let changes = backend.changes();
    assert!(matches!(plan.run(&lock), Err(Error::LockLost)));
    assert_eq!(backend.changes(), changes);
}

#[test]
fn prune_and_others_keep_each_other_out() {
    let (_, repository, _) = scene();
    let shared = repository.lock_shared(now()).unwrap();
    assert!(matches!(prune(&repository, &daily(), now()), Err(Error::Locked { .. })));
    drop(shared);
    let _exclusive = repository.lock_exclusive(now()).unwrap();
    assert!(matches!(backup(&repository, b"x"), Err(Error::Locked { .. })));
}

#[test]
fn whatever_cannot_be_read_stops_everything() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[0].0]);
    let truncate =
        |kind, id| move |backend: &MemoryBackend| backend.alter(kind, &id, |bytes| bytes.truncate(30));
    let remove = |kind, id| move |backend: &MemoryBackend| backend.remove(kind, &id).unwrap();
    type Harm = Box<dyn Fn(&MemoryBackend)>;
    let mut harms: Vec<(String, Harm)> = Vec::new();
    for id in backend.names(FileKind::Snapshot) {
        harms.push((format!("snapshot {id}"), Box::new(truncate(FileKind::Snapshot, id))));
    }
    for id in backend.names(FileKind::Index) {
        harms.push((format!("index {id}"), Box::new(truncate(FileKind::Index, id))));
    }
    let index = Index::load(&repository, &Unobserved).unwrap();
    let reader = repository.reader(index);
    for (snapshot, _) in &snapshots[1..] {
        let tree =
            reader.index().read().get(dbkeep_repo::format::pack::BlobKind::Tree, &snapshot.tree).unwrap();
        harms.push((format!("pack {} of trees", tree.pack), Box::new(remove(FileKind::Pack, tree.pack))));
        let flip = move |backend: &MemoryBackend| {
            backend.alter(FileKind::Pack, &tree.pack, |bytes| bytes[tree.offset as usize + 20] ^= 1);
        };
        harms.push((format!("tree in {}", tree.pack), Box::new(flip)));
        let chunks = reader.image(snapshot, "/shop", "shop.db").unwrap().unwrap();
        let chunk = chunks.ids()[0];
        let data = reader.index().read().get(dbkeep_repo::format::pack::BlobKind::Data, &chunk).unwrap();
        harms.push((format!("pack {} of data", data.pack), Box::new(remove(FileKind::Pack, data.pack))));
        harms.push((format!("short pack {}", data.pack), Box::new(truncate(FileKind::Pack, data.pack))));
    }
    for kind in [FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
        harms.push((format!("listing of {kind:?}"), Box::new(move |backend| backend.fail_listing(kind))));
    }
    for options in [daily(), at_once()] {
        for (what, harm) in &harms {
            let copy = backend.after_crash();
            harm(&copy);
            let repository = open(Arc::new(copy.clone()));
            let changes = copy.changes();
            let refused = prune(&repository, &options, now() + DAY * 2);
            assert!(refused.is_err(), "{what}: {refused:?}");
            // The lock came and went.
            assert_eq!(copy.changes(), changes + 2, "{what}: something was changed: {refused:?}");
        }
    }
    prune(&repository, &daily(), now()).unwrap();
}

#[test]
fn index_that_lost_an_entry_stops_everything() {
    let (backend, repository, _) = scene();
    for id in backend.names(FileKind::Index) {
        let copy = backend.after_crash();
        copy.remove(FileKind::Index, &id).unwrap();
        let repository = open(Arc::new(copy.clone()));
        let refused = prune(&repository, &at_once(), now());
        assert!(matches!(refused, Err(Error::BlobMissing { .. })), "{refused:?}");
        assert_eq!(copy.names(FileKind::Pack), backend.names(FileKind::Pack));
    }
    drop(repository);
}

#[test]
fn damaged_data_is_never_copied_and_its_pack_stays() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[0].0]);
    let reader = repository.reader(Index::load(&repository, &Unobserved).unwrap());
    let chunk = reader.image(&snapshots[1].0, "/shop", "shop.db").unwrap().unwrap().ids()[0];
    let location = reader.index().read().get(dbkeep_repo::format::pack::BlobKind::Data, &chunk).unwrap();
    backend.alter(FileKind::Pack, &location.pack, |bytes| bytes[location.offset as usize + 40] ^= 1);
    let none = PruneOptions { limits: limits(0), ..at_once() };
    let before = packs(&backend);
    let failed = prune(&repository, &none, now());
    assert!(
        matches!(failed, Err(Error::Damaged { kind: FileKind::Pack, id, .. }) if id == location.pack),
        "{failed:?}"
    );
    let after = packs(&backend);
    assert!(after.is_subset(&before), "no copies are left behind");
    assert!(after.contains(&location.pack));
    // Once it is known, the rest is pruned around it.
    let around = PruneOptions { damaged: [location.pack].into(), ..none };
    assert_eq!(prune(&repository, &around, now()).unwrap().packs_rewritten, 0);
    assert!(packs(&backend).contains(&location.pack));
    assert!(restore(&repository, &snapshots[2].0).unwrap() == snapshots[2].1);
}

/// Makes a backup that distrusts some packs, so that what they hold is stored again.
fn store_again(repository: &Repository, contents: &[u8], damaged: &HashSet<Id>) -> Snapshot {
    let lock = repository.lock_shared(now()).unwrap();
    let index = Index::load_distrusting(repository, &Unobserved, &|id| damaged.contains(id), None).unwrap();
    let mut writer = repository.writer(&lock, index, &crate::scene::small_packs(), watch()).unwrap();
    let stored = writer.save_image(&mut crate::scene::Slice(contents), &crate::scene::options()).unwrap();
    crate::scene::commit(&mut writer, &stored).unwrap()
}

#[test]
fn sound_copy_of_what_a_damaged_pack_holds_stays() {
    let (backend, repository) = memory();
    let contents = image(&(0..30).collect::<Vec<_>>());
    backup(&repository, &contents).unwrap();
    let damaged: HashSet<Id> = packs(&backend);
    for id in &damaged {
        backend.alter(FileKind::Pack, id, |bytes| bytes[100] ^= 1);
    }
    let healed = store_again(&repository, &contents, &damaged);
    for options in [daily(), at_once()] {
        let options = PruneOptions { damaged: damaged.clone(), ..options };
        prune(&repository, &options, now() + DAY * 3).unwrap();
        prune(&repository, &options, now() + DAY * 5).unwrap();
        assert!(packs(&backend).is_disjoint(&damaged));
        assert!(restore(&repository, &healed).unwrap() == contents);
    }
    assert_sound(&repository);
}

#[test]
fn damaged_packs_that_hold_the_same_blobs_all_stay() {
    let (backend, repository) = memory();
    let contents = image(&(0..30).collect::<Vec<_>>());
    let first = backup(&repository, &contents).unwrap();
    let damaged = packs(&backend);
    let second = store_again(&repository, &contents, &damaged);
    // Damage was found in the second copies as well: which of a blob is the sound one, nobody knows.
    let all = packs(&backend);
    assert!(all.len() >= 2 * damaged.len() && damaged.len() >= 2, "{} {}", all.len(), damaged.len());
    for options in [daily(), at_once()] {
        let options = PruneOptions { damaged: all.clone(), ..options };
        prune(&repository, &options, now() + DAY * 3).unwrap();
        prune(&repository, &options, now() + DAY * 5).unwrap();
        assert_eq!(packs(&backend), all);
    }
    assert_sound(&repository);
    // What no snapshot needs goes, damaged or not.
    forget(&repository, &[&first, &second]);
    prune(&repository, &PruneOptions { damaged: all, ..at_once() }, now()).unwrap();
    assert!(packs(&backend).is_empty());
}

#[test]
fn packs_that_no_index_names_go_when_the_clock_of_the_storage_says_so() {
    let (backend, repository, snapshots) = scene();
    let stray = |name: &[u8]| {
        let id = Id::of(name);
        backend.write(FileKind::Pack, &id, name).unwrap();
        id
    };
    let timeless = stray(b"written when nobody looked at the clock");
    backend.set_time(now());
    let old = stray(b"left by a backup of yesterday");
    backend.set_time(now() + SignedDuration::from_hours(2));
    let young = stray(b"being written");
    backend.set_time(now() + DAY);
    // The clock of this host is a year ahead: it has no say here.
    let report = prune(&repository, &daily(), now() + DAY * 365).unwrap();
    assert_eq!((report.packs_removed, report.packs_unnamed), (1, 2));
    let left = packs(&backend);
    assert!(!left.contains(&old) && left.contains(&young) && left.contains(&timeless));
    assert_eq!(prune(&repository, &at_once(), now()).unwrap().packs_removed, 2);
    for (snapshot, contents) in &snapshots {
        assert!(restore(&repository, snapshot).unwrap() == *contents);
    }
}

#[test]
fn grace_passes_when_both_clocks_say_so() {
    let (backend, repository, snapshots) = scene();
    backend.set_time(now());
    forget(&repository, &[&snapshots[2].0]);
    let marked = prune(&repository, &daily(), now()).unwrap().packs_marked;
    // Our clock jumped by ten years.
    let jumped = prune(&repository, &daily(), now() + DAY * 3650).unwrap();
    assert_eq!((jumped.packs_removed, jumped.packs_waiting), (0, marked));
    // That of the storage did.
    backend.set_time(now() + DAY * 3650);
    assert_eq!(prune(&repository, &daily(), now() + DAY / 2).unwrap().packs_removed, 0);
    assert_eq!(prune(&repository, &daily(), now() - DAY).unwrap().packs_removed, 0);
    assert_eq!(prune(&repository, &daily(), now() + DAY).unwrap().packs_removed, marked);
}

#[test]
fn marks_of_a_clock_that_was_ahead_are_made_anew() {
    let years = DAY * 3650;
    for (host, storage) in [(years, years), (years, SignedDuration::ZERO), (SignedDuration::ZERO, years)] {
        let (backend, repository, snapshots) = scene();
        forget(&repository, &[&snapshots[2].0]);
        backend.set_time(now() + storage);
        let marked = prune(&repository, &daily(), now() + host).unwrap().packs_marked;
        assert!(marked > 0);
        // The clocks are set right. Without new marks the packs would wait for ten years.
        backend.set_time(now());
        let again = prune(&repository, &daily(), now()).unwrap();
        assert_eq!((again.packs_marked, again.packs_waiting, again.packs_removed), (marked, 0, 0));
        assert_sound(&repository);
        let half = now() + DAY / 2;
        backend.set_time(half);
        let waits = prune(&repository, &daily(), half).unwrap();
        assert_eq!((waits.packs_marked, waits.packs_waiting, waits.packs_removed), (0, marked, 0));
        backend.set_time(now() + DAY);
        assert_eq!(prune(&repository, &daily(), now() + DAY).unwrap().packs_removed, marked);
        assert_sound(&repository);
    }
}

#[test]
fn marks_that_are_a_little_ahead_wait() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[2].0]);
    backend.set_time(now());
    let marked = prune(&repository, &daily(), now() + DAY).unwrap().packs_marked;
    // Another host, a day behind.
    let report = prune(&repository, &daily(), now()).unwrap();
    assert_eq!((report.packs_marked, report.packs_waiting), (0, marked));
}

#[test]
fn what_others_removed_is_made_durable_before_anything_goes() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[2].0]);
    let durable = |backend: &MemoryBackend| {
        [FileKind::Snapshot, FileKind::Index].map(|kind| backend.times_made_durable(kind))
    };
    let before = durable(&backend);
    // Without a time of grace, and of what was marked before.
    for (options, now) in [(at_once(), now()), (daily(), now()), (daily(), now() + DAY)] {
        prune(&repository, &options, now).unwrap();
    }
    assert_eq!(durable(&backend), before.map(|times| times + 3));
    forget(&repository, &[&snapshots[1].0]);
    let before = durable(&backend);
    backend.before_change(FileKind::Index, move |backend| {
        assert_eq!(durable(backend), before.map(|times| times + 1));
    });
    prune(&repository, &daily(), now()).unwrap();
    backend.before_change(FileKind::Pack, move |backend| {
        assert_eq!(durable(backend), before.map(|times| times + 2));
    });
    assert!(prune(&repository, &daily(), now() + DAY).unwrap().packs_removed > 0);
}

#[test]
fn packs_and_index_files_of_many_small_sessions_are_merged() {
    let (backend, repository) = memory();
    let contents: Vec<Vec<u8>> = (0..30).map(|seed| image(&[seed])).collect();
    let snapshots: Vec<Snapshot> =
        contents.iter().map(|contents| backup(&repository, contents).unwrap()).collect();
    assert_eq!((backend.names(FileKind::Pack).len(), backend.names(FileKind::Index).len()), (60, 30));
    let report = prune(&repository, &PruneOptions::default(), now()).unwrap();
    assert_eq!((report.packs_rewritten, report.packs_marked), (60, 60));
    assert_eq!(prune(&repository, &PruneOptions::default(), now() + DAY).unwrap().packs_removed, 60);
    assert!(backend.names(FileKind::Pack).len() <= 4, "{:?}", backend.names(FileKind::Pack));
    assert!(backend.names(FileKind::Index).len() <= 2, "{:?}", backend.names(FileKind::Index));
    assert_sound(&repository);
    for (snapshot, contents) in snapshots.iter().zip(&contents) {
        assert!(restore(&repository, snapshot).unwrap() == *contents);
    }
    // And that is that.
    let again = prune(&repository, &PruneOptions::default(), now() + DAY).unwrap();
    assert_eq!((again.packs_rewritten, again.packs_marked, again.bytes_index), (0, 0, 0));
}

#[test]
fn pack_that_one_file_marks_and_another_one_names_is_not_waiting() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[2].0]);
    // As a prune leaves it that ends after its marks are stored.
    let packs = backend.names(FileKind::Index).into_iter().flat_map(|id| {
        let json = repository.load_unpacked(FileKind::Index, &id).unwrap();
        IndexFile::decode(&json).unwrap().packs
    });
    let long_ago = Some(now() - DAY * 30);
    let marks = packs.map(|pack| dbkeep_repo::format::index::IndexPack { time: long_ago, ..pack }).collect();
    let file = IndexFile { packs_to_delete: marks, ..IndexFile::default() };
    repository.save_unpacked(FileKind::Index, &file.encode()).unwrap();
    let report = prune(&repository, &daily(), now()).unwrap();
    assert!(report.packs_removed == 0 && report.packs_marked > 0, "{report:?}");
    assert_sound(&repository);
    let marked_now = prune(&repository, &daily(), now() + DAY / 2).unwrap();
    assert_eq!(marked_now.packs_removed, 0, "the old marks count no more");
    assert!(prune(&repository, &daily(), now() + DAY).unwrap().packs_removed > 0);
    for (snapshot, contents) in &snapshots[..2] {
        assert!(restore(&repository, snapshot).unwrap() == *contents);
    }
}

#[test]
fn plan_without_some_snapshots_is_for_looking_only() {
    let (backend, repository, snapshots) = scene();
    let without = PruneOptions { without: [snapshots[2].0.id.unwrap()].into(), ..at_once() };
    let lock = repository.lock_exclusive(now()).unwrap();
    let plan = repository.plan_prune(&lock, &without, now(), &watch()).unwrap();
    assert!(plan.forecast().packs_removed > 0);
    let before = packs(&backend);
    assert!(plan.run(&lock).is_err());
    assert_eq!(packs(&backend), before);
}

#[test]
fn space_is_that_of_each_group_alone_and_of_several() {
    let (backend, repository, snapshots) = scene();
    let lock = repository.lock_shared(now()).unwrap();
    let groups: Vec<Vec<Id>> = snapshots.iter().map(|(snapshot, _)| vec![snapshot.tree]).collect();
    let space = repository.space(&lock, &groups, &HashSet::new(), &Unobserved).unwrap();
    let stored: u64 = backend.list(FileKind::Pack).unwrap().iter().map(|pack| pack.size).sum();
    assert_eq!((space.packs, space.bytes_stored), (backend.names(FileKind::Pack).len() as u64, stored));
    assert_eq!((space.bytes_unused, space.bytes_waiting), (0, 0));
    // The first two share 20 of their 40 chunks.
    let chunk = space.bytes_shared / 20;
    assert!((u64::from(CHUNK) / 2..u64::from(CHUNK)).contains(&chunk), "{space:?}");
    for (unique, chunks) in space.bytes_unique.iter().zip([20, 20, 40]) {
        assert!(*unique > chunks * chunk && *unique < (chunks + 4) * chunk, "{space:?}");
    }
    let all = space.bytes_unique.iter().sum::<u64>() + space.bytes_shared + space.packs * 36;
    assert_eq!(all, stored);

    drop(lock);
    forget(&repository, &[&snapshots[2].0]);
    let lock = repository.lock_shared(now()).unwrap();
    // Somebody may forget a snapshot just after the groups were made.
    assert!(repository.space(&lock, &groups, &HashSet::new(), &Unobserved).is_ok());
    let space = repository.space(&lock, &groups[..2], &HashSet::new(), &Unobserved).unwrap();
    assert!(space.bytes_unused > 40 * chunk && space.bytes_waiting == 0, "{space:?}");
    drop(lock);
    prune(&repository, &daily(), now()).unwrap();
    let lock = repository.lock_shared(now()).unwrap();
    let space = repository.space(&lock, &groups[..2], &HashSet::new(), &Unobserved).unwrap();
    assert_eq!(space.bytes_waiting, space.bytes_unused);
}
