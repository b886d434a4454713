//! Which parts of which tables are read, in which order of rows, and which first.
//!
//! Pure: a catalog in, parts out. Parts of a table are disjoint and together all of it, whatever the statistics say that
//! they are cut by: a wrong guess makes parts of unequal size, never a row that is missing or there twice. Keys cut only
//! where the server itself compares them, in the same way for all times; and rows without a key have a part of their
//! own, also where the catalog says that there are none.

use std::cmp::Reverse;

use crate::catalog::{Catalog, Column, Table};
use crate::snapshot::{identifier, literal};

/// A table up to this size is read in one piece.
pub(crate) const PART: u64 = 64 << 20;
/// So many parts a table has at most: each costs a question and a lock.
const MOST: u64 = 64;
/// Rows that lie in the order of their key as well as this are read in that order: it costs little then, and the next
/// backup finds the rows that did not change beside each other again.
const IN_ORDER: f32 = 0.5;
/// A table so small is read in the order of its key however its rows lie: it fits the memory of any server.
const SMALL: u64 = 256 << 20;
/// From this version on a range of pages is read without reading all others.
pub(crate) const READS_RANGES: u32 = 140_000;

/// Types by whose values a table may be cut, by their numbers and names. They are the server's own: all of them have
/// their operators where each session finds them, and no library or extension has a say in their order, but for text.
const CUTTING: [(u32, &str); 24] = [
    (17, "bytea"),
    (20, "int8"),
    (21, "int2"),
    (23, "int4"),
    (25, "text"),
    (26, "oid"),
    (650, "cidr"),
    (700, "float4"),
    (701, "float8"),
    (774, "macaddr8"),
    (829, "macaddr"),
    (869, "inet"),
    (1042, "bpchar"),
    (1043, "varchar"),
    (1082, "date"),
    (1083, "time"),
    (1114, "timestamp"),
    (1184, "timestamptz"),
    (1186, "interval"),
    (1266, "timetz"),
    (1560, "bit"),
    (1562, "varbit"),
    (1700, "numeric"),
    (2950, "uuid"),
];
/// Those of them that have collations.
const TEXT: [&str; 3] = ["text", "bpchar", "varchar"];

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
    /// Those whose first key is in `from..to`; both as PostgreSQL writes them, absent for no limit. Rows whose first key
    /// is NULL are in no such range.
    Keys {
        /// The first.
        from: Option<String>,
        /// The first that is no more in it.
        to: Option<String>,
    },
    /// Those whose first key is NULL.
    WithoutKey,
    /// Those in these pages; the last part is open, so that pages that came meanwhile are in it.
    Pages {
        /// The first page.
        from: u64,
        /// The first page that is no more in it.
        to: Option<u64>,
    },
}

/// What cuts a table by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut<'t> {
    /// The first column of the key.
    pub(crate) column: &'t Column,
    /// Its type behind all domains, which is one of the server's own.
    pub(crate) type_name: &'static str,
    /// Whether it has a collation. Then it cuts only if that compares bytes: others change with the system's libraries,
    /// while the index stays in the order of before and hides rows from whoever asks for a range.
    pub(crate) is_text: bool,
}

/// Returns all parts of all tables with rows, the largest first. `bounds` are values of the first key of a table that
/// cut it into pieces of about equal size, in order by how the server compares them now; none where they are not known,
/// or it is not to be cut by them. `by_pages` says whether the server can read a range of pages.
pub fn parts(catalog: &Catalog, by_pages: bool, bounds: impl Fn(&Table) -> Vec<String>) -> Vec<Part> {
    let tables = catalog.tables.iter().enumerate().filter(|(_, table)| table.has_rows());
    let of_table = |(place, table)| {
        let ranges = match wanted(table) {
            1 => vec![Range::Whole],
            wanted => ranges(table, wanted, by_pages, &bounds),
        };
        numbered(place, table, ranges)
    };
    let parts = tables.flat_map(of_table).collect();
    largest_first(parts)
}

