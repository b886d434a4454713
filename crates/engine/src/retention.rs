//! Which snapshots stay and which go. Pure: snapshots, a policy and the time in, decisions with reasons out.
//!
//! Snapshots of one database are judged together, apart from those of every other. A bucket (an hour, a day, a
//! week, a month, a year of the calendar in a time zone) is stood for by its newest good snapshot, or by its newest
//! where none is good. Two classes never stand for a bucket: backups of a corrupt source, and those that a restore took
//! first. They are kept for two weeks.
//!
//! Adding to a policy never makes anything go that stayed before.

pub(crate) mod careful;
mod configured;

use std::collections::BTreeSet;
use std::fmt;

use dbkeep_repo::Id;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

pub use configured::Policies;

/// For how long snapshots stay that never stand for a bucket.
const SET_ASIDE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// By how much a snapshot may seem to be from the future, because clocks of two machines differ.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(10);

/// A snapshot, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which one.
    pub id: Id,
    /// The moment of its contents.
    pub time: Timestamp,
    /// What it is worth.
    pub worth: Worth,
    /// Whether it is held for good.
    pub pinned: bool,
    /// The user's tags.
    pub tags: Vec<String>,
}

/// What a snapshot is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Taken before a restore in place, or of a corrupt source: it never stands for anything.
    Aside,
    /// Found damaged since it was made. It uses up no place, so it never pushes out a sound one.
    Damaged,
    /// Never checked, and nothing is known against it.
    Unproved,
    /// Its source was sound when it was made, or it was proved later, and nothing was found damaged since.
    Good,
}

/// How much is kept. Everything that one rule keeps is kept.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The newest so many.
    pub last: u32,
    /// One for each of the last so many hours that have any.
    pub hourly: u32,
    /// One for each of the last so many days that have any.
    pub daily: u32,
    /// One for each of the last so many weeks (Monday to Sunday) that have any.
    pub weekly: u32,
    /// One for each of the last so many months that have any.
    pub monthly: u32,
    /// One for each of the last so many years that have any.
    pub yearly: u32,
    /// Everything younger than this, by the calendar.
    pub within: Option<Span>,
    /// Everything that carries one of these tags.
    pub tags: Vec<String>,
}

/// As the command line has it: `last 3, daily 7, within 14d`.
impl fmt::Display for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.last > 0 {
            parts.push(format!("last {}", self.last));
        }
        let counts = Rule::ALL.map(|rule| (rule, rule.count(self)));
        parts.extend(
            counts
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(rule, count)| format!("{} {count}", rule.word())),
        );
        parts.extend(self.within.map(|within| format!("within {within:#}")));
        parts.extend(self.tags.iter().map(|tag| format!("tag {tag}")));
        formatter.write_str(&parts.join(", "))
    }
}

/// Says what happens to one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays, for these reasons.
    Keep(Vec<Reason>),
    /// It goes.
    Forget,
}

/// Why a snapshot stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is one of the newest.
    Last,
    /// It stands for an hour, a day, a week, a month or a year.
    Bucket(Rule, String),
    /// It is younger than the policy's floor.
    Within,
    /// It carries a tag that keeps it.
    Tag(String),
    /// It is held for good.
    Pinned,
    /// It is the newest good one of its database.
    LastGood,
    /// No snapshot of its database is good, and it is the newest of the best.
    BestLeft,
    /// It was taken before a restore, or of a corrupt source, less than two weeks ago.
    SetAside,
    /// Its time lies ahead, so nothing can be said of its age.
    Future,
}

/// A rule that keeps one snapshot for each stretch of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// By the hour; the hour that the clocks go through twice is two.
    Hourly,
    /// By the day.
    Daily,
    /// By the week of ISO 8601.
    Weekly,
    /// By the month.
    Monthly,
    /// By the year.
    Yearly,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Last => formatter.write_str("one of the newest"),
            Reason::Bucket(rule, stretch) => write!(formatter, "{} {stretch}", rule.word()),
            Reason::Within => formatter.write_str("young"),
            Reason::Tag(tag) => write!(formatter, "tag {tag}"),
            Reason::Pinned => formatter.write_str("held for good"),
            Reason::LastGood => formatter.write_str("the last good one"),
            Reason::BestLeft => formatter.write_str("none is good, and none is better"),
            Reason::SetAside => formatter.write_str("set aside for two weeks"),
            Reason::Future => formatter.write_str("its time lies ahead"),
        }
    }
}

impl Rule {
    const ALL: [Rule; 5] = [Rule::Hourly, Rule::Daily, Rule::Weekly, Rule::Monthly, Rule::Yearly];

    fn word(self) -> &'static str {
        match self {
            Rule::Hourly => "hourly",
            Rule::Daily => "daily",
            Rule::Weekly => "weekly",
            Rule::Monthly => "monthly",
            Rule::Yearly => "yearly",
        }
    }

    fn count(self, policy: &Policy) -> u32 {
        match self {
            Rule::Hourly => policy.hourly,
            Rule::Daily => policy.daily,
            Rule::Weekly => policy.weekly,
            Rule::Monthly => policy.monthly,
            Rule::Yearly => policy.yearly,
        }
    }

    /// Returns the name of the stretch of the calendar in which a moment lies. Later stretches have other names.
    fn stretch(self, moment: &Zoned) -> String {
        match self {
            // With the offset only where the same hour comes twice a day would hide which one is meant.
            Rule::Hourly if is_ambiguous(moment) => moment.strftime("%Y-%m-%d %H (%:z)").to_string(),
            Rule::Hourly => moment.strftime("%Y-%m-%d %H").to_string(),
            Rule::Daily => moment.strftime("%Y-%m-%d").to_string(),
            Rule::Weekly => moment.strftime("%G-W%V").to_string(),
            Rule::Monthly => moment.strftime("%Y-%m").to_string(),
            Rule::Yearly => moment.strftime("%Y").to_string(),
        }
    }
}

