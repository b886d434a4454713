//! Exports a database as SQL text.

use dbkeep_sqlite::dump;

use super::place::Finished;
use super::written::{Sum, write};
use super::{Export, Exported, Subject};
use crate::Result;
use crate::name::printable;
use crate::report::TableRows;

impl Export<'_> {
    /// Writes SQL text that a stock `sqlite3` loads, and its checksum.
    pub(super) fn sql(&self, subject: &Subject, finished: &mut Vec<Finished>) -> Result<Exported> {
        let opened = self.open_rows(subject)?;
        let staged = self.place.file()?;
        let heading = self.heading(subject);
        let mut dumped = dump::Dumped::default();
        let result: Result<Sum, Failed> = write(staged.file(), |out| {
            let rows_of = |table: &str| opened.known_rows(table);
            let cancelled = || opened.cancelled();
            let written =
                dump::write(&opened.connection, &opened.contents, &heading, &rows_of, &cancelled, out);
            dumped = written.map_err(Failed::Reading)?;
            Ok(())
        });
        let sum = match result {
            Ok(sum) => sum,
            Err(Failed::Writing(error)) => return Err(self.write_failed(error)),
            Err(Failed::Reading(error)) => return opened.ended(Err(error)),
        };
        let tables: Vec<TableRows> =
            dumped.tables.into_iter().map(|table| TableRows { name: table.name, rows: table.rows }).collect();
        opened.finish(&tables)?;
        let name = format!("{}.sql", subject.stem());
        let checksum = self.checksum(&name, &sum)?;
        finished.push(Finished::File { staged, name, sum });
        finished.push(checksum);
        Ok(Exported { bytes: sum.bytes, sha256: None, notes: dumped.notes })
    }

    /// Returns what stands at the top of the text.
    fn heading(&self, subject: &Subject) -> Vec<String> {
        let manifest = &subject.manifest;
        let git = manifest.git.as_ref().map(|git| {
            let [branch, commit] = [&git.branch, &git.commit].map(|one| one.as_deref().unwrap_or("none"));
            format!("git: branch {}, commit {commit}", printable(branch))
        });
        let mut lines = vec![
            format!(
                "SQLite database {}, exported by dbkeep {}",
                printable(&manifest.database),
                env!("CARGO_PKG_VERSION")
            ),
            "load it with: sqlite3 new.db < this file".to_owned(),
            format!("session: {}", printable(&manifest.session)),
            format!("snapshot: {}", subject.entry.id),
            format!("moment: {}", manifest.moment),
            format!("source: {}", printable(&manifest.source)),
            format!("host: {}, user: {}", printable(manifest.identity.host()), printable(&manifest.user)),
            format!("backed up by: dbkeep {}", printable(&manifest.dbkeep)),
            format!("integrity: {}", printable(&manifest.integrity.summary())),
        ];
        lines.extend(git);
        lines
    }
}

/// Why no text came about.
enum Failed {
    Reading(dbkeep_sqlite::Error),
    Writing(std::io::Error),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Writing(error)
    }
}
