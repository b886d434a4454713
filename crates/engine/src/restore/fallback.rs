//! Where a restore reads what the repository cannot give: its copies, in the order of the configuration.
//!
//! A copy is taken when the repository is gone or cannot be opened, when the snapshot that is meant is lost there, and
//! when something that it needs is missing or damaged. It is always the same snapshot: an older one in a copy
//! is no substitute for it. Each time it is said.

use dbkeep_repo::format::snapshot::Snapshot;
use jiff::Timestamp;

use super::plan::{Drawn, LostOne, draw};
use super::{LastWord, PlannedRestore, RestorePlan, RestoreRequest, not_restored, run_from, session_report};
use crate::catalog::Catalog;
use crate::context::{Context, Watch};
use crate::copy::place::{self, Place};
use crate::copy::{first_of, is_same};
use crate::report::{ErrorReport, RestoreOutcome, RestoreReport, RestoreStatus};
use crate::repository::{self, Store};
use crate::state::{RepositoryState, State};
use crate::{Error, ErrorKind, Result};

/// Opens the repository or, where it is gone or too damaged for that, the first of its copies that can be opened.
pub fn open(context: &Context, now: Timestamp, watch: &Watch) -> Result<Store> {
    let error = match repository::open(context, now, watch) {
        Err(error) if is_unusable(error.kind()) || has_no_key(&error) => error,
        opened => return opened,
    };
    for (name, place) in place::configured(context) {
        match place.and_then(|place| place.open_alone(now, watch)) {
            Ok(copy) => {
                watch.warn(&format!(
                    "{}: the copy {name:?} at {} is used instead",
                    error.full_message(),
                    copy.location()
                ));
                return Ok(copy);
            }
            Err(error) => watch.warn(&error.full_message()),
        }
    }
    Err(error)
}

/// Returns the plan of the repository, with what it cannot give planned from copies.
pub(super) fn complete(
    store: &Store,
    request: &RestoreRequest,
    drawn: Drawn,
    now: Timestamp,
) -> Result<RestorePlan> {
    let Drawn { plan, meant, lost } = drawn;
    match plan {
        Err(error)
            if is_unusable(error.kind()) || error.kind() == ErrorKind::NoSnapshot && !lost.is_empty() =>
        {
            instead(store, request, meant.as_ref(), error, now)
        }
        Err(error) => Err(error),
        Ok(plan) => {
            let plan = improved(store, request, plan, &lost, now);
            if store.context().as_copy.is_some() {
                say_what_is_newer(store, request, &plan);
            }
            Ok(plan)
        }
    }
}

/// Warns where a copy stands in for a repository that cannot be looked at, and this host remembers a newer backup than
/// the newest of the copy.
fn say_what_is_newer(copy: &Store, request: &RestoreRequest, plan: &RestorePlan) {
    if request.snapshot.as_deref().is_some_and(|wanted| wanted != "latest") {
        return;
    }
    let (Some(known), Ok(catalog)) = (remembered(copy), Catalog::load(copy)) else { return };
    for one in &plan.restores {
        let Some(last) = known.position(&one.database) else { continue };
        let is_newest = catalog.usable(&one.database).next().is_some_and(|newest| newest.id == one.snapshot);
        if is_newest && !catalog.entries.iter().any(|entry| first_of(&entry.snapshot) == Some(last.snapshot))
        {
            copy.watch().warn(&format!(
                "the last backup of {:?} that this host made, snapshot {}, was never copied to {:?}: what changed after {:.0} is not in it",
                one.database,
                last.snapshot.short(),
                name_of(copy),
                one.moment
            ));
        }
    }
}

/// Returns what this host remembers of the repository that a copy is of.
fn remembered(copy: &Store) -> Option<RepositoryState> {
    let primary = &copy.context().as_copy.as_ref()?.primary;
    let host = State::new(&primary.environment.state_directory);
    Some(host.repository(&host.place(&primary.location)?.id))
}

/// Plans from the first copy that can give what is meant.
fn instead(
    store: &Store,
    request: &RestoreRequest,
    meant: Option<&Snapshot>,
    error: Error,
    now: Timestamp,
) -> Result<RestorePlan> {
    for copy in copies(store, now) {
        let plan = match meant {
            Some(meant) => plan_of_same(&copy, request, None, meant, now),
            None => draw(&copy, request, now).plan,
        };
        match plan {
            Ok(plan) => {
                say(store, &copy, &error.full_message());
                if meant.is_none() {
                    say_what_is_newer(&copy, request, &plan);
                }
                return Ok(plan);
            }
            Err(why) => store.watch().warn(&place::at(name_of(&copy), why).full_message()),
        }
    }
    Err(error)
}

