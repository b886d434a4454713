//! Against real servers: what is chosen, what is locked, who gets through, and what never gets into a backup.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use dbkeep_testkit::postgres::Programs;

use super::*;
use crate::BoxError;
use crate::conninfo::Surroundings;
use crate::dump::PartReceiver;
use crate::place::{Bouncer, Kept, Place};
use crate::rows::RowEnd;

mod at_once;
mod gaps;

fn name(schema: &str, name: &str) -> Name {
    Name { schema: schema.to_owned(), name: name.to_owned() }
}

fn options(place: &Place, locks: Locks) -> CaptureOptions {
    let tools = Some(place.server.programs().program(""));
    CaptureOptions {
        locks,
        tools,
        lock_timeout: Duration::from_secs(20),
        jobs: 3,
        ..CaptureOptions::default()
    }
}

fn begin_capture(place: &Place, locks: Locks) -> Capture {
    Capture::begin(&place.info, &options(place, locks)).unwrap()
}

/// Waits until something is so; what would take forever fails.
#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never comes");
        thread::sleep(Duration::from_millis(20));
    }
}

fn somebody_waits(place: &Place) -> bool {
    place.sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())") != "0"
}

fn archive_text(capture: &Capture) -> Result<String> {
    let archive = tempfile::NamedTempFile::new().unwrap();
    capture.objects(archive.reopen().unwrap())?;
    let text = tempfile::NamedTempFile::new().unwrap();
    schema::render(capture.tools(), archive.reopen().unwrap(), text.reopen().unwrap(), &Options::default())
        .unwrap();
    Ok(fs::read_to_string(text.path()).unwrap())
}

const CHOICE: &str = r#"
CREATE SCHEMA app; CREATE SCHEMA other;
CREATE TABLE app.events (at date, n int) PARTITION BY RANGE (at);
CREATE TABLE other.events_a PARTITION OF app.events FOR VALUES FROM (MINVALUE) TO ('2026-01-01') PARTITION BY LIST (n);
CREATE TABLE other.events_a_1 PARTITION OF other.events_a DEFAULT;
CREATE TABLE app.events_b PARTITION OF app.events DEFAULT;
INSERT INTO app.events VALUES ('2025-01-01', 1), ('2026-02-02', 2);
CREATE TABLE app.item (id serial, code int GENERATED ALWAYS AS IDENTITY); INSERT INTO app.item DEFAULT VALUES;
CREATE TABLE other.log (id serial, n int); INSERT INTO other.log (n) VALUES (1);
CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE app.away (n int) SERVER far;
SELECT lo_create(1);
"#;

