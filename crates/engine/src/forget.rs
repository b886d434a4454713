//! Drops snapshots: those that are named, or those that a policy does not keep.
//!
//! The last good snapshot of a database stays, and so does one that is held for good, unless that is forced; what
//! another tool made is never touched. By a policy nothing at all is dropped while something of the repository cannot be
//! read: what is missing might be what the decision hangs on. The policy of the configuration is more careful than one
//! that a person gives, because nobody may be looking. The fact is written before the snapshots are removed.

mod by_itself;
mod everywhere;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use dbkeep_repo::format::fact::Fact;
use dbkeep_repo::{Id, RepositoryLock};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::catalog::{Catalog, Entry};
use crate::context::Watch;
use crate::report::{ForgetReport, Forgotten, Kept, Refused};
use crate::repository::Store;
use crate::retention::careful::Clocks;
use crate::retention::{self, Candidate, Decision, Policy, Worth};
use crate::{Error, Result};

pub use everywhere::everywhere;

/// What to drop.
#[derive(Clone, Debug)]
pub struct ForgetRequest {
    /// Which snapshots.
    pub choice: Choice,
    /// Narrows `latest`, and a policy to the snapshots of one database.
    pub database: Option<String>,
    /// Say what would be done.
    pub dry_run: bool,
}

/// Which snapshots to drop.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Those that are named.
    Named {
        /// Id prefixes, `latest`, `latest~N`.
        snapshots: Vec<String>,
        /// Also the last good one, and those held for good.
        force: bool,
    },
    /// Those that a person's policy does not keep, of each database by itself.
    Policy(Policy),
    /// Those that the policy of the configuration does not keep, where nothing speaks against it.
    Configured {
        /// What speaks against it is in order.
        accept: bool,
    },
}

/// What was decided, and why it may be done.
#[derive(Default)]
struct Plan {
    report: ForgetReport,
    /// What is stored before anything is removed.
    facts: Vec<Fact>,
    /// The databases that lose something, each with the reason.
    batches: Vec<(String, String)>,
    /// What the clocks say, to be remembered for the next run.
    clocks: Option<Clocks>,
}

/// Drops snapshots. Their data stays until a prune. Days, weeks and months of a policy are those of the user's zone.
pub fn run(store: &Store, request: &ForgetRequest, now: Timestamp, watch: &Watch) -> Result<ForgetReport> {
    run_among(store, request, None, now, watch)
}

/// Does what [`run`] does. The policy of the configuration leaves databases alone that are not among `ours`.
fn run_among(
    store: &Store,
    request: &ForgetRequest,
    ours: Option<&BTreeSet<String>>,
    now: Timestamp,
    watch: &Watch,
) -> Result<ForgetReport> {
    refuse_empty(&request.choice)?;
    let (known, store) = (store, &store.afresh());
    let lock = store.repository().lock_shared(now)?;
    let catalog = Catalog::load(store)?;
    let zone = &store.context().environment.time_zone;
    let mut plan = match &request.choice {
        Choice::Named { snapshots, force } => {
            let named = named(&catalog, snapshots, request.database.as_deref())?;
            Plan::of(by_name(&catalog, &named, *force), &|_| "forget by id".to_owned())
        }
        Choice::Policy(policy) => {
            refuse_gaps(&catalog)?;
            let database = catalog.known_database(request.database.as_deref())?;
            let report = by_policy(&catalog, database, &|_| policy, now, zone);
            Plan::of(report, &|_| format!("policy: {policy}"))
        }
        Choice::Configured { accept } => {
            refuse_gaps(&catalog)?;
            let database = catalog.known_database(request.database.as_deref())?;
            by_itself::planned(store, &catalog, (database, ours), *accept, request.dry_run, now)?
        }
    };
    if request.dry_run {
        return Ok(ForgetReport { dry_run: true, ..plan.report });
    }
    if !matches!(request.choice, Choice::Named { .. }) {
        plan.facts.extend(second_lives(&catalog, &plan.report));
    }
    for fact in std::mem::take(&mut plan.facts) {
        store.note(fact, now)?;
    }
    if let Some(clocks) = &plan.clocks {
        store.state().save_clocks(clocks)?;
    }
    watch.step("forget.decided");
    let force = matches!(request.choice, Choice::Named { force: true, .. });
    for (database, reason) in std::mem::take(&mut plan.batches) {
        let batch = Batch { store: known, lock: &lock, database, reason, force, now, watch };
        let dropped = batch.drop_from(&plan.report);
        watch.step("forget.snapshots-removed");
        // Others are not held up by one that failed.
        if let Err(error) = dropped {
            plan.report.refuse(&batch.database, &error.full_message());
        }
    }
    Ok(plan.report)
}

