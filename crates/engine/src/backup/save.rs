//! One SQLite database: from a capture to everything of a snapshot but the snapshot itself.

use dbkeep_repo::Id;
use dbkeep_repo::format::pack::BlobKind;
use dbkeep_repo::format::tree::Node;
use dbkeep_repo::read::Image;
use dbkeep_repo::write::Writer;
use dbkeep_sqlite::capture::Capture;
use dbkeep_sqlite::header::{Encoding, Header};

use super::image::{self, Content};
use super::snapshot::{Parent, Past, Saved, meta};
use super::{Session, chunk_size};
use crate::catalog::Entry;
use crate::context::Watch;
use crate::manifest::{self, Identity, IntegrityResult, Manifest, SqliteFacts};
use crate::report::TableRows;
use crate::source::Source;
use crate::{Error, Result, name, show};

/// Images up to this size get their plain SHA-256 without being asked.
const SHA256_UP_TO: u64 = 256 << 20;

/// From how many bytes on the growth of a log on our account is told.
const WORTH_TELLING: u64 = 64 << 20;

/// The file that says how parts are put together.
const README: &str = "README.txt";

impl<'s> Session<'s> {
    /// Stores the image of a captured database with its manifest.
    ///
    /// Where the source provably did not change, the image of the last snapshot is used again and nothing is
    /// read, but for a safety backup. The snapshot is returned, not made.
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
        let mut content = match self.unchanged(writer, source, &mut capture, parent)? {
            Some(content) => content,
            None => image::read(self, writer, source, &mut capture, parent, watch)?,
        };
        watch.step("backup.image-stored");
        let size = content.contents.image.size;
        content.contents.sqlite = capture.header().map(|header| sqlite_facts(header, size));
        let position = capture.position().cloned();
        let siblings = self.save_siblings(writer, source, &capture)?;
        let finished = capture.finish()?;
        let mut manifest = self.describe(source, identity, moment, &content.contents);
        manifest.notes.extend(finished.warnings);
        if finished.wal_grew_by >= WORTH_TELLING {
            let mebibytes = finished.wal_grew_by >> 20;
            manifest.notes.push(format!("its write-ahead log grew by {mebibytes} MiB while it was read"));
        }
        let mut nodes = content.nodes;
        nodes.extend(siblings);
        nodes.retain(|node| node.name != README);
        if manifest.image.parts > 0 {
            let meta = meta(source, moment);
            nodes.push(writer.save_file(README, readme(&manifest).as_bytes(), &meta)?);
        }
        let saved = self.assemble(writer, source, manifest, (&content.contents, nodes), parent)?;
        Ok(Saved { known: content.known, chunks: content.chunks, position, ..saved })
    }

    /// Returns what the database says it is.
    fn identify(&self, capture: &Capture) -> Identity {
        Identity::of_file(&self.store.context().environment.host, capture.identity())
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
        // A position tells that nobody wrote, not that the disk still has what was written.
        if self.is_safety_backup() {
            return Ok(None);
        }
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
}

/// Says whether the image's plain SHA-256 is wanted.
pub(super) fn wants_sha256(session: &Session<'_>, size: u64) -> bool {
    session.sha256 || size <= SHA256_UP_TO
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
