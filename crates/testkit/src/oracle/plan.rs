//! What transaction number `seq` of a seed does: a pure function, nothing else.
//!
//! No transaction looks at the database. What it writes follows from the seed and
//! its number alone, so any process can carry on where another one was killed, and
//! the state after `n` transactions is known without having seen the database.

use crate::Rng;

/// How many accounts there are; transfers move money between them.
pub const ACCOUNTS: u64 = 200;
/// What every account holds at the start.
pub const OPENING_BALANCE: i64 = 1_000_000;
/// Keys of the blob table.
const BLOBS: u64 = 1500;
/// Keys of the table without rowid.
const ENTRIES: u64 = 800;
/// Keys of the table with generated columns.
const ITEMS: u64 = 600;
/// Keys of the full-text table.
const NOTES: u64 = 300;
/// Keys of the R-tree.
const BOXES: u64 = 500;
/// The log of events keeps this many transactions.
const EVENTS_KEPT: u64 = 3000;
/// One transaction in so many changes the schema.
const DDL_EVERY: u64 = 50;
/// Rows put into each table that the schema changes make.
pub const EXTRA_ROWS: u64 = 24;

/// One change within a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Moves money from one account to another; the sum stays.
    Transfer {
        /// Account that pays.
        from: i64,
        /// Account that receives.
        to: i64,
        /// How much.
        amount: i64,
    },
    /// Inserts or replaces a blob of 0 to 3 kB, now and then of up to 1 MiB.
    PutBlob {
        /// Its key.
        id: i64,
        /// Its bytes.
        body: Vec<u8>,
    },
    /// Deletes a blob if it is there.
    DeleteBlob {
        /// Its key.
        id: i64,
    },
    /// Inserts or replaces a row of the table without rowid.
    PutEntry {
        /// First part of the key: few values, so that the tree is churned everywhere.
        shelf: String,
        /// Second part of the key.
        place: i64,
        /// Its value.
        value: String,
    },
    /// Deletes a row of the table without rowid if it is there.
    DeleteEntry {
        /// First part of the key.
        shelf: String,
        /// Second part of the key.
        place: i64,
    },
    /// Inserts or replaces a row of the table with generated columns and two indexes.
    PutItem {
        /// Its key.
        id: i64,
        /// Indexed text.
        name: String,
        /// Factor of the generated total.
        price: i64,
        /// Factor of the generated total.
        quantity: i64,
    },
    /// Deletes such a row if it is there.
    DeleteItem {
        /// Its key.
        id: i64,
    },
    /// Replaces a document of the full-text index.
    PutNote {
        /// Its rowid.
        id: i64,
        /// Its title.
        title: String,
        /// Its text.
        body: String,
    },
    /// Deletes a document if it is there.
    DeleteNote {
        /// Its rowid.
        id: i64,
    },
    /// Replaces a box of the R-tree; whole numbers, so that 32-bit floats hold them exactly.
    PutBox {
        /// Its id.
        id: i64,
        /// Left, right, lower, upper.
        edges: [i32; 4],
    },
    /// Deletes a box if it is there.
    DeleteBox {
        /// Its id.
        id: i64,
    },
    /// Deletes all events up to this transaction: a range, which empties whole pages.
    TrimEvents {
        /// The newest transaction that goes.
        up_to: u64,
    },
    /// Writes the user version into the header.
    SetUserVersion {
        /// The new value.
        version: i32,
    },
    /// Changes the schema.
    Ddl(Ddl),
}

/// One step in the life of a table that comes and goes. `generation` numbers these tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ddl {
    /// Creates `extra_<generation>` and fills it; the rows follow from `seq`.
    Create {
        /// Which table.
        generation: u64,
    },
    /// Creates an index on it.
    Index {
        /// Which table.
        generation: u64,
    },
    /// Adds a column with the default `default`.
    AddColumn {
        /// Which table.
        generation: u64,
        /// What the rows that are there get.
        default: i64,
    },
    /// Changes the text of every other row.
    Touch {
        /// Which table.
        generation: u64,
    },
    /// Renames it to `kept_<generation>`.
    Rename {
        /// Which table.
        generation: u64,
    },
    /// Renames its column `b` to `bb`.
    RenameColumn {
        /// Which table.
        generation: u64,
    },
    /// Drops its index and makes a view of it.
    View {
        /// Which table.
        generation: u64,
    },
    /// Drops its view and the table itself: the pages go to the freelist.
    Drop {
        /// Which table.
        generation: u64,
    },
}

/// The transaction in which the table of this generation was created.
pub fn created_at(generation: u64) -> u64 {
    generation * 8 * DDL_EVERY + DDL_EVERY
}

