//! The write-ahead log (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
//!
//! Bytes only: headers, the checksum chain, and which frame holds the newest version of a
//! page. Where the bytes come from is the caller's affair.

use crate::header::{be16, be32, page_size_from};
use crate::{Error, Result};

/// The length of the header of a log in bytes.
pub const WAL_HEADER_SIZE: u64 = 32;

/// The length of the header of each frame in bytes.
pub const FRAME_HEADER_SIZE: u64 = 24;

/// The format version that every log carries.
const FORMAT: u32 = 3_007_000;

/// How much of a log is read at once.
const READ_SIZE: usize = 1 << 20;

/// The two running sums of the log's checksum.
pub type Checksum = [u32; 2];

/// The header of a log, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Whether checksums read their input as big-endian words.
    pub big_endian: bool,
    /// Bytes in a page.
    pub page_size: u32,
    /// Counts checkpoints, but falls back to 0: not an order.
    pub sequence: u32,
    /// Changes whenever the log begins anew; frames with another salt are left over.
    pub salt: [u32; 2],
    /// The checksum of the header, with which the chain of the frames begins.
    pub checksum: Checksum,
}

impl WalHeader {
    /// Parses a log's first 32 bytes. `None` is what SQLite takes for an empty log.
    pub fn parse(bytes: &[u8; 32]) -> Option<Self> {
        let magic = be32(bytes, 0);
        let page_size = be32(bytes, 8);
        let plausible = magic & !1 == 0x377f_0682
            && be32(bytes, 4) == FORMAT
            && (512..=65536).contains(&page_size)
            && page_size.is_power_of_two();
        let header = WalHeader {
            big_endian: magic & 1 == 1,
            page_size,
            sequence: be32(bytes, 12),
            salt: [be32(bytes, 16), be32(bytes, 20)],
            checksum: [be32(bytes, 24), be32(bytes, 28)],
        };
        (plausible && checksum(header.big_endian, [0, 0], &bytes[..24]) == header.checksum).then_some(header)
    }

    /// Returns the length of a frame in bytes.
    pub fn frame_size(&self) -> u64 {
        FRAME_HEADER_SIZE + u64::from(self.page_size)
    }
}

/// The header of a frame. Its checksum has to be compared with the chain (`Chain::accept`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The number of the page that follows.
    pub page: u32,
    /// The size of the database in pages after this transaction; 0 unless this frame ends one.
    pub commit: u32,
    /// The salt of the log this frame was written for.
    pub salt: [u32; 2],
    /// The chain's checksum after this frame.
    pub checksum: Checksum,
}

impl FrameHeader {
    /// Reads the 24 bytes before a page.
    pub fn parse(bytes: &[u8; 24]) -> Self {
        FrameHeader {
            page: be32(bytes, 0),
            commit: be32(bytes, 4),
            salt: [be32(bytes, 8), be32(bytes, 12)],
            checksum: [be32(bytes, 16), be32(bytes, 20)],
        }
    }
}

/// Continues the log's checksum over `bytes`, whose length is a multiple of 8.
pub fn checksum(big_endian: bool, start: Checksum, bytes: &[u8]) -> Checksum {
    if big_endian { sum(start, bytes, u32::from_be_bytes) } else { sum(start, bytes, u32::from_le_bytes) }
}

fn sum([mut s0, mut s1]: Checksum, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> Checksum {
    for pair in bytes.as_chunks::<8>().0 {
        let [a, b, c, d, e, f, g, h] = *pair;
        s0 = s0.wrapping_add(word([a, b, c, d])).wrapping_add(s1);
        s1 = s1.wrapping_add(word([e, f, g, h])).wrapping_add(s0);
    }
    [s0, s1]
}

/// Follows the checksums from the log's header through its frames, in order.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    big_endian: bool,
    salt: [u32; 2],
    checksum: Checksum,
}

impl Chain {
    /// Begins at the log's header.
    pub fn new(header: &WalHeader) -> Self {
        Chain { big_endian: header.big_endian, salt: header.salt, checksum: header.checksum }
    }

    /// Takes the next frame, header and page. `None` if it does not continue the chain: the
    /// valid part of the log ended before it.
    pub fn accept(&mut self, frame: &[u8]) -> Option<FrameHeader> {
        let (head, page) = frame.split_first_chunk::<24>()?;
        let header = FrameHeader::parse(head);
        let after = checksum(self.big_endian, self.checksum, &head[..8]);
        let after = checksum(self.big_endian, after, page);
        if header.salt != self.salt || header.page == 0 || header.checksum != after {
            return None;
        }
        self.checksum = after;
        Some(header)
    }

