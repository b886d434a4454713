//! How a PostgreSQL database lies in a snapshot: its files, their names, its catalog.
//!
//! ```text
//! /shop/manifest.json            what it is, and the proof of each table
//! /shop/catalog.json             its tables, columns, keys and sequences, and what is set for the database, for us
//! /shop/schema.dump              its objects, as pg_restore takes them
//! /shop/schema.sql               the same to read
//! /shop/globals.sql              roles and tablespaces of the server, as far as they could be read
//! /shop/settings.sql             what is set for the database
//! /shop/data/public.users.copy   rows, as COPY writes and takes them
//! /shop/README.txt               how to restore it without dbkeep
//! ```

mod objects;
mod open;
mod original;

use std::collections::BTreeMap;

use dbkeep_postgres::attributes::Attributes;
use dbkeep_postgres::catalog::{Catalog, Name};
use dbkeep_postgres::snapshot::identifier;
use dbkeep_repo::Id;
use jiff::Timestamp;

use crate::backup::Contents;
use crate::manifest::TableProof;
use crate::name;
use crate::source::Source;

pub(crate) use objects::{ObjectHash, ObjectSum};
pub(crate) use open::{Served, roles};
pub(crate) use original::{Reached, original, reached};

/// The directory of rows.
pub(crate) const DATA: &str = "data";
/// The objects, for `pg_restore`.
pub(crate) const ARCHIVE: &str = "schema.dump";
/// The objects, for people.
pub(crate) const TEXT: &str = "schema.sql";
/// Roles and tablespaces of the server, which no database has of its own.
pub(crate) const GLOBALS: &str = "globals.sql";
/// What is set for the database itself.
pub(crate) const SETTINGS: &str = "settings.sql";
/// What there is, for us.
pub(crate) const CATALOG: &str = "catalog.json";
/// How it is put together again.
pub(crate) const README: &str = "README.txt";

/// The longest name of a file of rows, without what is put behind it.
const LONGEST: usize = 200;

impl TableProof {
    /// Returns the name of the table.
    pub(crate) fn table(&self) -> Name {
        Name { schema: self.schema.clone(), name: self.name.clone() }
    }
}

/// Returns the name of the file with a table's rows. Two tables never have the same: the part before the first dot is the
/// schema, whose own dots are encoded.
pub(crate) fn file_name(table: &Name) -> String {
    let schema = name::encode(&table.schema).replace('.', "%2E");
    let full = format!("{schema}.{}", name::encode(&table.name));
    if full.len() <= LONGEST {
        return format!("{full}.copy");
    }
    let short: String = full.chars().take(LONGEST / 8).collect();
    format!("{short}~{}.copy", &Id::of(full.as_bytes()).to_string()[..32])
}

/// Returns the name of a table for people: quoted where it would be misunderstood otherwise.
pub(crate) fn shown(table: &Name) -> String {
    let part = |part: &str| {
        let plain = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '$');
        if !part.is_empty() && part.chars().all(plain) { part.to_owned() } else { identifier(part) }
    };
    format!("{}.{}", part(&table.schema), part(&table.name))
}

/// Returns the catalog as it is stored: without numbers and sizes that change though no row does, and with what the
/// database has beside its contents.
pub(crate) fn encode_catalog(catalog: &Catalog, proofs: &[TableProof], database: &Attributes) -> Vec<u8> {
    let sizes: BTreeMap<(&str, &str), u64> =
        proofs.iter().map(|proof| ((proof.schema.as_str(), proof.name.as_str()), proof.size)).collect();
    let mut catalog = catalog.clone();
    catalog.database = Some(database.clone());
    for table in &mut catalog.tables {
        table.oid = 0;
        table.filenode = 0;
        table.pages = 0;
        table.bytes =
            sizes.get(&(table.name.schema.as_str(), table.name.name.as_str())).copied().unwrap_or(0);
        if let Some(key) = &mut table.key {
            key.correlation = None;
        }
    }
    for sequence in &mut catalog.sequences {
        sequence.oid = 0;
    }
    let mut text = serde_json::to_vec(&catalog).expect("a catalog has string keys only");
    text.push(b'\n');
    text
}

