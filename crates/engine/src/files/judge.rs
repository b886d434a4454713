//! Puts together what was found: for each database, and each other file whose checksum is wrong, one answer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;

use dbkeep_repo::Id;

use super::collect::{Collected, Holding, Item};
use super::content::{Form, stem};
use super::documents::{Document, Manifest, ManifestEntry, Meta, SumLine, base, directory, is_document};
use super::{json, server};
use crate::report::{CheckedFile, FileFacts, VerifyStatus};
use crate::{Error, export, session};

/// Returns what a path holds as a whole, and an answer for each database in it.
pub(super) fn judge(path: &Path, found: &Collected) -> (FileFacts, Vec<CheckedFile>) {
    let judge = Judge::new(found);
    let mut facts = judge.facts(path);
    facts.notes.extend(judge.not_looked_at());
    let mut checked = Vec::new();
    let mut met = BTreeSet::new();
    for item in &found.items {
        let Some(holding) = &item.holding else { continue };
        // Rows alone are of no database that is known.
        let is_alone = matches!(holding.form, Form::Copy | Form::Gzip("copy.gz"))
            || matches!(holding.proof, Some(server::Proof::Archive { .. } | server::Proof::Catalog(_)));
        if judge.is_part_of_csv(item) || server::is_part(found, item) || is_alone {
            continue;
        }
        met.insert(item.path.as_str());
        checked.push(judge.database(item, holding, &facts));
    }
    checked.extend(judge.csv_exports(&mut met));
    checked.extend(judge.snapshots(&mut met));
    checked.extend(judge.absent());
    checked.extend(judge.other_files(&met));
    (facts, checked)
}

/// Returns the answer for a path of which nothing can be said, but why.
pub(super) fn not_judged(path: &Path, error: &Error) -> CheckedFile {
    let is_missing = fs::symlink_metadata(path).is_err();
    let mut causes = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        causes = format!("{causes}: {source}");
    }
    CheckedFile {
        status: if is_missing { VerifyStatus::Missing } else { VerifyStatus::Damaged },
        findings: vec![causes],
        ..nothing_known(path.display().to_string())
    }
}

fn nothing_known(file: String) -> CheckedFile {
    CheckedFile {
        snapshot: None,
        database: String::new(),
        status: VerifyStatus::Ok,
        findings: Vec::new(),
        file,
        form: "file".to_owned(),
        tables: Vec::new(),
        rows: 0,
        bytes: None,
        sha256: None,
        checksum: "none".to_owned(),
        integrity: "not run".to_owned(),
        cannot_hold: Vec::new(),
        notes: Vec::new(),
    }
}

struct Judge<'f> {
    found: &'f Collected,
    items: HashMap<&'f str, &'f Item>,
    /// What checksum files say of each file, with their paths.
    sums: BTreeMap<String, Vec<(&'f str, Id)>>,
    /// What scripts wrote beside single files, by its path.
    metas: HashMap<&'f str, &'f Meta>,
    /// Why documents cannot be read, by their paths.
    unreadable: HashMap<&'f str, &'f str>,
}

impl<'f> Judge<'f> {
    fn new(found: &'f Collected) -> Self {
        let items: HashMap<&str, &Item> = found.items.iter().map(|item| (item.path.as_str(), item)).collect();
        let mut sums: BTreeMap<String, Vec<(&str, Id)>> = BTreeMap::new();
        let (mut metas, mut unreadable) = (HashMap::new(), HashMap::new());
        for (path, contents) in &found.documents {
            match contents {
                Document::Sums(lines) => {
                    for (target, sha256) in targets(path, lines, &|path| items.contains_key(path)) {
                        sums.entry(target).or_default().push((path, sha256));
                    }
                }
                Document::Meta(meta) => _ = metas.insert(path.as_str(), &**meta),
                Document::Unreadable(why) => _ = unreadable.insert(path.as_str(), why.as_str()),
                _ => {}
            }
        }
        Self { found, items, sums, metas, unreadable }
    }

