//! Going on with runs whose engine died.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{Engine, Result};

use crate::{Global, output};

/// The run that was taken up and is not over, and what ends the work of the host for it.
pub(super) type UnderWay = Arc<Mutex<Option<(String, Arc<AtomicBool>)>>>;

/// How often runs are looked for whose engine died on another host.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How often where nobody else is on the state: those of this host, by hand or our own.
pub(super) const LOOK_INTERVAL_ALONE: Duration = Duration::from_secs(60);

/// Goes on with runs of an environment whose engine died. Nobody is asked: a run that wants consent waits for it, as without a terminal.
pub(super) struct TakesUp {
    pub(super) global: Global,
    pub(super) environment: String,
    /// Opened at the first look, and kept where more looks follow: an SQLite state that is kept open is never written back from its
    /// write-ahead log, with what runs withheld in it.
    pub(super) engine: Option<Engine>,
    pub(super) shared: bool,
    /// What could not go on: said once, and left as it is.
    pub(super) passed_over: Vec<String>,
    pub(super) under_way: UnderWay,
}

impl TakesUp {
    /// All that there are now.
    pub(super) async fn all(&mut self) {
        loop {
            match self.one().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    output::say(&format!("error: runs whose engine died can't be looked for: {error}"));
                    break;
                }
            }
        }
        if !self.shared {
            self.engine = None;
        }
    }

    /// The oldest one; false if there is none.
    async fn one(&mut self) -> Result<bool> {
        let config = self.global.load()?;
        let environment = config.environment(Some(&self.environment))?;
        let engine = match &mut self.engine {
            Some(engine) => engine,
            none => none.insert(crate::run::unattended(&config, self.global.json).await?),
        };
        let Some(claim) = engine.claim_interrupted(&self.environment, &self.passed_over).await? else {
            return Ok(false);
        };
        let run = claim.run().to_owned();
        output::say(&format!("serve: run {run} was interrupted; going on with it"));
        let cancelled = Arc::<AtomicBool>::default();
        let set = |now| *self.under_way.lock().expect("no panic while held") = now;
        set(Some((run.clone(), cancelled.clone())));
        let came = crate::run::go_on(&self.global, engine, &environment, claim, &cancelled).await;
        set(None);
        match came {
            Ok(code) => output::say(&format!("serve: run {run} came to exit code {code}")),
            Err(error) => {
                output::say(&format!("error: run {run} does not go on: {error}"));
                self.passed_over.push(run);
            }
        }
        Ok(true)
    }
}

/// Leaves a run that was taken up where it is, when serving ends: the services it may want to start end too, so to cancel it would end it with
/// less than the next engine can do. It is as if this one had died, so nothing of it goes on record; what its step is doing ends.
pub(super) fn leave(under_way: &UnderWay) {
    let Some((run, cancelled)) = under_way.lock().expect("no panic while held").take() else { return };
    cancelled.store(true, Ordering::Relaxed);
    output::say(&format!(
        "serve: run {run} is left as it is; the next `lifeboat serve` goes on with it, or `lifeboat runs resume {run}`"
    ));
}
