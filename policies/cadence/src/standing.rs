//! Where one duty stands: done, due, under way, or to be tried again later. Decided from what is on record and in the stores, never from what
//! an engine remembers: a machine that was off for a week comes to the same answer as one that was not.

use lifeboat_policy::{Error, ErrorKind, Result, time};
use serde::Serialize;

use crate::parameters::{CatchUp, Duty, Proof};
use crate::world::{Past, Terms, World};

/// A slot that passed this long ago was missed: one engine that was busy for a moment has not.
const MISSED_MS: u64 = 300_000;
/// A slot that comes to nothing again and again is tried at least so often.
const RETRY_MAX_MS: u64 = 6 * 3_600_000;
/// A backup that is newer than now by more than this was taken by another clock.
pub const CLOCKS_MS: u64 = 300_000;
/// Of a catch-up by `all`, how many slots are gone back.
const BACK_MAX: usize = 1_000;

/// Where a duty stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Standing {
    /// The duty's name.
    pub duty: String,
    /// The slot in question, Unix milliseconds; none if it has none yet.
    pub slot_ms: Option<u64>,
    /// When it was done last.
    pub done_ms: Option<u64>,
    /// When the next slot is.
    pub next_ms: Option<u64>,
    /// From one slot to the next.
    pub interval_ms: Option<u64>,
    /// What follows.
    pub state: State,
    /// What is odd about it: rule and words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub odd: Vec<(&'static str, String)>,
}

/// What follows from where a duty stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing, until the next slot.
    Done,
    /// It is to be started.
    Due {
        /// Why.
        why: String,
    },
    /// Another duty that is due does it as well.
    Covered {
        /// Which.
        by: String,
    },
    /// A run for it is not over.
    UnderWay {
        /// Which.
        run: String,
        /// Where that stands.
        status: String,
        /// Since when.
        since_ms: u64,
    },
    /// It came to nothing, and is tried again.
    Again {
        /// When.
        at_ms: u64,
        /// How often it came to nothing.
        failures: u32,
        /// How the last one ended.
        status: String,
    },
    /// The slot passed, and is not made up for.
    Passed,
}

/// The slot in question, when it may begin, and when the next one may.
struct Slots {
    slot_ms: Option<u64>,
    begins_ms: u64,
    next_ms: Option<u64>,
    interval_ms: Option<u64>,
}

/// Where a duty of a service stands.
pub fn look(world: &mut impl World, service: &str, duty: &Duty, terms: &Terms, now_ms: u64) -> Result<Standing> {
    let ours = world.runs(&duty.policy, Some(&duty.name))?;
    let ours: Vec<&Past> = ours.iter().collect();
    let mut odd = Vec::new();
    let done_ms = proof(world, service, duty, &ours, now_ms, &mut odd)?;
    let slots = slots(world, service, duty, terms, done_ms, &ours, now_ms)?;
    let state = state(duty, &slots, done_ms, &ours, now_ms);
    let Slots { slot_ms, next_ms, interval_ms, .. } = slots;
    Ok(Standing { duty: duty.name.clone(), slot_ms, done_ms, next_ms, interval_ms, state, odd })
}

