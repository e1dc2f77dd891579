//! What a Lifeboat policy is written with.
//!
//! A policy is a function from parameters to an [`Outcome`]. Around it stand the contract's interfaces, one module each under the
//! contract's names ([`catalog`], [`dump`], …); [`step`], which puts words into the run's timeline; the [`Record`] of findings and
//! facts, which becomes the evidence; and [`smoke`], tests of a service given as parameters.
//!
//! ```no_run
//! use lifeboat_policy::{Outcome, Record, Result, dump, step};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! #[serde(rename_all = "kebab-case", deny_unknown_fields)]
//! struct Parameters {
//!     service: String,
//!     store: String,
//! }
//!
//! fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
//!     let backup = step("take a backup", || dump::take(&p.service, &p.store, &dump::Options::new()))?;
//!     record.backup(&backup);
//!     Ok(Outcome::ok(format!("backup {} is in {}", backup.id(), p.store)))
//! }
//!
//! lifeboat_policy::policy!(run);
//! # fn main() {}
//! ```
//!
//! A policy must be deterministic given its calls' results: the only time is [`clock::now`], and there is no randomness.

#[doc(hidden)]
pub mod bindings;
#[cfg(feature = "testing")]
pub mod description;
mod error;
mod finding;
pub mod objectives;
mod outcome;
mod record;
pub mod smoke;
mod step;
pub mod template;
pub mod time;

pub use bindings::lifeboat::recovery::types::{Approval, Backup, Candidate, Promotion};
pub use bindings::lifeboat::recovery::{
    catalog, clock, confirm, delete, dump, http_check, promote, query, report, restore, schedule, scratch, service,
    upload,
};
pub use error::{Error, ErrorKind, Result};
pub use finding::Finding;
pub use outcome::Outcome;
pub use record::Record;
pub use step::{note, step};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Makes a function `fn(Parameters, &mut Record) -> Result<Outcome>` the policy of this crate. The evidence file carries the crate's name.
#[macro_export]
macro_rules! policy {
    ($run:path) => {
        struct Policy;

        impl $crate::bindings::Guest for Policy {
            fn run(parameters: String) -> ::std::result::Result<(), String> {
                $crate::start(env!("CARGO_PKG_NAME"), &parameters, $run)
            }
        }

        $crate::bindings::export!(Policy with_types_in $crate::bindings);
    };
}

/// Runs a policy: reads its parameters, calls it, and reports how it ended. For [`policy!`].
///
/// # Errors
///
/// If the parameters don't fit, or the policy ends with an error.
#[doc(hidden)]
pub fn start<P: DeserializeOwned + Serialize>(
    name: &'static str,
    parameters: &str,
    run: impl FnOnce(P, &mut Record) -> Result<Outcome>,
) -> std::result::Result<(), String> {
    // A panic is a trap, and a trap has no text of its own.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        note(format!("panicked{place}: {}", panic.payload_as_str().unwrap_or("no text")));
    }));
    let parameters: P = serde_json::from_str(parameters).map_err(|error| format!("parameters: {error}"))?;
    let started_ms = clock::now();
    let mut record = Record::new(name, &parameters);
    let end = run(parameters, &mut record);
    record.write(started_ms, clock::now(), &end);
    end.map(|outcome| outcome.report()).map_err(|error| error.to_string())
}
