//! Drops snapshots: those that are named, or those that a policy does not keep.
//!
//! The last good snapshot of a database stays, and so does one that is held for good, unless that is forced; what
//! another tool made is never touched. By a policy nothing at all is dropped while something of the repository cannot be
//! read: what is missing might be what the decision hangs on. The policy of the configuration is more careful than one
//! that a person gives, because nobody may be looking. The fact is written before the snapshots are removed.

use std::collections::BTreeSet;
use std::path::Path;

use dbkeep_repo::Id;
use dbkeep_repo::format::fact::Fact;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::catalog::{Catalog, Entry};
use crate::context::Watch;
use crate::report::{ForgetReport, Forgotten, Frozen, Kept, Refused};
use crate::repository::Store;
use crate::retention::careful::{self, Clocks};
use crate::retention::{self, Candidate, Decision, Policies, Policy, Worth};
use crate::{Error, Result};

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
    /// What is removed together, and the reason.
    batches: Vec<(Vec<Id>, String)>,
}

/// Drops snapshots. Their data stays until a prune. Days, weeks and months of a policy are those of the user's zone.
pub fn run(store: &Store, request: &ForgetRequest, now: Timestamp, watch: &Watch) -> Result<ForgetReport> {
    refuse_empty(&request.choice)?;
    let store = &store.afresh();
    let lock = store.repository().lock_shared(now)?;
    let catalog = Catalog::load(store)?;
    let zone = &store.context().environment.time_zone;
    let plan = match &request.choice {
        Choice::Named { snapshots, force } => {
            let named = named(&catalog, snapshots, request.database.as_deref())?;
            Plan::of_one(by_name(&catalog, &named, *force), "forget by id".to_owned())
        }
        Choice::Policy(policy) => {
            refuse_gaps(&catalog)?;
            let database = catalog.known_database(request.database.as_deref())?;
            let report = by_policy(&catalog, database, &|_| policy, now, zone);
            Plan::of_one(report, format!("policy: {policy}"))
        }
        Choice::Configured { accept } => {
            refuse_gaps(&catalog)?;
            let database = catalog.known_database(request.database.as_deref())?;
            let doubt = doubt_of_clock(store, &catalog, *accept, request.dry_run, now)?;
            let policies = policies(store)?;
            let mut plan = configured(&catalog, database, &policies, *accept, now, zone);
            plan.facts.extend(doubt.map(|why| Fact::Cleared { snapshots: Vec::new(), why }));
            plan
        }
    };
    if request.dry_run {
        return Ok(ForgetReport { dry_run: true, ..plan.report });
    }
    for fact in plan.facts {
        store.note(fact, now)?;
    }
    if let Choice::Configured { .. } = request.choice {
        store.state().save_clocks(&Clocks::read(now))?;
    }
    for (ids, reason) in &plan.batches {
        let fact = store.repository().forget(ids, reason, &lock, now)?;
        watch.step("forget.snapshots-removed");
        store.noted(fact);
    }
    Ok(plan.report)
}

impl Plan {
    /// Returns a plan whose snapshots all go for one reason.
    fn of_one(report: ForgetReport, reason: String) -> Self {
        let ids: Vec<Id> = report.forgotten.iter().map(|forgotten| forgotten.id).collect();
        let batches = if ids.is_empty() { Vec::new() } else { vec![(ids, reason)] };
        Self { report, batches, facts: Vec::new() }
    }
}

/// Returns the policies of the configuration for this repository: the primary one, or one of its copies.
fn policies(store: &Store) -> Result<Policies> {
    let context = store.context();
    let is_here = |location: &str| {
        context.environment.resolve(Path::new(location), &context.config_base()) == context.location
    };
    match context.config.copies.iter().find(|copy| is_here(&copy.location)) {
        Some(copy) => Policies::of_copy(&context.config, &copy.name),
        None => Policies::of_primary(&context.config),
    }
}

