//! What the tests of restores have in common: a backup in memory, and looks at databases by stock programs.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::{Catalog, Table};
use dbkeep_postgres::conninfo::{ConnInfo, Surroundings};
use dbkeep_postgres::dump::{Dump, PartReceiver, Receiver, plan};
use dbkeep_postgres::extent::Extent;
use dbkeep_postgres::facts::Properties;
use dbkeep_postgres::load::Giver;
use dbkeep_postgres::plan::Part;
use dbkeep_postgres::restore::{Loss, Place, Restore, RestoreOptions};
use dbkeep_postgres::rows::{RowEnd, RowSum};
use dbkeep_postgres::schema::dump;
use dbkeep_postgres::snapshot::Holder;
use dbkeep_postgres::tools::Tools;
use dbkeep_postgres::wire::{Connection, CopyIn, Options};
use dbkeep_postgres::{BoxError, Result};
use dbkeep_testkit::postgres::{Programs, Server};

/// Returns the way to a database, whatever its name holds.
pub(crate) fn info(server: &Server, database: &str) -> ConnInfo {
    info_as(server, database, "postgres")
}

/// Returns the way of a user to a database.
pub(crate) fn info_as(server: &Server, database: &str, user: &str) -> ConnInfo {
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let mut info = ConnInfo::resolve(&server.url("postgres"), &surroundings).unwrap();
    database.clone_into(&mut info.database);
    user.clone_into(&mut info.user);
    info
}

/// Returns the programs for a server.
pub(crate) fn tools(programs: &Programs) -> Tools {
    Tools::find(programs.major, Some(&programs.program("")), None).unwrap()
}

/// Returns what stock `pg_dump` says of a database. Newer ones begin and end it with a word of chance.
pub(crate) fn stock_dump(programs: &Programs, server: &Server, database: &str, what: &str) -> String {
    let mut command = Command::new(programs.program("pg_dump"));
    command.args([what, "-h"]).arg(server.socket_folder()).args([
        "-p",
        &server.port().to_string(),
        "-U",
        "postgres",
    ]);
    let output = command.env("PGDATABASE", database).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let kept =
        text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    kept.filter(|line| !line.starts_with("-- Dumped from")).collect::<Vec<_>>().join("\n")
}

/// The text of all rows, by table.
#[derive(Default)]
pub(crate) struct Rows(pub(crate) Mutex<BTreeMap<String, BTreeMap<usize, Vec<u8>>>>);

struct OnePart<'a> {
    rows: &'a Rows,
    table: String,
    number: usize,
    bytes: Vec<u8>,
}

impl Receiver for Rows {
    fn open(&self, part: &Part, table: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        Ok(Box::new(OnePart {
            rows: self,
            table: table.name.quoted(),
            number: part.number,
            bytes: Vec::new(),
        }))
    }
}

impl PartReceiver for OnePart<'_> {
    fn take(&mut self, bytes: &[u8], _: &[RowEnd]) -> Result<(), BoxError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        self.rows.0.lock().unwrap().entry(self.table).or_default().insert(self.number, self.bytes);
        Ok(())
    }
}

impl Giver for Rows {
    fn pieces(&self, table: &Table) -> Result<usize> {
        Ok(self.0.lock().unwrap().get(&table.name.quoted()).map_or(0, BTreeMap::len))
    }

    fn give(&self, table: &Table, piece: usize, into: &mut CopyIn<'_>) -> Result<()> {
        let bytes = self.0.lock().unwrap()[&table.name.quoted()][&piece].clone();
        into.write(&bytes)
    }
}

/// What a backup of a database is.
pub(crate) struct Backup {
    pub(crate) properties: Properties,
    pub(crate) catalog: Catalog,
    pub(crate) archive: tempfile::NamedTempFile,
    pub(crate) rows: Rows,
    pub(crate) sums: Vec<RowSum>,
}

pub(crate) fn back_up(server: &Server, database: &str, tools: &Tools) -> Backup {
    back_up_by(&info(server, database), tools)
}

/// Backs up the database that this way leads to.
pub(crate) fn back_up_by(info: &ConnInfo, tools: &Tools) -> Backup {
    let options = Options::default();
    let mut holder = Holder::begin(Connection::open(info, &options).unwrap()).unwrap();
    let properties = Properties::read(holder.connection()).unwrap();
    let catalog = Catalog::read(holder.connection()).unwrap();
    let parts = plan(&mut holder, &catalog).unwrap();
    let archive = tempfile::NamedTempFile::new().unwrap();
    let host = holder.connection().host().clone();
    let file = archive.reopen().unwrap();
    dump(tools, info, &host, &options, holder.id(), &Extent::default(), file).unwrap();
    let rows = Rows::default();
    let dump = Dump {
        info,
        options: &options,
        snapshot: holder.id(),
        catalog: &catalog,
        jobs: 3,
        lock_timeout: Duration::from_secs(60),
    };
    let sums = dump.run(parts, &rows).unwrap();
    Backup { properties, catalog, archive, rows, sums }
}

