//! What is set in our sessions, whatever roles have as their defaults.

use super::*;
use crate::place::Place;
use crate::restore::prepared_session;

/// A setting, a default that suits nobody who reads or restores, and what it is when we read and when we restore. What is
/// not said is set by nobody, or only where rows are written, which is done as they are read.
const DEFAULTS: [(&str, &str, Option<&str>, Option<&str>); 24] = [
    ("search_path", "trap, pg_catalog", Some("\"\""), Some("\"\"")),
    ("DateStyle", "'SQL, DMY'", Some("ISO, YMD"), Some("ISO, YMD")),
    ("IntervalStyle", "sql_standard", Some("postgres"), Some("postgres")),
    ("TimeZone", "'Asia/Kolkata'", Some("UTC"), Some("UTC")),
    ("extra_float_digits", "-15", Some("1"), None),
    ("bytea_output", "escape", Some("hex"), None),
    ("xmloption", "document", Some("content"), Some("content")),
    ("lc_monetary", "'C.UTF-8'", Some("C"), None),
    ("quote_all_identifiers", "on", Some("off"), Some("off")),
    ("standard_conforming_strings", "off", Some("on"), Some("on")),
    ("row_security", "on", Some("off"), Some("off")),
    ("synchronize_seqscans", "on", Some("off"), None),
    ("statement_timeout", "'1h'", Some("0"), Some("0")),
    ("lock_timeout", "'1h'", Some("0"), Some("0")),
    ("idle_in_transaction_session_timeout", "'1h'", Some("0"), Some("0")),
    ("idle_session_timeout", "'1h'", None, Some("0")),
    ("transaction_timeout", "'1h'", Some("0"), Some("0")),
    ("default_transaction_read_only", "on", None, Some("off")),
    ("default_transaction_isolation", "serializable", None, Some("read committed")),
    ("check_function_bodies", "on", None, Some("off")),
    ("client_min_messages", "notice", None, Some("warning")),
    ("transform_null_equals", "on", None, Some("off")),
    ("array_nulls", "off", None, Some("on")),
    ("jit", "on", None, Some("off")),
];

fn shown(connection: &mut Connection, setting: &str) -> Option<String> {
    let rows = connection.query("SELECT pg_catalog.current_setting($1, true)", &[Some(setting)]).unwrap();
    rows[0][0].clone()
}

#[test]
fn sessions_have_settings_of_their_own_whatever_a_role_has_as_its_defaults() {
    for place in Place::on_all("defaults", "CREATE ROLE \"of somebody else\" SUPERUSER LOGIN") {
        let known = |setting: &str| {
            let sql = "SELECT count(*) FROM pg_settings WHERE name =";
            place.sql(&format!("{sql} '{setting}'")) == "1"
        };
        // Newer servers have more of them.
        let defaults: Vec<_> = DEFAULTS.iter().filter(|(setting, ..)| known(setting)).collect();
        for (setting, default, ..) in &defaults {
            place.sql(&format!("ALTER ROLE \"of somebody else\" SET {setting} = {default}"));
        }
        let user = place.as_user("of somebody else");
        let (mut plain, mut reader) = (user.open(), user.open());
        // What a pooler may have left.
        reader.execute("SET client_encoding = 'LATIN1'; SET default_transaction_read_only = off").unwrap();
        begin(&mut reader, None).unwrap();
        let mut restorer = prepared_session(&user.info, &user.options).unwrap();
        for (setting, _, read, restored) in &defaults {
            let default = shown(&mut plain, setting);
            for (session, expected) in [(&mut reader, read), (&mut restorer, restored)] {
                let Some(expected) = expected else { continue };
                assert_ne!(default.as_deref(), Some(*expected), "{setting} by default");
                assert_eq!(shown(session, setting).as_deref(), Some(*expected), "{setting}");
            }
        }
        for (setting, expected) in [
            ("client_encoding", "UTF8"),
            ("transaction_read_only", "on"),
            ("transaction_isolation", "repeatable read"),
        ] {
            assert_eq!(shown(&mut reader, setting).as_deref(), Some(expected), "{setting}");
        }
        assert_eq!(shown(&mut restorer, "synchronous_commit").as_deref(), Some("off"));
        let version = version(&mut restorer).unwrap();
        let of_newer = [("idle_session_timeout", 140_000), ("transaction_timeout", 170_000)];
        for (setting, since) in of_newer {
            assert_eq!(known(setting), version >= since, "{setting} since {since}");
        }
    }
}
