//! Images of databases: cutting, feeding the workers, and the nodes that describe them.

use jiff::Timestamp;
use ring::digest::{Context, SHA256};

use super::chunk::{ImageOptions, ImageSource, KnownChunk, StoredImage, digest_of};
use super::work::{Batch, Job};
use super::{BATCH, INDEX_BLOBS, Writer, gone};
use crate::Id;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::tree::{MODE_DIRECTORY, Node, Tree};

/// The most chunks in one file. An image with more is stored in parts of so many, each in a
/// directory of its own: the format writes a file's whole list of chunks anew when one of them changes.
pub const PART_CHUNKS: usize = 1024;
/// The most parts of an image: their names have five digits, and readers expect them in order.
pub(super) const MAX_PARTS: usize = 100_000;
/// What is appended to an image's name for the directory of its parts.
pub const PARTS_SUFFIX: &str = ".parts";
/// The name of the file in each part's directory.
pub(super) const PART: &str = "part";
/// Files that are no images are cut into blobs of this size.
const FILE_CHUNK: usize = 1 << 20;

/// What stock tools restore besides the contents.
#[derive(Clone, Debug, Default)]
pub struct NodeMeta {
    /// Permission bits.
    pub mode: u32,
    /// When the contents were last changed.
    pub mtime: Timestamp,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name.
    pub user: String,
    /// The group's name.
    pub group: String,
}

impl NodeMeta {
    /// Makes a file node.
    pub fn file(&self, name: &str, size: u64, content: Vec<Id>) -> Node {
        self.own(Node { mode: self.mode & 0o777, ..Node::file(name, self.mtime, size, content) })
    }

    /// Makes a directory node; who may read the contents may also enter.
    pub fn directory(&self, name: &str, subtree: Id) -> Node {
        let enter = (self.mode & 0o444) >> 2;
        let mode = MODE_DIRECTORY | self.mode & 0o777 | enter;
        self.own(Node { mode, ..Node::directory(name, self.mtime, subtree) })
    }

    fn own(&self, node: Node) -> Node {
        let (user, group) = (self.user.clone(), self.group.clone());
        Node { uid: self.uid, gid: self.gid, user, group, ..node }
    }
}

