//! What lies beside the files with contents: checksums, manifests and metadata, ours and those of backup scripts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dbkeep_repo::Id;
use serde::Deserialize;

use super::json::{GitFacts, Metadata};
use super::server;
use crate::export::{CSV_FORMAT, SERVED_CSV_FORMAT};
use crate::{Error, Result};

/// A document that tells of other files.
#[derive(Debug)]
pub(super) enum Document {
    /// Checksums, as `sha256sum` writes them.
    Sums(Vec<SumLine>),
    /// `manifests/backup_manifest.json`.
    Manifest(Box<Manifest>),
    /// `<file>.meta.json`.
    Meta(Box<Meta>),
    /// `backup-metadata.<time>.json`.
    Script(Box<Script>),
    /// `metadata.json` of a directory of CSV files.
    Csv(Box<Metadata>),
    /// `manifest.json` of the files of a snapshot of a server.
    Served(Box<crate::manifest::Manifest>),
    /// Something that says nothing about other files.
    Other,
    /// It cannot be read.
    Unreadable(String),
}

/// A line of a checksum file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SumLine {
    pub(super) sha256: Id,
    /// `None` for a hash alone, which is of the file that the checksum file is named after.
    pub(super) name: Option<String>,
}

/// The manifest of a bundle: ours, or that of a script which made such directories before.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: Option<String>,
    pub(super) dbkeep: Option<String>,
    pub(super) backup_session: String,
    pub(super) backup_date: Option<String>,
    pub(super) user: Option<String>,
    pub(super) host: Option<String>,
    pub(super) git: Option<GitFacts>,
    pub(super) databases: BTreeMap<String, ManifestEntry>,
    /// The databases of the session that were gone when it was exported.
    #[serde(default)]
    pub(super) missing: Vec<Missing>,
}

/// A database that is not in an export.
#[derive(Debug, Deserialize)]
pub(super) struct Missing {
    pub(super) database: String,
    pub(super) status: String,
}

/// A database in a manifest.
#[derive(Debug, Deserialize)]
pub(super) struct ManifestEntry {
    pub(super) success: bool,
    #[serde(default)]
    pub(super) tables: Vec<String>,
    pub(super) table_record_counts: Option<BTreeMap<String, u64>>,
    pub(super) total_records: Option<u64>,
    pub(super) integrity_check: Option<bool>,
    #[serde(default)]
    pub(super) backup_path: String,
    #[serde(default)]
    pub(super) backup_hash: String,
    pub(super) original_hash: Option<String>,
    pub(super) backup_size_bytes: Option<u64>,
    pub(super) snapshot: Option<Id>,
    pub(super) status: Option<String>,
    pub(super) error: Option<String>,
}

/// What a script wrote beside each backup.
#[derive(Debug, Deserialize)]
pub(super) struct Meta {
    pub(super) timestamp: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) filename: Option<String>,
    pub(super) size_bytes: Option<u64>,
    pub(super) checksum: Option<String>,
    #[serde(default)]
    pub(super) database_stats: Stats,
}

/// What a script counted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    pub(super) tables: BTreeMap<String, u64>,
}

/// What a script wrote once for all files of a backup.
#[derive(Debug, Deserialize)]
pub(super) struct Script {
    pub(super) timestamp: String,
    pub(super) date: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) user: Option<String>,
    pub(super) git_branch: Option<String>,
    pub(super) git_commit: Option<String>,
}

/// Says whether a file of this name tells of others.
pub(super) fn is_document(path: &str) -> bool {
    let name = base(path);
    is_sums(name)
        || name.ends_with(".meta.json")
        || matches!(name, "backup_manifest.json" | "backup_report.json" | "metadata.json" | "manifest.json")
        || is_script_metadata(name)
}

fn is_script_metadata(name: &str) -> bool {
    name.starts_with("backup-metadata.") && name.ends_with(".json")
}

/// Returns the names of files that may lie beside a single one and tell of it.
pub(super) fn beside(name: &str) -> Vec<String> {
    let mut names = vec![format!("{name}.sha256"), format!("{name}.meta.json")];
    if let Some((_, time)) = name.split_once(".backup.") {
        names.push(format!("backup-metadata.{time}.json"));
    }
    names
}

/// Returns the file that is looked at where `path` is given: of a document that is of one file, that file.
///
/// One that tells of many files says nothing without the directory that they are in, unless it names each.
pub(super) fn target(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = [".sha256", ".meta.json"].iter().find_map(|ending| name.strip_suffix(ending));
    if let Some(target) = beside.map(|name| path.with_file_name(name)).filter(|target| target.is_file()) {
        return Ok(target);
    }
    match is_document(&name) && !is_sums(&name) {
        false => Ok(path.to_owned()),
        true => Err(Error::Unsupported {
            what: format!("{} tells of other files and holds none", path.display()),
            hint: Some("verify the directory that it is of".to_owned()),
        }),
    }
}

