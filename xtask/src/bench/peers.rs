//! What a call of the host and a whole run cost, in wasmtime alone, in Extism and in Lifeboat.
//!
//! `xtask/peers` is a workspace of its own, built here: it brings the wasmtime that Extism has.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Site;
use crate::command::Run;
use crate::workspace::Workspace;

/// Names in the documents, with words for people.
const ROWS: [(&str, &str); 8] = [
    ("wasmtime-bare", "wasmtime, a typed host function, no limits"),
    ("wasmtime-typed", "the same with fuel, epochs, a pool, asynchronous"),
    ("wasmtime-dynamic", "the same, a host function by its text's types"),
    ("extism", "Extism (core module, epochs)"),
    ("extism-fuel", "Extism with a fuel limit"),
    ("lifeboat-pure", "Lifeboat, a pure call"),
    ("lifeboat-read", "Lifeboat, a recorded read: one row, synced"),
    ("lifeboat-effect", "Lifeboat, an effect: two rows, each synced"),
];

/// Below it, what the figures are of.
const CAPTION: &str = "  call: a guest calls a function of the host that takes nothing and answers a number, in a loop (a read of Lifeboat's answers that it is refused).
  run: a module that is compiled becomes an instance, makes ten such calls, and ends; all of Lifeboat's also put their start and end on record, synced
  and chained, and sign a checkpoint: that is what its runs take longer. Medians of turns, and of rounds; each peer has its turn in each.
  Extism has a wasmtime of its own, older than ours, and guests that are core modules: its values are not lifted and lowered.";

/// Nanoseconds of a call and of a run, a round each.
type Rounds = BTreeMap<String, (Vec<f64>, Vec<f64>)>;

/// Builds the peers, unless they were built before.
pub fn build(workspace: &Workspace) -> Result<()> {
    Run::cargo()
        .args(["build", "--release", "--locked"])
        .dir(&workspace.root.join("xtask/peers"))
        .env("CARGO_TARGET_DIR", workspace.target.join("peers"))
        .run()
}

/// Measures and prints.
pub fn run(workspace: &Workspace, site: &Site) -> Result<()> {
    let peers = workspace.target.join("peers/release/lifeboat-peers");
    let mut rounds = Rounds::new();
    for round in 0..site.rounds {
        let folder = site.root.join(format!("peers-{round}"));
        fs::create_dir(&folder)?;
        take(&Run::new(&peers).output()?, &mut rounds)?;
        let calls = site.policies.join("calls.wasm");
        take(&Run::new(&site.measure).arg("peers").arg(calls).arg(&folder).output()?, &mut rounds)?;
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let figures: BTreeMap<String, (f64, f64)> =
        rounds.into_iter().map(|(name, (call, run))| (name, (median(call), median(run)))).collect();
    let of = |name: &str| figures.get(name).copied().with_context(|| format!("nobody measured {name}"));
    let (first_call, first_run) = of(ROWS[0].0)?;
    println!("\na call of the host, and a run with ten of them (medians of {} rounds)\n", site.rounds);
    println!("  {:52} {:>12} {:>10} {:>12} {:>10}", "", "call ns", "ratio", "run µs", "ratio");
    for (name, words) in ROWS {
        let (call, run) = of(name)?;
        println!("  {words:52} {call:>12.1} {:>10.1} {:>12.1} {:>10.1}", call / first_call, run / 1e3, run / first_run);
    }
    println!("\n{CAPTION}");
    Ok(())
}

/// Takes one round's figures.
fn take(said: &str, rounds: &mut Rounds) -> Result<()> {
    let document: BTreeMap<String, Value> = serde_json::from_str(said).with_context(|| said.to_owned())?;
    for (name, figures) in document {
        let ns = |key: &str| figures[key].as_f64().with_context(|| format!("{name} has no {key}: {said}"));
        let (call, run) = (ns("call")?, ns("run")?);
        let (calls, runs) = rounds.entry(name).or_default();
        calls.push(call);
        runs.push(run);
    }
    Ok(())
}
