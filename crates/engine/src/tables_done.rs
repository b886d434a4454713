//! How many tables of a phase are done, for whoever watches.

use std::sync::{Mutex, PoisonError};

use crate::context::Watch;

/// Counts tables. They may be done on several threads; what is told never goes back.
pub(crate) struct TablesDone<'w> {
    watch: &'w Watch,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    done: u64,
    /// Nothing is told before it is known.
    total: Option<u64>,
}

impl<'w> TablesDone<'w> {
    /// Counts from none.
    pub(crate) fn new(watch: &'w Watch) -> Self {
        Self { watch, counts: Mutex::default() }
    }

    /// The phase has begun, and is about so many tables.
    pub(crate) fn begin(&self, total: usize) {
        self.tell(|counts| counts.total = Some(total as u64));
    }

    /// One more is done.
    pub(crate) fn one_more(&self) {
        self.tell(|counts| counts.done += 1);
    }

    fn tell(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        if let Some(total) = counts.total {
            self.watch.tables(counts.done, total);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dbkeep_repo::Observer;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(u64, u64)>>);

    impl Observer for Heard {
        fn tables(&self, done: u64, total: u64) {
            self.0.lock().unwrap().push((done, total));
        }
    }

    #[test]
    fn tables_that_were_done_before_the_phase_began_are_told_with_it() {
        let heard = Arc::new(Heard::default());
        let watch: Watch = heard.clone();
        let tables = TablesDone::new(&watch);
        tables.one_more();
        assert_eq!(*heard.0.lock().unwrap(), []);
        tables.begin(3);
        tables.one_more();
        assert_eq!(*heard.0.lock().unwrap(), [(1, 3), (2, 3)]);
    }
}
