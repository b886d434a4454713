//! A server with data on it, and the programs that read it.

use std::fs;
use std::path::Path;
use std::process::Command;

use dbkeep_testkit::postgres::{Programs, Server, Settings};
use dbkeep_testkit::process::{Cost, measured};

use crate::product::{Ours, Ran, text};
use crate::scratch::{Scratch, settle};
use crate::{Error, Result};

/// The database of most figures.
const DATABASE: &str = "bench";
/// The scale of pgbench: 128 MB each ten.
const SCALE: u64 = 110;
/// Bytes of a row of the dominating table as COPY writes it.
const ROW: u64 = 144;
/// The fastest level of zstd that has a number in both programs; ours compresses rows with it, too.
const ZSTD: &str = "zstd:1";
/// The fastest level that compresses, where pg_dump has no zstd (before version 16): its strongest side in time. All
/// others take longer and write less. What it writes is shown beside what ours does.
const GZIP: &str = "1";

/// A server with data.
pub(super) struct Scene<'s> {
    pub(super) scratch: &'s Scratch,
    pub(super) rounds: usize,
    pub(super) server: Server,
    rows: u64,
    /// What pg_dump compresses with.
    compression: &'static str,
}

impl<'s> Scene<'s> {
    /// Starts the server and fills it.
    pub(super) fn make(scratch: &'s Scratch, size: u64, rounds: usize) -> Result<Self> {
        // Only Debian's programs are where ours looks for them by itself.
        let programs = Programs::newest_with_tls().ok_or("PostgreSQL is not installed")?;
        let configuration =
            ["shared_buffers = '512MB'", "max_wal_size = '4GB'", "max_locks_per_transaction = 512"];
        let settings =
            Settings { configuration: configuration.map(str::to_owned).to_vec(), ..Settings::default() };
        let server = Server::start(&programs, &settings);
        let mut scene = Self { scratch, rounds, server, rows: size / ROW, compression: GZIP };
        if scene.has(ZSTD)? {
            scene.compression = ZSTD;
        }
        eprintln!("filling the server");
        scene.create_database(DATABASE)?;
        let scale = scene.pgbench_scale().to_string();
        scene.stock("pgbench", &["--initialize", "--quiet", "--scale", &scale, DATABASE])?;
        scene.make_events(DATABASE, scene.rows)?;
        settle();
        Ok(scene)
    }

    /// Smaller tables with a smaller dominating one.
    fn pgbench_scale(&self) -> u64 {
        (SCALE * self.rows * ROW / (1 << 30)).max(1)
    }

    /// Tells whether pg_dump can compress so.
    fn has(&self, compression: &str) -> Result<bool> {
        let file = self.scratch.fresh("try.dump")?;
        let mut command = self.command("pg_dump");
        command.args(["-Fd", "-Z", compression, "-d", "postgres", "-f"]).arg(&file);
        let tried = command.output()?;
        if fs::exists(&file)? {
            fs::remove_dir_all(&file)?;
        }
        Ok(tried.status.success())
    }

    /// Rows that do not compress well: identifiers, hashes, words, numbers.
    fn make_events(&self, database: &str, rows: u64) -> Result<()> {
        self.sql(
            database,
            &format!(
            "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL,
                account uuid NOT NULL, kind text NOT NULL, amount numeric(12,2), note text);
             INSERT INTO events (at, account, kind, amount, note) {}", generated(1, rows)),
        )?;
        self.sql(database, "VACUUM ANALYZE")
    }

    /// A table that figures may change.
    pub(super) fn make_changing(&self) -> Result<()> {
        self.drop_database("changing")?;
        self.create_database("changing")?;
        self.make_events("changing", self.rows / 4)
    }

    /// Appends two rows for each hundred and, when wanted, updates one in a hundred.
    pub(super) fn change(&self, updates: bool) -> Result<()> {
        let rows = self.rows / 4;
        if updates {
            self.sql("changing", "UPDATE events SET amount = amount + 1 WHERE hashint8(id + 7) % 100 = 0")?;
        }
        self.sql(
            "changing",
            &format!(
                "INSERT INTO events (at, account, kind, amount, note) {}",
                generated(rows + 1, rows + rows / 50)
            ),
        )?;
        self.sql("changing", "VACUUM ANALYZE")
    }

    /// Ten thousand tables.
    pub(super) fn make_many(&self) -> Result<()> {
        self.create_database("many")?;
        // One transaction of the server holds so many locks only.
        for start in (0..10_000).step_by(500) {
            self.sql("many", &format!(
                "DO $$ BEGIN FOR n IN {start}..{} LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, name text,
                    at timestamptz DEFAULT now()); INSERT INTO t%s SELECT g, md5(g::text) FROM generate_series(1, 20) g',
                    n, n); END LOOP; END $$", start + 499))?;
        }
        Ok(())
    }