/// Tells of an archive of objects that is of a version that is not known here.
pub(crate) fn told_unknown((major, minor): (u8, u8)) -> String {
    format!(
        "the archive of objects is of version {major}.{minor}, which is not known here: only pg_restore brings the \
         objects back"
    )
}

/// Tells somebody with stock tools only how the database is put together.
pub(crate) fn readme(source: &Source, moment: Timestamp, contents: &Contents) -> String {
    let version = contents.postgres.as_ref().map_or("", |facts| &facts.server.version);
    let major = version.split('.').next().unwrap_or_default();
    let database = contents.postgres.as_ref().map_or("", |facts| &facts.server.database);
    let proofs = contents.postgres.iter().flat_map(|facts| &facts.tables);
    let tables: String = proofs
        .take(50)
        .map(|table| {
            let name = name::printable(&shown(&table.table()));
            format!("    {name}: {} rows in data/{}\n", table.rows, table.file)
        })
        .collect();
    format!(
        "This is the PostgreSQL database {:?} as it was at {moment}, from a server of version {version}.\n\
         \n\
         To bring it back with the tools of PostgreSQL {major} or newer, run in this directory:\n\
         \n\
         \x20   createdb restored\n\
         \x20   pg_restore --no-owner --section=pre-data --dbname=restored {ARCHIVE}\n\
         \x20   psql --dbname=restored --command='\\copy public.users (id, name) from data/public.users.copy'\n\
         \x20   pg_restore --no-owner --section=post-data --dbname=restored {ARCHIVE}\n\
         \n\
         with a `\\copy` for each table of {CATALOG}, which has the columns in their order (those that are `generated`\n\
         are left out). Where data/ has a directory NAME.copy.parts, `cat NAME.copy.parts/*/part` gives NAME.copy.\n\
         {CATALOG} also says where sequences stood. {GLOBALS} has the roles and tablespaces of the server, as far as they\n\
         could be read: for a new server, before everything else. {SETTINGS} has what is set for the database itself\n\
         (owner, rights, settings, comment), under its old name {:?}: rename `restored`, or the name in it, and run it\n\
         last, as in `psql --dbname=postgres --file={SETTINGS}`. `dbkeep restore` does all of this but for roles, and\n\
         compares every row with the sums of manifest.json.\n\
         {}{tables}",
        name::printable(&source.name),
        name::printable(database),
        if tables.is_empty() { "" } else { "\nTables:\n" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: &str, name: &str) -> Name {
        Name { schema: schema.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn no_two_tables_have_one_file() {
        let long = "ü".repeat(31);
        let control = "\u{1}".repeat(63);
        let other = format!("{}\u{2}", "\u{1}".repeat(62));
        let cases = [
            (name("public", "users"), "public.users.copy"),
            (name("a.b", "c"), "a%2Eb.c.copy"),
            (name("a", "b.c"), "a.b.c.copy"),
            (name("a", "../b"), "a...%2Fb.copy"),
            (name(&long, &long), ""),
            (name(&control, &control), ""),
            (name(&control, &other), ""),
            (name(&other, &control), ""),
        ];
        let files: Vec<String> = cases.iter().map(|(name, _)| file_name(name)).collect();
        for ((_, expected), file) in cases.iter().zip(&files) {
            assert!(expected.is_empty() || expected == file, "{file}");
            assert!(file.len() < 240 && !file.contains('/'), "{file}");
        }
        let different: std::collections::BTreeSet<&String> = files.iter().collect();
        assert_eq!(different.len(), files.len());
    }

    #[test]
    fn names_are_shown_as_people_can_write_them() {
        assert_eq!(shown(&name("public", "users")), "public.users");
        assert_eq!(shown(&name("a.b", "c d")), "\"a.b\".\"c d\"");
        assert_eq!(shown(&name("public", "say \"hi\"")), "public.\"say \"\"hi\"\"\"");
    }
}
