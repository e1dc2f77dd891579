//! What modules cost before they do anything: reading through, compiling once, loading from the compile cache, a fresh instance.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::observe::Unwatched;
use engine::policy::inspect;
use engine::sandbox::Sandbox;
use serde_json::{Map, Value, json};

use super::calls::Calls;
use super::{Result, median};

/// Rounds of everything but compiling.
const ROUNDS: usize = 15;
const INSTANCES: u32 = 20;

/// One object a module, in milliseconds; medians.
pub async fn run(directory: &Path, modules: &[&str]) -> Result<Value> {
    let mut all = Vec::new();
    for (at, module) in modules.iter().enumerate() {
        let bytes = std::fs::read(module)?;
        let began = Instant::now();
        Sandbox::new(None)?.compile(&bytes)?;
        let compile = ms(began);
        // Its first load fills the cache.
        let state = directory.join(format!("state-{at}"));
        let bench = Calls::new(Path::new(module), &state, None, Arc::new(Unwatched)).await?;
        let timed = |what: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                let began = Instant::now();
                what()?;
                rounds.push(ms(began));
            }
            Ok(median(rounds))
        };
        let read_through = timed(&mut || inspect(&bytes).map(drop).map_err(Into::into))?;
        let load = timed(&mut || bench.engine.load(&bytes).map(drop).map_err(Into::into))?;
        let mut instances = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            for _ in 0..INSTANCES {
                bench.engine.instantiate(&bench.module, bench.options(Map::new())).await?;
            }
            instances.push(ms(began) / f64::from(INSTANCES));
        }
        all.push(json!({
            "module": module, "bytes": bytes.len(), "compile-ms": compile, "inspect-ms": read_through, "load-ms": load,
            "instance-ms": median(instances),
        }));
    }
    Ok(all.into())
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