#[test]
fn what_was_chosen_is_read_with_all_partitions_and_the_rest_is_told() {
    let Some(place) = Place::new("choice", CHOICE) else { return };
    let told = |filter: Filter, exclude_data: Vec<Name>| {
        let how = CaptureOptions { filter, exclude_data, ..options(&place, Locks::Strict) };
        let capture = Capture::begin(&place.info, &how).unwrap();
        let kept = Kept::default();
        let sums = capture.rows(&kept).unwrap();
        let tables = capture.catalog().tables.iter().zip(sums).filter(|(table, _)| table.has_rows());
        let tables: Vec<String> =
            tables.map(|(table, sum)| format!("{} {}", table.name.name, sum.rows)).collect();
        let sequences: Vec<String> =
            capture.catalog().sequences.iter().map(|sequence| sequence.name.name.clone()).collect();
        let gaps: Vec<(String, Gap)> =
            capture.not_covered().iter().map(|gap| (gap.what.clone(), gap.why)).collect();
        let text = archive_text(&capture).unwrap();
        let made: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split(' ').next().map(str::to_owned))
            .collect();
        let missing = capture.missing().to_vec();
        let large_objects = capture.large_objects(&kept).unwrap().owners.rows;
        capture.finish().unwrap();
        (tables, sequences, gaps, made, missing, large_objects)
    };
    let away = ("\"app\".\"away\"".to_owned(), Gap::Foreign);
    let (tables, sequences, gaps, made, missing, large_objects) =
        told(Filter::default(), vec![name("other", "log"), name("other", "events_a")]);
    assert_eq!(tables, ["events_b 1", "item 1"]);
    assert_eq!(sequences, ["item_code_seq", "item_id_seq", "log_id_seq"]);
    let left_out =
        ["\"other\".\"events_a_1\"", "\"other\".\"log\""].map(|name| (name.to_owned(), Gap::ExcludedData));
    assert_eq!(gaps, [[away.clone()].as_slice(), left_out.as_slice()].concat());
    assert_eq!((made.len(), missing.len(), large_objects), (6, 0, 1));

    let only = Filter {
        tables: vec![name("app", "events"), name("app", "gone")],
        schemas: vec!["app".to_owned(), "other".to_owned()],
        ..Filter::default()
    };
    let (tables, sequences, gaps, made, missing, large_objects) = told(only, vec![]);
    assert_eq!(tables, ["events_b 1", "events_a_1 1"]);
    assert_eq!((sequences.len(), missing), (0, vec!["table \"app\".\"gone\"".to_owned()]));
    assert_eq!(gaps, [("large objects".to_owned(), Gap::NotAskedFor)]);
    assert_eq!((made.len(), large_objects), (4, 0), "{made:?}");

    let without = Filter { without: vec![name("app", "events"), name("app", "item")], ..Filter::default() };
    let (tables, sequences, _, made, _, large_objects) = told(without, vec![]);
    assert_eq!((tables, made), (vec!["log 1".to_owned()], vec!["other.log".to_owned()]));
    assert_eq!((sequences, large_objects), (vec!["item_id_seq".to_owned(), "log_id_seq".to_owned()], 1));

    let nothing = |filter: Filter| {
        let how = CaptureOptions { filter, ..options(&place, Locks::Strict) };
        Capture::begin(&place.info, &how).unwrap_err().to_string()
    };
    let gone = Filter { tables: vec![name("a", "b")], ..Filter::default() };
    assert_eq!(nothing(gone), "there is no table \"a\".\"b\"");
    let gone = Filter { schemas: vec!["x\"".to_owned()], ..Filter::default() };
    assert_eq!(nothing(gone), "there is no schema \"x\"\"\"");
    let none =
        Filter { schemas: vec!["app".to_owned()], tables: vec![name("other", "log")], ..Filter::default() };
    assert_eq!(nothing(none), "no table is in the schemas and among the tables that were named");
}

#[test]
fn what_may_not_be_read_is_named_with_the_statements_that_permit_it() {
    let sql = r#"
        CREATE ROLE "cap ""u" LOGIN; CREATE SCHEMA shut; CREATE TABLE shut."t 1" (id serial);
        CREATE TABLE ruled (n int); ALTER TABLE ruled ENABLE ROW LEVEL SECURITY; INSERT INTO ruled VALUES (1);
        GRANT SELECT ON ruled TO "cap ""u"; CREATE TABLE fine (n int); GRANT SELECT ON fine TO "cap ""u";
    "#;
    let Some(place) = Place::new("denied", sql) else { return };
    let user = place.as_user("cap \"u");
    let error = Capture::begin(&user.info, &options(&user, Locks::Strict)).unwrap_err();
    let Error::Denied { names, remedies, .. } = &error else { panic!("{error}") };
    assert_eq!(
        names.as_slice(),
        ["\"public\".\"ruled\" (policies may hide rows)", "\"shut\".\"t 1\"", "\"shut\".\"t 1_id_seq\""]
    );
    // What is excluded needs no right.
    let filter =
        Filter { without: vec![name("shut", "t 1"), name("shut", "t 1_id_seq")], ..Filter::default() };
    let how = CaptureOptions {
        filter,
        exclude_data: vec![name("public", "ruled")],
        ..options(&user, Locks::Strict)
    };
    let capture = Capture::begin(&user.info, &how).unwrap();
    archive_text(&capture).unwrap();
    capture.finish().unwrap();
    remedies.iter().for_each(|remedy| drop(place.sql(remedy)));
    let capture = begin_capture(&user, Locks::Strict);
    archive_text(&capture).unwrap();
    let kept = Kept::default();
    capture.rows(&kept).unwrap();
    assert_eq!(kept.table("ruled"), "1\n");
}

