//! A repository with a year of hourly backups: what the number of snapshots costs a backup that has nothing to do.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dbkeep_repo::backend::{Backend, FileKind, MemoryBackend};
use dbkeep_repo::format::fact::{Fact, SnapshotRef};
use dbkeep_repo::format::index::{IndexFile, IndexPack};
use dbkeep_repo::format::pack::{BlobKind, PackBlob};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::{Id, InitOptions, Repository, Secret};
use jiff::Timestamp;

use super::{Bench, remove};
use crate::Result;
use crate::product::{Ours, PASSWORD};
use crate::report::{Goal, Line};
use crate::sample::{Sample, Times};

/// How many snapshots there are, and as many facts, index files and packs.
const SNAPSHOTS: u64 = 10_000;

/// With what this host has kept of the repository, and without.
pub(super) fn many(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let ours = Ours::existing(bench.scratch, "many-ours", generate)?;
    let database = bench.scratch.fresh("small.db")?;
    rusqlite::Connection::open(&database)?.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)")?;
    ours.backup(&database, "quick")?;
    // A file that was written a moment ago is never taken for unchanged.
    thread::sleep(Duration::from_secs(5));
    ours.backup(&database, "quick")?;
    let (mut with, mut without, mut saved) = (Times::default(), Times::default(), Sample::default());
    for _ in 0..bench.rounds.max(5) {
        let kept = ours.backup(&database, "quick")?.cost;
        remove(&ours.cache()?)?;
        let lost = ours.backup(&database, "quick")?.cost;
        saved.add((lost.seconds - kept.seconds) * 1000.0);
        with.add(&kept);
        without.add(&lost);
    }
    let milliseconds = Sample(with.wall.0.iter().map(|seconds| seconds * 1000.0).collect());
    let what = format!("unchanged, {SNAPSHOTS} snapshots in the repository, whole command");
    Ok(vec![
        Line::new(what, milliseconds.median(), "ms", Goal::None)
            .with_times("with the cache", &with)
            .with_times("without the cache", &without)
            .with("saved ms", &saved),
    ])
}

/// Makes a repository in `root`: real snapshots, facts and index files, and packs by name only, as none is read.
fn generate(root: &Path) -> Result<()> {
    let memory = MemoryBackend::new();
    let options = InitOptions::cheap();
    let began: Timestamp = "2025-01-01T00:00:00Z".parse()?;
    let repository = Repository::init(Arc::new(memory.clone()), &Secret::from(PASSWORD), &options, began)?;
    let mut packs = Vec::new();
    let mut heads = Vec::new();
    let mut parent = None;
    for number in 0..SNAPSHOTS {
        let time = Timestamp::from_second(began.as_second() + i64::try_from(number)? * 3600)?;
        let pack = pack_of(number);
        packs.push(pack.id);
        let index = IndexFile { packs: vec![pack], ..IndexFile::default() };
        repository.save_unpacked(FileKind::Index, &index.encode())?;
        let snapshot = snapshot_of(number, time, parent);
        let id = repository.save_unpacked(FileKind::Snapshot, &snapshot.encode())?;
        let reference = SnapshotRef { id, tree: snapshot.tree, database: "shop".to_owned() };
        let fact = Fact::Acknowledged { session: session(time), snapshots: vec![reference] };
        heads = vec![repository.append_fact(fact, &heads, time)?];
        parent = Some(id);
    }
    write_out(&memory, &packs, root)
}

fn session(time: Timestamp) -> String {
    time.strftime("%Y%m%d_%H%M%S").to_string()
}

fn snapshot_of(number: u64, time: Timestamp, parent: Option<Id>) -> Snapshot {
    let tags = [&format!("session={}", session(time)), "database=shop", "engine=sqlite", "reason=schedule"];
    Snapshot {
        parent,
        paths: vec!["/shop".to_owned()],
        hostname: "host".to_owned(),
        username: "user".to_owned(),
        tags: tags.map(str::to_owned).into_iter().chain(["integrity=ok".to_owned()]).collect(),
        program_version: "dbkeep".to_owned(),
        ..Snapshot::new(time, Id::of(format!("tree {number}").as_bytes()))
    }
}

/// Returns what a small change stores: some chunks and some trees.
fn pack_of(number: u64) -> IndexPack {
    let blob = |place: u32| PackBlob {
        id: Id::of(format!("blob {number} {place}").as_bytes()),
        kind: if place < 3 { BlobKind::Tree } else { BlobKind::Data },
        offset: place * 5000,
        length: 5000,
        uncompressed_length: Some(16384),
    };
    let id = Id::of(format!("pack {number}").as_bytes());
    IndexPack { id, time: None, blobs: (0..20).map(blob).collect() }
}

/// Writes the objects into folders; syncing each, as a backup does, would take minutes.
fn write_out(memory: &MemoryBackend, packs: &[Id], root: &Path) -> Result<()> {
    dbkeep_repo::backend::LocalBackend::new(root).create()?;
    fs::write(root.join("config"), memory.read(FileKind::Config, &Id::NULL)?)?;
    let folders = [
        (FileKind::Key, "keys"),
        (FileKind::Snapshot, "snapshots"),
        (FileKind::Index, "index"),
        (FileKind::Fact, "dbkeep/facts"),
    ];
    for (kind, folder) in folders {
        for id in memory.names(kind) {
            fs::write(root.join(folder).join(id.to_string()), memory.read(kind, &id)?)?;
        }
    }
    for pack in packs {
        fs::write(root.join("data").join(format!("{pack:.2}")).join(pack.to_string()), b"")?;
    }
    Ok(())
}
