//! What operations are asked for. Each begins with sensible defaults, and says only what differs.

#![expect(clippy::needless_pass_by_value, reason = "a snapshot is given as text or as its id")]

use std::ffi::{OsStr, OsString};

use jiff::Timestamp;

use super::Result;
use crate::backup::BackupRequest;
use crate::compare::CompareRequest;
use crate::forget::{Choice, ForgetRequest};
use crate::integrity::Verify;
use crate::list::ListRequest;
use crate::restore::RestoreRequest;
use crate::retention::Policy;
use crate::verify::VerifyRequest;
use crate::{Error, name};

/// What to back up, and how.
///
/// ```
/// use dbkeep_engine::Verify;
/// use dbkeep_engine::keeper::BackupOptions;
///
/// let all_configured = BackupOptions::new();
/// let one = BackupOptions::new().source("data/app.db").name("app").tag("before-upgrade").reason("pre-migration");
/// let several = BackupOptions::new().source("app").source("clinic").at_once(true).verify(Verify::Full);
/// ```
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    sources: Vec<OsString>,
    request: BackupRequest,
}

impl BackupOptions {
    /// Means all configured databases, with a quick check of what was read, and copies brought up to date.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source: a name from the configuration, the path of a SQLite file or of a directory with some, a
    /// PostgreSQL URL, or `env:NAME` holding one.
    #[must_use]
    pub fn source(mut self, source: impl AsRef<OsStr>) -> Self {
        self.sources.push(source.as_ref().to_owned());
        self
    }

    /// Says what the only source is called in the repository; by default the configured name, or the file's stem.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.request.name = Some(name.into());
        self
    }

    /// Lets a name that belongs to another file mean this one from now on.
    #[must_use]
    pub fn adopt_name(mut self, adopt: bool) -> Self {
        self.request.adopt_name = adopt;
        self
    }

    /// Adds a tag of the snapshots.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.request.tags.push(tag.into());
        self
    }

    /// Says why; `manual` by default.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.request.reason = Some(reason.into());
        self
    }

    /// Says how deep what was read is checked; quick by default.
    #[must_use]
    pub fn verify(mut self, level: Verify) -> Self {
        self.request.verify = level;
        self
    }

    /// Takes all SQLite databases at one instant.
    #[must_use]
    pub fn at_once(mut self, at_once: bool) -> Self {
        self.request.at_once = at_once;
        self
    }

    /// Computes the plain SHA-256 of images above 256 MiB too.
    #[must_use]
    pub fn sha256(mut self, sha256: bool) -> Self {
        self.request.sha256 = sha256;
        self
    }

    /// Sets the level of zstd, 1 to 19; the configuration's by default.
    #[must_use]
    pub fn compression(mut self, level: i32) -> Self {
        self.request.compression = Some(level);
        self
    }

    /// Says whether the configured copies are brought up to date afterwards; they are by default.
    #[must_use]
    pub fn copies(mut self, copies: bool) -> Self {
        self.request.copies = copies;
        self
    }

    /// Makes way for who waits for a PostgreSQL table, and begins again at a new moment.
    #[must_use]
    pub fn yields(mut self, yields: bool) -> Self {
        self.request.yields = yields;
        self
    }

    /// Says what would be done and stores nothing.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.request.dry_run = dry_run;
        self
    }

    /// Sets the reason where none was given.
    pub(super) fn reason_by_default(&self, reason: &str) -> Self {
        let mut options = self.clone();
        options.request.reason.get_or_insert_with(|| reason.to_owned());
        options
    }

    pub(super) fn is_dry_run(&self) -> bool {
        self.request.dry_run
    }

    pub(super) fn request(&self) -> Result<BackupRequest> {
        let level = self.request.compression;
        if level.is_some_and(|level| !(1..=19).contains(&level)) {
            return Err(Error::usage("the level of compression is not between 1 and 19", "3 is usual").into());
        }
        let sources = self.sources.iter().map(|source| text(source)).collect::<Result<_>>()?;
        Ok(BackupRequest { sources, ..self.request.clone() })
    }
}

/// Which snapshots to list.
///
/// ```
/// use dbkeep_engine::keeper::ListOptions;
///
/// let newest = ListOptions::new().database("app").last(10);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub(super) request: ListRequest,
}

