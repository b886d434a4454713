//! The directory that an export goes into.
//!
//! Files are built in a directory `.dbkeep-export` inside of it, so that they are on the same file system, and
//! renamed into place at the end. What a killed export left there is removed by the next one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dbkeep_repo::durable::{self, STAGED_ENDING, Staged};

use super::written::Sum;
use crate::context::Watch;
use crate::error::is_full;
use crate::report::ExportedFile;
use crate::state::private_directory;
use crate::{Error, Result, session};

/// Where files are built.
pub(crate) const STAGING: &str = ".dbkeep-export";

/// The ending of a directory that is being built; the file of the same stem says that its builder lives.
const FOLDER_ENDING: &str = "building";

/// The target directory.
pub(super) struct Place {
    out: PathBuf,
    staging: PathBuf,
    /// It was not there before.
    is_new: bool,
    /// The size of all that is exported, uncompressed.
    needed: u64,
    free: Option<u64>,
}

/// Something that is whole and waits for its name.
pub(super) enum Finished {
    /// A file.
    File {
        /// Its contents.
        staged: Staged,
        /// Its name in the target directory.
        name: String,
        /// Length and SHA-256.
        sum: Sum,
    },
    /// A directory.
    Folder {
        /// The directory.
        folder: Folder,
        /// Its name in the target directory.
        name: String,
        /// The files in it, by paths that begin with its name.
        files: Vec<ExportedFile>,
    },
}

impl Finished {
    fn name(&self) -> &str {
        match self {
            Self::File { name, .. } | Self::Folder { name, .. } => name,
        }
    }

    /// Says whether it is the checksum of another file.
    fn is_checksum(&self) -> bool {
        matches!(self, Self::File { name, .. } if name.ends_with(".sha256"))
    }

    fn files(&self) -> Vec<ExportedFile> {
        match self {
            Self::File { name, sum, .. } => {
                vec![ExportedFile { path: name.clone(), bytes: sum.bytes, sha256: sum.sha256 }]
            }
            Self::Folder { files, .. } => files.clone(),
        }
    }

    fn publish(self, path: &Path) -> io::Result<()> {
        match self {
            Self::File { staged, .. } => staged.publish_new(path).map(drop),
            Self::Folder { folder, .. } => folder.publish(path),
        }
    }
}

/// Something that has just got its name.
struct Named {
    path: PathBuf,
    /// Device and inode; `None` when it is gone again.
    inode: Option<(u64, u64)>,
}

impl Named {
    fn of(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }

    /// Removes it, unless somebody put something else there.
    fn take_back(&self) {
        if self.inode.is_none() || inode(&self.path) != self.inode {
            return;
        }
        // The error that led here is the one to tell; what stays is whole.
        let _ = match self.path.is_dir() {
            true => fs::remove_dir_all(&self.path),
            false => fs::remove_file(&self.path),
        };
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Refuses a directory inside of a repository: what lies there unknown is taken for damage, or removed.
pub(super) fn refuse_repository(out: &Path) -> Result<()> {
    // Links are followed where there are directories already; below them there are none.
    let existing = out.ancestors().find_map(|directory| fs::canonicalize(directory).ok());
    let is_repository = |directory: &&Path| {
        ["config", "keys", "snapshots", "index"].iter().all(|name| directory.join(name).exists())
    };
    match existing.as_deref().and_then(|existing| existing.ancestors().find(is_repository)) {
        None => Ok(()),
        Some(repository) => Err(Error::Refused {
            what: format!("{} is inside of the repository {}", out.display(), repository.display()),
            hint: Some("give a directory elsewhere with --out".to_owned()),
        }),
    }
}

impl Place {
    /// Opens the directory, or makes it.
    ///
    /// One that holds anything but earlier exports is refused: what is exported is readable by whoever can read the
    /// directory, and does not belong among other files. So is one in which a name of `targets` is taken.
    pub(super) fn open(out: &Path, targets: &[String], needed: u64) -> Result<Self> {
        let is_new = !out.exists();
        if is_new {
            private_directory(out)?;
        }
        let staging = out.join(STAGING);
        let place = Self { out: out.to_owned(), staging, is_new, needed, free: free_space(out) };
        place.refuse_others()?;
        for target in targets {
            let path = out.join(target);
            if fs::symlink_metadata(&path).is_ok() {
                return Err(exists(&path));
            }
        }
        durable::create_folder(&place.staging).map_err(|error| place.write_failed(error))?;
        // In a directory that others can write, somebody else may have put something there.
        let metadata = fs::symlink_metadata(&place.staging).map_err(Error::io("look at", &place.staging))?;
        if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::Refused {
                what: format!("{} is not a directory of this user", place.staging.display()),
                hint: Some("remove it, or export to another directory".to_owned()),
            });
        }
        remove_abandoned(&place.staging).map_err(Error::io("clean up", &place.staging))?;
        Ok(place)
    }

