//! Makes one kind of call so many times and nothing else: what a call costs is the difference between two such runs.

use std::hint::black_box;

use lifeboat_policy::{Outcome, Record, Result, catalog, clock, policy, report};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    call: Call,
    times: u32,
    /// Ends with an effect that is over at once: a place for an engine to die at.
    #[serde(default)]
    then_sleep: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Call {
    /// Nothing but a number comes back.
    Now,
    /// A text goes out.
    Note,
    /// A step: on record, with the refusal as its answer, so that no work of the host's is in it.
    Refused,
    /// An effect that is over at once: two records, its start and its end, and no work of the host's between them.
    Sleep,
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    for _ in 0..p.times {
        match p.call {
            Call::Now => _ = black_box(clock::now()),
            Call::Note => report::note("a note of thirty-two characters."),
            Call::Refused => _ = black_box(catalog::latest("notes", "local", false)),
            Call::Sleep => clock::sleep_until(clock::now())?,
        }
    }
    if p.then_sleep {
        clock::sleep_until(clock::now())?;
    }
    Ok(Outcome::ok("called"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("calls", include_str!("../policy.toml"));
    }
}
