//! Putting a candidate in service, and taking that back.
//!
//! Approvals are the engine's: by the time a call arrives here, its approval has been spent.

mod describe;
mod swap;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::real::{RealHost, blocking};
use crate::restore::{Candidate, Verification};
use crate::service::ServiceControl;
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
    /// Where the set stands. A service must not be started on a mixed one.
    async fn standing(&self, cx: &StepContext, promotion: &Promotion) -> Result<Standing>;
    /// Puts the previous back in service and keeps what was promoted. Refuses while the service runs.
    async fn undo(&self, cx: &StepContext, promotion: &Promotion) -> Result<()>;
    /// Removes the previous for good.
    async fn drop_previous(&self, cx: &StepContext, promotion: &Promotion) -> Result<()>;
}

/// Where the sources of a promotion stand, all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Every source is as it was before.
    Before,
    /// Every source is promoted.
    After,
    /// Some of each, or something else altogether.
    Mixed,
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

#[async_trait]
impl Promote for RealHost {
    async fn preflight(&self, cx: &StepContext, candidate: &Candidate) -> Result<Vec<Finding>> {
        let (work, cx, candidate) = (self.work(&candidate.service)?, cx.clone(), candidate.clone());
        blocking(move || describe::preflight(&work, &cx, &candidate)).await
    }

    async fn describe(&self, cx: &StepContext, candidate: &Candidate) -> Result<Description> {
        let (work, cx, candidate) = (self.work(&candidate.service)?, cx.clone(), candidate.clone());
        blocking(move || describe::describe(&work, &cx, &candidate)).await
    }

    async fn plan(&self, cx: &StepContext, id: &str, candidate: &Candidate) -> Result<Promotion> {
        let work = self.work(&candidate.service)?;
        let (cx, id, candidate) = (cx.clone(), id.to_owned(), candidate.clone());
        blocking(move || swap::plan(&work, &cx, &id, &candidate)).await
    }

    async fn promote(
        &self,
        cx: &StepContext,
        candidate: &Candidate,
        verification: Option<&Verification>,
        plan: &Promotion,
    ) -> Result<()> {
        let work = self.work(&candidate.service)?;
        self.require_stopped(cx, &candidate.service, "promote").await?;
        let (cx, candidate, verification, plan) = (cx.clone(), candidate.clone(), verification.cloned(), plan.clone());
        blocking(move || swap::promote(&work, &cx, &candidate, verification.as_ref(), &plan)).await
    }

    async fn standing(&self, cx: &StepContext, promotion: &Promotion) -> Result<Standing> {
        let (work, cx, promotion) = (self.work(&promotion.service)?, cx.clone(), promotion.clone());
        blocking(move || swap::standing(&work, &cx, &promotion)).await
    }

    async fn undo(&self, cx: &StepContext, promotion: &Promotion) -> Result<()> {
        let work = self.work(&promotion.service)?;
        self.require_stopped(cx, &promotion.service, "undo").await?;
        let (cx, promotion) = (cx.clone(), promotion.clone());
        blocking(move || swap::undo(&work, &cx, &promotion)).await
    }

    async fn drop_previous(&self, cx: &StepContext, promotion: &Promotion) -> Result<()> {
        let (work, cx, promotion) = (self.work(&promotion.service)?, cx.clone(), promotion.clone());
        blocking(move || swap::drop_previous(&work, &cx, &promotion)).await
    }
}

impl RealHost {
    /// A service that writes while its data are swapped writes to both. Where lifeboat was not told how to see the service, the drivers'
    /// own checks (sessions, locks) are what is left.
    async fn require_stopped(&self, cx: &StepContext, service: &str, what: &str) -> Result<()> {
        if self.service(service)?.control.is_none() {
            return Ok(());
        }
        let status = ServiceControl::status(self, cx, service).await?;
        if status.state == "stopped" {
            return Ok(());
        }
        Err(Error::conflict(format!("service {service} is {}, and must be stopped to {what}", status.state))
            .hint("stop it first; the data were not touched"))
    }
}
