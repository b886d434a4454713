//! Which object is made next, by several connections at once.
//!
//! An object's turn has come when all that it needs is there and nobody works on the same tables in a way that excludes
//! it: two connections never wait for each other in the server. Indexes of one table are made at once; a constraint
//! shuts everybody out of its tables. Whatever is neither is quickly done, and done by one connection at a time.
//!
//! A server lets several processes make one index, which costs half as much again as one that sorts all by itself. That
//! pays only for an object that takes longer than everything else together: the other connections would be idle.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::archive::{Archive, Entry, Stage};
use crate::catalog::Name;

/// What is left to make.
#[derive(Debug)]
pub(super) struct Schedule<'a> {
    entries: Vec<&'a Entry>,
    tasks: Vec<Task>,
    /// Whose needs are met: the largest first, then in the order of the archive.
    ready: BTreeSet<(Reverse<u64>, usize)>,
    /// Who works on which table: how many that share it, or one that does not.
    locks: BTreeMap<i32, Lock>,
    quick_at_work: bool,
    /// The places of what is being made.
    at_work: BTreeSet<usize>,
    left: usize,
    /// How many connections make objects.
    jobs: usize,
    /// The bytes of everything that is not made yet.
    bytes_left: u64,
}

/// What to make next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Next<'a> {
    /// Its place, for [`Schedule::done`].
    pub(super) place: usize,
    pub(super) entry: &'a Entry,
    /// Whether the server had better make it by several processes of its own.
    pub(super) is_longest: bool,
}

#[derive(Debug, Default)]
struct Task {
    /// How much of what it needs is not there yet.
    missing: usize,
    /// What needs it.
    needed_by: Vec<usize>,
    tables: BTreeSet<i32>,
    work: Work,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    /// Reads a table together with others.
    Index,
    /// Reads tables alone.
    Constraint,
    /// Reads none.
    #[default]
    Quick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Shared(usize),
    Alone,
}

/// Returns what comes after the rows, in two parts: what reads whole tables to make indexes, and, behind it, foreign keys
/// and what needs them.
pub(super) fn in_two(archive: &Archive) -> (Vec<&Entry>, Vec<&Entry>) {
    let mut later: BTreeSet<i32> = BTreeSet::new();
    let after = archive.entries.iter().filter(|entry| entry.stage == Stage::AfterRows);
    after.partition(|entry| {
        let is_later = entry.kind == "FK CONSTRAINT" || entry.needs.iter().any(|need| later.contains(need));
        if is_later {
            later.insert(entry.id);
        }
        !is_later
    })
}

/// What can be needed by what runs no functions of the database.
const PLAIN: [&str; 6] = ["TABLE", "INDEX", "CONSTRAINT", "COLLATION", "SCHEMA", "SEQUENCE"];

/// Says whether functions of the database may run while some of `all` are made: by an expression of an index, by a type.
pub(super) fn may_run_code<'a>(all: &[Entry], some: impl Iterator<Item = &'a Entry>) -> bool {
    let needs: BTreeSet<i32> = some.flat_map(|entry| entry.needs.iter().copied()).collect();
    let mut needed = all.iter().filter(|entry| needs.contains(&entry.id));
    needed.any(|entry| !PLAIN.contains(&entry.kind.as_str()))
}

/// Returns the tables for which functions of the database may run when the server looks at them: by an expression whose
/// values it looks at, by a type that is compared.
pub(super) fn tables_with_code(archive: &Archive) -> BTreeSet<Name> {
    let all = &archive.entries;
    let is_plain = |entry: &&Entry| PLAIN.contains(&entry.kind.as_str());
    let not_plain: BTreeSet<i32> =
        all.iter().filter(|entry| !is_plain(entry)).map(|entry| entry.id).collect();
    let is_looked_at =
        |entry: &&Entry| ["TABLE", "INDEX", "CONSTRAINT", "STATISTICS"].contains(&entry.kind.as_str());
    let runs_code = |entry: &&Entry| entry.needs.iter().any(|need| not_plain.contains(need));
    let is_table: BTreeSet<i32> =
        all.iter().filter(|entry| entry.kind == "TABLE").map(|entry| entry.id).collect();
    let found = all.iter().filter(is_looked_at).filter(runs_code);
    let mut found: BTreeSet<i32> =
        found.flat_map(|entry| entry.needs.iter().chain([&entry.id])).copied().collect();
    // Also tables with rows of such a table as values. Each stands behind what it needs.
    for table in all.iter().filter(|entry| entry.kind == "TABLE") {
        if table.needs.iter().any(|need| found.contains(need) && is_table.contains(need)) {
            found.insert(table.id);
        }
    }
    let tables = all.iter().filter(|entry| entry.kind == "TABLE" && found.contains(&entry.id));
    tables.filter_map(Entry::name).collect()
}

