//! Some tables, or their rows alone, into databases that are in use.

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::{Kind, Name, Table};
use dbkeep_postgres::load::Giver;
use dbkeep_postgres::restore::{Loss, Place, RestoreOptions, Wanted, restore_rows, restore_tables};
use dbkeep_postgres::rows::RowSum;
use dbkeep_postgres::wire::{CopyIn, Options};
use dbkeep_postgres::{Error, Result};
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::roundtrip::{make, make_all};
use crate::support::{Backup, back_up, differences, info, info_as, stock_dump, tools, with_rows_in_order};

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name { schema: "app".to_owned(), name: (*name).to_owned() }).collect()
}

/// What is asked for in these tests.
struct Ask<'a> {
    backup: &'a Backup,
    expected: Vec<(&'a Table, RowSum)>,
    names: Vec<Name>,
}

impl<'a> Ask<'a> {
    fn new(backup: &'a Backup, tables: &[&str]) -> Self {
        Self { backup, expected: backup.tables(), names: names(tables) }
    }

    fn wanted<'w>(&'w self, giver: &'w dyn Giver, replace: bool) -> Wanted<'w> {
        let Self { backup, expected, names } = self;
        Wanted { names, catalog: &backup.catalog, expected, giver, replace, before: &|_| Ok(()) }
    }

    fn restore(&self, server: &Server, database: &str, replace: bool) -> Result<Vec<Loss>> {
        let (how, options) = (RestoreOptions::default(), Options::default());
        let wanted = self.wanted(&self.backup.rows, replace);
        restore_tables(
            &info(server, database),
            &options,
            &how,
            &Archive::open(self.backup.archive.path())?,
            &wanted,
        )
    }

    fn rows(&self, server: &Server, database: &str, replace: bool) -> Result<()> {
        restore_rows(&info(server, database), &Options::default(), &self.wanted(&self.backup.rows, replace))
    }
}

/// Breaks off after the rows of some tables.
struct Broken<'a>(&'a Backup);

impl Giver for Broken<'_> {
    fn pieces(&self, table: &Table) -> Result<usize> {
        self.0.rows.pieces(table)
    }

    fn give(&self, table: &Table, piece: usize, into: &mut CopyIn<'_>) -> Result<()> {
        match table.name.name.as_str() {
            "events_old" | "cycle_b" => Err(Error::Receiver("the repository is gone".into())),
            _ => self.0.rows.give(table, piece, into),
        }
    }
}

const SEEN: &str = "CREATE VIEW app.seen WITH (security_barrier) AS SELECT p.id, c.twice
                    FROM app.parent p JOIN app.child c ON c.parent = p.id";

