//! Very large databases that take almost no disk.
//!
//! SQLite reads only the trunk pages of its freelist, never the leaves that they name.
//! A file whose free pages are holes is therefore a valid database of any size: one
//! trunk page in 1023 is written, the rest is sparse. `integrity_check` and
//! `quick_check` pass, and rows that are inserted later take pages from the holes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Connection, params};

use crate::Rng;

/// The byte whose page SQLite never uses.
const LOCK_BYTE: u64 = 1 << 30;

/// Makes a database of `size` bytes (a multiple of the page size, at least 1 MiB) at `path`,
/// which must not exist.
///
/// It holds a table `kept(id, body)` of 1,000 rows with random text at the start of the file.
pub fn create(path: &Path, size: u64, page_size: u32) -> io::Result<()> {
    let connection = Connection::open(path).map_err(io::Error::other)?;
    fill(&connection, page_size).map_err(io::Error::other)?;
    connection.close().map_err(|(_, error)| io::Error::other(error))?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    extend(&file, size, u64::from(page_size), &[])
}

/// Makes a database just larger than 1 GiB whose rows lie on both sides of the lock page.
pub fn across_lock_page(path: &Path, page_size: u32) -> io::Result<()> {
    let connection = Connection::open(path).map_err(io::Error::other)?;
    fill(&connection, page_size).map_err(io::Error::other)?;
    connection.close().map_err(|(_, error)| io::Error::other(error))?;
    let page_bytes = u64::from(page_size);
    let lock_page = LOCK_BYTE / page_bytes + 1;
    // SQLite takes free pages from the first trunk, so these are the next to be used.
    let near: Vec<u64> = (lock_page - 40..=lock_page + 40).filter(|page| *page != lock_page).collect();
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    extend(&file, LOCK_BYTE + 128 * page_bytes, page_bytes, &near)?;
    drop(file);
    let connection = Connection::open(path).map_err(io::Error::other)?;
    insert_beyond(&connection, 78 * page_bytes).map_err(io::Error::other)
}

fn fill(connection: &Connection, page_size: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", page_size)?;
    connection.execute_batch(
        "PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF;
         CREATE TABLE kept(id INTEGER PRIMARY KEY, body TEXT NOT NULL);
         CREATE TABLE beyond(id INTEGER PRIMARY KEY, body BLOB NOT NULL);",
    )?;
    let rng = &mut Rng::new(20);
    let mut insert = connection.prepare("INSERT INTO kept(body) VALUES (?1)")?;
    connection.execute_batch("BEGIN")?;
    let mut body = Vec::new();
    for _ in 0..1000 {
        body.clear();
        rng.text(200, &mut body);
        insert.execute(params![std::str::from_utf8(&body).expect("the vocabulary is ASCII")])?;
    }
    connection.execute_batch("COMMIT")
}

/// Inserts random rows of about `bytes` in all; they take the free pages.
fn insert_beyond(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let rng = &mut Rng::new(21);
    let mut body = vec![0; 3000];
    let mut insert = connection.prepare("INSERT INTO beyond(body) VALUES (?1)")?;
    connection.execute_batch("BEGIN")?;
    for _ in 0..bytes / 3600 {
        rng.fill(&mut body);
        insert.execute([&body])?;
    }
    connection.execute_batch("COMMIT")
}