#[test]
fn table_that_somebody_else_has_locked_is_named_with_who_has_it() {
    let Some(place) = Place::new("locked", "CREATE TABLE a (n int); CREATE TABLE \"the table\" (n int)")
    else {
        return;
    };
    let mut other = place.open();
    other.execute("SET application_name = 'migration 7'; BEGIN; LOCK TABLE \"the table\"").unwrap();
    let how = CaptureOptions { lock_timeout: Duration::from_millis(1500), ..options(&place, Locks::Strict) };
    let error = Capture::begin(&place.info, &how).unwrap_err();
    let process = crate::locks::backend(&mut other).unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "public.the table is locked by process {process} (postgres, migration 7, idle in transaction) for more than 1.5 s"
        )
    );
}

#[test]
fn migration_that_waits_for_a_strict_backup_neither_stops_nor_changes_it() {
    let sql = "CREATE TABLE t (n int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' FROM generate_series(1, 500) n";
    let Some(place) = Place::new("waiting", sql) else { return };
    let capture = begin_capture(&place, Locks::Strict);
    let text = archive_text(&capture).unwrap();
    thread::scope(|scope| {
        let migration = scope.spawn(|| place.sql("ALTER TABLE t ALTER COLUMN v TYPE varchar(9)"));
        until(|| somebody_waits(&place));
        let kept = Kept::default();
        let sums = capture.rows(&kept).unwrap();
        assert!(somebody_waits(&place), "it waited all the time");
        assert_eq!((sums[0].rows, kept.table("t").lines().count()), (500, 500));
        assert!(text.contains("v text"), "{text}");
        capture.finish().unwrap();
        migration.join().unwrap();
    });
}

#[test]
fn migration_that_came_before_pg_dump_goes_before_a_strict_backup() {
    let Some(place) = Place::new("before", "CREATE TABLE t (n int)") else { return };
    let capture = begin_capture(&place, Locks::Strict);
    thread::scope(|scope| {
        let migration = scope.spawn(|| place.sql("ALTER TABLE t ADD COLUMN m int"));
        until(|| somebody_waits(&place));
        let error = archive_text(&capture).unwrap_err();
        assert!(matches!(&error, Error::Yielded { .. }), "{error}");
        // It is through although the backup is not dropped.
        migration.join().unwrap();
    });
}

/// Stops in the middle of rows, until it is told to go on.
struct Stalls {
    stalled: Mutex<mpsc::Sender<()>>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Receiver for Stalls {
    fn open(&self, _: &Part, _: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        Ok(Box::new(StallsOnce(Some(self))))
    }
}

struct StallsOnce<'a>(Option<&'a Stalls>);

impl PartReceiver for StallsOnce<'_> {
    fn take(&mut self, _: &[u8], _: &[RowEnd]) -> Result<(), BoxError> {
        if let Some(stalls) = self.0.take() {
            stalls.stalled.lock().unwrap().send(())?;
            stalls.go_on.lock().unwrap().recv_timeout(Duration::from_secs(60))?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn migration_gets_through_while_a_yielding_backup_still_reads_its_table() {
    // More than the buffers between the server and us hold.
    let sql = "CREATE TABLE t (n int, v text); INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 40000) n";
    let Some(place) = Place::new("through", sql) else { return };
    let capture = begin_capture(&place, Locks::Yield);
    let (stalled, is_stalled) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let receiver = Stalls { stalled: Mutex::new(stalled), go_on: Mutex::new(goes_on) };
    thread::scope(|scope| {
        let reading = scope.spawn(|| capture.rows(&receiver));
        is_stalled.recv().unwrap();
        // It comes back only when the migration is through, and the backup stalls until then.
        place.sql("ALTER TABLE t ALTER COLUMN n TYPE bigint");
        assert!(!reading.is_finished());
        go_on.send(()).unwrap();
        let error = reading.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Yielded { to } if to.contains("for public.t")), "{error}");
    });
    // At a new moment everything is there.
    drop(capture);
    let capture = begin_capture(&place, Locks::Yield);
    assert_eq!(capture.rows(&Kept::default()).unwrap()[0].rows, 40_000);
    capture.finish().unwrap();
}

