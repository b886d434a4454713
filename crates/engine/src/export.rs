//! Takes databases out of the repository as plain files that need no dbkeep.
//!
//! Everything is written under other names, synced, read back where it was compressed, and named at the end: what has
//! its name is whole. Every blob's hash is compared on the way, and every row counted that the manifest counted.
//! What the formats look like and why is in `docs/design/export.md`.

mod bundle;
mod csv;
mod facts;
mod image;
mod json;
mod missing;
pub(crate) mod place;
mod rows;
mod server;
mod sql;
mod tarball;
mod text;
pub(crate) mod written;

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dbkeep_repo::read::{Image, Reader};
use jiff::Timestamp;

use crate::catalog::{Catalog, Entry};
use crate::clock::Clock;
use crate::context::Watch;
use crate::manifest::{IntegrityResult, Manifest};
use crate::report::{DatabaseExport, Engine, ExportReport, ExportTotals, ExportedFile, MissingDatabase};
use crate::repository::Store;
use crate::{Error, Result, name, session, show};
use place::{Finished, Place};

pub(crate) use server::SUMS as SERVED_SUMS;
pub use server::{SERVED_CSV_FORMAT, SERVED_JSON_FORMAT, SERVED_NDJSON_FORMAT};
pub use text::{CSV_FORMAT, JSON_FORMAT, NDJSON_FORMAT};

/// The mark in the manifest of a bundle.
pub const BUNDLE_FORMAT: &str = "dbkeep bundle 1";

/// What the files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A directory that people can read: compressed databases, checksums, manifest, report and log.
    #[default]
    Bundle,
    /// The database file.
    Db,
    /// The database file, compressed.
    Gzip,
    /// A bundle in one archive, with the database files as they are.
    TarGz,
    /// SQL text.
    Sql,
    /// One JSON document a database.
    Json,
    /// One JSON object a row.
    Ndjson,
    /// One file a table.
    Csv,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Bundle, Self::Db, Self::Gzip, Self::TarGz, Self::Sql, Self::Json, Self::Ndjson, Self::Csv];

    /// Returns the word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Db => "db",
            Self::Gzip => "gzip",
            Self::TarGz => "tar.gz",
            Self::Sql => "sql",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    /// Says whether the rows are read, not only the file.
    fn reads_rows(self) -> bool {
        matches!(self, Self::Sql | Self::Json | Self::Ndjson | Self::Csv)
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.word() == text).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|format| format.word()).collect();
            Error::usage(
                format!("{text:?} is no format of an export"),
                format!("use one of {}", words.join(", ")),
            )
        })
    }
}

/// What to export, and where to.
#[derive(Clone, Debug, Default)]
pub struct ExportRequest {
    /// The beginning of an id, `latest`, `latest~N`.
    pub snapshot: Option<String>,
    /// Narrows `latest`, and the databases of a session.
    pub database: Option<String>,
    /// All databases of this session, or of the `latest`.
    pub session: Option<String>,
    /// The directory that the files go into; made when absent.
    pub out: PathBuf,
    /// What the files are.
    pub format: Format,
}

/// Exports what is asked for.
///
/// On success all files are durable under their names. After an error nothing of this export is there. After a
/// crash, each file or directory that has its name is whole, and the checksum of each file is there before the file
/// is: what did not get its name is missed by whoever compares checksums.
pub fn run(store: &Store, request: &ExportRequest, now: Timestamp, watch: &Watch) -> Result<ExportReport> {
    let clock = Clock::start(now);
    let _lock = store.repository().lock_for_reading(&**watch, now)?;
    let catalog = Catalog::load(store)?;
    let reader = store.reader(&catalog)?;
    let entries = entries(&catalog, request)?;
    let missing = missing_of(store, &catalog, request, &entries)?;
    let subjects = entries
        .into_iter()
        .map(|entry| subject(store, &reader, entry, request.format))
        .collect::<Result<Vec<_>>>()?;
    let out = store.context().environment.resolve_argument(&request.out);
    place::refuse_repository(&out)?;
    let needed = subjects.iter().map(|subject| subject.manifest.image.size).sum();
    let mut place = Place::open(&out, &targets(&subjects, request.format), needed)?;
    refuse_without_space(&place, request.format)?;
    let export =
        Export { reader: &reader, place: &place, subjects: &subjects, missing: &missing, clock, watch };
    let done = match request.format {
        Format::Bundle => export.bundle()?,
        Format::TarGz => export.tarball()?,
        format => export.each(format)?,
    };
    watch.step("export.written");
    stop_if_cancelled(watch)?;
    let files = place.publish(done.finished, watch)?;
    watch.step("export.published");
    let mut report = report(request, &out, &subjects, done.databases, files, &clock);
    report.missing = missing;
    Ok(report)
}

