//! Passwords and the keys that they open.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::Id;
use crate::backend::{Backend, FileKind};
use crate::crypto::MasterKey;
use crate::error::{Error, Result};
use crate::format::key::{Cost, KeyFile};
use crate::process::Process;
use crate::repository::Repository;
use crate::secret::Secret;

/// How many of the newest keys are tried for a password; stock restic tries as many.
const KEYS_TRIED: usize = 20;

/// How a key is made.
#[derive(Clone, Debug)]
pub struct KeyOptions {
    /// The cost of trying a password.
    pub cost: Cost,
    /// Whom to name as the maker; this process's user when unset.
    pub username: Option<String>,
    /// Where it was made; this host when unset.
    pub hostname: Option<String>,
}

impl Default for KeyOptions {
    /// N = 2^15 and r = 8, as stock restic chooses, and p so that a try takes a large part of a second.
    fn default() -> Self {
        Self { cost: Cost { log_n: 15, r: 8, p: 5 }, username: None, hostname: None }
    }
}

impl KeyOptions {
    /// A key that costs next to nothing to try: for tests, and for passwords that are random keys.
    pub fn cheap() -> Self {
        Self { cost: Cost { log_n: 4, r: 8, p: 1 }, ..Self::default() }
    }
}

/// One key of a repository, as a list shows it.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// The name of the key file.
    pub id: Id,
    /// When it was made; unknown when it is damaged.
    pub created: Option<Timestamp>,
    /// Who made it.
    pub username: String,
    /// Where it was made.
    pub hostname: String,
    /// Whether the repository was opened with it.
    pub is_current: bool,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// A key file as it was found.
struct FoundKey {
    id: Id,
    /// Unset when nothing can be done with it.
    file: Option<KeyFile>,
    problem: Option<String>,
}

/// Wraps `master` for `password` and stores the key.
pub(crate) fn store(
    backend: &dyn Backend,
    master: &MasterKey,
    password: &Secret,
    options: &KeyOptions,
    now: Timestamp,
) -> Result<Id> {
    let process = Process::current();
    let username = options.username.as_deref().unwrap_or(&process.username);
    let hostname = options.hostname.as_deref().unwrap_or(&process.hostname);
    let key = KeyFile::wrap_master(master, password.expose(), options.cost, username, hostname, now)?;
    let contents = key.encode();
    let id = Id::of(&contents);
    backend.write(FileKind::Key, &id, &contents)?;
    Ok(id)
}

/// Finds a key that one of the passwords opens and whose master key `fits`, newest first.
///
/// Damaged keys that can still be read are tried last: as long as the password opens one, all is well.
pub(crate) fn find<T: Send>(
    backend: &dyn Backend,
    passwords: &[Secret],
    fits: impl Fn(&MasterKey) -> Result<T> + Sync,
) -> Result<(Id, MasterKey, T)> {
    let mut keys = load_all(backend)?;
    if keys.is_empty() || passwords.is_empty() {
        return Err(Error::NoKey);
    }
    keys.sort_by_key(|key| {
        let created = key.file.as_ref().map(|file| file.created);
        (key.problem.is_some(), std::cmp::Reverse(created))
    });
    let tried = &keys[..keys.len().min(KEYS_TRIED)];
    if let Some(found) = try_all(tried, passwords, &fits)? {
        return Ok(found);
    }
    if let Some(damaged) = keys.iter().find(|key| key.problem.is_some()) {
        return Err(Error::KeyDamaged { id: damaged.id });
    }
    if tried.len() < keys.len() {
        return Err(Error::TooManyKeys { tried: tried.len(), keys: keys.len() });
    }
    Err(Error::WrongPassword)
}

