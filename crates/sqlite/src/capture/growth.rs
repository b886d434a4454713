//! By how much the logs of databases of one moment grow while they are held.
//!
//! They are read one after the other, and those that wait are held as well. What matters is the disk: so all that
//! lie on the same one count together.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::identify::{self, Identity};

/// The log of one of the databases.
struct Log {
    path: PathBuf,
    device: u64,
    /// Its size when the moment began.
    size: u64,
    is_held: AtomicBool,
}

impl Log {
    fn growth(&self) -> u64 {
        // By name, since the connection is another thread's; a log that is gone takes no room.
        let now = std::fs::symlink_metadata(&self.path).map_or(0, |metadata| metadata.len());
        now.saturating_sub(self.size)
    }
}

/// A place among the databases of one moment. Dropping it says that this one is held no longer.
pub(super) struct Membership {
    logs: Arc<Vec<Log>>,
    place: usize,
}

impl Membership {
    /// Makes one for each database, in their order. To be called when all of them are held.
    pub(super) fn of_all<'i>(databases: impl Iterator<Item = &'i Identity>) -> Vec<Membership> {
        let log = |identity: &Identity| {
            let path = identify::sibling(&identity.path, "-wal");
            let size = std::fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            Log { path, device: identity.device, size, is_held: AtomicBool::new(true) }
        };
        let logs: Arc<Vec<Log>> = Arc::new(databases.map(log).collect());
        (0..logs.len()).map(|place| Membership { logs: Arc::clone(&logs), place }).collect()
    }

    /// Returns by how many bytes the logs on the disk of this one grew, of all databases that are still held.
    pub(super) fn growth(&self) -> u64 {
        self.held_on_the_same_disk().map(Log::growth).sum()
    }

    /// Returns how many others are still held on the same disk.
    pub(super) fn others(&self) -> usize {
        self.held_on_the_same_disk().count().saturating_sub(1)
    }

    fn held_on_the_same_disk(&self) -> impl Iterator<Item = &Log> {
        let device = self.logs[self.place].device;
        self.logs.iter().filter(move |log| log.device == device && log.is_held.load(Ordering::Relaxed))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.logs[self.place].is_held.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_all_that_are_held_on_the_same_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut databases: Vec<Identity> = ["a.db", "b.db", "c.db"]
            .map(|name| {
                let path = folder.path().join(name);
                std::fs::write(&path, "").unwrap();
                std::fs::write(identify::sibling(&path, "-wal"), [0; 100]).unwrap();
                identify::identity(&path).unwrap()
            })
            .into();
        databases[2].device += 1;
        let mut members = Membership::of_all(databases.iter());
        let grow = |place: usize, to: usize| {
            std::fs::write(identify::sibling(&databases[place].path, "-wal"), vec![0; to]).unwrap();
        };
        let growth = |members: &[Membership]| members.iter().map(Membership::growth).collect::<Vec<_>>();
        assert_eq!(growth(&members), [0, 0, 0]);
        grow(0, 110);
        grow(1, 1100);
        grow(2, 107);
        assert_eq!(growth(&members), [1010, 1010, 7]);
        assert_eq!(members.iter().map(Membership::others).collect::<Vec<_>>(), [1, 1, 0]);
        members.remove(1);
        assert_eq!(members[0].others(), 0);
        assert_eq!(growth(&members), [10, 7]);
        std::fs::remove_file(identify::sibling(&databases[0].path, "-wal")).unwrap();
        assert_eq!(growth(&members), [0, 7]);
    }
}
