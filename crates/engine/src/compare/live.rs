//! The live database as one side of a comparison.
//!
//! It is captured as for a backup: one committed moment, and locks no longer than that takes. Chunks that are those
//! of the snapshot are not kept; the others go to memory, and where they are many to a file without a name. So the
//! lock or the read mark is given back before anything is compared.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbkeep_repo::Id;
use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::vfs::PageSource;

use super::{ImagePages, Opened, Run, push};
use crate::context::Context;
use crate::manifest::{Identity, Manifest};
use crate::report::ComparedSide;
use crate::state::private_directory;
use crate::{Error, Result, source};

/// Chunks that are kept in memory, in bytes, before they go to a file.
const MEMORY: usize = 64 << 20;

/// How much is read at once, where chunks are not longer.
const READ: usize = 1 << 20;

/// The length of chunks where those of the snapshot have different ones.
const CHUNK: u32 = 64 << 10;

/// Returns where the database of a snapshot is: the configured place, else the one it was backed up from.
pub(super) fn path(context: &Context, manifest: &Manifest, force: bool) -> Result<PathBuf> {
    let name = &manifest.database;
    if let Some(configured) = context.config.databases.get(name) {
        if configured.sqlite.is_none() {
            return Err(Error::usage(
                format!("the snapshot is of a SQLite database, and {name} is configured as a PostgreSQL one"),
                "compare two snapshots, or correct the configuration",
            ));
        }
        let mut found = source::resolve(context, std::slice::from_ref(name), None)?;
        let unknown = || Error::UnknownSource { name: name.clone(), suggestion: None };
        return match found.pop() {
            Some(Ok(source)) => source.file().map(Path::to_owned).ok_or_else(unknown),
            Some(Err(unresolved)) => Err(*unresolved.error),
            None => Err(unknown()),
        };
    }
    if let Some(file) = manifest.identity.file()
        && (file.host == context.environment.host || force)
    {
        return Ok(PathBuf::from(&file.path));
    }
    Err(Error::Refused {
        what: format!("{name} is a database of another host: {}", manifest.identity),
        hint: Some("compare two snapshots, or add --force if this host is the same one".to_owned()),
    })
}

/// The live database at one moment.
pub(super) struct Live {
    pub(super) pages: Arc<LivePages>,
    pub(super) side: ComparedSide,
    pub(super) notes: Vec<String>,
}

impl Live {
    /// Reads the database at `path`, and keeps of it what the snapshot does not have. No lock is held on return.
    pub(super) fn read(run: &Run<'_>, snapshot: &Opened, path: &Path) -> Result<Self> {
        let patience = run.store.context().lock_patience;
        let options = CaptureOptions { busy_timeout: patience, ..CaptureOptions::default() };
        let mut capture = Capture::open(path, &options)?;
        if capture.method() == Method::Raw {
            return Err(Error::Damaged {
                what: path.display().to_string(),
                finding: capture.warnings().last().cloned().unwrap_or_default(),
            });
        }
        refuse_other_database(run, snapshot, &capture)?;
        run.watch.step("compare.captured");
        run.watch.phase(&format!("read {}", snapshot.manifest.database), capture.size());
        let mut pages = LivePages::new(run, snapshot);
        if is_unchanged(run, snapshot, &capture) {
            pages.take_over();
        } else {
            pages.fill(run, &mut capture)?;
            run.watch.step("compare.chunks");
        }
        let mut notes: Vec<String> = capture
            .damage()
            .map(|damage| format!("the current database is damaged: {damage}"))
            .into_iter()
            .collect();
        notes.extend(capture.finish()?.warnings);
        run.watch.step("compare.read");
        let side = ComparedSide {
            snapshot: None,
            database: snapshot.manifest.database.clone(),
            source: crate::name::printable(&path.to_string_lossy()),
            moment: run.now,
        };
        Ok(Self { pages: Arc::new(pages), side, notes })
    }
}

/// Refuses a file that is not the database of the snapshot.
fn refuse_other_database(run: &Run<'_>, snapshot: &Opened, capture: &Capture) -> Result<()> {
    let found = Identity::of_file(&run.store.context().environment.host, capture.identity());
    let known = &snapshot.manifest.identity;
    if run.request.force || known.is_same(&found) {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("{found} is another database than that of the snapshot, {known}"),
        hint: Some("compare two snapshots of one database, or add --force if this is meant".to_owned()),
    })
}

