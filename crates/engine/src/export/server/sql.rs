//! Exports a PostgreSQL database as one text that `psql` carries out, with the roles of the server and what is set
//! for the database itself beside it.

use std::io::Write;

use dbkeep_postgres::archive::{Archive, Stage};
use dbkeep_postgres::large_objects;
use dbkeep_postgres::script;
use dbkeep_postgres::snapshot::{identifier, literal};
use dbkeep_postgres::text::{Reader, Row, Rows};
use ring::rand::{SecureRandom, SystemRandom};

use super::Opened;
use crate::export::Exported;
use crate::export::json::Failed;
use crate::export::place::Finished;
use crate::export::written::{Sum, write};
use crate::manifest::TableProof;
use crate::name::printable;
use crate::{Error, Result, manifest, served};

/// What is added to the name of the file with the roles.
pub(in crate::export) const ROLES: &str = "_roles.sql";
/// What is added to the name of the file with what is set for the database itself.
pub(in crate::export) const SETTINGS: &str = "_settings.sql";

impl Opened<'_> {
    /// Writes SQL text that a stock `psql` carries out, the roles of the server, and the checksums of both.
    pub(super) fn sql(&self, finished: &mut Vec<Finished>) -> Result<Exported> {
        let archive = self.served.objects()?;
        let stem = self.subject.stem();
        let mut notes = vec![
            format!(
                "the roles that own its objects are in {stem}{ROLES}, with the hashes of their passwords where the backup's user could read them: carry that out first"
            ),
            format!(
                "what is set for the database itself (owner, rights, settings, comment) is in {stem}{SETTINGS}, for a database called {}: carry that out last",
                printable(&format!("{:?}", self.served.facts.server.database))
            ),
        ];
        let key = key()?;
        let staged = self.export.place.file()?;
        let mut has_rights = false;
        let sum = write(staged.file(), |out| -> Result<(), Failed> {
            out.write_all(script::begin(&archive, &self.heading(), &key).as_bytes())?;
            objects(out, &archive, Stage::BeforeRows)?;
            for member in self.members().0 {
                out.write_all(script::copy(member.table).as_bytes())?;
                self.copied(member.proof, member.table, out)?;
                out.write_all(script::END_OF_ROWS.as_bytes())?;
            }
            has_rights = self.large_objects(out)?;
            out.write_all(script::sequences(&self.served.catalog.sequences).as_bytes())?;
            for stage in [Stage::AfterRows, Stage::Privileges, Stage::Last] {
                objects(out, &archive, stage)?;
            }
            out.write_all(script::end(&key).as_bytes())?;
            Ok(())
        });
        let sum = sum.map_err(|failed| failed.into_error(self.export))?;
        if has_rights {
            notes.push("rights on large objects are left out".to_owned());
        }
        let roles = self.as_stored(served::GLOBALS)?;
        let settings = self.as_stored(served::SETTINGS)?;
        for (name, staged, sum) in [
            (format!("{stem}.sql"), staged, sum),
            (format!("{stem}{ROLES}"), roles.0, roles.1),
            (format!("{stem}{SETTINGS}"), settings.0, settings.1),
        ] {
            let checksum = self.export.checksum(&name, &sum)?;
            finished.push(Finished::File { staged, name, sum });
            finished.push(checksum);
        }
        Ok(Exported { bytes: sum.bytes + roles.1.bytes + settings.1.bytes, sha256: None, notes })
    }

    /// Writes a file of the snapshot as it is.
    fn as_stored(&self, name: &str) -> Result<(dbkeep_repo::durable::Staged, Sum)> {
        let text = self.served.file(name, manifest::LIMIT)?;
        let staged = self.export.place.file()?;
        let sum = write(staged.file(), |out| out.write_all(&text));
        let sum = sum.map_err(|error| self.export.write_failed(error))?;
        Ok((staged, sum))
    }

    /// Writes rows as they are, once it is known that they are rows: `psql` would carry out what follows a line `\.`.
    fn copied(
        &self,
        proof: &TableProof,
        table: &dbkeep_postgres::catalog::Table,
        out: &mut impl Write,
    ) -> Result<(), Failed> {
        let columns = table.columns.iter().filter(|column| !column.generated).count();
        let mut reader = Reader::new(columns);
        self.rows(proof, &mut |bytes| {
            reader.push(bytes, &mut Nothing).map_err(|error| self.malformed(&table.name, &error))?;
            out.write_all(bytes).map_err(|error| self.export.write_failed(error))
        })?;
        Ok(())
    }

    /// Writes large objects, their owners and comments. Returns whether there are rights on them, which are left out.
    fn large_objects(&self, out: &mut impl Write) -> Result<bool, Failed> {
        let [contents, owners] = self.served.facts.large_objects.as_slice() else { return Ok(false) };
        let mut has_rights = false;
        self.each_row(owners, large_objects::owners().columns.len(), out, &mut |values| {
            let [number, owner, comment, rights] = values else { return String::new() };
            has_rights |= rights.is_some();
            let number = number_of(number.as_deref());
            let mut text = format!("SELECT pg_catalog.lo_create({number});\n");
            if let Some(owner) = owner {
                text += &format!("ALTER LARGE OBJECT {number} OWNER TO {};\n", identifier(owner));
            }
            if let Some(comment) = comment {
                text += &format!("COMMENT ON LARGE OBJECT {number} IS {};\n", literal(comment));
            }
            text
        })?;
        self.each_row(contents, large_objects::contents().columns.len(), out, &mut |values| match values {
            [number, Some(start), Some(bytes)] if bytes.len() > 2 => format!(
                "SELECT pg_catalog.lo_put({}, {}, {});\n",
                number_of(number.as_deref()),
                number_of(Some(start)),
                literal(bytes)
            ),
            _ => String::new(),
        })?;
        Ok(has_rights)
    }

    /// Writes the statements of each row of a pseudo table.
    fn each_row(
        &self,
        proof: &TableProof,
        columns: usize,
        out: &mut impl Write,
        statements: &mut dyn FnMut(&[Option<String>]) -> String,
    ) -> Result<(), Failed> {
        let name = proof.table();
        let mut rows = Rows::new(columns);
        let mut text = String::new();
        let mut take = |row: Row<'_>| {
            let value = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
            let values: Vec<Option<String>> = row.values().map(value).collect();
            text.push_str(&statements(&values));
            out.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
            text.clear();
            Ok(())
        };
        self.rows(proof, &mut |bytes| {
            rows.push(bytes, &mut take).map_err(|error| self.malformed(&name, &error))
        })?;
        Ok(())
    }

    /// Returns what stands at the top of the text.
    fn heading(&self) -> Vec<String> {
        let manifest = &self.subject.manifest;
        let version = &self.served.facts.server.version;
        vec![
            format!(
                "PostgreSQL database {}, exported by dbkeep {}",
                printable(&manifest.database),
                env!("CARGO_PKG_VERSION")
            ),
            "load it into an empty database with: psql --dbname=NAME --file=THIS".to_owned(),
            format!("server: {}", printable(version)),
            format!("session: {}", printable(&manifest.session)),
            format!("snapshot: {}", self.subject.entry.id),
            format!("moment: {}", manifest.moment),
            format!("source: {}", printable(&manifest.source)),
            format!("rows: {} in {} tables", manifest.rows, self.served.facts.tables.len()),
        ]
    }
}

fn objects(out: &mut impl Write, archive: &Archive, stage: Stage) -> std::io::Result<()> {
    script::stage(archive, stage).try_for_each(|text| out.write_all(text.as_bytes()))
}

/// Returns a number as it goes into SQL: what is none becomes one that no object has.
fn number_of(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Returns letters and digits that nobody can know before.
fn key() -> Result<String> {
    let mut bytes = [0; 24];
    let failed =
        |_| Error::io("read", std::path::Path::new("/dev/urandom"))(std::io::Error::other("no random bytes"));
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Takes rows only to have them read.
struct Nothing;

impl dbkeep_postgres::text::Events for Nothing {
    fn part(&mut self, _: &[u8]) -> Result<(), dbkeep_postgres::text::Refusal> {
        Ok(())
    }

    fn end_value(&mut self, _: bool) -> Result<(), dbkeep_postgres::text::Refusal> {
        Ok(())
    }

    fn end_row(&mut self) -> Result<(), dbkeep_postgres::text::Refusal> {
        Ok(())
    }
}
