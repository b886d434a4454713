//! What applications notice of a backup: their throughput, and how long a change of a table waits.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::scene::Scene;
use crate::product::Ours;
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::{Error, Result};

/// How long each load lasts. What runs beside it takes longer, or is begun again.
const SECONDS: u64 = 15;
/// How much of what the server can do the applications of a server that is not overloaded ask of it.
const ASKED: f64 = 0.5;

/// A load of pgbench beside a backup, and an `ALTER TABLE` beside one that makes way.
pub(super) fn load(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let (mut full, mut asked) = (Loads::default(), Loads::default());
    for round in 0..scene.rounds {
        full.add(scene, None, &Beside::ALL, round)?;
        let rate = full.alone.last().unwrap_or_default() * ASKED;
        asked.add(scene, Some(rate), &[Beside::Nobody, Beside::Backup], round)?;
    }
    let mut waits = Sample::default();
    for _ in 0..scene.rounds {
        waits.add(longest_wait(scene)?);
    }
    let at_full = Line::new(
        "load at full speed, beside ours against pg_dump -j2",
        full.backup.over(&full.dump),
        "x",
        Goal::AtLeast(1.0),
    );
    let percent = |part: f64| part * 100.0;
    Ok(vec![
        asked.shown(Line::new(
            "load at half speed during a backup",
            percent(asked.backup.over(&asked.alone)),
            "%",
            Goal::AtLeast(90.0),
        )),
        full.shown(at_full),
        // Rows that change often grow chains of versions for as long as anybody reads one moment.
        Line::new(
            "load at full speed, beside ours against a moment that is only held",
            percent(full.backup.over(&full.moment)),
            "%",
            Goal::None,
        ),
        Line::new("longest wait of a change with --yield", waits.largest(), "s", Goal::AtMost(3.0)),
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
    const ALL: [Self; 4] = [Self::Nobody, Self::Moment, Self::Backup, Self::Dump];

    fn run(self, scene: &Scene<'_>) -> Result<()> {
        match self {
            Self::Nobody => Ok(()),
            Self::Moment => scene.hold_moment(SECONDS),
            Self::Backup => scene.backup(&Ours::init(scene.scratch, "postgres-ours")?, None).map(drop),
            Self::Dump => {
                let folder = scene.scratch.fresh("postgres-dump")?;
                scene.pg_dump(&folder, None)?;
                Ok(fs::remove_dir_all(&folder)?)
            }
        }
    }
}

/// Transactions a second beside each.
#[derive(Default)]
struct Loads {
    alone: Sample,
    moment: Sample,
    backup: Sample,
    dump: Sample,
}

impl Loads {
    /// Measures each, beginning with another one each round: none is always the one after the dirtiest.
    fn add(&mut self, scene: &Scene<'_>, rate: Option<f64>, which: &[Beside], round: usize) -> Result<()> {
        for place in 0..which.len() {
            let beside = which[(place + round) % which.len()];
            let speed = run_load(scene, rate, beside)?;
            match beside {
                Beside::Nobody => &mut self.alone,
                Beside::Moment => &mut self.moment,
                Beside::Backup => &mut self.backup,
                Beside::Dump => &mut self.dump,
            }
            .add(speed);
        }
        Ok(())
    }

    fn shown(&self, line: Line) -> Line {
        let all = [
            ("alone", &self.alone),
            ("moment", &self.moment),
            ("ours", &self.backup),
            ("pg_dump", &self.dump),
        ];
        all.iter()
            .filter(|(_, speeds)| !speeds.0.is_empty())
            .fold(line, |line, (name, speeds)| line.with(&format!("{name} per s"), speeds))
    }
}

/// Runs pgbench as fast as it can, or at a rate, and `beside` again and again meanwhile. Returns transactions a second.
fn run_load(scene: &Scene<'_>, rate: Option<f64>, beside: Beside) -> Result<f64> {
    // What an earlier load left to write is not this one's.
    scene.sql("postgres", "CHECKPOINT")?;
    let mut command = scene.command("pgbench");
    command.args(["--client=4", "--no-vacuum", "--time", &SECONDS.to_string()]);
    command.args(rate.map(|rate| format!("--rate={rate:.0}")));
    let mut child: Child = command.arg("bench").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        beside.run(scene)?;
        if began.elapsed() > Duration::from_secs(SECONDS * 10) {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|line| line.split(' ').next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| Error::from(format!("pgbench does not say how fast it was: {text}")))
}

/// Changes tables while a backup runs that makes way. Returns the longest wait, in seconds.
fn longest_wait(scene: &Scene<'_>) -> Result<f64> {
    let ours = Ours::init(scene.scratch, "postgres-ours")?;
    let url = scene.url("bench");
    thread::scope(|scope| {
        let backup =
            scope.spawn(|| ours.run_any(["backup", &url, "--yield"]).map_err(|error| error.to_string()));
        let mut longest: f64 = 0.0;
        for number in 0.. {
            if backup.is_finished() {
                break;
            }
            thread::sleep(Duration::from_millis(1500));
            let began = Instant::now();
            // It needs the table for itself, and changes nothing of what is stored.
            let default = format!("ALTER TABLE events ALTER COLUMN note SET DEFAULT '{number}'");
            scene.sql("bench", &default)?;
            longest = longest.max(began.elapsed().as_secs_f64());
        }
        let ended = backup.join().map_err(|_| Error::from("the backup panicked"))?;
        ended.map(|()| longest).map_err(Error::from)
    })
}
