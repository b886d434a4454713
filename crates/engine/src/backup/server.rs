//! One PostgreSQL database: from a connection to everything of a snapshot but the snapshot itself.
//!
//! One moment is read: its objects by `pg_dump`, its rows by several connections at once. When a table turns out to
//! have been rewritten under the moment, or somebody waits for us, everything begins again at a new one; what is stored
//! by then costs nothing. Nothing of two moments ever comes into one snapshot.

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbkeep_postgres::Error as Postgres;
use dbkeep_postgres::capture::{Capture, CaptureOptions, Gap, NotCovered};
use dbkeep_postgres::catalog::{Catalog, Name};
use dbkeep_postgres::facts::Facts;
use dbkeep_postgres::globals::Globals;
use dbkeep_postgres::large_objects;
use dbkeep_postgres::locks::Locks;
use dbkeep_postgres::rows::{RowSum, RowSummer};
use dbkeep_postgres::schema::{self, Filter};
use dbkeep_postgres::tools::{HOLE, Tools};
use dbkeep_postgres::wire::{Options, Stop};
use dbkeep_repo::Id;
use dbkeep_repo::format::tree::{Node, Tree};
use dbkeep_repo::write::{NodeMeta, StoredStream, Writer};
use ring::digest::{Context as Digest, SHA256};

use super::Session;
use super::rows::{Cutter, Lengths, Rows};
use super::snapshot::{Contents, Past, Saved, meta};
use crate::context::Watch;
use crate::manifest::{
    self, Identity, ImageFacts, Integrity, IntegrityResult, PostgresFacts, Selection, ServerIdentity,
    TableProof,
};
use crate::report::TableRows;
use crate::served::{self, ObjectHash};
use crate::source::server::jobs;
use crate::source::{Server, Source};
use crate::{Error, Result, name};

/// How a server is read, for reports.
pub(super) const METHOD: &str = "copy";

/// How often a backup begins again when tables change under it.
const RESTARTS: u32 = 3;

/// The length of chunks of what is no table.
const TEXT_CHUNK: u32 = 16 << 10;

/// The rows of a table in the repository.
struct StoredRows {
    stream: StoredStream,
    chunk_size: u32,
    sum: RowSum,
}

/// What a moment came to.
struct Taken {
    facts: Facts,
    identity: Identity,
    catalog: Catalog,
    /// The rows of each table of the catalog that has any of its own.
    tables: Vec<Option<StoredRows>>,
    /// What large objects hold and whose they are, where there are any.
    large_objects: Vec<(Name, StoredRows)>,
    /// Its objects, in a file without a name: whatever ends this process, nothing is left.
    archive: File,
    globals: Globals,
    tools: Tools,
    notes: Vec<String>,
    /// What is told of the archive where nothing but `pg_restore` reads it; one of the notes.
    unknown: Option<String>,
    not_covered: Vec<String>,
    selection: Selection,
}