#[test]
fn tables_come_back_with_everything_that_is_theirs_or_not_at_all() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        make(&server, "shop");
        let more = "GRANT SELECT (id) ON app.child TO pg_monitor; COMMENT ON COLUMN app.child.id IS 'mine';
                    CREATE POLICY mine ON app.child USING (parent IN (SELECT id FROM app.parent));
                    COMMENT ON CONSTRAINT child_pkey ON app.child IS 'key'; CREATE INDEX ON app.events (n);
                    ALTER TABLE app.child REPLICA IDENTITY FULL; ALTER INDEX app.child_pkey SET (fillfactor = 50)";
        server.sql("shop", more);
        let backup = back_up(&server, "shop", &tools(programs));
        let (before, rows) =
            (stock_dump(programs, &server, "shop", "-s"), stock_dump(programs, &server, "shop", "-a"));

        // Dropped by accident.
        server.sql("shop", "DROP VIEW app.seen; DROP TABLE app.child; DROP TABLE app.events; DROP TABLE app.\"a \"\"b\"\", -- c\"");
        let ask = Ask::new(&backup, &["child", "events", "a \"b\", -- c"]);
        assert_eq!(ask.restore(&server, "shop", false).unwrap(), []);
        server.sql("shop", SEEN);
        assert_eq!(differences(&before, &stock_dump(programs, &server, "shop", "-s")), Vec::<String>::new());
        assert_eq!(differences(&rows, &stock_dump(programs, &server, "shop", "-a")), Vec::<String>::new());

        // There already.
        server.sql("shop", "DELETE FROM app.child; INSERT INTO app.events VALUES ('2026-07-07', 3)");
        let error = Ask::new(&backup, &["child"]).restore(&server, "shop", false).unwrap_err();
        assert_eq!(error.to_string(), "table \"app\".\"child\" is there already");
        let error = Ask::new(&backup, &["child"]).restore(&server, "shop", true).unwrap_err();
        assert!(matches!(&error, Error::Needed { by, .. } if by == &["view app.seen"]), "{error}");
        let error = Ask::new(&backup, &["parent"]).restore(&server, "shop", true).unwrap_err();
        let Error::Needed { by, .. } = &error else { panic!("{error}") };
        assert!(
            by.contains(&"view app.seen".to_owned())
                && by.contains(&"materialized view app.counted".to_owned()),
            "{by:?}"
        );
        assert!(by.iter().any(|what| what.contains("child_parent_fkey")), "{by:?}");
        assert!(by.iter().any(|what| what.contains("changes")), "the publication: {by:?}");
        assert_eq!(server.sql("shop", "SELECT count(*) FROM app.child"), "0", "nothing was changed");
        server.sql("shop", "CREATE TABLE app.events_none PARTITION OF app.events DEFAULT");
        let error = Ask::new(&backup, &["events"]).restore(&server, "shop", true).unwrap_err();
        assert!(matches!(&error, Error::Needed { by, .. } if by == &["table app.events_none"]), "{error}");
        server.sql("shop", "DROP TABLE app.events_none");

        // What breaks in the middle has changed nothing.
        let ask = Ask::new(&backup, &["events"]);
        let how = RestoreOptions::default();
        let broken = Broken(&backup);
        let wanted = ask.wanted(&broken, true);
        let place = info(&server, "shop");
        let error = restore_tables(
            &place,
            &Options::default(),
            &how,
            &Archive::open(backup.archive.path()).unwrap(),
            &wanted,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "the repository is gone");
        assert_eq!(server.sql("shop", "SELECT sum(n) FROM app.events"), "6");
        assert_eq!(ask.restore(&server, "shop", true).unwrap(), []);
        server.sql("shop", "DROP VIEW app.seen");
        Ask::new(&backup, &["child"]).restore(&server, "shop", true).unwrap();
        server.sql("shop", SEEN);
        assert_eq!(differences(&before, &stock_dump(programs, &server, "shop", "-s")), Vec::<String>::new());
        assert_eq!(differences(&rows, &stock_dump(programs, &server, "shop", "-a")), Vec::<String>::new());
    }
}

#[test]
fn tables_of_all_kinds_are_replaced_with_all_that_is_said_of_them() {
    let versions: Vec<Programs> =
        Programs::all().into_iter().filter(|programs| programs.major >= 15).collect();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        make_all(&server, "shop");
        // What needs them would be in the way, and publications are left alone.
        let others = "DROP VIEW kinds.seen; DROP MATERIALIZED VIEW kinds.kept; DROP FUNCTION kinds.body(int);
                      DROP PUBLICATION of_rows; DROP PUBLICATION IF EXISTS of_generated";
        server.sql("shop", others);
        let backup = back_up(&server, "shop", &tools(programs));
        let text = |what| stock_dump(programs, &server, "shop", what);
        let (before, rows) = (text("-s"), with_rows_in_order(&text("-a")));
        let is_one = |table: &&Table| {
            table.name.schema == "kinds" && matches!(table.kind, Kind::Ordinary | Kind::Partitioned)
        };
        let names = backup.catalog.tables.iter().filter(is_one).map(|table| table.name.clone()).collect();
        let ask = Ask { names, ..Ask::new(&backup, &[]) };
        assert_eq!(ask.restore(&server, "shop", true).unwrap(), []);
        assert_eq!(differences(&before, &text("-s")), Vec::<String>::new());
        assert_eq!(differences(&rows, &with_rows_in_order(&text("-a"))), Vec::<String>::new());
    }
}

/// Partitions with keys, indexes, foreign keys and triggers of what they are parts of, and some of their own.
const LOG: &str = "
CREATE SCHEMA app; CREATE TABLE app.days (n int PRIMARY KEY); INSERT INTO app.days SELECT generate_series(1, 40);
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE app.log (at int, id int, n int REFERENCES app.days, t text, PRIMARY KEY (at, id), CONSTRAINT pairs UNIQUE (at, n, id))
  PARTITION BY RANGE (at);
