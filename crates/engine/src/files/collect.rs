//! Goes through a file, a directory or an archive, and notes what each file in it is.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::content::{self, Form};
use super::documents::{self, Document};
use super::spool::{FileImage, Unpacked, spool, unpacked};
use crate::context::Watch;
use crate::export::written::{Sum, Summed, pump};
use crate::report::TableRows;
use crate::{Error, Result};

/// The most files that are looked at.
const MOST: usize = 100_000;
/// How deep directories and archives are gone into.
const DEEPEST: usize = 8;
/// The longest document that is kept in memory.
const LONGEST_DOCUMENT: u64 = 64 << 20;
/// What is looked at to tell what a file is.
const BEGINNING: usize = 4096;

/// A file that was looked at.
#[derive(Debug)]
pub(super) struct Item {
    /// Its path below what was given, with slashes.
    pub(super) path: String,
    /// Length and SHA-256 of the file as it is; `None` when it is only part of an archive that could not be read on.
    pub(super) sum: Option<Sum>,
    /// What it holds.
    pub(super) holding: Option<Holding>,
}

/// The contents of a database, in whatever form.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) form: Form,
    /// Length and SHA-256 of what is in a compressed file.
    pub(super) plain: Option<Sum>,
    pub(super) tables: Vec<TableRows>,
    /// Whether there are virtual tables, which others may have counted too.
    pub(super) has_virtual: bool,
    /// Whether the file says that changes may be in a log beside it.
    pub(super) is_wal: bool,
    /// `ok`, `not run`, or the first problem.
    pub(super) integrity: String,
    pub(super) findings: Vec<String>,
    pub(super) notes: Vec<String>,
    /// What the file says of itself.
    pub(super) metadata: Option<super::json::Metadata>,
}

impl Holding {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            plain: None,
            tables: Vec::new(),
            has_virtual: false,
            is_wal: false,
            integrity: "not run".to_owned(),
            findings: Vec::new(),
            notes: Vec::new(),
            metadata: None,
        }
    }

    pub(super) fn damaged(form: Form, finding: String) -> Self {
        Self { findings: vec![finding], ..Self::new(form) }
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) items: Vec<Item>,
    /// Checksum files, manifests and metadata, with their paths.
    pub(super) documents: Vec<(String, Document)>,
    pub(super) notes: Vec<String>,
    /// Whether what was given is one file, and what lies beside it was looked for.
    pub(super) is_single: bool,
}

/// Looks at one thing that was given.
pub(super) struct Collector<'w> {
    watch: &'w Watch,
    found: Collected,
}

impl<'w> Collector<'w> {
    pub(super) fn new(watch: &'w Watch) -> Self {
        Self { watch, found: Collected::default() }
    }

    pub(super) fn finish(self) -> Collected {
        self.found
    }

