//! A database as SQL text that a stock `sqlite3` loads: `sqlite3 new.db < dump.sql`.
//!
//! What comes back has the same rows with the same values, bit by bit, the same rowids, schema, counters and
//! settings. Values are written so that every SQLite reads them alike (`literal.rs`). As in the `.dump` of the
//! `sqlite3` program, a virtual table goes into the schema as it stands there, and the tables in which it keeps its
//! data are filled as they are, so that no module runs while the text is loaded.

mod literal;

use std::io::{self, Write};
use std::path::PathBuf;

use rusqlite::Connection;

use crate::contents::{Contents, Object, Selection, Table, TableKind, Value, Wide, rows};
use crate::inspect::{TableRows, quoted};
use crate::split::{self, Single};
use crate::vfs::image_error;
use crate::{Error, Result};

pub use literal::real as real_literal;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    /// The tables whose rows were written, with their number.
    pub tables: Vec<TableRows>,
    /// What is not in the text, and why.
    pub notes: Vec<String>,
}

/// The longest statement that SQLite takes, in bytes.
pub(crate) const LONGEST: usize = 1_000_000_000;

/// Writes the database that `connection` is on.
///
/// `heading` stands at the top as comments. `rows_of` says how many rows a table has, where that is known; else they
/// are counted, where that matters. An error of `out` comes back as [`Error::Consumer`] with the [`io::Error`] in it.
pub fn write(
    connection: &Connection,
    contents: &Contents,
    heading: &[String],
    rows_of: &dyn Fn(&str) -> Option<u64>,
    cancelled: &dyn Fn() -> bool,
    out: &mut dyn Write,
) -> Result<Dumped> {
    let mut dump = Dump {
        connection,
        contents,
        rows_of,
        cancelled,
        out,
        longest: LONGEST,
        writes_schema: false,
        done: Dumped::default(),
    };
    dump.run(heading)?;
    Ok(dump.done)
}

/// Returns a line of the schema as a statement. One that a program which runs it as text would take for more than the
/// statement that SQLite reads is refused: that program would run the rest too.
fn statement(object: &Object) -> Result<Option<String>> {
    let Some(sql) = &object.sql else { return Ok(None) };
    let unsupported = |what: String| Error::Unsupported {
        path: PathBuf::from("the image"),
        what,
        hint: Some("take the database out as the file that it is".to_owned()),
    };
    let what = format!("{} {:?}", object.kind, object.name);
    if !object.is_exact {
        return Err(unsupported(format!("what makes {what} is not valid text")));
    }
    match split::single(sql) {
        Single::Closed(closing) => Ok(Some(format!("{sql}{closing};"))),
        Single::More => {
            Err(Error::Damaged { what: format!("the schema has more than one statement for {what}") })
        }
        Single::Cut => Err(unsupported(format!(
            "what makes {what} has a line that the program sqlite3 takes for the end of a statement"
        ))),
    }
}

/// The last line of a dump begins so.
pub const END: &str = "-- end of dump: ";

struct Dump<'d> {
    connection: &'d Connection,
    contents: &'d Contents,
    rows_of: &'d dyn Fn(&str) -> Option<u64>,
    cancelled: &'d dyn Fn() -> bool,
    out: &'d mut dyn Write,
    /// The longest statement that is written.
    longest: usize,
    /// Whether the schema can be written as a table.
    writes_schema: bool,
    done: Dumped,
}

