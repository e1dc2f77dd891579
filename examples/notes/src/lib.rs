//! The example service `notes`: an HTTP service with its state in SQLite and files, in two
//! releases, of which the second is broken on purpose (see the README beside this crate).
//!
//! Everything that differs between the releases hangs on [`Release`]; the two binaries only name
//! theirs.

mod attachments;
mod cli;
mod error;
mod http;
mod notes;
mod outbox;
mod release;
mod schema;
mod service;
mod store;

pub use cli::main;
pub use release::Release;