impl<'a> Schedule<'a> {
    /// Plans `entries` of an archive for so many connections. `bytes` are the sizes of tables by their numbers in the
    /// archive.
    pub(super) fn new(
        all: &'a [Entry],
        entries: Vec<&'a Entry>,
        bytes: &HashMap<i32, u64>,
        jobs: usize,
    ) -> Self {
        let by_id: HashMap<i32, &Entry> = all.iter().map(|entry| (entry.id, entry)).collect();
        let places: HashMap<i32, usize> =
            entries.iter().enumerate().map(|(place, entry)| (entry.id, place)).collect();
        let mut tasks: Vec<Task> = entries.iter().map(|entry| task(entry, &by_id, bytes)).collect();
        for (place, entry) in entries.iter().enumerate() {
            let needs: BTreeSet<usize> =
                entry.needs.iter().filter_map(|need| places.get(need).copied()).collect();
            // What stands behind it in the archive, it cannot wait for: the archive is in an order that works.
            for need in needs.into_iter().filter(|need| *need < place) {
                tasks[need].needed_by.push(place);
                tasks[place].missing += 1;
            }
        }
        let ready = tasks.iter().enumerate().filter(|(_, task)| task.missing == 0);
        let ready = ready.map(|(place, task)| (Reverse(task.bytes), place)).collect();
        let left = tasks.len();
        let bytes_left = tasks.iter().map(|task| task.bytes).sum();
        Self {
            entries,
            tasks,
            ready,
            locks: BTreeMap::new(),
            quick_at_work: false,
            at_work: BTreeSet::new(),
            left,
            jobs,
            bytes_left,
        }
    }

    /// Returns whether everything was begun.
    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Returns what is being made.
    pub(super) fn at_work(&self) -> impl Iterator<Item = &'a Entry> {
        self.at_work.iter().map(|place| self.entries[*place])
    }

    /// Returns the numbers of the tables of which something is being made.
    pub(super) fn tables_at_work(&self) -> impl Iterator<Item = i32> {
        self.locks.keys().copied()
    }

    /// Returns what to make next; none while everything has to wait for what is being made.
    pub(super) fn next(&mut self) -> Option<Next<'a>> {
        let found = self.ready.iter().copied().find(|(_, place)| self.is_free(&self.tasks[*place]))?;
        self.ready.remove(&found);
        self.left -= 1;
        let (_, place) = found;
        self.at_work.insert(place);
        let task = &self.tasks[place];
        self.quick_at_work |= task.work == Work::Quick;
        for table in &task.tables {
            match (task.work, self.locks.get_mut(table)) {
                (Work::Index, Some(Lock::Shared(count))) => *count += 1,
                (Work::Index, _) => drop(self.locks.insert(*table, Lock::Shared(1))),
                _ => drop(self.locks.insert(*table, Lock::Alone)),
            }
        }
        Some(Next { place, entry: self.entries[place], is_longest: self.is_longest(task.bytes) })
    }

    /// Returns whether a connection alone would be at work on so many bytes long after all others have ended.
    fn is_longest(&self, bytes: u64) -> bool {
        let (jobs, bytes, left) = (self.jobs as u128, u128::from(bytes), u128::from(self.bytes_left));
        // Not for a table that is just somewhat larger than others.
        jobs < 2 || 2 * bytes * jobs > 3 * left
    }

    fn is_free(&self, task: &Task) -> bool {
        let free = |table| match self.locks.get(table) {
            None => true,
            Some(Lock::Shared(_)) => task.work == Work::Index,
            Some(Lock::Alone) => false,
        };
        !(task.work == Work::Quick && self.quick_at_work) && task.tables.iter().all(free)
    }

    /// Takes note that something is made.
    pub(super) fn done(&mut self, place: usize) {
        let task = std::mem::take(&mut self.tasks[place]);
        self.at_work.remove(&place);
        self.bytes_left -= task.bytes;
        if task.work == Work::Quick {
            self.quick_at_work = false;
        }
        for table in &task.tables {
            match self.locks.get_mut(table) {
                Some(Lock::Shared(count)) if *count > 1 => *count -= 1,
                _ => drop(self.locks.remove(table)),
            }
        }
        for place in task.needed_by {
            self.tasks[place].missing -= 1;
            if self.tasks[place].missing == 0 {
                self.ready.insert((Reverse(self.tasks[place].bytes), place));
            }
        }
    }
}

