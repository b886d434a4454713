//! The last step of a restore: the database that was filled gets its name.
//!
//! Over another database this is one transaction of the server with two renames: the old one steps aside, the new one
//! takes its name. At every instant a database of that name is the complete old one or the complete new one, also
//! after a crash of either side. While the server holds the renames back for a session to go, nobody new gets in. In
//! the same transaction it gets what a database has beside its contents.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::database::{BEFORE, administration, free_name, oid, sessions};
use super::dress::dress;
use super::objects::comment_on_database;
use super::{Loss, Restore};
use crate::attributes::Attributes;
use crate::error::Session;
use crate::snapshot::identifier;
use crate::wire::Connection;
use crate::{Error, Result};

/// So often a rename is tried that a session of ours or a cleaner is in the way of.
const TRIES: usize = 3;
/// So long the server is asked what became of a rename that was cut.
const PATIENCE: Duration = Duration::from_secs(30);

/// So long a session may take to be gone when it has ended.
const LEAVING: Duration = Duration::from_secs(2);

/// Which name the filled database gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// That of no other.
    New,
    /// That of another one, which is kept under another name.
    Over {
        /// Whether sessions that are connected to it are ended. Else they are a reason not to begin.
        disconnect: bool,
    },
}

/// Where a restored database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Its name.
    pub database: String,
    /// The name of the one whose place it took.
    pub before: Option<String>,
    /// What could not be restored.
    pub losses: Vec<Loss>,
}

