//! A step of a procedure: words for people around one or a few calls.

use std::fmt::Display;

use crate::error::{Error, Result};
use crate::{clock, report, time};

/// Does something and notes it in the run's timeline with the time it took: `stage backup X: 0.8 s`. An error is noted too and carries
/// the words as its context.
///
/// ```no_run
/// # use lifeboat_policy::{catalog, step, Result};
/// # fn example() -> Result<()> {
/// let newest = step("look for the newest backup", || catalog::latest("notes", "local", false))?;
/// # Ok(()) }
/// ```
pub fn step<T, E: Into<Error>>(what: impl Display, act: impl FnOnce() -> Result<T, E>) -> Result<T> {
    let started_ms = clock::now();
    let result = act().map_err(Into::into);
    let took = time::words(clock::now().saturating_sub(started_ms));
    match result {
        Ok(value) => {
            report::note(&format!("{what}: {took}"));
            Ok(value)
        }
        Err(error) => {
            report::note(&format!("{what}: {} after {took}", error.kind().word()));
            Err(error.context(what))
        }
    }
}

/// A line in the run's timeline.
pub fn note(text: impl Display) {
    report::note(&text.to_string());
}
