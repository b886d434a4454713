//! What is different for a database of a PostgreSQL server: who is connected to it, where it stands, how it comes back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dbkeep_postgres::Error as Postgres;
use dbkeep_postgres::conninfo::ConnInfo;
use dbkeep_postgres::presence::{Presence, Present};
use dbkeep_postgres::restore as postgres;
use dbkeep_postgres::wire::{Connection, Options, Way, was_opened_here};
use dbkeep_repo::Id;
use jiff::Timestamp;

use super::Run;
use super::judge::{Judged, judged, unmet};
use super::lookout::{Left, Lookout};
use super::resume::processes_of;
use super::sockets::{self, End, Owner};
use super::task::{belongs, is_group_alive, session_name};
use crate::catalog::Catalog;
use crate::context::{Context, Watch};
use crate::drill::assertion::Answer;
use crate::report::{BackupReport, Engine, GuardCheck, RestoreReport};
use crate::repository::Store;
use crate::restore::{LastWord, RestoreRequest};
use crate::served::Served;
use crate::source::{self, Place, Server};
use crate::{Result, show};

/// How long a command that is ending, and then its sessions, may take to go by themselves; and all of it, by force. So
/// long also an answer of the server is waited for.
const GRACE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long a port that was seen in a process of the command is taken for its own. The system gives a port of a
/// connection that has ended to the next one after a second at the earliest, if this end has ended it.
const PORT_RESTS: Duration = Duration::from_secs(1);
/// For how long, and how soon, is asked again for sessions that have not said yet what they are called.
const UNNAMED: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(2);

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

/// Makes sure that the objects of each database can be made again from its backup. Where only a newer `pg_restore` reads
/// them, that is stored and verified, and is no way back that a guard could take.
pub(super) fn prove_way_back(
    store: &Store,
    backup: &BackupReport,
    now: Timestamp,
    watch: &Watch,
) -> Result<()> {
    let of_servers = backup.databases.iter().filter(|database| database.engine == Engine::Postgres);
    let snapshots: Vec<Id> = of_servers.filter_map(|database| database.snapshot).collect();
    if snapshots.is_empty() {
        return Ok(());
    }
    let _lock = store.repository().lock_for_reading(&**watch, now)?;
    let catalog = Catalog::load(store)?;
    let reader = store.reader(&catalog)?;
    for snapshot in snapshots {
        let entry = catalog.choose(&snapshot.to_string(), None)?;
        Served::open(&reader, entry, show::manifest(&reader, entry)?)?.objects()?;
    }
    Ok(())
}

pub(super) fn options(watch: &Watch) -> Options {
    let watch = Arc::clone(watch);
    Options { stop: Arc::new(move || watch.cancelled()), ..Options::default() }
}

/// Looks out for sessions that are not the command's.
pub(super) struct ServerLookout {
    info: ConnInfo,
    /// The session of the guard.
    session: String,
    /// What sessions of the command call themselves, where they are told by their variable.
    name: String,
    in_process: bool,
    presence: Option<Presence>,
    /// How long an answer of the server is waited for, and until when that is.
    patience: Duration,
    until: Arc<Mutex<Instant>>,
    /// Sessions whose socket was seen in a process of the command. That may be gone before they are.
    by_socket: HashSet<(i32, String)>,
    /// Where connections of the command came from and when that was seen, which is before the server was asked: a short
    /// one may be over when its answer is read.
    ends: HashMap<End, Instant>,
}

impl ServerLookout {
    pub(super) fn new(server: &Server, session: &str, in_process: bool) -> Self {
        Self {
            info: server.info.clone(),
            session: session.to_owned(),
            name: session_name(session),
            in_process,
            presence: None,
            patience: PATIENCE,
            until: Arc::new(Mutex::new(Instant::now())),
            by_socket: HashSet::new(),
            ends: HashMap::new(),
        }
    }

