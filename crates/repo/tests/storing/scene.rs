//! What the tests need again and again: a repository, sources, sinks.

use std::io;
use std::sync::{Arc, Mutex};

use dbkeep_repo::backend::{Backend, MemoryBackend};
use dbkeep_repo::error::BoxError;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::index::Index;
use dbkeep_repo::read::{Image, ImageSink, Reader};
use dbkeep_repo::write::{ImageOptions, ImageSource, NodeMeta, StoredImage, Writer, WriterOptions};
use dbkeep_repo::{InitOptions, Observer, Repository, Result, Secret, Unobserved};
use jiff::Timestamp;

/// The chunk size of tests: small, so that small images have many chunks.
pub(crate) const CHUNK: u32 = 4096;

/// The moment at which everything happens.
pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn secret() -> Secret {
    Secret::new("open sesame".to_owned())
}

/// A repository in memory.
pub(crate) fn memory() -> (MemoryBackend, Repository) {
    let backend = MemoryBackend::new();
    let repository = init(Arc::new(backend.clone()));
    (backend, repository)
}

pub(crate) fn init(backend: Arc<dyn Backend>) -> Repository {
    Repository::init(backend, &secret(), &InitOptions::cheap(), now()).unwrap()
}

pub(crate) fn open(backend: Arc<dyn Backend>) -> Repository {
    Repository::open(backend, &[secret()]).unwrap()
}

pub(crate) fn load(repository: &Repository) -> Reader {
    repository.reader(Index::load(repository, &Unobserved).unwrap())
}

/// Bytes that look like half a database: every other KiB is random, the rest repeats. A pure function of the seed.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 1024);
    while bytes.len() < length {
        let random = (bytes.len() / 1024).is_multiple_of(2);
        for _ in 0..128 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word = if random { state } else { state & 0x0303 };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes.truncate(length);
    bytes
}

/// Gives bytes, in pieces of odd lengths.
pub(crate) struct Slice<'a>(pub(crate) &'a [u8]);

impl ImageSource for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, BoxError> {
        let count = self.0.len().min(buffer.len()).min(10_007);
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// Takes bytes.
#[derive(Default)]
pub(crate) struct Memory {
    bytes: Mutex<Vec<u8>>,
    zeroed: bool,
}

impl Memory {
    pub(crate) fn zeroed(length: u64) -> Self {
        Self { bytes: Mutex::new(vec![0; usize::try_from(length).unwrap()]), zeroed: true }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner().unwrap()
    }
}

impl ImageSink for Memory {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let mut all = self.bytes.lock().unwrap();
        if all.len() < offset + bytes.len() {
            all.resize(offset + bytes.len(), 0xee);
        }
        all[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn starts_zeroed(&self) -> bool {
        self.zeroed
    }
}

pub(crate) fn options() -> ImageOptions<'static> {
    ImageOptions { chunk_size: CHUNK, known: None, sha256: false }
}

pub(crate) fn meta() -> NodeMeta {
    NodeMeta { mode: 0o640, mtime: now(), ..NodeMeta::default() }
}

/// Small packs, so that small images fill several.
pub(crate) fn small_packs() -> WriterOptions {
    WriterOptions::default().workers(2).pack_size(40_000)
}

/// Puts an image and a manifest under `/shop` and makes the snapshot.
pub(crate) fn commit(writer: &mut Writer<'_>, image: &StoredImage) -> Result<Snapshot> {
    let mut nodes = writer.save_image_nodes(image, "shop.db", &meta())?;
    nodes.push(writer.save_file("manifest.json", b"{}", &meta())?);
    let directory = writer.save_tree(&Tree { nodes })?;
    let root = writer.save_tree(&Tree { nodes: vec![meta().directory("shop", directory)] })?;
    let mut snapshot = Snapshot::new(now(), root);
    snapshot.paths = vec!["/shop".to_owned()];
    snapshot.tags = vec!["database=shop".to_owned()];
    writer.commit(snapshot)
}

/// Makes a backup of `contents` in a session of its own.
pub(crate) fn backup(repository: &Repository, contents: &[u8]) -> Result<Snapshot> {
    backup_watched(repository, contents, Arc::new(Unobserved))
}

pub(crate) fn backup_watched(
    repository: &Repository,
    contents: &[u8],
    watch: Arc<dyn Observer>,
) -> Result<Snapshot> {
    let lock = repository.lock_shared(now())?;
    let index = Index::load(repository, &*watch)?;
    let mut writer = repository.writer(&lock, index, &small_packs(), watch)?;
    let image = writer.save_image(&mut Slice(contents), &options())?;
    commit(&mut writer, &image)
}

/// Finds the image of a snapshot.
pub(crate) fn image(reader: &Reader, snapshot: &Snapshot) -> Result<Image> {
    Ok(reader.image(snapshot, "/shop", "shop.db")?.expect("the snapshot has an image"))
}

/// Restores the image of a snapshot.
pub(crate) fn restore(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<u8>> {
    let reader = repository.reader(Index::load_readable(repository, &Unobserved, &|_| false, None)?.0);
    let image = image(&reader, snapshot)?;
    let sink = Memory::default();
    assert_eq!(reader.restore(&image, &sink, &Unobserved)?, image.size());
    Ok(sink.into_bytes())
}