impl Session<'_> {
    /// Stores a database of a server with its manifest. The snapshot is returned, not made.
    pub(crate) fn save_server(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        server: &Server,
        past: &Past<'_>,
        watch: &Watch,
    ) -> Result<Saved> {
        let limit = Limit::of(server, watch);
        let how = self.capture_of(server, Options { stop: limit.stop(), ..Options::default() });
        let (mut restarts, mut is_warned) = (0, false);
        loop {
            let capture = Capture::begin(&server.info, &how).map_err(Error::from);
            let saved = capture.and_then(|capture| {
                if !std::mem::replace(&mut is_warned, true) {
                    warn_of_hole(&source.name, capture.tools(), watch);
                }
                self.save_moment(writer, source, server, past, capture, watch)
            });
            let saved = saved.map_err(|error| limit.told(error));
            match saved {
                Err(Error::Postgres(error @ (Postgres::Changed { .. } | Postgres::Yielded { .. })))
                    if restarts < RESTARTS =>
                {
                    restarts += 1;
                    watch.warn(&format!("{}: {error}: it begins again at a new moment", source.name));
                }
                saved => return saved,
            }
        }
    }

    /// Returns how a database is read.
    fn capture_of(&self, server: &Server, options: Options) -> CaptureOptions {
        let path = self.store.context().environment.variable("PATH");
        CaptureOptions {
            locks: if self.yields { Locks::Yield } else { Locks::Strict },
            path: path.map(std::ffi::OsString::from),
            options,
            ..capture_options(server)
        }
    }

    fn save_moment(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        server: &Server,
        past: &Past<'_>,
        capture: Capture,
        watch: &Watch,
    ) -> Result<Saved> {
        let moment = self.clock.now();
        let identity = identity(&capture);
        self.refuse_other_database(source, &identity, past)?;
        let bytes = capture.catalog().with_rows().map(|table| table.bytes).sum();
        watch.phase(&format!("backup {}", source.name), bytes);
        watch.step("backup.captured");
        let selection = selection(&server.filter);
        let taken = take_moment(writer, capture, (identity, selection), past, watch);
        // Why the storage failed is told by the storage: a thread that stored rows knows only that it did.
        let taken = taken.or_else(|error| writer.check().map_err(Error::from).and(Err(error)))?;
        watch.step("backup.rows-read");
        // Whoever restores reads no notes of the safety backup, and may need it next.
        if let Some(unknown) = taken.unknown.as_ref().filter(|_| self.is_safety_backup()) {
            watch.warn(&format!("safety backup of {}: {unknown}", source.name));
        }
        let (contents, nodes) = self.store_moment(writer, source, &taken, moment)?;
        let manifest = self.describe(source, taken.identity.clone(), moment, &contents);
        self.assemble(writer, source, manifest, (&contents, nodes), past.parent.as_ref())
    }

    /// Stores what is not stored yet of a moment. Returns the nodes of the snapshot's directory.
    fn store_moment(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        taken: &Taken,
        moment: jiff::Timestamp,
    ) -> Result<(Contents, Vec<Node>)> {
        let meta = meta(source, moment);
        let mut nodes = Vec::new();
        let mut total = StoredStream::default();
        let mut proofs = Vec::new();
        for (table, rows) in taken.catalog.tables.iter().zip(&taken.tables) {
            let Some(rows) = rows else { continue };
            proofs.push(store_rows(writer, &table.name, rows, &meta, (&mut nodes, &mut total))?);
        }
        let mut large_objects = Vec::new();
        for (name, rows) in &taken.large_objects {
            large_objects.push(store_rows(writer, name, rows, &meta, (&mut nodes, &mut total))?);
        }
        let data = NodeMeta { mtime: jiff::Timestamp::UNIX_EPOCH, ..meta.clone() };
        let mut nodes = vec![data.directory(served::DATA, writer.save_tree(&Tree { nodes })?)];
        let objects = self.store_objects(writer, taken, &meta, &mut nodes, &mut total)?;
        for (name, text) in
            [(served::GLOBALS, taken.globals.server_sql()), (served::SETTINGS, taken.globals.database_sql())]
        {
            nodes.push(writer.save_file(name, text.as_bytes(), &meta)?);
        }
        let catalog = served::encode_catalog(&taken.catalog, &proofs, &taken.globals.attributes);
        manifest::ensure_readable(&catalog)?;
        nodes.push(writer.save_file(served::CATALOG, &catalog, &meta)?);
        let contents = contents(taken, proofs, large_objects, objects, &total);
        nodes.push(writer.save_file(
            served::README,
            served::readme(source, moment, &contents).as_bytes(),
            &meta,
        )?);
        Ok((contents, nodes))
    }

    /// Stores the archive of objects, and the same as text. Returns the hash of the text.
    fn store_objects(
        &self,
        writer: &mut Writer<'_>,
        taken: &Taken,
        meta: &NodeMeta,
        nodes: &mut Vec<Node>,
        total: &mut StoredStream,
    ) -> Result<Id> {
        let text = tempfile::tempfile().map_err(Error::temporary)?;
        let into = text.try_clone().map_err(Error::temporary)?;
        schema::render(&taken.tools, rewound(&taken.archive)?, into, &Options::default())?;
        // One after the other: the two share where they are read.
        for (name, file) in [(served::ARCHIVE, &taken.archive), (served::TEXT, &text)] {
            let file = rewound(file)?;
            let stream = store_text(writer, file)?;
            nodes.extend(writer.save_stream_nodes(&stream, name, meta)?);
            total.bytes_added += stream.bytes_added;
            total.bytes_stored += stream.bytes_stored;
        }
        let mut hash = ObjectHash::default();
        each_piece(rewound(&text)?, |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        Ok(hash.finish())
    }
}

