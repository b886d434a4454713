//! What a bundle says of itself: manifest, report and log.
//!
//! The manifest and the report have the keys that the scripts which dbkeep replaces gave them (`backup_session`,
//! `databases`, `original_size_mb`, `backup_hash` and so on), because programs read those, and further ones beside
//! them. A `compression_ratio` is the compressed size divided by the original one; `space_saved` is what is left of 1.

use std::fmt::Write as _;

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::text::Counts;
use super::written::Sum;
use super::{BUNDLE_FORMAT, Subject};
use crate::manifest::{Git, IntegrityResult, SqliteFacts};
use crate::name::printable;
use crate::report::MissingDatabase;

/// What was written for one database.
pub(super) struct Stored<'s> {
    pub(super) subject: &'s Subject,
    /// The path of its file in the bundle.
    pub(super) path: String,
    /// The file as it is.
    pub(super) file: Sum,
    /// The database file in it.
    pub(super) plain: Sum,
    pub(super) notes: Vec<String>,
}

/// A bundle, as its documents tell of it.
pub(super) struct Facts<'s> {
    pub(super) session: String,
    pub(super) directory: String,
    pub(super) is_compressed: bool,
    pub(super) exported: Timestamp,
    pub(super) stored: Vec<Stored<'s>>,
    /// The databases that the session had and that are gone.
    pub(super) missing: &'s [MissingDatabase],
}

/// Values by name, in the order of the databases.
struct ByName<T>(Vec<(String, T)>);

impl<T: Serialize> Serialize for ByName<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ManifestDocument<'s> {
    format: &'static str,
    dbkeep: &'static str,
    backup_session: &'s str,
    backup_date: Option<Timestamp>,
    backup_directory: &'s str,
    compression_enabled: bool,
    verification_enabled: bool,
    exported: Timestamp,
    user: &'s str,
    host: &'s str,
    git: Option<&'s Git>,
    reason: &'s str,
    tags: &'s [String],
    databases: ByName<DatabaseFacts<'s>>,
    #[serde(skip_serializing_if = "<[MissingDatabase]>::is_empty")]
    missing: &'s [MissingDatabase],
    summary: Summary,
}

#[derive(Serialize)]
struct DatabaseFacts<'s> {
    success: bool,
    status: &'static str,
    original_size_mb: f64,
    backup_size_mb: f64,
    compression_ratio: f64,
    space_saved: f64,
    tables: Vec<&'s str>,
    table_record_counts: Counts,
    total_records: u64,
    integrity_check: bool,
    integrity: String,
    backup_path: String,
    backup_hash: Id,
    error: Option<String>,
    original_size_bytes: u64,
    original_hash: Option<Id>,
    backup_size_bytes: u64,
    snapshot: Id,
    root: Id,
    engine: &'static str,
    source: &'s str,
    environment: Option<&'s str>,
    moment: Timestamp,
    user: &'s str,
    host: &'s str,
    git: Option<&'s Git>,
    dbkeep: &'s str,
    sqlite: Option<&'s SqliteFacts>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Serialize)]
struct ReportDocument<'s> {
    format: &'static str,
    dbkeep: &'static str,
    backup_session: &'s str,
    backup_date: Option<Timestamp>,
    databases: ByName<ReportFacts<'s>>,
    summary: Summary,
    errors: Vec<Finding<'s>>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ReportFacts<'s> {
    success: bool,
    database_info: DatabaseInfo<'s>,
    backup_path: String,
    backup_size_bytes: u64,
    backup_size_mb: f64,
    compressed: bool,
    backup_hash: Id,
    backup_timestamp: Timestamp,
}

#[derive(Serialize)]
struct DatabaseInfo<'s> {
    exists: bool,
    file_size_bytes: u64,
    file_size_mb: f64,
    last_modified: Timestamp,
    tables: Vec<&'s str>,
    table_count: usize,
    table_record_counts: Counts,
    total_records: u64,
    integrity_check: bool,
    file_hash: Option<Id>,
}

#[derive(Serialize)]
struct Finding<'s> {
    database: &'s str,
    error: String,
    timestamp: Timestamp,
}

#[derive(Serialize)]
struct Summary {
    total_databases: usize,
    successful_backups: usize,
    failed_backups: usize,
    total_records: u64,
    total_backup_size_mb: f64,
    total_original_size_mb: f64,
    overall_compression_ratio: f64,
    total_backup_size_bytes: u64,
    total_original_size_bytes: u64,
    space_saved: f64,
}

