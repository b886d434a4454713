//! Against real servers: what a backup does not have is told.

use super::*;
use crate::place::standby;

#[test]
fn standby_is_read_but_for_what_only_the_primary_has() {
    for programs in Programs::all() {
        if !programs.program("pg_basebackup").exists() || programs.major < 15 {
            continue;
        }
        let access = vec!["local replication all trust".to_owned()];
        let settings = dbkeep_testkit::postgres::Settings { access, ..Default::default() };
        let server = dbkeep_testkit::postgres::Server::start(&programs, &settings);
        server.sql(
            "postgres",
            "CREATE SEQUENCE counted; SELECT nextval('counted'), nextval('counted'); CREATE UNLOGGED SEQUENCE fleeting;
             CREATE TABLE t (n int); INSERT INTO t VALUES (1); CREATE UNLOGGED TABLE u (n serial)",
        );
        let (_standby, info) = standby(&server, "postgres");
        let how = CaptureOptions { tools: Some(programs.program("")), ..CaptureOptions::default() };
        let capture = Capture::begin(&info, &how).unwrap();
        let text = archive_text(&capture).unwrap();
        assert!(text.contains("CREATE UNLOGGED SEQUENCE public.fleeting"), "{text}");
        let kept = Kept::default();
        assert_eq!(capture.rows(&kept).unwrap().iter().map(|sum| sum.rows).sum::<u64>(), 1);
        let sequences = capture.catalog().sequences.iter();
        let sequences: Vec<(&str, i64)> =
            sequences.map(|it| (it.name.name.as_str(), it.last_value)).collect();
        assert_eq!(sequences, [("counted", 2)]);
        let gaps = capture.not_covered();
        let gaps: Vec<(&str, Gap)> = gaps.iter().map(|gap| (gap.what.as_str(), gap.why)).collect();
        let expected = [
            ("\"public\".\"u\"", Gap::UnloggedOnStandby),
            ("\"public\".\"fleeting\"", Gap::UnloggedSequence),
            ("\"public\".\"u_n_seq\"", Gap::UnloggedSequence),
        ];
        assert_eq!(gaps, expected, "version {}", programs.major);
        capture.finish().unwrap();
    }
}

#[test]
fn rows_that_an_extension_keeps_to_itself_are_told() {
    let sql = "CREATE TABLE made (n int); INSERT INTO made VALUES (1); CREATE TABLE empty (n int);
               CREATE TABLE own (n int); INSERT INTO own VALUES (1);
               ALTER EXTENSION plpgsql ADD TABLE made; ALTER EXTENSION plpgsql ADD TABLE empty";
    let Some(place) = Place::new("of an extension", sql) else { return };
    let capture = begin_capture(&place, Locks::Strict);
    assert_eq!(capture.catalog().tables.len(), 1);
    let told =
        NotCovered { what: "\"public\".\"made\" of extension \"plpgsql\"".to_owned(), why: Gap::OfExtension };
    assert_eq!(capture.not_covered(), [told]);
    capture.finish().unwrap();
    let filter = Filter { without: vec![name("public", "made")], ..Filter::default() };
    let how = CaptureOptions { filter, ..options(&place, Locks::Strict) };
    assert_eq!(Capture::begin(&place.info, &how).unwrap().not_covered(), []);
}

#[test]
fn what_only_a_superuser_gets_and_what_pg_dump_warns_of_is_told() {
    let sql = r#"CREATE TABLE t (n int); CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER "far away" FOREIGN DATA WRAPPER nowhere;
               CREATE USER MAPPING FOR postgres SERVER "far away" OPTIONS (password 'x');
               CREATE SUBSCRIPTION "s 1" CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)"#;
    for place in Place::on_all("withheld", sql) {
        place.sql(
            "CREATE ROLE withheld_u LOGIN BYPASSRLS; GRANT pg_read_all_data TO withheld_u;
             CREATE USER MAPPING FOR withheld_u SERVER \"far away\"; GRANT USAGE ON FOREIGN SERVER \"far away\" TO withheld_u",
        );
        let told = |place: &Place| {
            let capture = begin_capture(place, Locks::Strict);
            archive_text(&capture).unwrap();
            let gaps = capture.not_covered();
            capture.finish().unwrap();
            gaps.into_iter().map(|gap| (gap.what, gap.why)).collect::<Vec<_>>()
        };
        let user = told(&place.as_user("withheld_u"));
        let expected = [
            ("options of the user mapping of postgres for server \"far away\"", Gap::Withheld),
            ("subscription \"s 1\"", Gap::Withheld),
            ("subscriptions not dumped because current user is not a superuser", Gap::Warning),
        ];
        let version = place.server.programs().major;
        assert_eq!(user, expected.map(|(what, why)| (what.to_owned(), why)), "version {version}");
        assert_eq!(told(&place), []);
    }
}