impl ListOptions {
    /// Means all of them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those of this database.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.request.database = Some(name.into());
        self
    }

    /// Only those of this session.
    #[must_use]
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.request.session = Some(session.into());
        self
    }

    /// Only those with this tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.request.tag = Some(tag.into());
        self
    }

    /// Only the newest so many.
    #[must_use]
    pub fn last(mut self, count: usize) -> Self {
        self.request.last = Some(count);
        self
    }
}

/// What to verify.
///
/// ```
/// use dbkeep_engine::keeper::VerifyOptions;
///
/// let newest_of_each = VerifyOptions::new();
/// let two = VerifyOptions::new().snapshot("latest").snapshot("latest~1").database("app");
/// let everything = VerifyOptions::new().all(true);
/// ```
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    pub(super) request: VerifyRequest,
}

impl VerifyOptions {
    /// Means the newest snapshot of each database, with the full integrity check.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a snapshot: the beginning of its id, `latest`, or `latest~N`.
    #[must_use]
    pub fn snapshot(mut self, snapshot: impl ToString) -> Self {
        self.request.snapshots.push(snapshot.to_string());
        self
    }

    /// Every snapshot.
    #[must_use]
    pub fn all(mut self, all: bool) -> Self {
        self.request.all = all;
        self
    }

    /// Only those of this database.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.request.database = Some(name.into());
        self
    }

    /// Those of this session, or of the `latest`.
    #[must_use]
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.request.session = Some(session.into());
        self
    }

    /// Says how deep the integrity check goes; it is full by default.
    #[must_use]
    pub fn level(mut self, level: Verify) -> Self {
        self.request.level = level;
        self
    }
}

/// What to bring back, and where to.
///
/// ```
/// use dbkeep_engine::jiff::Timestamp;
/// use dbkeep_engine::keeper::RestoreOptions;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let beside_the_original = RestoreOptions::new().database("app");
/// let moment: Timestamp = "2026-03-01T14:05:00Z".parse()?;
/// let as_it_was = RestoreOptions::new().database("app").at(moment).to("restored.db");
/// let one_table = RestoreOptions::new().snapshot("4f2a91c0").table("users").in_place(true);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    to: Option<OsString>,
    request: RestoreRequest,
}

impl RestoreOptions {
    /// Means the latest snapshot, to a new file or database beside the original, with a quick check.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the snapshot: the beginning of its id, `latest`, or `latest~N`.
    #[must_use]
    pub fn snapshot(mut self, snapshot: impl ToString) -> Self {
        self.request.snapshot = Some(snapshot.to_string());
        self
    }

    /// Says which database `latest` and a moment are of.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.request.database = Some(name.into());
        self
    }

    /// Takes the newest snapshot at or before this moment.
    #[must_use]
    pub fn at(mut self, moment: Timestamp) -> Self {
        self.request.at = Some(moment.to_string());
        self
    }

    /// Names the file or database to make, which must not exist; for a session the directory.
    #[must_use]
    pub fn to(mut self, target: impl AsRef<OsStr>) -> Self {
        self.to = Some(target.as_ref().to_owned());
        self
    }

    /// Goes back into the original place, after a safety backup of what is there. Nobody is asked.
    #[must_use]
    pub fn in_place(mut self, in_place: bool) -> Self {
        self.request.in_place = in_place;
        self
    }

    /// Restores this table and no other one; may be said several times.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.request.tables.push(name.into());
        self
    }

    /// Restores only rows, into tables of a server that are there.
    #[must_use]
    pub fn data_only(mut self, data_only: bool) -> Self {
        self.request.data_only = data_only;
        self
    }

    /// Overrides a refusal whose hint says so. Nothing is ever left unverified by that.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.request.force = force;
        self
    }

    /// Says whether what is there is backed up before it is overwritten; it is by default.
    #[must_use]
    pub fn safety_backup(mut self, safety_backup: bool) -> Self {
        self.request.safety_backup = safety_backup;
        self
    }

    /// Says how deep the result is checked; quick by default.
    #[must_use]
    pub fn verify(mut self, level: Verify) -> Self {
        self.request.verify = level;
        self
    }

    /// Says whether objects of a server belong again to whom they belonged; they do by default.
    #[must_use]
    pub fn owners(mut self, owners: bool) -> Self {
        self.request.owners = owners;
        self
    }

    /// Says whether the same roles may use objects of a server again; they may by default.
    #[must_use]
    pub fn privileges(mut self, privileges: bool) -> Self {
        self.request.privileges = privileges;
        self
    }

    pub(super) fn request(&self) -> Result<RestoreRequest> {
        let to = self.to.as_deref().map(text).transpose()?;
        Ok(RestoreRequest { to, ..self.request.clone() })
    }
}

