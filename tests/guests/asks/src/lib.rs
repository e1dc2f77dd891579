//! Asks an endpoint once: a drill that tries to reach the live service, which its world does not have.

use lifeboat_policy::{Outcome, Record, Result, http_check, policy};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    endpoint: String,
    #[serde(default = "readyz")]
    path: String,
}

fn readyz() -> String {
    "/readyz".into()
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    http_check::check(&p.endpoint, &http_check::Request::new("GET", &p.path))?;
    Ok(Outcome::ok(format!("{} was reached", p.endpoint)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("asks", include_str!("../policy.toml"));
    }
}
