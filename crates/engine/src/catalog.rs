//! The snapshots of a repository, with what is known of each, and how one of them is chosen.

mod history;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use dbkeep_repo::Id;
use dbkeep_repo::format::fact::SnapshotRef;
use dbkeep_repo::format::snapshot::Snapshot;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::manifest::IntegrityResult;
use crate::report::Engine;
use crate::repository::Store;
use crate::suggest::nearest;
use crate::{Error, Result, moment, name};

pub use history::History;
pub(crate) use history::{COPIED, HELD_BY_GUARD, READ};
use history::{damaged_packs, dropped, histories};

/// The reason of the backup that a restore in place takes first.
pub(crate) const PRE_RESTORE: &str = "pre-restore";

/// The tags that are ours.
pub(crate) const OUR_TAGS: [&str; 6] = ["session", "database", "engine", "reason", "integrity", SHRANK];

/// How often snapshots are listed until two listings say the same.
const MOST_LISTINGS: usize = 3;

/// The tag that names what fell by half since the snapshot before: `size`, `tables`, `rows`.
pub(crate) const SHRANK: &str = "shrank";

/// A snapshot, with what is known of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The snapshot itself.
    pub snapshot: Snapshot,
    /// Its id.
    pub id: Id,
    /// The true name of its database; `None` when another tool made it.
    pub database: Option<String>,
    /// What happened to it.
    pub history: History,
}

impl Entry {
    /// Returns the session.
    pub fn session(&self) -> Option<&str> {
        self.snapshot.tag("session")
    }

    /// Returns the engine.
    pub fn engine(&self) -> Option<Engine> {
        match self.snapshot.tag("engine")? {
            "sqlite" => Some(Engine::Sqlite),
            "postgres" => Some(Engine::Postgres),
            _ => None,
        }
    }

    /// Returns why it was taken.
    pub fn reason(&self) -> Option<String> {
        self.snapshot.tag("reason").map(|reason| name::decode(reason).unwrap_or_else(|| reason.to_owned()))
    }

    /// Returns the user's tags.
    pub fn user_tags(&self) -> Vec<String> {
        let ours = |tag: &str| tag.split_once('=').is_some_and(|(name, _)| OUR_TAGS.contains(&name));
        self.snapshot.tags.iter().filter(|tag| !ours(tag)).cloned().collect()
    }

    /// Returns what the check of the source came to when the snapshot was made.
    pub fn integrity(&self) -> Option<IntegrityResult> {
        match self.snapshot.tag("integrity")? {
            "ok" => Some(IntegrityResult::Ok),
            "corrupt" => Some(IntegrityResult::Corrupt),
            _ => Some(IntegrityResult::NotRun),
        }
    }

    /// Says whether the source was sound when the snapshot was made, or was proved to be later, and nothing was
    /// found damaged since. A backup that a restore took first, or of a corrupt source, is never good.
    pub fn is_good(&self) -> bool {
        let sound = match self.integrity() {
            Some(IntegrityResult::Ok) => true,
            Some(IntegrityResult::NotRun) => self.history.verified.is_some() && self.history.inspected,
            Some(IntegrityResult::Corrupt) | None => false,
        };
        sound && self.stands_for_latest() && self.history.damage.is_empty()
    }

    /// Says whether `latest` and `--at` may mean this one.
    pub fn stands_for_latest(&self) -> bool {
        self.database.is_some()
            && self.snapshot.tag("reason") != Some(PRE_RESTORE)
            && self.integrity() != Some(IntegrityResult::Corrupt)
    }

    /// Returns what about the source looked wrong when the snapshot was made, unless somebody said that it is in
    /// order. A policy that runs by itself then leaves the database alone.
    pub(crate) fn suspicion(&self) -> Option<String> {
        if self.history.cleared || self.snapshot.tag("reason") == Some(PRE_RESTORE) {
            return None;
        }
        if self.integrity() == Some(IntegrityResult::Corrupt) {
            return Some("its source was damaged".to_owned());
        }
        let prefix = format!("{SHRANK}=");
        let shrank: Vec<&str> =
            self.snapshot.tags.iter().filter_map(|tag| tag.strip_prefix(&prefix)).collect();
        if shrank.contains(&"unknown") {
            return Some("it could not be compared with the backup before".to_owned());
        }
        (!shrank.is_empty()).then(|| format!("its {} fell by half or more", shrank.join(" and ")))
    }