    /// Asks the server, with a new session where there is none. The task's signals are not meant for it, and a server that
    /// is silent is not waited for.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Presence) -> dbkeep_postgres::Result<T>) -> Result<T> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + self.patience;
        let answer = self.presence().and_then(question);
        if answer.is_err() {
            self.presence = None;
        }
        answer.map_err(|error| match error {
            Postgres::Stopped => {
                Postgres::TimedOut { place: self.info.shown().to_owned(), after: self.patience }.into()
            }
            error => error.into(),
        })
    }

    fn presence(&mut self) -> dbkeep_postgres::Result<&mut Presence> {
        match &mut self.presence {
            Some(presence) => Ok(presence),
            none => {
                let until = Arc::clone(&self.until);
                let is_over = move || Instant::now() > *until.lock().unwrap_or_else(PoisonError::into_inner);
                let options = Options { stop: Arc::new(is_over), ..Options::default() };
                let mut info = self.info.clone();
                let patience = info.connect_timeout.map_or(self.patience, |given| given.min(self.patience));
                info.connect_timeout = Some(patience);
                Ok(none.insert(Presence::open(&info, &options)?))
            }
        }
    }

    fn way(&self) -> Way {
        self.presence.as_ref().map_or(Way::Direct, Presence::way)
    }

    /// Notes where connections of the command to the server come from, and forgets ports that somebody else may have by now.
    fn note_ends(&mut self, group: Option<u32>) {
        let now = Instant::now();
        self.ends.retain(|_, seen| now.duration_since(*seen) < PORT_RESTS);
        let ends = group.zip(self.server_port()).map(|(group, port)| sockets::of_group(group, port));
        self.ends.extend(ends.unwrap_or_default().into_iter().map(|end| (end, now)));
    }

    fn server_port(&self) -> Option<u16> {
        self.presence.as_ref().and_then(Presence::server_port)
    }

    /// Says whether a session that is over came from the command: its end was seen there a moment ago.
    fn came_from_command(&self, session: &Present) -> bool {
        let seen = end_of(session).and_then(|end| self.ends.get(&end));
        seen.is_some_and(|seen| seen.elapsed() < PORT_RESTS)
    }

    /// Finds out which process a session belongs to. Where something stands between, addresses are those of another machine
    /// or another program, and tell nothing of processes here.
    fn owner_of(&self, session: &Present, group: Option<u32>) -> Owner {
        let known = end_of(session).zip(self.server_port()).filter(|_| self.way() == Way::Direct);
        known.map_or(Owner::Unknown, |(end, port)| sockets::owner(end, port, group))
    }

    /// Asks who is there. A session that has only just begun is asked for again: its name comes a moment after itself.
    fn there(&mut self, group: Option<u32>) -> Result<Vec<Present>> {
        let began = Instant::now();
        self.note_ends(group);
        let mut seen = self.ask(Presence::sessions)?;
        let mut is_over = !seen.iter().any(|session| session.is_beginning);
        while !is_over && began.elapsed() < UNNAMED {
            std::thread::sleep(SOON);
            self.note_ends(group);
            let now = self.ask(Presence::sessions)?;
            is_over = merge(&mut seen, now);
        }
        Ok(seen)
    }

    /// Tells the command's sessions from all others.
    fn sessions(&mut self, group: Option<u32>) -> Result<Sessions> {
        let there = self.there(group)?;
        let mut sessions = Sessions::default();
        let mut has_left = None;
        for session in there {
            let owner = self.owner_of(&session, group);
            if owner == Owner::This || is_our_own(&session, self.info.application_name.as_deref()) {
                continue;
            }
            match self.is_of_command(&session, owner, group, &mut has_left) {
                true => sessions.of_command.push(session),
                false => sessions.of_others.push(session),
            }
        }
        Ok(sessions)
    }

    /// Says whether a session is the command's now. A pooler may give it to somebody else, so what it was counts only as
    /// long as nothing speaks against it.
    fn is_of_command(
        &mut self,
        session: &Present,
        owner: Owner,
        group: Option<u32>,
        has_left: &mut Option<bool>,
    ) -> bool {
        let key = (session.process, session.began.clone());
        match owner {
            Owner::Group => {
                self.by_socket.insert(key);
                return true;
            }
            Owner::Other => return false,
            Owner::Unknown if self.came_from_command(session) => return true,
            _ if self.by_socket.contains(&key) => return true,
            _ => {}
        }
        // The name is handed on to whatever the command starts, also to what outlives it.
        let name_counts = group.is_some() && session.application == self.name;
        name_counts && !*has_left.get_or_insert_with(|| has_left_group(&self.session, group))
    }
}

/// The sessions of a database, without those of this process.
#[derive(Default)]
struct Sessions {
    of_command: Vec<Present>,
    of_others: Vec<Present>,
}

/// Puts together who was seen and who is there now. Says whether nothing is to be learned any more of those that had only
/// just begun: whoever is gone stays as he was seen.
fn merge(seen: &mut Vec<Present>, now: Vec<Present>) -> bool {
    let mut is_over = true;
    for session in now {
        is_over &= !session.is_beginning;
        let is_it = |one: &&mut Present| one.process == session.process && one.began == session.began;
        match seen.iter_mut().rfind(is_it) {
            Some(known) if known.is_beginning => *known = session,
            // A pooler that has handed it on makes two of it: whose it was, and whose it is.
            Some(known) if known.application == session.application => {}
            _ => seen.push(session),
        }
    }
    is_over
}

