//! What a call of the host and a whole run cost in wasmtime alone and in Extism, to be read beside Lifeboat's: one round, one JSON object of nanoseconds.
//!
//! `cargo xtask bench --only peers` builds this, runs it and `measure peers` in turn, and prints the medians of all rounds.
//!
//! | figure | what |
//! | --- | --- |
//! | `call` | one call of a host function that takes nothing and answers a number: a run with [`MANY`] of them less one with none, divided |
//! | `run` | from a module that is compiled to its end: a store, limits where there are any, an instance, ten such calls, all of it dropped |

mod component;
mod extism;

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

/// Turns, each of which measures all of it once; medians are printed, so that a busy moment says nothing.
const TURNS: usize = 15;
/// Calls in the longer of two runs.
const MANY: u32 = 200_000;
/// Calls of a whole run.
const TEN: u32 = 10;
/// Whole runs of which the mean is taken.
const RUNS: u32 = 50;

/// What the host function answers: the same as Lifeboat's clock between two records, a number that does not change.
const ANSWER: u64 = 1_800_000_000_000;

/// Someone who runs guests.
trait Peer {
    /// A fresh instance, so many calls, the end.
    fn run(&self, calls: u32) -> Result<()>;
}

fn main() -> Result<()> {
    let peers: [(&str, Box<dyn Peer>); 5] = [
        ("wasmtime-bare", Box::new(component::Wasmtime::bare()?)),
        ("wasmtime-typed", Box::new(component::Wasmtime::bounded(component::Linked::Typed)?)),
        ("wasmtime-dynamic", Box::new(component::Wasmtime::bounded(component::Linked::Dynamic)?)),
        ("extism", Box::new(extism::Extism::new(None)?)),
        ("extism-fuel", Box::new(extism::Extism::new(Some(component::FUEL))?)),
    ];
    // Once for nothing: what is set up at the first use.
    peers.iter().try_for_each(|(_, peer)| peer.run(TEN))?;
    let mut figures = vec![(Vec::new(), Vec::new()); peers.len()];
    for _ in 0..TURNS {
        for ((_, peer), (calls, runs)) in peers.iter().zip(&mut figures) {
            let none = timed(|| peer.run(0))?;
            let many = timed(|| peer.run(MANY))?;
            calls.push((many - none) / f64::from(MANY));
            runs.push(timed(|| (0..RUNS).try_for_each(|_| peer.run(TEN)))? / f64::from(RUNS));
        }
    }
    let mut document = serde_json::Map::new();
    for ((name, _), (calls, runs)) in peers.iter().zip(figures) {
        document.insert((*name).into(), json!({"call": median(calls), "run": median(runs)}));
    }
    println!("{}", serde_json::Value::Object(document));
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Nanoseconds.
fn timed(act: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    act()?;
    Ok(began.elapsed().as_secs_f64() * 1e9)
}
