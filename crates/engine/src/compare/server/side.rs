//! A snapshot as a side, which tables are meant, and a table on one side.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::{Catalog, Key, Kind, Name, Table, with_partitions};
use dbkeep_postgres::rows::RowSum;
use dbkeep_repo::Id;
use dbkeep_repo::read::{Image, Reader};

use super::columns;
use super::live::{Known, Live};
use crate::catalog::Entry;
use crate::context::Watch;
use crate::manifest::{Manifest, TableProof};
use crate::report::ComparedSide;
use crate::served::{Served, shown};
use crate::source::server::table_name;
use crate::suggest::nearest;
use crate::{Error, Result};

/// The schema of a table that is named without one.
const DEFAULT_SCHEMA: &str = "public";

/// A table on one side.
pub(super) struct Half<'h> {
    pub(super) table: Table,
    pub(super) sum: RowSum,
    /// Where its rows are; none where they are left out.
    pub(super) rows: Option<Rows<'h>>,
}

/// Where rows are.
pub(super) enum Rows<'h> {
    /// There are none.
    Empty,
    /// In a snapshot.
    Snapshot(&'h Served<'h>, Arc<Image>),
    /// In the live database, at this place of its catalog: those that were kept of them.
    Live(&'h Live, usize),
}

impl Half<'_> {
    /// Returns whether it is a table with rows of its own.
    pub(super) fn may_have_rows(&self) -> bool {
        (self.table.kind == Kind::Ordinary && !self.is_empty()) || self.sum.rows > 0
    }

    /// Returns whether it has no rows and cannot have any.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.rows, Some(Rows::Empty))
    }
}

impl Rows<'_> {
    /// Hands out rows of a snapshot in some of its chunks, or all that were kept of the live database.
    pub(super) fn each(
        &self,
        chunks: &[Range<usize>],
        watch: &Watch,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut take = |bytes: &[u8]| {
            if watch.cancelled() {
                return Err(Error::Cancelled);
            }
            take(bytes)
        };
        match self {
            Self::Empty => Ok(()),
            Self::Live(live, place) => live.each(*place, &mut take),
            Self::Snapshot(served, rows) => {
                for some in chunks {
                    let mut rows = served.reader.forward(rows, some.clone())?;
                    while let Some(bytes) = rows.next()? {
                        take(bytes)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// A snapshot that was opened.
pub(super) struct Opened<'s> {
    pub(super) served: Served<'s>,
    pub(super) side: ComparedSide,
    /// The rows of each table.
    rows: BTreeMap<Name, (RowSum, u32, Arc<Image>)>,
}

impl<'s> Opened<'s> {
    pub(super) fn open(
        reader: &'s Reader,
        entry: &'s Entry,
        manifest: Manifest,
        side: ComparedSide,
    ) -> Result<Self> {
        let served = Served::open(reader, entry, manifest)?;
        let one = |proof: &TableProof| {
            let hash = proof.hash.parse().map_err(|_| Error::Damaged {
                what: format!("the manifest of snapshot {}", entry.id.short()),
                finding: format!("{:?} is no hash", proof.hash),
            })?;
            let sum = RowSum { rows: proof.rows, hash };
            Ok((proof.table(), (sum, proof.chunk_size, served.rows(proof)?)))
        };
        let proofs = served.facts.tables.iter().chain(&served.facts.large_objects);
        let rows = proofs.map(one).collect::<Result<_>>()?;
        Ok(Self { served, side, rows })
    }

    /// Returns the names of all chunks of rows.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &Id> {
        self.rows.values().flat_map(|(.., rows)| rows.ids())
    }

    /// Reads all rows, and compares them with the manifest.
    pub(super) fn read_all(&self, watch: &Watch) -> Result<()> {
        let served = &self.served;
        watch.phase(&format!("read {}", served.manifest.database), served.manifest.image.size);
        for proof in served.facts.tables.iter().chain(&served.facts.large_objects) {
            let sum = served.sum(proof, watch, &mut |_| Ok(()))?;
            if let Some(finding) = Served::difference(proof, sum) {
                return Err(Error::Damaged {
                    what: format!("snapshot {}", served.entry.id.short()),
                    finding,
                });
            }
        }
        Ok(())
    }

    /// Reads what its objects look like.
    pub(super) fn archive(&self) -> Result<Archive> {
        self.served.objects()
    }

    /// Returns a table.
    pub(super) fn half(&self, name: &Name) -> Option<Half<'_>> {
        let table = self.served.catalog.tables.iter().find(|table| table.name == *name)?.clone();
        let (sum, rows) = match self.rows.get(name) {
            Some((sum, _, rows)) => (*sum, Some(Rows::Snapshot(&self.served, Arc::clone(rows)))),
            None if table.kind == Kind::Ordinary => (RowSum::default(), None),
            None => (RowSum::default(), Some(Rows::Empty)),
        };
        Some(Half { table, sum, rows })
    }

    /// Returns a pseudo table of large objects. A database without any has an empty one.
    pub(super) fn large_objects(&self, table: &Table) -> Option<Half<'_>> {
        let (sum, rows) = match self.rows.get(&table.name) {
            Some((sum, _, rows)) => (*sum, Some(Rows::Snapshot(&self.served, Arc::clone(rows)))),
            None if self.lacks_large_objects() => (RowSum::default(), None),
            None => (RowSum::default(), Some(Rows::Empty)),
        };
        Some(Half { table: table.clone(), sum, rows })
    }

    /// Returns whether they were not asked for.
    fn lacks_large_objects(&self) -> bool {
        self.served.facts.not_covered.iter().any(|gap| gap.starts_with("large objects:"))
    }

    /// Returns what it has of a table that looks like this now.
    pub(super) fn known(&self, now: &Table) -> Known {
        let Some((_, chunk_size, rows)) = self.rows.get(&now.name) else { return Known::Nothing };
        let mut then = self.served.catalog.tables.iter().filter(|table| table.name == now.name);
        // Large objects are not in the catalog, and always look the same.
        let is_aligned = then.next().is_none_or(|then| columns::pair(then, now).is_aligned);
        match is_aligned {
            true => Known::Rows(Arc::clone(rows), *chunk_size),
            false => Known::Otherwise,
        }
    }
}

/// Adds the key of a pseudo table.
pub(super) fn keyed(table: Table, key: &[&str]) -> Table {
    let columns = key.iter().map(|name| (*name).to_owned()).collect();
    Table { key: Some(Key { columns, ..Key::default() }), ..table }
}

/// Which tables are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted(Option<BTreeSet<Name>>);

impl Wanted {
    /// Finds the tables that a person named; a partitioned one stands for its partitions.
    pub(super) fn choose(written: &[String], catalogs: &[&Catalog]) -> Result<Self> {
        let wanted = Self::named(written, catalogs)?;
        if let Self(Some(names)) = &wanted {
            let known: BTreeSet<&Name> = tables(catalogs).map(|table| &table.name).collect();
            if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
                return Err(no_table(unknown, &known));
            }
        }
        Ok(wanted.with_partitions(catalogs))
    }

    /// Does the same where only one side is known yet.
    pub(super) fn suppose(written: &[String], catalog: &Catalog) -> Self {
        // What is no name is told when both sides are known.
        Self::named(written, &[catalog]).unwrap_or(Self(Some(BTreeSet::new()))).with_partitions(&[catalog])
    }

    fn named(written: &[String], catalogs: &[&Catalog]) -> Result<Self> {
        if written.is_empty() {
            return Ok(Self(None));
        }
        let one = |text: &String| {
            let exact = tables(catalogs).find(|table| shown(&table.name) == *text);
            let name = exact.map(|table| table.name.clone()).or_else(|| table_name(text, DEFAULT_SCHEMA));
            name.ok_or_else(|| {
                Error::usage(format!("{text:?} is no name of a table"), "write it as `users` or `audit.log`")
            })
        };
        Ok(Self(Some(written.iter().map(one).collect::<Result<_>>()?)))
    }

    fn with_partitions(self, catalogs: &[&Catalog]) -> Self {
        Self(self.0.map(|names| with_partitions(catalogs, names)))
    }

    /// Returns whether everything is meant.
    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether a table is meant.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Returns the tables; none when all are meant.
    pub(super) fn tables(&self) -> Option<&BTreeSet<Name>> {
        self.0.as_ref()
    }

    /// Returns the names of all tables that are meant, in order.
    pub(super) fn names(&self, catalogs: &[&Catalog]) -> BTreeSet<Name> {
        tables(catalogs).map(|table| &table.name).filter(|name| self.has(name)).cloned().collect()
    }
}

