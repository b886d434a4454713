//! Reading index files: from the repository, and from what this host has kept of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Index, indexed};
use crate::backend::{FileInfo, FileKind};
use crate::cache::Cache;
use crate::cache::record::{self, PackRecord};
use crate::crypto::fill_random;
use crate::error::{Error, Result};
use crate::format::index::IndexFile;
use crate::observe::Observer;
use crate::repository::damaged;
use crate::{Id, Repository};

/// So many index files that are kept are looked at in the repository at each loading, or this share of them.
const LOOKED_AT: usize = 64;
const LOOKED_AT_SHARE: usize = 16;

/// From so many files on their sizes are asked for.
const WORTH_SIZES: usize = 200;

impl Index {
    /// Reads all index files.
    ///
    /// One that cannot be read or does not say what an index says is an error: a blob that
    /// seems absent would be taken for lost. List the snapshots *before*, so that every
    /// snapshot seen has its blobs in the index files seen.
    pub fn load(repository: &Repository, watch: &dyn Observer) -> Result<Self> {
        Self::load_with(repository, watch, &|_| false, None, Err)
    }

    /// Reads all index files as [`Index::load`] does, and takes the packs that are known to be damaged or gone for
    /// marked: no new snapshot relies on them, and a blob that is in another pack too is read from there.
    ///
    /// Files that are in the cache are taken from there. Some of them are looked at all the same, and one that has become
    /// unreadable since is an error.
    pub fn load_distrusting(
        repository: &Repository,
        watch: &dyn Observer,
        distrusted: &dyn Fn(&Id) -> bool,
        cache: Option<&Cache>,
    ) -> Result<Self> {
        Self::load_with(repository, watch, distrusted, cache, Err)
    }

    /// Reads all index files as [`Index::load_distrusting`] does, none of them from a cache, and shows each one.
    pub(crate) fn load_seeing(
        repository: &Repository,
        watch: &dyn Observer,
        distrusted: &dyn Fn(&Id) -> bool,
        see: &mut dyn FnMut(&Id, &IndexFile),
    ) -> Result<Self> {
        let mut index = Self::new();
        let mut loading = Loading { repository, watch, distrusted, unreadable: Err, index: &mut index };
        loading.files(&repository.list(FileKind::Index)?, see)?;
        Ok(index)
    }

    /// Reads the index files that can be read, for a restore from a damaged repository, and warns of the others. Returns
    /// also whether there were no others.
    ///
    /// Blobs that only a damaged file names are [`Error::BlobMissing`] when they are wanted. A listing that
    /// fails is an error all the same. Nothing may be stored by such an index. Packs that are `distrusted` are read
    /// from only where there is no other. Files that are in the cache are taken from there; of those that have become unreadable since some
    /// are noticed and warned of.
    pub fn load_readable(
        repository: &Repository,
        watch: &dyn Observer,
        distrusted: &dyn Fn(&Id) -> bool,
        cache: Option<&Cache>,
    ) -> Result<(Self, bool)> {
        let mut is_whole = true;
        let index = Self::load_with(repository, watch, distrusted, cache, |error| {
            is_whole = false;
            watch.warn(&format!("a part of the index cannot be read: {error}"));
            Ok(())
        })?;
        Ok((index, is_whole))
    }

    fn load_with(
        repository: &Repository,
        watch: &dyn Observer,
        distrusted: &dyn Fn(&Id) -> bool,
        cache: Option<&Cache>,
        unreadable: impl FnMut(Error) -> Result<()>,
    ) -> Result<Self> {
        let mut index = Self::new();
        let mut loading = Loading { repository, watch, distrusted, unreadable, index: &mut index };
        match cache {
            None => loading.files(&repository.list(FileKind::Index)?, &mut |_, _| {})?,
            Some(cache) => loading.through(cache)?,
        }
        Ok(index)
    }
}

/// An index that is being loaded.
struct Loading<'l, Unreadable> {
    repository: &'l Repository,
    watch: &'l dyn Observer,
    distrusted: &'l dyn Fn(&Id) -> bool,
    unreadable: Unreadable,
    index: &'l mut Index,
}

