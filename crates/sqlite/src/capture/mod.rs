//! A consistent image of a live database, read from the first byte to the last.
//!
//! `open` chooses how (see [`Method`]); whatever the way, the bytes are those of the
//! canonical image at one moment: pages 1 to the last, the lock page zero, nothing after.
//! Only a raw copy is something else, and says so.

mod at_once;
mod at_rest;
mod body;
mod dbpage;
mod growth;
mod image;
mod locked;
mod log_sync;
mod open;
mod raw_copy;
mod reflink;
mod settle;
mod view;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::capture::body::Body;
use crate::capture::growth::Membership;
pub(crate) use crate::capture::image::Layout;
use crate::capture::open::{Held, Site};
pub use crate::capture::raw_copy::Sibling;
use crate::header::Header;
use crate::identify::{FileSystem, Identity};
use crate::live::Moment;
use crate::position::{Position, Scene};
use crate::{BoxError, Error, Result};

/// How an image is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Under SQLite's read lock, past its page cache, with the log laid over the main file.
    LockedImage,
    /// Small databases in rollback mode: read into memory at once, so that the lock is held for milliseconds.
    MemoryCopy,
    /// Rollback mode: a clone of the file that shares its blocks, made under the lock.
    Reflink,
    /// Rollback mode: once without a lock, then what changed under the lock (`settle`).
    TwoPass,
    /// Page by page through SQLite, in one transaction.
    DbPage,
    /// In WAL mode and closed by everybody: the main file, and a log that a crash left.
    AtRest,
    /// The bytes as they are; not known to be a valid database.
    Raw,
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Method::LockedImage => "locked image",
            Method::MemoryCopy => "memory copy",
            Method::Reflink => "reflink",
            Method::TwoPass => "two passes",
            Method::DbPage => "page by page",
            Method::AtRest => "at rest",
            Method::Raw => "raw copy",
        })
    }
}

/// How to capture.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// How long to wait for the locks of others.
    pub busy_timeout: Duration,
    /// Takes one way, or fails, instead of choosing.
    pub force_method: Option<Method>,
    /// Databases in rollback mode up to this many bytes are copied to memory.
    pub memory_limit: u64,
    /// The longest time for which the second of two passes keeps writers of a database in rollback
    /// mode waiting at a stretch.
    pub longest_hold: Duration,
    /// By how many bytes a log may grow while it is kept from beginning anew; by default 10 GB, or a quarter of
    /// what is free on its disk when that is less. A capture under which it grows more fails.
    pub log_growth_limit: Option<u64>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        CaptureOptions {
            busy_timeout: Duration::from_secs(5),
            force_method: None,
            memory_limit: 32 << 20,
            longest_hold: Duration::from_secs(30),
            log_growth_limit: None,
        }
    }
}

/// Takes the number of a chunk and its bytes.
pub type ChunkSink<'a> = dyn FnMut(u64, &[u8]) -> Result<(), BoxError> + 'a;

/// What is left to say when a capture is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// By how many bytes the log grew while it could not begin anew.
    pub wal_grew_by: u64,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// A database at one moment, being read.
///
/// While it lives it holds what its method needs: an open read transaction in WAL mode, at
/// most SHARED in rollback mode. Dropping it gives everything back and leaves no trace.
pub struct Capture {
    body: Body,
    identity: Identity,
    scene: Scene,
    options: CaptureOptions,
    header: Option<Header>,
    page_size: u32,
    size: u64,
    position: Option<Position>,
    next: u64,
    state: State,
    pinned: bool,
    log_growth_limit: u64,
    /// Whether settling replaced what was read first.
    reread: bool,
    /// What is damaged though SQLite reads it.
    damage: Option<String>,
    /// The other databases of the same moment, whose logs are held as long.
    group: Option<Membership>,
    warnings: Vec<String>,
}

/// How far the reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// What was read is not yet an image of one moment.
    Unsettled,
    Done,
}

impl Capture {
    /// Opens the database at `path` and takes the lock of its moment. Nothing of its pages is read yet.
    ///
    /// Fails if there is no database, if a lock is not to be had within the time, or if a file
    /// of it may not be read. What SQLite itself cannot read becomes a raw copy.
    pub fn open(path: &Path, options: &CaptureOptions) -> Result<Capture> {
        let site = Site::look(path, options)?;
        let held =
            site.hold(options, options.busy_timeout, false).map_err(|error| site.name_holder(error))?;
        Capture::of(site, held, options, false)
    }

    /// Opens several databases at one and the same moment.
    ///
    /// Writers of databases in WAL mode wait for the instant in which all transactions begin;
    /// databases in rollback mode are held until they were read, which should be soon. Each
    /// database has a result of its own, in the order of `paths`.
    pub fn at_once(paths: &[std::path::PathBuf], options: &CaptureOptions) -> Result<Vec<Result<Capture>>> {
        Ok(at_once::open(paths, options))
    }

