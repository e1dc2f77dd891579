//! What the program puts in place of the engine's own: the service is this process, it is asked without a network, and consent comes from a
//! list of its own.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use engine::approvals::{Answer, Confirmer, Intent};
use engine::observe::{Event, Observer};
use host_api::http_check::{HttpCheck, Observation, Request};
use host_api::service::{ServiceControl, Status};
use host_api::{Error, Result, StepContext};

use crate::ledger::Ledger;

/// The ledger as the engine's live service.
pub struct InProcess(pub Arc<Ledger>);

#[async_trait]
impl ServiceControl for InProcess {
    async fn status(&self, _cx: &StepContext, _service: &str) -> Result<Status> {
        let state = if self.0.is_open() { "running" } else { "stopped" };
        Ok(Status { state: state.into(), version: Some(env!("CARGO_PKG_VERSION").into()) })
    }

    async fn stop(&self, _cx: &StepContext, _service: &str) -> Result<()> {
        self.0.close();
        Ok(())
    }

    async fn start(&self, _cx: &StepContext, _service: &str) -> Result<()> {
        self.0.open().map_err(|e| Error::failed(format!("the ledger can't be opened: {e}")))
    }

    async fn wait_ready(&self, _cx: &StepContext, _service: &str) -> Result<u64> {
        self.0.entries().map(|_| 0).map_err(|e| Error::failed(format!("the ledger can't be read: {e}")))
    }

    async fn installable(&self, _cx: &StepContext, _service: &str, _version: &str) -> Result<()> {
        Err(Error::invalid("the ledger is of this program's own version"))
    }

    async fn install(&self, cx: &StepContext, service: &str, version: &str) -> Result<()> {
        self.installable(cx, service, version).await
    }
}

#[async_trait]
impl HttpCheck for InProcess {
    async fn check(&self, cx: &StepContext, endpoint: &str, request: &Request, _key: &str) -> Result<Observation> {
        cx.check()?;
        // A drill asks the restored service, `scratch/api`: the live ledger's answer would say nothing about it.
        if endpoint != "ledger/api" {
            return Err(Error::invalid(format!("the ledger answers for `ledger/api`, not for `{endpoint}`")));
        }
        let asked = (request.method.as_str(), request.path.as_str());
        let status = match (asked, self.0.entries()) {
            (("GET", "/entries"), Ok(_)) => 200,
            (("GET", "/entries"), Err(_)) => 503,
            _ => 404,
        };
        // What an answer must hold is the policy's word: one that this program can't judge is no pass.
        let plain = Request { method: request.method.clone(), path: request.path.clone(), ..Request::default() };
        let mut failures = Vec::new();
        if status != request.status.unwrap_or(200) {
            failures.push(format!("status {status}"));
        }
        if (Request { status: None, attempts: None, timeout_ms: None, ..request.clone() }) != plain {
            failures.push("the ledger judges nothing but the status".into());
        }
        Ok(Observation {
            passed: failures.is_empty(),
            status: Some(status),
            failures,
            attempts: 1,
            ..Default::default()
        })
    }
}

/// Consent as this program has it: whoever is on duty has said for which subjects it may go on.
#[derive(Default)]
pub struct Duty {
    /// Who is on duty, if somebody is.
    pub person: Mutex<Option<String>>,
    /// What was asked.
    pub asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Confirmer for Duty {
    async fn ask(&self, intent: &Intent) -> Answer {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(intent.action.clone());
        match self.person.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(by) => Answer::Approved { by, how: "ledger's duty list".into() },
            None => Answer::Denied { by: "nobody on duty".into() },
        }
    }
}

/// Shows steps and progress, and can end a run when a step begins.
pub struct Watch {
    /// Where lines go.
    pub show: Box<dyn Fn(String) + Send + Sync>,
    /// Called with the line of every step that begins.
    pub begins: Box<dyn Fn(&str) + Send + Sync>,
}

impl Observer for Watch {
    fn event(&self, _run: &str, event: &Event) {
        match event {
            Event::StepStarted { line, .. } => {
                (self.begins)(line);
                (self.show)(line.clone());
            }
            Event::Progress { progress, .. } => {
                (self.show)(format!("  {}: {} bytes", progress.what, progress.done_bytes))
            }
            Event::StepEnded { error: Some(error), .. } => (self.show)(format!("  {error}")),
            Event::Note(text) => (self.show)(format!("  {text}")),
            _ => {}
        }
    }
}
