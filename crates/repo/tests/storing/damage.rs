//! Whatever happens to any object: the check finds it and names the snapshots, and no restore returns wrong bytes.

use std::collections::BTreeMap;

use dbkeep_repo::backend::{Backend, FileKind, MemoryBackend};
use dbkeep_repo::check::{CheckOptions, CheckReport, ReadData, check};
use dbkeep_repo::format::fact::{Fact, SnapshotRef};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::{Error, Id, Repository, Unobserved};

use crate::scene::{CHUNK, backup, bytes, memory, now, restore};

/// A repository with two snapshots that share most of their chunks, one of them in parts, and what they hold.
struct Scene {
    backend: MemoryBackend,
    repository: Repository,
    snapshots: Vec<(Snapshot, Vec<u8>)>,
    options: CheckOptions,
}

fn scene() -> Scene {
    let (backend, repository) = memory();
    let mut contents = bytes(1, 40 * CHUNK as usize + 5);
    let mut snapshots = vec![(backup(&repository, &contents).unwrap(), contents.clone())];
    contents[3 * CHUNK as usize] ^= 1;
    contents.extend((0..1000).flat_map(|number: u32| number.to_le_bytes().repeat(CHUNK as usize / 4)));
    snapshots.push((backup(&repository, &contents).unwrap(), contents));
    for (snapshot, _) in &snapshots {
        let refer =
            SnapshotRef { id: snapshot.id.unwrap(), tree: snapshot.tree, database: "shop".to_owned() };
        let fact = Fact::Acknowledged { session: "20260301_120000".to_owned(), snapshots: vec![refer] };
        let heads = repository.facts().unwrap().heads();
        repository.append_fact(fact, &heads, now()).unwrap();
    }
    let options =
        CheckOptions { read_data: ReadData::All, known_fact_heads: repository.facts().unwrap().heads() };
    Scene { backend, repository, snapshots, options }
}

impl Scene {
    fn check(&self) -> CheckReport {
        check(&self.repository, &self.options, &Unobserved).unwrap()
    }

    /// Asserts that the damage is found, that whatever cannot be restored is named, and that nothing wrong comes back.
    fn assert_found(&self, what: &str) {
        let report = self.check();
        assert!(!report.ok && !report.findings.is_empty(), "{what} was not found");
        for (snapshot, contents) in &self.snapshots {
            let id = snapshot.id.unwrap();
            let restored =
                self.repository.snapshot(&id).and_then(|snapshot| restore(&self.repository, &snapshot));
            let is_named = report.findings.iter().any(|finding| finding.affects.contains(&id));
            match restored {
                Ok(restored) => assert!(restored == *contents, "{what}: wrong bytes came back"),
                Err(_) => assert!(is_named, "{what}: {id:.8} cannot be restored, and {:?}", report.findings),
            }
        }
    }
}

#[test]
fn every_flip_truncation_and_deletion_of_every_object_is_found() {
    let scene = scene();
    let sound = scene.check();
    assert!(sound.ok && sound.notes.is_empty(), "{sound:?}");
    assert_eq!((sound.snapshots, sound.findings.len()), (2, 0));

    let lock = scene.repository.lock_shared(now()).unwrap();
    let mut state = 42u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut cases = BTreeMap::new();
    for kind in FileKind::ALL {
        for id in scene.backend.names(kind) {
            let name = format!("{} {id:.8}", kind.word());
            let whole = scene.backend.read(kind, &id).unwrap();
            let put_back = || scene.backend.alter(kind, &id, |bytes| bytes.clone_from(&whole));

            let mut places = vec![0, whole.len() - 1];
            // A seeded slice, or many more where evidence is wanted.
            let flips = if std::env::var_os("DBKEEP_CAMPAIGN").is_some() { 300 } else { 10 };
            places.extend((0..flips).map(|_| random(whole.len())));
            for place in places {
                let bit = random(8);
                scene.backend.alter(kind, &id, |bytes| bytes[place] ^= 1 << bit);
                scene.assert_found(&format!("{name} with bit {bit} of byte {place} flipped"));
                put_back();
                *cases.entry("flips").or_insert(0) += 1;
            }
            for length in [0, 1, whole.len() / 2, whole.len() - 1] {
                scene.backend.alter(kind, &id, |bytes| bytes.truncate(length));
                scene.assert_found(&format!("{name} cut at {length}"));
                put_back();
                *cases.entry("truncations").or_insert(0) += 1;
            }
            scene.backend.alter(kind, &id, |bytes| bytes.push(0));
            scene.assert_found(&format!("{name} with a byte appended"));
            put_back();
            // A lock that is gone was released.
            if kind != FileKind::Lock {
                scene.backend.remove(kind, &id).unwrap();
                scene.assert_found(&format!("{name} deleted"));
                scene.backend.write(kind, &id, &whole).unwrap();
                *cases.entry("deletions").or_insert(0) += 1;
            }
        }
    }
    drop(lock);
    assert!(scene.check().ok);
    println!("found all of {cases:?}");
    assert!(cases["flips"] > 180 && cases["truncations"] > 60 && cases["deletions"] >= 15, "{cases:?}");
}