/// What ends the reading of a server: somebody who interrupts it, or the time that it may take.
struct Limit<'w> {
    watch: &'w Watch,
    deadline: Option<(Instant, Duration)>,
}

impl<'w> Limit<'w> {
    /// The time begins now.
    fn of(server: &Server, watch: &'w Watch) -> Self {
        Self { watch, deadline: server.timeout.map(|timeout| (Instant::now() + timeout, timeout)) }
    }

    /// Returns what is asked by all connections and programs.
    fn stop(&self) -> Stop {
        let (watch, deadline) = (Arc::clone(self.watch), self.deadline);
        Arc::new(move || watch.cancelled() || deadline.is_some_and(|(at, _)| Instant::now() >= at))
    }

    /// Says why it was ended, where it was.
    fn told(&self, error: Error) -> Error {
        match (error, self.deadline) {
            (Error::Postgres(Postgres::Stopped), Some((at, after))) if Instant::now() >= at => {
                Error::TimedOut { after }
            }
            (Error::Postgres(Postgres::Stopped), _) => Error::Cancelled,
            (Error::Postgres(Postgres::Receiver(_)), _) if self.watch.cancelled() => Error::Cancelled,
            (error, _) => error,
        }
    }
}

/// Warns of programs that lack a known fix. They are used: what they read here is what they wrote themselves.
fn warn_of_hole(name: &str, tools: &Tools, watch: &Watch) {
    if let Some(first) = tools.lacks_fix() {
        let version = &tools.version;
        watch.warn(&format!(
            "{name}: pg_dump {version} and its pg_restore lack a known security fix ({HOLE}): install {first} or \
             newer; the backup goes on, because it reads no archive but its own"
        ));
    }
}

/// Reads everything of a moment, and ends it; rows are stored on the way.
fn take_moment(
    writer: &Writer<'_>,
    capture: Capture,
    (identity, selection): (Identity, Selection),
    past: &Past<'_>,
    watch: &Watch,
) -> Result<Taken> {
    let (facts, catalog) = (capture.facts().clone(), capture.catalog().clone());
    let archive = tempfile::tempfile().map_err(Error::temporary)?;
    let into = archive.try_clone().map_err(Error::temporary)?;
    let bytes = catalog.with_rows().map(|table| table.bytes).sum();
    let lengths = Lengths::of(facts.bytes.max(bytes));
    let objects = [large_objects::contents(), large_objects::owners()];
    let known = catalog.tables.iter().chain(&objects).map(|table| past.last_chunk_size(&table.name));
    let rows = Rows::new(writer.streams()?, lengths, &catalog, known, watch);
    // First, since it is over soon and may fail.
    let globals = capture.globals()?;
    let (sums, of_objects) = capture.read(into, &rows)?;
    let of_objects = (catalog.large_objects > 0).then_some(of_objects);
    let tools = capture.tools().clone();
    let missing = capture.missing().iter().map(|what| told_missing(what));
    let unknown = capture.unknown_archive().map(served::told_unknown);
    let notes = missing.chain(unknown.clone()).collect();
    let not_covered = capture.not_covered();
    capture.finish()?;

    let mut stored = rows.finish().into_iter();
    let mut tables = Vec::with_capacity(sums.len());
    // In this order: a zip takes one more of what stands first.
    for ((sum, table), rows) in sums.into_iter().zip(&catalog.tables).zip(stored.by_ref()) {
        let rows = rows.map(|(stream, chunk_size)| StoredRows { stream, chunk_size, sum });
        if rows.is_none() && table.has_rows() && !is_left_out(&table.name, &not_covered) {
            return Err(did_not_come(&table.name));
        }
        tables.push(rows);
    }
    let mut large_objects = Vec::new();
    if let Some(sums) = of_objects {
        for ((sum, table), rows) in [sums.contents, sums.owners].into_iter().zip(objects).zip(stored) {
            let (stream, chunk_size) = rows.ok_or_else(|| did_not_come(&table.name))?;
            large_objects.push((table.name, StoredRows { stream, chunk_size, sum }));
        }
    }
    let not_covered = not_covered.iter().map(told_gap).chain(globals.not_read.iter().cloned()).collect();
    Ok(Taken {
        facts,
        identity,
        catalog,
        tables,
        large_objects,
        archive,
        globals,
        tools,
        notes,
        unknown,
        not_covered,
        selection,
    })
}

