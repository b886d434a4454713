//! Brings the log of a live database to the disk before we let its application checkpoint it.
//!
//! Until our read transaction ends no checkpoint gets past it, so applications that leave syncing to their
//! checkpoints (`synchronous=NORMAL`) do not sync at all. The first commit afterwards then checkpoints, and would
//! wait until the whole log is on the disk. We wait for that instead, while commits still go on. Nothing relies on it.
//!
//! A log that grew by gigabytes is not synced at once either: while the system gives its new blocks their places, it
//! locks the file's map of blocks, which a commit needs to append, and commits wait for up to a quarter of a second. So
//! a log is followed while it grows, a few mebibytes at a time, with a rest after each.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::capture::image::open_beside;

/// A transaction that was shorter left little to sync.
pub(crate) const LONG: Duration = Duration::from_millis(100);

/// A sync that takes no longer leaves next to nothing to wait for.
const SHORT: Duration = Duration::from_millis(15);

/// How often the log is synced while writers keep adding to it, and after which time no more: it grows meanwhile.
const MOST: usize = 8;
const LONGEST: Duration = Duration::from_secs(5);

/// How much is sent to the disk at once.
const SLICE: u64 = 4 << 20;

/// How much at the end of the log is left alone: commits write there.
const END: u64 = 1 << 20;

/// How long commits have the file to themselves after a slice, and how often the log is looked at.
const REST: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(20);

/// A thread that sends a log to the disk while it grows, until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    /// Its end tells the thread to end, which nobody waits for: the disk may hang.
    _stop: Sender<()>,
}

impl Follower {
    /// Follows the log at `path` from its start. Without it a commit may wait for a moment; the backup is as good.
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let log = open_beside(path)?;
        let (stop, stopped) = mpsc::channel();
        // A failure of the disk is for the application to hear of, through its own descriptor.
        let body = move || {
            follow(&log, &stopped, |offset| {
                let _ = send(&log, offset, SLICE);
            });
        };
        thread::Builder::new().name("log".to_owned()).spawn(body)?;
        Ok(Self { _stop: stop })
    }
}

/// Sends one slice after the other as the log grows, until the other end of the channel is gone.
fn follow(log: &File, stopped: &Receiver<()>, mut send: impl FnMut(u64)) {
    let mut offset = 0;
    let mut pause = Duration::ZERO;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let end = log.metadata().map_or(0, |metadata| metadata.len().saturating_sub(END));
        pause = PAUSE;
        if end >= offset + SLICE {
            send(offset);
            offset += SLICE;
            pause = REST;
        }
    }
}

/// Waits until next to nothing of the log at `path` is not on the disk yet. To be called before the transaction,
/// which `began` then, ends.
///
/// A failure of the disk is worth telling: whoever opens the log after this is not told of it by the system.
pub(crate) fn sync(path: &Path, began: Instant) -> io::Result<()> {
    if began.elapsed() < LONG {
        return Ok(());
    }
    match sync_until_short(path) {
        // Nothing is left to sync.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map(|_count| ()),
    }
}

/// Returns how many syncs it took.
fn sync_until_short(path: &Path) -> io::Result<usize> {
    let log = open_beside(path)?;
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

/// Begins to write a part of a file to the disk, as far as it is not there yet.
#[cfg(target_os = "linux")]
fn send(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let (descriptor, write) = (file.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
    // SAFETY: sync_file_range(2) takes numbers and touches no memory of ours; the descriptor is open.
    match unsafe { libc::sync_file_range(descriptor, offset.cast_signed(), length.cast_signed(), write) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Other systems have no call for a part of a file.
#[cfg(not(target_os = "linux"))]
fn send(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
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
        let began = Instant::now() - LONG;
        assert!(sync(&path, began).is_err());
        assert!(sync(&folder.path().join("gone.db-wal"), began).is_ok());
    }

    #[test]
    fn growing_log_is_followed_but_for_its_end() {
        let log = tempfile::tempfile().unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let (send, sent) = mpsc::channel();
        thread::scope(|scope| {
            let log = &log;
            scope.spawn(move || follow(log, &stopped, |offset| send.send(offset).unwrap()));
            for slice in 0..3 {
                log.set_len((slice + 1) * SLICE + END - 1).unwrap();
                assert_eq!(sent.recv_timeout(2 * PAUSE), Err(RecvTimeoutError::Timeout));
                log.set_len((slice + 1) * SLICE + END).unwrap();
                assert_eq!(sent.recv().unwrap(), slice * SLICE);
            }
            drop(stop);
        });
    }

    #[test]
    fn follower_leaves_the_log_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db-wal");
        let bytes: Vec<u8> = (0..251).cycle().take(3 << 22).collect();
        std::fs::write(&path, &bytes).unwrap();
        let follower = Follower::start(&path).unwrap();
        thread::sleep(PAUSE);
        drop(follower);
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert!(Follower::start(&folder.path().join("gone.db-wal")).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn part_of_a_file_can_be_sent() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * SLICE).unwrap();
        send(&file, SLICE, SLICE).unwrap();
        // What has no bytes on a disk.
        let null = File::open("/dev/null").unwrap();
        assert_eq!(send(&null, 0, SLICE).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
    }
}
