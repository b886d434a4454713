//! What each database really costs.

use std::collections::BTreeMap;

use dbkeep_repo::Id;
use jiff::Timestamp;

use crate::catalog::{Catalog, Entry};
use crate::context::Watch;
use crate::copy::standing;
use crate::report::{DatabaseSize, SizeReport};
use crate::repository::Store;
use crate::{Result, list, prune};

/// Measures the repository: walks through all snapshots, and reads no data.
pub fn run(store: &Store, now: Timestamp, watch: &Watch) -> Result<SizeReport> {
    let lock = store.repository().lock_for_reading(&**watch, now)?;
    let catalog = Catalog::load(store)?;
    let ours: Vec<&Entry> = catalog.entries.iter().filter(|entry| entry.database.is_some()).collect();
    let summaries = list::summaries(store, &catalog, &ours)?;
    let mut databases: BTreeMap<&str, DatabaseSize> = BTreeMap::new();
    let mut trees: BTreeMap<&str, Vec<Id>> = BTreeMap::new();
    for entry in ours {
        let Some(name) = entry.database.as_deref() else { continue };
        trees.entry(name).or_default().push(entry.snapshot.tree);
        let size = databases
            .entry(name)
            .or_insert_with(|| DatabaseSize { name: name.to_owned(), ..DatabaseSize::default() });
        size.snapshots += 1;
        size.bytes_source += summaries.get(&entry.id).map_or(0, |summary| summary.bytes_source);
    }
    let groups: Vec<Vec<Id>> = trees.into_values().collect();
    let damaged = prune::damaged_packs(&catalog);
    let space = store.repository().space(&lock, &groups, &damaged, &**watch)?;
    for (size, unique) in databases.values_mut().zip(&space.bytes_unique) {
        size.bytes_unique = *unique;
    }
    Ok(SizeReport {
        databases: databases.into_values().collect(),
        bytes_stored: space.bytes_stored,
        packs: space.packs,
        bytes_unused: space.bytes_unused,
        bytes_waiting: space.bytes_waiting,
        bytes_shared: space.bytes_shared,
        disk_free: store.repository().backend().free_space()?,
        copies: standing::look(store, &catalog, now, watch),
    })
}
