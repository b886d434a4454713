//! A database goes through the archive of its objects and the text of its rows, and comes out the same: by stock
//! `pg_dump`, by the text of every row, and by the sums that were made on the way.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dbkeep_postgres::catalog::Catalog;
use dbkeep_postgres::extent::Extent;
use dbkeep_postgres::load::Comparison;
use dbkeep_postgres::schema::{Filter, dump, render};
use dbkeep_postgres::snapshot::Holder;
use dbkeep_postgres::tools::Tools;
use dbkeep_postgres::wire::{Connection, Options};
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{Backup, Rows, back_up, differences, info, stock_dump};

/// A value of every type that loses something on a wrong way, its extremes, and NULL.
const TYPES: &str = include_str!("../zoo/types.sql");
/// Values that newer servers know.
const TYPES_17: &str = include_str!("../zoo/types_17.sql");

/// Objects of every kind that can be made without anything installed beside the server.
const OBJECTS: &str = r#"
CREATE SCHEMA app; COMMENT ON SCHEMA app IS 'it''s; -- not a comment';
CREATE COLLATION app.german (provider = libc, locale = 'C');
CREATE FUNCTION app.twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT $1 * 2 -- a comment that stays
$$;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN NEW.t := NEW.t || '!'; RETURN NEW; END $body$;
CREATE PROCEDURE app.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE app.total(int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE OPERATOR app.<+> (leftarg = int, rightarg = int, function = int4pl);
CREATE TABLE app.parent (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text COLLATE app.german DEFAULT E'a\nb');
CREATE TABLE app.child (id serial PRIMARY KEY, parent bigint REFERENCES app.parent DEFERRABLE, twice int GENERATED ALWAYS
  AS (app.twice(7)) STORED, CHECK (id > 0), EXCLUDE USING btree (parent WITH =));
CREATE TABLE app.cycle_a (id int PRIMARY KEY, b int); CREATE TABLE app.cycle_b (id int PRIMARY KEY, a int REFERENCES app.cycle_a);
ALTER TABLE app.cycle_a ADD FOREIGN KEY (b) REFERENCES app.cycle_b;
CREATE TABLE app.events (at date NOT NULL, n int) PARTITION BY RANGE (at);
CREATE TABLE app.events_old PARTITION OF app.events FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE app.events_new (n int, at date NOT NULL);
ALTER TABLE app.events ATTACH PARTITION app.events_new FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
CREATE TABLE app.animal (name text); CREATE TABLE app.dog (barks bool) INHERITS (app.animal);
CREATE TRIGGER touch BEFORE INSERT ON app.parent FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE RULE no_delete AS ON DELETE TO app.animal DO INSTEAD NOTHING;
CREATE INDEX ON app.child (parent) INCLUDE (id) WHERE parent > 1;
CREATE STATISTICS app.s ON id, parent FROM app.child;
CREATE VIEW app.seen WITH (security_barrier) AS SELECT p.id, c.twice FROM app.parent p JOIN app.child c ON c.parent = p.id;
CREATE MATERIALIZED VIEW app.counted AS SELECT count(*) FROM app.parent;
ALTER TABLE app.parent ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON app.parent USING (t = current_user);
CREATE PUBLICATION changes FOR TABLE app.parent;
CREATE SEQUENCE app.down INCREMENT -5 MAXVALUE 100 MINVALUE -100 START 50 CYCLE;
CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE SERVER') EXECUTE FUNCTION app_watch();
"#;

const ROWS: &str = r#"
INSERT INTO app.parent (t) SELECT 'row ' || n FROM generate_series(1, 5000) n;
INSERT INTO app.child (parent) VALUES (1), (NULL); INSERT INTO app.cycle_a VALUES (1, NULL);
INSERT INTO app.cycle_b VALUES (1, 1); UPDATE app.cycle_a SET b = 1;
INSERT INTO app.events VALUES ('2025-05-05', 1), ('2026-05-05', 2); INSERT INTO app.animal VALUES ('cat');
INSERT INTO app.dog VALUES ('rex', true); SELECT nextval('app.down'), nextval('app.down');
CREATE TABLE app.empty (); INSERT INTO app.empty DEFAULT VALUES;
CREATE TABLE app."a ""b"", -- c" ("d	e" int); INSERT INTO app."a ""b"", -- c" VALUES (1);
"#;

/// Objects of all other kinds, with what is said of them and who may use them, and those that newer servers know.
const OBJECTS_15: &str = include_str!("../zoo/objects_15.sql");
const OBJECTS_18: &str = include_str!("../zoo/objects_18.sql");

/// Makes a database of everything that the version of the server knows.
pub(crate) fn make_all(server: &Server, name: &str) {
    make(server, name);
    let known = [(15, OBJECTS_15), (17, TYPES_17), (18, OBJECTS_18)];
    for (_, sql) in known.into_iter().filter(|(since, _)| server.programs().major >= *since) {
        server.sql(name, sql);
    }
}

/// Makes a database of what is in use everywhere.
pub(crate) fn make(server: &Server, name: &str) {
    server.create_database(name);
    server.sql(name, TYPES);
    let watch = "CREATE FUNCTION app_watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'";
    server.sql(name, watch);
    server.sql(name, OBJECTS);
    server.sql(name, ROWS);
}

#[test]
fn everything_comes_back_as_it_was_also_on_newer_servers() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    let newest = versions.last().map(|programs| programs.major).unwrap_or_default();
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        make_all(&server, "origin of all");
        let path = std::env::join_paths(versions.iter().map(|programs| programs.program(""))).unwrap();
        let Ok(tools) = Tools::find(programs.major, None, Some(&path)) else { continue };
        let backup = back_up(&server, "origin of all", &tools);
        let text = stock_dump(versions.last().unwrap(), &server, "origin of all", "-s");
        same_after_restore(&backup, &server, &tools, &text);
        if programs.major < newest {
            let newer = Server::start(versions.last().unwrap(), &Settings::default());
            let tools = Tools::find(newest, None, Some(&path)).unwrap();
            // It writes some of it otherwise: queries of views, defaults that are others now.
            let text = as_stock_programs_restore(&backup, &newer);
            same_after_restore(&backup, &newer, &tools, &text);
        }
    }
}