    /// Returns the checksum after the last accepted frame.
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }
}

/// Which frame holds the newest version of each page. Eight bytes a distinct page.
#[derive(Clone, Debug, Default)]
pub struct PageMap {
    entries: Vec<(u32, u32)>,
}

impl PageMap {
    #[cfg(test)]
    pub(crate) fn from_frames(frames: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut newest = Newest::default();
        frames.into_iter().for_each(|(page, frame)| newest.push(page, frame));
        newest.into_map(u32::MAX)
    }

    /// Returns the frame with the newest version of `page`.
    pub fn frame_of(&self, page: u32) -> Option<u32> {
        let at = self.entries.binary_search_by_key(&page, |entry| entry.0).ok()?;
        Some(self.entries[at].1)
    }

    /// Returns `(page, frame)` of the pages from `first` to `last`, ascending.
    pub fn between(&self, first: u32, last: u32) -> &[(u32, u32)] {
        let from = self.entries.partition_point(|entry| entry.0 < first);
        let to = self.entries.partition_point(|entry| entry.0 <= last);
        &self.entries[from..to.max(from)]
    }

    /// Returns the number of distinct pages.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Says whether the log holds no page.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Collects frames in the order of the log and keeps the newest of each page.
#[derive(Default)]
struct Newest {
    entries: Vec<(u32, u32)>,
    compact_at: usize,
}

impl Newest {
    fn push(&mut self, page: u32, frame: u32) {
        self.entries.push((page, frame));
        if self.entries.len() >= self.compact_at {
            self.compact();
            self.compact_at = (self.entries.len() * 2).max(64 << 10);
        }
    }

    fn compact(&mut self) {
        self.entries.sort_unstable_by_key(|&(page, frame)| (page, std::cmp::Reverse(frame)));
        self.entries.dedup_by_key(|entry| entry.0);
    }

    fn append(&mut self, other: &mut Newest) {
        for &(page, frame) in &other.entries {
            self.push(page, frame);
        }
        other.entries.clear();
    }

    fn into_map(mut self, page_count: u32) -> PageMap {
        self.compact();
        self.entries.retain(|entry| entry.0 <= page_count);
        self.entries.shrink_to_fit();
        PageMap { entries: self.entries }
    }
}

/// How far a log is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Exactly the frames of a read transaction, as the index of the log states them.
    Mark(Mark),
    /// The last commit whose chain of checksums is whole, as after a crash.
    LastCommit,
}

/// A place in a log: after `frame` frames of the generation with this salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The generation of the log.
    pub salt: [u32; 2],
    /// The number of frames.
    pub frame: u32,
    /// The chain's checksum after the last of them.
    pub checksum: Checksum,
    /// The size of the database in pages.
    pub page_count: u32,
}

/// What a scan of a log found.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Bytes in a page.
    pub page_size: u32,
    /// The last frame that counts.
    pub mark: Mark,
    /// Where the pages are.
    pub map: PageMap,
}

/// Reads a log through `read`, which fills a buffer from an offset and says how many bytes there were.
///
/// Each frame is checked against the chain. With `Until::Mark`, anything that differs from
/// the mark is an error; with `Until::LastCommit`, `None` says that nothing was committed.
pub fn scan(
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<usize>,
    page_size: u32,
    until: Until,
) -> Result<Option<Scan>> {
    let mut head = [0u8; 32];
    let header = match read(0, &mut head)? {
        32 => WalHeader::parse(&head),
        _ => None,
    };
    match (header, until) {
        (Some(header), Until::Mark(mark)) => {
            if header.salt != mark.salt {
                return Err(damaged("the salts differ"));
            }
            if header.page_size != page_size {
                return Err(damaged("the page sizes differ"));
            }
            scan_to_mark(read, &header, mark).map(Some)
        }
        (Some(header), Until::LastCommit) if header.page_size == page_size => {
            scan_to_last_commit(read, &header)
        }
        (Some(_), Until::LastCommit) => Err(damaged("the page sizes differ")),
        (None, Until::Mark(_)) => Err(damaged("the header is not valid")),
        (None, Until::LastCommit) => Ok(None),
    }
}

