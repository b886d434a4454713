//! Keeping the connection that holds a moment alive.

use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::snapshot::Holder;
use crate::{Error, Result};

/// How often something is asked. What forgets connections does so after minutes.
const PAUSE: Duration = Duration::from_secs(20);

/// A thread that asks something now and then.
#[derive(Debug)]
pub(super) struct Keeper {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    over: Mutex<bool>,
    turn: Condvar,
    lost: Mutex<Option<Error>>,
}

impl Keeper {
    pub(super) fn begin(holder: &Arc<Mutex<Holder>>) -> Result<Self> {
        Self::every(PAUSE, holder)
    }

    fn every(pause: Duration, holder: &Arc<Mutex<Holder>>) -> Result<Self> {
        let state = Arc::new(State::default());
        let (kept, holder) = (state.clone(), holder.clone());
        let thread = thread::Builder::new()
            .name("keep the moment".to_owned())
            .spawn(move || kept.run(&holder, pause))
            .map_err(|source| Error::System { what: "start a thread", source })?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Returns why the moment was lost, once.
    pub(super) fn lost(&self) -> Option<Error> {
        self.state.lost.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl State {
    fn run(&self, holder: &Mutex<Holder>, pause: Duration) {
        while !self.is_over_after(pause) {
            let mut holder = match holder.try_lock() {
                Ok(holder) => holder,
                // It is in use, and so alive.
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Poisoned(holder)) => holder.into_inner(),
            };
            if let Err(error) = holder.connection().query("SELECT 1", &[]) {
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    }

    fn is_over_after(&self, time: Duration) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.turn.wait_timeout_while(over, time, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.state.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.turn.notify_all();
        // Its last question takes moments.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    #[test]
    fn connection_that_holds_the_moment_is_used_now_and_then_and_its_end_is_noticed() {
        let Some(place) = Place::new("kept alive", "CREATE TABLE t (n int)") else { return };
        let (mut holder, _) = place.hold();
        let process = holder.connection().process();
        let holder = Arc::new(Mutex::new(holder));
        let keeper = Keeper::every(Duration::from_millis(10), &holder).unwrap();
        let used = || place.sql(&format!("SELECT state_change FROM pg_stat_activity WHERE pid = {process}"));
        let before = used();
        while used() == before {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(keeper.lost().is_none());
        place.sql(&format!("SELECT pg_terminate_backend({process})"));
        let lost = loop {
            if let Some(lost) = keeper.lost() {
                break lost;
            }
            thread::sleep(Duration::from_millis(10));
        };
        assert!(matches!(&lost, Error::Server(_) | Error::Lost { .. }), "{lost}");
    }
}
