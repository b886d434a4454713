//! A repository in a folder, laid out as stock restic lays it out.
//!
//! `config`, `keys/`, `locks/`, `snapshots/`, `index/`, `data/00/` to `data/ff/`, and a folder of our own
//! that stock tools ignore: `dbkeep/facts/`, and `dbkeep/tmp/` for files that are being written.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::{Backend, FileInfo, FileKind, LockHolder, OBJECT_LIMIT};
use crate::Id;
use crate::direct;
use crate::durable::{self, Staged};
use crate::error::{Error, Result};

/// What the folders of an empty repository take on most file systems.
const FOLDERS_SIZE: u64 = 265 * 4096;

/// Keeps objects as files in a folder.
#[derive(Clone, Debug)]
pub struct LocalBackend {
    root: PathBuf,
}

impl LocalBackend {
    /// Makes a backend for the folder `root`, which need not be there yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self, kind: FileKind) -> PathBuf {
        self.root.join(match kind {
            FileKind::Config => "",
            FileKind::Key => "keys",
            FileKind::Lock => "locks",
            FileKind::Snapshot => "snapshots",
            FileKind::Index => "index",
            FileKind::Pack => "data",
            FileKind::Fact => "dbkeep/facts",
        })
    }

    fn path(&self, kind: FileKind, id: &Id) -> PathBuf {
        match kind {
            FileKind::Config => self.root.join("config"),
            FileKind::Pack => self.folder(kind).join(format!("{id:.2}")).join(id.to_string()),
            _ => self.folder(kind).join(id.to_string()),
        }
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("dbkeep/tmp")
    }

    /// Writes a temporary file; its folder is made when it is missing, as in a repository that restic made.
    fn stage(&self, contents: &[u8]) -> io::Result<Staged> {
        let folder = self.temporary();
        let staged = match Staged::create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_repository() => {
                durable::create_folder(&folder)?;
                Staged::create(&folder)
            }
            staged => staged,
        }?;
        direct::write_new(staged.file(), contents)?;
        Ok(staged)
    }

    /// Makes the folder of an object where it may rightly be missing.
    fn prepare_folder(&self, kind: FileKind, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        let is_made_on_demand = matches!(kind, FileKind::Pack | FileKind::Lock | FileKind::Fact);
        if is_made_on_demand && !folder.is_dir() && self.is_repository() {
            durable::create_folder(folder)?;
        }
        Ok(())
    }

    /// Says whether the object that has the name already is the one to be written, and makes it durable.
    fn accept_existing(&self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()> {
        let path = self.path(kind, id);
        let failed = |source| Error::storage("read", &path, 0, source);
        let file = File::open(&path).map_err(failed)?;
        let is_same = if kind == FileKind::Config {
            self.read(kind, id)? == contents
        } else {
            file.metadata().map_err(failed)?.len() == contents.len() as u64
        };
        if !is_same {
            return Err(Error::Taken { kind, id: *id });
        }
        // Whoever wrote it may not have come to this.
        let synced = file.sync_all().and_then(|()| durable::sync_parent(&path));
        synced.map_err(|source| Error::storage("sync", &path, 0, source))
    }

    /// Hands over the objects in a folder. That each is a file is known without asking for it where the file system
    /// tells the kind together with the name.
    fn each_in_folder(
        &self,
        kind: FileKind,
        folder: &Path,
        visit: &mut dyn FnMut(Id, &DirEntry) -> io::Result<()>,
    ) -> Result<()> {
        let failed = |source| Error::Listing { what: folder.display().to_string(), source };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.may_be_missing(kind, folder) => {
                return Ok(());
            }
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let visited = entry.file_type().and_then(|found| match found.is_file() {
                true => visit(id, &entry),
                false => Err(io::Error::other(format!("{id} is not a file"))),
            });
            match visited {
                // Removed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                visited => visited.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Hands over all objects of a kind.
    fn each(&self, kind: FileKind, visit: &mut dyn FnMut(Id, &DirEntry) -> io::Result<()>) -> Result<()> {
        let folder = self.folder(kind);
        if kind != FileKind::Pack {
            return self.each_in_folder(kind, &folder, visit);
        }
        let what = folder.display().to_string();
        fs::read_dir(&folder).map_err(|source| Error::Listing { what, source })?;
        (0..=255u8).try_for_each(|byte| self.each_in_folder(kind, &folder.join(format!("{byte:02x}")), visit))
    }

    fn list_config(&self) -> Result<Vec<FileInfo>> {
        match fs::metadata(self.path(FileKind::Config, &Id::NULL)) {
            Ok(metadata) => Ok(vec![FileInfo { id: Id::NULL, size: metadata.len() }]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(Error::Listing { what: self.location(), source }),
        }
    }

    /// Says whether a folder is made only when something comes into it. Copying programs leave out empty
    /// folders, and a repository that restic made has no facts.
    fn may_be_missing(&self, kind: FileKind, folder: &Path) -> bool {
        let is_made_on_demand = match kind {
            FileKind::Lock | FileKind::Fact => true,
            FileKind::Pack => folder != self.folder(kind),
            _ => false,
        };
        is_made_on_demand && self.is_repository()
    }

    /// Says whether a repository is here. Nothing is made where its disk is no longer mounted.
    fn is_repository(&self) -> bool {
        self.root.join("config").is_file()
    }

    /// Says whether the storage is this machine's own, so that `flock` tells the truth and what one
    /// process wrote is seen by the next at once.
    fn is_own_storage(&self) -> bool {
        // ext, XFS, Btrfs, tmpfs, overlay, F2FS, ZFS, bcachefs, ramfs, exFAT, FAT
        const OWN: [u32; 11] = [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
            0xf2f5_2010,
            0x2fc1_2fc1,
            0xca45_1a4e,
            0x8584_58f6,
            0x2011_bab0,
            0x4d44,
        ];
        let kind = rustix::fs::statfs(&self.root).map(|file_system| file_system.f_type);
        kind.is_ok_and(|kind| OWN.iter().any(|&own| i128::from(own) == i128::from(kind)))
    }
}

impl Backend for LocalBackend {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn create(&self) -> Result<()> {
        let make = || {
            durable::create_folder(&self.root)?;
            durable::create_folders(&self.root, ["keys", "locks", "snapshots", "index", "data", "dbkeep"])?;
            durable::create_folders(&self.root.join("dbkeep"), ["facts", "tmp"])?;
            let bytes = (0..=255u8).map(|byte| format!("{byte:02x}"));
            durable::create_folders(&self.folder(FileKind::Pack), bytes)
        };
        make().map_err(|source| Error::storage("create the folders of", &self.root, FOLDERS_SIZE, source))
    }

    fn is_empty(&self) -> Result<bool> {
        is_empty_below(&self.root, Path::new(""))
            .map_err(|source| Error::Listing { what: self.location(), source })
    }

    fn list(&self, kind: FileKind) -> Result<Vec<FileInfo>> {
        if kind == FileKind::Config {
            return self.list_config();
        }
        let mut list = Vec::new();
        self.each(kind, &mut |id, entry| {
            list.push(FileInfo { id, size: entry.metadata()?.len() });
            Ok(())
        })?;
        Ok(list)
    }

    fn names(&self, kind: FileKind) -> Result<Vec<Id>> {
        if kind == FileKind::Config {
            return Ok(self.list_config()?.into_iter().map(|info| info.id).collect());
        }
        let mut names = Vec::new();
        self.each(kind, &mut |id, _| {
            names.push(id);
            Ok(())
        })?;
        Ok(names)
    }

    fn read(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        let path = self.path(kind, id);
        let read = || {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            if size > OBJECT_LIMIT {
                return Ok(None);
            }
            let mut contents = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            file.take(OBJECT_LIMIT).read_to_end(&mut contents)?;
            Ok(Some(contents))
        };
        match read() {
            Ok(Some(contents)) => Ok(contents),
            Ok(None) => {
                Err(Error::Damaged { kind, id: *id, what: "it is larger than any object".to_owned() })
            }
            Err(source) => Err(read_error(kind, id, &path, source)),
        }
    }

    fn read_range(&self, kind: FileKind, id: &Id, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let path = self.path(kind, id);
        let read = File::open(&path).and_then(|file| file.read_exact_at(buffer, offset));
        read.map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                return Error::Short { kind, id: *id, end: offset.saturating_add(buffer.len() as u64) };
            }
            read_error(kind, id, &path, source)
        })
    }

    fn write(&self, kind: FileKind, id: &Id, contents: &[u8]) -> Result<()> {
        let path = self.path(kind, id);
        let write = || {
            self.prepare_folder(kind, &path)?;
            self.stage(contents)?.publish_new(&path).map(drop)
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.accept_existing(kind, id, contents)
            }
            result => result.map_err(|source| Error::storage("write", &path, contents.len() as u64, source)),
        }
    }

    fn remove(&self, kind: FileKind, id: &Id) -> Result<()> {
        let path = self.path(kind, id);
        durable::remove(&path).map_err(|source| Error::storage("remove", &path, 0, source))
    }

    fn remove_all(
        &self,
        kind: FileKind,
        ids: &[Id],
        removed: &mut dyn FnMut(&Id) -> Result<()>,
    ) -> Result<()> {
        let mut folders = BTreeSet::new();
        let outcome = ids.iter().try_for_each(|id| {
            let path = self.path(kind, id);
            let folder = durable::remove_unsynced(&path);
            folders.extend(folder.map_err(|source| Error::storage("remove", &path, 0, source))?);
            removed(id)
        });
        // Packs lie in 256 folders. One that comes back after a power cut is in no index and harms nothing.
        if kind != FileKind::Pack {
            for folder in folders {
                durable::sync_folder(&folder).map_err(|source| Error::storage("sync", &folder, 0, source))?;
            }
        }
        outcome
    }

    fn make_durable(&self, kind: FileKind) -> Result<()> {
        let folder = self.folder(kind);
        let synced = match kind {
            // They lie in 256 folders.
            FileKind::Pack => {
                (0..=255u8).try_for_each(|byte| sync_if_there(&folder.join(format!("{byte:02x}"))))
            }
            _ => sync_if_there(&folder),
        };
        synced.map_err(|source| Error::storage("sync", &folder, 0, source))
    }

    fn write_held_lock(&self, id: &Id, contents: &[u8]) -> Result<Box<dyn LockHolder>> {
        let path = self.path(FileKind::Lock, id);
        let write = || {
            self.prepare_folder(FileKind::Lock, &path)?;
            // Staged files are locked before they have a name that counts, so nobody ever sees
            // this lock without its holder.
            self.stage(contents)?.publish_new_for_this_boot(&path)
        };
        match write() {
            Ok(file) => Ok(Box::new(Holder { _file: file })),
            Err(source) => Err(Error::storage("write", &path, contents.len() as u64, source)),
        }
    }

    fn is_abandoned(&self, id: &Id) -> Result<Option<bool>> {
        if !self.is_own_storage() {
            return Ok(None);
        }
        let path = self.path(FileKind::Lock, id);
        let test = durable::open_no_follow(&path).and_then(|file| durable::has_no_holder(&file));
        match test {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(true)),
            result => result.map(Some).map_err(|source| Error::storage("test the lock", &path, 0, source)),
        }
    }

    fn free_space(&self) -> Result<Option<u64>> {
        let found = rustix::fs::statvfs(&self.root).map_err(io::Error::from);
        let found = found.map_err(|source| Error::storage("measure the space in", &self.root, 0, source))?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn clean_temporary(&self) -> Result<usize> {
        if !self.is_own_storage() {
            return Ok(0);
        }
        let folder = self.temporary();
        durable::remove_abandoned(&folder).map_err(|source| Error::storage("clean", &folder, 0, source))
    }

    fn settling_time(&self) -> Duration {
        if self.is_own_storage() { Duration::ZERO } else { super::SETTLING_TIME }
    }

    fn modified(&self, kind: FileKind, id: &Id) -> Result<Option<Timestamp>> {
        let path = self.path(kind, id);
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
        match modified {
            Ok(time) => Ok(Timestamp::try_from(time).ok()),
            Err(source) => Err(read_error(kind, id, &path, source)),
        }
    }
}