    /// Says what is there and was not looked at, or holds nothing that is known here.
    fn not_looked_at(&self) -> Vec<String> {
        const MOST: usize = 20;
        let mut notes: Vec<String> = self
            .found
            .logs
            .iter()
            .map(|log| format!("{log} lies beside it: the changes in it were not looked at"))
            .collect();
        let is_known = |item: &&Item| {
            item.holding.is_some()
                || item.is_archive
                || is_document(&item.path)
                || self.sums.contains_key(&item.path)
                || self.found.logs.contains(&item.path)
        };
        let unknown: Vec<&Item> = self.found.items.iter().filter(|item| !is_known(item)).collect();
        notes.extend(unknown.iter().take(MOST).map(|item| format!("{} holds no database", item.path)));
        if unknown.len() > MOST {
            notes.push(format!("{} more files hold no database", unknown.len() - MOST));
        }
        notes
    }

    fn manifests(&self) -> impl Iterator<Item = (&str, &Manifest)> {
        self.found.documents.iter().filter_map(|(path, document)| match document {
            Document::Manifest(manifest) => Some((path.as_str(), &**manifest)),
            _ => None,
        })
    }

    /// Says who wrote it, when and where.
    fn facts(&self, path: &Path) -> FileFacts {
        let mut facts = FileFacts {
            path: path.display().to_string(),
            notes: self.found.notes.clone(),
            ..FileFacts::default()
        };
        if let Some((_, manifest)) = self.manifests().next() {
            facts.written_by = Some(match (&manifest.format, &manifest.dbkeep) {
                (Some(format), Some(version)) if format == export::BUNDLE_FORMAT => {
                    format!("dbkeep {version}")
                }
                _ => "a backup script (backup_manifest.json)".to_owned(),
            });
            facts.session = Some(manifest.backup_session.clone());
            facts.time = manifest.backup_date.clone();
            facts.user = manifest.user.clone();
            facts.host = manifest.host.clone();
            facts.git_branch = manifest.git.as_ref().and_then(|git| git.branch.clone());
            facts.git_commit = manifest.git.as_ref().and_then(|git| git.commit.clone());
            facts.notes.extend(manifest.missing.iter().map(|one| {
                format!("{} of this session is not in it: its snapshot was {}", one.database, one.status)
            }));
            return facts;
        }
        let known = |text: &Option<String>| text.clone().filter(|text| text != "N/A" && !text.is_empty());
        for (_, document) in &self.found.documents {
            match document {
                Document::Script(script) => {
                    facts.written_by = Some("a backup script (backup-metadata)".to_owned());
                    facts.session = Some(script.timestamp.clone());
                    facts.time = known(&script.date);
                    facts.user = known(&script.user);
                    facts.host = known(&script.hostname);
                    facts.git_branch = known(&script.git_branch);
                    facts.git_commit = known(&script.git_commit);
                    return facts;
                }
                Document::Meta(meta) if self.found.is_single => {
                    facts.written_by = Some("a backup script (.meta.json)".to_owned());
                    facts.time = meta.timestamp.clone();
                    facts.notes.extend(meta.kind.iter().map(|kind| format!("it is a {kind} backup")));
                    return facts;
                }
                Document::Meta(_) => facts.written_by = Some("a backup script (.meta.json)".to_owned()),
                _ => {}
            }
        }
        let own = self.found.items.iter().find_map(|item| item.holding.as_ref()?.metadata.as_ref());
        let csv = self.found.documents.iter().find_map(|(_, document)| match document {
            Document::Csv(metadata) => Some(&**metadata),
            _ => None,
        });
        if let Some(metadata) = own.or(csv) {
            facts.written_by = metadata.dbkeep.as_ref().map(|version| format!("dbkeep {version}"));
            facts.session = metadata.session.clone();
            facts.time = metadata.moment.clone();
            facts.user = metadata.user.clone();
            facts.host = metadata.host.clone();
            facts.git_branch = metadata.git.as_ref().and_then(|git| git.branch.clone());
            facts.git_commit = metadata.git.as_ref().and_then(|git| git.commit.clone());
        }
        facts
    }

    /// Judges one file with a database in it.
    fn database(&self, item: &Item, holding: &Holding, facts: &FileFacts) -> CheckedFile {
        let mut checked = self.row(item);
        checked.database = database_name(item, holding);
        checked.form = holding.form.word().to_owned();
        checked.tables = holding.tables.clone();
        checked.rows = holding.tables.iter().map(|table| table.rows).sum();
        checked.integrity = holding.integrity.clone();
        checked.findings.extend(holding.findings.iter().cloned());
        checked.notes.extend(holding.notes.iter().cloned());
        checked.snapshot = holding.metadata.as_ref().and_then(|metadata| metadata.snapshot);
        for (path, manifest) in self.manifests() {
            compare_manifest(path, manifest, item, holding, &mut checked);
        }
        if let Some(meta) = self.metas.get(format!("{}.meta.json", item.path).as_str()) {
            compare_meta(meta, item, holding, &mut checked);
        }
        let by_script = facts.written_by.as_deref().is_some_and(|by| by.starts_with("a backup script"));
        let copies_the_file =
            by_script && !facts.written_by.as_deref().unwrap_or_default().contains(".meta.json");
        if copies_the_file && holding.is_wal {
            checked.notes.push(
                "the script copied the file alone: changes that were in a log beside it at that time are not in it"
                    .to_owned(),
            );
        }
        checked.cannot_hold = cannot_hold(holding);
        settle(checked)
    }

