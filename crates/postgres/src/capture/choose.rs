//! What of a database is backed up, what is not, and whether this user may read it.
//!
//! Pure: what is there and what is wanted in, what is read out.

use std::collections::BTreeSet;

use super::{CaptureOptions, Gap, NotCovered};
use crate::catalog::{Catalog, Kind, Name, Sequence, Unread, with_partitions};
use crate::extent::Extent;
use crate::facts::Facts;
use crate::marks::Marks;
use crate::schema::Filter;
use crate::snapshot::identifier;
use crate::{Error, Result};

/// What was found, and what of it is wanted.
pub(super) struct Seen {
    pub(super) catalog: Catalog,
    /// What is wanted, with all partitions by name.
    pub(super) filter: Filter,
    /// What of the database is written by `pg_dump`.
    pub(super) extent: Extent,
    pub(super) marks: Marks,
    pub(super) missing: Vec<String>,
    pub(super) not_covered: Vec<NotCovered>,
    pub(super) locked: bool,
}

impl Seen {
    /// Chooses what is wanted from what is there. Pure.
    pub(super) fn choose(
        catalog: Catalog,
        how: &CaptureOptions,
        facts: &Facts,
        schemas: &BTreeSet<String>,
        extent: Extent,
    ) -> Result<Self> {
        let missing = missing(&catalog, &how.filter, schemas)?;
        let filter = with_all_partitions(&catalog, &how.filter);
        let without_rows = with_partitions(&[&catalog], how.exclude_data.iter().cloned());
        let mut seen = Self {
            catalog,
            filter,
            extent,
            marks: Marks::default(),
            missing,
            not_covered: Vec::new(),
            locked: false,
        };
        seen.filter();
        let mut gaps = Vec::new();
        for table in &mut seen.catalog.tables {
            let unlogged = !table.logged && facts.in_recovery;
            let gap = match table.kind {
                Kind::Foreign => Gap::Foreign,
                Kind::Ordinary if without_rows.contains(&table.name) => Gap::ExcludedData,
                Kind::Ordinary if unlogged => Gap::UnloggedOnStandby,
                _ => continue,
            };
            table.left_out = table.kind == Kind::Ordinary;
            gaps.push((table.name.quoted(), gap));
        }
        gaps.extend(seen.catalog.unread.drain(..).map(unread));
        let seen = gaps.into_iter().fold(seen, |seen, (what, gap)| seen.without(&what, gap));
        denied(&seen.catalog, &facts.user)?;
        Ok(seen)
    }

    /// Takes out of the catalog what is not wanted.
    fn filter(&mut self) {
        let (filter, extent) = (&self.filter, &self.extent);
        self.catalog.tables.retain(|table| filter.takes(&table.name));
        let tables: BTreeSet<&Name> = self.catalog.tables.iter().map(|table| &table.name).collect();
        self.catalog.sequences.retain(|sequence| {
            // A default that asks a sequence needs where it stands.
            let needed = sequence.readable && extent.needed_others.contains(&sequence.name);
            needed || takes_sequence(filter, &tables, sequence)
        });
        self.catalog.unread.retain(|unread| match unread {
            Unread::Sequence(sequence) => {
                extent.needed_others.contains(&sequence.name) || takes_sequence(filter, &tables, sequence)
            }
            Unread::OfExtension { table, .. } => filter.takes(table),
        });
        let forms = extent.needed.iter();
        self.not_covered.extend(forms.map(|name| NotCovered { what: name.quoted(), why: Gap::Form }));
        // As with `pg_dump`: they belong to no schema.
        if !filter.schemas.is_empty() || !filter.tables.is_empty() {
            let large_objects = std::mem::take(&mut self.catalog.large_objects);
            if large_objects > 0 {
                self.not_covered.push(NotCovered { what: "large objects".to_owned(), why: Gap::NotAskedFor });
            }
        }
    }

    pub(super) fn without(mut self, what: &str, why: Gap) -> Self {
        self.not_covered.push(NotCovered { what: what.to_owned(), why });
        self
    }
}

