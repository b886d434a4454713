//! The snapshots to go back to are held while a guard may need them: somebody who has to decide may take a night, and a
//! policy goes on meanwhile.

use dbkeep_repo::Id;
use dbkeep_repo::format::fact::Fact;

use super::Run;
use crate::catalog::{Catalog, Entry, HELD_BY_GUARD};
use crate::{Error, Result};

/// Says what is to be noted of a snapshot, given what the repository has of it.
type ToSay<'s> = dyn Fn(&Id, Option<&Entry>) -> Result<Option<Fact>> + 's;

impl Run<'_> {
    /// Holds the snapshots, on every host.
    ///
    /// # Errors
    /// Where one is not there any more: without it there is no way back.
    pub(super) fn hold(&self) -> Result<()> {
        let reason = self.reason();
        self.change(&|id, entry| {
            let entry = entry.ok_or_else(|| Error::NoSnapshot {
                wanted: id.short(),
                hint: Some("it was forgotten while it was verified; run it again".to_owned()),
            })?;
            let snapshot = entry.reference();
            Ok((!entry.history.pinned).then(|| Fact::Pinned { snapshot, reason: reason.clone() }))
        })
    }

    /// Lets them go, but for those that somebody else wants to have held.
    pub(super) fn let_go(&self) -> Result<()> {
        let reason = self.reason();
        self.change(&|_, entry| {
            let held = entry.filter(|entry| entry.history.held_by.as_deref() == Some(reason.as_str()));
            Ok(held.map(|entry| Fact::Unpinned { snapshot: entry.reference() }))
        })
    }

    fn reason(&self) -> String {
        format!("{HELD_BY_GUARD}{}", self.record.session)
    }

    fn change(&self, fact: &ToSay<'_>) -> Result<()> {
        let store = self.store;
        // A prune that runs at the same time must see the fact, or not begin.
        let _lock = store.repository().lock_shared(self.clock.now())?;
        let catalog = Catalog::load(store)?;
        let snapshots = self.record.databases.iter().map(|one| one.snapshot);
        let facts = snapshots.map(|id| fact(&id, catalog.get(&id))).collect::<Result<Vec<_>>>()?;
        facts.into_iter().flatten().try_for_each(|fact| store.note(fact, self.clock.now()))
    }
}
