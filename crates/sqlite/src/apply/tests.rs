//! Restores in place: every journal mode and shape of change, kills, full disks, other processes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::*;
use crate::header::HEADER_SIZE;
use crate::inspect::count_rows;
use crate::vfs::open_image;
use crate::zoo;

const NO_PATIENCE: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const CHUNK: u32 = 65536;

fn header(image: &[u8]) -> Header {
    Header::parse(image[..HEADER_SIZE].try_into().unwrap()).unwrap()
}

/// What a function gives; nothing is known of the target.
impl<F: FnMut(u64, Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError>> ChunkSource for F {
    fn chunk(&mut self, index: u64, live: Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError> {
        self(index, live)
    }
}

/// Takes a closure for what it is: one that is given bytes of any lifetime.
fn giving<F: FnMut(u64, Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError>>(source: F) -> F {
    source
}

/// Gives the chunks of `image`, `None` where the target already has them.
pub(crate) fn chunks<'i>(
    image: &'i [u8],
) -> impl FnMut(u64, Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError> + 'i {
    move |index, live| {
        let chunk = nth(image, index).unwrap();
        Ok((live != Some(chunk)).then(|| chunk.to_vec()))
    }
}

/// Returns a chunk, where there is one.
fn nth(bytes: &[u8], index: u64) -> Option<&[u8]> {
    bytes.chunks(CHUNK as usize).nth(usize::try_from(index).unwrap())
}

/// Knows what the target held when it was read under the lock.
struct Known<'i> {
    image: &'i [u8],
    held: Vec<u8>,
    asked_for: Vec<u64>,
}

impl ChunkSource for Known<'_> {
    fn is_held(&self, index: u64) -> bool {
        nth(self.image, index) == nth(&self.held, index)
    }

    fn chunk(&mut self, index: u64, live: Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError> {
        self.asked_for.push(index);
        chunks(self.image)(index, live)
    }
}

fn restore(path: &Path, image: &[u8]) -> Result<Applied> {
    let mut target = InPlace::begin(path, &header(image), PATIENCE)?;
    let applied = target.apply(image.len() as u64, CHUNK, &mut chunks(image))?;
    target.commit(PATIENCE)?;
    Ok(applied)
}

/// Returns the bytes of a database that nobody has open, its log merged.
fn bytes(path: &Path) -> Vec<u8> {
    let connection = Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    connection.close().unwrap();
    std::fs::read(path).unwrap()
}

fn assert_same(path: &Path, image: &[u8], what: &str) {
    let (mut found, mut expected) = (bytes(path), image.to_vec());
    assert_eq!(found.len(), expected.len(), "{what}");
    mask(&mut found);
    mask(&mut expected);
    for (number, (found, expected)) in found.chunks(512).zip(expected.chunks(512)).enumerate() {
        assert_eq!(found, expected, "{what}: at {}", number * 512);
    }
}

fn build(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    zoo::prepare(&connection);
    zoo::run(&connection, sql);
    connection.close().unwrap();
}

/// Another process with a connection that it keeps open; the statements are given line by line.
struct Application {
    process: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

const CHILD: &str = "DBKEEP_TEST_SQLITE_CHILD";

impl Application {
    fn open(path: &Path) -> Self {
        Self::start("sql", path)
    }

    fn start(task: &str, path: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["apply::tests::child_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, task)
            .env("DBKEEP_TEST_SQLITE_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, input, output }
    }

    /// Runs one statement and returns the first column of its first row, `done`, or the error.
    fn ask(&mut self, sql: &str) -> String {
        writeln!(self.input, "{sql}").unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the other process ended");
            if let Some((_, answer)) = line.split_once("=> ") {
                return answer.trim_end().to_string();
            }
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the other process does; nothing when the tests run as usual.
#[test]
fn child_process() {
    let (Ok(task), Ok(path)) = (std::env::var(CHILD), std::env::var("DBKEEP_TEST_SQLITE_PATH")) else {
        return;
    };
    let path = Path::new(&path);
    if task == "restore" {
        return restore_until_killed(path);
    }
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    for line in std::io::stdin().lines() {
        let answer = connection.prepare(&line.unwrap()).and_then(|mut statement| {
            if statement.column_count() == 0 {
                return statement.execute([]).map(|_| "done".to_string());
            }
            statement.query_row([], |row| crate::inspect::text(row, 0))
        });
        println!("=> {}", answer.unwrap_or_else(|error| format!("error: {error}")));
    }
}

const BASE: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB); CREATE INDEX t_a ON t(a);
    CREATE TABLE k(k PRIMARY KEY, v) WITHOUT ROWID;
    INSERT INTO t SELECT value, 'a' || value, noise(value, 500) FROM generate(300);
    INSERT INTO k SELECT 'k' || value, value FROM generate(200);
";

/// Makes it a megabyte.
const MORE: &str = "INSERT INTO t SELECT value + 1000, 'new', noise(value, 900) FROM generate(1000)";

/// What happened between the image and the target, in either direction.
const CHANGES: [(&str, &str); 6] = [
    ("nothing", "SELECT 1"),
    ("rows", "UPDATE t SET a = 'changed' WHERE id % 17 = 0; DELETE FROM k WHERE v % 5 = 0"),
    ("growth", "INSERT INTO t SELECT value + 1000, 'new', noise(value, 3000) FROM generate(400)"),
    (
        "new schema",
        "CREATE TABLE n(x UNIQUE, y); INSERT INTO n SELECT value, noise(value, 99) FROM generate(300); \
                    DROP INDEX t_a; CREATE INDEX t_b ON t(b)",
    ),
    ("dropped", "DROP TABLE t; CREATE TABLE z(a); INSERT INTO z VALUES(1)"),
    ("vacuumed", "DELETE FROM t WHERE id % 2; VACUUM"),
];

#[test]
fn every_mode_and_change_is_restored_under_an_open_connection() {
    for wal in [false, true] {
        for vacuum in 0..3 {
            for (name, change) in CHANGES {
                for backwards in [false, true] {
                    let what = format!("wal {wal}, auto_vacuum {vacuum}, {name}, backwards {backwards}");
                    let mode = if wal { "WAL" } else { "DELETE" };
                    let base = format!("PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={mode}; {BASE}");
                    let (image, target) = if backwards {
                        (zoo::image(&base), format!("{base}; {change}"))
                    } else {
                        (zoo::image(&format!("{base}; {change}")), base)
                    };
                    restored_under_an_open_connection(&image, &target, wal, &what);
                }
            }
        }
    }
}

#[test]
fn auto_vacuum_of_target_and_image_may_differ() {
    for (of_image, of_target) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        for (name, change) in CHANGES {
            for wal in [false, true] {
                let what = format!("auto_vacuum {of_target} becomes {of_image}, {name}, wal {wal}");
                let image = zoo::image(&format!("PRAGMA auto_vacuum={of_image}; {BASE}; {change}"));
                let mode = if wal { "WAL" } else { "DELETE" };
                let target = format!("PRAGMA auto_vacuum={of_target}; PRAGMA journal_mode={mode}; {BASE}");
                restored_under_an_open_connection(&image, &target, wal, &what);
            }
        }
    }
}

fn restored_under_an_open_connection(image: &[u8], target: &str, wal: bool, what: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    build(&path, target);
    let mut application = Application::open(&path);
    // It now has the schema and pages of the target in memory.
    application.ask("SELECT group_concat(name) FROM sqlite_schema");
    application.ask("SELECT sum(length(sql)) FROM sqlite_schema");
    application.ask("SELECT sum(length(b)) FROM t");

    restore(&path, image).unwrap_or_else(|error| panic!("{what}: {error}"));

    let expected = open_image(std::sync::Arc::new(image.to_vec())).unwrap();
    let query = "SELECT group_concat(name || sql) FROM (SELECT name, sql FROM sqlite_schema ORDER BY name)";
    let schema: String = expected.query_row(query, [], |row| row.get(0)).unwrap();
    assert_eq!(application.ask(&query.replace('\n', " ")), schema, "{what}");
    for table in count_rows(&expected).unwrap() {
        let found = application.ask(&format!("SELECT count(*) FROM {}", table.name));
        assert_eq!(found, table.rows.to_string(), "{what}: {}", table.name);
    }
    assert_eq!(application.ask("PRAGMA integrity_check"), "ok", "{what}");
    assert_eq!(application.ask("PRAGMA journal_mode"), if wal { "wal" } else { "delete" }, "{what}");
    drop(application);
    assert_same(&path, image, what);

    // Restoring the same again has nothing to do.
    assert_eq!(restore(&path, image).unwrap().pages_written, 0, "{what}");

    // And life goes on.
    let mut application = Application::open(&path);
    assert_eq!(application.ask("INSERT INTO k VALUES('later', 1)"), "done", "{what}");
    assert_eq!(application.ask("CREATE TABLE later(a)"), "done", "{what}");
    assert_eq!(application.ask("PRAGMA integrity_check"), "ok", "{what}");
}

#[test]
fn connection_with_prepared_statements_can_write_afterwards() {
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}");
        let image = zoo::image(&base);
        build(&path, &format!("{base} CREATE TABLE extra(x); DROP INDEX t_a; DELETE FROM t WHERE id < 100"));
        let application = Connection::open(&path).unwrap();
        let mut insert = application.prepare("INSERT INTO t(a) VALUES(?1)").unwrap();
        insert.execute(["before"]).unwrap();
        restore(&path, &image).unwrap();
        insert.execute(["after"]).unwrap();
        let found: Vec<String> = application
            .prepare("SELECT a FROM t WHERE a IN ('before', 'after') ORDER BY id")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(found, ["after"], "{mode}");
        let by_index: i64 = application
            .query_row("SELECT count(*) FROM t INDEXED BY t_a WHERE a='after'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(by_index, 1, "{mode}");
    }
}

#[test]
fn only_pages_that_differ_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let image = zoo::image(&format!(
        "{BASE} INSERT INTO t SELECT value + 500, 'x', noise(value, 4000) FROM generate(2000)"
    ));
    std::fs::write(&path, &image).unwrap();
    build(&path, "UPDATE t SET a = 'changed' WHERE id = 7");
    let applied = restore(&path, &image).unwrap();
    assert!((2..=8).contains(&applied.pages_written), "{applied:?}");
    assert_eq!(applied.bytes_written, applied.pages_written * 4096);
    assert_eq!(applied.pages_before, applied.pages_after);
    assert_same(&path, &image, "one row");
}

#[test]
fn chunks_that_the_target_is_known_to_hold_are_not_read() {
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}; {MORE}");
        let image = zoo::image(&base);
        build(&path, &format!("{base}; UPDATE t SET b = noise(id, 900) WHERE id = 1500; DROP TABLE k"));
        let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
        let held = held_by(&target);
        let count = (image.len() as u64).div_ceil(u64::from(CHUNK));
        let expected: Vec<u64> =
            (0..count).filter(|index| *index == 0 || nth(&image, *index) != nth(&held, *index)).collect();
        assert!(expected.len() > 1 && expected.len() as u64 * 2 < count, "{expected:?} of {count}");
        let mut source = Known { image: &image, held, asked_for: Vec::new() };
        target.apply(image.len() as u64, CHUNK, &mut source).unwrap();
        assert_eq!(source.asked_for, expected, "{mode}");
        target.commit(PATIENCE).unwrap();
        assert_same(&path, &image, mode);
    }
}

