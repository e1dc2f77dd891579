//! What an instance, a call and a recorded step cost, beside a child process and a synced line.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::observe::Unwatched;
use serde_json::{Map, Value, json};

use super::calls::Calls;
use super::{Result, median};

/// Rounds: each measures all of it once, so that a busy moment hits all alike.
const ROUNDS: usize = 9;
/// Instances a round.
const INSTANCES: u32 = 500;
/// Calls by which the longer of two runs is longer.
const PURE_CALLS: u32 = 50_000;
/// The same for notes, which are kept until the next record, and for recorded steps.
const NOTES: u32 = 20_000;
const STEPS: u32 = 500;
/// Children a round, and lines that are synced.
const CHILDREN: u32 = 50;
const LINES: u32 = 200;

/// Measures all of it; medians in microseconds.
pub async fn run(module: &Path, directory: &Path) -> Result<Value> {
    let bench = Calls::new(module, &directory.join("state"), None, Arc::new(Unwatched)).await?;
    let mut rounds: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let figures = [
            instance(&bench).await?,
            call(&bench, "now", PURE_CALLS).await?,
            call(&bench, "note", NOTES).await?,
            call(&bench, "refused", STEPS).await?,
            synced_line(directory)?,
            child()?,
        ];
        rounds.iter_mut().zip(figures).for_each(|(all, figure)| all.push(figure));
    }
    let [instance, now, note, step, line, child] = rounds.map(median);
    Ok(json!({
        "instance-us": instance, "now-us": now, "note-us": note, "step-us": step, "synced-line-us": line,
        "child-us": child,
    }))
}

/// Microseconds for a fresh instance, from an empty store to its end.
async fn instance(bench: &Calls) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..INSTANCES {
        bench.engine.instantiate(&bench.module, bench.options(Map::new())).await?;
    }
    Ok(each(began, INSTANCES))
}

/// Microseconds for one call: what a run with so many takes longer than one without.
async fn call(bench: &Calls, call: &str, times: u32) -> Result<f64> {
    let without = timed(bench, call, 0).await?;
    let with = timed(bench, call, times).await?;
    Ok(with.saturating_sub(without).as_secs_f64() * 1e6 / f64::from(times))
}

async fn timed(bench: &Calls, call: &str, times: u32) -> Result<Duration> {
    let began = Instant::now();
    bench.run(call, times).await?;
    Ok(began.elapsed())
}

/// Microseconds for a line of a record's size, appended and on disk: the floor under a step.
fn synced_line(directory: &Path) -> Result<f64> {
    let mut file = std::fs::File::create(directory.join("lines"))?;
    let began = Instant::now();
    for _ in 0..LINES {
        file.write_all(&[b'x'; 500])?;
        file.sync_data()?;
    }
    Ok(each(began, LINES))
}

/// Microseconds for what a script's every step costs: a shell that does nothing.
fn child() -> Result<f64> {
    let began = Instant::now();
    for _ in 0..CHILDREN {
        Command::new("sh").args(["-c", ":"]).status()?;
    }
    Ok(each(began, CHILDREN))
}

fn each(began: Instant, times: u32) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}
