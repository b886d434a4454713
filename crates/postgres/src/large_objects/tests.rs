//! Against real servers: objects of all sizes, owners and rights go out and come back.

use super::*;
use crate::extent::Extent;
use crate::place::{Kept, Place};
use crate::schema;
use crate::snapshot::Holder;
use crate::tools::Tools;
use crate::wire::Options;

/// Everything that there is to know of all objects, as text.
const ALL: &str = "SELECT oid, length(lo_get(oid)), md5(lo_get(oid)), pg_get_userbyid(lomowner), lomacl,
                          obj_description(oid, 'pg_largeobject') FROM pg_largeobject_metadata ORDER BY oid";

fn read(place: &Place, holder: &Holder, catalog: &Catalog, kept: &Kept) -> Result<Sums> {
    let (info, options) = (&place.info, &place.options);
    Dump { info, options, snapshot: holder.id(), catalog, jobs: 3, lock_timeout: LOCK_TIMEOUT }
        .large_objects(kept)
}

fn read_all(place: &Place) -> (Kept, Sums) {
    let (holder, catalog) = place.hold();
    let kept = Kept::default();
    let sums = read(place, &holder, &catalog, &kept).unwrap();
    assert_eq!(sums.contents.rows, kept.table("pg_largeobject").lines().count() as u64);
    (kept, sums)
}

/// Restores in pieces of so many bytes.
fn restore(place: &Place, what: What, rows: &str, piece: usize) -> Result<u64> {
    let (count, losses) = restore_as_far(place, what, rows, piece)?;
    assert_eq!(losses, []);
    Ok(count)
}

fn restore_as_far(place: &Place, what: What, rows: &str, piece: usize) -> Result<(u64, Vec<Loss>)> {
    let mut connection = place.open();
    let mut restorer = Restorer::begin(&mut connection, what)?;
    rows.as_bytes().chunks(piece).try_for_each(|bytes| restorer.write(bytes))?;
    restorer.finish()
}

const OWNERS_TOO: What = What::Owners { owners: true, privileges: true };

#[test]
fn objects_of_every_size_with_owners_and_rights_come_back_on_every_version() {
    let sql = r#"
        CREATE ROLE "lo ""owner"", é"; CREATE ROLE lo_reader; CREATE ROLE lo_other;
        SELECT lo_create(100); SELECT lo_from_bytea(101, '\\x00');
        SELECT lo_from_bytea(102, (SELECT string_agg(sha256(n::text::bytea), ''::bytea) FROM generate_series(1, 98304) n));
        SELECT lo_from_bytea(103, decode(repeat('00', 16384), 'hex')); SELECT lo_from_bytea(104, decode(repeat('0a', 16385), 'hex'));
        SELECT lo_create(105); SELECT lo_put(105, 1000000, 'after a hole');
        SELECT lo_from_bytea((200 + n)::oid, n::text::bytea) FROM generate_series(1, 3000) n;
        SELECT lo_from_bytea(4294967295, 'last');
        ALTER LARGE OBJECT 101 OWNER TO "lo ""owner"", é"; GRANT SELECT ON LARGE OBJECT 101 TO PUBLIC;
        ALTER LARGE OBJECT 102 OWNER TO "lo ""owner"", é";
        GRANT SELECT, UPDATE ON LARGE OBJECT 102 TO lo_reader WITH GRANT OPTION;
        SET ROLE lo_reader; GRANT SELECT ON LARGE OBJECT 102 TO lo_other; RESET ROLE;
        REVOKE ALL ON LARGE OBJECT 103 FROM postgres;
        COMMENT ON LARGE OBJECT 100 IS E'it''s \\ a\\ttab\\n-- and more'; COMMENT ON LARGE OBJECT 101 IS '';
    "#;
    for place in Place::on_all("objects", sql) {
        let (kept, sums) = read_all(&place);
        assert_eq!(sums.owners.rows, 3007);
        place.server.create_database("objects again");
        let again = place.beside("objects again");
        let (contents, owners) = (kept.table("pg_largeobject"), kept.table("pg_largeobject_metadata"));
        assert_eq!(restore(&again, What::Contents, &contents, 1_000_003).unwrap(), sums.contents.rows);
        assert_eq!(restore(&again, OWNERS_TOO, &owners, 1_000).unwrap(), 3007);
        let (before, after) = (place.sql(ALL), again.sql(ALL));
        assert_eq!(before.lines().count(), 3007);
        assert!(before.contains("|3145728|") && before.contains("lo_other=r/lo_reader"), "{before}");
        assert!(before == after, "the same in every respect");
        assert_eq!(read_all(&again).1, sums);
        let found = super::sums(&again.info, &again.options, 2).unwrap();
        assert_eq!((found, sum_of_owners(&mut again.open()).unwrap()), (sums, sums.owners));
        again.sql("SELECT lo_put(102, 3145727, '\\x00'); ALTER LARGE OBJECT 103 OWNER TO lo_other");
        let found = super::sums(&again.info, &again.options, 2).unwrap();
        assert_eq!(found.contents.rows, sums.contents.rows);
        assert_ne!(found.contents.hash, sums.contents.hash, "a byte is another one");
        assert_ne!(sum_of_owners(&mut again.open()).unwrap(), sums.owners);

        let major = place.server.programs().major;
        let tools = Tools::find(major, Some(&place.server.programs().program("")), None);
        let Ok(tools) = tools else { continue };
        let (mut holder, _) = place.hold();
        let host = holder.connection().host().clone();
        let archive = tempfile::NamedTempFile::new().unwrap();
        let (options, file) = (Options::default(), archive.reopen().unwrap());
        schema::dump(&tools, &place.info, &host, &options, holder.id(), &Extent::default(), file).unwrap();
        let text = tempfile::NamedTempFile::new().unwrap();
        schema::render(&tools, archive.reopen().unwrap(), text.reopen().unwrap(), &options).unwrap();
        let text = std::fs::read_to_string(text.path()).unwrap();
        assert!(
            !text.to_lowercase().contains("large object") && !text.contains("lo_"),
            "PostgreSQL {major}: {text}"
        );
    }
}