/// Returns the files that a checksum file names by paths that lead nowhere but down from where it is.
pub(super) fn named(document: &Document) -> Vec<String> {
    let Document::Sums(lines) = document else { return Vec::new() };
    let is_below = |name: &&String| {
        Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    lines.iter().filter_map(|line| line.name.as_ref()).filter(is_below).cloned().collect()
}

fn is_sums(name: &str) -> bool {
    name.ends_with(".sha256") || name == "SHA256SUMS"
}

/// Reads a document by its name.
pub(super) fn read(path: &str, bytes: &[u8]) -> Document {
    let name = base(path);
    if is_sums(name) {
        return sums(bytes);
    }
    if name == crate::manifest::FILE {
        return server::manifest(bytes);
    }
    let parsed = match name {
        "backup_manifest.json" => {
            serde_json::from_slice(bytes).map(|manifest| Document::Manifest(Box::new(manifest)))
        }
        "backup_report.json" => serde_json::from_slice(bytes).map(|_: serde::de::IgnoredAny| Document::Other),
        "metadata.json" => match serde_json::from_slice(bytes) {
            Ok(Marked { format }) if [CSV_FORMAT, SERVED_CSV_FORMAT].contains(&format.as_str()) => {
                serde_json::from_slice(bytes).map(|metadata| Document::Csv(Box::new(metadata)))
            }
            // That of another program, which has its own fields.
            _ => serde_json::from_slice(bytes).map(|_: serde::de::IgnoredAny| Document::Other),
        },
        _ if is_script_metadata(name) => {
            serde_json::from_slice(bytes).map(|script| Document::Script(Box::new(script)))
        }
        _ => serde_json::from_slice(bytes).map(|meta| Document::Meta(Box::new(meta))),
    };
    parsed.unwrap_or_else(|error| Document::Unreadable(format!("it cannot be read: {error}")))
}

/// A document of ours.
#[derive(Deserialize)]
struct Marked {
    format: String,
}

/// Reads the lines of a checksum file.
fn sums(bytes: &[u8]) -> Document {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Document::Unreadable("it is no checksum file: it is not text".to_owned());
    };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let sums: Option<Vec<SumLine>> = lines.iter().map(|line| sum_line(line)).collect();
    match sums {
        Some(sums) if !sums.is_empty() => Document::Sums(sums),
        _ => Document::Unreadable("it is no checksum file of SHA-256".to_owned()),
    }
}

/// Reads a hash, a space, a space or a star, and a name; a hash alone; or `SHA256 (name) = hash`.
fn sum_line(line: &str) -> Option<SumLine> {
    if let Some((name, hash)) = line.strip_prefix("SHA256 (").and_then(|rest| rest.rsplit_once(") = ")) {
        return Some(SumLine { sha256: hash.trim_end().parse().ok()?, name: Some(plain(name)) });
    }
    // So are lines marked in which a backslash or a line end of the name is written as two characters.
    let (line, is_escaped) = line.strip_prefix('\\').map_or((line, false), |line| (line, true));
    let (hash, name) = line.split_at_checked(64)?;
    let sha256 = hash.parse().ok()?;
    if name.trim().is_empty() {
        return Some(SumLine { sha256, name: None });
    }
    let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *"))?;
    let name = if is_escaped { unescaped(name)? } else { name.to_owned() };
    Some(SumLine { sha256, name: Some(plain(&name)) })
}

/// Returns a path without the `./` that `find` puts before it.
fn plain(name: &str) -> String {
    name.strip_prefix("./").unwrap_or(name).to_owned()
}

fn unescaped(name: &str) -> Option<String> {
    let mut plain = String::with_capacity(name.len());
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

/// Returns the name of a file without its directory.
pub(super) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the directory of a file, with a slash at the end; empty at the top.
pub(super) fn directory(path: &str) -> &str {
    path.rfind('/').map_or("", |end| &path[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_files_are_read_as_sha256sum_writes_them() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text = format!(
            "{hash}  a b.db\n{hash} *c.db\r\n\\{hash}  a\\\\b\\n.db\n{hash}  ./d/e.db\nSHA256 (f (1).db) = {hash}\n{hash}\n"
        );
        let Document::Sums(lines) = read("x.sha256", text.as_bytes()) else { panic!() };
        let names: Vec<Option<&str>> = lines.iter().map(|line| line.name.as_deref()).collect();
        let expected = ["a b.db", "c.db", "a\\b\n.db", "d/e.db", "f (1).db"].map(Some);
        assert_eq!((&names[..5], names[5]), (&expected[..], None));
        for text in ["", "short  a", "not a hash", &hash[..63], &format!("{hash} a"), "SHA256 (a) = 00"] {
            assert!(matches!(read("SHA256SUMS", text.as_bytes()), Document::Unreadable(_)), "{text}");
        }
    }

    #[test]
    fn metadata_of_another_program_is_let_be_and_damaged_one_of_ours_is_told() {
        let read = |text: &str| read("metadata.json", text.as_bytes());
        assert!(matches!(read("{\"format\":7,\"notes\":\"none\"}"), Document::Other));
        assert!(matches!(read("[1]"), Document::Other));
        assert!(matches!(read("{\"format\":\"dbkeep csv 1\"}"), Document::Csv(_)));
        for text in ["{\"format\":\"dbkeep csv 1\",\"notes\":7}", "{\"format\":\"dbkeep csv 1\""] {
            assert!(matches!(read(text), Document::Unreadable(_)), "{text}");
        }
    }

    #[test]
    fn names_tell_what_belongs_together() {
        assert_eq!(
            beside("app.db.backup.20250116-120000"),
            [
                "app.db.backup.20250116-120000.sha256",
                "app.db.backup.20250116-120000.meta.json",
                "backup-metadata.20250116-120000.json"
            ]
        );
        assert_eq!((base("a/b/c"), directory("a/b/c"), directory("c")), ("c", "a/b/", ""));
    }
}
