//! A mix like that of TPC-C: orders, stock and payments with secondary indexes.
//!
//! Not the benchmark itself: its shape. A new order inserts at the end of some trees and
//! updates rows of stock all over; a payment updates a customer and appends to the
//! history; a delivery deletes from one tree and updates another.

use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use crate::Rng;

const DISTRICTS: u64 = 10;
const CUSTOMERS: u64 = 300;
const ITEMS: u64 = 10_000;

const TABLES: &str = "
CREATE TABLE district(id INTEGER PRIMARY KEY, warehouse INTEGER, next_order INTEGER, paid INTEGER);
CREATE TABLE customer(
  id INTEGER PRIMARY KEY, district INTEGER, last_name TEXT, balance INTEGER, payments INTEGER, data TEXT);
CREATE INDEX customer_by_name ON customer(district, last_name);
CREATE TABLE stock(
  warehouse INTEGER, item INTEGER, quantity INTEGER, ordered INTEGER, data TEXT, PRIMARY KEY (warehouse, item)
) WITHOUT ROWID;
CREATE TABLE orders(id INTEGER PRIMARY KEY, district INTEGER, customer INTEGER, placed TEXT, carrier INTEGER, lines INTEGER);
CREATE INDEX orders_by_customer ON orders(customer, id);
CREATE TABLE new_order(district INTEGER, id INTEGER, PRIMARY KEY (district, id)) WITHOUT ROWID;
CREATE TABLE order_line(
  id INTEGER, line INTEGER, item INTEGER, quantity INTEGER, amount INTEGER, info TEXT, PRIMARY KEY (id, line)
) WITHOUT ROWID;
CREATE INDEX order_line_by_item ON order_line(item);
CREATE TABLE history(id INTEGER PRIMARY KEY, customer INTEGER, paid TEXT, amount INTEGER, data TEXT);
CREATE INDEX history_by_customer ON history(customer);
";