    /// Returns how facts name it.
    pub(crate) fn reference(&self) -> SnapshotRef {
        SnapshotRef {
            id: self.id,
            tree: self.snapshot.tree,
            database: self.snapshot.tag("database").unwrap_or_default().to_owned(),
        }
    }

    /// Returns the directory of the database in the snapshot.
    pub(crate) fn directory(&self) -> String {
        format!("/{}", name::encode(self.database.as_deref().unwrap_or_default()))
    }

    /// Returns it in words, for candidates of an ambiguous choice.
    pub(crate) fn describe(&self) -> String {
        let database = self.database.as_deref().unwrap_or("made by another tool");
        let seconds = self.snapshot.time.round(jiff::Unit::Second).unwrap_or(self.snapshot.time);
        format!("{} ({}, {seconds})", self.id.short(), name::printable(database))
    }
}

/// A snapshot that should be there.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// Which.
    pub(crate) snapshot: SnapshotRef,
    /// What is wrong with its file; `None` when there is no file.
    pub(crate) why: Option<String>,
}

/// The snapshots of a repository, newest first, and those that should be there.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Those that are there.
    pub entries: Vec<Entry>,
    /// Those that were acknowledged, never forgotten, and cannot be used.
    pub(crate) lost: Vec<Lost>,
    /// Those whose files cannot be read.
    pub(crate) unreadable: Vec<Id>,
    /// The facts that cannot be read, or are known to be missing.
    pub(crate) unreadable_facts: Vec<Id>,
    /// There are snapshots of ours and not one fact: a copy that was made without them, or they are lost.
    pub(crate) without_facts: bool,
    /// The packs in which damage was found, by the digits of their ids that are known.
    pub(crate) damaged_packs: HashSet<String>,
    /// The trees of snapshots that were dropped on purpose and not stored again since.
    pub(crate) dropped: HashSet<Id>,
}

impl Catalog {
    /// Lists all snapshots and reads all facts. A snapshot that cannot be read is a warning: it does not make
    /// the others useless, and `check` names it. A listing that fails is an error.
    ///
    /// What this host has kept of snapshots and facts is taken from there, unless the store reads afresh; which there
    /// are is always asked of the repository.
    pub fn load(store: &Store) -> Result<Self> {
        // A listing that lacked something which a second look found is not relied on, whatever the reason.
        for _ in 1..MOST_LISTINGS {
            if let (catalog, true) = Self::load_once(store)? {
                return Ok(catalog);
            }
        }
        Self::load_once(store).map(|(catalog, _)| catalog)
    }