/// Returns what transaction `seq` (1 is the first) of `seed` does, in order.
///
/// Beside these, every transaction writes one row into `ledger` and one into `events`.
pub fn transaction(seed: u64, seq: u64) -> Vec<Op> {
    let rng = &mut Rng::of(seed, seq);
    let mut ops = Vec::with_capacity(4);
    for _ in 0..rng.between(1, 2) {
        ops.push(transfer(rng));
    }
    if rng.chance(6, 10) {
        ops.push(blob(rng));
    }
    if rng.chance(3, 10) {
        ops.push(entry(rng));
    }
    if rng.chance(3, 10) {
        ops.push(item(rng));
    }
    if rng.chance(1, 12) {
        ops.push(note(rng));
    }
    if rng.chance(1, 8) {
        ops.push(box_(rng));
    }
    if seq.is_multiple_of(100) && seq > EVENTS_KEPT {
        ops.push(Op::TrimEvents { up_to: seq - EVENTS_KEPT });
    }
    if rng.chance(1, 40) {
        ops.push(Op::SetUserVersion { version: rng.below(1 << 31) as i32 });
    }
    if seq.is_multiple_of(DDL_EVERY) {
        ops.extend(ddl(seq).map(Op::Ddl));
    }
    ops
}

fn transfer(rng: &mut Rng) -> Op {
    let from = rng.below(ACCOUNTS);
    let to = (from + 1 + rng.below(ACCOUNTS - 1)) % ACCOUNTS;
    Op::Transfer { from: from as i64, to: to as i64, amount: rng.between(1, 500) as i64 }
}

fn blob(rng: &mut Rng) -> Op {
    let id = rng.below(BLOBS) as i64;
    if rng.chance(1, 3) {
        return Op::DeleteBlob { id };
    }
    let length = if rng.chance(1, 2000) { rng.between(100_000, 1 << 20) } else { rng.below(3001) };
    let mut body = vec![0; length as usize];
    if rng.chance(1, 2) {
        rng.fill(&mut body);
    } else {
        body.clear();
        rng.text(length as usize, &mut body);
    }
    Op::PutBlob { id, body }
}

fn entry(rng: &mut Rng) -> Op {
    let key = rng.below(ENTRIES);
    let (shelf, place) = (format!("shelf-{:02}", key % 17), (key / 17) as i64);
    if rng.chance(1, 3) {
        return Op::DeleteEntry { shelf, place };
    }
    let length = rng.below(700) as usize;
    Op::PutEntry { shelf, place, value: words(rng, length) }
}

fn item(rng: &mut Rng) -> Op {
    let id = rng.below(ITEMS) as i64;
    if rng.chance(1, 3) {
        return Op::DeleteItem { id };
    }
    let length = rng.between(5, 40) as usize;
    let name = format!("{} é漢😀", words(rng, length));
    Op::PutItem { id, name, price: rng.below(100_000) as i64, quantity: rng.below(50) as i64 }
}

fn note(rng: &mut Rng) -> Op {
    let id = rng.between(1, NOTES) as i64;
    if rng.chance(1, 4) {
        return Op::DeleteNote { id };
    }
    let length = rng.between(50, 600) as usize;
    Op::PutNote { id, title: words(rng, 20), body: words(rng, length) }
}

fn box_(rng: &mut Rng) -> Op {
    let id = rng.between(1, BOXES) as i64;
    if rng.chance(1, 4) {
        return Op::DeleteBox { id };
    }
    let mut span = || {
        let low = rng.below(1 << 20) as i32;
        (low, low + rng.below(1000) as i32)
    };
    let ((left, right), (lower, upper)) = (span(), span());
    Op::PutBox { id, edges: [left, right, lower, upper] }
}

fn ddl(seq: u64) -> Option<Ddl> {
    let step = seq / DDL_EVERY - 1;
    let generation = step / 8;
    Some(match step % 8 {
        0 => Ddl::Create { generation },
        1 => Ddl::Index { generation },
        2 => Ddl::AddColumn { generation, default: seq as i64 },
        3 => Ddl::Touch { generation },
        4 => Ddl::Rename { generation },
        5 => Ddl::RenameColumn { generation },
        6 => Ddl::View { generation },
        _ => Ddl::Drop { generation: generation.checked_sub(1)? },
    })
}

/// Returns row `a` of the table that was created in transaction `seq`.
pub fn extra_row(seed: u64, seq: u64, a: u64) -> (String, Vec<u8>) {
    let rng = &mut Rng::of(seed ^ 0xE074A, seq * 1000 + a);
    let length = rng.between(3, 60) as usize;
    let text = words(rng, length);
    let mut bytes = vec![0; rng.below(900) as usize];
    rng.fill(&mut bytes);
    (text, bytes)
}

