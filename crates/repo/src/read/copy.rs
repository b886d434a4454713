//! From one repository into another: what a directory tree needs and the other one lacks.
//!
//! Blobs keep their names, as these are hashes of what they hold. Each is fetched by plan (`plan.rs`), opened and
//! hashed here, and sealed for the other repository by its writer; all of that on several threads and with bounded
//! memory: some 70 bytes for each of the blobs of one batch.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::image::ImageBuilder;
use super::{Image, Reader, lost, plain_length};
use crate::Id;
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::tree::Tree;
use crate::observe::Observer;
use crate::write::{Inlet, Writer};

/// Blobs that are copied before they are made durable and read back: what a copy that is interrupted may lose.
const BATCH_BLOBS: usize = 1 << 16;
/// The same in plain bytes.
const BATCH_BYTES: u64 = 1 << 30;

/// Why a tree could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It could not be read here. The other repository is as usable as before.
    #[error(transparent)]
    Source(Error),
    /// It could not be stored there. Nothing more can be.
    #[error(transparent)]
    Target(Error),
}

/// The blobs of a tree that the other repository lacks, as far as the walk has come.
#[derive(Default)]
struct Batch {
    names: HashSet<Id>,
    blobs: ImageBuilder,
}

impl Reader {
    /// Copies everything below the tree `root` that the repository of `writer` lacks, `root` included.
    ///
    /// `whole` are trees that are known to be there with all they need; on success those met here are added. What is
    /// there is not read again, but for the directories that lead to it. On return everything is stored or on
    /// its way: [`Writer::flush_and_read_back`] or [`Writer::commit_copied`] makes it durable. Returns how many plain
    /// bytes of data were read.
    pub fn copy_tree(
        &self,
        root: &Id,
        writer: &mut Writer<'_>,
        whole: &mut HashSet<Id>,
        watch: &dyn Observer,
    ) -> Result<u64, CopyError> {
        let mut met = HashSet::new();
        let mut open = vec![*root];
        let mut batch = Batch::default();
        let mut bytes_read = 0;
        while let Some(id) = open.pop() {
            if whole.contains(&id) || !met.insert(id) {
                continue;
            }
            if watch.cancelled() {
                return Err(CopyError::Target(Error::Cancelled));
            }
            let (plain, tree) = self.tree_for_copy(&id, writer).map_err(CopyError::Source)?;
            for node in &tree.nodes {
                for id in node.content.iter().flatten() {
                    self.want(id, writer, &mut batch).map_err(CopyError::Source)?;
                }
            }
            // In the order of the names: what lies beside each other in an image should do so in a pack.
            open.extend(tree.nodes.iter().rev().filter_map(|node| node.subtree));
            writer.save_copied_tree(&plain).map_err(CopyError::Target)?;
            if batch.names.len() >= BATCH_BLOBS || batch.blobs.size() >= BATCH_BYTES {
                bytes_read += self.copy_batch(std::mem::take(&mut batch), writer, watch)?;
                writer.flush_and_read_back().map_err(CopyError::Target)?;
            }
        }
        bytes_read += self.copy_batch(batch, writer, watch)?;
        whole.extend(met);
        Ok(bytes_read)
    }

    /// Says whether the repository of `writer` has everything below the tree `root`. Nothing is stored, and no data is
    /// read. `whole` is what [`Reader::copy_tree`] has it for.
    pub fn is_there(
        &self,
        root: &Id,
        writer: &Writer<'_>,
        whole: &mut HashSet<Id>,
        watch: &dyn Observer,
    ) -> Result<bool> {
        let mut met = HashSet::new();
        let mut open = vec![*root];
        while let Some(id) = open.pop() {
            if whole.contains(&id) || !met.insert(id) {
                continue;
            }
            if watch.cancelled() {
                return Err(Error::Cancelled);
            }
            if !writer.knows(BlobKind::Tree, &id) {
                return Ok(false);
            }
            let (_, tree) = self.tree_for_copy(&id, writer)?;
            let mut data = tree.nodes.iter().filter_map(|node| node.content.as_ref()).flatten();
            if !data.all(|id| writer.knows(BlobKind::Data, id)) {
                return Ok(false);
            }
            open.extend(tree.nodes.iter().filter_map(|node| node.subtree));
        }
        whole.extend(met);
        Ok(true)
    }

