//! Retention against examples, a slow model, and itself with a larger policy.

use std::collections::BTreeMap;

use jiff::ToSpan;
use jiff::civil::{DateTime, date};

use super::*;

fn utc() -> TimeZone {
    TimeZone::UTC
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn one(number: u32, time: Timestamp, worth: Worth) -> Candidate {
    Candidate { id: Id::of(&number.to_le_bytes()), time, worth, pinned: false, tags: Vec::new() }
}

/// Good snapshots at these moments.
fn good(times: &[&str]) -> Vec<Candidate> {
    (0..).zip(times).map(|(number, time)| one(number, at(time), Worth::Good)).collect()
}

/// Returns the numbers of those that stay, with their reasons.
fn kept(candidates: &[Candidate], policy: &Policy, now: &str, zone: &TimeZone) -> BTreeMap<usize, String> {
    let decisions = decide(candidates, policy, at(now), zone);
    let reasons = |decision| match decision {
        Decision::Keep(reasons) => Some(reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", ")),
        Decision::Forget => None,
    };
    decisions
        .into_iter()
        .enumerate()
        .filter_map(|(place, decision)| Some((place, reasons(decision)?)))
        .collect()
}

fn stay(candidates: &[Candidate], policy: &Policy, now: &str, zone: &TimeZone) -> Vec<usize> {
    kept(candidates, policy, now, zone).into_keys().collect()
}

const NOON: &str = "2026-01-31T12:00:00Z";

#[test]
fn newest_of_a_bucket_stands_for_it_and_says_so() {
    let snapshots = good(&[
        "2026-01-31T10:00:00Z",
        "2026-01-31T10:30:00Z",
        "2026-01-30T23:59:59Z",
        "2026-01-29T00:00:00Z",
    ]);
    let policy = Policy { hourly: 1, daily: 2, ..Policy::default() };
    let found = kept(&snapshots, &policy, NOON, &utc());
    assert_eq!(
        found,
        BTreeMap::from([
            (1, "hourly 2026-01-31 10, daily 2026-01-31, the last good one".to_owned()),
            (2, "daily 2026-01-30".to_owned()),
        ])
    );
}

#[test]
fn good_one_stands_for_its_bucket_before_newer_ones_of_less_worth() {
    let mut snapshots = good(&["2026-01-31T08:00:00Z", "2026-01-31T09:00:00Z", "2026-01-31T10:00:00Z"]);
    let policy = Policy { daily: 1, ..Policy::default() };
    snapshots[2].worth = Worth::Unproved;
    assert_eq!(stay(&snapshots, &policy, NOON, &utc()), [1]);
    snapshots[1].worth = Worth::Damaged;
    assert_eq!(stay(&snapshots, &policy, NOON, &utc()), [0]);
    snapshots[0].worth = Worth::Damaged;
    assert_eq!(stay(&snapshots, &policy, NOON, &utc()), [2]);
}

#[test]
fn damaged_and_set_aside_ones_never_push_out_a_good_one() {
    let mut snapshots = good(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]);
    let policy = Policy { last: 1, daily: 1, ..Policy::default() };
    snapshots[1].worth = Worth::Damaged;
    snapshots[2].worth = Worth::Aside;
    assert_eq!(
        kept(&snapshots, &policy, "2026-01-31T00:00:00Z", &utc()),
        BTreeMap::from([
            (0, "one of the newest, daily 2026-01-01, the last good one".to_owned()),
            (1, "one of the newest, daily 2026-01-02".to_owned()),
        ])
    );
    let soon = kept(&snapshots, &policy, "2026-01-16T23:59:59Z", &utc());
    assert_eq!(soon[&2], "set aside for two weeks");
    assert!(!kept(&snapshots, &policy, "2026-01-17T00:00:00Z", &utc()).contains_key(&2));
}

