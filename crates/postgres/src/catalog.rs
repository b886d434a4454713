//! What a database holds, as far as reading its rows needs to know: tables, their columns and keys, sequences, large
//! objects.
//!
//! All of it is read in the transaction whose moment is backed up. What the objects look like to the last detail is
//! `pg_dump`'s to say.
//!
//! A catalog is stored as JSON beside the rows and read back from places that others may write. So names are quoted
//! wherever they become SQL, and what is SQL itself (types, default expressions, conditions) is for people and for
//! comparisons: that of a catalog that was read back is never sent to a server.

mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub(crate) use self::read::{BASE_TYPE, number, value};
use crate::Result;
use crate::attributes::Attributes;
use crate::snapshot::identifier;
use crate::wire::Connection;

/// The oldest server that is understood: from 12 on generated columns are marked.
pub const OLDEST: u32 = 120_000;

/// What a database holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Catalog {
    /// All tables and what is like them, by schema and name.
    pub tables: Vec<Table>,
    /// All sequences, by schema and name.
    pub sequences: Vec<Sequence>,
    /// How many large objects there are.
    pub large_objects: u64,
    /// What is there and is not read. A backup tells it beside the catalog, so it is not stored in it.
    #[serde(skip)]
    pub unread: Vec<Unread>,
    /// What the database has beside its contents, as a backup keeps it; absent in a catalog that was just read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Attributes>,
}

/// Something that is not in a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// A sequence of which a standby does not know where it stands, because it is not logged.
    Sequence(Sequence),
    /// A table with rows that an extension made and does not take for the user's.
    OfExtension {
        /// The table.
        table: Name,
        /// The extension.
        extension: String,
    },
}

/// A table, or something like one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Table {
    /// Its number.
    pub oid: u32,
    /// Its schema and name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// The file that holds its rows; another one holds them after they were rewritten or cut off.
    #[serde(default)]
    pub filenode: u32,
    /// Bytes on disk, with long values, without indexes.
    #[serde(default)]
    pub bytes: u64,
    /// Pages of its main file.
    #[serde(default)]
    pub pages: u64,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The columns that tell its rows apart, in the order of their index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// What its rows refer to, by the names of the constraints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_keys: Vec<ForeignKey>,
    /// The tables that it inherits from, in their order, or the one that it is a partition of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Name>,
    /// Whether it is a partition.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partition: bool,
    /// Whether its rows survive a crash of the server.
    #[serde(default)]
    pub logged: bool,
    /// Whether its rows are left out, as it was asked for or because they cannot be read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub left_out: bool,
    /// Whether policies may hide rows of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub row_security: bool,
    /// Whether they may hide rows of it from this user.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// Whether this user may read it.
    #[serde(default)]
    pub readable: bool,
    /// For a table of an extension: which of its rows are the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<ExtensionRows>,
}

/// The name of a table or a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

impl Name {
    /// Returns it as SQL takes it.
    pub fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// What a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One with rows of its own.
    #[default]
    Ordinary,
    /// One whose rows are in its partitions.
    Partitioned,
    /// The kept answer to a query; it is asked again after a restore.
    Materialized,
    /// One whose rows are on another server.
    Foreign,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its number among the columns that the table ever had.
    #[serde(default)]
    pub number: i16,
    /// The number of its type, of the one behind it where it is a domain.
    #[serde(default)]
    pub type_oid: u32,
    /// Its type, as `numeric(10,2)`.
    pub type_name: String,
    /// Whether it is computed from others, so that it cannot be restored and need not be.
    #[serde(default, skip_serializing_if = "is_false")]
    pub generated: bool,
    /// Whether it is never NULL.
    #[serde(default, skip_serializing_if = "is_false")]
    pub not_null: bool,
    /// Whether it is numbered by a sequence of its own, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What it is when nothing is said, or what it is computed by: an expression of SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Its order of text, where that is not the one of its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<Name>,
}

/// How a column is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// Always by its sequence.
    Always,
    /// By its sequence, unless a number is given.
    ByDefault,
}

