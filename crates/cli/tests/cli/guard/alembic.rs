//! A migration tool of the field, Alembic, on both engines: by its own driver and its own transactions.

use std::fs;
use std::path::PathBuf;

use crate::environment::{Run, TestEnvironment, ask};
use crate::postgres::Shop;

/// Returns the folder that Alembic is installed in (`scripts/test`); nothing, with a message, where it is not.
fn alembic() -> Option<PathBuf> {
    let folder = std::env::var_os("DBKEEP_TEST_ALEMBIC").map(PathBuf::from).filter(|folder| folder.is_dir());
    if folder.is_none() {
        eprintln!("skipped: Alembic is not installed");
    }
    folder
}

/// Makes a project of two revisions: the first one works, the second one is `body`.
fn project(environment: TestEnvironment, folder: &std::path::Path, url: &str, body: &str) -> TestEnvironment {
    let versions = environment.path("migrations/versions");
    fs::create_dir_all(&versions).unwrap();
    let write = |name: &str, text: &str| fs::write(environment.path(name), text).unwrap();
    write("alembic.ini", &format!("[alembic]\nscript_location = migrations\nsqlalchemy.url = {url}\n"));
    write(
        "migrations/env.py",
        "from alembic import context
from sqlalchemy import create_engine

engine = create_engine(context.config.get_main_option('sqlalchemy.url'))
with engine.connect() as connection:
    # A transaction for each revision, so that one that fails leaves the ones before it behind.
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
",
    );
    let revision = |id: &str, before: &str, body: &str| {
        format!(
            "import time\nfrom alembic import op\nimport sqlalchemy as sa\n\nrevision = '{id}'\ndown_revision = {before}\n\n\
             def upgrade():\n{body}\n"
        )
    };
    write(
        "migrations/versions/1_orders.py",
        &revision("one", "None", "    op.create_table('bills', sa.Column('id', sa.Integer))"),
    );
    write("migrations/versions/2_users.py", &revision("two", "'one'", body));
    environment.with("PYTHONPATH", &folder.display().to_string()).with("PYTHONDONTWRITEBYTECODE", "1")
}

fn upgrade(environment: &TestEnvironment, source: &str, options: &[&str]) -> Run {
    let command = ["--", "python3", "-m", "alembic", "upgrade", "head"];
    environment.run([&["--json", "guard", source][..], options, &command[..]].concat())
}

const WORKS: &str = "    op.add_column('users', sa.Column('email', sa.Text))";
/// What the driver of SQLite commits before it fails, as it does with every change of the schema.
const FAILS: &str = "    op.execute(\"UPDATE users SET name = 'x'\")\n    op.drop_table('orders')\n    raise Exception('half-way')";
const HANGS: &str = "    op.execute(\"UPDATE users SET name = 'x'\")\n    time.sleep(900)";

#[test]
fn migrations_of_sqlite_are_kept_or_undone_as_a_whole() {
    let Some(folder) = alembic() else { return };
    for (body, options, code, outcome) in [
        (WORKS, &[][..], 0, "succeeded"),
        (FAILS, &[], 1, "restored"),
        (HANGS, &["--timeout", "5"], 124, "restored"),
    ] {
        let environment = project(TestEnvironment::new(), &folder, "sqlite:///app.db", body);
        let path = environment.users("app.db", 10);
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE orders(a)").unwrap();
        let run = upgrade(&environment, "app.db", options);
        run.expect(code);
        let report = run.document();
        assert_eq!(report["outcome"], outcome, "{body}: {report:#}\n{}", run.stderr);
        assert_eq!(report["databases"][0]["alone"], true, "{body}: {report:#}");
        let tables: String = ask(
            &path,
            "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name)",
        );
        let expected = if code == 0 { "alembic_version bills orders users" } else { "orders users" };
        assert_eq!(tables, expected, "{body}: {}", run.stderr);
        assert_eq!(ask::<String>(&path, "SELECT name FROM users WHERE id = 3"), "user 3");
    }
}

#[test]
fn migrations_of_postgresql_by_a_driver_without_a_name_are_kept_or_undone_as_a_whole() {
    let Some(folder) = alembic() else { return };
    for (body, options, code, outcome) in [
        (WORKS, &[][..], 0, "succeeded"),
        (FAILS, &[], 1, "restored"),
        (HANGS, &["--timeout", "5"], 124, "restored"),
    ] {
        let Some(shop) = Shop::open() else { return };
        let Shop { server, environment } = shop;
        // A driver in Python alone, over TCP: its sessions have no name, and are known by their sockets.
        let url = format!("postgresql+pg8000://postgres@127.0.0.1:{}/shop", server.port());
        let source = format!("postgresql://postgres@127.0.0.1:{}/shop", server.port());
        let environment = project(environment, &folder, &url, body).with("DATABASE_URL", &source);
        let before = server.contents("shop");
        let run = upgrade(&environment, "env:DATABASE_URL", options);
        run.expect(code);
        let report = run.document();
        assert_eq!(report["outcome"], outcome, "{body}: {report:#}\n{}", run.stderr);
        match code {
            0 => assert_eq!(server.sql("shop", "SELECT version_num FROM alembic_version"), "two"),
            _ => assert_eq!(server.contents("shop"), before, "{body}"),
        }
    }
}