/// When it was done last, as its proof has it: of a proof by `run`, the slot that was done.
fn proof(
    world: &mut impl World,
    service: &str,
    duty: &Duty,
    ours: &[&Past],
    now_ms: u64,
    odd: &mut Vec<(&'static str, String)>,
) -> Result<Option<u64>> {
    // What a clock that was ahead has written says nothing of now.
    let been = |time_ms: &u64| *time_ms <= now_ms.saturating_add(CLOCKS_MS);
    let by_run = || ours.iter().filter(|run| run.is_good()).filter_map(|run| run.slot_ms).filter(been).max();
    match (duty.proof, &duty.store) {
        (Proof::Backup, Some(store)) => match world.newest(store, false) {
            Ok(Some(taken_ms)) if taken_ms > now_ms.saturating_add(CLOCKS_MS) => {
                let words = format!(
                    "the newest backup in {store} is of {}, which is not yet: a clock is wrong, or was",
                    time::iso8601(taken_ms)
                );
                odd.push(("clock", words));
                Ok(by_run())
            }
            Ok(newest) => Ok(newest),
            // A store that may only be written to from here, or that is away: what was put there, the runs say. One object in it that can't be
            // read must not keep the next backup from being taken.
            Err(error) => {
                let rule = if may_not_look(&error) { "unread-store" } else { "unread" };
                odd.push((rule, format!("{store} can't be looked at, so what runs said counts: {error}")));
                Ok(by_run())
            }
        },
        (Proof::Drill, _) => {
            let of_it = |run: &&Past| run.is_good() && run.service.as_deref().is_none_or(|s| s == service);
            let by_anyone = world.runs(&duty.policy, None)?;
            let newest = by_anyone.iter().filter(of_it).map(|run| run.started_ms).filter(been).max();
            Ok(newest.max(ours.iter().filter(|run| run.is_good()).map(|run| run.started_ms).filter(been).max()))
        }
        _ => Ok(by_run()),
    }
}

fn may_not_look(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Refused)
}

fn slots(
    world: &mut impl World,
    service: &str,
    duty: &Duty,
    terms: &Terms,
    done_ms: Option<u64>,
    ours: &[&Past],
    now_ms: u64,
) -> Result<Slots> {
    let late_ms = jitter_ms(service, duty);
    let mut slots = match (&duty.when, duty.every_s) {
        (Some(calendar), _) => {
            let at_ms = now_ms.saturating_sub(late_ms);
            let mut slot_ms = world.previous(calendar, at_ms)?;
            let next_ms = world.next(calendar, at_ms)?;
            let interval_ms = slot_ms.zip(next_ms).map(|(slot, next)| next.saturating_sub(slot));
            if duty.catch_up == CatchUp::All {
                slot_ms = oldest_missed(world, calendar, duty, done_ms, slot_ms, now_ms)?;
            }
            Slots {
                slot_ms,
                begins_ms: slot_ms.unwrap_or_default().saturating_add(late_ms),
                next_ms: next_ms.map(|next| next.saturating_add(late_ms)),
                interval_ms,
            }
        }
        (None, every_s) => {
            let every_ms = every_s.unwrap_or_default().saturating_mul(1_000);
            // Never done: since the first try, so that all tries are of one slot.
            let first_try =
                || ours.iter().filter_map(|run| run.slot_ms).filter(|slot| *slot <= now_ms).min().unwrap_or(now_ms);
            let after = |done: u64| done.saturating_add(every_ms).saturating_add(late_ms);
            let next_ms = done_ms.map_or_else(first_try, after);
            let due = next_ms <= now_ms;
            Slots {
                slot_ms: due.then_some(next_ms),
                begins_ms: next_ms,
                // Of one that is due, the next is counted from when it is done.
                next_ms: (!due).then_some(next_ms),
                interval_ms: Some(every_ms),
            }
        }
    };
    // A drill is due before what it proves grows too old, where the next slot would come after that.
    if duty.proof == Proof::Drill
        && let (Some(done_ms), Some(limit_ms)) = (done_ms, proven_within_ms(terms))
        && slots.next_ms.is_none_or(|next| next.saturating_sub(done_ms) > limit_ms)
    {
        let at_ms = done_ms.saturating_add(limit_ms / 10 * 9);
        if at_ms > now_ms {
            slots.next_ms = Some(at_ms);
        } else if slots.slot_ms.is_none_or(|slot| slot <= done_ms) {
            (slots.slot_ms, slots.begins_ms) = (Some(at_ms), at_ms);
        }
        slots.interval_ms = Some(slots.interval_ms.map_or(limit_ms, |interval| interval.min(limit_ms)));
    }
    Ok(slots)
}