CREATE INDEX by_t ON app.log (t); CREATE TRIGGER touch BEFORE INSERT ON app.log FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE TABLE app.log_1 PARTITION OF app.log FOR VALUES FROM (1) TO (10);
CREATE TABLE app.log_2 PARTITION OF app.log FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
CREATE TABLE app.log_2_odd (id int NOT NULL, at int NOT NULL, t text, n int);
ALTER TABLE app.log_2 ATTACH PARTITION app.log_2_odd FOR VALUES IN (11, 13, 15, 17, 19);
CREATE TABLE app.log_2_rest PARTITION OF app.log_2 DEFAULT; CREATE TABLE app.log_rest PARTITION OF app.log DEFAULT;
CREATE INDEX own ON app.log_1 (n); COMMENT ON INDEX app.log_1_pkey IS 'a part'; ALTER INDEX app.log_1_t_idx RENAME TO other_name;
ALTER TABLE app.log_1 DISABLE TRIGGER touch; ALTER TABLE app.log_2_rest ALTER t SET DEFAULT 'x';
INSERT INTO app.log SELECT n, n, n, 'row ' || n FROM generate_series(1, 40) n";

#[test]
fn partition_alone_comes_back_into_the_table_that_it_was_a_part_of() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        server.create_database("shop");
        server.sql("shop", LOG);
        let backup = back_up(&server, "shop", &tools(programs));
        let text = |what| stock_dump(programs, &server, "shop", what);
        let (before, rows) = (text("-s"), with_rows_in_order(&text("-a")));
        for parts in [&["log_1"][..], &["log_2"], &["log_2_odd"], &["log_1", "log_2"]] {
            for replace in [false, true] {
                for part in parts.iter().filter(|_| !replace) {
                    server.sql("shop", &format!("DROP TABLE app.{part}"));
                }
                assert_eq!(Ask::new(&backup, parts).restore(&server, "shop", replace).unwrap(), []);
                assert_eq!(differences(&before, &text("-s")), Vec::<String>::new(), "{parts:?}");
                let after = with_rows_in_order(&text("-a"));
                assert_eq!(differences(&rows, &after), Vec::<String>::new(), "{parts:?}");
                let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
                assert_eq!(server.sql("shop", invalid), "0", "{parts:?}");
            }
        }
    }
}

#[test]
fn foreign_partitions_come_back_with_their_table() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        server.create_database("shop");
        server.sql(
            "shop",
            "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere; CREATE SCHEMA app;
             CREATE TABLE app.log (n int, t text) PARTITION BY LIST (n);
             CREATE TABLE app.here PARTITION OF app.log FOR VALUES IN (1); INSERT INTO app.log VALUES (1, 'here');
             CREATE FOREIGN TABLE app.there PARTITION OF app.log FOR VALUES IN (2) SERVER far OPTIONS (a 'b');
             COMMENT ON FOREIGN TABLE app.there IS 'elsewhere'; GRANT SELECT ON app.there TO pg_monitor",
        );
        let backup = back_up(&server, "shop", &tools(programs));
        let dump = || stock_dump(programs, &server, "shop", "-s");
        let before = dump();
        for replace in [false, true] {
            if !replace {
                server.sql("shop", "DROP TABLE app.log");
            }
            assert_eq!(Ask::new(&backup, &["log"]).restore(&server, "shop", replace).unwrap(), []);
            assert_eq!(differences(&before, &dump()), Vec::<String>::new(), "replace: {replace}");
            assert_eq!(server.sql("shop", "SELECT * FROM ONLY app.here"), "1|here");
            server.sql("shop", "UPDATE app.here SET t = 'other'");
            Ask::new(&backup, &["log"]).rows(&server, "shop", true).unwrap();
            assert_eq!(server.sql("shop", "SELECT * FROM ONLY app.here"), "1|here");
        }
        // Where one kind is in the place of the other, nothing is lost without a word.
        let rows = |says: &str| {
            let error = Ask::new(&backup, &["log"]).rows(&server, "shop", true).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(server.sql("shop", "SELECT count(*) FROM ONLY app.here"), "1");
        };
        server.sql(
            "shop",
            "DROP FOREIGN TABLE app.there; CREATE TABLE app.there PARTITION OF app.log FOR VALUES IN (2);
             INSERT INTO app.there VALUES (2, 'came later')",
        );
        rows("rows of a partitioned table cannot be replaced because of partition app.there");
        assert_eq!(Ask::new(&backup, &["log"]).restore(&server, "shop", true).unwrap(), []);
        assert_eq!(differences(&before, &dump()), Vec::<String>::new());
        server.sql(
            "shop",
            "ALTER TABLE app.log DETACH PARTITION app.here; ALTER TABLE app.here RENAME TO old_rows;
             CREATE FOREIGN TABLE app.here PARTITION OF app.log FOR VALUES IN (1) SERVER far",
        );
        let error = Ask::new(&backup, &["log"]).rows(&server, "shop", true).unwrap_err();
        assert!(error.to_string().contains("no table app.here (a foreign table is there)"), "{error}");
        server.sql("shop", "DROP TABLE app.old_rows");
        assert_eq!(Ask::new(&backup, &["log"]).restore(&server, "shop", true).unwrap(), []);
        assert_eq!(differences(&before, &dump()), Vec::<String>::new());
    }
}