impl Backup {
    pub(crate) fn tables(&self) -> Vec<(&Table, RowSum)> {
        let all = self.catalog.tables.iter().zip(self.sums.iter().copied());
        all.filter(|(table, _)| table.has_rows()).collect()
    }

    /// Begins to restore into a database.
    pub(crate) fn begin(&self, info: &ConnInfo) -> Result<Restore<'_>> {
        let how = RestoreOptions { jobs: 3, ..RestoreOptions::default() };
        let archive = Archive::open(self.archive.path())?;
        Restore::begin(info, &Options::default(), &how, archive, &self.catalog, "4f2a")
    }

    /// Does everything up to the last step.
    pub(crate) fn fill(&self, restore: &mut Restore<'_>, giver: &dyn Giver) -> Result<()> {
        restore.allow_binary();
        restore.create(&self.properties)?;
        restore.before_rows()?;
        let tables = self.tables();
        let only_tables: Vec<&Table> = tables.iter().map(|(table, _)| *table).collect();
        restore.rows(&only_tables, giver)?;
        assert_eq!(restore.after_rows(&tables)?, [], "the rows that were read");
        restore.last()?;
        restore.analyze()
    }

    /// Restores into a new database. Returns what could not be restored.
    pub(crate) fn restore(&self, server: &Server, database: &str) -> Vec<Loss> {
        self.restore_by(&info(server, database))
    }

    /// Does the same on the way of a user.
    pub(crate) fn restore_by(&self, info: &ConnInfo) -> Vec<Loss> {
        let mut restore = self.begin(info).unwrap();
        self.fill(&mut restore, &self.rows).unwrap();
        let promoted = restore.promote(&Place::New).unwrap();
        assert_eq!((promoted.database.as_str(), promoted.before), (info.database.as_str(), None));
        promoted.losses
    }
}

/// Returns a text of `pg_dump` with the rows of each table in order: where they lie in it is not what a backup keeps.
pub(crate) fn with_rows_in_order(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let of_rows = |place: usize| lines[..place].iter().rposition(|line| line.ends_with(" FROM stdin;"));
    let ends = (0..lines.len()).filter(|place| lines[*place] == "\\.");
    let rows: Vec<_> = ends.filter_map(|end| Some(of_rows(end)? + 1..end)).collect();
    for rows in rows {
        lines[rows].sort_unstable();
    }
    lines.join("\n")
}

/// Returns where two texts of `pg_dump` differ: nothing only when they are the same to the last byte. Shown is what one
/// of them says of an object and the other does not; where they say the same, the first object that changed its place.
pub(crate) fn differences(before: &str, after: &str) -> Vec<String> {
    let objects = |text| str::split(text, "\n--\n-- ").collect::<Vec<_>>();
    let (before, after) = (objects(before), objects(after));
    let lost = only_in(&before, &after).into_iter().map(|object| format!("- {object}"));
    let new = only_in(&after, &before).into_iter().map(|object| format!("+ {object}"));
    let found: Vec<String> = lost.chain(new).collect();
    if !found.is_empty() {
        return found;
    }
    let moved = before.iter().zip(&after).find(|(before, after)| before != after);
    moved.map(|(before, after)| format!("moved to where this was: {before}\n{after}")).into_iter().collect()
}

/// Returns what a list has more often than another.
fn only_in<'a>(these: &[&'a str], others: &[&str]) -> Vec<&'a str> {
    let mut others = others.to_vec();
    let is_new = |object: &&&str| match others.iter().position(|other| other == *object) {
        Some(place) => {
            others.swap_remove(place);
            false
        }
        None => true,
    };
    these.iter().filter(is_new).copied().collect()
}

#[test]
fn text_that_changed_its_place_is_a_difference() {
    let dump = |objects: &[&str]| format!("-- begin\n{}", objects.concat());
    let (a, b) = ("\n--\n-- Name: a\n--\n\nid int,\nn int\n", "\n--\n-- Name: b\n--\n\nid int\n");
    assert_eq!(differences(&dump(&[a, b]), &dump(&[a, b])), Vec::<String>::new());
    // What one lost and another gained.
    let (less, more) = (a.replace(",\nn int", ""), b.replace("id int", "id int,\nn int"));
    assert_eq!(differences(&dump(&[a, b]), &dump(&[&less, &more])).len(), 4);
    let columns = a.replace("id int,\nn int", "n int,\nid int");
    assert_eq!(differences(&dump(&[a, b]), &dump(&[&columns, b])).len(), 2);
    assert_eq!(
        differences(&dump(&[a, b]), &dump(&[a, b, b])),
        ["+ Name: b\n--\n\nid int\n"],
        "how often it is there"
    );
    let moved = differences(&dump(&[a, b]), &dump(&[b, a]));
    assert_eq!(moved, ["moved to where this was: Name: a\n--\n\nid int,\nn int\n\nName: b\n--\n\nid int\n"]);
}
