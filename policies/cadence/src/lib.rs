//! Says what is due, when to ask again, and which promise is about to break. It changes nothing: `lifeboat serve` starts what it may.
//!
//! Everything is decided from what is on record and in the stores at the moment of asking, so it makes no difference how long nobody asked.

mod parameters;
mod promises;
#[cfg(test)]
mod simulation;
mod standing;
mod world;

use lifeboat_policy::{Finding, Outcome, Record, Result, clock, note, policy, schedule, time};

use crate::parameters::{Duty, Parameters};
use crate::promises::Held;
use crate::standing::{Standing, State};
use crate::world::{Host, Terms, World};

/// Asked again at least so often: a store may change without us.
const WAKE_MAX_MS: u64 = 24 * 3_600_000;
/// What could not be looked at is looked at again.
const UNREAD_MS: u64 = 300_000;

policy!(run);

/// What is decided.
struct Decision {
    standings: Vec<Standing>,
    held: Held,
    wake_at_ms: u64,
}

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let duties = p.all_duties()?;
    let mut host = Host { service: &p.service, zone: &p.zone };
    let terms = host.terms()?;
    let now_ms = clock::now();
    let decision = decide(&mut host, &p.service, &duties, &terms, now_ms)?;
    let mut due = Vec::new();
    for standing in &decision.standings {
        let Some(duty) = duties.iter().find(|duty| duty.name == standing.duty) else { continue };
        if let State::Due { why } = &standing.state {
            let parameters = serde_json::Value::Object(duty.parameters.clone()).to_string();
            let slot_ms = standing.slot_ms.unwrap_or(now_ms);
            schedule::due(&duty_name(&p.service, &duty.name), &duty.policy, &parameters, slot_ms, why);
            note(format!("{} is due: {why}", duty.name));
            due.push(duty.name.as_str());
        }
    }
    schedule::wake_at(decision.wake_at_ms);
    record.fact("duties", &decision.standings);
    record.fact("due", &due);
    record.fact("newest-backup-ms", decision.held.newest_ms);
    record.fact("newest-proven-ms", decision.held.proven_ms);
    record.fact("wake-at", time::iso8601(decision.wake_at_ms));
    record.passes(decision.held.findings);
    let again = format!("asked again by {}", time::iso8601(decision.wake_at_ms));
    Ok(Outcome::ok(match due.is_empty() {
        true => format!("nothing is due; {again}"),
        false => format!("due: {}; {again}", due.join(", ")),
    }))
}

/// Two services of one environment may have duties of one name.
fn duty_name(service: &str, duty: &str) -> String {
    format!("{service}/{duty}")
}

fn decide(world: &mut impl World, service: &str, duties: &[Duty], terms: &Terms, now_ms: u64) -> Result<Decision> {
    let mut standings = Vec::new();
    let mut unread = Vec::new();
    for duty in duties {
        let named = Duty { name: duty_name(service, &duty.name), ..duty.clone() };
        match standing::look(world, service, &named, terms, now_ms) {
            Ok(standing) => standings.push(Standing { duty: duty.name.clone(), ..standing }),
            // The others are due all the same.
            Err(error) => {
                unread.push(Finding::error("unread", error.to_string()));
                let duty = duty.name.clone();
                let (slot_ms, done_ms, next_ms, interval_ms) = (None, None, None, None);
                standings.push(Standing {
                    duty,
                    slot_ms,
                    done_ms,
                    next_ms,
                    interval_ms,
                    state: State::Passed,
                    odd: Vec::new(),
                });
            }
        }
    }
    cover(duties, &mut standings);
    let mut held = promises::hold(world, terms, duties, &standings, now_ms)?;
    let again = standings.iter().filter_map(|standing| match &standing.state {
        State::Again { at_ms, .. } => Some(*at_ms),
        _ => None,
    });
    let wakes =
        standings.iter().filter_map(|standing| standing.next_ms).chain(again).chain(held.turns_ms.iter().copied());
    let unread_at = (!unread.is_empty()).then(|| now_ms.saturating_add(UNREAD_MS));
    let wake_at_ms = wakes.chain(unread_at).filter(|at_ms| *at_ms > now_ms).min();
    held.findings.extend(unread);
    let latest = now_ms.saturating_add(WAKE_MAX_MS);
    Ok(Decision { standings, held, wake_at_ms: wake_at_ms.map_or(latest, |at_ms| at_ms.min(latest)) })
}

/// Where a duty that is due does another one as well, that one need not be started.
fn cover(duties: &[Duty], standings: &mut [Standing]) {
    let is_due = |standing: &Standing| matches!(standing.state, State::Due { .. });
    let covering: Vec<(String, &Vec<String>)> = duties
        .iter()
        .filter(|duty| standings.iter().any(|standing| standing.duty == duty.name && is_due(standing)))
        .map(|duty| (duty.name.clone(), &duty.covers))
        .collect();
    for (by, covers) in covering {
        for standing in standings.iter_mut().filter(|standing| covers.contains(&standing.duty) && is_due(standing)) {
            standing.state = State::Covered { by: by.clone() };
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("cadence", include_str!("../policy.toml"));
    }
}
