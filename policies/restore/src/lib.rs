//! Restores a service's data in place: for a database that is lost, or has drifted from what it must be.
//!
//! The backup is restored beside the live data and proven there before anything stops. A person consents to the swap; what was there is
//! kept. If the service does not hold afterwards, taking it back is offered.

use lifeboat_policy::smoke::Step;
use lifeboat_policy::{Outcome, Record, Result, note, policy};
use lifeboat_procedures::beside::How;
use lifeboat_procedures::checks::Checks;
use lifeboat_procedures::choose;
use lifeboat_procedures::in_place::InPlace;
use lifeboat_procedures::live::{Live, compare_versions};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    #[serde(default = "latest")]
    backup: String,
    #[serde(default = "api")]
    endpoint: String,
    #[serde(default)]
    lists: Vec<Step>,
    #[serde(default)]
    smoke: Vec<Step>,
    #[serde(default = "why")]
    why: String,
    #[serde(default)]
    park: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<u32>,
    #[serde(default)]
    data_only: bool,
}

fn latest() -> String {
    "latest".into()
}

fn api() -> String {
    "api".into()
}

fn why() -> String {
    "the live data are lost or not what they must be".into()
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let live = Live::look(&p.service, record)?;
    let backup = choose::backup(&p.service, &p.store, &p.backup, record)?;
    if p.data_only {
        note("data only: the structure stays the live database's, and no migration runs on the restored rows");
    } else {
        compare_versions(&backup, live.version(), record);
    }
    let in_place = InPlace {
        service: &p.service,
        live: &live,
        backup: &backup,
        version: None,
        checks: Checks { endpoint: &p.endpoint, lists: &p.lists, smoke: &p.smoke },
        why: &p.why,
        park: p.park,
        how: How { jobs: p.jobs, data_only: p.data_only },
    };
    let put = in_place.put(record, || Ok(()), || Ok(()))?;
    Ok(in_place.outcome(put))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("restore", include_str!("../policy.toml"));
    }
}