/// How old a proof may become: what the environment promised, and half of what the service keeps.
pub fn proven_within_ms(terms: &Terms) -> Option<u64> {
    let halves = terms.prunes.iter().map(|(_, after_ms)| after_ms / 2);
    halves.chain(terms.drill_every_ms).min().filter(|limit_ms| *limit_ms > 0)
}

/// Of a calendar, the oldest slot since the one done last; a duty that was never done begins with the newest.
fn oldest_missed(
    world: &mut impl World,
    calendar: &str,
    duty: &Duty,
    done_ms: Option<u64>,
    newest_ms: Option<u64>,
    now_ms: u64,
) -> Result<Option<u64>> {
    let (Some(done_ms), Some(newest_ms)) = (done_ms, newest_ms) else { return Ok(newest_ms) };
    let oldest_ms = duty.within_s.map_or(0, |within_s| now_ms.saturating_sub(within_s.saturating_mul(1_000)));
    let mut slot_ms = done_ms.max(oldest_ms.saturating_sub(1));
    for _ in 0..BACK_MAX {
        match world.next(calendar, slot_ms)? {
            Some(next) if next <= newest_ms => return Ok(Some(next)),
            Some(next) => slot_ms = next,
            None => break,
        }
        if slot_ms >= newest_ms {
            break;
        }
    }
    Ok(Some(newest_ms))
}

fn state(duty: &Duty, slots: &Slots, done_ms: Option<u64>, ours: &[&Past], now_ms: u64) -> State {
    if let Some(run) = ours.iter().find(|run| run.ended_ms.is_none()) {
        let (run, status, since_ms) = (run.id.clone(), run.status.clone(), run.started_ms);
        return State::UnderWay { run, status, since_ms };
    }
    let Some(slot_ms) = slots.slot_ms.filter(|_| slots.begins_ms <= now_ms) else { return State::Done };
    if done_ms.is_some_and(|done| done >= slot_ms) {
        return State::Done;
    }
    let missed_ms = now_ms.saturating_sub(slots.begins_ms);
    let mut tries: Vec<&&Past> = ours.iter().filter(|run| run.slot_ms == Some(slot_ms)).collect();
    tries.sort_by_key(|run| run.ended_ms);
    let too_old = duty.within_s.is_some_and(|within_s| missed_ms > within_s.saturating_mul(1_000));
    if too_old || (duty.catch_up == CatchUp::Skip && missed_ms > MISSED_MS && tries.is_empty()) {
        return State::Passed;
    }
    if let Some(last) = tries.last() {
        let failures = u32::try_from(tries.len()).unwrap_or(u32::MAX);
        let pause_ms = duty.retry_s.saturating_mul(1_000).saturating_mul(1 << (failures - 1).min(20)).min(RETRY_MAX_MS);
        // A clock that was set back must not put it off for as long as that.
        let ended_ms = last.ended_ms.unwrap_or(last.started_ms).min(now_ms);
        let at_ms = ended_ms.saturating_add(pause_ms);
        if at_ms > now_ms {
            return State::Again { at_ms, failures, status: last.status.clone() };
        }
    }
    let why = match (done_ms, tries.len()) {
        (None, 0) => "it was never done".to_owned(),
        (Some(done), 0) if missed_ms <= MISSED_MS => format!("it is time; done last {}", time::iso8601(done)),
        (Some(done), 0) => {
            format!("a slot {} ago was missed; done last {}", time::words(missed_ms), time::iso8601(done))
        }
        (_, tries) => format!("tried {tries} times for this slot, to no end"),
    };
    State::Due { why }
}

/// The same for each slot: drawn from the names (FNV-1a), because a policy has no randomness and a fleet shares no clock.
fn jitter_ms(service: &str, duty: &Duty) -> u64 {
    if duty.jitter_s == 0 {
        return 0;
    }
    let bytes = service.bytes().chain([b'/']).chain(duty.name.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash % duty.jitter_s.saturating_mul(1_000)
}
