//! Waits: the run parks, and whoever resumes it early finds it waiting still.

use lifeboat_policy::{Outcome, Record, Result, clock, policy, step, time};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    #[serde(default = "ten_years")]
    for_ms: u64,
}

fn ten_years() -> u64 {
    315_360_000_000
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    let until_ms = clock::now().saturating_add(p.for_ms);
    step(format!("sleep until {}", time::iso8601(until_ms)), || clock::sleep_until(until_ms))?;
    Ok(Outcome::ok("awake"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("sleeper", include_str!("../policy.toml"));
    }
}
