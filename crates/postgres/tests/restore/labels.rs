//! Security labels, by a provider that takes any: none comes with PostgreSQL that does so.

use std::path::{Path, PathBuf};
use std::process::Command;

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::Name;
use dbkeep_postgres::restore::{RestoreOptions, Wanted, restore_tables};
use dbkeep_postgres::wire::Options;
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{back_up, differences, info, stock_dump, tools};

/// A module of the server.
const PROVIDER: &str = r#"
#include "postgres.h"
#include "fmgr.h"
#include "commands/seclabel.h"
PG_MODULE_MAGIC;
static void take(const ObjectAddress *object, const char *label) {}
void _PG_init(void) { register_label_provider("any", take); }
"#;

/// Returns the folder with what modules of a version are made of.
fn headers(programs: &Programs) -> Option<PathBuf> {
    let beside = programs.program("").join("../include/postgresql/server");
    let debian = PathBuf::from(format!("/usr/include/postgresql/{}/server", programs.major));
    [beside, debian].into_iter().find(|folder| folder.join("commands/seclabel.h").is_file())
}

/// Makes the provider, which sessions of superusers can load then.
fn compile(headers: &Path, folder: &Path) -> PathBuf {
    let (source, module) = (folder.join("any.c"), folder.join("any.so"));
    std::fs::write(&source, PROVIDER).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-I"]).arg(headers).arg("-o").args([&module, &source]);
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    module
}

const LABELED: &str = "
CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('ok'); CREATE TABLE app.notes (id serial PRIMARY KEY, \"a text\" text, m app.mood);
INSERT INTO app.notes (\"a text\") VALUES ('x'); CREATE VIEW app.seen AS SELECT id FROM app.notes;
CREATE FUNCTION app.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION app.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION app.watch(); CREATE PUBLICATION changes FOR TABLE app.notes;
CREATE MATERIALIZED VIEW app.kept AS SELECT id FROM app.notes;
COMMENT ON TABLE app.notes IS 'beside the label';
SECURITY LABEL ON SCHEMA app IS 'of a schema'; SECURITY LABEL FOR \"any\" ON TABLE app.notes IS E'it''s; -- a\nlabel';
SECURITY LABEL ON COLUMN app.notes.\"a text\" IS 'of a column'; SECURITY LABEL ON FUNCTION app.twice(int) IS 'of a function';
SECURITY LABEL ON VIEW app.seen IS 'of a view'; SECURITY LABEL ON SEQUENCE app.notes_id_seq IS 'of a sequence';
SECURITY LABEL ON TYPE app.mood IS 'of a type'; SECURITY LABEL ON EVENT TRIGGER watch IS 'of an event trigger';
SECURITY LABEL ON PUBLICATION changes IS 'of a publication'; SECURITY LABEL ON MATERIALIZED VIEW app.kept IS 'of what is kept'";

const LABELS: &str = "SELECT objtype, objname, provider, label FROM pg_seclabels ORDER BY 1, 2";

#[test]
fn security_labels_come_back_where_their_provider_is_and_are_told_elsewhere() {
    if Command::new("cc").arg("--version").output().is_err() {
        return println!("skipped: there is no compiler");
    }
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let Some(headers) = headers(programs) else {
            println!("skipped: the headers of PostgreSQL {} are not installed", programs.major);
            continue;
        };
        let server = Server::start(programs, &Settings::default());
        let module = compile(&headers, server.socket_folder());
        let load = format!("ALTER ROLE postgres SET session_preload_libraries = '{}'", module.display());
        server.sql("postgres", &load);
        server.create_database("shop");
        server.sql("shop", LABELED);
        let labels = server.sql("shop", LABELS);
        assert_eq!(labels.lines().count(), 10 + 1, "one is of two lines: {labels}");
        let backup = back_up(&server, "shop", &tools(programs));
        let dump = |database: &str| stock_dump(programs, &server, database, "-s");
        let before = dump("shop");

        assert_eq!(backup.restore(&server, "brought back"), []);
        assert_eq!(server.sql("brought back", LABELS), labels);
        assert_eq!(differences(&before, &dump("brought back")), Vec::<String>::new());

        // A table alone, with those of its columns and of its sequence.
        server.sql("shop", "DROP TABLE app.notes CASCADE");
        let names = [Name { schema: "app".to_owned(), name: "notes".to_owned() }];
        let tables = backup.tables();
        let wanted = Wanted {
            names: &names,
            catalog: &backup.catalog,
            expected: &tables,
            giver: &backup.rows,
            replace: false,
            before: &|_| Ok(()),
        };
        let archive = Archive::open(backup.archive.path()).unwrap();
        let how = RestoreOptions::default();
        let lost =
            restore_tables(&info(&server, "shop"), &Options::default(), &how, &archive, &wanted).unwrap();
        assert_eq!(lost.len(), 1, "the publication: {lost:?}");
        let dropped = ["of a view", "of what is kept"];
        let kept = |labels: &str| {
            let kept = labels.lines().filter(|line| !dropped.iter().any(|label| line.ends_with(label)));
            kept.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(kept(&server.sql("shop", LABELS)), kept(&labels));

        server.sql("postgres", "ALTER ROLE postgres RESET session_preload_libraries");
        let lost = backup.restore(&server, "without a provider");
        let mut told: Vec<&str> = lost.iter().map(|loss| loss.what.as_str()).collect();
        told.sort_unstable();
        let expected = [
            "security label EVENT TRIGGER watch",
            "security label PUBLICATION changes",
            "security label SCHEMA app",
            "security label app.FUNCTION twice(integer)",
            "security label app.MATERIALIZED VIEW kept",
            "security label app.SEQUENCE notes_id_seq",
            "security label app.TABLE notes",
            "security label app.TYPE mood",
            "security label app.VIEW seen",
        ];
        assert_eq!(told, expected);
        assert!(
            lost.iter().all(|loss| loss.why == "security label provider \"any\" is not loaded"),
            "{lost:?}"
        );
        assert_eq!(server.sql("without a provider", "SELECT \"a text\" FROM app.notes"), "x");
    }
}
