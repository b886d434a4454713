//! Making and opening repositories.
//!
//! A repository is made without being asked only where the storage is local and nothing was ever seen
//! before. Where local state remembers one that is gone, the disk may not be mounted: nothing is made there.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use dbkeep_repo::backend::{Backend, FileKind, LocalBackend};
use dbkeep_repo::format::fact::Fact;
use dbkeep_repo::index::{Index, SharedIndex};
use dbkeep_repo::read::Reader;
use dbkeep_repo::{Cache, Facts, Id, InitOptions, KeyOptions, Repository, Secret};
use jiff::{SignedDuration, Timestamp};

use crate::catalog::Catalog;
use crate::context::{Context, KeyCost, Watch};
use crate::keys;
use crate::report::InitReport;
use crate::state::{KnownPlace, RepositoryState, State};
use crate::{Error, Result, copy};

/// How often it is noted that a place is in use; noting it costs a sync.
const NOTE_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// What to make.
#[derive(Clone, Debug, Default)]
pub struct InitRequest {
    /// Make a key where nothing gives a password.
    pub new_key: bool,
}

/// An open repository, with what this host remembers of it.
#[derive(Clone)]
pub struct Store {
    context: Context,
    repository: Repository,
    /// What this host has kept of the repository's objects; `None` where they are read afresh.
    cache: Option<Arc<Cache>>,
    state: RepositoryState,
    passwords: Vec<Secret>,
    watch: Watch,
    facts: Arc<Mutex<KnownFacts>>,
    loaded: Arc<Mutex<Option<LoadedIndex>>>,
}

/// The index that was last loaded to read by: planning and acting need the same one.
#[derive(Debug)]
struct LoadedIndex {
    files: HashSet<Id>,
    distrusted: HashSet<Id>,
    index: SharedIndex,
}

impl LoadedIndex {
    /// Says whether loading it again would give the same.
    fn is_current(&self, files: &HashSet<Id>, distrusted: &dyn Fn(&Id) -> bool) -> bool {
        let packs = self.index.read();
        self.files == *files
            && packs.packs().iter().all(|pack| self.distrusted.contains(&pack.id) == distrusted(&pack.id))
    }
}

/// The facts that a new one follows, and those that are known and gone.
#[derive(Debug, Default)]
struct KnownFacts {
    heads: Vec<Id>,
    /// Those that this host remembers.
    lost: Vec<Id>,
    /// Those that others name as predecessors.
    holes: Vec<Id>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Store").field("repository", &self.repository).finish_non_exhaustive()
    }
}

/// Makes a repository.
///
/// Without a source of a password a key is generated, on a terminal or when asked for, and stored in a key
/// file before anything depends on it. A place that is not empty is refused.
pub fn init(context: &Context, request: &InitRequest, now: Timestamp, watch: &Watch) -> Result<InitReport> {
    create(context, request.new_key, now, watch).map(|(_, report)| report)
}

/// Opens the repository.
pub fn open(context: &Context, now: Timestamp, watch: &Watch) -> Result<Store> {
    let backend = backend(context);
    if !is_repository(&*backend)? {
        return Err(missing(context));
    }
    let passwords = keys::passwords(context, &*backend, &mut |warning| watch.warn(&warning))?;
    let repository = Repository::open(backend, &passwords)?;
    let store = Store::new(context, repository, passwords, watch);
    store.note_use(now);
    Ok(store)
}

/// Opens the repository for a backup, or makes it where that is safe. The report is there when it was made.
pub(crate) fn open_or_init(
    context: &Context,
    new_key: bool,
    now: Timestamp,
    watch: &Watch,
) -> Result<(Store, Option<InitReport>)> {
    let backend = backend(context);
    if is_repository(&*backend)? {
        return Ok((open(context, now, watch)?, None));
    }
    let never_seen = State::new(&context.environment.state_directory).place(&context.location).is_none();
    if !never_seen || !backend.is_empty()? {
        return Err(missing(context));
    }
    let (store, report) = create(context, new_key, now, watch)?;
    Ok((store, Some(report)))
}