/// One database to export.
struct Subject {
    entry: Entry,
    manifest: Manifest,
    /// The image of a file; a database of a server has none.
    image: Option<Image>,
    /// The session, fit for the name of a file.
    session: String,
}

impl Subject {
    /// Returns the beginning of the names of its files.
    fn stem(&self) -> String {
        format!("{}_{}", name::encode(&self.manifest.database), self.session)
    }

    /// Returns the image of a file.
    fn image(&self) -> Result<&Image> {
        self.image.as_ref().ok_or_else(|| Error::Unsupported {
            what: format!("{} is of a database of a server, which is no file", self.what()),
            hint: None,
        })
    }

    /// Says in words what it is, for errors.
    fn what(&self) -> String {
        format!("snapshot {} of {}", self.entry.id.short(), name::printable(&self.manifest.database))
    }
}

/// An export under way.
struct Export<'e> {
    reader: &'e Reader,
    place: &'e Place,
    subjects: &'e [Subject],
    /// The other databases of the session.
    missing: &'e [MissingDatabase],
    clock: Clock,
    watch: &'e Watch,
}

/// What was written, before it has its name.
struct Done {
    finished: Vec<Finished>,
    databases: Vec<Exported>,
}

/// What became of one database.
#[derive(Clone, Debug, Default)]
struct Exported {
    /// Bytes of its files.
    bytes: u64,
    /// The plain SHA-256 of the image, where it was read from end to end.
    sha256: Option<dbkeep_repo::Id>,
    notes: Vec<String>,
}

impl Export<'_> {
    /// Writes each database into files of its own.
    fn each(&self, format: Format) -> Result<Done> {
        let mut done = Done { finished: Vec::new(), databases: Vec::new() };
        for subject in self.subjects {
            stop_if_cancelled(self.watch)?;
            self.watch.phase(&format!("export {}", subject.manifest.database), subject.manifest.image.size);
            let exported = match format {
                _ if subject.is_served() => self.served(subject, format, &mut done.finished)?,
                Format::Sql => self.sql(subject, &mut done.finished)?,
                Format::Json => self.json(subject, &mut done.finished)?,
                Format::Ndjson => self.ndjson(subject, &mut done.finished)?,
                Format::Csv => self.csv(subject, &mut done.finished)?,
                Format::Gzip => self.image_files(subject, true, &mut done.finished)?,
                _ => self.image_files(subject, false, &mut done.finished)?,
            };
            done.databases.push(exported);
            self.watch.step("export.database-written");
        }
        Ok(done)
    }

    /// Turns what a writer said into ours: a full disk is told with the place and the bytes.
    fn write_failed(&self, error: io::Error) -> Error {
        self.place.write_failed(error)
    }
}

/// Returns the names in the target directory that will be taken.
fn targets(subjects: &[Subject], format: Format) -> Vec<String> {
    let bundle = || subjects.first().map(|subject| format!("backup_{}", subject.session)).unwrap_or_default();
    match format {
        Format::Bundle => vec![bundle()],
        Format::TarGz => with_checksum(format!("{}.tar.gz", bundle())).into(),
        Format::Csv => subjects.iter().map(Subject::stem).collect(),
        Format::Gzip => each_with_checksum(subjects, "db.gz"),
        Format::Sql => {
            let served = subjects.iter().filter(|subject| subject.is_served());
            let beside = |subject: &Subject| {
                [server::ROLES, server::SETTINGS]
                    .map(|ending| with_checksum(format!("{}{ending}", subject.stem())))
            };
            let beside = served.flat_map(beside).flatten();
            each_with_checksum(subjects, "sql").into_iter().chain(beside).collect()
        }
        other => each_with_checksum(subjects, other.word()),
    }
}

fn each_with_checksum(subjects: &[Subject], ending: &str) -> Vec<String> {
    subjects.iter().flat_map(|subject| with_checksum(format!("{}.{ending}", subject.stem()))).collect()
}

fn with_checksum(name: String) -> [String; 2] {
    let checksum = format!("{name}.sha256");
    [name, checksum]
}

/// Finds the snapshots that are meant.
fn entries<'c>(catalog: &'c Catalog, request: &ExportRequest) -> Result<Vec<&'c Entry>> {
    let database = request.database.as_deref();
    let entries = match (&request.session, &request.snapshot) {
        (Some(_), Some(_)) => {
            return Err(Error::usage("a snapshot and --session exclude each other", "give one of them"));
        }
        (Some(session), None) => {
            let known = catalog.known_database(database)?;
            let of_session = catalog.of_session(session)?;
            of_session
                .into_iter()
                .filter(|entry| known.is_none() || entry.database.as_deref() == known)
                .collect()
        }
        (None, snapshot) => vec![catalog.choose(snapshot.as_deref().unwrap_or("latest"), database)?],
    };
    if entries.is_empty() {
        return Err(Error::NoSnapshot {
            wanted: "of that database in that session".to_owned(),
            hint: Some("`dbkeep list` shows what there is".to_owned()),
        });
    }
    Ok(entries)
}

