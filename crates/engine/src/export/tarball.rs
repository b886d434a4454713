//! Exports a session as one archive: the tree of a bundle, with the database files as they are, since the archive
//! is compressed as a whole.
//!
//! It is written in one pass: what a file's checksum is, and the documents that name it, follow the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};

use dbkeep_repo::read::Image;
use flate2::read::MultiGzDecoder;
use tar::{Archive, Builder, Header};

use super::bundle::{DATABASES, SUMS, documents, exported, told_of};
use super::facts::Stored;
use super::place::Finished;
use super::server::{Piece, SUMS as SERVED_SUMS};
use super::written::{Sum, Summed, compress, other_contents, pump, sum_of, write};
use super::{Done, Export, Exported, Subject, stop_if_cancelled};
use crate::{Error, Result};

impl Export<'_> {
    /// Writes `backup_<session>.tar.gz` and its checksum.
    pub(super) fn tarball(&self) -> Result<Done> {
        let staged = self.place.file()?;
        let mut sums = BTreeMap::new();
        let mut databases = Vec::new();
        let mut directory = String::new();
        let mut failure = None;
        let written: io::Result<Sum> = write(staged.file(), |out| {
            compress(out, |gzip| {
                let filled = self.fill(&mut Builder::new(gzip), &mut sums);
                (directory, databases) = filled.map_err(|failed| match failed {
                    Failed::Writing(error) => error,
                    Failed::Other(error) => {
                        let told = io::Error::other(error.to_string());
                        failure = Some(error);
                        told
                    }
                })?;
                Ok(())
            })
        });
        let sum = self.outcome(failure, written)?;
        let read_back = reads_back(staged.file(), &sums);
        read_back.map_err(Error::io("read back what was written to", self.place.path()))?;
        let name = format!("{directory}.tar.gz");
        let checksum = self.checksum(&name, &sum)?;
        Ok(Done { finished: vec![Finished::File { staged, name, sum }, checksum], databases })
    }

    /// Writes all entries. Returns the name of the directory in the archive and what became of the databases.
    fn fill<W: Write>(
        &self,
        archive: &mut Builder<W>,
        sums: &mut BTreeMap<String, Sum>,
    ) -> Result<(String, Vec<Exported>), Failed> {
        let mut stored = Vec::new();
        for subject in self.subjects {
            stop_if_cancelled(self.watch)?;
            self.watch.phase(&format!("export {}", subject.manifest.database), subject.manifest.image.size);
            stored.push(match subject.is_served() {
                true => self.served_entries(archive, subject, sums)?,
                false => self.entry(archive, subject, sums)?,
            });
            self.watch.step("export.database-written");
        }
        let facts = self.facts(false, stored);
        for (name, contents) in documents(&facts) {
            let path = format!("{}/{name}", facts.directory);
            self.small_entry(archive, path, &contents, sums)?;
        }
        let start = format!("{}/", facts.directory);
        let list: String =
            sums.iter().map(|(path, sum)| sum.line(path.strip_prefix(&start).unwrap_or(path))).collect();
        self.small_entry(archive, format!("{start}{SUMS}"), list.as_bytes(), sums)?;
        archive.finish()?;
        let databases = facts.stored.iter().map(exported).collect();
        Ok((facts.directory, databases))
    }

    /// Writes a database and its checksum.
    fn entry<'s, W: Write>(
        &self,
        archive: &mut Builder<W>,
        subject: &'s Subject,
        sums: &mut BTreeMap<String, Sum>,
    ) -> Result<Stored<'s>, Failed> {
        let directory = format!("backup_{}", subject.session);
        let mut main = None;
        for (suffix, image) in self.images(subject)? {
            let name = format!("{}.db{suffix}", subject.stem());
            let path = format!("{DATABASES}/{name}");
            let sum = self.image_entry(archive, format!("{directory}/{path}"), &image, sums)?;
            if suffix.is_empty() {
                self.compare(subject, sum.sha256)?;
                main = Some((path.clone(), sum));
            }
            self.small_entry(
                archive,
                format!("{directory}/{path}.sha256"),
                sum.line(&name).as_bytes(),
                sums,
            )?;
        }
        let (path, sum) = main.expect("the image itself is the first of the images");
        let notes = super::notes(subject, &Exported::default());
        Ok(Stored { subject, path, file: sum, plain: sum, notes })
    }

    /// Writes the files of a database of a server, as they are in the snapshot, and their checksums.
    fn served_entries<'s, W: Write>(
        &self,
        archive: &mut Builder<W>,
        subject: &'s Subject,
        sums: &mut BTreeMap<String, Sum>,
    ) -> Result<Stored<'s>, Failed> {
        let path = format!("{DATABASES}/{}", subject.stem());
        let below = format!("backup_{}/{path}", subject.session);
        let (mut list, mut bytes) = (String::new(), 0);
        for (name, piece) in self.pieces(subject)? {
            stop_if_cancelled(self.watch)?;
            let target = format!("{below}/{name}");
            let sum = match piece {
                Piece::Bytes(bytes) => {
                    self.small_entry(archive, target, &bytes, sums)?;
                    sum_of(&bytes)
                }
                Piece::Image(image) => self.image_entry(archive, target, &image, sums)?,
            };
            list.push_str(&sum.line(&name));
            bytes += sum.bytes;
        }
        self.small_entry(archive, format!("{below}/{SERVED_SUMS}"), list.as_bytes(), sums)?;
        let file = Sum { bytes, sha256: sum_of(list.as_bytes()).sha256 };
        let notes = super::notes(subject, &told_of(subject));
        Ok(Stored { subject, path, file, plain: file, notes })
    }

    /// Writes a file of any length.
    fn image_entry<W: Write>(
        &self,
        archive: &mut Builder<W>,
        path: String,
        image: &Image,
        sums: &mut BTreeMap<String, Sum>,
    ) -> Result<Sum, Failed> {
        let mut stream = Summed::new(self.stream(image)?);
        let appended = archive.append_data(&mut self.header(image.size()), &path, &mut stream);
        let (stream, sum) = stream.finish();
        if let Some(failure) = stream.failure {
            return Err(failure.into());
        }
        appended?;
        sums.insert(path, sum);
        Ok(sum)
    }

    fn small_entry<W: Write>(
        &self,
        archive: &mut Builder<W>,
        path: String,
        contents: &[u8],
        sums: &mut BTreeMap<String, Sum>,
    ) -> io::Result<()> {
        archive.append_data(&mut self.header(contents.len() as u64), &path, contents)?;
        sums.insert(path, sum_of(contents));
        Ok(())
    }

    fn header(&self, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.clock.now().as_second()).unwrap_or(0));
        header.set_entry_type(tar::EntryType::Regular);
        header
    }
}

/// Why an archive could not be filled.
enum Failed {
    Writing(io::Error),
    Other(Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Writing(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Reads an archive from its beginning and expects these files in it, and no others.
fn reads_back(file: &File, expected: &BTreeMap<String, Sum>) -> io::Result<()> {
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let mut plain = MultiGzDecoder::new(io::BufReader::with_capacity(256 << 10, file));
    let mut found = BTreeMap::new();
    let mut archive = Archive::new(&mut plain);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut sum = Summed::new(io::sink());
        pump(&mut entry, &mut sum)?;
        found.insert(path, sum.finish().1);
    }
    // What follows the last entry is part of the compressed stream and of its checksum.
    pump(&mut plain.by_ref(), &mut io::sink())?;
    if found == *expected { Ok(()) } else { Err(other_contents()) }
}