/// Returns what stock `pg_dump` says of a database that stock `pg_restore` made of the same archive.
fn as_stock_programs_restore(backup: &Backup, target: &Server) -> String {
    let (name, programs) = ("restored by stock programs", target.programs());
    target.create_database(name);
    let mut command = Command::new(programs.program("pg_restore"));
    command.args(["--exit-on-error", "-U", "postgres", "-h"]).arg(target.socket_folder());
    command.args(["-p", &target.port().to_string(), "-d", name]).arg(backup.archive.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stock_dump(programs, target, name, "-s")
}

fn same_after_restore(backup: &Backup, target: &Server, tools: &Tools, text_before: &str) {
    let name = "brought back";
    assert_eq!(backup.restore(target, name), []);
    assert_eq!(target.sql(name, "SELECT count FROM app.counted"), "5000", "asked again");
    let again = back_up(target, name, tools);
    let text = |rows: &Rows| rows.0.lock().unwrap().clone();
    assert!(text(&again.rows) == text(&backup.rows), "every byte of every row");
    assert_eq!(again.properties, backup.properties);
    let places = |catalog: &Catalog| -> Vec<(String, i64, bool)> {
        let place = |sequence: &dbkeep_postgres::catalog::Sequence| {
            (sequence.name.quoted(), sequence.last_value, sequence.is_called)
        };
        catalog.sequences.iter().map(place).collect()
    };
    assert_eq!(places(&again.catalog), places(&backup.catalog));
    let program = Programs::all().pop().unwrap();
    let after = stock_dump(&program, target, name, "-s");
    assert_eq!(differences(text_before, &after), Vec::<String>::new());
}

/// Not every server is built with XML.
#[test]
fn documents_come_back_as_they_were() {
    let Some(programs) = Programs::newest_with_tls() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("origin of all");
    server.sql(
        "origin of all",
        "CREATE TABLE documents (x xml, xs xml[]); INSERT INTO documents VALUES ('<a>&amp;</a>', NULL), ('a<b/>', NULL),
         (NULL, '{\"<a b=\\\"c\\\">\t\\\\</a>\",NULL}'), ('', '{}'), ('<!DOCTYPE x [<!ENTITY y \"z\">]><x>&#233;é<![CDATA[<]]></x>', NULL)",
    );
    let tools = Tools::find(programs.major, Some(&programs.program("")), None).unwrap();
    let backup = back_up(&server, "origin of all", &tools);
    backup.restore(&server, "brought back");
    let all = |database: &str| server.sql(database, "SELECT x, xs FROM documents ORDER BY x::text, xs::text");
    assert!(all("brought back").contains("<a>&amp;</a>|\n") && all("brought back").contains("a<b/>|\n"));
    assert_eq!(all("brought back"), all("origin of all"));
}

#[test]
fn rows_that_are_lost_changed_or_moved_after_a_restore_are_told() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("origin");
    server.sql("origin", "CREATE TABLE a (n int, t text); CREATE TABLE b (LIKE a); CREATE TABLE c (LIKE a); CREATE TABLE d (n int)");
    server.sql("origin", "INSERT INTO a VALUES (1, 'x'), (2, 'y'); INSERT INTO b SELECT * FROM a; INSERT INTO c SELECT * FROM a");
    let path = std::env::join_paths([programs.program("")]).unwrap();
    let tools = Tools::find(programs.major, None, Some(&path)).unwrap();
    let backup = back_up(&server, "origin", &tools);
    let differing = || {
        let (info, options) = (info(&server, "origin"), Options::default());
        let comparison = Comparison::plan(&info, &options, 1, &backup.tables()).unwrap();
        let found = comparison.run(&BTreeSet::new(), || Ok(())).unwrap();
        let busy = backup.tables().iter().map(|(table, _)| table.name.clone()).skip(2).collect();
        assert_eq!(
            comparison.run(&busy, || Ok(())).unwrap(),
            found,
            "some only when nobody is at work on them"
        );
        found
            .into_iter()
            .map(|difference| (difference.table.name, difference.found.map(|sum| sum.rows)))
            .collect::<Vec<_>>()
    };
    assert_eq!(differing(), []);
    server.sql("origin", "UPDATE a SET t = 'z' WHERE n = 1; DELETE FROM b WHERE n = 2; DROP TABLE d");
    server.sql("origin", "UPDATE c SET n = 3 - n");
    let expected = [("a", Some(2)), ("b", Some(1)), ("c", Some(2)), ("d", None)];
    assert_eq!(differing(), expected.map(|(name, rows)| (name.to_owned(), rows)));
}

