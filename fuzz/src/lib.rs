//! What each fuzz target does with its bytes: parse them, and hold what was parsed to its invariants.
//!
//! A target panics when an invariant is broken; an error is a right answer. `fuzz_targets/` hands these
//! functions to the fuzzer; `tests/replay.rs` runs them over the corpora on any toolchain.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dbkeep_engine::report::{FilesReport, VerifyStatus};
use dbkeep_engine::{Environment, Error, Watch, files};
use dbkeep_postgres::catalog::Column;
use dbkeep_postgres::json::{Decoder, Encoder, Layout};
use dbkeep_postgres::text::{Malformed, Rows, push_row};
use dbkeep_repo::backend::FileKind;
use dbkeep_repo::cache::{record, segment};
use dbkeep_repo::format::config::Config;
use dbkeep_repo::format::fact::FactFile;
use dbkeep_repo::format::index::IndexFile;
use dbkeep_repo::format::key::KeyFile;
use dbkeep_repo::format::lock::LockFile;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::format::{pack, unpacked};
use dbkeep_repo::write::KnownChunks;
use dbkeep_repo::{Id, Unobserved};
use dbkeep_sqlite::compare::{self, Comparison, Options, Side, Way};
use dbkeep_sqlite::header::{HEADER_SIZE, Header, lock_page};
use dbkeep_sqlite::inspect::TableRoot;
use dbkeep_sqlite::rows::RowCounter;
use dbkeep_sqlite::split::{self, Single, Splitter};
use dbkeep_sqlite::vfs::open_image;
use dbkeep_sqlite::wal;

/// One target: its name, which is also that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 22] = [
    ("pack_header", pack_header),
    ("index", index),
    ("tree", tree),
    ("snapshot", snapshot),
    ("key_file", key_file),
    ("config", config),
    ("lock", lock),
    ("fact", fact),
    ("unpacked", unpacked),
    ("known_chunks", known_chunks),
    ("sqlite_header", sqlite_header),
    ("wal", wal),
    ("rows", rows),
    ("cache", cache),
    ("compare", compare),
    ("sql_split", sql_split),
    ("json_document", json_document),
    ("json_lines", json_lines),
    ("documents", documents),
    ("archive", archive),
    ("postgres_text", postgres_text),
    ("postgres_json", postgres_json),
];

/// The header of a pack: blobs lie one behind the other, inside the pack, and the header fills the rest.
///
/// The first four bytes say how long the pack is beyond its header.
pub fn pack_header(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk::<4>() else { return };
    let pack_size = u64::from(u32::from_le_bytes(*size)) + header.len() as u64;
    let Ok(blobs) = pack::decode_header(header, pack_size) else { return };
    let mut offset = 0;
    for blob in &blobs {
        assert_eq!(u64::from(blob.offset), offset);
        offset = blob.end();
        assert!(offset <= pack_size);
    }
    assert_eq!(pack::encode_header(&blobs), header);
}

/// An index file: what was read is written and read again as the same.
pub fn index(data: &[u8]) {
    let Ok(file) = IndexFile::decode(data) else { return };
    for blob in file.packs.iter().chain(&file.packs_to_delete).flat_map(|pack| &pack.blobs) {
        assert!(blob.end() >= u64::from(blob.offset));
    }
    assert_eq!(IndexFile::decode(&file.encode()).expect("what we wrote is read"), file);
}

/// A tree: names can be written again, and are written the same.
pub fn tree(data: &[u8]) {
    let Ok(tree) = Tree::decode(data) else { return };
    let Ok(encoded) = tree.encode() else { return };
    let again = Tree::decode(&encoded).expect("what we wrote is read");
    assert_eq!(again.encode().expect("what was written once is written again"), encoded);
}

/// A snapshot.
pub fn snapshot(data: &[u8]) {
    let Ok(snapshot) = Snapshot::decode(data) else { return };
    let again = Snapshot::decode(&snapshot.encode()).expect("what we wrote is read");
    assert_eq!(again.encode(), snapshot.encode());
}

/// A key file: the cost it asks for is one we are ready to pay.
pub fn key_file(data: &[u8]) {
    let Ok(key) = KeyFile::decode(data) else { return };
    let Ok(cost) = key.cost() else { return };
    let memory = (128u64 << cost.log_n) * u64::from(cost.r);
    assert!(memory <= 256 << 20, "{memory} bytes for one key");
}

/// The config.
pub fn config(data: &[u8]) {
    let Ok(config) = Config::decode(data) else { return };
    assert!(Config::decode(&config.encode()).is_ok());
}

