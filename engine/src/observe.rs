//! Watching a run: what happens, as it happens. Nothing here decides anything.

use std::time::Duration;

use host_api::Finding;
use host_api::context::Progress;

use crate::schedule::Due;

/// Something that happened in a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The run began, or goes on.
    RunStarted {
        /// Policy's name.
        policy: String,
        /// Environment's name.
        environment: String,
        /// True if it was begun before.
        resumed: bool,
    },
    /// A call of the host begins.
    StepStarted {
        /// Number.
        step: u64,
        /// The call with the objects it touches, `dump.take service=notes store=local`.
        line: String,
    },
    /// A long step goes on.
    Progress {
        /// Number.
        step: u64,
        /// How far.
        progress: Progress,
    },
    /// It ended.
    StepEnded {
        /// Number.
        step: u64,
        /// What went wrong, if something did.
        error: Option<String>,
        /// How long it took.
        elapsed: Duration,
    },
    /// The policy says something.
    Note(String),
    /// The policy, or the host, found something.
    Finding(Finding),
    /// A cadence says that a policy is due.
    Due(Due),
    /// The host settles what the run left open.
    Settling {
        /// What, in words.
        what: String,
        /// Why it could not be, if it could not.
        error: Option<String>,
    },
}

/// Receives events; cheap, never blocks.
pub trait Observer: Send + Sync {
    /// Something happened in a run.
    fn event(&self, run: &str, event: &Event);
}

/// Watches nothing.
pub struct Unwatched;

impl Observer for Unwatched {
    fn event(&self, _run: &str, _event: &Event) {}
}
