//! Whose a name is: two databases that are called the same never share one history, in a copy as little as in a
//! repository. Otherwise a policy would drop the snapshots of the one for those of the other, and `latest` mean either.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use dbkeep_repo::read::Reader;

use super::plan::{Step, first_of};
use crate::catalog::{Catalog, Entry};
use crate::manifest::Identity;
use crate::report::ErrorReport;
use crate::repository::Store;
use crate::{Error, Result, show};

/// Snapshots, and what says of one which database it is of, where its manifest can be read.
#[derive(Clone, Copy)]
pub(super) struct Side<'s> {
    pub(super) catalog: &'s Catalog,
    pub(super) identity: &'s dyn Fn(&Entry) -> Option<Identity>,
}

/// Returns which database a snapshot is of.
pub(super) fn identity(reader: &Reader, entry: &Entry) -> Option<Identity> {
    Some(show::manifest(reader, entry).ok()?.identity)
}

/// Returns the databases of a repository whose names are theirs in the copy as well.
pub(crate) fn owned(repository: &Store, copy: &Store) -> Result<BTreeSet<String>> {
    let (here, there) = (Catalog::load(repository)?, Catalog::load(copy)?);
    let readers: [OnceCell<Option<Reader>>; 2] = Default::default();
    let of_here =
        |entry: &Entry| identity(readers[0].get_or_init(|| repository.reader(&here).ok()).as_ref()?, entry);
    let of_there =
        |entry: &Entry| identity(readers[1].get_or_init(|| copy.reader(&there).ok()).as_ref()?, entry);
    let here_side = Side { catalog: &here, identity: &of_here };
    let there_side = Side { catalog: &there, identity: &of_there };
    let is_ours = |name: &String| other_owner(name, here_side, there_side).is_none();
    Ok(here.databases().into_iter().filter(is_ours).collect())
}

/// Returns the databases that are to be copied and whose names belong to other databases in the copy, with the reason.
///
/// Manifests are read only where none of the snapshots there came from here, or all that did were dropped here since.
pub(super) fn taken(
    steps: &[Step<'_>],
    copy: &str,
    here: Side<'_>,
    there: Side<'_>,
) -> BTreeMap<String, ErrorReport> {
    let to_copy = steps.iter().filter_map(|step| match step {
        Step::Copy(entry) => entry.database.as_deref(),
        _ => None,
    });
    let names: BTreeSet<&str> = to_copy.collect();
    let belongs = |name: &str| {
        let error =
            Error::AtCopy { copy: copy.to_owned(), source: Box::new(other_owner(name, here, there)?) };
        Some((name.to_owned(), ErrorReport::from(&error)))
    };
    names.into_iter().filter_map(belongs).collect()
}

/// Returns who has a name there, where that is none of those who have had it here.
fn other_owner(name: &str, here: Side<'_>, there: Side<'_>) -> Option<Error> {
    let mark = |entry: &Entry| (entry.snapshot.tree, first_of(&entry.snapshot));
    let held: HashSet<_> = there.catalog.of_database(name).map(mark).collect();
    if here.catalog.of_database(name).any(|entry| held.contains(&mark(entry))) {
        return None;
    }
    // As in a backup: a damaged manifest keeps nobody from copying.
    let known = there.identities(name).next()?;
    let found = here.identities(name).next()?;
    let is_ours = here.identities(name).any(|ours| ours.is_same(&known));
    (!is_ours).then(|| Error::NameTaken {
        name: name.to_owned(),
        known: known.to_string(),
        found: found.to_string(),
    })
}

impl<'s> Side<'s> {
    /// Returns which databases had a name, as the manifests that can be read say, newest first.
    fn identities(self, name: &str) -> impl Iterator<Item = Identity> + use<'s, '_> {
        self.catalog.of_database(name).filter_map(self.identity)
    }
}
