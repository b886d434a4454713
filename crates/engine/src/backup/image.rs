//! The image of one database: read once, cut, stored, counted and inspected on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use dbkeep_repo::Id;
use dbkeep_repo::format::tree::Node;
use dbkeep_repo::write::{ImageOptions, KnownChunks, PART_CHUNKS, StoredImage, Writer, give_way};
use dbkeep_sqlite::capture::{Capture, Method};
use dbkeep_sqlite::identify::Kind;
use dbkeep_sqlite::rows::RowCounter;
use ring::digest::{Context as Digest, SHA256};

use super::save::wants_sha256;
use super::snapshot::{Contents, Parent, meta};
use super::{Session, chunk_size};
use crate::context::Watch;
use crate::integrity::{Looked, StoredPages, Verify, look, look_at_image, look_at_stored};
use crate::manifest::{ImageFacts, Integrity, IntegrityResult, Manifest};
use crate::report::TableRows;
use crate::source::Source;
use crate::{Error, Result, name};

/// Where an image that was read without a moment to look at is small enough, it is looked at in memory.
const IN_MEMORY_UP_TO: u64 = 32 << 20;

/// What is read ahead of the look, so that a small database is in memory and its lock is given back.
const FIRST: usize = 1 << 20;

/// What may be kept in memory of an image while it is looked at through the repository.
const CACHE: usize = 64 << 20;

/// The image of a database in the repository, and what was found out about it.
pub(super) struct Content {
    pub(super) nodes: Vec<Node>,
    pub(super) contents: Contents,
    /// The ids of the chunks that were read for a safety backup, in order.
    pub(super) chunks: Vec<Id>,
    pub(super) known: Option<KnownChunks>,
}

impl Content {
    /// Returns the content of an earlier snapshot as that of a new one.
    pub(super) fn again(manifest: Manifest, nodes: Vec<Node>) -> Self {
        let contents = Contents {
            sqlite: manifest.sqlite,
            postgres: None,
            image: manifest.image,
            tables: manifest.tables,
            integrity: manifest.integrity,
            notes: Vec::new(),
            bytes_read: 0,
            bytes_added: 0,
            bytes_stored: 0,
        };
        Self { nodes, contents, chunks: Vec::new(), known: None }
    }
}

/// Returns the name of the image's file in a snapshot.
pub(super) fn file_name(database: &str) -> String {
    format!("{}.db", name::encode(database))
}

/// Returns how an image is cut.
pub(super) fn options(chunk_size: u32, known: Option<&KnownChunks>, sha256: bool) -> ImageOptions<'_> {
    ImageOptions { chunk_size, known, sha256 }
}

/// Returns the source's own error where it went through the writer.
pub(super) fn unwrap_source(error: dbkeep_repo::Error) -> Error {
    match error {
        dbkeep_repo::Error::Source(inner) => match inner.downcast::<dbkeep_sqlite::Error>() {
            Ok(error) => Error::Sqlite(*error),
            Err(inner) => Error::Repo(dbkeep_repo::Error::Source(inner)),
        },
        dbkeep_repo::Error::Cancelled => Error::Cancelled,
        other => Error::Repo(other),
    }
}

/// Reads and stores the image. Nothing of it is durable before the writer is flushed.
pub(super) fn read(
    session: &Session<'_>,
    writer: &mut Writer<'_>,
    source: &Source,
    capture: &mut Capture,
    parent: Option<&Parent<'_>>,
    watch: &Watch,
) -> Result<Content> {
    let chunk_size = chunk_size(capture, parent);
    let known = session.store.state().known_chunks(&source.name);
    let known = known.and_then(|bytes| KnownChunks::decode(&bytes).ok());
    let options = options(chunk_size, known.as_ref(), wants_sha256(session, capture.size()));

    let mut stream = Stream::begin(capture)?;
    let (mut image, looked) = stream.store_and_look(session, writer, &options, watch)?;
    watch.step("backup.image-streamed");
    stream.settle(writer, &mut image, options.sha256)?;
    // What was seen before the second pass replaced parts of it was another image.
    let looked = looked.filter(|_| stream.capture.inspection_holds());
    watch.step("backup.image-read");

    let name = file_name(&source.name);
    let nodes = writer.save_image_nodes(&image, &name, &meta(source, session.clock.now()))?;
    let looked = match looked {
        Some(looked) => looked?,
        None => stream.look_afterwards(session, writer, &nodes, watch)?,
    };
    let content = stream.content(name, &image, nodes, looked, known.as_ref());
    let chunks = if session.is_safety_backup() {
        image.chunks.iter().map(|chunk| chunk.id).collect()
    } else {
        Vec::new()
    };
    Ok(Content { chunks, ..content })
}

/// Returns the length of chunks: that of the last snapshot where it still fits, so that chunks are found again.
fn chunk_size(capture: &Capture, parent: Option<&Parent<'_>>) -> u32 {
    let last = parent.and_then(|parent| parent.manifest.as_ref()).map(|manifest| manifest.image.chunk_size);
    let page_size = capture.header().map_or(0, |header| header.page_size);
    chunk_size::choose(capture.size(), page_size, last)
}