    /// One row of 500 MB as COPY writes it.
    pub(super) fn make_long(&self) -> Result<()> {
        self.create_database("long")?;
        self.sql("long", "CREATE TABLE long (id int PRIMARY KEY, body text);
            INSERT INTO long SELECT 1, string_agg(md5(g::text), '') FROM generate_series(1, 500 * 1024 * 1024 / 32) g;
            INSERT INTO long VALUES (2, 'short')")
    }

    /// Large objects, which are read after all tables: a mebibyte for sixteen of the dominating table.
    pub(super) fn make_large_objects(&self) -> Result<()> {
        let count = (self.rows * ROW).div_ceil(16 << 20);
        let bytes = "string_agg(sha512(format('%s %s', n, piece)::bytea), '')";
        let sql = format!(
            "SELECT count(lo_from_bytea(0, body)) FROM (
                 SELECT {bytes} AS body FROM generate_series(1, {count}) n, generate_series(1, {}) piece GROUP BY n
             ) AS objects",
            (1 << 20) / 64
        );
        self.sql(DATABASE, &sql)
    }

    /// Returns the URL of a database.
    pub(super) fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// Backs everything up, or one table.
    pub(super) fn backup(&self, ours: &Ours, table: Option<&str>) -> Result<Ran> {
        let Some(table) = table else { return ours.run(["backup", &self.url(DATABASE)]) };
        let file = self.scratch.fresh("bench.toml")?;
        let url = self.url(DATABASE);
        fs::write(&file, format!("[databases.bench]\npostgres = {url:?}\ntables = [{table:?}]\n"))?;
        ours.run(["--config", text(&file)?, "backup", "bench"])
    }

    /// Backs everything up beside others, without waiting for the disk first.
    pub(super) fn backup_beside(&self, ours: &Ours) -> Result<()> {
        ours.run_beside(["backup", &self.url(DATABASE)]).map(drop)
    }

    /// Backs the table up that changes. Returns the report.
    pub(super) fn backup_changing(&self, ours: &Ours) -> Result<serde_json::Value> {
        Ok(ours.run(["backup", &self.url("changing")])?.report)
    }

    /// Writes the same into one file without compression, as a deduplicating program wants it.
    pub(super) fn dump_changing(&self, file: &Path) -> Result<()> {
        let mut command = self.command("pg_dump");
        command.args(["-Fc", "-Z0", "-d", "changing", "-f"]).arg(file);
        done(&command).map(drop)
    }

    /// Runs pg_dump with two jobs into a folder.
    pub(super) fn pg_dump(&self, folder: &Path, table: Option<&str>) -> Result<Cost> {
        let mut command = self.command("pg_dump");
        command.args(self.dump_arguments(table)).args(["-d", DATABASE, "-f"]);
        done(command.arg(folder))
    }

    /// Says what [`Self::pg_dump`] runs, but for what is dumped into which folder.
    pub(super) fn dump_name(&self, table: Option<&str>) -> String {
        format!("pg_dump {}", self.dump_arguments(table).join(" "))
    }

    fn dump_arguments(&self, table: Option<&str>) -> Vec<String> {
        let common = ["-Fd", "-j2", "-Z", self.compression].map(str::to_owned);
        common.into_iter().chain(table.map(|table| format!("--table={table}"))).collect()
    }

    /// Runs pg_restore with two jobs.
    pub(super) fn pg_restore(&self, folder: &Path, database: &str) -> Result<Cost> {
        let mut command = self.command("pg_restore");
        done(command.args(["-j2", "-d", database]).arg(folder))
    }

    /// Sees one moment for some seconds and does nothing with it.
    pub(super) fn hold_moment(&self, seconds: u64) -> Result<()> {
        let sql =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT pg_sleep({seconds}); COMMIT");
        self.sql(DATABASE, &sql)
    }

    pub(super) fn create_database(&self, name: &str) -> Result<()> {
        self.sql("postgres", &format!("CREATE DATABASE {name}"))
    }

    pub(super) fn drop_database(&self, name: &str) -> Result<()> {
        self.sql("postgres", &format!("DROP DATABASE IF EXISTS {name}"))
    }

    pub(super) fn sql(&self, database: &str, sql: &str) -> Result<()> {
        let output = self.server.psql(database, sql)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::from(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// Prepares a program of the server's version that reaches it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.server.programs().program(program));
        command.env("PGHOST", self.server.socket_folder()).env("PGPORT", self.server.port().to_string());
        command.env("PGUSER", "postgres");
        command
    }

    fn stock(&self, program: &str, arguments: &[&str]) -> Result<()> {
        done(self.command(program).args(arguments)).map(drop)
    }
}

/// Returns the query that makes rows.
fn generated(from: u64, to: u64) -> String {
    format!(
        "SELECT timestamptz '2026-01-01' + n * interval '3.7 s', md5((n % 200000)::text)::uuid,
             (array['view', 'click', 'purchase', 'refund', 'login'])[1 + (hashint8(n) & 2147483647) % 5],
             ((hashint8(n * 7) & 2147483647) % 1000000) / 100.0,
             md5(n::text) || ' ' || left(md5((n * 3)::text), (hashint8(n) & 15) * 2) || ' ' || hashint8(n)
         FROM generate_series({from}::bigint, {to}) AS n"
    )
}

fn done(command: &Command) -> Result<Cost> {
    let outcome = measured(command)?;
    if outcome.code() != Some(0) {
        return Err(outcome.transcript().into());
    }
    outcome.cost.ok_or_else(|| Error::from("a measured run has a cost"))
}
