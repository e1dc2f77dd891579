//! Stops the service and waits. When the run is cancelled or past its deadline, it starts the service itself, within the grace it is given.

use lifeboat_policy::{ErrorKind, Outcome, Record, Result, clock, policy, service, step};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    #[serde(default = "an_hour")]
    for_ms: u64,
    /// By default the host is told to leave the service, so that its running again is this policy's doing.
    #[serde(default = "leave")]
    if_aborted: String,
}

fn an_hour() -> u64 {
    3_600_000
}

fn leave() -> String {
    "leave".into()
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    step("stop", || service::stop(&p.service, &p.if_aborted))?;
    let slept = step("sleep", || clock::sleep_until(clock::now().saturating_add(p.for_ms)));
    step("start again", || service::start(&p.service))?;
    match slept {
        Err(error) if error.kind() == ErrorKind::Cancelled => Err(error.context("compensated")),
        Err(error) => Err(error),
        Ok(()) => Ok(Outcome::ok("nobody cancelled")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("compensates", include_str!("../policy.toml"));
    }
}
