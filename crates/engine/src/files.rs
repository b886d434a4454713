//! Looks at plain files: what `export` wrote, and what the scripts left that people had before dbkeep.
//!
//! A file says what it holds by its contents, not by its name; a directory or an archive is looked at file by file.
//! Checksums, manifests and metadata that lie beside are compared with what is found. No repository is needed, and
//! nothing is changed: what has to be unpacked goes into unnamed temporary files.

mod collect;
mod content;
mod documents;
mod foreign;
mod json;
mod judge;
mod proof;
mod server;
mod spool;

use std::path::{Path, PathBuf};

use crate::context::Watch;
use crate::environment::Environment;
use crate::report::{CheckedFile, FileFacts, FilesReport, VerifyStatus};
use crate::{Error, Result};

use collect::Collector;

/// Says whether a word of the command line means a file, and not a snapshot.
///
/// What can be a snapshot is one: hexadecimal digits, `latest`, `latest~N`. A file of such a name is meant by a path
/// with a slash.
pub fn is_file(word: &str, environment: &Environment) -> bool {
    let is_snapshot = word.is_empty()
        || word == "latest"
        || word.starts_with("latest~")
        || (word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if is_snapshot {
        return false;
    }
    word.contains('/') || word.contains('.') || environment.resolve_argument(Path::new(word)).exists()
}

/// Looks at files and directories, each with what lies beside it.
///
/// Damage is part of the report. An error means that something could not be read, or holds nothing that is known; of
/// several paths such a one is part of the report too, so that it hides nothing of the others.
pub fn verify(environment: &Environment, paths: &[PathBuf], watch: &Watch) -> Result<FilesReport> {
    let mut report = FilesReport { checked: Vec::new(), ok: 0, damaged: 0, files: Vec::new() };
    for path in paths {
        let path = environment.resolve_argument(path);
        match look_at(&path, watch) {
            Ok((holding, checked)) => {
                report.files.push(holding);
                report.checked.extend(checked);
            }
            Err(error @ Error::Cancelled) => return Err(error),
            Err(error) if paths.len() == 1 => return Err(error),
            Err(error) => report.checked.push(judge::not_judged(&path, &error)),
        }
    }
    report.ok = count(&report.checked, |status| status == VerifyStatus::Ok);
    report.damaged = report.checked.len() as u64 - report.ok;
    tracing::info!(
        job = "verify",
        event = "files-verified",
        ok = report.ok,
        damaged = report.damaged,
        "verified"
    );
    Ok(report)
}

fn look_at(path: &Path, watch: &Watch) -> Result<(FileFacts, Vec<CheckedFile>)> {
    let mut collector = Collector::new(watch);
    collector.look_at(path)?;
    let (holding, checked) = judge::judge(path, &collector.finish());
    if checked.is_empty() { Err(unknown(path)) } else { Ok((holding, checked)) }
}

fn count(checked: &[CheckedFile], wanted: impl Fn(VerifyStatus) -> bool) -> u64 {
    checked.iter().filter(|one| wanted(one.status)).count() as u64
}

/// Returns the error for something that holds no database in a form that is known.
fn unknown(path: &Path) -> Error {
    let is_repository = ["config", "keys", "snapshots", "index"].iter().all(|name| path.join(name).exists());
    let hint = if is_repository {
        "that is a repository: `dbkeep check` looks at it".to_owned()
    } else {
        "known are directories and archives of an export, .db, .db.gz, SQL text (of pg_dump too), JSON, NDJSON and CSV, and what backup scripts make of them".to_owned()
    };
    Error::Unsupported {
        what: format!("{} holds no database in a form that is known", path.display()),
        hint: Some(hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_that_can_be_a_snapshot_is_one() {
        let root = tempfile::tempdir().unwrap();
        let environment = Environment::isolated(root.path());
        std::fs::create_dir_all(&environment.working_directory).unwrap();
        for word in ["latest", "latest~3", "4f2a91c0", "beef", ""] {
            assert!(!is_file(word, &environment), "{word}");
        }
        for word in ["./beef", "app.db", "exports/backup_20260102_030405", "latest.db"] {
            assert!(is_file(word, &environment), "{word}");
        }
        assert!(!is_file("exported", &environment));
        std::fs::create_dir(environment.working_directory.join("exported")).unwrap();
        assert!(is_file("exported", &environment));
    }
}
