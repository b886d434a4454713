//! Gives back the space of what no snapshot needs.
//!
//! Two phases: packs that nothing needs are marked, and a prune after the time of grace removes them when still
//! nothing needs them. Nothing is changed while anything of the repository cannot be read, or a snapshot that should
//! be there is not: its data would go. The design is in `docs/design/prune.md`.

use std::collections::HashSet;

use dbkeep_repo::Id;
use dbkeep_repo::prune::{Limits, MaxUnused, PruneOptions};
use dbkeep_repo::{RepositoryLock, prune};
use jiff::{SignedDuration, Timestamp};

use crate::catalog::Catalog;
use crate::context::Watch;
use crate::report::PruneReport;
use crate::repository::Store;
use crate::{Error, Result};

/// How to prune.
#[derive(Clone, Debug)]
pub struct PruneRequest {
    /// What may stay unused in packs that are partly used, in tenths of a per cent.
    pub max_unused_per_mille: u16,
    /// How long a pack stays after it was marked.
    pub grace: SignedDuration,
    /// Say what would be done.
    pub dry_run: bool,
    /// Snapshots that are to be taken for gone; for a dry run only.
    pub without: HashSet<Id>,
}

impl Default for PruneRequest {
    fn default() -> Self {
        Self {
            max_unused_per_mille: 50,
            grace: SignedDuration::from_hours(24),
            dry_run: false,
            without: HashSet::new(),
        }
    }
}

/// Prunes. Holds the only lock meanwhile; a dry run is content with one that others may hold too, or with none where
/// none can be written.
pub fn run(store: &Store, request: &PruneRequest, now: Timestamp, watch: &Watch) -> Result<PruneReport> {
    let store = &store.afresh();
    if request.dry_run {
        let lock = store.repository().lock_for_reading(&**watch, now)?;
        let prune = planned(store, &lock, request, now, watch)?;
        return Ok(told(&prune.forecast(), request, now));
    }
    let (lock, before) = match store.repository().lock_exclusive(now) {
        Err(full @ dbkeep_repo::Error::NoSpace { .. }) => {
            let before = make_room(store, request, now, watch, full)?;
            (store.repository().lock_exclusive(now)?, before)
        }
        lock => (lock?, prune::PruneReport::default()),
    };
    watch.step("prune.locked");
    let prune = planned(store, &lock, request, now, watch)?;
    watch.step("prune.planned");
    let mut report = prune.run(&lock)?;
    report.packs_removed += before.packs_removed;
    report.bytes_freed += before.bytes_freed;
    Ok(told(&report, request, now))
}

/// Makes room for the lock on a disk where not even that fits, by removing what was marked long enough ago: where no
/// time of grace is asked for, the usual one. Nothing else may go without the lock.
fn make_room(
    store: &Store,
    request: &PruneRequest,
    now: Timestamp,
    watch: &Watch,
    full: dbkeep_repo::Error,
) -> Result<prune::PruneReport> {
    let lock = store.repository().lock_for_reading(&**watch, now)?;
    let usual = PruneRequest::default().grace;
    let grace = if request.grace > SignedDuration::ZERO { request.grace } else { usual };
    let request = PruneRequest { grace, ..request.clone() };
    let report = planned(store, &lock, &request, now, watch)?.make_room(&lock)?;
    if report.packs_removed == 0 { Err(full.into()) } else { Ok(report) }
}

/// Looks at everything and decides.
fn planned(
    store: &Store,
    lock: &dyn RepositoryLock,
    request: &PruneRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<prune::Prune> {
    let catalog = Catalog::load(store)?;
    if let Some(gap) = catalog.gap() {
        return Err(Error::Refused {
            what: format!("nothing is pruned while the listing has a gap: {gap}"),
            hint: Some(catalog.way_past_gap()),
        });
    }
    let options = PruneOptions {
        limits: Limits {
            max_unused: MaxUnused::per_mille(request.max_unused_per_mille),
            ..Limits::default()
        },
        grace: request.grace,
        without: request.without.clone(),
        damaged: damaged_packs(&catalog),
    };
    let prune = store.repository().plan_prune(lock, &options, now, watch).map_err(refused)?;
    log(&prune);
    Ok(prune)
}

/// Writes to the log what becomes of each pack that does not stay as it is.
fn log(prune: &prune::Prune) {
    let (packs, plan) = prune.plan();
    for (fate, places) in plan.fates() {
        for pack in places.iter().map(|place| &packs[*place]) {
            let prune::Pack { id, size, used, .. } = pack;
            tracing::debug!(job = "prune", event = "planned", fate, pack = %id, size, used, "planned");
        }
    }
}

/// Returns the packs in which damage was found.
pub(crate) fn damaged_packs(catalog: &Catalog) -> HashSet<Id> {
    catalog.damaged_packs.iter().filter_map(|pack| pack.parse().ok()).collect()
}

/// Says that a repository in which something is missing or cannot be read is left as it is.
fn refused(error: dbkeep_repo::Error) -> Error {
    use dbkeep_repo::Error as Repo;
    match error {
        error @ (Repo::Missing { .. }
        | Repo::BlobMissing { .. }
        | Repo::Short { .. }
        | Repo::Damaged { .. }
        | Repo::Listing { .. }) => Error::Refused {
            what: format!("nothing is pruned, as not all that snapshots need can be read: {}", chain(&error)),
            hint: Some(
                "run `dbkeep check` to learn which snapshots are affected; what is lost of the index, stock `restic repair index` makes anew from the packs, and only snapshots whose packs are lost for good are to be forgotten (`dbkeep forget ID --force`)"
                    .to_owned(),
            ),
        },
        error => error.into(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn told(report: &prune::PruneReport, request: &PruneRequest, now: Timestamp) -> PruneReport {
    PruneReport {
        packs_removed: report.packs_removed,
        packs_marked: report.packs_marked,
        bytes_freed: report.bytes_freed,
        bytes_marked: report.bytes_marked,
        packs_waiting: report.packs_waiting,
        bytes_waiting: report.bytes_waiting,
        packs_taken_back: report.packs_taken_back,
        packs_rewritten: report.packs_rewritten,
        bytes_rewritten: report.bytes_rewritten + report.bytes_index,
        packs_unnamed: report.packs_unnamed,
        bytes_unused: report.bytes_unused,
        bytes_used: report.bytes_used,
        free_from: (report.packs_marked > 0).then(|| now.saturating_add(request.grace).ok()).flatten(),
        dry_run: request.dry_run,
    }
}
