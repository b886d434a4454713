//! Really restores snapshots, asks the restored databases, and throws them away.
//!
//! A drill proves what reading back cannot: that the database opens, that its rows are those of the manifest after a
//! restore, and that answers which somebody wrote down beforehand still hold. It takes nothing from copies and
//! nothing from what this host has kept: it is this repository that is tried. Whether it passed and how long it took
//! is noted there; nothing else stays, whatever ends it.

pub(crate) mod assertion;
mod file;
mod scratch;
mod server;

use dbkeep_repo::format::fact::Fact;
use jiff::Timestamp;

use crate::catalog::{Catalog, Entry};
use crate::clock::Clock;
use crate::context::Watch;
use crate::finding::{finding, is_damage};
use crate::report::{DrillReport, DrillStatus, Drilled, Engine, ErrorReport, TriedAssertion};
use crate::repository::Store;
use crate::verify::{self, VerifyRequest};
use crate::{Error, Result, served, show};

pub use assertion::Assertion;
pub(crate) use file::ask;

/// What to try.
#[derive(Clone, Debug, Default)]
pub struct DrillRequest {
    /// Only this database; narrows `latest`.
    pub database: Option<String>,
    /// The beginning of an id, `latest`, `latest~N`; the newest good one of each database by default.
    pub snapshot: Option<String>,
    /// What is asked beside what the configuration says.
    pub assertions: Vec<Assertion>,
    /// The server on which PostgreSQL databases are tried, as a URL or `env:NAME`; the configured one by default,
    /// else one of our own.
    pub server: Option<String>,
}

/// Restores snapshots to scratch, asks them, and remembers in the repository what came out.
///
/// What could not be tried is part of the report. An error is of the repository, or says that somebody stopped it.
pub fn run(store: &Store, request: &DrillRequest, now: Timestamp, watch: &Watch) -> Result<DrillReport> {
    let store = &store.afresh();
    let run = Run { store, request, clock: Clock::start(now), watch };
    let catalog = Catalog::load(store)?;
    let wanted = wanted(&catalog, request)?;
    if wanted.is_empty() && catalog.lost.is_empty() {
        return Err(Error::NoSnapshot {
            wanted: "to try".to_owned(),
            hint: Some("`dbkeep backup` makes one".to_owned()),
        });
    }
    let mut drills = Vec::new();
    for entry in wanted {
        drills.push(run.drill(entry)?);
    }
    if request.snapshot.is_none() {
        let lost = VerifyRequest { database: request.database.clone(), ..VerifyRequest::default() };
        drills.extend(verify::lost(&catalog, &lost).into_iter().map(Drilled::lost));
    }
    Ok(DrillReport::of(drills))
}

/// Returns the snapshots that are meant.
fn wanted<'c>(catalog: &'c Catalog, request: &DrillRequest) -> Result<Vec<&'c Entry>> {
    let database = request.database.as_deref();
    match (&request.snapshot, database) {
        (Some(snapshot), _) => Ok(vec![verify::ours(catalog.choose(snapshot, database)?)?]),
        (None, Some(_)) => Ok(vec![catalog.choose("latest", database)?]),
        (None, None) => Ok(catalog.newest_of_each()),
    }
}

/// Drills under way.
struct Run<'r> {
    store: &'r Store,
    request: &'r DrillRequest,
    clock: Clock,
    watch: &'r Watch,
}

/// What was found out about one snapshot.
#[derive(Default)]
struct Findings {
    rows: u64,
    findings: Vec<String>,
    /// Whether a finding is damage of what is stored: then the snapshot is not good any more.
    damaged: bool,
    assertions: Vec<TriedAssertion>,
    /// How many things could not be restored.
    left_out: u64,
    notes: Vec<String>,
}

impl Findings {
    fn damage(&mut self, finding: String) {
        self.findings.push(finding);
        self.damaged = true;
    }

    fn passed(&self) -> bool {
        self.findings.is_empty() && self.assertions.iter().all(|tried| tried.ok)
    }
}

impl Run<'_> {
    /// Tries one snapshot.
    fn drill(&self, entry: &Entry) -> Result<Drilled> {
        let began = self.clock.now();
        let mut findings = Findings::default();
        let error = match self.attempt(entry, &mut findings) {
            Ok(()) => None,
            Err(error @ Error::Cancelled) => return Err(error),
            Err(error) if is_damage(&error) => {
                findings.damage(finding(&error));
                None
            }
            Err(Error::Unsound { problem }) => {
                findings.damage(format!("the restored database is not sound: {problem}"));
                None
            }
            // What was found before is a result.
            Err(error) if !findings.passed() => {
                findings.notes.push(format!("not all of it was tried: {}", error.full_message()));
                None
            }
            Err(error) => Some(error),
        };
        if self.watch.cancelled() {
            return Err(Error::Cancelled);
        }
        let duration_ms = self.clock.milliseconds_since(began);
        let passed = error.is_none() && findings.passed();
        // What could not be tried says nothing about the snapshot.
        if error.is_none() {
            self.note(entry, &findings, duration_ms);
        }
        tracing::info!(job = "drill", event = "drilled", snapshot = %entry.id.short(), passed, duration_ms, "drilled");
        Ok(Drilled {
            snapshot: entry.id,
            database: entry.database.clone().unwrap_or_default(),
            status: if passed { DrillStatus::Ok } else { DrillStatus::Failed },
            duration_ms,
            rows: findings.rows,
            findings: findings.findings,
            assertions: findings.assertions,
            left_out: findings.left_out,
            notes: findings.notes,
            error: error.as_ref().map(ErrorReport::from),
        })
    }

    fn attempt(&self, entry: &Entry, findings: &mut Findings) -> Result<()> {
        let (manifest, roles) = {
            let _lock = self.store.repository().lock_for_reading(&**self.watch, self.clock.now())?;
            let catalog = Catalog::load(self.store)?;
            let reader = self.store.reader(&catalog)?;
            (show::manifest(&reader, entry)?, served::roles(&reader, entry)?)
        };
        let assertions = self.assertions(&manifest.database)?;
        match manifest.engine {
            Engine::Sqlite => self.attempt_file(entry, &manifest, &assertions, findings),
            Engine::Postgres => self.attempt_server(entry, &manifest, &roles, &assertions, findings),
        }
    }

    /// Returns what is asked of a database: what its configuration says, and what was given.
    fn assertions(&self, database: &str) -> Result<Vec<Assertion>> {
        let configured = self.store.context().config.databases.get(database);
        let configured = configured.and_then(|database| database.assertions.as_ref()).into_iter().flatten();
        let mut all: Vec<Assertion> = configured.map(|text| text.parse()).collect::<Result<_>>()?;
        all.extend(self.request.assertions.iter().cloned());
        Ok(all)
    }

    /// Remembers the result. Where that cannot be written, it is a warning: the report comes first.
    fn note(&self, entry: &Entry, findings: &Findings, duration_ms: u64) {
        let snapshot = entry.reference();
        let mut facts =
            vec![Fact::Drilled { snapshot: snapshot.clone(), passed: findings.passed(), duration_ms }];
        if findings.damaged {
            facts.push(Fact::Damaged { snapshots: vec![snapshot], findings: findings.findings.clone() });
        }
        for fact in facts {
            if let Err(error) = self.store.note(fact, self.clock.now()) {
                self.watch.warn(&format!(
                    "the result for {} could not be noted: {}",
                    entry.id.short(),
                    error.full_message()
                ));
            }
        }
    }
}
