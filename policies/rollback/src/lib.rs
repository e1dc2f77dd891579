//! Takes a failed upgrade back: the data from before it and the version that wrote them.
//!
//! Migrations go forward only, so the old version needs the old data. They are restored beside the live data and proven there before
//! anything stops.

use lifeboat_policy::smoke::Step;
use lifeboat_policy::{Outcome, Record, Result, catalog, clock, policy, service, step, time};
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
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<String>,
    #[serde(default = "api")]
    endpoint: String,
    #[serde(default)]
    lists: Vec<Step>,
    #[serde(default)]
    smoke: Vec<Step>,
    #[serde(default = "a_week")]
    hold_days: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    undo_version: Option<String>,
    #[serde(default)]
    park: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<u32>,
}

fn api() -> String {
    "api".into()
}

fn a_week() -> u64 {
    7
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let Parameters { service, store, version, .. } = &p;
    let live = Live::look(service, record)?;
    step(format!("prove that {version} can be installed"), || service::installable(service, version))?;
    let backup = match &p.backup {
        Some(id) => choose::backup(service, store, id, record)?,
        None => choose::of_version(service, store, version, record)?,
    };
    let id = backup.id();
    compare_versions(&backup, Some(version), record);
    let until_ms = time::days_after(clock::now(), p.hold_days);
    step(format!("hold backup {id} until {}", time::iso8601(until_ms)), || {
        catalog::hold(&backup, until_ms, &format!("rollback to {version}"))
    })?;
    let why = format!("rollback of {service} to version {version}: {}", lost(&live, backup.taken_at_ms()));
    let in_place = InPlace {
        service,
        live: &live,
        backup: &backup,
        version: Some(version),
        checks: Checks { endpoint: &p.endpoint, lists: &p.lists, smoke: &p.smoke },
        why: &why,
        park: p.park,
        how: How { jobs: p.jobs, data_only: false },
    };
    let newer = p.undo_version.as_deref().or(live.version());
    let install = || step(format!("install {version}"), || service::install(service, version));
    let reinstall = || match newer {
        Some(newer) => step(format!("install {newer} again"), || service::install(service, newer)),
        None => Ok(()),
    };
    let put = in_place.put(record, install, reinstall)?;
    Ok(in_place.outcome(put))
}

/// What a person who consents gives up.
fn lost(live: &Live, taken_at_ms: u64) -> String {
    let version = live.version().unwrap_or("the installed version");
    format!("what {version} wrote since {} goes out of service and is kept as the previous", time::iso8601(taken_at_ms))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("rollback", include_str!("../policy.toml"));
    }
}
