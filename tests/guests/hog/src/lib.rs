//! Allocates and touches memory until it is refused, which ends it.

use std::hint::black_box;

use lifeboat_policy::{Outcome, Record, Result, policy};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {}

/// One allocation, bytes: large enough to reach any limit soon, small enough to come close to it.
const CHUNK_BYTES: usize = 1 << 20;

policy!(run);

fn run(_: Parameters, _: &mut Record) -> Result<Outcome> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    while black_box(true) {
        kept.push(black_box(vec![1; CHUNK_BYTES]));
    }
    Ok(Outcome::ok(format!("kept {} MiB", kept.len())))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("hog", include_str!("../policy.toml"));
    }
}
