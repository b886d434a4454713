//! The policy of the configuration, which runs where nobody may be looking: it stops where a person would.
//!
//! What makes it stop is in [`careful`]. It goes on when somebody who has looked says so; that is a fact.

use std::collections::BTreeSet;

use dbkeep_repo::format::fact::Fact;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Plan, by_policy};
use crate::catalog::{Catalog, Entry};
use crate::context::Context;
use crate::copy::place;
use crate::report::{ForgetReport, Forgotten, Frozen, Kept};
use crate::repository::Store;
use crate::retention::Policies;
use crate::retention::careful::{self, Clocks, Doubt};
use crate::{Error, Result, name};

/// Decides by the policies of the configuration: about `database` or all, and never about one that is not among `ours`.
///
/// Whoever accepts that the clock is right has not been told of anything else, so nothing else counts as accepted then.
pub(super) fn planned(
    store: &Store,
    catalog: &Catalog,
    (database, ours): (Option<&str>, Option<&BTreeSet<String>>),
    accept: bool,
    dry_run: bool,
    now: Timestamp,
) -> Result<Plan> {
    let policies = policies(store.context())?;
    let (before, present) = (store.state().clocks(), Clocks::read(now));
    let newest = newest(catalog);
    let doubt = careful::doubt_of_clock(newest.map(|entry| entry.snapshot.time), before.as_ref(), &present);
    let told = doubt.map(|doubt| told(doubt, newest, before.as_ref(), now));
    if let Some(what) = told.as_ref().filter(|_| !accept) {
        // After the next start of the machine a jump could not be told any more.
        if let Some(before) = before.filter(|before| !dry_run && present.jumped_since(before)) {
            store.state().save_clocks(&Clocks { jumped: true, ..before })?;
        }
        return Err(Error::Refused {
            what: format!("nothing is forgotten by itself: {what}"),
            hint: Some("set the clock; where it is right, `dbkeep forget --accept` says so".to_owned()),
        });
    }
    let judge = Judge {
        catalog,
        database,
        ours,
        policies: &policies,
        host: &store.context().environment.host,
        accept: accept && doubt.is_none(),
        now,
        zone: &store.context().environment.time_zone,
    };
    let mut plan = judge.plan();
    let ahead = newest.filter(|_| doubt == Some(Doubt::Behind));
    let snapshots = ahead.map(Entry::reference).into_iter().collect();
    plan.facts.extend(told.map(|why| Fact::Cleared { snapshots, why }));
    plan.clocks = Some(present.after(before, doubt == Some(Doubt::Jumped)));
    Ok(plan)
}

/// Returns the newest snapshot of ours whose time nobody has accepted.
fn newest(catalog: &Catalog) -> Option<&Entry> {
    let ours = catalog.entries.iter().filter(|entry| entry.database.is_some() && !entry.history.cleared);
    ours.max_by_key(|entry| entry.snapshot.time)
}

/// Says in words what speaks against the clock.
fn told(doubt: Doubt, newest: Option<&Entry>, before: Option<&Clocks>, now: Timestamp) -> String {
    match (doubt, newest, before) {
        (Doubt::Behind, Some(entry), _) => {
            format!("it is {now} by the clock, before the newest snapshot, {}", entry.describe())
        }
        (_, _, Some(before)) => format!("the clock jumped by more than a day since {}", before.wall),
        _ => "the clock cannot be right".to_owned(),
    }
}

/// Returns the policies of the configuration for this repository: the primary one, or one of its copies.
fn policies(context: &Context) -> Result<Policies> {
    if let Some(copy) = &context.as_copy {
        return Policies::of_copy(&copy.primary.config, &copy.name);
    }
    if let Some(copy) = place::of_location(context) {
        return Policies::of_copy(&context.config, copy);
    }
    if place::is_configured_repository(context) {
        return Policies::of_primary(&context.config);
    }
    Err(Error::usage(
        format!(
            "the configuration has no policy for {}: it is neither its repository nor a copy",
            context.location.display()
        ),
        "say what stays, as `dbkeep forget --keep-daily 30 --keep-within 14d`",
    ))
}

/// What is needed to decide.
struct Judge<'j> {
    catalog: &'j Catalog,
    /// Only this one.
    database: Option<&'j str>,
    /// Only these, where others use the place too.
    ours: Option<&'j BTreeSet<String>>,
    policies: &'j Policies,
    /// The host that this is.
    host: &'j str,
    /// What looks wrong is in order.
    accept: bool,
    now: Timestamp,
    zone: &'j TimeZone,
}

