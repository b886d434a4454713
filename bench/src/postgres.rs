//! PostgreSQL: backup, second backup, restore, memory, and what a load notices of it, beside the stock tools.
//!
//! The server is a throw-away one on this machine, so it shares the processors with who reads it: that is what a small
//! server of one's own is like. Stock tools run with two jobs, one for each processor.

mod load;
mod scene;
mod wait;

use std::fs;

use crate::product::{Ours, Theirs};
use crate::report::{Goal, Line, Report, results};
use crate::sample::{Sample, Times};
use crate::scratch::{Scratch, settle, size_of};
use crate::{Error, Result};
use scene::Scene;

/// The table that is larger than all others together.
const DOMINATING: &str = "events";

type Figure = fn(&Scene<'_>) -> Result<Vec<Line>>;

/// Names for `--only`, in the order of the table.
const FIGURES: [(&str, Figure); 7] = [
    ("backup", backup),
    ("dominating", dominating),
    ("restore", restore),
    ("second", second),
    ("memory", memory),
    ("load", load::load),
    ("wait", wait::wait),
];

/// Runs the figures and returns whether all goals were met. `size` is that of the dominating table.
pub(crate) fn run(scratch: &Scratch, size: u64, rounds: usize, only: &[String]) -> Result<bool> {
    if let Some(unknown) = only.iter().find(|name| FIGURES.iter().all(|(known, _)| known != name)) {
        let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        return Err(format!("no figure {unknown}: {}", names.join(", ")).into());
    }
    scratch.clean()?;
    let scene = Scene::make(scratch, size, rounds)?;
    let mut report = Report::new(size, rounds);
    for (name, figure) in FIGURES {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            eprintln!("{name}");
            report.add(figure(&scene)?);
            scratch.clean()?;
        }
    }
    report.publish(&results("postgres.json"))?;
    Ok(report.all_met())
}

/// Everything, against pg_dump as fast as it can while it compresses, and how large both come out.
fn backup(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let pair = backups(scene, None)?;
    Ok(vec![
        pair.line(format!("backup, faster than {}", scene.dump_name(None)), Goal::AtLeast(1.0)),
        Line::new(
            "backup, size against pg_dump's",
            pair.our_size.over(&pair.their_size),
            "x",
            Goal::AtMost(1.2),
        )
        .with("ours MiB", &pair.our_size)
        .with("pg_dump MiB", &pair.their_size),
        Line::new("backup, resident", pair.resident.largest(), "MiB", Goal::AtMost(256.0)),
    ])
}

/// The largest table alone.
fn dominating(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let pair = backups(scene, Some(DOMINATING))?;
    let what = format!("dominating table, faster than {}", scene.dump_name(Some(DOMINATING)));
    Ok(vec![pair.line(what, Goal::AtLeast(1.5))])
}

/// What both programs took.
#[derive(Default)]
struct Pair {
    ours: Times,
    theirs: Times,
    our_size: Sample,
    their_size: Sample,
    resident: Sample,
}

impl Pair {
    fn line(&self, what: String, goal: Goal) -> Line {
        Line::new(what, self.theirs.wall.over(&self.ours.wall), "x", goal)
            .with_times("ours", &self.ours)
            .with_times("theirs", &self.theirs)
    }
}

/// Backs up everything, or one table, with both programs in turn.
fn backups(scene: &Scene<'_>, table: Option<&str>) -> Result<Pair> {
    let mut pair = Pair::default();
    for round in 0..scene.rounds {
        let ours = Ours::init(scene.scratch, "postgres-ours")?;
        let dump = scene.scratch.fresh("postgres-dump")?;
        let mut we = || -> Result<()> {
            let empty = ours.size()?;
            let cost = scene.backup(&ours, table)?.cost;
            pair.ours.add(&cost);
            pair.resident.add(mib(cost.peak_rss));
            pair.our_size.add(mib(ours.size()? - empty));
            Ok(())
        };
        let mut they = || -> Result<()> {
            settle();
            pair.theirs.add(&scene.pg_dump(&dump, table)?);
            pair.their_size.add(mib(size_of(&dump)?));
            Ok(())
        };
        if round.is_multiple_of(2) {
            we()?;
            they()?;
        } else {
            they()?;
            we()?;
        }
        fs::remove_dir_all(&dump)?;
    }
    Ok(pair)
}