/// Grows the file to `size` with a freelist of holes. `first` are the free pages to be used first.
fn extend(file: &File, size: u64, page_bytes: u64, first: &[u64]) -> io::Result<()> {
    let used = file.metadata()?.len() / page_bytes;
    let pages = size / page_bytes;
    let lock_page = LOCK_BYTE / page_bytes + 1;
    let taken: std::collections::BTreeSet<u64> = first.iter().copied().collect();
    let mut free = (used + 1..=pages).filter(|page| *page != lock_page && !taken.contains(page));

    // A trunk names at most usable / 4 - 2 leaves; SQLite itself leaves six more slots
    // empty for the sake of old versions.
    let leaves_per_trunk = (page_bytes / 4 - 8) as usize;
    let mut trunks: Vec<(u64, Vec<u64>)> = Vec::new();
    if !first.is_empty()
        && let Some(trunk) = free.next()
    {
        trunks.push((trunk, first.to_vec()));
    }
    while let Some(trunk) = free.next() {
        trunks.push((trunk, free.by_ref().take(leaves_per_trunk).collect()));
    }
    file.set_len(size)?;
    for (position, (trunk, leaves)) in trunks.iter().enumerate() {
        let next = trunks.get(position + 1).map_or(0, |(next, _)| *next);
        let mut bytes = Vec::with_capacity(page_bytes as usize);
        let mut push = |number: u64| {
            bytes.extend_from_slice(&u32::try_from(number).expect("page numbers have 32 bits").to_be_bytes());
        };
        push(next);
        push(leaves.len() as u64);
        leaves.iter().for_each(|leaf| push(*leaf));
        file.write_all_at(&bytes, (trunk - 1) * page_bytes)?;
    }
    let free_pages: u64 = trunks.iter().map(|(_, leaves)| 1 + leaves.len() as u64).sum();
    write_header(file, pages, trunks.first().map_or(0, |(trunk, _)| *trunk), free_pages)
}

/// Writes page count (28..32), first trunk (32..36) and number of free pages (36..40).
fn write_header(file: &File, pages: u64, trunk: u64, free: u64) -> io::Result<()> {
    let mut fields = [0; 12];
    for (field, value) in fields.as_chunks_mut::<4>().0.iter_mut().zip([pages, trunk, free]) {
        *field = u32::try_from(value).expect("page numbers have 32 bits").to_be_bytes();
    }
    file.write_all_at(&fields, 28)
}

/// Updates `rows` of the 1,000 rows in `kept` with text of the same length.
pub fn change(path: &Path, rows: u64, seed: u64) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    let transaction = connection.transaction()?;
    let rng = &mut Rng::new(seed);
    let mut body = Vec::new();
    for _ in 0..rows {
        body.clear();
        rng.text(200, &mut body);
        let text = std::str::from_utf8(&body).expect("the vocabulary is ASCII");
        transaction
            .execute("UPDATE kept SET body = ?1 WHERE id = ?2", params![text, rng.between(1, 1000) as i64])?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::zoo;

    #[test]
    fn sparse_database_is_valid_and_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse.db");
        create(&path, 3 << 30, 4096).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 3 << 30);
        assert!(metadata.blocks() * 512 < 16 << 20, "{} blocks", metadata.blocks());
        assert_eq!(zoo::quick_check(&path).unwrap(), "ok");
        change(&path, 10, 1).unwrap();
        insert_beyond(&Connection::open(&path).unwrap(), 1 << 20).unwrap();
        assert_eq!(zoo::quick_check(&path).unwrap(), "ok");
    }

    #[test]
    fn rows_lie_on_both_sides_of_the_lock_page() {
        let folder = tempfile::tempdir().unwrap();
        for page_size in [4096, 65536] {
            let path = folder.path().join(format!("lock-{page_size}.db"));
            across_lock_page(&path, page_size).unwrap();
            assert_eq!(zoo::quick_check(&path).unwrap(), "ok");
            let file = File::open(&path).unwrap();
            let is_zero = |page: u64| {
                let mut bytes = vec![0; page_size as usize];
                file.read_exact_at(&mut bytes, (page - 1) * u64::from(page_size)).unwrap();
                bytes.iter().all(|byte| *byte == 0)
            };
            let lock_page = LOCK_BYTE / u64::from(page_size) + 1;
            assert!(is_zero(lock_page));
            assert!(!is_zero(lock_page - 1) && !is_zero(lock_page + 1), "page size {page_size}");
        }
    }
}