fn task(entry: &Entry, by_id: &HashMap<i32, &Entry>, bytes: &HashMap<i32, u64>) -> Task {
    let work = match entry.kind.as_str() {
        "INDEX" => Work::Index,
        "CONSTRAINT" | "FK CONSTRAINT" | "CHECK CONSTRAINT" | "MATERIALIZED VIEW DATA" => Work::Constraint,
        _ => Work::Quick,
    };
    let mut tables = BTreeSet::new();
    add_tables(entry, by_id, &mut tables);
    let size = tables.iter().filter_map(|table| bytes.get(table)).max().copied().unwrap_or_default();
    Task { tables, work, bytes: if work == Work::Quick { 0 } else { size }, ..Task::default() }
}

/// Adds the tables that an object is about: those it needs itself, and those whose indexes and constraints it needs.
fn add_tables(entry: &Entry, by_id: &HashMap<i32, &Entry>, tables: &mut BTreeSet<i32>) {
    for need in entry.needs.iter().filter_map(|need| by_id.get(need)) {
        match need.kind.as_str() {
            "TABLE" | "MATERIALIZED VIEW" | "VIEW" | "FOREIGN TABLE" => drop(tables.insert(need.id)),
            "INDEX" | "CONSTRAINT" => {
                let direct = need.needs.iter().filter_map(|need| by_id.get(need));
                tables.extend(direct.filter(|need| need.kind == "TABLE").map(|need| need.id));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: i32, kind: &str, needs: &[i32]) -> Entry {
        Entry::sample(id, kind, Stage::AfterRows, needs)
    }

    fn begun(schedule: &mut Schedule<'_>) -> Vec<i32> {
        std::iter::from_fn(|| schedule.next()).map(|next| next.entry.id).collect()
    }

    #[test]
    fn tables_are_looked_at_early_where_that_may_run_functions_of_the_database() {
        let table =
            |id: i32, needs: &[i32]| Entry { schema: Some("s".to_owned()), ..entry(id, "TABLE", needs) };
        let entries = vec![
            entry(1, "SCHEMA", &[]),
            entry(2, "FUNCTION", &[1]),
            entry(3, "TYPE", &[1]),
            table(4, &[1]),
            table(5, &[1, 3]),
            table(6, &[1]),
            table(7, &[1]),
            entry(8, "INDEX", &[4, 1]),
            entry(9, "STATISTICS", &[6, 2]),
            entry(10, "INDEX", &[7, 2]),
            entry(11, "TRIGGER", &[4, 2]),
            table(12, &[5, 1]),
            table(13, &[4, 1]),
        ];
        let archive = Archive { server: None, entries };
        let found: Vec<String> = tables_with_code(&archive).into_iter().map(|name| name.name).collect();
        assert_eq!(found, ["12", "5", "6", "7"], "no trigger runs");
    }

    #[test]
    fn indexes_of_a_table_are_made_at_once_and_constraints_alone_the_largest_first() {
        let all = [
            entry(1, "TABLE", &[]),
            entry(2, "TABLE", &[]),
            entry(3, "INDEX", &[1]),
            entry(4, "INDEX", &[1]),
            entry(5, "CONSTRAINT", &[1]),
            entry(6, "CONSTRAINT", &[2]),
            entry(7, "FK CONSTRAINT", &[1, 6]),
        ];
        let bytes = HashMap::from([(1, 10), (2, 90)]);
        let mut schedule = Schedule::new(&all, all[2..].iter().collect(), &bytes, 3);
        assert_eq!(
            begun(&mut schedule),
            [6, 3, 4],
            "the constraint of the first table waits for its indexes"
        );
        schedule.done(0);
        assert_eq!(begun(&mut schedule), [0; 0]);
        schedule.done(1);
        assert_eq!(begun(&mut schedule), [5]);
        schedule.done(3);
        assert_eq!(begun(&mut schedule), [0; 0], "the foreign key waits for both tables");
        assert!(!schedule.is_empty());
        schedule.done(2);
        assert_eq!(begun(&mut schedule), [7]);
        assert!(schedule.is_empty());
    }

    #[test]
    fn foreign_keys_and_what_needs_them_come_last() {
        let entries = vec![
            entry(1, "TRIGGER", &[]),
            entry(2, "FK CONSTRAINT", &[1]),
            entry(3, "COMMENT", &[2]),
            entry(4, "INDEX", &[]),
        ];
        let archive = Archive { server: None, entries };
        let (now, later) = in_two(&archive);
        let ids = |entries: Vec<&Entry>| entries.iter().map(|entry| entry.id).collect::<Vec<_>>();
        assert_eq!((ids(now), ids(later)), (vec![1, 4], vec![2, 3]));
    }

    /// Returns which indexes of tables of such sizes the server makes by several processes: when they begin all at once,
    /// and when each begins after all others have ended.
    fn longest(sizes: &[u64], jobs: usize) -> (Vec<i32>, Vec<i32>) {
        let numbers = 1..=i32::try_from(sizes.len()).unwrap();
        let entries = numbers.clone().map(|table| entry(100 + table, "INDEX", &[table]));
        let all: Vec<Entry> =
            numbers.clone().map(|table| entry(table, "TABLE", &[])).chain(entries).collect();
        let bytes = numbers.zip(sizes.iter().copied()).collect();
        let schedule = || Schedule::new(&all, all[sizes.len()..].iter().collect(), &bytes, jobs);
        let table = |next: Next<'_>| next.is_longest.then_some(next.entry.id - 100);
        let mut at_once = schedule();
        let at_once = std::iter::from_fn(|| at_once.next()).filter_map(table).collect();
        let mut in_turn = schedule();
        let next = || {
            let next = in_turn.next()?;
            in_turn.done(next.place);
            Some(next)
        };
        (at_once, std::iter::from_fn(next).filter_map(table).collect())
    }

    #[test]
    fn server_makes_by_several_processes_what_takes_longer_than_all_else() {
        assert_eq!(longest(&[50, 50], 2), (vec![], vec![2]), "the last has nothing beside it");
        assert_eq!(longest(&[60, 50], 2), (vec![], vec![2]));
        assert_eq!(longest(&[9, 80, 10], 2), (vec![2], vec![2, 1]));
        assert_eq!(longest(&[9, 40, 11], 4), (vec![2], vec![2, 3, 1]));
        assert_eq!(longest(&[10; 9], 4), (vec![], vec![8, 9]));
        assert_eq!(longest(&[10, 30], 1), (vec![2, 1], vec![2, 1]), "one connection has nothing beside it");
    }

    #[test]
    fn what_is_quick_is_made_one_after_the_other_and_behind_what_it_needs() {
        let all = [
            entry(1, "TABLE", &[]),
            entry(2, "TRIGGER", &[1]),
            entry(3, "COMMENT", &[2]),
            entry(4, "RULE", &[]),
        ];
        let mut schedule = Schedule::new(&all, all[1..].iter().collect(), &HashMap::new(), 2);
        assert_eq!(begun(&mut schedule), [2]);
        schedule.done(0);
        assert_eq!(begun(&mut schedule), [3]);
        schedule.done(1);
        assert_eq!(begun(&mut schedule), [4]);
    }
}