/// An index that is there only when somebody reads another table while it is made, which a function of the index might
/// write to. In the origin somebody has read it; where it is restored, a session holds a snapshot for those that read.
const WAITING_INDEX: &str = "
CREATE FUNCTION wait_for_a_reader(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE seen int := 0; BEGIN
  FOR try IN 1..20 LOOP
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    IF pg_catalog.pg_stat_get_numscans('public.quick'::pg_catalog.regclass) > 0 THEN RETURN n; END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_stat_activity
               WHERE datname = pg_catalog.current_database() AND state = 'idle in transaction')
    THEN seen := seen + 1; ELSE seen := 0; END IF;
    -- One that just ended may be seen once or twice.
    IF seen > 9 THEN RETURN n; END IF;
    PERFORM pg_catalog.pg_sleep(0.05);
  END LOOP;
  RAISE EXCEPTION 'nobody reads meanwhile';
END $$;
CREATE TABLE quick (n int); INSERT INTO quick VALUES (1), (2); SELECT count(*) FROM quick;
CREATE TABLE slow (n int); INSERT INTO slow VALUES (1);";

#[test]
fn rows_are_not_compared_before_functions_of_the_database_have_run() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("origin");
    server.sql("origin", WAITING_INDEX);
    server.sql("origin", "CREATE INDEX ON slow (wait_for_a_reader(n))");
    let tools = Tools::find(programs.major, Some(&programs.program("")), None).unwrap();
    let losses = back_up(&server, "origin", &tools).restore(&server, "back");
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert!(losses[0].why.contains("nobody reads meanwhile"), "{losses:?}");
}