    /// Reads everything below the tree `root` and compares every hash; nothing is kept. Returns how many plain bytes
    /// of data that were.
    ///
    /// `proved` are trees below which everything was read before; on success those met here are added.
    pub fn read_tree(&self, root: &Id, proved: &mut HashSet<Id>, watch: &dyn Observer) -> Result<u64> {
        let mut met = HashSet::new();
        let mut open = vec![*root];
        let mut batch = Batch::default();
        let mut bytes_read = 0;
        while let Some(id) = open.pop() {
            if proved.contains(&id) || !met.insert(id) {
                continue;
            }
            let tree = self.tree(&id)?;
            for id in tree.nodes.iter().filter_map(|node| node.content.as_ref()).flatten() {
                if batch.names.insert(*id) {
                    batch.blobs.push(*id, self.plain_length_of(id)?);
                }
            }
            open.extend(tree.nodes.iter().rev().filter_map(|node| node.subtree));
            if batch.blobs.size() >= BATCH_BYTES {
                bytes_read += self.read_batch(std::mem::take(&mut batch), watch)?;
            }
        }
        bytes_read += self.read_batch(batch, watch)?;
        proved.extend(met);
        Ok(bytes_read)
    }

    /// Reads the blobs of a batch. Returns their plain bytes.
    fn read_batch(&self, batch: Batch, watch: &dyn Observer) -> Result<u64> {
        let image = batch.blobs.finish();
        self.visit(&image, |_| true, false, watch, &|_, _| Ok(()))?;
        Ok(image.size())
    }

    /// Reads a tree here or, where that fails and the other repository has it, there.
    fn tree_for_copy(&self, id: &Id, writer: &Writer<'_>) -> Result<(Vec<u8>, Tree)> {
        let plain = self.blob(BlobKind::Tree, id).or_else(|error| {
            let there = writer.knows(BlobKind::Tree, id).then(|| writer.reader());
            there.and_then(|there| there.blob(BlobKind::Tree, id).ok()).ok_or(error)
        })?;
        let tree = Tree::decode(&plain).map_err(|error| self.odd(id, format!("tree {id:.8}: {error}")))?;
        Ok((plain, tree))
    }

    /// Adds a blob to the batch unless it is stored there.
    fn want(&self, id: &Id, writer: &Writer<'_>, batch: &mut Batch) -> Result<()> {
        if !writer.knows(BlobKind::Data, id) && batch.names.insert(*id) {
            batch.blobs.push(*id, self.plain_length_of(id)?);
        }
        Ok(())
    }

    fn plain_length_of(&self, id: &Id) -> Result<u32> {
        let location = self.index.read().get(BlobKind::Data, id).ok_or_else(|| lost(BlobKind::Data, id))?;
        plain_length(&location).ok_or_else(|| Error::Damaged {
            kind: FileKind::Pack,
            id: location.pack,
            what: format!("blob {id:.8} has an impossible length"),
        })
    }

    /// Fetches the blobs of a batch and hands them to the writer. Returns their plain bytes.
    fn copy_batch(&self, batch: Batch, writer: &Writer<'_>, watch: &dyn Observer) -> Result<u64, CopyError> {
        let image = batch.blobs.finish();
        let inlet = writer.inlet().map_err(CopyError::Target)?;
        let refused = Mutex::new(None);
        let put = |offset: u64, plain: &[u8]| {
            put(&inlet, &image, offset, plain).map_err(|error| {
                refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                Error::Cancelled
            })
        };
        let visited = self.visit(&image, |_| true, false, watch, &put);
        drop(inlet);
        match (refused.into_inner().unwrap_or_else(PoisonError::into_inner), visited) {
            (Some(error), _) | (None, Err(error @ Error::Cancelled)) => return Err(CopyError::Target(error)),
            (None, Err(error)) => return Err(CopyError::Source(error)),
            (None, Ok(())) => {}
        }
        // Whatever the reason, a snapshot is never made of what was not taken.
        match image.ids().iter().find(|id| !writer.knows(BlobKind::Data, id)) {
            Some(id) => Err(CopyError::Source(lost(BlobKind::Data, id))),
            None => Ok(image.size()),
        }
    }
}

/// Gives a stretch of blobs to the writer.
fn put(inlet: &Inlet<'_>, image: &Image, offset: u64, plain: &[u8]) -> Result<()> {
    let mut blobs = Vec::new();
    let mut end = 0;
    let mut chunk = image.chunk_at(offset);
    while let Some(number) = chunk.filter(|number| *number < image.chunks() && end < plain.len()) {
        let length = image.span(number).1 as usize;
        blobs.push((image.ids()[number], length));
        end += length;
        chunk = Some(number + 1);
    }
    inlet.put(plain, &blobs)
}