/// Refuses to decide by a clock that cannot be right. Where that is accepted, returns what was doubted.
fn doubt_of_clock(
    store: &Store,
    catalog: &Catalog,
    accept: bool,
    dry_run: bool,
    now: Timestamp,
) -> Result<Option<String>> {
    let ours = catalog.entries.iter().filter(|entry| entry.database.is_some());
    let newest = ours.map(|entry| entry.snapshot.time).max();
    let (before, present) = (store.state().clocks(), Clocks::read(now));
    let doubt = careful::doubt_of_clock(newest, before.as_ref(), &present);
    if accept || doubt.is_none() {
        return Ok(doubt);
    }
    // After the next start of the machine it could not be told any more.
    if let Some(before) = before.filter(|before| !dry_run && present.jumped_since(before)) {
        store.state().save_clocks(&Clocks { jumped: true, ..before })?;
    }
    Err(Error::Refused {
        what: format!("nothing is forgotten by the age of snapshots: {}", doubt.unwrap_or_default()),
        hint: Some("set the clock; where it is right, `dbkeep forget --accept` says so".to_owned()),
    })
}

/// Decides by the policies of the configuration. A database of which something looks wrong is left as it is, unless
/// that is accepted.
fn configured(
    catalog: &Catalog,
    database: Option<&str>,
    policies: &Policies,
    accept: bool,
    now: Timestamp,
    zone: &TimeZone,
) -> Plan {
    let mut plan = Plan::default();
    let mut report = by_policy(catalog, database, &|name| policies.of_database(name), now, zone);
    let forgotten = std::mem::take(&mut report.forgotten);
    for name in catalog.databases().iter().filter(|name| database.is_none_or(|only| only == *name)) {
        let entries: Vec<&Entry> =
            catalog.entries.iter().filter(|entry| entry.database.as_ref() == Some(name)).collect();
        let gone: Vec<&Forgotten> =
            forgotten.iter().filter(|forgotten| forgotten.database.as_ref() == Some(name)).collect();
        match objection_to_policy(&entries, gone.len()) {
            Some((suspects, why)) if accept => {
                let snapshots = suspects.iter().map(|entry| entry.reference()).collect();
                plan.facts.push(Fact::Cleared { snapshots, why });
            }
            Some((_, why)) => {
                report.refused.extend(gone.iter().map(|one| refused_by(one, &why)));
                report.frozen.push(Frozen { database: name.clone(), why });
                continue;
            }
            None => {}
        }
        if !gone.is_empty() {
            let reason = format!("configured policy: {}", policies.of_database(name));
            plan.batches.push((gone.iter().map(|one| one.id).collect(), reason));
            report.forgotten.extend(gone.into_iter().cloned());
        }
    }
    plan.report = report;
    plan
}

