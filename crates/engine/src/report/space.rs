//! What `prune` and `size` tell.

use jiff::Timestamp;
use serde::Serialize;

use super::CopyStatus;

/// What [`crate::prune::run`] did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PruneReport {
    /// Packs that were removed.
    pub packs_removed: u64,
    /// Packs that were marked: a prune after the time of grace removes them.
    pub packs_marked: u64,
    /// Bytes of the packs that were removed.
    pub bytes_freed: u64,
    /// Bytes of the packs that were marked.
    pub bytes_marked: u64,
    /// Packs that an earlier prune has marked and that wait.
    pub packs_waiting: u64,
    /// Their bytes.
    pub bytes_waiting: u64,
    /// Packs that were marked and are needed again.
    pub packs_taken_back: u64,
    /// Packs whose used part was copied into new ones.
    pub packs_rewritten: u64,
    /// Bytes that were written: copies and index files.
    pub bytes_rewritten: u64,
    /// Packs that no index names and that are younger than the time of grace.
    pub packs_unnamed: u64,
    /// Bytes that stay unused in packs that are partly used.
    pub bytes_unused: u64,
    /// Bytes that snapshots need.
    pub bytes_used: u64,
    /// From when on a prune removes what was marked now.
    pub free_from: Option<Timestamp>,
    /// Nothing was changed: this is what would be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What [`crate::size::run`] measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SizeReport {
    /// One entry a database, by name.
    pub databases: Vec<DatabaseSize>,
    /// Bytes of all packs.
    pub bytes_stored: u64,
    /// How many packs there are.
    pub packs: u64,
    /// Bytes that no snapshot needs; a prune gives them back.
    pub bytes_unused: u64,
    /// Of those, bytes of packs that a prune has marked.
    pub bytes_waiting: u64,
    /// Bytes that several databases need.
    pub bytes_shared: u64,
    /// Bytes that are free where the repository is, where that can be told.
    pub disk_free: Option<u64>,
    /// The configured copies.
    pub copies: Vec<CopyStatus>,
}

/// What one database costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DatabaseSize {
    /// Its name.
    pub name: String,
    /// How many snapshots there are of it.
    pub snapshots: u64,
    /// What they would take as plain copies, together.
    pub bytes_source: u64,
    /// What is stored for them and for nothing else.
    pub bytes_unique: u64,
}
