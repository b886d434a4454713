//! What all snapshots have in common, whatever the engine: what they follow, what is said of them, how they are put
//! together.

use std::os::unix::fs::MetadataExt;

use dbkeep_repo::Id;
use dbkeep_repo::format::fact::SnapshotRef;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::{Node, Tree};
use dbkeep_repo::write::{KnownChunks, NodeMeta, Writer, WriterOptions};
use dbkeep_sqlite::position::Position;
use jiff::Timestamp;

use super::Session;
use super::losses::{Loss, losses};
use crate::catalog::{Entry, PRE_RESTORE, SHRANK};
use crate::manifest::{
    self, Identity, ImageFacts, Integrity, IntegrityResult, Manifest, Options, PostgresFacts, SqliteFacts,
};
use crate::report::{BackupStatus, DatabaseBackup, Engine, TableRows};
use crate::repository::Store;
use crate::source::Source;
use crate::state::SavedPosition;
use crate::{Error, Result, name, show};

/// The snapshot that a new one follows, with its manifest, which is read once.
pub(super) struct Parent<'s> {
    pub(super) entry: &'s Entry,
    /// `None` when it cannot be read.
    pub(super) manifest: Option<Manifest>,
}

/// What the repository knows of a database. Read before the database is locked.
pub(crate) struct Past<'s> {
    pub(super) parent: Option<Parent<'s>>,
    /// Which database has the name, as the newest manifest that can be read says.
    identity: Option<Identity>,
}

/// A database that is stored; only its snapshot is missing.
pub(crate) struct Saved {
    pub(crate) report: DatabaseBackup,
    pub(crate) snapshot: Snapshot,
    pub(crate) manifest: Manifest,
    /// The ids of the chunks of a SQLite image, in order, where it was read for a safety backup.
    pub(crate) chunks: Vec<Id>,
    /// What recognises the chunks next time; `None` when the last list still holds.
    pub(super) known: Option<KnownChunks>,
    /// Where a SQLite file stood.
    pub(super) position: Option<Position>,
}

/// What is stored of a database, and what was found out about it.
pub(crate) struct Contents {
    /// What the header of a SQLite file says.
    pub(super) sqlite: Option<SqliteFacts>,
    /// What a PostgreSQL server says.
    pub(crate) postgres: Option<PostgresFacts>,
    pub(super) image: ImageFacts,
    pub(super) tables: Vec<TableRows>,
    pub(super) integrity: Integrity,
    pub(super) notes: Vec<String>,
    pub(super) bytes_read: u64,
    pub(super) bytes_added: u64,
    pub(super) bytes_stored: u64,
}

impl Saved {
    /// Returns how facts name the snapshot.
    pub(crate) fn reference(&self, id: Id) -> SnapshotRef {
        let database = self.snapshot.tag("database").unwrap_or_default().to_owned();
        SnapshotRef { id, tree: self.snapshot.tree, database }
    }

    /// Remembers what makes the next backup fast. Where that fails, the next one is slower.
    pub(crate) fn remember(&self, store: &Store, id: Id) {
        if self.manifest.options.reason == PRE_RESTORE {
            return;
        }
        let state = store.state();
        let database = &self.manifest.database;
        let position = self.position.clone().map(|position| SavedPosition { snapshot: id, position });
        let known =
            self.known.as_ref().map_or(Ok(()), |known| state.save_known_chunks(database, &known.encode()));
        if let Err(error) = known.and_then(|()| state.save_position(database, position.as_ref())) {
            store.watch().warn(&format!("the next backup will be slower: {}", error.full_message()));
        }
    }
}