/// Returns what of a database was asked for, for the manifest.
fn selection(filter: &Filter) -> Selection {
    let names = |names: &[Name]| names.iter().map(served::shown).collect();
    Selection {
        schemas: filter.schemas.clone(),
        tables: names(&filter.tables),
        exclude: names(&filter.without),
    }
}

impl Past<'_> {
    /// Returns the length of the chunks of a table in the last backup.
    fn last_chunk_size(&self, name: &Name) -> Option<u32> {
        let facts = self.parent.as_ref()?.manifest.as_ref()?.postgres.as_ref()?;
        let table =
            facts.tables.iter().find(|table| table.schema == name.schema && table.name == name.name)?;
        Some(table.chunk_size)
    }
}

/// Returns how a database is read, but for what a session adds.
pub(crate) fn capture_options(server: &Server) -> CaptureOptions {
    let default = CaptureOptions::default();
    CaptureOptions {
        filter: server.filter.clone(),
        exclude_data: server.exclude_data.clone(),
        lock_timeout: server.lock_timeout.unwrap_or(default.lock_timeout),
        jobs: jobs(),
        tools: server.tools.clone(),
        ..default
    }
}

/// Connects for a moment. Returns the size of the rows, and what a person should know.
pub(super) fn look(server: &Server, path: Option<&str>, watch: &Watch) -> Result<(u64, Vec<String>)> {
    let limit = Limit::of(server, watch);
    let how = CaptureOptions {
        // It is only looked at.
        locks: Locks::Yield,
        path: path.map(std::ffi::OsString::from),
        options: Options { stop: limit.stop(), ..Options::default() },
        ..capture_options(server)
    };
    let capture = Capture::begin(&server.info, &how).map_err(|error| limit.told(error.into()))?;
    let bytes = capture.catalog().with_rows().map(|table| table.bytes).sum();
    let missing = capture.missing().iter().map(|what| told_missing(what));
    let notes = missing.chain(capture.not_covered().iter().map(told_gap)).collect();
    capture.finish()?;
    Ok((bytes, notes))
}

fn told_missing(what: &str) -> String {
    format!("{} was asked for and is not there", name::printable(what))
}

/// Tells what is not in a snapshot, and why.
fn told_gap(gap: &NotCovered) -> String {
    let what = name::printable(&gap.what);
    match gap.why {
        Gap::Foreign => format!("{what}: its rows are on another server, and not in the snapshot"),
        Gap::ExcludedData => format!("{what}: its rows are left out, as configured"),
        Gap::UnloggedOnStandby => format!("{what}: a standby has no rows of an unlogged table"),
        Gap::UnloggedSequence => format!("{what}: a standby does not know where an unlogged sequence stands"),
        Gap::OfExtension => {
            format!(
                "{what}: its rows are not in the snapshot, since the extension does not call them the user's"
            )
        }
        Gap::NotAskedFor => {
            format!("{what}: they belong to no table or schema, and only some were asked for")
        }
        Gap::Form => format!("{what}: only its form is in the snapshot, because others need it"),
        Gap::NotSupported => format!("{what}: they are not in the snapshot"),
        Gap::Withheld => {
            format!("{what}: not in the snapshot, since only a superuser or the owner may read it")
        }
        Gap::Warning => format!("pg_dump warns: {what}"),
    }
}

/// Says whether the rows of a table are left out, and that is told.
fn is_left_out(table: &Name, gaps: &[NotCovered]) -> bool {
    gaps.iter().any(|gap| gap.what == table.quoted() && gap.why != Gap::NotAskedFor)
}