fn tables<'c>(catalogs: &[&'c Catalog]) -> impl Iterator<Item = &'c Table> {
    catalogs.iter().flat_map(|catalog| &catalog.tables).collect::<Vec<_>>().into_iter()
}

fn no_table(unknown: &Name, known: &BTreeSet<&Name>) -> Error {
    let names: Vec<String> = known.iter().map(|name| shown(name)).collect();
    let unknown = shown(unknown);
    let hint = match nearest(&unknown, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there is {}", names.iter().take(20).cloned().collect::<Vec<_>>().join(", ")),
    };
    Error::Unsupported { what: format!("neither side has a table {unknown}"), hint: Some(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(tables: &[(&str, &str, Option<&str>)]) -> Catalog {
        let name = |schema: &str, name: &str| Name { schema: schema.to_owned(), name: name.to_owned() };
        let table = |(schema, table, parent): &(&str, &str, Option<&str>)| Table {
            name: name(schema, table),
            parents: parent.iter().map(|parent| name(schema, parent)).collect(),
            partition: parent.is_some(),
            ..Table::default()
        };
        Catalog { tables: tables.iter().map(table).collect(), ..Catalog::default() }
    }

    #[test]
    fn named_tables_are_found_with_their_partitions_on_either_side() {
        let left =
            catalog(&[("public", "events", None), ("public", "e1", Some("events")), ("a.b", "c d", None)]);
        let right =
            catalog(&[("public", "events", None), ("public", "e2", Some("events")), ("x", "new", None)]);
        let both = [&left, &right];
        let names = |written: &[&str]| -> Vec<String> {
            let written: Vec<String> = written.iter().map(|text| (*text).to_owned()).collect();
            Wanted::choose(&written, &both).unwrap().names(&both).iter().map(shown).collect()
        };
        assert_eq!(names(&["events"]), ["public.e1", "public.e2", "public.events"]);
        assert_eq!(names(&["\"a.b\".\"c d\"", "x.new"]), ["\"a.b\".\"c d\"", "x.new"]);
        assert_eq!(names(&[]).len(), 5);
        for (written, hint) in [("event", "did you mean public.events?"), ("a.b.c", "write it as")] {
            let error = Wanted::choose(&[written.to_owned()], &both).unwrap_err();
            assert!(error.hint().unwrap().contains(hint), "{error}: {:?}", error.hint());
        }
    }
}
