//! What an honest run takes alone, and beside a hundred that compute without end in the same engine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engine::observe::Unwatched;
use engine::sandbox::limits::Limits;
use serde_json::{Map, Value, json};

use super::calls::Calls;
use super::{Result, median};

/// Hostile runs at once.
const FLEET: usize = 100;
/// Honest runs, alone and beside the fleet.
const RUNS: usize = 40;
/// Recorded steps of an honest run.
const STEPS: u32 = 20;
/// After which every hostile run has long had its first turn.
const SETTLED: Duration = Duration::from_secs(3);

/// Measures both; medians and the slowest, in milliseconds. `spin`: `tests/guests/spin`.
pub async fn run(module: &Path, spin: &Path, directory: &Path) -> Result<Value> {
    let bench = Arc::new(Calls::new(module, &directory.join("state"), None, Arc::new(Unwatched)).await?);
    let alone = honest(&bench).await?;
    let spin = Arc::new(bench.engine.load(&std::fs::read(spin)?)?);
    let (mut fleet, mut cancels) = (Vec::new(), Vec::new());
    for _ in 0..FLEET {
        let mut options = bench.options(Map::new());
        options.policy = "spin".into();
        // It ends when it is cancelled.
        options.limits = Limits { fuel: u64::MAX, grace_s: 0, ..Limits::default() };
        cancels.push(options.cancelled.clone());
        let (bench, spin) = (bench.clone(), spin.clone());
        fleet.push(tokio::spawn(async move { bench.engine.run(&spin, options).await }));
    }
    tokio::time::sleep(SETTLED).await;
    let beside = honest(&bench).await?;
    if fleet.iter().any(tokio::task::JoinHandle::is_finished) {
        return Err("a part of the fleet ended before the honest runs did".into());
    }
    cancels.iter().for_each(|cancel| cancel.store(true, Ordering::Relaxed));
    for run in fleet {
        run.await??;
    }
    let slowest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    let (slowest_alone, slowest_beside) = (slowest(&alone), slowest(&beside));
    Ok(json!({
        "alone-ms": median(alone), "beside-ms": median(beside), "slowest-alone-ms": slowest_alone,
        "slowest-beside-ms": slowest_beside,
    }))
}

/// Milliseconds of each of some honest runs, one after the other.
async fn honest(bench: &Calls) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        bench.run("refused", STEPS).await?;
        all.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(all)
}