impl Plan {
    /// Returns a plan by which each database loses what the report says.
    fn of(report: ForgetReport, reason: &dyn Fn(&str) -> String) -> Self {
        let databases: BTreeSet<&String> =
            report.forgotten.iter().filter_map(|one| one.database.as_ref()).collect();
        let batches = databases.into_iter().map(|name| (name.clone(), reason(name))).collect();
        Self { report, batches, ..Self::default() }
    }
}

/// The snapshots of one database that go together.
struct Batch<'b> {
    store: &'b Store,
    lock: &'b dyn RepositoryLock,
    database: String,
    reason: String,
    force: bool,
    now: Timestamp,
    watch: &'b Watch,
}

impl Batch<'_> {
    /// Drops what the report says of this database: the fact first, then a look at what others did, then the snapshots.
    fn drop_from(&self, report: &ForgetReport) -> Result<()> {
        let of_database = |one: &&Forgotten| one.database.as_ref() == Some(&self.database);
        let ids: Vec<Id> = report.forgotten.iter().filter(of_database).map(|one| one.id).collect();
        self.store.repository().forget(&ids, &self.reason, self.lock, self.now, |fact| {
            self.store.noted(fact);
            self.watch.step("forget.fact-stored");
            self.look_again(&ids)
        })
    }

    /// Makes sure that nothing came in between that speaks against it: another process that drops the others, finds them
    /// damaged, or holds one of these. Both that drop at once see each other, as each stores its fact before it looks.
    fn look_again(&self, ids: &[Id]) -> Result<()> {
        let catalog = Catalog::load(self.store)?;
        let going = |entry: &&Entry| ids.contains(&entry.id);
        let held = catalog.of_database(&self.database).filter(going).any(|entry| entry.history.pinned);
        let had_good = catalog.of_database(&self.database).any(Entry::is_good);
        let keeps_good =
            catalog.of_database(&self.database).any(|entry| entry.is_good() && !catalog.is_dropped(entry));
        if self.force || (!held && (keeps_good || !had_good)) {
            return Ok(());
        }
        let kept: Vec<&Entry> = catalog.of_database(&self.database).filter(going).collect();
        for fact in acknowledged_again(&kept) {
            self.store.note(fact, self.now)?;
        }
        Err(Error::Refused {
            what: format!(
                "something else happened to {:?} at the same time, so nothing of it is forgotten",
                self.database
            ),
            hint: Some("run it again".to_owned()),
        })
    }
}

/// Returns the facts by which snapshots stay that somebody had begun to drop, and that a policy keeps.
fn second_lives(catalog: &Catalog, report: &ForgetReport) -> Vec<Fact> {
    let kept: HashSet<Id> = report.kept.iter().map(|kept| kept.id).collect();
    let stays =
        |entry: &&Entry| entry.database.is_some() && kept.contains(&entry.id) && catalog.is_dropped(entry);
    acknowledged_again(&catalog.entries.iter().filter(stays).collect::<Vec<_>>())
}

/// Returns the facts that snapshots are expected to be there, one for each session.
fn acknowledged_again(entries: &[&Entry]) -> Vec<Fact> {
    let mut sessions: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for entry in entries {
        sessions.entry(entry.session().unwrap_or_default()).or_default().push(entry.reference());
    }
    let fact =
        |(session, snapshots): (&str, _)| Fact::Acknowledged { session: session.to_owned(), snapshots };
    sessions.into_iter().map(fact).collect()
}

