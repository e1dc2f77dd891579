//! The journal: one append-only log of everything that runs did, and the few tables that are derived from it.
//!
//! A record is one line of canonical JSON (sorted keys, no spaces) that carries the SHA-256 of the line before it. It is on disk (fsynced)
//! before [`State::append`] answers; if it can't be, the step does not happen.

mod append;
mod database;
mod lease;
mod look;
mod peek;
mod place;
mod postgres;
mod record;
mod rows;
mod schema;
#[cfg(test)]
mod shared_tests;
mod sqlite;
mod standing;
mod state;
mod tail;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;
mod walk;
mod whole;

pub(crate) use lease::Lease;
pub use postgres::PostgresState;
pub use record::{By, Record, Stand, Transition};
pub use rows::{
    ApprovalRow, ApprovalState, CandidateRow, Change, ObligationRow, PastRun, PromotionRow, RunFilter, RunRow, Salt,
};
pub(crate) use standing::{Drilled, OpenRun};
pub use state::State;
pub(crate) use walk::Walk;
