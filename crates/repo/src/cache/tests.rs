//! The cache against damage, age, other processes and places that cannot be written.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Mutex;

use jiff::Timestamp;

use super::*;
use crate::backend::{Backend, MemoryBackend};
use crate::error::Error;
use crate::format::fact::{Fact, SnapshotRef};
use crate::format::index::{IndexFile, IndexPack};
use crate::format::pack::{BlobKind, PackBlob};
use crate::format::snapshot::Snapshot;
use crate::index::Index;
use crate::observe::Unobserved;
use crate::secret::Secret;
use crate::{Facts, InitOptions};

/// A repository in memory and a folder for its cache.
struct Scene {
    memory: MemoryBackend,
    repository: Repository,
    folder: tempfile::TempDir,
    warnings: Arc<Warnings>,
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

/// Everything that a command may read through the cache, comparable.
#[derive(Debug, PartialEq)]
struct Seen {
    snapshots: Vec<Snapshot>,
    facts: Vec<(Id, String)>,
    blobs: BTreeSet<String>,
}

fn repository(memory: &MemoryBackend) -> Repository {
    let (backend, password) = (Arc::new(memory.clone()), Secret::from("x"));
    Repository::init(backend, &password, &InitOptions::cheap(), Timestamp::UNIX_EPOCH).unwrap()
}

impl Scene {
    /// Makes a repository with some of everything.
    fn new() -> Self {
        let memory = MemoryBackend::new();
        let repository = repository(&memory);
        let folder = tempfile::tempdir().unwrap();
        let scene = Self { memory, repository, folder, warnings: Arc::default() };
        for number in 0..5 {
            scene.add(number);
        }
        for fact in every_kind_of_fact() {
            scene.repository.append_fact(fact, &[Id::of(b"before")], at(7)).unwrap();
        }
        scene
    }

    fn cache(&self) -> Cache {
        let warnings: Arc<dyn Observer> = Arc::<Warnings>::clone(&self.warnings);
        Cache::new(&self.repository, self.folder.path().join("cache"), warnings)
    }

    /// Stores a snapshot, its fact and an index file, as a backup does. Returns the snapshot's id.
    fn add(&self, number: u64) -> Id {
        let index = IndexFile {
            packs: vec![pack(number, &[number * 10, number * 10 + 1])],
            packs_to_delete: vec![pack(number + 1000, &[number * 10 + 2])],
            ..IndexFile::default()
        };
        self.repository.save_unpacked(FileKind::Index, &index.encode()).unwrap();
        let snapshot = snapshot(number);
        let id = self.repository.save_unpacked(FileKind::Snapshot, &snapshot.encode()).unwrap();
        let reference = SnapshotRef { id, tree: snapshot.tree, database: "shop".to_owned() };
        let fact = Fact::Acknowledged { session: format!("session {number}"), snapshots: vec![reference] };
        self.repository.append_fact(fact, &[], at(5)).unwrap();
        id
    }

    fn seen(&self, cache: Option<&Cache>) -> Seen {
        seen(&self.repository, cache)
    }

    /// Reads through a new cache, and compares with what is read afresh.
    #[track_caller]
    fn expect_truth(&self) {
        assert_eq!(self.seen(Some(&self.cache())), self.seen(None));
    }

