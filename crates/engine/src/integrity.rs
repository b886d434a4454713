//! How deep a database is checked, and what the check came to.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use dbkeep_repo::read::ImageReader;
use dbkeep_sqlite::inspect::{self, TableRoot};
use dbkeep_sqlite::vfs::{self, PageSource};
use serde::{Deserialize, Serialize};

use crate::forecast::Forecast;
use crate::manifest::{Integrity, IntegrityResult};
use crate::{Error, Result};

/// How deep a database is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Pages, trees and records; time grows with the size.
    #[default]
    Quick,
    /// Each index entry against its row as well.
    Full,
    /// Not at all; the report says `not run`.
    None,
}

impl Verify {
    /// Returns the word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
            Self::None => "none",
        }
    }

    /// Says whether a check to `level`, as a manifest has it, is as deep as this one.
    pub(crate) fn is_satisfied_by(self, level: &str) -> bool {
        match self {
            Self::None => true,
            Self::Quick => matches!(level, "quick" | "full"),
            Self::Full => level == "full",
        }
    }

    fn level(self) -> Option<inspect::Level> {
        match self {
            Self::Quick => Some(inspect::Level::Quick),
            Self::Full => Some(inspect::Level::Full),
            Self::None => None,
        }
    }
}

impl fmt::Display for Verify {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl FromStr for Verify {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "quick" => Ok(Self::Quick),
            "full" => Ok(Self::Full),
            "none" => Ok(Self::None),
            _ => Err(Error::usage(format!("{text:?} is no depth of a check"), "quick, full or none")),
        }
    }
}

/// What a look at a database told.
#[derive(Debug)]
pub(crate) struct Looked {
    /// Whether it is sound.
    pub(crate) integrity: Integrity,
    /// Its tables; an error where the schema cannot be read.
    pub(crate) tables: Result<Vec<TableRoot>>,
    /// What could not be verified and why.
    pub(crate) notes: Vec<String>,
}

/// Looks at a database through a connection. What SQLite says of a damaged one is part of the result.
pub(crate) fn look(
    connection: &rusqlite::Connection,
    verify: Verify,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Looked> {
    let tables = inspect::tables(connection);
    if let Err(dbkeep_sqlite::Error::Source(source)) = tables {
        return Err(dbkeep_sqlite::Error::Source(source).into());
    }
    let mut notes = Vec::new();
    let integrity = match verify.level() {
        None => not_run(verify),
        Some(level) => {
            let found = inspect::inspect(connection, level, cancelled)?;
            notes.extend(found.notes);
            match found.integrity {
                inspect::Integrity::Ok => Integrity::new(IntegrityResult::Ok, verify, vec![]),
                inspect::Integrity::Problems(problems) => {
                    Integrity::new(IntegrityResult::Corrupt, verify, problems)
                }
                inspect::Integrity::NotRun(why) => {
                    notes.push(format!("the integrity check could not run: {why}"));
                    not_run(verify)
                }
            }
        }
    };
    Ok(Looked { integrity, tables: tables.map_err(Error::from), notes })
}

/// Looks at an image, wherever its bytes are. One that SQLite does not take for a database is corrupt; one that
/// it refuses to open for another reason was not looked at.
pub(crate) fn look_at_image(
    source: Arc<dyn PageSource>,
    verify: Verify,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Looked> {
    match vfs::open_image(source) {
        Ok(connection) => look(&connection, verify, cancelled),
        Err(error) if error.is_damage() => Ok(Looked {
            integrity: Integrity::new(IntegrityResult::Corrupt, verify, vec![error.to_string()]),
            tables: Err(error.into()),
            notes: Vec::new(),
        }),
        Err(error @ dbkeep_sqlite::Error::Sqlite { .. }) => Ok(Looked {
            integrity: not_run(verify),
            notes: vec![format!("the integrity check could not run: {error}")],
            tables: Err(error.into()),
        }),
        Err(error) => Err(error.into()),
    }
}

fn not_run(verify: Verify) -> Integrity {
    Integrity::new(IntegrityResult::NotRun, verify, vec![])
}

impl Integrity {
    pub(crate) fn new(result: IntegrityResult, verify: Verify, problems: Vec<String>) -> Self {
        let problems = problems.into_iter().map(|problem| crate::name::printable(&problem)).collect();
        Self { result, level: verify.word().to_owned(), problems }
    }
}

/// Looks at an image in the repository.
///
/// Whatever SQLite makes of bytes that could not be read, the reason why they could not is the error.
pub(crate) fn look_at_stored(
    pages: &Arc<StoredPages>,
    verify: Verify,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Looked> {
    let looked = look_at_image(Arc::clone(pages) as Arc<dyn PageSource>, verify, cancelled);
    match pages.failure() {
        Some(error) => Err(error.into()),
        None => looked,
    }
}

/// The most bytes of a walk over a tree that are opened ahead of it.
const AHEAD: usize = 4 << 20;

/// An image in the repository, as SQLite reads it.
pub(crate) struct StoredPages {
    reader: ImageReader,
    forecast: Mutex<Forecast>,
    failure: Mutex<Option<dbkeep_repo::Error>>,
}

impl StoredPages {
    pub(crate) fn new(reader: ImageReader) -> Arc<Self> {
        Arc::new(Self { reader, forecast: Mutex::new(Forecast::new(AHEAD)), failure: Mutex::new(None) })
    }

    /// Returns what reads the image.
    pub(crate) fn reader(&self) -> &ImageReader {
        &self.reader
    }

    /// Takes the first error of the repository.
    pub(crate) fn failure(&self) -> Option<dbkeep_repo::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads a page, and has those opened ahead that SQLite will want after it.
    fn read_page(&self, page: u32, offset: u64, buffer: &mut [u8]) -> dbkeep_repo::Result<()> {
        let size = buffer.len();
        let mut forecast = self.forecast.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = forecast.step(page, size);
        if let Some(list) = expected {
            self.announce(&mut forecast, list, size);
            if let Some(next) = forecast.next_interior(list)
                && self.reader.read_if_cached(offset_of(next, size), buffer)
                && let Some(list) = forecast.learn(next, buffer, Some(list))
            {
                self.announce(&mut forecast, list, size);
            }
        }
        drop(forecast);
        match expected {
            Some(_) => self.reader.read_announced(offset, buffer)?,
            None => self.reader.read_at(offset, buffer)?,
        }
        self.forecast.lock().unwrap_or_else(PoisonError::into_inner).learn(page, buffer, None);
        Ok(())
    }

    fn announce(&self, forecast: &mut Forecast, list: usize, size: usize) {
        let due: Vec<u64> = forecast.due(list).iter().map(|page| offset_of(*page, size)).collect();
        if !due.is_empty() {
            let taken = self.reader.announce(&due);
            forecast.asked(list, taken);
        }
    }
}

impl PageSource for StoredPages {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = match page_number(offset, buffer.len()) {
            Some(page) => self.read_page(page, offset, buffer),
            None => self.reader.read_at(offset, buffer),
        };
        read.map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            told
        })
    }
}

/// Returns the number of the page that a reading is of, from 1; `None` for other readings, as of the header.
fn page_number(offset: u64, length: usize) -> Option<u32> {
    let is_page = length.is_power_of_two() && (512..=65536).contains(&length);
    let before = is_page.then_some(offset)?.checked_div(length as u64)?;
    if offset.is_multiple_of(length as u64) { u32::try_from(before + 1).ok() } else { None }
}

/// Returns where a page begins; that of page 1 for page 0, which only a damaged page names.
fn offset_of(page: u32, size: usize) -> u64 {
    u64::from(page.saturating_sub(1)) * size as u64
}
