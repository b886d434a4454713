//! Files that are whole after a crash: the only place that renames and syncs.
//!
//! A file is written under a random name, synced, renamed, and its folder is synced. When a sync fails
//! the file is given up: the kernel may have dropped the bytes and a second sync would not tell.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use crate::Id;
use crate::crypto::fill_random;

/// The ending of the names of files that are being written.
pub const STAGED_ENDING: &str = "tmp";

/// A file under a random name that becomes a real one, or vanishes when dropped.
///
/// It is locked with `flock` while it lives, so that [`remove_abandoned`] knows the files of writers that are gone.
#[derive(Debug)]
pub struct Staged {
    file: File,
    path: PathBuf,
    is_published: bool,
}

impl Staged {
    /// Makes an empty file in `folder`, for this user only, whatever the umask.
    pub fn create(folder: &Path) -> io::Result<Self> {
        loop {
            let path = folder.join(random_name()?);
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            let staged = Self { file, path, is_published: false };
            set_mode(&staged.file, 0o600)?;
            lock_while_written(&staged.file)?;
            // Between creation and lock somebody may have taken the file for an abandoned one.
            if staged.file.metadata()?.nlink() > 0 {
                return Ok(staged);
            }
        }
    }

    /// Returns the open file, to be written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the path that the file has until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, unless there is one already ([`io::ErrorKind::AlreadyExists`]).
    ///
    /// On return the file and its name survive a power cut. Returns the open file, still locked.
    pub fn publish_new(mut self, path: &Path) -> io::Result<File> {
        self.file.sync_all()?;
        rename_no_replace(&self.path, path)?;
        self.is_published = true;
        if let Err(error) = sync_parent(path) {
            // The name may or may not survive, and nobody may rely on it.
            _ = fs::remove_file(path);
            return Err(error);
        }
        self.file.try_clone()
    }

    /// Gives the file its name in place of the one that has it.
    ///
    /// A crash leaves the old file or the new one under the name.
    pub fn publish_over(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        rename(&self.path, path)?;
        self.is_published = true;
        sync_parent(path)
    }

    /// Gives the file its name without making sure that the name survives a power cut: for a lock,
    /// whose holder does not survive it either. The contents are synced, so that what survives is whole.
    pub(crate) fn publish_new_for_this_boot(mut self, path: &Path) -> io::Result<File> {
        self.file.sync_all()?;
        rename_no_replace(&self.path, path)?;
        self.is_published = true;
        self.file.try_clone()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_published {
            _ = fs::remove_file(&self.path);
        }
    }
}

/// Stores a file that is not there yet. A crash leaves nothing or all of it; on return it survives a power cut.
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let staged = Staged::create(parent(path))?;
    staged.file().write_all(contents)?;
    staged.publish_new(path).map(drop)
}

/// Replaces `path` so that a crash leaves the old contents or the new, never a mix.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let staged = Staged::create(parent(path))?;
    staged.file().write_all(contents)?;
    staged.publish_over(path)
}

/// Replaces `path` at one instant for whoever reads it, but syncs nothing: after a power cut anything may be there.
/// For what can be told to be damaged and can be made anew.
pub fn replace_unsynced(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut staged = Staged::create(parent(path))?;
    staged.file().write_all(contents)?;
    rename(&staged.path, path)?;
    staged.is_published = true;
    Ok(())
}

/// Removes the name of a file so that it stays removed after a power cut. No file is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the name of a file and returns the folder that has to be synced to make that survive a power cut; none where
/// no file was there.
pub fn remove_unsynced(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Some(parent(path).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a folder for this user only, whatever the umask, and the folders above it that are missing.
///
/// On return they survive a power cut. A folder that is there is left as it is.
pub fn create_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            make_private(path)?;
            sync_parent(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
            create_folder(parent(path))?;
            create_folder(path)
        }
        Err(error) => Err(error),
    }
}