/// Says whether the database is provably what the snapshot is of.
fn is_unchanged(run: &Run<'_>, snapshot: &Opened, capture: &Capture) -> bool {
    let saved = run.store.state().position(&snapshot.manifest.database);
    saved.is_some_and(|saved| {
        Some(saved.snapshot) == snapshot.side.snapshot && capture.is_unchanged_since(&saved.position)
    })
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the snapshot, at the same place.
    Snapshot,
    /// Kept, in this slot.
    Kept(usize),
}

/// The image of the live database: chunks of the snapshot, and those that differ from them.
pub(super) struct LivePages {
    snapshot: Arc<ImagePages>,
    ids: Vec<Id>,
    /// The length of chunks, and that of the last one of the snapshot.
    chunk_size: u32,
    snapshot_size: u64,
    places: Vec<Place>,
    size: u64,
    kept: Kept,
}

impl LivePages {
    fn new(run: &Run<'_>, snapshot: &Opened) -> Self {
        // Chunks of different lengths stand for nothing that could be read in chunks of one length.
        let (chunk_size, ids) = match snapshot.image.chunk_size() {
            Some(chunk_size) => (chunk_size, snapshot.image.ids().to_vec()),
            None => (CHUNK, Vec::new()),
        };
        Self {
            snapshot: Arc::clone(&snapshot.pages),
            ids,
            chunk_size,
            snapshot_size: snapshot.image.size(),
            places: Vec::new(),
            size: 0,
            kept: Kept::new(chunk_size as usize, MEMORY, run.store.state().directory()),
        }
    }

    /// Takes all from the snapshot, as nothing changed.
    fn take_over(&mut self) {
        self.size = self.snapshot_size;
        self.places = vec![Place::Snapshot; self.chunks()];
        if self.ids.is_empty() {
            // One stretch, whatever the lengths of its chunks.
            self.chunk_size = u32::MAX;
            self.places = vec![Place::Snapshot; self.chunks()];
        }
    }

    fn chunks(&self) -> usize {
        usize::try_from(self.size.div_ceil(u64::from(self.chunk_size))).unwrap_or(usize::MAX)
    }

    /// Reads the captured database to its end.
    fn fill(&mut self, run: &Run<'_>, capture: &mut Capture) -> Result<()> {
        let chunk_size = self.chunk_size as usize;
        let mut buffer = vec![0; chunk_size * (READ / chunk_size).max(1)];
        let mut index = 0;
        loop {
            if run.watch.cancelled() {
                return Err(Error::Cancelled);
            }
            let count = capture.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.take(index, &buffer[..count])?;
            index += count.div_ceil(chunk_size);
            run.watch.advance(count as u64);
        }
        self.size = capture.size();
        if capture.needs_settling() {
            let length = self.chunk_size;
            let mut chunk = |index: u64, bytes: &[u8]| {
                if run.watch.cancelled() {
                    return Err(Box::new(Error::Cancelled).into());
                }
                Ok(self.take(usize::try_from(index)?, bytes)?)
            };
            self.size = capture.settle(length, &mut chunk).map_err(own_error)?;
        }
        self.places.truncate(self.chunks());
        Ok(())
    }

    /// Takes chunks from `first` on; what was taken for them before is replaced.
    fn take(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        let chunks: Vec<&[u8]> = bytes.chunks(self.chunk_size as usize).collect();
        let ids = Id::of_each(&chunks);
        for (index, (bytes, id)) in (first..).zip(chunks.into_iter().zip(ids)) {
            let start = index as u64 * u64::from(self.chunk_size);
            let length = self.snapshot_size.saturating_sub(start).min(u64::from(self.chunk_size));
            let is_same = self.ids.get(index) == Some(&id) && length == bytes.len() as u64;
            let slot = match self.places.get(index) {
                Some(Place::Kept(slot)) => Some(*slot),
                _ => None,
            };
            let place = match is_same {
                true => Place::Snapshot,
                false => Place::Kept(self.kept.put(slot, bytes)?),
            };
            match self.places.get_mut(index) {
                Some(known) => *known = place,
                None => self.places.push(place),
            }
        }
        Ok(())
    }

    /// Returns the stretches that are those of the snapshot.
    pub(super) fn same(&self) -> Vec<Range<u64>> {
        let mut same = Vec::new();
        for (index, _) in self.places.iter().enumerate().filter(|(_, place)| **place == Place::Snapshot) {
            let start = index as u64 * u64::from(self.chunk_size);
            push(&mut same, start..(start + u64::from(self.chunk_size)).min(self.size));
        }
        same
    }
}

