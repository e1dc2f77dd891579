//! Takes a failed upgrade back: the data from before it and the version that wrote them.
//!
//! Migrations go forward only, so the old version needs the old data. They are restored beside the live data and proven there before
//! anything stops. The data are swapped before the version is installed: if that is interrupted, it is the restored copy that meets the
//! wrong version, and not the only data that hold what was written since.

use lifeboat_policy::smoke::Step;
use lifeboat_policy::{Outcome, Record, Result, catalog, clock, confirm, policy, promote, service, step, time};
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
    if !choose::is_whole(&backup, record)? {
        return Ok(Outcome::verification_failed(format!("backup {id} in {store} is damaged; nothing was changed")));
    }

    let why = format!("rollback of {service} to version {version}: {}", lost(&live, backup.taken_at_ms()));
    let promotion = with_candidate(&backup, p.jobs, record, |candidate, record| {
        let approval = step("ask whether to put it in service", || confirm::request_promote(candidate, &why))?;
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
    let installed = step(format!("install {version}"), || service::install(service, version));
    if held(installed.and_then(|()| live.start_and_check(checks, &backup, record)), record) {
        return Ok(Outcome::ok(format!("{service} runs {version} on backup {id}; the data from before are kept")));
    }
    let newer = p.undo_version.as_deref().or(live.version());
    let why = format!("{service} {version} does not hold on backup {id}: see the findings of the run");
    let undone = undo::offer(&promotion, &live, &why, record, || match newer {
        Some(newer) => step(format!("install {newer} again"), || service::install(service, newer)),
        None => Ok(()),
    })?;
    let summary = match undone {
        true => {
            format!("{service} {version} did not hold on backup {id}; version and data from before are back in place")
        }
        false => format!("{service} {version} does not hold on backup {id}, which stays in place"),
    };
    Ok(Outcome::verification_failed(summary))
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
