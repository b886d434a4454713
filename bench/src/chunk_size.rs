//! What each chunk size costs: data, trees, index, memory and time, on three workloads.
//!
//! A small chunk follows a change closely and makes lists of chunks and the index long; a
//! large one the reverse. Each cell of the table is a process of its own, so that its
//! memory is its own too.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use comfy_table::{Table, presets};
use dbkeep_repo::backend::LocalBackend;
use dbkeep_repo::format::pack::BlobKind;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::index::Index;
use dbkeep_repo::write::{ImageOptions, KnownChunks, NodeMeta, WriterOptions};
use dbkeep_repo::{InitOptions, Repository, Secret, SharedLock, Unobserved};
use dbkeep_testkit::generate::{records, shop};
use dbkeep_testkit::process::measured;
use jiff::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::report::{machine, results, write_json};
use crate::sample::Sample;
use crate::scratch::{Scratch, settle, size_of, warm};

/// In KiB.
const CHUNK_SIZES: [u32; 7] = [4, 8, 16, 32, 64, 128, 256];

/// One process: stores `before` and then `after` with one chunk size.
#[derive(Debug, clap::Args)]
pub(crate) struct Cell {
    #[arg(long)]
    chunk_size: u32,
    #[arg(long)]
    before: PathBuf,
    #[arg(long)]
    after: PathBuf,
    #[arg(long)]
    repository: PathBuf,
}

/// What one process found.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Costs {
    full_seconds: f64,
    full_data: u64,
    full_trees: u64,
    full_index: u64,
    index_memory: u64,
    again_seconds: f64,
    again_data: u64,
    again_trees: u64,
    again_index: u64,
    peak_rss: u64,
}

/// Runs the study on databases of about `size` bytes.
pub(crate) fn run(scratch: &Scratch, size: u64, rounds: usize) -> Result<()> {
    scratch.clean()?;
    let mut all = Vec::new();
    for (name, before, after) in workloads(scratch, size)? {
        warm(&before)?;
        warm(&after)?;
        println!("\n{name}: {} MiB\n", std::fs::metadata(&before)?.len() >> 20);
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "chunk",
            "full s",
            "data MiB",
            "trees KiB",
            "index KiB",
            "index RAM KiB",
            "again s",
            "again data KiB",
            "again trees KiB",
            "again index KiB",
            "again in all KiB",
            "RSS MiB",
        ]);
        for chunk_size in CHUNK_SIZES {
            let costs = cell(scratch, chunk_size, rounds, &before, &after)?;
            table.add_row(row(chunk_size, &costs));
            all.push(serde_json::json!({ "workload": name, "chunk_kib": chunk_size, "costs": costs }));
        }
        println!("{table}");
    }
    scratch.clean()?;
    write_json(&results("chunk-size.json"), &serde_json::json!({ "machine": machine(), "cells": all }))
}

fn row(chunk_size: u32, costs: &Costs) -> Vec<String> {
    let kib = |bytes: u64| (bytes >> 10).to_string();
    vec![
        format!("{chunk_size} KiB"),
        format!("{:.2}", costs.full_seconds),
        (costs.full_data >> 20).to_string(),
        kib(costs.full_trees),
        kib(costs.full_index),
        kib(costs.index_memory),
        format!("{:.2}", costs.again_seconds),
        kib(costs.again_data),
        kib(costs.again_trees),
        kib(costs.again_index),
        kib(costs.again_data + costs.again_trees + costs.again_index),
        (costs.peak_rss >> 20).to_string(),
    ]
}

/// Returns name, database before and database after of each workload.
fn workloads(scratch: &Scratch, size: u64) -> Result<Vec<(&'static str, PathBuf, PathBuf)>> {
    let base = scratch.records(size)?;
    let changed = scratch.copy(&base, "changed.db")?;
    records::change(&changed, 10, 2)?;
    let appended = scratch.copy(&base, "appended.db")?;
    records::append(&mut Connection::open(&appended)?, size / 4096 / 100, 3)?;
    let warehouses = (size / 4_500_000).max(1);
    let shop = scratch.fresh("shop.db")?;
    shop::create(&shop, warehouses, 4)?;
    let mut trading = Connection::open(&shop)?;
    // A shop that has traded for a while: its trees are no longer in the order of creation.
    shop::trade(&mut trading, warehouses, size >> 14, 5)?;
    drop(trading);
    let traded = scratch.copy(&shop, "traded.db")?;
    shop::trade(&mut Connection::open(&traded)?, warehouses, size >> 20, 6)?;
    Ok(vec![
        ("1 % of the pages at random", base.clone(), changed),
        ("1 % more pages at the end", base, appended),
        ("orders, payments, deliveries", shop, traded),
    ])
}

