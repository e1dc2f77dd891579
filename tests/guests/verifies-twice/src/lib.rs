//! Verifies a candidate, gives somebody the time to change it, verifies it again, and goes on to promote it whatever that said. It is the
//! host that must not let it.

use lifeboat_policy::{Outcome, Record, Result, clock, confirm, dump, note, policy, promote, restore, service, step};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
}

/// Long enough for a test to find the candidate and change it.
const PAUSE_MS: u64 = 3_000;

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    let backup = step("back up", || dump::take(&p.service, &p.store, &dump::Options::new()))?;
    let candidate = step("stage", || restore::stage(&backup, "beside", &restore::Options::new()))?;
    let first = step("verify", || restore::verify(&candidate))?;
    step("wait", || clock::sleep_until(clock::now().saturating_add(PAUSE_MS)))?;
    let second = step("verify again", || restore::verify(&candidate))?;
    note(format!("passed first {}, then {}", first.passed(), second.passed()));
    let approval = step("ask", || confirm::request_promote(&candidate, "because it passed once"))?;
    step("stop", || service::stop(&p.service, "start"))?;
    step("promote", || promote::promote(&candidate, approval))?;
    Ok(Outcome::ok("promoted what did not pass"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>(
            "verifies-twice",
            include_str!("../policy.toml"),
        );
    }
}
