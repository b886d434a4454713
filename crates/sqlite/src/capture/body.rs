//! The ways to read an image, behind one set of questions.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::capture::at_rest::AtRest;
use crate::capture::image::{self, Layout};
use crate::capture::locked::Locked;
use crate::capture::raw_copy::RawCopy;
use crate::capture::reflink::Clone;
use crate::capture::view::FileView;
use crate::capture::{Method, dbpage};
use crate::header::{HEADER_SIZE, Header};
use crate::identify::{Identity, Siblings};
use crate::live::{Live, Moment};
use crate::vfs::{PageSource, open_image};
use crate::{Error, Result};

/// A database that is being read in one of the ways of `Method`.
pub(crate) enum Body {
    /// The read transaction is open until the end.
    Locked(Locked),
    /// The same, read page by page through SQLite.
    DbPage(Locked),
    /// SHARED is held until the first read, which copies everything.
    BeforeCopy(Locked),
    /// Everything is in memory, no lock is held.
    InMemory(Arc<Vec<u8>>),
    /// No lock is held, the clone is ours.
    Reflink(Arc<Clone>, Moment),
    /// First pass: no lock is held; the moment is that of the opening.
    FirstPass(Live, Moment),
    /// Both passes are done, no lock is held.
    Settled,
    /// Nobody has it open.
    AtRest(AtRest),
    /// Bytes as they are.
    Raw(RawCopy),
}

impl Body {
    pub(crate) fn method(&self) -> Method {
        match self {
            Body::Locked(_) => Method::LockedImage,
            Body::DbPage(_) => Method::DbPage,
            Body::BeforeCopy(_) | Body::InMemory(_) => Method::MemoryCopy,
            Body::Reflink(..) => Method::Reflink,
            Body::FirstPass(..) | Body::Settled => Method::TwoPass,
            Body::AtRest(_) => Method::AtRest,
            Body::Raw(_) => Method::Raw,
        }
    }

    /// Fills `buffer` with the image's bytes from `offset` on.
    pub(crate) fn read(&mut self, identity: &Identity, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if matches!(self, Body::BeforeCopy(_)) {
            self.copy_to_memory()?;
        }
        match self {
            Body::Locked(locked) | Body::BeforeCopy(locked) => locked.read(offset, buffer),
            Body::DbPage(locked) => {
                dbpage::read(locked.live().connection(), &identity.path, locked.layout(), offset, buffer)
            }
            Body::InMemory(bytes) => {
                bytes.read_at(offset, buffer).map_err(|error| Error::io("read", &identity.path, error))
            }
            Body::Reflink(clone, moment) => {
                let clone = ClonedBytes { clone, identity };
                image::fill(layout(moment), &clone, None, offset, buffer)
            }
            Body::FirstPass(live, moment) => image::fill(layout(moment), &live.main(), None, offset, buffer),
            Body::AtRest(at_rest) => at_rest.read(offset, buffer),
            Body::Raw(copy) => copy.read(offset, buffer),
            Body::Settled => Err(Error::Changed { path: identity.path.clone() }),
        }
    }

    /// Copies the whole image and gives the lock back, where that is the way: as short a hold as can be.
    fn copy_to_memory(&mut self) -> Result<()> {
        let Body::BeforeCopy(locked) = self else { return Ok(()) };
        let size = usize::try_from(locked.layout().size()).map_err(|_| Error::Damaged {
            what: "the database is larger than the memory of this machine can address".into(),
        })?;
        let mut bytes = vec![0u8; size];
        locked.read(0, &mut bytes)?;
        *self = Body::InMemory(Arc::new(bytes));
        Ok(())
    }

    /// Gives back the lock that a copy to memory would give back later; with `pinned`, by making that copy.
    pub(crate) fn let_go(&mut self, pinned: bool) -> Result<()> {
        if pinned {
            return self.copy_to_memory();
        }
        if matches!(self, Body::BeforeCopy(_))
            && let Body::BeforeCopy(locked) = std::mem::replace(self, Body::Settled)
        {
            let (mut live, moment) = locked.into_parts();
            live.end();
            *self = Body::FirstPass(live, moment);
        }
        Ok(())
    }

    pub(crate) fn inspection(&mut self, identity: &Identity) -> Result<Option<Connection>> {
        self.copy_to_memory()?;
        match self {
            Body::Locked(locked) => match locked.view() {
                Ok(view) => image_inspection(Arc::new(view)),
                // Then the stored image is asked, or SQLite itself.
                Err(_) => Ok(None),
            },
            Body::InMemory(bytes) => image_inspection(Arc::<Vec<u8>>::clone(bytes)),
            Body::Reflink(clone, _) => image_inspection(Arc::<Clone>::clone(clone)),
            Body::AtRest(at_rest) => Ok(provisional_inspection(Arc::new(at_rest.view()?))),
            Body::FirstPass(_, moment) => {
                let view = FileView::open(&identity.path, layout(moment), None)?;
                Ok(provisional_inspection(Arc::new(view)))
            }
            // Copied a moment ago; or there is nothing that could be looked at past SQLite.
            Body::BeforeCopy(_) | Body::DbPage(_) | Body::Settled | Body::Raw(_) => Ok(None),
        }
    }

