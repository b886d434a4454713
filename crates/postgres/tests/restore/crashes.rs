//! Restores that are ended at every step leave the original as it was.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dbkeep_postgres::catalog::Table;
use dbkeep_postgres::conninfo::{ConnInfo, Surroundings};
use dbkeep_postgres::load::Giver;
use dbkeep_postgres::restore::{Place, remove_unfinished, unfinished};
use dbkeep_postgres::wire::{Connection, CopyIn, Options};
use dbkeep_postgres::{Error, Result};
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use dbkeep_testkit::proxy::{Afterwards, Proxy};

use crate::roundtrip::{Over, READ_MEANWHILE, SLOW_INDEX};
use crate::support::{Backup, Rows, back_up, info, stock_dump, tools};

const SHOP: &str =
    "CREATE TABLE a (n int PRIMARY KEY, t text); CREATE TABLE b (n int REFERENCES a); CREATE TABLE c (n int);
    INSERT INTO a SELECT n, 'row ' || n FROM generate_series(1, 2000) n; INSERT INTO b SELECT n FROM a;
    INSERT INTO c SELECT n FROM a; CREATE INDEX ON a (t)";

/// Ends all sessions of the restore when the rows of the table with a number are asked for.
struct Killer<'a> {
    rows: &'a Rows,
    server: &'a Server,
    at: usize,
    asked: AtomicUsize,
}

impl Giver for Killer<'_> {
    fn pieces(&self, table: &Table) -> Result<usize> {
        self.rows.pieces(table)
    }

    fn give(&self, table: &Table, piece: usize, into: &mut CopyIn<'_>) -> Result<()> {
        if self.asked.fetch_add(1, Ordering::Relaxed) == self.at {
            let who = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE '%staging%'";
            self.server.sql("postgres", who);
        }
        self.rows.give(table, piece, into)
    }
}

#[test]
fn sessions_that_are_ended_while_rows_go_in_leave_the_original_as_it_was() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql("shop", SHOP);
    let backup = back_up(&server, "shop", &tools(&programs));
    let before = stock_dump(&programs, &server, "shop", "-b");
    let place = info(&server, "shop");
    for at in 0..3 {
        let mut restore = backup.begin(&place).unwrap();
        let killer = Killer { rows: &backup.rows, server: &server, at, asked: AtomicUsize::new(0) };
        let error = backup.fill(&mut restore, &killer).unwrap_err();
        assert!(matches!(&error, Error::Lost { .. } | Error::Server(_)), "{error}");
        drop(restore);
        assert_eq!(stock_dump(&programs, &server, "shop", "-b"), before);
        let left = unfinished(&place, &Options::default()).unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        remove(&server, &left[0].database);
    }
}

#[test]
fn session_that_is_ended_while_others_wait_for_its_index_ends_the_restore() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql("shop", SLOW_INDEX);
    let backup = back_up(&server, "shop", &tools(&programs));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = Over(&is_over);
        let killer = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if server.sql("postgres", READ_MEANWHILE) != "0" {
                    let who = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index";
                    return server.sql("postgres", who).starts_with('t');
                }
            }
            false
        });
        let mut restore = backup.begin(&info(&server, "shop")).unwrap();
        let error = backup.fill(&mut restore, &backup.rows).unwrap_err();
        drop(over);
        assert!(matches!(&error, Error::Lost { .. } | Error::Server(_) | Error::Object { .. }), "{error}");
        assert!(killer.join().unwrap());
    });
    assert_eq!(server.sql("shop", "SELECT count(*) FROM slow"), "2000");
}

/// Drops an unfinished database as soon as its sessions are gone.
fn remove(server: &Server, database: &str) {
    loop {
        match remove_unfinished(&info(server, "shop"), &Options::default(), database) {
            Err(Error::InUse { .. }) => thread::yield_now(),
            result => return result.unwrap(),
        }
    }
}

#[test]
fn server_that_dies_between_the_renames_comes_back_with_the_old_names() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.create_database("shop_new");
    let options = Options::default();
    let mut admin = Connection::open(&info(&server, "postgres"), &options).unwrap();
    let renames =
        ["BEGIN", "ALTER DATABASE shop RENAME TO shop_old", "ALTER DATABASE shop_new RENAME TO shop"];
    renames.iter().for_each(|statement| admin.execute(statement).unwrap());
    server.crash();
    let names =
        || server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'shop%' ORDER BY 1");
    assert_eq!(names(), "shop\nshop_new");
    // And a client that is gone in that moment.
    let mut admin = Connection::open(&info(&server, "postgres"), &options).unwrap();
    renames.iter().for_each(|statement| admin.execute(statement).unwrap());
    drop(admin);
    while names() != "shop\nshop_new" {
        thread::yield_now();
    }
    let mut admin = Connection::open(&info(&server, "postgres"), &options).unwrap();
    renames.iter().for_each(|statement| admin.execute(statement).unwrap());
    admin.execute("COMMIT").unwrap();
    server.crash();
    assert_eq!(names(), "shop\nshop_old");
}