#[test]
fn table_that_comes_back_gives_nobody_rights_that_it_did_not_give() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        server.create_database("shop");
        server.sql(
            "shop",
            "CREATE ROLE anon; CREATE ROLE clerk; CREATE ROLE keeper; CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO keeper;
             ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon WITH GRANT OPTION;
             ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;
             ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO anon;
             CREATE TABLE app.usual (id serial); CREATE TABLE app.closed (id serial, n int);
             REVOKE ALL ON app.closed, app.closed_id_seq FROM anon, PUBLIC;
             CREATE TABLE app.less (id int GENERATED ALWAYS AS IDENTITY); REVOKE ALL ON app.less, app.less_id_seq FROM anon, PUBLIC; REVOKE DELETE ON app.less FROM postgres;
             GRANT SELECT (id) ON app.less TO clerk;
             ALTER DEFAULT PRIVILEGES REVOKE INSERT ON TABLES FROM postgres;
             CREATE TABLE app.ours (id int); REVOKE ALL ON app.ours FROM anon, PUBLIC; GRANT INSERT ON app.ours TO postgres;
             CREATE TABLE app.parts (id int) PARTITION BY LIST (id); CREATE TABLE app.part PARTITION OF app.parts DEFAULT;
             REVOKE ALL ON app.parts, app.part FROM anon, PUBLIC;
             CREATE TABLE app.theirs (id int); REVOKE ALL ON app.theirs FROM anon, PUBLIC; ALTER TABLE app.theirs OWNER TO keeper;
             GRANT SELECT ON app.theirs TO clerk",
        );
        let backup = back_up(&server, "shop", &tools(programs));
        let tables = ["usual", "closed", "less", "ours", "parts", "theirs"];
        // What is written out means the same as nothing: all for the owner.
        let rights = || {
            server.sql(
                "shop",
                "SELECT c.relname, c.relowner::regrole, a.grantee::regrole, a.privilege_type, a.is_grantable
                 FROM pg_class c, aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, relowner))) a
                 WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'p', 'S') ORDER BY 1, 2, 3, 4",
            )
        };
        let before = rights();
        let dump = || stock_dump(programs, &server, "shop", "-s");
        let text = dump();
        for replace in [false, true] {
            if !replace {
                server.sql(
                    "shop",
                    "DROP TABLE app.usual, app.closed, app.less, app.ours, app.parts, app.theirs",
                );
            }
            assert_eq!(Ask::new(&backup, &tables).restore(&server, "shop", replace).unwrap(), []);
            assert_eq!(rights(), before, "version {}", programs.major);
            assert_eq!(differences(&text, &dump()), Vec::<String>::new());
        }
        // Where rights are left out, they are those of any table that somebody makes there.
        let how = RestoreOptions { privileges: false, ..RestoreOptions::default() };
        let archive = Archive::open(backup.archive.path()).unwrap();
        let ask = Ask::new(&backup, &["closed"]);
        let wanted = ask.wanted(&backup.rows, true);
        restore_tables(&info(&server, "shop"), &Options::default(), &how, &archive, &wanted).unwrap();
        assert_eq!(server.sql("shop", "SELECT has_table_privilege('anon', 'app.closed', 'SELECT')"), "t");
    }
}

