//! Packs: are they there, as long as the index says, and do they hold what it says?

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ring::digest::{Context, SHA256};

use super::{Harm, Problem, ReadData, stop_if_cancelled};
use crate::backend::FileKind;
use crate::crypto::OVERHEAD;
use crate::error::{Error, Result};
use crate::format::index::{IndexFile, IndexPack};
use crate::format::pack::{self, PackBlob, TRAILER};
use crate::index::SharedIndex;
use crate::observe::Observer;
use crate::read::{Expected, Opener};
use crate::write::digest_of;
use crate::{Id, Repository};

/// Bytes read at once; a blob that is larger is read alone.
const WINDOW: usize = 4 << 20;
/// The most threads.
const MAX_THREADS: usize = 16;

/// What the index says of one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// How long it must be.
    pub(crate) size: u64,
    /// The start of a hash over its list of blobs.
    list: u64,
}

/// All packs of the index, and which of them can be read.
#[derive(Default)]
pub(super) struct Packs {
    claims: HashMap<Id, Claim>,
    /// Packs that are named as more than waiting for their removal.
    live: HashSet<Id>,
    /// Packs that waited for their removal and are gone.
    removed: usize,
    /// Packs that are there with the right size.
    present: Vec<Id>,
    unindexed: usize,
    unindexed_bytes: u64,
}

impl Packs {
    /// Notes what an index file says.
    pub(super) fn add(&mut self, id: &Id, file: &IndexFile, problems: &mut Vec<Problem>) {
        self.live.extend(file.packs.iter().map(|pack| pack.id));
        for pack in file.packs.iter().chain(&file.packs_to_delete) {
            let Some(claim) = claim(pack) else {
                let what = format!("blobs of pack {} do not follow each other", pack.id);
                problems.push(Problem::of("index-damaged", FileKind::Index, id, &what, Harm::Pack(pack.id)));
                continue;
            };
            let earlier = *self.claims.entry(pack.id).or_insert(claim);
            if earlier != claim {
                let what = format!("another index file says otherwise about pack {}", pack.id);
                problems.push(Problem::of("index-damaged", FileKind::Index, id, &what, Harm::Pack(pack.id)));
            }
        }
    }

    /// Returns the number of packs in the index.
    pub(super) fn len(&self) -> usize {
        self.claims.len()
    }

    /// Compares with what is stored.
    pub(super) fn compare(&mut self, repository: &Repository, problems: &mut Vec<Problem>) -> Result<()> {
        let stored: HashMap<Id, u64> =
            repository.backend().list(FileKind::Pack)?.into_iter().map(|file| (file.id, file.size)).collect();
        for (id, claim) in &self.claims {
            let problem = match stored.get(id) {
                // What needs a blob of it is found by the walk through the snapshots.
                None if !self.live.contains(id) => {
                    self.removed += 1;
                    continue;
                }
                None => ("pack-missing", "it is in the index and not there".to_owned()),
                Some(size) if *size != claim.size => {
                    ("pack-size", format!("it has {size} bytes, the index says {}", claim.size))
                }
                Some(_) => {
                    self.present.push(*id);
                    continue;
                }
            };
            problems.push(Problem::of(problem.0, FileKind::Pack, id, &problem.1, Harm::Pack(*id)));
        }
        self.present.sort_unstable();
        for (_, size) in stored.iter().filter(|(id, _)| !self.claims.contains_key(id)) {
            self.unindexed += 1;
            self.unindexed_bytes += size;
        }
        Ok(())
    }

