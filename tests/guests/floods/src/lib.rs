//! Gives the host more of one thing than it should take; each kind has a limit of its own that has to end it.

use std::hint::black_box;

use lifeboat_policy::{Finding, Outcome, Record, Result, catalog, dump, policy, report};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    kind: Kind,
    #[serde(default = "notes")]
    service: String,
    #[serde(default = "local")]
    store: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Findings,
    Notes,
    Evidence,
    Steps,
    Handles,
    BigString,
    Recursion,
    Panic,
}

fn notes() -> String {
    "notes".into()
}

fn local() -> String {
    "local".into()
}

/// More than any sensible limit on a number of things.
const MANY: u32 = 1_000_000;
/// More than any sensible limit on one text, bytes.
const BIG_BYTES: usize = 64 << 20;

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    match p.kind {
        Kind::Findings => {
            let finding = Finding::info("flood", "one of many");
            (0..MANY).for_each(|_| report::add_finding(&finding));
        }
        Kind::Notes => (0..MANY).for_each(|i| report::note(&format!("note {i}"))),
        Kind::Evidence => (0..MANY).for_each(|i| report::evidence(&format!("{i}.json"), "{}")),
        Kind::Steps => {
            for _ in 0..MANY {
                catalog::list(&p.service, &p.store)?;
            }
        }
        Kind::Handles => {
            let mut kept = Vec::new();
            while black_box(true) {
                kept.push(dump::Options::new());
            }
        }
        Kind::BigString => report::note(&"x".repeat(BIG_BYTES)),
        Kind::Recursion => drop(deeper(0)),
        Kind::Panic => panic!("asked to"),
    }
    Ok(Outcome::ok("nothing ended this policy"))
}

/// Needs a stack frame of its own each time.
fn deeper(depth: u64) -> String {
    let below = if black_box(depth) == u64::MAX { String::new() } else { deeper(depth + 1) };
    format!("{}{depth}", black_box(below).len())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("floods", include_str!("../policy.toml"));
    }
}
