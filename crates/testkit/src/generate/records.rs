//! The main database of the benchmark: half incompressible, half text.
//!
//! Extents of about 1 MiB alternate between pages that hold one random blob each and
//! pages full of short lines of text, as a database of pictures and messages has them.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Connection, params};

use super::page;
use crate::Rng;

const PAGE: u64 = 4096;
/// Pages written to one table before it is the other one's turn.
const EXTENT: u64 = 256;
/// One such blob fills a page of 4096 bytes: 4061 is the most that a leaf holds in place.
const BLOB: usize = 4000;

/// Makes a database of about `size` bytes at `path`, which must not exist.
pub fn create(path: &Path, size: u64, seed: u64) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -16000;
         CREATE TABLE pictures(id INTEGER PRIMARY KEY, body BLOB NOT NULL);
         CREATE TABLE messages(id INTEGER PRIMARY KEY, sent TEXT NOT NULL, body TEXT NOT NULL);",
    )?;
    append(&mut connection, size / PAGE, seed)?;
    connection.close().map_err(|(_, error)| error)
}

/// Adds about `pages` pages of new rows at the end of both tables.
pub fn append(connection: &mut Connection, pages: u64, seed: u64) -> rusqlite::Result<()> {
    let rng = &mut Rng::new(seed);
    let transaction = connection.transaction()?;
    {
        let mut picture = transaction.prepare("INSERT INTO pictures(body) VALUES (?1)")?;
        let mut message = transaction.prepare("INSERT INTO messages(sent, body) VALUES (?1, ?2)")?;
        let mut body = vec![0; BLOB];
        let mut line = Vec::new();
        let mut left = pages;
        while left > 0 {
            let extent = left.min(2 * EXTENT);
            for _ in 0..extent.div_ceil(2) {
                rng.fill(&mut body);
                picture.execute([&body])?;
            }
            let mut room = extent / 2 * (PAGE - 12);
            while room > 0 {
                let sent = format!("2026-{:02}-{:02} 12:00", rng.between(1, 12), rng.between(1, 28));
                line.clear();
                let length = rng.between(30, 300) as usize;
                rng.text(length, &mut line);
                let text = std::str::from_utf8(&line).expect("the vocabulary is ASCII");
                message.execute(params![sent, text])?;
                // Cell pointer, lengths, rowid and record header come on top of the values.
                room = room.saturating_sub((length + sent.len() + 12) as u64);
            }
            left -= extent;
        }
    }
    transaction.commit()
}

/// Gives `permille` thousandths of the pages new contents, uniformly at random, and returns
/// how many pages differ now.
///
/// All values on a chosen page change, none changes its length: the database stays valid
/// and passes `quick_check`. Nobody may have it open. The change counter goes up, as it
/// does when a program writes.
pub fn change(path: &Path, permille: u64, seed: u64) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let pages = file.metadata()?.len() / PAGE;
    let rng = &mut Rng::new(seed);
    let wanted = pages * permille / 1000;
    let mut changed = BTreeSet::new();
    let mut tries = 0;
    while (changed.len() as u64) < wanted && tries < 20 * pages {
        tries += 1;
        let number = rng.below(pages);
        // The first page holds the schema; its text must stay what it is.
        if number != 0 && !changed.contains(&number) && change_page(&file, number, rng)? {
            changed.insert(number);
        }
    }
    count_up(&file)?;
    Ok(changed.len() as u64 + 1)
}

fn change_page(file: &File, number: u64, rng: &mut Rng) -> io::Result<bool> {
    let mut bytes = vec![0; PAGE as usize];
    file.read_exact_at(&mut bytes, number * PAGE)?;
    let values = page::last_columns(&bytes, false);
    let mut text = Vec::new();
    for value in &values {
        let old = &mut bytes[value.clone()];
        if old.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b' ') {
            text.clear();
            rng.text(old.len(), &mut text);
            old.copy_from_slice(&text);
        } else {
            rng.fill(old);
        }
    }
    if !values.is_empty() {
        file.write_all_at(&bytes, number * PAGE)?;
    }
    Ok(!values.is_empty())
}

/// Advances the change counter (bytes 24..28) and what is valid for it (92..96).
fn count_up(file: &File) -> io::Result<()> {
    let mut counter = [0; 4];
    file.read_exact_at(&mut counter, 24)?;
    let counter = u32::from_be_bytes(counter).wrapping_add(1).to_be_bytes();
    file.write_all_at(&counter, 24)?;
    file.write_all_at(&counter, 92)
}

/// Returns how many pages of 4096 bytes differ between two files of equal length.
pub fn pages_that_differ(left: &Path, right: &Path) -> io::Result<u64> {
    let (left, right) = (File::open(left)?, File::open(right)?);
    let length = left.metadata()?.len();
    if right.metadata()?.len() != length {
        return Err(io::Error::other("the files differ in length"));
    }
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut differ = 0;
    for offset in (0..length).step_by(1 << 20) {
        let part = (length - offset).min(1 << 20) as usize;
        left.read_exact_at(&mut one[..part], offset)?;
        right.read_exact_at(&mut other[..part], offset)?;
        let pairs = one[..part].chunks(PAGE as usize).zip(other[..part].chunks(PAGE as usize));
        differ += pairs.filter(|(one, other)| one != other).count() as u64;
    }
    Ok(differ)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn database_is_valid_and_about_as_large_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.db");
        create(&path, 8 << 20, 1).unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        assert!((7 << 20..9 << 20).contains(&size), "{size}");
        assert_eq!(zoo::quick_check(&path).unwrap(), "ok");
    }

    #[test]
    fn one_percent_of_the_pages_changes_and_the_database_stays_valid() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("a.db"), folder.path().join("b.db"));
        create(&path, 16 << 20, 1).unwrap();
        std::fs::copy(&path, &copy).unwrap();
        let changed = change(&copy, 10, 2).unwrap();
        let pages = std::fs::metadata(&path).unwrap().len() / PAGE;
        assert_eq!(pages_that_differ(&path, &copy).unwrap(), changed);
        assert_eq!(changed, pages / 100 + 1);
        assert_eq!(zoo::quick_check(&copy).unwrap(), "ok");
    }
}
