//! The repository itself: is it what its writers left?

use std::collections::HashMap;
use std::time::Instant;

use dbkeep_repo::check as repo_check;
use dbkeep_repo::format::fact::Fact;
use dbkeep_repo::{Id, check::Finding};
use jiff::Timestamp;

use crate::Result;
use crate::catalog::{Catalog, Entry};
use crate::context::Watch;
use crate::report::{CheckFinding, CheckReport};
use crate::repository::Store;

pub use dbkeep_repo::check::ReadData;

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct CheckRequest {
    /// How much of the data is read; structure and facts always are.
    pub read_data: ReadData,
    /// Snapshots that are gone were removed on purpose: note that first.
    pub accept_removed: bool,
}

/// Checks the repository. Damage is remembered as a fact of the snapshots that it affects.
pub fn run(store: &Store, request: &CheckRequest, now: Timestamp, watch: &Watch) -> Result<CheckReport> {
    let started = Instant::now();
    let store = &store.afresh();
    let _lock = store.repository().lock_for_reading(&**watch, now)?;
    if request.accept_removed {
        accept_removed(store, now)?;
    }
    let options = repo_check::CheckOptions {
        read_data: request.read_data,
        known_fact_heads: known_heads(store, request.accept_removed),
    };
    let found = repo_check::check(store.repository(), &options, &**watch)?;
    let databases = note_damage(store, &found.findings, now, watch);
    Ok(CheckReport {
        ok: found.ok,
        packs: found.packs,
        blobs: found.blobs,
        snapshots: found.snapshots,
        bytes_read: found.bytes_read,
        findings: found.findings.into_iter().map(|finding| describe(finding, &databases)).collect(),
        notes: found.notes,
        duration_ms: crate::backup::milliseconds(started.elapsed()),
    })
}

/// Returns the facts that this host remembers; those that are gone are accepted once that is asked for.
fn known_heads(store: &Store, accept: bool) -> Vec<Id> {
    match accept {
        true => Vec::new(),
        false => store.state().fact_heads(),
    }
}

/// Notes that the snapshots which are gone were removed on purpose.
fn accept_removed(store: &Store, now: Timestamp) -> Result<()> {
    let catalog = Catalog::load(store)?;
    // One whose file is damaged was not removed by anybody.
    let removed: Vec<_> =
        catalog.lost.iter().filter(|lost| lost.why.is_none()).map(|lost| lost.snapshot.clone()).collect();
    if !removed.is_empty() || !store.lost_facts().is_empty() || catalog.without_facts {
        let fact = Fact::Accepted { snapshots: removed, why: "check --accept-removed".to_owned() };
        store.note(fact, now)?;
    }
    store.accept_lost_facts();
    Ok(())
}

/// Remembers damage as a fact, so that no damaged snapshot counts as good. Returns the database of each snapshot.
///
/// The report comes first: where the fact cannot be written, it is a warning.
fn note_damage(store: &Store, findings: &[Finding], now: Timestamp, watch: &Watch) -> HashMap<Id, String> {
    if findings.is_empty() {
        return HashMap::new();
    }
    let catalog = match Catalog::load(store) {
        Ok(catalog) => catalog,
        Err(error) => {
            watch.warn(&format!("the databases of the findings are unknown: {}", error.full_message()));
            return HashMap::new();
        }
    };
    let mut by_snapshot: HashMap<Id, Vec<String>> = HashMap::new();
    for finding in findings {
        for id in &finding.affects {
            by_snapshot.entry(*id).or_default().push(format!("{}: {}", finding.object, finding.what));
        }
    }
    for entry in &catalog.entries {
        let Some(news) = by_snapshot.get(&entry.id).filter(|news| is_news(entry, news)) else { continue };
        let fact = Fact::Damaged { snapshots: vec![entry.reference()], findings: news.clone() };
        if let Err(error) = store.note(fact, now) {
            watch.warn(&format!(
                "the damage of {} could not be noted: {}",
                entry.id.short(),
                error.full_message()
            ));
        }
    }
    catalog.entries.iter().filter_map(|entry| Some((entry.id, entry.database.clone()?))).collect()
}

/// Says whether findings tell more of a snapshot than is known.
fn is_news(entry: &Entry, findings: &[String]) -> bool {
    entry.database.is_some() && findings.iter().any(|finding| !entry.history.damage.contains(finding))
}

fn describe(finding: Finding, databases: &HashMap<Id, String>) -> CheckFinding {
    let mut names: Vec<String> = finding.affects.iter().filter_map(|id| databases.get(id).cloned()).collect();
    names.sort();
    names.dedup();
    CheckFinding {
        kind: finding.kind.to_owned(),
        object: finding.object,
        affects: finding.affects,
        message: finding.what,
        databases: names,
    }
}