#[test]
fn table_that_an_ordinary_user_brings_back_is_open_to_nobody_else() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        server.sql(
            "postgres",
            "CREATE ROLE anon; CREATE ROLE keeper; CREATE ROLE modest LOGIN; GRANT keeper TO modest",
        );
        server.sql("postgres", "CREATE DATABASE shop OWNER modest");
        server.sql(
            "shop",
            "SET ROLE modest; CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO keeper;
             ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO anon;
             CREATE TABLE app.usual (id int); CREATE TABLE app.closed (id serial, n int); INSERT INTO app.closed (n) VALUES (1);
             REVOKE ALL ON app.closed, app.closed_id_seq FROM anon, PUBLIC;
             CREATE TABLE app.theirs (id int); INSERT INTO app.theirs VALUES (1); REVOKE ALL ON app.theirs FROM anon, PUBLIC;
             ALTER TABLE app.theirs OWNER TO keeper",
        );
        let backup = back_up(&server, "shop", &tools(programs));
        let dump = || stock_dump(programs, &server, "shop", "-s");
        let text = dump();
        let options = Options::default();
        let archive = || Archive::open(backup.archive.path()).unwrap();
        let restore = |tables: &[&str], replace, owners| {
            let how = RestoreOptions { owners, ..RestoreOptions::default() };
            let ask = Ask::new(&backup, tables);
            let wanted = ask.wanted(&backup.rows, replace);
            restore_tables(&info_as(&server, "shop", "modest"), &options, &how, &archive(), &wanted)
        };
        for replace in [true, false] {
            if !replace {
                server.sql("shop", "DROP TABLE app.usual, app.closed, app.theirs");
            }
            assert_eq!(restore(&["usual", "closed", "theirs"], replace, true).unwrap(), []);
            assert_eq!(differences(&text, &dump()), Vec::<String>::new(), "version {}", programs.major);
        }

        // It may still give a table to the owner, but say nothing for that one afterwards.
        let roles = match programs.major {
            ..16 => "ALTER ROLE modest NOINHERIT",
            _ => "GRANT keeper TO modest WITH INHERIT FALSE",
        };
        server.sql("shop", &format!("{roles}; DROP TABLE app.theirs"));
        let error = restore(&["theirs"], false, true).unwrap_err();
        let Error::Open { what, to } = &error else { panic!("{error}") };
        assert_eq!(
            (what.as_str(), to.as_slice()),
            ("app.theirs", &["PUBLIC".to_owned(), "anon".to_owned()][..])
        );
        assert!(error.hint().unwrap().contains("--no-owner"), "{error}");
        assert_eq!(server.sql("shop", "SELECT to_regclass('app.theirs')"), "", "nothing of it was kept");
        assert_eq!(restore(&["theirs"], false, false).unwrap(), []);
        assert_eq!(
            server.sql("shop", "SELECT relowner::regrole FROM pg_class WHERE relname = 'theirs'"),
            "modest"
        );
        assert_eq!(server.sql("shop", "SELECT has_table_privilege('anon', 'app.theirs', 'SELECT')"), "f");
    }
}

