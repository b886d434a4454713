//! Knows what a workload database holds after `n` transactions, without SQLite.
//!
//! The model sees the same transactions as the database and keeps the digest up to
//! date row by row. It remembers the digest and the chain link after every single
//! transaction, so that asking for any prefix costs nothing.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;

use super::digest::{self, Digest, Row, SCHEMA, Sum};
use super::plan::{self, ACCOUNTS, Ddl, EXTRA_ROWS, Link, OPENING_BALANCE, Op};
use super::sql;

/// The state after a number of transactions, and the digests of all states before.
pub(super) struct Model {
    seed: u64,
    history: Vec<(Sum, Link)>,
    digest: Digest,
    accounts: Vec<(i64, u64)>,
    rows: HashMap<(&'static str, i64), Sum>,
    /// Transactions whose events are still there: first and last.
    events: (u64, HashMap<u64, Sum>),
    extras: BTreeMap<u64, Extra>,
    user_version: i64,
}

/// How far the life of one table that comes and goes has got.
#[derive(Clone, Copy, Default)]
struct Extra {
    generation: u64,
    indexed: bool,
    default: Option<i64>,
    touched: bool,
    renamed: bool,
    column_renamed: bool,
    viewed: bool,
}

impl Model {
    /// Returns the state before the first transaction.
    pub(super) fn new(seed: u64) -> rusqlite::Result<Self> {
        // The schema before the first transaction is taken from SQLite itself:
        // it lists the tables that FTS5 and R-tree make for themselves.
        let mut blank = Connection::open_in_memory()?;
        sql::set_up(&mut blank, seed)?;
        let (_, link) = sql::head(&blank)?;
        let digest = Digest::of(&blank)?;
        Ok(Self {
            seed,
            history: vec![(digest.total, link)],
            digest,
            accounts: vec![(OPENING_BALANCE, 0); ACCOUNTS as usize],
            rows: HashMap::new(),
            events: (1, HashMap::new()),
            extras: BTreeMap::new(),
            user_version: 0,
        })
    }

    /// Returns the digest after `n` transactions and the link of transaction `n`.
    pub(super) fn after(&mut self, n: u64) -> (Sum, Link) {
        while (self.history.len() as u64) <= n {
            self.step();
        }
        self.history[n as usize]
    }

    /// Returns the digest by table after the transactions seen so far.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    fn step(&mut self) {
        let seq = self.history.len() as u64;
        let ops = plan::transaction(self.seed, seq);
        let previous = self.history.last().expect("the state before the first transaction is there").1;
        let link = plan::link(&previous, seq, &ops);
        self.write_ledger(seq, &previous, &link, ops.len());
        for op in ops {
            self.apply(seq, &op);
        }
        self.history.push((self.digest.total, link));
    }

    fn write_ledger(&mut self, seq: u64, previous: &Link, link: &Link, changes: usize) {
        let number = seq as i64;
        let head = |seq: i64, link: &Link| Row::of("head").integer(1).integer(seq).blob(link).sum();
        let sequence = |seq: i64| Row::of("sqlite_sequence").text("events").integer(seq).sum();
        self.digest.add("ledger", Row::of("ledger").integer(number).blob(link).sum());
        self.digest.remove("head", head(number - 1, previous));
        self.digest.add("head", head(number, link));
        if seq > 1 {
            self.digest.remove("sqlite_sequence", sequence(number - 1));
        }
        self.digest.add("sqlite_sequence", sequence(number));
        let event =
            Row::of("events").integer(number).integer(number).text(&format!("{changes} changes")).sum();
        self.digest.add("events", event);
        self.events.1.insert(seq, event);
    }

    fn apply(&mut self, seq: u64, op: &Op) {
        let number = seq as i64;
        match op {
            Op::Transfer { from, to, amount } => {
                self.pay(*from, -amount, seq);
                self.pay(*to, *amount, seq);
            }
            Op::PutBlob { id, body } => {
                let row = Row::of("blobs").integer(*id).integer(number).blob(body);
                self.put("blobs", *id, row.integer(body.len() as i64).sum());
            }
            Op::DeleteBlob { id } => self.delete("blobs", *id),
            Op::PutEntry { shelf, place, value } => {
                let row = Row::of("entries").text(shelf).integer(*place).integer(number).text(value);
                self.put("entries", entry_key(shelf, *place), row.sum());
            }
            Op::DeleteEntry { shelf, place } => self.delete("entries", entry_key(shelf, *place)),
            Op::PutItem { id, name, price, quantity } => {
                let row = Row::of("items").integer(*id).text(name).integer(*price).integer(*quantity);
                let row = row.integer(price * quantity).text(&format!("{name} #{id}"));
                self.put("items", *id, row.sum());
            }
            Op::DeleteItem { id } => self.delete("items", *id),
            Op::PutNote { id, title, body } => {
                self.put("notes", *id, Row::of("notes").integer(*id).text(title).text(body).sum());
            }
            Op::DeleteNote { id } => self.delete("notes", *id),
            Op::PutBox { id, edges } => {
                let row = Row::of("boxes").integer(*id).integer(*id);
                let row = edges.iter().fold(row, |row, edge| row.real(f64::from(*edge)));
                self.put("boxes", *id, row.sum());
            }
            Op::DeleteBox { id } => self.delete("boxes", *id),
            Op::TrimEvents { up_to } => self.trim_events(*up_to),
            Op::SetUserVersion { version } => {
                self.digest.remove(digest::HEADER, digest::user_version(self.user_version));
                self.user_version = i64::from(*version);
                self.digest.add(digest::HEADER, digest::user_version(self.user_version));
            }
            Op::Ddl(ddl) => self.apply_ddl(*ddl),
        }
    }