    /// Says also whether a second look found no more than the first.
    fn load_once(store: &Store) -> Result<(Self, bool)> {
        let repository = store.repository();
        let mut snapshots = Vec::new();
        let mut unreadable = HashMap::new();
        for (id, snapshot) in repository.each_snapshot_through(store.cache())? {
            match snapshot {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) => {
                    store.watch().warn(&format!("snapshot {} cannot be used: {error}", id.short()));
                    unreadable.insert(id, error.to_string());
                }
            }
        }
        let facts = store.read_facts()?;
        if let [(id, _), ..] = facts.damaged() {
            let count = facts.damaged().len();
            store.watch().warn(&format!(
                "{count} facts cannot be read, {} among them: run `dbkeep check`",
                id.short()
            ));
        }
        let histories = histories(facts.records().iter().map(|record| (record.file.time, &record.file.fact)));
        let mut unreadable_ids: Vec<Id> = unreadable.keys().copied().collect();
        unreadable_ids.sort_unstable();
        let suspected = facts.acknowledged_but_absent(&snapshots).len();
        let lost = repository.lost_snapshots(&facts, &snapshots, store.cache())?;
        let steady = lost.len() == suspected;
        let lost = lost
            .into_iter()
            .map(|snapshot| Lost { why: unreadable.remove(&snapshot.id), snapshot })
            .collect();
        let mut entries: Vec<Entry> = snapshots
            .into_iter()
            .filter_map(|snapshot| Some(entry(snapshot.id?, snapshot, &histories)))
            .collect();
        entries.sort_by_key(|entry| Reverse((entry.snapshot.time, entry.id)));
        let damaged_packs = damaged_packs(facts.records().iter().map(|record| &record.file.fact));
        let dropped = dropped(facts.records().iter().map(|record| &record.file.fact));
        let mut unreadable_facts: Vec<Id> = facts.damaged().iter().map(|(id, _)| *id).collect();
        unreadable_facts.extend(store.lost_facts());
        let without_facts = facts.records().is_empty()
            && facts.damaged().is_empty()
            && entries.iter().any(|entry| entry.database.is_some());
        let catalog = Self {
            entries,
            lost,
            unreadable: unreadable_ids,
            unreadable_facts,
            without_facts,
            damaged_packs,
            dropped,
        };
        Ok((catalog, steady))
    }

    /// Says what of the repository is not known, where something is not: a snapshot that should be there and is not, a
    /// snapshot or a fact that cannot be read. Whoever removes anything needs to know everything.
    pub(crate) fn gap(&self) -> Option<String> {
        if let [lost, ..] = self.lost.as_slice() {
            let Lost { snapshot, .. } = lost;
            return Some(format!(
                "snapshot {} of {:?} should be there and is not",
                snapshot.id.short(),
                snapshot.database
            ));
        }
        if let [id, ..] = self.unreadable.as_slice() {
            return Some(format!("snapshot {} cannot be read", id.short()));
        }
        if let [id, ..] = self.unreadable_facts.as_slice() {
            return Some(format!("fact {} is gone or cannot be read", id.short()));
        }
        self.without_facts.then(|| "there are snapshots, and nothing of what happened to them".to_owned())
    }

    /// Says how to go on where there is a [`Catalog::gap`].
    pub(crate) fn way_past_gap(&self) -> String {
        let unreadable = match (self.unreadable.as_slice(), self.unreadable_facts.as_slice()) {
            ([id, ..], _) => format!("snapshots/{id}"),
            ([], [id, ..]) => format!("dbkeep/facts/{id}"),
            ([], []) => {
                return "run `dbkeep check`; where snapshots were removed on purpose, `dbkeep check --accept-removed` says so"
                    .to_owned();
            }
        };
        format!(
            "run `dbkeep check`; where the file {unreadable} of the repository is damaged for good, move it away; `dbkeep check --accept-removed` says that it may be gone"
        )
    }

    /// Says whether damage was ever found in a pack. A new snapshot then does not rely on it.
    pub(crate) fn is_damaged_pack(&self, pack: &Id) -> bool {
        !self.damaged_packs.is_empty() && self.damaged_packs.contains(&pack.to_string())
    }

    /// Says whether somebody dropped a snapshot on purpose. One that is still there was to be removed when its process
    /// ended, or another process is about to.
    pub(crate) fn is_dropped(&self, entry: &Entry) -> bool {
        self.dropped.contains(&entry.snapshot.tree)
    }

    /// Returns the snapshots of a database, newest first.
    pub(crate) fn of_database(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.database.as_deref() == Some(name))
    }

    /// Returns the names of the databases, sorted.
    pub fn databases(&self) -> Vec<String> {
        let names: BTreeSet<&String> =
            self.entries.iter().filter_map(|entry| entry.database.as_ref()).collect();
        names.into_iter().cloned().collect()
    }

    /// Returns the ids of all sessions.
    pub(crate) fn sessions(&self) -> HashSet<String> {
        self.entries.iter().filter_map(Entry::session).map(str::to_owned).collect()
    }

    /// Returns the newest snapshot of a database, whatever it was taken for.
    pub(crate) fn newest(&self, database: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.database.as_deref() == Some(database))
    }

    /// Returns the newest snapshot of each database, a good one where there is one.
    pub(crate) fn newest_of_each(&self) -> Vec<&Entry> {
        let newest = |name: &String| self.usable(name).next().or_else(|| self.newest(name));
        self.databases().iter().filter_map(newest).collect()
    }

    /// Returns the snapshot that a new one of the database follows: the newest that was no safety backup.
    pub(crate) fn parent(&self, database: &str) -> Option<&Entry> {
        let of_database = self.entries.iter().filter(|entry| entry.database.as_deref() == Some(database));
        of_database.into_iter().find(|entry| entry.snapshot.tag("reason") != Some(PRE_RESTORE))
    }

    /// Returns the snapshot with this id.
    pub(crate) fn get(&self, id: &Id) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == *id)
    }

    /// Chooses a snapshot: the beginning of an id, `latest`, or `latest~N`.
    ///
    /// `database` narrows the choice; `latest` needs it where there are several databases.
    pub fn choose(&self, wanted: &str, database: Option<&str>) -> Result<&Entry> {
        if let Some(back) = steps_back(wanted) {
            let database = self.one_database(wanted, database)?;
            let mut usable = self.usable(&database);
            return usable.nth(back?).ok_or_else(|| self.none_left(wanted, &database));
        }
        self.by_prefix(wanted, database)
    }

    /// Chooses the newest snapshot of a database that was taken at or before `moment`. Errors tell times in `zone`.
    pub fn choose_at(&self, moment: Timestamp, database: Option<&str>, zone: &TimeZone) -> Result<&Entry> {
        let wanted = format!("at or before {}", moment::written(moment, zone));
        let database = self.one_database(&wanted, database)?;
        let found = self.usable(&database).find(|entry| entry.snapshot.time <= moment);
        found.ok_or_else(|| {
            let oldest = self.usable(&database).last().map(|entry| entry.snapshot.time);
            Error::NoSnapshot {
                wanted: format!("of {database:?} {wanted}"),
                hint: oldest.map(|oldest| format!("the oldest is of {}", moment::written(oldest, zone))),
            }
        })
    }

    /// Returns the snapshots of a session, or of the `latest`, one a database, by name.
    pub fn of_session(&self, session: &str) -> Result<Vec<&Entry>> {
        let latest = || self.entries.iter().filter(|entry| entry.reason().as_deref() != Some(PRE_RESTORE));
        let session = match session {
            "latest" => latest().find_map(Entry::session).unwrap_or(session),
            _ => session,
        };
        let mut found: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.session() == Some(session) && entry.database.is_some())
            .collect();
        if found.is_empty() {
            let newest = self.entries.iter().find_map(Entry::session);
            return Err(Error::NoSnapshot {
                wanted: format!("of session {session:?}"),
                hint: newest.map(|newest| format!("the newest session is {newest}")),
            });
        }
        // Two hosts may have begun in the same second; the sort is stable, so the newest of a database comes first.
        found.sort_by(|left, right| left.database.cmp(&right.database));
        found.dedup_by(|later, earlier| later.database == earlier.database);
        Ok(found)
    }

    /// Returns the snapshots of a database that `latest` may mean, newest first.
    pub(crate) fn usable<'a, 'd>(
        &'a self,
        database: &'d str,
    ) -> impl Iterator<Item = &'a Entry> + use<'a, 'd> {
        self.entries
            .iter()
            .filter(move |entry| entry.database.as_deref() == Some(database) && entry.stands_for_latest())
    }

    /// Returns the name that is given, where there is a database of it.
    pub(crate) fn known_database<'d>(&self, given: Option<&'d str>) -> Result<Option<&'d str>> {
        let databases = self.databases();
        let Some(given) = given.filter(|given| !databases.iter().any(|database| database == given)) else {
            return Ok(given);
        };
        let near = nearest(given, databases.iter().map(String::as_str));
        let hint = match near {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there are: {}", databases.join(", ")),
        };
        Err(Error::NoSnapshot {
            wanted: format!("of a database called {given:?}"),
            hint: (!databases.is_empty()).then_some(hint),
        })
    }

    /// Returns the database that is meant: the one given, or the only one there is.
    fn one_database(&self, wanted: &str, given: Option<&str>) -> Result<String> {
        if let Some(given) = self.known_database(given)? {
            return Ok(given.to_owned());
        }
        let mut databases = self.databases();
        match databases.len() {
            0 => Err(Error::NoSnapshot {
                wanted: format!("{wanted:?}: the repository holds no database"),
                hint: Some("`dbkeep backup` makes one".to_owned()),
            }),
            1 => Ok(databases.swap_remove(0)),
            _ => Err(Error::AmbiguousDatabase { wanted: wanted.to_owned(), candidates: databases }),
        }
    }

    fn by_prefix(&self, prefix: &str, database: Option<&str>) -> Result<&Entry> {
        let is_prefix =
            !prefix.is_empty() && prefix.len() <= 64 && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
        let of_database = |entry: &&Entry| database.is_none() || entry.database.as_deref() == database;
        let named = |entry: &&Entry| is_prefix && entry.id.starts_with(prefix);
        // A copy is found by the id of what it is a copy of too.
        let first =
            |entry: &&Entry| is_prefix && entry.snapshot.original.is_some_and(|id| id.starts_with(prefix));
        let mut found: Vec<&Entry> = self.entries.iter().filter(named).filter(of_database).collect();
        if found.is_empty() {
            found = self.entries.iter().filter(first).filter(of_database).collect();
        }
        match found.as_slice() {
            [only] => Ok(only),
            [] => Err(Error::NoSnapshot { wanted: format!("{prefix:?}"), hint: Some(self.hint_for(prefix)) }),
            several => Err(Error::AmbiguousSnapshot {
                prefix: prefix.to_owned(),
                candidates: several.iter().map(|entry| entry.describe()).collect(),
            }),
        }
    }

    /// Says what somebody may have meant by what is no id.
    fn hint_for(&self, wanted: &str) -> String {
        if self.databases().iter().any(|database| database == wanted) {
            return format!("that is a database: latest --database {wanted}");
        }
        if self.sessions().contains(wanted) {
            return format!("that is a session: --session {wanted}");
        }
        "`dbkeep list` shows what there is".to_owned()
    }

    fn none_left(&self, wanted: &str, database: &str) -> Error {
        let usable = self.usable(database).count();
        let hint = match usable {
            0 => format!(
                "all snapshots of {database:?} are of a corrupt source or were taken before a restore: choose one by its id"
            ),
            1 => "there is one: latest".to_owned(),
            count => format!("there are {count}: latest to latest~{}", count - 1),
        };
        Error::NoSnapshot { wanted: format!("{wanted} of {database:?}"), hint: Some(hint) }
    }
}

