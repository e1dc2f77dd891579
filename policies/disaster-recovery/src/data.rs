//! The data are gone, or not what they should be: the newest backup takes their place.

use lifeboat_policy::{Backup, ErrorKind, Finding, Outcome, Record, Result, note, promote, service, step, time};
use lifeboat_procedures::beside::How;
use lifeboat_procedures::in_place::{InPlace, Put};
use lifeboat_procedures::live::{Live, compare_versions};

use crate::{Parameters, Scenario, State};

/// `database-lost`, and `all-lost`, where the version is installed too.
pub fn recover(p: &Parameters, record: &mut Record) -> Result<(State, Outcome)> {
    p.store()?;
    let live = Live::look(&p.service, record)?;
    // The panic of the hour must not put last night's data in place of today's.
    if p.is_alive(record)? {
        let summary = format!(
            "the database of {} is not lost: it answers with data; nothing was changed. If they are wrong, use scenario=stale-data",
            p.service
        );
        return Ok((State::NotLost, Outcome::failed(summary)));
    }
    let backup = p.choose(record)?;
    let wanted = p.version.clone().or_else(|| match p.scenario {
        Scenario::AllLost => backup.version(),
        _ => None,
    });
    let install = wanted.as_deref().filter(|version| live.version() != Some(*version));
    if let Some(version) = install {
        step(format!("prove that {version} can be installed"), || service::installable(&p.service, version))?;
    }
    compare_versions(&backup, install.or(live.version()), record);
    let why = format!(
        "{}: what was written since {} is lost, unless another backup has it",
        p.scenario.word(),
        time::iso8601(backup.taken_at_ms())
    );
    let ended = put(p, &live, &backup, install, &why, record)?;
    p.remains(p.scenario == Scenario::AllLost, true, record);
    Ok(ended)
}

/// `stale-data`: after a restore the service has older data than it should, or data and files that do not fit together.
pub fn refresh(p: &Parameters, record: &mut Record) -> Result<(State, Outcome)> {
    p.store()?;
    let live = Live::look(&p.service, record)?;
    let backup = p.choose(record)?;
    let id = backup.id();
    compare_versions(&backup, live.version(), record);
    match step(format!("look for the promotion of {} that is in service", p.service), || promote::latest(&p.service)) {
        Ok(Some(promotion)) => {
            note(format!("in service is candidate {}, by promotion {}", promotion.candidate(), promotion.id()));
            note(format!(
                "to come back to the data from before it instead: lifeboat promotions undo {}",
                promotion.id()
            ));
        }
        Ok(None) => note("no promotion is in service: what is live was not restored by this engine"),
        // What a note is for is not worth a refusal.
        Err(error) if error.kind() == ErrorKind::Denied => note(format!("which promotion is in service: {error}")),
        Err(error) => return Err(error),
    }
    let lack = |message: String, record: &mut Record| record.finding(Finding::warning("stale", message));
    if live.was_stopped() {
        lack(format!("{} is stopped: what it has can't be asked", p.service), record);
    } else if p.checks().ask(&p.service, Some(&backup), record, |found, record| lack(found.message, record))? {
        let summary = format!("the live service of {} has all that backup {id} knows; nothing was changed", p.service);
        return Ok((State::NotLost, Outcome::nothing_to_do(summary)));
    }
    let why = format!("the live data of {} are older than backup {id}, or do not fit together", p.service);
    put(p, &live, &backup, None, &why, record)
}

fn put(
    p: &Parameters,
    live: &Live<'_>,
    backup: &Backup,
    install: Option<&str>,
    why: &str,
    record: &mut Record,
) -> Result<(State, Outcome)> {
    let in_place = InPlace {
        service: &p.service,
        live,
        backup,
        version: install,
        checks: p.checks(),
        why,
        park: p.park,
        how: How { jobs: p.jobs, data_only: false },
    };
    let installed = |version: Option<&str>| match version {
        Some(version) => step(format!("install {version}"), || service::install(&p.service, version)),
        None => Ok(()),
    };
    let put = in_place.put(record, || installed(install), || installed(install.and(live.version())))?;
    let state = match put {
        Put::Holds => State::Recovered,
        Put::Damaged | Put::NotVerified => State::NotThisWay,
        Put::TakenBack => State::TakenBack,
        Put::DoesNotHold => State::NeedsAPerson,
    };
    Ok((state, in_place.outcome(put)))
}
