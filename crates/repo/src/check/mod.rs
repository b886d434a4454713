//! Is the repository what its writers left?
//!
//! `objects.rs` opens every named object, `packs.rs` compares packs with the index and reads their
//! data, `trees.rs` walks every snapshot. Nothing stops at the first problem: each one becomes a
//! [`Finding`] that names the snapshots which need what is damaged. What cannot even be listed is an
//! error: an unknown state is never "nothing there".

mod objects;
mod packs;
mod trees;

use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::index::SharedIndex;
use crate::observe::Observer;
use crate::{Id, Repository};
use packs::Packs;
pub(crate) use packs::{Claim, claim, read_back};
use trees::Trees;

/// How much of the packs is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadData {
    /// Nothing: their presence and sizes are compared with the index.
    #[default]
    None,
    /// Everything.
    All,
    /// About this share of the packs, others each time.
    Percent(u8),
}

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// How much of the packs is read.
    pub read_data: ReadData,
    /// The newest facts that this computer remembers; one of them that is gone is a finding.
    pub known_fact_heads: Vec<Id>,
}

/// Something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is, as `pack-damaged`: see [`CheckReport`].
    pub kind: &'static str,
    /// The object, as `pack 0123…` with all digits.
    pub object: String,
    /// What is wrong with it, for people.
    pub what: String,
    /// The snapshots that need it, sorted. Empty where none does, or none can be told.
    pub affects: Vec<Id>,
}

/// What a check found.
///
/// Kinds of findings: `config-damaged`, `key-missing`, `key-damaged`, `lock-damaged`, `fact-damaged`, `fact-missing`,
/// `snapshot-damaged`, `snapshot-removed`, `index-damaged`, `pack-missing`, `pack-size`, `pack-damaged`,
/// `tree-damaged`, `blob-missing`, `blob-waiting`, `file-size`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Whether nothing was found.
    pub ok: bool,
    /// Packs in the index.
    pub packs: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes of packs read, for their data or for trees.
    pub bytes_read: u64,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What a person may want to know and that harms nothing, as packs that an interrupted backup left.
    pub notes: Vec<String>,
}

/// What a finding makes unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Harm {
    /// Nothing, or nothing that can be told.
    None,
    /// These snapshots.
    Snapshots(Vec<Id>),
    /// Whatever needs these blobs.
    Blobs(Vec<(BlobKind, Id)>),
    /// Whatever needs a blob of this pack.
    Pack(Id),
}

/// A finding whose snapshots are not known yet.
#[derive(Clone, Debug)]
struct Problem {
    kind: &'static str,
    object: String,
    what: String,
    harm: Harm,
}

impl Problem {
    fn new(kind: &'static str, object: impl Into<String>, what: impl Into<String>, harm: Harm) -> Self {
        Self { kind, object: object.into(), what: what.into(), harm }
    }

    fn of(kind: &'static str, file: FileKind, id: &Id, what: &dyn ToString, harm: Harm) -> Self {
        Self::new(kind, format!("{} {id}", file.word()), what.to_string(), harm)
    }
}

/// Checks a repository.
///
/// The caller holds a shared lock where the storage can be written to: a prune at the same time
/// would look like damage. Backups at the same time are no problem.
pub fn check(repository: &Repository, options: &CheckOptions, watch: &dyn Observer) -> Result<CheckReport> {
    let mut problems = Vec::new();
    objects::config(repository, &mut problems)?;
    objects::keys(repository, &mut problems)?;
    objects::locks(repository, &mut problems)?;

    // Before the index: whatever a snapshot in this list needs was indexed before it was written.
    let snapshots = objects::snapshots(repository, &mut problems)?;
    objects::facts(repository, &snapshots, &options.known_fact_heads, &mut problems)?;

    let mut packs = Packs::default();
    let index = objects::index(repository, &mut packs, watch, &mut problems)?;
    packs.compare(repository, &mut problems)?;
    let index = SharedIndex::from(index);

    let mut trees = Trees::new(repository, &index);
    trees.walk(&snapshots, watch, &mut problems)?;
    let data_read = packs.read(repository, &index, options.read_data, watch, &mut problems)?;
    let notes = packs.notes();

    let findings = trees.attribute(problems, &snapshots, watch)?;
    let index = index.read();
    Ok(CheckReport {
        ok: findings.is_empty(),
        packs: packs.len() as u64,
        blobs: index.len() as u64,
        snapshots: snapshots.len() as u64,
        bytes_read: data_read + trees.bytes_read(),
        findings,
        notes,
    })
}

/// Ends the check when the observer wants that.
fn stop_if_cancelled(watch: &dyn Observer) -> Result<()> {
    if watch.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
