//! What a database looks like, as `pg_dump` says it: an archive of everything but the rows.
//!
//! The archive is in the custom format, which `pg_restore` of the same version or a newer one reads, without
//! compression, so that the repository finds again what did not change. It has what comes before the rows (types,
//! functions, tables) and what comes after (indexes, constraints, triggers, policies); nobody ever changes its text.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use crate::archive::Archive;
use crate::catalog::Name;
use crate::conninfo::{ConnInfo, Host};
use crate::extent::Extent;
use crate::tools::{Tools, run};
use crate::wire::Options;
use crate::{Error, Result};

/// Which part of a database is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// These schemas only; all when there are none.
    pub schemas: Vec<String>,
    /// These tables only; all when there are none.
    pub tables: Vec<Name>,
    /// Not these tables.
    pub without: Vec<Name>,
}

impl Filter {
    /// Returns whether a table is meant.
    pub fn takes(&self, name: &Name) -> bool {
        (self.schemas.is_empty() || self.schemas.contains(&name.schema))
            && (self.tables.is_empty() || self.tables.contains(name))
            && !self.without.contains(name)
    }

    /// Returns whether all of a database is meant.
    pub fn is_everything(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty() && self.without.is_empty()
    }
}

/// What is to be told of an archive that was written.
#[derive(Debug)]
pub struct Dumped {
    /// What `pg_dump` warned of: it leaves some things out and succeeds.
    pub warnings: Vec<String>,
    /// The version of the archive's format, where it is not known here.
    pub unknown: Option<(u8, u8)>,
}

/// Writes the archive of what a moment looks like into a file. `host` is the one that the snapshot belongs to. Returns
/// what is to be told of it. The file is read as well, and its position is moved.
///
/// # Errors
/// When `pg_dump` fails, with what it said; [`Error::CutOff`] when not all that it wrote is there, [`Error::NoArchive`] when
/// that is something else.
pub fn dump(
    tools: &Tools,
    info: &ConnInfo,
    host: &Host,
    options: &Options,
    snapshot: &str,
    extent: &Extent,
    archive: File,
) -> Result<Dumped> {
    dump_within(LOCK_TIMEOUT, tools, info, host, options, snapshot, extent, archive)
}

/// How long `pg_dump` waits for locks.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Does the same, and waits for locks for another time.
#[expect(clippy::too_many_arguments, reason = "those of `dump`, and one")]
pub(crate) fn dump_within(
    lock_timeout: Duration,
    tools: &Tools,
    info: &ConnInfo,
    host: &Host,
    options: &Options,
    snapshot: &str,
    extent: &Extent,
    archive: File,
) -> Result<Dumped> {
    let mut command = tools.command("pg_dump", info, host, options);
    command
        .args(["--format=custom", "--compress=0", "--section=pre-data", "--section=post-data"])
        .args(["--no-password", "--encoding=UTF8"])
        .arg(format!("--lock-wait-timeout={}ms", lock_timeout.as_millis()))
        // Up to version 16 it takes large objects for what comes before the rows, later for rows. They are read by us,
        // with their owners and rights, so that it is the same for all.
        .arg("-B")
        .arg(format!("--snapshot={snapshot}"))
        .args(extent.arguments(tools.major));
    let written = archive.try_clone().map_err(cannot_keep_open)?;
    let said = run(command, archive, &options.stop)?;
    // It does not look whether its last bytes could be written.
    let unknown = Archive::check(&written)?;
    Ok(Dumped { warnings: warnings(&said), unknown })
}

/// Returns the warnings of `pg_dump`, each with what it adds to it. Other lines are the server's: what that tells
/// everybody who connects.
fn warnings(said: &str) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    for line in said.lines() {
        let Some(own) = line.strip_prefix("pg_dump: ") else {
            tracing::debug!("pg_dump passed on: {line}");
            continue;
        };
        let addition = own.strip_prefix("detail: ").or_else(|| own.strip_prefix("hint: "));
        match (addition, warnings.last_mut()) {
            (Some(addition), Some(warning)) => *warning += &format!(" ({addition})"),
            _ => warnings.push(own.strip_prefix("warning: ").unwrap_or(own).to_owned()),
        }
    }
    warnings
}

/// Returns an archive, from where it is read next, as SQL text for people. The file for the text is read as well.
///
/// # Errors
/// When `pg_restore` fails, with what it said; [`Error::CutOff`] when not all that it wrote is there.
pub fn render(tools: &Tools, archive: File, text: File, options: &Options) -> Result<()> {
    let mut command: Command = tools.offline("pg_restore");
    command.arg("--file=-").stdin(archive);
    let written = text.try_clone().map_err(cannot_keep_open)?;
    run(command, text, &options.stop)?;
    if !is_whole_text(&written)? {
        return Err(Error::CutOff { program: "pg_restore" });
    }
    Ok(())
}

/// Returns whether a text has the last lines that `pg_restore` writes.
fn is_whole_text(text: &File) -> Result<bool> {
    // Relatives of PostgreSQL have their own name before it.
    const LAST: &[u8] = b" database dump complete";
    // What a newer one has behind it is a line with a random key.
    const BEHIND: usize = 512;
    let read = |source| Error::System { what: "read what pg_restore wrote", source };
    let size = text.metadata().map_err(read)?.len();
    let start = size.saturating_sub(BEHIND as u64);
    let mut end = vec![0; usize::try_from(size - start).unwrap_or(BEHIND)];
    text.read_exact_at(&mut end, start).map_err(read)?;
    Ok(memchr::memmem::find(&end, LAST).is_some())
}

fn cannot_keep_open(source: io::Error) -> Error {
    Error::System { what: "keep a file open", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_dump_warns_of_is_told_and_what_the_server_tells_everybody_is_not() {
        let said = "WARNING:  database \"x\" has a collation version mismatch\nHINT:  Rebuild all objects\n\
                    pg_dump: warning: subscriptions not dumped because current user is not a superuser\n\
                    pg_dump: warning: could not resolve dependency loop among these items:\n\
                    pg_dump: detail:   TABLE a  (ID 1)\npg_dump: hint: look\npg_dump: something else\n";
        assert_eq!(
            warnings(said),
            [
                "subscriptions not dumped because current user is not a superuser",
                "could not resolve dependency loop among these items: (  TABLE a  (ID 1)) (look)",
                "something else",
            ]
        );
        assert_eq!(warnings(""), <[&str; 0]>::default());
    }

    #[test]
    fn text_without_its_last_lines_is_cut_off() {
        let is_whole = |text: &str| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(text.as_bytes(), 0).unwrap();
            is_whole_text(&file).unwrap()
        };
        let end = "--\n-- PostgreSQL database dump complete\n--\n\n";
        assert!(is_whole(end));
        assert!(is_whole(&format!("{}{end}\\unrestrict {}\n\n", "x\n".repeat(1000), "k".repeat(63))));
        for text in ["", "CREATE TABLE", &end[..30], &format!("{end}{}", "CREATE TABLE t ();\n".repeat(100))]
        {
            assert!(!is_whole(text), "{text}");
        }
    }
}
