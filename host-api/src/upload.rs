//! Copies of backups in other stores.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::catalog::Backup;
use crate::context::StepContext;
use crate::error::Result;

/// How deep to look at a stored backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// Objects there, sizes right.
    Exists,
    /// Every stored byte read and hashed.
    Checksum,
    /// Decompressed, hashed and parsed as well.
    Content,
}

/// Copying and looking.
#[async_trait]
pub trait Upload: Send + Sync {
    /// Copies a backup to another store, hashing every object on the way.
    async fn copy(&self, cx: &StepContext, backup: &Backup, store: &str) -> Result<Backup>;
    /// Looks at a backup where it lies. No finding: whole. A check that could not run is an error.
    async fn verify(&self, cx: &StepContext, backup: &Backup, depth: Depth) -> Result<Vec<Finding>>;
}