#[test]
fn what_tables_need_is_named_or_made_in_a_new_database() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    make(&server, "shop");
    let backup = back_up(&server, "shop", &tools(&programs));
    server.create_database("empty");
    let ask = Ask::new(&backup, &["child"]);
    let error = ask.restore(&server, "empty", false).unwrap_err();
    let Error::Missing { place: "the database", what } = &error else { panic!("{error}") };
    assert_eq!(*what, ["function app.twice(integer)", "schema app", "table app.parent"]);
    let error = Ask::new(&backup, &["chidl"]).restore(&server, "shop", false).unwrap_err();
    assert_eq!(error.to_string(), "the backup has no table app.chidl");
    // That would be nothing, and told as done.
    let error = Ask::new(&backup, &["counted"]).restore(&server, "empty", false).unwrap_err();
    assert_eq!(error.to_string(), "the backup has no table app.counted", "a materialized view");

    let mut restore = backup.begin(&info(&server, "some of it")).unwrap();
    restore.create(&backup.properties).unwrap();
    let error = restore.only(&ask.wanted(&backup.rows, false)).unwrap_err();
    assert!(matches!(&error, Error::Missing { what, .. } if what == &["table app.parent"]), "{error}");
    let ask = Ask::new(&backup, &["child", "parent"]);
    restore.only(&ask.wanted(&backup.rows, false)).unwrap();
    let lost = restore.promote(&Place::New).unwrap().losses;
    assert_eq!(
        lost.iter().map(|loss| loss.what.as_str()).collect::<Vec<_>>(),
        ["publication table app.changes parent"]
    );
    assert_eq!(server.sql("some of it", "SELECT count(*), max(t) FROM app.parent"), "5000|row 999!");
    assert_eq!(server.sql("some of it", "SELECT nextval('app.child_id_seq')"), "3");
    assert_eq!(
        server.sql(
            "some of it",
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'"
        ),
        "2"
    );
}

#[test]
fn rows_alone_come_back_through_cycles_and_triggers_or_not_at_all() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        make(&server, "shop");
        server.sql(
            "shop",
            "CREATE FUNCTION app.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''a trigger''; END';
             CREATE TRIGGER never BEFORE INSERT ON app.cycle_a EXECUTE FUNCTION app.no();
             ALTER TABLE app.cycle_a ENABLE ALWAYS TRIGGER never;
             CREATE TRIGGER off BEFORE INSERT ON app.cycle_b EXECUTE FUNCTION app.no();
             ALTER TABLE app.cycle_b DISABLE TRIGGER off;
             CREATE TABLE app.days (at date PRIMARY KEY);
             INSERT INTO app.days SELECT DISTINCT at FROM app.events;
             ALTER TABLE app.events ADD CONSTRAINT \"a day\" FOREIGN KEY (at) REFERENCES app.days DEFERRABLE;
             COMMENT ON CONSTRAINT \"a day\" ON app.events IS 'it''s'",
        );
        let backup = back_up(&server, "shop", &tools(programs));
        let dump = || {
            let text = |what| stock_dump(programs, &server, "shop", what);
            format!("{}{}", text("-s"), with_rows_in_order(&text("-a")))
        };
        let before = dump();
        let all = Ask::new(&backup, &["cycle_a", "cycle_b", "events", "days", "parent", "child"]);
        let error = all.rows(&server, "shop", false).unwrap_err();
        assert!(matches!(&error, Error::NotEmpty { tables } if tables.len() == 6 + 1), "{error}");
        assert_eq!(dump(), before);

        let change = "DELETE FROM app.child; UPDATE app.cycle_a SET b = NULL; DELETE FROM app.cycle_b;
                      UPDATE app.events SET n = n + 1; SELECT nextval('app.child_id_seq'), nextval('app.child_id_seq')";
        server.sql("shop", change);
        let changed = dump();
        assert_ne!(changed, before);
        let error =
            restore_rows(&info(&server, "shop"), &Options::default(), &all.wanted(&Broken(&backup), true));
        assert_eq!(error.unwrap_err().to_string(), "the repository is gone");
        assert_eq!(differences(&changed, &dump()), Vec::<String>::new(), "all or nothing");
        // Rows of others refer to these.
        server.sql("shop", "INSERT INTO app.child VALUES (9, 1)");
        let error = Ask::new(&backup, &["parent"]).rows(&server, "shop", true).unwrap_err();
        let Error::Needed { what, by } = &error else { panic!("{error}") };
        assert_eq!(
            (what.as_str(), by.as_slice()),
            ("app.parent", &["foreign key child_parent_fkey of table app.child".to_owned()][..])
        );

        all.rows(&server, "shop", true).unwrap();
        assert_eq!(differences(&before, &dump()), Vec::<String>::new());
        // Foreign keys of others only stand in the way of rows that go.
        server.sql("shop", "DELETE FROM app.child; DELETE FROM app.parent");
        Ask::new(&backup, &["parent"]).rows(&server, "shop", false).unwrap();
        Ask::new(&backup, &["child"]).rows(&server, "shop", false).unwrap();
        assert_eq!(differences(&before, &dump()), Vec::<String>::new());
        server.sql("shop", "ALTER TABLE app.days RENAME at TO day; DROP TABLE app.cycle_a CASCADE");
        let error = Ask::new(&backup, &["days", "cycle_a"]).rows(&server, "shop", true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the database has no table app.cycle_a, no column at of table app.days"
        );
    }
}

