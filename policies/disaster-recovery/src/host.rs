//! The host is gone and the database survived: the service is installed here and started on what is there.

use lifeboat_policy::{Outcome, Record, Result, service, step};
use lifeboat_procedures::live::{Live, held};

use crate::{Parameters, State, needs};

/// Nothing is restored, so nothing is promoted: the only danger is a service that starts on an empty database and calls itself ready.
pub fn recover(p: &Parameters, record: &mut Record) -> Result<(State, Outcome)> {
    let Parameters { service, .. } = p;
    let live = Live::look(service, record)?;
    if !p.is_alive(record)? {
        let summary = format!(
            "the database of {service} did not survive, or is not where this host looks for it; nothing was changed. If it is lost, use scenario=database-lost"
        );
        return Ok((State::NotThisWay, Outcome::failed(summary)));
    }
    // Its known records tell the database of this service from another that has data too.
    let backup = p.store.is_some().then(|| p.choose(record)).transpose()?;
    let version = p.version.clone().or_else(|| live.version().map(str::to_owned));
    let version = version.or_else(|| backup.as_ref().and_then(|backup| backup.version()));
    let version =
        version.ok_or_else(|| needs(p.scenario, "`version`: neither this host nor a backup says which ran"))?;
    let install = (live.version() != Some(&version)).then_some(version.as_str());

    if let Some(version) = install {
        step(format!("prove that {version} can be installed"), || service::installable(service, version))?;
        live.stopped(record, || step(format!("install {version}"), || service::install(service, version)))?;
    }
    let holds = held(live.start_and_check(p.checks(), backup.as_ref(), record), record);
    p.remains(true, false, record);
    Ok(match holds {
        true => (State::Recovered, Outcome::ok(format!("{service} {version} runs here on the database that survived"))),
        false => (
            State::NeedsAPerson,
            Outcome::verification_failed(format!("{service} {version} does not hold on the database that survived")),
        ),
    })
}