/// What rows of a table refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ForeignKey {
    /// The name of the constraint.
    pub name: String,
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The table that is referred to.
    pub table: Name,
    /// The columns there, in the same order.
    pub referenced: Vec<String>,
    /// Whether the constraint is only part of one of a partitioned table.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inherited: bool,
}

/// Columns that tell rows apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Key {
    /// Their names, in the order of the index.
    pub columns: Vec<String>,
    /// How well the rows of the table lie in the order of the first: from -1 to 1, unknown where it was never
    /// analyzed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<f32>,
    /// Whether its index is in another order than one asks for with the names of the columns alone, as one that is
    /// ascending by some and descending by others: then it is of no use for reading rows in order.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sorted_otherwise: bool,
}

/// Which rows of an extension's table are the user's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExtensionRows {
    /// The extension.
    pub name: String,
    /// The condition, as `WHERE id > 100`; empty for all.
    pub condition: String,
}

/// A sequence and where it stands. That is not part of the moment: PostgreSQL shows the newest value, which is never
/// behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sequence {
    /// Its number.
    pub oid: u32,
    /// Its schema and name.
    pub name: Name,
    /// The last value, or the first one that it will give.
    pub last_value: i64,
    /// Whether that one was given already.
    pub is_called: bool,
    /// Whether this user may read it; where it stands is unknown otherwise.
    #[serde(default)]
    pub readable: bool,
    /// The table that it belongs to, and goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned_by: Option<Name>,
    /// Whether it numbers an identity column, and so is nothing without the table.
    #[serde(default, skip_serializing_if = "is_false")]
    pub identity: bool,
}

impl Catalog {
    /// Reads what the transaction of a connection sees. The connection must be in one of [`crate::snapshot::begin`].
    ///
    /// # Errors
    /// When the server cannot be asked, or is too old.
    pub fn read(connection: &mut Connection) -> Result<Self> {
        read::catalog(connection)
    }

    /// Returns the tables whose rows have to be read.
    pub fn with_rows(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| table.has_rows())
    }
}

/// Returns these tables and all of their partitions, whatever the depth, as any of the catalogs knows them.
pub fn with_partitions(catalogs: &[&Catalog], names: impl IntoIterator<Item = Name>) -> BTreeSet<Name> {
    let mut all: BTreeSet<Name> = names.into_iter().collect();
    loop {
        let partitions = catalogs.iter().flat_map(|catalog| &catalog.tables).filter(|table| table.partition);
        let of_these = partitions.filter(|table| table.parents.iter().any(|parent| all.contains(parent)));
        let new: Vec<Name> =
            of_these.map(|table| table.name.clone()).filter(|name| !all.contains(name)).collect();
        if new.is_empty() {
            return all;
        }
        all.extend(new);
    }
}

impl Table {
    /// Returns whether rows of its own have to be read.
    pub fn has_rows(&self) -> bool {
        self.kind == Kind::Ordinary && !self.left_out
    }

    /// Puts the columns into the order of another table, as of the same one in a backup. Columns that only the other
    /// one has are taken over, and reading them fails.
    pub fn order_columns_as(&mut self, other: &Self) {
        let own = |wanted: &Column| {
            self.columns.iter().find(|column| column.name == wanted.name).unwrap_or(wanted).clone()
        };
        self.columns = other.columns.iter().map(own).collect();
    }

    /// Returns the names of the columns that are stored, quoted, as COPY takes them.
    pub fn stored_columns(&self) -> String {
        let stored = self.columns.iter().filter(|column| !column.generated);
        stored.map(|column| identifier(&column.name)).collect::<Vec<_>>().join(", ")
    }
}

/// Tables that were asked for and are not there.
pub fn missing<'a>(catalog: &Catalog, wanted: &'a [Name]) -> Vec<&'a Name> {
    let there: BTreeSet<&Name> = catalog.tables.iter().map(|table| &table.name).collect();
    wanted.iter().filter(|name| !there.contains(name)).collect()
}

fn is_false(value: &bool) -> bool {
    !value
}