    /// Refuses a directory that holds something else than exports.
    fn refuse_others(&self) -> Result<()> {
        let failed = || Error::io("read", &self.out);
        for entry in fs::read_dir(&self.out).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let is_export =
                name.to_str().is_some_and(|name| name == STAGING || name == "lost+found" || is_export(name));
            if !is_export {
                return Err(Error::Refused {
                    what: format!(
                        "{} is not empty: it holds {}",
                        self.out.display(),
                        crate::name::printable(&name.to_string_lossy())
                    ),
                    hint: Some(
                        "give a new directory, or one that holds nothing but exports, with --out".to_owned(),
                    ),
                });
            }
        }
        Ok(())
    }

    pub(super) fn refuse_without_space(&self) -> Result<()> {
        match self.free {
            Some(free) if free < self.needed => Err(self.no_space(free)),
            _ => Ok(()),
        }
    }

    /// Returns the directory.
    pub(super) fn path(&self) -> &Path {
        &self.out
    }

    /// Returns a file to be written.
    pub(super) fn file(&self) -> Result<Staged> {
        let created = match Staged::create(&self.staging) {
            // Another export that came to its end has taken the empty directory away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_folder(&self.staging).and_then(|()| Staged::create(&self.staging))
            }
            created => created,
        };
        created.map_err(|error| self.write_failed(error))
    }

    /// Returns a directory to be filled.
    pub(super) fn folder(&self) -> Result<Folder> {
        let claim = self.file()?;
        let path = claim.path().with_extension(FOLDER_ENDING);
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| self.write_failed(error))?;
        Ok(Folder { path, is_published: false, _claim: claim })
    }

    /// Turns what a writer said into ours.
    pub(super) fn write_failed(&self, error: io::Error) -> Error {
        match is_full(&error) {
            true => self.no_space(self.free.unwrap_or(0)),
            false => Error::io("write to", &self.out)(error),
        }
    }

    fn no_space(&self, free: u64) -> Error {
        Error::NoSpace { path: self.out.clone(), needed: self.needed.max(free.saturating_add(1)), free }
    }

    /// Gives everything its name, the checksums first. On return all of it survives a power cut; after an error
    /// nothing of it is there.
    pub(super) fn publish(&mut self, finished: Vec<Finished>, watch: &Watch) -> Result<Vec<ExportedFile>> {
        let files = finished.iter().flat_map(Finished::files).collect();
        let (checksums, others): (Vec<_>, Vec<_>) = finished.into_iter().partition(Finished::is_checksum);
        let mut named = Vec::new();
        let published = self.give_names(checksums.into_iter().chain(others), &mut named, watch);
        if published.is_err() {
            named.iter().rev().for_each(Named::take_back);
        } else {
            self.is_new = false;
        }
        published.map(|()| files)
    }

    fn give_names(
        &self,
        finished: impl Iterator<Item = Finished>,
        named: &mut Vec<Named>,
        watch: &Watch,
    ) -> Result<()> {
        for one in finished {
            let path = self.out.join(one.name());
            one.publish(&path).map_err(|error| self.publish_failed(error, &path))?;
            named.push(Named::of(path));
            watch.step("export.named");
        }
        match self.out.parent() {
            // The directory itself may be new.
            Some(parent) => durable::sync_folder(parent).map_err(Error::io("write to", parent)),
            None => Ok(()),
        }
    }

    fn publish_failed(&self, error: io::Error, path: &Path) -> Error {
        match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => self.write_failed(error),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Empty, or in use by another export; either way nothing is lost when it stays.
        let _ = fs::remove_dir(&self.staging);
        if self.is_new {
            let _ = fs::remove_dir(&self.out);
        }
    }
}