impl Facts<'_> {
    /// Returns `manifests/backup_manifest.json`.
    pub(super) fn manifest(&self) -> Vec<u8> {
        let first = self.stored.first().map(|stored| &stored.subject.manifest);
        document(&ManifestDocument {
            format: BUNDLE_FORMAT,
            dbkeep: env!("CARGO_PKG_VERSION"),
            backup_session: &self.session,
            backup_date: self.began(),
            backup_directory: &self.directory,
            compression_enabled: self.is_compressed,
            verification_enabled: true,
            exported: self.exported,
            user: first.map_or("", |manifest| &manifest.user),
            host: first.map_or("", |manifest| manifest.identity.host()),
            git: first.and_then(|manifest| manifest.git.as_ref()),
            reason: first.map_or("", |manifest| &manifest.options.reason),
            tags: first.map_or(&[], |manifest| &manifest.options.tags),
            databases: self.by_name(|stored| self.database(stored)),
            missing: self.missing,
            summary: self.summary(),
        })
    }

    /// Returns `backup_report.json`.
    pub(super) fn report(&self) -> Vec<u8> {
        let corrupt = self.stored.iter().filter(|stored| !is_sound(stored));
        let errors = corrupt.map(|stored| Finding {
            database: &stored.subject.manifest.database,
            error: stored.subject.manifest.integrity.summary(),
            timestamp: stored.subject.manifest.finished,
        });
        let warnings = self.stored.iter().flat_map(|stored| {
            let name = &stored.subject.manifest.database;
            stored.notes.iter().map(move |note| format!("{name}: {note}"))
        });
        let missing = self.missing.iter().map(|one| Finding {
            database: &one.database,
            error: one.why().to_owned(),
            timestamp: self.exported,
        });
        document(&ReportDocument {
            format: BUNDLE_FORMAT,
            dbkeep: env!("CARGO_PKG_VERSION"),
            backup_session: &self.session,
            backup_date: self.began(),
            databases: self.by_name(|stored| self.report_of(stored)),
            summary: self.summary(),
            errors: errors.chain(missing).collect(),
            warnings: warnings.collect(),
        })
    }

    /// Returns `logs/backup.log`: a line an event, as the tool's own log has them.
    pub(super) fn log(&self) -> String {
        let mut log = String::new();
        // Writing to a String cannot fail.
        let mut line =
            |time: Timestamp, level: &str, fields: &str| _ = writeln!(log, "{time} level={level} {fields}");
        if let Some(began) = self.began() {
            line(began, "info", &format!("event=session-begun session={}", self.session));
        }
        for stored in &self.stored {
            let manifest = &stored.subject.manifest;
            let name = quoted(&manifest.database);
            let source = quoted(&manifest.source);
            line(
                manifest.started,
                "info",
                &format!(
                    "event=backup-begun database={name} source={source} host={} user={} dbkeep={} method={}",
                    quoted(manifest.identity.host()),
                    quoted(&manifest.user),
                    quoted(&manifest.dbkeep),
                    quoted(&manifest.image.method)
                ),
            );
            for table in &manifest.tables {
                let fields =
                    format!("event=table database={name} table={} rows={}", quoted(&table.name), table.rows);
                line(manifest.finished, "info", &fields);
            }
            let level = if is_sound(stored) { "info" } else { "error" };
            let integrity = format!(
                "event=integrity database={name} level_of_check={} result={}",
                quoted(&manifest.integrity.level),
                quoted(&manifest.integrity.summary())
            );
            line(manifest.finished, level, &integrity);
            line(
                manifest.finished,
                "info",
                &format!(
                    "event=backup-stored database={name} snapshot={} bytes={} tables={} rows={} root={}",
                    stored.subject.entry.id,
                    manifest.image.size,
                    manifest.tables.len(),
                    manifest.rows,
                    manifest.image.root
                ),
            );
            for note in &stored.notes {
                line(manifest.finished, "warn", &format!("event=note database={name} note={}", quoted(note)));
            }
        }
        for stored in &self.stored {
            let name = quoted(&stored.subject.manifest.database);
            line(
                self.exported,
                "info",
                &format!(
                    "event=exported database={name} file={} bytes={} sha256={} original_bytes={} original_sha256={} verified=yes",
                    quoted(&stored.path),
                    stored.file.bytes,
                    stored.file.sha256,
                    stored.plain.bytes,
                    stored.plain.sha256
                ),
            );
        }
        for one in self.missing {
            let fields =
                format!("event=missing database={} why={}", quoted(&one.database), quoted(one.why()));
            line(self.exported, "error", &fields);
        }
        let summary = self.summary();
        let fields = format!(
            "event=export-finished session={} databases={} rows={} original_bytes={} bytes={} dbkeep={}",
            self.session,
            summary.total_databases,
            summary.total_records,
            summary.total_original_size_bytes,
            summary.total_backup_size_bytes,
            env!("CARGO_PKG_VERSION")
        );
        line(self.exported, "info", &fields);
        log
    }

    fn began(&self) -> Option<Timestamp> {
        self.stored.iter().map(|stored| stored.subject.manifest.started).min()
    }

    fn by_name<'f, T>(&'f self, facts: impl Fn(&'f Stored<'f>) -> T) -> ByName<T> {
        let one = |stored: &'f Stored<'f>| (stored.subject.manifest.database.clone(), facts(stored));
        ByName(self.stored.iter().map(one).collect())
    }

    fn database<'f>(&'f self, stored: &'f Stored<'f>) -> DatabaseFacts<'f> {
        let manifest = &stored.subject.manifest;
        let ratio = ratio(stored.file.bytes, stored.plain.bytes);
        DatabaseFacts {
            success: true,
            status: super::status(manifest),
            original_size_mb: megabytes(stored.plain.bytes),
            backup_size_mb: megabytes(stored.file.bytes),
            compression_ratio: ratio,
            space_saved: rounded(1.0 - ratio),
            tables: tables(stored),
            table_record_counts: counts(stored),
            total_records: manifest.rows,
            integrity_check: is_proved(stored),
            integrity: manifest.integrity.summary(),
            backup_path: format!("{}/{}", self.directory, stored.path),
            backup_hash: stored.file.sha256,
            error: (!is_sound(stored)).then(|| manifest.integrity.summary()),
            original_size_bytes: stored.plain.bytes,
            original_hash: (!stored.subject.is_served()).then_some(stored.plain.sha256),
            backup_size_bytes: stored.file.bytes,
            snapshot: stored.subject.entry.id,
            root: manifest.image.root,
            engine: manifest.engine.word(),
            source: &manifest.source,
            environment: manifest.environment.as_deref(),
            moment: manifest.moment,
            user: &manifest.user,
            host: manifest.identity.host(),
            git: manifest.git.as_ref(),
            dbkeep: &manifest.dbkeep,
            sqlite: manifest.sqlite.as_ref(),
            notes: stored.notes.clone(),
        }
    }

    fn report_of<'f>(&'f self, stored: &'f Stored<'f>) -> ReportFacts<'f> {
        let manifest = &stored.subject.manifest;
        ReportFacts {
            success: true,
            database_info: DatabaseInfo {
                exists: true,
                file_size_bytes: stored.plain.bytes,
                file_size_mb: megabytes(stored.plain.bytes),
                last_modified: manifest.moment,
                tables: tables(stored),
                table_count: manifest.tables.len(),
                table_record_counts: counts(stored),
                total_records: manifest.rows,
                integrity_check: is_proved(stored),
                file_hash: (!stored.subject.is_served()).then_some(stored.plain.sha256),
            },
            backup_path: format!("{}/{}", self.directory, stored.path),
            backup_size_bytes: stored.file.bytes,
            backup_size_mb: megabytes(stored.file.bytes),
            compressed: self.is_compressed && !stored.subject.is_served(),
            backup_hash: stored.file.sha256,
            backup_timestamp: manifest.finished,
        }
    }

    fn summary(&self) -> Summary {
        let backup = self.stored.iter().map(|stored| stored.file.bytes).sum();
        let original = self.stored.iter().map(|stored| stored.plain.bytes).sum();
        let ratio = ratio(backup, original);
        Summary {
            total_databases: self.stored.len(),
            successful_backups: self.stored.len(),
            failed_backups: 0,
            total_records: self.stored.iter().map(|stored| stored.subject.manifest.rows).sum(),
            total_backup_size_mb: megabytes(backup),
            total_original_size_mb: megabytes(original),
            overall_compression_ratio: ratio,
            total_backup_size_bytes: backup,
            total_original_size_bytes: original,
            space_saved: rounded(1.0 - ratio),
        }
    }
}