/// Says whether the log is the one that `mark` is of: its header is sound and has the same salts.
///
/// A chain of checksums that breaks before the mark then means that bytes are not those that were committed.
pub fn is_log_of(
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<usize>,
    page_size: u32,
    mark: Mark,
) -> Result<bool> {
    let mut head = [0u8; 32];
    let count = read(0, &mut head)?;
    let header = WalHeader::parse(&head).filter(|_| count == head.len());
    Ok(header.is_some_and(|header| header.salt == mark.salt && header.page_size == page_size))
}

fn scan_to_mark(
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<usize>,
    header: &WalHeader,
    mark: Mark,
) -> Result<Scan> {
    let mut newest = Newest::default();
    let mut end = (0, 0);
    let chain = frames(read, header, mark.frame, |number, frame| {
        newest.push(frame.page, number);
        end = (number, frame.commit);
    })?;
    if end.0 != mark.frame {
        return Err(damaged(&format!("the chain of checksums breaks after frame {}", end.0)));
    }
    if chain.checksum() != mark.checksum || end.1 != mark.page_count {
        return Err(damaged(&format!("frame {} is not the commit of the read transaction", end.0)));
    }
    Ok(Scan { page_size: header.page_size, mark, map: newest.into_map(mark.page_count) })
}

fn scan_to_last_commit(
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<usize>,
    header: &WalHeader,
) -> Result<Option<Scan>> {
    let mut newest = Newest::default();
    let mut pending = Newest::default();
    let mut mark: Option<Mark> = None;
    frames(read, header, u32::MAX, |number, frame| {
        pending.push(frame.page, number);
        if frame.commit != 0 {
            newest.append(&mut pending);
            let (checksum, page_count) = (frame.checksum, frame.commit);
            mark = Some(Mark { salt: header.salt, frame: number, checksum, page_count });
        }
    })?;
    Ok(mark.map(|mark| Scan { page_size: header.page_size, mark, map: newest.into_map(mark.page_count) }))
}

/// Walks the frames `1..=last` as far as the chain holds.
fn frames(
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<usize>,
    header: &WalHeader,
    last: u32,
    mut each: impl FnMut(u32, FrameHeader),
) -> Result<Chain> {
    let frame_size = usize::try_from(header.frame_size()).expect("a frame has at most 65560 bytes");
    let batch = (READ_SIZE / frame_size).max(1);
    let mut buffer = vec![0u8; batch * frame_size];
    let mut chain = Chain::new(header);
    let mut number = 0u32;
    while number < last {
        let wanted = batch.min((last - number) as usize) * frame_size;
        let offset = WAL_HEADER_SIZE + u64::from(number) * header.frame_size();
        let got = read(offset, &mut buffer[..wanted])?;
        for frame in buffer[..got].chunks_exact(frame_size) {
            let Some(frame) = chain.accept(frame) else { return Ok(chain) };
            number += 1;
            each(number, frame);
        }
        if got < wanted {
            break;
        }
    }
    Ok(chain)
}

/// The header of the index of a log (`-shm`), which also stands behind `sqlite3_snapshot`.
///
/// Not part of the documented file format: <https://www.sqlite.org/walformat.html#the_wal_index_header>.
/// Numbers are in the byte order of the machine, the salts are bytes copied from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIndexHeader {
    /// Bytes in a page.
    pub page_size: u32,
    /// The frames of the read transaction; `frame` 0 means that the log holds nothing for it.
    pub mark: Mark,
}

impl WalIndexHeader {
    /// Reads the 48 bytes of one copy of the header.
    pub fn parse(bytes: &[u8; 48]) -> Self {
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        WalIndexHeader {
            page_size: page_size_from(if cfg!(target_endian = "big") {
                be16(bytes, 14)
            } else {
                u16::from_le_bytes([bytes[14], bytes[15]])
            }),
            mark: Mark {
                salt: [be32(bytes, 32), be32(bytes, 36)],
                frame: number(16),
                checksum: [number(24), number(28)],
                page_count: number(20),
            },
        }
    }
}