impl<'s> Session<'s> {
    /// Reads what the repository knows of a database.
    pub(crate) fn past(&self, database: &str) -> Past<'s> {
        let parent = self.parent(database);
        let identity = self.known_identity(database, parent.as_ref());
        Past { parent, identity }
    }

    /// Refuses a name that belongs to another database, so that two files never share one history.
    pub(super) fn refuse_other_database(
        &self,
        source: &Source,
        identity: &Identity,
        past: &Past<'_>,
    ) -> Result<()> {
        let Some(known) = &past.identity else { return Ok(()) };
        if self.adopt_name || known.is_same(identity) {
            return Ok(());
        }
        Err(Error::NameTaken {
            name: source.name.clone(),
            known: known.to_string(),
            found: identity.to_string(),
        })
    }

    /// Returns the snapshot that a new one of the database follows.
    fn parent(&self, database: &str) -> Option<Parent<'s>> {
        let entry = self.catalog.parent(database)?;
        Some(Parent { entry, manifest: self.readable_manifest(entry) })
    }

    /// Returns which database has a name, as the newest manifest that can be read says.
    fn known_identity(&self, name: &str, parent: Option<&Parent<'_>>) -> Option<Identity> {
        let mut of_database =
            self.catalog.entries.iter().filter(|entry| entry.database.as_deref() == Some(name));
        of_database.find_map(|entry| match parent.filter(|parent| parent.entry.id == entry.id) {
            Some(parent) => parent.manifest.as_ref().map(|manifest| manifest.identity.clone()),
            None => self.readable_manifest(entry).map(|manifest| manifest.identity),
        })
    }

    /// Returns the manifest of a snapshot; where it cannot be read that is a warning. A damaged snapshot must not keep
    /// the next backup from being made.
    fn readable_manifest(&self, entry: &Entry) -> Option<Manifest> {
        let warn = |error: &Error| {
            self.store.watch().warn(&format!(
                "snapshot {} does not tell what it is of, so nothing of it is used again: {}",
                entry.id.short(),
                error.full_message()
            ));
        };
        show::manifest(self.reader, entry).inspect_err(warn).ok()
    }

    /// Says everything of a snapshot that is to be kept with it.
    pub(super) fn describe(
        &self,
        source: &Source,
        identity: Identity,
        moment: Timestamp,
        contents: &Contents,
    ) -> Manifest {
        let environment = &self.store.context().environment;
        Manifest {
            format: manifest::FORMAT,
            dbkeep: env!("CARGO_PKG_VERSION").to_owned(),
            session: self.id.clone(),
            database: source.name.clone(),
            engine: source.engine(),
            identity,
            source: source.shown.clone(),
            environment: source.environment.clone(),
            moment,
            started: moment,
            finished: self.clock.now(),
            user: environment.user.clone(),
            git: self.git.clone(),
            sqlite: contents.sqlite.clone(),
            postgres: contents.postgres.clone(),
            image: contents.image.clone(),
            rows: contents.tables.iter().map(|table| table.rows).sum(),
            tables: contents.tables.clone(),
            integrity: contents.integrity.clone(),
            options: Options {
                reason: self.reason.clone(),
                tags: self.tags.clone(),
                verify: self.verify.word().to_owned(),
                at_once: self.at_once,
                compression: self.compression.unwrap_or(default_compression(source.engine())),
                more: Default::default(),
            },
            bytes_added: contents.bytes_added,
            notes: contents.notes.clone(),
        }
    }

    /// Stores the manifest beside `nodes` and the directories above them, and writes the report and the snapshot to be
    /// made. What the database lost since the parent is added to the notes of the manifest.
    pub(super) fn assemble(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        mut manifest: Manifest,
        (contents, mut nodes): (&Contents, Vec<Node>),
        parent: Option<&Parent<'_>>,
    ) -> Result<Saved> {
        let losses = if self.reason == PRE_RESTORE { Vec::new() } else { losses(parent, &manifest) };
        manifest.notes.extend(losses.iter().map(Loss::note));
        let meta = meta(source, manifest.moment);
        let encoded = name::encode(&source.name);
        let text = manifest.encode();
        manifest::ensure_readable(&text)?;
        nodes.push(writer.save_file(manifest::FILE, &text, &meta)?);
        let directory = writer.save_tree(&Tree { nodes })?;
        let root = writer.save_tree(&Tree { nodes: vec![meta.directory(&encoded, directory)] })?;
        let environment = &self.store.context().environment;
        let mut tags = vec![
            format!("session={}", self.id),
            format!("database={encoded}"),
            format!("engine={}", manifest.engine.word()),
            format!("reason={}", name::encode(&self.reason)),
            format!("integrity={}", manifest.integrity.result.word()),
        ];
        tags.extend(losses.iter().map(|loss| format!("{SHRANK}={}", loss.what)));
        tags.extend(self.tags.iter().cloned());
        let snapshot = Snapshot {
            parent: parent.map(|parent| parent.entry.id),
            paths: vec![format!("/{encoded}")],
            hostname: environment.host.clone(),
            username: environment.user.clone(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            tags,
            program_version: concat!("dbkeep ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Snapshot::new(manifest.moment, root)
        };
        let of_parent = parent.and_then(|parent| parent.manifest.as_ref());
        let same_as_parent = of_parent.is_some_and(|of_parent| have_same_image(of_parent, &manifest));
        let report = report(&manifest, parent.map(|parent| parent.entry), contents, same_as_parent);
        Ok(Saved { report, snapshot, manifest, chunks: Vec::new(), known: None, position: None })
    }
}

/// Returns the level of zstd where none is wanted.
fn default_compression(engine: Engine) -> i32 {
    let options = WriterOptions::default();
    match engine {
        Engine::Sqlite => options.compression,
        Engine::Postgres => options.stream_compression,
    }
}

/// Says whether two manifests describe the very same image.
fn have_same_image(one: &Manifest, other: &Manifest) -> bool {
    let facts = |manifest: &Manifest| (manifest.image.root, manifest.image.size, manifest.image.chunk_size);
    facts(one) == facts(other)
}

/// Returns what the report says of a database.
fn report(
    manifest: &Manifest,
    parent: Option<&Entry>,
    contents: &Contents,
    same_as_parent: bool,
) -> DatabaseBackup {
    let status = match manifest.integrity.result {
        IntegrityResult::Corrupt => BackupStatus::Corrupt,
        _ if same_as_parent => BackupStatus::Unchanged,
        _ => BackupStatus::Ok,
    };
    let (name, source) = (manifest.database.clone(), manifest.source.clone());
    DatabaseBackup {
        parent: parent.map(|parent| parent.id),
        bytes_source: manifest.image.size,
        bytes_read: contents.bytes_read,
        bytes_added: contents.bytes_added,
        bytes_stored: contents.bytes_stored,
        root: Some(manifest.image.root),
        sha256: manifest.image.sha256,
        tables: manifest.tables.clone(),
        rows: manifest.rows,
        integrity: manifest.integrity.summary(),
        method: Some(manifest.image.method.clone()),
        notes: manifest.notes.clone(),
        ..DatabaseBackup::empty(name, manifest.engine, source, status, None)
    }
}

/// Returns what stock tools restore besides the contents. Looks at the file without opening it.
pub(super) fn meta(source: &Source, moment: Timestamp) -> NodeMeta {
    match source.file().map(std::fs::metadata) {
        Some(Ok(metadata)) => NodeMeta {
            mode: metadata.mode(),
            mtime: moment,
            uid: metadata.uid(),
            gid: metadata.gid(),
            ..NodeMeta::default()
        },
        _ => NodeMeta { mode: 0o600, mtime: moment, ..NodeMeta::default() },
    }
}
