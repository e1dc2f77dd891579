//! Which process a supervised child is, on disk: the next supervisor finds it again when this one was killed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::disk::{private_dir, write_private};
use crate::error::{Context, Result};

/// A process of this boot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Record {
    pid: u32,
    pid_started: u64,
    /// Start times count from boot, so they identify nothing across one.
    boot: String,
}

fn path(dir: &Path, service: &str) -> PathBuf {
    dir.join("children").join(format!("{service}.json"))
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Writes down which process a service's child is.
pub(super) fn write(dir: &Path, service: &str, process: &Process) -> Result<()> {
    let path = path(dir, service);
    private_dir(&dir.join("children"))?;
    let record = Record { pid: process.pid(), pid_started: process.started(), boot: boot() };
    let text = serde_json::to_vec(&record).doing(|| format!("writing {}", path.display()))?;
    write_private(&path, &text)
}

/// Forgets it; forgotten already is fine.
pub(super) fn remove(dir: &Path, service: &str) {
    // One that stays names a process that is gone, which is noticed when it is read.
    let _ = std::fs::remove_file(path(dir, service));
}

/// The process on record, if it still runs: its id and start time.
pub(super) fn alive(dir: &Path, service: &str) -> Option<(u32, u64)> {
    let record: Record = serde_json::from_slice(&std::fs::read(path(dir, service)).ok()?).ok()?;
    let same = record.boot == boot() && crate::child::start_ticks(record.pid) == Some(record.pid_started);
    same.then_some((record.pid, record.pid_started))
}