fn damaged(what: &str) -> Error {
    Error::Damaged { what: format!("write-ahead log: {what}") }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 512;

    fn log(frames: &[(u32, u32)], big_endian: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [0x377f_0682 | u32::from(big_endian), FORMAT, PAGE as u32, 0, 11, 22] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let mut sums = checksum(big_endian, [0, 0], &out);
        for word in sums {
            out.extend_from_slice(&word.to_be_bytes());
        }
        for (number, &(page, commit)) in frames.iter().enumerate() {
            let start = out.len();
            for word in [page, commit] {
                out.extend_from_slice(&word.to_be_bytes());
            }
            let body = [number as u8 + 1; PAGE];
            sums = checksum(big_endian, sums, &out[start..]);
            sums = checksum(big_endian, sums, &body);
            for word in [11, 22, sums[0], sums[1]] {
                out.extend_from_slice(&word.to_be_bytes());
            }
            out.extend_from_slice(&body);
        }
        out
    }

    fn scan_bytes(bytes: &[u8], until: Until) -> Result<Option<Scan>> {
        let mut read = |offset: u64, buffer: &mut [u8]| {
            let from = (offset as usize).min(bytes.len());
            let count = buffer.len().min(bytes.len() - from);
            buffer[..count].copy_from_slice(&bytes[from..from + count]);
            Ok(count)
        };
        scan(&mut read, PAGE as u32, until)
    }

    #[test]
    fn last_commit_wins_and_open_transaction_is_left_out() {
        for big_endian in [false, true] {
            let bytes = log(&[(1, 0), (2, 2), (2, 3), (3, 0), (1, 0)], big_endian);
            let found = scan_bytes(&bytes, Until::LastCommit).unwrap().unwrap();
            assert_eq!((found.mark.frame, found.mark.page_count), (3, 3));
            assert_eq!(found.map.between(1, 9), [(1, 1), (2, 3)]);
            assert_eq!(found.map.frame_of(2), Some(3));
            assert_eq!(found.map.frame_of(3), None);
            let again = scan_bytes(&bytes, Until::Mark(found.mark)).unwrap().unwrap();
            assert_eq!(again.map.between(0, u32::MAX), found.map.between(0, u32::MAX));
        }
    }

    #[test]
    fn pages_cut_off_by_the_last_commit_are_dropped() {
        let found = scan_bytes(&log(&[(9, 9), (1, 4)], false), Until::LastCommit).unwrap().unwrap();
        assert_eq!(found.map.between(0, u32::MAX), [(1, 2)]);
    }

    #[test]
    fn flipped_bit_ends_the_chain_and_breaks_a_mark() {
        let bytes = log(&[(1, 1), (2, 2), (3, 3)], false);
        let whole = scan_bytes(&bytes, Until::LastCommit).unwrap().unwrap().mark;
        for at in [32 + 536 + 3, 32 + 536 + 10, 32 + 536 + 20, 32 + 536 + 100] {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(scan_bytes(&bad, Until::LastCommit).unwrap().unwrap().mark.frame, 1);
            assert!(scan_bytes(&bad, Until::Mark(whole)).is_err());
        }
        let mut bad = bytes;
        bad[17] ^= 1;
        assert!(scan_bytes(&bad, Until::LastCommit).unwrap().is_none());
        assert!(scan_bytes(&bad, Until::Mark(whole)).is_err());
    }

    #[test]
    fn newest_frame_survives_compaction() {
        let mut newest = Newest::default();
        for frame in 1..=400_000u32 {
            newest.push(frame % 1000 + 1, frame);
        }
        let map = newest.into_map(1000);
        assert_eq!(map.len(), 1000);
        assert_eq!(map.frame_of(1), Some(400_000));
        assert_eq!(map.frame_of(1000), Some(399_999));
    }

    proptest! {
        #[test]
        fn cut_log_yields_the_last_whole_commit(cut in 0usize..32 + 4 * 536) {
            let bytes = log(&[(1, 1), (2, 0), (3, 3), (1, 3)], false);
            let whole = cut.saturating_sub(32) / 536;
            let expected = [None, Some(1), Some(1), Some(3), Some(4)][whole];
            let found = scan_bytes(&bytes[..cut], Until::LastCommit).unwrap();
            prop_assert_eq!(found.map(|scan| scan.mark.frame), expected.filter(|_| cut >= 32));
        }

        #[test]
        fn no_bytes_make_the_scan_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0usize..3000) {
            let mut damaged = log(&[(1, 1), (2, 2), (3, 3), (4, 4)], false);
            for (index, byte) in bytes.iter().enumerate() {
                if let Some(place) = damaged.get_mut(at + index) {
                    *place = *byte;
                }
            }
            let _ = scan_bytes(&damaged, Until::LastCommit);
            let _ = scan_bytes(&bytes, Until::LastCommit);
        }
    }
}