/// A lock.
pub fn lock(data: &[u8]) {
    let Ok(lock) = LockFile::decode(data) else { return };
    assert!(LockFile::decode(&lock.encode()).is_ok());
}

/// A fact.
pub fn fact(data: &[u8]) {
    let Ok(fact) = FactFile::decode(data) else { return };
    assert!(FactFile::decode(&fact.encode()).is_ok());
}

/// The envelope of sealed JSON: bounded decompression.
pub fn unpacked(data: &[u8]) {
    let Ok(json) = unpacked::decode(data) else { return };
    assert!(json.len() <= 128 << 20);
}

/// The local list of known chunks.
pub fn known_chunks(data: &[u8]) {
    let Ok(known) = KnownChunks::decode(data) else { return };
    assert_eq!(known.encode(), data);
}

/// A segment of the local cache, opened: what is read of it is written again as the same.
///
/// The first byte chooses the kind of its objects.
pub fn cache(data: &[u8]) {
    let Some((choice, plain)) = data.split_first() else { return };
    let kind = [FileKind::Snapshot, FileKind::Fact, FileKind::Index][usize::from(choice % 3)];
    let header = segment::Header { kind, repository: Id::NULL };
    let Ok(records) = segment::records(plain, &header) else { return };
    let mut draft = segment::Draft::new(&header);
    for (id, range) in records {
        let object = &plain[range];
        draft.add(&id, object);
        match kind {
            FileKind::Snapshot => {
                let Ok(snapshot) = record::decode_snapshot(object) else { continue };
                assert_eq!(record::encode_snapshot(&snapshot), object);
            }
            FileKind::Fact => {
                let Ok(fact) = record::decode_fact(object) else { continue };
                assert_eq!(record::encode_fact(&fact).as_deref(), Some(object));
            }
            _ => {
                let Ok(packs) = record::decode_index(object) else { continue };
                let blobs: usize = packs.iter().map(|pack| pack.blobs().len()).sum();
                assert!(blobs * 45 + packs.len() * 37 == object.len());
                for blob in packs.iter().flat_map(record::PackRecord::blobs) {
                    assert!(blob.end() <= u64::from(u32::MAX));
                }
            }
        }
    }
    assert_eq!(draft.plain(), plain);
}

/// The header of a SQLite database.
pub fn sqlite_header(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<HEADER_SIZE>() else { return };
    let Ok(header) = Header::parse(bytes) else { return };
    assert!(header.page_size.is_power_of_two() && (512..=65536).contains(&header.page_size));
    assert!(lock_page(header.page_size) > 1);
    let _ = (header.pages_in(u64::MAX), header.affected_by_wal_reset_bug(), header.sqlite_version_text());
}

/// A write-ahead log: whatever is called committed lies inside of it.
///
/// The first byte chooses the page size.
pub fn wal(data: &[u8]) {
    let Some((choice, log)) = data.split_first() else { return };
    let page_size = 512u32 << (choice % 8);
    let mut read = |offset: u64, buffer: &mut [u8]| {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(log.len());
        let length = buffer.len().min(log.len() - start);
        buffer[..length].copy_from_slice(&log[start..start + length]);
        Ok(length)
    };
    let Ok(Some(scan)) = wal::scan(&mut read, page_size, wal::Until::LastCommit) else { return };
    let frame_size = u64::from(page_size) + wal::FRAME_HEADER_SIZE;
    let end = wal::WAL_HEADER_SIZE + u64::from(scan.mark.frame) * frame_size;
    assert!(end <= log.len() as u64, "the last commit lies beyond the log");
    for &(page, frame) in scan.map.between(1, u32::MAX) {
        assert!(frame >= 1 && frame <= scan.mark.frame && page <= scan.mark.page_count);
    }
}

/// The pages of a hostile image: counting rows ends, and takes memory in proportion.
///
/// The first byte chooses the page size, the second the reserved bytes.
pub fn rows(data: &[u8]) {
    let Some(([choice, reserved], pages)) = data.split_first_chunk::<2>() else { return };
    let page_size = 512u32 << (choice % 8);
    let mut counter = RowCounter::new(page_size, *reserved);
    let whole = pages.len() - pages.len() % page_size as usize;
    counter.feed(0, &pages[..whole]);
    for root in 0..8 {
        let _ = counter.rows(&[TableRoot { name: format!("t{root}"), root }]);
    }
    assert!(counter.memory() <= 64 * 1024 + pages.len() * 4);
}

