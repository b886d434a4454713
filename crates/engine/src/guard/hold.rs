//! The snapshots to go back to are held while a guard may need them: somebody who has to decide may take a night, and a
//! policy goes on meanwhile.

use dbkeep_repo::format::fact::Fact;

use super::Run;
use crate::Result;
use crate::catalog::{Catalog, Entry, HELD_BY_GUARD};

impl Run<'_> {
    /// Holds the snapshots, on every host.
    pub(super) fn hold(&self) -> Result<()> {
        let reason = self.reason();
        self.change(&|entry| {
            let snapshot = entry.reference();
            (!entry.history.pinned).then(|| Fact::Pinned { snapshot, reason: reason.clone() })
        })
    }

    /// Lets them go, but for those that somebody else wants to have held.
    pub(super) fn let_go(&self) -> Result<()> {
        let reason = self.reason();
        self.change(&|entry| {
            let snapshot = entry.reference();
            (entry.history.held_by.as_deref() == Some(reason.as_str())).then_some(Fact::Unpinned { snapshot })
        })
    }

    fn reason(&self) -> String {
        format!("{HELD_BY_GUARD}{}", self.record.session)
    }

    fn change(&self, fact: &dyn Fn(&Entry) -> Option<Fact>) -> Result<()> {
        let store = self.store;
        // A prune that runs at the same time must see the fact, or not begin.
        let _lock = store.repository().lock_shared(self.clock.now())?;
        let catalog = Catalog::load(store)?;
        let entries = self.record.databases.iter().filter_map(|one| catalog.get(&one.snapshot));
        let facts: Vec<Fact> = entries.filter_map(fact).collect();
        facts.into_iter().try_for_each(|fact| store.note(fact, self.clock.now()))
    }
}
