//! Storing what another repository holds: blobs that have their names already, and snapshots as they are.
//!
//! What a copy stores is read back from the storage before anything names it: packs before the index files, index
//! files before the snapshot. A pack that does not come back as it was sent stays out of every index, so that nothing
//! ever relies on it.

use std::marker::PhantomData;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::work::{Job, Line, Parcel};
use super::{Writer, gone};
use crate::Id;
use crate::backend::FileKind;
use crate::check::read_back;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;

/// Takes data blobs from several threads at once.
pub(crate) struct Inlet<'w> {
    line: Arc<Line>,
    jobs: Sender<Job>,
    fingerprint_key: [u8; 32],
    /// The writer waits for all senders of jobs when it is dropped.
    writer: PhantomData<&'w ()>,
}

impl Inlet<'_> {
    /// Takes blobs that lie one behind the other in `plain`, each with its name and length. Those that are stored are
    /// left out. The caller has compared their hashes with their names.
    pub(crate) fn put(&self, plain: &[u8], blobs: &[(Id, usize)]) -> Result<()> {
        let session = &self.line.session;
        session.check()?;
        let mut parcel = Parcel::default();
        let mut rest = plain;
        for (id, length) in blobs {
            let (plain, behind) = rest.split_at(*length);
            rest = behind;
            if session.claim(BlobKind::Data, id) {
                let fingerprint = *blake3::keyed_hash(&self.fingerprint_key, plain).as_bytes();
                parcel.bytes.extend_from_slice(plain);
                parcel.blobs.push((*id, fingerprint, *length));
            }
        }
        if parcel.blobs.is_empty() {
            return Ok(());
        }
        session.sent();
        if self.jobs.send(Job::Copied(parcel)).is_err() {
            session.done();
            return Err(gone());
        }
        Ok(())
    }
}

impl Writer<'_> {
    /// Returns where several threads can put data blobs.
    pub(crate) fn inlet(&self) -> Result<Inlet<'_>> {
        let jobs = self.jobs.clone().ok_or(Error::Cancelled)?;
        let fingerprint_key = self.line.session.repository.key().fingerprint_key();
        Ok(Inlet { line: Arc::clone(&self.line), jobs, fingerprint_key, writer: PhantomData })
    }

    /// Says whether a blob is stored or about to be.
    pub(crate) fn knows(&self, kind: BlobKind, id: &Id) -> bool {
        self.line.session.knows(kind, id)
    }

    /// Stores a directory as another repository holds it, unless it is stored.
    pub(crate) fn save_copied_tree(&mut self, plain: &[u8]) -> Result<Id> {
        self.save_blob(BlobKind::Tree, plain)
    }

    /// Stores all packs, reads them back from the storage, and only then writes the index files that name them, which
    /// are read back too. Returns how many bytes were read back.
    ///
    /// Of each pack every byte is read: its SHA-256 is compared with its name, its header with the index, and each blob
    /// is opened, decompressed and hashed. On return everything saved so far is durable.
    pub fn flush_and_read_back(&mut self) -> Result<u64> {
        self.flush_packs()?;
        let session = &self.line.session;
        let packs = session.take_unlisted();
        if packs.is_empty() {
            return Ok(0);
        }
        session.watch.step("copy.packs-stored");
        let bytes = read_back(&session.repository, &session.index, &packs, self.watch());
        let bytes = bytes.or_else(|error| {
            // No index names these packs, and none will.
            session.fail(Some(error));
            session.check().map(|()| 0)
        })?;
        session.watch.step("copy.read-back");
        for (id, contents) in self.listing().save_packs(packs)? {
            self.read_back_object(FileKind::Index, &id, &contents)?;
        }
        Ok(bytes)
    }

    /// Makes a snapshot of the JSON that another repository has of it, durably, after everything that it needs, and
    /// reads it back. Returns its id.
    pub fn commit_copied(&mut self, json: &[u8]) -> Result<Id> {
        self.flush_and_read_back()?;
        let id = self.commit_encoded(json)?;
        self.read_back_object(FileKind::Snapshot, &id, json)?;
        Ok(id)
    }

    /// Reads an object that was just stored; one that does not come back as it was is removed again.
    fn read_back_object(&self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()> {
        let session = &self.line.session;
        let error = match session.repository.load_unpacked(kind, id) {
            Ok(found) if found == contents => return Ok(()),
            Ok(_) => Error::Damaged { kind, id: *id, what: "it reads back as something else".to_owned() },
            Err(error) => error,
        };
        // Nobody was told of it, and nothing relies on it.
        _ = session.repository.backend().remove(kind, id);
        session.fail(Some(error));
        session.check()
    }
}