/// Into a new database, every row read again and compared, against pg_restore, which compares nothing.
fn restore(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let ours = Ours::init(scene.scratch, "postgres-ours")?;
    scene.backup(&ours, None)?;
    let dump = scene.scratch.fresh("postgres-dump")?;
    scene.pg_dump(&dump, None)?;
    // Whoever is the first one makes the server write files for its log that all others use again.
    scene.create_database("restored_by_them")?;
    scene.pg_restore(&dump, "restored_by_them")?;
    scene.drop_database("restored_by_them")?;
    let (mut our_time, mut their_time) = (Times::default(), Times::default());
    let mut resident = Sample::default();
    for round in 0..scene.rounds {
        let mut we = || -> Result<()> {
            let cost = ours.run(["restore", "latest", "--to", "restored_by_us"])?.cost;
            our_time.add(&cost);
            resident.add(mib(cost.peak_rss));
            scene.drop_database("restored_by_us")
        };
        let mut they = || -> Result<()> {
            settle();
            scene.create_database("restored_by_them")?;
            their_time.add(&scene.pg_restore(&dump, "restored_by_them")?);
            scene.drop_database("restored_by_them")
        };
        if round.is_multiple_of(2) {
            we()?;
            they()?;
        } else {
            they()?;
            we()?;
        }
    }
    Ok(vec![
        Line::new(
            "restore and comparison, faster than pg_restore -j2",
            their_time.wall.over(&our_time.wall),
            "x",
            Goal::AtLeast(1.0),
        )
        .with_times("ours", &our_time)
        .with_times("theirs", &their_time),
        Line::new("restore, resident", resident.largest(), "MiB", Goal::AtMost(256.0)),
    ])
}

/// What a second backup adds, against restic with two files of `pg_dump -Fc -Z0`.
fn second(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let changes = [("2 % appended", false, 0.05), ("2 % appended, 1 % updated anywhere", true, 0.25)];
    for (what, updates, limit) in changes {
        scene.make_changing()?;
        let ours = Ours::init(scene.scratch, "postgres-ours")?;
        let theirs = Theirs::init(scene.scratch, "postgres-theirs")?;
        let dump = scene.scratch.fresh("changing.dump")?;
        let first = scene.backup_changing(&ours)?;
        scene.dump_changing(&dump)?;
        let before = (ours.size()?, added(theirs.as_ref(), &dump)?);
        scene.change(updates)?;
        let again = scene.backup_changing(&ours)?;
        scene.dump_changing(&dump)?;
        let mut new = Sample::default();
        new.add(bytes(&again, "/totals/bytes_added")?);
        let mut size = Sample::default();
        size.add(bytes(&first, "/totals/bytes_added")?);
        let mut stored = Sample::default();
        stored.add(mib(ours.size()? - before.0));
        let mut line = match &theirs {
            Some(theirs) => {
                let (restic, restic_stored) = added(Some(theirs), &dump)?;
                let share = if updates { new.over(&restic) } else { new.over(&size) };
                Line::new(second_title(what, updates), share, "x", Goal::AtMost(limit))
                    .with("restic MiB new", &restic)
                    .with("restic MiB stored", &restic_stored)
            }
            None => Line::new(second_title(what, updates), f64::NAN, "x", Goal::AtMost(limit)),
        };
        line = line.with("ours MiB new", &new).with("table MiB", &size).with("ours MiB stored", &stored);
        lines.push(line);
    }
    scene.drop_database("changing")?;
    Ok(lines)
}

fn second_title(what: &str, updates: bool) -> String {
    match updates {
        true => format!("{what}: new bytes against restic's"),
        false => format!("{what}: new bytes against the table"),
    }
}

/// Backs a file up with restic. Returns the new bytes, plain and as stored, in MiB.
fn added(theirs: Option<&Theirs>, dump: &std::path::Path) -> Result<(Sample, Sample)> {
    let (mut plain, mut stored) = (Sample::default(), Sample::default());
    if let Some(theirs) = theirs {
        let before = theirs.size()?;
        plain.add(mib(theirs.backup_adding(dump)?));
        stored.add(mib(theirs.size()? - before));
    }
    Ok((plain, stored))
}

fn bytes(report: &serde_json::Value, pointer: &str) -> Result<f64> {
    let value = report.pointer(pointer).and_then(serde_json::Value::as_u64);
    value.map(mib).ok_or_else(|| Error::from(format!("the report has no {pointer}")))
}

/// Ten thousand tables, and one row of 500 MB.
fn memory(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let figures = [("10,000 tables, resident", "many"), ("a row of 500 MB, resident", "long")];
    for (what, database) in figures {
        match database {
            "many" => scene.make_many()?,
            _ => scene.make_long()?,
        }
        let ours = Ours::init(scene.scratch, "postgres-ours")?;
        let mut resident = Sample::default();
        let mut seconds = Sample::default();
        let cost = ours.run(["backup", &scene.url(database)])?.cost;
        resident.add(mib(cost.peak_rss));
        seconds.add(cost.seconds);
        let cost = ours.run(["restore", "latest", "--to", "restored"])?.cost;
        resident.add(mib(cost.peak_rss));
        seconds.add(cost.seconds);
        lines.push(
            Line::new(what, resident.largest(), "MiB", Goal::AtMost(256.0))
                .with("MiB", &resident)
                .with("s", &seconds),
        );
        scene.drop_database("restored")?;
        scene.drop_database(database)?;
    }
    Ok(lines)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