fn exists(path: &Path) -> Error {
    Error::Refused {
        what: format!("{} exists", path.display()),
        hint: Some("remove it, or give another directory with --out".to_owned()),
    }
}

/// A directory that is being filled; gone when dropped before it is published.
pub(super) struct Folder {
    path: PathBuf,
    is_published: bool,
    /// Says that this process lives.
    _claim: Staged,
}

impl Folder {
    /// Makes a file, and the directories above it, for this user only.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn publish(mut self, path: &Path) -> io::Result<()> {
        sync_folders(&self.path)?;
        durable::rename_no_replace(&self.path, path)?;
        self.is_published = true;
        durable::sync_parent(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes the names in a directory and in those below it survive a power cut; files are synced by who writes them.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    durable::sync_folder(folder)
}

/// Removes what exports that are gone were building.
fn remove_abandoned(staging: &Path) -> io::Result<()> {
    durable::remove_abandoned(staging)?;
    for entry in fs::read_dir(staging)? {
        let path = entry?.path();
        let is_building = path.extension().is_some_and(|ending| ending == FOLDER_ENDING);
        // The claim is made before the directory and vanishes after it.
        if is_building && !path.with_extension(STAGED_ENDING).exists() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Says whether something has the name of an export: it carries the id of a session.
fn is_export(name: &str) -> bool {
    const ENDINGS: [&str; 9] =
        ["", ".db", ".db.gz", ".tar.gz", ".sql", "_roles.sql", "_settings.sql", ".json", ".ndjson"];
    let name = name.strip_suffix(".sha256").unwrap_or(name);
    let name = ["-wal", "-journal"]
        .into_iter()
        .fold(name.to_owned(), |name, sibling| name.replace(&format!(".db{sibling}"), ".db"));
    ENDINGS.iter().filter_map(|ending| name.strip_suffix(ending)).any(|stem| {
        let id = stem.len().checked_sub(15).and_then(|start| stem.get(start..));
        id.is_some_and(|id| session::time_of(id).is_some()) && stem[..stem.len() - 15].ends_with('_')
    })
}

/// Returns the bytes that are free in the nearest directory that exists.
fn free_space(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|directory| directory.is_dir())?;
    let free = rustix::fs::statvfs(existing).ok()?;
    Some(free.f_bavail.saturating_mul(free.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_known_by_the_session_in_their_names() {
        for name in [
            "backup_20260102_030405",
            "backup_20260102_030405.tar.gz",
            "backup_20260102_030405.tar.gz.sha256",
            "app_20260102_030405",
            "app_20260102_030405.db",
            "a b_20260102_030405.db.gz.sha256",
            "app_20260102_030405.db-wal.gz",
            "app_20260102_030405.ndjson",
            "shop_20260102_030405_roles.sql.sha256",
            "shop_20260102_030405_settings.sql",
        ] {
            assert!(is_export(name), "{name}");
        }
        for name in ["app.db", "20260102_030405", "notes_20260102.json", "app_20261302_030405.db", "é_é", ""]
        {
            assert!(!is_export(name), "{name}");
        }
    }

    #[test]
    fn directory_with_other_things_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("letter.txt"), "dear").unwrap();
        let error = Place::open(root.path(), &[], 0).err().unwrap();
        assert!(error.to_string().ends_with("is not empty: it holds letter.txt"), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn directory_that_another_export_took_away_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let place = Place::open(&out, &[], 0).unwrap();
        fs::remove_dir(out.join(STAGING)).unwrap();
        drop(place.folder().unwrap());
        drop(place);
        assert!(!out.exists());
    }

    #[test]
    fn what_killed_exports_left_is_removed_and_what_live_ones_build_stays() {
        let root = tempfile::tempdir().unwrap();
        let staging = root.path().join(STAGING);
        fs::create_dir_all(staging.join("dead.building/databases")).unwrap();
        fs::write(staging.join("dead.building/databases/a.db.gz"), "half").unwrap();
        fs::write(staging.join("dead.tmp"), "").unwrap();
        let place = Place::open(root.path(), &[], 0).unwrap();
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
        let folder = place.folder().unwrap();
        folder.create("databases/b.db").unwrap();
        let other = Place::open(root.path(), &[], 0).unwrap();
        assert!(folder.path.join("databases/b.db").exists());
        drop(folder);
        drop(other);
        drop(place);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