/// Makes folders inside of `parent` as [`create_folder`] does, and syncs once for all of them.
pub fn create_folders(parent: &Path, names: impl IntoIterator<Item = impl AsRef<Path>>) -> io::Result<()> {
    let mut is_synced = true;
    for name in names {
        let path = parent.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                make_private(&path)?;
                is_synced = false;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    if is_synced { Ok(()) } else { sync_folder(parent) }
}

/// Gives a file another name, which must be free ([`io::ErrorKind::AlreadyExists`] otherwise).
///
/// Only [`sync_parent`] of both makes it durable.
pub fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Not every file system knows the flag; a second link never replaces either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_by_link(from, to),
        Err(error) => Err(error.into()),
    }
}

fn rename_by_link(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::link(from, to) {
        Ok(()) => fs::remove_file(from),
        // Nor are there links everywhere (exFAT under FUSE). Between the look and the rename another process could
        // take the name; in a repository, where names are hashes of contents, with the same bytes.
        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => rename(from, to),
            Err(error) => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

/// Gives a file another name, in place of the file that has it.
///
/// Only [`sync_parent`] of both makes it durable.
#[expect(clippy::disallowed_methods, reason = "this is the module that may rename")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Exchanges the names of two files or folders at one instant.
///
/// Only [`sync_parent`] of both makes it durable. Not every file system can do it.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Makes the names in the folder of `path` survive a power cut.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    sync_folder(parent(path))
}

/// Makes the names in a folder survive a power cut.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems have nothing to sync for a folder and say so.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        result => result,
    }
}

/// Removes the staged files in `folder` whose writers are gone. Returns how many; no folder means none.
pub fn remove_abandoned(folder: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == STAGED_ENDING) && remove_if_abandoned(&path)? {
            removed += 1;
        }
    }
    Ok(removed)
}

