//! Removing backups.

use async_trait::async_trait;

use crate::catalog::Backup;
use crate::context::StepContext;
use crate::error::Result;

/// Removing backups.
#[async_trait]
pub trait Delete: Send + Sync {
    /// Removes backups: tombstone with the intent's digest first, then the manifest, then the objects. A held one refuses all.
    async fn apply(&self, cx: &StepContext, backups: &[Backup], intent_sha256: &str) -> Result<()>;
}
