//! The live service.

mod quiesced;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::bindings::{Endpoint, Install, Ready};
use crate::context::StepContext;
use crate::control::{Live, State, install};
use crate::error::{Error, Result};
use crate::real::{RealHost, blocking};

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

impl RealHost {
    fn live(&self, service: &str) -> Result<Live> {
        Live::of(service, self.service(service)?, &self.state_dir).ok_or_else(|| {
            Error::invalid(format!("the environment does not say how `{service}` is started and stopped"))
                .hint(format!("configure [service.{service}.control]"))
        })
    }

    fn install_of(&self, service: &str) -> Result<Install> {
        self.service(service)?.install.clone().ok_or_else(|| {
            Error::invalid(format!("the environment does not say how versions of `{service}` are installed"))
                .hint(format!("configure [service.{service}.install]"))
        })
    }

    /// A service's readiness and the endpoint to ask.
    pub(crate) fn ready(&self, name: &str) -> Result<(&Ready, &Endpoint)> {
        let service = self.service(name)?;
        let ready = service.ready.as_ref().ok_or_else(|| {
            Error::invalid(format!("the environment does not say when `{name}` is ready"))
                .hint(format!("configure [service.{name}.ready]"))
        })?;
        let endpoint = service.endpoint.get(&ready.endpoint).ok_or_else(|| {
            Error::unknown("endpoint", &ready.endpoint, service.endpoint.keys()).context(format!("ready of {name}"))
        })?;
        Ok((ready, endpoint))
    }
}

#[async_trait]
impl ServiceControl for RealHost {
    async fn status(&self, cx: &StepContext, service: &str) -> Result<Status> {
        let binding = self.service(service)?;
        let version = binding.install.as_ref().and_then(crate::versions::current).map(|(version, _)| version);
        let Some(live) = Live::of(service, binding, &self.state_dir) else {
            return Ok(Status { state: "unknown".into(), version });
        };
        let cx = cx.clone();
        let state = match blocking(move || live.state(&cx)).await? {
            State::Running => "running",
            State::Stopped { .. } => "stopped",
            State::Unknown(_) => "unknown",
        };
        Ok(Status { state: state.into(), version })
    }

    async fn stop(&self, cx: &StepContext, service: &str) -> Result<()> {
        let (live, cx) = (self.live(service)?, cx.clone());
        let (name, file) = (service.to_owned(), self.service(service)?.quiesced_file.clone());
        blocking(move || {
            if let Some(file) = &file {
                quiesced::begin(&cx, &name, file)?;
                cx.at("said that it is quiesced");
            }
            live.stop(&cx)
        })
        .await
    }

    async fn start(&self, cx: &StepContext, service: &str) -> Result<()> {
        let (live, cx) = (self.live(service)?, cx.clone());
        let file = self.service(service)?.quiesced_file.clone();
        blocking(move || {
            live.start(&cx)?;
            file.as_deref().map_or(Ok(()), quiesced::end)
        })
        .await
    }

    async fn wait_ready(&self, cx: &StepContext, service: &str) -> Result<u64> {
        let (ready, endpoint) = self.ready(service)?;
        let binding = self.service(service)?;
        let target = self.http.target(&format!("{service}/{}", ready.endpoint), endpoint, &endpoint.url)?;
        let live = Live::of(service, binding, &self.state_dir).map(Arc::new);
        let gone = || {
            let (live, cx) = (live.clone(), cx.clone());
            async move {
                let live = live?;
                // A question that could not be asked is no reason to give up.
                blocking(move || Ok(live.gone(&cx))).await.ok().flatten()
            }
        };
        let values = crate::control::values::live(binding);
        crate::control::ready::wait(cx, &target, ready, &values, Instant::now(), gone)
            .await
            .map_err(|e| e.context(service))
    }

    async fn installable(&self, cx: &StepContext, service: &str, version: &str) -> Result<()> {
        let (binding, cx, version) = (self.install_of(service)?, cx.clone(), version.to_owned());
        blocking(move || install::installable(&cx, &binding, &version)).await
    }

    async fn install(&self, cx: &StepContext, service: &str, version: &str) -> Result<()> {
        let (binding, cx, version) = (self.install_of(service)?, cx.clone(), version.to_owned());
        let live = Live::of(service, self.service(service)?, &self.state_dir);
        blocking(move || {
            if let Some(live) = live {
                let why = match live.state(&cx)? {
                    State::Stopped { .. } => None,
                    State::Running => Some("it runs".to_owned()),
                    State::Unknown(why) => Some(why),
                };
                if let Some(why) = why {
                    return Err(Error::conflict(format!(
                        "a version is installed only while the service is stopped: {why}"
                    ))
                    .hint("stop it first"));
                }
            }
            install::install(&cx, &binding, &version)
        })
        .await
        .map_err(|e| e.context(service))
    }
}

#[cfg(test)]
mod tests;
