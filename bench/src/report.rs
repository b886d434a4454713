//! What is shown and saved.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::Result;
use crate::sample::{Sample, Times};

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Shown for its own sake.
    None,
}

impl Goal {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Goal::AtLeast(limit) => figure >= limit,
            Goal::AtMost(limit) => figure <= limit,
            Goal::None => true,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Goal::AtLeast(limit) => format!("at least {}", value(limit, unit)),
            Goal::AtMost(limit) => format!("at most {}", value(limit, unit)),
            Goal::None => "-".to_owned(),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// What was measured.
    pub(crate) what: String,
    /// What came out, as `2.1x`.
    pub(crate) figure: f64,
    /// `x`, `MiB`, `ms`, `%` or `bytes`.
    pub(crate) unit: &'static str,
    /// What it has to be.
    pub(crate) goal: Goal,
    /// The values behind it, by who and in what.
    pub(crate) samples: BTreeMap<String, Sample>,
}

impl Line {
    pub(crate) fn new(what: impl Into<String>, figure: f64, unit: &'static str, goal: Goal) -> Self {
        Self { what: what.into(), figure, unit, goal, samples: BTreeMap::new() }
    }

    pub(crate) fn with(mut self, name: &str, sample: &Sample) -> Self {
        self.samples.insert(name.to_owned(), sample.clone());
        self
    }

    /// Adds wall and processor time; the latter tells whether a busy machine is to blame.
    pub(crate) fn with_times(self, name: &str, times: &Times) -> Self {
        self.with(&format!("{name} s"), &times.wall).with(&format!("{name} cpu s"), &times.processor)
    }

    fn is_met(&self) -> bool {
        // A figure that could not be computed meets nothing.
        !self.figure.is_nan() && self.goal.is_met(self.figure)
    }
}

fn value(number: f64, unit: &str) -> String {
    match unit {
        "x" => format!("{number:.2} x"),
        "bytes" => format!("{number:.0} bytes"),
        _ => format!("{number:.1} {unit}"),
    }
}

/// All lines of a run, with what is needed to understand it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    size: u64,
    rounds: usize,
    machine: BTreeMap<&'static str, String>,
    /// Processes that wanted to run before the first figure: what else was going on.
    load_before: f64,
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new(size: u64, rounds: usize) -> Self {
        let load_before = load();
        if load_before > 1.0 {
            eprintln!("the machine is busy (load {load_before}): trust processor time, not wall time");
        }
        Self { size, rounds, machine: machine(), load_before, lines: Vec::new() }
    }

    pub(crate) fn add(&mut self, lines: Vec<Line>) {
        for line in &lines {
            let result = if line.is_met() { "" } else { "   MISSED" };
            eprintln!(
                "  {}: {} ({}){result}",
                line.what,
                value(line.figure, line.unit),
                line.goal.text(line.unit)
            );
        }
        self.lines.extend(lines);
    }

    pub(crate) fn all_met(&self) -> bool {
        self.lines.iter().all(Line::is_met)
    }

    /// Prints the table and writes it as JSON.
    pub(crate) fn publish(&self, path: &Path) -> Result<()> {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["figure", "result", "goal", "", "medians"]);
        for line in &self.lines {
            let medians: Vec<String> =
                line.samples.iter().map(|(name, sample)| format!("{name} {:.3}", sample.median())).collect();
            let verdict = match (line.goal, line.is_met()) {
                (Goal::None, _) => "",
                (_, true) => "pass",
                (_, false) => "FAIL",
            };
            table.add_row([
                line.what.clone(),
                value(line.figure, line.unit),
                line.goal.text(line.unit),
                verdict.to_owned(),
                medians.join(", "),
            ]);
        }
        println!("{table}");
        write_json(path, self)
    }
}

/// Writes a result beside the others.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_vec_pretty(value)?)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

/// Returns where results go.
pub(crate) fn results(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(name)
}

pub(crate) fn machine() -> BTreeMap<&'static str, String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").to_owned()
    };
    let has_sha = field("flags").split(' ').any(|flag| flag == "sha_ni");
    BTreeMap::from([
        ("processor", field("model name")),
        ("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("sha_instructions", has_sha.to_string()),
        ("restic", first_line("restic", &["version"])),
        ("zstd", first_line("zstd", &["--version"])),
        ("commit", first_line("git", &["describe", "--always", "--dirty"])),
    ])
}

/// Returns the load average of the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_else(|| "absent".to_owned())
}
