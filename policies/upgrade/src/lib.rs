//! Moves a service to a new version, with a proven way back.
//!
//! Both versions must be installable and a backup taken, read back, held and (unless told otherwise) drilled before the service stops.
//! A new version that does not hold is left in place, because only a person can weigh what it wrote; the run ends as failed and says the
//! command that takes the upgrade back.

use lifeboat_policy::objectives::Objectives;
use lifeboat_policy::smoke::Step;
use lifeboat_policy::{
    Backup, Error, ErrorKind, Outcome, Record, Result, catalog, clock, dump, note, policy, service, step, time,
};
use lifeboat_procedures::checks::Checks;
use lifeboat_procedures::choose;
use lifeboat_procedures::drill::Drill;
use lifeboat_procedures::live::{Live, held};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    version: String,
    #[serde(default = "api")]
    endpoint: String,
    #[serde(default)]
    lists: Vec<Step>,
    #[serde(default)]
    smoke: Vec<Step>,
    #[serde(default = "a_week")]
    hold_days: u64,
    #[serde(default = "yes")]
    drill: bool,
}

fn api() -> String {
    "api".into()
}

fn a_week() -> u64 {
    7
}

fn yes() -> bool {
    true
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let Parameters { service, store, version, .. } = &p;
    let live = Live::look(service, record)?;
    let Some(old) = live.version() else {
        let message =
            format!("nobody says which version of {service} is installed, so there would be no way back to it");
        return Err(Error::new(ErrorKind::Conflict, message));
    };
    if old == version {
        return Ok(Outcome::nothing_to_do(format!("{service} is at {version}")));
    }
    step(format!("prove that {version} can be installed"), || service::installable(service, version))?;
    step(format!("prove that {old}, the way back, can be installed"), || service::installable(service, old))?;

    let backup = take(&p, record)?;
    let id = backup.id();
    let checks = Checks { endpoint: &p.endpoint, lists: &p.lists, smoke: &p.smoke };
    if p.drill && record.errors() == 0 {
        let objectives = Objectives::default();
        Drill { version: None, checks, objectives: &objectives, jobs: None }.run(&backup, record)?;
    }
    if record.errors() > 0 {
        let summary = format!("backup {id} is not proven; {service} was not touched and stays at {old}");
        return Ok(Outcome::verification_failed(summary));
    }

    live.stopped(record, || step(format!("install {version}"), || service::install(service, version)))?;
    let age = time::words(clock::now().saturating_sub(backup.taken_at_ms()));
    note(format!("what was written between backup {id}, {age} ago, and the stop is not in the backup"));
    if held(live.start_and_check(checks, Some(&backup), record), record) {
        return Ok(Outcome::ok(format!(
            "{service} runs {version}; backup {id} of {old} is held for {} days",
            p.hold_days
        )));
    }
    let way_back = format!(
        "lifeboat run rollback --param service={service} --param store={store} --param backup={id} --param version={old}"
    );
    note(format!("{service} is left at {version}, which does not hold; to take the upgrade back: {way_back}"));
    record.fact("way-back", &way_back);
    Ok(Outcome::failed(format!(
        "upgrade to {version} is broken: error findings: {}; {service} is left at it; take it back with: {way_back}",
        record.errors()
    )))
}

/// Takes the backup that is the way back, holds it, and reads it back.
fn take(p: &Parameters, record: &mut Record) -> Result<Backup> {
    let options = dump::Options::new();
    options.set_label("pre-upgrade");
    let backup = step(format!("take a backup of {} into {}", p.service, p.store), || {
        dump::take(&p.service, &p.store, &options)
    })?;
    record.backup(&backup);
    record.passes(backup.findings());
    let until_ms = time::days_after(clock::now(), p.hold_days);
    step(format!("hold backup {} until {}", backup.id(), time::iso8601(until_ms)), || {
        catalog::hold(&backup, until_ms, &format!("the way back from the upgrade to {}", p.version))
    })?;
    choose::is_whole(&backup, record)?;
    Ok(backup)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("upgrade", include_str!("../policy.toml"));
    }
}
