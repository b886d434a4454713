//! One PostgreSQL database: from a connection to everything of a snapshot but the snapshot itself.
//!
//! One moment is read: its objects by `pg_dump`, its rows by several connections at once. When a table turns out to
//! have been rewritten under the moment, everything begins again at a new one; what is stored by then costs nothing.
//! Nothing of two moments ever comes into one snapshot.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use dbkeep_postgres::catalog::{Catalog, Name, Table};
use dbkeep_postgres::conninfo::Host;
use dbkeep_postgres::dump::{self, Dump};
use dbkeep_postgres::facts::Facts;
use dbkeep_postgres::large_objects;
use dbkeep_postgres::rows::{RowSum, RowSummer};
use dbkeep_postgres::schema::{self, Filter};
use dbkeep_postgres::snapshot::Holder;
use dbkeep_postgres::tools::Tools;
use dbkeep_postgres::wire::{Connection, Options};
use dbkeep_repo::Id;
use dbkeep_repo::format::tree::{Node, Tree};
use dbkeep_repo::write::{NodeMeta, StoredStream, Writer};
use ring::digest::{Context as Digest, SHA256};

use super::Session;
use super::rows::{Cutter, Lengths, Rows};
use super::snapshot::{Contents, Past, Saved, meta};
use crate::context::Watch;
use crate::manifest::{
    Identity, ImageFacts, Integrity, IntegrityResult, PostgresFacts, ServerIdentity, TableProof,
};
use crate::report::TableRows;
use crate::served::{self, ObjectHash};
use crate::source::{Server, Source};
use crate::{Error, Result};

/// How a server is read, for reports.
pub(super) const METHOD: &str = "copy";

/// How often a backup begins again when tables change under it.
const RESTARTS: u32 = 3;

