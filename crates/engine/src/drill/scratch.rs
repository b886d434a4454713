//! A folder for what a drill makes, which nobody else may enter and which never stays.
//!
//! It is locked as long as its drill lives. The next drill removes folders whose lock can be had.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

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
    /// Removes what killed drills left below `parent`, and makes a folder there.
    pub(super) fn make(parent: &Path) -> Result<Self> {
        remove_abandoned(parent);
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
        let folder = made.map_err(Error::io("make a directory in", parent))?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))
            .map_err(Error::io("set the mode of", folder.path()))?;
        let path = folder.path().join(LOCK);
        let lock = File::create_new(&path).map_err(Error::io("write", &path))?;
        lock.lock().map_err(Error::io("lock", &path))?;
        Ok(Self { folder, _lock: lock })
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
    use super::*;

    #[test]
    fn folders_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::make(parent.path()).unwrap();
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
        let next = Scratch::make(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path().exists() && next.path().exists() && newborn.exists() && other.exists());
        let gone = living.path().to_owned();
        drop(living);
        assert!(!gone.exists());
    }
}