    /// Returns an answer that says what the checksums of a file say.
    fn row(&self, item: &Item) -> CheckedFile {
        let mut checked = CheckedFile {
            bytes: item.sum.map(|sum| sum.bytes),
            sha256: item.sum.map(|sum| sum.sha256),
            ..nothing_known(item.path.clone())
        };
        for (by, expected) in self.sums.get(&item.path).into_iter().flatten() {
            compare_hash(by, *expected, &mut checked);
        }
        checked
    }

    /// Returns an answer for each file that a checksum file or a manifest names and that is not there.
    fn absent(&self) -> Vec<CheckedFile> {
        let mut absent: BTreeMap<String, (String, String)> = BTreeMap::new();
        for (target, by) in self.sums.iter().filter(|(target, _)| !self.items.contains_key(target.as_str())) {
            let document = by.first().map_or("", |(document, _)| *document);
            absent.insert(target.clone(), (String::new(), format!("{document} names it")));
        }
        let directories =
            server::snapshots(self.found).map(|(path, _)| directory(path).trim_end_matches('/'));
        let names: HashSet<&str> =
            self.found.items.iter().map(|item| item.path.as_str()).chain(directories).map(base).collect();
        for (document, manifest) in self.manifests() {
            for (name, entry) in &manifest.databases {
                let file = base(&entry.backup_path);
                if entry.success && !names.contains(file) {
                    absent.insert(file.to_owned(), (name.clone(), format!("{document} names it")));
                } else if !entry.success {
                    let why = entry.error.as_deref().unwrap_or("no reason given");
                    absent.insert(name.clone(), (name.clone(), format!("its backup failed: {why}")));
                }
            }
        }
        // A database that the manifest names as well as a checksum file is told once.
        let named: BTreeSet<String> =
            absent.iter().filter(|(_, (name, _))| !name.is_empty()).map(|(file, _)| file.clone()).collect();
        absent.retain(|file, (name, _)| !name.is_empty() || !named.contains(base(file)));
        let missing = |(file, (database, why)): (String, (String, String))| CheckedFile {
            database,
            status: VerifyStatus::Missing,
            findings: vec![format!("it is not there: {why}")],
            ..self.row(&Item { path: file, sum: None, holding: None, is_archive: false })
        };
        absent.into_iter().map(missing).collect()
    }

    /// Returns an answer for each file without a database that is not what its checksum says, or cannot be read.
    fn other_files(&self, met: &BTreeSet<&str>) -> Vec<CheckedFile> {
        let mut answers = Vec::new();
        for item in self.found.items.iter().filter(|item| !met.contains(item.path.as_str())) {
            let mut checked = self.row(item);
            let unreadable = self.unreadable.get(item.path.as_str());
            checked.findings.extend(unreadable.map(|why| (*why).to_owned()));
            if item.sum.is_none() {
                checked.findings.push("it breaks off".to_owned());
            }
            if !checked.findings.is_empty() {
                answers.push(settle(checked));
            }
        }
        answers
    }

    /// Says whether a file is one table of a directory of CSV files, which is judged as a whole.
    fn is_part_of_csv(&self, item: &Item) -> bool {
        let is_csv = item.holding.as_ref().is_some_and(|holding| holding.form == Form::Csv);
        is_csv && self.csv_metadata().any(|(path, _)| directory(path) == directory(&item.path))
    }

    fn csv_metadata(&self) -> impl Iterator<Item = (&str, &super::json::Metadata)> {
        self.found.documents.iter().filter_map(|(path, document)| match document {
            Document::Csv(metadata) => Some((path.as_str(), &**metadata)),
            _ => None,
        })
    }

