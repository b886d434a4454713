//! The snapshots of a repository, newest first.

use std::collections::HashSet;

use dbkeep_repo::Id;
use dbkeep_repo::read::Reader;

use crate::catalog::{Catalog, Entry};
use crate::copy::standing;
use crate::manifest::{IntegrityResult, Manifest};
use crate::report::{ListReport, SnapshotRow};
use crate::repository::Store;
use crate::state::{Summaries, Summary};
use crate::{Result, show};

/// Which snapshots to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Only this database.
    pub database: Option<String>,
    /// Only this session.
    pub session: Option<String>,
    /// Only with this tag.
    pub tag: Option<String>,
    /// Only the newest so many.
    pub last: Option<usize>,
}

/// Lists snapshots.
pub fn run(store: &Store, request: &ListRequest) -> Result<ListReport> {
    let catalog = Catalog::load(store)?;
    let wanted: Vec<&Entry> = catalog
        .entries
        .iter()
        .filter(|entry| fits(entry, request))
        .take(request.last.unwrap_or(usize::MAX))
        .collect();
    let summaries = summaries(store, &catalog, &wanted)?;
    let copies = standing::remembered(store);
    let row = |entry: &Entry| row(entry, summaries.get(&entry.id), &copies);
    let snapshots = wanted.into_iter().map(row).collect();
    Ok(ListReport { snapshots })
}

fn fits(entry: &Entry, request: &ListRequest) -> bool {
    let has = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
    has(&request.database, entry.database.as_deref())
        && has(&request.session, entry.session())
        && request.tag.as_ref().is_none_or(|tag| entry.snapshot.tags.contains(tag))
}

/// Returns what the manifests of snapshots say: from local state, else from the repository.
///
/// A manifest that cannot be read leaves its row without numbers and is a warning.
pub(crate) fn summaries(store: &Store, catalog: &Catalog, wanted: &[&Entry]) -> Result<Summaries> {
    let mut summaries = store.state().summaries();
    let unknown: Vec<&&Entry> = wanted
        .iter()
        .filter(|entry| entry.database.is_some() && !summaries.contains_key(&entry.id))
        .collect();
    if unknown.is_empty() {
        return Ok(summaries);
    }
    let reader = store.reader(catalog)?;
    for entry in unknown {
        match summary(&reader, entry) {
            Ok(summary) => drop(summaries.insert(entry.id, summary)),
            Err(error) => {
                store.watch().warn(&format!("snapshot {}: {}", entry.id.short(), error.full_message()));
            }
        }
    }
    // Snapshots that are gone need no summary any more.
    let present: HashSet<&Id> = catalog.entries.iter().map(|entry| &entry.id).collect();
    summaries.retain(|id, _| present.contains(id));
    if let Err(error) = store.state().save_summaries(&summaries) {
        tracing::debug!(error = %error.full_message(), "summaries are not remembered");
    }
    Ok(summaries)
}

fn summary(reader: &Reader, entry: &Entry) -> Result<Summary> {
    let manifest = show::manifest(reader, entry)?;
    Ok(summarise(&manifest))
}

/// Returns what a list shows of a manifest.
pub(crate) fn summarise(manifest: &Manifest) -> Summary {
    Summary {
        engine: manifest.engine,
        rows: manifest.rows,
        tables: manifest.tables.len() as u64,
        bytes_source: manifest.image.size,
        bytes_added: manifest.bytes_added,
        integrity: manifest.integrity.summary(),
        source: manifest.source.clone(),
    }
}

fn row(entry: &Entry, summary: Option<&Summary>, copies: &[(String, HashSet<Id>)]) -> SnapshotRow {
    SnapshotRow {
        id: entry.id,
        short_id: entry.id.short(),
        time: entry.snapshot.time,
        database: entry.database.clone(),
        engine: entry.engine(),
        session: entry.session().map(str::to_owned),
        reason: entry.reason(),
        tags: entry.user_tags(),
        host: entry.snapshot.hostname.clone(),
        rows: summary.map(|summary| summary.rows),
        tables: summary.map(|summary| summary.tables),
        bytes_source: summary.map(|summary| summary.bytes_source),
        bytes_added: summary.map(|summary| summary.bytes_added),
        integrity: integrity(entry, summary),
        verified: entry.history.verified,
        drilled: entry.history.drilled,
        pinned: entry.history.pinned,
        copies: copies
            .iter()
            .filter(|(_, held)| held.contains(&entry.id))
            .map(|(name, _)| name.clone())
            .collect(),
    }
}

/// Returns what is known of the integrity; damage that was found later comes first.
fn integrity(entry: &Entry, summary: Option<&Summary>) -> Option<String> {
    if !entry.history.damage.is_empty() {
        return Some("damaged".to_owned());
    }
    let tagged = entry.integrity().map(|result| match result {
        IntegrityResult::NotRun => "not run".to_owned(),
        other => other.word().to_owned(),
    });
    summary.map(|summary| summary.integrity.clone()).or(tagged)
}