#[test]
fn snapshots_from_the_future_neither_count_nor_go() {
    let snapshots = good(&["2026-01-01T00:00:00Z", "2026-01-31T12:10:00Z", "2030-01-01T00:00:00Z"]);
    let policy = Policy { last: 1, ..Policy::default() };
    let found = kept(&snapshots, &policy, NOON, &utc());
    assert_eq!(found[&2], "its time lies ahead");
    assert_eq!(found[&1], "one of the newest, the last good one", "ten minutes are the tolerance of clocks");
    assert!(!found.contains_key(&0));
}

#[test]
fn pins_tags_and_youth_keep_and_an_empty_policy_keeps_the_last_good_one() {
    let mut snapshots = good(&[
        "2026-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
        "2026-01-17T12:00:00Z",
        "2026-01-17T12:00:01Z",
        "2026-01-20T00:00:00Z",
    ]);
    snapshots[0].pinned = true;
    snapshots[1].tags = vec!["other".to_owned(), "release".to_owned()];
    let policy = Policy { within: Some(14.days()), tags: vec!["release".to_owned()], ..Policy::default() };
    assert_eq!(
        kept(&snapshots, &policy, NOON, &utc()),
        BTreeMap::from([
            (0, "held for good".to_owned()),
            (1, "tag release".to_owned()),
            (3, "young".to_owned()),
            (4, "young, the last good one".to_owned()),
        ])
    );
    snapshots[0].pinned = false;
    assert!(Policy::default().keeps_nothing() && !policy.keeps_nothing());
    assert_eq!(stay(&snapshots, &Policy::default(), NOON, &utc()), [4]);
}

