//! The locked image: SQLite takes the read lock, the files are read past its page cache.
//!
//! In WAL mode the frames up to the transaction's mark are laid over the main file. All of
//! them, not only those that no checkpoint has copied yet: the bytes are the same, and a
//! checkpoint in the middle of its work does not matter. The chain of checksums up to the
//! value in the index proves that these are exactly the frames that SQLite saw.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::capture::image::{self, Layout, Overlay};
use crate::capture::log_sync::{self, Follower};
use crate::capture::view::{FileView, LogPages};
use crate::header::{HEADER_SIZE, Header};
use crate::identify;
use crate::live::{Live, Moment};
use crate::wal::{self, PageMap, Until};
use crate::{Error, Result};

/// An open read transaction and what lies over the main file in it.
pub(crate) struct Locked {
    live: Live,
    moment: Moment,
    map: Option<Arc<PageMap>>,
    began: Instant,
    follower: Option<Follower>,
}

impl Locked {
    pub(crate) fn new(live: Live, moment: Moment) -> Self {
        Locked { live, moment, map: None, began: Instant::now(), follower: None }
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout { page_size: self.moment.page_size, page_count: self.moment.page_count }
    }

    pub(crate) fn moment(&self) -> &Moment {
        &self.moment
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    pub(crate) fn into_parts(self) -> (Live, Moment) {
        (self.live, self.moment)
    }

    /// Fills `buffer` with the image's bytes from `offset` on. The first call reads the log.
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.prepare()?;
        self.follow_log();
        let main = self.live.main();
        match (&self.map, self.live.wal()) {
            (Some(map), Some(log)) if !map.is_empty() => {
                let overlay = Overlay { map, log: &log };
                image::fill(self.layout(), &main, Some(&overlay), offset, buffer)
            }
            (Some(map), None) if !map.is_empty() => Err(self.mismatch("the log is gone")),
            _ => image::fill(self.layout(), &main, None, offset, buffer),
        }
    }

    /// Reads the log and proves that it is the one of the transaction.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        if self.map.is_some() {
            return Ok(());
        }
        self.map = Some(match &self.moment.wal {
            None => Arc::default(),
            Some(index) => {
                let log = self.live.wal().ok_or_else(|| self.mismatch("there is no log"))?;
                let mut read = |offset: u64, buffer: &mut [u8]| log.read_some(offset, buffer);
                match wal::scan(&mut read, index.page_size, Until::Mark(index.mark)) {
                    Ok(Some(scan)) => Arc::new(scan.map),
                    Ok(None) => return Err(self.mismatch("the log is empty")),
                    Err(Error::Damaged { what }) => {
                        let is_damage = wal::is_log_of(&mut read, index.page_size, index.mark)?;
                        return Err(self.mismatch_or_damage(&what, is_damage));
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        Ok(())
    }

    /// Returns the header of the image.
    pub(crate) fn header(&mut self) -> Result<Header> {
        if self.moment.wal.is_none() {
            return Header::parse(&self.moment.main_header);
        }
        // SQLite finds page 1 in the log by its index, without reading all of the log.
        let through_sqlite = super::dbpage::first_page(self.live.connection());
        if let Some(bytes) = through_sqlite {
            return Header::parse(&bytes);
        }
        let mut bytes = [0u8; HEADER_SIZE];
        self.read(0, &mut bytes)?;
        Header::parse(&bytes)
    }

    /// Returns a second view of the image, for another thread. It holds as long as the transaction is open.
    ///
    /// Not through SQLite, which looks for every page in all parts of the log's index: that takes minutes
    /// when the log has grown to a few gigabytes.
    pub(crate) fn view(&mut self) -> Result<FileView> {
        self.prepare()?;
        let path = &self.live.identity().path;
        let pages = match (&self.map, self.live.wal()) {
            (Some(map), Some(log)) if !map.is_empty() => LogPages::open(path, |file| {
                // The header, which is another one each time that the log is begun anew.
                let (mut ours, mut found) = ([0; 32], [0; 32]);
                log.read(0, &mut ours)?;
                file.read_some(0, &mut found)?;
                if ours == found { Ok(Some(Arc::clone(map))) } else { Err(self.mismatch("it was replaced")) }
            })?,
            (Some(map), None) if !map.is_empty() => return Err(self.mismatch("the log is gone")),
            _ => None,
        };
        let view = FileView::open(path, self.layout(), pages.map(Arc::new))?;
        // It was opened by its name.
        self.live.check_not_moved()?;
        Ok(view)
    }

    /// Returns by how many bytes the log grew since the transaction began.
    pub(crate) fn wal_growth(&self) -> u64 {
        let now = self.live.wal().and_then(|log| log.size().ok()).unwrap_or(0);
        now.saturating_sub(self.moment.wal_size)
    }

    /// Has the log sent to the disk while it grows, once the transaction is a long one.
    fn follow_log(&mut self) {
        if self.follower.is_none() && self.began.elapsed() >= log_sync::LONG && self.live.wal().is_some() {
            // Where it cannot start, a commit after the backup waits for longer.
            self.follower = Follower::start(&self.log_path()).ok();
        }
    }

    fn log_path(&self) -> PathBuf {
        identify::sibling(&self.live.identity().path, "-wal")
    }

    /// Waits until the log, which no checkpoint could sync meanwhile, is on the disk but for its very end.
    pub(crate) fn sync_log(&self) -> Result<()> {
        if self.live.wal().is_none() {
            return Ok(());
        }
        let path = self.log_path();
        log_sync::sync(&path, self.began).map_err(|error| Error::io("sync", &path, error))
    }

    fn mismatch(&self, what: &str) -> Error {
        self.mismatch_or_damage(what, false)
    }

    fn mismatch_or_damage(&self, what: &str, is_damage: bool) -> Error {
        Error::WalMismatch { path: self.live.identity().path.clone(), what: what.to_string(), is_damage }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn log_is_followed_once_the_transaction_is_a_long_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let application = rusqlite::Connection::open(&path).unwrap();
        application.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t(x)").unwrap();
        let mut live = Live::open(&identify::identity(&path).unwrap()).unwrap();
        let moment = live.begin(Duration::ZERO).unwrap();
        let mut locked = Locked::new(live, moment);
        locked.began = Instant::now() + Duration::from_secs(3600);
        locked.read(0, &mut [0; 4096]).unwrap();
        assert!(locked.follower.is_none());
        locked.began = Instant::now() - log_sync::LONG;
        locked.read(4096, &mut [0; 4096]).unwrap();
        assert!(locked.follower.is_some());
    }
}
