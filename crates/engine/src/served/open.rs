//! Reading a PostgreSQL database back from its snapshot. Everything is compared with the manifest as it is opened.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use dbkeep_postgres::Error as Postgres;
use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::Catalog;
use dbkeep_postgres::globals::role_names;
use dbkeep_postgres::rows::{RowSum, RowSummer};
use dbkeep_repo::read::{Forward, Image, Reader};

use super::{ARCHIVE, CATALOG, DATA, GLOBALS, TEXT, told_unknown};
use crate::catalog::Entry;
use crate::context::Watch;
use crate::manifest::{self, Manifest, PostgresFacts, TableProof};
use crate::report::Engine;
use crate::{Error, Result};

/// Returns the names of the roles of the server that was backed up, as far as they are known; none for a file.
pub(crate) fn roles(reader: &Reader, entry: &Entry) -> Result<Vec<String>> {
    let path = format!("{}/{GLOBALS}", entry.directory());
    let Some(node) = reader.find(&entry.snapshot, &path)? else { return Ok(Vec::new()) };
    let text = reader.file(&node, manifest::LIMIT)?;
    Ok(role_names(&String::from_utf8_lossy(&text)))
}

/// A PostgreSQL database in a snapshot.
pub(crate) struct Served<'r> {
    pub(crate) reader: &'r Reader,
    pub(crate) entry: &'r Entry,
    pub(crate) manifest: Manifest,
    pub(crate) facts: PostgresFacts,
    /// Its tables as they were.
    pub(crate) catalog: Catalog,
}

impl<'r> Served<'r> {
    /// Opens the database of a snapshot.
    pub(crate) fn open(reader: &'r Reader, entry: &'r Entry, manifest: Manifest) -> Result<Self> {
        let of = format!("snapshot {}", entry.id.short());
        let damaged = |finding: String| Error::Damaged { what: of.clone(), finding };
        if manifest.engine != Engine::Postgres {
            return Err(Error::Unsupported {
                what: format!("{of} is not of a PostgreSQL database"),
                hint: None,
            });
        }
        let facts = manifest.postgres.clone();
        let facts =
            facts.ok_or_else(|| damaged("its manifest does not say which tables there are".to_owned()))?;
        let path = format!("{}/{CATALOG}", entry.directory());
        let node = reader.find(&entry.snapshot, &path)?;
        let node = node.ok_or_else(|| damaged(format!("{CATALOG} is not there")))?;
        let text = reader.file(&node, manifest::LIMIT)?;
        let catalog: Catalog =
            serde_json::from_slice(&text).map_err(|error| damaged(format!("{CATALOG}: {error}")))?;
        let listed = |proof: &TableProof| {
            let mut tables = catalog.tables.iter();
            tables.any(|table| table.name.schema == proof.schema && table.name.name == proof.name)
        };
        if let Some(proof) = facts.tables.iter().find(|proof| !listed(proof)) {
            return Err(damaged(format!("{CATALOG} does not have the table {:?}", proof.name)));
        }
        Ok(Self { reader, entry, manifest, facts, catalog })
    }

    /// Finds the rows of a table.
    pub(crate) fn rows(&self, proof: &TableProof) -> Result<Arc<Image>> {
        let image = self.image(&format!("/{DATA}"), &proof.file)?;
        if image.size() != proof.size || image.root() != proof.root {
            return Err(self.damaged(format!("{} has other chunks than the manifest says", proof.file)));
        }
        Ok(image)
    }

    /// Reads the list of objects.
    pub(crate) fn objects(&self) -> Result<Archive> {
        // It has no name: whatever ends this process, nothing is left.
        let file = tempfile::tempfile().map_err(Error::temporary)?;
        self.archive(&file)?;
        Ok(Archive::of(&file)?)
    }