/// Returns what a target holds, as SQLite reads it under the lock.
fn held_by(target: &InPlace) -> Vec<u8> {
    let mut writing = Writing::new(target, target.page_count, CHUNK).unwrap();
    writing.read_pages(1..target.page_count + 1).unwrap();
    writing.live
}

#[test]
fn chunks_behind_the_end_of_the_target_are_never_skipped() {
    struct Liar<'i>(&'i [u8]);
    impl ChunkSource for Liar<'_> {
        fn is_held(&self, _index: u64) -> bool {
            true
        }

        fn chunk(&mut self, index: u64, live: Option<&[u8]>) -> Result<Option<Vec<u8>>, BoxError> {
            chunks(self.0)(index, live)
        }
    }
    let image = zoo::image(&format!("{BASE}; {MORE}"));
    // One ends within the first chunk; the other within a later one, and has what is before it.
    let half = image.len() / 2 / CHUNK as usize * CHUNK as usize + 4096 * 3;
    for length in [4096 * 2, half] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let mut target = image[..length].to_vec();
        target[28..32].copy_from_slice(&u32::try_from(length / 4096).unwrap().to_be_bytes());
        std::fs::write(&path, &target).unwrap();
        let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
        target.apply(image.len() as u64, CHUNK, &mut Liar(&image)).unwrap();
        target.commit(PATIENCE).unwrap();
        assert_same(&path, &image, &format!("{length} bytes"));
    }
}