    /// Judges the files of snapshots of servers, each directory as one database.
    fn snapshots<'s>(&'s self, met: &mut BTreeSet<&'s str>) -> Vec<CheckedFile> {
        let mut answers = Vec::new();
        for (path, manifest) in server::snapshots(self.found) {
            let Some(item) = self.items.get(path) else { continue };
            met.insert(item.path.as_str());
            let below = directory(path);
            let mut checked = self.row(item);
            checked.database.clone_from(&manifest.database);
            checked.form = "postgres".to_owned();
            checked.integrity = manifest.integrity.summary();
            checked.notes.extend(manifest.notes.iter().cloned());
            if !self.items.contains_key(format!("{below}{}", export::SERVED_SUMS).as_str()) {
                checked.notes.push(server::not_compared());
            }
            let find = |path: &str| self.items.get(path).copied();
            let mut looked_at = BTreeSet::new();
            let (tables, findings) = server::compare(path, manifest, &find, &mut looked_at);
            for path in &looked_at {
                let Some(item) = find(path) else { continue };
                checked.findings.extend(self.row(item).findings);
                let Some(note) = server::of_unknown_archive(item) else { continue };
                checked.notes.push(note);
                if !self.sums.contains_key(&item.path) {
                    checked.integrity = "not run".to_owned();
                }
            }
            met.extend(looked_at);
            checked.rows = tables.iter().map(|table| table.rows).sum();
            checked.tables = tables;
            checked.findings.extend(findings);
            let directory = base(below.trim_end_matches('/'));
            for (document, bundle) in self.manifests() {
                let entry = bundle.databases.values().find(|entry| base(&entry.backup_path) == directory);
                let Some(entry) = entry else { continue };
                checked.snapshot = entry.snapshot;
                let sums = self.items.get(format!("{below}{}", export::SERVED_SUMS).as_str());
                let hash = sums.and_then(|item| item.sum).map(|sum| sum.sha256.to_string());
                if hash.as_deref() != Some(entry.backup_hash.as_str()) {
                    checked.findings.push(format!(
                        "{below}{} is not what {document} says: its SHA-256 is another one",
                        export::SERVED_SUMS
                    ));
                }
                if entry.total_records.is_some_and(|rows| rows != checked.rows) {
                    checked
                        .findings
                        .push(format!("there are {} rows, {document} says otherwise", checked.rows));
                }
            }
            answers.push(settle(checked));
        }
        answers
    }

    /// Judges directories of CSV files, each as one database.
    fn csv_exports<'s>(&'s self, met: &mut BTreeSet<&'s str>) -> Vec<CheckedFile> {
        let mut answers = Vec::new();
        for (path, metadata) in self.csv_metadata() {
            let Some(metadata_item) = self.items.get(path) else { continue };
            let mut checked = self.row(metadata_item);
            met.insert(metadata_item.path.as_str());
            checked.database = metadata.database.clone().unwrap_or_default();
            checked.snapshot = metadata.snapshot;
            checked.form = "csv".to_owned();
            checked.notes.extend(metadata.notes.iter().cloned());
            let files = metadata.files.clone().unwrap_or_default();
            if metadata.row_counts.is_none() {
                checked.findings.push("it does not say which tables there are".to_owned());
            }
            let counts = metadata.row_counts.clone().unwrap_or_default();
            for (table, rows) in &counts {
                let file = files.get(table).map(|file| format!("{}{file}", directory(path)));
                let item = file.as_ref().and_then(|file| self.items.get(file.as_str()).copied());
                let Some((item, holding)) = item.and_then(|item| Some((item, item.holding.as_ref()?))) else {
                    checked.findings.push(format!("the file of table {table:?} is not there"));
                    continue;
                };
                met.insert(item.path.as_str());
                checked.findings.extend(self.row(item).findings);
                let of_file = holding.findings.iter().map(|finding| format!("{}: {finding}", item.path));
                checked.findings.extend(of_file);
                let found = holding.tables.first().map_or(0, |one| one.rows);
                if found != *rows && holding.findings.is_empty() {
                    checked.findings.push(format!("table {table:?} has {found} rows, {path} says {rows}"));
                }
                checked.tables.push(crate::report::TableRows { name: table.clone(), rows: found });
            }
            checked.rows = checked.tables.iter().map(|table| table.rows).sum();
            let lost: &[&str] = if metadata.is_served() { &SERVED_ROWS } else { &TABLES_ONLY };
            checked.cannot_hold = lost.iter().map(|text| (*text).to_owned()).collect();
            answers.push(settle(checked));
        }
        answers
    }
}