#[test]
fn objects_swapped_for_others_of_their_kind_are_found() {
    let scene = scene();
    for kind in [FileKind::Pack, FileKind::Index, FileKind::Snapshot, FileKind::Fact] {
        let names = scene.backend.names(kind);
        let [first, second] = [names[0], names[1]].map(|id| scene.backend.read(kind, &id).unwrap());
        scene.backend.alter(kind, &names[0], |bytes| bytes.clone_from(&second));
        scene.assert_found(&format!("{} {:.8} swapped", kind.word(), names[0]));
        scene.backend.alter(kind, &names[0], |bytes| bytes.clone_from(&first));
    }
    assert!(scene.check().ok);
}

#[test]
fn damage_of_one_snapshot_is_not_said_of_the_other() {
    let scene = scene();
    let [first, second] = [0, 1].map(|number: usize| scene.snapshots[number].0.id.unwrap());
    let packs = scene.backend.names(FileKind::Pack);
    let mut affected = Vec::new();
    for pack in packs {
        scene.backend.alter(FileKind::Pack, &pack, |bytes| bytes[40] ^= 1);
        let report = scene.check();
        let mut named: Vec<Id> = report.findings.iter().flat_map(|finding| finding.affects.clone()).collect();
        named.sort_unstable();
        named.dedup();
        affected.push(named);
        scene.backend.alter(FileKind::Pack, &pack, |bytes| bytes[40] ^= 1);
    }
    assert!(affected.contains(&vec![second]), "what only the second snapshot needs");
    let mut both = vec![first, second];
    both.sort_unstable();
    assert!(affected.contains(&both), "what both need");
}

#[test]
fn snapshot_that_was_acknowledged_and_is_gone_is_found_until_it_is_forgotten() {
    let scene = scene();
    let (snapshot, _) = &scene.snapshots[0];
    let id = snapshot.id.unwrap();
    let stored = scene.backend.read(FileKind::Snapshot, &id).unwrap();
    scene.backend.remove(FileKind::Snapshot, &id).unwrap();
    let report = scene.check();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(
        (report.findings[0].kind, report.findings[0].affects.as_slice()),
        ("snapshot-removed", &[id][..])
    );
    scene.backend.write(FileKind::Snapshot, &id, &stored).unwrap();

    let lock = scene.repository.lock_shared(now()).unwrap();
    scene.repository.forget(&[id], "test", &lock, now(), |_| Ok::<_, dbkeep_repo::Error>(())).unwrap();
    drop(lock);
    let options = CheckOptions { known_fact_heads: Vec::new(), ..scene.options.clone() };
    assert!(check(&scene.repository, &options, &Unobserved).unwrap().ok);
}

#[test]
fn packs_in_no_index_are_a_note_and_no_damage() {
    let scene = scene();
    scene.backend.write(FileKind::Pack, &Id::of(b"left"), b"left").unwrap();
    let report = scene.check();
    assert!(report.ok && report.notes.len() == 1, "{report:?}");
}

#[test]
fn listing_that_fails_fails_the_check() {
    for kind in [FileKind::Snapshot, FileKind::Index, FileKind::Pack, FileKind::Key, FileKind::Fact] {
        let scene = scene();
        scene.backend.fail_listing(kind);
        let failed = check(&scene.repository, &scene.options, &Unobserved);
        assert!(matches!(failed, Err(Error::Listing { .. })), "{kind:?}: {failed:?}");
    }
}

#[test]
fn share_of_the_data_is_a_share() {
    let scene = scene();
    let all = scene.check().bytes_read;
    let read = |read_data| {
        let options = CheckOptions { read_data, ..scene.options.clone() };
        check(&scene.repository, &options, &Unobserved).unwrap().bytes_read
    };
    let trees = read(ReadData::None);
    let some = read(ReadData::Percent(30));
    assert!(trees < some && some < all, "{trees} {some} {all}");
    assert_eq!(read(ReadData::Percent(100)), all);
}