impl Dump<'_> {
    fn run(&mut self, heading: &[String]) -> Result<()> {
        self.judge_schema()?;
        self.begin(heading).map_err(consumer)?;
        for table in &self.contents.tables {
            self.table(table)?;
        }
        self.belongings()?;
        self.end().map_err(consumer)
    }

    /// Refuses what cannot be written as text, before anything is, and notes what would not come back.
    fn judge_schema(&mut self) -> Result<()> {
        for object in &self.contents.schema {
            statement(object)?;
            if object.sql.as_deref().is_some_and(split::has_quoted_return) {
                self.note(format!(
                    "the program sqlite3 drops carriage returns from the texts in what makes {} {}",
                    object.kind, object.name
                ));
            }
        }
        Ok(())
    }

    fn begin(&mut self, heading: &[String]) -> io::Result<()> {
        for line in heading {
            // Whatever a name holds, it stays on its line and in the comment.
            writeln!(self.out, "-- {}", line.replace(|c: char| c.is_control(), " "))?;
        }
        let settings = &self.contents.settings;
        // Rows may refer to each other, and may break constraints that came later: they are what they are.
        writeln!(self.out, "PRAGMA foreign_keys=OFF;")?;
        writeln!(self.out, "PRAGMA ignore_check_constraints=ON;")?;
        writeln!(self.out, "PRAGMA page_size={};", settings.page_size)?;
        writeln!(self.out, "PRAGMA encoding='{}';", settings.encoding)?;
        writeln!(self.out, "PRAGMA auto_vacuum={};", settings.auto_vacuum)?;
        writeln!(self.out, "BEGIN TRANSACTION;")?;
        if settings.application_id != 0 {
            writeln!(self.out, "PRAGMA application_id={};", settings.application_id)?;
        }
        // Always: a database without tables is made by it.
        writeln!(self.out, "PRAGMA user_version={};", settings.user_version)
    }

    fn table(&mut self, table: &Table) -> Result<()> {
        match table.kind {
            TableKind::Virtual => return self.virtual_table(table).map_err(consumer),
            TableKind::System => return self.system_table(table),
            TableKind::Rowid | TableKind::WithoutRowid | TableKind::Shadow => {}
        }
        self.schema_line("table", &table.name)?;
        let with_rowid = self.rowids_matter(table)?;
        if !with_rowid && self.hides_rowids(table) {
            self.note(format!("rowids of table {} not kept: columns hide their names", table.name));
        }
        self.rows(table, &Selection::stored(table, with_rowid))
    }

    /// Puts a virtual table into the schema without running its module.
    fn virtual_table(&mut self, table: &Table) -> io::Result<()> {
        let name = literal::text(&table.name, self.wide());
        let sql = literal::text(&table.sql, self.wide());
        self.write_schema()?;
        writeln!(
            self.out,
            "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql) VALUES('table',{name},{name},0,{sql});"
        )
    }

    /// Fills a table of SQLite itself, which statements of their own make.
    fn system_table(&mut self, table: &Table) -> Result<()> {
        match table.name.as_str() {
            "sqlite_sequence" => {
                if !self.contents.tables.iter().any(counts) {
                    let name = quoted(&self.free_name());
                    self.line(&format!("CREATE TABLE {name}(a INTEGER PRIMARY KEY AUTOINCREMENT);"))?;
                    self.line(&format!("DROP TABLE {name};"))?;
                }
                self.line("DELETE FROM sqlite_sequence;")?;
            }
            // Made as any other: not every SQLite makes all of its statistics by itself.
            _ => {
                self.write_schema().map_err(consumer)?;
                self.schema_line("table", &table.name)?;
            }
        }
        self.rows(table, &Selection::stored(table, false))
    }

    /// Returns a name that nothing in the database has.
    fn free_name(&self) -> String {
        let is_free =
            |name: &String| !self.contents.schema.iter().any(|one| one.name.eq_ignore_ascii_case(name));
        let numbered = (1u64..).map(|number| format!("dbkeep_counter_{number}"));
        std::iter::once("dbkeep_counter".to_owned()).chain(numbered).find(is_free).unwrap_or_default()
    }

    /// Writes the statement that makes something.
    fn schema_line(&mut self, kind: &str, name: &str) -> Result<()> {
        let found = self.contents.schema.iter().find(|object| object.kind == kind && object.name == name);
        match found.map(statement).transpose()?.flatten() {
            Some(statement) => self.line(&statement),
            None => Ok(()),
        }
    }

    /// Lets the statements that follow write what SQLite keeps to itself.
    fn write_schema(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.writes_schema, true) {
            true => Ok(()),
            false => writeln!(self.out, "PRAGMA writable_schema=ON;"),
        }
    }

    fn rows(&mut self, table: &Table, selection: &Selection) -> Result<()> {
        let start = match table.columns.iter().any(|column| !column.generated) || table.rowid.is_some() {
            true => format!("INSERT INTO {}({}) VALUES(", quoted(&table.name), selection.list()),
            false => return Ok(()),
        };
        let (out, wide) = (&mut *self.out, Wide::of(&self.contents.settings.encoding));
        let longest = self.longest;
        let mut line = String::new();
        let mut each = |values: &[Value<'_>]| {
            line.clear();
            line.push_str(&start);
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    line.push(',');
                }
                literal::push(&mut line, *value, wide);
            }
            line.push_str(");\n");
            if line.len() > longest {
                return Err(too_long(&table.name).into());
            }
            out.write_all(line.as_bytes()).map_err(Into::into)
        };
        let count = rows(self.connection, self.contents, table, selection, self.cancelled, &mut each);
        let count = count.map_err(unwrapped)?;
        self.done.tables.push(TableRows { name: table.name.clone(), rows: count });
        Ok(())
    }

    /// Says whether rows that are numbered from 1 as they come would not get their rowids back.
    fn rowids_matter(&self, table: &Table) -> Result<bool> {
        let Some(rowid) = table.rowid else { return Ok(false) };
        let name = quoted(&table.name);
        let ask = |what: &str| -> Result<Option<i64>> {
            let query = format!("SELECT {what} FROM main.{name} NOT INDEXED");
            let answer = self.connection.query_row(&query, [], |row| row.get(0));
            answer.map_err(|error| image_error(Some(self.connection), error))
        };
        let (Some(first), Some(last)) = (ask(&format!("min({rowid})"))?, ask(&format!("max({rowid})"))?)
        else {
            return Ok(false);
        };
        let count = match (self.rows_of)(&table.name) {
            Some(count) => i64::try_from(count).ok(),
            None => ask("count(*)")?,
        };
        Ok(first != 1 || Some(last) != count)
    }

    fn hides_rowids(&self, table: &Table) -> bool {
        let taken = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        table.kind == TableKind::Rowid && ["rowid", "_rowid_", "oid"].into_iter().all(taken)
    }

    /// Writes indexes, then views and triggers as they follow each other in the schema.
    fn belongings(&mut self) -> Result<()> {
        let indexes = self.contents.schema.iter().filter(|object| object.kind == "index");
        let others =
            self.contents.schema.iter().filter(|object| matches!(object.kind.as_str(), "view" | "trigger"));
        for object in indexes.chain(others) {
            if let Some(statement) = statement(object)? {
                self.line(&statement)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.writes_schema {
            writeln!(self.out, "PRAGMA writable_schema=OFF;")?;
        }
        writeln!(self.out, "COMMIT;")?;
        writeln!(self.out, "PRAGMA ignore_check_constraints=OFF;")?;
        let rows: u64 = self.done.tables.iter().map(|table| table.rows).sum();
        writeln!(self.out, "{END}{} tables, {rows} rows", self.done.tables.len())
    }

    fn wide(&self) -> Option<Wide> {
        Wide::of(&self.contents.settings.encoding)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        writeln!(self.out, "{line}").map_err(consumer)
    }

    fn note(&mut self, note: String) {
        self.done.notes.push(note);
    }
}

/// Says whether making a table makes the table of counters as well.
fn counts(table: &Table) -> bool {
    let is_ordinary = matches!(table.kind, TableKind::Rowid | TableKind::Shadow);
    is_ordinary && split::has_word(&table.sql, "AUTOINCREMENT")
}

fn consumer(error: io::Error) -> Error {
    Error::Consumer(error.into())
}

fn too_long(table: &str) -> Error {
    Error::Unsupported {
        path: PathBuf::from("the image"),
        what: format!("a row of table {table:?} makes a longer statement than SQLite takes"),
        hint: Some("take the database out as the file that it is".to_owned()),
    }
}

/// Returns an error of our own that went through a callback.
fn unwrapped(error: Error) -> Error {
    match error {
        Error::Consumer(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(inner) => Error::Consumer(inner),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests;