/// Returns where a session comes from, as this machine writes it; `None` where that is no address.
fn end_of(session: &Present) -> Option<End> {
    let address: IpAddr = session.address.as_deref()?.parse().ok()?;
    Some((address.to_canonical(), u16::try_from(session.port?).ok()?))
}

/// Says whether a process of the command has left its group: what such a one does may outlive the command.
fn has_left_group(session: &str, group: Option<u32>) -> bool {
    processes_of(session, std::process::id()).into_iter().any(|pid| !belongs(pid, group))
}

/// Says whether a session is one of this program, or of a `pg_dump` that it has started: those bear its number.
fn is_our_own(session: &Present, name: Option<&str>) -> bool {
    let usual = Options::default().application_name;
    let name = name.unwrap_or(&usual);
    match session.application.rsplit_once(" pg_dump ") {
        Some((_, process)) => process.parse().is_ok_and(was_opened_here),
        None => session.application == name && was_opened_here(session.process),
    }
}

impl Lookout for ServerLookout {
    fn look(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        let mut doubts = self.glance(group)?;
        if self.ask(Presence::prepared)? > 0 {
            doubts.push("a prepared transaction waits in it, which anybody may commit".to_owned());
        }
        if self.way() == Way::Pooled {
            doubts.push(
                "it is reached through a pooler, behind which the command's sessions cannot be told from others"
                    .to_owned(),
            );
        }
        Ok(doubts)
    }

