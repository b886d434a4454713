//! Who is connected to a database, and whether anything was written on its server.
//!
//! Asked through a session in another database, so that whoever asks is in nobody's way, not even of a rename.

use crate::conninfo::ConnInfo;
use crate::restore::administration;
use crate::wire::{Connection, Options, Way};
use crate::{Error, Result};

/// A session that is connected to a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The number of the server's process.
    pub process: i32,
    /// When it began, as the server writes it: together with the number it names one session.
    pub began: String,
    /// Its user.
    pub user: String,
    /// What it calls itself; empty where the server does not say.
    pub application: String,
    /// What kind of session it is, as `client backend`; empty where the server does not say.
    pub kind: String,
    /// Where it comes from; `None` for a socket of the server's own machine, and where the server does not say.
    pub address: Option<String>,
    /// The port that it comes from; -1 for a socket of the server's own machine.
    pub port: Option<i32>,
    /// Whether it has only just begun: it has done nothing so far, and the server does not know yet what it calls itself.
    pub is_beginning: bool,
}

/// A session that looks at one database from outside.
#[derive(Debug)]
pub struct Presence {
    connection: Connection,
    database: String,
    way: Way,
}

impl Presence {
    /// Connects to another database of the server that `info` leads to.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn open(info: &ConnInfo, options: &Options) -> Result<Self> {
        let mut connection = administration(info, options, &info.database)?;
        let way = connection.way()?;
        Ok(Self { connection, database: info.database.clone(), way })
    }

    /// Returns what stands between this program and the server.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// Returns the port at which the server is, as seen from here.
    #[must_use]
    pub fn server_port(&self) -> Option<u16> {
        self.connection.server_port()
    }

    /// Returns the sessions that are connected to the database, but those that clean up, help others or send its log.
    /// A session for replication that sends nothing may write as all others do.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn sessions(&mut self) -> Result<Vec<Present>> {
        let sql = "SELECT pid, coalesce(backend_start::text, ''), coalesce(usename, ''), coalesce(application_name, ''),
                          coalesce(backend_type, ''), pg_catalog.host(client_addr), client_port,
                          -- Of those that one may not see, no statement is told either, but in other words.
                          coalesce(backend_type = 'client backend' AND state IS NULL AND query = ''
                                   AND application_name = '', false)
                   FROM pg_catalog.pg_stat_activity AS a
                   WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid()
                     AND coalesce(backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
                     -- What cleans up has no user, and shows no kind to those who may not see all.
                     AND NOT (backend_type IS NULL AND usesysid IS NULL)
                     AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_replication AS r
                                     WHERE r.pid = a.pid AND r.state IN ('catchup', 'streaming'))
                   ORDER BY pid";
        let rows = self.connection.query(sql, &[Some(&self.database)])?;
        rows.into_iter().map(present).collect()
    }

    /// Returns how many transactions wait in the database to be committed by whoever comes.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn prepared(&mut self) -> Result<u64> {
        let sql = "SELECT count(*) FROM pg_catalog.pg_prepared_xacts WHERE database = $1";
        let rows = self.connection.query(sql, &[Some(&self.database)])?;
        let count = rows.first().and_then(|row| row.first().cloned().flatten());
        count.and_then(|text| text.parse().ok()).ok_or_else(|| Error::protocol("a count is none"))
    }

    /// Returns where the server stands: the same again means that no transaction that wrote has ended on it since. `None`
    /// where one is known to be under way, or there is no such database.
    ///
    /// Numbers of transactions are given when something is written for the first time, to the whole server in one order.
    /// One that has a number and has not ended may be missing here; its session is among [`Presence::sessions`], or it is
    /// counted by [`Presence::prepared`].
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn position(&mut self) -> Result<Option<String>> {
        let sql = "SELECT pg_catalog.txid_current_snapshot()::text, d.oid::text,
                          pg_catalog.pg_postmaster_start_time()::text
                   FROM pg_catalog.pg_database AS d WHERE d.datname = $1";
        let rows = self.connection.query(sql, &[Some(&self.database)])?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let parts: Vec<String> = row.into_iter().flatten().collect();
        let [snapshot, ..] = parts.as_slice() else {
            return Err(Error::protocol("a position without a snapshot"));
        };
        let mut numbers = snapshot.split(':');
        let (oldest, next, running) = (numbers.next(), numbers.next(), numbers.next());
        Ok((oldest == next && running == Some("")).then(|| parts.join(" ")))
    }

    /// Ends a session. Returns whether it was there.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn end(&mut self, session: &Present) -> Result<bool> {
        let sql = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                   WHERE pid = $1::int AND backend_start::text = $2 AND datname = $3";
        let process = session.process.to_string();
        let parameters = [Some(process.as_str()), Some(session.began.as_str()), Some(self.database.as_str())];
        Ok(!self.connection.query(sql, &parameters)?.is_empty())
    }
}

