//! The service, started on a scratch candidate, in quarantine.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::context::StepContext;
use crate::error::Result;
use crate::restore::Candidate;

/// A service process bound to one candidate: the contract's `scratch.instance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Instance {
    /// Its id; its endpoints are called `ID/NAME`.
    pub id: String,
    /// The service.
    pub service: String,
    /// The candidate's id.
    pub candidate: String,
    /// The port it was given.
    pub port: u16,
    /// Process id.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot: with the pid, it identifies the process.
    pub pid_started: u64,
}

/// Starting and stopping in quarantine.
#[async_trait]
pub trait Scratch: Send + Sync {
    /// Neutralises the candidate as configured, then starts the service on it. `version`: an installed one; `None`: the live one.
    async fn start(&self, cx: &StepContext, candidate: &Candidate, version: Option<&str>) -> Result<Instance>;
    /// Waits until it is ready; milliseconds since its start.
    async fn wait_ready(&self, cx: &StepContext, instance: &Instance) -> Result<u64>;
    /// Stops it and compares the configured facts with those before the start.
    async fn stop(&self, cx: &StepContext, instance: &Instance) -> Result<Vec<Finding>>;
}

/// A service running in quarantine.
pub struct Running;