#[test]
fn index_is_made_concurrently_and_tables_are_dropped_while_a_moment_is_held_by_a_yielding_backup() {
    let sql = "CREATE TABLE t (n serial); CREATE TABLE u (n serial)";
    let Some(place) = Place::new("concurrently", sql) else { return };
    let capture = begin_capture(&place, Locks::Yield);
    // Nothing of it is locked while nothing is read, not even the sequence.
    place.sql("DROP TABLE u");
    assert!(matches!(capture.rows(&Kept::default()).unwrap_err(), Error::Changed { .. }));
    drop(capture);
    let capture = begin_capture(&place, Locks::Yield);
    place.sql("CREATE INDEX CONCURRENTLY i ON t (n)");
    let error = capture.rows(&Kept::default()).unwrap_err();
    assert!(matches!(&error, Error::Yielded { .. }), "{error}");
}

/// Puts a `pg_dump` into a folder that does something before the real one, or instead of it, beside the real `pg_restore`.
fn wrapped_pg_dump(place: &Place, folder: &Path, does: &str) -> CaptureOptions {
    let real = place.server.programs().program("pg_dump");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec {real} --version\nPATH={path}:$PATH\n{does}\nexec {real} \"$@\"\n",
        real = real.display(),
        path = place.server.programs().program("").display()
    );
    fs::write(folder.join("pg_dump"), script).unwrap();
    fs::set_permissions(folder.join("pg_dump"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(place.server.programs().program("pg_restore"), folder.join("pg_restore")).unwrap();
    CaptureOptions { tools: Some(folder.to_owned()), ..options(place, Locks::Yield) }
}

#[test]
fn pg_dump_that_is_in_the_way_is_ended() {
    let Some(place) = Place::new("dumping", "CREATE TABLE t (n int)") else { return };
    let folder = tempfile::tempdir().unwrap();
    let does = "psql -qAtc 'BEGIN; LOCK TABLE t IN ACCESS SHARE MODE; SELECT pg_sleep(600)'";
    let how = wrapped_pg_dump(&place, folder.path(), does);
    let capture = Capture::begin(&place.info, &how).unwrap();
    thread::scope(|scope| {
        let dumping = scope.spawn(|| capture.objects(tempfile::tempfile().unwrap()));
        until(|| place.sql("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass") != "0");
        place.sql("ALTER TABLE t ADD COLUMN m int");
        let error = dumping.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Yielded { .. }), "{error}");
    });
}

#[test]
fn archive_that_was_made_while_something_changed_is_none() {
    let sql = "CREATE TABLE t (n int, m int); CREATE VIEW v AS SELECT n FROM t; CREATE TYPE e AS ENUM ('a');
               CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; INSERT INTO t VALUES (1, 1)";
    for (number, (change, told)) in [
        ("ALTER TABLE t ADD COLUMN o int", Some("\"public\".\"t\" was changed")),
        ("ALTER TABLE t ALTER COLUMN n SET DEFAULT 7", Some("\"public\".\"t\" was changed")),
        ("CREATE POLICY p ON t", Some("\"public\".\"t\" was changed")),
        ("DROP TABLE t CASCADE", Some("\"public\".\"t\" was dropped")),
        ("CREATE OR REPLACE VIEW v AS SELECT n, m FROM t", Some("\"public\".\"v\" was changed")),
        (
            "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
            Some("\"public\".\"f\" was changed"),
        ),
        ("ALTER TYPE e ADD VALUE 'b'", Some("\"public\".\"e\" was changed")),
        ("CREATE TABLE new (n int); CREATE INDEX ON t (n); GRANT SELECT ON t TO PUBLIC; ANALYZE t", None),
        ("CREATE TEMP TABLE x (n int)", None),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(place) = Place::new(&format!("marks {number}"), sql) else { return };
        let folder = tempfile::tempdir().unwrap();
        let how = wrapped_pg_dump(&place, folder.path(), &format!("psql -qAtc \"{change}\" >&2"));
        let capture = Capture::begin(&place.info, &how).unwrap();
        let told_now = capture.objects(tempfile::tempfile().unwrap()).err();
        let expected = told.map(|told| format!("{told} while it was read"));
        assert_eq!(told_now.map(|error| error.to_string()), expected, "{change}");
    }
}