/// Returns all tables with rows, each whole, the largest first, for readers who want rows in no order.
pub(crate) fn whole_tables(catalog: &Catalog) -> Vec<Part> {
    let tables = catalog.tables.iter().enumerate().filter(|(_, table)| table.has_rows());
    largest_first(tables.flat_map(|(place, table)| numbered(place, table, vec![Range::Whole])).collect())
}

/// Cuts a whole table into ranges of pages where it is more than one of `jobs` readers should have of what is `left`: the
/// bytes that nobody has begun to read, with this one. Returns it as it is where that is not so: the server reads a whole
/// table through a few pages of its memory; a range of pages takes a quarter longer, and drives out what is in there.
pub(crate) fn shared_out(part: Part, table: &Table, left: u64, jobs: usize) -> Vec<Part> {
    let is_too_much = part.bytes.saturating_mul(jobs as u64) > left;
    if part.range == Range::Whole && is_too_much {
        let ranges = page_ranges(table.pages, wanted(table));
        if ranges.len() > 1 {
            return numbered(part.table, table, ranges);
        }
    }
    vec![part]
}

fn largest_first(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|part| (Reverse(part.bytes), part.table, part.number));
    parts
}

fn numbered(place: usize, table: &Table, ranges: Vec<Range>) -> Vec<Part> {
    let parts = ranges.len();
    let part =
        |(number, range)| Part { table: place, number, parts, bytes: table.bytes / parts as u64, range };
    ranges.into_iter().enumerate().map(part).collect()
}

/// Returns into how many parts a table would best be cut.
fn wanted(table: &Table) -> u64 {
    table.bytes.div_ceil(PART).clamp(1, MOST)
}

fn ranges(table: &Table, wanted: u64, by_pages: bool, bounds: impl Fn(&Table) -> Vec<String>) -> Vec<Range> {
    let cuts = if cut(table).is_some() { cuts(&bounds(table), wanted) } else { Vec::new() };
    match (cuts.is_empty(), reads_by_key(table) && table.bytes <= SMALL) {
        (false, _) => key_ranges(&cuts),
        (true, false) if by_pages => page_ranges(table.pages, wanted),
        (true, _) => vec![Range::Whole],
    }
}

/// Returns whether a table is read in the order of its key, unless it is read by pages.
fn reads_by_key(table: &Table) -> bool {
    table.key.as_ref().is_some_and(|key| {
        !key.sorted_otherwise
            && (table.bytes <= SMALL
                || key.correlation.is_some_and(|correlation| correlation.abs() >= IN_ORDER))
    })
}

/// Returns what may cut a table by its key, where it is large enough for that.
pub(crate) fn cut(table: &Table) -> Option<Cut<'_>> {
    if wanted(table) == 1 || !reads_by_key(table) {
        return None;
    }
    first_key(table)
}

fn first_key(table: &Table) -> Option<Cut<'_>> {
    let first = table.key.as_ref()?.columns.first()?;
    let column = table.columns.iter().find(|column| column.name == *first)?;
    let (_, type_name) = CUTTING.into_iter().find(|(oid, _)| *oid == column.type_oid)?;
    Some(Cut { column, type_name, is_text: TEXT.contains(&type_name) })
}

/// Chooses some of many bounds.
fn cuts(bounds: &[String], wanted: u64) -> Vec<String> {
    let chosen = (1..wanted).filter_map(|number| {
        let place = bounds.len() as u64 * number / wanted;
        bounds.get(usize::try_from(place).ok()?)
    });
    let mut cuts: Vec<String> = chosen.cloned().collect();
    cuts.dedup();
    cuts
}

