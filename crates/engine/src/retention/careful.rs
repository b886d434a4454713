//! What a policy that runs by itself does not do, because nobody is looking. Pure.
//!
//! Three things make it stop: a clock that cannot be right, a source that looked wrong when it was backed up, and that it
//! would remove a large part of a database's snapshots at once. A person who has looked says so with `--accept`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::CLOCK_TOLERANCE;

/// By how much the time of day may drift from the time that passes between two runs.
const MOST_DRIFT: SignedDuration = SignedDuration::from_hours(24);

/// What the clocks of this host said at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clocks {
    /// The time of day.
    pub(crate) wall: Timestamp,
    /// Which start of the machine it was; empty where the system does not tell.
    pub(crate) boot: String,
    /// How long ago the machine was started.
    pub(crate) running: Duration,
    /// A jump was seen, and nobody has said that it is in order.
    pub(crate) jumped: bool,
}

impl Clocks {
    /// Reads the clocks.
    pub(crate) fn read(wall: Timestamp) -> Self {
        let boot = dbkeep_repo::process::boot_id().to_owned();
        Self { wall, boot, running: dbkeep_repo::process::running_time(), jumped: false }
    }

    /// Returns what to remember for the next run. What was read first after a start of the machine is kept, so that many
    /// small jumps count as one.
    pub(crate) fn after(self, before: Option<Self>, accepted: bool) -> Self {
        let same_boot = |before: &Self| !before.boot.is_empty() && before.boot == self.boot && !before.jumped;
        before.filter(|before| !accepted && same_boot(before)).unwrap_or(self)
    }

    /// Says whether the time of day went on by more than a day more, or less, than time passed since `before`. After a
    /// new start of the machine that cannot be told; a jump that was seen before it still counts.
    pub(crate) fn jumped_since(&self, before: &Self) -> bool {
        if before.jumped {
            return true;
        }
        if self.boot.is_empty() || self.boot != before.boot {
            return false;
        }
        let passed = SignedDuration::try_from(self.running.saturating_sub(before.running));
        let shown = self.wall.duration_since(before.wall);
        passed.is_ok_and(|passed| shown.saturating_sub(passed).abs() > MOST_DRIFT)
    }
}

/// What speaks against believing the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It stands before the newest snapshot.
    Behind,
    /// It jumped.
    Jumped,
}

/// Returns what speaks against believing the clock. `newest` is the time of the newest snapshot.
pub(crate) fn doubt_of_clock(
    newest: Option<Timestamp>,
    before: Option<&Clocks>,
    present: &Clocks,
) -> Option<Doubt> {
    if newest.is_some_and(|newest| newest.duration_since(present.wall) > CLOCK_TOLERANCE) {
        return Some(Doubt::Behind);
    }
    before.filter(|before| present.jumped_since(before)).map(|_| Doubt::Jumped)
}

/// Says whether a policy would remove more than a fifth of a database's snapshots at once. A single one may always go.
pub(crate) fn is_too_much(gone: usize, all: usize) -> bool {
    gone > 1 && gone * 5 > all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(wall_hours: i64, running_hours: u64, boot: &str) -> Clocks {
        Clocks {
            wall: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(wall_hours),
            boot: boot.to_owned(),
            running: Duration::from_secs(running_hours * 3600),
            jumped: false,
        }
    }

    #[test]
    fn clock_that_went_on_otherwise_than_time_is_doubted() {
        let before = clocks(1000, 10, "a");
        let doubted = |present: &Clocks| doubt_of_clock(None, Some(&before), present).is_some();
        assert!(!doubted(&clocks(1005, 15, "a")));
        assert!(!doubted(&clocks(1029, 15, "a")), "a day is let pass");
        assert!(doubted(&clocks(1030, 15, "a")));
        assert!(!doubted(&clocks(1720, 730, "a")), "a month of uptime");
        assert!(doubted(&clocks(980, 24, "a")), "back");
        assert!(!doubted(&clocks(9000, 1, "b")), "another start of the machine");
        let no_boot = Clocks { boot: String::new(), ..clocks(9000, 11, "") };
        assert!(!no_boot.jumped_since(&Clocks { boot: String::new(), ..before.clone() }));
        let seen = Clocks { jumped: true, ..before.clone() };
        assert!(
            doubt_of_clock(None, Some(&seen), &clocks(1001, 1, "b")).is_some(),
            "seen before a new start"
        );
        assert!(doubt_of_clock(None, None, &clocks(0, 0, "a")).is_none());
    }

    #[test]
    fn small_jumps_add_up_until_they_are_accepted() {
        let first = clocks(1000, 10, "a");
        let second = clocks(1023, 10, "a").after(Some(first.clone()), false);
        assert_eq!(second, first);
        assert!(clocks(1046, 10, "a").jumped_since(&second));
        let accepted = clocks(1046, 10, "a").after(Some(second), true);
        assert!(!clocks(1050, 14, "a").jumped_since(&accepted));
        assert_eq!(clocks(2000, 1, "b").after(Some(accepted), false), clocks(2000, 1, "b"));
        let no_boot = clocks(1, 1, "");
        assert_eq!(clocks(9, 9, "").after(Some(no_boot), false), clocks(9, 9, ""));
    }

    #[test]
    fn clock_before_the_newest_snapshot_is_doubted() {
        let present = clocks(1000, 10, "a");
        let at = |seconds| Some(present.wall + SignedDuration::from_secs(seconds));
        assert_eq!(doubt_of_clock(at(601), None, &present), Some(Doubt::Behind));
        assert!(doubt_of_clock(at(600), None, &present).is_none());
        assert!(doubt_of_clock(at(-5), None, &present).is_none());
    }

    #[test]
    fn more_than_a_fifth_is_too_much() {
        assert!(!is_too_much(0, 0) && !is_too_much(1, 1) && !is_too_much(1, 2));
        assert!(!is_too_much(2, 10) && is_too_much(2, 9) && is_too_much(2, 2));
    }
}
