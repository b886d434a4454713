//! What lies beside the files with contents: checksums, manifests and metadata, ours and those of backup scripts.

use std::collections::BTreeMap;

use dbkeep_repo::Id;
use serde::Deserialize;

use super::json::{GitFacts, Metadata};
use crate::export::CSV_FORMAT;

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
    /// Something that says nothing about other files.
    Other,
    /// It cannot be read.
    Unreadable(String),
}

/// A line of a checksum file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SumLine {
    pub(super) sha256: Id,
    pub(super) name: String,
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
    name.ends_with(".sha256")
        || name.ends_with(".meta.json")
        || matches!(name, "SHA256SUMS" | "backup_manifest.json" | "backup_report.json" | "metadata.json")
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

/// Reads a document by its name.
pub(super) fn read(path: &str, bytes: &[u8]) -> Document {
    let name = base(path);
    if name.ends_with(".sha256") || name == "SHA256SUMS" {
        return sums(bytes);
    }
    let parsed = match name {
        "backup_manifest.json" => {
            serde_json::from_slice(bytes).map(|manifest| Document::Manifest(Box::new(manifest)))
        }
        "backup_report.json" => serde_json::from_slice(bytes).map(|_: serde::de::IgnoredAny| Document::Other),
        "metadata.json" => serde_json::from_slice(bytes).map(|metadata: Metadata| match &metadata.format {
            Some(format) if format == CSV_FORMAT => Document::Csv(Box::new(metadata)),
            _ => Document::Other,
        }),
        _ if is_script_metadata(name) => {
            serde_json::from_slice(bytes).map(|script| Document::Script(Box::new(script)))
        }
        _ => serde_json::from_slice(bytes).map(|meta| Document::Meta(Box::new(meta))),
    };
    parsed.unwrap_or_else(|error| Document::Unreadable(format!("it cannot be read: {error}")))
}

/// Reads lines of a hash, a space, a space or a star, and a name.
fn sums(bytes: &[u8]) -> Document {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Document::Unreadable("it is no checksum file: it is not text".to_owned());
    };
    let line = |line: &str| {
        let (hash, name) = line.split_at_checked(64)?;
        let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *"))?;
        Some(SumLine { sha256: hash.parse().ok()?, name: name.to_owned() })
    };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let sums: Option<Vec<SumLine>> = lines.iter().map(|one| line(one)).collect();
    match sums {
        Some(sums) if !sums.is_empty() => Document::Sums(sums),
        _ => Document::Unreadable("it is no checksum file of SHA-256".to_owned()),
    }
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
        let text = format!("{hash}  a b.db\n{hash} *c.db\n");
        let Document::Sums(lines) = read("x.sha256", text.as_bytes()) else { panic!() };
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["a b.db", "c.db"]);
        for text in ["", "short  a", "not a hash", &hash[..63], &format!("{hash} a")] {
            assert!(matches!(read("SHA256SUMS", text.as_bytes()), Document::Unreadable(_)), "{text}");
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