/// Refuses what cannot be meant.
fn refuse_empty(choice: &Choice) -> Result<()> {
    match choice {
        Choice::Named { snapshots, .. } if snapshots.is_empty() => {
            Err(Error::usage("no snapshot is named", "give ids as `dbkeep list` shows them"))
        }
        Choice::Policy(policy) if policy.keeps_nothing() => Err(Error::usage(
            "this policy keeps nothing",
            "say what stays, as --keep-last 5 or --keep-daily 30; single snapshots are forgotten by their ids",
        )),
        _ => Ok(()),
    }
}

/// Refuses to decide by a policy where not everything is known.
fn refuse_gaps(catalog: &Catalog) -> Result<()> {
    let Some(gap) = catalog.gap() else { return Ok(()) };
    Err(Error::Refused {
        what: format!("nothing is forgotten by a policy while the listing has a gap: {gap}"),
        hint: Some(catalog.way_past_gap()),
    })
}

/// Returns the snapshots that are named, each once. One that is not there stops everything.
fn named(catalog: &Catalog, snapshots: &[String], database: Option<&str>) -> Result<BTreeSet<Id>> {
    snapshots.iter().map(|wanted| catalog.choose(wanted, database).map(|entry| entry.id)).collect()
}

/// Decides about snapshots that are named.
fn by_name(catalog: &Catalog, named: &BTreeSet<Id>, force: bool) -> ForgetReport {
    let mut report = ForgetReport::default();
    for entry in &catalog.entries {
        if !named.contains(&entry.id) {
            report.kept.push(kept(entry, vec!["not named".to_owned()]));
            continue;
        }
        match objection(catalog, named, entry, force) {
            Some(why) => report.refused.push(refused(entry, why)),
            None => report.forgotten.push(forgotten(entry)),
        }
    }
    report
}

/// Returns what speaks against dropping a snapshot that is named.
fn objection(catalog: &Catalog, named: &BTreeSet<Id>, entry: &Entry, force: bool) -> Option<String> {
    let Some(database) = &entry.database else {
        return Some("another tool made it: that tool forgets it (`restic forget`)".to_owned());
    };
    if force {
        return None;
    }
    if entry.history.pinned {
        return Some(match entry.history.is_held_for_good() {
            true => "it is held for good: --force drops it".to_owned(),
            false => "a guard that has not ended may go back to it: --force drops it".to_owned(),
        });
    }
    let stays = |other: &&Entry| !named.contains(&other.id) && !catalog.is_dropped(other);
    if entry.is_good() && !catalog.of_database(database).filter(stays).any(Entry::is_good) {
        return Some(format!("no good snapshot of {database:?} would remain: --force drops it"));
    }
    if !catalog.of_database(database).any(|other| stays(&other)) {
        return Some(format!("no snapshot of {database:?} would remain: --force drops it"));
    }
    None
}

/// Decides about all snapshots, or about those of one database.
fn by_policy<'p>(
    catalog: &Catalog,
    database: Option<&str>,
    policy: &dyn Fn(&str) -> &'p Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> ForgetReport {
    let mut report = ForgetReport::default();
    let others = |entry: &&Entry| {
        entry.database.is_none() || database.is_some_and(|only| entry.database.as_deref() != Some(only))
    };
    for entry in catalog.entries.iter().filter(others) {
        let why = if entry.database.is_none() { "another tool made it" } else { "another database" };
        report.kept.push(kept(entry, vec![why.to_owned()]));
    }
    for name in catalog.databases().iter().filter(|name| database.is_none_or(|only| only == *name)) {
        let (going, entries) = begun_and_others(catalog, name);
        report.forgotten.extend(going.into_iter().map(forgotten));
        let candidates: Vec<Candidate> = entries.iter().map(|entry| candidate(entry)).collect();
        for (entry, decision) in entries.iter().zip(retention::decide(&candidates, policy(name), now, zone)) {
            match decision {
                Decision::Keep(reasons) => {
                    report.kept.push(kept(entry, reasons.iter().map(ToString::to_string).collect()));
                }
                Decision::Forget => report.forgotten.push(forgotten(entry)),
            }
        }
    }
    report
}

