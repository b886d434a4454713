//! One database: from a capture to everything of a snapshot but the snapshot itself.

use std::os::unix::fs::MetadataExt;

use dbkeep_repo::Id;
use dbkeep_repo::format::fact::SnapshotRef;
use dbkeep_repo::format::pack::BlobKind;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::{Node, Tree};
use dbkeep_repo::read::Image;
use dbkeep_repo::write::{KnownChunks, NodeMeta, Writer};
use dbkeep_sqlite::capture::Capture;
use dbkeep_sqlite::header::{Encoding, Header};
use dbkeep_sqlite::position::Position;
use jiff::Timestamp;

use super::image::{self, Content};
use super::losses::{Loss, losses};
use super::{Session, chunk_size};
use crate::catalog::{Entry, PRE_RESTORE, SHRANK};
use crate::context::Watch;
use crate::manifest::{self, Identity, IntegrityResult, Manifest, Options, SqliteFacts};
use crate::report::{BackupStatus, DatabaseBackup, Engine, TableRows};
use crate::repository::Store;
use crate::source::Source;
use crate::state::SavedPosition;
use crate::{Error, Result, name, show};

/// Images up to this size get their plain SHA-256 without being asked.
const SHA256_UP_TO: u64 = 256 << 20;

/// From how many bytes on the growth of a log on our account is told.
const WORTH_TELLING: u64 = 64 << 20;

/// The file that says how parts are put together.
const README: &str = "README.txt";

/// The snapshot that a new one follows, with its manifest, which is read once.
pub(super) struct Parent<'s> {
    entry: &'s Entry,
    /// `None` when it cannot be read.
    pub(super) manifest: Option<Manifest>,
}

/// What the repository knows of a database. Read before the database is locked.
pub(crate) struct Past<'s> {
    parent: Option<Parent<'s>>,
    /// Which database has the name, as the newest manifest that can be read says.
    identity: Option<Identity>,
}

/// A database that is stored; only its snapshot is missing.
pub(crate) struct Saved {
    pub(crate) report: DatabaseBackup,
    pub(crate) snapshot: Snapshot,
    pub(crate) manifest: Manifest,
    /// What recognises the chunks next time; `None` when the last list still holds.
    known: Option<KnownChunks>,
    position: Option<Position>,
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

    /// Stores the image of a captured database with its manifest.
    ///
    /// Where the source provably did not change, the image of the last snapshot is used again and nothing is
    /// read. The snapshot is returned, not made.
    pub(crate) fn save(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        past: &Past<'_>,
        mut capture: Capture,
        watch: &Watch,
    ) -> Result<Saved> {
        let moment = self.clock.now();
        let identity = self.identify(&capture);
        let parent = past.parent.as_ref();
        self.refuse_other_database(source, &identity, past)?;
        watch.phase(&format!("backup {}", source.name), capture.size());
        watch.step("backup.captured");
        let content = match self.unchanged(writer, source, &mut capture, parent)? {
            Some(content) => content,
            None => image::read(self, writer, source, &mut capture, parent, watch)?,
        };
        watch.step("backup.image-stored");
        let header = capture.header().cloned();
        let position = capture.position().cloned();
        let siblings = self.save_siblings(writer, source, &capture)?;
        let finished = capture.finish()?;
        let mut manifest = self.describe(source, identity, moment, &content, header.as_ref());
        manifest.notes.extend(finished.warnings);
        if finished.wal_grew_by >= WORTH_TELLING {
            let mebibytes = finished.wal_grew_by >> 20;
            manifest.notes.push(format!("its write-ahead log grew by {mebibytes} MiB while it was read"));
        }
        let losses = if self.reason == PRE_RESTORE { Vec::new() } else { losses(parent, &manifest) };
        manifest.notes.extend(losses.iter().map(Loss::note));
        let tags = losses.iter().map(|loss| format!("{SHRANK}={}", loss.what)).collect();
        self.assemble(writer, source, manifest, content, siblings, parent, position, tags)
    }

    /// Returns what the database says it is.
    fn identify(&self, capture: &Capture) -> Identity {
        let file = capture.identity();
        Identity {
            host: self.store.context().environment.host.clone(),
            path: file.path.to_string_lossy().into_owned(),
            device: file.device,
            inode: file.inode,
        }
    }

