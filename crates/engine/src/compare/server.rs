//! What differs between two moments of a PostgreSQL database (`docs/design/compare.md`).
//!
//! Tables whose rows have the same count and hash are not read. Of the others, stretches of rows that both sides have are
//! not read either; what is left is paired by keys. In the end what was read has to account for the difference of the
//! sums: so a mistake about what is the same is found, and never told as a result.

mod columns;
mod listing;
mod live;
mod matching;
mod record;
mod schema;
mod side;
mod stretches;
mod table;

use std::collections::BTreeMap;

use dbkeep_postgres::catalog::{Catalog, Kind, Name, Sequence, Table};
use dbkeep_postgres::large_objects;

use self::live::{Live, Wish};
use self::side::{Half, Opened, Rows, Wanted};
use super::Run;
use crate::catalog::Entry;
use crate::manifest::Identity;
use crate::report::{
    CompareReport, ComparedSequence, ComparedSide, ComparedTable, SchemaReport, SequenceValue,
};
use crate::served::{self, shown};
use crate::{Error, Result, name, show};

/// What to do where the live database cannot be found.
const COMPARE_TWO: &str = "compare two snapshots, or configure the database";

impl Run<'_> {
    /// Compares two snapshots.
    pub(super) fn served(&self, left: &Entry, right: &Entry) -> Result<CompareReport> {
        let (left, right) = (self.open_served(left)?, self.open_served(right)?);
        let catalogs = [&left.served.catalog, &right.served.catalog];
        let wanted = Wanted::choose(&self.request.tables, &catalogs)?;
        let mut schema = SchemaReport::default();
        if wanted.is_all() {
            schema::properties(&left.served.facts.server, &right.served.facts.server, &mut schema);
        }
        if left.served.facts.objects != right.served.facts.objects {
            schema::objects(&left.archive()?, &right.archive()?, wanted.tables(), &mut schema);
        }
        let mut found = Found::new(schema);
        found.sequences = sequences(&catalogs, &wanted);
        self.watch.phase("compare", 0);
        for name in wanted.names(&catalogs) {
            found.add(self, &name, left.half(&name).as_ref(), right.half(&name).as_ref())?;
        }
        for table in self.large_objects(&wanted) {
            let (left, right) = (left.large_objects(&table), right.large_objects(&table));
            found.add(self, &table.name, left.as_ref(), right.as_ref())?;
        }
        found.versions(&left.served.facts.server.version, &right.served.facts.server.version);
        Ok(found.report(left.side, right.side))
    }

    /// Compares a snapshot with the database as it is now.
    pub(super) fn served_live(&self, entry: &Entry) -> Result<CompareReport> {
        let left = self.open_served(entry)?;
        let context = self.store.context();
        let original = served::original(context, &left.served.manifest, COMPARE_TWO)?;
        let before = Wanted::suppose(&self.request.tables, &left.served.catalog);
        let unwanted = left.served.catalog.with_rows().filter(|table| !before.has(&table.name));
        let wish = Wish {
            server: &original.server,
            path: context.environment.variable("PATH"),
            without: unwanted.map(|table| table.name.clone()).collect(),
            large_objects: before.is_all(),
            new_rows: self.request.rows.is_some(),
            known: &|table| left.known(table),
            directory: self.store.state().directory(),
            watch: self.watch,
        };
        let check = |found: &Identity| self.refuse_other_server(&left.served.manifest.identity, found);
        let live = Live::read(&wish, &check)?;
        let catalogs = [&left.served.catalog, &live.catalog];
        let wanted = Wanted::choose(&self.request.tables, &catalogs)?;
        let mut schema = SchemaReport::default();
        if wanted.is_all() {
            schema::properties(&left.served.facts.server, &live.facts, &mut schema);
        }
        schema::objects(&left.archive()?, &live.archive, wanted.tables(), &mut schema);
        let mut found = Found::new(schema);
        found.sequences = sequences(&catalogs, &wanted);
        self.watch.phase("compare", 0);
        for name in wanted.names(&catalogs) {
            found.add(self, &name, left.half(&name).as_ref(), live_half(&live, &name).as_ref())?;
        }
        for (number, table) in self.large_objects(&wanted).into_iter().enumerate() {
            let place = live.catalog.tables.len() + number;
            let rows = match live.catalog.large_objects {
                0 => live.has_large_objects.then_some(Rows::Empty),
                _ => Some(Rows::Live(&live, place)),
            };
            let right = Some(Half { table: table.clone(), sum: live.sum(place), rows });
            found.add(self, &table.name, left.large_objects(&table).as_ref(), right.as_ref())?;
        }
        found.versions(&left.served.facts.server.version, &live.facts.version);
        let side = ComparedSide {
            snapshot: None,
            database: left.served.manifest.database.clone(),
            source: name::printable(&original.shown),
            moment: self.now,
        };
        Ok(found.report(left.side, side))
    }

    /// Returns the pseudo tables of large objects, unless only some tables are meant.
    fn large_objects(&self, wanted: &Wanted) -> Vec<Table> {
        let keys =
            [(large_objects::contents(), vec!["oid", "start"]), (large_objects::owners(), vec!["oid"])];
        let keyed = keys.into_iter().map(|(table, key)| side::keyed(table, &key));
        keyed.filter(|_| wanted.is_all()).collect()
    }

    /// Opens a snapshot, and makes sure that what it needs is there.
    fn open_served<'s>(&'s self, entry: &'s Entry) -> Result<Opened<'s>> {
        let manifest = show::manifest(self.reader, entry)?;
        let side = ComparedSide {
            snapshot: Some(entry.id),
            database: manifest.database.clone(),
            source: manifest.source.clone(),
            moment: manifest.moment,
        };
        let opened = Opened::open(self.reader, entry, manifest, side)?;
        self.refuse_missing_packs(entry, opened.chunks())?;
        if !entry.history.damage.is_empty() {
            // Most of it would not be read, so that the damage would not be met.
            opened.read_all(self.watch)?;
        }
        Ok(opened)
    }

    /// Refuses a server that has not the database of the snapshot.
    fn refuse_other_server(&self, known: &Identity, found: &Identity) -> Result<()> {
        if self.request.force || known.is_same(found) {
            return Ok(());
        }
        Err(Error::Refused {
            what: format!("{found} is another database than that of the snapshot, {known}"),
            hint: Some("compare two snapshots of one database, or add --force if this is meant".to_owned()),
        })
    }
}