/// Returns the snapshots of a database that somebody has begun to drop, which is finished, and all others.
///
/// Where no good one would be left, or none at all, they are judged like the others.
fn begun_and_others<'c>(catalog: &'c Catalog, name: &str) -> (Vec<&'c Entry>, Vec<&'c Entry>) {
    let all: Vec<&Entry> = catalog.of_database(name).collect();
    let is_going = |entry: &&Entry| catalog.is_dropped(entry) && !entry.history.pinned;
    let (going, others): (Vec<&Entry>, Vec<&Entry>) = all.iter().copied().partition(is_going);
    let has_good = |entries: &[&Entry]| entries.iter().any(|entry| entry.is_good());
    match others.is_empty() || has_good(&going) && !has_good(&others) {
        true => (Vec::new(), all),
        false => (going, others),
    }
}

/// Returns a snapshot as a policy sees it.
fn candidate(entry: &Entry) -> Candidate {
    let worth = if !entry.stands_for_latest() {
        Worth::Aside
    } else if !entry.history.damage.is_empty() {
        Worth::Damaged
    } else if entry.is_good() {
        Worth::Good
    } else {
        Worth::Unproved
    };
    Candidate {
        id: entry.id,
        time: entry.snapshot.time,
        worth,
        pinned: entry.history.pinned,
        tags: entry.user_tags(),
    }
}

fn kept(entry: &Entry, reasons: Vec<String>) -> Kept {
    Kept { id: entry.id, time: entry.snapshot.time, database: entry.database.clone(), reasons }
}

fn forgotten(entry: &Entry) -> Forgotten {
    Forgotten { id: entry.id, time: entry.snapshot.time, database: entry.database.clone() }
}

