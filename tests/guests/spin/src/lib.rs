//! Never ends and never calls the host: fuel or the watchdog have to end it.

use std::hint::black_box;

use lifeboat_policy::{Outcome, Record, Result, policy};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {}

policy!(run);

fn run(_: Parameters, _: &mut Record) -> Result<Outcome> {
    let mut turns = 0_u64;
    while black_box(true) {
        turns = black_box(turns.wrapping_add(1));
    }
    Ok(Outcome::ok(format!("stopped spinning after {turns} turns")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("spin", include_str!("../policy.toml"));
    }
}