#[test]
fn foreign_key_that_the_rows_break_keeps_all_as_it_was() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    make(&server, "shop");
    let backup = back_up(&server, "shop", &tools(&programs));
    server.sql("shop", "DELETE FROM app.child; DELETE FROM app.parent WHERE id = 1");
    let error = Ask::new(&backup, &["child"]).rows(&server, "shop", false).unwrap_err();
    assert_eq!(error.code(), Some("23503"), "{error}");
    assert_eq!(server.sql("shop", "SELECT count(*) FROM app.child"), "0");
}

#[test]
fn rows_of_partitions_that_came_later_are_not_mixed_with_those_of_the_backup() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql(
        "shop",
        "CREATE SCHEMA app; CREATE TABLE app.log (at date, n int) PARTITION BY RANGE (at);
         CREATE TABLE app.log_old PARTITION OF app.log FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         INSERT INTO app.log SELECT '2020-02-02', n FROM generate_series(1, 50) n",
    );
    let backup = back_up(&server, "shop", &tools(&programs));
    let count = || server.sql("shop", "SELECT count(*) FROM app.log");
    server.sql(
        "shop",
        "CREATE TABLE app.log_later PARTITION OF app.log FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')
             PARTITION BY RANGE (at);
         CREATE TABLE app.\"log \"\"1\" PARTITION OF app.log_later DEFAULT",
    );
    Ask::new(&backup, &["log"]).rows(&server, "shop", true).unwrap();
    assert_eq!(count(), "50", "an empty one is in nobody's way");
    server.sql("shop", "INSERT INTO app.log VALUES ('2030-02-03', 4)");
    for replace in [false, true] {
        let error = Ask::new(&backup, &["log"]).rows(&server, "shop", replace).unwrap_err();
        let Error::Needed { by, .. } = &error else { panic!("{error}") };
        assert_eq!(by, &["partition app.log \"1, which the backup does not have"]);
        assert_eq!(count(), "51");
    }
}

#[test]
fn rows_that_an_extension_put_into_its_own_table_stay() {
    for programs in &Programs::all() {
        let server = Server::start(programs, &Settings::default());
        server.create_database("shop");
        // An extension as PostGIS is one: it fills a table of its own, and users add to it.
        server.sql(
            "shop",
            "CREATE SCHEMA app; CREATE TABLE app.systems (id int PRIMARY KEY, name text);
             ALTER EXTENSION plpgsql ADD TABLE app.systems;
             UPDATE pg_extension SET extconfig = ARRAY['app.systems'::regclass::oid], extcondition = ARRAY['WHERE id > 100']
             WHERE extname = 'plpgsql';
             INSERT INTO app.systems VALUES (1, 'built in'), (2, 'built in'), (101, 'mine'), (102, NULL)",
        );
        let backup = back_up(&server, "shop", &tools(programs));
        let rows = || server.sql("shop", "SELECT string_agg(s::text, ' ' ORDER BY id) FROM app.systems s");
        let before = rows();
        let ask = Ask::new(&backup, &["systems"]);
        let error = ask.rows(&server, "shop", false).unwrap_err();
        assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
        server.sql("shop", "UPDATE app.systems SET name = 'changed' WHERE id IN (2, 101); INSERT INTO app.systems VALUES (103, '')");
        ask.rows(&server, "shop", true).unwrap();
        assert_eq!(rows(), before.replace("(2,\"built in\")", "(2,changed)"), "{}", programs.major);
        server.sql("shop", "DELETE FROM app.systems WHERE id > 100");
        ask.rows(&server, "shop", false).unwrap();
        assert_eq!(rows(), before.replace("(2,\"built in\")", "(2,changed)"));
    }
}