/// Changes tables in every way, each time to 200 rows of a new number, until told to stop.
fn storm(place: &Place, seed: usize, stop: &AtomicBool) {
    let mut connection = place.open();
    connection.execute("SET client_min_messages = error").unwrap();
    let rows = |table: &str, number: usize| {
        format!("INSERT INTO {table} SELECT {number}, n FROM generate_series(1, 200) n")
    };
    for number in seed * 1_000_000.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let table = format!("storm_{}", number % 3);
        let fill = rows(&table, number);
        let change = match number % 7 {
            0 => format!("TRUNCATE {table}; {fill}"),
            1 => format!("DELETE FROM {table}; {fill}"),
            2 => format!(
                "ALTER TABLE {table} ALTER COLUMN n TYPE bigint; UPDATE {table} SET generation = {number}"
            ),
            3 => format!(
                "ALTER TABLE {table} ALTER COLUMN n TYPE int; UPDATE {table} SET generation = {number}"
            ),
            4 => format!("DROP TABLE {table}; CREATE TABLE {table} (generation int, n int); {fill}"),
            5 => format!(
                "ALTER TABLE {table} RENAME TO x; CREATE TABLE {table} AS SELECT * FROM x; DROP TABLE x"
            ),
            _ => "REFRESH MATERIALIZED VIEW seen".to_owned(),
        };
        let done = connection.execute(&format!("BEGIN; LOCK TABLE {table}; {change}; COMMIT"));
        if done.is_err() {
            // Two storms met.
            connection.execute("ROLLBACK").unwrap();
        }
        // Also a storm has its pauses, else no moment would come to an end.
        thread::sleep(Duration::from_millis(150));
    }
}

#[test]
fn storm_of_changes_gives_the_right_rows_or_an_error_and_never_others() {
    for (number, locks) in [Locks::Strict, Locks::Yield].into_iter().enumerate() {
        let tables = (0..3).map(|number| {
            format!("CREATE TABLE storm_{number} (generation int, n int); INSERT INTO storm_{number} SELECT 0, n FROM generate_series(1, 200) n;")
        });
        let sql = tables.collect::<String>()
            + "CREATE TABLE calm (n int); CREATE MATERIALIZED VIEW seen AS SELECT n FROM calm";
        let Some(place) = Place::new(&format!("storm {number}"), &sql) else { return };
        let (stop, mut good, mut told) = (AtomicBool::new(false), 0, 0);
        let attempt = |place: &Place| -> Result<()> {
            let capture = Capture::begin(&place.info, &options(place, locks))?;
            let kept = Kept::default();
            capture.read(tempfile::tempfile().unwrap(), &kept)?;
            capture.finish()?;
            for table in 0..3 {
                let text = kept.table(&format!("storm_{table}"));
                let generations: BTreeSet<&str> =
                    text.lines().map(|row| row.split('\t').next().unwrap()).collect();
                assert_eq!((text.lines().count(), generations.len()), (200, 1), "{locks:?}: {text}");
            }
            Ok(())
        };
        thread::scope(|scope| {
            let storms: Vec<_> = (1..3)
                .map(|seed| {
                    scope.spawn({
                        let (place, stop) = (&place, &stop);
                        move || storm(place, seed, stop)
                    })
                })
                .collect();
            for _ in 0..12 {
                match attempt(&place) {
                    Ok(()) => good += 1,
                    Err(Error::Changed { .. } | Error::Yielded { .. } | Error::Locked { .. }) => told += 1,
                    Err(error) => {
                        stop.store(true, Ordering::SeqCst);
                        panic!("{locks:?}: {error:?}");
                    }
                }
            }
            stop.store(true, Ordering::SeqCst);
            storms.into_iter().for_each(|storm| storm.join().unwrap());
        });
        attempt(&place).unwrap();
        println!("{locks:?}: {good} good, {told} told");
        assert_eq!(good + told, 12);
    }
}

/// Hands connections to several ports in turn, as the name of several readers does.
fn in_turn(ports: Vec<u16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let next = AtomicUsize::new(0);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server =
                TcpStream::connect(("127.0.0.1", ports[next.fetch_add(1, Ordering::SeqCst) % ports.len()]))
                    .unwrap();
            let pass = |mut from: TcpStream, mut to: TcpStream| {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(std::net::Shutdown::Both);
            };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pass(from, to));
            thread::spawn(move || pass(server, client));
        }
    });
    port
}