/// Two images that have most of their pages in common: comparing them ends, whatever they hold, and where one of the two
/// is sound, it finds by changed pages what it finds by reading everything.
///
/// The first byte says which side is which, the second how many changes follow, of four bytes each: a page, two bytes
/// for a place in it, and the bits to flip there; where these are none, that place is a page to be copied to the first
/// one. The rest is an image.
pub fn compare(data: &[u8]) {
    let Some(([order, count], rest)) = data.split_first_chunk::<2>() else { return };
    let Some((changes, image)) = rest.split_at_checked(4 * usize::from(*count)) else { return };
    let Some(Ok(header)) = image.first_chunk::<HEADER_SIZE>().map(Header::parse) else { return };
    let changed = with_changes(image, changes, header.page_size as usize);
    let sides = if order % 2 == 0 { [image, &changed] } else { [&changed, image] };
    let plain = compared(sides, &[], None);
    assert_eq!(plain, compared(sides, &same_stretches(sides), None));
    let Some(plain) = plain else { return };
    if !sides.iter().any(|image| is_sound(image)) {
        return;
    }
    for way in [Way::AllPages, Way::Sql] {
        let Some(forced) = compared(sides, &[], Some(way)) else { continue };
        assert_eq!(forced.tables.len(), plain.tables.len());
        for (one, other) in plain.tables.iter().zip(&forced.tables) {
            // Damage that only one of the two met.
            if one.problem.is_none() && other.problem.is_none() {
                let counts =
                    [one, other].map(|table| (table.rows, table.added, table.removed, table.changed));
                assert_eq!(counts[0], counts[1], "{} {way:?}", one.name);
            }
        }
    }
}

fn with_changes(image: &[u8], changes: &[u8], page_size: usize) -> Vec<u8> {
    let mut changed = image.to_vec();
    for change in changes.chunks_exact(4) {
        let start = usize::from(change[0]) * page_size;
        let place = usize::from(u16::from_le_bytes([change[1], change[2]]));
        let source = place * page_size..(place + 1) * page_size;
        match change[3] {
            0 if start + page_size <= image.len() && source.end <= image.len() => {
                changed.copy_within(source, start);
            }
            bits => {
                if let Some(byte) = changed.get_mut(start + place % page_size) {
                    *byte ^= bits;
                }
            }
        }
    }
    changed
}

fn same_stretches([left, right]: [&[u8]; 2]) -> Vec<Range<u64>> {
    const CHUNK: usize = 1024;
    let chunks = left.chunks(CHUNK).zip(right.chunks(CHUNK)).enumerate();
    let same = chunks.filter(|(_, (left, right))| left == right);
    same.map(|(number, (bytes, _))| (number * CHUNK) as u64..(number * CHUNK + bytes.len()) as u64).collect()
}

fn compared(sides: [&[u8]; 2], same: &[Range<u64>], force: Option<Way>) -> Option<Comparison> {
    let [left, right] = sides.map(|image| Side { pages: Arc::new(image.to_vec()), rows: None });
    let options = Options { list: 3, same, force, memory: 1 << 10, ..Options::default() };
    compare::compare(&left, &right, &options).ok()
}

fn is_sound(image: &[u8]) -> bool {
    let Ok(connection) = open_image(Arc::new(image.to_vec())) else { return false };
    let answer = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
    answer.is_ok_and(|answer| answer == "ok")
}

/// SQL text: what closes a statement does so, and what follows it is noticed.
pub fn sql_split(data: &[u8]) {
    let Ok(sql) = std::str::from_utf8(data) else { return };
    let (mut by_line, mut whole) = (Splitter::default(), Splitter::default());
    let last = sql.split_inclusive('\n').map(|line| by_line.feed(line.as_bytes())).last();
    assert_eq!(last.unwrap_or_else(|| by_line.feed(b"")), whole.feed(data));
    let _ = (split::has_word(sql, "AUTOINCREMENT"), split::has_quoted_return(sql));
    let Single::Closed(closing) = split::single(sql) else { return };
    if !sql.contains(';') {
        let closed = format!("{sql}{closing};");
        assert_eq!(split::single(&closed), Single::Closed(""));
        assert!(Splitter::default().feed(closed.as_bytes()));
        assert_eq!(split::single(&format!("{closed}x")), Single::More);
    }
}

/// A JSON document: its rows are counted.
pub fn json_document(data: &[u8]) {
    looked_at(&[("a.json", data)]);
}

/// One JSON object a line.
pub fn json_lines(data: &[u8]) {
    looked_at(&[("a.ndjson", data)]);
}

