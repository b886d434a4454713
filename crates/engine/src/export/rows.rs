//! Reads the rows of a database straight from the repository, for the formats that write them out.

use std::io;
use std::sync::Arc;

use dbkeep_repo::Observer;
use dbkeep_sqlite::contents::{self, Contents, Selection, Table, TableKind, Value};
use dbkeep_sqlite::vfs::open_image;
use rusqlite::Connection;

use super::{Export, Subject};
use crate::context::Watch;
use crate::integrity::StoredPages;
use crate::report::TableRows;
use crate::{Error, Result};

/// What is kept in memory of an image whose rows are read.
const CACHE: usize = 96 << 20;

/// The image of a subject as a database.
pub(super) struct Opened<'e> {
    export: &'e Export<'e>,
    subject: &'e Subject,
    pages: Arc<StoredPages>,
    pub(super) connection: Connection,
    pub(super) contents: Contents,
}

impl Export<'_> {
    /// Opens the image for its rows.
    pub(super) fn open_rows<'e>(&'e self, subject: &'e Subject) -> Result<Opened<'e>> {
        let watch = Arc::clone(self.watch);
        let first_read = Box::new(move |_: u64, bytes: &[u8]| watch.advance(bytes.len() as u64));
        let pages = StoredPages::new(self.reader.random(subject.image()?, CACHE, Some(first_read))?);
        let read = || {
            let connection = open_image(Arc::clone(&pages) as Arc<_>)?;
            let contents = Contents::read(&connection)?;
            Ok((connection, contents))
        };
        let (connection, contents) = read().map_err(|error| self.reading_failed(&pages, error))?;
        Ok(Opened { export: self, subject, pages, connection, contents })
    }

    /// Tells what made reading or writing rows fail. Whatever SQLite makes of bytes that could not be read, the
    /// reason why they could not is the error.
    fn reading_failed(&self, pages: &StoredPages, error: dbkeep_sqlite::Error) -> Error {
        if let Some(failure) = pages.failure() {
            return failure.into();
        }
        match error {
            dbkeep_sqlite::Error::Cancelled => Error::Cancelled,
            dbkeep_sqlite::Error::Consumer(inner) => match inner.downcast::<io::Error>() {
                Ok(error) => self.write_failed(*error),
                Err(inner) => dbkeep_sqlite::Error::Consumer(inner).into(),
            },
            other => other.into(),
        }
    }
}

impl Opened<'_> {
    pub(super) fn cancelled(&self) -> bool {
        self.export.watch.cancelled()
    }

    /// Returns how many rows the manifest says that a table has.
    pub(super) fn known_rows(&self, table: &str) -> Option<u64> {
        self.subject.manifest.tables.iter().find(|one| one.name == table).map(|one| one.rows)
    }

    /// Returns how many rows a table has: as the manifest says, else counted.
    pub(super) fn rows_of(&self, table: &Table) -> Result<u64> {
        match self.known_rows(&table.name) {
            Some(rows) => Ok(rows),
            None => {
                let selection = Selection::stored(table, false);
                self.each_row(table, &selection, &mut |_| Ok(()))
            }
        }
    }

    /// Calls `each` with every row of a table and returns how many there were.
    pub(super) fn each_row(
        &self,
        table: &Table,
        selection: &Selection,
        each: &mut dyn FnMut(&[Value<'_>]) -> io::Result<()>,
    ) -> Result<u64> {
        let mut each = |values: &[Value<'_>]| each(values).map_err(Into::into);
        let cancelled = || self.cancelled();
        let rows = contents::rows(&self.connection, &self.contents, table, selection, &cancelled, &mut each);
        self.ended(rows)
    }

    /// Tells what made something fail.
    pub(super) fn ended<T>(&self, result: dbkeep_sqlite::Result<T>) -> Result<T> {
        result.map_err(|error| self.export.reading_failed(&self.pages, error))
    }

    /// Compares what was written with the manifest, and reads what no row needed: an export vouches for the whole.
    pub(super) fn finish(self, written: &[TableRows]) -> Result<()> {
        for table in written {
            if let Some(expected) = self.known_rows(&table.name).filter(|expected| *expected != table.rows) {
                return Err(Error::Damaged {
                    what: self.subject.what(),
                    finding: format!(
                        "table {:?} has {} rows, the manifest says {expected}",
                        table.name, table.rows
                    ),
                });
            }
        }
        self.pages.reader().read_rest(&Silent(self.export.watch))?;
        match self.pages.failure() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Returns the tables whose rows people want to see, with what is to be said of the others: the tables in which
    /// virtual ones keep their data say nothing that those do not.
    pub(super) fn readable_tables(&self) -> (Vec<&Table>, Vec<String>) {
        let mut notes = Vec::new();
        let mut tables = Vec::new();
        for table in &self.contents.tables {
            match (&table.unreadable, table.kind) {
                (Some(why), _) => notes.push(format!(
                    "virtual table {} left out: {why}; the tables in which it keeps its data are there",
                    table.name
                )),
                (None, TableKind::Shadow) if !self.is_of_unreadable(table) => {}
                (None, TableKind::Virtual) if table.keeps_no_text() => {
                    notes.push(format!(
                        "the index of virtual table {} left out: it keeps no text",
                        table.name
                    ));
                    tables.push(table);
                }
                (None, _) => tables.push(table),
            }
        }
        let inexact = self.contents.schema.iter().filter(|object| !object.is_exact);
        notes.extend(inexact.map(|object| {
            format!("what makes {} {} is not valid text: bytes of it were replaced", object.kind, object.name)
        }));
        (tables, notes)
    }

    /// Says whether a table keeps the data of a virtual one that cannot be read here: it is named after it.
    fn is_of_unreadable(&self, table: &Table) -> bool {
        let name = table.name.to_lowercase();
        let mut unreadable = self.contents.tables.iter().filter(|other| other.unreadable.is_some());
        unreadable.any(|owner| name.starts_with(&format!("{}_", owner.name.to_lowercase())))
    }

    /// Selects all columns of a table; computed ones are left out, and noted, where only the application can.
    pub(super) fn selection(&self, table: &Table, notes: &mut Vec<String>) -> (Selection, Vec<String>) {
        let all = Selection::all(table);
        let names = |generated: bool| {
            let wanted = table.columns.iter().filter(|column| generated || !column.generated);
            wanted.map(|column| column.name.clone()).collect()
        };
        if all.is_possible(&self.connection, table) {
            return (all, names(true));
        }
        notes.push(format!("computed columns of table {} left out: only the application can", table.name));
        (Selection::stored(table, false), names(false))
    }
}

/// Passes on the wish to stop, and no progress: that is counted where bytes are first read.
struct Silent<'w>(&'w Watch);

impl Observer for Silent<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