#[test]
fn moment_that_another_server_is_asked_for_is_told() {
    let Some(place) = Place::new("turns", "CREATE TABLE t (n int)") else { return };
    let versions = Programs::all();
    let Some(other) = versions.iter().find(|programs| programs.major != place.server.programs().major) else {
        return;
    };
    let other = Place::on(other, "turns", "CREATE TABLE t (n int)");
    let port = in_turn(vec![place.server.port(), other.server.port()]);
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let text = format!("host=127.0.0.1 port={port} user=postgres dbname=turns sslmode=disable");
    let info = ConnInfo::resolve(&text, &surroundings).unwrap();
    let capture = Capture::begin(&info, &options(&place, Locks::Strict)).unwrap();
    let error = capture.rows(&Kept::default()).unwrap_err();
    let expected = format!("127.0.0.1:{port} leads to several servers, which cannot show the same moment");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn moment_that_was_lost_is_an_error_until_the_end() {
    let Some(place) = Place::new("lost", "CREATE TABLE t (n int)") else { return };
    let capture = begin_capture(&place, Locks::Strict);
    place.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lost' AND application_name = 'dbkeep'");
    assert!(capture.finish().is_err());
}

#[test]
fn rows_come_through_every_pooler_and_a_backup_not_through_one_that_shares_connections() {
    let sql = "CREATE TABLE a (n int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 1000);
               CREATE TABLE b (n int); INSERT INTO b SELECT generate_series(1, 500); SELECT lo_from_bytea(1, 'one')";
    let Some(place) = Place::new("pooled", sql) else { return };
    for mode in ["transaction", "session"] {
        let Some(bouncer) = Bouncer::start(place.server, mode) else {
            return println!("skipped: pgbouncer is not installed");
        };
        let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
        let text =
            format!("host=127.0.0.1 port={} user=postgres dbname=pooled sslmode=disable", bouncer.port);
        let info = ConnInfo::resolve(&text, &surroundings).unwrap();
        let mut holder = Holder::begin(Connection::open(&info, &Options::default()).unwrap()).unwrap();
        let catalog = Catalog::read(holder.connection()).unwrap();
        let snapshot = holder.id().to_owned();
        place.sql("INSERT INTO b VALUES (-1); DELETE FROM a WHERE n = 7; SELECT lo_unlink(1)");
        let (kept, options) = (Kept::default(), Options::default());
        let dump = Dump {
            info: &info,
            options: &options,
            snapshot: &snapshot,
            catalog: &catalog,
            jobs: 3,
            lock_timeout: LOCK_TIMEOUT,
        };
        let sums = dump.run(plan(&mut holder, &catalog).unwrap(), &kept).unwrap();
        assert_eq!(sums.iter().map(|sum| sum.rows).collect::<Vec<_>>(), [1000, 500], "{mode}");
        assert!(!kept.table("b").contains('-') && kept.table("a").contains("\n7\n"));
        assert_eq!(dump.large_objects(&kept).unwrap().owners.rows, 1);
        holder.connection().execute("COMMIT").unwrap();
        for locks in [Locks::Strict, Locks::Yield] {
            let capture = Capture::begin(&info, &self::options(&place, locks));
            match mode {
                "transaction" => {
                    // At once: nothing is read that comes to nothing.
                    let Err(Error::Pooler { place: at, direct: None }) = &capture else {
                        panic!("{capture:?}")
                    };
                    assert_eq!(*at, format!("127.0.0.1:{}", bouncer.port));
                }
                _ => assert!(archive_text(&capture.unwrap()).unwrap().contains("CREATE TABLE public.a")),
            }
        }
        // Nothing of ours is left in a connection that others get.
        let mut next = Connection::open(&info, &Options::default()).unwrap();
        let rows = next
            .query("SELECT current_setting('search_path'), current_setting('row_security')", &[])
            .unwrap();
        assert_eq!(rows, [[Some("\"$user\", public".to_owned()), Some("on".to_owned())]], "{mode}");
        place.sql("DELETE FROM b WHERE n = -1; INSERT INTO a VALUES (7); SELECT lo_from_bytea(1, 'one')");
    }
}
