//! Syncs the log of a live database before we let its application checkpoint it.
//!
//! Until our read transaction ends no checkpoint gets past it, so applications that leave syncing to their
//! checkpoints (`synchronous=NORMAL`) do not sync at all. The first commit afterwards then checkpoints, and would
//! wait until the whole log is on the disk. We wait for that instead, while commits still go on. Nothing relies on it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// A transaction that was shorter left little to sync.
const LONG: Duration = Duration::from_millis(100);

/// A sync that takes no longer leaves next to nothing to wait for.
const SHORT: Duration = Duration::from_millis(15);

/// How often the log is synced while writers keep adding to it, and for how long: it grows meanwhile.
const MOST: usize = 8;
const LONGEST: Duration = Duration::from_secs(5);

/// Waits until next to nothing of the log at `path` is not on the disk yet. To be called before the transaction,
/// which `began` then, ends.
pub(crate) fn sync(path: &Path, began: Instant) {
    if began.elapsed() >= LONG {
        // Without it a commit after the backup may wait for a moment; the backup is as good. Of a failure of the disk
        // the application's own descriptor is told as well.
        let _ = sync_until_short(path);
    }
}

/// Returns how many syncs it took.
fn sync_until_short(path: &Path) -> io::Result<usize> {
    // Locks never lie on a log, so a descriptor of our own does no harm to those of anybody.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let log = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let first = Instant::now();
    for count in 1..=MOST {
        let began = Instant::now();
        log.sync_data()?;
        if began.elapsed() < SHORT || first.elapsed() > LONGEST {
            return Ok(count);
        }
    }
    Ok(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_synced_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db-wal");
        std::fs::write(&path, vec![1; 4 << 20]).unwrap();
        assert!((1..=MOST).contains(&sync_until_short(&path).unwrap()));
        assert!(std::fs::read(&path).unwrap() == vec![1; 4 << 20]);
    }

    #[test]
    fn log_that_is_gone_or_behind_a_link_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db-wal");
        assert!(sync_until_short(&path).is_err());
        std::fs::write(folder.path().join("other"), "").unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert!(sync_until_short(&path).is_err());
        sync(&path, Instant::now());
    }
}
