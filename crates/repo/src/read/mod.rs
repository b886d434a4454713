//! Reading: from a snapshot to bytes, each blob's MAC, length and SHA-256 checked.
//!
//! A [`Reader`] fetches single blobs, trees and files; [`Reader::restore`] brings back a whole
//! image by plan (`plan.rs`, `restore.rs`), and [`Reader::random`] reads any part of one (`random.rs`).
//! Nothing here writes into the repository.

mod blob;
mod cache;
mod copy;
mod forward;
mod image;
mod plan;
mod random;
mod restore;
mod streams;

pub(crate) use blob::{Expected, Opener, plain_length};
pub use copy::CopyError;
pub use forward::Forward;
pub use image::Image;
use image::ImageBuilder;
pub use random::{FirstRead, ImageReader};
pub use restore::ImageSink;

use std::panic::resume_unwind;
use std::thread;

use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::format::tree::{Node, NodeKind, Tree};
use crate::index::{Location, SharedIndex};
use crate::write::{PARTS_SUFFIX, part_name};
use crate::{Id, Repository};

/// Parts whose lists of chunks are in memory at once, besides the list that is made of them.
const TOGETHER: usize = 256;

/// Reads what snapshots hold. Clones share the index.
#[derive(Clone)]
pub struct Reader {
    repository: Repository,
    index: SharedIndex,
}

impl Repository {
    /// Makes a reader. List the snapshots before the index is loaded, so that it knows their blobs.
    pub fn reader(&self, index: impl Into<SharedIndex>) -> Reader {
        Reader { repository: self.clone(), index: index.into() }
    }
}

impl Reader {
    /// Returns the index in use.
    pub fn index(&self) -> &SharedIndex {
        &self.index
    }

    /// Returns the plain bytes of a blob.
    pub fn blob(&self, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        blob::read(&self.repository, &self.locate(kind, id)?, id)
    }

    /// Returns a directory.
    pub fn tree(&self, id: &Id) -> Result<Tree> {
        let location = self.locate(BlobKind::Tree, id)?;
        let json = blob::read(&self.repository, &location, id)?;
        Tree::decode(&json).map_err(|error| Error::Damaged {
            kind: FileKind::Pack,
            id: location.pack,
            what: format!("tree {id:.8}: {error}"),
        })
    }

    /// Returns the contents of a file that is at most `limit` bytes long.
    pub fn file(&self, node: &Node, limit: u64) -> Result<Vec<u8>> {
        let image = self.image_of(node)?;
        if image.size() > limit {
            return Err(Error::Unsupported {
                what: format!("{} has {} bytes, {limit} were expected at most", node.name, image.size()),
            });
        }
        let mut contents = Vec::new();
        for id in image.ids() {
            contents.extend_from_slice(&self.blob(BlobKind::Data, id)?);
        }
        Ok(contents)
    }

