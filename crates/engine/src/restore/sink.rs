//! The file that an image is written into, and its way to the disk.
//!
//! What nobody reads soon goes straight there. What is read again, because a check follows, goes through the page cache
//! and stays in it until somebody asks; the sync at the end of a restore would wait for all of it at once. So a thread
//! of its own syncs now and then while others still decrypt and write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use dbkeep_repo::direct::DirectFile;
use dbkeep_repo::read::ImageSink;

/// Bytes after which a sync is asked for.
const STRETCH: u64 = 64 << 20;

/// A file that is all zeros until it is written.
pub(super) struct FileSink<'f> {
    file: &'f File,
    direct: Option<DirectFile>,
    /// Taken for each write into the page cache: one at a time is let into a file, and those who wait for it spin.
    turn: Mutex<()>,
    /// Bytes that went through the page cache.
    written: AtomicU64,
    wake: SyncSender<()>,
}

impl ImageSink for FileSink<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let past_the_cache = self.direct.as_ref().map_or(Ok(0), |direct| direct.write_at(offset, bytes))?;
        let (offset, bytes) = (offset + past_the_cache as u64, &bytes[past_the_cache..]);
        if bytes.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(bytes, offset)?;
        let length = bytes.len() as u64;
        let before = self.written.fetch_add(length, Ordering::Relaxed);
        if before / STRETCH != (before + length) / STRETCH {
            // When a sync is under way and another is asked for already, that one will do.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }

    fn starts_zeroed(&self) -> bool {
        true
    }
}

/// Lets `write` fill a new file, which is synced meanwhile; past the page cache where a way for that is given.
///
/// On return not everything is durable; the sync at the end is quick. A sync that failed on the way is the second
/// result and must fail the restore, because a later one would not tell again.
pub(super) fn fill<T>(
    file: &File,
    direct: Option<DirectFile>,
    write: impl FnOnce(&FileSink<'_>) -> T,
) -> (T, io::Result<()>) {
    let (wake, asked) = sync_channel(1);
    thread::scope(|scope| {
        let syncing = thread::Builder::new().name("write-back".to_owned());
        let syncing = syncing.spawn_scoped(scope, move || sync_when_asked(|| file.sync_data(), &asked));
        let sink = FileSink { file, direct, turn: Mutex::new(()), written: AtomicU64::new(0), wake };
        let written = write(&sink);
        drop(sink);
        let synced = match syncing {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("a sync panicked"))),
            // Then all is synced at the end.
            Err(_) => Ok(()),
        };
        (written, synced)
    })
}

/// Syncs each time that it is asked to, until nobody can ask any more or a sync fails.
fn sync_when_asked(sync: impl Fn() -> io::Result<()>, asked: &Receiver<()>) -> io::Result<()> {
    asked.iter().try_for_each(|()| sync())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use dbkeep_repo::direct::AlignedBuffer;

    use super::*;

    #[test]
    fn everything_written_is_in_the_file_whether_it_is_read_soon_or_not() {
        let mut block = AlignedBuffer::default();
        block.grow_to(1 << 20);
        block.fill(7);
        for is_read_soon in [true, false] {
            let file = tempfile::tempfile().unwrap();
            let direct = if is_read_soon { None } else { DirectFile::open(&file) };
            let ((), synced) = fill(&file, direct, |sink| {
                for number in (0..200).rev() {
                    sink.write_at(number << 20, &block).unwrap();
                }
            });
            synced.unwrap();
            assert_eq!(file.metadata().unwrap().len(), 200 << 20);
            let mut found = vec![0; 1 << 20];
            for number in 0..200 {
                file.read_exact_at(&mut found, number << 20).unwrap();
                assert!(found == *block, "stretch {number}, read soon: {is_read_soon}");
            }
        }
    }

    #[test]
    fn failed_sync_on_the_way_is_told_and_not_repeated() {
        let (wake, asked) = sync_channel(3);
        for _ in 0..3 {
            wake.send(()).unwrap();
        }
        drop(wake);
        let syncs = Cell::new(0);
        let result = sync_when_asked(
            || {
                syncs.set(syncs.get() + 1);
                Err(io::Error::other("the disk is gone"))
            },
            &asked,
        );
        assert_eq!(result.unwrap_err().to_string(), "the disk is gone");
        assert_eq!(syncs.get(), 1);
    }
}
