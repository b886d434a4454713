//! One table: choosing how its rows are read, counting them, and listing the first that differ.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::inspect::quoted;
use crate::vfs::image_error;
use crate::{Error, Result};

use super::matching::{Change, Difference, Found, Locator, Matcher};
use super::pages::{PageSet, damaged};
use super::pair::{Key, Pair};
use super::prune::Pages;
use super::record::Value;
use super::rows::{self, Columns, Row, Rows, SqlRows};
use super::schema::{Object, Shape};
use super::tree::Tree;
use super::{ColumnDifference, Databases, LEFT, RIGHT, RowDifference, TableComparison, Way};

/// Compares one table. What is damaged becomes part of the answer.
pub(super) fn compare(
    databases: &Databases<'_>,
    table: [Option<&Object>; 2],
    pages: Option<Result<Pages>>,
) -> Result<TableComparison> {
    let name = table[RIGHT].or(table[LEFT]).map(|table| table.name.clone()).unwrap_or_default();
    let exists = table.map(|table| table.is_some());
    let mut comparison = TableComparison { name, exists, ..TableComparison::default() };
    let one = OneTable { databases, table };
    match one.fill(&mut comparison, pages) {
        Ok(()) => {}
        Err(error @ (Error::Source(_) | Error::Cancelled)) => return Err(error),
        Err(_) if (databases.options.cancelled)() => return Err(Error::Cancelled),
        Err(error) => {
            // What was counted so far means nothing.
            let TableComparison { name, way, .. } = comparison;
            let problem = Some(error.to_string());
            comparison = TableComparison { name, exists, way, problem, ..TableComparison::default() };
        }
    }
    tracing::debug!(
        table = comparison.name,
        way = ?comparison.way,
        added = comparison.added,
        removed = comparison.removed,
        changed = comparison.changed,
        problem = comparison.problem,
        "compared"
    );
    Ok(comparison)
}

/// A table that is being compared.
struct OneTable<'d> {
    databases: &'d Databases<'d>,
    table: [Option<&'d Object>; 2],
}

/// Reads the rows of both sides once.
type EachRow<'f> = dyn FnMut(&mut dyn Rows, &mut dyn Rows) -> Result<()> + 'f;

