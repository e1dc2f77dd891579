//! Sends one request that changes something, and one that does not: what an engine's death in the first one leaves is for the engine to find
//! out, or for a person.

use lifeboat_policy::{Outcome, Record, Result, http_check, note, policy};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    endpoint: String,
    path: String,
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    let request = http_check::Request::new("POST", &p.path);
    request.set_body_json(r#"{"title":"t","body":"b"}"#);
    let posted = match http_check::check(&p.endpoint, &request) {
        Ok(observation) => format!("posted, passed: {}", observation.passed()),
        Err(error) => format!("not posted: {error}"),
    };
    note(&posted);
    http_check::check(&p.endpoint, &http_check::Request::new("GET", "/"))?;
    Ok(Outcome::ok(posted))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("posts", include_str!("../policy.toml"));
    }
}
