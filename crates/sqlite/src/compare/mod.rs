//! What differs between two images of a database: the schema, the tables, the rows.
//!
//! The pages that both images have in common are not read: see `prune` for why that is right. What is left is
//! compared row by row, from the pages themselves, or through SQLite where the two sides cannot be compared that
//! way. Nothing is called the same that was not compared: a table that is damaged is named with its problem.

mod matching;
mod pages;
mod pair;
mod pool;
mod prune;
mod record;
mod rows;
mod schema;
mod table;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::Connection;

use crate::extract::distance;
use crate::inspect::with_interrupt;
use crate::vfs::{PageSource, open_image};
use crate::{Error, Result};

pub use matching::Change;
use pages::Images;
use prune::Roots;
pub use record::Value;
use schema::{Object, Schema};

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// An image, and what is known of it.
pub struct Side {
    /// Its bytes.
    pub pages: Arc<dyn PageSource>,
    /// The rows of its tables by their names, where they were counted when it was made.
    pub rows: Option<BTreeMap<String, u64>>,
}

/// How two images are compared.
pub struct Options<'o> {
    /// Only these tables; all when empty.
    pub tables: &'o [String],
    /// How many rows are listed of each table.
    pub list: usize,
    /// Stretches in which both images are known to hold the same bytes, in order.
    pub same: &'o [Range<u64>],
    /// What rows that wait for their counterparts may take in memory, in bytes, before they go to a file.
    pub memory: usize,
    /// Takes one way, or fails, instead of choosing.
    pub force: Option<Way>,
    /// Asked now and then whether to stop.
    pub cancelled: &'o (dyn Fn() -> bool + Sync),
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { tables: &[], list: 0, same: &[], memory: 64 << 20, force: None, cancelled: &|| false }
    }
}

/// How the rows of a table are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the pages in which the sides differ.
    ChangedPages,
    /// From all pages.
    AllPages,
    /// Through SQLite, which reads all of them.
    Sql,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Objects of the schema and settings.
    pub schema: SchemaChanges,
    /// Every table that was compared, also those without a difference.
    pub tables: Vec<TableComparison>,
}

impl Comparison {
    /// Says whether no difference was found, and nothing was left out.
    pub fn is_same(&self) -> bool {
        self.schema == SchemaChanges::default() && self.tables.iter().all(TableComparison::is_same)
    }
}

/// What differs in the schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaChanges {
    /// What only the right side has.
    pub added: Vec<SchemaObject>,
    /// What only the left side has.
    pub removed: Vec<SchemaObject>,
    /// What is made in another way.
    pub changed: Vec<SchemaObject>,
}

/// A table, an index, a view, a trigger or a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaObject {
    /// `table`, `index`, `view`, `trigger`, or `setting`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The SQL that makes it, or the value of a setting, on the left.
    pub left: Option<String>,
    /// The same on the right.
    pub right: Option<String>,
}

/// What differs in a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableComparison {
    /// Its name.
    pub name: String,
    /// Which sides have it.
    pub exists: [bool; 2],
    /// How many rows each side has.
    pub rows: [u64; 2],
    /// Rows that only the right side has.
    pub added: u64,
    /// Rows that only the left side has.
    pub removed: u64,
    /// Rows of both sides that hold something else.
    pub changed: u64,
    /// The columns that tell rows apart; empty where no key is declared.
    pub key: Vec<String>,
    /// Columns that only one side has; what they hold is not compared.
    pub columns: [Vec<String>; 2],
    /// Columns that have another name on the right.
    pub renamed: Vec<(String, String)>,
    /// The first differences, in the order of rowids or keys.
    pub listed: Vec<RowDifference>,
    /// Why it could not be compared.
    pub problem: Option<String>,
    /// How it was compared; `None` where nothing had to be read.
    pub way: Option<Way>,
}

impl TableComparison {
    /// Says whether it was compared and is the same on both sides.
    pub fn is_same(&self) -> bool {
        self.exists == [true, true]
            && self.problem.is_none()
            && self.added + self.removed + self.changed == 0
            && self.columns.iter().all(Vec::is_empty)
    }
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct RowDifference {
    /// What became of it.
    pub change: Change,
    /// The columns that tell it apart, or its `rowid`.
    pub key: Vec<(String, Value)>,
    /// The columns that changed; of a row that one side has, all but those of the key.
    pub columns: Vec<ColumnDifference>,
}

/// A column that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDifference {
    /// Its name.
    pub name: String,
    /// What it held.
    pub left: Option<Value>,
    /// What it holds.
    pub right: Option<Value>,
}

/// Both sides, opened.
struct Databases<'o> {
    images: Images<'o>,
    connections: &'o [Connection; 2],
    schemas: [Schema; 2],
    known: [Option<&'o BTreeMap<String, u64>>; 2],
    options: &'o Options<'o>,
}

/// Compares two images of a database.
///
/// Nothing is written but a file without a name where very many rows differ. Fails with [`Error::Source`] when an
/// image cannot be read, and when a schema cannot; what is wrong with one table is part of the result.
pub fn compare(left: &Side, right: &Side, options: &Options<'_>) -> Result<Comparison> {
    let mut images = Images::open(&left.pages, &right.pages, options.same, options.cancelled)?;
    if matches!(options.force, Some(Way::AllPages | Way::Sql)) {
        images.forget_relation();
    }
    let connections = [open_image(Arc::clone(&left.pages))?, open_image(Arc::clone(&right.pages))?];
    let known = [left.rows.as_ref(), right.rows.as_ref()];
    let compared = with_interrupt(&connections[LEFT], options.cancelled, || {
        with_interrupt(&connections[RIGHT], options.cancelled, || {
            let schemas = [Schema::read(&connections[LEFT])?, Schema::read(&connections[RIGHT])?];
            Databases { images, connections: &connections, schemas, known, options }.compare()
        })
    });
    // SQLite only says that it was interrupted.
    if compared.is_err() && (options.cancelled)() { Err(Error::Cancelled) } else { compared }
}