    /// Looks at a file with what belongs to it, or at a directory.
    pub(super) fn look_at(&mut self, path: &Path) -> Result<()> {
        let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
        if metadata.is_dir() {
            return self.directory(path, "", 0);
        }
        if !metadata.is_file() {
            // Reading a pipe or a device may never end.
            return Err(dbkeep_sqlite::Error::NotAFile { path: path.to_owned() }.into());
        }
        self.found.is_single = true;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.watch.phase(&format!("verify {name}"), metadata.len());
        self.file(path, &name, 0)?;
        for beside in documents::beside(&name) {
            let path = path.with_file_name(&beside);
            if path.is_file() {
                self.file(&path, &beside, 0)?;
            }
        }
        if path.with_file_name(format!("{name}-wal")).metadata().is_ok_and(|metadata| metadata.len() > 0) {
            self.found.notes.push(format!("{name}-wal lies beside it: the changes in it were not looked at"));
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(path)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .map_err(Error::io("read", path))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(Error::io("read", path))?;
            if kind.is_dir() && depth < DEEPEST {
                self.directory(&entry.path(), &format!("{name}/"), depth + 1)?;
            } else if kind.is_file() {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                self.watch.phase(&format!("verify {name}"), size);
                self.file(&entry.path(), &name, depth)?;
            } else {
                self.found.notes.push(format!("{name} was not looked at: it is no plain file"));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &str, depth: usize) -> Result<()> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        let image = file.try_clone().map_err(Error::io("read", path))?;
        let mut reader = &file;
        self.read(name, &mut reader, Some(FileImage { file: image, size }), depth).map_err(
            |error| match error {
                Error::Io { action: "read", source, .. } => {
                    Error::Io { action: "read", path: path.to_owned(), source }
                }
                other => other,
            },
        )
    }

    /// Looks at one file, which is read from its beginning to its end. `image` is there where it is a file of its own.
    fn read(
        &mut self,
        name: &str,
        from: &mut dyn Read,
        image: Option<FileImage>,
        depth: usize,
    ) -> Result<()> {
        if self.watch.cancelled() {
            return Err(Error::Cancelled);
        }
        if self.found.items.len() + self.found.documents.len() >= MOST {
            return Err(Error::Unsupported { what: format!("there are more than {MOST} files"), hint: None });
        }
        let mut summed = Summed::new(Watched { from, watch: self.watch });
        if documents::is_document(name) {
            let mut bytes = Vec::new();
            let read = (&mut summed).take(LONGEST_DOCUMENT).read_to_end(&mut bytes).map(drop);
            let sum = self.sum(read, summed)?;
            self.found.documents.push((name.to_owned(), documents::read(name, &bytes)));
            self.found.items.push(Item { path: name.to_owned(), sum, holding: None });
            return Ok(());
        }
        let holding = self.contents(name, &mut summed, image, depth);
        let holding = match holding {
            Ok(holding) => holding,
            Err(Unpacked::Failed(error)) => return Err(error),
            Err(Unpacked::Damaged(finding)) => Some(Holding::damaged(Form::of_name(name), finding)),
        };
        // What follows what was looked at is part of the file.
        let rest = pump(&mut summed, &mut std::io::sink());
        let sum = self.sum(rest, summed)?;
        self.found.items.push(Item { path: name.to_owned(), sum, holding });
        Ok(())
    }

    /// Returns the sum of what was read to its end.
    fn sum<R>(&mut self, read: std::io::Result<()>, summed: Summed<R>) -> Result<Option<Sum>> {
        match read.map_err(unpacked) {
            Ok(()) => Ok(Some(summed.finish().1)),
            Err(Unpacked::Failed(error)) => Err(error),
            Err(Unpacked::Damaged(_)) => Ok(None),
        }
    }

    /// Tells what a file holds by how it begins.
    fn contents(
        &mut self,
        name: &str,
        from: &mut dyn Read,
        image: Option<FileImage>,
        depth: usize,
    ) -> Result<Option<Holding>, Unpacked> {
        let mut buffered = BufReader::with_capacity(256 << 10, Ahead::new(from));
        let beginning = beginning(&mut buffered).map_err(unpacked)?;
        let watch = self.watch;
        let cancelled = || watch.cancelled();
        if beginning.starts_with(b"\x1f\x8b") {
            let mut plain = Summed::new(MultiGzDecoder::new(buffered));
            let holding = match depth < DEEPEST {
                true => self.contents(&Form::inner_name(name), &mut plain, None, depth + 1)?,
                false => None,
            };
            pump(&mut plain, &mut std::io::sink()).map_err(unpacked)?;
            let sum = plain.finish().1;
            return Ok(holding.map(|holding| Holding {
                form: holding.form.compressed(),
                plain: Some(sum),
                ..holding
            }));
        }
        let form = Form::of(name, &beginning);
        match form {
            Form::Sqlite => {
                let image = match image {
                    Some(image) => image,
                    None => {
                        let (file, sum) = spool(&mut buffered)?;
                        FileImage { file, size: sum.bytes }
                    }
                };
                content::sqlite(image, &cancelled).map(Some).map_err(Unpacked::Failed)
            }
            Form::Tar => self.archive(name, &mut buffered, depth).map(|()| None),
            Form::Sql => content::sql(&mut buffered, &cancelled).map(Some),
            Form::Json => content::json(&mut buffered, name),
            Form::Ndjson => content::ndjson(&mut buffered, name).map(Some),
            Form::Csv => content::csv(&mut buffered, name).map(Some),
            Form::Other => {
                Ok(Form::refusal(name).map(|finding| Holding::damaged(Form::of_name(name), finding)))
            }
            Form::Gzip(_) => Ok(None),
        }
    }

    /// Goes through an archive. Nothing is unpacked under the names in it.
    fn archive(&mut self, name: &str, from: &mut dyn Read, depth: usize) -> Result<(), Unpacked> {
        let is_outermost = depth <= 1 && self.found.is_single && self.found.items.is_empty();
        let prefix = if is_outermost { String::new() } else { format!("{name}/") };
        let mut archive = tar::Archive::new(from);
        for entry in archive.entries().map_err(unpacked)? {
            let mut entry = entry.map_err(unpacked)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path().map_err(unpacked)?.to_string_lossy().into_owned();
            let path = format!("{prefix}{}", path.trim_start_matches("./"));
            let size = entry.size();
            let mut counted = Summed::new(&mut entry);
            self.read(&path, &mut counted, None, depth + 1).map_err(Unpacked::Failed)?;
            let read = counted.finish().1.bytes;
            if read != size {
                return Err(Unpacked::Damaged(format!("the archive breaks off in {path}")));
            }
        }
        Ok(())
    }
}

/// Returns how a file begins, without taking it away.
fn beginning(from: &mut BufReader<Ahead<'_>>) -> std::io::Result<Vec<u8>> {
    let bytes = from.fill_buf()?;
    Ok(bytes[..bytes.len().min(BEGINNING)].to_vec())
}

/// Fills the first reading, so that a beginning is not cut short by how bytes arrive.
struct Ahead<'r> {
    from: &'r mut dyn Read,
    is_first: bool,
}

impl<'r> Ahead<'r> {
    fn new(from: &'r mut dyn Read) -> Self {
        Self { from, is_first: true }
    }
}

impl Read for Ahead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !std::mem::take(&mut self.is_first) {
            return self.from.read(buffer);
        }
        let wanted = buffer.len().min(BEGINNING);
        let mut filled = 0;
        while filled < wanted {
            match self.from.read(&mut buffer[filled..wanted]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // What came before the damage is looked at; the next reading tells of it again.
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Shows what is read to who watches.
struct Watched<'r> {
    from: &'r mut dyn Read,
    watch: &'r Watch,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.watch.advance(count as u64);
        Ok(count)
    }
}