/// Returns a table of the live database.
fn live_half<'l>(live: &'l Live, name: &Name) -> Option<Half<'l>> {
    let place = live.catalog.tables.iter().position(|table| table.name == *name)?;
    let table = live.catalog.tables[place].clone();
    let rows = match table.kind {
        Kind::Ordinary if table.left_out => None,
        Kind::Ordinary => Some(Rows::Live(live, place)),
        _ => Some(Rows::Empty),
    };
    Some(Half { table, sum: live.sum(place), rows })
}

/// Returns the sequences that both sides have and that stand elsewhere, of the tables that are meant. Of one that may not
/// be read, or that only one side has, nothing is known here; the schema tells the latter.
fn sequences(catalogs: &[&Catalog; 2], wanted: &Wanted) -> Vec<ComparedSequence> {
    let [left, right] = catalogs.map(|catalog| {
        let meant = |one: &&Sequence| {
            one.readable && (wanted.is_all() || one.owned_by.as_ref().is_some_and(|table| wanted.has(table)))
        };
        let all = catalog.sequences.iter().filter(meant);
        all.map(|one| (&one.name, one)).collect::<BTreeMap<&Name, &Sequence>>()
    });
    let value = |one: &Sequence| SequenceValue { last_value: one.last_value, is_called: one.is_called };
    let differs = |(name, one): (&&Name, &&Sequence)| {
        let (left, right) = (value(one), value(right.get(name)?));
        (left != right).then(|| ComparedSequence { name: shown(name), left, right })
    };
    left.iter().filter_map(differs).collect()
}

/// What was found so far.
struct Found {
    schema: SchemaReport,
    tables: Vec<ComparedTable>,
    sequences: Vec<ComparedSequence>,
    notes: Vec<String>,
}

impl Found {
    fn new(schema: SchemaReport) -> Self {
        Self { schema, tables: Vec::new(), sequences: Vec::new(), notes: Vec::new() }
    }

    /// Compares a table, unless neither side has rows of it.
    fn add(
        &mut self,
        run: &Run<'_>,
        name: &Name,
        left: Option<&Half<'_>>,
        right: Option<&Half<'_>>,
    ) -> Result<()> {
        let has_rows = |half: Option<&Half<'_>>| half.is_some_and(Half::may_have_rows);
        if !has_rows(left) && !has_rows(right) {
            return Ok(());
        }
        let is_left_out = |half: Option<&Half<'_>>| half.is_none_or(|half| half.rows.is_none());
        let is_empty =
            |half: Option<&Half<'_>>| half.is_none_or(|half| half.rows.is_none() || half.is_empty());
        if (is_left_out(left) && is_empty(right)) || (is_empty(left) && is_left_out(right)) {
            let table = name::printable(&shown(name));
            self.notes.push(format!("the rows of {table} are left out and not compared"));
            return Ok(());
        }
        self.tables.push(table::compare(run, name, left, right)?);
        Ok(())
    }

    fn versions(&mut self, left: &str, right: &str) {
        if left != right {
            self.notes.push(format!("the servers are of versions {left} and {right}"));
        }
    }

    fn report(self, left: ComparedSide, right: ComparedSide) -> CompareReport {
        let Self { schema, tables, sequences, notes } = self;
        let same = schema == SchemaReport::default()
            && tables.iter().all(ComparedTable::is_same)
            && sequences.is_empty();
        CompareReport { same, left, right, schema, tables, sequences, notes }
    }
}
