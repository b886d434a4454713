//! What is known of a guard on disk while it is at work, so that one that was killed can be explained and finished.
//!
//! ```text
//! <state>/guards/<hash of the repository's location>/<name of the database>.lock    held while a guard is at work
//! <state>/guards/<hash of the repository's location>/<session>                      the record
//! ```
//!
//! A record is there from before the command is started until its outcome is settled. It is replaced whole and synced
//! (`State`), is readable by its user alone, and holds no secret.

use std::path::{Path, PathBuf};

use dbkeep_repo::Id;
use dbkeep_sqlite::position::Position;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::OnFailure;
use crate::context::Context;
use crate::host_lock::HostLock;
use crate::report::Engine;
use crate::state::State;
use crate::{Error, Result, name};

/// What is known of one guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The session of its backup.
    pub(super) session: String,
    /// When it began.
    pub(super) started: Timestamp,
    /// The guard's own process.
    pub(super) process: u32,
    /// The command, without secrets.
    pub(super) command: Vec<String>,
    /// What was to be done when it fails.
    pub(super) on_failure: OnFailure,
    /// What was to be asked after it.
    pub(super) checks: Vec<String>,
    /// Its databases.
    pub(super) databases: Vec<Recorded>,
    /// How far it came.
    pub(super) phase: Phase,
}

/// What is known of one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) engine: Engine,
    /// Where it is, for people.
    pub(super) source: String,
    /// Where its file is; `None` on a server.
    pub(super) path: Option<PathBuf>,
    pub(super) snapshot: Id,
    /// Why it cannot be shown that nobody else wrote.
    pub(super) doubts: Vec<String>,
    /// Where it stood when its command had ended, and it was decided to restore it.
    pub(super) position: Option<Position>,
}

/// How far a guard came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// The backup is verified, and the command was not started.
    Ready,
    /// The command was started, or was about to be.
    Starting,
    /// The command runs.
    Running {
        /// Its process group.
        group: u32,
        /// When the first process of the group began, as the kernel counts; its number may be given again.
        began: Option<u64>,
    },
    /// It has ended, and succeeded as far as it says so itself.
    Succeeded,
    /// It has failed.
    Failed {
        /// Why.
        why: String,
    },
    /// It has failed, and what it changed is being brought back.
    Restoring {
        /// Why it failed.
        why: String,
    },
}

/// The right to guard some databases of a repository. No other guard of this host has one for any of them meanwhile.
pub(super) struct Claim {
    folder: PathBuf,
    _locks: Vec<HostLock>,
}

impl Claim {
    /// Takes the right, or says who has it.
    pub(super) fn take(context: &Context, databases: &[String]) -> Result<Self> {
        let folder = State::new(&context.environment.state_directory).guards(&context.location)?;
        let mut databases = databases.to_vec();
        // In one order, so that two guards never hold each a part of what the other wants.
        databases.sort();
        let locks = databases.iter().map(|database| lock(&folder, database)).collect::<Result<Vec<_>>>()?;
        Ok(Self { folder, _locks: locks })
    }

    /// Returns the records of guards that did not end, and that have one of these databases; all when none is named.
    pub(super) fn unfinished(&self, databases: &[String]) -> Result<Vec<Record>> {
        let of_interest = |record: &Record| {
            databases.is_empty() || record.databases.iter().any(|one| databases.contains(&one.name))
        };
        Ok(records(&self.folder)?.into_iter().filter(of_interest).collect())
    }

    /// Reads a record again: only who has the right to its databases knows that it stays as it is. `None` when it is
    /// gone, as its guard has ended.
    pub(super) fn reload(&self, session: &str) -> Result<Option<Record>> {
        load(&self.folder.join(session))
    }

    /// Writes a record; it is on disk on return.
    pub(super) fn save(&self, record: &Record) -> Result<()> {
        crate::state::save(&self.folder.join(&record.session), record)
    }

    /// Removes a record: the guard has ended. It is gone from the disk on return.
    pub(super) fn remove(&self, record: &Record) -> Result<()> {
        let path = self.folder.join(&record.session);
        dbkeep_repo::durable::remove(&path).map_err(Error::io("remove", &path))
    }
}

/// Returns the records of all guards of a repository that did not end, or are at work.
pub(super) fn unfinished(context: &Context) -> Result<Vec<Record>> {
    records(&State::new(&context.environment.state_directory).guards(&context.location)?)
}

