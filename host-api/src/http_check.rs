//! Asking a service over HTTP, and holding its answer against expectations.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::StepContext;
use crate::error::Result;

/// One request and what its answer must be: the contract's `http-check.request`. Each `add-` call of the contract is one entry
/// of the list of that name, its arguments in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Request {
    /// Method, upper case.
    pub method: String,
    /// Path with an optional query.
    pub path: String,
    /// JSON text of the body.
    pub body_json: Option<String>,
    /// Expected status; none: 200 to 299.
    pub status: Option<u16>,
    /// Pointer, JSON text.
    pub json_equals: Vec<(String, String)>,
    /// Pointer.
    pub json_exists: Vec<String>,
    /// Pointer, operator, number.
    pub json_compare: Vec<(String, String, i64)>,
    /// Pointer, text that it must sort before.
    pub json_before: Vec<(String, String)>,
    /// Texts that must be there.
    pub body_contains: Vec<String>,
    /// Attempts, first wait in milliseconds.
    pub attempts: Option<(u32, u32)>,
    /// For each attempt.
    pub timeout_ms: Option<u32>,
}

/// What came of it: the contract's `http-check.observation`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observation {
    /// Every expectation held.
    pub passed: bool,
    /// Status of the last answer.
    pub status: Option<u16>,
    /// Which expectations did not hold, in words.
    pub failures: Vec<String>,
    /// Values the environment lets out.
    pub captures: Vec<(String, String)>,
    /// How many tries it took.
    pub attempts: u32,
    /// How long all of them took.
    pub elapsed_ms: u64,
}

/// Asking over HTTP.
#[async_trait]
pub trait HttpCheck: Send + Sync {
    /// `endpoint`: `SERVICE/NAME` for the live service, `INSTANCE-ID/NAME` for one in quarantine. `idempotency_key` goes with methods
    /// that change something.
    async fn check(
        &self,
        cx: &StepContext,
        endpoint: &str,
        request: &Request,
        idempotency_key: &str,
    ) -> Result<Observation>;
}