/// Returns what speaks against the configured policy for a database of which so many snapshots would go, and the
/// snapshots that look wrong.
fn objection_to_policy<'e>(entries: &[&'e Entry], gone: usize) -> Option<(Vec<&'e Entry>, String)> {
    let suspects: Vec<&Entry> = entries.iter().copied().filter(|entry| entry.suspicion().is_some()).collect();
    if let [newest, ..] = suspects.as_slice() {
        let why = format!("{} in snapshot {}", newest.suspicion().unwrap_or_default(), newest.id.short());
        return Some((suspects, why));
    }
    let all = entries.len();
    let why = || format!("{gone} of its {all} snapshots would go at once");
    careful::is_too_much(gone, all).then(|| (Vec::new(), why()))
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
        hint: Some(
            "run `dbkeep check`; where snapshots were removed on purpose, `dbkeep check --accept-removed` says so"
                .to_owned(),
        ),
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
        return Some("it is held for good: --force drops it".to_owned());
    }
    let of_database = |other: &&Entry| other.database.as_ref() == Some(database);
    let good_remains =
        catalog.entries.iter().filter(of_database).any(|other| other.is_good() && !named.contains(&other.id));
    if entry.is_good() && !good_remains {
        return Some(format!("no good snapshot of {database:?} would remain: --force drops it"));
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
        let entries: Vec<&Entry> =
            catalog.entries.iter().filter(|entry| entry.database.as_ref() == Some(name)).collect();
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

fn refused_by(one: &Forgotten, why: &str) -> Refused {
    Refused {
        id: one.id,
        time: one.time,
        database: one.database.clone(),
        why: format!("{why}: --accept goes on"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, ToSpan};

    use super::*;
    use crate::catalog::History;
    use dbkeep_repo::format::snapshot::Snapshot;

    fn entry(name: &str, tags: &[&str], pinned: bool) -> Entry {
        let id = Id::of(name.as_bytes());
        let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, id);
        snapshot.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let database = snapshot.tag("database").map(str::to_owned);
        Entry { snapshot, id, database, history: History { pinned, ..History::default() } }
    }

    fn catalog(entries: Vec<Entry>) -> Catalog {
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
    fn taken(database: &str, hour: i64, more: &[&str]) -> Entry {
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

    /// What the configured policy would do with `entries` by keeping the last two of all.
    fn by_itself(entries: Vec<Entry>, accept: bool) -> Plan {
        let config = toml::from_str(
            "[retention]\nlast = 2\nhourly = 0\ndaily = 0\nweekly = 0\nmonthly = 0\nyearly = 0\nwithin = '0d'",
        );
        let policies = Policies::of_primary(&config.unwrap()).unwrap();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
        configured(&catalog(entries), None, &policies, accept, now, &TimeZone::UTC)
    }

    fn counts(plan: &Plan) -> (usize, usize, usize) {
        let batched: usize = plan.batches.iter().map(|(ids, _)| ids.len()).sum();
        assert_eq!(batched, plan.report.forgotten.len());
        (plan.report.forgotten.len(), plan.report.refused.len(), plan.report.frozen.len())
    }

    #[test]
    fn configured_policy_leaves_a_database_alone_whose_source_looked_wrong() {
        let ok = "integrity=ok";
        for (tag, why) in [
            ("shrank=rows", "its rows fell by half or more in snapshot"),
            ("integrity=corrupt", "its source was damaged in snapshot"),
        ] {
            let wrong = || {
                let tags = if tag == "shrank=rows" { vec![ok, tag] } else { vec![tag] };
                let mut entries = vec![taken("shop", 3, &[ok]), taken("shop", 2, &tags)];
                entries.push(taken("shop", 1, &[ok]));
                // Another database goes on.
                entries.extend([taken("crm", 9, &[ok]), taken("crm", 8, &[ok]), taken("crm", 7, &[ok])]);
                entries
            };
            let plan = by_itself(wrong(), false);
            assert_eq!(
                (plan.report.forgotten.len(), plan.report.forgotten[0].database.as_deref()),
                (1, Some("crm"))
            );
            let [frozen] = plan.report.frozen.as_slice() else { panic!("{:?}", plan.report.frozen) };
            assert_eq!(frozen.database, "shop");
            assert!(frozen.why.starts_with(why), "{}", frozen.why);
            assert!(!plan.report.refused.is_empty() && plan.facts.is_empty());

            let accepted = by_itself(wrong(), true);
            assert!(accepted.report.forgotten.len() > 1 && accepted.report.refused.is_empty());
            let [Fact::Cleared { snapshots, .. }] = accepted.facts.as_slice() else { panic!() };
            assert_eq!(snapshots.as_slice(), [taken("shop", 2, &tags_of(tag)).reference()]);

            let mut cleared = wrong();
            cleared[1].history.cleared = true;
            assert!(by_itself(cleared, false).report.frozen.is_empty());
        }
    }

    fn tags_of(tag: &str) -> Vec<&str> {
        if tag == "shrank=rows" { vec!["integrity=ok", tag] } else { vec![tag] }
    }

    #[test]
    fn configured_policy_removes_no_large_part_at_once() {
        let of = |count: i64| (0..count).rev().map(|hour| taken("shop", hour, &["integrity=ok"])).collect();
        assert_eq!(counts(&by_itself(of(2), false)), (0, 0, 0));
        assert_eq!(counts(&by_itself(of(3), false)), (1, 0, 0));
        assert_eq!(counts(&by_itself(of(5), false)), (0, 3, 1));
        let accepted = by_itself(of(5), true);
        assert_eq!(counts(&accepted), (3, 0, 0));
        assert!(
            matches!(accepted.facts.as_slice(), [Fact::Cleared { snapshots, .. }] if snapshots.is_empty())
        );
        assert_eq!(accepted.batches[0].1, "configured policy: last 2");
    }

    #[test]
    fn safety_backup_of_a_damaged_database_freezes_nothing() {
        let mut entries = vec![taken("shop", 900, &["integrity=corrupt", "reason=pre-restore"])];
        entries.extend((0..3).rev().map(|hour| taken("shop", hour, &["integrity=ok"])));
        assert!(by_itself(entries, false).report.frozen.is_empty());
    }
}