/// Plans the same snapshot from a copy, or of a session one database of it.
fn plan_of_same(
    copy: &Store,
    request: &RestoreRequest,
    session: Option<&str>,
    meant: &Snapshot,
    now: Timestamp,
) -> Result<RestorePlan> {
    let catalog = Catalog::load(copy)?;
    let entry = catalog.entries.iter().find(|entry| is_same(&entry.snapshot, meant));
    let entry = entry.ok_or_else(|| Error::NoSnapshot { wanted: "like that one".to_owned(), hint: None })?;
    let request = match session {
        Some(session) => RestoreRequest {
            session: Some(session.to_owned()),
            database: entry.database.clone(),
            ..request.clone()
        },
        None => RestoreRequest {
            snapshot: Some(entry.id.to_string()),
            database: None,
            at: None,
            session: None,
            ..request.clone()
        },
    };
    let plan = draw(copy, &request, now).plan?;
    let is_same_one = |one: &PlannedRestore| one.meant.as_ref().is_some_and(|other| is_same(other, meant));
    match plan.restores.as_slice() {
        [one] if is_same_one(one) && one.error.is_none() => Ok(plan),
        _ => Err(Error::NoSnapshot { wanted: "like that one".to_owned(), hint: None }),
    }
}

/// Takes from copies what a plan lacks because of what was lost or damaged.
fn improved(
    store: &Store,
    request: &RestoreRequest,
    mut plan: RestorePlan,
    lost: &[LostOne],
    now: Timestamp,
) -> RestorePlan {
    let session = plan.session.clone();
    for one in &mut plan.restores {
        let damage = one
            .error
            .as_ref()
            .filter(|error| ErrorKind::of_word(&error.kind).is_some_and(is_unusable))
            .cloned();
        if let (Some(error), Some(meant)) = (damage, one.meant.clone())
            && let Some((copy, mut found)) =
                first_plan(store, now, |copy| plan_of_same(copy, request, session.as_deref(), &meant, now))
        {
            say(store, &copy, &error.message);
            *one = found.restores.swap_remove(0);
        }
    }
    if !lost.is_empty() {
        take_lost(store, request, &mut plan, lost, now);
    }
    plan
}

/// Takes from copies the snapshots that were meant and that the repository has lost: a newer one, or another database
/// of the session.
fn take_lost(
    store: &Store,
    request: &RestoreRequest,
    plan: &mut RestorePlan,
    lost: &[LostOne],
    now: Timestamp,
) {
    let was_lost = |one: &PlannedRestore| {
        let meant = one.meant.as_ref();
        meant.is_some_and(|meant| lost.iter().any(|lost| is_the_lost(meant, lost)))
    };
    for copy in copies(store, now) {
        let Ok(found) = draw(&copy, request, now).plan else { continue };
        for one in found.restores.into_iter().filter(|one| one.error.is_none() && was_lost(one)) {
            let why = || format!("snapshot {} of {} is lost", one.snapshot.short(), one.database);
            if plan.session.is_none() {
                if plan.restores.iter().all(|planned| planned.moment < one.moment) {
                    say(store, &copy, &why());
                    plan.restores = vec![one];
                }
            } else if plan.restores.iter().all(|planned| planned.database != one.database) {
                say(store, &copy, &why());
                plan.restores.push(one);
            }
        }
    }
}

/// Says whether a snapshot of a copy is one that was lost: known by its tree, or by no more than its id.
fn is_the_lost(copy: &Snapshot, lost: &LostOne) -> bool {
    lost.tree == Some(copy.tree) || copy.original == Some(lost.id)
}

/// A plan that is carried out, each part from where it was planned; what turns out to be damaged comes from a copy.
pub(super) struct Job<'j> {
    pub(super) store: &'j Store,
    pub(super) plan: &'j RestorePlan,
    pub(super) last_word: &'j LastWord<'j>,
    pub(super) now: Timestamp,
    pub(super) watch: &'j Watch,
}