    fn of(site: Site, held: Held, options: &CaptureOptions, pinned: bool) -> Result<Capture> {
        let mut warnings: Vec<String> = site_warnings(&site).into_iter().collect();
        if let Held::Raw(_, why) = &held {
            warnings.push(format!(
                "{} is stored as raw bytes, not as an image that was checked: {why}",
                site.identity.path.display()
            ));
        }
        let scene = Scene::new(site.file_system == FileSystem::Local);
        let body = held.into_body(options, pinned)?;
        let limit = options.log_growth_limit.unwrap_or_else(|| usual_log_growth_limit(&site.identity.path));
        let mut capture = Capture {
            body,
            identity: site.identity,
            scene,
            options: options.clone(),
            header: None,
            page_size: 4096,
            size: 0,
            position: None,
            next: 0,
            state: State::Reading,
            pinned,
            log_growth_limit: limit,
            reread: false,
            damage: None,
            group: None,
            warnings,
        };
        capture.learn()?;
        if let Some(header) = capture.header.as_ref().filter(|header| header.is_wal()) {
            capture.warnings.extend(wal_reset_warning(&capture.identity, header));
        }
        Ok(capture)
    }

    /// Takes size, header and position from the body. Called again when the moment changes.
    fn learn(&mut self) -> Result<()> {
        match &mut self.body {
            Body::Locked(locked) | Body::DbPage(locked) | Body::BeforeCopy(locked) => {
                self.header = Some(locked.header()?);
                let moment = locked.moment().clone();
                self.stand_at(&moment);
            }
            Body::FirstPass(_, moment) | Body::Reflink(_, moment) => {
                let moment = moment.clone();
                self.header = Some(Header::parse(&moment.main_header)?);
                self.stand_at(&moment);
            }
            Body::AtRest(at_rest) => {
                self.header = Some(at_rest.header()?);
                let layout = at_rest.layout();
                (self.page_size, self.size) = (layout.page_size, layout.size());
                let (mark, file) = (at_rest.mark(), at_rest.state());
                let position = Position::new(layout, mark, file, at_rest.main_header(), &self.scene);
                self.position = Some(position);
            }
            Body::Raw(copy) => {
                self.header = copy.header();
                self.page_size = self.header.as_ref().map_or(4096, |header| header.page_size);
                self.size = copy.size();
            }
            Body::InMemory(_) | Body::Settled => {}
        }
        Ok(())
    }

    fn stand_at(&mut self, moment: &Moment) {
        let layout = body::layout(moment);
        (self.page_size, self.size) = (layout.page_size, layout.size());
        let mark = moment.wal.map(|index| index.mark);
        self.position = Some(Position::new(layout, mark, moment.file, &moment.main_header, &self.scene));
    }

    /// Returns the way in which the image is read.
    pub fn method(&self) -> Method {
        self.body.method()
    }

    /// Returns the size of the image in bytes. Settling may change it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes in a page; 4096 for raw bytes without a header.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Returns the header of the image; `None` for raw bytes that have none.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Returns which file this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns where the database stands, for a later `is_unchanged_since`. Settling may
    /// change it. `None` for raw bytes.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Says whether the image is surely the same, byte for byte, as at `earlier`.
    pub fn is_unchanged_since(&self, earlier: &Position) -> bool {
        self.position.as_ref().is_some_and(|position| position.is_unchanged_since(earlier))
    }

    /// Returns what a person should know, as far as it is known by now.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns what is damaged in the files though SQLite reads them without complaint: a log with other bytes than were
    /// committed, whose checksums it looks at after a crash only. Known after the first read.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Returns the journal and the log whose bytes belong to a raw copy; empty for an image.
    pub fn siblings(&self) -> &[Sibling] {
        match &self.body {
            Body::Raw(copy) => copy.siblings(),
            _ => &[],
        }
    }