/// Returns which database is read.
pub(crate) fn identity(capture: &Capture) -> Identity {
    let (facts, host) = (capture.facts(), capture.host());
    Identity::Server(ServerIdentity {
        server: format!("{}:{}", host.name(), host.port),
        system: facts.system_identifier.clone(),
        database: facts.database.clone(),
        oid: facts.database_oid,
    })
}

/// Stores which chunks are the rows of a table. Returns its proof.
fn store_rows(
    writer: &mut Writer<'_>,
    name: &Name,
    rows: &StoredRows,
    meta: &NodeMeta,
    (nodes, total): (&mut Vec<Node>, &mut StoredStream),
) -> Result<TableProof> {
    let file = served::file_name(name);
    nodes.extend(writer.save_stream_nodes(&rows.stream, &file, meta)?);
    total.append(rows.stream.clone());
    Ok(TableProof {
        schema: name.schema.clone(),
        name: name.name.clone(),
        file,
        rows: rows.sum.rows,
        hash: rows.sum.hash.to_string(),
        size: rows.stream.size,
        chunk_size: rows.chunk_size,
        root: rows.stream.root(),
    })
}

fn did_not_come(table: &Name) -> Error {
    dbkeep_postgres::Error::Receiver(format!("rows of {} did not come", table.quoted()).into()).into()
}

/// Returns the begin of a file that was written.
fn rewound(file: &File) -> Result<File> {
    let mut file = file.try_clone().map_err(Error::temporary)?;
    file.rewind().map_err(Error::temporary)?;
    Ok(file)
}

/// Stores what consists of lines, cut at lines.
fn store_text(writer: &Writer<'_>, file: File) -> Result<StoredStream> {
    let mut stream = writer.streams()?.open();
    let (mut cutter, mut summer) = (Cutter::new(TEXT_CHUNK), RowSummer::default());
    let stored = each_piece(file, |bytes| {
        let mut start = 0;
        for end in summer.update(bytes) {
            stream.write(&bytes[start..end.at])?;
            if cutter.take((end.at - start) as u64, end.hash) {
                stream.cut()?;
            }
            start = end.at;
        }
        cutter.pass((bytes.len() - start) as u64);
        Ok(stream.write(&bytes[start..])?)
    });
    let stored = stored.and_then(|()| Ok(stream.finish()?));
    stored.or_else(|error| writer.check().map_err(Error::from).and(Err(error)))
}

/// Gives a file piece by piece.
fn each_piece(mut file: File, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(Error::temporary)? {
            0 => return Ok(()),
            count => take(&buffer[..count])?,
        }
    }
}

/// Puts together what is known of a moment.
fn contents(
    taken: &Taken,
    proofs: Vec<TableProof>,
    large_objects: Vec<TableProof>,
    objects: Id,
    total: &StoredStream,
) -> Contents {
    let tables: Vec<TableRows> = proofs
        .iter()
        .map(|proof| TableRows { name: served::shown(&proof.table()), rows: proof.rows })
        .collect();
    let mut digest = Digest::new(&SHA256);
    digest.update(objects.as_bytes());
    let all = || proofs.iter().chain(&large_objects);
    all().for_each(|proof| digest.update(proof.root.as_bytes()));
    let size = all().map(|proof| proof.size).sum();
    let image = ImageFacts {
        name: served::DATA.to_owned(),
        size,
        chunk_size: 0,
        chunks: total.pieces.len() as u64,
        parts: 0,
        root: Id::new(digest.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes")),
        sha256: None,
        method: METHOD.to_owned(),
        raw: false,
    };
    Contents {
        sqlite: None,
        postgres: Some(PostgresFacts {
            server: taken.facts.clone(),
            tools: taken.tools.version.clone(),
            objects,
            tables: proofs,
            large_objects,
            not_covered: taken.not_covered.clone(),
            selection: taken.selection.clone(),
        }),
        image,
        tables,
        integrity: Integrity { result: IntegrityResult::Ok, level: "rows".to_owned(), problems: vec![] },
        notes: taken.notes.iter().chain(&taken.not_covered).cloned().collect(),
        bytes_read: size,
        bytes_added: total.bytes_added,
        bytes_stored: total.bytes_stored,
    }
}