impl Job<'_> {
    pub(super) fn run(&self) -> Result<RestoreOutcome> {
        match (&self.plan.session, self.plan.restores.as_slice()) {
            (Some(session), all) => {
                Ok(RestoreOutcome::Session(session_report(session, self.run_session(all))))
            }
            (None, [one]) => match self.run_from(one.from.as_ref(), self.plan) {
                Err(error) if may_have_copy(&error) => {
                    let restored = self.out_of_a_copy(one, &error.full_message());
                    restored.map_or(Err(error), |report| Ok(RestoreOutcome::One(Box::new(report))))
                }
                done => done,
            },
            (None, _) => Err(Error::usage("nothing is planned to be restored", "name a snapshot")),
        }
    }

    fn run_from(&self, copy: Option<&Store>, plan: &RestorePlan) -> Result<RestoreOutcome> {
        run_from(copy.unwrap_or(self.store), plan, self.last_word, self.now, self.watch)
    }

    /// Restores the databases of a session: those of one repository under one lock.
    fn run_session(&self, all: &[PlannedRestore]) -> Vec<RestoreReport> {
        let mut reports: Vec<Option<RestoreReport>> = vec![None; all.len()];
        let mut sources: Vec<&Option<String>> = all.iter().map(|one| &one.copy).collect();
        sources.dedup();
        for source in sources {
            let places: Vec<usize> = (0..all.len()).filter(|place| all[*place].copy == *source).collect();
            if places.iter().all(|place| reports[*place].is_some()) {
                continue;
            }
            let restores: Vec<PlannedRestore> = places.iter().map(|place| all[*place].clone()).collect();
            let from = restores.first().and_then(|one| one.from.clone());
            let part = RestorePlan { restores, ..self.plan.clone() };
            let done = match self.run_from(from.as_ref(), &part) {
                Ok(RestoreOutcome::Session(report)) => report.restores,
                Ok(RestoreOutcome::One(report)) => vec![*report],
                Err(error) => {
                    part.restores.iter().map(|one| not_restored(one, ErrorReport::from(&error))).collect()
                }
            };
            for (place, report) in places.into_iter().zip(done) {
                reports[place] = Some(report);
            }
        }
        let with_copies = |(report, one): (Option<RestoreReport>, &PlannedRestore)| {
            let report = report?;
            let is_damage = |error: &&ErrorReport| ErrorKind::of_word(&error.kind).is_some_and(is_unusable);
            let damage = report.error.as_ref().filter(is_damage).filter(|_| !self.watch.cancelled());
            Some(match damage.and_then(|error| self.out_of_a_copy(one, &error.message)) {
                Some(restored) => RestoreReport { status: Some(RestoreStatus::Ok), ..restored },
                None => report,
            })
        };
        reports.into_iter().zip(all).filter_map(with_copies).collect()
    }

    /// Restores one snapshot from the first copy that can give it; `None` when none can.
    fn out_of_a_copy(&self, one: &PlannedRestore, why: &str) -> Option<RestoreReport> {
        let (store, plan, now) = (self.store, self.plan, self.now);
        let meant = one.meant.as_ref()?;
        for copy in copies(store, now) {
            if one.copy.as_deref() == Some(name_of(&copy)) {
                continue;
            }
            let planned = plan_of_same(&copy, &plan.request, plan.session.as_deref(), meant, now);
            let done = planned.and_then(|plan| {
                say(store, &copy, why);
                self.run_from(Some(&copy), &RestorePlan { session: None, ..plan })
            });
            match done {
                Ok(RestoreOutcome::One(report)) => return Some(*report),
                Ok(RestoreOutcome::Session(_)) => {}
                Err(Error::Cancelled) => return None,
                Err(error) => self.watch.warn(&place::at(name_of(&copy), error).full_message()),
            }
        }
        None
    }
}

/// Returns the first copy that can plan something, with its plan.
fn first_plan(
    store: &Store,
    now: Timestamp,
    plan: impl Fn(&Store) -> Result<RestorePlan>,
) -> Option<(Store, RestorePlan)> {
    copies(store, now).find_map(|copy| {
        let found = plan(&copy).ok().filter(|found| found.restores.len() == 1)?;
        Some((copy, found))
    })
}

/// Opens the copies behind a repository, one after the other, as they are asked for: for a copy itself those after it.
fn copies<'s>(store: &'s Store, now: Timestamp) -> impl Iterator<Item = Store> + 's {
    let watch = store.watch();
    let is_copy = store.context().as_copy.is_some();
    place::behind(store.context()).into_iter().filter_map(move |place| {
        let open = |place: Place| match is_copy {
            true => place.open_alone(now, watch),
            false => place.open_existing(store, now, watch),
        };
        place.and_then(open).map_err(|error| watch.warn(&error.full_message())).ok()
    })
}

fn say(store: &Store, copy: &Store, why: &str) {
    let name = name_of(copy);
    store.watch().warn(&format!("{why}: it is restored from the copy {name:?} at {}", copy.location()));
}

fn name_of(copy: &Store) -> &str {
    copy.context().copy_name().unwrap_or_default()
}

/// Says whether an error of this kind means that the repository is gone, damaged or cannot be read.
fn is_unusable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Damaged
            | ErrorKind::NoRepository
            | ErrorKind::RepositoryGone
            | ErrorKind::Foreign
            | ErrorKind::Repository
    )
}

/// Says whether a repository has lost all its keys. A wrong password, or one that is not there, is another thing.
fn has_no_key(error: &Error) -> bool {
    matches!(error, Error::Repo(dbkeep_repo::Error::NoKey))
}

/// Says whether what failed may work with a copy. A safety backup may have failed for the same reason.
fn may_have_copy(error: &Error) -> bool {
    match error {
        Error::SafetyBackup { source } => source.kind() == ErrorKind::Damaged,
        error => is_unusable(error.kind()),
    }
}
