//! Ending from outside what a connection is doing.
//!
//! The protocol has a connection of its own for that: it says which one is meant, with a number that only its owner
//! knows, and nobody answers. What was being done ends with an error, if it was not over already.

use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Options, login};
use crate::Result;
use crate::conninfo::{ConnInfo, Host};

/// Ends what a connection is doing.
#[derive(Clone)]
pub struct Canceller {
    pub(super) info: Arc<ConnInfo>,
    pub(super) options: Options,
    pub(super) host: Host,
    /// Whether the connection is protected; its secret number is sent in the same way.
    pub(super) tls: bool,
    pub(super) process: i32,
    pub(super) key: i32,
}

impl fmt::Debug for Canceller {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Canceller").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Canceller {
    /// Asks the server to end the statement of the connection. Returns when it has heard of it, which is before the
    /// statement is over.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn cancel(&self) -> Result<()> {
        login::cancel(self)
    }
}

/// All open connections of somebody, by the processes of the server.
#[derive(Debug, Default)]
pub struct Backends(Mutex<Vec<Arc<Backend>>>);

#[derive(Debug)]
struct Backend {
    process: AtomicI32,
    canceller: Canceller,
}

impl Backends {
    /// Returns the numbers of the processes that serve them, as far as they are known.
    pub fn processes(&self) -> Vec<i32> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|backend| backend.process.load(Ordering::SeqCst)).collect()
    }

    /// Ends what all of them are doing.
    ///
    /// # Errors
    /// That of the first that could not be told, when all were tried.
    pub fn cancel(&self) -> Result<()> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let told: Vec<Result<()>> = open.iter().map(|backend| backend.canceller.cancel()).collect();
        told.into_iter().collect()
    }

    pub(super) fn note(self: &Arc<Self>, canceller: Canceller) -> Noted {
        let backend = Arc::new(Backend { process: AtomicI32::new(canceller.process), canceller });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(backend.clone());
        Noted { backends: self.clone(), backend }
    }
}

/// A connection that is noted; no more when it is dropped.
pub(super) struct Noted {
    backends: Arc<Backends>,
    backend: Arc<Backend>,
}

impl Noted {
    pub(super) fn is_served_by(&self, process: i32) {
        self.backend.process.store(process, Ordering::SeqCst);
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut open = self.backends.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|backend| !Arc::ptr_eq(backend, &self.backend));
    }
}
