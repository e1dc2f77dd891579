//! A run that this engine has in a shared state, kept ours by signs of life while this value lives.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::database::cells;
use super::postgres::Held;
use super::state::State;
use crate::error::{Error, Result};

/// A run's lease.
pub(crate) struct Lease {
    state: Arc<State>,
    held: Arc<Held>,
    renewal: JoinHandle<()>,
}

impl Lease {
    fn kept(state: &Arc<State>, held: Arc<Held>) -> Self {
        let renewal = tokio::spawn({
            let (state, held) = (state.clone(), held.clone());
            async move {
                while let Some(leases) = state.leases() {
                    tokio::time::sleep(leases.renewal_interval()).await;
                    leases.renew(&held).await;
                }
            }
        });
        Self { state: state.clone(), held, renewal }
    }

    pub(crate) fn run(&self) -> &str {
        &self.held.run
    }

    pub(crate) fn watch(&self, cancelled: &Arc<AtomicBool>) {
        self.held.watch(cancelled);
    }

    pub(crate) fn lost(&self) -> Option<Error> {
        self.held.lost()
    }

    pub(crate) fn deadlines(&self) -> (Instant, Instant) {
        self.held.deadlines()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        if let Some(leases) = self.state.leases() {
            leases.forget(&self.held);
        }
        let (state, held) = (self.state.clone(), self.held.clone());
        // Nobody waits for it. What the end of the process or of the runtime keeps from being said lapses by itself, or is seen to be dead.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Some(leases) = state.leases() {
                    leases.release(&held).await;
                }
            });
        }
    }
}

impl State {
    /// Takes the lease of a run, or says who has it; none where engines do not share the state.
    pub(crate) async fn lease(self: &Arc<Self>, run: &str, holder: &str, is_known_dead: bool) -> Result<Option<Lease>> {
        let Some(leases) = self.leases() else { return Ok(None) };
        Ok(Some(Lease::kept(self, leases.take_lease(run, holder, is_known_dead).await?)))
    }

    /// Takes the lease of the oldest run whose engine died.
    pub(crate) async fn lease_of_interrupted(
        self: &Arc<Self>,
        environment: &str,
        holder: &str,
        passed_over: &[String],
    ) -> Result<Option<Lease>> {
        let Some(leases) = self.leases() else { return Ok(None) };
        let held = leases.take_interrupted(environment, holder, passed_over).await?;
        Ok(held.map(|held| Lease::kept(self, held)))
    }

    /// Whether an engine has the lease of a run now; none where engines do not share the state.
    pub(crate) async fn is_leased(&self, run: &str) -> Result<Option<bool>> {
        match self.leases() {
            Some(leases) => leases.is_leased(run).await.map(Some),
            None => Ok(None),
        }
    }

    /// Runs of policies in an environment that are not over and do not wait, oldest first.
    pub(crate) async fn in_progress(&self, environment: &str) -> Result<Vec<String>> {
        let rows = self
            .rows(
                "select id from run where status = 'running' and environment = $1 and module_sha256 <> 'none'
                 order by started_ms, id",
                cells![environment],
            )
            .await?;
        rows.iter().map(|row| row.string(0)).collect()
    }
}