/// Reads `latest` and `latest~N`; `None` for anything else.
fn steps_back(wanted: &str) -> Option<Result<usize>> {
    let rest = wanted.strip_prefix("latest")?;
    if rest.is_empty() {
        return Some(Ok(0));
    }
    let number = rest.strip_prefix('~')?;
    Some(
        number
            .parse()
            .map_err(|_| Error::usage(format!("{wanted:?} is no snapshot"), "write it as latest~1")),
    )
}

fn entry(id: Id, snapshot: Snapshot, histories: &HashMap<Id, History>) -> Entry {
    let database = snapshot.tag("database").and_then(name::decode);
    // A stock tool that changes tags gives a snapshot another id; its tree stays.
    let history = histories.get(&id).or_else(|| histories.get(&snapshot.tree)).cloned().unwrap_or_default();
    Entry { snapshot, id, database, history }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(time: i64, tags: &[&str]) -> Snapshot {
        let tree = Id::of(format!("tree {time} {tags:?}").as_bytes());
        let mut snapshot = Snapshot::new(Timestamp::from_second(time).unwrap(), tree);
        snapshot.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        snapshot
    }

    fn catalog(snapshots: &[(u8, i64, &[&str])]) -> Catalog {
        let mut entries: Vec<Entry> = snapshots
            .iter()
            .map(|(first, time, tags)| {
                let mut id = *Id::of(&[*first]).as_bytes();
                id[0] = *first;
                entry(Id::new(id), snapshot(*time, tags), &HashMap::new())
            })
            .collect();
        entries.sort_by_key(|entry| Reverse(entry.snapshot.time));
        Catalog { entries, ..Catalog::default() }
    }

    fn time_of(found: Result<&Entry>) -> i64 {
        found.unwrap().snapshot.time.as_second()
    }

    const SHOP: &[&str] = &["database=shop", "integrity=ok"];

    #[test]
    fn latest_is_never_a_safety_backup_or_of_a_corrupt_source() {
        let catalog = catalog(&[
            (1, 10, SHOP),
            (2, 20, &["database=shop", "integrity=not-run"]),
            (3, 30, &["database=shop", "integrity=corrupt"]),
            (4, 40, &["database=shop", "integrity=ok", "reason=pre-restore"]),
            (5, 50, &["made=elsewhere"]),
        ]);
        assert_eq!(time_of(catalog.choose("latest", None)), 20);
        assert_eq!(time_of(catalog.choose("latest~1", None)), 10);
        let error = catalog.choose("latest~2", None).unwrap_err();
        assert_eq!(error.to_string(), "no snapshot latest~2 of \"shop\"");
        assert_eq!(error.hint().as_deref(), Some("there are 2: latest to latest~1"));
        assert_eq!(time_of(catalog.choose_at(Timestamp::from_second(45).unwrap(), None, &TimeZone::UTC)), 20);
        assert_eq!(time_of(catalog.choose_at(Timestamp::from_second(20).unwrap(), None, &TimeZone::UTC)), 20);
        assert_eq!(time_of(catalog.choose_at(Timestamp::from_second(19).unwrap(), None, &TimeZone::UTC)), 10);
        let error = catalog.choose_at(Timestamp::from_second(9).unwrap(), None, &TimeZone::UTC).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let good: Vec<i64> = catalog
            .entries
            .iter()
            .filter(|one| one.is_good())
            .map(|one| one.snapshot.time.as_second())
            .collect();
        assert_eq!(good, [10]);
        assert_eq!(catalog.parent("shop").unwrap().snapshot.time.as_second(), 30);
    }

    #[test]
    fn moment_without_a_snapshot_is_told_in_whole_seconds_of_the_users_zone() {
        let catalog = catalog(&[(1, 1_767_323_045, SHOP)]);
        let end_of_day = "2026-01-01T22:59:59.999999999Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let error = catalog.choose_at(end_of_day, None, &zone).unwrap_err();
        assert_eq!(error.to_string(), "no snapshot of \"shop\" at or before 2026-01-01T23:59:59+01:00");
        assert_eq!(error.hint().as_deref(), Some("the oldest is of 2026-01-02T04:04:05+01:00"));
    }

    #[test]
    fn latest_of_several_databases_is_wrong_usage_with_the_candidates() {
        let catalog = catalog(&[(1, 10, SHOP), (2, 20, &["database=clinic", "integrity=ok"])]);
        let error = catalog.choose("latest", None).unwrap_err();
        assert_eq!((error.exit_code(), error.kind().word()), (2, "ambiguous"));
        assert_eq!(error.to_string(), "the repository holds several databases: clinic, shop");
        assert_eq!(time_of(catalog.choose("latest", Some("shop"))), 10);
        let error = catalog.choose("latest", Some("shp")).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean \"shop\"?"));
    }

    #[test]
    fn prefix_that_fits_two_snapshots_is_an_error_with_the_candidates() {
        let catalog = catalog(&[(0x4f, 10, SHOP), (0x4e, 20, SHOP), (0xaa, 30, &[])]);
        let error = catalog.choose("4", None).unwrap_err();
        assert_eq!((error.exit_code(), error.kind().word()), (1, "ambiguous"));
        assert!(error.to_string().contains("fits 2 snapshots: 4e"), "{error}");
        assert!(error.to_string().contains("(shop, 1970-01-01T00:00:20Z)"), "{error}");
        assert_eq!(time_of(catalog.choose("4F", None)), 10);
        assert_eq!(time_of(catalog.choose("aa", None)), 30);
        for wanted in ["", "b", "zz", "latest~x", "shop"] {
            assert!(catalog.choose(wanted, None).is_err(), "{wanted}");
        }
        assert_eq!(
            catalog.choose("shop", None).unwrap_err().hint().as_deref(),
            Some("that is a database: latest --database shop")
        );
    }
}
