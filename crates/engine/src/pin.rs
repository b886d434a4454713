//! Holds a snapshot for good, or no longer: neither a policy nor `forget` drops one that is held.

use dbkeep_repo::format::fact::Fact;
use jiff::Timestamp;

use crate::Result;
use crate::catalog::Catalog;
use crate::report::PinReport;
use crate::repository::Store;

/// Which snapshot to hold, or to let go.
#[derive(Clone, Debug)]
pub struct PinRequest {
    /// An id prefix, `latest`, `latest~N`.
    pub snapshot: String,
    /// Narrows `latest`.
    pub database: Option<String>,
    /// Hold it, or let it go.
    pub pinned: bool,
}

/// Holds a snapshot for good, or lets it go. That is a fact, known on every host; what is so already is not stored
/// again.
pub fn run(store: &Store, request: &PinRequest, now: Timestamp) -> Result<PinReport> {
    let store = &store.afresh();
    // A prune that runs at the same time must see the fact, or not begin.
    let _lock = store.repository().lock_shared(now)?;
    let catalog = Catalog::load(store)?;
    let entry = catalog.choose(&request.snapshot, request.database.as_deref())?;
    // What a guard lets go when it has ended is not held for good.
    let is_held = if request.pinned { entry.history.is_held_for_good() } else { entry.history.pinned };
    let changed = is_held != request.pinned;
    if changed {
        let snapshot = entry.reference();
        let fact = match request.pinned {
            true => Fact::Pinned { snapshot, reason: "by hand".to_owned() },
            false => Fact::Unpinned { snapshot },
        };
        store.note(fact, now)?;
    }
    Ok(PinReport {
        snapshot: entry.id,
        time: entry.snapshot.time,
        database: entry.database.clone(),
        pinned: request.pinned,
        changed,
    })
}