/// Says whether a repository could be made here without being asked; for a plan that makes none.
pub(crate) fn may_be_made(context: &Context) -> Result<()> {
    let known = State::new(&context.environment.state_directory).place(&context.location);
    match known.is_none() && backend(context).is_empty()? {
        true => Ok(()),
        false => Err(missing(context)),
    }
}

/// Says whether there is a repository at the location.
pub(crate) fn exists(context: &Context) -> Result<bool> {
    is_repository(&*backend(context))
}

fn create(context: &Context, new_key: bool, now: Timestamp, watch: &Watch) -> Result<(Store, InitReport)> {
    let backend = backend(context);
    if is_repository(&*backend)? {
        return Err(Error::Usage {
            message: format!("there is a repository at {} already", backend.location()),
            hint: Some("`dbkeep status` shows what is in it".to_owned()),
        });
    }
    let (secret, pending) = match keys::given(context, &mut |warning| watch.warn(&warning))? {
        Some(secret) => (secret, None),
        None if new_key || context.environment.terminal => {
            let (pending, secret) = keys::generate(&context.environment)?;
            (secret, Some(pending))
        }
        None => {
            return Err(Error::usage(
                format!("no password for a new repository at {}", backend.location()),
                "--new-key makes a key and keeps it in a file; or give one with --password-file or DBKEEP_PASSWORD_FILE",
            ));
        }
    };
    watch.step("init.key-stored");
    let repository = match Repository::init(backend, &secret, &context.init_options(), now) {
        Ok(repository) => repository,
        Err(error) => {
            if let Some(pending) = pending {
                pending.discard();
            }
            return Err(error.into());
        }
    };
    watch.step("init.repository-made");
    let key_file = pending.map(|pending| pending.name_after(&repository.key_id())).transpose()?;
    let store = Store::new(context, repository, vec![secret], watch);
    store.note_use(now);
    let report = InitReport {
        repository: store.location(),
        id: store.repository.id().to_owned(),
        key_file,
        setup: Vec::new(),
        backup: None,
    };
    Ok((store, report))
}

fn backend(context: &Context) -> Arc<dyn Backend> {
    Arc::new(LocalBackend::new(&context.location))
}

