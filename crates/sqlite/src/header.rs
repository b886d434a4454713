//! The first 100 bytes of a SQLite database (<https://www.sqlite.org/fileformat2.html#the_database_header>).
//!
//! Bytes only; no input or output.

use crate::{Error, Result};

/// How every database begins.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The length of the header in bytes.
pub const HEADER_SIZE: usize = 100;

/// The byte at which SQLite takes its locks; the page that holds it never holds data.
pub const LOCK_BYTE: u64 = 0x4000_0000;

/// How texts are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, also of a database without any table yet.
    Utf8,
    /// UTF-16, little end first.
    Utf16Le,
    /// UTF-16, big end first.
    Utf16Be,
}

/// How space freed at the end of the file is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoVacuum {
    /// Never (0).
    None,
    /// At each commit (1).
    Full,
    /// When asked (2).
    Incremental,
}

/// The database header, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes in a page: a power of two from 512 to 65536.
    pub page_size: u32,
    /// 1 for a rollback journal, 2 for a write-ahead log.
    pub write_version: u8,
    /// 1 for a rollback journal, 2 for a write-ahead log.
    pub read_version: u8,
    /// Bytes at the end of each page that SQLite leaves alone.
    pub reserved: u8,
    /// Counts transactions of rollback mode; not a test for change (see `position`).
    pub change_counter: u32,
    /// Pages in the file as the last writer saw it; only valid when `page_count_is_valid`.
    pub page_count: u32,
    /// The first page of the list of free pages, or 0.
    pub freelist_first: u32,
    /// The number of free pages.
    pub freelist: u32,
    /// Counts changes of the schema.
    pub schema_cookie: u32,
    /// The schema format, 1 to 4; 0 in a database without tables.
    pub schema_format: u32,
    /// Whether and how the file shrinks.
    pub auto_vacuum: AutoVacuum,
    /// The encoding of texts.
    pub encoding: Encoding,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
    /// The change counter at which `page_count` and `sqlite_version` were written.
    pub version_valid_for: u32,
    /// The SQLite that wrote last, as 3054001; 0 when an old one did.
    pub sqlite_version: u32,
}

impl Header {
    /// Parses the first 100 bytes of a file.
    ///
    /// Refuses what SQLite refuses as "not a database": wrong magic, impossible page size,
    /// too little usable space, wrong payload fractions. Version numbers above 2 are kept:
    /// `is_supported` tells.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self> {
        if &bytes[..16] != MAGIC {
            return Err(damaged("the file does not begin as a SQLite database"));
        }
        let page_size = page_size_from(be16(bytes, 16));
        if !(512..=65536).contains(&page_size) || !page_size.is_power_of_two() {
            return Err(damaged(&format!("page size {page_size} in the header")));
        }
        let reserved = bytes[20];
        if page_size - u32::from(reserved) < 480 {
            return Err(damaged(&format!("{reserved} reserved bytes in pages of {page_size}")));
        }
        if bytes[21..24] != [64, 32, 32] {
            return Err(damaged("payload fractions in the header are not 64, 32, 32"));
        }
        let auto_vacuum = match (be32(bytes, 52), be32(bytes, 64)) {
            (0, _) => AutoVacuum::None,
            (_, 0) => AutoVacuum::Full,
            _ => AutoVacuum::Incremental,
        };
        let encoding = match be32(bytes, 56) {
            2 => Encoding::Utf16Le,
            3 => Encoding::Utf16Be,
            _ => Encoding::Utf8,
        };
        Ok(Header {
            page_size,
            write_version: bytes[18],
            read_version: bytes[19],
            reserved,
            change_counter: be32(bytes, 24),
            page_count: be32(bytes, 28),
            freelist_first: be32(bytes, 32),
            freelist: be32(bytes, 36),
            schema_cookie: be32(bytes, 40),
            schema_format: be32(bytes, 44),
            auto_vacuum,
            encoding,
            user_version: be32(bytes, 60).cast_signed(),
            application_id: be32(bytes, 68).cast_signed(),
            version_valid_for: be32(bytes, 92),
            sqlite_version: be32(bytes, 96),
        })
    }

    /// Says whether the file is marked for a write-ahead log.
    pub fn is_wal(&self) -> bool {
        self.write_version == 2 || self.read_version == 2
    }

    /// Says whether official SQLite reads this file: versions above 2 belong to branches such as WAL2.
    pub fn is_supported(&self) -> bool {
        (1..=2).contains(&self.write_version) && (1..=2).contains(&self.read_version)
    }

    /// Says whether `page_count` was written by the last writer. Very old SQLite did not keep it.
    pub fn page_count_is_valid(&self) -> bool {
        self.page_count != 0 && self.change_counter == self.version_valid_for
    }

    /// Returns the number of pages of a file with this header that is `file_size` bytes long,
    /// when no log lies over it.
    pub fn pages_in(&self, file_size: u64) -> u64 {
        if self.page_count_is_valid() {
            u64::from(self.page_count)
        } else {
            file_size / u64::from(self.page_size)
        }
    }

    /// Says whether the SQLite that wrote last can damage a database through the WAL-reset bug.
    ///
    /// Found in March 2026: 3.7.0 to 3.51.2 are affected, except 3.44.6 and 3.50.7 and their
    /// successors, which carry the correction (<https://www.sqlite.org/wal.html>).
    pub fn affected_by_wal_reset_bug(&self) -> bool {
        let corrected = matches!(self.sqlite_version, 3_044_006..=3_044_999 | 3_050_007..=3_050_999);
        (3_007_000..3_051_003).contains(&self.sqlite_version) && !corrected
    }

    /// Returns the version of the SQLite that wrote last, as `3.54.1`.
    pub fn sqlite_version_text(&self) -> String {
        let version = self.sqlite_version;
        format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000)
    }
}

