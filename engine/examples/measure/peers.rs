//! What a call and a whole run cost, in the figures that `xtask/peers` prints of others: one round, nanoseconds.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::observe::Unwatched;
use serde_json::{Value, json};

use super::calls::Calls;
use super::{Result, median};

/// Calls of a whole run.
const TEN: u32 = 10;
/// Turns, each of which measures all of it once; medians are printed.
const TURNS: usize = 9;
/// Whole runs of which the mean is taken.
const RUNS: u32 = 10;
/// Kinds of call with how many of them the longer of two runs makes: as few as show a difference, those that are on disk take their time.
const KINDS: [(&str, &str, u32); 3] =
    [("lifeboat-pure", "now", 100_000), ("lifeboat-read", "refused", 100), ("lifeboat-effect", "sleep", 100)];

/// Measures all kinds, each with the module loaded and compiled before.
pub async fn run(module: &Path, directory: &Path) -> Result<Value> {
    let bench = Calls::new(module, &directory.join("state"), None, Arc::new(Unwatched)).await?;
    // Once for nothing: what is set up at the first use.
    bench.run("sleep", TEN).await?;
    let mut figures: [(Vec<f64>, Vec<f64>); KINDS.len()] = Default::default();
    for _ in 0..TURNS {
        for ((_, call, many), (calls, runs)) in KINDS.iter().zip(&mut figures) {
            let none = timed(&bench, call, 0, 1).await?;
            let one = timed(&bench, call, *many, 1).await?;
            calls.push((one - none) / f64::from(*many));
            runs.push(timed(&bench, call, TEN, RUNS).await? / f64::from(RUNS));
        }
    }
    let mut document = serde_json::Map::new();
    for ((name, ..), (calls, runs)) in KINDS.iter().zip(figures) {
        document.insert((*name).into(), json!({"call": median(calls), "run": median(runs)}));
    }
    Ok(Value::Object(document))
}

async fn timed(bench: &Calls, call: &str, calls: u32, runs: u32) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..runs {
        bench.run(call, calls).await?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e9)
}