fn words(rng: &mut Rng, length: usize) -> String {
    let mut out = Vec::with_capacity(length + 12);
    rng.text(length, &mut out);
    String::from_utf8(out).expect("the vocabulary is ASCII")
}

/// Returns the bytes by which the hash chain of the ledger knows a transaction.
pub fn canonical(ops: &[Op]) -> Vec<u8> {
    // The text is only hashed, never parsed; `Debug` of plain enums names every field.
    let mut bytes = Vec::with_capacity(256);
    for op in ops {
        match op {
            // Debug of a byte vector prints each byte in decimal: slow for large bodies.
            Op::PutBlob { id, body } => {
                bytes.extend_from_slice(b"PutBlob");
                bytes.extend_from_slice(&id.to_le_bytes());
                bytes.extend_from_slice(blake3::hash(body).as_bytes());
            }
            other => bytes.extend_from_slice(format!("{other:?}").as_bytes()),
        }
        bytes.push(0);
    }
    bytes
}

/// The length of a link of the ledger's hash chain.
pub const LINK: usize = 16;
/// One link of the ledger's hash chain.
pub type Link = [u8; LINK];

/// Returns the link in row 0 of the ledger.
pub fn genesis(seed: u64) -> Link {
    first_bytes(blake3::Hasher::new().update(b"genesis").update(&seed.to_le_bytes()))
}

/// Returns the link that follows `previous` when `ops` were committed as transaction `seq`.
pub fn link(previous: &Link, seq: u64, ops: &[Op]) -> Link {
    first_bytes(blake3::Hasher::new().update(previous).update(&seq.to_le_bytes()).update(&canonical(ops)))
}

fn first_bytes(hasher: &blake3::Hasher) -> Link {
    let mut link = [0; LINK];
    link.copy_from_slice(&hasher.finalize().as_bytes()[..LINK]);
    link
}

/// What the writer does between two transactions; none of it changes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Builds the file anew.
    Vacuum,
    /// Gives some free pages back, where the database allows it.
    IncrementalVacuum,
    /// Leaves the present journal mode and comes back to it.
    JournalSwitch,
    /// Moves the log into the file.
    Checkpoint(Checkpoint),
    /// Closes the connection (the last one deletes the log) and opens it again.
    Reopen,
}

/// The four ways of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// As much as possible without waiting.
    Passive,
    /// All, waiting for writers.
    Full,
    /// All, and the next writer starts at the beginning of the log.
    Restart,
    /// All, and the log is cut to nothing.
    Truncate,
}

/// Returns what a hostile writer does after transaction `seq`: a pure function too.
pub fn upkeep(seed: u64, seq: u64) -> Option<Upkeep> {
    let rng = &mut Rng::of(seed ^ 0x0BAD_CAFE, seq);
    match rng.below(2000) {
        0..=1 => Some(Upkeep::Vacuum),
        2..=5 => Some(Upkeep::IncrementalVacuum),
        6..=7 => Some(Upkeep::JournalSwitch),
        8..=17 => Some(Upkeep::Checkpoint(Checkpoint::Passive)),
        18..=22 => Some(Upkeep::Checkpoint(Checkpoint::Full)),
        23..=27 => Some(Upkeep::Checkpoint(Checkpoint::Restart)),
        28..=32 => Some(Upkeep::Checkpoint(Checkpoint::Truncate)),
        33..=37 => Some(Upkeep::Reopen),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_depends_on_seed_and_number_only() {
        assert_eq!(transaction(5, 77), transaction(5, 77));
        assert_ne!(transaction(5, 77), transaction(5, 78));
        assert_ne!(transaction(5, 77), transaction(6, 77));
    }

    #[test]
    fn every_kind_of_change_comes_up() {
        let ops: Vec<Op> = (1..8000).flat_map(|seq| transaction(1, seq)).collect();
        let mut kinds: Vec<_> = ops.iter().map(std::mem::discriminant).collect();
        kinds.sort_by_key(|kind| format!("{kind:?}"));
        kinds.dedup();
        assert_eq!(kinds.len(), 14);
        assert!(ops.iter().any(|op| matches!(op, Op::PutBlob { body, .. } if body.len() > 100_000)));
    }

    #[test]
    fn table_is_created_where_the_plan_says() {
        for generation in 0..5 {
            let ops = transaction(1, created_at(generation));
            assert!(ops.contains(&Op::Ddl(Ddl::Create { generation })));
        }
    }
}
