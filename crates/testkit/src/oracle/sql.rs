//! Carries transactions out on a real database.

use rusqlite::{Connection, TransactionBehavior, params};

use super::plan::{self, ACCOUNTS, Ddl, EXTRA_ROWS, Link, OPENING_BALANCE, Op};

/// The tables that every workload database has, with something of all that SQLite offers.
const TABLES: &str = "
CREATE TABLE ledger(seq INTEGER PRIMARY KEY, h BLOB NOT NULL);
CREATE TABLE head(one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, h BLOB NOT NULL) STRICT;
CREATE TRIGGER ledger_head AFTER INSERT ON ledger BEGIN
  UPDATE head SET seq = new.seq, h = new.h;
END;
CREATE TABLE accounts(
  id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, touched INTEGER NOT NULL REFERENCES ledger(seq)
) STRICT;
CREATE INDEX accounts_by_balance ON accounts(balance, id);
CREATE TABLE blobs(
  id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL, size INTEGER AS (length(body)) VIRTUAL
);
CREATE INDEX blobs_by_size ON blobs(size);
CREATE TABLE entries(
  shelf TEXT NOT NULL, place INTEGER NOT NULL, seq INTEGER NOT NULL, value TEXT, PRIMARY KEY (shelf, place)
) WITHOUT ROWID, STRICT;
CREATE TABLE items(
  id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, price INTEGER, quantity INTEGER,
  total INTEGER GENERATED ALWAYS AS (price * quantity) STORED,
  label TEXT GENERATED ALWAYS AS (name || ' #' || id) VIRTUAL
);
CREATE INDEX items_by_name ON items(name);
CREATE INDEX items_by_total ON items(total DESC) WHERE total > 0;
CREATE UNIQUE INDEX items_by_label ON items(label);
CREATE TABLE events(
  id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL REFERENCES ledger(seq), what TEXT NOT NULL
);
CREATE VIRTUAL TABLE notes USING fts5(title, body);
CREATE VIRTUAL TABLE boxes USING rtree(id, left, right, lower, upper);
CREATE VIEW wealthy AS SELECT id, balance FROM accounts WHERE balance > 1000000;
";

/// Creates the tables and the state before the first transaction, in one transaction.
pub fn set_up(connection: &mut Connection, seed: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    let genesis = plan::genesis(seed);
    transaction.execute("INSERT INTO head VALUES (1, 0, ?1)", params![genesis])?;
    transaction.execute("INSERT INTO ledger VALUES (0, ?1)", params![genesis])?;
    for id in 0..ACCOUNTS {
        transaction
            .execute("INSERT INTO accounts VALUES (?1, ?2, 0)", params![id as i64, OPENING_BALANCE])?;
    }
    transaction.commit()
}

/// Says whether the tables are there.
pub fn is_set_up(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'head'", (), |row| row.get(0))
}

/// Returns number and link of the last transaction.
pub fn head(connection: &Connection) -> rusqlite::Result<(u64, Link)> {
    connection
        .prepare_cached("SELECT seq, h FROM head")?
        .query_row((), |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))
}

/// Writes transaction `seq` inside the transaction that `connection` is in.
pub fn apply(
    connection: &Connection,
    seed: u64,
    seq: u64,
    previous: &Link,
    ops: &[Op],
) -> rusqlite::Result<Link> {
    let link = plan::link(previous, seq, ops);
    let number = seq as i64;
    run(connection, "INSERT INTO ledger VALUES (?1, ?2)", params![number, link])?;
    let what = format!("{} changes", ops.len());
    run(connection, "INSERT INTO events(seq, what) VALUES (?1, ?2)", params![number, what])?;
    for op in ops {
        apply_op(connection, seed, number, op)?;
    }
    Ok(link)
}