fn key_ranges(cuts: &[String]) -> Vec<Range> {
    let from = std::iter::once(None).chain(cuts.iter().map(Some));
    let to = cuts.iter().map(Some).chain([None]);
    let ranges = from.zip(to).map(|(from, to)| Range::Keys { from: from.cloned(), to: to.cloned() });
    // At the end, as in the order of an index.
    ranges.chain([Range::WithoutKey]).collect()
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
        let condition = self.condition(table);
        // Of that table alone too, and somewhat faster than a query. Without a list the columns would be those of now.
        if condition.is_empty() && !columns.is_empty() && !self.is_in_order(table) {
            return format!("COPY {} ({columns}) TO STDOUT", table.name.quoted());
        }
        let mut statement = format!("COPY (SELECT {columns} FROM ONLY {}", table.name.quoted());
        statement += &condition;
        if self.is_in_order(table)
            && let Some(key) = &table.key
        {
            let columns: Vec<String> = key.columns.iter().map(|column| identifier(column)).collect();
            statement += &format!(" ORDER BY {}", columns.join(", "));
        }
        statement + ") TO STDOUT"
    }

    /// Returns whether it is read in the order of the key of its table, which an index of that has.
    pub(crate) fn is_in_order(&self, table: &Table) -> bool {
        match self.range {
            Range::Whole => reads_by_key(table),
            Range::Keys { .. } | Range::WithoutKey => true,
            Range::Pages { .. } => false,
        }
    }

    /// Returns which rows of the table these are, behind what names it; nothing for all.
    pub(crate) fn condition(&self, table: &Table) -> String {
        let type_name = first_key(table).map_or("text", |cut| cut.type_name);
        let first = table.key.as_ref().and_then(|key| key.columns.first());
        let first = first.map(|column| identifier(column)).unwrap_or_default();
        // Not of the type of the column: a domain may refuse what is in the table since before it was stricter.
        let is = |comparison: &str, bound: &str| {
            format!("{first} {comparison} {}::pg_catalog.{type_name}", literal(bound))
        };
        let mut conditions = match &self.range {
            Range::Whole => vec![],
            Range::Keys { from, to } => {
                let from = from.as_deref().map(|from| is(">=", from));
                from.into_iter().chain(to.as_deref().map(|to| is("<", to))).collect()
            }
            Range::WithoutKey => vec![format!("{first} IS NULL")],
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ExtensionRows, Key, Name};

    /// A table of so many bytes with a key of numbers, lying as well in its order as is said.
    fn table(bytes: u64, correlation: f32) -> Table {
        let column = Column { name: "id".to_owned(), type_oid: 23, ..Column::default() };
        let columns = vec![column.name.clone()];
        Table {
            name: Name { schema: "s".to_owned(), name: "t".to_owned() },
            bytes,
            pages: bytes / 8192,
            columns: vec![column],
            key: Some(Key { columns, correlation: Some(correlation), ..Key::default() }),
            ..Table::default()
        }
    }

    fn statements(table: Table, by_pages: bool, bounds: &[&str]) -> Vec<String> {
        let catalog = Catalog { tables: vec![table], ..Catalog::default() };
        let bounds = |_: &Table| bounds.iter().map(|bound| (*bound).to_owned()).collect();
        let found = parts(&catalog, by_pages, bounds);
        assert!(
            found.iter().enumerate().all(|(number, part)| part.number == number && part.parts == found.len())
        );
        let shortened = |part: &Part| {
            let statement = part.statement(&catalog.tables[0]);
            let statement = statement.replace("COPY \"s\".\"t\" (\"id\")", "whole");
            statement
                .replace("COPY (SELECT \"id\" FROM ONLY \"s\".\"t\"", "")
                .replace(") TO STDOUT", "")
                .replace(" TO STDOUT", "")
        };
        found.iter().map(shortened).collect()
    }

    #[test]
    fn parts_by_key_are_all_that_may_be_there() {
        let bounds = ["1", "5", "5", "9"];
        let found = statements(table(PART * 3, 1.0), true, &bounds);
        let expected = [
            r#" WHERE "id" < '5'::pg_catalog.int4 ORDER BY "id""#,
            r#" WHERE "id" >= '5'::pg_catalog.int4 ORDER BY "id""#,
            r#" WHERE "id" IS NULL ORDER BY "id""#,
        ];
        assert_eq!(found, expected);
        assert_eq!(statements(table(PART * 3, 0.0), true, &bounds), expected, "a small one in any order");
        assert_eq!(statements(table(PART, 1.0), true, &bounds), [" ORDER BY \"id\""]);
        assert_eq!(
            statements(table(PART * 3, 1.0), true, &[]),
            [" ORDER BY \"id\""],
            "a small one without bounds"
        );
    }

    #[test]
    fn server_that_reads_all_pages_for_a_few_is_asked_once() {
        assert_eq!(statements(table(PART * 9, 0.3), false, &["1", "5", "9"]), ["whole"]);
        assert_eq!(statements(table(PART * 9, 1.0), false, &[]), [" ORDER BY \"id\""]);
        assert_eq!(statements(table(PART * 9, 1.0), false, &["1", "5", "9"]).len(), 5, "an index finds them");
    }

    #[test]
    fn table_that_lies_in_another_order_is_read_by_pages() {
        let found = statements(table(PART * 5, 0.3), true, &["1", "5", "9"]);
        assert_eq!(found.len(), 5);
        assert_eq!(found[0], " WHERE ctid >= '(0,0)'::pg_catalog.tid AND ctid < '(8192,0)'::pg_catalog.tid");
        assert_eq!(found[4], " WHERE ctid >= '(32768,0)'::pg_catalog.tid");
        let mut sorted = table(PART * 2, 1.0);
        sorted.key.as_mut().unwrap().sorted_otherwise = true;
        assert_eq!(statements(sorted, true, &["1", "5", "9"]).len(), 2);
        let mut unknown = table(PART * 5, 1.0);
        unknown.columns[0].type_oid = 16_385;
        assert!(statements(unknown, true, &["1", "5", "9"])[4].contains("ctid"), "a type of an extension");
    }

    #[test]
    fn whole_table_is_cut_where_a_reader_would_be_at_it_alone() {
        let tables = [5, 7, 1].map(|parts| Table { key: None, ..table(PART * parts, 0.0) });
        let catalog = Catalog { tables: tables.to_vec(), ..Catalog::default() };
        let parts = whole_tables(&catalog);
        let shown: Vec<(usize, &Range)> = parts.iter().map(|part| (part.table, &part.range)).collect();
        assert_eq!(shown, [(1, &Range::Whole), (0, &Range::Whole), (2, &Range::Whole)], "the largest first");
        let count = |part: usize, left: u64, jobs: usize| {
            let part = parts[part].clone();
            let bytes = part.bytes;
            let table = &tables[part.table];
            let found = shared_out(part, table, left * PART, jobs);
            let pages: Vec<&Range> =
                found.iter().map(|part| &part.range).filter(|range| **range != Range::Whole).collect();
            assert!(pages.is_empty() || pages.len() == found.len());
            assert!(found.iter().map(|part| part.bytes).sum::<u64>() <= bytes);
            found.len()
        };
        assert_eq!(count(0, 13, 2), 7);
        assert_eq!(count(0, 14, 2), 1, "as much as the other one has");
        assert_eq!((count(1, 10, 2), count(1, 9, 2)), (1, 5));
        assert_eq!(count(0, 7, 1), 1, "nobody else");
        assert_eq!(count(2, 1, 4), 1, "too small to be cut");
    }

    #[test]
    fn table_that_is_read_as_it_lies_is_copied_without_a_query() {
        let whole = Part::of_all();
        let mut table = Table { key: None, ..table(1, 0.0) };
        assert_eq!(whole.statement(&table), r#"COPY "s"."t" ("id") TO STDOUT"#);
        table.extension =
            Some(ExtensionRows { condition: "WHERE id > 1".to_owned(), ..ExtensionRows::default() });
        assert_eq!(
            whole.statement(&table),
            r#"COPY (SELECT "id" FROM ONLY "s"."t" WHERE ( id > 1)) TO STDOUT"#
        );
        let without_columns = Table { columns: vec![], extension: None, ..table };
        let query = r#"COPY (SELECT  FROM ONLY "s"."t") TO STDOUT"#;
        assert_eq!(whole.statement(&without_columns), query, "whatever columns it gets meanwhile");
    }
}
