//! How far an operation is, for a program that wants to look now and then, and a way to stop it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dbkeep_repo::Observer;

/// How far an operation is, and a way to stop it. All clones are one.
///
/// It is an [`Observer`] that remembers: the operation reports to it, and any thread asks it. A program that wants to
/// be called instead implements [`Observer`] itself.
///
/// ```
/// use std::sync::Arc;
/// use dbkeep_engine::keeper::{BackupOptions, Progress};
/// # use dbkeep_engine::{ErrorKind, KeyCost, keeper::{Keeper, Settings}};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("app.db");
/// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE users(name)")?;
/// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
/// # let keeper = Keeper::open(settings.key_cost(KeyCost::Cheap))?;
///
/// let progress = Progress::new();
/// let watched = keeper.watched(Arc::new(progress.clone()));
/// watched.backup(&BackupOptions::new().source(&path))?;
/// let phase = progress.present();
/// println!("{}: {} of {} bytes", phase.name, phase.done, phase.total);
///
/// // Usually from another thread: the operation stops at the next point where everything is sound.
/// progress.cancel();
/// let error = watched.backup(&BackupOptions::new().source(&path)).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Interrupted);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: AtomicBool,
    done: AtomicU64,
    phase: Mutex<(String, u64)>,
    warnings: Mutex<Vec<String>>,
}

/// What an operation does at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Phase {
    /// What that is, as `backup app`; empty before it begins. The words are for people, and part of no contract.
    pub name: String,
    /// How many bytes of it are done.
    pub done: u64,
    /// How many it has; 0 where nobody knows.
    pub total: u64,
}

impl Progress {
    /// Makes one that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the operation, and each one after it, to stop where everything is sound. It ends with an error of the kind
    /// [`Interrupted`](crate::ErrorKind::Interrupted).
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Returns what is done at present.
    pub fn present(&self) -> Phase {
        let phase = self.0.phase.lock().unwrap_or_else(PoisonError::into_inner);
        Phase { name: phase.0.clone(), done: self.0.done.load(Ordering::Relaxed), total: phase.1 }
    }

    /// Returns what a person should know that stopped nothing, and forgets it.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.0.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Progress {
    fn cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    fn phase(&self, name: &str, total: u64) {
        let mut phase = self.0.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *phase = (name.to_owned(), total);
        self.0.done.store(0, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn warn(&self, message: &str) {
        self.0.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
    }
}
