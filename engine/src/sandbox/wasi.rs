//! WASI 0.2 with nothing in it, for modules whose language insists on it.
//!
//! No files, sockets, names, environment, arguments or input; what is written to stdout and stderr goes nowhere. The clocks stand at the run's
//! first record, waiting for a time is over at once, and all randomness is a stream that the run's id begins: a run that is gone on with is given
//! the same again.

use std::time::Duration;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

use super::linker::Guest;

/// Packages of WASI that there are here.
const PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
/// What one call may ask of randomness, bytes.
const RANDOM_BYTES_MAX: u64 = 1 << 16;

/// Whether an import's name is an interface of WASI that there is here: `wasi:random/random@0.2.6`.
pub fn offered(import: &str) -> bool {
    import.strip_prefix("wasi:").and_then(|name| name.split_once('/')).is_some_and(|(package, rest)| {
        let version = rest.split_once('@').map(|(_, version)| version);
        PACKAGES.contains(&package)
            && version
                .and_then(|version| version.strip_prefix("0.2."))
                .is_some_and(|patch| patch.parse::<u32>().is_ok())
    })
}

/// What a guest on WASI holds of it.
pub struct Empty {
    ctx: WasiCtx,
    table: ResourceTable,
    now_ns: u64,
}

impl Empty {
    /// For a run; `seed`: what its randomness begins with. `started_ms`: where the clocks stand, Unix milliseconds. `handles_max`: of streams,
    /// pollables and the like, at once.
    pub(crate) fn new(seed: &str, started_ms: u64, handles_max: usize) -> Self {
        let random = |purpose: &str| random(purpose, seed);
        let mut numbers = random("insecure-seed");
        let insecure_seed = (u128::from(numbers.next_u64()) << 64) | u128::from(numbers.next_u64());
        let clock = Standing(Duration::from_millis(started_ms));
        let ctx = WasiCtx::builder()
            .secure_random(random("random"))
            .insecure_random(random("insecure"))
            .insecure_random_seed(insecure_seed)
            .max_random_size(RANDOM_BYTES_MAX)
            .wall_clock(clock)
            .monotonic_clock(clock)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .allow_blocking_current_thread(false)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(handles_max);
        Self { ctx, table, now_ns: clock.now_ns() }
    }
}

/// A stream of random numbers that only its purpose and its seed decide.
fn random(purpose: &str, seed: &str) -> ChaCha20Rng {
    let text = format!("lifeboat/wasi-random/1\n{purpose}\n{seed}");
    ChaCha20Rng::from_seed(Sha256::digest(text.as_bytes()).into())
}

/// A clock that stands.
#[derive(Clone, Copy)]
struct Standing(Duration);

impl Standing {
    fn now_ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl HostWallClock for Standing {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

impl HostMonotonicClock for Standing {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.now_ns()
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let empty = self.wasi.as_mut().expect("only a module that was given it is linked with WASI");
        WasiCtxView { ctx: &mut empty.ctx, table: &mut empty.table }
    }
}

/// Adds all of it to a linker.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // Timers of the host's own would wait for real time, and which of two is over first would not be the same twice.
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<Guest, Timers>(linker, |guest| {
        let empty = guest.wasi.as_mut().expect("only a module that was given it is linked with WASI");
        TimersOf { table: &mut empty.table, now_ns: empty.now_ns }
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

struct Timers;

impl HasData for Timers {
    type Data<'a> = TimersOf<'a>;
}

struct TimersOf<'a> {
    table: &'a mut ResourceTable,
    now_ns: u64,
}

/// A time that has come.
struct Over;

#[async_trait::async_trait]
impl Pollable for Over {
    /// At once, also where a guest asks without waiting. One that asks in a loop is interrupted like any other.
    async fn ready(&mut self) {}
}

impl monotonic_clock::Host for TimersOf<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.now_ns)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let over = self.table.push(Over)?;
        subscribe(self.table, over)
    }

    fn subscribe_duration(&mut self, _duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_told_by_package_and_version() {
        for name in ["wasi:random/random@0.2.0", "wasi:cli/environment@0.2.12", "wasi:io/poll@0.2.6"] {
            assert!(offered(name), "{name}");
        }
        for name in [
            "wasi:http/types@0.2.0",
            "wasi:random/random@0.3.0",
            "wasi:random/random@0.2.0-rc-2023-12-05",
            "wasi:random/random",
            "wasi:random",
            "evil:random/random@0.2.0",
        ] {
            assert!(!offered(name), "{name}");
        }
    }

    /// A run that began under an older engine is gone on with under a newer one: the stream must never be another.
    #[test]
    fn randomness_begins_with_the_run_and_never_changes() {
        let first = |purpose, run| random(purpose, run).next_u64();
        assert_eq!(first("random", "20261126T002156699z-4qs8a0"), GOLDEN);
        assert_ne!(first("random", "20261126T002156699z-4qs8a1"), GOLDEN);
        assert_ne!(first("insecure", "20261126T002156699z-4qs8a0"), GOLDEN);
    }

    /// The first eight bytes of ChaCha20 under that key and an empty nonce, as `openssl enc -chacha20` gives them, least significant first.
    const GOLDEN: u64 = 4_016_323_096_023_149_503;
}