/// Returns our own error where it went through the capture.
fn own_error(error: dbkeep_sqlite::Error) -> Error {
    match error {
        dbkeep_sqlite::Error::Consumer(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(inner) => Error::Sqlite(dbkeep_sqlite::Error::Consumer(inner)),
        },
        other => other.into(),
    }
}

impl PageSource for LivePages {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let chunk_size = u64::from(self.chunk_size);
        let (mut offset, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let index = usize::try_from(offset / chunk_size).map_err(io::Error::other)?;
            let within = offset % chunk_size;
            let count = usize::try_from(chunk_size - within).map_err(io::Error::other)?.min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            match self.places.get(index).ok_or(io::ErrorKind::UnexpectedEof)? {
                Place::Snapshot => self.snapshot.read_at(offset, now)?,
                Place::Kept(slot) => self.kept.read(*slot, within, now)?,
            }
            (offset, rest) = (offset + count as u64, later);
        }
        Ok(())
    }
}

/// Chunks in slots of one length, the first ones in memory.
struct Kept {
    /// Bytes of a slot, how many are taken, and how many lie in memory.
    slot: usize,
    slots: usize,
    in_memory: usize,
    memory: Vec<u8>,
    file: Option<File>,
    directory: PathBuf,
}

impl Kept {
    /// Takes `memory` bytes of memory at most.
    fn new(slot: usize, memory: usize, directory: &Path) -> Self {
        let (in_memory, directory) = (memory / slot, directory.to_owned());
        Self { slot, slots: 0, in_memory, memory: Vec::new(), file: None, directory }
    }

    /// Keeps a chunk, in a slot of its own or in the one that it replaces.
    fn put(&mut self, slot: Option<usize>, bytes: &[u8]) -> Result<usize> {
        let slot = slot.unwrap_or(self.slots);
        self.slots = self.slots.max(slot + 1);
        if slot < self.in_memory {
            let start = slot * self.slot;
            self.memory.resize(self.memory.len().max(start + self.slot), 0);
            self.memory[start..start + bytes.len()].copy_from_slice(bytes);
            return Ok(slot);
        }
        let directory = self.directory.clone();
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless_file(&directory)?),
        };
        let offset = (slot - self.in_memory) as u64 * self.slot as u64;
        file.write_all_at(bytes, offset).map_err(Error::io("write to", &directory))?;
        Ok(slot)
    }

    fn read(&self, slot: usize, within: u64, buffer: &mut [u8]) -> io::Result<()> {
        if slot < self.in_memory {
            let start = slot * self.slot + usize::try_from(within).map_err(io::Error::other)?;
            let bytes = self.memory.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?;
        file.read_exact_at(buffer, (slot - self.in_memory) as u64 * self.slot as u64 + within)
    }
}

/// Makes a file that nobody else can open, and that is gone with this process.
pub(super) fn nameless_file(directory: &Path) -> Result<File> {
    private_directory(directory)?;
    let path = directory.join(format!("compare-{}-{:?}", std::process::id(), std::time::Instant::now()));
    let make = || {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    make().map_err(Error::io("write to", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_kept_in_memory_first_and_then_in_a_file_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        let mut kept = Kept::new(100, 250, &directory);
        let chunk = |number: u8| vec![number; 100];
        for number in 0..5 {
            assert_eq!(kept.put(None, &chunk(number)).unwrap(), usize::from(number));
            // The third one is the first that does not fit into the memory.
            assert_eq!(directory.exists(), number >= 2);
        }
        // Those that were read again take the place of the first reading; the last one may be shorter.
        assert_eq!(kept.put(Some(1), &chunk(11)).unwrap(), 1);
        assert_eq!(kept.put(Some(3), &chunk(13)).unwrap(), 3);
        assert_eq!(kept.put(None, &[15; 40]).unwrap(), 5);
        for (slot, number) in [0, 11, 2, 13, 4, 15].into_iter().enumerate() {
            let mut bytes = [0; 30];
            kept.read(slot, 10, &mut bytes).unwrap();
            assert_eq!(bytes, [number; 30]);
        }
        assert!(kept.read(9, 0, &mut [0; 1]).is_err());
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nobody else can find it");
    }
}
