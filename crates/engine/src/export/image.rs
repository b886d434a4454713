//! Exports the database file itself, plain or compressed.

use std::io::{self, Read, Write};

use dbkeep_repo::Id;
use dbkeep_repo::read::{Image, ImageReader};

use super::place::Finished;
use super::written::{Sum, Summed, compress, pump, reads_back, sum_of, write};
use super::{Export, Exported, Subject};
use crate::context::Watch;
use crate::{Error, Result};

/// What is kept in memory of an image that is read from end to end.
const CACHE: usize = 16 << 20;

impl Export<'_> {
    /// Writes the database file and its checksum; for a raw copy its journal and log as well.
    pub(super) fn image_files(
        &self,
        subject: &Subject,
        compressed: bool,
        finished: &mut Vec<Finished>,
    ) -> Result<Exported> {
        let mut exported = Exported::default();
        for (suffix, image) in self.images(subject)? {
            let ending = if compressed { ".gz" } else { "" };
            let name = format!("{}.db{suffix}{ending}", subject.stem());
            let staged = self.place.file()?;
            let (sum, plain) = self.image_file(staged.file(), &image, compressed)?;
            if suffix.is_empty() {
                self.compare(subject, plain.sha256)?;
                exported.sha256 = Some(plain.sha256);
            }
            exported.bytes += sum.bytes;
            finished.push(Finished::File { staged, name: name.clone(), sum });
            finished.push(self.checksum(&name, &sum)?);
        }
        Ok(exported)
    }

    /// Returns the file `<name>.sha256`.
    pub(super) fn checksum(&self, name: &str, sum: &Sum) -> Result<Finished> {
        let staged = self.place.file()?;
        let line = sum.line(name);
        (&mut staged.file()).write_all(line.as_bytes()).map_err(|error| self.write_failed(error))?;
        Ok(Finished::File { staged, name: format!("{name}.sha256"), sum: sum_of(line.as_bytes()) })
    }

    /// Returns the image, and the files that belong to a raw copy, with what is added to the name for each.
    pub(super) fn images(&self, subject: &Subject) -> Result<Vec<(&'static str, Image)>> {
        let mut images = vec![("", subject.image()?.clone())];
        if subject.manifest.image.raw {
            for suffix in ["-journal", "-wal"] {
                let name = format!("{}{suffix}", subject.manifest.image.name);
                let entry = &subject.entry;
                let found = self.reader.image(&entry.snapshot, &entry.directory(), &name)?;
                images.extend(found.map(|image| (suffix, image)));
            }
        }
        Ok(images)
    }

    /// Writes an image into a file. Returns the sums of the file and of the image.
    pub(super) fn image_file(
        &self,
        file: &std::fs::File,
        image: &Image,
        compressed: bool,
    ) -> Result<(Sum, Sum)> {
        let mut stream = Summed::new(self.stream(image)?);
        let result: io::Result<Sum> = write(file, |out| match compressed {
            true => compress(out, |gzip| pump(&mut stream, gzip)),
            false => pump(&mut stream, out),
        });
        let (stream, plain) = stream.finish();
        let sum = self.outcome(stream.failure, result)?;
        if compressed {
            reads_back(file, &plain)
                .map_err(Error::io("read back what was written to", self.place.path()))?;
        }
        Ok((sum, plain))
    }

    /// Tells what made a copy fail: the repository, the wish to stop, or the writer.
    pub(super) fn outcome<T>(&self, failure: Option<Error>, result: io::Result<T>) -> Result<T> {
        match failure {
            Some(error) => Err(error),
            None => result.map_err(|error| self.write_failed(error)),
        }
    }

    /// Compares the plain SHA-256 with that of the manifest. Blobs and root were compared already.
    pub(super) fn compare(&self, subject: &Subject, found: Id) -> Result<()> {
        match subject.manifest.image.sha256 {
            Some(expected) if expected != found => Err(Error::Damaged {
                what: subject.what(),
                finding: "the image has another SHA-256 than the manifest says".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn stream(&self, image: &Image) -> Result<Stream<'_>> {
        let reader = self.reader.random(image, CACHE, None)?;
        Ok(Stream { reader, offset: 0, watch: self.watch, failure: None })
    }
}

/// An image from its beginning to its end.
pub(super) struct Stream<'s> {
    reader: ImageReader,
    offset: u64,
    watch: &'s Watch,
    /// Why reading failed; what [`Read`] says is only that it did.
    pub(super) failure: Option<Error>,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.cancelled() {
            self.failure = Some(Error::Cancelled);
            return Err(io::Error::other("interrupted"));
        }
        let left = usize::try_from(self.reader.size() - self.offset).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        if let Err(error) = self.reader.read_at(self.offset, &mut buffer[..length]) {
            let told = io::Error::other(error.to_string());
            self.failure = Some(error.into());
            return Err(told);
        }
        self.offset += length as u64;
        self.watch.advance(length as u64);
        Ok(length)
    }
}
