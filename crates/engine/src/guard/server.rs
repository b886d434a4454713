//! What is different for a database of a PostgreSQL server: who is connected to it, where it stands, how it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbkeep_postgres::conninfo::ConnInfo;
use dbkeep_postgres::presence::{Presence, Present};
use dbkeep_postgres::restore as postgres;
use dbkeep_postgres::wire::{Connection, Options};

use super::Run;
use super::judge::{Judged, judged, unmet};
use super::lookout::Lookout;
use super::sockets;
use super::task::{is_group_alive, session_name};
use crate::context::{Context, Watch};
use crate::drill::assertion::Answer;
use crate::report::{GuardCheck, RestoreReport};
use crate::restore::RestoreRequest;
use crate::source::{self, Place, Server};
use crate::{Error, Result};

/// How long a command that is ending, and then its sessions, may take to go by themselves; and all of it, by force.
const GRACE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns where the databases on servers stand, by their names. One that cannot be asked is left out; the backup says why.
pub(super) fn positions(context: &Context, names: &[String], watch: &Watch) -> BTreeMap<String, String> {
    let position = |name: &String| {
        let found = source::resolve(context, std::slice::from_ref(name), None).ok()?.pop()?.ok()?;
        let Place::Server(server) = found.place else { return None };
        let position = Presence::open(&server.info, &options(watch)).ok()?.position().ok()??;
        Some((name.clone(), position))
    };
    names.iter().filter_map(position).collect()
}

fn options(watch: &Watch) -> Options {
    let watch = Arc::clone(watch);
    Options { stop: Arc::new(move || watch.cancelled()), ..Options::default() }
}

/// Looks out for sessions that are not the command's.
pub(super) struct ServerLookout {
    info: ConnInfo,
    /// What sessions of the command call themselves, where they are told by their variable.
    name: String,
    in_process: bool,
    presence: Option<Presence>,
    /// Sessions that were seen to be the command's. Their processes may be gone before they are.
    of_command: Vec<Present>,
}

impl ServerLookout {
    pub(super) fn new(server: &Server, session: &str, in_process: bool) -> Self {
        Self {
            info: server.info.clone(),
            name: session_name(session),
            in_process,
            presence: None,
            of_command: Vec::new(),
        }
    }

    /// Asks the server, with a new session where there is none. The task's signals are not meant for it.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Presence) -> dbkeep_postgres::Result<T>) -> Result<T> {
        let presence = match &mut self.presence {
            Some(presence) => presence,
            none => none.insert(Presence::open(&self.info, &Options::default())?),
        };
        let answer = question(presence);
        if answer.is_err() {
            self.presence = None;
        }
        Ok(answer?)
    }

    /// Says whether a session is the command's, or our own.
    fn is_known(&mut self, session: &Present, group: Option<u32>) -> bool {
        let same = |known: &Present| known.process == session.process && known.began == session.began;
        if self.of_command.iter().any(same) {
            return true;
        }
        let owner = match (&session.address, session.port) {
            (Some(address), Some(port)) => sockets::belongs_to(address, port, group),
            _ => None,
        };
        let is_command = (session.application == self.name && group.is_some())
            || owner.is_some_and(|pid| pid != std::process::id());
        if is_command {
            self.of_command.push(session.clone());
        }
        is_command || owner.is_some() || is_our_own(session)
    }
}

/// Says whether a session is one of this program that came over a socket of the machine: those have no port to find them by.
fn is_our_own(session: &Present) -> bool {
    session.application == Options::default().application_name && session.port == Some(-1)
}

impl Lookout for ServerLookout {
    fn look(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        let mut doubts = self.glance(group)?;
        if self.ask(Presence::prepared)? > 0 {
            doubts.push("a prepared transaction waits in it, which anybody may commit".to_owned());
        }
        Ok(doubts)
    }

    fn glance(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        let sessions = self.ask(Presence::sessions)?;
        let strangers: Vec<Present> =
            sessions.into_iter().filter(|session| !self.is_known(session, group)).collect();
        Ok(strangers.iter().map(was_connected).collect())
    }

    fn end_rest(&mut self, group: Option<u32>) -> Result<()> {
        if self.in_process {
            return Ok(());
        }
        let began = Instant::now();
        loop {
            let known = std::mem::take(&mut self.of_command);
            let there = self.ask(Presence::sessions)?;
            let left: Vec<Present> = there.into_iter().filter(|session| known.contains(session)).collect();
            self.of_command = known;
            let is_alive = group.is_some_and(is_group_alive);
            let patience = if is_alive { GRACE } else { PATIENCE };
            if left.is_empty() || began.elapsed() > patience {
                return Ok(());
            }
            // A server notices only at the end of a statement that its client is gone.
            for session in left.iter().filter(|_| !is_alive && began.elapsed() > GRACE) {
                self.ask(|presence| presence.end(session))?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn was_connected(session: &Present) -> String {
    let application = match session.application.as_str() {
        "" => session.kind.as_str(),
        application => application,
    };
    let from = session.address.as_deref().map(|address| format!(" from {address}")).unwrap_or_default();
    let user = &session.user;
    crate::name::printable(&format!(
        "session {} of {user:?} ({application}){from} was connected",
        session.process
    ))
}

impl Run<'_> {
    /// Says whether a server stands where it stood before the backup.
    pub(super) fn server_stands(&self, name: &str, server: &Server) -> bool {
        let now =
            Presence::open(&server.info, &options(self.watch)).and_then(|mut presence| presence.position());
        let before = self.positions.get(name);
        before.is_some_and(|before| now.is_ok_and(|now| now.as_ref() == Some(before)))
    }

    pub(super) fn judge_server(&self, server: &Server, checks: &[String]) -> Result<Judged> {
        let mut connection = Connection::open(&server.info, &options(self.watch))?;
        connection.execute("SET default_transaction_read_only = on")?;
        let asked = checks.iter().map(|sql| ask(&mut connection, sql)).collect::<Result<Vec<_>>>()?;
        Ok(Judged { integrity: "not run".to_owned(), failure: unmet(&asked), checks: asked })
    }

    /// Makes the database anew beside what is there, and gives it the name in one step.
    pub(super) fn restore_server(&self, place: usize, server: &Server) -> Result<RestoreReport> {
        let request = self.request_for(place);
        let standing = postgres::look(&server.info, &options(self.watch))?;
        if standing.oid.is_none() {
            // The command has dropped it.
            let to = Some(server.info.database.clone());
            return self.restore_as(&RestoreRequest { in_place: false, to, ..request });
        }
        match self.restore_as(&request) {
            // The command has dropped it and made another one of the name.
            Err(Error::Refused { .. }) if standing.sessions.is_empty() => {
                self.restore_as(&RestoreRequest { force: true, ..request })
            }
            restored => restored,
        }
    }
}

fn ask(connection: &mut Connection, sql: &str) -> Result<GuardCheck> {
    let answer = match connection.query(sql, &[]) {
        Ok(rows) => match rows.as_slice() {
            [] => Answer::Not("no row".to_owned()),
            [row] if row.len() == 1 => Answer::Value(row[0].clone()),
            _ => Answer::Not("several rows or columns".to_owned()),
        },
        Err(error @ dbkeep_postgres::Error::Server(_)) => Answer::Not(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    Ok(judged(sql, answer))
}
