//! What a server refuses and rows do not need is told, and everything else comes back.

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::conninfo::ConnInfo;
use dbkeep_postgres::restore::{Loss, Place, Restore, RestoreOptions, Wanted, restore_tables};
use dbkeep_postgres::wire::Options;
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{Backup, back_up, info_as, tools};

/// Two servers of the newest version: one to back up, one that lacks what the first one has.
fn servers() -> Option<(Server, Server)> {
    let programs = Programs::newest()?;
    let start = || Server::start(&programs, &Settings::default());
    Some((start(), start()))
}

fn back_up_all(server: &Server, database: &str, sql: &str) -> Backup {
    server.create_database(database);
    server.sql(database, sql);
    back_up(server, database, &tools(server.programs()))
}

/// Restores as a user who may make databases and nothing else.
fn restore_as(backup: &Backup, server: &Server, database: &str, user: &str, owners: bool) -> Vec<Loss> {
    let place = info_as(server, database, user);
    let how = RestoreOptions { jobs: 2, owners, ..RestoreOptions::default() };
    let archive = Archive::open(backup.archive.path()).unwrap();
    restore_with(archive, backup, &place, &how)
}

/// Restores with an archive that may be another one than the backup's. Returns what could not be restored.
fn restore_with(archive: Archive, backup: &Backup, place: &ConnInfo, how: &RestoreOptions) -> Vec<Loss> {
    let mut restore = Restore::begin(place, &Options::default(), how, archive, &backup.catalog, "1").unwrap();
    backup.fill(&mut restore, &backup.rows).unwrap();
    restore.promote(&Place::New).unwrap().losses
}

fn whats(losses: &[Loss]) -> Vec<&str> {
    losses.iter().map(|loss| loss.what.as_str()).collect()
}

#[test]
fn rows_that_policies_hide_from_their_owner_are_verified_before_they_are_hidden() {
    let Some((origin, target)) = servers() else { return println!("{SKIPPED}") };
    let sql = "CREATE TABLE secrets (id int PRIMARY KEY, owner text); INSERT INTO secrets VALUES (1, 'ada'), (2, 'bob');
               ALTER TABLE secrets ENABLE ROW LEVEL SECURITY; ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
               CREATE POLICY own ON secrets USING (owner = current_user);
               CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM secrets";
    let backup = back_up_all(&origin, "shop", sql);
    target.sql("postgres", "CREATE ROLE modest LOGIN CREATEDB");
    assert_eq!(restore_as(&backup, &target, "shop", "modest", false), []);
    let forced = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE relname = 'secrets'";
    assert_eq!(target.sql("shop", forced), "t");
    assert_eq!(target.sql("shop", "SELECT count(*) FROM secrets"), "2");
    let counted = "SELECT count FROM counted";
    assert_eq!(target.sql("shop", counted), "0", "what its owner sees, as on any other day");

    // The same for a table alone.
    target.sql("postgres", "CREATE DATABASE live OWNER modest");
    let tables = backup.tables();
    let names = [tables[0].0.name.clone()];
    let wanted = Wanted {
        names: &names,
        catalog: &backup.catalog,
        expected: &tables,
        giver: &backup.rows,
        replace: false,
        before: &|_| Ok(()),
    };
    let archive = Archive::open(backup.archive.path()).unwrap();
    let how = RestoreOptions { jobs: 1, owners: false, ..RestoreOptions::default() };
    let place = info_as(&target, "live", "modest");
    target.sql("live", "GRANT ALL ON SCHEMA public TO modest");
    let lost = restore_tables(&place, &Options::default(), &how, &archive, &wanted).unwrap();
    assert_eq!(lost, []);
    assert_eq!(target.sql("live", forced), "t");
}

#[test]
fn policies_and_rights_of_what_is_not_there_are_told_one_by_one() {
    let Some((origin, target)) = servers() else { return println!("{SKIPPED}") };
    origin.sql("postgres", "CREATE ROLE authenticated");
    let sql = "CREATE TABLE notes (id int, t text); INSERT INTO notes VALUES (1, 'a');
               ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
               CREATE POLICY theirs ON notes TO authenticated USING (true);
               CREATE POLICY nobody ON notes USING (false); COMMENT ON POLICY theirs ON notes IS 'x';
               GRANT SELECT ON notes TO authenticated";
    let backup = back_up_all(&origin, "shop", sql);
    // A right on a function that newer servers do not have.
    let mut archive = Archive::open(backup.archive.path()).unwrap();
    let mut right = archive.entries.iter().find(|entry| entry.kind == "ACL").unwrap().clone();
    right.id = 1_000_000;
    right.tag = "FUNCTION pg_start_backup()".to_owned();
    right.definition = "GRANT ALL ON FUNCTION pg_catalog.pg_start_backup() TO PUBLIC".to_owned();
    archive.entries.push(right);
    let place = info_as(&target, "shop", "postgres");
    let lost = restore_with(archive, &backup, &place, &RestoreOptions::default());
    let expected = [
        "policy public.notes theirs",
        "comment public.POLICY theirs ON notes",
        "acl public.TABLE notes",
        "acl public.FUNCTION pg_start_backup()",
    ];
    assert_eq!(whats(&lost), expected, "{lost:?}");
    assert_eq!(lost[0].why, "role \"authenticated\" does not exist");
    assert_eq!(target.sql("shop", "SELECT polname FROM pg_policy"), "nobody");
    assert_eq!(target.sql("shop", "SELECT t FROM notes"), "a");
}