#[test]
fn who_owns_objects_backs_them_up_and_restores_them_without_being_superuser() {
    let sql = "CREATE ROLE lo_user LOGIN; GRANT CREATE ON DATABASE \"objects of a user\" TO lo_user;
               SELECT lo_from_bytea(1, repeat('x', 20000)::bytea); SELECT lo_create(2); COMMENT ON LARGE OBJECT 2 IS 'two';
               ALTER LARGE OBJECT 1 OWNER TO lo_user; ALTER LARGE OBJECT 2 OWNER TO lo_user";
    for place in Place::on_all("objects of a user", sql) {
        let (kept, sums) = read_all(&place.as_user("lo_user"));
        assert_eq!((sums.contents.rows, sums.owners.rows), (3, 2));
        place.server.sql("postgres", "CREATE DATABASE \"user again\" OWNER lo_user");
        let again = place.beside("user again");
        let user = again.as_user("lo_user");
        restore(&user, What::Contents, &kept.table("pg_largeobject"), 77).unwrap();
        restore(&user, OWNERS_TOO, &kept.table("pg_largeobject_metadata"), 7).unwrap();
        assert_eq!(again.sql(ALL), place.sql(ALL));
    }
}

#[test]
fn object_that_may_not_be_read_is_an_error_that_names_it() {
    let sql = "CREATE ROLE lo_nobody LOGIN; SELECT lo_from_bytea(77, 'secret')";
    let Some(place) = Place::new("objects of others", sql) else { return };
    let user = place.as_user("lo_nobody");
    let (holder, catalog) = user.hold();
    let error = read(&user, &holder, &catalog, &Kept::default()).unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (Some("42501"), "permission denied for large object 77")
    );
}

#[test]
fn objects_are_those_of_the_moment() {
    let sql = "SELECT lo_from_bytea(1, 'one'); SELECT lo_from_bytea(2, 'two')";
    let Some(place) = Place::new("objects of a moment", sql) else { return };
    let (holder, catalog) = place.hold();
    place.sql("SELECT lo_unlink(1), lo_put(2, 0, 'changed'), lo_from_bytea(3, 'three')");
    let kept = Kept::default();
    let sums = read(&place, &holder, &catalog, &kept).unwrap();
    assert_eq!(kept.table("pg_largeobject"), "1\t0\t\\\\x6f6e65\n2\t0\t\\\\x74776f\n");
    assert_eq!(sums.owners.rows, 2);
}

