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

    /// This context with time to take back what the step did, however it comes that it failed.
    #[must_use]
    pub fn grace(&self, limit: Duration) -> Self {
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

    /// What the names of its files in the engine's scratch space begin with: what a killed engine left there is found by it.
    pub fn spool_prefix(&self) -> String {
        format!("{}-", self.attempt_key())
    }

    /// Says that the step has come to a place between two things that a crash may tear apart.
    pub fn at(&self, place: &str) {
        (self.waypoint)(place);
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