#[test]
fn reader_in_wal_mode_keeps_its_view_until_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let base = format!("PRAGMA journal_mode=WAL; {BASE}");
    let image = zoo::image(&base);
    build(&path, &format!("{base} DELETE FROM t"));
    let reader = Connection::open(&path).unwrap();
    let count = |reader: &Connection| {
        reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count(&reader), 0);
    restore(&path, &image).unwrap();
    assert_eq!(count(&reader), 0);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&reader), 300);
}

#[test]
fn reader_in_rollback_mode_makes_the_commit_fail_and_nothing_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let image = zoo::image(BASE);
    build(&path, &format!("{BASE} DELETE FROM t"));
    let before = std::fs::read(&path).unwrap();
    let mut application = Application::open(&path);
    application.ask("BEGIN");
    assert_eq!(application.ask("SELECT count(*) FROM t"), "0");
    let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
    target.apply(image.len() as u64, CHUNK, &mut chunks(&image)).unwrap();
    let error = target.commit(NO_PATIENCE).unwrap_err();
    let Error::Busy { holder, .. } = &error else { panic!("{error:?}") };
    assert!(holder.starts_with(&format!("process {} (", application.process.id())), "{holder}");
    assert_eq!(application.ask("SELECT count(*) FROM t"), "0");
    application.ask("COMMIT");
    assert_eq!(application.ask("PRAGMA integrity_check"), "ok");
    drop(application);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    restore(&path, &image).unwrap();
    assert_same(&path, &image, "second attempt");
}