/// Carries out one change; `number` is that of its transaction.
pub fn apply_op(connection: &Connection, seed: u64, number: i64, op: &Op) -> rusqlite::Result<()> {
    match op {
        Op::Transfer { from, to, amount } => {
            let sql = "UPDATE accounts SET balance = balance + ?1, touched = ?2 WHERE id = ?3";
            run(connection, sql, params![-amount, number, from])?;
            run(connection, sql, params![amount, number, to])
        }
        Op::PutBlob { id, body } => run(
            connection,
            "INSERT INTO blobs(id, seq, body) VALUES (?1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET seq = excluded.seq, body = excluded.body",
            params![id, number, body],
        ),
        Op::DeleteBlob { id } => run(connection, "DELETE FROM blobs WHERE id = ?1", params![id]),
        Op::PutEntry { shelf, place, value } => run(
            connection,
            "REPLACE INTO entries VALUES (?1, ?2, ?3, ?4)",
            params![shelf, place, number, value],
        ),
        Op::DeleteEntry { shelf, place } => {
            run(connection, "DELETE FROM entries WHERE shelf = ?1 AND place = ?2", params![shelf, place])
        }
        Op::PutItem { id, name, price, quantity } => run(
            connection,
            "REPLACE INTO items(id, name, price, quantity) VALUES (?1, ?2, ?3, ?4)",
            params![id, name, price, quantity],
        ),
        Op::DeleteItem { id } => run(connection, "DELETE FROM items WHERE id = ?1", params![id]),
        Op::PutNote { id, title, body } => {
            run(connection, "DELETE FROM notes WHERE rowid = ?1", params![id])?;
            let sql = "INSERT INTO notes(rowid, title, body) VALUES (?1, ?2, ?3)";
            run(connection, sql, params![id, title, body])
        }
        Op::DeleteNote { id } => run(connection, "DELETE FROM notes WHERE rowid = ?1", params![id]),
        Op::PutBox { id, edges: [left, right, lower, upper] } => run(
            connection,
            "REPLACE INTO boxes VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, left, right, lower, upper],
        ),
        Op::DeleteBox { id } => run(connection, "DELETE FROM boxes WHERE id = ?1", params![id]),
        Op::TrimEvents { up_to } => {
            run(connection, "DELETE FROM events WHERE seq <= ?1", params![*up_to as i64])
        }
        Op::SetUserVersion { version } => connection.pragma_update(None, "user_version", version),
        Op::Ddl(ddl) => apply_ddl(connection, seed, number, *ddl),
    }
}

fn run(connection: &Connection, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(parameters).map(|_| ())
}

fn apply_ddl(connection: &Connection, seed: u64, number: i64, ddl: Ddl) -> rusqlite::Result<()> {
    match ddl {
        Ddl::Create { generation: g } => {
            connection
                .execute_batch(&format!("CREATE TABLE extra_{g}(a INTEGER PRIMARY KEY, b TEXT, c BLOB)"))?;
            let mut insert = connection.prepare(&format!("INSERT INTO extra_{g} VALUES (?1, ?2, ?3)"))?;
            for a in 0..EXTRA_ROWS {
                let (text, bytes) = plan::extra_row(seed, number as u64, a);
                insert.execute(params![a as i64, text, bytes])?;
            }
            Ok(())
        }
        Ddl::Index { generation: g } => {
            connection.execute_batch(&format!("CREATE INDEX extra_{g}_b ON extra_{g}(b)"))
        }
        Ddl::AddColumn { generation: g, default } => {
            connection.execute_batch(&format!("ALTER TABLE extra_{g} ADD COLUMN d INTEGER DEFAULT {default}"))
        }
        Ddl::Touch { generation: g } => {
            connection.execute_batch(&format!("UPDATE extra_{g} SET b = b || '!' WHERE a % 2 = 0"))
        }
        Ddl::Rename { generation: g } => {
            connection.execute_batch(&format!("ALTER TABLE extra_{g} RENAME TO kept_{g}"))
        }
        Ddl::RenameColumn { generation: g } => {
            connection.execute_batch(&format!("ALTER TABLE kept_{g} RENAME COLUMN b TO bb"))
        }
        Ddl::View { generation: g } => connection.execute_batch(&format!(
            "DROP INDEX extra_{g}_b; CREATE VIEW view_{g} AS SELECT a, bb FROM kept_{g} WHERE d > 0"
        )),
        Ddl::Drop { generation: g } => {
            connection.execute_batch(&format!("DROP VIEW view_{g}; DROP TABLE kept_{g}"))
        }
    }
}
