//! What starts by itself: cadences are woken when they asked to be, and what they say is due is started under its own grants.
//!
//! A cadence is a policy of the world `cadence`. It reads and decides; it changes nothing, and what it says is due is no more than a wish: only
//! what the environment's `may-start` names is started, never twice at once for one duty, and one run at a time for a service.

mod due;
mod queue;
mod scheduler;

pub use due::{Due, Duty};
pub use scheduler::{Happened, Opens, Scheduler, Watcher, has_answered};
