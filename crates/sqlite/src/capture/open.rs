//! Choosing the way to read a database, and taking the lock that it needs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::capture::at_rest::AtRest;
use crate::capture::body::Body;
use crate::capture::image::{PlainFile, open_beside_if_there};
use crate::capture::locked::Locked;
use crate::capture::raw_copy::RawCopy;
use crate::capture::reflink::{self, Clone};
use crate::capture::{CaptureOptions, Method};
use crate::header::{HEADER_SIZE, Header};
use crate::identify::{self, FileSystem, Identity, Kind, Siblings};
use crate::live::{self, Live, Moment, WriteGate};
use crate::raw::RawFile;
use crate::{Error, Result};

/// How often a lock is asked for again while another holds it.
const RETRY: Duration = Duration::from_millis(2);

/// A database file as it was found, before any lock.
pub(crate) struct Site {
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    pub(crate) file_system: FileSystem,
}

/// A database under the lock that its moment needs.
pub(crate) enum Held {
    /// A connection with its read transaction.
    Live(Live, Moment),
    /// A connection whose read transaction is still to begin, while nobody can write.
    Gated(Live, RawFile, WriteGate),
    /// In WAL mode, and nobody has it open.
    AtRest(AtRest),
    /// What SQLite cannot read, and why.
    Raw(RawCopy, String),
}

impl Site {
    /// Finds out what lies at `path`. Opens nothing but for a look at the first bytes.
    pub(crate) fn look(path: &Path, options: &CaptureOptions) -> Result<Self> {
        let identity = identify::identity(path)?;
        let metadata = identify::metadata(&identity.path)?;
        if !metadata.is_file() {
            return Err(Error::NotAFile { path: path.to_path_buf() });
        }
        let siblings = Siblings::of(&identity.path)?;
        let kind = identify::kind_of(&identity.path)?;
        match &kind {
            Kind::Empty => return Err(empty(&identity.path, siblings)),
            Kind::Missing => return Err(Error::Missing { path: path.to_path_buf() }),
            // A log or a journal beside it says that it once was a database.
            Kind::Unknown
                if options.force_method != Some(Method::Raw)
                    && siblings.wal.unwrap_or(0) == 0
                    && siblings.journal.unwrap_or(0) == 0 =>
            {
                return Err(Error::NotADatabase { path: path.to_path_buf() });
            }
            _ => {}
        }
        let file_system = identify::file_system(&identity.path)?;
        Ok(Site { identity, kind, file_system })
    }

    fn path(&self) -> &Path {
        &self.identity.path
    }

    /// Takes the lock, asking again until `patience` is over. With `gate`, as `try_hold`.
    pub(crate) fn hold(&self, options: &CaptureOptions, patience: Duration, gate: bool) -> Result<Held> {
        let deadline = Instant::now() + patience;
        loop {
            match self.try_hold(options, gate) {
                Err(Error::Busy { .. }) if Instant::now() < deadline => std::thread::sleep(RETRY),
                other => return other,
            }
        }
    }

    /// Takes the lock if nobody is in the way. With `gate`, a database in WAL mode is held so
    /// that nobody can write to it; its read transaction is still to begin.
    fn try_hold(&self, options: &CaptureOptions, gate: bool) -> Result<Held> {
        if options.force_method == Some(Method::Raw) {
            return self.hold_raw("asked for".into());
        }
        match &self.kind {
            Kind::Database(header) if !header.is_supported() => {
                let versions = (header.write_version, header.read_version);
                self.hold_raw(format!("its format {versions:?} is of another SQLite"))
            }
            Kind::Database(header) if header.is_wal() || self.has_log_without_index()? => self.hold_wal(gate),
            Kind::Database(_) => self.hold_live(),
            Kind::Encrypted => self.hold_raw("it looks encrypted".into()),
            Kind::Damaged(what) => self.hold_raw(what.clone()),
            _ => self.hold_raw("its beginning is not that of a database".into()),
        }
    }