fn cell(scratch: &Scratch, chunk_size: u32, rounds: usize, before: &Path, after: &Path) -> Result<Costs> {
    let (mut full, mut again) = (Sample::default(), Sample::default());
    let mut costs = Costs::default();
    for _ in 0..rounds {
        let repository = scratch.fresh("chunk-size-repository")?;
        settle();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("chunk-size-cell").args(["--chunk-size", &(chunk_size << 10).to_string()]);
        command.arg("--before").arg(before).arg("--after").arg(after).arg("--repository").arg(repository);
        let outcome = measured(&command)?;
        if outcome.code() != Some(0) {
            return Err(outcome.transcript().into());
        }
        costs = serde_json::from_str(&outcome.stdout)?;
        costs.peak_rss = outcome.cost.map_or(0, |cost| cost.peak_rss);
        full.add(costs.full_seconds);
        again.add(costs.again_seconds);
    }
    Ok(Costs { full_seconds: full.median(), again_seconds: again.median(), ..costs })
}

/// Stores both databases and prints what it cost.
pub(crate) fn measure(cell: &Cell) -> Result<()> {
    let now = Timestamp::now();
    let backend = Arc::new(LocalBackend::new(&cell.repository));
    let password = Secret::new("benchmark".to_owned());
    let repository = Repository::init(backend, &password, &InitOptions::cheap(), now)?;
    let lock = repository.lock_shared(now)?;

    let began = Instant::now();
    let (known, index) = store(&repository, &lock, Index::new(), &cell.before, cell.chunk_size, None)?;
    let full_seconds = began.elapsed().as_secs_f64();
    let (full_data, full_trees) = stored(&index);
    let full_index = size_of(&cell.repository.join("index"))?;
    let index_memory = index.memory() as u64;

    let began = Instant::now();
    let (_, index) = store(&repository, &lock, index, &cell.after, cell.chunk_size, Some(&known))?;
    let again_seconds = began.elapsed().as_secs_f64();
    let (data, trees) = stored(&index);
    let costs = Costs {
        full_seconds,
        full_data,
        full_trees,
        full_index,
        index_memory,
        again_seconds,
        again_data: data - full_data,
        again_trees: trees - full_trees,
        again_index: size_of(&cell.repository.join("index"))? - full_index,
        peak_rss: 0,
    };
    println!("{}", serde_json::to_string(&costs)?);
    Ok(())
}

fn store(
    repository: &Repository,
    lock: &SharedLock,
    index: Index,
    database: &Path,
    chunk_size: u32,
    known: Option<&KnownChunks>,
) -> Result<(KnownChunks, Index)> {
    let mut file = File::open(database)?;
    let mut writer = repository.writer(lock, index, &WriterOptions::default(), Arc::new(Unobserved))?;
    let options = ImageOptions { chunk_size, known, sha256: false };
    let mut source = |buffer: &mut [u8]| file.read(buffer).map_err(Into::into);
    let image = writer.save_image(&mut source, &options)?;
    let nodes =
        writer.save_image_nodes(&image, "app.db", &NodeMeta { mode: 0o600, ..NodeMeta::default() })?;
    let tree = writer.save_tree(&Tree { nodes })?;
    writer.commit(Snapshot::new(Timestamp::now(), tree))?;
    drop(writer);
    Ok((image.known(), Index::load(repository, &Unobserved)?))
}

/// Returns the stored bytes of data blobs and of tree blobs.
fn stored(index: &Index) -> (u64, u64) {
    index.blobs().fold((0, 0), |(data, trees), (kind, _, location)| {
        let length = u64::from(location.length);
        if kind == BlobKind::Tree { (data, trees + length) } else { (data + length, trees) }
    })
}
