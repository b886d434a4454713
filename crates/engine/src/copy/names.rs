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

/// Returns the databases of a repository whose names are theirs in the copy as well. Only what is proved counts: a
/// policy drops snapshots by it, and what cannot be read may be of another repository.
pub(crate) fn owned(repository: &Store, copy: &Store) -> Result<BTreeSet<String>> {
    let (here, there) = (Catalog::load(repository)?, Catalog::load(copy)?);
    let readers: [OnceCell<Option<Reader>>; 2] = Default::default();
    let of_here =
        |entry: &Entry| identity(readers[0].get_or_init(|| repository.reader(&here).ok()).as_ref()?, entry);
    let of_there =
        |entry: &Entry| identity(readers[1].get_or_init(|| copy.reader(&there).ok()).as_ref()?, entry);
    let here_side = Side { catalog: &here, identity: &of_here };
    let there_side = Side { catalog: &there, identity: &of_there };
    let is_ours = |name: &String| is_proved(name, here_side, there_side);
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
    if has_from_here(name, here, there) {
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

/// Says whether one of the snapshots there came from one that is here.
fn has_from_here(name: &str, here: Side<'_>, there: Side<'_>) -> bool {
    let mark = |entry: &Entry| (entry.snapshot.tree, first_of(&entry.snapshot));
    let held: HashSet<_> = there.catalog.of_database(name).map(mark).collect();
    here.catalog.of_database(name).any(|entry| held.contains(&mark(entry)))
}

/// Says whether a name there is certainly that of a database of here.
fn is_proved(name: &str, here: Side<'_>, there: Side<'_>) -> bool {
    let is_same = |known: Identity| here.identities(name).any(|ours| ours.is_same(&known));
    has_from_here(name, here, there) || there.identities(name).next().is_some_and(is_same)
}

impl<'s> Side<'s> {
    /// Returns which databases had a name, as the manifests that can be read say, newest first.
    fn identities(self, name: &str) -> impl Iterator<Item = Identity> + use<'s, '_> {
        self.catalog.of_database(name).filter_map(self.identity)
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_repo::Id;
    use dbkeep_repo::format::snapshot::Snapshot;
    use jiff::Timestamp;

    use super::*;
    use crate::catalog::History;
    use crate::manifest::FileIdentity;

    /// One snapshot of the database `shop`, with contents of its own.
    fn catalog(contents: &[u8]) -> Catalog {
        let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, Id::of(contents));
        let id = Id::of(&[contents, b"snapshot"].concat());
        snapshot.id = Some(id);
        let database = Some("shop".to_owned());
        let entry = Entry { snapshot, id, database, history: History::default() };
        Catalog { entries: vec![entry], ..Catalog::default() }
    }

    fn at(path: &str) -> Identity {
        let (host, path, inode) = ("host".to_owned(), path.to_owned(), path.len() as u64);
        Identity::File(FileIdentity { host, path, device: 1, inode })
    }

    #[test]
    fn name_whose_owner_cannot_be_read_is_copied_and_never_thinned() {
        let (ours, theirs) = (catalog(b"ours"), catalog(b"theirs"));
        let is_here = |_: &Entry| Some(at("/app.db"));
        let here = Side { catalog: &ours, identity: &is_here };
        for (there, may_copy, may_drop) in
            [(Some("/app.db"), true, true), (Some("/srv/other.db"), false, false), (None, true, false)]
        {
            let is_there = |_: &Entry| there.map(at);
            let there = Side { catalog: &theirs, identity: &is_there };
            assert_eq!(other_owner("shop", here, there).is_none(), may_copy);
            assert_eq!(is_proved("shop", here, there), may_drop);
        }
        let unknown = |_: &Entry| None;
        let copied = Side { catalog: &ours, identity: &unknown };
        assert!(is_proved("shop", copied, copied), "what came from here needs no manifest");
    }
}