impl Writer<'_> {
    /// Reads an image to its end and stores the chunks that are not stored.
    ///
    /// An error of the source ([`Error::Source`]) leaves the session usable for other images.
    /// Chunks become durable with the next [`Writer::flush`] or [`Writer::commit`].
    pub fn save_image(
        &mut self,
        source: &mut dyn ImageSource,
        options: &ImageOptions<'_>,
    ) -> Result<StoredImage> {
        let chunk_size = options.chunk_size as usize;
        if !(1 << 10..=16 << 20).contains(&chunk_size) {
            return Err(Error::Unsupported {
                what: format!("chunks of {chunk_size} bytes: 1 KiB to 16 MiB"),
            });
        }
        let mut image = StoredImage {
            chunk_size: options.chunk_size,
            size: 0,
            chunks: Vec::new(),
            sha256: None,
            bytes_read: 0,
            bytes_added: 0,
            bytes_stored: 0,
        };
        let fed = self.feed(source, options, &mut image);
        while self.busy > 0 {
            self.collect(&mut image)?;
        }
        fed?;
        self.line.session.check()?;
        Ok(image)
    }

    /// Reads the source and keeps the workers busy.
    fn feed(
        &mut self,
        source: &mut dyn ImageSource,
        options: &ImageOptions<'_>,
        image: &mut StoredImage,
    ) -> Result<()> {
        let chunk_size = options.chunk_size as usize;
        let known = options.known.filter(|known| known.chunk_size == options.chunk_size);
        let known = known.map_or(&[][..], |known| &known.chunks);
        let mut sha256 = options.sha256.then(|| Context::new(&SHA256));
        loop {
            self.line.session.check()?;
            if self.watch().cancelled() {
                return Err(Error::Cancelled);
            }
            self.listing().save(INDEX_BLOBS as u64)?;
            let mut batch = match self.idle.pop() {
                Some(batch) => batch,
                None => self.collect(image)?,
            };
            batch.prepare(chunk_size, image.chunks.len(), known);
            let filled = fill(source, &mut batch.bytes);
            let Ok(filled @ 1..) = filled else {
                self.idle.push(batch);
                filled.map_err(Error::Source)?;
                image.sha256 = sha256.map(digest_of);
                return Ok(());
            };
            batch.filled = filled;
            if let Some(sha256) = &mut sha256 {
                sha256.update(&batch.bytes[..filled]);
            }
            image.size += filled as u64;
            image.bytes_read += filled as u64;
            self.line.session.count_read(filled as u64);
            image.chunks.resize(batch.first + filled.div_ceil(chunk_size), PLACEHOLDER);
            self.send(Job::Chunks(batch))?;
            self.busy += 1;
            self.watch().advance(filled as u64);
        }
    }

    fn send(&self, job: Job) -> Result<()> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(gone()) }
    }

    /// Waits for a batch and writes its result into the image.
    fn collect(&mut self, image: &mut StoredImage) -> Result<Batch> {
        let batch = self.finished.recv().map_err(|_| gone())?;
        self.busy -= 1;
        // After an error a batch comes back with fewer results; the image is given up then.
        for (place, chunk) in image.chunks[batch.first..].iter_mut().zip(&batch.chunks) {
            *place = *chunk;
        }
        image.bytes_added += batch.added;
        image.bytes_stored += batch.stored;
        Ok(batch)
    }

    /// Puts other bytes into the place of one chunk, or appends a chunk. Nothing happens when they are the same.
    ///
    /// `bytes` is as long as a chunk; a shorter one becomes the last, and what was behind it is cut off.
    /// Appending needs a last chunk of full length.
    pub fn replace_chunk(&mut self, image: &mut StoredImage, index: u64, bytes: &[u8]) -> Result<()> {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let chunk_size = image.chunk_size as usize;
        let count = image.chunks.len();
        let whole = image.size == count as u64 * u64::from(image.chunk_size);
        if place > count || (place == count && !whole) || bytes.len() > chunk_size || bytes.is_empty() {
            return Err(Error::Unsupported {
                what: format!("{} bytes as chunk {index} of {count}", bytes.len()),
            });
        }
        self.line.session.check()?;
        let end = index * u64::from(image.chunk_size) + bytes.len() as u64;
        if place + 1 >= count || bytes.len() < chunk_size {
            if image.size != end {
                image.sha256 = None;
            }
            image.chunks.truncate(place + 1);
            image.size = end;
        }
        let fingerprint = self.bench.sealer.fingerprint(bytes);
        if image.chunks.get(place).is_some_and(|chunk| chunk.fingerprint == fingerprint) {
            return Ok(());
        }
        image.sha256 = None;
        let id = Id::of(bytes);
        let chunk = KnownChunk { fingerprint, id };
        match image.chunks.get_mut(place) {
            Some(old) => *old = chunk,
            None => image.chunks.push(chunk),
        }
        if self.line.session.claim(BlobKind::Data, &id) {
            image.bytes_added += bytes.len() as u64;
            self.line.session.sent();
            self.send(Job::Blob { id, fingerprint, bytes: bytes.to_vec() })?;
        }
        Ok(())
    }

    /// Cuts an image off at `size`, which is where a chunk ends or the image's size already:
    /// a shorter last chunk is given to [`Writer::replace_chunk`].
    pub fn truncate(&mut self, image: &mut StoredImage, size: u64) -> Result<()> {
        if size == image.size {
            return Ok(());
        }
        if size > image.size || !size.is_multiple_of(u64::from(image.chunk_size)) {
            return Err(Error::Unsupported {
                what: format!("an image of {} bytes cut at {size}", image.size),
            });
        }
        let count = size / u64::from(image.chunk_size);
        image.chunks.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        image.size = size;
        image.sha256 = None;
        Ok(())
    }

    /// Stores a file that is in memory. Returns its node.
    pub fn save_file(&mut self, name: &str, contents: &[u8], meta: &NodeMeta) -> Result<Node> {
        let ids = contents.chunks(FILE_CHUNK).map(|plain| self.save_blob(BlobKind::Data, plain));
        let content = ids.collect::<Result<_>>()?;
        Ok(meta.file(name, contents.len() as u64, content))
    }

    /// Returns the nodes under which an image appears: one file `name`, or for more than
    /// [`PART_CHUNKS`] chunks a directory `name.parts` with a directory `00000`, `00001`, … for each
    /// part, whose file `part` holds so many chunks. `cat name.parts/*/part` gives the image.
    ///
    /// The trees of parts carry no times, so that an unchanged part is the same tree in every snapshot.
    pub fn save_image_nodes(
        &mut self,
        image: &StoredImage,
        name: &str,
        meta: &NodeMeta,
    ) -> Result<Vec<Node>> {
        let ids = |chunks: &[KnownChunk]| chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>();
        if image.chunks.len() <= PART_CHUNKS {
            return Ok(vec![meta.file(name, image.size, ids(&image.chunks))]);
        }
        ensure_parts_fit(image.chunks.len())?;
        let timeless = NodeMeta { mtime: Timestamp::UNIX_EPOCH, ..meta.clone() };
        let part_size = u64::from(image.chunk_size) * PART_CHUNKS as u64;
        let mut rest = image.size;
        let trees = self.save_trees(image.chunks.chunks(PART_CHUNKS).map(|chunks| {
            let part = timeless.file(PART, rest.min(part_size), ids(chunks));
            rest = rest.saturating_sub(part_size);
            Tree { nodes: vec![part] }
        }))?;
        let part = |(number, tree)| timeless.directory(&part_name(number), tree);
        let tree = self.save_tree(&Tree { nodes: trees.into_iter().enumerate().map(part).collect() })?;
        Ok(vec![meta.directory(&format!("{name}{PARTS_SUFFIX}"), tree)])
    }
}