#[test]
fn objects_that_hold_something_are_not_written_over_and_cut_rows_are_no_object() {
    let sql = "SELECT lo_from_bytea(5, 'mine'); SELECT lo_create(6)";
    let Some(place) = Place::new("objects of old", sql) else { return };
    let error = restore(&place, What::Contents, "5\t0\t\\\\x00\n", 100).unwrap_err();
    assert_eq!(error.to_string(), "large object 5 is there already");
    assert_eq!(restore(&place, What::Contents, "6\t0\t\\\\x41\n6\t1\t\\\\x42\n", 100).unwrap(), 2);
    assert!(restore(&place, What::Contents, "7\t0\t\\\\x41", 100).is_err());
    assert_eq!(
        place.sql("SELECT oid, lo_get(oid) FROM pg_largeobject_metadata ORDER BY 1"),
        "5|\\x6d696e65\n6|\\x4142"
    );
}

#[test]
fn what_a_repository_says_of_owners_and_rights_runs_as_no_other_statement() {
    let Some(place) = Place::new("objects from elsewhere", "SELECT lo_create(8)") else { return };
    let rights = r#"[{"grantee":"a\\"; DROP ROLE","privilege":"SELECT; DROP TABLE x","grantor":"postgres"}]"#;
    let rows = format!("8\tpostgres\t'; DROP TABLE x; --\t{rights}\n");
    let (_, losses) = restore_as_far(&place, OWNERS_TOO, &rows, 100).unwrap();
    assert!(losses[0].why.starts_with("syntax error at or near"), "{losses:?}");
    let rows = rows.replace("SELECT; DROP TABLE x", "SELECT");
    let (_, losses) = restore_as_far(&place, OWNERS_TOO, &rows, 100).unwrap();
    let loss = Loss {
        what: "privileges for \"a\"\"; DROP ROLE\" of 1 large object".to_owned(),
        why: "role \"a\"; DROP ROLE\" does not exist".to_owned(),
    };
    assert_eq!(losses, [loss]);
    assert_eq!(restore(&place, What::Owners { owners: false, privileges: false }, &rows, 100).unwrap(), 1);
    assert_eq!(place.sql("SELECT obj_description(8, 'pg_largeobject')"), "'; DROP TABLE x; --");
}

#[test]
fn owners_and_rights_that_cannot_be_given_are_counted_and_hold_nothing_else_back() {
    let sql = "CREATE ROLE lo_there; SELECT lo_create(n::oid) FROM generate_series(1, 4) n";
    let Some(place) = Place::new("objects of nobody", sql) else { return };
    let rights = |grantee: &str| {
        format!(r#"[{{"grantee":"{grantee}","privilege":"SELECT","grantable":false,"grantor":"postgres"}}]"#)
    };
    let rows = format!(
        "1\tgone\tone\t\\N\n2\tlo_there\ttwo\t{}\n3\tgone\t\\N\t\\N\n4\tpostgres\tfour\t{}\n",
        rights("gone"),
        rights("lo_there")
    );
    let (count, losses) = restore_as_far(&place, OWNERS_TOO, &rows, 7).unwrap();
    let whats: Vec<&str> = losses.iter().map(|loss| loss.what.as_str()).collect();
    assert_eq!(
        (count, whats),
        (4, vec!["owner \"gone\" of 2 large objects", "privileges for \"gone\" of 1 large object"])
    );
    assert_eq!(losses[0].why, "role \"gone\" does not exist");
    assert_eq!(
        place.sql(
            "SELECT oid, pg_get_userbyid(lomowner), lomacl, obj_description(oid, 'pg_largeobject')
             FROM pg_largeobject_metadata ORDER BY oid"
        ),
        "1|postgres||one\n2|lo_there|{}|two\n3|postgres||\n4|postgres|{lo_there=r/postgres}|four"
    );
}
