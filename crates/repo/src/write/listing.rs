//! Index files: they name the packs that are stored, and the blobs in them.

use super::upload::Session;
use crate::backend::FileKind;
use crate::error::Result;
use crate::format::index::{IndexFile, IndexPack};
use crate::{Id, RepositoryLock};

/// Index files are cut at about so many blobs, as stock tools do.
pub(crate) const INDEX_BLOBS: usize = 50_000;

/// Writes the index files of a session. Several threads may do so at once: each pack is handed to one of them.
#[derive(Clone, Copy)]
pub(super) struct Listing<'s> {
    pub(super) session: &'s Session,
    pub(super) lock: &'s dyn RepositoryLock,
}

impl Listing<'_> {
    /// Writes index files for packs that are stored, when they hold more than `blobs` blobs.
    pub(super) fn save(&self, blobs: u64) -> Result<()> {
        if self.session.unlisted_blobs() <= blobs {
            return Ok(());
        }
        self.save_packs(self.session.take_unlisted()).map(drop)
    }

    /// Writes index files that name these packs. Returns the names and contents of the files.
    pub(super) fn save_packs(&self, packs: Vec<IndexPack>) -> Result<Vec<(Id, Vec<u8>)>> {
        let session = self.session;
        self.lock.ensure_valid()?;
        let mut files = Vec::new();
        let mut rest = split(packs).into_iter();
        while let Some(packs) = rest.next() {
            let index = IndexFile { packs, ..IndexFile::default() };
            let file = index.encode();
            match self.store(&file) {
                Ok(id) => files.push((id, file)),
                Err(error) => {
                    // Nothing may be built on these packs.
                    session.put_back_unlisted(index.packs.into_iter().chain(rest.flatten()));
                    session.fail(Some(error));
                    session.check()?;
                    break;
                }
            }
            session.watch.step("backup.index-stored");
        }
        Ok(files)
    }

    /// Stores an index file. When the lock was lost meanwhile its packs may be gone, so it is taken back; and after an
    /// error of the storage it may be there all the same.
    fn store(&self, json: &[u8]) -> Result<Id> {
        let repository = &self.session.repository;
        let (id, sealed) = repository.seal_unpacked(json)?;
        let stored = repository.backend().write(FileKind::Index, &id, &sealed);
        stored.and_then(|()| self.lock.ensure_valid()).inspect_err(|_| {
            _ = repository.backend().remove(FileKind::Index, &id);
        })?;
        Ok(id)
    }
}

/// Cuts packs into index files.
pub(crate) fn split(packs: Vec<IndexPack>) -> Vec<Vec<IndexPack>> {
    let mut files = Vec::new();
    let mut blobs = INDEX_BLOBS;
    for pack in packs {
        if blobs >= INDEX_BLOBS {
            files.push(Vec::new());
            blobs = 0;
        }
        blobs += pack.blobs.len();
        if let Some(file) = files.last_mut() {
            file.push(pack);
        }
    }
    files
}