/// Makes the names in a folder survive a power cut; some folders are made when something comes into them.
fn sync_if_there(folder: &Path) -> io::Result<()> {
    match durable::sync_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

fn read_error(kind: FileKind, id: &Id, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Missing { kind, id: *id },
        _ => Error::storage("read", path, 0, source),
    }
}

/// Says whether a folder holds nothing but what an interrupted `init` of ours leaves: empty folders of
/// the layout, keys, and temporary files. A folder that is not there is empty.
fn is_empty_below(root: &Path, inner: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(root.join(inner)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let path = inner.join(&name);
        let is_remains = if entry.file_type()?.is_dir() {
            is_layout_folder(&path) && is_empty_below(root, &path)?
        } else {
            inner == Path::new("keys") || inner == Path::new("dbkeep/tmp")
        };
        if !is_remains {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_layout_folder(path: &Path) -> bool {
    const FOLDERS: [&str; 9] =
        ["keys", "locks", "snapshots", "index", "data", "dbkeep", "dbkeep/facts", "dbkeep/tmp", "lost+found"];
    FOLDERS.iter().any(|folder| path == Path::new(folder)) || path.parent() == Some(Path::new("data"))
}

#[derive(Debug)]
struct Holder {
    _file: File,
}

impl LockHolder for Holder {}

#[cfg(test)]
mod tests;
