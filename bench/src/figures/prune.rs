//! A repository with a thousand snapshots of which nine in ten go: what it costs to get their space back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dbkeep_repo::backend::LocalBackend;
use dbkeep_repo::format::fact::{Fact, SnapshotRef};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::index::{Index, SharedIndex};
use dbkeep_repo::write::{ImageOptions, KnownChunks, NodeMeta, WriterOptions};
use dbkeep_repo::{Id, InitOptions, Repository, Secret, Unobserved};
use dbkeep_testkit::Rng;
use jiff::{SignedDuration, Timestamp};

use super::{Bench, mib, ours_first, remove};
use crate::Result;
use crate::product::{Ours, PASSWORD, Theirs};
use crate::report::{Goal, Line};
use crate::sample::{Sample, Times};

/// How many snapshots there are, and how many stay.
const SNAPSHOTS: u64 = 1_000;
const STAY: &str = "100";
/// The database is this part of the size that is asked for: 1 GiB and a thousand changes of it are 11 GiB.
const SCALE: u64 = 32;
const PAGE: usize = 4096;
const CHUNK: u32 = 16 << 10;

/// Forgetting and pruning, against `restic forget --prune` on a copy of the same repository.
pub(super) fn prune(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let size = fs::metadata(&bench.records)?.len() / SCALE / PAGE as u64 * PAGE as u64;
    let original = bench.scratch.fresh("prune-original")?;
    eprintln!("  making {SNAPSHOTS} snapshots of {:.0} MiB", mib(size));
    generate(&original, &bench.records, usize::try_from(size)?)?;
    let (mut our_times, mut their_times) = (Times::default(), Times::default());
    let (mut our_bytes, mut their_bytes) = (Sample::default(), Sample::default());
    let (mut our_size, mut their_size) = (Sample::default(), Sample::default());
    for round in 0..bench.rounds {
        let ours = || -> Result<(Times, f64, f64)> {
            let ours = Ours::existing(bench.scratch, "prune-ours", |place| copy(&original, place))?;
            let before = objects(ours.repository())?;
            let mut times = Times::default();
            let forgotten = ours.run(["forget", "--keep-last", STAY])?.cost;
            let pruned = ours.run(["prune", "--grace", "0"])?.cost;
            times.wall.add(forgotten.seconds + pruned.seconds);
            let processor = [&forgotten, &pruned].map(|cost| cost.user_seconds + cost.system_seconds);
            times.processor.add(processor.iter().sum());
            ours.run(["check"])?;
            Ok((times, written(&before, ours.repository())?, mib(ours.size()?)))
        };
        let theirs = || -> Result<Option<(Times, f64, f64)>> {
            let Some(theirs) =
                Theirs::existing(bench.scratch, "prune-theirs", |place| copy(&original, place))?
            else {
                return Ok(None);
            };
            let before = objects(theirs.repository())?;
            let mut times = Times::default();
            times.add(&theirs.run(["forget", "--keep-last", STAY, "--prune"])?);
            Ok(Some((times, written(&before, theirs.repository())?, mib(theirs.size()?))))
        };
        let (own, other) = match ours_first(round) {
            true => (ours()?, theirs()?),
            false => {
                let other = theirs()?;
                (ours()?, other)
            }
        };
        let add = |times: &mut Times, bytes: &mut Sample, size: &mut Sample, found: (Times, f64, f64)| {
            times.wall.add(found.0.wall.median());
            times.processor.add(found.0.processor.median());
            bytes.add(found.1);
            size.add(found.2);
        };
        add(&mut our_times, &mut our_bytes, &mut our_size, own);
        if let Some(other) = other {
            add(&mut their_times, &mut their_bytes, &mut their_size, other);
        }
    }
    remove(&original)?;
    let of = format!("{SNAPSHOTS} snapshots of {:.0} MiB, 1 % changed each, {STAY} stay", mib(size));
    if their_bytes.0.is_empty() {
        let line = Line::new(format!("prune, {of}"), our_times.wall.median(), "s", Goal::None);
        return Ok(vec![line.with_times("dbkeep", &our_times).with("MiB written", &our_bytes)]);
    }
    Ok(vec![
        Line::new(
            format!("forget and prune against restic, {of}"),
            their_times.wall.over(&our_times.wall),
            "x",
            Goal::AtLeast(1.0),
        )
        .with_times("dbkeep", &our_times)
        .with_times("restic", &their_times),
        Line::new(
            "bytes that it writes, against restic",
            100.0 * our_bytes.over(&their_bytes),
            "%",
            Goal::AtMost(100.0),
        )
        .with("dbkeep MiB", &our_bytes)
        .with("restic MiB", &their_bytes)
        .with("dbkeep MiB left", &our_size)
        .with("restic MiB left", &their_size),
    ])
}

