//! A folder for what a drill makes, which nobody else may enter and which never stays.
//!
//! It is locked as long as its drill lives. The next drill removes folders whose lock can be had.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::error::is_full;
use crate::{Error, Result};

/// How the names of such folders begin.
const PREFIX: &str = "dbkeep-drill-";
/// The file whose lock says that the drill lives.
const LOCK: &str = "lock";
/// A folder without a lock was left between two system calls, or is between them now.
const NEWBORN: Duration = Duration::from_secs(3600);

/// A folder that goes when this does.
pub(super) struct Scratch {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// Makes one among temporary files, and removes what killed drills left there.
    pub(super) fn make() -> Result<Self> {
        Self::make_in(&std::env::temp_dir()).map_err(Error::temporary)
    }

    fn make_in(parent: &Path) -> io::Result<Self> {
        remove_abandoned(parent);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
        let lock = File::create_new(folder.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns what an error of a drill in it says for people: one that comes of a full disk is one of temporary files.
    pub(super) fn told(&self, error: Error) -> Error {
        let full = |why: String| Error::temporary(io::Error::new(io::ErrorKind::StorageFull, why));
        match error {
            Error::NoSpace { path, needed, free } if path.starts_with(self.path()) => {
                full(format!("{needed} bytes are needed, {free} are free"))
            }
            Error::Io { path, source, .. } if path.starts_with(self.path()) && is_full(&source) => {
                Error::temporary(source)
            }
            Error::Postgres(ref of_server) if of_server.is_of_full_disk() => {
                // Programs go on to say what they remove.
                full(error.full_message().lines().next().unwrap_or_default().to_owned())
            }
            error => error,
        }
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders of drills that do not live any more. What cannot be removed stays: it is in nobody's way.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&path) {
            match fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::info!(event = "scratch-removed", path = %path.display(), "an abandoned drill");
                }
                Err(error) => {
                    tracing::warn!(event = "scratch-stays", path = %path.display(), %error, "not removed");
                }
            }
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    let user = rustix::process::geteuid();
    // A server of ours belongs to another user when this is root.
    if !metadata.is_dir() || !(user.is_root() || metadata.uid() == user.as_raw()) {
        return false;
    }
    match File::open(path.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => {
            let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            age.is_some_and(|age| age > NEWBORN)
        }
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_postgres::Error as PostgresError;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn folders_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::make_in(parent.path()).unwrap();
        assert_eq!(fs::metadata(living.path()).unwrap().mode() & 0o777, 0o700);
        let dead = parent.path().join(format!("{PREFIX}dead"));
        let newborn = parent.path().join(format!("{PREFIX}newborn"));
        let other = parent.path().join("dbkeep-other");
        for folder in [&dead, &newborn, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("data"), "x").unwrap();
        }
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(other.join(LOCK), "").unwrap();
        let next = Scratch::make_in(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists() && next.path().exists() && newborn.exists() && other.exists());
        let gone = living.path().to_owned();
        drop(living);
        assert!(!gone.exists());
    }

    #[test]
    fn what_comes_of_a_full_disk_names_the_folder_and_the_rest_stays_as_it_is() {
        let scratch = Scratch::make().unwrap();
        let inside = scratch.path().join("drill.db");
        let io = |path: &Path, kind: io::ErrorKind| Error::io("write", path)(kind.into());
        let tool = |what: &str| {
            Error::Postgres(PostgresError::Tool { program: "initdb".to_owned(), what: what.to_owned() })
        };
        let no_room = PostgresError::NoRoom { what: "it is gone".to_owned(), free: 1 };
        let full = [
            (Error::NoSpace { path: inside.clone(), needed: 2, free: 1 }, "2 bytes are needed, 1 are free"),
            (io(&inside, io::ErrorKind::StorageFull), "no storage space"),
            (tool("No space left on device\nremoving"), "initdb failed: No space left on device"),
            (no_room.into(), "it is gone; 1 bytes are free"),
        ];
        for (error, why) in full {
            let told = scratch.told(error);
            assert_eq!(told.kind(), ErrorKind::NoSpace);
            assert!(told.full_message().ends_with(why), "{}", told.full_message());
            assert!(told.hint().unwrap().contains("TMPDIR"));
        }
        let others = [
            Error::NoSpace { path: "/elsewhere".into(), needed: 2, free: 1 },
            io(Path::new("/elsewhere"), io::ErrorKind::StorageFull),
            io(&inside, io::ErrorKind::PermissionDenied),
            tool("no such locale"),
            PostgresError::Stopped.into(),
        ];
        for error in others {
            let before = error.full_message();
            assert_eq!(scratch.told(error).full_message(), before);
        }
    }
}