impl Databases<'_> {
    fn compare(&self) -> Result<Comparison> {
        self.check_names()?;
        let schema = self.schema_changes();
        let tables = self.tables();
        let is_wanted: Vec<bool> = tables.iter().map(|table| self.is_wanted(table)).collect();
        let shared = self.shared_pages(&tables)?;
        let mut compared = Vec::new();
        for ((table, pages), _) in
            tables.iter().zip(shared).zip(is_wanted).filter(|(_, is_wanted)| *is_wanted)
        {
            compared.push(table::compare(self, *table, pages)?);
        }
        compared.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Comparison { schema, tables: compared })
    }

    /// Returns every table with rows of its own, on each side that has it.
    fn tables(&self) -> Vec<[Option<&Object>; 2]> {
        let mut tables: BTreeMap<String, [Option<&Object>; 2]> = BTreeMap::new();
        for (side, schema) in self.schemas.iter().enumerate() {
            for table in schema.tables() {
                tables.entry(table.name.to_ascii_lowercase()).or_default()[side] = Some(table);
            }
        }
        tables.into_values().collect()
    }

    fn is_wanted(&self, table: &[Option<&Object>; 2]) -> bool {
        table.iter().flatten().any(|table| self.names(&table.name))
    }

    /// Says whether a table was asked for.
    fn names(&self, table: &str) -> bool {
        let wanted = self.options.tables;
        wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(table))
    }

    /// Refuses names of what is no table.
    fn check_names(&self) -> Result<()> {
        for name in self.options.tables {
            let named = |object: &&Object| object.name.eq_ignore_ascii_case(name);
            let objects = || self.schemas.iter().flat_map(|schema| &schema.objects);
            if objects().filter(|object| object.has_rows()).any(|object| named(&object)) {
                continue;
            }
            return Err(match objects().find(named) {
                Some(object) if object.kind == "table" => Error::NotATable {
                    name: name.clone(),
                    what: format!("a virtual table, whose rows are in the tables {name}_…"),
                },
                Some(object) => Error::NotATable { name: name.clone(), what: format!("a {}", object.kind) },
                None => Error::NoSuchTable { name: name.clone(), candidates: self.near(name) },
            });
        }
        Ok(())
    }

    fn near(&self, name: &str) -> Vec<String> {
        let wanted = name.to_lowercase();
        let tables = self.schemas.iter().flat_map(Schema::tables).map(|table| &table.name);
        let far = |table: &String| distance(&wanted, &table.to_lowercase());
        let mut near: Vec<_> = tables.filter(|table| far(table) <= 1 + wanted.chars().count() / 3).collect();
        near.sort_by_key(|table| (far(table), *table));
        near.dedup();
        near.into_iter().take(3).cloned().collect()
    }

    fn schema_changes(&self) -> SchemaChanges {
        let mut changes = SchemaChanges::default();
        let [left, right] = [LEFT, RIGHT].map(|side| self.objects(side));
        for (id, one) in &left {
            let other = right.get(id).copied();
            let object = schema_object(other.unwrap_or(one), [Some(*one), other]);
            match other {
                None => changes.removed.push(object),
                Some(other) if other.sql != one.sql => changes.changed.push(object),
                Some(_) => {}
            }
        }
        let only_right = right.iter().filter(|(id, _)| !left.contains_key(*id));
        changes.added.extend(only_right.map(|(_, one)| schema_object(one, [None, Some(*one)])));
        changes
    }

    /// Returns what is made by SQL: the index of a key comes with its table.
    fn objects(&self, side: usize) -> BTreeMap<(String, String), &Object> {
        let objects = self.schemas[side].objects.iter();
        let is_meant = |object: &&Object| match object.kind.as_str() {
            "setting" => self.options.tables.is_empty(),
            "index" if object.sql.is_none() => false,
            _ => self.names(&object.name) || self.names(&object.table),
        };
        objects.filter(is_meant).map(|object| (object.id(), object)).collect()
    }

    /// Returns what each table shares with the other side; `None` where nothing differs.
    fn shared_pages(&self, tables: &[[Option<&Object>; 2]]) -> Result<Vec<Option<Result<prune::Pages>>>> {
        if self.images.are_equal() {
            return Ok(tables.iter().map(|_| None).collect());
        }
        let roots: Vec<Roots> = tables
            .iter()
            .map(|table| Roots { roots: table.map(|table| table.map(|table| table.root)) })
            .collect();
        let pages = prune::shared(&self.images, &roots, &self.other_trees())?;
        Ok(pages.into_iter().map(Some).collect())
    }

    /// Returns the trees that are not of tables: that of the schema and those of indexes.
    fn other_trees(&self) -> Vec<Roots> {
        let mut indexes: BTreeMap<(String, String), [Option<u32>; 2]> = BTreeMap::new();
        for (side, schema) in self.schemas.iter().enumerate() {
            for index in schema.objects.iter().filter(|object| object.kind == "index" && object.root > 0) {
                indexes.entry(index.id()).or_default()[side] = Some(index.root);
            }
        }
        std::iter::once([Some(1); 2]).chain(indexes.into_values()).map(|roots| Roots { roots }).collect()
    }
}

fn schema_object(named: &Object, sides: [Option<&Object>; 2]) -> SchemaObject {
    let [left, right] =
        sides.map(|object| object?.sql.as_ref().map(|sql| String::from_utf8_lossy(sql).into_owned()));
    SchemaObject { kind: named.kind.clone(), name: named.name.clone(), left, right }
}
