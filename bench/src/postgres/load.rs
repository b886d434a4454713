//! What applications notice of a backup: their throughput.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::scene::Scene;
use crate::Result;
use crate::product::Ours;
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::scratch::settle;

/// How long each load lasts. What runs beside it is begun again until then; where once takes longer than this, its end has
/// no load beside it, and the seconds that are shown say so.
const SECONDS: u64 = 30;
/// How much of what the server can do the applications of a server that is not overloaded ask of it.
const ASKED: f64 = 0.5;
/// When an application that asks at its own rate gives up, in milliseconds: a transaction that could only begin later than
/// that is left out, and counts neither in the throughput nor in the average time.
const TOO_LATE: u32 = 1000;

/// A load of pgbench beside a backup, and beside what else can stand there.
pub(super) fn load(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let (mut full, mut asked) = (Loads::default(), Loads::default());
    for round in 0..scene.rounds {
        for beside in Beside::ORDERS[round % Beside::ORDERS.len()] {
            full.add(scene, None, beside)?;
        }
        let rate = full.alone.last().unwrap_or_default() * ASKED;
        let pair = [Beside::Nobody, Beside::Backup];
        for place in [round, round + 1] {
            asked.add(scene, Some(rate), pair[place % 2])?;
        }
    }
    let during = |loads: &Loads| loads.backup.over(&loads.alone) * 100.0;
    let of_a_moment = full.backup.over(&full.moment) * 100.0;
    let pg_dump = scene.dump_name(None);
    Ok(vec![
        asked.shown(Line::new("load at half speed, of that alone", during(&asked), "%", Goal::AtLeast(90.0))),
        full.shown(Line::new("load at full speed, of that alone", during(&full), "%", Goal::None)),
        // Rows that change often grow chains of versions for as long as anybody reads one moment.
        Line::new("load at full speed, of that beside an idle moment", of_a_moment, "%", Goal::None),
        Line::new(
            format!("load at full speed, against that beside {pg_dump}"),
            full.backup.over(&full.dump),
            "x",
            Goal::None,
        ),
        // A backup that only waits disturbs nobody; one of low priority takes longer.
        Line::new(
            format!("backup beside a load at full speed, faster than {pg_dump}"),
            full.dump_time.over(&full.backup_time),
            "x",
            Goal::None,
        )
        .with("ours s", &full.backup_time)
        .with("pg_dump s", &full.dump_time),
    ])
}

/// What runs beside a load, again and again.
#[derive(Clone, Copy)]
enum Beside {
    Nobody,
    /// A transaction that sees one moment, and does nothing: what any consistent backup costs at least.
    Moment,
    Backup,
    Dump,
}

impl Beside {
    /// In four rounds each comes behind each other one once.
    const ORDERS: [[Self; 4]; 4] = [
        [Self::Nobody, Self::Moment, Self::Dump, Self::Backup],
        [Self::Moment, Self::Backup, Self::Nobody, Self::Dump],
        [Self::Backup, Self::Dump, Self::Moment, Self::Nobody],
        [Self::Dump, Self::Nobody, Self::Backup, Self::Moment],
    ];

    /// Runs it once. Returns how long it took, in seconds.
    fn run(self, scene: &Scene<'_>, place: &Place) -> Result<f64> {
        let began = Instant::now();
        match self {
            Self::Nobody => {}
            Self::Moment => scene.hold_moment(SECONDS)?,
            Self::Backup => scene.backup_beside(&place.ours)?,
            Self::Dump => drop(scene.pg_dump(&place.dump, None)?),
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// Transactions a second beside each, and how long what stood beside them took.
#[derive(Default)]
struct Loads {
    alone: Sample,
    moment: Sample,
    backup: Sample,
    dump: Sample,
    backup_time: Sample,
    dump_time: Sample,
    /// The average time of a transaction alone and beside a backup, in milliseconds.
    alone_wait: Sample,
    backup_wait: Sample,
}

impl Loads {
    fn add(&mut self, scene: &Scene<'_>, rate: Option<f64>, beside: Beside) -> Result<()> {
        let ran = run_load(scene, rate, beside)?;
        match beside {
            Beside::Nobody => {
                self.alone.add(ran.per_second);
                self.alone_wait.add(ran.milliseconds);
            }
            Beside::Moment => self.moment.add(ran.per_second),
            Beside::Backup => {
                self.backup.add(ran.per_second);
                self.backup_wait.add(ran.milliseconds);
                self.backup_time.add(ran.beside);
            }
            Beside::Dump => {
                self.dump.add(ran.per_second);
                self.dump_time.add(ran.beside);
            }
        }
        Ok(())
    }

    fn shown(&self, line: Line) -> Line {
        let all = [
            ("alone per s", &self.alone),
            ("alone ms", &self.alone_wait),
            ("moment per s", &self.moment),
            ("ours per s", &self.backup),
            ("ours ms", &self.backup_wait),
            ("pg_dump per s", &self.dump),
        ];
        let measured = all.iter().filter(|(_, sample)| sample.last().is_some());
        measured.fold(line, |line, (name, sample)| line.with(name, sample))
    }
}

/// What a load did.
struct Ran {
    per_second: f64,
    /// The average time of a transaction.
    milliseconds: f64,
    /// How long what ran beside it took, the first time.
    beside: f64,
}

/// Runs pgbench as fast as it can, or at a rate, and `beside` again and again meanwhile.
fn run_load(scene: &Scene<'_>, rate: Option<f64>, beside: Beside) -> Result<Ran> {
    // Places are made, and what was written before is written out, when nobody is disturbed.
    let place = Place::make(scene)?;
    scene.sql("postgres", "CHECKPOINT")?;
    settle();
    let mut command = scene.command("pgbench");
    command.args(["--client=4", "--no-vacuum", "--time", &SECONDS.to_string()]);
    if let Some(rate) = rate {
        command.args([format!("--rate={rate:.0}"), format!("--latency-limit={TOO_LATE}")]);
    }
    let mut child: Child = command.arg("bench").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let took = match beside {
        Beside::Nobody => Ok(0.0),
        _ => keep_on(scene, beside, place, &mut child),
    };
    if took.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let took = took?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |before: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(before))?.split(' ').next()?.parse().ok()
    };
    match (output.status.success(), number("tps = "), number("latency average = ")) {
        (true, Some(per_second), Some(milliseconds)) => Ok(Ran { per_second, milliseconds, beside: took }),
        _ => Err(format!("pgbench does not say how fast it was: {text}").into()),
    }
}

/// Does it again and again until `load` ends. Returns how long it took the first time.
fn keep_on(scene: &Scene<'_>, beside: Beside, mut place: Place, load: &mut Child) -> Result<f64> {
    let began = Instant::now();
    let first = beside.run(scene, &place)?;
    while load.try_wait()?.is_none() {
        if began.elapsed() > Duration::from_secs(SECONDS * 10) {
            load.kill()?;
        }
        place = Place::make(scene)?;
        beside.run(scene, &place)?;
    }
    Ok(first)
}

/// Where what runs beside a load writes to.
struct Place {
    ours: Ours,
    dump: PathBuf,
}

impl Place {
    fn make(scene: &Scene<'_>) -> Result<Self> {
        let ours = Ours::init(scene.scratch, "postgres-ours")?;
        Ok(Self { ours, dump: scene.scratch.fresh("postgres-dump")? })
    }
}
