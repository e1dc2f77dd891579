//! Stops the service and panics: the host has to settle what is open, as it was declared.

use std::hint::black_box;

use lifeboat_policy::{Outcome, Record, Result, policy, service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    #[serde(default = "start")]
    if_aborted: String,
}

fn start() -> String {
    "start".into()
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    service::stop(&p.service, &p.if_aborted)?;
    if black_box(true) {
        panic!("{} is stopped, and this policy ends here", p.service);
    }
    Ok(Outcome::ok("did not trap"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("trap-between", include_str!("../policy.toml"));
    }
}