/// What rows alone do not say, however complete they are.
const TABLES_ONLY: [&str; 2] =
    ["rowids that are in no column", "the layout of the file: free pages, journal mode"];

/// What rows alone do not say of a PostgreSQL database.
const SERVED_ROWS: [&str; 2] =
    ["large objects", "what is computed: generated columns and materialized views are made again"];

/// What readable JSON loses of it besides.
const SERVED_VALUES: [&str; 3] = [
    "zeros at the end of decimals, and white space in json",
    "the difference between NULL and a json value null",
    "types: texts, timestamps, bytea and arrays are strings all alike, and only the metadata tells them apart",
];

/// What JSON of other programs cannot hold, whatever they wrote.
const FOREIGN_JSON: [&str; 6] = [
    "the schema: types, keys, indexes, views and triggers cannot be brought back from it",
    "values that JSON has no word for: blobs, large whole numbers, infinities",
    "sequences, constraints, policies, owners and rights",
    "the precision of numbers: digits of decimals, and of whole numbers beyond 2^53 where the program had numbers of 64 bits",
    "timestamps beyond what their texts say: microseconds, time zones, infinity",
    "the difference between NULL and a value that was left out",
];

/// Says what no file of this form can hold.
fn cannot_hold(holding: &Holding) -> Vec<String> {
    let texts: &[&str] = match holding.form {
        Form::PostgresSql => &["rights on large objects"],
        Form::Gzip("sql.gz") if matches!(holding.proof, Some(server::Proof::Objects(_))) => {
            &["rights on large objects"]
        }
        Form::Sql | Form::Gzip("sql.gz") => &["the layout of the file: free pages, journal mode"],
        Form::Json | Form::Ndjson | Form::Gzip("json.gz" | "ndjson.gz") => {
            let metadata = holding.metadata.as_ref();
            match metadata.is_some_and(|metadata| metadata.schema.is_some()) {
                true if metadata.is_some_and(json::Metadata::is_readable) => {
                    return [&SERVED_ROWS[..], &SERVED_VALUES]
                        .concat()
                        .into_iter()
                        .map(str::to_owned)
                        .collect();
                }
                true if metadata.is_some_and(json::Metadata::is_served) => &SERVED_ROWS,
                true => &TABLES_ONLY,
                false => &FOREIGN_JSON,
            }
        }
        Form::Csv | Form::Gzip("csv.gz") => &[
            "the schema: types, keys, indexes, views and triggers cannot be brought back from it",
            "other tables",
        ],
        _ => &[],
    };
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Returns the name of the database: what the file says, else its own name without the session.
fn database_name(item: &Item, holding: &Holding) -> String {
    if let Some(name) = holding.metadata.as_ref().and_then(|metadata| metadata.database.clone()) {
        return name;
    }
    let stem = stem(&item.path);
    let without = stem.len().checked_sub(16).and_then(|end| Some((stem.get(..end)?, stem.get(end..)?)));
    let name = match without {
        Some((name, rest)) if rest.starts_with('_') && session::time_of(&rest[1..]).is_some() => name,
        _ => stem,
    };
    crate::name::decode(name).unwrap_or_else(|| name.to_owned())
}

/// Returns the files that a checksum file tells of.
///
/// `<file>.sha256` tells of the file beside it, whatever name is in it: some scripts hash the original, and name that.
fn targets(path: &str, lines: &[SumLine], is_there: &dyn Fn(&str) -> bool) -> Vec<(String, Id)> {
    let named = |line: &SumLine| line.name.as_ref().map(|name| format!("{}{name}", directory(path)));
    let beside = path.strip_suffix(".sha256");
    if let (Some(beside), [line]) = (beside, lines) {
        let other = named(line).filter(|name| !is_there(beside) && is_there(name));
        return vec![(other.unwrap_or_else(|| beside.to_owned()), line.sha256)];
    }
    let target = |line: &SumLine| Some((named(line).or_else(|| beside.map(str::to_owned))?, line.sha256));
    lines.iter().filter_map(target).collect()
}

fn compare_hash(by: &str, expected: Id, checked: &mut CheckedFile) {
    if checked.sha256 == Some(expected) {
        if checked.checksum == "none" {
            checked.checksum = "ok".to_owned();
        }
        return;
    }
    checked.checksum = "wrong".to_owned();
    checked.findings.push(format!("{} is not what {by} says: its SHA-256 is another one", checked.file));
}

fn compare_text_hash(by: &str, expected: &str, checked: &mut CheckedFile) {
    match expected.parse() {
        Ok(expected) => compare_hash(by, expected, checked),
        Err(_) => checked.findings.push(format!("{by} has {expected:?} where a SHA-256 should be")),
    }
}

/// Compares a database with what a manifest says of it.
fn compare_manifest(
    path: &str,
    manifest: &Manifest,
    item: &Item,
    holding: &Holding,
    checked: &mut CheckedFile,
) {
    let file = base(&item.path);
    let entry = manifest.databases.iter().find(|(_, entry)| base(&entry.backup_path) == file);
    let Some((name, entry)) = entry else { return };
    checked.database.clone_from(name);
    checked.snapshot = entry.snapshot;
    if entry.success || !entry.backup_hash.is_empty() {
        compare_text_hash(path, &entry.backup_hash, checked);
    }
    if let (Some(size), Some(sum)) = (entry.backup_size_bytes, item.sum)
        && size != sum.bytes
    {
        checked.findings.push(format!("{file} has {} bytes, {path} says {size}", sum.bytes));
    }
    let plain = holding.plain.or(item.sum);
    if let (Some(expected), Some(plain)) = (&entry.original_hash, plain)
        && *expected != plain.sha256.to_string()
    {
        checked.findings.push(format!("the database in {file} has another SHA-256 than {path} says"));
    }
    if entry.integrity_check == Some(false) && entry.status.as_deref() != Some("ok") {
        checked.findings.push("the database was damaged when it was backed up".to_owned());
    }
    if holding.findings.is_empty() {
        compare_tables(path, entry, holding, checked);
    }
}

fn compare_tables(path: &str, entry: &ManifestEntry, holding: &Holding, checked: &mut CheckedFile) {
    let counts = entry.table_record_counts.iter().flatten();
    for (table, rows) in counts {
        compare_rows(path, table, *rows, holding, checked);
    }
    let names: BTreeSet<&str> = holding.tables.iter().map(|table| table.name.as_str()).collect();
    let expected: BTreeSet<&str> = entry.tables.iter().map(String::as_str).collect();
    // A script that asked the schema counted virtual tables too, and those they keep their data in twice.
    let is_comparable = !holding.has_virtual && !entry.tables.is_empty();
    if is_comparable && names != expected {
        let odd: Vec<&str> = names.symmetric_difference(&expected).copied().collect();
        checked.findings.push(format!("the tables are not those of {path}: {}", odd.join(", ")));
    }
    let total: u64 = holding.tables.iter().map(|table| table.rows).sum();
    if let Some(expected) = entry.total_records.filter(|expected| is_comparable && *expected != total) {
        checked.findings.push(format!("there are {total} rows, {path} says {expected}"));
    }
}

fn compare_rows(by: &str, table: &str, rows: u64, holding: &Holding, checked: &mut CheckedFile) {
    match holding.tables.iter().find(|one| one.name == table) {
        Some(found) if found.rows == rows => {}
        Some(found) => {
            checked.findings.push(format!("table {table:?} has {} rows, {by} says {rows}", found.rows));
        }
        None if holding.has_virtual => {}
        None => checked.findings.push(format!("table {table:?} of {by} is not there")),
    }
}

/// Compares a database with what a script wrote beside it.
fn compare_meta(meta: &Meta, item: &Item, holding: &Holding, checked: &mut CheckedFile) {
    let by = format!("{}.meta.json", base(&item.path));
    if let Some(name) = meta.filename.as_deref().filter(|name| *name != base(&item.path)) {
        checked.notes.push(format!("{by} is of a file called {name}"));
    }
    if let Some(expected) = &meta.checksum {
        compare_text_hash(&by, expected, checked);
    }
    if let (Some(size), Some(sum)) = (meta.size_bytes, item.sum)
        && size != sum.bytes
    {
        checked.findings.push(format!("{} has {} bytes, {by} says {size}", item.path, sum.bytes));
    }
    if holding.findings.is_empty() {
        for (table, rows) in &meta.database_stats.tables {
            compare_rows(&by, table, *rows, holding, checked);
        }
    }
}

/// Decides the status by the findings.
fn settle(mut checked: CheckedFile) -> CheckedFile {
    checked.findings.dedup();
    checked.status = if checked.findings.is_empty() { VerifyStatus::Ok } else { VerifyStatus::Damaged };
    checked
}
