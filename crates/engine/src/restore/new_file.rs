//! A restore to a new file: built beside its place under another name, inspected, and named at the end.
//!
//! A crash before the name is given leaves nothing that starts; the name is the commit point.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbkeep_repo::direct::DirectFile;
use dbkeep_repo::durable::{self, Staged};
use dbkeep_repo::format::tree::Node;
use dbkeep_repo::read::Image;
use dbkeep_repo::write::PARTS_SUFFIX;
use dbkeep_sqlite::holders::{self, Usage};
use dbkeep_sqlite::identify::sibling;
use dbkeep_sqlite::retire;
use jiff::tz::TimeZone;

use super::plan::refuse_existing;
use super::sink;
use super::{PlannedRestore, Restore, Restored, Subject, directory_of};
use crate::error::is_full;
use crate::integrity::{Verify, look_at_image};
use crate::manifest::{Integrity, IntegrityResult};
use crate::state::private_directory;
use crate::{Error, Result};

impl Restore<'_> {
    /// Restores to a file that does not exist.
    pub(super) fn create(&self, subject: &Subject<'_>, planned: &PlannedRestore) -> Result<Restored> {
        let directory = directory_of(&planned.path);
        if !directory.is_dir() {
            private_directory(directory)?;
        }
        if !planned.in_place {
            refuse_existing(&planned.path)?;
        }
        let staged = self.stage(subject, directory)?;
        let mut restored = Restored::new(self.inspect(subject, &staged)?);
        restored.bytes_written = subject.image.size();
        restored.pages_written = pages(subject);
        if planned.in_place {
            self.clear_leftovers(&planned.path, &mut restored)?;
        }
        (self.last_word)()?;
        self.publish(subject, staged, &planned.path)?;
        Ok(restored)
    }

    /// Replaces a database that is too damaged to be locked: stored as it is, moved aside, replaced.
    pub(super) fn replace_file(&self, subject: &Subject<'_>, planned: &PlannedRestore) -> Result<Restored> {
        self.refuse_in_use(&planned.path)?;
        (self.last_word)()?;
        let safety = self.raw_safety_backup(planned)?;
        let staged = self.stage(subject, directory_of(&planned.path))?;
        let mut restored = Restored::new(self.inspect(subject, &staged)?);
        self.refuse_in_use(&planned.path)?;
        (self.last_word)()?;
        restored.moved_aside = retire::retire(&planned.path, &self.label())?;
        self.watch.step("restore.moved-aside");
        self.publish(subject, staged, &planned.path)?;
        restored.safety_snapshot = safety;
        restored.bytes_written = subject.image.size();
        restored.pages_written = pages(subject);
        Ok(restored)
    }

    /// Moves aside what was left beside an original that is gone: it belongs to no database that is there.
    fn clear_leftovers(&self, path: &Path, restored: &mut Restored) -> Result<()> {
        if path.exists() {
            return Err(Error::TargetExists { path: path.to_owned() });
        }
        if let Some(aside) = retire::retire(path, &self.label())? {
            restored.notes.push(format!("files of the missing original were moved to {}…", aside.display()));
        }
        Ok(())
    }

    /// Refuses a file that another process has open.
    fn refuse_in_use(&self, path: &Path) -> Result<()> {
        match holders::is_open_elsewhere(path)? {
            Usage::Nobody => Ok(()),
            Usage::Somebody(holders) => Err(Error::TargetInUse {
                path: path.to_owned(),
                by: holders.first().map(ToString::to_string),
            }),
            Usage::Unknown if self.plan.force => Ok(()),
            Usage::Unknown => Err(Error::Refused {
                what: format!("whether somebody uses {} cannot be found out", path.display()),
                hint: Some(
                    "stop what uses it and add --force, or restore to a new file with --to".to_owned(),
                ),
            }),
        }
    }

    /// Returns what is added to the name of a file that is moved aside.
    fn label(&self) -> String {
        let now = self.clock.now().to_zoned(TimeZone::UTC);
        format!("before-restore-{}", now.strftime("%Y%m%d_%H%M%S"))
    }

    /// Writes the image into a file without a name of its own. Every blob's hash is compared on the way.
    fn stage(&self, subject: &Subject<'_>, directory: &Path) -> Result<Staged> {
        let staged = self.stage_image(&subject.image, directory)?;
        self.watch.step("restore.data-written");
        Ok(staged)
    }

    fn stage_image(&self, image: &Image, directory: &Path) -> Result<Staged> {
        let staging = staging(directory)?;
        let staged = Staged::create(&staging).map_err(Error::io("write to", &staging))?;
        let failed = |error| self.no_space_or(error, directory, image.size());
        staged.file().set_len(image.size()).map_err(&failed)?;
        // What a check will read is better in the page cache.
        let direct = if self.plan.verify == Verify::None { DirectFile::open(staged.file()) } else { None };
        if let Some(direct) = &direct {
            image.stretches_with_data().try_for_each(|stretch| direct.reserve(stretch)).map_err(&failed)?;
        }
        let (written, synced) =
            sink::fill(staged.file(), direct, |sink| self.reader.restore(image, sink, &**self.watch));
        written.map_err(|error| match error {
            dbkeep_repo::Error::Source(inner) => match inner.downcast::<io::Error>() {
                Ok(error) => failed(*error),
                Err(inner) => dbkeep_repo::Error::Source(inner).into(),
            },
            dbkeep_repo::Error::Cancelled => Error::Cancelled,
            other => other.into(),
        })?;
        synced.map_err(&failed)?;
        Ok(staged)
    }

    fn no_space_or(&self, error: io::Error, directory: &Path, needed: u64) -> Error {
        let full = is_full(&error);
        match full {
            true => Error::NoSpace { path: directory.to_owned(), needed, free: 0 },
            false => Error::io("write to", directory)(error),
        }
    }

    /// Opens and checks what was written, before it gets its name.
    fn inspect(&self, subject: &Subject<'_>, staged: &Staged) -> Result<Integrity> {
        self.stop_if_cancelled()?;
        let manifest = &subject.manifest;
        if manifest.image.raw && manifest.integrity.result == IntegrityResult::NotRun {
            return Ok(Integrity::new(IntegrityResult::NotRun, Verify::None, vec![]));
        }
        let file = staged.file().try_clone().map_err(Error::io("read", staged.path()))?;
        let pages = FilePages { file, size: subject.image.size() };
        let looked = look_at_image(Arc::new(pages), self.plan.verify, &|| self.watch.cancelled())?;
        self.judge(manifest, &looked.integrity)?;
        self.watch.step("restore.inspected");
        Ok(looked.integrity)
    }

    /// Gives the file its owner and mode, and then its name. On return both survive a power cut.
    fn publish(&self, subject: &Subject<'_>, staged: Staged, path: &Path) -> Result<()> {
        self.stop_if_cancelled()?;
        self.restore_siblings(subject, path)?;
        if let Some(node) = self.image_node(subject)? {
            give_back(staged.file(), &node).map_err(Error::io("set the mode of", staged.path()))?;
        }
        staged.publish_new(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::TargetExists { path: path.to_owned() },
            _ => Error::io("write", path)(error),
        })?;
        remove_staging(path);
        self.watch.step("restore.promoted");
        Ok(())
    }

    /// Restores the journal and the log of a raw copy. They come before their database: beside one that is not
    /// there they mean nothing.
    fn restore_siblings(&self, subject: &Subject<'_>, path: &Path) -> Result<()> {
        if !subject.manifest.image.raw {
            return Ok(());
        }
        for suffix in ["-journal", "-wal"] {
            let name = format!("{}{suffix}", subject.manifest.image.name);
            let entry = subject.entry;
            let Some(image) = self.reader.image(&entry.snapshot, &entry.directory(), &name)? else {
                continue;
            };
            let target = sibling(path, suffix);
            let staged = self.stage_image(&image, directory_of(path))?;
            staged.publish_new(&target).map_err(Error::io("write", &target))?;
        }
        Ok(())
    }

    /// Returns the node of the image, which has the owner and mode of the original.
    fn image_node(&self, subject: &Subject<'_>) -> Result<Option<Node>> {
        let entry = subject.entry;
        let file = format!("{}/{}", entry.directory(), subject.manifest.image.name);
        match self.reader.find(&entry.snapshot, &file)? {
            Some(node) => Ok(Some(node)),
            None => Ok(self.reader.find(&entry.snapshot, &format!("{file}{PARTS_SUFFIX}"))?),
        }
    }
}

