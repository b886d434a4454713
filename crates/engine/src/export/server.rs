//! Exports a PostgreSQL database: its rows table by table, its objects, or the files of its snapshot.

mod csv;
mod json;
mod metadata;
mod pieces;
mod sql;

use std::collections::HashMap;

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::{Kind, Name, Table};
use dbkeep_postgres::order;
use dbkeep_postgres::text::Malformed;

pub use metadata::{SERVED_CSV_FORMAT, SERVED_JSON_FORMAT, SERVED_NDJSON_FORMAT};
pub(super) use pieces::Piece;
pub(crate) use pieces::SUMS;
pub(super) use sql::{ROLES, SETTINGS};

use super::place::Finished;
use super::{Export, Exported, Format, Subject};
use crate::manifest::TableProof;
use crate::report::Engine;
use crate::served::{self, Served};
use crate::{Error, Result};

/// A database of a server that is exported.
struct Opened<'e> {
    export: &'e Export<'e>,
    subject: &'e Subject,
    served: Served<'e>,
}

/// A table whose rows are in the snapshot.
struct Member<'o> {
    table: &'o Table,
    proof: &'o TableProof,
    /// What it is called in the export.
    label: String,
}

impl Subject {
    /// Says whether it is a database of a server.
    pub(super) fn is_served(&self) -> bool {
        self.manifest.engine == Engine::Postgres
    }
}

impl Export<'_> {
    /// Writes a database of a server into files of its own.
    pub(super) fn served(
        &self,
        subject: &Subject,
        format: Format,
        finished: &mut Vec<Finished>,
    ) -> Result<Exported> {
        let served = Served::open(self.reader, &subject.entry, subject.manifest.clone())?;
        let opened = Opened { export: self, subject, served };
        match format {
            Format::Json | Format::Ndjson => opened.json(format, finished),
            Format::Csv => opened.csv(finished),
            Format::Sql => opened.sql(finished),
            _ => Err(no_file(subject, format)),
        }
    }
}

/// Returns the error for a form in which only files are exported.
pub(super) fn no_file(subject: &Subject, format: Format) -> Error {
    Error::Unsupported {
        what: format!(
            "{} is a database of a PostgreSQL server: it has no file that --format {} could give back",
            crate::name::printable(&subject.manifest.database),
            format.word()
        ),
        hint: Some(
            "use --format sql, ndjson, json or csv, or bundle or tar.gz for the files of the snapshot"
                .to_owned(),
        ),
    }
}

/// Returns what a table is called in an export: by its name alone in the schema `public`, else with its schema;
/// quoted as in SQL where a part would be misunderstood. No two tables are called the same: only a name alone is
/// without a dot outside of quotes.
fn label(name: &Name) -> String {
    let is_plain = !name.name.is_empty() && !name.name.contains(['.', '"']);
    if name.schema == "public" && is_plain { name.name.clone() } else { served::shown(name) }
}

impl Opened<'_> {
    /// Returns the tables whose rows are in the snapshot, each behind those that it refers to, and the circles.
    fn members(&self) -> (Vec<Member<'_>>, Vec<Vec<String>>) {
        let tables = &self.served.catalog.tables;
        let proofs: HashMap<Name, &TableProof> =
            self.served.facts.tables.iter().map(|proof| (proof.table(), proof)).collect();
        let (order, circles) = order::of_tables(tables);
        let member = |place: usize| {
            let table = tables.get(place)?;
            let proof = *proofs.get(&table.name)?;
            Some(Member { table, proof, label: label(&table.name) })
        };
        let named = |circle: Vec<usize>| {
            circle.into_iter().filter_map(|place| Some(label(&tables.get(place)?.name))).collect()
        };
        (order.into_iter().filter_map(member).collect(), circles.into_iter().map(named).collect())
    }

    /// Says what of the snapshot no form with rows alone has.
    fn notes_about_rows(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let tables = &self.served.catalog.tables;
        for table in tables.iter().filter(|table| table.kind == Kind::Materialized) {
            notes.push(format!(
                "materialized view {} left out: it is the kept answer to a query",
                label(&table.name)
            ));
        }
        for table in tables.iter().filter(|table| table.kind == Kind::Partitioned) {
            notes.push(format!("the rows of {} stand under its partitions", label(&table.name)));
        }
        for (table, column) in
            tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column)))
        {
            if table.has_rows() && column.generated {
                notes.push(format!(
                    "column {} of {} left out: it is computed from others",
                    column.name,
                    label(&table.name)
                ));
            }
        }
        if let Some(owners) = self.served.facts.large_objects.get(1) {
            notes.push(format!("{} large objects left out: sql, bundle and tar.gz have them", owners.rows));
        }
        notes
    }

    /// Reads the archive of objects for a form that goes without where it is of a version that is not known here: then a
    /// note says so.
    fn objects(&self, notes: &mut Vec<String>) -> Result<Option<Archive>> {
        Ok(self.served.known_objects()?.map_err(|unknown| notes.push(unknown)).ok())
    }

    /// Gives the rows of a table as COPY writes them, and expects that they come to what the manifest says.
    fn rows(&self, proof: &TableProof, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u64> {
        let sum = self.served.sum(proof, self.export.watch, take)?;
        match Served::difference(proof, sum) {
            None => Ok(proof.rows),
            Some(finding) => Err(Error::Damaged { what: self.subject.what(), finding }),
        }
    }

    /// Tells why rows could not be turned into a form.
    fn malformed(&self, table: &Name, error: &Malformed) -> Error {
        let table = crate::name::printable(&served::shown(table));
        Error::Unsupported {
            what: format!("table {table} of {} cannot be written in this form: {error}", self.subject.what()),
            hint: Some("use --format bundle or tar.gz: they hold rows as they are".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_called_by_names_that_no_two_have() {
        let label = |schema: &str, name: &str| {
            super::label(&Name { schema: schema.to_owned(), name: name.to_owned() })
        };
        assert_eq!(label("public", "users"), "users");
        assert_eq!(label("public", "Line items"), "Line items");
        assert_eq!(label("audit", "log"), "audit.log");
        assert_eq!(label("public", "audit.log"), "public.\"audit.log\"");
        assert_eq!(label("a.b", "c"), "\"a.b\".c");
        assert_eq!(label("a", "b.c"), "a.\"b.c\"");
        assert_eq!(label("public", "say \"hi\""), "public.\"say \"\"hi\"\"\"");
    }
}