    fn glance(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        Ok(self.sessions(group)?.of_others.iter().map(was_connected).collect())
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn end_rest(&mut self, group: Option<u32>) -> Result<Left> {
        let mut left = Left::default();
        if self.in_process {
            return Ok(left);
        }
        let began = Instant::now();
        loop {
            let Sessions { of_command, of_others } = self.sessions(group)?;
            left.others.extend(of_others.iter().map(was_connected));
            let is_alive = group.is_some_and(is_group_alive);
            if of_command.is_empty() || (is_alive && began.elapsed() > GRACE) {
                return Ok(left);
            }
            if began.elapsed() > PATIENCE {
                left.of_task = of_command.iter().map(could_not_be_ended).collect();
                return Ok(left);
            }
            // A server notices only at the end of a statement that its client is gone. A pooler may have given it to
            // somebody else by now.
            let may_end = !is_alive && began.elapsed() > GRACE && self.way() != Way::Pooled;
            for session in of_command.iter().filter(|_| may_end) {
                if let Err(error) = self.ask(|presence| presence.end(session)) {
                    left.of_task = vec![format!("{}: {}", could_not_be_ended(session), error.full_message())];
                    return Ok(left);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn could_not_be_ended(session: &Present) -> String {
    format!("session {} of the command could not be ended, and may yet commit", session.process)
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
    pub(super) fn restore_server(
        &self,
        place: usize,
        server: &Server,
        last_word: &LastWord<'_>,
    ) -> Result<RestoreReport> {
        let request = self.request_for(place);
        let standing = postgres::look(&server.info, &options(self.watch))?;
        if standing.oid.is_none() {
            // The command has dropped it.
            let to = Some(server.info.database.clone());
            return self.restore_as(&RestoreRequest { in_place: false, to, ..request }, last_word);
        }
        self.restore_as(&request, last_word)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn info(text: &str) -> ConnInfo {
        let surroundings =
            dbkeep_postgres::conninfo::Surroundings { variable: &|_| None, home: None, user: None };
        ConnInfo::resolve(text, &surroundings).unwrap()
    }

    fn lookout(info: ConnInfo) -> ServerLookout {
        ServerLookout {
            info,
            session: "20260102_030405".to_owned(),
            name: session_name("20260102_030405"),
            in_process: false,
            presence: None,
            patience: Duration::from_millis(300),
            until: Arc::new(Mutex::new(Instant::now())),
            by_socket: HashSet::new(),
            ends: HashMap::new(),
        }
    }

    /// A session over the socket file, of which nothing is known but its name.
    fn called(application: &str) -> Present {
        Present {
            process: 4711,
            began: "2026-01-02 03:04:05+00".to_owned(),
            user: "ada".to_owned(),
            application: application.to_owned(),
            kind: "client backend".to_owned(),
            address: None,
            port: Some(-1),
            is_beginning: false,
        }
    }

    #[test]
    fn session_that_has_just_begun_is_known_by_what_it_says_next() {
        let session = |process, application: &str, is_beginning| Present {
            process,
            is_beginning,
            ..called(application)
        };
        let mut seen = vec![
            session(1, "", true),
            session(2, "", true),
            session(3, "app", false),
            session(4, "x", false),
        ];
        let now = vec![session(1, "ours", false), session(3, "other", false), session(5, "", true)];
        assert!(!merge(&mut seen, now), "one is new");
        // The second is gone before it had a name, the fourth with one.
        let expected = [
            session(1, "ours", false),
            session(2, "", true),
            session(3, "app", false),
            session(4, "x", false),
            session(3, "other", false),
            session(5, "", true),
        ];
        assert_eq!(seen, expected);
        assert!(merge(&mut seen, vec![session(5, "ours", false)]));
        assert_eq!(seen[5], session(5, "ours", false));
    }

    /// A server that lets everybody in and then says nothing any more.
    #[test]
    fn silent_server_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgresql://ada@{}/shop?sslmode=disable", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut startup = [0; 4];
            client.read_exact(&mut startup).unwrap();
            let rest = usize::try_from(u32::from_be_bytes(startup)).unwrap() - 4;
            client.read_exact(&mut vec![0; rest]).unwrap();
            client.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
            let _ = client.read_to_end(&mut Vec::new());
        });
        let error = lookout(info(&url)).look(None).unwrap_err();
        assert!(error.full_message().contains("did not answer within"), "{}", error.full_message());
        server.join().unwrap();
    }

    #[test]
    fn session_is_the_commands_only_as_long_as_it_bears_its_name() {
        let mut lookout = lookout(info("postgresql://ada@127.0.0.1:1/shop"));
        let group = Some(u32::MAX);
        let mut is = |session: &Present, owner, group, has_left: bool| {
            lookout.is_of_command(session, owner, group, &mut Some(has_left))
        };
        let ours = called(&session_name("20260102_030405"));
        assert!(is(&ours, Owner::Unknown, group, false));
        // A pooler hands it on.
        assert!(!is(&called("app"), Owner::Unknown, group, false));
        assert!(!is(&ours, Owner::Other, group, false), "the socket of a pooler on this machine");
        assert!(!is(&ours, Owner::Unknown, group, true), "a daemon has the name too");
        assert!(!is(&ours, Owner::Unknown, None, false), "nothing was started");
        // Whose socket was seen in the command stays the command's when that is gone.
        assert!(is(&called("app"), Owner::Group, group, true));
        assert!(is(&called("app"), Owner::Unknown, group, true));
        assert!(!is(&called("app"), Owner::Other, group, false), "it has left and taken it along");
    }

    #[test]
    fn session_that_is_over_is_the_commands_where_its_end_was_seen_there_a_moment_ago() {
        let mut lookout = lookout(info("postgresql://ada@127.0.0.1:1/shop"));
        let session = |port| Present {
            address: Some("::ffff:127.0.0.1".to_owned()),
            port: Some(port),
            ..called("app")
        };
        let (end, now) = (end_of(&session(40_000)).unwrap(), Instant::now());
        assert_eq!(end, ("127.0.0.1".parse().unwrap(), 40_000));
        lookout.ends.insert(end, now);
        lookout.ends.insert((end.0, 40_001), now.checked_sub(PORT_RESTS).unwrap());
        let mut is = |port, owner| lookout.is_of_command(&session(port), owner, Some(7), &mut Some(false));
        assert!(is(40_000, Owner::Unknown));
        assert!(!is(40_000, Owner::Other), "somebody else has it now");
        assert!(!is(40_001, Owner::Unknown), "somebody else may have had it since");
        assert!(!is(40_002, Owner::Unknown));
        assert_eq!(end_of(&session(-1)), None, "a socket of the system");
    }

    #[test]
    fn name_alone_makes_no_session_ours() {
        assert!(!is_our_own(&called("dbkeep"), None), "another restore, or a pooler before it");
        assert!(!is_our_own(&called("dbkeep pg_dump 4711"), None));
    }

    #[test]
    fn process_that_left_the_group_is_found_by_its_variable() {
        use std::os::unix::process::CommandExt;
        let session = format!("test-{}", std::process::id());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(super::super::VARIABLE, super::super::task::mark(&session))
            .process_group(0)
            .spawn()
            .unwrap();
        // What it is called by is there when it has become the program.
        while processes_of(&session, std::process::id()).is_empty() {
            std::thread::yield_now();
        }
        assert!(
            !has_left_group(&session, Some(child.id())) && has_left_group(&session, Some(child.id() + 1))
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!has_left_group(&session, None));
    }
}