/// What lies beside files and tells of them: checksums, manifests, metadata.
///
/// The first byte chooses which of them it is.
pub fn documents(data: &[u8]) {
    const NAMES: [&str; 6] = [
        "SHA256SUMS",
        "a.csv.sha256",
        "backup_manifest.json",
        "a.csv.meta.json",
        "backup-metadata.1.json",
        "metadata.json",
    ];
    let Some((choice, document)) = data.split_first() else { return };
    let name = NAMES[usize::from(*choice) % NAMES.len()];
    looked_at(&[(name, document), ("a.csv", b"\"x\"\r\n1\r\n2\r\n")]);
}

/// An archive, whatever is in it.
pub fn archive(data: &[u8]) {
    looked_at(&[("a.tar", data)]);
}

/// Looks at files in a directory of their own, and holds the answers to each other.
fn looked_at(contents: &[(&str, &[u8])]) {
    let Some(report) = verified(contents) else { return };
    assert_eq!(report.ok + report.damaged, report.checked.len() as u64);
    for one in &report.checked {
        assert_eq!(one.status == VerifyStatus::Ok, one.findings.is_empty(), "{one:?}");
        assert_eq!(one.rows, one.tables.iter().map(|table| table.rows).sum::<u64>(), "{one:?}");
    }
}

/// Looks at files in a directory of their own; `None` where they hold nothing that is known.
pub fn verified(contents: &[(&str, &[u8])]) -> Option<FilesReport> {
    static FOLDER: Mutex<Option<tempfile::TempDir>> = Mutex::new(None);
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = match &mut *folder {
        Some(folder) => folder,
        none => none.insert(tempfile::tempdir().expect("there is room for a directory")),
    };
    let paths: Vec<PathBuf> = contents.iter().map(|(name, _)| folder.path().join(name)).collect();
    for (path, (_, bytes)) in paths.iter().zip(contents) {
        fs::write(path, bytes).expect("there is room for a file");
    }
    let given = if paths.len() == 1 { paths.clone() } else { vec![folder.path().to_owned()] };
    let watch: Watch = Arc::new(Unobserved);
    let report = files::verify(&Environment::isolated(folder.path()), &given, &watch);
    for path in &paths {
        fs::remove_file(path).expect("it was just written");
    }
    match report {
        Ok(report) => Some(report),
        Err(Error::Unsupported { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Rows as COPY writes them: pieces do not matter, and what was read is written and read again as the same.
///
/// The first byte says how many columns there are.
pub fn postgres_text(data: &[u8]) {
    type Values = Vec<Vec<Option<Vec<u8>>>>;
    let Some((choice, data)) = data.split_first() else { return };
    let columns = usize::from(choice % 4);
    let read = |bytes: &[u8], size: usize| -> Result<Values, Malformed> {
        let (mut rows, mut found) = (Rows::new(columns), Vec::new());
        for piece in bytes.chunks(size) {
            rows.push(piece, &mut |row| {
                found.push(row.values().map(|value| value.map(<[u8]>::to_vec)).collect());
                Ok(())
            })?;
        }
        rows.finish().map(|_| found)
    };
    let whole = read(data, data.len().max(1));
    assert_eq!(read(data, 1), whole);
    let Ok(rows) = whole else { return };
    let mut written = Vec::new();
    rows.iter().for_each(|row| push_row(&mut written, row.iter().map(Option::as_deref)));
    assert_eq!(read(&written, 7), Ok(rows));
}

/// Rows as JSON: pieces do not matter, and what was read comes out of the encoder and back as the same.
///
/// The first byte says how many columns there are.
pub fn postgres_json(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let columns = columns(*choice);
    let read = |bytes: &[u8], size: usize| -> Result<Vec<u8>, Malformed> {
        let (mut decoder, mut copy) = (Decoder::new(&columns), Vec::new());
        bytes.chunks(size).try_for_each(|piece| decoder.push(piece, &mut copy))?;
        decoder.finish().map(|_| copy)
    };
    let whole = read(data, data.len().max(1));
    // Of two things that are wrong at one place either may be told.
    assert_eq!(read(data, 1).map_err(|refused| refused.row), whole.clone().map_err(|refused| refused.row));
    let Ok(copy) = whole else { return };
    let (mut encoder, mut lines) = (Encoder::lossless(&columns, Layout::lines()), Vec::new());
    encoder.push(&copy, &mut lines).expect("what we wrote is read");
    encoder.finish().expect("what we wrote has an end");
    assert_eq!(read(&lines, 7), Ok(copy));
}

/// Returns the columns that the first byte of [`postgres_json`] stands for.
pub fn columns(choice: u8) -> Vec<Column> {
    let names = ["a", "b \"", "\u{fc}"];
    let names = names.into_iter().take(usize::from(choice % 4));
    names.map(|name| Column { name: name.to_owned(), ..Column::default() }).collect()
}