/// An image on its way.
struct Stream<'c> {
    capture: &'c mut Capture,
    /// What was read before anything else.
    first: Vec<u8>,
    counter: Option<RowCounter>,
    /// All bytes, where they can be looked at in no other way that is as cheap.
    memory: Option<Vec<u8>>,
    method: Method,
    offset: u64,
}

impl<'c> Stream<'c> {
    fn begin(capture: &'c mut Capture) -> Result<Self> {
        let mut first = vec![0; FIRST];
        let count = capture.read(&mut first)?;
        first.truncate(count);
        let method = capture.method();
        let counter = capture.header().filter(|_| method != Method::Raw);
        let counter = counter.map(|header| RowCounter::new(header.page_size, header.reserved));
        Ok(Self { capture, first, counter, memory: None, method, offset: 0 })
    }

    /// Stores the image while another thread looks at it, where it can be looked at.
    fn store_and_look(
        &mut self,
        session: &Session<'_>,
        writer: &mut Writer<'_>,
        options: &ImageOptions<'_>,
        watch: &Watch,
    ) -> Result<(StoredImage, Option<Result<Looked>>)> {
        let inspection = self.capture.inspection()?;
        if inspection.is_none() && self.capture.size() <= IN_MEMORY_UP_TO {
            self.memory = Some(Vec::new());
        }
        let verify = session.verify;
        let stop = AtomicBool::new(false);
        let cancelled = || stop.load(Ordering::Relaxed) || watch.cancelled();
        let (ended, end) = mpsc::channel();
        thread::scope(|scope| {
            let looking = inspection
                .map(|connection| {
                    let cancelled = &cancelled;
                    let body = move || {
                        let _ended = ended;
                        give_way();
                        look(&connection, verify, cancelled)
                    };
                    thread::Builder::new().name("inspect".to_owned()).spawn_scoped(scope, body)
                })
                .transpose()
                .map_err(Error::io("start a thread for", &session.store.context().location))?;
            let stored = writer.save_image(&mut |buffer: &mut [u8]| self.next(buffer), options);
            // First of all, so that a check of what cannot be stored ends.
            stop.store(stored.is_err(), Ordering::Relaxed);
            let grown = if looking.is_some() { self.wait_while_log_is_small(&end) } else { Ok(()) };
            stop.store(stored.is_err() || grown.is_err(), Ordering::Relaxed);
            let looked = looking.map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
            let stored = stored.map_err(unwrap_source)?;
            grown?;
            Ok((stored, looked))
        })
    }

    /// Waits until the other end of the channel is gone. Fails when the log has grown too much meanwhile, since it cannot
    /// begin anew while it is looked at.
    fn wait_while_log_is_small(&self, end: &mpsc::Receiver<()>) -> Result<()> {
        const LOOK_EVERY: Duration = Duration::from_millis(100);
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(LOOK_EVERY) {
            self.capture.check_log_growth()?;
        }
        Ok(())
    }

    /// Gives the next bytes to the writer, and counts them on the way.
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, dbkeep_sqlite::BoxError> {
        let count = match self.first.len() {
            0 => self.capture.read(buffer)?,
            ready => {
                let count = ready.min(buffer.len());
                buffer[..count].copy_from_slice(&self.first[..count]);
                self.first.drain(..count);
                match count < buffer.len() {
                    true => count + self.capture.read(&mut buffer[count..])?,
                    false => count,
                }
            }
        };
        self.note(self.offset, &buffer[..count]);
        self.offset += count as u64;
        Ok(count)
    }