impl<Unreadable: FnMut(Error) -> Result<()>> Loading<'_, Unreadable> {
    /// Takes what is kept from the cache and reads the rest, which is kept from now on.
    fn through(&mut self, cache: &Cache) -> Result<()> {
        let listed = self.repository.names(FileKind::Index)?;
        let mut shelf = cache.shelf(FileKind::Index, &listed);
        self.index.reserve(shelf.expected_bytes() / record::BLOB);
        let mut outcome = Ok(());
        shelf.read(|_, bytes| {
            let packs = record::decode_index(bytes)?;
            if outcome.is_ok() {
                outcome = self.add_kept(&packs);
            }
            Ok(())
        });
        outcome?;
        self.index.trim();
        let missing = shelf.missing();
        self.look_at_some(&listed, &missing)?;
        let missing = self.with_sizes(&missing)?;
        self.files(&missing, &mut |id, file| shelf.add(id, &record::encode_index(file)))?;
        shelf.finish();
        Ok(())
    }

    /// Reads some of the files that are kept all the same and compares their names: all where they are few, and a
    /// share from a random place on where they are many. What a backup relies on must be there for
    /// other hosts too.
    fn look_at_some(&mut self, listed: &[Id], missing: &[Id]) -> Result<()> {
        let kept: Vec<&Id> = listed.iter().filter(|id| missing.binary_search(id).is_err()).collect();
        let count = kept.len().min(LOOKED_AT.max(kept.len() / LOOKED_AT_SHARE));
        let mut start = [0; 8];
        fill_random(&mut start)?;
        let start = u64::from_le_bytes(start) % (kept.len().max(1) as u64);
        let places = (0..kept.len()).cycle().skip(usize::try_from(start).unwrap_or(0)).take(count);
        for id in places.map(|place| kept[place]) {
            match self.repository.ensure_readable(FileKind::Index, id) {
                // Removed since the listing.
                Err(Error::Missing { .. }) | Ok(()) => {}
                Err(error) => (self.unreadable)(error)?,
            }
        }
        Ok(())
    }

    /// Returns files with their sizes, where there are so many that it takes a while and a person wants to see how long.
    fn with_sizes(&self, files: &[Id]) -> Result<Vec<FileInfo>> {
        let mut sized: HashMap<Id, u64> = HashMap::new();
        if files.len() >= WORTH_SIZES {
            let listed = self.repository.list(FileKind::Index)?;
            sized.extend(listed.into_iter().map(|info| (info.id, info.size)));
        }
        let with_size = |id: &Id| FileInfo { id: *id, size: sized.get(id).copied().unwrap_or(0) };
        Ok(files.iter().map(with_size).collect())
    }

    fn add_kept(&mut self, packs: &[PackRecord<'_>]) -> Result<()> {
        for pack in packs {
            self.index.add_blobs(indexed(pack.id, pack.marked, self.distrusted), pack.blobs())?;
        }
        Ok(())
    }

    /// Reads index files on all cores, and hands over each that was read.
    fn files(&mut self, files: &[FileInfo], keep: &mut dyn FnMut(&Id, &IndexFile)) -> Result<()> {
        self.watch.phase("reading the index", files.iter().map(|file| file.size).sum());
        let repository = self.repository;
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, usize::from).min(files.len());
        let (sender, decoded) = crossbeam_channel::bounded(threads);
        thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    while let Some(info) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if sender.send((info, read_file(repository, &info.id))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            // Taken along, so that threads which still send do not wait for ever when this ends early.
            let decoded = decoded;
            for (info, file) in &decoded {
                if self.watch.cancelled() {
                    return Err(Error::Cancelled);
                }
                match file {
                    Ok(file) => {
                        self.index.add_file_distrusting(&file, self.distrusted)?;
                        keep(&info.id, &file);
                    }
                    Err(error) => (self.unreadable)(error)?,
                }
                self.watch.advance(info.size);
            }
            Ok(())
        })
    }
}

fn read_file(repository: &Repository, id: &Id) -> Result<IndexFile> {
    let json = repository.load_unpacked(FileKind::Index, id)?;
    IndexFile::decode(&json).map_err(|error| damaged(FileKind::Index, id, &error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::index::IndexPack;
    use crate::format::pack::{BlobKind, PackBlob};

    #[test]
    fn loading_ends_at_a_damaged_file_or_a_wish_to_stop_however_many_files_there_are() {
        struct Stop;
        impl Observer for Stop {
            fn cancelled(&self) -> bool {
                true
            }
        }
        let memory = crate::backend::MemoryBackend::new();
        let (password, options) = (crate::Secret::from("x"), crate::InitOptions::cheap());
        let now = jiff::Timestamp::UNIX_EPOCH;
        let repository = Repository::init(Arc::new(memory.clone()), &password, &options, now).unwrap();
        for number in 0..1000 {
            let pack = IndexPack { id: id(number), time: None, blobs: vec![blob(number)] };
            let file = IndexFile { packs: vec![pack], ..IndexFile::default() };
            repository.save_unpacked(FileKind::Index, &file.encode()).unwrap();
        }
        let (done, outcomes) = crossbeam_channel::bounded(2);
        thread::spawn(move || {
            done.send(Index::load(&repository, &Stop)).unwrap();
            let first = memory.names(FileKind::Index)[0];
            memory.alter(FileKind::Index, &first, |contents| contents.truncate(20));
            done.send(Index::load(&repository, &crate::Unobserved)).unwrap();
        });
        let next = || outcomes.recv_timeout(std::time::Duration::from_secs(60)).expect("loading ends");
        assert!(matches!(next(), Err(Error::Cancelled)));
        assert!(matches!(next(), Err(Error::Damaged { kind: FileKind::Index, .. })));
    }

    fn id(number: u64) -> Id {
        Id::of(&number.to_le_bytes())
    }

    fn blob(number: u64) -> PackBlob {
        let kind = BlobKind::Data;
        PackBlob { id: id(number), kind, offset: 7, length: 1000, uncompressed_length: Some(65536) }
    }
}
