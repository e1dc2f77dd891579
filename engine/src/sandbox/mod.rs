//! The sandbox: where a policy's code runs, with nothing to hold on to but the contract's interfaces.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | the one constructor of the engine's configuration |
//! | `linker.rs` | the linker of a world, built from the contract |
//! | `values.rs` | component values to and from JSON |
//! | `handles.rs` | the guest's resources |
//! | `turns.rs` | who computes next, where many want to |
//! | `compiler.rs` | who compiles: this process, or one of its own within bounds |
//! | `cache.rs` | what modules were compiled to, as files that are mapped |
//! | `kept.rs` | the private directory that they lie in: seals, bound |
//! | `limits.rs` | every limit, where it is set and how its breach is told |
//! | `wasi.rs` | WASI 0.2 with nothing in it, where an environment allows it |

mod cache;
pub mod compiler;
pub mod handles;
pub(crate) mod kept;
pub mod limits;
pub mod linker;
pub(crate) mod turns;
pub mod values;
pub mod wasi;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use self::compiler::Compiler;
use crate::error::{Error, Kind, Result};

/// How often guests are interrupted to look at their deadline. A busy loop ends at most two of these after its limit.
const TICK: Duration = Duration::from_millis(10);

/// Largest memory a pooled instance may have; a policy's own limit is at most this. Language runtimes (Python, JavaScript) want some
/// hundred MiB.
pub const MEMORY_BYTES_MAX: usize = 1 << 30;

/// Addresses that are set aside for one memory, and behind it, where nothing is ever: what wasmtime's own defaults are. Addresses are no memory.
const ADDRESSES_BYTES: u64 = 4 << 30;
const GUARD_BYTES: u64 = 32 << 20;

/// Instances that may be alive at once in one engine; further ones wait, until their deadline. What is set aside is addresses, not memory.
const INSTANCES_MAX: u32 = if cfg!(test) { 4 } else { 1_200 };
/// Fewer are of no use: a run may wait for a person while another one is to be started.
const INSTANCES_MIN: u32 = 2;
/// What one component may have of core instances, memories and tables: several modules that were composed. There is room for as many in every
/// instance, so a guest that takes all of its own takes nothing of another's. Python's runtime with its standard library is 38.
const CORE_INSTANCES_MAX: u32 = 64;
const MEMORIES_MAX: u32 = 4;
const TABLES_MAX: u32 = 16;

/// Compiles and holds what runs guests. One for each [`crate::Engine`].
pub struct Sandbox {
    engine: wasmtime::Engine,
    compiler: Compiler,
    cache: Option<cache::Cache>,
    /// One place for each instance that may be alive. Held while a guest runs.
    places: Arc<Semaphore>,
    turns: turns::Turns,
    stop_ticking: Arc<AtomicBool>,
}

impl Sandbox {
    /// A sandbox with a compile cache in this directory, which is made if need be. One that can't be used, because it is not our user's alone or
    /// not a directory, is passed over with a warning: without it everything works, and compiling takes its time again.
    pub fn new(cache: Option<&Path>, compiler: Compiler) -> Result<Self> {
        let (engine, places) = roomy(&mut settings())?;
        let stop_ticking = Arc::new(AtomicBool::new(false));
        let (ticking, stop) = (engine.weak(), stop_ticking.clone());
        std::thread::Builder::new()
            .name("lifeboat-ticker".into())
            .spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(TICK);
                    match ticking.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => break,
                    }
                }
            })
            .map_err(|e| Error::new(Kind::Failed, format!("sandbox: {e}")))?;
        let cache = cache.and_then(|directory| match kept::Kept::open(directory) {
            Ok(kept) => Some(cache::Cache::new(Arc::new(kept), &engine)),
            Err(why) => {
                tracing::warn!("compile cache {}: {why}; it is not used", directory.display());
                None
            }
        });
        Ok(Self {
            engine,
            compiler,
            cache,
            places: Arc::new(Semaphore::new(places as usize)),
            turns: turns::Turns::new(),
            stop_ticking,
        })
    }

    /// A component as it was compiled before, or compiled now. `sha256`: of the bytes, hexadecimal, computed from them by whoever calls.
    pub(crate) fn component(&self, bytes: &[u8], sha256: &str) -> Result<Component> {
        let Some(cache) = &self.cache else { return self.compile(bytes) };
        if let Some(component) = cache.take(&self.engine, sha256) {
            return Ok(component);
        }
        let component = self.compile(bytes)?;
        cache.keep(sha256, &component);
        Ok(component)
    }

    /// The directory of the compile cache, if it is used.
    pub(crate) fn kept(&self) -> Option<&kept::Kept> {
        self.cache.as_ref().map(cache::Cache::kept)
    }

    /// Compiles a component. Refuses what is too much to compile.
    pub fn compile(&self, bytes: &[u8]) -> Result<Component> {
        crate::policy::size::check_work(bytes)?;
        if let Some(code) = self.compiler.code(bytes)? {
            return cache::from_child(&self.engine, &code);
        }
        Component::from_binary(&self.engine, bytes).map_err(|e| compiler::refused(&compiler::words(&e)))
    }

    /// A place for one instance, as soon as there is one; held until it is let go.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.places.clone().acquire_owned().await.ok()
    }

    /// A guest's place among those that want to compute; `fuel`: what it begins with.
    pub(crate) fn turn(&self, fuel: u64) -> Arc<turns::Turn> {
        self.turns.one(fuel)
    }

    /// The engine underneath.
    pub fn engine(&self) -> &wasmtime::Engine {
        &self.engine
    }
}

