//! Databases for tests: each its own, on servers that all tests of this process share.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::BoxError;
use crate::catalog::{Catalog, Table};
use crate::conninfo::{ConnInfo, Surroundings};
use crate::dump::{PartReceiver, Receiver};
use crate::plan::Part;
use crate::rows::{RowEnd, RowSum};
use crate::snapshot::Holder;
use crate::wire::{Connection, Options};

/// Returns the server of a version, started when it is asked for first. It ends with this process.
fn server(programs: &Programs) -> &'static Server {
    static SERVERS: Mutex<BTreeMap<u32, &'static Server>> = Mutex::new(BTreeMap::new());
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    servers
        .entry(programs.major)
        .or_insert_with(|| Box::leak(Box::new(Server::start(programs, &Settings::default()))))
}

/// A database of its own, and the way to it.
pub(crate) struct Place {
    pub(crate) server: &'static Server,
    pub(crate) name: String,
    pub(crate) info: ConnInfo,
    pub(crate) options: Options,
}

impl Place {
    /// Makes a database on the newest server that is installed.
    pub(crate) fn new(name: &str, sql: &str) -> Option<Self> {
        let newest = Programs::newest();
        if newest.is_none() {
            println!("{SKIPPED}");
        }
        Some(Self::on(&newest?, name, sql))
    }

    /// Makes one on each version that is installed, the oldest first.
    pub(crate) fn on_all(name: &str, sql: &str) -> Vec<Self> {
        let all = Programs::all();
        if all.is_empty() {
            println!("{SKIPPED}");
        }
        all.iter().map(|programs| Self::on(programs, name, sql)).collect()
    }

    pub(crate) fn on(programs: &Programs, name: &str, sql: &str) -> Self {
        let server = server(programs);
        server.create_database(name);
        server.sql(name, sql);
        Self {
            server,
            name: name.to_owned(),
            info: way(server, name, "postgres"),
            options: Options::default(),
        }
    }

    /// Returns the same place for another user.
    pub(crate) fn as_user(&self, user: &str) -> Self {
        Self {
            server: self.server,
            name: self.name.clone(),
            info: way(self.server, &self.name, user),
            options: self.options.clone(),
        }
    }

    /// Returns another database of the same server, which has to be there.
    pub(crate) fn beside(&self, name: &str) -> Self {
        Self {
            server: self.server,
            name: name.to_owned(),
            info: way(self.server, name, &self.info.user),
            options: self.options.clone(),
        }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.name, sql)
    }

    pub(crate) fn open(&self) -> Connection {
        Connection::open(&self.info, &self.options).unwrap()
    }

    pub(crate) fn hold(&self) -> (Holder, Catalog) {
        let mut holder = Holder::begin(self.open()).unwrap();
        let catalog = Catalog::read(holder.connection()).unwrap();
        (holder, catalog)
    }
}

fn way(server: &Server, database: &str, user: &str) -> ConnInfo {
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let (folder, port) = (server.socket_folder().display(), server.port());
    let text = format!("host={folder} port={port} user='{user}' dbname='{database}'");
    ConnInfo::resolve(&text, &surroundings).unwrap()
}

/// Keeps all rows in memory, by table and part.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<(String, usize), Vec<u8>>>);

struct KeptPart<'a> {
    kept: &'a Kept,
    place: (String, usize),
    bytes: Vec<u8>,
}

impl Receiver for Kept {
    fn open(&self, part: &Part, table: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        let place = (table.name.name.clone(), part.number);
        Ok(Box::new(KeptPart { kept: self, place, bytes: Vec::new() }))
    }
}

impl PartReceiver for KeptPart<'_> {
    fn take(&mut self, bytes: &[u8], _: &[RowEnd]) -> Result<(), BoxError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        self.kept.0.lock().unwrap().insert(self.place, self.bytes);
        Ok(())
    }
}

impl Kept {
    pub(crate) fn table(&self, name: &str) -> String {
        let kept = self.0.lock().unwrap();
        let parts = kept.iter().filter(|((table, _), _)| table == name);
        parts.map(|(_, bytes)| String::from_utf8(bytes.clone()).unwrap()).collect()
    }
}
