//! The stored state of one run can't be read any more, and the database as such is fine.

use lifeboat_policy::smoke::Smoke;
use lifeboat_policy::template::Values;
use lifeboat_policy::{Error, ErrorKind, Finding, Outcome, Record, Result, note, query, step};
use lifeboat_procedures::checks::Checks;
use lifeboat_procedures::live::held;

use crate::{Parameters, State, needs};

/// The first damaged one: a service's own comparison of a run's checkpoints fails as a whole if one of them can't be read, so that it
/// can't tell which.
pub fn recover(p: &Parameters, record: &mut Record) -> Result<(State, Outcome)> {
    let name =
        p.damaged.as_deref().ok_or_else(|| needs(p.scenario, "`damaged`, the query that parses the stored texts"))?;
    let row = step(format!("ask {name} of the live database"), || query::run(&p.service, name))?;
    let mut row = row.into_iter();
    let count: u64 = row.next().flatten().and_then(|value| value.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("query {name} gives no number first: set `not-json = true` for it"))
    })?;
    if count == 0 {
        let summary = format!("{name} reads every stored text; nothing was changed");
        return Ok((State::NotLost, Outcome::nothing_to_do(summary)));
    }
    let mut values = Values::default();
    let mut told = Vec::new();
    for (column, value) in p.columns.iter().zip(row) {
        let value = value.unwrap_or_else(|| "none".to_owned());
        told.push(format!("{column} {value}"));
        values.set(column.clone(), value);
    }
    let message = format!("{count} stored texts can't be read; the first: {}", told.join(", "));
    let advice = values.text(&p.advice).map_err(|missing| {
        let message = format!("`advice` names `{}`, and the columns are {:?}", missing.name, missing.known);
        Error::new(ErrorKind::Invalid, message)
    })?;
    record.finding(Finding::warning("damaged", &message).fix(&advice));
    record.fact("damaged", &told);
    if count > 1 {
        note("the others may be of other runs: repair or remove this one and run this again");
    }
    if p.cancel.is_empty() {
        let summary = format!("{message}; nothing says how to cancel it (`cancel`); then {advice}");
        return Ok((State::NeedsAPerson, Outcome::partly_done(summary)));
    }
    let mut requests = Smoke::new(format!("{}/{}", p.service, p.endpoint), values);
    let findings = step(format!("cancel it, {} requests", p.cancel.len()), || requests.run("cancel", &p.cancel));
    record.fact("cancelled", requests.observed());
    let cancelled = held(findings.map(|findings| record.passes(findings)), record);
    // The rest of the service is not to suffer for one run. No backup is chosen here whose known records could be asked for.
    let others = Checks { smoke: &[], ..p.checks() }.run(&p.service, None, record)?;
    Ok(match cancelled && others {
        true => {
            (State::RunCancelled, Outcome::partly_done(format!("{message}; it is cancelled. For a person: {advice}")))
        }
        false => (State::NeedsAPerson, Outcome::verification_failed(format!("{message}; cancelling it did not hold"))),
    })
}
