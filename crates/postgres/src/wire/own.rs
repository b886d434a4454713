//! Which sessions of a server this program has opened, also when they are closed: a server takes a moment to notice.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Connection;

/// How many are remembered: more than are open at once and were closed a moment ago.
const MOST: usize = 4096;

static OPENED: Mutex<VecDeque<i32>> = Mutex::new(VecDeque::new());

pub(super) fn remember(process: i32) {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if opened.len() == MOST {
        opened.pop_front();
    }
    opened.push_back(process);
}

/// The logins of this program that are under way, and the number of the next one: a server knows the session before we are
/// told its number.
static LOGINS: Mutex<(BTreeSet<u64>, u64)> = Mutex::new((BTreeSet::new(), 0));

/// How long they are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A login that is under way, until this is dropped.
pub(super) struct Login(u64);

impl Login {
    pub(super) fn begin() -> Self {
        let mut logins = LOGINS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = logins.1;
        logins.1 += 1;
        logins.0.insert(number);
        Self(number)
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        LOGINS.lock().unwrap_or_else(PoisonError::into_inner).0.remove(&self.0);
    }
}

/// Says whether a process of a server was told to this program as the one that serves it. Another server may have given
/// the number to somebody else. Where logins are under way, the end of these is waited for.
#[must_use]
pub fn was_opened_here(process: i32) -> bool {
    let until = Instant::now() + PATIENCE;
    let under_way = LOGINS.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
    loop {
        let may_be_told = Instant::now() < until
            && !LOGINS.lock().unwrap_or_else(PoisonError::into_inner).0.is_disjoint(&under_way);
        if OPENED.lock().unwrap_or_else(PoisonError::into_inner).contains(&process) {
            return true;
        }
        if !may_be_told {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What stands between this program and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing that shows.
    Direct,
    /// Something that gives a connection another address or port, as a tunnel does: addresses tell nothing of clients.
    Relayed,
    /// A pooler, which hands a session of the server from one client to the next.
    Pooled,
}

impl Connection {
    /// Finds out what stands between: the server knows which process serves us, and at which port we are.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn way(&mut self) -> crate::Result<Way> {
        let sql = "SELECT pg_catalog.pg_backend_pid()::text, pg_catalog.inet_client_port()::text";
        let row = self.query(sql, &[])?.into_iter().next().unwrap_or_default();
        let number = |at: usize| row.get(at).cloned().flatten();
        let process = number(0).and_then(|text| text.parse().ok());
        let port = number(1).and_then(|text| text.parse().ok());
        Ok(between((self.process(), self.stream.port()), (process, port)))
    }

    /// Returns the port at which the server is.
    pub(crate) fn server_port(&self) -> Option<u16> {
        self.stream.server_port()
    }
}

/// Compares what we know of a connection with what the server knows: its process, and our port, where there is one.
fn between(ours: (i32, Option<u16>), theirs: (Option<i32>, Option<u16>)) -> Way {
    if theirs.0 != Some(ours.0) {
        return Way::Pooled;
    }
    if theirs.1 == ours.1 { Way::Direct } else { Way::Relayed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooler_tells_another_process_and_a_tunnel_another_port() {
        assert_eq!(between((7, Some(40_000)), (Some(7), Some(40_000))), Way::Direct);
        assert_eq!(between((7, None), (Some(7), None)), Way::Direct, "a socket of the system");
        assert_eq!(between((7, Some(40_000)), (Some(7), Some(50_000))), Way::Relayed);
        assert_eq!(between((7, None), (Some(7), Some(50_000))), Way::Relayed);
        assert_eq!(between((7, Some(40_000)), (Some(8), Some(40_000))), Way::Pooled);
        assert_eq!(between((7, None), (None, None)), Way::Pooled);
    }

    #[test]
    fn last_ones_are_remembered() {
        assert!(!was_opened_here(-7));
        let login = Login::begin();
        let asked = thread::spawn(|| was_opened_here(-7));
        thread::sleep(Duration::from_millis(5));
        remember(-7);
        drop(login);
        assert!(asked.join().unwrap(), "a login was under way");
        assert!(was_opened_here(-7));
        for other in 0..i32::try_from(MOST).unwrap() {
            remember(-100 - other);
        }
        assert!(!was_opened_here(-7));
    }
}