impl OneTable<'_> {
    fn fill(&self, comparison: &mut TableComparison, pages: Option<Result<Pages>>) -> Result<()> {
        let pages = pages.transpose()?;
        match self.table {
            [Some(left), Some(right)] => {
                let images = &self.databases.images;
                let is_same = images.are_equal() || pages.as_ref().is_some_and(|pages| pages.is_same);
                let encodings = [LEFT, RIGHT].map(|side| images.image(side).header.encoding);
                // The same bytes mean the same only where they are read in the same way.
                if !(is_same && left.sql == right.sql && encodings[LEFT] == encodings[RIGHT]) {
                    self.both(comparison, left, right, pages)?;
                }
                self.count(comparison)
            }
            [Some(table), None] => self.alone(comparison, LEFT, table),
            [None, Some(table)] => self.alone(comparison, RIGHT, table),
            [None, None] => Ok(()),
        }
    }

    fn both(
        &self,
        comparison: &mut TableComparison,
        left: &Object,
        right: &Object,
        pages: Option<Pages>,
    ) -> Result<()> {
        let shapes = [self.shape(LEFT, left)?, self.shape(RIGHT, right)?];
        let [left, right] = shapes;
        let encodings = [LEFT, RIGHT].map(|side| self.databases.images.image(side).header.encoding);
        let pair = Pair::new(left, right, encodings);
        comparison.columns = [pair.only(LEFT), pair.only(RIGHT)];
        comparison.renamed = pair.renamed();
        comparison.key = pair
            .key_places()
            .iter()
            .map(|place| pair.column(pair.common[*place], RIGHT).name.clone())
            .collect();
        let shared = pages.map(|pages| pages.shared).unwrap_or_default();
        let way = self.way(&pair);
        match self.rows(comparison, &pair, &shared, way) {
            // Only SQLite knows what a column holds in a row that is older than the column.
            Err(Error::Table { message, .. }) if self.databases.options.force.is_none() => {
                tracing::debug!(table = comparison.name, message, "compared through SQLite instead");
                self.rows(comparison, &pair, &shared, Way::Sql)
            }
            done => done,
        }
    }

    /// Chooses how the rows are read.
    fn way(&self, pair: &Pair) -> Way {
        match self.databases.options.force {
            Some(way) => way,
            None if !pair.is_alike => Way::Sql,
            None if self.databases.images.are_related() => Way::ChangedPages,
            None => Way::AllPages,
        }
    }

    fn rows(&self, comparison: &mut TableComparison, pair: &Pair, shared: &PageSet, way: Way) -> Result<()> {
        comparison.way = Some(way);
        let [left, right] = &pair.shapes;
        let encoding = |side: usize| match way {
            Way::Sql => pair.encoding,
            _ => self.databases.images.image(side).header.encoding,
        };
        let columns = [Columns::new(left, encoding(LEFT)), Columns::new(right, encoding(RIGHT))];
        let matcher = Matcher {
            pair,
            columns: [&columns[LEFT], &columns[RIGHT]],
            cancelled: self.databases.options.cancelled,
        };
        let options = self.databases.options;
        let mut found = Found::new(options.list);
        self.each(pair, shared, way, &mut |left, right| {
            matcher.run(left, right, &mut found, options.memory)
        })?;
        (comparison.added, comparison.removed, comparison.changed) =
            (found.added, found.removed, found.changed);
        let listed = found.listed();
        if !listed.is_empty() {
            let mut details = Details::new(&matcher, &listed);
            self.each(pair, shared, way, &mut |left, right| {
                details.gather(LEFT, left)?;
                details.gather(RIGHT, right)
            })?;
            comparison.listed = details.finish(&listed)?;
        }
        Ok(())
    }

    /// Calls `act` with the rows of both sides, in the way that was chosen.
    fn each(&self, pair: &Pair, shared: &PageSet, way: Way, act: &mut EachRow<'_>) -> Result<()> {
        if way == Way::Sql {
            let [one, other] = self.databases.connections;
            let [left, right] = &pair.shapes;
            let mut one_statement = rows::prepare(one, left, pair.encoding)?;
            let mut other_statement = rows::prepare(other, right, pair.encoding)?;
            let mut left = SqlRows::new(one, &mut one_statement, left, pair.encoding);
            let mut right = SqlRows::new(other, &mut other_statement, right, pair.encoding);
            return act(&mut left, &mut right);
        }
        let nothing = PageSet::default();
        let skipped = if way == Way::ChangedPages { shared } else { &nothing };
        let tree = |side: usize| self.tree(side, &pair.shapes[side]);
        act(&mut tree(LEFT)?.rows(skipped), &mut tree(RIGHT)?.rows(skipped))
    }

    fn tree(&self, side: usize, shape: &Shape) -> Result<Tree<'_>> {
        let root = self.table[side].map_or(0, |table| table.root);
        let tree = Tree::open(&self.databases.images, side, root)?;
        if tree.is_table() == shape.without_rowid {
            return Err(damaged(format!("page {root} is not of the kind that its table is")));
        }
        Ok(tree)
    }

    fn shape(&self, side: usize, table: &Object) -> Result<Shape> {
        Shape::read(&self.databases.connections[side], &table.name)
    }

    /// Finds out how many rows there are. Where it is known of both sides, the differences have to add up.
    fn count(&self, comparison: &mut TableComparison) -> Result<()> {
        let known = |side: usize| {
            let table = self.table[side]?;
            self.databases.known[side]?.get(&table.name).copied()
        };
        let (added, removed) = (comparison.added, comparison.removed);
        let from_left = |left: u64| left.checked_sub(removed).and_then(|rest| rest.checked_add(added));
        let from_right = |right: u64| right.checked_sub(added).and_then(|rest| rest.checked_add(removed));
        let odd = || damaged("the rows that differ do not add up to the rows that were counted");
        comparison.rows = match (known(LEFT), known(RIGHT)) {
            (Some(left), Some(right)) if from_left(left) == Some(right) => [left, right],
            (Some(_), Some(_)) => return Err(odd()),
            (None, Some(right)) => [from_right(right).ok_or_else(odd)?, right],
            (left, None) => {
                let left = left.map_or_else(|| self.ask(LEFT), Ok)?;
                [left, from_left(left).ok_or_else(odd)?]
            }
        };
        Ok(())
    }

    /// Lets SQLite count.
    fn ask(&self, side: usize) -> Result<u64> {
        let name = self.table[side].map(|table| quoted(&table.name)).unwrap_or_default();
        let connection: &Connection = &self.databases.connections[side];
        let rows =
            connection.query_row(&format!("SELECT count(*) FROM main.{name} NOT INDEXED"), [], |row| {
                row.get::<_, i64>(0)
            });
        rows.map(i64::unsigned_abs).map_err(|error| image_error(Some(connection), error))
    }

    /// Tells of a table that only one side has.
    fn alone(&self, comparison: &mut TableComparison, side: usize, table: &Object) -> Result<()> {
        let shape = self.shape(side, table)?;
        let known = self.databases.known[side].and_then(|known| known.get(&table.name)).copied();
        let rows = known.map_or_else(|| self.ask(side), Ok)?;
        comparison.rows[side] = rows;
        let differing = if side == LEFT { &mut comparison.removed } else { &mut comparison.added };
        *differing = rows;
        let encoding = self.databases.images.image(side).header.encoding;
        let pair = Pair::new(shape.clone(), shape, [encoding; 2]);
        comparison.key = pair
            .key_places()
            .iter()
            .map(|place| pair.column(pair.common[*place], side).name.clone())
            .collect();
        if self.databases.options.list > 0 {
            let columns = Columns::new(&pair.shapes[side], encoding);
            let nothing = PageSet::default();
            let mut rows = self.tree(side, &pair.shapes[side])?.rows(&nothing);
            comparison.listed = self.first_rows(&pair, side, &columns, &mut rows)?;
        }
        Ok(())
    }

    fn first_rows(
        &self,
        pair: &Pair,
        side: usize,
        columns: &Columns<'_>,
        rows: &mut dyn Rows,
    ) -> Result<Vec<RowDifference>> {
        let mut first = Vec::new();
        while first.len() < self.databases.options.list
            && let Some(row) = rows.next()?
        {
            let change = if side == LEFT { Change::Removed } else { Change::Added };
            let mut found = [None, None];
            found[side] = Some(Detail { rowid: row.rowid, values: columns.values(&row)? });
            first.push(described(pair, change, &found));
        }
        Ok(first)
    }
}

