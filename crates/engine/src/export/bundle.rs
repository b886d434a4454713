//! Exports a session as a directory that people can read, and programs that knew the scripts before dbkeep.

use std::io::Write as _;

use super::facts::{Facts, Stored};
use super::place::{Finished, Folder};
use super::written::{Sum, write};
use super::{Done, Export, Exported, Subject, stop_if_cancelled};
use crate::Result;
use crate::report::ExportedFile;

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
            self.watch.phase(&format!("export {}", subject.manifest.database), subject.image.size());
            stored.push(self.compressed(subject, &folder, &mut files)?);
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

    fn small_file(&self, folder: &Folder, name: &str, contents: &[u8]) -> Result<Sum> {
        let written = folder.create(name).and_then(|file| write(&file, |out| out.write_all(contents)));
        written.map_err(|error| self.write_failed(error))
    }
}

/// Returns the documents of a bundle with their paths.
pub(super) fn documents(facts: &Facts<'_>) -> [(&'static str, Vec<u8>); 3] {
    [(MANIFEST, facts.manifest()), (REPORT, facts.report()), (LOG, facts.log().into_bytes())]
}

pub(super) fn exported(stored: &Stored<'_>) -> Exported {
    Exported { bytes: stored.file.bytes, sha256: Some(stored.plain.sha256), notes: Vec::new() }
}
