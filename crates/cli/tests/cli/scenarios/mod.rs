//! The home-made backup systems that dbkeep replaces, one file each.

mod narrowed;
mod system_a;
mod system_b;
mod system_c;
mod system_d;
mod system_e;

use serde_json::{Value, json};

use crate::environment::Run;

/// Expects that programs were told how a phase goes on: bytes that rise, and tables where they are counted.
#[track_caller]
fn expect_progress(run: &Run, phase: &str, tables: Option<usize>) {
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<&Value> =
        events.iter().filter(|event| event["event"] == "progress" && event["phase"] == phase).collect();
    let bytes: Vec<u64> = told.iter().map(|event| event["done"].as_u64().unwrap()).collect();
    assert!(bytes.is_sorted() && bytes.last() > Some(&0), "{phase}: {}", run.stderr);
    if let Some(all) = tables {
        assert_eq!(told.last().unwrap()["tables"], json!({ "done": all, "total": all }), "{}", run.stderr);
    }
}