/// How modules are compiled, and run: the same in the process that does the one and in that which does the other.
fn settings() -> Config {
    let mut config = Config::new();
    config
        // Deterministic: the same module and answers give the same requests on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .wasm_component_model(true)
        // A block or call of three bytes that makes a thousand values is a bomb for the compiler; no toolchain makes any.
        .wasm_multi_value(false)
        // One guest task at a time; also twice as fast a host call.
        .concurrency_support(false)
        // Bounded: fuel for work, epochs for time, see `limits.rs`.
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(1 << 20)
        .async_stack_size(2 << 20)
        // All that 32 bits can address, and then some: what lies outside of a memory is outside of its pages too, and no access is compared with
        // a bound first. With 1 GiB, code was a tenth to a fifth larger and took a third longer to compile.
        .memory_reservation(ADDRESSES_BYTES)
        .memory_guard_size(GUARD_BYTES)
        // For debuggers and for positions in the text of a module, which nobody is shown: all of it would be mapped and checked at each
        // load.
        .native_unwind_info(false)
        .generate_address_map(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20));
    config
}

/// An engine with room for as many instances as may be alive, or for as many as this process is given addresses for; and that number.
fn roomy(config: &mut Config) -> Result<(wasmtime::Engine, u32)> {
    let mut places = INSTANCES_MAX;
    loop {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(places)));
        match wasmtime::Engine::new(config) {
            Ok(engine) => {
                if places < INSTANCES_MAX {
                    tracing::warn!("there are addresses for {places} runs at once; further ones wait (`ulimit -v`)");
                }
                return Ok((engine, places));
            }
            // A limit on addresses, as `ulimit -v` sets it; what else is wrong is so at any size.
            Err(_) if places > INSTANCES_MIN => places = (places / 8).max(INSTANCES_MIN),
            Err(e) => {
                // With what lies between the memories, and the program itself.
                let gib = u64::from(INSTANCES_MIN * MEMORIES_MAX) * (ADDRESSES_BYTES >> 30) + 2;
                return Err(Error::new(Kind::Failed, format!("sandbox: {e:#}")).hint(format!(
                    "policies need some {gib} GiB of addresses, which is not memory: look at `ulimit -v`"
                )));
            }
        }
    }
}

/// Room for so many instances.
fn pool(places: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(places)
        .total_core_instances(places * CORE_INSTANCES_MAX)
        .total_memories(places * MEMORIES_MAX)
        .total_tables(places * TABLES_MAX)
        .total_stacks(places)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .table_elements(100_000)
        // A used table is cleared by writing instead of by asking the kernel for new pages: 300,000 instances took 13.7 s of processor time with
        // that, and 9 without.
        .table_keep_resident(16 << 10)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .max_memory_size(MEMORY_BYTES_MAX);
    // The same for memories, where the kernel (6.7 and later) says which pages a guest has written to: giving pages back stops all threads of the
    // process, and two threads did 1.05 times what one did; now 1.45, the median of ten. Without the kernel's word, all of these bytes would be written each time.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(128 << 10);
    }
    pool
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop_ticking.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_comes_when_all_is_taken_waits_for_room() {
        let sandbox = Sandbox::new(None, Compiler::Here).unwrap();
        let mut taken = Vec::new();
        for _ in 0..INSTANCES_MAX {
            taken.push(sandbox.place().now_or_never().expect("there is room").unwrap());
        }
        let mut next = Box::pin(sandbox.place());
        assert!(next.as_mut().now_or_never().is_none(), "all is taken");
        taken.pop();
        assert!(next.await.is_some());
    }
}