    fn hold_wal(&self, gate: bool) -> Result<Held> {
        let Some(guard) = self.guard()? else { return Err(self.busy()) };
        // Under SHARED nobody leaves WAL mode and nobody deletes the log or its index.
        let mut bytes = [0u8; HEADER_SIZE];
        guard.read_at(0, &mut bytes)?;
        let is_wal = Header::parse(&bytes).is_ok_and(|header| header.is_wal());
        let siblings = Siblings::of(self.path())?;
        if !(is_wal || is_log_without_index(siblings)) || self.has_hot_journal(siblings)? {
            // SQLite may have to roll back, for which our own SHARED would be in the way.
            drop(guard);
            return self.hold_live();
        }
        let (true, true) = (siblings.wal.is_some(), siblings.shm) else {
            return match AtRest::new(guard, siblings) {
                Ok(at_rest) => Ok(Held::AtRest(at_rest)),
                Err(error) if error.is_damage() => self.hold_raw(error.to_string()),
                Err(error) => Err(error),
            };
        };
        if let FileSystem::Network(name) = self.file_system {
            return Err(Error::unsupported(
                self.path(),
                format!(
                    "is in WAL mode on a network file system ({name}), where its log cannot be read safely"
                ),
                "run the backup on the machine that uses the database",
            ));
        }
        for suffix in ["-wal", "-shm"] {
            let path = identify::sibling(self.path(), suffix);
            if rustix::fs::access(&path, rustix::fs::Access::READ_OK).is_err() {
                return Err(Error::Permission { path });
            }
        }
        if gate {
            if rustix::fs::access(self.path(), rustix::fs::Access::WRITE_OK).is_err() {
                return Err(Error::unsupported(
                    self.path(),
                    "may not be written to, so its writers cannot be held off while several databases are opened",
                    "run as the user that owns it, or back it up on its own",
                ));
            }
            let held = WriteGate::try_take(&self.identity)?;
            return Ok(Held::Gated(Live::open(&self.identity)?, guard, held));
        }
        self.begin(Live::open(&self.identity)?)
    }

    /// Says whether a log lies there that a connection would open, and make an index for, whatever the header says.
    fn has_log_without_index(&self) -> Result<bool> {
        Siblings::of(self.path()).map(is_log_without_index)
    }

    /// Says whether a journal lies there that SQLite would play back: one that does not begin with a zero.
    ///
    /// A blank one, as the journal mode PERSIST leaves it, is no reason to open a connection, which would
    /// create a log and an index.
    fn has_hot_journal(&self, siblings: Siblings) -> Result<bool> {
        if siblings.journal.unwrap_or(0) == 0 {
            return Ok(false);
        }
        let path = identify::sibling(self.path(), "-journal");
        // One that is taken away meanwhile was not hot: its application is there.
        let Some(file) = open_beside_if_there(&path)? else { return Ok(false) };
        let mut first = [0u8; 1];
        PlainFile { file: &file, path: &path }.read_some(0, &mut first)?;
        Ok(first != [0])
    }

    fn hold_live(&self) -> Result<Held> {
        if identify::metadata(self.path())?.len() == 0 {
            // It was emptied a moment ago; SQLite would take what lies beside it for left over, and delete it.
            return Err(empty(self.path(), Siblings::of(self.path())?));
        }
        self.begin(Live::open(&self.identity)?)
    }

    fn begin(&self, mut live: Live) -> Result<Held> {
        match live.try_begin() {
            Ok(moment) => Ok(Held::Live(live, moment)),
            Err(error) if error.is_damage() => {
                drop(live);
                self.hold_raw(error.to_string())
            }
            Err(error) => Err(error),
        }
    }

    fn hold_raw(&self, why: String) -> Result<Held> {
        let Some(guard) = self.guard()? else { return Err(self.busy()) };
        Ok(Held::Raw(RawCopy::new(guard)?, why))
    }

    /// Takes SHARED without a connection; `None` while someone is writing.
    fn guard(&self) -> Result<Option<RawFile>> {
        let mut guard = RawFile::open(self.path())?;
        Ok(guard.try_lock_shared()?.then_some(guard))
    }

    fn busy(&self) -> Error {
        Error::Busy { path: self.identity.path.clone(), holder: "another process".into() }
    }