fn refused(entry: &Entry, why: String) -> Refused {
    Refused { id: entry.id, time: entry.snapshot.time, database: entry.database.clone(), why }
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::{SignedDuration, ToSpan};

    use super::*;
    use crate::catalog::History;
    use dbkeep_repo::format::snapshot::Snapshot;

    pub(super) fn entry(name: &str, tags: &[&str], pinned: bool) -> Entry {
        let id = Id::of(name.as_bytes());
        let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, id);
        snapshot.hostname = "here".to_owned();
        snapshot.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let database = snapshot.tag("database").map(str::to_owned);
        Entry { snapshot, id, database, history: History { pinned, ..History::default() } }
    }

    pub(super) fn catalog(entries: Vec<Entry>) -> Catalog {
        Catalog { entries, ..Catalog::default() }
    }

    fn decided(entries: Vec<Entry>, named: &[&str], force: bool) -> (usize, usize, Vec<String>) {
        let named = named.iter().map(|name| Id::of(name.as_bytes())).collect();
        let report = by_name(&catalog(entries), &named, force);
        (report.kept.len(), report.forgotten.len(), report.refused.into_iter().map(|one| one.why).collect())
    }

    const GOOD: &[&str] = &["database=shop", "integrity=ok"];

    #[test]
    fn last_good_snapshot_stays_unless_forced() {
        let entries = || {
            vec![
                entry("new", &["database=shop", "integrity=corrupt"], false),
                entry("good", GOOD, false),
                entry("older", GOOD, false),
            ]
        };
        assert_eq!(decided(entries(), &["good"], false), (2, 1, vec![]));
        assert_eq!(decided(entries(), &["new"], false), (2, 1, vec![]));
        let why = "no good snapshot of \"shop\" would remain: --force drops it".to_owned();
        assert_eq!(decided(entries(), &["good", "older"], false), (1, 0, vec![why.clone(), why]));
        assert_eq!(decided(entries(), &["good", "older"], true), (1, 2, vec![]));
    }

    #[test]
    fn pinned_snapshot_and_that_of_another_tool_stay() {
        let entries =
            || vec![entry("pinned", GOOD, true), entry("good", GOOD, false), entry("restic", &[], false)];
        assert_eq!(decided(entries(), &["pinned"], false).2, ["it is held for good: --force drops it"]);
        assert_eq!(decided(entries(), &["pinned"], true), (2, 1, vec![]));
        let (_, forgotten, refused) = decided(entries(), &["restic"], true);
        assert_eq!(forgotten, 0);
        assert!(refused[0].starts_with("another tool made it"));
    }

    /// Returns a snapshot of `database`, so many hours after the epoch.
    pub(super) fn taken(database: &str, hour: i64, more: &[&str]) -> Entry {
        let mut tags = vec![format!("database={database}")];
        tags.extend(more.iter().map(|tag| (*tag).to_owned()));
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let mut entry = entry(&format!("{database} {hour}"), &tags, false);
        entry.snapshot.time += SignedDuration::from_hours(hour);
        entry
    }

    fn left(catalog: &Catalog, database: Option<&str>, policy: &Policy) -> Vec<String> {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
        let report = by_policy(catalog, database, &|_| policy, now, &TimeZone::UTC);
        assert_eq!(report.kept.len() + report.forgotten.len(), catalog.entries.len());
        assert!(report.kept.iter().all(|kept| !kept.reasons.is_empty()));
        let mut left: Vec<String> = (report.kept.iter())
            .map(|kept| {
                format!("{} {}", kept.database.as_deref().unwrap_or("-"), kept.time.as_second() / 3600)
            })
            .collect();
        left.sort();
        left
    }

    #[test]
    fn policy_judges_each_database_by_itself_and_leaves_other_tools_alone() {
        let ok = &["integrity=ok"];
        let mut entries: Vec<Entry> = (0..3).rev().map(|hour| taken("shop", hour, ok)).collect();
        entries.extend((10..12).rev().map(|hour| taken("crm", hour, ok)));
        entries.push(entry("restic", &[], false));
        let catalog = catalog(entries);
        let policy = Policy { last: 1, ..Policy::default() };
        assert_eq!(left(&catalog, None, &policy), ["- 0", "crm 11", "shop 2"]);
        assert_eq!(left(&catalog, Some("shop"), &policy), ["- 0", "crm 10", "crm 11", "shop 2"]);
    }

    #[test]
    fn policy_knows_what_a_snapshot_is_worth() {
        let ok = "integrity=ok";
        let mut damaged = taken("shop", 4, &[ok]);
        damaged.history.damage = vec!["pack".to_owned()];
        let mut pinned = taken("shop", 0, &[ok]);
        pinned.history.pinned = true;
        let entries = vec![
            taken("shop", 900, &[ok, "reason=pre-restore"]),
            taken("shop", 8, &[ok, "reason=pre-restore"]),
            taken("shop", 7, &["integrity=corrupt"]),
            taken("shop", 6, &["integrity=not-run"]),
            damaged,
            taken("shop", 2, &[ok]),
            taken("shop", 1, &[ok, "before-upgrade"]),
            pinned,
        ];
        let policy = Policy { last: 1, tags: vec!["before-upgrade".to_owned()], ..Policy::default() };
        // The newest that counts, the last good one, the tagged one, the one held, the safety backup of this week.
        let expected = ["shop 0", "shop 1", "shop 2", "shop 6", "shop 900"];
        assert_eq!(left(&catalog(entries), None, &policy), expected);
    }

    #[test]
    fn policy_needs_to_keep_something_and_to_know_everything() {
        let nothing = Choice::Policy(Policy::default());
        assert!(refuse_empty(&nothing).unwrap_err().to_string().contains("keeps nothing"));
        let something = Policy { within: Some(1.day()), ..Policy::default() };
        assert!(refuse_empty(&Choice::Policy(something)).is_ok());

        assert!(refuse_gaps(&Catalog::default()).is_ok());
        let id = Id::of(b"gone");
        for gap in [
            Catalog { unreadable: vec![id], ..Catalog::default() },
            Catalog { unreadable_facts: vec![id], ..Catalog::default() },
        ] {
            let error = refuse_gaps(&gap).unwrap_err().to_string();
            assert!(error.contains(&id.short()), "{error}");
        }
    }
}
