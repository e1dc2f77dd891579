//! Proves a backup: restores it into scratch, compares it with its manifest, serves it in quarantine, asks it, measures recovery point
//! and time, and cleans up.
//!
//! "Backups are unproven until they have been restored."

use lifeboat_policy::objectives::Objectives;
use lifeboat_policy::smoke::Step;
use lifeboat_policy::{Outcome, Record, Result, policy};
use lifeboat_procedures::checks::Checks;
use lifeboat_procedures::choose;
use lifeboat_procedures::drill::Drill;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    #[serde(default = "latest")]
    backup: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default = "api")]
    endpoint: String,
    #[serde(default)]
    lists: Vec<Step>,
    #[serde(default)]
    smoke: Vec<Step>,
    #[serde(default)]
    objectives: Objectives,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<u32>,
}

fn latest() -> String {
    "latest".into()
}

fn api() -> String {
    "api".into()
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let backup = choose::backup(&p.service, &p.store, &p.backup, record)?;
    let id = backup.id();
    if !choose::is_whole(&backup, record)? {
        return Ok(Outcome::verification_failed(format!("backup {id} in {} is damaged; it was not restored", p.store)));
    }
    let drill = Drill {
        version: p.version.as_deref(),
        checks: Checks { endpoint: &p.endpoint, lists: &p.lists, smoke: &p.smoke },
        objectives: &p.objectives,
        jobs: p.jobs,
    };
    drill.run(&backup, record)?;
    Ok(match record.errors() {
        0 => Outcome::ok(format!("backup {id} was restored, compared and served; scratch is clean")),
        errors => Outcome::verification_failed(format!("backup {id} is not proven; error findings: {errors}")),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("drill", include_str!("../policy.toml"));
    }
}
