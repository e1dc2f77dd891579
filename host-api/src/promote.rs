//! Putting a candidate in service, and taking that back.
//!
//! Approvals are the engine's: by the time a call arrives here, its approval has been spent.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::context::StepContext;
use crate::error::Result;
use crate::restore::{Candidate, Verification};
use crate::sources::Swap;

/// A candidate that was put in service, with what was there before it: the contract's `types.promotion`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Promotion {
    /// Its id.
    pub id: String,
    /// The service.
    pub service: String,
    /// The candidate's id.
    pub candidate: String,
    /// Id of the backup the candidate was made from.
    pub backup: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The sources that were swapped.
    pub swaps: Vec<Swap>,
}

/// Promoting and undoing; each on the set as a whole: all members, or none.
#[async_trait]
pub trait Promote: Send + Sync {
    /// Checks rights, names and file systems, changing nothing. No finding of severity error: it can be done.
    async fn preflight(&self, cx: &StepContext, candidate: &Candidate) -> Result<Vec<Finding>>;
    /// Identities of candidate and live data, as an approval binds them; and the consequence in words, one line each: what is replaced,
    /// what will run again.
    async fn describe(&self, cx: &StepContext, candidate: &Candidate) -> Result<Description>;
    /// What a promotion will do, to be on record before it is done. `id`: the promotion's.
    async fn plan(&self, cx: &StepContext, id: &str, candidate: &Candidate) -> Result<Promotion>;
    /// Swaps the whole set. Refuses while the service runs, without a passing verification of the same identities and manifest, and for
    /// a candidate that a service was started on. If one member fails, those before it are swapped back.
    async fn promote(
        &self,
        cx: &StepContext,
        candidate: &Candidate,
        verification: Option<&Verification>,
        plan: &Promotion,
    ) -> Result<()>;
    /// Puts the previous back in service and keeps what was promoted. Refuses while the service runs.
    async fn undo(&self, cx: &StepContext, promotion: &Promotion) -> Result<()>;
    /// Removes the previous for good.
    async fn drop_previous(&self, cx: &StepContext, promotion: &Promotion) -> Result<()>;
}

/// What an intent to promote shows and binds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Description {
    /// Identity of every candidate member and of the live data, by `candidate.SOURCE` and `live.SOURCE`.
    pub identities: std::collections::BTreeMap<String, crate::sources::Identity>,
    /// The consequence, a line each.
    pub consequence: Vec<String>,
}
