//! What an export of a session lacks: databases whose snapshots are gone.

use std::collections::BTreeMap;

use dbkeep_repo::format::fact::{Fact, SnapshotRef};

use crate::catalog::{Catalog, Entry};
use crate::report::{MissingDatabase, MissingStatus};
use crate::repository::Store;
use crate::{Result, name};

/// Returns the databases that the session had, as its user was told, and that are not among `present`.
pub(super) fn missing(
    store: &Store,
    catalog: &Catalog,
    session: &str,
    present: &[&Entry],
) -> Result<Vec<MissingDatabase>> {
    let facts = store.repository().facts_through(store.cache())?;
    let told = facts.records().iter().filter_map(|record| match &record.file.fact {
        Fact::Acknowledged { session: of, snapshots } if of == session => Some(snapshots),
        _ => None,
    });
    let mut missing = BTreeMap::new();
    for snapshot in told.flatten() {
        let Some(database) = name::decode(&snapshot.database) else { continue };
        if present.iter().any(|entry| entry.database.as_ref() == Some(&database)) {
            continue;
        }
        let status = if is_lost(catalog, snapshot) { MissingStatus::Lost } else { MissingStatus::Forgotten };
        missing.insert(database.clone(), MissingDatabase { database, status });
    }
    Ok(missing.into_values().collect())
}

/// Says whether a snapshot should be there.
fn is_lost(catalog: &Catalog, snapshot: &SnapshotRef) -> bool {
    catalog.lost.iter().any(|lost| lost.snapshot.id == snapshot.id || lost.snapshot.tree == snapshot.tree)
}
