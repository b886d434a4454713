//! Locks between the processes of this host.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// A file that is locked (`flock`) until this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct HostLock(File);

impl HostLock {
    /// Locks a file, and makes it where it is not there. `None` when it is locked already, also by this process.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for HostLock {
    /// Gives the lock back. To close the file would not do: a process that another thread starts at this moment has it open
    /// as well, until it becomes another program.
    fn drop(&mut self) {
        // What is closed next is given back then at the latest.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_held_once_and_given_back_though_a_child_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.lock");
        let lock = HostLock::take(&path).unwrap().unwrap();
        assert!(HostLock::take(&path).unwrap().is_none());
        let inherited = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(HostLock::take(&path).unwrap().is_some());
        drop(inherited);
        assert!(HostLock::take(&folder.path().join("absent/app.lock")).is_err());
    }
}