    /// Fills `buffer` with the next bytes of the image, wholly except at its end, and returns
    /// how many there are; 0 at the end. Whole mebibytes are fastest.
    ///
    /// After the end, `needs_settling` says whether the image is whole already.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.size - self.next).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        if count > 0 {
            self.read_part(self.next, &mut buffer[..count])?;
            self.next += count as u64;
        }
        if self.next == self.size && self.state == State::Reading {
            self.state = self.state_after_reading()?;
        }
        Ok(count)
    }

    fn read_part(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_log_growth()?;
        let result = self.body.read(&self.identity, offset, buffer);
        match (result, offset) {
            // The log is not what we know it to be, as with a file layer of the application's
            // own. SQLite itself may still read it, and nothing was handed out yet.
            (Err(error @ Error::WalMismatch { .. }), 0) if self.options.force_method.is_none() => {
                let body = std::mem::replace(&mut self.body, Body::Settled);
                let Body::Locked(locked) = body else { return Err(error) };
                self.damage =
                    matches!(error, Error::WalMismatch { is_damage: true, .. }).then(|| error.to_string());
                self.warnings.push(format!("read page by page instead: {error}"));
                self.body = Body::DbPage(locked);
                self.body.read(&self.identity, offset, buffer)
            }
            (result, _) => result,
        }
    }

    /// Fails when the log has grown too much on our account: a full disk would stop the application.
    ///
    /// Of databases of one moment the growth of all counts, since all are held until they are read: those whose logs lie
    /// on the same disk. Reading asks this by itself; whoever holds a capture for long without reading asks now and then.
    pub fn check_log_growth(&self) -> Result<()> {
        let limit = self.log_growth_limit;
        let by = self.group.as_ref().map_or_else(|| self.body.wal_growth(), Membership::growth);
        if by > limit {
            let others = self.group.as_ref().map_or(0, Membership::others);
            return Err(Error::LogGrew { path: self.identity.path.clone(), others, by, limit });
        }
        Ok(())
    }

    fn state_after_reading(&self) -> Result<State> {
        let settled = match &self.body {
            Body::FirstPass(..) => false,
            Body::AtRest(at_rest) => at_rest.is_still_at_rest()?,
            Body::Locked(locked) | Body::DbPage(locked) => {
                locked.live().check_not_moved()?;
                true
            }
            Body::Raw(copy) => {
                copy.check_unchanged()?;
                true
            }
            _ => true,
        };
        match (settled, self.pinned) {
            (true, _) => Ok(State::Done),
            (false, false) => Ok(State::Unsettled),
            (false, true) => Err(Error::Changed { path: self.identity.path.clone() }),
        }
    }

    /// Gives the lock of a small database in rollback mode back, for work that takes long and needs no image. To be
    /// called before the first read.
    ///
    /// What is read after all is read in two passes. Where the moment is shared with other databases, everything
    /// is copied to memory first.
    pub fn let_go(&mut self) -> Result<()> {
        self.body.let_go(self.pinned)
    }

    /// Says whether what was read has to be compared once more, by `settle`.
    ///
    /// True after the first of two passes, and when an application opened a database that was
    /// at rest while it was read.
    pub fn needs_settling(&self) -> bool {
        self.state == State::Unsettled
    }

    /// Opens a connection on this image, to look at it while it is read or afterwards, also on
    /// another thread.
    ///
    /// What it saw counts only if `inspection_holds` at the end. `None` where the files cannot be
    /// looked at past SQLite, or SQLite does not open the image: then only the stored one can be asked.
    /// It must be dropped before the capture is finished or dropped.
    pub fn inspection(&mut self) -> Result<Option<Connection>> {
        self.body.inspection(&self.identity)
    }

    /// Returns the connection whose transaction holds the moment, where there is one. A few pages are found quickly through
    /// it; for all of them an [`inspection`](Self::inspection) is quicker when the log is long.
    pub fn connection(&self) -> Option<&Connection> {
        self.body.connection()
    }

    /// Says whether what an inspection saw is the image. To be asked after the last byte was
    /// read and settled: files that are read without a lock may have changed under it.
    pub fn inspection_holds(&self) -> bool {
        self.state == State::Done && !self.reread
    }

    /// Ends the capture, gives every lock back, and says what is left to say.
    ///
    /// Where there is a log, it is synced first, so that the next commit need not wait for that.
    /// Fails if bytes handed out since (`siblings`) belong to another moment.
    pub fn finish(mut self) -> Result<Finished> {
        if let Err(error) = self.body.sync_log() {
            // Of a failure of the disk nobody who opens the log from now on is told: the system tells of each once.
            self.warnings.push(format!("its write-ahead log could not be brought to the disk: {error}"));
        }
        if let Body::Raw(copy) = &self.body {
            copy.check_unchanged()?;
        }
        Ok(Finished { wal_grew_by: self.body.wal_growth(), warnings: self.warnings })
    }
}

/// Returns by how much the log of the database at `path` may grow on our account.
fn usual_log_growth_limit(path: &Path) -> u64 {
    const MOST: u64 = 10_000_000_000;
    rustix::fs::statvfs(path).map_or(MOST, |disk| (disk.f_bavail.saturating_mul(disk.f_frsize) / 4).min(MOST))
}

fn site_warnings(site: &Site) -> Option<String> {
    let path = site.identity.path.display();
    match site.file_system {
        FileSystem::Local => None,
        FileSystem::Network(name) => {
            Some(format!("{path} lies on a network file system ({name}), whose locks cannot be relied on"))
        }
        FileSystem::Userspace => {
            Some(format!("{path} lies on a FUSE file system, whose locks may not be reliable"))
        }
    }
}

fn wal_reset_warning(identity: &Identity, header: &Header) -> Option<String> {
    header.affected_by_wal_reset_bug().then(|| {
        format!(
            "{} was last written by SQLite {}, which can damage a database in WAL mode; the application needs \
             SQLite 3.51.3 or later",
            identity.path.display(),
            header.sqlite_version_text()
        )
    })
}