/// Returns what a whole session lacks. It is a warning too: a person who wants all of it has to know.
fn missing_of(
    store: &Store,
    catalog: &Catalog,
    request: &ExportRequest,
    entries: &[&Entry],
) -> Result<Vec<MissingDatabase>> {
    let session = match (&request.session, &request.database) {
        (Some(_), None) => entries.first().and_then(|entry| entry.session()),
        _ => None,
    };
    let Some(session) = session else { return Ok(Vec::new()) };
    let missing = missing::missing(store, catalog, session, entries)?;
    for one in &missing {
        let name = name::printable(&one.database);
        store.watch().warn(&format!("{name} of session {session} is not in the export: {}", one.why()));
    }
    Ok(missing)
}

fn subject(store: &Store, reader: &Reader, entry: &Entry, format: Format) -> Result<Subject> {
    if entry.database.is_none() {
        return Err(Error::Unsupported {
            what: format!("snapshot {} was made by another tool", entry.id.short()),
            hint: Some("export it with that tool, as `restic restore` or `restic dump`".to_owned()),
        });
    }
    store.look_again(&entry.id);
    let manifest = show::manifest(reader, entry)?;
    if manifest.image.raw && format.reads_rows() {
        return Err(Error::Unsupported {
            what: format!("{} is a raw copy of a file that SQLite could not open", manifest.database),
            hint: Some("export it as it is, with --format db, gzip, tar.gz or bundle".to_owned()),
        });
    }
    let image = match manifest.engine {
        Engine::Sqlite => Some(show::image(reader, entry, &manifest)?),
        Engine::Postgres => None,
    };
    // What comes from a repository that others may write is no path.
    let session = match session::time_of(&manifest.session) {
        Some(_) => manifest.session.clone(),
        None => name::encode(&manifest.session),
    };
    let subject = Subject { entry: entry.clone(), manifest, image, session };
    if subject.is_served() && matches!(format, Format::Db | Format::Gzip) {
        return Err(server::no_file(&subject, format));
    }
    Ok(subject)
}

/// Refuses what cannot fit: only the database file itself has a size that is known before.
fn refuse_without_space(place: &Place, format: Format) -> Result<()> {
    if format != Format::Db {
        return Ok(());
    }
    place.refuse_without_space()
}

fn stop_if_cancelled(watch: &Watch) -> Result<()> {
    if watch.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

fn report(
    request: &ExportRequest,
    out: &Path,
    subjects: &[Subject],
    databases: Vec<Exported>,
    files: Vec<ExportedFile>,
    clock: &Clock,
) -> ExportReport {
    let one = |(subject, exported): (&Subject, Exported)| {
        let manifest = &subject.manifest;
        DatabaseExport {
            database: manifest.database.clone(),
            snapshot: subject.entry.id,
            moment: manifest.moment,
            status: status(manifest).to_owned(),
            tables: manifest.tables.clone(),
            rows: manifest.rows,
            bytes_source: manifest.image.size,
            bytes_written: exported.bytes,
            sha256: exported.sha256,
            integrity: manifest.integrity.summary(),
            notes: notes(subject, &exported),
        }
    };
    let databases: Vec<DatabaseExport> = subjects.iter().zip(databases).map(one).collect();
    ExportReport {
        session: subjects.first().map(|subject| subject.manifest.session.clone()).unwrap_or_default(),
        format: request.format.word().to_owned(),
        out: out.display().to_string(),
        totals: ExportTotals {
            databases: databases.len() as u64,
            rows: databases.iter().map(|one| one.rows).sum(),
            bytes_source: databases.iter().map(|one| one.bytes_source).sum(),
            bytes_written: files.iter().map(|file| file.bytes).sum(),
        },
        databases,
        missing: Vec::new(),
        files,
        duration_ms: clock.milliseconds_since(clock.began()),
    }
}

/// Returns `corrupt` for a snapshot of a database that was damaged.
fn status(manifest: &Manifest) -> &'static str {
    match manifest.integrity.result {
        IntegrityResult::Corrupt => "corrupt",
        IntegrityResult::Ok | IntegrityResult::NotRun => "ok",
    }
}

/// Returns what a person should know of a database that was exported.
fn notes(subject: &Subject, exported: &Exported) -> Vec<String> {
    let mut notes = Vec::new();
    if subject.manifest.image.raw {
        notes.push("it is a raw copy of a file that SQLite could not open".to_owned());
    }
    if let Some(finding) = subject.entry.history.damage.first() {
        notes.push(format!("the snapshot was found damaged: {finding}"));
    }
    notes.extend(subject.manifest.notes.iter().cloned());
    notes.extend(exported.notes.iter().cloned());
    notes
}