    pub(crate) fn connection(&self) -> Option<&Connection> {
        match self {
            Body::Locked(locked) | Body::DbPage(locked) | Body::BeforeCopy(locked) => {
                Some(locked.live().connection())
            }
            _ => None,
        }
    }

    /// Takes the lock with a new moment: as a locked image, or at rest again where nobody has it open.
    pub(crate) fn lock(&mut self, identity: &Identity, busy_timeout: Duration) -> Result<()> {
        let (mut live, _guard) = match std::mem::replace(self, Body::Settled) {
            Body::FirstPass(live, moment) => {
                ensure_still_without_log(&live, &moment)?;
                (live, None)
            }
            Body::Locked(locked) => (locked.into_parts().0, None),
            Body::AtRest(at_rest) if at_rest.is_opened()? => {
                // Until our connection has begun, the guard keeps the last one of the application from
                // deleting the log and its index, which ours would then create.
                (Live::open(identity)?, Some(at_rest))
            }
            Body::AtRest(at_rest) => {
                *self = Body::AtRest(at_rest.again()?);
                return Ok(());
            }
            _ => (Live::open(identity)?, None),
        };
        let moment = live.begin(busy_timeout)?;
        *self = Body::Locked(Locked::new(live, moment));
        Ok(())
    }

    /// Says whether what was read since `lock` is of one moment: at rest, no lock makes sure of that.
    pub(crate) fn is_of_one_moment(&self) -> Result<bool> {
        match self {
            Body::AtRest(at_rest) => at_rest.is_still_at_rest(),
            _ => Ok(true),
        }
    }

    /// Gives the lock back for a while; `lock` takes it again.
    pub(crate) fn unlock(&mut self) {
        if let Body::Locked(locked) = std::mem::replace(self, Body::Settled) {
            let (mut live, moment) = locked.into_parts();
            live.end();
            *self = Body::FirstPass(live, moment);
        }
    }

    /// Waits until a log that no checkpoint could sync on our account is on the disk but for its very end.
    pub(crate) fn sync_log(&self) -> Result<()> {
        match self {
            Body::Locked(locked) | Body::DbPage(locked) => locked.sync_log(),
            _ => Ok(()),
        }
    }

    pub(crate) fn wal_growth(&self) -> u64 {
        match self {
            Body::Locked(locked) | Body::DbPage(locked) => locked.wal_growth(),
            _ => 0,
        }
    }
}

/// Fails where the application changed to WAL mode since `then`, and closed the database: beginning a transaction would
/// create a log and an index, which would stay behind. The next backup reads it in another way.
fn ensure_still_without_log(live: &Live, then: &Moment) -> Result<()> {
    let path = &live.identity().path;
    let mut bytes = [0u8; HEADER_SIZE];
    live.main().read(0, &mut bytes)?;
    let was_wal = Header::parse(&then.main_header).is_ok_and(|header| header.is_wal());
    let is_wal = Header::parse(&bytes).is_ok_and(|header| header.is_wal());
    let siblings = Siblings::of(path)?;
    if is_wal && !was_wal && !(siblings.wal.is_some() && siblings.shm) {
        return Err(Error::Changed { path: path.clone() });
    }
    Ok(())
}

pub(crate) fn layout(moment: &Moment) -> Layout {
    Layout { page_size: moment.page_size, page_count: moment.page_count }
}

/// Opens an image. `None` when SQLite does not: why is for the look at the stored image to say, and no reason not
/// to store it.
fn image_inspection(source: Arc<dyn PageSource>) -> Result<Option<Connection>> {
    match open_image(source) {
        Ok(connection) => Ok(Some(connection)),
        Err(error) if error.is_damage() || matches!(error, Error::Sqlite { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file that others may be writing meanwhile. Whatever is wrong with it may only be half written, which
/// is no news of the image: then there is nothing to look at, and the stored image is asked afterwards.
fn provisional_inspection(source: Arc<dyn PageSource>) -> Option<Connection> {
    image_inspection(source).ok().flatten()
}

struct ClonedBytes<'a> {
    clone: &'a Clone,
    identity: &'a Identity,
}

impl image::Bytes for ClonedBytes<'_> {
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.clone.fill(&self.identity.path, offset, buffer)
    }
}