/// Connections that read rows at once.
const JOBS: usize = 4;

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
    /// What is there, without what changes from moment to moment though no row does.
    catalog: Catalog,
    /// The rows of each table of the catalog that has any of its own.
    tables: Vec<Option<StoredRows>>,
    /// What large objects hold and whose they are, where there are any.
    large_objects: Vec<(Name, StoredRows)>,
    archive: tempfile::NamedTempFile,
    tools: Tools,
    notes: Vec<String>,
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
        let deadline = server.timeout.map(|timeout| Instant::now() + timeout);
        let late = move || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let stop = {
            let watch = Arc::clone(watch);
            Arc::new(move || watch.cancelled() || late())
        };
        let options = Options { stop, ..Options::default() };
        let told = |error: Error| match (error, server.timeout) {
            (Error::Postgres(dbkeep_postgres::Error::Stopped), Some(after)) if late() => {
                Error::TimedOut { after }
            }
            (Error::Postgres(dbkeep_postgres::Error::Stopped), _) => Error::Cancelled,
            (error, _) => error,
        };
        let mut restarts = 0;
        loop {
            let saved = self.save_moment(writer, source, server, past, &options, watch).map_err(told);
            match saved {
                Err(Error::Postgres(error @ dbkeep_postgres::Error::Changed { .. }))
                    if restarts < RESTARTS =>
                {
                    restarts += 1;
                    watch.warn(&format!("{}: {error}: it begins again at a new moment", source.name));
                }
                saved => return saved,
            }
        }
    }

    fn save_moment(
        &self,
        writer: &mut Writer<'_>,
        source: &Source,
        server: &Server,
        past: &Past<'_>,
        options: &Options,
        watch: &Watch,
    ) -> Result<Saved> {
        let mut holder = Holder::begin(Connection::open(&server.info, options)?)?;
        let moment = self.clock.now();
        let taken = self.take_moment(writer, source, server, past, (&mut holder, options), watch);
        // Why the storage failed is told by the storage: a thread that stored rows knows only that it did.
        let taken = taken.or_else(|error| writer.check().map_err(Error::from).and(Err(error)))?;
        drop(holder);
        watch.step("backup.rows-read");
        let parent = past.parent.as_ref();
        let (contents, nodes) = self.store_moment(writer, source, &taken, moment)?;
        let manifest = self.describe(source, taken.identity.clone(), moment, &contents);
        self.assemble(writer, source, manifest, (&contents, nodes), parent)
    }

    /// Reads everything of a moment; rows are stored on the way.
    fn take_moment(
        &self,
        writer: &Writer<'_>,
        source: &Source,
        server: &Server,
        past: &Past<'_>,
        (holder, options): (&mut Holder, &Options),
        watch: &Watch,
    ) -> Result<Taken> {
        let facts = Facts::read(holder.connection())?;
        let identity = identity(&facts, holder.connection().host());
        self.refuse_other_database(source, &identity, past)?;
        let variable =
            |name: &str| self.store.context().environment.variable(name).map(std::ffi::OsString::from);
        let tools = Tools::find(facts.major(), server.tools.as_deref(), variable("PATH").as_ref())?;
        let mut catalog = Catalog::read(holder.connection())?;
        let notes = narrow(&mut catalog, server)?;
        let bytes =
            catalog.tables.iter().filter(|table| is_read(table, server)).map(|table| table.bytes).sum();
        watch.phase(&format!("backup {}", source.name), bytes);
        watch.step("backup.captured");

        let archive = tempfile::NamedTempFile::new().map_err(Error::io("make", &std::env::temp_dir()))?;
        let into = archive.reopen().map_err(Error::io("open", archive.path()))?;
        let mut parts = dump::plan(holder, &catalog)?;
        parts.retain(|part| catalog.tables.get(part.table).is_some_and(|table| is_read(table, server)));
        let last = |table: &Table| past.last_chunk_size(&table.name);
        let lengths = Lengths::of(facts.bytes.max(bytes));
        let objects = [large_objects::contents(), large_objects::owners()];
        let known = catalog.tables.iter().chain(&objects).map(last);
        let rows = Rows::new(writer.streams()?, lengths, known, watch);
        let (info, host, snapshot) = (&server.info, holder.connection().host().clone(), holder.id());
        let has_objects = catalog.large_objects > 0 && takes_large_objects(server);
        let (sums, dumped) = thread::scope(|scope| {
            let dump = || schema::dump(&tools, info, &host, options, snapshot, &server.filter, into);
            let dumping = thread::Builder::new().name("objects".to_owned()).spawn_scoped(scope, dump);
            let dump = Dump { info, options, snapshot, catalog: &catalog, jobs: JOBS };
            let sums = dump.run(parts, &rows).and_then(|sums| {
                let of_objects = has_objects.then(|| dump.large_objects(&rows)).transpose()?;
                Ok((sums, of_objects))
            });
            let dumped = dumping
                .map_err(Error::io("start a thread for", Path::new("pg_dump")))
                .and_then(|dumping| dumping.join().unwrap_or_else(|_| Err(panicked())).map_err(Error::from));
            (sums, dumped)
        });
        let (sums, of_objects) = sums?;
        dumped?;
        let mut stored = rows.finish().into_iter();
        let mut tables = Vec::with_capacity(sums.len());
        for ((rows, sum), table) in stored.by_ref().zip(sums).zip(&catalog.tables) {
            let rows = rows.map(|(stream, chunk_size)| StoredRows { stream, chunk_size, sum });
            if rows.is_none() && is_read(table, server) {
                return Err(did_not_come(&table.name));
            }
            tables.push(rows);
        }
        let mut large_objects = Vec::new();
        if let Some(sums) = of_objects {
            for ((rows, sum), table) in stored.zip([sums.contents, sums.owners]).zip(objects) {
                let (stream, chunk_size) = rows.ok_or_else(|| did_not_come(&table.name))?;
                large_objects.push((table.name, StoredRows { stream, chunk_size, sum }));
            }
        }
        Ok(Taken { facts, identity, catalog, tables, large_objects, archive, tools, notes })
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
        nodes.push(writer.save_file(
            served::CATALOG,
            &served::encode_catalog(&taken.catalog, &proofs),
            &meta,
        )?);
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
        let path = taken.archive.path();
        let text = tempfile::tempfile().map_err(Error::io("make", &std::env::temp_dir()))?;
        let into = text.try_clone().map_err(Error::io("open", path))?;
        schema::render(&taken.tools, path, into, &Options::default())?;
        let archive = File::open(path).map_err(Error::io("open", path))?;
        for (name, file) in [(served::ARCHIVE, archive), (served::TEXT, rewound(&text, path)?)] {
            let stream = store_text(writer, file, path)?;
            nodes.extend(writer.save_stream_nodes(&stream, name, meta)?);
            total.bytes_added += stream.bytes_added;
            total.bytes_stored += stream.bytes_stored;
        }
        let mut hash = ObjectHash::default();
        each_piece(rewound(&text, path)?, path, |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        Ok(hash.finish())
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

/// Connects for a moment. Returns the size of the database, and what a person should know.
pub(super) fn look(server: &Server) -> Result<(u64, Vec<String>)> {
    let mut holder = Holder::begin(Connection::open(&server.info, &Options::default())?)?;
    let facts = Facts::read(holder.connection())?;
    let mut catalog = Catalog::read(holder.connection())?;
    let notes = narrow(&mut catalog, server)?;
    let bytes = catalog.tables.iter().filter(|table| is_read(table, server)).map(|table| table.bytes).sum();
    Ok((if facts.bytes == 0 { bytes } else { facts.bytes.min(bytes.max(1)) }, notes))
}

/// Leaves out what is not meant. Returns what a person should know; what cannot be read is an error.
fn narrow(catalog: &mut Catalog, server: &Server) -> Result<Vec<String>> {
    let filter: &Filter = &server.filter;
    let mut notes = Vec::new();
    for name in dbkeep_postgres::catalog::missing(catalog, &filter.tables) {
        notes.push(format!("there is no table {}", name.quoted()));
    }
    catalog.tables.retain(|table| filter.takes(&table.name));
    let excluded = |table: &Table| server.exclude_data.contains(&table.name);
    let unreadable =
        |table: &&Table| table.has_rows() && !excluded(table) && (!table.readable || table.hidden);
    let unreadable: Vec<&Table> = catalog.tables.iter().filter(unreadable).collect();
    if let Some(first) = unreadable.first() {
        return Err(served::unreadable(first, unreadable.len(), &server.info.user));
    }
    for table in &catalog.tables {
        if table.kind == dbkeep_postgres::catalog::Kind::Foreign {
            notes.push(format!(
                "{} is on another server: its rows are not in the snapshot",
                table.name.quoted()
            ));
        }
    }
    for name in &server.exclude_data {
        notes.push(format!("the rows of {} are left out, as configured", name.quoted()));
    }
    if catalog.large_objects > 0 && !takes_large_objects(server) {
        notes.push("large objects belong to no schema or table, so they are not in the snapshot".to_owned());
    }
    Ok(notes)
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

/// Says whether large objects, which belong to no schema, are meant.
fn takes_large_objects(server: &Server) -> bool {
    server.filter.schemas.is_empty() && server.filter.tables.is_empty()
}

/// Says whether the rows of a table are to be read.
fn is_read(table: &Table, server: &Server) -> bool {
    table.has_rows() && !server.exclude_data.contains(&table.name)
}

fn identity(facts: &Facts, host: &Host) -> Identity {
    Identity::Server(ServerIdentity {
        server: format!("{}:{}", host.name(), host.port),
        system: facts.system_identifier.clone(),
        database: facts.database.clone(),
        oid: facts.database_oid,
    })
}

fn panicked() -> dbkeep_postgres::Error {
    dbkeep_postgres::Error::Receiver("the thread of pg_dump panicked".into())
}

/// Returns the begin of a file that was written.
fn rewound(file: &File, path: &Path) -> Result<File> {
    let mut file = file.try_clone().map_err(Error::io("open", path))?;
    file.rewind().map_err(Error::io("read", path))?;
    Ok(file)
}

/// Stores what consists of lines, cut at lines.
fn store_text(writer: &Writer<'_>, file: File, path: &Path) -> Result<StoredStream> {
    let mut stream = writer.streams()?.open();
    let (mut cutter, mut summer) = (Cutter::new(TEXT_CHUNK), RowSummer::default());
    let stored = each_piece(file, path, |bytes| {
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
fn each_piece(mut file: File, path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
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
        root: Id::new(digest.finish().as_ref().try_into().unwrap_or_default()),
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
            not_covered: Vec::new(),
        }),
        image,
        tables,
        integrity: Integrity { result: IntegrityResult::Ok, level: "rows".to_owned(), problems: vec![] },
        notes: taken.notes.clone(),
        bytes_read: size,
        bytes_added: total.bytes_added,
        bytes_stored: total.bytes_stored,
    }
}