#[test]
fn writer_in_the_middle_of_a_transaction_is_named() {
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}");
        build(&path, &base);
        let mut application = Application::open(&path);
        application.ask("BEGIN IMMEDIATE");
        application.ask("DELETE FROM k");
        let error = InPlace::begin(&path, &header(&zoo::image(&base)), NO_PATIENCE).map(drop).unwrap_err();
        let Error::Busy { holder, .. } = &error else { panic!("{error:?}") };
        assert!(holder.starts_with(&format!("process {} (", application.process.id())), "{holder}");
        // What we tried did not disturb it.
        assert_eq!(application.ask("COMMIT"), "done");
        assert_eq!(application.ask("SELECT count(*) FROM k"), "0");
    }
}

#[test]
fn nobody_can_write_between_begin_and_commit_and_the_old_contents_can_be_read() {
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}");
        build(&path, &format!("{base} DELETE FROM k"));
        let image = zoo::image(&base);
        let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
        assert_eq!(target.journal_mode() == JournalMode::Wal, mode == "WAL");
        let mut application = Application::open(&path);
        assert_eq!(application.ask("INSERT INTO k VALUES(1, 1)"), "error: database is locked");
        // The safety backup: another connection of this process.
        let safety = Connection::open(&path).unwrap();
        assert_eq!(count_rows(&safety).unwrap()[0].rows, 0);
        drop(safety);
        assert_eq!(application.ask("INSERT INTO k VALUES(1, 1)"), "error: database is locked");
        target.apply(image.len() as u64, CHUNK, &mut chunks(&image)).unwrap();
        assert_eq!(application.ask("SELECT count(*) FROM k"), "0");
        target.commit(PATIENCE).unwrap();
        assert_eq!(application.ask("SELECT count(*) FROM k"), "200");
    }
}

#[test]
fn safety_backup_under_the_write_lock_is_the_old_contents_and_loses_no_lock() {
    use crate::capture::{Capture, CaptureOptions};
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}");
        build(&path, &format!("{base} DELETE FROM k"));
        let mut application = Application::open(&path);
        // In WAL mode this commit is in the log only.
        application.ask("INSERT INTO k VALUES('last', 7)");
        let image = zoo::image(&base);
        let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();

        let mut capture = Capture::open(&path, &CaptureOptions::default()).unwrap();
        let mut safety = vec![0; usize::try_from(capture.size()).unwrap()];
        let mut filled = 0;
        while filled < safety.len() {
            let end = (filled + CHUNK as usize).min(safety.len());
            filled += capture.read(&mut safety[filled..end]).unwrap();
        }
        capture.finish().unwrap();
        assert_eq!(safety, held_by(&target), "{mode}: what a safety backup reads is what SQLite reads");
        let safety = open_image(std::sync::Arc::new(safety)).unwrap();
        let last: i64 = safety.query_row("SELECT v FROM k WHERE k='last'", [], |row| row.get(0)).unwrap();
        assert_eq!(last, 7);

        // Closing the capture's connection has not opened the door.
        assert_eq!(application.ask("INSERT INTO k VALUES(1, 1)"), "error: database is locked", "{mode}");
        target.apply(image.len() as u64, CHUNK, &mut chunks(&image)).unwrap();
        target.commit(PATIENCE).unwrap();
        assert_eq!(application.ask("SELECT count(*) FROM k"), "200", "{mode}");
        drop(application);
        assert_same(&path, &image, mode);
    }
}

