//! Everything on one screen: each database, its last backup and proof, space, and what is wrong.

use std::collections::BTreeMap;

use dbkeep_repo::backend::FileKind;
use jiff::{Span, Timestamp};

use crate::catalog::{Catalog, Entry};
use crate::copy::standing;
use crate::manifest::IntegrityResult;
use crate::report::{DatabaseStatus, Engine, StatusReport};
use crate::repository::Store;
use crate::state::Summaries;
use crate::{Result, list, name};

/// Looks at the repository and the configuration; reads no data and writes nothing but local state.
pub fn run(store: &Store, now: Timestamp) -> Result<StatusReport> {
    // It judges the repository: what this host has kept says nothing about that.
    let store = &store.afresh();
    let catalog = Catalog::load(store)?;
    let newest: Vec<&Entry> = catalog.databases().iter().filter_map(|name| catalog.parent(name)).collect();
    let summaries = list::summaries(store, &catalog, &newest)?;
    let mut databases: BTreeMap<String, DatabaseStatus> = by_database(&catalog)
        .into_iter()
        .map(|(name, entries)| (name.to_owned(), from_snapshots(&entries, &summaries, name)))
        .collect();
    for (name, configured) in &store.context().config.databases {
        let status = databases.entry(name.clone()).or_insert_with(|| never_backed_up(name));
        let source = configured.sqlite.as_ref().or(configured.postgres.as_ref());
        status.source = source.map(|source| name::printable(&crate::source::server::redact(source)));
        status.engine = Some(if configured.sqlite.is_some() { Engine::Sqlite } else { Engine::Postgres });
    }
    let limit = age_limit(store, now);
    for status in databases.values_mut() {
        status.problems.extend(problems(status, limit));
    }
    let copies = standing::look(store, &catalog, now, store.watch());
    Ok(StatusReport {
        repository: store.location(),
        id: store.repository().id().to_owned(),
        databases: databases.into_values().collect(),
        snapshots: catalog.entries.len() as u64,
        bytes_stored: store.repository().list(FileKind::Pack)?.iter().map(|pack| pack.size).sum(),
        disk_free: store.repository().backend().free_space()?,
        copies,
        problems: general_problems(store, &catalog),
        recovery_sheet_shown: store.sheet_shown(),
    })
}

/// Returns the snapshots of each database, newest first.
fn by_database(catalog: &Catalog) -> BTreeMap<&str, Vec<&Entry>> {
    let mut found: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in &catalog.entries {
        if let Some(database) = &entry.database {
            found.entry(database).or_default().push(entry);
        }
    }
    found
}

fn from_snapshots(entries: &[&Entry], summaries: &Summaries, name: &str) -> DatabaseStatus {
    let newest = entries.iter().find(|entry| entry.reason().as_deref() != Some(crate::catalog::PRE_RESTORE));
    let summary = newest.and_then(|entry| summaries.get(&entry.id));
    let mut status = DatabaseStatus {
        engine: newest.and_then(|entry| entry.engine()),
        source: summary.map(|summary| summary.source.clone()),
        snapshots: entries.len() as u64,
        last_backup: newest.map(|entry| entry.snapshot.time),
        last_snapshot: newest.map(|entry| entry.id),
        last_good: entries.iter().find(|entry| entry.is_good()).map(|entry| entry.snapshot.time),
        last_verified: entries.iter().filter_map(|entry| entry.history.verified).max(),
        bytes_source: summary.map(|summary| summary.bytes_source),
        rows: summary.map(|summary| summary.rows),
        ..never_backed_up(name)
    };
    if newest.is_some_and(|entry| entry.integrity() == Some(IntegrityResult::Corrupt)) {
        status.problems.push("the database was damaged when it was last backed up".to_owned());
    }
    if let Some(why) = entries.iter().find_map(|entry| entry.suspicion()) {
        status
            .problems
            .push(format!("nothing of it is forgotten by itself, because {why}: look at it, then `dbkeep forget --accept --database {}`", name::printable(name)));
    }
    let damaged = entries.iter().filter(|entry| !entry.history.damage.is_empty()).count();
    if damaged > 0 {
        status.problems.push(format!("{damaged} of its snapshots are damaged in the repository"));
    }
    status
}

fn never_backed_up(name: &str) -> DatabaseStatus {
    DatabaseStatus {
        name: name.to_owned(),
        engine: None,
        source: None,
        snapshots: 0,
        last_backup: None,
        last_snapshot: None,
        last_good: None,
        last_verified: None,
        next_run: None,
        bytes_source: None,
        rows: None,
        problems: Vec::new(),
    }
}

/// Returns before what moment a last backup is too old; `None` where the configuration sets no limit.
fn age_limit(store: &Store, now: Timestamp) -> Option<Timestamp> {
    let span: Span = store.context().config.health.as_ref()?.max_age.as_deref()?.parse().ok()?;
    now.to_zoned(store.context().environment.time_zone.clone())
        .checked_sub(span)
        .ok()
        .map(|then| then.timestamp())
}

fn problems(status: &DatabaseStatus, limit: Option<Timestamp>) -> Vec<String> {
    match (status.last_backup, status.last_good) {
        (None, _) => vec!["it was never backed up".to_owned()],
        (Some(_), None) => vec!["it has no good snapshot".to_owned()],
        (Some(last), Some(_)) if limit.is_some_and(|limit| last < limit) => {
            vec!["its last backup is older than health.max-age".to_owned()]
        }
        _ => Vec::new(),
    }
}

fn general_problems(store: &Store, catalog: &Catalog) -> Vec<String> {
    let mut problems = Vec::new();
    match catalog.lost.len() {
        0 => {}
        1 => problems
            .push("a snapshot that was acknowledged is gone or damaged: run `dbkeep check`".to_owned()),
        count => problems.push(format!(
            "{count} snapshots that were acknowledged are gone or damaged: run `dbkeep check`"
        )),
    }
    if catalog.lost.is_empty()
        && let Some(gap) = catalog.gap()
    {
        problems.push(format!("nothing is forgotten by itself, because {gap}: run `dbkeep check`"));
    }
    if store.state().clocks().is_some_and(|clocks| clocks.jumped) {
        problems.push(
            "nothing is forgotten by itself, because the clock jumped: `dbkeep forget --accept` says that it is right"
                .to_owned(),
        );
    }
    problems
}