/// What to drop. The last good snapshot of a database stays, and so does one that is held for good.
///
/// ```
/// use dbkeep_engine::keeper::ForgetOptions;
/// use dbkeep_engine::retention::Policy;
///
/// let as_configured = ForgetOptions::configured();
/// let policy = Policy { daily: 7, weekly: 4, ..Policy::default() };
/// let by_policy = ForgetOptions::policy(policy).database("app").dry_run(true);
/// let by_name = ForgetOptions::snapshots(["4f2a91c0", "latest~3"]);
/// ```
#[derive(Clone, Debug)]
pub struct ForgetOptions {
    request: ForgetRequest,
}

impl ForgetOptions {
    /// Drops what the policy of the configuration does not keep, here and in the configured copies; nothing of a
    /// database about which something looks wrong.
    pub fn configured() -> Self {
        Self::of(Choice::Configured { accept: false })
    }

    /// Drops what this policy does not keep, of each database by itself.
    pub fn policy(policy: Policy) -> Self {
        Self::of(Choice::Policy(policy))
    }

    /// Drops these: beginnings of ids, `latest`, `latest~N`.
    pub fn snapshots(snapshots: impl IntoIterator<Item = impl ToString>) -> Self {
        let snapshots = snapshots.into_iter().map(|snapshot| snapshot.to_string()).collect();
        Self::of(Choice::Named { snapshots, force: false })
    }

    fn of(choice: Choice) -> Self {
        Self { request: ForgetRequest { choice, database: None, dry_run: false } }
    }

    /// Narrows a policy, and `latest`, to one database.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.request.database = Some(name.into());
        self
    }

    /// Says what would be dropped and drops nothing.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.request.dry_run = dry_run;
        self
    }

    /// Goes over what speaks against it: named snapshots go though one is the last good one or held for good, and the
    /// configured policy is followed though something looked wrong. A policy in code asks for no such thing.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        match &mut self.request.choice {
            Choice::Named { force: named, .. } => *named = force,
            Choice::Configured { accept } => *accept = force,
            Choice::Policy(_) => {}
        }
        self
    }

    pub(super) fn request(&self) -> &ForgetRequest {
        &self.request
    }
}

/// What to compare.
///
/// ```
/// use dbkeep_engine::keeper::CompareOptions;
///
/// let with_the_live_database = CompareOptions::new("latest").database("app");
/// let two_snapshots = CompareOptions::new("latest~1").with("latest").database("app").table("users").rows(10);
/// ```
#[derive(Clone, Debug)]
pub struct CompareOptions {
    pub(super) request: CompareRequest,
}

impl CompareOptions {
    /// Compares this snapshot (the beginning of its id, `latest`, `latest~N`) with the live database.
    pub fn new(snapshot: impl ToString) -> Self {
        Self { request: CompareRequest { snapshot: snapshot.to_string(), ..CompareRequest::default() } }
    }

    /// Compares with another snapshot instead of the live database.
    #[must_use]
    pub fn with(mut self, other: impl ToString) -> Self {
        self.request.other = Some(other.to_string());
        self
    }

    /// Says which database `latest` is of.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.request.database = Some(name.into());
        self
    }

    /// Compares this table and no other one; may be said several times.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.request.tables.push(name.into());
        self
    }

    /// Lists up to so many rows of each table that differ; none by default.
    #[must_use]
    pub fn rows(mut self, limit: usize) -> Self {
        self.request.rows = Some(limit);
        self
    }

    /// Compares snapshots of different databases.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.request.force = force;
        self
    }
}

/// Returns a source or a target as text. A repository keeps names as text, so a path has to be some.
pub(super) fn text(given: &OsStr) -> Result<String> {
    given.to_str().map(str::to_owned).ok_or_else(|| {
        let shown = name::printable(&given.to_string_lossy());
        Error::usage(
            format!("{shown} is no text in UTF-8"),
            "give the file another name, or a link that has one",
        )
        .into()
    })
}
