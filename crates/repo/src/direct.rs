//! Writing past the page cache.
//!
//! A backup or a restore writes much that nobody reads soon. Through the cache each page is found, copied and written
//! back later, and what the databases' own programs had cached is driven out. Past it the device takes the bytes from
//! our memory, where the file system says how they must lie (`statx`, Linux 6.1); elsewhere nothing changes.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate, statx};
use rustix::io::Errno;

/// How [`AlignedBuffer`] lies in memory. No file system is known that asks for more.
const ALIGNMENT: usize = 4096;
/// What is shorter goes through the cache: a device asked for many small things, one after the other, is slower.
const WORTHWHILE: usize = 64 << 10;
/// What [`write_new`] writes at once.
const BLOCK: usize = 2 << 20;

/// A second way into an open file, past the page cache.
///
/// Both ways may be used side by side for different bytes. Nothing is durable before the file is synced.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    /// What addresses, offsets and lengths must be multiples of.
    block: usize,
    is_refused: AtomicBool,
}

impl DirectFile {
    /// Opens the way; `None` where the file system has none or does not say what it asks for.
    pub fn open(file: &File) -> Option<Self> {
        let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
        let tells = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::DIOALIGN);
        let asked = found.stx_dio_mem_align.max(found.stx_dio_offset_align) as usize;
        if !tells || asked == 0 || asked > ALIGNMENT {
            return None;
        }
        // A page that both ways touch at once could be written back with bytes from before.
        let block = rustix::param::page_size().max(ALIGNMENT);
        let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        Some(Self { file, block, is_refused: AtomicBool::new(false) })
    }

    /// Takes room on the disk for bytes that will be written, where the file system can do that beforehand.
    ///
    /// Until there is room for them writes of several threads wait for each other. An error says that there is none.
    pub fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, range.start, range.end - range.start) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => Err(error.into()),
            // Where it cannot be done, the writes do it.
            _ => Ok(()),
        }
    }

    /// Writes as much of the beginning of `bytes` as can go this way, and returns how much that is: perhaps nothing.
    ///
    /// The rest is for the page cache. May be called from several threads for different bytes.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() - bytes.len() % self.block;
        let lies_well =
            bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) && offset.is_multiple_of(self.block as u64);
        if length < WORTHWHILE || !lies_well || self.is_refused.load(Ordering::Relaxed) {
            return Ok(0);
        }
        match self.file.write_all_at(&bytes[..length], offset) {
            Ok(()) => Ok(length),
            // It said otherwise, but it is the one who knows.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.is_refused.store(true, Ordering::Relaxed);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

/// Writes the contents of a new file, past the page cache as far as that goes.
pub fn write_new(file: &File, contents: &[u8]) -> io::Result<()> {
    let direct = if contents.len() < WORTHWHILE { None } else { DirectFile::open(file) };
    let written = direct.map_or(Ok(0), |direct| copy_past_the_cache(&direct, contents))?;
    file.write_all_at(&contents[written..], written as u64)
}

/// Returns how much was written.
fn copy_past_the_cache(direct: &DirectFile, contents: &[u8]) -> io::Result<usize> {
    let mut block = AlignedBuffer::default();
    block.grow_to(BLOCK.min(contents.len()));
    let mut written = 0;
    for part in contents.chunks(BLOCK) {
        block[..part.len()].copy_from_slice(part);
        let length = direct.write_at(written as u64, &block[..part.len()])?;
        written += length;
        if length < part.len() {
            break;
        }
    }
    Ok(written)
}

/// Bytes that lie as [`DirectFile`] needs them.
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    /// Where the first of ours is.
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Makes it at least `length` bytes long. What is new is zero.
    pub fn grow_to(&mut self, length: usize) {
        if self.length >= length {
            return;
        }
        // Whoever asks again and again for a little more waits for few copies.
        let length = length.max(2 * self.length);
        let mut bytes = vec![0; length + ALIGNMENT];
        let address = bytes.as_ptr().addr();
        let start = address.next_multiple_of(ALIGNMENT) - address;
        bytes[start..start + self.length].copy_from_slice(self);
        *self = Self { bytes, start, length };
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns bytes that tell where they belong.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length as u64).map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    fn contents_of(file: &File) -> Vec<u8> {
        let mut found = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut found, 0).unwrap();
        found
    }

    /// Returns an empty file with both ways into it; `None` where temporary files have only one.
    fn both_ways() -> Option<(File, DirectFile)> {
        let file = tempfile::tempfile().unwrap();
        let direct = DirectFile::open(&file);
        if direct.is_none() {
            println!("skipped: temporary files are on a file system that has no way past the page cache");
        }
        Some((file, direct?))
    }

    #[test]
    fn new_file_has_its_contents_whatever_their_length() {
        for length in [0, 1, 4096, WORTHWHILE - 1, WORTHWHILE, WORTHWHILE + 1, BLOCK, 2 * BLOCK + 5000] {
            let file = tempfile::tempfile().unwrap();
            let contents = pattern(length);
            write_new(&file, &contents).unwrap();
            assert!(contents_of(&file) == contents, "{length} bytes");
        }
    }

    #[test]
    fn memory_file_system_without_the_second_way_is_written_all_the_same() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let contents = pattern(BLOCK + 77);
        write_new(&file, &contents).unwrap();
        assert!(contents_of(&file) == contents);
    }

    #[test]
    fn both_ways_side_by_side_write_what_they_were_given() {
        let Some((file, direct)) = both_ways() else { return };
        let mut block = AlignedBuffer::default();
        block.grow_to(WORTHWHILE + direct.block + 100);
        block.copy_from_slice(&pattern(WORTHWHILE + direct.block + 100));
        let mut expected = vec![0; 8 * WORTHWHILE];
        file.set_len(expected.len() as u64).unwrap();
        // One behind the other, some of them where only the cache will do.
        for start in [0, 2 * WORTHWHILE, 4 * WORTHWHILE + 512, 6 * WORTHWHILE - 1] {
            let direct_length = direct.write_at(start as u64, &block).unwrap();
            assert!(direct_length == 0 || start.is_multiple_of(direct.block));
            file.write_all_at(&block[direct_length..], (start + direct_length) as u64).unwrap();
            expected[start..start + block.len()].copy_from_slice(&block);
        }
        assert!(contents_of(&file) == expected);
    }

    #[test]
    fn only_long_and_aligned_bytes_go_past_the_cache() {
        let Some((_file, direct)) = both_ways() else { return };
        let mut block = AlignedBuffer::default();
        block.grow_to(2 * WORTHWHILE);
        assert_eq!(direct.write_at(0, &block[..WORTHWHILE - 1]).unwrap(), 0);
        assert_eq!(direct.write_at(100, &block).unwrap(), 0);
        assert_eq!(direct.write_at(0, &block[1..]).unwrap(), 0);
        let all = block.len();
        assert_eq!(direct.write_at(0, &block[..all - 1]).unwrap(), all - direct.block);
        direct.is_refused.store(true, Ordering::Relaxed);
        assert_eq!(direct.write_at(0, &block).unwrap(), 0);
    }

    #[test]
    fn buffer_that_grows_keeps_its_bytes_and_its_alignment() {
        let mut buffer = AlignedBuffer::default();
        for length in [1, 10, 5000, 4000, 100_000] {
            buffer.grow_to(length);
            assert!(buffer.len() >= length);
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            buffer[length - 1] = 7;
        }
        assert_eq!((buffer[0], buffer[9], buffer[4999], buffer[3999], buffer[99_999]), (7, 7, 7, 7, 7));
        assert_eq!(buffer.iter().filter(|byte| **byte == 7).count(), 5);
    }
}
