//! What crosses crates: the command line as a person uses it, on real services, with faults and hostile modules.
//!
//! `cargo xtask test` sets up what these need and says where it is in `LIFEBOAT_…` variables.

mod approvals;
mod audit;
mod bad_input;
mod bundles;
mod card;
mod check;
mod compiled;
mod denials;
mod doubt;
mod embed;
mod fuzz;
mod hostile;
mod kneo;
mod limits;
mod modules;
mod notes;
mod obligations;
mod offsite;
mod on_wasi;
mod plain;
mod registry;
mod rehearsed;
mod retention;
mod scheduled;
mod shared;
mod signing;
mod supply;
mod support;
mod sweep;
mod trust;
mod vendors;
