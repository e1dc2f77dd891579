//! What `cargo xtask bench` can only see from inside the process; prints one JSON object.
//!
//! ```text
//! measure sandbox CALLS.wasm DIR      what an instance, a call and a step cost; CALLS is tests/guests/calls
//! measure stage CONFIG SERVICE STORE  restores the newest backup beside the live data, and leaves it there
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use engine::Engine;
use engine::config::Config;
use engine::grants::Grants;
use engine::policy::Module;
use engine::run::{RunOptions, Status};
use engine::sandbox::limits::Limits;
use host_api::catalog::Catalog;
use host_api::real::RealHost;
use host_api::restore::{Options, Restore};
use host_api::{StepContext, identifier};
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Longer than any measurement.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Rounds of everything in `sandbox`: each measures all of it once, so that a busy moment hits all alike.
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

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let measured = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sandbox", module, directory] => sandbox(module.as_ref(), directory.as_ref()).await?,
        ["stage", config, service, store] => stage(config.as_ref(), service, store).await?,
        _ => return Err("measure sandbox CALLS.wasm DIR | measure stage CONFIG SERVICE STORE".into()),
    };
    println!("{measured}");
    Ok(())
}

async fn stage(config: &Path, service: &str, store: &str) -> Result<Value> {
    let config = Config::load(config)?;
    let host = config.environment(None)?.host()?;
    let cx = StepContext::detached(&identifier::fresh(), TIMEOUT);
    let backup = host.latest(&cx, service, store, false).await?.ok_or("there is no backup")?;
    let candidate = host.stage(&cx, &identifier::fresh(), &backup, "beside", &Options::default()).await?;
    Ok(json!({ "place": candidate.members[0].place, "elapsed-ms": candidate.elapsed_ms }))
}

async fn sandbox(module: &Path, directory: &Path) -> Result<Value> {
    let bench = Sandbox::new(module, directory).await?;
    let mut rounds: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let figures = [
            bench.instance().await?,
            bench.call("now", PURE_CALLS).await?,
            bench.call("note", NOTES).await?,
            bench.call("refused", STEPS).await?,
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

struct Sandbox {
    engine: Engine,
    module: Module,
    host: Arc<RealHost>,
}

impl Sandbox {
    async fn new(module: &Path, directory: &Path) -> Result<Self> {
        let engine = Engine::builder().state_directory(directory.join("state")).build().await?;
        let module = engine.load(&std::fs::read(module)?)?;
        let host = Arc::new(RealHost::new(Default::default(), &Default::default(), &directory.join("state"))?);
        Ok(Self { engine, module, host })
    }

    fn options(&self, parameters: Map<String, Value>) -> RunOptions {
        RunOptions {
            environment: "bench".into(),
            policy: "calls".into(),
            world: self.module.inspected.description.world.clone(),
            // None: whatever is recorded is recorded as refused.
            grants: Grants::default(),
            limits: Limits { report_bytes_max: 1 << 30, ..Limits::default() },
            parameters,
            approval_rules: Default::default(),
            host: self.host.clone(),
            actor: "bench".into(),
            channel: "embedded".into(),
            any_host: false,
            cancelled: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Microseconds for a fresh instance, from an empty store to its end.
    async fn instance(&self) -> Result<f64> {
        let began = Instant::now();
        for _ in 0..INSTANCES {
            self.engine.instantiate(&self.module, self.options(Map::new())).await?;
        }
        Ok(each(began, INSTANCES))
    }

    /// Microseconds for one call: what a run with so many takes longer than one without.
    async fn call(&self, call: &str, times: u32) -> Result<f64> {
        let without = self.run(call, 0).await?;
        let with = self.run(call, times).await?;
        Ok(with.saturating_sub(without).as_secs_f64() * 1e6 / f64::from(times))
    }

    async fn run(&self, call: &str, times: u32) -> Result<Duration> {
        let parameters = Map::from_iter([("call".into(), json!(call)), ("times".into(), json!(times))]);
        let options = self.options(parameters);
        let began = Instant::now();
        let ended = self.engine.run(&self.module, options).await?;
        let took = began.elapsed();
        // A refusal that the policy passes over is no failure of the run.
        if ended.status != Status::Ok {
            return Err(format!("{}: {}", ended.status.word(), ended.summary).into());
        }
        Ok(took)
    }
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

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