/// Returns how many rows of all tables of a database were put in, changed and deleted since the server counts: another
/// number later means that somebody wrote. `None` where the server counts none, or tells it late (before 15).
///
/// What is rolled back counts as well, and so do materialized views. Definitions do not, nor what cleans up.
///
/// # Errors
/// When the database cannot be reached.
pub fn rows_written(info: &ConnInfo, options: &Options) -> Result<Option<String>> {
    let mut connection = Connection::open(info, options)?;
    let sql = "SELECT coalesce(pg_catalog.sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::pg_catalog.text
               FROM pg_catalog.pg_stat_user_tables
               HAVING pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 150000
                 AND pg_catalog.current_setting('track_counts')::pg_catalog.bool";
    let row = connection.query(sql, &[])?.into_iter().next();
    Ok(row.and_then(|row| row.into_iter().next().flatten()))
}

fn present(row: Vec<Option<String>>) -> Result<Present> {
    let odd = || Error::protocol("a session is described in another way");
    let row: [Option<String>; 8] = row.try_into().map_err(|_| odd())?;
    let [process, began, user, application, kind, address, port, beginning] = row;
    Ok(Present {
        process: process.and_then(|text| text.parse().ok()).ok_or_else(odd)?,
        began: began.unwrap_or_default(),
        user: user.unwrap_or_default(),
        application: application.unwrap_or_default(),
        kind: kind.unwrap_or_default(),
        address,
        port: port.map(|text| text.parse().map_err(|_| odd())).transpose()?,
        is_beginning: beginning.as_deref() == Some("t"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

    use super::*;
    use crate::conninfo::Surroundings;

    fn info(server: &Server, database: &str) -> ConnInfo {
        let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
        ConnInfo::resolve(&server.url(database), &surroundings).unwrap()
    }

    #[test]
    fn own_sessions_are_told_by_their_processes_and_the_way_is_direct() {
        let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
        let server = Server::start(&programs, &Settings::default());
        server.create_database("shop");
        let mut presence = Presence::open(&info(&server, "shop"), &Options::default()).unwrap();
        assert_eq!(presence.way(), Way::Direct);
        assert_eq!(presence.sessions().unwrap(), []);
        let own = Connection::open(&info(&server, "shop"), &Options::default()).unwrap();
        let sessions = presence.sessions().unwrap();
        assert_eq!(sessions.iter().map(|one| one.process).collect::<Vec<_>>(), [own.process()]);
        assert!(!sessions[0].is_beginning);
        assert!(crate::wire::was_opened_here(sessions[0].process));
    }

    #[test]
    fn session_that_has_done_nothing_and_said_no_name_is_beginning() {
        let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
        if programs.major < 17 {
            return println!("skipped: nothing holds a login up before version 17");
        }
        let server = Server::start(&programs, &Settings::default());
        server.create_database("shop");
        server.sql(
            "shop",
            "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); END';
             CREATE EVENT TRIGGER slow ON login EXECUTE FUNCTION slow()",
        );
        let folder = server.socket_folder().display();
        let named = |name: &str| {
            let text = format!(
                "host={folder} port={} user=postgres dbname=shop application_name='{name}'",
                server.port()
            );
            Command::new(programs.program("psql")).args(["-X", &text, "-c", "SELECT 1"]).spawn().unwrap()
        };
        let mut clients = [named(""), named("app")];
        let mut presence = Presence::open(&info(&server, "shop"), &Options::default()).unwrap();
        let mut sessions = presence.sessions().unwrap();
        while sessions.len() < 2 || !sessions.iter().any(|one| one.application == "app") {
            std::thread::sleep(std::time::Duration::from_millis(20));
            sessions = presence.sessions().unwrap();
        }
        for session in sessions {
            assert_eq!(session.is_beginning, session.application.is_empty(), "{session:?}");
        }
        for client in &mut clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
    }

    /// It runs statements and writes, as any other session does.
    #[test]
    fn session_for_replication_that_sends_nothing_is_somebody() {
        let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
        let server = Server::start(&programs, &Settings::default());
        server.create_database("shop");
        let folder = server.socket_folder().display();
        let text =
            format!("host={folder} port={} user=postgres dbname=shop replication=database", server.port());
        let mut child = Command::new(programs.program("psql"))
            .args(["-qAtX", &text])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(b"SELECT 'there';\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n");
        let mut presence = Presence::open(&info(&server, "shop"), &Options::default()).unwrap();
        let kinds: Vec<String> = presence.sessions().unwrap().into_iter().map(|one| one.kind).collect();
        assert_eq!(kinds, ["walsender"]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
