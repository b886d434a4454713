//! What a file is, by its contents, and which database it is.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::header::{HEADER_SIZE, Header, MAGIC};
use crate::raw::RawFile;
use crate::{Error, Result};

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A SQLite database.
    Database(Header),
    /// A file that begins as a SQLite database, with a header that makes no sense.
    Damaged(String),
    /// Without a recognisable beginning, and as random as an encrypted database is.
    Encrypted,
    /// A file of zero bytes, which SQLite takes for a database without tables.
    Empty,
    /// Anything else, also a directory.
    Unknown,
    /// Nothing is there.
    Missing,
}

/// Which file a database is: what stays when its contents change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The absolute path without symbolic links.
    pub path: PathBuf,
    /// The number of the device.
    pub device: u64,
    /// The number of the inode on it.
    pub inode: u64,
}

/// The files that SQLite keeps beside a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Siblings {
    /// The size of the write-ahead log, where there is one.
    pub wal: Option<u64>,
    /// Whether there is an index of the log.
    pub shm: bool,
    /// The size of the rollback journal, where there is one.
    pub journal: Option<u64>,
}

impl Siblings {
    /// Looks beside the database `path`, which must be canonical: siblings lie beside the
    /// target of a symbolic link.
    pub fn of(path: &Path) -> Result<Self> {
        let size = |suffix: &str| {
            let sibling = sibling(path, suffix);
            match std::fs::symlink_metadata(&sibling) {
                Ok(metadata) => Ok(Some(metadata.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io("look at", &sibling, error)),
            }
        };
        Ok(Siblings { wal: size("-wal")?, shm: size("-shm")?.is_some(), journal: size("-journal")? })
    }
}

/// Returns the path of a sibling: the database's with `suffix` (`-wal`, `-shm`, `-journal`) after it.
pub fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the absolute path of an existing file, free of symbolic links.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => Error::Missing { path: path.to_path_buf() },
        _ => Error::io("open", path, error),
    })
}

/// Returns which file `path` is.
pub fn identity(path: &Path) -> Result<Identity> {
    let path = canonical(path)?;
    let metadata = metadata(&path)?;
    Ok(Identity { device: metadata.dev(), inode: metadata.ino(), path })
}

pub(crate) fn metadata(path: &Path) -> Result<Metadata> {
    std::fs::metadata(path).map_err(|error| Error::io("look at", path, error))
}

/// Refuses an empty file beside which a journal or log lies: opening it with SQLite would delete them.
pub(crate) fn refuse_siblings_of_empty(path: &Path) -> Result<()> {
    let file = metadata(path)?;
    if !file.is_file() {
        return Err(Error::NotAFile { path: path.to_path_buf() });
    }
    let siblings = Siblings::of(path)?;
    let left = [("-wal", siblings.wal), ("-journal", siblings.journal)];
    match left.into_iter().find(|(_, size)| size.is_some_and(|size| size > 0)) {
        Some((suffix, _)) if file.len() == 0 => {
            Err(Error::EmptyWithSibling { path: path.to_path_buf(), sibling: sibling(path, suffix) })
        }
        _ => Ok(()),
    }
}

/// Says what `path` is by looking at its first bytes.
///
/// May be called while the database is open, in this process or in another.
pub fn kind_of(path: &Path) -> Result<Kind> {
    let path = match canonical(path) {
        Ok(path) => path,
        Err(Error::Missing { .. }) => return Ok(Kind::Missing),
        Err(error) => return Err(error),
    };
    let metadata = metadata(&path)?;
    if !metadata.is_file() {
        return Ok(Kind::Unknown);
    }
    if metadata.len() == 0 {
        return Ok(Kind::Empty);
    }
    let file = RawFile::open(&path)?;
    let mut start = [0u8; 4096];
    let count = file.read_at(0, &mut start)?;
    Ok(kind_of_bytes(&start[..count], file.size()?))
}

/// Says what a file of `size` bytes is that begins with `start` (up to 4096 bytes).
pub fn kind_of_bytes(start: &[u8], size: u64) -> Kind {
    if size == 0 {
        return Kind::Empty;
    }
    let Some(header) = start.first_chunk::<HEADER_SIZE>() else { return Kind::Unknown };
    if header.starts_with(MAGIC) {
        return match Header::parse(header) {
            Ok(header) => Kind::Database(header),
            Err(error) => Kind::Damaged(error.to_string()),
        };
    }
    if looks_encrypted(start, size) { Kind::Encrypted } else { Kind::Unknown }
}

/// Whole pages that are as good as random from the first byte on. Compressed files have
/// headers; those that are common are told apart by theirs.
fn looks_encrypted(start: &[u8], size: u64) -> bool {
    const COMPRESSED: [&[u8]; 11] = [
        &[0x1f, 0x8b],
        b"PK",
        &[0x28, 0xb5, 0x2f, 0xfd],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z'],
        b"7z\xbc\xaf",
        &[0xff, 0xd8, 0xff],
        b"\x89PNG",
        &[0x04, 0x22, 0x4d, 0x18],
        b"%PDF",
        b"Rar!",
    ];
    size.is_multiple_of(512)
        && start.len() >= 512
        && !COMPRESSED.iter().any(|magic| start.starts_with(magic))
        && looks_random(start)
}