    fn pay(&mut self, account: i64, amount: i64, seq: u64) {
        let row = |(balance, touched): (i64, u64)| {
            Row::of("accounts").integer(account).integer(balance).integer(touched as i64).sum()
        };
        let state = &mut self.accounts[account as usize];
        self.digest.remove("accounts", row(*state));
        *state = (state.0 + amount, seq);
        self.digest.add("accounts", row(*state));
    }

    fn put(&mut self, table: &'static str, key: i64, row: Sum) {
        if let Some(old) = self.rows.insert((table, key), row) {
            self.digest.remove(table, old);
        }
        self.digest.add(table, row);
    }

    fn delete(&mut self, table: &'static str, key: i64) {
        if let Some(old) = self.rows.remove(&(table, key)) {
            self.digest.remove(table, old);
        }
    }

    fn trim_events(&mut self, up_to: u64) {
        for seq in self.events.0..=up_to {
            let event = self.events.1.remove(&seq).expect("every transaction wrote an event");
            self.digest.remove("events", event);
        }
        self.events.0 = up_to + 1;
    }

    fn apply_ddl(&mut self, ddl: Ddl) {
        let generation = match ddl {
            Ddl::Create { generation }
            | Ddl::Index { generation }
            | Ddl::AddColumn { generation, .. }
            | Ddl::Touch { generation }
            | Ddl::Rename { generation }
            | Ddl::RenameColumn { generation }
            | Ddl::View { generation }
            | Ddl::Drop { generation } => generation,
        };
        if let Some(extra) = self.extras.remove(&generation) {
            extra.all_rows(self.seed).iter().for_each(|(table, row)| self.digest.remove(table, *row));
            if ddl == (Ddl::Drop { generation }) {
                return;
            }
            let extra = extra.after(ddl);
            self.extras.insert(generation, extra);
        } else {
            self.extras.insert(generation, Extra { generation, ..Extra::default() });
        }
        let rows = self.extras[&generation].all_rows(self.seed);
        rows.iter().for_each(|(table, row)| self.digest.add(table, *row));
    }
}

fn entry_key(shelf: &str, place: i64) -> i64 {
    let shelf: i64 = shelf.trim_start_matches("shelf-").parse().expect("a shelf is named by its number");
    shelf * 1_000_000 + place
}

impl Extra {
    fn after(mut self, ddl: Ddl) -> Self {
        match ddl {
            Ddl::Index { .. } => self.indexed = true,
            Ddl::AddColumn { default, .. } => self.default = Some(default),
            Ddl::Touch { .. } => self.touched = true,
            Ddl::Rename { .. } => self.renamed = true,
            Ddl::RenameColumn { .. } => self.column_renamed = true,
            Ddl::View { .. } => {
                self.indexed = false;
                self.viewed = true;
            }
            Ddl::Create { .. } | Ddl::Drop { .. } => {}
        }
        self
    }

    fn table(&self) -> String {
        format!("{}_{}", if self.renamed { "kept" } else { "extra" }, self.generation)
    }

    /// The rows of the table and those of the schema that belong to it.
    fn all_rows(&self, seed: u64) -> Vec<(String, Sum)> {
        let mut rows = self.schema_rows();
        let table = self.table();
        let created = plan::created_at(self.generation);
        for a in 0..EXTRA_ROWS {
            let (mut text, bytes) = plan::extra_row(seed, created, a);
            if self.touched && a % 2 == 0 {
                text.push('!');
            }
            let mut row = Row::of(&table).integer(a as i64).text(&text).blob(&bytes);
            if let Some(default) = self.default {
                row = row.integer(default);
            }
            rows.push((table.clone(), row.sum()));
        }
        rows
    }

    fn schema_rows(&self) -> Vec<(String, Sum)> {
        let (table, generation) = (self.table(), self.generation);
        // SQLite writes a renamed table's name in quotes.
        let quoted = if self.renamed { format!("\"{table}\"") } else { table.clone() };
        let column = if self.column_renamed { "bb" } else { "b" };
        let added = self.default.map_or(String::new(), |default| format!(", d INTEGER DEFAULT {default}"));
        let row = |kind: &str, name: &str, table: &str, sql: &str| {
            (SCHEMA.to_owned(), Row::of(SCHEMA).text(kind).text(name).text(table).text(sql).sum())
        };
        let sql = format!("CREATE TABLE {quoted}(a INTEGER PRIMARY KEY, {column} TEXT, c BLOB{added})");
        let mut rows = vec![row("table", &table, &table, &sql)];
        if self.indexed {
            let name = format!("extra_{generation}_b");
            rows.push(row("index", &name, &table, &format!("CREATE INDEX {name} ON {quoted}({column})")));
        }
        if self.viewed {
            let name = format!("view_{generation}");
            let sql = format!("CREATE VIEW {name} AS SELECT a, bb FROM {table} WHERE d > 0");
            rows.push(row("view", &name, &name, &sql));
        }
        rows
    }
}