/// The directory, beside a target, in which files are built before they get their name.
const STAGING: &str = ".dbkeep-restore";

/// Makes the directory for files that are being built, and clears it of what a killed restore left.
pub(super) fn staging(directory: &Path) -> Result<PathBuf> {
    let staging = directory.join(STAGING);
    durable::create_folder(&staging).map_err(Error::io("write to", directory))?;
    // In a directory that others can write, somebody else may have put something there.
    let metadata = std::fs::symlink_metadata(&staging).map_err(Error::io("look at", &staging))?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::Refused {
            what: format!("{} is not a directory of this user", staging.display()),
            hint: Some("remove it, or restore to another directory".to_owned()),
        });
    }
    durable::remove_abandoned(&staging).map_err(Error::io("clean up", &staging))?;
    Ok(staging)
}

/// Removes the directory for files that are being built, unless another restore uses it.
pub(super) fn remove_staging(path: &Path) {
    // It is empty or in use; either way nothing is lost when it stays.
    let _ = std::fs::remove_dir(directory_of(path).join(STAGING));
}

/// Gives a file the mode and, where this user may, the owner that the original had.
fn give_back(file: &File, node: &Node) -> io::Result<()> {
    // Without the right to give files away it stays with whoever restores it.
    let _ = fchown(file, Some(node.uid), Some(node.gid));
    let mode = node.mode & 0o666;
    file.set_permissions(std::fs::Permissions::from_mode(if mode == 0 { 0o600 } else { mode }))
}

fn pages(subject: &Subject<'_>) -> u64 {
    let page_size = subject.manifest.sqlite.as_ref().map_or(4096, |facts| u64::from(facts.page_size.max(1)));
    subject.image.size().div_ceil(page_size)
}

/// A file of ours as an image.
pub(super) struct FilePages {
    pub(super) file: File,
    pub(super) size: u64,
}

impl dbkeep_sqlite::vfs::PageSource for FilePages {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
