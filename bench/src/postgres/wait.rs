//! How long a change of a table waits for a backup that makes way.
//!
//! What is in the way of a change differs with the change and with how far the backup has come: the lock of a part that is
//! being read, those of `pg_dump`, the moment itself. One change makes a backup begin again, and a few end it: who changes
//! a table all the time never meets the end of one. So each backup gets one change, at a moment of its own, and has to
//! succeed. Another one is changed under all the time, also while it begins again.

use std::thread;
use std::time::{Duration, Instant};

use dbkeep_testkit::Rng;

use super::scene::Scene;
use crate::product::Ours;
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::scratch::settle;
use crate::{Error, Result};

/// What chance begins with: the moments are the same in each run, as parts of the time that a backup takes.
const SEED: u64 = 5;
/// How long nobody changes anything under a backup that is changed under all the time.
const PAUSE: Duration = Duration::from_millis(1500);

/// A change that needs something for itself which a backup may have.
struct Change {
    what: &'static str,
    /// Makes what is changed as it was before.
    before: &'static str,
    change: &'static str,
}

/// The large table, one that is read in no time, and last, because it can be in the way to the very end, the moment.
const CHANGES: [Change; 3] = [
    Change {
        what: "add column",
        before: "ALTER TABLE events DROP COLUMN IF EXISTS added",
        change: "ALTER TABLE events ADD COLUMN added int",
    },
    Change {
        what: "truncate",
        before: "DROP TABLE IF EXISTS small; CREATE TABLE small AS SELECT n FROM generate_series(1, 1000) AS n",
        change: "TRUNCATE small",
    },
    Change {
        // Without CONCURRENTLY readers are in nobody's way. With it, it waits until nobody sees the time before.
        what: "create index concurrently",
        before: "DROP INDEX IF EXISTS added_index",
        change: "CREATE INDEX CONCURRENTLY added_index ON pgbench_branches (bbalance)",
    },
];

/// The longest of all waits.
pub(super) fn wait(scene: &Scene<'_>) -> Result<Vec<Line>> {
    scene.make_large_objects()?;
    let mut usual = undisturbed(scene)?;
    let count = scene.rounds * CHANGES.len();
    let (mut all, mut moments) = (Sample::default(), Sample::default());
    let mut of_each: [Sample; CHANGES.len()] = Default::default();
    for number in 0..count {
        let kind = number % CHANGES.len();
        let change = &CHANGES[kind];
        let (moment, waited) = changed_once(scene, change, part(number, count), &mut usual)?;
        eprintln!("  {} after {moment:.1} s: {waited:.2} s", change.what);
        moments.add(moment);
        of_each[kind].add(waited);
        all.add(waited);
    }
    let again_and_again = changed_all_the_time(scene)?;
    all.add(again_and_again);
    let line = Line::new("longest wait of a change with --yield", all.largest(), "s", Goal::AtMost(3.0))
        .with("changed after s", &moments)
        .with("backup s", &Sample(vec![usual]))
        .with("again and again s", &Sample(vec![again_and_again]));
    let each = CHANGES.iter().zip(&of_each);
    Ok(vec![each.fold(line, |line, (change, waits)| line.with(&format!("{} s", change.what), waits))])
}

/// Returns when the change of a number comes, as a part of the time that a backup takes. Each has a stretch of its own, in
/// their order, and chance says where in it.
fn part(number: usize, count: usize) -> f64 {
    let chance = Rng::of(SEED, number as u64).below(1000) as f64 / 1000.0;
    (number as f64 + chance) / count as f64
}

/// Returns how long a backup takes that makes way for nobody, in seconds.
fn undisturbed(scene: &Scene<'_>) -> Result<f64> {
    let ours = Ours::init(scene.scratch, "postgres-ours")?;
    Ok(ours.run(["backup", &scene.url("bench"), "--yield"])?.cost.seconds)
}

/// Changes something when this part of the usual time of a backup has gone by, and no more. Returns the moment and how long
/// the change waited, in seconds. The backup has to succeed.
fn changed_once(scene: &Scene<'_>, change: &Change, part: f64, usual: &mut f64) -> Result<(f64, f64)> {
    loop {
        scene.sql("bench", change.before)?;
        let ours = Ours::init(scene.scratch, "postgres-ours")?;
        settle();
        let url = scene.url("bench");
        let moment = part * *usual;
        let began = Instant::now();
        let (waited, took) = thread::scope(|scope| -> Result<_> {
            let backup = scope.spawn(|| {
                let ran = ours.run_beside(["backup", &url, "--yield"]);
                ran.map(|ran| ran.cost.seconds).map_err(|error| error.to_string())
            });
            thread::sleep(Duration::from_secs_f64(moment).saturating_sub(began.elapsed()));
            let waited = match backup.is_finished() {
                true => None,
                false => Some(timed(scene, change.change)?),
            };
            let took = backup.join().map_err(|_| Error::from("the backup panicked"))??;
            Ok((waited, took))
        })?;
        match waited {
            Some(waited) => return Ok((moment, waited)),
            // It was over by then: so long one takes now, and the moment comes earlier the next time.
            None => *usual = took.min(moment),
        }
    }
}

/// Changes a table again and again under a backup, which may give up. Returns the longest wait, in seconds.
fn changed_all_the_time(scene: &Scene<'_>) -> Result<f64> {
    let ours = Ours::init(scene.scratch, "postgres-ours")?;
    let url = scene.url("bench");
    thread::scope(|scope| {
        let backup = scope
            .spawn(|| ours.run_or_give_way(["backup", &url, "--yield"]).map_err(|error| error.to_string()));
        let mut waits = Sample::default();
        for number in 0.. {
            thread::sleep(PAUSE);
            if backup.is_finished() {
                break;
            }
            // It needs the table for itself, and changes nothing of what is stored.
            let change = format!("ALTER TABLE events ALTER COLUMN note SET DEFAULT '{number}'");
            waits.add(timed(scene, &change)?);
        }
        backup.join().map_err(|_| Error::from("the backup panicked"))??;
        waits.last().ok_or("the backup was over before a table was changed")?;
        Ok(waits.largest())
    })
}

/// Returns how long SQL takes, in seconds.
fn timed(scene: &Scene<'_>, sql: &str) -> Result<f64> {
    let began = Instant::now();
    scene.sql("bench", sql)?;
    Ok(began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether a part lies in the stretch of this number, of so many.
    fn is_in(part: f64, number: usize, count: usize) -> bool {
        let at = |number: usize| number as f64 / count as f64;
        (at(number)..at(number + 1)).contains(&part)
    }

    #[test]
    fn changes_are_spread_over_the_whole_backup() {
        for count in [1, 3, 9, 30] {
            for number in 0..count {
                assert!(is_in(part(number, count), number, count), "{number} of {count}");
            }
        }
    }

    #[test]
    fn each_kind_of_change_comes_early_late_and_between() {
        let count = 3 * CHANGES.len();
        for (kind, change) in CHANGES.iter().enumerate() {
            for third in 0..3 {
                let number = kind + third * CHANGES.len();
                assert!(is_in(part(number, count), third, 3), "{}: {third}", change.what);
            }
        }
    }
}