    /// Takes note of bytes of the image; those of a second pass replace those of the first.
    fn note(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(counter) = &mut self.counter {
            counter.feed(offset, bytes);
        }
        if let Some(memory) = &mut self.memory {
            // At most IN_MEMORY_UP_TO, unless the database grew between the passes.
            let Ok(start) = usize::try_from(offset) else { return };
            memory.resize(memory.len().max(start + bytes.len()), 0);
            memory[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Replaces what changed while the image was read without a lock.
    fn settle(&mut self, writer: &mut Writer<'_>, image: &mut StoredImage, sha256: bool) -> Result<()> {
        if !self.capture.needs_settling() {
            return Ok(());
        }
        let chunk_size = image.chunk_size;
        let mut digest: Option<Digest> = None;
        let (counter, memory) = (&mut self.counter, &mut self.memory);
        let mut chunk = |index: u64, bytes: &[u8]| -> Result<(), dbkeep_sqlite::BoxError> {
            if index == 0 && sha256 {
                digest = Some(Digest::new(&SHA256));
            }
            if let Some(digest) = &mut digest {
                digest.update(bytes);
            }
            let offset = index * u64::from(chunk_size);
            if let Some(counter) = counter {
                counter.feed(offset, bytes);
            }
            if let Some(memory) = memory {
                let start = usize::try_from(offset)?;
                memory.resize(memory.len().max(start + bytes.len()), 0);
                memory[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Ok(writer.replace_chunk(image, index, bytes)?)
        };
        let size = self.capture.settle(chunk_size, &mut chunk).map_err(consumer_error)?;
        writer.truncate(image, size)?;
        if let Some(memory) = &mut self.memory {
            memory.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        }
        if let Some(digest) = digest {
            image.sha256 = digest.finish().as_ref().try_into().ok();
        }
        Ok(())
    }

    /// Looks at an image that could not be looked at while it was read.
    fn look_afterwards(
        &mut self,
        session: &Session<'_>,
        writer: &mut Writer<'_>,
        nodes: &[Node],
        watch: &Watch,
    ) -> Result<Looked> {
        let cancelled = || watch.cancelled();
        if let Some(memory) = self.memory.take() {
            return self.judge(session.verify, |verify| look_at_image(Arc::new(memory), verify, &cancelled));
        }
        writer.flush()?;
        let reader = session.store.repository().reader(writer.shared_index());
        let [node, ..] = nodes else { unreachable!("an image has at least one node") };
        let pages = StoredPages::new(reader.random(&reader.image_of(node)?, CACHE, None)?);
        self.judge(session.verify, |verify| look_at_stored(&pages, verify, &cancelled))
    }

    /// Looks at the image, unless it is encrypted: then there is nothing to see, and that is no damage.
    fn judge(&self, verify: Verify, look: impl FnOnce(Verify) -> Result<Looked>) -> Result<Looked> {
        if self.method == Method::Raw && self.is_encrypted()? {
            return Ok(Looked {
                integrity: Integrity::new(IntegrityResult::NotRun, verify, vec![]),
                tables: Ok(Vec::new()),
                // The capture says that it looks encrypted.
                notes: Vec::new(),
            });
        }
        look(verify)
    }

    fn is_encrypted(&self) -> Result<bool> {
        let kind = dbkeep_sqlite::identify::kind_of(&self.capture.identity().path)?;
        Ok(kind == Kind::Encrypted)
    }

    /// Puts together what was found out.
    fn content(
        self,
        name: String,
        image: &StoredImage,
        nodes: Vec<Node>,
        looked: Looked,
        known: Option<&KnownChunks>,
    ) -> Content {
        let mut notes = looked.notes;
        let counted = looked.tables.and_then(|tables| match (&self.counter, tables.as_slice()) {
            (_, []) => Ok(Vec::new()),
            (Some(counter), tables) => Ok(counter.rows(tables)?),
            (None, _) => Ok(Vec::new()),
        });
        let tables = match counted {
            Ok(tables) => {
                tables.into_iter().map(|table| TableRows { name: table.name, rows: table.rows }).collect()
            }
            Err(error) => {
                notes.push(format!("the rows could not be counted: {}", error.full_message()));
                Vec::new()
            }
        };
        let mut integrity = looked.integrity;
        if self.method == Method::Raw && integrity.result == IntegrityResult::Ok {
            // SQLite refused the file itself; that its check likes the bytes does not make them a sound database.
            notes.push("it is a raw copy, so the check is of the main file alone".to_owned());
            integrity.result = IntegrityResult::NotRun;
        }
        if let Some(damage) = self.capture.damage() {
            // A restored database shows the bytes as SQLite read them, and they are not those that were committed.
            integrity.result = IntegrityResult::Corrupt;
            integrity.problems.insert(0, damage.to_owned());
        }
        let chunks = image.chunks.len();
        let facts = ImageFacts {
            name,
            size: image.size,
            chunk_size: image.chunk_size,
            chunks: chunks as u64,
            parts: if chunks > PART_CHUNKS { chunks.div_ceil(PART_CHUNKS) as u64 } else { 0 },
            root: image.root(),
            sha256: image.sha256.map(Id::new),
            method: self.method.to_string(),
            raw: self.method == Method::Raw,
        };
        let list = image.known();
        let contents = Contents {
            sqlite: None,
            postgres: None,
            image: facts,
            tables,
            integrity,
            notes,
            bytes_read: image.bytes_read,
            bytes_added: image.bytes_added,
            bytes_stored: image.bytes_stored,
        };
        Content { nodes, contents, chunks: Vec::new(), known: (known != Some(&list)).then_some(list) }
    }
}

fn panicked() -> Error {
    Error::Damaged { what: "the database".to_owned(), finding: "the check of it panicked".to_owned() }
}

/// Returns the writer's own error where it went through the capture.
fn consumer_error(error: dbkeep_sqlite::Error) -> Error {
    match error {
        dbkeep_sqlite::Error::Consumer(inner) => match inner.downcast::<dbkeep_repo::Error>() {
            Ok(error) => unwrap_source(*error),
            Err(inner) => Error::Sqlite(dbkeep_sqlite::Error::Consumer(inner)),
        },
        other => other.into(),
    }
}
