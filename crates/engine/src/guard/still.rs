//! Whether a database stands where its snapshot was taken: by its position, and where that proves nothing by its
//! contents.

use dbkeep_sqlite::capture::{Capture, CaptureOptions};
use dbkeep_sqlite::position::Position;

use super::Run;
use crate::Result;
use crate::compare::{self, CompareRequest};
use crate::report::CompareReport;
use crate::source::Place;

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

    /// Returns where a database stands now; `None` where that cannot be told.
    pub(super) fn position(&self, place: usize) -> Option<Position> {
        match &self.databases[place].source.place {
            Place::File(path) => Capture::open(path, &self.looking()).ok()?.position().cloned(),
            Place::Server(_) => None,
        }
    }

    /// Says whether a database surely stands where it stood.
    pub(super) fn stands_at(&self, place: usize, position: Option<&Position>) -> bool {
        let (Some(then), Place::File(path)) = (position, &self.databases[place].source.place) else {
            return false;
        };
        Capture::open(path, &self.looking()).is_ok_and(|capture| capture.is_unchanged_since(then))
    }

    fn looking(&self) -> CaptureOptions {
        CaptureOptions {
            now: self.clock.now().into(),
            busy_timeout: self.store.context().lock_patience,
            ..CaptureOptions::default()
        }
    }
}