/// Takes seconds, and runs nothing of the database. The other table takes longer to read than an index to be begun.
pub(crate) const SLOW_INDEX: &str = "
CREATE TABLE quick (n int); INSERT INTO quick SELECT generate_series(1, 300000);
CREATE TABLE slow (t text); INSERT INTO slow SELECT repeat('x', 1000) || n FROM generate_series(1, 2000) n;
CREATE INDEX ON slow (md5(repeat(t, 1000)))";

/// Counts sessions that have read a table since an index was begun that is not there yet.
pub(crate) const READ_MEANWHILE: &str = "
SELECT count(*) FROM pg_stat_progress_create_index JOIN pg_stat_activity maker USING (pid)
JOIN pg_stat_activity reader ON reader.datname = maker.datname
WHERE reader.query = 'COMMIT' AND reader.state = 'idle' AND reader.query_start > maker.query_start";

/// Tells who watches a restore that it is over, however it ends: nobody waits for a test that failed.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn rows_are_compared_while_the_last_index_is_made() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    // Whoever waits for the index is idle for longer.
    let settings =
        Settings { configuration: vec!["idle_session_timeout = 300".to_owned()], ..Settings::default() };
    let server = Server::start(&programs, &settings);
    server.create_database("origin");
    server.sql("origin", SLOW_INDEX);
    let tools = Tools::find(programs.major, Some(&programs.program("")), None).unwrap();
    let backup = back_up(&server, "origin", &tools);
    let is_over = AtomicBool::new(false);
    let was_read_meanwhile = thread::scope(|scope| {
        let over = Over(&is_over);
        let watcher = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if server.sql("postgres", READ_MEANWHILE) != "0" {
                    return true;
                }
            }
            false
        });
        assert_eq!(backup.restore(&server, "back"), []);
        drop(over);
        watcher.join().unwrap()
    });
    assert!(was_read_meanwhile);
    let not_analyzed =
        "SELECT count(*) FROM pg_class WHERE oid IN ('quick'::regclass, 'slow'::regclass) AND reltuples < 1";
    assert_eq!(server.sql("back", not_analyzed), "0");
}

#[test]
fn archive_is_one_that_people_can_read() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("origin");
    server.sql("origin", "CREATE TABLE \"-t\"\"\" (n int); CREATE TABLE other (n int); CREATE SCHEMA s; CREATE TABLE s.t (n int)");
    let tools = Tools::find(programs.major, Some(&programs.program("")), None).unwrap();
    let (info, options) = (info(&server, "origin"), Options::default());
    let mut holder = Holder::begin(Connection::open(&info, &options).unwrap()).unwrap();
    let host = holder.connection().host().clone();
    let name = |schema: &str, name: &str| dbkeep_postgres::catalog::Name {
        schema: schema.to_owned(),
        name: name.to_owned(),
    };
    let mut tables = |filter: &Filter| -> Vec<String> {
        let extent = Extent::read(holder.connection(), filter).unwrap();
        let archive = tempfile::NamedTempFile::new().unwrap();
        dump(&tools, &info, &host, &options, holder.id(), &extent, archive.reopen().unwrap()).unwrap();
        let text = tempfile::NamedTempFile::new().unwrap();
        render(&tools, archive.reopen().unwrap(), text.reopen().unwrap(), &options).unwrap();
        let text = std::fs::read_to_string(text.path()).unwrap();
        let made = text.lines().filter_map(|line| line.strip_prefix("CREATE TABLE "));
        made.map(|line| line.trim_end_matches(" (").to_owned()).collect()
    };
    assert_eq!(tables(&Filter::default()), [r#"public."-t""""#, "public.other", "s.t"]);
    let only = Filter { tables: vec![name("public", "-t\"")], ..Filter::default() };
    assert_eq!(tables(&only), [r#"public."-t""""#]);
    let without = Filter {
        schemas: vec!["public".to_owned()],
        without: vec![name("public", "other")],
        ..Filter::default()
    };
    assert_eq!(tables(&without), [r#"public."-t""""#]);
    assert!(without.takes(&name("public", "-t\"")) && !without.takes(&name("s", "t")));
}