/// Stands for a chunk that a worker has not dealt with yet.
const PLACEHOLDER: KnownChunk = KnownChunk { fingerprint: [0; 32], id: Id::NULL };

/// Fails when an image has so many parts that their names would not be in order: it could not be restored.
fn ensure_parts_fit(chunks: usize) -> Result<()> {
    if chunks.div_ceil(PART_CHUNKS) <= MAX_PARTS {
        return Ok(());
    }
    let what = format!(
        "an image of {chunks} chunks: {} is the limit, larger ones are needed",
        MAX_PARTS * PART_CHUNKS
    );
    Err(Error::Unsupported { what })
}

/// Returns the name of a part's directory: sorted by name the parts are in order up to [`MAX_PARTS`],
/// which is an image of 6 TiB in chunks of 64 KiB.
pub(crate) fn part_name(number: usize) -> String {
    format!("{number:05}")
}

impl Batch {
    fn prepare(&mut self, chunk_size: usize, first: usize, known: &[KnownChunk]) {
        let chunks = (BATCH / chunk_size).max(1);
        self.bytes.resize(chunks * chunk_size, 0);
        self.filled = 0;
        self.chunk_size = chunk_size;
        self.first = first;
        self.known.clear();
        self.known.extend(known.iter().skip(first).take(chunks));
        self.chunks.clear();
        self.added = 0;
        self.stored = 0;
    }
}

/// Fills a buffer as far as the source goes, also when it gives less than asked for.
fn fill(
    source: &mut dyn ImageSource,
    buffer: &mut [u8],
) -> std::result::Result<usize, crate::error::BoxError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read.min(buffer.len() - filled),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_as_many_parts_as_are_stored_are_in_order() {
        let names: Vec<String> = (0..MAX_PARTS).map(part_name).collect();
        assert!(names.is_sorted());
        assert!(part_name(MAX_PARTS) < names[MAX_PARTS - 1], "one more would not be");
        ensure_parts_fit(MAX_PARTS * PART_CHUNKS).unwrap();
        assert!(matches!(ensure_parts_fit(MAX_PARTS * PART_CHUNKS + 1), Err(Error::Unsupported { .. })));
    }
}
