//! The files of a snapshot of a PostgreSQL database, as they go into bundles and archives.

use std::sync::Arc;

use dbkeep_repo::read::Image;

use crate::Result;
use crate::export::{Export, Subject};
use crate::manifest::{self, TableProof};
use crate::served::{self, Served};

/// The files beside the rows.
const FILES: [&str; 7] = [
    manifest::FILE,
    served::CATALOG,
    served::ARCHIVE,
    served::TEXT,
    served::GLOBALS,
    served::SETTINGS,
    served::README,
];

/// The checksums of all files of a database in a bundle.
pub(crate) const SUMS: &str = "SHA256SUMS";

/// A file of a snapshot.
pub(in crate::export) enum Piece {
    /// One that fits into memory.
    Bytes(Vec<u8>),
    /// One of any length.
    Image(Arc<Image>),
}

impl Export<'_> {
    /// Returns the files of a database of a server, with their paths below its directory.
    pub(in crate::export) fn pieces(&self, subject: &Subject) -> Result<Vec<(String, Piece)>> {
        let served = Served::open(self.reader, &subject.entry, subject.manifest.clone())?;
        let mut pieces = Vec::new();
        for name in FILES {
            let piece = match name {
                served::ARCHIVE | served::TEXT => Piece::Image(served.image("", name)?),
                _ => Piece::Bytes(served.file(name, manifest::LIMIT)?),
            };
            pieces.push((name.to_owned(), piece));
        }
        let proofs: Vec<&TableProof> =
            served.facts.tables.iter().chain(&served.facts.large_objects).collect();
        for proof in proofs {
            // The name comes from the repository, which others may write; it becomes part of a path.
            let name = served.plain_name(proof)?;
            pieces.push((format!("{}/{name}", served::DATA), Piece::Image(served.rows(proof)?)));
        }
        Ok(pieces)
    }
}