/// Makes a repository: an image, changed a little again and again, each time with a session of its own.
fn generate(root: &Path, records: &Path, size: usize) -> Result<()> {
    let began: Timestamp = "2025-01-01T00:00:00Z".parse()?;
    let backend = Arc::new(LocalBackend::new(root));
    let repository = Repository::init(backend, &Secret::from(PASSWORD), &InitOptions::cheap(), began)?;
    let mut image = vec![0; size];
    fs::File::open(records)?.read_exact(&mut image)?;
    let mut rng = Rng::new(7);
    let index = SharedIndex::from(Index::new());
    let mut known: Option<KnownChunks> = None;
    let mut heads = Vec::new();
    for number in 0..SNAPSHOTS {
        let time = began + SignedDuration::from_hours(i64::try_from(number)?);
        change(&mut image, &mut rng, number);
        let (chunks, snapshot) = store(&repository, &index, &image, known.as_ref(), time)?;
        known = Some(chunks);
        heads = vec![repository.append_fact(snapshot, &heads, time)?];
    }
    Ok(())
}

/// Writes rows into one page of a hundred.
fn change(image: &mut [u8], rng: &mut Rng, number: u64) {
    let pages = (image.len() / PAGE) as u64;
    for _ in 0..pages / 100 {
        let start = usize::try_from(rng.below(pages)).unwrap_or(0) * PAGE;
        for word in image[start + 64..start + PAGE].chunks_exact_mut(64) {
            word[..8].copy_from_slice(&rng.below(u64::MAX).to_le_bytes());
            word[8..16].copy_from_slice(&number.to_le_bytes());
        }
    }
}

/// Stores one backup. Returns its chunks, and the fact that the user was told of it.
fn store(
    repository: &Repository,
    index: &SharedIndex,
    image: &[u8],
    known: Option<&KnownChunks>,
    time: Timestamp,
) -> Result<(KnownChunks, Fact)> {
    let lock = repository.lock_shared(Timestamp::now())?;
    let mut writer = repository.writer(&lock, index, &WriterOptions::default(), Arc::new(Unobserved))?;
    let mut rest = image;
    let mut source = |buffer: &mut [u8]| {
        let count = rest.len().min(buffer.len());
        let (now, later) = rest.split_at(count);
        buffer[..count].copy_from_slice(now);
        rest = later;
        Ok(count)
    };
    let options = ImageOptions { chunk_size: CHUNK, known, sha256: false };
    let stored = writer.save_image(&mut source, &options)?;
    let meta = NodeMeta { mode: 0o600, mtime: time, ..NodeMeta::default() };
    let mut nodes = writer.save_image_nodes(&stored, "shop.db", &meta)?;
    nodes.push(writer.save_file("manifest.json", time.to_string().as_bytes(), &meta)?);
    let directory = writer.save_tree(&Tree { nodes })?;
    let tree = writer.save_tree(&Tree { nodes: vec![meta.directory("shop", directory)] })?;
    let tags = ["database=shop", "engine=sqlite", "reason=schedule", "integrity=ok"];
    let session = time.strftime("%Y%m%d_%H%M%S").to_string();
    let snapshot = writer.commit(Snapshot {
        paths: vec!["/shop".to_owned()],
        hostname: "host".to_owned(),
        username: "user".to_owned(),
        tags: tags.map(str::to_owned).into_iter().chain([format!("session={session}")]).collect(),
        ..Snapshot::new(time, tree)
    })?;
    let id: Id = snapshot.id.ok_or("a stored snapshot has an id")?;
    let snapshots = vec![SnapshotRef { id, tree, database: "shop".to_owned() }];
    let chunks = KnownChunks { chunk_size: CHUNK, chunks: stored.chunks };
    Ok((chunks, Fact::Acknowledged { session, snapshots }))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if done.success() { Ok(()) } else { Err(format!("cp failed: {done}").into()) }
}

/// Returns the packs and index files of a repository with their sizes.
fn objects(root: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("data"), root.join("index")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path(), metadata.len());
            }
        }
    }
    Ok(found)
}

/// Returns the MiB of packs and index files that were not there before.
fn written(before: &BTreeMap<PathBuf, u64>, root: &Path) -> Result<f64> {
    let new = objects(root)?.into_iter().filter(|(path, _)| !before.contains_key(path));
    Ok(mib(new.map(|(_, size)| size).sum()))
}
