//! What applications notice of a backup: their throughput, and how long a change of a table waits.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::scene::Scene;
use crate::product::Ours;
use crate::report::{Goal, Line};
use crate::sample::Sample;
use crate::{Error, Result};

/// How long the load runs without a backup.
const ALONE: u64 = 15;
/// How often the load asks, on the average: less than it could, as applications do.
const RATE: u32 = 400;

/// A load of pgbench beside a backup, and an `ALTER TABLE` beside one that makes way.
pub(super) fn load(scene: &Scene<'_>) -> Result<Vec<Line>> {
    let (mut share, mut alone, mut beside) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..scene.rounds {
        let without = run_load(scene, ALONE, &mut || Ok(()))?;
        let ours = Ours::init(scene.scratch, "postgres-ours")?;
        let mut backup = || scene.backup(&ours, None).map(drop);
        let with = run_load(scene, ALONE, &mut backup)?;
        share.add(with / without * 100.0);
        alone.add(without);
        beside.add(with);
    }
    let mut waits = Sample::default();
    for _ in 0..scene.rounds {
        waits.add(longest_wait(scene)?);
    }
    Ok(vec![
        Line::new("load during a backup", share.median(), "%", Goal::AtLeast(90.0))
            .with("alone per s", &alone)
            .with("beside per s", &beside),
        Line::new("longest wait of a change with --yield", waits.largest(), "s", Goal::AtMost(3.0)),
    ])
}

/// Runs pgbench, and `beside` again and again meanwhile. Returns transactions a second.
fn run_load(scene: &Scene<'_>, seconds: u64, beside: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let mut command = scene.command("pgbench");
    let (seconds_text, rate) = (seconds.to_string(), RATE.to_string());
    command.args(["--client=4", "--no-vacuum", "--time", &seconds_text, "--rate", &rate, "bench"]);
    let mut child: Child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        beside()?;
        if began.elapsed() > Duration::from_secs(seconds * 4) {
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