    /// Returns the node at a path of a snapshot, as `/shop/manifest.json`; `None` when there is none.
    pub fn find(&self, snapshot: &Snapshot, path: &str) -> Result<Option<Node>> {
        let mut tree = snapshot.tree;
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let Some(node) = self.tree(&tree)?.nodes.into_iter().find(|node| node.name == name) else {
                return Ok(None);
            };
            if names.peek().is_none() {
                return Ok(Some(node));
            }
            match node.subtree {
                Some(subtree) => tree = subtree,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Returns the image `name` in a directory of a snapshot, whether it is one file or in
    /// parts; `None` when there is neither.
    pub fn image(&self, snapshot: &Snapshot, directory: &str, name: &str) -> Result<Option<Image>> {
        let path = format!("{directory}/{name}");
        if let Some(node) = self.find(snapshot, &path)?.filter(|node| node.kind == NodeKind::File) {
            return self.image_of(&node).map(Some);
        }
        match self.find(snapshot, &format!("{path}{PARTS_SUFFIX}"))? {
            Some(node) => self.image_of(&node).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the image that a node holds: a file, or the directory of an image's parts.
    pub fn image_of(&self, node: &Node) -> Result<Image> {
        let mut builder = ImageBuilder::default();
        match &node.subtree {
            None => self.add_file(node, &mut builder)?,
            Some(parts) => self.add_parts(parts, &mut builder)?,
        }
        Ok(builder.finish())
    }

    /// Adds the parts in order. A part that is missing, or anything else in their place, is an error:
    /// what would come out is not the image.
    fn add_parts(&self, parts: &Id, builder: &mut ImageBuilder) -> Result<()> {
        let odd = |what: String| self.odd(parts, what);
        builder.push_tree(*parts);
        let directories = self.tree(parts)?.nodes;
        let mut subtrees = Vec::with_capacity(directories.len());
        for (number, directory) in directories.iter().enumerate() {
            let expected = part_name(number);
            if directory.name != expected {
                return Err(odd(format!("{:?} where part {expected} should be", directory.name)));
            }
            subtrees.push(directory.subtree.ok_or_else(|| odd(format!("part {expected} is no directory")))?);
        }
        let mut names = (0..).map(part_name);
        for subtrees in subtrees.chunks(TOGETHER) {
            for ((subtree, tree), name) in subtrees.iter().zip(self.trees(subtrees)?).zip(&mut names) {
                match tree.nodes.as_slice() {
                    [part] => self.add_file(part, builder)?,
                    nodes => return Err(odd(format!("part {name} holds {} files", nodes.len()))),
                }
                builder.push_tree(*subtree);
            }
        }
        Ok(())
    }

    /// Returns directories in the order in which they are named, read on two threads: little is asked for at once, and
    /// storage takes its time for each.
    fn trees(&self, ids: &[Id]) -> Result<Vec<Tree>> {
        let (here, there) = ids.split_at(ids.len().div_ceil(2));
        let read = |ids: &[Id]| ids.iter().map(|id| self.tree(id)).collect::<Result<Vec<Tree>>>();
        if there.is_empty() {
            return read(here);
        }
        let (here, there) = thread::scope(|scope| {
            let other = thread::Builder::new().name("trees".to_owned()).spawn_scoped(scope, || read(there));
            let here = read(here);
            let there = match other {
                Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => read(there),
            };
            (here, there)
        });
        let mut trees = here?;
        trees.append(&mut there?);
        Ok(trees)
    }

    fn add_file(&self, node: &Node, builder: &mut ImageBuilder) -> Result<()> {
        let Some(content) = node.content.as_ref().filter(|_| node.kind == NodeKind::File) else {
            return Err(Error::Unsupported { what: format!("{} is not a file", node.name) });
        };
        let before = builder.size();
        let index = self.index.read();
        for id in content {
            let location = index.get(BlobKind::Data, id).ok_or_else(|| lost(BlobKind::Data, id))?;
            let length = plain_length(&location).ok_or_else(|| Error::Damaged {
                kind: FileKind::Pack,
                id: location.pack,
                what: format!("blob {id:.8} has an impossible length"),
            })?;
            builder.push(*id, length);
        }
        let size = builder.size() - before;
        if size != node.size {
            return Err(Error::Unsupported {
                what: format!("{} claims {} bytes and has {size}", node.name, node.size),
            });
        }
        Ok(())
    }

    fn locate(&self, kind: BlobKind, id: &Id) -> Result<Location> {
        self.index.read().get(kind, id).ok_or_else(|| lost(kind, id))
    }

    fn odd(&self, tree: &Id, what: String) -> Error {
        match self.locate(BlobKind::Tree, tree) {
            Ok(location) => Error::Damaged { kind: FileKind::Pack, id: location.pack, what },
            Err(error) => error,
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Reader({:?})", self.index.read())
    }
}

/// Makes the error for a blob that no index file names.
fn lost(kind: BlobKind, id: &Id) -> Error {
    Error::BlobMissing { kind, id: *id }
}
