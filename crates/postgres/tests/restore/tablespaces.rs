//! What lies in a tablespace lies there again, or is told where there is none of that name.

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{back_up, differences, info_as, stock_dump, tools};

const PLACED: &str = r#"
CREATE TABLE t (id int PRIMARY KEY USING INDEX TABLESPACE "a ""fast"" one", n int) TABLESPACE "a ""fast"" one";
CREATE INDEX by_n ON t (n) TABLESPACE "a ""fast"" one"; INSERT INTO t VALUES (1, 2);
CREATE TABLE usual (id int PRIMARY KEY); CREATE INDEX apart ON usual (id) TABLESPACE other; INSERT INTO usual VALUES (3);
CREATE MATERIALIZED VIEW kept TABLESPACE other AS SELECT id FROM t;
CREATE TABLE parts (n int) PARTITION BY LIST (n) TABLESPACE other; CREATE INDEX on_parts ON parts (n);
CREATE TABLE part PARTITION OF parts DEFAULT TABLESPACE pg_default; INSERT INTO parts VALUES (4)"#;

/// What lies in a tablespace of its own.
const PLACES: &str = "SELECT relname, spcname FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
                      WHERE relnamespace = 'public'::regnamespace ORDER BY 1";

#[test]
fn what_lies_in_a_tablespace_lies_there_again_or_is_told() {
    let versions: Vec<Programs> =
        Programs::all().into_iter().filter(|programs| programs.major >= 15).collect();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let settings = Settings {
            configuration: vec!["allow_in_place_tablespaces = on".to_owned()],
            ..Settings::default()
        };
        let server = Server::start(programs, &settings);
        for name in ["\"a \"\"fast\"\" one\"", "other"] {
            server.sql("postgres", &format!("CREATE TABLESPACE {name} LOCATION ''"));
        }
        server.create_database("shop");
        server.sql("shop", PLACED);
        let backup = back_up(&server, "shop", &tools(programs));
        let places = server.sql("shop", PLACES);
        assert_eq!(
            places,
            "apart|other\nby_n|a \"fast\" one\nkept|other\nparts|other\nt|a \"fast\" one\nt_pkey|a \"fast\" one"
        );
        assert_eq!(backup.restore(&server, "brought back"), []);
        assert_eq!(server.sql("brought back", PLACES), places);
        let dump = |server: &Server, database: &str| stock_dump(programs, server, database, "-s");
        assert_eq!(differences(&dump(&server, "shop"), &dump(&server, "brought back")), Vec::<String>::new());

        // There is none of one name, and not everybody may use the other.
        let elsewhere = Server::start(programs, &settings);
        elsewhere.sql("postgres", "CREATE TABLESPACE other LOCATION ''");
        elsewhere.sql("postgres", "CREATE ROLE modest LOGIN CREATEDB");
        let told = |user: &str, database: &str| -> Vec<String> {
            let lost = backup.restore_by(&info_as(&elsewhere, database, user));
            let mut lost: Vec<_> =
                lost.into_iter().filter(|loss| loss.what.starts_with("tablespace ")).collect();
            assert!(
                lost.iter().all(|loss| loss.why == "this user may not use one of that name here"),
                "{lost:?}"
            );
            lost.sort_by(|one, other| one.what.cmp(&other.what));
            lost.into_iter().map(|loss| loss.what).collect()
        };
        let fast = ["constraint public.t t_pkey", "index public.by_n", "table public.t"]
            .map(|what| format!("tablespace \"a \"\"fast\"\" one\" of {what}"));
        assert_eq!(told("postgres", "some of it"), fast);
        let other = ["index public.apart", "materialized view public.kept", "table public.parts"]
            .map(|what| format!("tablespace \"other\" of {what}"));
        assert_eq!(told("modest", "none of it"), [fast, other].concat());
        assert_eq!(elsewhere.sql("none of it", PLACES), "");
        assert_eq!(elsewhere.sql("some of it", PLACES), "apart|other\nkept|other\nparts|other");
        assert_eq!(elsewhere.contents("some of it"), server.contents("shop"));
        // But for the places it is the same.
        let plain = |text: &str| -> String {
            let lines = text.replace("; Tablespace: a \"fast\" one", "").replace("; Tablespace: other", "");
            let lines =
                lines.lines().filter(|line| !line.is_empty() && !line.starts_with("SET default_tablespace"));
            lines.map(|line| format!("{line}\n")).collect()
        };
        let (before, after) = (dump(&server, "shop"), dump(&elsewhere, "some of it"));
        assert_eq!(differences(&plain(&before), &plain(&after)), Vec::<String>::new());
    }
}