    /// Makes every object of the repository unreadable; what is read after it comes from the cache.
    fn spoil(&self) {
        for kind in [FileKind::Snapshot, FileKind::Fact, FileKind::Index] {
            for id in self.memory.names(kind) {
                self.memory.alter(kind, &id, |contents| contents[20] ^= 1);
            }
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.folder.path().join("cache")) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.0.lock().unwrap().clone()
    }
}

fn seen(repository: &Repository, cache: Option<&Cache>) -> Seen {
    let snapshots = repository.each_snapshot_through(cache).unwrap();
    let facts: Facts = repository.facts_through(cache).unwrap();
    assert!(facts.damaged().is_empty());
    // Not to store by: that would refuse what has become unreadable since it was kept.
    let (index, _) = Index::load_readable(repository, &Unobserved, &|_| false, cache).unwrap();
    let blob = |(kind, id, location)| format!("{kind:?} {id} {location:?} {}", index.contains(kind, &id));
    Seen {
        snapshots: snapshots.into_iter().map(|(_, snapshot)| snapshot.unwrap()).collect(),
        facts: facts.records().iter().map(|record| (record.id, format!("{:?}", record.file))).collect(),
        blobs: index.blobs().map(blob).collect(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::new(second, 5).unwrap()
}

fn snapshot(number: u64) -> Snapshot {
    let even = number.is_multiple_of(2);
    Snapshot {
        parent: even.then_some(Id::of(b"parent")),
        paths: vec!["/shop".to_owned(), "/größer".to_owned()],
        hostname: "host".to_owned(),
        username: if even { String::new() } else { "user".to_owned() },
        uid: 7,
        gid: u32::MAX,
        tags: vec![format!("session={number}"), "database=shop".to_owned(), String::new()],
        original: (!even).then_some(Id::of(b"original")),
        program_version: "dbkeep 1".to_owned(),
        ..Snapshot::new(
            Timestamp::new(-5, -i32::try_from(number).unwrap()).unwrap(),
            Id::of(&number.to_le_bytes()),
        )
    }
}

fn pack(number: u64, blobs: &[u64]) -> IndexPack {
    let blob = |(place, number): (usize, &u64)| PackBlob {
        id: Id::of(&number.to_le_bytes()),
        kind: if number.is_multiple_of(3) { BlobKind::Tree } else { BlobKind::Data },
        offset: 100 * u32::try_from(place).unwrap(),
        length: 100,
        uncompressed_length: number.is_multiple_of(2).then_some(4096),
    };
    let id = Id::of(format!("pack {number}").as_bytes());
    IndexPack { id, time: Some(at(3)), blobs: blobs.iter().enumerate().map(blob).collect() }
}

fn every_kind_of_fact() -> Vec<Fact> {
    let snapshot = || SnapshotRef { id: Id::of(b"s"), tree: Id::of(b"t"), database: "a b".to_owned() };
    let text = || "text".to_owned();
    vec![
        Fact::Acknowledged { session: text(), snapshots: vec![] },
        Fact::Forgotten { snapshots: vec![snapshot(), snapshot()], reason: text() },
        Fact::Verified { snapshot: snapshot(), level: text() },
        Fact::Damaged { snapshots: vec![snapshot()], findings: vec![text(), text()] },
        Fact::Drilled { snapshot: snapshot(), passed: true, duration_ms: 1234 },
        Fact::Pinned { snapshot: snapshot(), reason: text() },
        Fact::Unpinned { snapshot: snapshot() },
        Fact::Accepted { snapshots: vec![snapshot()], why: text() },
        Fact::Cleared { snapshots: vec![snapshot(), snapshot()], why: text() },
        Fact::Other(serde_json::json!({ "kind": "copied", "share": 0.1 })),
    ]
}

#[test]
fn what_is_kept_is_what_was_read_and_is_not_read_again() {
    let scene = Scene::new();
    let truth = scene.seen(None);
    assert_eq!(scene.seen(Some(&scene.cache())), truth);
    assert_eq!(scene.files().len(), 3, "one segment a kind");
    // A kind that only a newer program knows is read each time.
    let newer = truth.facts.iter().find(|(_, fact)| fact.contains("copied")).unwrap().0;
    let sound = scene.memory.read(FileKind::Fact, &newer).unwrap();
    scene.spoil();
    scene.memory.alter(FileKind::Fact, &newer, |contents| *contents = sound);
    assert_eq!(scene.seen(Some(&scene.cache())), truth);
    assert!(scene.warnings().is_empty());
}

#[test]
fn what_exists_is_told_by_the_repository_alone() {
    let scene = Scene::new();
    scene.expect_truth();
    for number in 5..30 {
        scene.add(number);
        if number.is_multiple_of(3) {
            // Another host forgets one, and a prune there writes the index anew.
            for kind in [FileKind::Snapshot, FileKind::Index, FileKind::Fact] {
                let names = scene.memory.names(kind);
                let gone = names[usize::try_from(number).unwrap() * 7 % names.len()];
                scene.memory.remove(kind, &gone).unwrap();
            }
        }
        scene.expect_truth();
    }
    for kind in [FileKind::Snapshot, FileKind::Index, FileKind::Fact] {
        scene.memory.names(kind).iter().for_each(|id| scene.memory.remove(kind, id).unwrap());
    }
    let nothing = Seen { snapshots: vec![], facts: vec![], blobs: BTreeSet::new() };
    assert_eq!(scene.seen(Some(&scene.cache())), nothing);
    assert!(scene.files().is_empty(), "what is gone from the repository is dropped: {:?}", scene.files());
}

#[test]
fn old_cache_is_brought_up_to_date() {
    let scene = Scene::new();
    scene.expect_truth();
    let old: Vec<_> = scene.files().into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    let first = scene.memory.names(FileKind::Snapshot)[0];
    scene.memory.remove(FileKind::Snapshot, &first).unwrap();
    scene.add(77);
    scene.expect_truth();
    for (contents, path) in old {
        fs::write(path, contents).unwrap();
    }
    scene.expect_truth();
    scene.expect_truth();
}

#[test]
fn every_damage_is_noticed_and_repaired() {
    let scene = Scene::new();
    let truth = scene.seen(None);
    scene.expect_truth();
    let files = scene.files();
    for path in &files {
        let sound = fs::read(path).unwrap();
        let step = sound.len() / 60 + 1;
        let mut versions: Vec<Vec<u8>> =
            (0..sound.len()).step_by(step).map(|at| sound[..at].to_vec()).collect();
        for at in (0..sound.len()).step_by(step).chain([sound.len() - 1]) {
            let mut flipped = sound.clone();
            flipped[at] ^= 1 << (at % 8);
            versions.push(flipped);
        }
        versions.push([sound.as_slice(), b"more"].concat());
        for damaged in versions {
            fs::write(path, damaged).unwrap();
            assert_eq!(scene.seen(Some(&scene.cache())), truth);
            assert!(!path.exists(), "what is damaged is removed");
            for path in scene.files().iter().filter(|path| !files.contains(path)) {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(path, sound).unwrap();
    }
    scene.spoil();
    let kept = scene.repository.each_snapshot_through(Some(&scene.cache())).unwrap();
    let kept: Vec<Snapshot> = kept.into_iter().map(|(_, snapshot)| snapshot.unwrap()).collect();
    assert_eq!(kept, truth.snapshots, "the sound files were put back");
}

#[test]
fn objects_that_cannot_be_read_are_not_kept() {
    let scene = Scene::new();
    let id = scene.memory.names(FileKind::Snapshot)[1];
    scene.memory.alter(FileKind::Snapshot, &id, |contents| contents[30] ^= 4);
    for _ in 0..2 {
        let each = scene.repository.each_snapshot_through(Some(&scene.cache())).unwrap();
        assert_eq!(each.len(), 5);
        assert!(matches!(&each[4], (damaged, Err(Error::Damaged { .. })) if *damaged == id));
    }
    scene.memory.fail_listing(FileKind::Snapshot);
    assert!(
        scene.repository.each_snapshot_through(Some(&scene.cache())).is_err(),
        "a listing is never guessed"
    );
}

#[test]
fn segments_of_another_kind_version_repository_or_key_are_not_read() {
    let scene = Scene::new();
    let cache = scene.cache();
    let id = scene.memory.names(FileKind::Snapshot)[0];
    let wrong = record::encode_snapshot(&snapshot(99));
    let right = Header { kind: FileKind::Snapshot, repository: Id::of(scene.repository.id().as_bytes()) };
    let offer = |plain: &[u8], key: &MasterKey| {
        let mut sealed = Vec::new();
        key.seal(plain, &mut sealed).unwrap();
        _ = fs::remove_dir_all(&cache.folder);
        fs::create_dir_all(&cache.folder).unwrap();
        fs::write(cache.folder.join("snapshot-00"), sealed).unwrap();
        let found = scene.repository.each_snapshot_through(Some(&scene.cache())).unwrap();
        found.into_iter().any(|(_, found)| found.unwrap().tags == snapshot(99).tags)
    };
    let plain = |header: &Header| {
        let mut draft = Draft::new(header);
        draft.add(&id, &wrong);
        draft.plain().to_vec()
    };
    // So that the others prove something: what is sealed by the key is believed.
    assert!(offer(&plain(&right), scene.repository.key()));
    assert!(!offer(&plain(&Header { kind: FileKind::Fact, ..right }), scene.repository.key()));
    assert!(!offer(&plain(&Header { repository: Id::of(b"other"), ..right }), scene.repository.key()));
    assert!(!offer(&plain(&right), &MasterKey::generate().unwrap()));
    let mut newer = plain(&right);
    newer[8] += 1;
    assert!(!offer(&newer, scene.repository.key()));
    let mut odd = plain(&right);
    odd.push(0);
    assert!(!offer(&odd, scene.repository.key()), "an object is cut off");
    assert!(!cache.folder.join("snapshot-00").exists(), "what cannot be read is removed");
}

#[test]
fn repository_that_was_made_anew_at_the_same_place_starts_without() {
    let scene = Scene::new();
    scene.expect_truth();
    let memory = MemoryBackend::new();
    let anew = Scene { repository: repository(&memory), memory, ..scene };
    anew.add(3);
    anew.expect_truth();
    anew.expect_truth();
}

#[test]
fn place_that_cannot_be_written_is_warned_of_once() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("cache"), "a file where the folder should be").unwrap();
    let cache = scene.cache();
    assert_eq!(scene.seen(Some(&cache)), scene.seen(None));
    assert_eq!(scene.seen(Some(&cache)), scene.seen(None));
    let warnings = scene.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("the cache in ") && warnings[0].contains("take longer"), "{warnings:?}");
}

#[test]
fn file_that_no_segment_can_be_is_passed_over() {
    let scene = Scene::new();
    scene.expect_truth();
    let folder = scene.folder.path().join("cache");
    let huge = File::create(folder.join("snapshot-ff")).unwrap();
    huge.set_len(LIMIT + 1).unwrap();
    fs::create_dir(folder.join("index-ee")).unwrap();
    fs::write(folder.join("0123.tmp"), "of a process that was killed").unwrap();
    fs::write(folder.join("snapshot-notes"), "not ours").unwrap();
    scene.add(50);
    scene.expect_truth();
    assert!(!folder.join("snapshot-ff").exists() && !folder.join("0123.tmp").exists());
    assert!(folder.join("snapshot-notes").exists());
}

#[test]
fn segments_stay_few_while_one_object_comes_after_the_other() {
    let scene = Scene::new();
    for number in 5..300 {
        scene.add(number);
        scene.seen(Some(&scene.cache()));
        let files = scene.files().len();
        assert!(files <= 3 * 9, "{files} files for {number} objects a kind");
    }
    let truth = scene.seen(None);
    let newer = truth.facts.iter().find(|(_, fact)| fact.contains("copied")).unwrap().0;
    scene.memory.remove(FileKind::Fact, &newer).unwrap();
    let truth = scene.seen(None);
    scene.spoil();
    assert_eq!(scene.seen(Some(&scene.cache())), truth, "nothing was lost on the way");
}

#[test]
fn large_segments_are_left_alone_when_something_is_added() {
    let scene = Scene::new();
    for file in 0..4u64 {
        let blobs: Vec<u64> = (0..50_000).map(|number| (file + 1000) * 50_000 + number).collect();
        let index = IndexFile { packs: vec![pack(file + 50, &blobs)], ..IndexFile::default() };
        scene.repository.save_unpacked(FileKind::Index, &index.encode()).unwrap();
    }
    let truth = scene.seen(Some(&scene.cache()));
    let large = || -> Vec<PathBuf> {
        let is_large = |path: &PathBuf| path.metadata().unwrap().len() > SEGMENT as u64 / 2;
        scene.files().into_iter().filter(is_large).collect()
    };
    let before = large();
    assert_eq!(before.len(), 4);
    assert!(before.iter().all(|path| path.metadata().unwrap().len() <= SEGMENT as u64 + 100));
    scene.add(1_000);
    let seen = scene.seen(Some(&scene.cache()));
    assert!(seen == scene.seen(None));
    assert_eq!(large(), before);
    assert_eq!((truth.blobs.len(), seen.blobs.len()), (200_015, 200_018));
}

#[test]
fn processes_that_use_one_cache_at_once_all_see_the_truth() {
    let scene = Scene::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Each with a cache of its own, as processes have.
                    let cache = scene.cache();
                    let listed: BTreeSet<Id> = scene.memory.names(FileKind::Snapshot).into_iter().collect();
                    let found = scene.repository.each_snapshot_through(Some(&cache)).unwrap();
                    let found: BTreeSet<Id> =
                        found.into_iter().map(|(id, found)| found.unwrap().id.map(|_| id).unwrap()).collect();
                    assert!(listed.is_subset(&found), "none is removed while this runs");
                    Index::load_distrusting(&scene.repository, &Unobserved, &|_| false, Some(&cache))
                        .unwrap();
                }
            });
        }
        for number in 100..160 {
            scene.add(number);
            scene.seen(Some(&scene.cache()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(scene.warnings().is_empty(), "{:?}", scene.warnings());
    scene.expect_truth();
    scene.expect_truth();
}

#[test]
fn no_bytes_make_a_decoder_panic_and_each_object_is_written_in_one_way() {
    let mut objects: Vec<(FileKind, Vec<u8>)> =
        (0..2).map(|number| (FileKind::Snapshot, record::encode_snapshot(&snapshot(number)))).collect();
    for fact in every_kind_of_fact() {
        let file = crate::format::fact::FactFile {
            version: 1,
            time: at(1),
            hostname: "h".to_owned(),
            previous: vec![Id::of(b"p")],
            fact,
        };
        objects.extend(record::encode_fact(&file).map(|bytes| (FileKind::Fact, bytes)));
    }
    let index = IndexFile {
        packs: vec![pack(1, &[1, 2, 3]), pack(2, &[])],
        packs_to_delete: vec![pack(3, &[4])],
        ..IndexFile::default()
    };
    objects.push((FileKind::Index, record::encode_index(&index)));
    assert_eq!(objects.len(), 2 + 9 + 1);
    for (kind, bytes) in objects {
        assert_eq!(again(kind, &bytes).as_ref(), Some(&bytes), "{kind:?}");
        for cut in 0..bytes.len() {
            let whole = again(kind, &bytes[..cut]);
            assert!(whole.is_none() || kind == FileKind::Index, "{kind:?} cut off at {cut}");
        }
        for at in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                if let Some(written) = again(kind, &damaged) {
                    assert_eq!(written, damaged, "{kind:?} byte {at}");
                }
            }
        }
    }
}

/// Reads an object and writes it again; `None` where it is none.
fn again(kind: FileKind, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind {
        FileKind::Snapshot => record::decode_snapshot(bytes).ok().map(|it| record::encode_snapshot(&it)),
        FileKind::Fact => record::decode_fact(bytes).ok().map(|it| record::encode_fact(&it).unwrap()),
        _ => {
            let packs = record::decode_index(bytes).ok()?;
            let of = |marked| {
                let wanted = packs.iter().filter(move |pack| pack.marked == marked);
                let pack = |pack: &record::PackRecord<'_>| IndexPack {
                    id: pack.id,
                    time: None,
                    blobs: pack.blobs().collect(),
                };
                wanted.map(pack).collect()
            };
            let file = IndexFile { packs: of(false), packs_to_delete: of(true), supersedes: vec![] };
            Some(record::encode_index(&file))
        }
    }
}