/// Compares how often each byte value occurs with what chance would give (chi-squared; for
/// random bytes about 255, deviation 23).
fn looks_random(bytes: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let total = u32::try_from(bytes.len()).map_or(f64::from(u32::MAX), f64::from);
    let expected = total / 256.0;
    let chi: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
    chi < 400.0
}

/// Returns every SQLite file directly in `directory`, by content and not by name, sorted.
///
/// A file that cannot be read is in the list too: to leave it out would be to skip it
/// quietly, and opening it says what is wrong. A database reached by two names is listed once.
pub fn find_databases(directory: &Path) -> Result<Vec<PathBuf>> {
    let list = |error| Error::io("list", directory, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let wanted = match kind_of(&path) {
            Ok(Kind::Database(_) | Kind::Damaged(_)) | Err(_) => true,
            Ok(Kind::Encrypted | Kind::Empty | Kind::Unknown | Kind::Missing) => false,
        };
        if wanted {
            found.push(path);
        }
    }
    found.sort();
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| match std::fs::metadata(path) {
        Ok(metadata) => seen.insert((metadata.dev(), metadata.ino())),
        Err(_) => true,
    });
    Ok(found)
}

/// The kind of file system a database lies on, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// On this machine: locks and times can be relied on.
    Local,
    /// On another machine: no shared memory, and locks that may not work.
    Network(&'static str),
    /// Behind a program of the user's (FUSE), which may be either.
    Userspace,
}

/// Returns the kind of file system that `path` lies on.
#[cfg(target_os = "linux")]
pub fn file_system(path: &Path) -> Result<FileSystem> {
    let stat = rustix::fs::statfs(path).map_err(|error| Error::io("look at", path, error.into()))?;
    // The numbers are those of statfs(2) and linux/magic.h, which are 32 bits wide.
    Ok(match u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff {
        0x6969 => FileSystem::Network("NFS"),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => FileSystem::Network("SMB"),
        0x0102_1997 => FileSystem::Network("9P"),
        0x00c3_6400 => FileSystem::Network("Ceph"),
        0x5346_414f | 0x6b41_4653 => FileSystem::Network("AFS"),
        0x7375_7245 => FileSystem::Network("Coda"),
        0x564c => FileSystem::Network("NCP"),
        0x786f_4256 => FileSystem::Network("VirtualBox shared folder"),
        0xbacb_acbc => FileSystem::Network("VMware shared folder"),
        0x7c7c_6673 => FileSystem::Network("Parallels shared folder"),
        0x6573_5546 => FileSystem::Userspace,
        _ => FileSystem::Local,
    })
}

/// Returns the kind of file system that `path` lies on: unknown here, so nothing is assumed.
#[cfg(not(target_os = "linux"))]
pub fn file_system(path: &Path) -> Result<FileSystem> {
    metadata(path).map(|_| FileSystem::Userspace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn files_are_told_apart_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        rusqlite::Connection::open(at("real.txt")).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        std::fs::write(at("empty.db"), "").unwrap();
        std::fs::write(at("text.db"), "hello ".repeat(1000)).unwrap();
        std::fs::write(at("short.db"), "SQLite format 3\0").unwrap();
        std::fs::write(at("crypt.db"), random(8192)).unwrap();
        std::fs::write(at("odd.db"), random(8191)).unwrap();
        let mut packed = random(8192);
        packed[..2].copy_from_slice(&[0x1f, 0x8b]);
        std::fs::write(at("packed.gz"), packed).unwrap();
        let mut broken = std::fs::read(at("real.txt")).unwrap();
        broken[16..18].copy_from_slice(&[3, 3]);
        std::fs::write(at("broken.db"), broken).unwrap();

        assert!(matches!(kind_of(&at("real.txt")).unwrap(), Kind::Database(_)));
        assert_eq!(kind_of(&at("empty.db")).unwrap(), Kind::Empty);
        assert_eq!(kind_of(&at("text.db")).unwrap(), Kind::Unknown);
        assert_eq!(kind_of(&at("short.db")).unwrap(), Kind::Unknown);
        assert_eq!(kind_of(&at("crypt.db")).unwrap(), Kind::Encrypted);
        assert_eq!(kind_of(&at("odd.db")).unwrap(), Kind::Unknown);
        assert_eq!(kind_of(&at("packed.gz")).unwrap(), Kind::Unknown);
        assert!(matches!(kind_of(&at("broken.db")).unwrap(), Kind::Damaged(_)));
        assert_eq!(kind_of(&at("none")).unwrap(), Kind::Missing);
        assert_eq!(kind_of(&at("real.txt/none")).unwrap(), Kind::Missing);
        assert_eq!(kind_of(folder.path()).unwrap(), Kind::Unknown);
    }

    #[test]
    fn directory_lists_databases_once_and_sorted() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.data", "a"] {
            let connection = rusqlite::Connection::open(folder.path().join(name)).unwrap();
            connection.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x)").unwrap();
            std::mem::forget(connection);
        }
        std::fs::write(folder.path().join("c.db"), "text").unwrap();
        std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("z")).unwrap();
        let found = find_databases(folder.path()).unwrap();
        assert_eq!(found, [folder.path().join("a"), folder.path().join("b.data")]);
    }

    #[test]
    fn identity_is_that_of_the_target_of_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().canonicalize().unwrap().join("t.db");
        std::fs::write(&target, "x").unwrap();
        let link = folder.path().join("l.db");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(identity(&link).unwrap(), identity(&target).unwrap());
        assert_eq!(identity(&link).unwrap().path, target);
    }
}
