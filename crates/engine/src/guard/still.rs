//! Whether a database stands where its snapshot was taken: by its position, and where that proves nothing by its
//! contents. And whether one stands where it stood when its command had ended.

use std::path::Path;
use std::thread;

use dbkeep_postgres::presence;
use dbkeep_sqlite::capture::{Capture, CaptureOptions};
use dbkeep_sqlite::position::{FileState, Position};

use super::Run;
use super::database::Guarded;
use super::server::options;
use crate::Result;
use crate::compare::{self, CompareRequest};
use crate::report::CompareReport;
use crate::source::{Place, Server};

/// How often a file that is written all the time is looked at again.
const TRIES: usize = 5;

/// Where a database stands: a file by the first two, one of a server by the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// As SQLite sees it; `None` where it cannot read it.
    position: Option<Position>,
    /// As the system sees it; `None` for a file that is not there.
    file: Option<FileState>,
    /// How many rows were ever written in it; `None` where the server does not say.
    rows_written: Option<String>,
}

impl Standing {
    /// Returns where a file stood of which only that is known any more.
    pub(super) fn at(position: Position) -> Self {
        Self { file: Some(position.file), position: Some(position), rows_written: None }
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
        // Times prove nothing of a file that was written just now, nor does what else goes on on a server.
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

    /// Takes down where every database stands now that its command has ended, and looks once more who uses it: the files at
    /// once, servers when what the command has left there is gone.
    pub(super) fn take_stands(&mut self) {
        let stand = |database: &Guarded| match &database.source.place {
            Place::File(path) => self.settled(path),
            Place::Server(_) => Standing::default(),
        };
        let mut standings: Vec<Standing> = self.databases.iter().map(stand).collect();
        // It would be in the way of every look.
        self.patrol.end_rest();
        for (place, standing) in standings.iter_mut().enumerate() {
            if let Place::Server(server) = &self.databases[place].source.place {
                *standing = self.stands_on(server).unwrap_or_else(|error| {
                    let why = "whether it is written after the command could not be found out";
                    self.patrol.doubt(place, &format!("{why}: {}", error.full_message()));
                    Standing::default()
                });
            }
        }
        self.standings = standings;
        self.doubt_where_time_is_unknown();
        self.patrol.look();
    }

    /// Doubts files of which nobody could say later that they stand where they stood, as the system does not say since when
    /// it runs.
    fn doubt_where_time_is_unknown(&self) {
        let positions = self.standings.iter().map(Standing::position).enumerate();
        for (place, _) in positions.filter(|(_, position)| position.is_some_and(|one| !one.has_boot())) {
            self.patrol.doubt(place, "whether it is written after the command cannot be told on this system");
        }
    }

    /// Returns where a file stands when later writes get a later time.
    fn settled(&self, path: &Path) -> Standing {
        let mut standing = self.stands_now(path);
        for _ in 0..TRIES {
            let unsettled = standing.file.map(|file| file.unsettled()).unwrap_or_default();
            if unsettled.is_zero() {
                break;
            }
            thread::sleep(unsettled);
            standing = self.stands_now(path);
        }
        standing
    }

    fn stands_now(&self, path: &Path) -> Standing {
        let position =
            Capture::open(path, &self.looking()).ok().and_then(|capture| capture.position().cloned());
        Standing { position, file: FileState::of(path).ok(), rows_written: None }
    }

    fn stands_on(&self, server: &Server) -> Result<Standing> {
        match presence::rows_written(&server.info, &options(self.watch)) {
            // The command may have dropped the database.
            Err(error) if error.code() == Some("3D000") => Ok(Standing::default()),
            rows_written => Ok(Standing { rows_written: rows_written?, ..Standing::default() }),
        }
    }

    /// Says whether a database was written since its command had ended, as far as that was taken down.
    pub(super) fn has_moved(&self, place: usize) -> bool {
        let Some(then) = self.standings.get(place) else { return false };
        match &self.databases[place].source.place {
            Place::File(path) => !self.stands_now(path).is_where(then),
            Place::Server(_) if then.rows_written.is_none() => false,
            // One that does not say it any more may have been written.
            Place::Server(server) => {
                self.stands_on(server).map_or(true, |now| now.rows_written != then.rows_written)
            }
        }
    }

    fn looking(&self) -> CaptureOptions {
        CaptureOptions { busy_timeout: self.store.context().lock_patience, ..CaptureOptions::default() }
    }
}
