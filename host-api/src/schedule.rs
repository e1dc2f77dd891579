//! What a cadence is decided from: what was promised of a service, and what the service does with its own data.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::StepContext;
use crate::error::Result;
use crate::real::{RealHost, blocking};

/// The terms of a service: the contract's `schedule.terms`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Terms {
    /// The service.
    pub service: String,
    /// Recovery point objective, milliseconds.
    pub rpo_ms: Option<u64>,
    /// A drill passes at least every so many milliseconds.
    pub drill_every_ms: Option<u64>,
    /// What the service removes by itself: a name, and after how many milliseconds.
    pub prunes: Vec<(String, u64)>,
    /// Names of those whose time could not be read, and why.
    pub unread: Vec<(String, String)>,
}

/// Reading terms.
#[async_trait]
pub trait Schedule: Send + Sync {
    /// The terms of a service, as they are now.
    async fn terms(&self, cx: &StepContext, service: &str) -> Result<Terms>;
}

#[async_trait]
impl Schedule for RealHost {
    async fn terms(&self, cx: &StepContext, service: &str) -> Result<Terms> {
        let (cx, name, service) = (cx.clone(), service.to_owned(), self.service(service)?.clone());
        blocking(move || {
            let ms = |seconds: u64| seconds.saturating_mul(1_000);
            let mut terms = Terms {
                service: name,
                rpo_ms: service.objectives.rpo_s.map(ms),
                drill_every_ms: service.objectives.drill_every_s.map(ms),
                ..Terms::default()
            };
            for (name, prunes) in &service.prunes {
                cx.check()?;
                match prunes.read(&cx, service.control.as_ref()) {
                    Ok(Some(after_ms)) => terms.prunes.push((name.clone(), after_ms)),
                    Ok(None) => {}
                    Err(error) => terms.unread.push((name.clone(), error.to_string())),
                }
            }
            Ok(terms)
        })
        .await
    }
}
