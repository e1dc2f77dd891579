//! Restores a service's data in place: for a database that is lost, or has drifted from what it must be.
//!
//! The backup is restored beside the live data and proven there before anything stops. A person consents to the swap; what was there is
//! kept. If the service does not hold afterwards, taking it back is offered.

use lifeboat_policy::smoke::Step;
use lifeboat_policy::{Outcome, Record, Result, confirm, policy, promote, step};
use lifeboat_procedures::beside::with_candidate;
use lifeboat_procedures::checks::Checks;
use lifeboat_procedures::live::{Live, compare_versions, held};
use lifeboat_procedures::{choose, undo};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<u32>,
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
    let id = backup.id();
    compare_versions(&backup, live.version(), record);
    if !choose::is_whole(&backup, record)? {
        return Ok(Outcome::verification_failed(format!("backup {id} in {} is damaged; nothing was changed", p.store)));
    }

    let promotion = with_candidate(&backup, p.jobs, record, |candidate, record| {
        let approval = step("ask whether to put it in service", || confirm::request_promote(candidate, &p.why))?;
        let what = format!("put candidate {} in service", candidate.id());
        live.stopped(record, || step(what, || promote::promote(candidate, approval)))
    })?;
    let Some(promotion) = promotion else {
        let summary = format!("backup {id} did not pass after its restore; the live data were not touched");
        return Ok(Outcome::verification_failed(summary));
    };
    record.fact("promotion", promotion.id());
    undo::note_previous(&promotion);

    let checks = Checks { endpoint: &p.endpoint, lists: &p.lists, smoke: &p.smoke };
    if held(live.start_and_check(checks, &backup, record), record) {
        return Ok(Outcome::ok(format!("{} runs on backup {id}; what was there before is kept", p.service)));
    }
    let why = format!("{} does not hold on backup {id}: see the findings of the run", p.service);
    let summary = match undo::offer(&promotion, &live, &why, record, || Ok(()))? {
        true => format!("{} did not hold on backup {id}; the data from before are back in place", p.service),
        false => format!("{} does not hold on backup {id}, which stays in place", p.service),
    };
    Ok(Outcome::verification_failed(summary))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("restore", include_str!("../policy.toml"));
    }
}
