//! Every limit on a guest: its default, where it holds, and how its breach is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::component::ResourceTableError;
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};

use super::MEMORY_BYTES_MAX;
use super::linker::Guest;

/// The limits of one policy in one environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Limits {
    /// All linear memories and tables together, bytes.
    pub memory_bytes_max: usize,
    /// Work between start and end, in fuel: about one a WebAssembly instruction.
    pub fuel: u64,
    /// What one call may hand to the host, bytes.
    pub call_bytes_max: usize,
    /// Resources the guest may hold at once.
    pub handles_max: usize,
    /// Calls that are recorded.
    pub steps_max: u64,
    /// What the guest makes us keep or write down, bytes together: notes, findings, evidence (64 KiB a file besides its content), fields of
    /// builders, and requests and answers of its calls.
    pub report_bytes_max: usize,
    /// Guest and host time from start to end, seconds; time in which a run is parked does not count.
    pub deadline_s: u64,
    /// After the deadline or a cancellation, how long the policy may compensate, seconds.
    pub grace_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A Rust policy needs 1 to 2 MiB.
            memory_bytes_max: 64 << 20,
            // Some seconds of computing; a policy mostly waits for the host.
            fuel: 10_000_000_000,
            call_bytes_max: 1 << 20,
            handles_max: 10_000,
            steps_max: 10_000,
            report_bytes_max: 64 << 20,
            // Four hours: a restore of some hundred GB.
            deadline_s: 4 * 3600,
            grace_s: 30,
        }
    }
}

impl Limits {
    /// Sets all of them on a store that is about to run a guest.
    pub(crate) fn apply(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        store.limiter(|guest| &mut guest.memory);
        store.set_fuel(self.fuel)?;
        // Yields so that deadlines and other runs on this thread get their turn.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            let turn = store.data().turn.clone();
            let computes = turn.computes(store.get_fuel()?);
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(async move { turn.next(computes).await })))
        });
        store.set_hostcall_fuel(self.call_bytes_max);
        Ok(())
    }

    /// The whole time a run may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s)
    }

    /// The grace after it.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_s)
    }
}

/// Which limit was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breach {
    /// `memory-bytes-max`
    Memory,
    /// `fuel`
    Fuel,
    /// `call-bytes-max`
    CallBytes,
    /// `handles-max`
    Handles,
    /// `steps-max`
    Steps,
    /// `report-bytes-max`
    ReportBytes,
    /// `deadline-s`
    Deadline,
    /// The guest's own stack (recursion).
    Stack,
}

impl Breach {
    /// The limit's name in the configuration, and what happened.
    pub fn words(self) -> &'static str {
        match self {
            Self::Memory => "wanted more memory than memory-bytes-max",
            Self::Fuel => "did more work than fuel allows",
            Self::CallBytes => "handed more to one host call than call-bytes-max",
            Self::Handles => "held more resources than handles-max",
            Self::Steps => "made more calls than steps-max",
            Self::ReportBytes => "reported more than report-bytes-max",
            Self::Deadline => "did not end within deadline-s (or, after it, grace-s)",
            Self::Stack => "exhausted its stack",
        }
    }
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for Breach {}

/// Counts all memories and tables of one guest together.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    used_bytes: usize,
    bytes_max: usize,
    /// Set when growth was refused, so that the trap that follows can be told from others.
    pub(crate) breached: bool,
}

impl MemoryLimiter {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { used_bytes: 0, bytes_max: bytes_max.min(MEMORY_BYTES_MAX), breached: false }
    }

    fn grow(&mut self, by: usize) -> wasmtime::Result<bool> {
        self.used_bytes = self.used_bytes.saturating_add(by);
        if self.used_bytes > self.bytes_max {
            self.breached = true;
            // A trap rather than a refusal the guest could go on from: its own error handling seldom expects one.
            return Err(wasmtime::Error::new(Breach::Memory));
        }
        Ok(true)
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current).saturating_mul(size_of::<usize>()))
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        32
    }

    fn memories(&self) -> usize {
        8
    }
}

/// Which limit a trap speaks of, if any.
pub(crate) fn breach_of(error: &wasmtime::Error, guest: &Guest) -> Option<Breach> {
    if let Some(breach) = error.downcast_ref::<Breach>() {
        return Some(*breach);
    }
    if guest.memory.breached {
        return Some(Breach::Memory);
    }
    // What it holds of WASI lies in a table of its own.
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return Some(Breach::Handles);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Some(Breach::Fuel),
        Some(Trap::StackOverflow) => Some(Breach::Stack),
        // wasmtime has no type for this one, only its words.
        _ if format!("{error:#}").contains("fuel allocated for hostcalls has been exhausted") => {
            Some(Breach::CallBytes)
        }
        _ => None,
    }
}