fn document(document: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(document).expect("documents have string keys only");
    text.push(b'\n');
    text
}

fn tables<'f>(stored: &'f Stored<'_>) -> Vec<&'f str> {
    stored.subject.manifest.tables.iter().map(|table| table.name.as_str()).collect()
}

fn counts(stored: &Stored<'_>) -> Counts {
    let tables = &stored.subject.manifest.tables;
    Counts(tables.iter().map(|table| (table.name.clone(), table.rows)).collect())
}

/// Says whether the database was not found damaged when it was backed up.
fn is_sound(stored: &Stored<'_>) -> bool {
    stored.subject.manifest.integrity.result != IntegrityResult::Corrupt
}

/// Says whether an integrity check of the snapshot passed, then or later. One that was not run has not passed.
fn is_proved(stored: &Stored<'_>) -> bool {
    let entry = &stored.subject.entry;
    match stored.subject.manifest.integrity.result {
        IntegrityResult::Ok => entry.history.damage.is_empty(),
        IntegrityResult::NotRun => entry.history.inspected && entry.history.damage.is_empty(),
        IntegrityResult::Corrupt => false,
    }
}

/// Returns a size in MiB, which the old scripts called MB.
#[expect(clippy::cast_precision_loss, reason = "four decimals are kept")]
fn megabytes(bytes: u64) -> f64 {
    rounded(bytes as f64 / 1_048_576.0)
}

#[expect(clippy::cast_precision_loss, reason = "four decimals are kept")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { rounded(part as f64 / whole as f64) }
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// Returns a text as one field of a log line.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("\"{}\"", printable(text).replace('"', "'")),
    }
}
