//! What a primitive knows about the step it works for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// One attempt at one step of one run: its identity (which becomes the marker on whatever it starts), its deadline, its cancellation,
/// and where its progress goes.
#[derive(Clone)]
pub struct StepContext {
    /// The run's id.
    pub run: String,
    /// The step's number in the run.
    pub step: u64,
    /// Which try at this step, from 1.
    pub attempt: u32,
    /// The step ends before this, or is ended.
    pub deadline: Instant,
    /// Where another engine may begin the step again: not even taking back what it did goes on after this.
    pub latest: Option<Instant>,
    /// Set from outside to end the step early.
    pub cancelled: Arc<AtomicBool>,
    /// Receives progress; cheap, never blocks.
    pub progress: ProgressSink,
    /// Told when the step reaches a named place; see [`StepContext::at`].
    pub waypoint: Waypoint,
}

/// Where progress goes.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// Is told the name of a place that a step has reached. Only tests look: one ends the process there, and holds what comes after against
/// what an undisturbed run leaves. Otherwise it does nothing.
pub type Waypoint = Arc<dyn Fn(&str) + Send + Sync>;

/// How far a long step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for people: `dump notes/db`.
    pub what: String,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes expected in all, where known.
    pub total_bytes: Option<u64>,
}

impl StepContext {
    /// A context for work outside a run: the command line's own, and tests.
    pub fn detached(name: &str, timeout: Duration) -> Self {
        Self {
            run: name.to_owned(),
            step: 0,
            attempt: 1,
            deadline: Instant::now() + timeout,
            latest: None,
            cancelled: Arc::new(AtomicBool::new(false)),
            progress: Arc::new(|_| {}),
            waypoint: Arc::new(|_| {}),
        }
    }

    /// The marker of this attempt, `lifeboat/RUN/STEP/ATTEMPT`: the application name of every database session it opens.
    pub fn marker(&self) -> String {
        format!("lifeboat/{}/{}/{}", self.run, self.step, self.attempt)
    }

    /// The attempt's id as part of an object key, `RUN-STEP-ATTEMPT`.
    pub fn attempt_key(&self) -> String {
        format!("{}-{}-{}", self.run, self.step, self.attempt)
    }

    /// An error if the step should end now.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the run was cancelled"));
        }
        if Instant::now() >= self.deadline {
            return Err(Error::new(ErrorKind::TimedOut, "the step's deadline has passed"));
        }
        Ok(())
    }

    /// Time left until the deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// This context with an earlier deadline.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        let mut inner = self.clone();
        inner.deadline = inner.deadline.min(Instant::now() + limit);
        inner
    }

    /// A context for taking back what this step had done: not cancelled, with some time of its own, still marked as this step's.
    #[must_use]
    pub fn taking_back(&self, limit: Duration) -> Self {
        let end = Instant::now() + limit;
        let deadline = self.latest.map_or(end, |latest| latest.min(end));
        Self { deadline, cancelled: Arc::new(AtomicBool::new(false)), ..self.clone() }
    }

    /// Whether what has this step's names in the world is still this attempt's: it may not be once another engine may have begun the step
    /// again.
    pub fn may_take_back(&self) -> bool {
        self.latest.is_none_or(|latest| Instant::now() < latest)
    }

    /// Name of a record that this step writes beside a manifest, the same for every attempt: "exists already" then means "done".
    pub fn record_id(&self) -> String {
        format!("{}-{:06}", self.run, self.step)
    }

    /// What the names of its files in the engine's scratch space begin with: what a killed engine left there is found by it, and by
    /// [`crate::probe::Probe::clear_spool`] for the whole run.
    pub fn spool_prefix(&self) -> String {
        format!("{}-", self.attempt_key())
    }

    /// The run that made a file of this name in the scratch space; none for what no step made.
    pub(crate) fn spooled_by(name: &str) -> Option<&str> {
        // What makes the name unique has no `-` in it.
        name.rsplit_once('-').and_then(|(attempt, _)| Self::run_of(attempt))
    }

    /// `RUN` of an attempt's key, `RUN-STEP-ATTEMPT`; none for what is no such key.
    pub(crate) fn run_of(attempt_key: &str) -> Option<&str> {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (rest, attempt) = attempt_key.rsplit_once('-')?;
        let (run, step) = rest.rsplit_once('-')?;
        (number(step) && number(attempt) && !run.is_empty()).then_some(run)
    }

    /// Says that the step has come to a place between two things that a crash may tear apart.
    pub fn at(&self, place: &str) {
        (self.waypoint)(place);
    }

    /// This step, cancelled at the moment it comes to a place: what it does behind that place, it does late.
    #[cfg(test)]
    pub(crate) fn ended_at(&self, place: &'static str) -> Self {
        let cancelled = Arc::new(AtomicBool::new(false));
        let end = cancelled.clone();
        let waypoint: Waypoint = Arc::new(move |reached| {
            end.fetch_or(reached == place, Ordering::Relaxed);
        });
        Self { cancelled, waypoint, ..self.clone() }
    }

    /// Reports progress.
    pub fn report(&self, what: &str, done_bytes: u64, total_bytes: Option<u64>) {
        (self.progress)(Progress { what: what.to_owned(), done_bytes, total_bytes });
    }
}

impl std::fmt::Debug for StepContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.marker())
    }
}