/// Tries every password on every key, two at a time, as each try costs memory. Those that keep both cores busy by
/// themselves go one after the other.
fn try_all<T: Send>(
    keys: &[FoundKey],
    passwords: &[Secret],
    fits: &(impl Fn(&MasterKey) -> Result<T> + Sync),
) -> Result<Option<(Id, MasterKey, T)>> {
    let tries: Vec<(&FoundKey, &Secret)> =
        keys.iter().flat_map(|key| passwords.iter().map(move |password| (key, password))).collect();
    let next = AtomicUsize::new(0);
    let is_found = AtomicBool::new(false);
    let outcome = Mutex::new(Ok(None));
    let work = || {
        while !is_found.load(Ordering::Relaxed) {
            let Some(&(key, password)) = tries.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            // A key that opens and holds nonsense does not keep others from opening.
            let opened = key.file.as_ref().and_then(|file| file.unwrap_master(password.expose()).ok()?);
            let Some(master) = opened else {
                continue;
            };
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match fits(&master) {
                Ok(_) if matches!(*outcome, Ok(Some(_))) => {}
                Ok(value) => {
                    *outcome = Ok(Some((key.id, master, value)));
                    is_found.store(true, Ordering::Relaxed);
                }
                Err(error) if matches!(*outcome, Ok(None)) => *outcome = Err(error),
                Err(_) => {}
            }
        }
    };
    let has_lanes = |key: &FoundKey| key.file.as_ref().is_some_and(|file| file.p > 1);
    if tries.len() == 1 || tries.iter().any(|(key, _)| has_lanes(key)) {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(work);
            }
        });
    }
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn load_all(backend: &dyn Backend) -> Result<Vec<FoundKey>> {
    let mut keys = Vec::new();
    for info in backend.list(FileKind::Key)? {
        match backend.read(FileKind::Key, &info.id) {
            Ok(contents) => keys.push(judge(info.id, &contents)),
            // Removed since the listing.
            Err(Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(keys)
}

fn judge(id: Id, contents: &[u8]) -> FoundKey {
    let (file, mut problem) = match KeyFile::decode(contents) {
        Ok(file) => (Some(file), None),
        Err(error) => (None, Some(error.to_string())),
    };
    if Id::of(contents) != id {
        problem = Some("its contents do not match its name".to_owned());
    }
    FoundKey { id, file, problem }
}

impl Repository {
    /// Returns all keys, damaged ones too, oldest first.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys: Vec<KeyInfo> = load_all(&**self.backend())?
            .into_iter()
            .map(|key| KeyInfo {
                id: key.id,
                created: key.file.as_ref().map(|file| file.created),
                username: key.file.as_ref().map(|file| file.username.clone()).unwrap_or_default(),
                hostname: key.file.map(|file| file.hostname).unwrap_or_default(),
                is_current: key.id == self.key_id(),
                problem: key.problem,
            })
            .collect();
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// Lets `password` open the repository too. On return the key is stored for good.
    pub fn add_key(&self, password: &Secret, options: &KeyOptions, now: Timestamp) -> Result<Id> {
        store(&**self.backend(), self.key(), password, options, now)
    }

    /// Removes a key. The one that the repository was opened with is never removed, so one always remains.
    pub fn remove_key(&self, id: &Id) -> Result<()> {
        let own = self.key_id();
        if *id == own {
            return Err(Error::KeyNeeded { id: *id, why: "the repository is opened with it" });
        }
        let backend = self.backend();
        let is_there = |id: &Id| Ok::<_, Error>(backend.list(FileKind::Key)?.iter().any(|key| key.id == *id));
        if !is_there(id)? {
            return Err(Error::Missing { kind: FileKind::Key, id: *id });
        }
        // What keeps the repository open may have been removed by somebody else meanwhile.
        if !is_there(&own)? {
            return Err(Error::KeyNeeded { id: *id, why: "the key in use is gone" });
        }
        let kept = backend.read(FileKind::Key, &own)?;
        backend.remove(FileKind::Key, id)?;
        // Two who remove each other's key at once would leave none, and the data could never be read
        // again. Whoever comes last sees that and puts its own key back.
        if !is_there(&own)? {
            backend.write(FileKind::Key, &own, &kept)?;
        }
        Ok(())
    }
}
