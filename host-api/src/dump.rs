//! Taking backups.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::catalog::Backup;
use crate::context::StepContext;
use crate::error::Result;

/// How to take one: the contract's `dump.options`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Options {
    /// A word for people; at most 64 bytes.
    pub label: Option<String>,
}

/// Taking backups.
#[async_trait]
pub trait Dump: Send + Sync {
    /// Takes one backup of all sources of a service, databases first, files after. It exists when this answers, and not before.
    async fn take(&self, cx: &StepContext, service: &str, store: &str, options: &Options) -> Result<Backup>;
}
