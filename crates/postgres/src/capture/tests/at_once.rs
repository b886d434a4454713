//! Objects and rows at the same time: which of two failures is told, and that neither is waited for in vain.

use super::*;

/// Rows of about 40 MB: more than the buffers between the server and us hold.
const LARGE: &str = "INSERT INTO large SELECT n, repeat('x', 1000) FROM generate_series(1, 40000) n";

fn file() -> File {
    tempfile::tempfile().unwrap()
}

#[test]
fn migration_that_came_before_pg_dump_is_the_reason_also_where_rows_fail_because_of_it() {
    let sql = format!("CREATE TABLE large (n int, v text); CREATE TABLE t (n int); {LARGE}");
    let Some(place) = Place::new("at once", &sql) else { return };
    let capture = begin_capture(&place, Locks::Strict);
    let (stalled, is_stalled) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let receiver = Stalls { stalled: Mutex::new(stalled), go_on: Mutex::new(goes_on) };
    thread::scope(|scope| {
        let migration = scope.spawn(|| place.sql("ALTER TABLE t ADD COLUMN m int"));
        until(|| somebody_waits(&place));
        let reading = scope.spawn(|| capture.read(file(), &receiver));
        is_stalled.recv().unwrap();
        // It is through although rows are still being read, which then find the moment gone.
        migration.join().unwrap();
        assert!(!reading.is_finished());
        go_on.send(()).unwrap();
        let error = reading.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Yielded { .. }), "{error}");
    });
}

#[test]
fn way_that_was_made_is_the_reason_whichever_of_both_notices_it_first() {
    let sql = format!("CREATE TABLE large (n int, v text); {LARGE}");
    let Some(place) = Place::new("made way", &sql) else { return };
    let folder = tempfile::tempdir().unwrap();
    let does = "psql -qAtc 'BEGIN; LOCK TABLE large IN ACCESS SHARE MODE; SELECT pg_sleep(600)'";
    let how = wrapped_pg_dump(&place, folder.path(), does);
    let capture = Capture::begin(&place.info, &how).unwrap();
    let (stalled, is_stalled) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let receiver = Stalls { stalled: Mutex::new(stalled), go_on: Mutex::new(goes_on) };
    thread::scope(|scope| {
        let reading = scope.spawn(|| capture.read(file(), &receiver));
        is_stalled.recv().unwrap();
        place.sql("ALTER TABLE large ADD COLUMN m int");
        go_on.send(()).unwrap();
        let error = reading.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Yielded { .. }), "{error}");
    });
}

/// Takes rows, the first of them only when the moment is over.
struct TakesLate<'a> {
    over: &'a AtomicBool,
    pieces: AtomicUsize,
}

impl Receiver for TakesLate<'_> {
    fn open(&self, _: &Part, _: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        Ok(Box::new(self))
    }
}

impl PartReceiver for &TakesLate<'_> {
    fn take(&mut self, _: &[u8], _: &[RowEnd]) -> Result<(), BoxError> {
        self.pieces.fetch_add(1, Ordering::SeqCst);
        until(|| self.over.load(Ordering::SeqCst));
        Ok(())
    }

    fn finish(self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn rows_are_not_read_to_the_end_when_pg_dump_fails() {
    let sql = format!("CREATE TABLE large (n int, v text); CREATE VIEW v AS SELECT n FROM large; {LARGE}");
    let Some(place) = Place::new("dump fails", &sql) else { return };
    for (locks, does, told) in [
        (Locks::Strict, "echo 'pg_dump: error: no' >&2; exit 1", "pg_dump failed: pg_dump: error: no"),
        (Locks::Yield, "echo 'pg_dump: error: no' >&2; exit 1", "pg_dump failed: pg_dump: error: no"),
        (
            Locks::Strict,
            "psql -qAtc 'CREATE OR REPLACE VIEW v AS SELECT n, 1 AS one FROM large' >&2",
            "\"public\".\"v\" was changed while it was read",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let how = CaptureOptions { locks, ..wrapped_pg_dump(&place, folder.path(), does) };
        let capture = Capture::begin(&place.info, &how).unwrap();
        let receiver = TakesLate { over: &capture.over, pieces: AtomicUsize::new(0) };
        let error = capture.read(file(), &receiver).unwrap_err();
        assert_eq!(error.to_string(), told);
        let pieces = receiver.pieces.load(Ordering::SeqCst);
        assert!(pieces <= 1, "{pieces} pieces of a table in one part");
    }
}

/// Takes no rows.
struct Refuses;

impl Receiver for Refuses {
    fn open(&self, _: &Part, _: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        Err("the disk is full".into())
    }
}

#[test]
fn pg_dump_is_ended_when_rows_fail() {
    let Some(place) = Place::new("rows fail", "CREATE TABLE t (n int)") else { return };
    let folder = tempfile::tempdir().unwrap();
    let how = wrapped_pg_dump(&place, folder.path(), "exec sleep 3600");
    for locks in [Locks::Strict, Locks::Yield] {
        let capture = Capture::begin(&place.info, &CaptureOptions { locks, ..how.clone() }).unwrap();
        // It comes back.
        let error = capture.read(file(), &Refuses).unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
    }
}

#[test]
fn more_tables_than_the_server_has_locks_for_twice_are_read_nevertheless() {
    let Some(programs) = Programs::newest() else { return };
    let configuration =
        ["max_locks_per_transaction = 10", "max_connections = 25"].map(str::to_owned).to_vec();
    let settings = dbkeep_testkit::postgres::Settings { configuration, ..Default::default() };
    let server = dbkeep_testkit::postgres::Server::start(&programs, &settings);
    // The server has room for the locks of one, and not for those of two.
    let tables: usize = if programs.major >= 18 { 1_300 } else { 600 };
    let made: Vec<String> = (0..tables)
        .map(|number| format!("CREATE TABLE t{number} AS SELECT n FROM generate_series(1, 5) n;"))
        .collect();
    made.chunks(50).for_each(|some| drop(server.sql("postgres", &some.concat())));
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let info = ConnInfo::resolve(&server.url("postgres"), &surroundings).unwrap();
    let tools = Some(programs.program(""));
    let how =
        CaptureOptions { tools, lock_timeout: Duration::from_millis(1500), ..CaptureOptions::default() };
    let locked = || {
        server.sql("postgres", "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname LIKE 't%' AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace")
    };
    let capture = Capture::begin(&info, &how).unwrap();
    assert_eq!(locked(), "0", "pg_dump comes first");
    let (archive, kept) = (tempfile::NamedTempFile::new().unwrap(), Kept::default());
    let (sums, _) = capture.read(archive.reopen().unwrap(), &kept).unwrap();
    assert_eq!(locked(), tables.to_string(), "ours are there");
    capture.finish().unwrap();
    assert_eq!((sums.len(), sums.iter().map(|sum| sum.rows).sum::<u64>()), (tables, tables as u64 * 5));
    assert_eq!(kept.table(&format!("t{}", tables - 1)), "1\n2\n3\n4\n5\n");
    let objects = crate::archive::Archive::of(archive.as_file()).unwrap().entries;
    assert_eq!(objects.iter().filter(|entry| entry.kind == "TABLE").count(), tables);

    // Nobody waits for us then, so who is in the way is waited for as long as with locks of our own.
    let capture = Capture::begin(&info, &how).unwrap();
    let mut other = Connection::open(&info, &Options::default()).unwrap();
    other.execute("BEGIN; LOCK TABLE t7").unwrap();
    let error = capture.read(file(), &Kept::default()).unwrap_err();
    assert_eq!(error.to_string(), "a table is locked by somebody for more than 1.5 s");
}