    /// Reads the list of objects for whoever can do without it: where it is of a version that is not known here, that is
    /// what comes back, for people.
    pub(crate) fn known_objects(&self) -> Result<std::result::Result<Archive, String>> {
        match self.objects() {
            Ok(archive) => Ok(Ok(archive)),
            Err(Error::Postgres(Postgres::UnknownArchive { major, minor })) => {
                Ok(Err(told_unknown((major, minor))))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the archive of objects into a file.
    pub(crate) fn archive(&self, mut into: &File) -> Result<()> {
        self.each(ARCHIVE, &mut |bytes| into.write_all(bytes).map_err(Error::temporary))
    }

    /// Gives the objects as text, piece by piece.
    pub(crate) fn text(&self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.each(TEXT, take)
    }

    /// Reads the rows of a table and sums them up; `take` gets them on the way.
    pub(crate) fn sum(
        &self,
        proof: &TableProof,
        watch: &Watch,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<RowSum>> {
        let mut rows = self.forward(&self.rows(proof)?)?;
        let mut summer = RowSummer::default();
        while let Some(bytes) = rows.next()? {
            if watch.cancelled() {
                return Err(Error::Cancelled);
            }
            summer.update(bytes);
            take(bytes)?;
            watch.advance(bytes.len() as u64);
        }
        Ok(summer.finish())
    }

    /// Returns what rows must come to.
    pub(crate) fn expected(&self, proof: &TableProof) -> Result<RowSum> {
        let hash = proof.hash.parse().map_err(|_| Error::Damaged {
            what: format!("the manifest of snapshot {}", self.entry.id.short()),
            finding: format!("{:?} is no hash", proof.hash),
        })?;
        Ok(RowSum { rows: proof.rows, hash })
    }

    /// Says what is wrong with the rows of a table, which come to `sum`.
    pub(crate) fn difference(proof: &TableProof, sum: Option<RowSum>) -> Option<String> {
        let table = super::shown(&proof.table());
        match sum {
            None => Some(format!("the last row of {table} has no end")),
            Some(sum) if sum.rows != proof.rows => {
                Some(format!("table {table} has {} rows, the manifest says {}", sum.rows, proof.rows))
            }
            Some(sum) if sum.hash.to_string() != proof.hash => {
                Some(format!("the rows of {table} have another hash than the manifest says"))
            }
            Some(_) => None,
        }
    }

    fn each(&self, name: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut bytes = self.forward(&self.image("", name)?)?;
        while let Some(some) = bytes.next()? {
            take(some)?;
        }
        Ok(())
    }

    fn forward(&self, image: &Arc<Image>) -> Result<Forward> {
        Ok(self.reader.forward(image, 0..image.chunks())?)
    }

    /// Reads a file of the snapshot that is no longer than `limit` bytes.
    pub(crate) fn file(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let node = self.reader.find(&self.entry.snapshot, &format!("{}/{name}", self.entry.directory()))?;
        let node = node.ok_or_else(|| self.damaged(format!("{name} is not there")))?;
        Ok(self.reader.file(&node, limit)?)
    }

    /// Returns the name of the file of a table's rows, which is no path: another than a backup gives is damage.
    pub(crate) fn plain_name<'p>(&self, proof: &'p TableProof) -> Result<&'p str> {
        match proof.file == super::file_name(&proof.table()) {
            true => Ok(&proof.file),
            false => Err(self.damaged(format!("{:?} is no name of a file of rows", proof.file))),
        }
    }

    /// Finds a file of the snapshot.
    pub(crate) fn image(&self, below: &str, name: &str) -> Result<Arc<Image>> {
        let directory = format!("{}{below}", self.entry.directory());
        let image = self.reader.image(&self.entry.snapshot, &directory, name)?;
        image.map(Arc::new).ok_or_else(|| self.damaged(format!("{name} is not there")))
    }

    fn damaged(&self, finding: String) -> Error {
        Error::Damaged { what: format!("snapshot {}", self.entry.id.short()), finding }
    }
}
