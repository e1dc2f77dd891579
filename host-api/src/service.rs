//! The live service.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::StepContext;
use crate::error::Result;

/// What the host sees of a service: the contract's `service.status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// `running`, `stopped` or `unknown`.
    pub state: String,
    /// Installed version, where known.
    pub version: Option<String>,
}

/// Controlling the live service.
#[async_trait]
pub trait ServiceControl: Send + Sync {
    /// Whether it runs, and which version is installed.
    async fn status(&self, cx: &StepContext, service: &str) -> Result<Status>;
    /// Stops it: process gone and ports closed when this answers. Stopped already is fine.
    async fn stop(&self, cx: &StepContext, service: &str) -> Result<()>;
    /// Starts it. Running already is fine.
    async fn start(&self, cx: &StepContext, service: &str) -> Result<()>;
    /// Waits until it is ready; milliseconds waited.
    async fn wait_ready(&self, cx: &StepContext, service: &str) -> Result<u64>;
    /// Proves, without changing anything, that a version can be installed.
    async fn installable(&self, cx: &StepContext, service: &str, version: &str) -> Result<()>;
    /// Installs a version beside the others and switches to it. The service must be stopped.
    async fn install(&self, cx: &StepContext, service: &str, version: &str) -> Result<()>;
}