#[test]
fn hour_that_comes_twice_is_two_buckets_and_a_day_of_23_hours_is_one_day() {
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    // The clocks go from 03:00 back to 02:00 at 01:00 UTC.
    let twice = good(&["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]);
    let policy = Policy { hourly: 3, ..Policy::default() };
    assert_eq!(
        kept(&twice, &policy, "2026-10-26T00:00:00Z", &berlin).into_values().collect::<Vec<_>>(),
        [
            "hourly 2026-10-25 02 (+02:00)",
            "hourly 2026-10-25 02 (+01:00)",
            "hourly 2026-10-25 03, the last good one"
        ]
    );
    // The day of the change to summer time begins at 23:00 UTC and ends at 22:00 UTC.
    let short = good(&[
        "2026-03-28T22:59:59Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
    ]);
    let policy = Policy { daily: 3, ..Policy::default() };
    assert_eq!(stay(&short, &policy, "2026-04-01T00:00:00Z", &berlin), [0, 2, 3]);
}

#[test]
fn weeks_are_those_of_iso_8601_across_the_turn_of_the_year() {
    // Monday 2025-12-29 to Sunday 2026-01-04 is the first week of 2026.
    let snapshots = good(&[
        "2025-12-28T12:00:00Z",
        "2025-12-29T12:00:00Z",
        "2026-01-04T12:00:00Z",
        "2026-01-05T12:00:00Z",
    ]);
    let policy = Policy { weekly: 3, ..Policy::default() };
    assert_eq!(
        kept(&snapshots, &policy, NOON, &utc()),
        BTreeMap::from([
            (0, "weekly 2025-W52".to_owned()),
            (2, "weekly 2026-W01".to_owned()),
            (3, "weekly 2026-W02, the last good one".to_owned()),
        ])
    );
}

#[test]
fn year_of_hourly_backups_leaves_what_the_default_policy_says() {
    let start = at("2025-01-01T00:00:00Z");
    let snapshots: Vec<Candidate> =
        (0..365 * 24).map(|hour| one(hour, start + i64::from(hour).hours(), Worth::Good)).collect();
    let policy = Policy {
        hourly: 24,
        daily: 30,
        weekly: 12,
        monthly: 24,
        yearly: 10,
        within: Some(14.days()),
        ..Policy::default()
    };
    let found = kept(&snapshots, &policy, "2026-01-01T00:00:00Z", &utc());
    let of = |word: &str| found.values().filter(|reasons| reasons.starts_with(word)).count();
    // Fourteen days but for the hour that they begin with, the days before them from 2 December on, the weeks
    // that end before that from the 42nd on, and the months that end before those.
    assert_eq!((of("young"), of("daily"), of("weekly"), of("monthly")), (14 * 24 - 1, 16, 7, 10));
    assert_eq!(found.len(), 335 + 16 + 7 + 10);
}

/// A history and a policy made from a seed.
struct Case {
    candidates: Vec<Candidate>,
    policy: Policy,
    now: Timestamp,
    zone: TimeZone,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn case(seed: u64, zones: &[TimeZone]) -> Case {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.below(2);
    let now = at("2026-11-01T12:00:00Z") + i64::from(random.below(400 * 24)).hours();
    // Steps of minutes, hours, days or months, so that every rule meets crowded and empty buckets.
    let step = [7, 61, 24 * 60 + 13, 31 * 24 * 60][random.below(4) as usize];
    let count = random.below(14);
    let mut time = now + SignedDuration::from_mins(i64::from(random.below(3)) * 8 - 8);
    let candidates = (0..count).map(|number| {
        time -= SignedDuration::from_mins(i64::from(random.below(3 * step)));
        let worth = [Worth::Good, Worth::Good, Worth::Unproved, Worth::Damaged, Worth::Aside]
            [random.below(5) as usize];
        let mut candidate = one(number, time, worth);
        candidate.pinned = random.below(20) == 0;
        if random.below(10) == 0 {
            candidate.tags = vec!["keep".to_owned()];
        }
        candidate
    });
    let mut candidates: Vec<Candidate> = candidates.collect();
    if random.below(2) == 0 {
        candidates.reverse();
    }
    let policy = policy(&mut random);
    let zone = zones[random.below(6) as usize].clone();
    Case { candidates, policy, now, zone }
}

fn policy(random: &mut Random) -> Policy {
    let mut count = || if random.below(2) == 0 { 0 } else { random.below(5) };
    let (last, hourly, daily, weekly, monthly, yearly) =
        (count(), count(), count(), count(), count(), count());
    let within = (random.below(3) == 0).then(|| i64::from(random.below(30 * 24)).hours());
    let tags = if random.below(3) == 0 { vec!["keep".to_owned()] } else { Vec::new() };
    Policy { last, hourly, daily, weekly, monthly, yearly, within, tags }
}

fn zones() -> Vec<TimeZone> {
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
        .map(|name| TimeZone::get(name).unwrap())
        .to_vec()
}

fn stays(decision: &Decision) -> bool {
    matches!(decision, Decision::Keep(_))
}

/// The beginning of a stretch of the calendar, and which of two hours of one name it is.
type Stretch = (DateTime, i64);
type Key<'a> = dyn Fn(&Candidate) -> Stretch + 'a;

/// The same decision, from the definition of each rule and without any order of processing.
fn model(case: &Case, place: usize) -> bool {
    let Case { candidates, policy, now, zone } = case;
    let me = &candidates[place];
    let lies_ahead = |other: &Candidate| other.time > *now + SignedDuration::from_mins(10);
    let counts = |other: &&Candidate| other.worth != Worth::Aside && !lies_ahead(other);
    let is_newer = |left: &Candidate, right: &Candidate| (left.time, left.id) > (right.time, right.id);
    let is_young = policy.within.is_some_and(|within| {
        let floor = now.to_zoned(zone.clone()).checked_sub(within).unwrap().timestamp();
        me.time > floor
    });
    let is_aside = me.worth == Worth::Aside && me.time > *now - SignedDuration::from_hours(14 * 24);
    let rank = |one: &Candidate| (one.worth, one.time, one.id);
    let is_best = !lies_ahead(me)
        && candidates.iter().filter(|other| !lies_ahead(other)).all(|other| rank(other) <= rank(me));
    let by_itself = me.pinned
        || is_best
        || lies_ahead(me)
        || is_young
        || is_aside
        || me.tags.iter().any(|tag| policy.tags.contains(tag));
    if by_itself || !counts(&me) {
        return by_itself;
    }
    let newer_places = candidates.iter().filter(counts).filter(|other| is_newer(other, me));
    if newer_places.filter(|other| other.worth != Worth::Damaged).count() < policy.last as usize {
        return true;
    }
    let good_and_newer =
        candidates.iter().filter(counts).any(|other| other.worth == Worth::Good && is_newer(other, me));
    if me.worth == Worth::Good && !good_and_newer {
        return true;
    }
    let civil = |other: &Candidate| other.time.to_zoned(zone.clone());
    let keys: [(u32, &Key<'_>); 5] = [
        (policy.hourly, &|other| {
            let here = civil(other);
            let hour = here.date().at(here.hour(), 0, 0, 0);
            let twice = zone.to_ambiguous_timestamp(here.datetime()).is_ambiguous();
            (hour, if twice { i64::from(here.offset().seconds()) } else { i64::MAX })
        }),
        (policy.daily, &|other| (civil(other).date().at(0, 0, 0, 0), 0)),
        (policy.weekly, &|other| {
            let day = civil(other).date();
            let back = i64::from(day.weekday().to_monday_zero_offset());
            (day.checked_sub(back.days()).unwrap().at(0, 0, 0, 0), 0)
        }),
        (policy.monthly, &|other| (civil(other).date().first_of_month().at(0, 0, 0, 0), 0)),
        (policy.yearly, &|other| (date(civil(other).year(), 1, 1).at(0, 0, 0, 0), 0)),
    ];
    keys.iter().any(|(count, key)| {
        let mine = key(me);
        let is_best = candidates.iter().filter(counts).filter(|other| key(other) == mine).all(|other| {
            other.id == me.id || other.worth < me.worth || (other.worth == me.worth && is_newer(me, other))
        });
        let newer_stretches: BTreeSet<Stretch> = candidates
            .iter()
            .filter(counts)
            .filter(|other| other.worth != Worth::Damaged && is_newer(other, me) && key(other) != mine)
            .map(key)
            .collect();
        is_best && newer_stretches.len() < *count as usize
    })
}

/// How many histories are tried: a slice by default, all of them in a campaign.
fn histories() -> u64 {
    if std::env::var_os("DBKEEP_CAMPAIGN").is_some() { 10_000_000 } else { 1_000_000 }
}

#[test]
fn decisions_are_those_of_a_slow_model_and_the_last_good_one_stays() {
    let zones = zones();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let zones = &zones;
            scope.spawn(move || {
                for seed in (half..histories()).step_by(2) {
                    let case = case(seed, zones);
                    let decisions = decide(&case.candidates, &case.policy, case.now, &case.zone);
                    for (place, decision) in decisions.iter().enumerate() {
                        assert_eq!(stays(decision), model(&case, place), "seed {seed}, snapshot {place}");
                    }
                    assert!(decisions.is_empty() || decisions.iter().any(stays), "seed {seed} lost all");
                    let is_good = |place: &usize| case.candidates[*place].worth == Worth::Good;
                    let (had, has): (Vec<usize>, Vec<usize>) = (
                        (0..decisions.len()).filter(is_good).collect(),
                        (0..decisions.len())
                            .filter(is_good)
                            .filter(|place| stays(&decisions[*place]))
                            .collect(),
                    );
                    assert!(had.is_empty() || !has.is_empty(), "seed {seed} lost the last good one");
                }
            });
        }
    });
}

#[test]
fn whoever_keeps_more_loses_nothing() {
    let zones = zones();
    for seed in 0..histories() / 5 {
        let mut case = case(seed, &zones);
        let before = decide(&case.candidates, &case.policy, case.now, &case.zone);
        let mut random = Random(seed | (1 << 40));
        let more = policy(&mut random);
        let old = &mut case.policy;
        old.last += more.last;
        old.hourly += more.hourly;
        old.daily += more.daily;
        old.weekly += more.weekly;
        old.monthly += more.monthly;
        old.yearly += more.yearly;
        old.tags.extend(more.tags);
        old.within = old.within.or(more.within);
        let after = decide(&case.candidates, &case.policy, case.now, &case.zone);
        for (place, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(!stays(before) || stays(after), "seed {seed}, snapshot {place}");
        }
    }
}
