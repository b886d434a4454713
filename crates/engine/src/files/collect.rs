//! Goes through a file, a directory or an archive, and notes what each file in it is.

mod archive;
mod parts;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use dbkeep_repo::write::PARTS_SUFFIX;
use flate2::read::MultiGzDecoder;

use super::content::{self, Form};
use super::documents::{self, Document, base};
use super::server;
use super::spool::{FileImage, Unpacked, spool, unpacked};
use crate::context::Watch;
use crate::export::place::STAGING;
use crate::export::written::{Sum, Summed, pump};
use crate::report::TableRows;
use crate::{Error, Result, served};

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
    /// Whether it is an archive, whose files are items of their own.
    pub(super) is_archive: bool,
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
    /// What tells whether it is what a manifest says.
    pub(super) proof: Option<super::server::Proof>,
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
            proof: None,
            metadata: None,
        }
    }

    pub(super) fn damaged(form: Form, finding: String) -> Self {
        Self { findings: vec![finding], ..Self::new(form) }
    }
}

/// What is added to the name of a database for the file in which changes to it may be.
const SIBLINGS: [&str; 2] = ["-wal", "-journal"];
/// What some programs write before a text in UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) items: Vec<Item>,
    /// Checksum files, manifests and metadata, with their paths.
    pub(super) documents: Vec<(String, Document)>,
    pub(super) notes: Vec<String>,
    /// Logs and journals beside databases, none of which is looked at.
    pub(super) logs: Vec<String>,
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
        let path = &documents::target(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.watch.phase(&format!("verify {name}"), metadata.len());
        self.file(path, &name, 0)?;
        let mut beside = documents::beside(&name);
        beside.extend(self.found.documents.iter().flat_map(|(_, document)| documents::named(document)));
        for beside in beside {
            let path = path.with_file_name(&beside);
            if path.is_file() {
                self.file(&path, &beside, 0)?;
            }
        }
        for sibling in SIBLINGS {
            let path = path.with_file_name(format!("{name}{sibling}"));
            if path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0) {
                self.found.logs.push(format!("{name}{sibling}"));
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(path)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(Error::io("read", path))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(Error::io("read", path))?;
            if kind.is_dir() && entry.file_name() == STAGING {
                self.found.notes.push(format!("{name} is what an export that did not end was building"));
            } else if kind.is_dir()
                && let Some(parts) = parts::Parts::of(&entry.path())?
            {
                self.parts(&parts, &name, depth)?;
            } else if kind.is_dir() && depth < DEEPEST {
                self.directory(&entry.path(), &format!("{name}/"), depth + 1)?;
            } else if kind.is_file() {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                self.watch.phase(&format!("verify {name}"), size);
                self.file(&entry.path(), &name, depth)?;
            } else if kind.is_dir() {
                self.note_depth(&name);
            } else {
                self.found.notes.push(format!("{name} was not looked at: it is no plain file"));
            }
        }
        Ok(())
    }

    /// Looks at a file that a snapshot has in parts because it is long, under its own name.
    fn parts(&mut self, parts: &parts::Parts, folder: &str, depth: usize) -> Result<()> {
        let name = folder.strip_suffix(PARTS_SUFFIX).unwrap_or(folder);
        if self.found.items.iter().any(|item| item.path == name) {
            self.found.notes.push(format!("{folder} was not looked at: {name} itself is there"));
            return Ok(());
        }
        self.watch.phase(&format!("verify {name}"), parts.size());
        if let Some(missing) = parts.missing() {
            let holding = Holding::damaged(Form::of_name(name), format!("{folder}/{missing} is not there"));
            let item = Item { path: name.to_owned(), sum: None, holding: Some(holding), is_archive: false };
            self.found.items.push(item);
            return Ok(());
        }
        self.read(name, &mut parts.reader(), None, depth)
    }

    fn note_depth(&mut self, name: &str) {
        self.found.notes.push(format!("{name} was not looked at: it lies more than {DEEPEST} levels deep"));
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
        if self.count() >= MOST {
            return Err(Error::Unsupported { what: format!("there are more than {MOST} files"), hint: None });
        }
        let mut summed = Summed::new(Watched { from, watch: self.watch });
        if documents::is_document(name) {
            let mut bytes = Vec::new();
            let read = (&mut summed).take(LONGEST_DOCUMENT).read_to_end(&mut bytes);
            let read = read.and_then(|_| pump(&mut summed, &mut io::sink()));
            let sum = self.sum(read, summed)?;
            self.found.documents.push((name.to_owned(), documents::read(name, &bytes)));
            self.found.items.push(Item { path: name.to_owned(), sum, holding: None, is_archive: false });
            return Ok(());
        }
        let before = self.count();
        let holding = self.contents(name, &mut summed, image, depth);
        let holding = match holding {
            Ok(holding) => holding,
            Err(Unpacked::Failed(error)) => return Err(error),
            Err(Unpacked::Damaged(finding)) => Some(Holding::damaged(Form::of_name(name), finding)),
        };
        // What follows what was looked at is part of the file.
        let rest = pump(&mut summed, &mut io::sink());
        let sum = self.sum(rest, summed)?;
        if SIBLINGS.iter().any(|sibling| name.ends_with(sibling)) && sum.is_some_and(|sum| sum.bytes > 0) {
            self.found.logs.push(name.to_owned());
        }
        let is_archive = self.count() > before;
        self.found.items.push(Item { path: name.to_owned(), sum, holding, is_archive });
        Ok(())
    }

    fn count(&self) -> usize {
        self.found.items.len() + self.found.documents.len()
    }

    /// Returns the sum of what was read to its end.
    fn sum<R>(&mut self, read: io::Result<()>, summed: Summed<R>) -> Result<Option<Sum>> {
        if self.watch.cancelled() {
            return Err(Error::Cancelled);
        }
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
            let mut unpacker = MultiGzDecoder::new(buffered);
            let mut plain = Summed::new(Stoppable { from: &mut unpacker, watch });
            let holding = match depth < DEEPEST {
                true => self.contents(&Form::inner_name(name), &mut plain, None, depth + 1)?,
                false => {
                    self.note_depth(name);
                    None
                }
            };
            pump(&mut plain, &mut io::sink()).map_err(unpacked)?;
            let sum = plain.finish().1;
            return Ok(holding.map(|holding| Holding {
                form: holding.form.compressed(),
                plain: Some(sum),
                ..holding
            }));
        }
        match base(name) {
            served::ARCHIVE => return server::archive(&mut buffered).map(Some),
            served::CATALOG => return server::catalog(&mut buffered, name),
            _ => {}
        }
        let form = Form::of(name, &beginning);
        if matches!(form, Form::Json | Form::Ndjson) && beginning.starts_with(BYTE_ORDER_MARK) {
            buffered.consume(BYTE_ORDER_MARK.len());
        }
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
            Form::Tar if depth < DEEPEST => self.archive(name, &mut buffered, depth).map(|()| None),
            Form::Tar => {
                self.note_depth(name);
                Ok(None)
            }
            Form::Sql => content::sql(&mut buffered, &cancelled).map(Some),
            Form::PostgresSql => server::sql(&mut buffered),
            Form::Copy => server::copy(&mut buffered).map(Some),
            Form::Json => content::json(&mut buffered, name),
            Form::Ndjson => content::ndjson(&mut buffered, name).map(Some),
            Form::Csv => content::csv(&mut buffered, name).map(Some),
            Form::Other => {
                Ok(Form::refusal(name).map(|finding| Holding::damaged(Form::of_name(name), finding)))
            }
            Form::Gzip(_) => Ok(None),
        }
    }
}

/// Returns how a file begins, without taking it away.
fn beginning(from: &mut BufReader<Ahead<'_>>) -> io::Result<Vec<u8>> {
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
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !std::mem::take(&mut self.is_first) {
            return self.from.read(buffer);
        }
        let wanted = buffer.len().min(BEGINNING);
        let mut filled = 0;
        while filled < wanted {
            match self.from.read(&mut buffer[filled..wanted]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
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
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = Stoppable { from: self.from, watch: self.watch }.read(buffer)?;
        self.watch.advance(count as u64);
        Ok(count)
    }
}

/// Ends with an error soon after the wish to stop: a few bytes may unpack to more than anybody waits for.
struct Stoppable<'r> {
    from: &'r mut dyn Read,
    watch: &'r Watch,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.watch.cancelled() {
            true => Err(io::Error::other("interrupted")),
            false => self.from.read(buffer),
        }
    }
}
