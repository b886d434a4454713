//! The rows of tables that extensions made.
//!
//! Such a table is what the extension on this server makes of it, and not what it was in the backup: there may be
//! none, one of another version, or one that this user may not write. A database is of use without those rows, so a
//! table that does not take them is told and does not end the restore. What the extension itself put there stays.

use super::Restore;
use super::leave::is_from_outside;
use super::objects::session;
use crate::catalog::{Name, Table};
use crate::load::{Giver, put};
use crate::order;
use crate::snapshot::SETTINGS;
use crate::{Error, Result};

/// A table that has none of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfilled {
    /// The table.
    pub table: Name,
    /// Why.
    pub why: String,
}

impl Restore<'_> {
    /// Puts rows into the tables of extensions, those referred to first: their foreign keys are there. Returns the
    /// tables that took none.
    pub(super) fn fill_extensions(&self, tables: &[&Table], giver: &dyn Giver) -> Result<Vec<Unfilled>> {
        let tables: Vec<Table> = tables.iter().map(|table| (*table).clone()).collect();
        let mut unfilled = Vec::new();
        for table in order::of_tables(&tables).0.into_iter().filter_map(|place| tables.get(place)) {
            let why = match self.lost_extension(table) {
                Some(extension) => Some(format!("the extension {extension} could not be restored")),
                None => self.fill_extension(table, giver)?,
            };
            unfilled.extend(why.map(|why| Unfilled { table: table.name.clone(), why }));
        }
        Ok(unfilled)
    }

    /// Returns the extension that a table would have come with.
    fn lost_extension<'t>(&self, table: &'t Table) -> Option<&'t str> {
        let name = &table.extension.as_ref()?.name;
        let entries = self.archive.entries.iter();
        let mut made = entries.filter(|entry| entry.kind == "EXTENSION" && entry.tag == *name);
        made.any(|entry| self.losses.has(entry)).then_some(name)
    }

    /// Puts all rows into a table, or none and says why.
    fn fill_extension(&self, table: &Table, giver: &dyn Giver) -> Result<Option<String>> {
        let fill = || {
            let mut connection = session(&self.staging(), &self.options)?;
            connection.execute("BEGIN")?;
            connection.execute(SETTINGS)?;
            put(&mut connection, table, 0..giver.pieces(table)?, giver, false)?;
            connection.execute("COMMIT").map(|()| connection)
        };
        match fill() {
            Ok(mut connection) => {
                connection.execute(&format!("ANALYZE {}", table.name.quoted())).map(|()| None)
            }
            Err(Error::Server(error)) if !is_from_outside(&error.code) => Ok(Some(error.message)),
            Err(error) => Err(error),
        }
    }
}