impl Restore<'_> {
    /// Gives the filled database its name. This makes the restore true; it is on disk on return.
    ///
    /// # Errors
    /// [`Error::DatabaseExists`], [`Error::NoDatabase`] and [`Error::InUse`] when the name cannot be given;
    /// everything is as it was then, and it can be tried again. [`Error::Undecided`] when the server cannot be asked
    /// any more whether it was.
    pub fn promote(&mut self, place: &Place) -> Result<Promoted> {
        self.guard = None;
        let name = self.name.clone();
        let before = match place {
            Place::New => {
                self.rename_as_new(&name)?;
                None
            }
            Place::Over { disconnect } => Some(self.take_place(&name, *disconnect)?),
        };
        self.staging.clone_from(&name);
        Ok(Promoted { database: name, before, losses: self.losses.all.clone() })
    }

    fn rename_as_new(&mut self, name: &str) -> Result<()> {
        if oid(&mut self.admin, name)?.is_some() {
            return Err(Error::DatabaseExists { database: name.to_owned() });
        }
        let statements = [
            comment_on_database(&self.staging, None),
            format!("ALTER DATABASE {} RENAME TO {}", identifier(&self.staging), identifier(name)),
        ];
        let attributes = self.attributes.clone();
        self.swap(&Swap { name, statements, attributes, disconnect: false }).map_err(|error| {
            match error.code() {
                Some("42P04") => Error::DatabaseExists { database: name.to_owned() },
                _ => error,
            }
        })
    }

    fn take_place(&mut self, name: &str, disconnect: bool) -> Result<String> {
        // They are those of the database that is there now.
        let Some(attributes) = Attributes::read(&mut self.admin, name, true)? else {
            return Err(Error::NoDatabase { database: name.to_owned() });
        };
        let staying = if disconnect { Vec::new() } else { self.staying(name)? };
        if !staying.is_empty() {
            return Err(Error::InUse { database: name.to_owned(), sessions: staying });
        }
        let before = free_name(&mut self.admin, name, BEFORE, &self.id)?;
        let statements = [
            format!("ALTER DATABASE {} RENAME TO {}", identifier(name), identifier(&before)),
            format!(
                "COMMENT ON DATABASE {staging} IS NULL; ALTER DATABASE {staging} RENAME TO {}",
                identifier(name),
                staging = identifier(&self.staging)
            ),
        ];
        self.swap(&Swap { name, statements, attributes, disconnect })?;
        Ok(before)
    }

    /// Returns who is connected to a database and stays: one that has just ended, as one of ours that read it, is seen for
    /// a moment.
    fn staying(&mut self, name: &str) -> Result<Vec<Session>> {
        let until = Instant::now() + LEAVING;
        loop {
            let connected = sessions(&mut self.admin, name)?;
            if connected.is_empty() || Instant::now() > until {
                return Ok(connected);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Carries out the renames in one transaction.
    fn swap(&mut self, swap: &Swap<'_>) -> Result<()> {
        let staging = oid(&mut self.admin, &self.staging)?;
        let staging = staging.ok_or_else(|| Error::NoDatabase { database: self.staging.clone() })?;
        let mut lost = Vec::new();
        for number in 1..=TRIES {
            match self.try_swap(swap) {
                Ok(losses) => {
                    lost = losses;
                    break;
                }
                Err(error) => {
                    // A connection that is gone has nothing to roll back.
                    let _ = self.admin.execute("ROLLBACK");
                    if error.code() != Some("55006") {
                        return Err(error);
                    }
                    let in_use = self.in_use(swap.name)?;
                    let stays = !swap.disconnect && !sessions(&mut self.admin, swap.name)?.is_empty();
                    if number == TRIES || stays {
                        return Err(in_use);
                    }
                }
            }
        }
        match self.admin.execute("COMMIT") {
            Ok(()) => {}
            Err(error) => self.settle(swap.name, &staging, error)?,
        }
        self.losses.all.extend(lost);
        Ok(())
    }

    /// Does everything but the commit.
    fn try_swap(&mut self, swap: &Swap<'_>) -> Result<Vec<Loss>> {
        let mut other = match swap.disconnect {
            true => Some(administration(&self.info, &self.options, swap.name)?),
            false => None,
        };
        let done = AtomicBool::new(false);
        let admin = &mut self.admin;
        thread::scope(|scope| {
            if let Some(other) = &mut other {
                let end = || end_sessions(other, swap.name, &done);
                let started = thread::Builder::new().name("end sessions".to_owned()).spawn_scoped(scope, end);
                started.map_err(|source| Error::System { what: "start a thread", source })?;
            }
            let swapped = begin_swap(admin, &swap.statements);
            done.store(true, Ordering::Release);
            swapped
        })?;
        dress(&mut self.admin, swap.name, &swap.attributes)
    }

    /// Returns who is in the way.
    fn in_use(&mut self, name: &str) -> Result<Error> {
        let mut found = sessions(&mut self.admin, name)?;
        let database = if found.is_empty() { self.staging.clone() } else { name.to_owned() };
        if found.is_empty() {
            found = sessions(&mut self.admin, &self.staging)?;
        }
        Ok(Error::InUse { database, sessions: found })
    }

    /// Finds out whether a commit was one whose answer did not come. The server may still be at it: a commit can wait for
    /// a standby long after nobody waits for the commit.
    fn settle(&mut self, name: &str, staging: &str, error: Error) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let why = match self.has_name(name, staging) {
                Ok(Some(true)) => return Ok(()),
                Ok(Some(false)) => return Err(error),
                Ok(None) => None,
                Err(why) => Some(why),
            };
            if Instant::now() >= until || matches!(why, Some(Error::Stopped)) {
                let (staging, name) = (self.staging.clone(), name.to_owned());
                return Err(Error::Undecided { staging, name, source: Box::new(why.unwrap_or(error)) });
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks in a connection of its own whether the database with the number `staging` has a name now; none while a
    /// transaction that renames it is not over.
    fn has_name(&mut self, name: &str, staging: &str) -> Result<Option<bool>> {
        let mut admin = administration(&self.info, &self.options, &self.staging)?;
        // The lock of the rename is given back when everybody can see what became of it, and not before.
        let sql = "SELECT pid FROM pg_catalog.pg_locks
                   WHERE locktype = 'object' AND classid = 'pg_catalog.pg_database'::pg_catalog.regclass
                     AND objid = $1::pg_catalog.oid AND mode = 'AccessExclusiveLock' AND granted";
        if !admin.query(sql, &[Some(staging)])?.is_empty() {
            return Ok(None);
        }
        let found = oid(&mut admin, name)?;
        self.admin = admin;
        Ok(Some(found.as_deref() == Some(staging)))
    }
}

/// What happens in one transaction.
struct Swap<'s> {
    /// The name that the filled database gets.
    name: &'s str,
    statements: [String; 2],
    /// What it gets beside its contents.
    attributes: Attributes,
    /// Whether sessions of the other database are ended.
    disconnect: bool,
}

fn begin_swap(admin: &mut Connection, statements: &[String; 2]) -> Result<()> {
    admin.execute("BEGIN")?;
    admin.execute("SET LOCAL lock_timeout = '10s'")?;
    statements.iter().try_for_each(|statement| admin.execute(statement))
}

/// Ends the sessions of a database until the rename is through. Those that this user may not end stay, and then the
/// rename says so.
fn end_sessions(connection: &mut Connection, database: &str, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        for session in sessions(connection, database).unwrap_or_default() {
            let process = session.process.to_string();
            let sql = "SELECT pg_catalog.pg_terminate_backend($1::pg_catalog.int4)";
            let _ = connection.query(sql, &[Some(&process)]);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
