//! How large a database is, and how long a backup of it takes: an estimate from reading a little.

use std::time::{Duration, Instant};

use super::{Finding, Request, count, text};
use crate::catalog::{Catalog, Table};
use crate::snapshot::begin;
use crate::wire::Connection;
use crate::{Error, Result};

/// About as much is read.
const SAMPLE: u64 = 16 << 20;
/// What was read faster than this says nothing about the pace.
const TOO_SHORT: Duration = Duration::from_millis(20);
/// A backup also compresses and encrypts, other tables may lie worse, and less of them in memory.
const SLOWER: f64 = 4.0;

/// Says how large what is to be backed up is, and how long that takes.
pub(super) fn examine(catalog: &Catalog, request: &Request<'_>) -> Result<Vec<Finding>> {
    let tables: Vec<&Table> = catalog.tables.iter().filter(|table| request.reads(table)).collect();
    let bytes: u64 = tables.iter().map(|table| table.bytes).sum();
    let size = format!("{} in {}", shown(bytes), count(tables.len(), "table"));
    let largest =
        tables.iter().filter(|table| table.readable && !table.hidden).max_by_key(|table| table.bytes);
    let Some(largest) = largest else { return Ok(vec![Finding::note("size", size)]) };
    let message = match sample(largest, request)? {
        Some((read, took)) => format!("{size}: {}", expected(bytes, read, took, request.jobs)),
        None => format!("{size}; how long a backup takes could not be measured"),
    };
    Ok(vec![Finding::note("size", message)])
}

/// Reads the first rows of a table. Returns how many of its bytes that was, and how long it took.
fn sample(table: &Table, request: &Request<'_>) -> Result<Option<(u64, Duration)>> {
    let mut connection = match Connection::open(request.info, request.options) {
        // There may be no connection left; that is told elsewhere.
        Err(Error::Server(_)) => return Ok(None),
        connection => connection?,
    };
    begin(&mut connection, None)?;
    let known = connection.query(
        "SELECT reltuples::pg_catalog.int8 FROM pg_catalog.pg_class WHERE oid = $1::pg_catalog.oid",
        &[Some(&table.oid.to_string())],
    )?;
    let rows = known.first().and_then(|row| text(row, 0).parse::<u64>().ok()).filter(|rows| *rows > 0);
    // Without statistics the text stands for the bytes: it is of the same order.
    let limit = rows.map_or(10_000, |rows| share_of(rows, SAMPLE, table.bytes).clamp(1, rows));
    let patience = request.sample.as_millis().max(1);
    connection
        .execute(&format!("SET LOCAL statement_timeout = {patience}; SET LOCAL lock_timeout = {patience}"))?;
    let (read, text_bytes, took) = match read(&mut connection, table, limit) {
        Ok(read) => read,
        Err(Error::Server(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = match rows {
        // The table ended before.
        _ if read < limit => table.bytes,
        Some(rows) => share_of(table.bytes, read, rows),
        None => text_bytes,
    };
    Ok(Some((bytes.min(table.bytes), took)))
}

/// Returns the share of a number that `part` is of `whole`.
fn share_of(number: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(number) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn read(connection: &mut Connection, table: &Table, limit: u64) -> Result<(u64, u64, Duration)> {
    let statement = format!(
        "COPY (SELECT {} FROM ONLY {} LIMIT {limit}) TO STDOUT",
        table.stored_columns(),
        table.name.quoted()
    );
    let started = Instant::now();
    let (mut rows, mut bytes) = (0, 0);
    let mut copy = connection.copy_out(&statement)?;
    while let Some(piece) = copy.next_piece()? {
        rows += memchr::memchr_iter(b'\n', piece).count() as u64;
        bytes += piece.len() as u64;
    }
    Ok((rows, bytes, started.elapsed()))
}

/// Says how long reading all of it takes, between reading in parallel at this pace and something slower.
fn expected(bytes: u64, read: u64, took: Duration, jobs: usize) -> String {
    if read == 0 {
        return "there is nothing to read".to_owned();
    }
    let all = took.max(TOO_SHORT).as_secs_f64() * bytes as f64 / read as f64;
    let (fast, slow) = (all / jobs.max(1) as f64, all * SLOWER);
    match slow < 10.0 {
        true => "a backup takes seconds".to_owned(),
        false => format!(
            "a backup takes about {} to {} if the rest is as what was tried ({} in {:.1} s)",
            duration(fast),
            duration(slow),
            shown(read),
            took.as_secs_f64()
        ),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        ..90.0 => format!("{:.0} s", seconds.max(1.0)),
        ..5400.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3600.0),
    }
}

fn shown(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4);
    match power {
        0 => format!("{bytes} B"),
        _ => format!(
            "{:.1} {}",
            bytes as f64 / f64::from(1024_u32.pow(power.min(3))) / if power == 4 { 1024.0 } else { 1.0 },
            units[power as usize]
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_begins_with_all_connections_at_this_pace_and_ends_with_one_that_is_slower() {
        let second = Duration::from_secs(1);
        assert_eq!(
            expected(100 << 30, 16 << 20, second, 4),
            "a backup takes about 27 min to 7 h if the rest is as what was tried (16.0 MiB in 1.0 s)"
        );
        assert_eq!(
            expected(1 << 30, 16 << 20, second, 2),
            "a backup takes about 32 s to 4 min if the rest is as what was tried (16.0 MiB in 1.0 s)"
        );
        assert_eq!(expected(1 << 20, 1 << 20, Duration::ZERO, 2), "a backup takes seconds");
        assert_eq!(expected(0, 0, second, 2), "there is nothing to read");
        let sizes = [0, 1023, 1 << 20, 3 << 29, 5 << 40].map(shown);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 MiB", "1.5 GiB", "5.0 TiB"]);
    }
}
