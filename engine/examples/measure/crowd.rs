//! Many runs in one process: how much memory those take that wait, and whether two threads do more than one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::Engine;
use engine::grants::Grants;
use engine::observe::{Event, Observer, Unwatched};
use engine::run::RunOptions;
use futures::future::join_all;
use host_api::Host;
use host_api::real::RealHost;
use serde_json::{Map, Value, json};

use super::calls::Calls;
use super::{Result, median};

/// Runs that wait at the same time.
const WAITING: usize = 1_000;
/// How long they would.
const WAIT_MS: u64 = 3_600_000;
/// How long it is waited for all of them to wait.
const LIMIT: Duration = Duration::from_secs(120);
/// Instances that each thread makes, whole runs with their calls, and rounds of both.
const INSTANCES: u32 = 20_000;
const RUNS: u32 = 2_000;
const CALLS: u32 = 10;
const ROUNDS: usize = 5;

/// Counts those that have come to their wait.
struct Arrived(AtomicUsize);

impl Observer for Arrived {
    fn event(&self, _run: &str, event: &Event) {
        if matches!(event, Event::StepStarted { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Resident memory of this process, bytes, without and with so many runs that wait inside a host call.
pub async fn waiting(module: &Path, directory: &Path) -> Result<Value> {
    let arrived = Arc::new(Arrived(AtomicUsize::new(0)));
    let engine = Arc::new(Engine::builder().state_directory(directory).observer(arrived.clone()).build().await?);
    let module = Arc::new(engine.load(&std::fs::read(module)?)?);
    let host = Arc::new(Host::of(Arc::new(RealHost::new(Default::default(), &Default::default(), directory)?)));
    let before = resident()?;
    let options: Vec<RunOptions> = (0..WAITING)
        .map(|_| {
            let mut options = RunOptions::new("bench", "sleeper", &module.inspected.description.world, host.clone());
            options.grants = Grants::parse(["clock.sleep-until"]).expect("a grant");
            options.parameters = Map::from_iter([("for-ms".into(), json!(WAIT_MS))]);
            options
        })
        .collect();
    let flags: Vec<_> = options.iter().map(|options| options.cancelled.clone()).collect();
    let runs: Vec<_> = options
        .into_iter()
        .map(|options| {
            let (engine, module) = (engine.clone(), module.clone());
            tokio::spawn(async move { engine.run(&module, options).await.map(|ended| ended.status.word()) })
        })
        .collect();
    let began = Instant::now();
    while arrived.0.load(Ordering::Relaxed) < WAITING && began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (count, with) = (arrived.0.load(Ordering::Relaxed), resident()?);
    flags.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
    let mut ended = std::collections::BTreeMap::<String, usize>::new();
    for run in join_all(runs).await {
        *ended.entry(run?.map_or_else(|e| e.message, str::to_owned)).or_default() += 1;
    }
    Ok(json!({
        "waiting": count, "before-bytes": before, "with-bytes": with, "after-bytes": resident()?, "ended": ended,
        "arrived-ms": u64::try_from(began.elapsed().as_millis())?,
    }))
}

/// What one thread and two do a second, of one engine: instances alone, and whole runs of ten calls, on record.
pub fn threads(module: &Path, directory: &Path) -> Result<Value> {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bench = runtime()?.block_on(Calls::new(module, directory, None, Arc::new(Unwatched)))?;
    let host = Arc::new(Host::of(Arc::new(RealHost::new(Default::default(), &Default::default(), directory)?)));
    let world = &bench.module.inspected.description.world;
    let instances = || -> Result<()> {
        runtime()?.block_on(async {
            for _ in 0..INSTANCES {
                bench.engine.instantiate(&bench.module, RunOptions::new("bench", "calls", world, host.clone())).await?;
            }
            Ok(())
        })
    };
    let runs = || -> Result<()> {
        runtime()?.block_on(async {
            for _ in 0..RUNS {
                bench.run("now", CALLS).await?;
            }
            Ok(())
        })
    };
    Ok(json!({"instances": on_one_and_two(INSTANCES, &instances)?, "runs": on_one_and_two(RUNS, &runs)?}))
}

/// How often a second something is done, that `all` does so many times: on one thread, and on two that each do all of it; medians.
fn on_one_and_two(times: u32, all: &(dyn Fn() -> Result<()> + Sync)) -> Result<Value> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (threads, figures) in [(1, &mut one), (2, &mut two)] {
            let began = Instant::now();
            std::thread::scope(|scope| {
                let begun: Vec<_> = (0..threads).map(|_| scope.spawn(all)).collect();
                begun.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
            })?;
            figures.push(f64::from(times) * f64::from(threads) / began.elapsed().as_secs_f64());
        }
    }
    Ok(json!({"one-per-s": median(one), "two-per-s": median(two)}))
}

/// Resident memory of this process, bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
