//! Making way: a connection of its own looks about twice a second whether somebody waits for us.
//!
//! Whoever waits a second is let through: all of our statements are ended, also those of `pg_dump`, and with them the
//! moment. Everything that holds a moment is in the way of somebody: a lock of a table in that of who changes it, the
//! moment itself in that of `CREATE INDEX CONCURRENTLY`, which waits until nobody sees the time before it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::catalog::{number, value};
use crate::conninfo::ConnInfo;
use crate::locks::WHO;
use crate::wire::{Backends, Connection, Options, Row};
use crate::{Error, Result};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// How long somebody waits before we make way: a part is often read by then.
const GRACE: Duration = Duration::from_millis(900);
/// How often what goes on is ended while it does not end.
const AGAIN: Duration = Duration::from_millis(200);

/// A thread that watches.
#[derive(Debug)]
pub(crate) struct Watch {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    backends: Arc<Backends>,
    /// What the connections of `pg_dump` call themselves.
    program: String,
    /// Set when it is over, by either side; whoever sets it need not be waited for.
    over: Mutex<bool>,
    turn: Condvar,
    /// Set when everything is to end.
    made_way: Arc<AtomicBool>,
    why: Mutex<Option<Error>>,
}

impl Watch {
    /// Begins to watch over the connections that `backends` knows, and those that call themselves `program`.
    pub(crate) fn begin(
        info: &ConnInfo,
        options: &Options,
        backends: Arc<Backends>,
        program: String,
        made_way: Arc<AtomicBool>,
    ) -> Result<Self> {
        let connection = Connection::open(info, &Options { backends: None, ..options.clone() })?;
        let state = Arc::new(State {
            backends,
            program,
            over: Mutex::new(false),
            turn: Condvar::new(),
            made_way,
            why: Mutex::new(None),
        });
        let watched = state.clone();
        let thread = thread::Builder::new()
            .name("watch locks".to_owned())
            .spawn(move || watched.run(connection))
            .map_err(|source| Error::System { what: "start a thread", source })?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Returns why everything was ended, once.
    pub(crate) fn why(&self) -> Option<Error> {
        self.state.why.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.state.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.turn.notify_all();
        // Its last question takes moments.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl State {
    fn run(&self, mut connection: Connection) {
        let mut since = None;
        while !self.is_over_after(LOOK) {
            let waiter = match self.who_waits(&mut connection) {
                Ok(waiter) => waiter,
                // Who cannot see cannot promise to make way.
                Err(error) => return self.make_way(connection, error),
            };
            let Some(waiter) = waiter else {
                since = None;
                continue;
            };
            if since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                return self.make_way(connection, Error::Yielded { to: waiter });
            }
        }
    }

    fn is_over_after(&self, time: Duration) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.turn.wait_timeout_while(over, time, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Returns who waits for one of ours, if somebody does.
    fn who_waits(&self, connection: &mut Connection) -> Result<Option<String>> {
        let mut ours = self.backends.processes();
        let programs = connection.query(
            "SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = $1 AND usename = current_user",
            &[Some(&self.program)],
        )?;
        for row in programs {
            ours.push(number(&row, 0)?);
        }
        let ours: Vec<String> = ours.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT {WHO} || coalesce(', for ' || n.nspname || '.' || c.relname, '')
             FROM (SELECT pid, pg_catalog.max(relation::pg_catalog.int8) AS relation
                   FROM pg_catalog.pg_locks WHERE NOT granted GROUP BY pid) AS l
             LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
             LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation::pg_catalog.oid
             LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE l.pid <> ALL ($1::pg_catalog.int4[])
               AND pg_catalog.pg_blocking_pids(l.pid) && $1::pg_catalog.int4[] LIMIT 1"
        );
        let rows = connection.query(&sql, &[Some(&format!("{{{}}}", ours.join(",")))])?;
        rows.first().map(|row: &Row| value(row, 0).map(str::to_owned)).transpose()
    }

    /// Ends everything of ours, again and again until it is over: first what is being done, then the connections. A
    /// server that waits for us to take what it sends does not hear of the first.
    fn make_way(&self, mut connection: Connection, why: Error) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.made_way.store(true, Ordering::SeqCst);
        // What cannot be told to end is tried again.
        let _ = self.backends.cancel();
        loop {
            let _ = self.end_programs(&mut connection);
            if self.is_over_after(AGAIN) {
                return;
            }
            for process in self.backends.processes() {
                let terminate = "SELECT pg_catalog.pg_terminate_backend($1::pg_catalog.int4)";
                let _ = connection.query(terminate, &[Some(&process.to_string())]);
            }
        }
    }

    fn end_programs(&self, connection: &mut Connection) -> Result<()> {
        let sql = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                   WHERE application_name = $1 AND usename = current_user";
        connection.query(sql, &[Some(&self.program)]).map(drop)
    }
}