    /// Adds who holds the lock to the error that it could not be had.
    pub(crate) fn name_holder(&self, error: Error) -> Error {
        let Error::Busy { path, holder } = error else { return error };
        // Some descriptor has to be open for the question.
        let open = RawFile::open(&path);
        let named = open.ok().and_then(|_open| live::lock_holder(&self.identity));
        Error::Busy { path, holder: named.unwrap_or(holder) }
    }
}

impl Held {
    /// Makes sure that nobody can write to it: a database that changed to WAL mode since it was looked at was held like
    /// one in rollback mode, and its moment began already.
    pub(crate) fn ensure_gated(self, site: &Site) -> Result<Held> {
        match self {
            Held::Live(_, moment) if moment.wal.is_some() => Err(site.busy()),
            held => Ok(held),
        }
    }

    /// Chooses the way to read what is held. `pinned` keeps to the very moment of the lock.
    pub(crate) fn into_body(self, options: &CaptureOptions, pinned: bool) -> Result<Body> {
        let (live, moment) = match self {
            Held::AtRest(at_rest) => return Ok(Body::AtRest(at_rest)),
            Held::Raw(copy, _) => return Ok(Body::Raw(copy)),
            Held::Gated(mut live, _guard, _gate) => {
                let moment = live.try_begin()?;
                (live, moment)
            }
            Held::Live(live, moment) => (live, moment),
        };
        let locked = Locked::new(live, moment);
        let method = options.force_method.unwrap_or_else(|| usual_method(&locked, options));
        body_for(locked, method, options, pinned)
    }
}

fn usual_method(locked: &Locked, options: &CaptureOptions) -> Method {
    let header = Header::parse(&locked.moment().main_header);
    let in_wal_mode = locked.moment().wal.is_some() || header.is_ok_and(|header| header.is_wal());
    if in_wal_mode {
        Method::LockedImage
    } else if locked.layout().size() <= options.memory_limit {
        Method::MemoryCopy
    } else {
        Method::Reflink
    }
}

fn body_for(locked: Locked, method: Method, options: &CaptureOptions, pinned: bool) -> Result<Body> {
    match method {
        Method::LockedImage => Ok(Body::Locked(locked)),
        Method::DbPage => Ok(Body::DbPage(locked)),
        Method::MemoryCopy => Ok(Body::BeforeCopy(locked)),
        // A log lies over the main file; a clone of that alone would not be the database.
        Method::Reflink if locked.moment().wal.is_none() => {
            match Clone::make(locked.live().identity(), locked.layout().size()) {
                Some(clone) => Ok(Body::Reflink(clone.into(), locked.into_parts().1)),
                None if options.force_method.is_some() => {
                    Err(reflink::impossible(&locked.live().identity().path))
                }
                None if pinned => Ok(Body::Locked(locked)),
                None => Ok(first_pass(locked)),
            }
        }
        Method::TwoPass if !pinned && locked.moment().wal.is_none() => Ok(first_pass(locked)),
        Method::Reflink | Method::TwoPass => Ok(Body::Locked(locked)),
        Method::AtRest | Method::Raw => Err(Error::unsupported(
            &locked.live().identity().path,
            "is open in an application or in rollback mode, so it is not at rest",
            "let dbkeep choose the way to read it",
        )),
    }
}

fn first_pass(locked: Locked) -> Body {
    let (mut live, moment) = locked.into_parts();
    live.end();
    Body::FirstPass(live, moment)
}

fn is_log_without_index(siblings: Siblings) -> bool {
    siblings.wal.unwrap_or(0) > 0 && !siblings.shm
}

fn empty(path: &Path, siblings: Siblings) -> Error {
    let beside = [("-wal", siblings.wal), ("-journal", siblings.journal)];
    let sibling = beside.into_iter().find(|(_, size)| size.is_some_and(|size| size > 0));
    let path: PathBuf = path.to_path_buf();
    match sibling {
        Some((suffix, _)) => Error::EmptyWithSibling { sibling: identify::sibling(&path, suffix), path },
        None => Error::Empty { path },
    }
}