/// Tells what a catalog does not have.
fn unread(unread: Unread) -> (String, Gap) {
    match unread {
        Unread::Sequence(sequence) => (sequence.name.quoted(), Gap::UnloggedSequence),
        Unread::OfExtension { table, extension } => {
            (format!("{} of extension {}", table.quoted(), identifier(&extension)), Gap::OfExtension)
        }
    }
}

/// Returns what is wanted, with all partitions by name.
pub(super) fn with_all_partitions(catalog: &Catalog, filter: &Filter) -> Filter {
    let whole = |names: &[Name]| with_partitions(&[catalog], names.iter().cloned()).into_iter().collect();
    Filter { schemas: filter.schemas.clone(), tables: whole(&filter.tables), without: whole(&filter.without) }
}

/// A sequence goes with its table; one of an identity column goes nowhere else.
fn takes_sequence(filter: &Filter, tables: &BTreeSet<&Name>, sequence: &Sequence) -> bool {
    if sequence.owned_by.as_ref().is_some_and(|table| tables.contains(table)) {
        return true;
    }
    !sequence.identity && filter.takes(&sequence.name)
}

/// Returns what was asked for and is not there.
fn missing(catalog: &Catalog, filter: &Filter, schemas: &BTreeSet<String>) -> Result<Vec<String>> {
    let no_schemas = filter.schemas.iter().filter(|schema| !schemas.contains(*schema));
    let mut missing: Vec<String> =
        no_schemas.map(|schema| format!("schema {}", identifier(schema))).collect();
    if !missing.is_empty() && missing.len() == filter.schemas.len() {
        return Err(Error::Nothing { what: format!("there is no {}", missing.join(", no ")) });
    }
    let no_tables: Vec<String> = crate::catalog::missing(catalog, &filter.tables)
        .into_iter()
        .map(|name| format!("table {}", name.quoted()))
        .collect();
    let wanted = catalog.tables.iter().any(|table| filter.takes(&table.name));
    if !filter.tables.is_empty() && !wanted {
        let what = match no_tables.is_empty() {
            true => "no table is in the schemas and among the tables that were named".to_owned(),
            false => format!("there is no {}", no_tables.join(", no ")),
        };
        return Err(Error::Nothing { what });
    }
    missing.extend(no_tables);
    Ok(missing)
}

/// Makes sure that this user may read everything that is wanted.
fn denied(catalog: &Catalog, user: &str) -> Result<()> {
    let (mut names, mut remedies) = (Vec::new(), Vec::new());
    let user_name = identifier(user);
    let mut permit = |statement: String| {
        if !remedies.contains(&statement) {
            remedies.push(statement);
        }
    };
    let usage = |schema: &str, permit: &mut dyn FnMut(String)| {
        if schema != "public" {
            permit(format!("GRANT USAGE ON SCHEMA {} TO {user_name}", identifier(schema)));
        }
    };
    for table in &catalog.tables {
        let name = table.name.quoted();
        match table.kind {
            // Also without its rows: `pg_dump` locks it.
            Kind::Ordinary | Kind::Partitioned if !table.readable => {
                usage(&table.name.schema, &mut permit);
                permit(format!("GRANT SELECT ON {name} TO {user_name}"));
                names.push(name);
            }
            Kind::Ordinary if table.hidden && table.has_rows() => {
                permit(format!("ALTER ROLE {user_name} BYPASSRLS"));
                names.push(format!("{name} (policies may hide rows)"));
            }
            _ => {}
        }
    }
    for sequence in catalog.sequences.iter().filter(|sequence| !sequence.readable) {
        let name = sequence.name.quoted();
        usage(&sequence.name.schema, &mut permit);
        permit(format!("GRANT SELECT ON SEQUENCE {name} TO {user_name}"));
        names.push(name);
    }
    match names.is_empty() {
        true => Ok(()),
        false => Err(Error::Denied { user: user.to_owned(), names, remedies }),
    }
}