    /// Returns what harms nothing.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.unindexed > 0 {
            notes.push(format!(
                "{} packs with {} bytes are in no index: left by interrupted backups, or being written now",
                self.unindexed, self.unindexed_bytes
            ));
        }
        if self.removed > 0 {
            notes.push(format!(
                "{} packs that waited for their removal are gone, as an interrupted prune leaves them: the next one tidies up",
                self.removed
            ));
        }
        notes
    }

    /// Reads packs and compares every byte. Returns how many bytes that were.
    pub(super) fn read(
        &self,
        repository: &Repository,
        index: &SharedIndex,
        share: ReadData,
        watch: &dyn Observer,
        problems: &mut Vec<Problem>,
    ) -> Result<u64> {
        let chosen = choose(&self.present, share)?;
        let total = chosen.iter().filter_map(|id| self.claims.get(id)).map(|claim| claim.size).sum();
        watch.phase("reading the data", total);
        let next = AtomicUsize::new(0);
        let bytes = AtomicU64::new(0);
        let found = Mutex::new(Vec::new());
        let failure = Mutex::new(None);
        let threads = thread::available_parallelism().map_or(1, usize::from) + 1;
        let work = || -> Result<()> {
            let mut audit = Audit::new(repository, index)?;
            while let Some(id) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                stop_if_cancelled(watch)?;
                let Some(claim) = self.claims.get(id) else { continue };
                if let Some(problem) = audit.pack(id, claim) {
                    found.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
                }
                bytes.fetch_add(claim.size, Ordering::Relaxed);
                watch.advance(claim.size);
            }
            Ok(())
        };
        thread::scope(|scope| {
            for _ in 0..threads.min(MAX_THREADS).min(chosen.len()) {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        next.store(chosen.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        problems.extend(found.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(bytes.into_inner())
    }
}

/// Reads packs that were just stored, all of every one: name, header, what the index is going to say, each blob. Returns
/// how many bytes that were; the first pack that is not what was stored is the error.
pub(crate) fn read_back(
    repository: &Repository,
    index: &SharedIndex,
    stored: &[IndexPack],
    watch: &dyn Observer,
) -> Result<u64> {
    let damaged = |id: Id, what: String| Error::Damaged { kind: FileKind::Pack, id, what };
    let mut packs = Packs::default();
    for pack in stored {
        let claim = claim(pack).ok_or_else(|| damaged(pack.id, "its blobs overlap".to_owned()))?;
        // A pack that is longer than what was stored is another one.
        match repository.backend().read_range(FileKind::Pack, &pack.id, claim.size, &mut [0]) {
            Err(Error::Short { .. }) => {}
            Ok(()) => return Err(damaged(pack.id, "it is longer than what was stored".to_owned())),
            Err(error) => return Err(error),
        }
        packs.claims.insert(pack.id, claim);
        packs.present.push(pack.id);
    }
    let mut problems = Vec::new();
    let bytes = packs.read(repository, index, ReadData::All, watch, &mut problems)?;
    match problems.into_iter().next() {
        Some(Problem { what, object, .. }) => {
            let named = packs.present.iter().find(|id| object.ends_with(&id.to_string()));
            let what = format!("what was just stored does not read back: {what}");
            Err(damaged(named.copied().unwrap_or(Id::NULL), what))
        }
        None => Ok(bytes),
    }
}

/// Returns what an index entry says of a pack; `None` when it says what no pack can be.
pub(crate) fn claim(pack: &IndexPack) -> Option<Claim> {
    let mut blobs = pack.blobs.clone();
    blobs.sort_unstable_by_key(|blob| blob.offset);
    let mut end = 0u64;
    for blob in &blobs {
        if u64::from(blob.offset) != end {
            return None;
        }
        end = blob.end();
    }
    let header: usize = blobs.iter().map(pack::entry_size).sum();
    Some(Claim { size: end + (header + OVERHEAD + TRAILER) as u64, list: list_hash(&blobs) })
}

/// Returns the start of a hash over a list of blobs in the order of their offsets.
fn list_hash(blobs: &[PackBlob]) -> u64 {
    let mut hash = blake3::Hasher::new();
    for blob in blobs {
        hash.update(blob.id.as_bytes());
        hash.update(&[blob.kind as u8]);
        for number in [blob.offset, blob.length, blob.uncompressed_length.unwrap_or(0)] {
            hash.update(&number.to_le_bytes());
        }
    }
    let hash = hash.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes are eight bytes"))
}

/// Chooses about a share of the packs, by chance.
fn choose(packs: &[Id], share: ReadData) -> Result<Vec<Id>> {
    use ring::rand::SecureRandom as _;
    let percent = match share {
        ReadData::None => return Ok(Vec::new()),
        ReadData::Percent(percent) if percent < 100 => u16::from(percent),
        ReadData::All | ReadData::Percent(_) => return Ok(packs.to_vec()),
    };
    let mut salt = [0; 32];
    ring::rand::SystemRandom::new().fill(&mut salt).map_err(|_| Error::Random)?;
    let mut ranked: Vec<_> =
        packs.iter().map(|id| (*blake3::keyed_hash(&salt, id.as_bytes()).as_bytes(), *id)).collect();
    ranked.sort_unstable();
    let count = (packs.len() * usize::from(percent)).div_ceil(100);
    Ok(ranked.into_iter().take(count).map(|(_, id)| id).collect())
}

/// Reads packs on one thread.
struct Audit<'a> {
    repository: &'a Repository,
    index: &'a SharedIndex,
    opener: Opener,
    window: Vec<u8>,
}

impl<'a> Audit<'a> {
    fn new(repository: &'a Repository, index: &'a SharedIndex) -> Result<Self> {
        Ok(Self { repository, index, opener: Opener::new(repository.key())?, window: Vec::new() })
    }

    /// Reads one pack: its name, its header, the index, and every blob.
    fn pack(&mut self, id: &Id, claim: &Claim) -> Option<Problem> {
        let problem = |what: String, harm| Some(Problem::of("pack-damaged", FileKind::Pack, id, &what, harm));
        let (blobs, tail) = match self.header(id, claim.size) {
            Ok(header) => header,
            Err(error) => return problem(format!("header: {error}"), Harm::Pack(*id)),
        };
        let mut hash = Context::new(&SHA256);
        let mut broken = Vec::new();
        if let Err(error) = self.blobs(id, &blobs, &mut hash, &mut broken) {
            return problem(error.to_string(), Harm::Pack(*id));
        }
        hash.update(&tail);
        if !broken.is_empty() {
            let names: Vec<_> = broken.iter().map(|blob| format!("{:.8}", blob.id)).collect();
            let what = format!("{} of {} blobs are damaged: {}", broken.len(), blobs.len(), names.join(", "));
            return problem(what, Harm::Blobs(broken.iter().map(|blob| (blob.kind, blob.id)).collect()));
        }
        if Id::new(digest_of(hash)) != *id {
            return problem("its SHA-256 is not its name".to_owned(), Harm::Pack(*id));
        }
        if list_hash(&blobs) != claim.list {
            return problem("the index says otherwise about its blobs".to_owned(), Harm::Pack(*id));
        }
        let index = self.index.read();
        if blobs.iter().any(|blob| index.get(blob.kind, &blob.id).is_none()) {
            return problem("the index does not know all of its blobs".to_owned(), Harm::Pack(*id));
        }
        None
    }

    /// Reads the header. Returns the blobs and the sealed bytes behind them.
    fn header(&self, id: &Id, size: u64) -> Result<(Vec<PackBlob>, Vec<u8>)> {
        let damaged = |what: String| Error::Damaged { kind: FileKind::Pack, id: *id, what };
        let backend = self.repository.backend();
        let mut trailer = [0; TRAILER];
        let end = size.checked_sub(TRAILER as u64).ok_or_else(|| damaged("too short".to_owned()))?;
        backend.read_range(FileKind::Pack, id, end, &mut trailer)?;
        let length = pack::decode_trailer(trailer, size).map_err(|error| damaged(error.to_string()))?;
        let mut tail = vec![0; length as usize + TRAILER];
        // `decode_trailer` made sure that header and trailer fit the pack.
        backend.read_range(FileKind::Pack, id, size - tail.len() as u64, &mut tail)?;
        let mut sealed = tail[..length as usize].to_vec();
        let header =
            self.repository.key().open(&mut sealed).map_err(|_| damaged("not what was sealed".to_owned()))?;
        let blobs = pack::decode_header(header, size).map_err(|error| damaged(error.to_string()))?;
        Ok((blobs, tail))
    }

    /// Reads all blobs, feeds their sealed bytes to `hash`, and collects those that cannot be opened.
    fn blobs(
        &mut self,
        id: &Id,
        blobs: &[PackBlob],
        hash: &mut Context,
        broken: &mut Vec<PackBlob>,
    ) -> Result<()> {
        let mut rest = blobs;
        while let Some(first) = rest.first() {
            let fits = |blob: &&PackBlob| (blob.end() - u64::from(first.offset)) <= WINDOW as u64;
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let length =
                usize::try_from(now[count - 1].end() - u64::from(first.offset)).unwrap_or(usize::MAX);
            if self.window.len() < length {
                self.window.resize(length, 0);
            }
            let window = &mut self.window[..length];
            self.repository.backend().read_range(FileKind::Pack, id, u64::from(first.offset), window)?;
            hash.update(window);
            for blob in now {
                let start = (blob.offset - first.offset) as usize;
                let sealed = &mut window[start..start + blob.length as usize];
                let expected =
                    Expected { pack: *id, id: blob.id, uncompressed_length: blob.uncompressed_length };
                if self.opener.open(sealed, &expected).is_err() {
                    broken.push(*blob);
                }
            }
        }
        Ok(())
    }
}
