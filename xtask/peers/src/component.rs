//! wasmtime alone, of Lifeboat's version: a component whose one import is a function of the host.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::Result;
use wasmtime::component::{Component, InstancePre, Linker, Val};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

use crate::{ANSWER, Peer};

/// More than any of these uses.
pub const FUEL: u64 = 10_000_000_000;
/// As the engine's `sandbox/mod.rs` has it.
const TICK: Duration = Duration::from_millis(10);

const GUEST: &str = r#"(component
    (import "now" (func $now (result u64)))
    (core func $now (canon lower (func $now)))
    (core module $guest
        (import "host" "now" (func $now (result i64)))
        (func (export "run") (param $calls i32)
            (block $end
                (loop $next
                    (br_if $end (i32.eqz (local.get $calls)))
                    (drop (call $now))
                    (local.set $calls (i32.sub (local.get $calls) (i32.const 1)))
                    (br $next)))))
    (core instance $instance (instantiate $guest (with "host" (instance (export "now" (func $now))))))
    (func (export "run") (param "calls" u32) (canon lift (core func $instance "run"))))"#;

/// How the host function is made.
#[derive(Clone, Copy, PartialEq)]
pub enum Linked {
    /// `func_wrap`: the types are known when the host is compiled.
    Typed,
    /// `func_new_async`: values with their types, asynchronous, as Lifeboat's linker makes all of them from the contract's text.
    Dynamic,
}

/// An engine and a component that is compiled and linked.
pub struct Wasmtime {
    engine: Engine,
    instances: InstancePre<()>,
    is_bounded: bool,
    stop_ticking: Arc<AtomicBool>,
}

impl Wasmtime {
    /// As it comes, and called synchronously.
    pub fn bare() -> Result<Self> {
        let mut config = Config::new();
        config.concurrency_support(false);
        Self::of(&config, Linked::Typed, false)
    }

    /// With what the engine's sandbox sets: fuel, epochs, a pool, canonical NaNs, an asynchronous stack.
    pub fn bounded(linked: Linked) -> Result<Self> {
        let mut config = Config::new();
        config
            .cranelift_nan_canonicalization(true)
            .relaxed_simd_deterministic(true)
            .wasm_multi_value(false)
            .concurrency_support(false)
            .consume_fuel(true)
            .epoch_interruption(true)
            .max_wasm_stack(1 << 20)
            .async_stack_size(2 << 20)
            .memory_reservation(1 << 30)
            .memory_guard_size(64 << 10);
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(16)
            .total_core_instances(16)
            .total_memories(16)
            .total_tables(16)
            .total_stacks(16)
            .max_memory_size(1 << 30);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Self::of(&config, linked, true)
    }

    fn of(config: &Config, linked: Linked, is_bounded: bool) -> Result<Self> {
        let engine = Engine::new(config)?;
        let mut linker = Linker::<()>::new(&engine);
        match linked {
            Linked::Typed => linker.root().func_wrap("now", |_, (): ()| Ok((ANSWER,)))?,
            Linked::Dynamic => linker.root().func_new_async("now", |_, _, _, results| {
                Box::new(async move {
                    results[0] = Val::U64(ANSWER);
                    Ok(())
                })
            })?,
        }
        let instances = linker.instantiate_pre(&Component::new(&engine, GUEST)?)?;
        let stop_ticking = Arc::new(AtomicBool::new(false));
        if is_bounded {
            let (ticking, stop) = (engine.weak(), stop_ticking.clone());
            std::thread::spawn(move || {
                while let (false, Some(engine)) = (stop.load(Ordering::Relaxed), ticking.upgrade()) {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            });
        }
        Ok(Self { engine, instances, is_bounded, stop_ticking })
    }
}

impl Peer for Wasmtime {
    fn run(&self, calls: u32) -> Result<()> {
        let mut store = Store::new(&self.engine, ());
        if !self.is_bounded {
            let instance = self.instances.instantiate(&mut store)?;
            return Ok(instance.get_typed_func::<(u32,), ()>(&mut store, "run")?.call(&mut store, (calls,))?);
        }
        store.set_fuel(FUEL)?;
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        ended(async {
            let instance = self.instances.instantiate_async(&mut store).await?;
            let run = instance.get_typed_func::<(u32,), ()>(&mut store, "run")?;
            Ok(run.call_async(&mut store, (calls,)).await?)
        })
    }
}

impl Drop for Wasmtime {
    fn drop(&mut self) {
        self.stop_ticking.store(true, Ordering::Relaxed);
    }
}

/// Drives something to its end that never waits for anybody: a guest that yields goes on at once.
fn ended<T>(what: impl Future<Output = T>) -> T {
    let mut what = pin!(what);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = what.as_mut().poll(&mut context) {
            return value;
        }
    }
}
