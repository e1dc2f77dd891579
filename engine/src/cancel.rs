//! Asking for a run's end, from any process that reaches the state.

use serde_json::json;

use crate::Engine;
use crate::claims;
use crate::error::Result;
use crate::journal::{By, Transition};

impl Engine {
    /// Puts on record that a person asks for a run's end. Whoever works on the run sees it within a second: every call of the policy is
    /// answered `cancelled` for the grace, so that it can compensate; then what is open is settled. Gives false where no process works on
    /// the run: then [`Engine::resume`] ends it so.
    pub async fn request_cancel(&self, run: &str, reason: &str, by: &By) -> Result<bool> {
        self.live_records(run).await?;
        if !self.state().cancel_requested(run).await? {
            self.state().append(run, by, Transition::CancelRequested, None, json!({"reason": reason}), &[]).await?;
        }
        self.is_worked_on(run).await
    }

    /// Whether a process works on a run now. One that is `running` and not worked on was interrupted: its engine died.
    pub async fn is_worked_on(&self, run: &str) -> Result<bool> {
        claims::is_held(self.state(), run).await
    }
}