fn remove_if_abandoned(path: &Path) -> io::Result<bool> {
    let file = match open_no_follow(path) {
        // Published or removed since the listing, or something that is no staged file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(false),
        file => file?,
    };
    if !file.metadata()?.is_file() || !has_no_holder(&file)? {
        return Ok(false);
    }
    // It may have been published before we asked: then the name is gone.
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a file for reading, but not through a symbolic link.
pub(crate) fn open_no_follow(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits())
        .expect("the flags of open(2) fit an int");
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Says whether nobody holds the exclusive `flock` of a file, as its writer does while it lives.
///
/// Takes a shared one for a moment, so that two who ask at once do not take each other for the writer.
pub(crate) fn has_no_holder(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        // Where nobody can lock, nobody can be proved gone.
        Err(error) if has_no_locks(error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock that says that this file is being written, where the file system has locks.
fn lock_while_written(file: &File) -> io::Result<()> {
    match rustix::fs::flock(file, FlockOperation::LockExclusive) {
        Err(error) if has_no_locks(error) => Ok(()),
        result => Ok(result?),
    }
}

fn has_no_locks(error: Errno) -> bool {
    matches!(error, Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK | Errno::INVAL)
}

fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    unless_without_modes(file.set_permissions(fs::Permissions::from_mode(mode)))
}

/// Lets only this user into a folder that was just made.
fn make_private(folder: &Path) -> io::Result<()> {
    unless_without_modes(fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
}

/// Lets the refusal to set a mode pass. What we just made is ours, so it is refused only where the file system keeps
/// no modes (FAT, exFAT): there the mount decides who may read.
fn unless_without_modes(set: io::Result<()>) -> io::Result<()> {
    const REFUSALS: [Errno; 3] = [Errno::PERM, Errno::NOSYS, Errno::NOTSUP];
    match set {
        Err(error) if REFUSALS.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error())) => {
            Ok(())
        }
        set => set,
    }
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:.32}.{STAGED_ENDING}", Id::new(bytes)))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn mode_that_the_file_system_does_not_keep_is_let_pass_and_other_failures_are_not() {
        let failed = |error: Errno| Err(error.into());
        assert!(unless_without_modes(failed(Errno::PERM)).is_ok());
        let error = unless_without_modes(failed(Errno::IO)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[test]
    fn new_file_never_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_new(&path, b"one").unwrap();
        assert_eq!(write_new(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        replace_unsynced(&path, b"four").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"four");
        assert_eq!(names(folder.path()), ["a"]);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn folders_are_made_for_this_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c");
        create_folder(&path).unwrap();
        create_folder(&path).unwrap();
        for made in [&path, path.parent().unwrap()] {
            assert_eq!(made.metadata().unwrap().mode() & 0o7777, 0o700);
        }
        fs::write(folder.path().join("file"), b"").unwrap();
        assert!(create_folder(&folder.path().join("file")).is_err());
    }

    #[test]
    fn staged_file_vanishes_unless_published() {
        let folder = tempfile::tempdir().unwrap();
        let staged = Staged::create(folder.path()).unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        drop(staged);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn only_files_without_a_writer_are_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let alive = Staged::create(folder.path()).unwrap();
        fs::write(folder.path().join("dead.tmp"), b"half").unwrap();
        fs::write(folder.path().join("other"), b"not ours").unwrap();
        fs::create_dir(folder.path().join("folder.tmp")).unwrap();
        std::os::unix::fs::symlink("other", folder.path().join("link.tmp")).unwrap();
        assert_eq!(remove_abandoned(folder.path()).unwrap(), 1);
        assert_eq!(names(folder.path()).len(), 4);
        assert!(alive.path().exists());
        assert_eq!(remove_abandoned(&folder.path().join("absent")).unwrap(), 0);
    }

    #[test]
    fn name_that_may_not_survive_is_not_left_behind() {
        // A folder that may be written but not opened cannot be synced. Root may open any, so the test
        // runs itself in a namespace where it has no privileges.
        if let Ok(folder) = std::env::var("DBKEEP_TEST_UNSYNCABLE") {
            let path = Path::new(&folder).join("closed/a");
            let staged = Staged::create(Path::new(&folder)).unwrap();
            assert_eq!(staged.publish_new(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert!(!path.exists());
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o300)).unwrap();
        let output = std::process::Command::new("unshare")
            .args(["--user".as_ref(), std::env::current_exe().unwrap().as_os_str()])
            .args(["--exact", "durable::tests::name_that_may_not_survive_is_not_left_behind", "--nocapture"])
            .env("DBKEEP_TEST_UNSYNCABLE", folder.path())
            .output();
        match output {
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
                assert!(output.status.success(), "{output:?}");
            }
            other => println!("skipped: no namespace without privileges: {other:?}"),
        }
        assert_eq!(names(&closed).len(), 0);
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        if let Ok(folder) = std::env::var("DBKEEP_TEST_UMASK") {
            create_folder(&Path::new(&folder).join("a/b")).unwrap();
            write_new(&Path::new(&folder).join("a/b/file"), b"x").unwrap();
            return;
        }
        for umask in ["0", "077", "0777"] {
            let folder = tempfile::tempdir().unwrap();
            let output = std::process::Command::new("sh")
                .args(["-c".to_owned(), format!("umask {umask} && exec \"$@\""), "sh".to_owned()])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "durable::tests::modes_do_not_depend_on_the_umask"])
                .env("DBKEEP_TEST_UMASK", folder.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            for (path, mode) in [("a", 0o700), ("a/b", 0o700), ("a/b/file", 0o600)] {
                let found = folder.path().join(path).metadata().unwrap().mode() & 0o7777;
                assert_eq!(found, mode, "{path} under umask {umask}");
            }
        }
    }

    #[test]
    fn names_are_exchanged() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, b"a").unwrap();
        fs::write(&b, b"b").unwrap();
        exchange(&a, &b).unwrap();
        assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    }
}