/// Makes a shop of about 4.5 MB a warehouse at `path`, which must not exist.
pub fn create(path: &Path, warehouses: u64, seed: u64) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    connection
        .execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -64000")?;
    connection.execute_batch(TABLES)?;
    let rng = &mut Rng::new(seed);
    let transaction = connection.transaction()?;
    for warehouse in 0..warehouses {
        fill_warehouse(&transaction, warehouse, rng)?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

fn fill_warehouse(transaction: &Transaction<'_>, warehouse: u64, rng: &mut Rng) -> rusqlite::Result<()> {
    let mut district = transaction.prepare_cached("INSERT INTO district VALUES (?1, ?2, 1, 0)")?;
    let mut customer = transaction.prepare_cached("INSERT INTO customer VALUES (?1, ?2, ?3, 0, 0, ?4)")?;
    let mut stock = transaction.prepare_cached("INSERT INTO stock VALUES (?1, ?2, ?3, 0, ?4)")?;
    for number in 0..DISTRICTS {
        let id = warehouse * DISTRICTS + number;
        district.execute(params![id as i64, warehouse as i64])?;
        for person in 0..CUSTOMERS {
            let (name, data) = (text(rng, 12), text(rng, 400));
            customer.execute(params![(id * CUSTOMERS + person) as i64, id as i64, name, data])?;
        }
    }
    for item in 0..ITEMS {
        let quantity = rng.between(10, 100) as i64;
        stock.execute(params![warehouse as i64, item as i64, quantity, text(rng, 290)])?;
    }
    Ok(())
}

/// Carries out `count` transactions: 45 % orders, 43 % payments, 12 % deliveries.
pub fn trade(connection: &mut Connection, warehouses: u64, count: u64, seed: u64) -> rusqlite::Result<()> {
    let rng = &mut Rng::new(seed);
    // One commit for many: what matters here is which pages change, not how long it takes.
    let transaction = connection.transaction()?;
    for _ in 0..count {
        let warehouse = rng.below(warehouses);
        match rng.below(100) {
            0..45 => order(&transaction, warehouse, rng)?,
            45..88 => pay(&transaction, warehouse, rng)?,
            _ => deliver(&transaction, warehouse, rng)?,
        }
    }
    transaction.commit()
}

fn order(transaction: &Transaction<'_>, warehouse: u64, rng: &mut Rng) -> rusqlite::Result<()> {
    let district = (warehouse * DISTRICTS + rng.below(DISTRICTS)) as i64;
    let customer = district * CUSTOMERS as i64 + rng.below(CUSTOMERS) as i64;
    let lines = rng.between(5, 15) as i64;
    run(transaction, "UPDATE district SET next_order = next_order + 1 WHERE id = ?1", params![district])?;
    let sql = "INSERT INTO orders(district, customer, placed, carrier, lines) VALUES (?1, ?2, ?3, NULL, ?4)";
    run(transaction, sql, params![district, customer, "2026-03-01 12:00:00", lines])?;
    let id = transaction.last_insert_rowid();
    run(transaction, "INSERT INTO new_order VALUES (?1, ?2)", params![district, id])?;
    for line in 0..lines {
        let item = rng.below(ITEMS) as i64;
        let quantity = rng.between(1, 10) as i64;
        let sql = "UPDATE stock SET quantity = CASE WHEN quantity > ?3 + 10 THEN quantity - ?3 ELSE quantity + 91 - ?3 END, \
                   ordered = ordered + 1 WHERE warehouse = ?1 AND item = ?2";
        run(transaction, sql, params![warehouse as i64, item, quantity])?;
        let sql = "INSERT INTO order_line VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        run(transaction, sql, params![id, line, item, quantity, quantity * 7, text(rng, 24)])?;
    }
    Ok(())
}

fn pay(transaction: &Transaction<'_>, warehouse: u64, rng: &mut Rng) -> rusqlite::Result<()> {
    let district = (warehouse * DISTRICTS + rng.below(DISTRICTS)) as i64;
    let customer = district * CUSTOMERS as i64 + rng.below(CUSTOMERS) as i64;
    let amount = rng.between(1, 5000) as i64;
    run(transaction, "UPDATE district SET paid = paid + ?2 WHERE id = ?1", params![district, amount])?;
    let sql = "UPDATE customer SET balance = balance - ?2, payments = payments + 1 WHERE id = ?1";
    run(transaction, sql, params![customer, amount])?;
    let sql = "INSERT INTO history(customer, paid, amount, data) VALUES (?1, ?2, ?3, ?4)";
    run(transaction, sql, params![customer, "2026-03-01 12:00:00", amount, text(rng, 24)])
}

fn deliver(transaction: &Transaction<'_>, warehouse: u64, rng: &mut Rng) -> rusqlite::Result<()> {
    let district = (warehouse * DISTRICTS + rng.below(DISTRICTS)) as i64;
    let oldest: Option<i64> = transaction
        .prepare_cached("SELECT min(id) FROM new_order WHERE district = ?1")?
        .query_row(params![district], |row| row.get(0))?;
    let Some(id) = oldest else { return Ok(()) };
    run(transaction, "DELETE FROM new_order WHERE district = ?1 AND id = ?2", params![district, id])?;
    let carrier = rng.between(1, 10) as i64;
    run(transaction, "UPDATE orders SET carrier = ?2 WHERE id = ?1", params![id, carrier])?;
    let sql =
        "UPDATE customer SET balance = balance + 1 WHERE id = (SELECT customer FROM orders WHERE id = ?1)";
    run(transaction, sql, params![id])
}

fn run(
    transaction: &Transaction<'_>,
    sql: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<()> {
    transaction.prepare_cached(sql)?.execute(parameters).map(|_| ())
}

fn text(rng: &mut Rng, length: usize) -> String {
    let mut bytes = Vec::new();
    rng.text(length, &mut bytes);
    String::from_utf8(bytes).expect("the vocabulary is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn shop_trades_and_stays_sound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        create(&path, 1, 1).unwrap();
        let mut connection = Connection::open(&path).unwrap();
        trade(&mut connection, 1, 2000, 2).unwrap();
        let orders: i64 = connection.query_row("SELECT count(*) FROM orders", (), |row| row.get(0)).unwrap();
        assert!(orders > 700, "{orders}");
        drop(connection);
        assert_eq!(zoo::quick_check(&path).unwrap(), "ok");
    }
}
