//! Files that a snapshot has in parts, as stock restic restores them: `NAME.parts/00000/part` and so on.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use dbkeep_repo::write::PARTS_SUFFIX;

use crate::{Error, Result};

/// The file in the directory of each part.
const PART: &str = "part";

/// The parts of a file, in their order.
pub(super) struct Parts {
    folder: PathBuf,
    /// The directories that are there.
    numbers: Vec<String>,
    size: u64,
}

impl Parts {
    /// Returns the parts in a directory; `None` where it holds something else.
    pub(super) fn of(folder: &Path) -> Result<Option<Self>> {
        if !folder.as_os_str().to_string_lossy().ends_with(PARTS_SUFFIX) {
            return Ok(None);
        }
        let (mut numbers, mut size) = (Vec::new(), 0);
        for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match fs::symlink_metadata(entry.path().join(PART)) {
                Ok(metadata) if metadata.is_file() && name.bytes().all(|byte| byte.is_ascii_digit()) => {
                    size += metadata.len();
                }
                _ => return Ok(None),
            }
            numbers.push(name);
        }
        numbers.sort();
        Ok((!numbers.is_empty()).then(|| Self { folder: folder.to_owned(), numbers, size }))
    }

    /// Returns how many bytes they are.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the first part that is missed between others, as a path below the directory. Whether the last ones are
    /// there, what is compared with the contents shows.
    pub(super) fn missing(&self) -> Option<String> {
        let expected = (0..).map(|number| format!("{number:05}"));
        let odd = expected.zip(&self.numbers).find(|(expected, number)| expected != *number);
        odd.map(|(expected, _)| format!("{expected}/{PART}"))
    }

    /// Returns one after the other, as `cat` does.
    pub(super) fn reader(&self) -> impl Read + '_ {
        Joined { paths: self.numbers.iter().map(|number| self.folder.join(number).join(PART)), open: None }
    }
}

/// Reads files one after the other; one is open at a time.
struct Joined<P> {
    paths: P,
    open: Option<File>,
}

impl<P: Iterator<Item = PathBuf>> Read for Joined<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let file = match &mut self.open {
                Some(file) => file,
                None => match self.paths.next() {
                    Some(path) => self.open.insert(File::open(path)?),
                    None => return Ok(0),
                },
            };
            match file.read(buffer)? {
                0 if !buffer.is_empty() => self.open = None,
                count => return Ok(count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(numbers: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("rows.copy.parts");
        for number in numbers {
            fs::create_dir_all(folder.join(number)).unwrap();
            fs::write(folder.join(number).join("part"), format!("<{number}>")).unwrap();
        }
        (root, folder)
    }

    #[test]
    fn parts_are_read_in_their_order_as_one_file() {
        let (_root, folder) = folder(&["00002", "00000", "00001"]);
        let parts = Parts::of(&folder).unwrap().unwrap();
        let mut text = String::new();
        parts.reader().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), parts.size(), parts.missing()), ("<00000><00001><00002>", 21, None));
    }

    #[test]
    fn part_that_is_missing_between_others_is_named() {
        let (_root, folder) = folder(&["00000", "00002"]);
        assert_eq!(Parts::of(&folder).unwrap().unwrap().missing().as_deref(), Some("00001/part"));
    }

    #[test]
    fn other_directories_are_none_of_parts() {
        let (_root, folder) = folder(&["00000"]);
        fs::write(folder.join("notes.txt"), "x").unwrap();
        assert!(Parts::of(&folder).unwrap().is_none());
        let other = folder.with_file_name("rows");
        fs::create_dir_all(other.join("00000")).unwrap();
        fs::write(other.join("00000/part"), "x").unwrap();
        assert!(Parts::of(&other).unwrap().is_none());
    }
}
