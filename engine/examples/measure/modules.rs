//! What modules cost before they do anything: compiling once, loading what was compiled before, a fresh instance; and what loading would take
//! longer without what is kept: SHA-256, reading through.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::observe::Unwatched;
use engine::policy::inspect;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

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
        // Its first load compiles it, and fills the cache.
        let state = directory.join(format!("state-{at}"));
        let began = Instant::now();
        let bench = Calls::new(Path::new(module), &state, None, Arc::new(Unwatched)).await?;
        let first = ms(began);
        let timed = |what: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            let began = Instant::now();
            what()?;
            Ok(ms(began))
        };
        let (mut digests, mut reads, mut loads) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let digest = timed(&mut || {
                std::hint::black_box(Sha256::digest(&bytes));
                Ok(())
            })?;
            reads.push(timed(&mut || inspect(&bytes).map(drop).map_err(Into::into))? - digest);
            loads.push(timed(&mut || bench.engine.load(&bytes).map(drop).map_err(Into::into))?);
            digests.push(digest);
        }
        let mut instances = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            for _ in 0..INSTANCES {
                bench.engine.instantiate(&bench.module, bench.options(Map::new())).await?;
            }
            instances.push(ms(began) / f64::from(INSTANCES));
        }
        all.push(json!({
            "module": module, "bytes": bytes.len(), "code-bytes": code_bytes(&state)?, "first-ms": first,
            "sha256-ms": median(digests), "read-through-ms": median(reads), "load-ms": median(loads),
            "instance-ms": median(instances),
        }));
    }
    Ok(all.into())
}

/// What the compile cache of a state directory has of code, bytes.
fn code_bytes(state: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(state.join("compiled"))? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|ending| ending == "code") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