fn is_ambiguous(moment: &Zoned) -> bool {
    moment.time_zone().to_ambiguous_timestamp(moment.datetime()).is_ambiguous()
}

impl Policy {
    /// Says whether the policy by itself keeps nothing at all.
    pub fn keeps_nothing(&self) -> bool {
        let counts = Rule::ALL.map(|rule| rule.count(self));
        self.last == 0 && counts == [0; 5] && self.within.is_none() && self.tags.is_empty()
    }
}

/// Decides about all snapshots of one database, in the order in which they are given.
///
/// Days, weeks, months and years are those of `zone`. The newest good snapshot always stays, or the best that is left.
pub fn decide(candidates: &[Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Decision> {
    let mut reasons: Vec<Vec<Reason>> =
        candidates.iter().map(|one| own_reasons(one, policy, now, zone)).collect();
    let standing = standing(candidates, now);
    for &place in &newest(candidates, &standing, policy.last) {
        reasons[place].push(Reason::Last);
    }
    for rule in Rule::ALL {
        for (place, stretch) in stand_ins(candidates, &standing, rule, rule.count(policy), zone) {
            reasons[place].push(Reason::Bucket(rule, stretch));
        }
    }
    if let Some(place) = best(candidates, now) {
        let is_good = candidates[place].worth == Worth::Good;
        reasons[place].push(if is_good { Reason::LastGood } else { Reason::BestLeft });
    }
    let decision = |reasons: Vec<Reason>| match reasons.is_empty() {
        true => Decision::Forget,
        false => Decision::Keep(reasons),
    };
    reasons.into_iter().map(decision).collect()
}

/// Returns the reasons that a snapshot has by itself, whatever else there is.
fn own_reasons(one: &Candidate, policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if one.pinned {
        reasons.push(Reason::Pinned);
    }
    if is_future(one, now) {
        reasons.push(Reason::Future);
    }
    // A floor so far back that the calendar has no such day keeps everything.
    let floor = policy.within.map(|within| now.to_zoned(zone.clone()).checked_sub(within));
    if floor.is_some_and(|floor| floor.map_or(true, |floor| one.time > floor.timestamp())) {
        reasons.push(Reason::Within);
    }
    let wanted: BTreeSet<&String> = policy.tags.iter().collect();
    reasons.extend(one.tags.iter().filter(|tag| wanted.contains(tag)).cloned().map(Reason::Tag));
    if one.worth == Worth::Aside && now.duration_since(one.time) < SET_ASIDE {
        reasons.push(Reason::SetAside);
    }
    reasons
}

/// Returns the snapshot that always stays: the newest good one, and where none is good the newest of the best that are
/// left. Only where all times lie ahead there is none, and then each of them stays.
fn best(candidates: &[Candidate], now: Timestamp) -> Option<usize> {
    let places = (0..candidates.len()).filter(|&place| !is_future(&candidates[place], now));
    places.max_by_key(|&place| (candidates[place].worth, candidates[place].time, candidates[place].id))
}

fn is_future(one: &Candidate, now: Timestamp) -> bool {
    one.time.duration_since(now) > CLOCK_TOLERANCE
}

/// Returns the places of the snapshots that may stand for something, newest first.
fn standing(candidates: &[Candidate], now: Timestamp) -> Vec<usize> {
    let may_stand = |one: &Candidate| one.worth != Worth::Aside && !is_future(one, now);
    let mut places: Vec<usize> =
        (0..candidates.len()).filter(|&place| may_stand(&candidates[place])).collect();
    places.sort_by_key(|&place| std::cmp::Reverse((candidates[place].time, candidates[place].id)));
    places
}

/// Returns the newest so many, and damaged ones among them besides.
fn newest(candidates: &[Candidate], standing: &[usize], count: u32) -> Vec<usize> {
    let mut left = count;
    let mut kept = Vec::new();
    for &place in standing {
        if left == 0 {
            break;
        }
        kept.push(place);
        left -= u32::from(candidates[place].worth != Worth::Damaged);
    }
    kept
}

/// Returns who stands for each of the last so many stretches that have any, and their names.
fn stand_ins(
    candidates: &[Candidate],
    standing: &[usize],
    rule: Rule,
    count: u32,
    zone: &TimeZone,
) -> Vec<(usize, String)> {
    if count == 0 {
        return Vec::new();
    }
    let named: Vec<(usize, String)> = standing
        .iter()
        .map(|&place| (place, rule.stretch(&candidates[place].time.to_zoned(zone.clone()))))
        .collect();
    let mut left = count;
    let mut kept = Vec::new();
    for stretch in named.chunk_by(|one, other| one.1 == other.1) {
        if left == 0 {
            break;
        }
        // Of equals the first one, which is the newest.
        let best = stretch.iter().rev().max_by_key(|(place, _)| candidates[*place].worth);
        let Some((place, name)) = best else { continue };
        kept.push((*place, name.clone()));
        left -= u32::from(candidates[*place].worth != Worth::Damaged);
    }
    kept
}

#[cfg(test)]
mod tests;