#[test]
fn dropped_restore_leaves_the_target_as_it_was() {
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}");
        build(&path, &format!("{base} DELETE FROM k"));
        let before = bytes(&path);
        let image = zoo::image(&base);
        let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
        target.apply(image.len() as u64, CHUNK, &mut chunks(&image)).unwrap();
        drop(target);
        assert_eq!(bytes(&path), before, "{mode}");
    }
}

#[test]
fn failing_source_leaves_the_target_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let image = zoo::image(BASE);
    build(&path, "CREATE TABLE other(a); INSERT INTO other SELECT noise(value, 900) FROM generate(400)");
    let before = std::fs::read(&path).unwrap();
    let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
    let mut give = chunks(&image);
    let result = target.apply(
        image.len() as u64,
        CHUNK,
        &mut giving(|index, live| match index {
            2 => Err("pack 4f2a is damaged".into()),
            _ => give(index, live),
        }),
    );
    assert_eq!(result.unwrap_err().to_string(), "pack 4f2a is damaged");
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn chunk_of_the_wrong_length_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let image = zoo::image(BASE);
    build(&path, "CREATE TABLE a(b)");
    for length in [0, 4096, 65537] {
        let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
        let result = target.apply(image.len() as u64, CHUNK, &mut giving(|_, _| Ok(Some(vec![0; length]))));
        assert!(result.unwrap_err().is_damage());
    }
    // "The same" where the target has less.
    let mut target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
    assert!(target.apply(image.len() as u64, CHUNK, &mut giving(|_, _| Ok(None))).unwrap_err().is_damage());
}

#[test]
fn other_page_size_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    build(&path, &format!("PRAGMA page_size=8192; {BASE}"));
    let error = InPlace::begin(&path, &header(&zoo::image(BASE)), PATIENCE).map(drop).unwrap_err();
    assert!(
        error.to_string().ends_with("live.db has pages of 8192 bytes, the image pages of 4096"),
        "{error}"
    );
    assert!(error.hint().unwrap().starts_with("restore to a new file, stop the application"));
}

#[test]
fn every_page_size_and_encoding_is_restored() {
    for page_size in [512, 1024, 2048, 16384, 32768, 65536] {
        for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
            let base = format!("PRAGMA page_size={page_size}; PRAGMA encoding='{encoding}'; {BASE}");
            let image = zoo::image(&base);
            let what = format!("{page_size} {encoding}");
            restored_under_an_open_connection(&image, &format!("{base} DROP TABLE t"), false, &what);
        }
    }
}