#[test]
fn name_that_a_server_is_still_giving_when_the_connection_is_lost_is_waited_for() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql("shop", SHOP);
    let backup: Backup = back_up(&server, "shop", &tools(&programs));
    let proxy = Proxy::start(server.port());
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let way = format!("postgresql://postgres@127.0.0.1:{}/restored", proxy.port());
    let mut restore = backup.begin(&ConnInfo::resolve(&way, &surroundings).unwrap()).unwrap();
    backup.fill(&mut restore, &backup.rows).unwrap();
    let set = |standbys: &str| {
        server.sql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'"));
        server.sql("postgres", "SELECT pg_reload_conf()");
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    thread::scope(|scope| {
        // A commit waits for a standby that there is not, as soon as all of the server knows that it should.
        set("nobody");
        let known = || {
            let first = scope.spawn(|| server.sql("postgres", "DROP TABLE IF EXISTS d; CREATE TABLE d ()"));
            while server.sql("postgres", waiting) == "0" && !first.is_finished() {
                thread::yield_now();
            }
            !first.is_finished()
        };
        while !known() {}
        let promoted = scope.spawn(|| restore.promote(&Place::New));
        while server.sql("postgres", waiting) != "2" && !promoted.is_finished() {
            thread::yield_now();
        }
        proxy.cut(Afterwards::Back);
        // Whoever logs in and asks says as much.
        while proxy.passed() < 2_000 && !promoted.is_finished() {
            thread::yield_now();
        }
        assert!(!promoted.is_finished(), "nobody knows yet whether it gets the name");
        assert_eq!(
            server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'restored'"),
            "0"
        );
        set("");
        assert_eq!(promoted.join().unwrap().unwrap().database, "restored");
    });
    assert_eq!(server.sql("restored", "SELECT count(*) FROM a"), "2000");
}

#[test]
fn server_that_dies_at_any_moment_of_a_restore_has_the_whole_old_database_or_the_whole_new_one() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    // Commits have to reach the disk: that is what a crash is about.
    let settings = Settings { configuration: vec!["fsync = on".to_owned()], ..Settings::default() };
    let server = Server::start(&programs, &settings);
    server.create_database("shop");
    server.sql("shop", SHOP);
    let backup: Backup = back_up(&server, "shop", &tools(&programs));
    server.sql("shop", "INSERT INTO a VALUES (2001, 'later')");
    for step in 0..8_u64 {
        let outcome = thread::scope(|scope| {
            let crash = scope.spawn(|| {
                thread::sleep(Duration::from_millis(40 * step * step));
                server.crash();
            });
            let restored = backup.begin(&info(&server, "shop")).and_then(|mut restore| {
                backup.fill(&mut restore, &backup.rows)?;
                restore.promote(&Place::Over { disconnect: true })
            });
            crash.join().unwrap();
            restored
        });
        let found = databases(&server);
        match outcome {
            Ok(promoted) => {
                let old = promoted.before.unwrap();
                assert_eq!(found, [("shop".to_owned(), "2000".to_owned()), (old.clone(), "2001".to_owned())]);
                // And back, for the next crash.
                server.sql("postgres", "DROP DATABASE shop");
                server.sql("postgres", &format!("ALTER DATABASE \"{old}\" RENAME TO shop"));
            }
            Err(_) => assert_eq!(found, [("shop".to_owned(), "2001".to_owned())], "step {step}"),
        }
        for left in unfinished(&info(&server, "shop"), &Options::default()).unwrap() {
            remove(&server, &left.database);
        }
    }
}

/// Returns the names of the databases that have one, with how many rows each has.
fn databases(server: &Server) -> Vec<(String, String)> {
    let names = server.sql(
        "postgres",
        "SELECT datname FROM pg_database WHERE datname LIKE 'shop%' AND datname NOT LIKE '%staging%' ORDER BY 1",
    );
    names.lines().map(|name| (name.to_owned(), server.sql(name, "SELECT count(*) FROM a"))).collect()
}