    /// Refuses a name that belongs to another database, so that two files never share one history.
    fn refuse_other_database(&self, source: &Source, identity: &Identity, past: &Past<'_>) -> Result<()> {
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

    /// Returns the content of the parent where the source is provably the same and nothing more is asked for.
    fn unchanged(
        &self,
        writer: &Writer<'_>,
        source: &Source,
        capture: &mut Capture,
        parent: Option<&Parent<'_>>,
    ) -> Result<Option<Content>> {
        let Some(parent) = parent.filter(|parent| parent.entry.history.damage.is_empty()) else {
            return Ok(None);
        };
        let Some(manifest) = parent.manifest.as_ref().filter(|manifest| self.proves_enough(manifest)) else {
            return Ok(None);
        };
        let saved = self.store.state().position(&source.name);
        let is_same = saved.is_some_and(|saved| {
            saved.snapshot == parent.entry.id && capture.is_unchanged_since(&saved.position)
        });
        if !is_same {
            return Ok(None);
        }
        // The answer is known, and the repository may be slow.
        capture.let_go()?;
        match self.content_of(writer, parent.entry, manifest) {
            Ok(content) => Ok(content),
            // Reading the source heals what the repository lost.
            Err(error) => {
                self.store.watch().warn(&format!(
                    "snapshot {} cannot be used again, so everything is read: {}",
                    parent.entry.id.short(),
                    error.full_message()
                ));
                Ok(None)
            }
        }
    }

    /// Says whether a snapshot proves as much of its image as is asked for.
    fn proves_enough(&self, manifest: &Manifest) -> bool {
        let sha256 = self.sha256 || manifest.image.size <= SHA256_UP_TO;
        manifest.integrity.result == IntegrityResult::Ok
            && self.verify.is_satisfied_by(&manifest.integrity.level)
            && (manifest.image.sha256.is_some() || !sha256)
            && !manifest.image.raw
    }

    /// Returns the content of a snapshot, to be used again; `None` when not all of it may be relied on.
    fn content_of(
        &self,
        writer: &Writer<'_>,
        parent: &Entry,
        manifest: &Manifest,
    ) -> Result<Option<Content>> {
        let image = show::image(self.reader, parent, manifest)?;
        let nodes = self.directory_of(parent)?;
        let may_be_used = self.all_present(&image, &nodes);
        drop(writer.shared_index());
        Ok(may_be_used.then(|| Content::again(manifest.clone(), nodes)))
    }

    /// Returns what lies beside the manifest.
    fn directory_of(&self, entry: &Entry) -> Result<Vec<Node>> {
        let node = self.reader.find(&entry.snapshot, &entry.directory())?;
        let subtree = node.and_then(|node| node.subtree).ok_or_else(|| Error::Damaged {
            what: format!("snapshot {}", entry.id.short()),
            finding: format!("{} is no directory", entry.directory()),
        })?;
        let nodes = self.reader.tree(&subtree)?.nodes;
        Ok(nodes.into_iter().filter(|node| node.name != manifest::FILE).collect())
    }

    /// Says whether all that an image and the files beside it consist of is stored, and in no pack that a prune has
    /// marked.
    fn all_present(&self, image: &Image, nodes: &[Node]) -> bool {
        let index = self.reader.index().read();
        let is_chunk = |id: &Id| index.contains(BlobKind::Data, id);
        let is_whole = |node: &Node| {
            node.content.iter().flatten().all(is_chunk)
                && node.subtree.is_none_or(|subtree| image.trees().first() == Some(&subtree))
        };
        image.ids().iter().all(is_chunk)
            && image.trees().iter().all(|id| index.contains(BlobKind::Tree, id))
            && nodes.iter().all(is_whole)
    }

    /// Stores the journal and the log that belong to a raw copy.
    fn save_siblings(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        capture: &Capture,
    ) -> Result<Vec<Node>> {
        let meta = meta(source, self.clock.now());
        let mut nodes = Vec::new();
        for sibling in capture.siblings() {
            let mut offset = 0;
            let mut read = |buffer: &mut [u8]| {
                let count = sibling.read_at(offset, buffer)?;
                offset += count as u64;
                Ok(count)
            };
            let options = image::options(chunk_size::SHORTEST, None, false);
            let stored = writer.save_image(&mut read, &options).map_err(image::unwrap_source)?;
            let name = format!("{}{}", image::file_name(&source.name), sibling.suffix());
            nodes.extend(writer.save_image_nodes(&stored, &name, &meta)?);
        }
        Ok(nodes)
    }

    /// Says everything of a snapshot that is to be kept with it.
    fn describe(
        &self,
        source: &Source,
        identity: Identity,
        moment: Timestamp,
        content: &Content,
        header: Option<&Header>,
    ) -> Manifest {
        let environment = &self.store.context().environment;
        Manifest {
            format: manifest::FORMAT,
            dbkeep: env!("CARGO_PKG_VERSION").to_owned(),
            session: self.id.clone(),
            database: source.name.clone(),
            engine: Engine::Sqlite,
            identity,
            source: source.shown.clone(),
            environment: source.environment.clone(),
            moment,
            started: moment,
            finished: self.clock.now(),
            user: environment.user.clone(),
            git: self.git.clone(),
            sqlite: header.map(|header| sqlite_facts(header, content.image.size)),
            image: content.image.clone(),
            rows: content.tables.iter().map(|table| table.rows).sum(),
            tables: content.tables.clone(),
            integrity: content.integrity.clone(),
            options: Options {
                reason: self.reason.clone(),
                tags: self.tags.clone(),
                verify: self.verify.word().to_owned(),
                at_once: self.at_once,
                compression: self.compression,
                more: Default::default(),
            },
            bytes_added: content.bytes_added,
            notes: content.notes.clone(),
        }
    }

    /// Stores the manifest and the directories, and writes the report and the snapshot to be made.
    #[expect(clippy::too_many_arguments, reason = "each is one part of what is put together")]
    fn assemble(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        manifest: Manifest,
        content: Content,
        siblings: Vec<Node>,
        parent: Option<&Parent<'_>>,
        position: Option<Position>,
        more_tags: Vec<String>,
    ) -> Result<Saved> {
        let meta = meta(source, manifest.moment);
        let encoded = name::encode(&source.name);
        let in_parts = content.image.parts > 0;
        let mut nodes = content.nodes;
        nodes.extend(siblings);
        nodes.retain(|node| node.name != README);
        if in_parts {
            nodes.push(writer.save_file(README, readme(&manifest).as_bytes(), &meta)?);
        }
        nodes.push(writer.save_file(manifest::FILE, &manifest.encode(), &meta)?);
        let directory = writer.save_tree(&Tree { nodes })?;
        let root = writer.save_tree(&Tree { nodes: vec![meta.directory(&encoded, directory)] })?;
        let environment = &self.store.context().environment;
        let mut tags = vec![
            format!("session={}", self.id),
            format!("database={encoded}"),
            format!("engine={}", Engine::Sqlite.word()),
            format!("reason={}", name::encode(&self.reason)),
            format!("integrity={}", manifest.integrity.result.word()),
        ];
        tags.extend(more_tags);
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
        let report = report(
            &manifest,
            parent.map(|parent| parent.entry),
            content.bytes_read,
            content.bytes_stored,
            same_as_parent,
        );
        Ok(Saved { report, snapshot, manifest, known: content.known, position })
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
    bytes_read: u64,
    bytes_stored: u64,
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
        bytes_read,
        bytes_added: manifest.bytes_added,
        bytes_stored,
        root: Some(manifest.image.root),
        sha256: manifest.image.sha256,
        tables: manifest.tables.clone(),
        rows: manifest.rows,
        integrity: manifest.integrity.summary(),
        method: Some(manifest.image.method.clone()),
        notes: manifest.notes.clone(),
        ..DatabaseBackup::empty(name, Engine::Sqlite, source, status, None)
    }
}

/// Says whether the image's plain SHA-256 is wanted.
pub(super) fn wants_sha256(session: &Session<'_>, size: u64) -> bool {
    session.sha256 || size <= SHA256_UP_TO
}

/// Returns what stock tools restore besides the contents. Looks at the file without opening it.
pub(super) fn meta(source: &Source, moment: Timestamp) -> NodeMeta {
    match std::fs::metadata(&source.path) {
        Ok(metadata) => NodeMeta {
            mode: metadata.mode(),
            mtime: moment,
            uid: metadata.uid(),
            gid: metadata.gid(),
            ..NodeMeta::default()
        },
        Err(_) => NodeMeta { mode: 0o600, mtime: moment, ..NodeMeta::default() },
    }
}

fn sqlite_facts(header: &Header, size: u64) -> SqliteFacts {
    SqliteFacts {
        page_size: header.page_size,
        reserved: header.reserved,
        page_count: size / u64::from(header.page_size.max(1)),
        encoding: match header.encoding {
            Encoding::Utf16Le => "utf-16le",
            Encoding::Utf16Be => "utf-16be",
            _ => "utf-8",
        }
        .to_owned(),
        journal: if header.is_wal() { "wal" } else { "rollback" }.to_owned(),
        application_id: header.application_id,
        user_version: header.user_version,
        written_by: header.sqlite_version_text(),
    }
}

/// Tells somebody with stock tools only how the parts of an image are put together.
fn readme(manifest: &Manifest) -> String {
    let name = &manifest.image.name;
    let tables = |table: &TableRows| format!("    {}: {} rows\n", name::printable(&table.name), table.rows);
    let tables: String = manifest.tables.iter().take(50).map(tables).collect();
    format!(
        "This is the SQLite database {:?} as it was at {}, {} bytes in {} parts.\n\
         \n\
         To put it together, run in this directory:\n\
         \n\
         \x20   cat {name}.parts/*/part > restored.db\n\
         \n\
         or `dbkeep restore`, which checks it as well. manifest.json has its tables and hashes.\n\
         {}{tables}",
        name::printable(&manifest.database),
        manifest.moment,
        manifest.image.size,
        manifest.image.parts,
        if tables.is_empty() { "" } else { "\nTables:\n" },
    )
}