fn lock(folder: &Path, database: &str) -> Result<HostLock> {
    let path = folder.join(format!("{}.lock", name::encode(database)));
    HostLock::take(&path).map_err(Error::io("lock", &path))?.ok_or_else(|| Error::Refused {
        what: format!("{database} is guarded already by another process of this host"),
        hint: Some("wait until that guard has ended".to_owned()),
    })
}

/// Reads all records of a folder, the oldest first. A damaged one is an error: it stands for a guard that did not end.
fn records(folder: &Path) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let is_session = path.file_name().and_then(|name| name.to_str()).is_some_and(is_session);
        if !is_session {
            continue;
        }
        found.extend(load(&path)?);
    }
    found.sort_by(|left, right| left.session.cmp(&right.session));
    Ok(found)
}

/// Reads a record; `None` when it is gone.
fn load(path: &Path) -> Result<Option<Record>> {
    match crate::state::load::<Record>(path) {
        Some(record) => Ok(Some(record)),
        None if !path.try_exists().map_err(Error::io("read", path))? => Ok(None),
        None => Err(Error::Refused {
            what: format!("the record of a guard that did not end, {}, is damaged", path.display()),
            hint: Some(
                "its name is the session: `dbkeep compare` tells what has changed since the snapshots of that session; \
                 when the databases are as they should be, move the file away"
                    .to_owned(),
            ),
        }),
    }
}

/// Says whether a file is called like a session, `20260102_030405`.
fn is_session(name: &str) -> bool {
    name.len() == 15
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'_',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::GlobalOptions;
    use crate::environment::Environment;

    fn record() -> Record {
        Record {
            session: "20260102_030405".to_owned(),
            started: "2026-01-02T03:04:05Z".parse().unwrap(),
            process: 7,
            command: vec!["migrate".to_owned()],
            on_failure: OnFailure::Restore,
            checks: vec![],
            databases: vec![Recorded {
                name: "app".to_owned(),
                engine: Engine::Sqlite,
                source: "app.db".to_owned(),
                path: Some(PathBuf::from("/srv/app.db")),
                snapshot: Id::of(b"a"),
                doubts: vec![],
                position: None,
            }],
            phase: Phase::Running { group: 8, began: Some(12) },
        }
    }

    fn context(root: &Path) -> Context {
        Context::load(Environment::isolated(root), &GlobalOptions::default()).unwrap()
    }

    #[test]
    fn record_comes_back_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let claim = Claim::take(&context(root.path()), &["app".to_owned()]).unwrap();
        assert_eq!(claim.unfinished(&[]).unwrap(), []);
        claim.save(&record()).unwrap();
        let next = Record { phase: Phase::Failed { why: "x".to_owned() }, ..record() };
        claim.save(&next).unwrap();
        assert_eq!(claim.unfinished(&["app".to_owned()]).unwrap(), std::slice::from_ref(&next));
        assert_eq!(claim.unfinished(&["other".to_owned()]).unwrap(), []);
        assert_eq!(claim.reload(&next.session).unwrap(), Some(next.clone()));
        claim.remove(&next).unwrap();
        assert_eq!(claim.reload(&next.session).unwrap(), None, "its guard has ended");
        assert_eq!(claim.unfinished(&[]).unwrap(), []);
    }

    #[test]
    fn record_is_private_and_a_damaged_one_is_no_absent_one() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let claim = Claim::take(&context(root.path()), &[]).unwrap();
        claim.save(&record()).unwrap();
        let path = claim.folder.join(record().session);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&claim.folder).unwrap().permissions().mode() & 0o777, 0o700);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = claim.unfinished(&[]).unwrap_err();
        assert!(error.to_string().contains("20260102_030405, is damaged"), "{error}");
        assert!(error.hint().unwrap().contains("move the file away"));
    }

    #[test]
    fn database_is_guarded_once_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let context = context(root.path());
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let first = Claim::take(&context, &names(&["b", "a"])).unwrap();
        let error = Claim::take(&context, &names(&["c", "b"])).err().unwrap();
        assert_eq!(error.to_string(), "b is guarded already by another process of this host");
        Claim::take(&context, &names(&["c"])).unwrap();
        drop(first);
        Claim::take(&context, &names(&["c", "b"])).unwrap();
    }
}