#[test]
fn security_label_whose_provider_is_not_loaded_is_told_and_all_else_comes_back() {
    let Some((origin, target)) = servers() else { return println!("{SKIPPED}") };
    let sql = "CREATE TABLE notes (id int PRIMARY KEY, t text); INSERT INTO notes VALUES (1, 'a');
               CREATE VIEW seen AS SELECT t FROM notes; COMMENT ON TABLE notes IS 'commented'";
    let backup = back_up_all(&origin, "shop", sql);
    // No provider is at hand: its label is written as pg_dump writes one, beside the comment of the same table.
    let mut archive = Archive::open(backup.archive.path()).unwrap();
    let comment =
        archive.entries.iter().position(|entry| entry.kind == "COMMENT" && entry.tag == "TABLE notes");
    let mut label = archive.entries[comment.unwrap()].clone();
    label.id = 1_000_000;
    label.kind = "SECURITY LABEL".to_owned();
    label.definition =
        "SECURITY LABEL FOR selinux ON TABLE public.notes IS 'system_u:object_r:sepgsql_table_t:s0';\n"
            .to_owned();
    archive.entries.insert(comment.unwrap(), label);
    let place = info_as(&target, "shop", "postgres");
    let lost = restore_with(archive, &backup, &place, &RestoreOptions::default());
    assert_eq!(whats(&lost), ["security label public.TABLE notes"], "{lost:?}");
    assert_eq!(lost[0].why, "security label provider \"selinux\" is not loaded");
    assert_eq!(target.sql("shop", "SELECT t, obj_description('notes'::regclass) FROM seen"), "a|commented");
}

#[test]
fn materialized_view_that_cannot_be_asked_stays_empty_and_is_told() {
    let Some((origin, target)) = servers() else { return println!("{SKIPPED}") };
    // Its function finds the table by the path of whoever asks.
    let sql = "CREATE TABLE items (n int); INSERT INTO items VALUES (1), (2);
               CREATE FUNCTION number() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.items); END';
               CREATE MATERIALIZED VIEW counted AS SELECT number();
               CREATE MATERIALIZED VIEW sound AS SELECT sum(n) FROM public.items;
               CREATE MATERIALIZED VIEW upon AS SELECT * FROM public.counted; CREATE INDEX ON upon (number);
               CREATE OR REPLACE FUNCTION number() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM items); END'";
    let backup = back_up_all(&origin, "shop", sql);
    let lost = backup.restore(&target, "shop");
    assert_eq!(whats(&lost), ["materialized view data public.counted", "materialized view data public.upon"]);
    assert_eq!(lost[0].why, "it is there and empty: relation \"items\" does not exist");
    assert_eq!(target.sql("shop", "SELECT sum FROM sound"), "3");
    let filled = "SELECT relname FROM pg_class WHERE relkind = 'm' AND NOT relispopulated ORDER BY 1";
    assert_eq!(target.sql("shop", filled), "counted\nupon");
}

#[test]
fn what_only_a_superuser_makes_is_told_and_what_rows_need_is_the_end() {
    let Some((origin, target)) = servers() else { return println!("{SKIPPED}") };
    let sql = "CREATE TABLE t (n int); INSERT INTO t VALUES (1);
               CREATE FUNCTION fast(int) RETURNS int LANGUAGE internal IMMUTABLE AS 'int4up';
               CREATE INDEX by_fast ON t (fast(n));
               CREATE VIEW seen AS SELECT fast(n) FROM t; CREATE VIEW sound AS SELECT n FROM t;
               CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER away FOREIGN DATA WRAPPER nowhere;
               CREATE FOREIGN TABLE abroad (n int) SERVER away; COMMENT ON FOREIGN TABLE abroad IS 'x';
               CREATE OPERATOR CLASS odd FOR TYPE int USING btree AS OPERATOR 1 <, FUNCTION 1 btint4cmp(int, int)";
    let backup = back_up_all(&origin, "shop", sql);
    target.sql("postgres", "CREATE ROLE modest LOGIN CREATEDB");
    let lost = restore_as(&backup, &target, "shop", "modest", false);
    let mut told = whats(&lost);
    told.sort_unstable();
    let expected = [
        "comment public.FOREIGN TABLE abroad",
        "foreign data wrapper nowhere",
        "foreign table public.abroad",
        "function public.fast(integer)",
        "index public.by_fast",
        "operator class public.odd",
        "operator family public.odd",
        "server away",
        "view public.seen",
    ];
    assert_eq!(told, expected, "{lost:?}");
    assert_eq!(target.sql("shop", "SELECT n FROM sound"), "1");

    // A default is part of what a table is.
    origin.sql("shop", "ALTER TABLE t ADD m int DEFAULT fast(1)");
    let backup = back_up(&origin, "shop", &tools(origin.programs()));
    let place = info_as(&target, "again", "modest");
    let how = RestoreOptions { owners: false, ..RestoreOptions::default() };
    let archive = Archive::open(backup.archive.path()).unwrap();
    let mut restore =
        Restore::begin(&place, &Options::default(), &how, archive, &backup.catalog, "1").unwrap();
    let error = backup.fill(&mut restore, &backup.rows).unwrap_err();
    assert!(error.to_string().contains("function public.fast(integer)"), "{error}");
    restore.discard().unwrap();
}