/// Returns the number of the page that never holds data, because SQLite's locks lie there, for pages of
/// `page_size` bytes.
pub fn lock_page(page_size: u32) -> u32 {
    0x4000_0000 / page_size + 1
}

/// Returns the page size that a 16-bit field means: 65536 does not fit and is written as 1.
pub(crate) fn page_size_from(field: u16) -> u32 {
    if field == 1 { 65536 } else { u32::from(field) }
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn damaged(what: &str) -> Error {
    Error::Damaged { what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> [u8; HEADER_SIZE] {
        let mut bytes = [0u8; HEADER_SIZE];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..18].copy_from_slice(&4096u16.to_be_bytes());
        bytes[18..24].copy_from_slice(&[2, 2, 8, 64, 32, 32]);
        bytes[24..28].copy_from_slice(&7u32.to_be_bytes());
        bytes[28..32].copy_from_slice(&12u32.to_be_bytes());
        bytes[56..60].copy_from_slice(&3u32.to_be_bytes());
        bytes[60..64].copy_from_slice(&(-5i32).to_be_bytes());
        bytes[92..96].copy_from_slice(&7u32.to_be_bytes());
        bytes[96..100].copy_from_slice(&3_051_002u32.to_be_bytes());
        bytes
    }

    #[test]
    fn header_fields_are_read_from_their_places() {
        let header = Header::parse(&sample()).unwrap();
        assert_eq!((header.page_size, header.reserved, header.page_count), (4096, 8, 12));
        assert_eq!((header.encoding, header.user_version), (Encoding::Utf16Be, -5));
        assert!(header.is_wal() && header.is_supported() && header.page_count_is_valid());
        assert_eq!(header.sqlite_version_text(), "3.51.2");
        assert_eq!(header.pages_in(1 << 30), 12);
    }

    #[test]
    fn page_size_65536_is_written_as_one() {
        let mut bytes = sample();
        bytes[16..18].copy_from_slice(&1u16.to_be_bytes());
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.page_size, 65536);
        assert_eq!(lock_page(header.page_size), 16385);
    }

    #[test]
    fn stale_page_count_is_replaced_by_the_file_size() {
        let mut bytes = sample();
        bytes[92..96].copy_from_slice(&6u32.to_be_bytes());
        let header = Header::parse(&bytes).unwrap();
        assert!(!header.page_count_is_valid());
        assert_eq!(header.pages_in(5 * 4096 + 100), 5);
    }

    #[test]
    fn impossible_headers_are_refused() {
        let break_at = |at: usize, with: &[u8]| {
            let mut bytes = sample();
            bytes[at..at + with.len()].copy_from_slice(with);
            Header::parse(&bytes)
        };
        assert!(break_at(0, b"X").is_err());
        assert!(break_at(16, &[0, 0]).is_err());
        assert!(break_at(16, &[0x10, 0x01]).is_err());
        assert!(break_at(16, &[0x01, 0x00]).is_err());
        assert!(break_at(16, &[0x02, 0x00, 2, 2, 40]).is_err());
        assert!(break_at(21, &[63]).is_err());
    }

    #[test]
    fn versions_with_the_wal_reset_bug_are_known() {
        let affected = |version: u32| {
            let header = Header { sqlite_version: version, ..Header::parse(&sample()).unwrap() };
            header.affected_by_wal_reset_bug()
        };
        for version in [3_007_000, 3_044_005, 3_045_000, 3_049_002, 3_050_006, 3_051_002] {
            assert!(affected(version), "{version}");
        }
        for version in [0, 3_006_023, 3_044_006, 3_050_007, 3_051_003, 3_052_000, 3_054_001] {
            assert!(!affected(version), "{version}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: [u8; 32], valid_start: bool) {
            let mut all = sample();
            let start = if valid_start { 16 } else { 0 };
            all[start..start + 32].copy_from_slice(&bytes);
            if let Ok(header) = Header::parse(&all) {
                prop_assert!(header.page_size.is_power_of_two());
                let _ = (header.pages_in(u64::MAX), lock_page(header.page_size), header.sqlite_version_text());
            }
        }
    }
}
