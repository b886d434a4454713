//! What can be wrong with a file and its surroundings is found.

use std::path::Path;

use dbkeep_sqlite::identify::Siblings;
use rusqlite::Connection;

use super::file;
use crate::report::{Finding, Health, Severity};

fn examined(path: &Path, free: Option<u64>) -> Vec<Finding> {
    file::examine(path, free).unwrap()
}

fn about<'f>(findings: &'f [Finding], subject: &str) -> Vec<&'f Finding> {
    findings.iter().filter(|finding| finding.subject == subject).collect()
}

#[test]
fn file_in_a_folder_that_is_synced_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for (name, service) in [
        ("Dropbox", Some("Dropbox")),
        ("OneDrive - Company", Some("OneDrive")),
        ("com~apple~CloudDocs", Some("iCloud Drive")),
        ("Google Drive", Some("Google Drive")),
        ("dropboxes", None),
        ("data", None),
    ] {
        let inner = folder.path().join(name).join("app");
        std::fs::create_dir_all(&inner).unwrap();
        let path = inner.join("app.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let findings = examined(&path, None);
        let messages: Vec<&String> =
            about(&findings, "folder").iter().map(|finding| &finding.message).collect();
        assert_eq!(messages.len(), usize::from(service.is_some()), "{name}");
        assert!(service.is_none_or(|service| messages[0].contains(service)), "{messages:?}");
        let health = if service.is_some() { Health::Warning } else { Health::Ok };
        assert_eq!(Health::of(&findings), health, "{findings:?}");
    }
}

#[test]
fn modules_that_applications_bring_along_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE VIRTUAL TABLE texts USING fts5(body); PRAGMA writable_schema = on;
             INSERT INTO sqlite_schema VALUES ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING vec0(x float[3])');
             INSERT INTO sqlite_schema VALUES ('table', 's', 's', 0, 'CREATE VIRTUAL TABLE s using  Spell');
             PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(connection);
    let findings = examined(&path, None);
    let schema = about(&findings, "schema");
    assert_eq!(schema.len(), 1, "{findings:?}");
    assert_eq!(schema[0].severity, Severity::Note);
    assert_eq!(
        schema[0].message,
        "it has virtual tables whose modules an application brings along: spell, vec0"
    );
}

#[test]
fn mode_of_the_journal_and_a_log_that_grows_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
    let findings = examined(&path, None);
    let file = about(&findings, "file")[0];
    assert!(file.message.contains("with a write-ahead log, read under its read lock"), "{findings:?}");
    assert!(about(&findings, "log").is_empty());
    let log = |wal, database| file::log(Siblings { wal: Some(wal), ..Siblings::default() }, database);
    assert_eq!(log(64 << 20, 0), None);
    assert_eq!(log(1 << 30, 2 << 30), None, "half of a large database is a long transaction");
    let long = log((1 << 30) + 1, 2 << 30).unwrap();
    assert_eq!(long.severity, Severity::Warning);
    assert_eq!(long.message, "its write-ahead log has 1.0 GiB: something keeps it from beginning anew");
    assert_eq!(
        long.advice.as_deref(),
        Some("end readers that stay open, then PRAGMA wal_checkpoint(TRUNCATE)")
    );
}

#[test]
fn file_that_an_affected_sqlite_wrote_or_that_will_not_fit_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
    assert_eq!(Health::of(&examined(&path, Some(1 << 30))), Health::Ok);
    let space = examined(&path, Some(1000));
    assert_eq!(
        about(&space, "space")[0].message,
        "it has 8.0 KiB, and where it would be stored 1000 B are free"
    );
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[96..100].copy_from_slice(&3_040_001_u32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let findings = examined(&path, None);
    let warning = about(&findings, "file")[1];
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.message.contains("was last written by SQLite 3.40.1, which can damage"), "{findings:?}");
}

#[test]
fn what_is_no_sound_database_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let found = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let findings = examined(&path, None);
        assert_eq!(findings.len(), 1, "{findings:?}");
        (findings[0].severity, findings[0].message.clone())
    };
    assert_eq!(found(b""), (Severity::Note, "it is empty: to SQLite a database without tables".to_owned()));
    assert_eq!(found(b"Dear friend"), (Severity::Problem, "it is no SQLite database".to_owned()));
    let mut damaged = vec![0; 4096];
    damaged[..16].copy_from_slice(b"SQLite format 3\0");
    let (severity, message) = found(&damaged);
    assert_eq!(severity, Severity::Problem);
    assert!(message.starts_with("its header is damaged: "), "{message}");
}

#[test]
fn sizes_are_for_people() {
    let sizes = [0, 1023, 1024, 8192, 3 << 29, 5 << 40, 2000 << 40].map(file::size);
    assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "8.0 KiB", "1.5 GiB", "5.0 TiB", "2000.0 TiB"]);
}