/// Says whether the place is a repository. Only a clear "not there" is a no; a disk that fails is an error.
fn is_repository(backend: &dyn Backend) -> Result<bool> {
    match backend.read(FileKind::Config, &Id::NULL) {
        Ok(_) => Ok(true),
        Err(dbkeep_repo::Error::Missing { .. } | dbkeep_repo::Error::NoRepository { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns the error for a place without a repository, which says more where one is remembered.
fn missing(context: &Context) -> Error {
    let location = context.location.display().to_string();
    match State::new(&context.environment.state_directory).place(&context.location) {
        Some(known) => Error::RepositoryGone {
            location,
            last_used: Some(known.last_used),
            copies: copy::names_of(context),
        },
        None => Error::NoRepository { location },
    }
}

impl Store {
    fn new(context: &Context, repository: Repository, passwords: Vec<Secret>, watch: &Watch) -> Self {
        let state = State::new(&context.environment.state_directory).repository(repository.id());
        let cache = Cache::new(&repository, state.cache(), Arc::clone(watch));
        Self {
            context: context.clone(),
            repository,
            cache: Some(Arc::new(cache)),
            state,
            passwords,
            watch: Arc::clone(watch),
            facts: Arc::default(),
            loaded: Arc::default(),
        }
    }

    /// Returns the same store, which reads every object from the repository and none from the cache of this host: for
    /// what judges the repository or removes something from it. Nor does it use an index that was loaded before.
    pub(crate) fn afresh(&self) -> Self {
        Self { cache: None, loaded: Arc::default(), ..self.clone() }
    }

    /// Returns what this host has kept of the repository's objects, where it may be used.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.cache.as_deref()
    }

    /// Warns where the object of a snapshot that is needed now has become unreadable since this host has kept what it
    /// says. With that it can still be restored here, and nowhere else.
    pub(crate) fn look_again(&self, snapshot: &Id) {
        if self.cache.is_none() {
            return;
        }
        if let Err(error) = self.repository.snapshot(snapshot) {
            self.watch.warn(&format!(
                "snapshot {} cannot be read any more and is restored with what this host has kept of it: {error}: run `dbkeep check`",
                snapshot.short()
            ));
        }
    }

    /// Returns what the store was opened with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Returns the repository itself.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns where the repository is, for people.
    pub fn location(&self) -> String {
        self.context.location.display().to_string()
    }

    /// Returns what the store was opened with to report to.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Loads the index to read by. Snapshots are listed before, so that the index knows all that they need. What
    /// cannot be read of it is a warning: most snapshots can be restored all the same. A blob that is in several
    /// packs is read from a sound one. What was loaded before is used again while it is the same.
    pub(crate) fn reader(&self, listed_before: &Catalog) -> Result<Reader> {
        let present = self.present(FileKind::Pack)?;
        // Listed before they are read: one that comes in between makes the index look old, never current.
        let files = self.present(FileKind::Index)?;
        let distrusted = |pack: &Id| !present.contains(pack) || listed_before.is_damaged_pack(pack);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = loaded.as_ref().filter(|last| last.is_current(&files, &distrusted)) {
            return Ok(self.repository.reader(&last.index));
        }
        // Not two of them in memory at a time.
        *loaded = None;
        let (index, is_whole) =
            Index::load_readable(&self.repository, &*self.watch, &distrusted, self.cache())?;
        let bad = index.packs().iter().map(|pack| pack.id).filter(|pack| distrusted(pack)).collect();
        let index = SharedIndex::from(index);
        // What could not be read this time may be readable the next.
        *loaded = is_whole.then(|| LoadedIndex { files, distrusted: bad, index: index.clone() });
        Ok(self.repository.reader(index))
    }

    fn present(&self, kind: FileKind) -> Result<HashSet<Id>> {
        Ok(self.repository.names(kind)?.into_iter().collect())
    }

    /// Loads the index to store by. Packs that are gone, or in which damage was found, are not relied on: what they
    /// held is stored again when it is met.
    pub(crate) fn writing_reader(&self, listed_before: &Catalog) -> Result<Reader> {
        let present = self.present(FileKind::Pack)?;
        let distrusted = |pack: &Id| !present.contains(pack) || listed_before.is_damaged_pack(pack);
        let index = Index::load_distrusting(&self.repository, &*self.watch, &distrusted, self.cache())?;
        // A pack that waits for its removal may be gone.
        let named = index.packs().iter().filter(|pack| !pack.waits).map(|pack| &pack.id);
        let bad: HashSet<&Id> = named.filter(|pack| distrusted(pack)).collect();
        if let Some(example) = bad.iter().next() {
            self.watch.warn(&format!(
                "{} packs are damaged or gone, {} among them: what they held is stored again where the sources still have it (`dbkeep check` tells what is affected)",
                bad.len(),
                example.short()
            ));
        }
        drop(bad);
        Ok(self.repository.reader(index))
    }

    /// Reads the facts of the repository, and takes note of those that this host remembers and that are gone.
    pub(crate) fn read_facts(&self) -> Result<Facts> {
        // Before they are listed: what another process stores and remembers meanwhile is not gone.
        let remembered = self.state.fact_heads();
        let facts = self.repository.facts_through(self.cache())?;
        let present: HashSet<Id> = facts.records().iter().map(|record| record.id).collect();
        let damaged = |id: &Id| facts.damaged().iter().any(|(damaged, _)| damaged == id);
        let lost = remembered.into_iter().filter(|id| !present.contains(id) && !damaged(id)).collect();
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) =
            KnownFacts { heads: facts.heads(), lost, holes: facts.missing(&[]) };
        Ok(facts)
    }

    /// Returns the facts that are gone: those that this host remembers, and those that others name.
    pub(crate) fn lost_facts(&self) -> Vec<Id> {
        let known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        known.lost.iter().chain(&known.holes).copied().collect()
    }

    /// Stores a fact after those that are known. On return it survives a power cut.
    pub(crate) fn note(&self, fact: Fact, now: Timestamp) -> Result<()> {
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.repository.append_fact(fact, &known.heads, now)?;
        known.heads = vec![head];
        self.remember_facts(&known);
        Ok(())
    }

    /// Takes note of a fact that the repository stored itself.
    pub(crate) fn noted(&self, head: Id) {
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        known.heads = vec![head];
        self.remember_facts(&known);
    }

    /// Accepts that facts are gone: what is there now is what is known.
    pub(crate) fn accept_lost_facts(&self) {
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        known.lost.clear();
        known.holes.clear();
        self.remember_facts(&known);
    }

    /// Remembers the newest facts on this host. Those that are gone stay remembered until that is accepted. Where
    /// it fails, less is known next time.
    fn remember_facts(&self, known: &KnownFacts) {
        let all: Vec<Id> = known.heads.iter().chain(&known.lost).copied().collect();
        if let Err(error) = self.state.save_fact_heads(&all) {
            self.watch
                .warn(&format!("this host will not remember the newest facts: {}", error.full_message()));
        }
    }

    /// Returns what this host remembers of the repository.
    pub(crate) fn state(&self) -> &RepositoryState {
        &self.state
    }

    /// Returns the password that opened the repository.
    pub(crate) fn password(&self) -> Result<Secret> {
        if let [only] = self.passwords.as_slice() {
            return Ok(only.clone());
        }
        let file = keys::directory(&self.context.environment).join(self.repository.key_id().to_string());
        let text = crate::trust::read_named(&file)?
            .ok_or_else(|| Error::NoPassword { location: self.location(), key_file: Some(file) })?;
        Ok(Secret::from_file_contents(text))
    }

    /// Remembers that the recovery sheet was shown.
    pub(crate) fn mark_sheet_shown(&self) {
        let host = State::new(&self.context.environment.state_directory);
        if let Some(mut place) = host.place(&self.context.location) {
            place.recovery_sheet_shown = true;
            // Showing it once more is the worst that can happen.
            let _ = host.remember(&self.context.location, &place);
        }
    }

    /// Says whether the recovery sheet was shown on this host.
    pub(crate) fn sheet_shown(&self) -> bool {
        let host = State::new(&self.context.environment.state_directory);
        host.place(&self.context.location).is_some_and(|place| place.recovery_sheet_shown)
    }

    /// Remembers that this repository is here, and warns when another one was.
    fn note_use(&self, now: Timestamp) {
        let host = State::new(&self.context.environment.state_directory);
        let known = host.place(&self.context.location);
        let id = self.repository.id();
        let same = known.as_ref().filter(|known| known.id == id);
        if let (Some(known), None) = (&known, same) {
            self.watch.warn(&format!(
                "another repository than before is at {}: {id:.8}, not {:.8}",
                self.location(),
                known.id
            ));
        }
        if same.is_some_and(|known| now.duration_since(known.last_used).abs() < NOTE_EVERY) {
            return;
        }
        let place = KnownPlace {
            location: self.location(),
            id: id.to_owned(),
            last_used: now,
            recovery_sheet_shown: same.is_some_and(|known| known.recovery_sheet_shown),
        };
        if let Err(error) = host.remember(&self.context.location, &place) {
            self.watch.warn(&format!("this host will not remember the repository: {}", error.full_message()));
        }
    }
}

impl Context {
    /// Returns how a new repository is made.
    fn init_options(&self) -> InitOptions {
        let options = match self.key_cost {
            KeyCost::Strong => InitOptions::default(),
            KeyCost::Cheap => InitOptions::cheap(),
        };
        let chunker_polynomial = self.as_copy.as_ref().and_then(|copy| copy.chunker_polynomial.clone());
        InitOptions { chunker_polynomial, ..options }
    }

    /// Returns how a new key is made.
    pub(crate) fn key_options(&self) -> KeyOptions {
        match self.key_cost {
            KeyCost::Strong => KeyOptions::default(),
            KeyCost::Cheap => KeyOptions::cheap(),
        }
    }
}
