//! Examines a SQLite file: it is captured as a backup would, and let go.

use std::path::Path;

use dbkeep_sqlite::capture::{Capture, CaptureOptions};
use dbkeep_sqlite::header::Header;
use dbkeep_sqlite::identify::{Kind, Siblings, canonical, kind_of};

use crate::Result;
use crate::report::{Finding, Severity};

/// A log below this is never too long.
const SHORT_LOG: u64 = 64 << 20;

/// Folders that a program copies to another place while applications write into them, by parts of their names.
const SYNCED: [(&str, &str); 10] = [
    ("dropbox", "Dropbox"),
    ("onedrive", "OneDrive"),
    ("google drive", "Google Drive"),
    ("googledrive", "Google Drive"),
    ("my drive", "Google Drive"),
    ("com~apple~clouddocs", "iCloud Drive"),
    ("icloud drive", "iCloud Drive"),
    ("nextcloud", "Nextcloud"),
    ("owncloud", "ownCloud"),
    ("pcloud", "pCloud"),
];

/// Modules of virtual tables that every SQLite has.
const BUILT_IN: [&str; 6] = ["fts3", "fts4", "fts5", "rtree", "rtree_i32", "geopoly"];

/// Examines it. `free` are the bytes where it would be stored.
pub(super) fn examine(path: &Path, free: Option<u64>) -> Result<Vec<Finding>> {
    let path = canonical(path)?;
    let header = match kind_of(&path)? {
        Kind::Database(header) => header,
        kind => return Ok(vec![not_a_database(&path, &kind)?]),
    };
    let siblings = Siblings::of(&path)?;
    let options = CaptureOptions::default();
    let mut capture = Capture::open(&path, &options)?;
    let mut findings = vec![sound(&header, &capture)];
    if let Some(damage) = capture.damage() {
        findings.push(
            Finding::new(Severity::Problem, "file", format!("it is damaged: {damage}"))
                .advise("`dbkeep verify` the last good backup, and restore it"),
        );
    }
    findings.extend(
        capture.warnings().iter().map(|warning| Finding::new(Severity::Warning, "file", warning.clone())),
    );
    findings.extend(log(siblings, capture.size()));
    findings.extend(synced_folder(&path));
    findings.extend(modules(&mut capture)?);
    findings.extend(room(capture.size(), free));
    findings.push(
        Finding::new(
            Severity::Note,
            "integrity",
            "whether every page is sound was not looked at; a backup does that",
        )
        .advise("dbkeep backup --verify full"),
    );
    Ok(findings)
}

fn not_a_database(path: &Path, kind: &Kind) -> Result<Finding> {
    let problem = |message: &str| Finding::new(Severity::Problem, "file", message);
    Ok(match kind {
        Kind::Empty => {
            Finding::new(Severity::Note, "file", "it is empty: to SQLite a database without tables")
        }
        Kind::Damaged(what) => problem(&format!("its header is damaged: {what}"))
            .advise("a backup stores it as it is, and calls it corrupt; restore the last good one"),
        Kind::Encrypted => problem("it is no SQLite database, or an encrypted one, which cannot be read")
            .advise("back up what the program that has the key exports"),
        Kind::Missing => return Err(dbkeep_sqlite::Error::Missing { path: path.to_owned() }.into()),
        _ => problem("it is no SQLite database").advise("give the path of the database file"),
    })
}

fn sound(header: &Header, capture: &Capture) -> Finding {
    let journal = if header.is_wal() { "a write-ahead log" } else { "a rollback journal" };
    let message = format!(
        "SQLite database of {} with {journal}, read {}",
        size(capture.size()),
        match capture.method() {
            dbkeep_sqlite::capture::Method::LockedImage =>
                "under its read lock while applications write".to_owned(),
            method => format!("as {method}"),
        }
    );
    Finding::new(Severity::Ok, "file", message)
}

/// A log that grows without end is one that nobody can begin anew, or that was left.
pub(super) fn log(siblings: Siblings, database: u64) -> Option<Finding> {
    let wal = siblings.wal.filter(|wal| *wal > SHORT_LOG.max(database / 2))?;
    let message = format!("its write-ahead log has {}: something keeps it from beginning anew", size(wal));
    Some(
        Finding::new(Severity::Warning, "log", message)
            .advise("end readers that stay open, then PRAGMA wal_checkpoint(TRUNCATE)"),
    )
}

fn synced_folder(path: &Path) -> Option<Finding> {
    let names = path.parent()?.components().map(|part| part.as_os_str().to_string_lossy().to_lowercase());
    let is = |name: &str, part: &str| {
        name == part || name.strip_prefix(part).is_some_and(|rest| rest.starts_with([' ', '-', '_']))
    };
    let mut found = names.filter_map(|name| SYNCED.iter().find(|(part, _)| is(&name, part)));
    let (_, service) = found.next()?;
    let message = format!(
        "it lies in a folder of {service}, which copies database and log at different moments and can damage both"
    );
    Some(
        Finding::new(Severity::Warning, "folder", message)
            .advise("keep the database elsewhere; a dbkeep repository may lie in such a folder"),
    )
}

/// Virtual tables whose modules an application brings along: their rows are there only with it.
fn modules(capture: &mut Capture) -> Result<Option<Finding>> {
    let query = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'";
    let read = |connection: &rusqlite::Connection| -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(query)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.collect()
    };
    let declared = match (capture.connection().map(read), capture.damage()) {
        (Some(declared), _) => declared,
        (None, Some(_)) => return Ok(None),
        (None, None) => match capture.inspection()? {
            Some(connection) => read(&connection),
            None => return Ok(None),
        },
    };
    let Ok(declared) = declared else {
        return Ok(Some(
            Finding::new(Severity::Problem, "schema", "it cannot be read")
                .advise("dbkeep backup --verify full"),
        ));
    };
    let mut foreign: Vec<String> = declared
        .iter()
        .filter_map(|sql| module(sql))
        .filter(|name| !BUILT_IN.contains(&name.as_str()))
        .collect();
    foreign.sort();
    foreign.dedup();
    Ok((!foreign.is_empty()).then(|| {
        let message = format!(
            "it has virtual tables whose modules an application brings along: {}",
            foreign.join(", ")
        );
        Finding::new(Severity::Note, "schema", message).advise(
            "a backup has all of the file; to query such tables after a restore, load the same extensions",
        )
    }))
}

/// Returns the module of a virtual table.
fn module(sql: &str) -> Option<String> {
    let lower = sql.to_lowercase();
    let after = lower.split_once(" using ")?.1.trim_start();
    let end = after
        .find(|character: char| !(character.is_alphanumeric() || character == '_'))
        .unwrap_or(after.len());
    Some(after[..end].to_owned()).filter(|name| !name.is_empty())
}

fn room(database: u64, free: Option<u64>) -> Option<Finding> {
    let free = free.filter(|free| *free < database)?;
    let message = format!("it has {}, and where it would be stored {} are free", size(database), size(free));
    Some(
        Finding::new(Severity::Warning, "space", message)
            .advise("a first backup may need as much as the database has"),
    )
}

/// Returns a size for people.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = bytes;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    while rest >= 1024 * 1024 && unit < 3 {
        rest /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", rest / 1024, rest % 1024 * 10 / 1024, units[unit])
}
