//! Backups that exist: those whose manifest is in the store.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::context::StepContext;
use crate::error::Result;

/// A backup as policies and people see it: the contract's `types.backup`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backup {
    /// Sortable id, UTC first.
    pub id: String,
    /// The service it is of.
    pub service: String,
    /// The store this copy lies in.
    pub store: String,
    /// SHA-256 of the manifest, hexadecimal.
    pub digest: String,
    /// A word for people.
    pub label: Option<String>,
    /// When the first source's snapshot was taken, Unix milliseconds, UTC.
    pub taken_at_ms: u64,
    /// When the last source had been read to its end.
    pub completed_at_ms: u64,
    /// Time of the newest record, where known.
    pub newest_at_ms: Option<u64>,
    /// Version of the service then installed, where known.
    pub version: Option<String>,
    /// Stored size of all objects, bytes.
    pub stored_bytes: u64,
    /// Names of the sources, databases first.
    pub sources: Vec<String>,
    /// What was noticed while it was taken.
    pub findings: Vec<Finding>,
    /// Known records by name.
    pub known: Vec<(String, String)>,
}

/// What stands beside a backup's manifest and may change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupState {
    /// Latest end of the holds that are not ended, Unix milliseconds.
    pub held_until_ms: Option<u64>,
    /// Why it is held, the newest hold's words.
    pub held_because: Option<String>,
    /// When a restored copy of it last passed verification, Unix milliseconds.
    pub verified_at_ms: Option<u64>,
}

/// Reading the catalog, and holding backups.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// All backups of a service in a store, oldest first. A manifest that can't be read is an error, not a shorter list.
    async fn list(&self, cx: &StepContext, service: &str, store: &str) -> Result<Vec<Backup>>;
    /// One backup.
    async fn get(&self, cx: &StepContext, service: &str, store: &str, id: &str) -> Result<Backup>;
    /// The newest one; with `verified`, the newest that a restored copy of passed verification.
    async fn latest(&self, cx: &StepContext, service: &str, store: &str, verified: bool) -> Result<Option<Backup>>;
    /// Holds and verifications of a backup.
    async fn state(&self, cx: &StepContext, backup: &Backup) -> Result<BackupState>;
    /// Keeps a backup from deletion until a time.
    async fn hold(&self, cx: &StepContext, backup: &Backup, until_ms: u64, why: &str) -> Result<()>;
    /// Ends its holds.
    async fn unhold(&self, cx: &StepContext, backup: &Backup, why: &str) -> Result<()>;
}