/// What a listed row holds.
struct Detail {
    rowid: Option<i64>,
    values: Vec<Value>,
}

/// Gathers what listed rows hold, in a second reading.
struct Details<'m> {
    matcher: &'m Matcher<'m>,
    /// Which of the listed differences want a row, by where it is.
    wanted: [HashMap<Locator, Vec<usize>>; 2],
    found: Vec<[Option<Detail>; 2]>,
}

impl<'m> Details<'m> {
    fn new(matcher: &'m Matcher<'m>, listed: &[Difference]) -> Self {
        let mut wanted: [HashMap<Locator, Vec<usize>>; 2] = Default::default();
        for (place, difference) in listed.iter().enumerate().rev() {
            for (wanted, row) in wanted.iter_mut().zip(&difference.rows) {
                if let Some(row) = row {
                    wanted.entry(row.clone()).or_default().push(place);
                }
            }
        }
        let found = listed.iter().map(|_| [None, None]).collect();
        Self { matcher, wanted, found }
    }

    fn gather(&mut self, side: usize, rows: &mut dyn Rows) -> Result<()> {
        for count in 0u64.. {
            self.matcher.stop_if_cancelled(count)?;
            let Some(row) = (if self.wanted[side].is_empty() { None } else { rows.next()? }) else { break };
            self.take(side, &row)?;
        }
        Ok(())
    }

    fn take(&mut self, side: usize, row: &Row) -> Result<()> {
        let locator = self.matcher.locate(side, row)?;
        let Some(places) = self.wanted[side].get_mut(&locator) else { return Ok(()) };
        if let Some(place) = places.pop() {
            let values = self.matcher.columns[side].values(row)?;
            self.found[place][side] = Some(Detail { rowid: row.rowid, values });
        }
        if self.wanted[side].get(&locator).is_some_and(Vec::is_empty) {
            self.wanted[side].remove(&locator);
        }
        Ok(())
    }

    fn finish(self, listed: &[Difference]) -> Result<Vec<RowDifference>> {
        if self.wanted.iter().any(|wanted| !wanted.is_empty()) {
            return Err(damaged("a row that differs is not found again"));
        }
        let pair = self.matcher.pair;
        Ok(listed.iter().zip(self.found).map(|(one, found)| described(pair, one.change, &found)).collect())
    }
}

/// Tells what differs in a row.
fn described(pair: &Pair, change: Change, found: &[Option<Detail>; 2]) -> RowDifference {
    let side = if change == Change::Added { RIGHT } else { LEFT };
    let value = |side: usize, at: [usize; 2]| found[side].as_ref()?.values.get(at[side]);
    // What is no valid text in UTF-16 is told with other characters in its place, and compared before.
    let told = |value: &Value| value.clone().into_utf8(pair.encoding);
    let name = |at: [usize; 2]| pair.column(at, RIGHT).name.clone();
    let places = pair.key_places();
    let of_key = places.iter().map(|place| pair.common[*place]);
    let mut key: Vec<(String, Value)> =
        of_key.filter_map(|at| Some((name(at), told(value(side, at)?)))).collect();
    // NULL in a key tells no row apart.
    let is_key = pair.key != Key::None && key.iter().all(|(_, value)| *value != Value::Null);
    let rowid = found[side].as_ref().and_then(|found| found.rowid);
    if let Some(rowid) = rowid.filter(|_| !is_key && pair.has_rowids() && pair.has_no_column("rowid")) {
        key.push(("rowid".to_owned(), Value::Integer(rowid)));
    }
    let mut columns = Vec::new();
    for (place, at) in pair.common.iter().enumerate() {
        let [left, right] = [value(LEFT, *at), value(RIGHT, *at)];
        let differs = match (left, right) {
            (Some(left), Some(right)) => !left.is_same(right),
            _ => !places.contains(&place),
        };
        if differs {
            columns.push(ColumnDifference { name: name(*at), left: left.map(told), right: right.map(told) });
        }
    }
    RowDifference { change, key, columns }
}
