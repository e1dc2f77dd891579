//! How a run ends, if it ends well enough to say.

use serde::Serialize;

/// A code of the contract and a summary for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    code: &'static str,
    summary: String,
}

impl Outcome {
    /// Everything was done.
    pub fn ok(summary: impl Into<String>) -> Self {
        Self { code: "ok", summary: summary.into() }
    }

    /// What matters most was done, something else was not.
    pub fn partly_done(summary: impl Into<String>) -> Self {
        Self { code: "partly-done", summary: summary.into() }
    }

    /// There was nothing to do.
    pub fn nothing_to_do(summary: impl Into<String>) -> Self {
        Self { code: "nothing-to-do", summary: summary.into() }
    }

    /// Every check ran, and at least one found an error.
    pub fn verification_failed(summary: impl Into<String>) -> Self {
        Self { code: "verification-failed", summary: summary.into() }
    }

    /// The procedure came to its end, and its aim was not reached.
    pub fn failed(summary: impl Into<String>) -> Self {
        Self { code: "failed", summary: summary.into() }
    }

    pub(crate) fn report(&self) {
        crate::report::outcome(self.code, &self.summary);
    }
}
