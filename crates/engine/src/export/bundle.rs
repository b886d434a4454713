//! Exports a session as a directory that people can read, and programs that knew the scripts before dbkeep.

use std::io::Write as _;

use super::facts::{Facts, Stored};
use super::place::{Finished, Folder};
use super::server::{Piece, SUMS as SERVED_SUMS};
use super::written::{Sum, write};
use super::{Done, Export, Exported, Subject, stop_if_cancelled};
use crate::Result;
use crate::report::ExportedFile;
use crate::served::GLOBALS;

/// Where the database files are.
pub(crate) const DATABASES: &str = "databases";
/// The manifest.
pub(crate) const MANIFEST: &str = "manifests/backup_manifest.json";
/// The report.
pub(crate) const REPORT: &str = "backup_report.json";
/// The log.
pub(crate) const LOG: &str = "logs/backup.log";
/// The checksums of all other files.
pub(crate) const SUMS: &str = "SHA256SUMS";

impl Export<'_> {
    /// Writes `backup_<session>/`.
    pub(super) fn bundle(&self) -> Result<Done> {
        let folder = self.place.folder()?;
        let mut files: Vec<(String, Sum)> = Vec::new();
        let mut stored = Vec::new();
        for subject in self.subjects {
            stop_if_cancelled(self.watch)?;
            self.watch.phase(&format!("export {}", subject.manifest.database), subject.manifest.image.size);
            stored.push(match subject.is_served() {
                true => self.plain(subject, &folder, &mut files)?,
                false => self.compressed(subject, &folder, &mut files)?,
            });
            self.watch.step("export.database-written");
        }
        let facts = self.facts(true, stored);
        for (name, contents) in documents(&facts) {
            files.push((name.to_owned(), self.small_file(&folder, name, &contents)?));
        }
        let list: String = files.iter().map(|(name, sum)| sum.line(name)).collect();
        files.push((SUMS.to_owned(), self.small_file(&folder, SUMS, list.as_bytes())?));
        let databases = facts.stored.iter().map(exported).collect();
        let file = |(name, sum): (String, Sum)| ExportedFile {
            path: format!("{}/{name}", facts.directory),
            bytes: sum.bytes,
            sha256: sum.sha256,
        };
        let files = files.into_iter().map(file).collect();
        let name = facts.directory.clone();
        Ok(Done { finished: vec![Finished::Folder { folder, name, files }], databases })
    }

    /// Writes a compressed database and its checksum into the bundle.
    fn compressed<'s>(
        &self,
        subject: &'s Subject,
        folder: &Folder,
        files: &mut Vec<(String, Sum)>,
    ) -> Result<Stored<'s>> {
        let mut main = None;
        for (suffix, image) in self.images(subject)? {
            let name = format!("{}.db{suffix}.gz", subject.stem());
            let path = format!("{DATABASES}/{name}");
            let file = folder.create(&path).map_err(|error| self.write_failed(error))?;
            let (sum, plain) = self.image_file(&file, &image, true)?;
            if suffix.is_empty() {
                self.compare(subject, plain.sha256)?;
                main = Some((path.clone(), sum, plain));
            }
            let checksum = format!("{path}.sha256");
            let line = self.small_file(folder, &checksum, sum.line(&name).as_bytes())?;
            files.extend([(path, sum), (checksum, line)]);
        }
        let (path, file, plain) = main.expect("the image itself is the first of the images");
        Ok(Stored { subject, path, file, plain, notes: super::notes(subject, &Exported::default()) })
    }

    /// Writes the files of a database of a server into a directory of the bundle, as they are in the snapshot, and their
    /// checksums.
    fn plain<'s>(
        &self,
        subject: &'s Subject,
        folder: &Folder,
        files: &mut Vec<(String, Sum)>,
    ) -> Result<Stored<'s>> {
        let path = format!("{DATABASES}/{}", subject.stem());
        let mut sums: Vec<(String, Sum)> = Vec::new();
        for (name, piece) in self.pieces(subject)? {
            stop_if_cancelled(self.watch)?;
            let target = format!("{path}/{name}");
            let sum = match piece {
                Piece::Bytes(bytes) => self.small_file(folder, &target, &bytes)?,
                Piece::Image(image) => {
                    let file = folder.create(&target).map_err(|error| self.write_failed(error))?;
                    self.image_file(&file, &image, false)?.0
                }
            };
            sums.push((name, sum));
        }
        let list: String = sums.iter().map(|(name, sum)| sum.line(name)).collect();
        let checksums = self.small_file(folder, &format!("{path}/{SERVED_SUMS}"), list.as_bytes())?;
        let file = Sum { bytes: sums.iter().map(|(_, sum)| sum.bytes).sum(), sha256: checksums.sha256 };
        sums.push((SERVED_SUMS.to_owned(), checksums));
        files.extend(sums.into_iter().map(|(name, sum)| (format!("{path}/{name}"), sum)));
        Ok(Stored { subject, path, file, plain: file, notes: super::notes(subject, &told_of(subject)) })
    }

    /// Puts together what the documents of a bundle tell.
    pub(super) fn facts<'s>(&'s self, is_compressed: bool, stored: Vec<Stored<'s>>) -> Facts<'s> {
        let session = self.subjects.first().map(|subject| subject.session.clone()).unwrap_or_default();
        Facts {
            directory: format!("backup_{session}"),
            session,
            is_compressed,
            exported: self.clock.now(),
            stored,
            missing: self.missing,
        }
    }

    pub(super) fn small_file(&self, folder: &Folder, name: &str, contents: &[u8]) -> Result<Sum> {
        let written = folder.create(name).and_then(|file| write(&file, |out| out.write_all(contents)));
        written.map_err(|error| self.write_failed(error))
    }
}

/// Returns the documents of a bundle with their paths.
pub(super) fn documents(facts: &Facts<'_>) -> [(&'static str, Vec<u8>); 3] {
    [(MANIFEST, facts.manifest()), (REPORT, facts.report()), (LOG, facts.log().into_bytes())]
}

pub(super) fn exported(stored: &Stored<'_>) -> Exported {
    let is_file = !stored.subject.is_served();
    Exported {
        bytes: stored.file.bytes,
        sha256: is_file.then_some(stored.plain.sha256),
        ..told_of(stored.subject)
    }
}

/// Says what a person should know who hands the files on.
pub(super) fn told_of(subject: &Subject) -> Exported {
    let roles = format!(
        "{GLOBALS} has the roles of the server, with the hashes of their passwords where the backup's user could read them"
    );
    let notes = if subject.is_served() { vec![roles] } else { Vec::new() };
    Exported { notes, ..Exported::default() }
}
