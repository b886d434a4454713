//! Whether a database stands where its snapshot was taken: by its position, and where that proves nothing by its
//! contents. And whether a file stands where it stood when its command had ended.

use std::path::Path;
use std::thread;
use std::time::SystemTime;

use dbkeep_sqlite::capture::{Capture, CaptureOptions};
use dbkeep_sqlite::position::{FileState, Position};

use super::Run;
use crate::Result;
use crate::compare::{self, CompareRequest};
use crate::report::CompareReport;
use crate::source::Place;

/// Where a file stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// As SQLite sees it; `None` where it cannot read it.
    position: Option<Position>,
    /// As the system sees it; `None` for a file that is not there.
    file: Option<FileState>,
}

impl Standing {
    /// Returns where a file stood of which only that is known any more.
    pub(super) fn at(position: Position) -> Self {
        Self { file: Some(position.file), position: Some(position) }
    }

    pub(super) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Says whether nothing was written since `then`.
    fn is_where(&self, then: &Self) -> bool {
        match (&self.position, &then.position) {
            (Some(now), Some(then)) => now.is_where(then),
            (None, None) => self.file == then.file,
            _ => false,
        }
    }
}

impl Run<'_> {
    /// Says whether nothing was written to a database since its snapshot.
    pub(super) fn is_still(&self, place: usize) -> Result<bool> {
        let database = &self.databases[place];
        if let Place::File(path) = &database.source.place {
            let saved = self.store.state().position(&database.source.name);
            let saved = saved.filter(|saved| saved.snapshot == database.snapshot);
            if let Some(saved) = saved
                && Capture::open(path, &self.looking())?.is_unchanged_since(&saved.position)
            {
                return Ok(true);
            }
        }
        if let Place::Server(server) = &database.source.place
            && self.server_stands(&database.source.name, server)
        {
            return Ok(true);
        }
        // Times prove nothing of a file that was written in the last seconds, nor does what else goes on on a server.
        Ok(self.compared(place)?.same)
    }

    /// Compares a database with its snapshot.
    pub(super) fn compared(&self, place: usize) -> Result<CompareReport> {
        let database = &self.databases[place];
        let request = CompareRequest {
            snapshot: database.snapshot.to_string(),
            // The command may have put another file, or another database of the name, into its place.
            force: true,
            ..CompareRequest::default()
        };
        compare::run(self.store, &request, self.clock.now(), self.watch)
    }

    /// Takes down where every file stands now that its command has ended, and looks once more who has one open.
    pub(super) fn take_stands(&mut self) {
        self.standings = (0..self.databases.len()).map(|place| self.stand(place)).collect();
        self.patrol.look();
    }

    fn stand(&self, place: usize) -> Standing {
        let Place::File(path) = &self.databases[place].source.place else { return Standing::default() };
        if let Ok(file) = FileState::of(path) {
            // Later writes get a later time.
            thread::sleep(file.unsettled_for(SystemTime::now()));
        }
        self.stands_now(path)
    }

    fn stands_now(&self, path: &Path) -> Standing {
        let looking = CaptureOptions { now: SystemTime::now(), ..self.looking() };
        let position = Capture::open(path, &looking).ok().and_then(|capture| capture.position().cloned());
        Standing { position, file: FileState::of(path).ok() }
    }

    /// Says whether a file was written since its command had ended, as far as that was taken down. Nobody can write it now.
    pub(super) fn has_moved(&self, place: usize) -> bool {
        let Place::File(path) = &self.databases[place].source.place else { return false };
        self.standings.get(place).is_some_and(|then| !self.stands_now(path).is_where(then))
    }

    fn looking(&self) -> CaptureOptions {
        CaptureOptions {
            now: self.clock.now().into(),
            busy_timeout: self.store.context().lock_patience,
            ..CaptureOptions::default()
        }
    }
}
