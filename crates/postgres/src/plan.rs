//! Which parts of which tables are read, in which order of rows, and which first.
//!
//! Pure: a catalog in, parts out. Parts of a table are disjoint and together all of it, whatever the statistics say that
//! they are cut by: a wrong guess makes parts of unequal size, never a row that is missing or there twice.

use crate::catalog::{Catalog, Table};
use crate::snapshot::{identifier, literal};

/// A table up to this size is read in one piece.
const PART: u64 = 64 << 20;
/// So many parts a table has at most: each costs a question and a lock.
const MOST: u64 = 64;
/// Rows that lie in the order of their key as well as this are read in that order: it costs little then, and the next
/// backup finds the rows that did not change beside each other again.
const IN_ORDER: f32 = 0.5;
/// A table so small is read in the order of its key however its rows lie: it fits the memory of any server.
const SMALL: u64 = 256 << 20;

/// A part of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The place of the table in the catalog.
    pub table: usize,
    /// Its number among the parts of the table; one after the other they are the table.
    pub number: usize,
    /// How many parts the table has.
    pub parts: usize,
    /// About how many bytes it has, to begin with the largest.
    pub bytes: u64,
    /// Which rows it has.
    pub range: Range,
}

/// Which rows a part has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of them.
    Whole,
    /// Those whose first key is in `from..to`; both as PostgreSQL writes them, absent for no limit.
    Keys {
        /// The first.
        from: Option<String>,
        /// The first that is no more in it.
        to: Option<String>,
    },
    /// Those in these pages; the last part is open, so that pages that came meanwhile are in it.
    Pages {
        /// The first page.
        from: u64,
        /// The first page that is no more in it.
        to: Option<u64>,
    },
}

/// Returns all parts of all tables with rows, the largest first. `bounds` are values of the first key of a table that
/// cut it into pieces of about equal size, in order; none where they are not known.
pub fn parts(catalog: &Catalog, bounds: impl Fn(&Table) -> Vec<String>) -> Vec<Part> {
    let tables = catalog.tables.iter().enumerate().filter(|(_, table)| table.has_rows());
    let mut parts: Vec<Part> = tables.flat_map(|(place, table)| parts_of(place, table, &bounds)).collect();
    parts.sort_by_key(|part| (std::cmp::Reverse(part.bytes), part.table, part.number));
    parts
}

fn parts_of(place: usize, table: &Table, bounds: impl Fn(&Table) -> Vec<String>) -> Vec<Part> {
    let wanted = table.bytes.div_ceil(PART).clamp(1, MOST);
    let ranges = match (wanted, reads_by_key(table)) {
        (1, _) => vec![Range::Whole],
        (_, true) => key_ranges(&bounds(table), wanted),
        (_, false) => page_ranges(table.pages, wanted),
    };
    let parts = ranges.len();
    let part =
        |(number, range)| Part { table: place, number, parts, bytes: table.bytes / parts as u64, range };
    ranges.into_iter().enumerate().map(part).collect()
}

/// Returns whether a table is read in the order of its key.
pub fn reads_by_key(table: &Table) -> bool {
    table.key.as_ref().is_some_and(|key| {
        table.bytes <= SMALL || key.correlation.is_some_and(|correlation| correlation.abs() >= IN_ORDER)
    })
}

fn key_ranges(bounds: &[String], wanted: u64) -> Vec<Range> {
    let inner = (1..wanted).filter_map(|number| {
        let place = bounds.len() as u64 * number / wanted;
        bounds.get(usize::try_from(place).ok()?)
    });
    let mut cuts: Vec<&String> = inner.collect();
    cuts.dedup();
    let from = std::iter::once(None).chain(cuts.iter().copied().map(Some));
    let to = cuts.iter().copied().map(Some).chain([None]);
    from.zip(to).map(|(from, to)| Range::Keys { from: from.cloned(), to: to.cloned() }).collect()
}

fn page_ranges(pages: u64, wanted: u64) -> Vec<Range> {
    let step = pages.div_ceil(wanted).max(1);
    let count = pages.div_ceil(step).max(1);
    let range =
        |number| Range::Pages { from: number * step, to: (number + 1 < count).then(|| (number + 1) * step) };
    (0..count).map(range).collect()
}

impl Part {
    /// Returns all rows of a table, in one part.
    pub(crate) fn of_all() -> Self {
        Self { table: 0, number: 0, parts: 1, bytes: 0, range: Range::Whole }
    }

    /// Returns the statement that reads it.
    pub fn statement(&self, table: &Table) -> String {
        let columns = table.stored_columns();
        let mut statement = format!("COPY (SELECT {columns} FROM ONLY {}", table.name.quoted());
        statement += &self.condition(table);
        if reads_by_key(table)
            && let Some(key) = &table.key
        {
            let columns: Vec<String> = key.columns.iter().map(|column| identifier(column)).collect();
            statement += &format!(" ORDER BY {}", columns.join(", "));
        }
        statement + ") TO STDOUT"
    }

    /// Returns which rows of the table these are, behind what names it; nothing for all.
    pub(crate) fn condition(&self, table: &Table) -> String {
        let first = table.key.as_ref().and_then(|key| key.columns.first());
        let type_name = table.columns.iter().find(|column| Some(&column.name) == first);
        let type_name = type_name.map_or("pg_catalog.text", |column| &column.type_name);
        let first = first.map(|column| identifier(column)).unwrap_or_default();
        let is =
            |comparison: &str, bound: &str| format!("{first} {comparison} {}::{type_name}", literal(bound));
        let mut conditions = match &self.range {
            Range::Whole => vec![],
            Range::Keys { from, to } => {
                let from = from.as_deref().map(|from| is(">=", from));
                from.into_iter().chain(to.as_deref().map(|to| is("<", to))).collect()
            }
            Range::Pages { from, to } => {
                let to = to.map(|to| format!("ctid < '({to},0)'::pg_catalog.tid"));
                [format!("ctid >= '({from},0)'::pg_catalog.tid")].into_iter().chain(to).collect()
            }
        };
        // An extension's own condition comes as `WHERE …`.
        let of_extension = table.extension.as_ref().map(|rows| rows.condition.trim()).unwrap_or_default();
        let of_extension = of_extension
            .get(..5)
            .filter(|word| word.eq_ignore_ascii_case("where"))
            .map(|_| &of_extension[5..]);
        conditions.extend(of_extension.map(|condition| format!("({condition})")));
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }
}