#[test]
fn encoding_of_a_database_still_in_its_log_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let application = Connection::open(&path).unwrap();
    application.execute_batch("PRAGMA encoding='UTF-16le'; PRAGMA journal_mode=WAL").unwrap();
    zoo::prepare(&application);
    zoo::run(&application, BASE);
    let image = zoo::image(&format!("PRAGMA encoding='UTF-16le'; {BASE} DELETE FROM k"));
    restore(&path, &image).unwrap();
    assert_eq!(application.query_row("SELECT count(*) FROM k", [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn image_in_another_encoding_is_restored_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    build(&path, BASE);
    let image = zoo::image(&format!("PRAGMA encoding='UTF-16be'; {BASE} DELETE FROM k"));
    restore(&path, &image).unwrap();
    assert_same(&path, &image, "encoding");
}

#[test]
fn target_with_a_damaged_schema_is_restored() {
    let image = zoo::image(BASE);
    for statement in [
        "UPDATE sqlite_schema SET sql='CREATE TABLE nonsense(((' WHERE name='t'",
        "UPDATE sqlite_schema SET rootpage=4000000 WHERE name='t'",
        "UPDATE sqlite_schema SET type='furniture'",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        build(&path, &format!("{BASE}; PRAGMA writable_schema=ON; {statement}"));
        restore(&path, &image).unwrap_or_else(|error| panic!("{statement}: {error}"));
        assert_same(&path, &image, statement);
    }
}

#[test]
fn target_with_damaged_pages_is_restored() {
    let image = zoo::image(BASE);
    // All but the header; the rest of page 1, with the schema; everything behind it.
    for (from, to) in [(100, image.len()), (100, 4096), (4096, image.len())] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let mut damaged = image.clone();
        damaged[from..to].fill(0xA5);
        std::fs::write(&path, damaged).unwrap();
        restore(&path, &image).unwrap_or_else(|error| panic!("{from}: {error}"));
        assert_same(&path, &image, "damaged");
    }
}

#[test]
fn target_too_damaged_to_lock_says_so_and_stays() {
    let image = zoo::image(BASE);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let garbage = zoo::noise(3, 20_000);
    std::fs::write(&path, &garbage).unwrap();
    let error = InPlace::begin(&path, &header(&image), PATIENCE).map(drop).unwrap_err();
    assert!(error.is_damage(), "{error:?}");
    assert_eq!(std::fs::read(&path).unwrap(), garbage);
}

#[test]
fn empty_file_becomes_the_image() {
    for (page_size, encoding) in [(4096, "UTF-8"), (512, "UTF-16le"), (65536, "UTF-8")] {
        for vacuum in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("live.db");
            std::fs::write(&path, b"").unwrap();
            let image = zoo::image(&format!(
                "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA encoding='{encoding}'; \
                 PRAGMA journal_mode=WAL; {BASE}"
            ));
            let applied = restore(&path, &image).unwrap();
            assert_eq!(applied.pages_before, 0);
            assert_same(&path, &image, "empty");
        }
    }
}

#[test]
fn empty_file_beside_a_log_is_refused_and_the_log_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    std::fs::write(&path, b"").unwrap();
    std::fs::write(directory.path().join("live.db-wal"), b"precious").unwrap();
    let error = InPlace::begin(&path, &header(&zoo::image(BASE)), PATIENCE).map(drop).unwrap_err();
    assert!(matches!(error, Error::EmptyWithSibling { .. }), "{error:?}");
    assert_eq!(std::fs::read(directory.path().join("live.db-wal")).unwrap(), b"precious");
}

#[test]
fn missing_target_is_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let error = InPlace::begin(&path, &header(&zoo::image(BASE)), PATIENCE).map(drop).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error:?}");
    assert!(!path.exists());
}

#[test]
fn path_with_characters_of_a_uri_is_taken_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let image = zoo::image(BASE);
    for name in ["a b'c\"d.db", "100%?mode=memory#x.db", "file:x.db", "zeile\neins ü.db"] {
        let path = directory.path().join(name);
        build_at(&path, "CREATE TABLE other(a)");
        restore(&path, &image).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(std::fs::read(&path).unwrap().len(), image.len(), "{name}");
    }
}

fn build_at(path: &Path, sql: &str) {
    std::fs::write(path, zoo::image(sql)).unwrap();
}

#[test]
fn lock_page_is_left_alone_on_both_sides_of_a_gibibyte() {
    // The smallest pages put the lock page at number 2097153; sparse files keep it cheap.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let small = zoo::image("PRAGMA page_size=65536; CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    let pages = lock_page(65536) + 3;
    let size = u64::from(pages) * 65536;
    let large_page_one = {
        let mut page = small[..65536].to_vec();
        page[28..32].copy_from_slice(&pages.to_be_bytes());
        page
    };
    let content = |index: u64| -> Vec<u8> {
        match index {
            0 => large_page_one.clone(),
            1 => small[65536..131_072].to_vec(),
            index if index + 2 >= u64::from(pages) => zoo::noise(index, 65536),
            _ => vec![0; 65536],
        }
    };
    std::fs::write(&path, &small).unwrap();
    let mut target = InPlace::begin(&path, &header(&large_page_one), PATIENCE).unwrap();
    let applied = target.apply(size, 65536, &mut giving(|index, _| Ok(Some(content(index))))).unwrap();
    // All that are new, but for the lock page.
    assert_eq!(applied.pages_written, u64::from(pages) - 2);
    target.commit(PATIENCE).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut last = vec![0; 65536];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, size - 65536).unwrap();
    assert_eq!(last, zoo::noise(u64::from(pages) - 1, 65536));
    drop(file);

    // And back.
    restore(&path, &small).unwrap();
    assert_same(&path, &small, "cut below the lock page");
}