impl Judge<'_> {
    /// Decides about each database. One of which something looks wrong is left as it is, unless that is accepted.
    fn plan(&self) -> Plan {
        let mut report = by_policy(
            self.catalog,
            self.database,
            &|name| self.policies.of_database(name),
            self.now,
            self.zone,
        );
        let mut facts = Vec::new();
        for name in
            self.catalog.databases().iter().filter(|name| self.database.is_none_or(|only| only == *name))
        {
            if let Some(why) = self.is_left_to_others(name) {
                leave(&mut report, name, why);
                continue;
            }
            let gone = report.forgotten.iter().filter(|one| one.database.as_ref() == Some(name)).count();
            match self.objection(name, gone) {
                Some((suspects, why)) if self.accept => {
                    let snapshots = suspects.iter().map(|entry| entry.reference()).collect();
                    facts.push(Fact::Cleared { snapshots, why });
                }
                Some((_, why)) => {
                    let printable = name::printable(name);
                    report.refuse(
                        name,
                        &format!("{why}: look at it, then `dbkeep forget --accept --database {printable}`"),
                    );
                    report.frozen.push(Frozen { database: name.clone(), why });
                }
                None => {}
            }
        }
        let reason = |name: &str| format!("configured policy: {}", self.policies.of_database(name));
        Plan { facts, ..Plan::of(report, &reason) }
    }

    /// Says why a database is left to others, who may want to keep more of it: another repository has the name in this
    /// copy, or it is none of this host's: not in its configuration, and last backed up elsewhere.
    fn is_left_to_others(&self, name: &str) -> Option<&'static str> {
        if self.ours.is_some_and(|ours| !ours.contains(name)) {
            return Some("it is none of the databases of the repository");
        }
        let newest = self.catalog.newest(name);
        let elsewhere = newest.is_some_and(|entry| entry.snapshot.hostname != self.host);
        (elsewhere && self.database.is_none() && !self.policies.know(name))
            .then_some("another host looks after it (--database names it)")
    }

    /// Returns what speaks against the policy for a database of which so many snapshots would go, and the snapshots
    /// that look wrong.
    fn objection(&self, name: &str, gone: usize) -> Option<(Vec<&Entry>, String)> {
        let suspects: Vec<&Entry> =
            self.catalog.of_database(name).filter(|entry| entry.suspicion().is_some()).collect();
        if let [newest, ..] = suspects.as_slice() {
            let why = format!("{} in snapshot {}", newest.suspicion().unwrap_or_default(), newest.id.short());
            return Some((suspects, why));
        }
        let all = self.catalog.of_database(name).count();
        let why = || format!("{gone} of its {all} snapshots would go at once, more than a fifth");
        careful::is_too_much(gone, all).then(|| (Vec::new(), why()))
    }
}

/// Says of all snapshots of a database why they are left to others.
fn leave(report: &mut ForgetReport, name: &str, why: &str) {
    let is_of = |database: &Option<String>| database.as_deref() == Some(name);
    let reason = || vec![why.to_owned()];
    for kept in report.kept.iter_mut().filter(|kept| is_of(&kept.database)) {
        kept.reasons = reason();
    }
    let gone: Vec<Forgotten> = report.forgotten.extract_if(.., |one| is_of(&one.database)).collect();
    report.kept.extend(gone.into_iter().map(|Forgotten { id, time, database }| Kept {
        id,
        time,
        database,
        reasons: reason(),
    }));
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::forget::tests::{catalog, taken};

    /// What the configured policy would do with `entries` by keeping the last two of all.
    fn by_itself(entries: Vec<Entry>, accept: bool) -> Plan {
        let config = toml::from_str(
            "[retention]\nlast = 2\nhourly = 0\ndaily = 0\nweekly = 0\nmonthly = 0\nyearly = 0\nwithin = '0d'",
        );
        let policies = Policies::of_primary(&config.unwrap()).unwrap();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
        let catalog = catalog(entries);
        let (policies, host, zone) = (&policies, "here", &TimeZone::UTC);
        Judge { catalog: &catalog, database: None, ours: None, policies, host, accept, now, zone }.plan()
    }

    fn counts(plan: &Plan) -> (usize, usize, usize) {
        assert_eq!(plan.batches.is_empty(), plan.report.forgotten.is_empty());
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
        assert_eq!(accepted.batches, [("shop".to_owned(), "configured policy: last 2".to_owned())]);
    }

    #[test]
    fn safety_backup_of_a_damaged_database_freezes_nothing() {
        let mut entries = vec![taken("shop", 900, &["integrity=corrupt", "reason=pre-restore"])];
        entries.extend((0..3).rev().map(|hour| taken("shop", hour, &["integrity=ok"])));
        assert!(by_itself(entries, false).report.frozen.is_empty());
    }

    #[test]
    fn database_of_another_host_is_left_to_that_host() {
        let elsewhere = |hour| {
            let mut entry = taken("clinic", hour, &["integrity=ok"]);
            entry.snapshot.hostname = "elsewhere".to_owned();
            entry
        };
        let plan = by_itself((0..3).rev().map(elsewhere).collect(), true);
        assert_eq!((counts(&plan), plan.report.kept.len()), ((0, 0, 0), 3));
        assert!(plan.report.kept.iter().all(|kept| kept.reasons[0].starts_with("another host")));
    }
}