/// Restores one image after the other over the file, saying so, until it is killed.
fn restore_until_killed(path: &Path) {
    let images =
        [std::fs::read(path.with_extension("a")).unwrap(), std::fs::read(path.with_extension("b")).unwrap()];
    for image in images.iter().cycle() {
        println!("=> next");
        restore(path, image).unwrap();
    }
}

#[test]
fn killed_restore_leaves_the_whole_old_or_the_whole_new_database() {
    let rounds = std::env::var("DBKEEP_TEST_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}");
        let images = [
            zoo::image(&base),
            zoo::image(&format!(
                "{base} DROP INDEX t_a; DELETE FROM k WHERE v > 10;
                 INSERT INTO t SELECT value + 5000, 'new', noise(value, 5000) FROM generate(600)"
            )),
        ];
        std::fs::write(path.with_extension("a"), &images[0]).unwrap();
        std::fs::write(path.with_extension("b"), &images[1]).unwrap();
        std::fs::write(&path, &images[0]).unwrap();
        let mut seen = [false; 2];
        for round in 0..rounds {
            let mut restoring = Application::start("restore", &path);
            for _ in 0..=round % 3 {
                restoring.line();
            }
            // A different moment in each round, spread over the time a restore takes.
            let wait = u64::from(zoo::noise(round, 2)[0]) * 150;
            std::thread::sleep(Duration::from_micros(wait));
            restoring.process.kill().unwrap();
            restoring.process.wait().unwrap();
            let connection = Connection::open(&path).unwrap();
            let integrity: String =
                connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(integrity, "ok", "{mode}, round {round}");
            connection.close().unwrap();
            let mut found = bytes(&path);
            // SQLite cuts the file after the commit; until then the header says where the database ends.
            found.truncate(header(&found).page_count as usize * 4096);
            mask(&mut found);
            let which = images.iter().position(|image| {
                let mut image = image.clone();
                mask(&mut image);
                image == found
            });
            seen[which.unwrap_or_else(|| panic!("{mode}, round {round}: a mix"))] = true;
        }
        assert!(rounds < 20 || seen == [true; 2], "{mode}: {seen:?}");
    }
}

#[test]
fn what_the_disk_gives_back_is_compared_before_the_commit() {
    // Nothing can be changed under SQLite's cache, so the expectation is falsified instead.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live.db");
    let image = zoo::image(BASE);
    build(&path, "CREATE TABLE a(b)");
    let target = InPlace::begin(&path, &header(&image), PATIENCE).unwrap();
    let pages = u32::try_from(image.len() / 4096).unwrap();
    let mut writing = Writing::new(&target, pages, CHUNK).unwrap();
    for index in 0..image.len().div_ceil(CHUNK as usize) {
        writing.chunk(index as u64, &mut chunks(&image)).unwrap();
    }
    writing.expected[1].1[3] ^= 1;
    let error = writing.finish().unwrap_err();
    assert!(error.to_string().ends_with("what was just written: chunk 1, from page 17 on"), "{error}");
}

/// Needs a directory on a file system with about 2 MiB left, in `DBKEEP_TEST_SMALL_DISK`.
#[test]
fn full_disk_leaves_the_target_as_it_was() {
    let Ok(disk) = std::env::var("DBKEEP_TEST_SMALL_DISK") else {
        println!("skipped: DBKEEP_TEST_SMALL_DISK names no small file system");
        return;
    };
    for mode in ["DELETE", "WAL"] {
        let directory = tempfile::tempdir_in(&disk).unwrap();
        let path = directory.path().join("live.db");
        let base = format!("PRAGMA journal_mode={mode}; {BASE}");
        build(&path, &base);
        let before = bytes(&path);
        let image = zoo::image(&format!(
            "{base} INSERT INTO t SELECT value + 500, 'x', noise(value, 4000) FROM generate(2000)"
        ));
        let mut application = Application::open(&path);
        assert_eq!(application.ask("SELECT count(*) FROM t"), "300");
        let error = restore(&path, &image).unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
            "{error:?}"
        );
        assert!(error.to_string().ends_with("live.db"), "{error}");
        assert_eq!(application.ask("SELECT count(*) FROM t"), "300");
        assert_eq!(application.ask("PRAGMA integrity_check"), "ok");
        drop(application);
        assert_eq!(bytes(&path), before, "{mode}");
    }
}
