//! Promises, held against what is there: said before they break, and when they have.

use lifeboat_policy::{Finding, Result, time};

use crate::parameters::{Duty, Proof};
use crate::standing::{CLOCKS_MS, Standing, State};
use crate::world::{Terms, World};

/// After so many intervals without having been done, a duty is late; and after so many more, nobody can have meant it.
const LATE: (u64, u64) = (3, 2);
const FAR_TOO_LATE: u64 = 3;

/// What a promise says, and when it will say something else.
#[derive(Debug, Default)]
pub struct Held {
    pub findings: Vec<Finding>,
    /// Times at which a promise turns, Unix milliseconds.
    pub turns_ms: Vec<u64>,
    /// When the newest backup that can be seen was taken.
    pub newest_ms: Option<u64>,
    /// The same of the newest that was proven.
    pub proven_ms: Option<u64>,
}

/// Holds all of them.
pub fn hold(
    world: &mut impl World,
    terms: &Terms,
    duties: &[Duty],
    standings: &[Standing],
    now_ms: u64,
) -> Result<Held> {
    let mut held = Held::default();
    // A store that can't be looked at was named with its duty.
    let mut readable = true;
    for store in stores(duties) {
        for (verified, newest) in [(false, &mut held.newest_ms), (true, &mut held.proven_ms)] {
            match world.newest(store, verified) {
                Ok(taken_ms) => {
                    *newest = (*newest).max(taken_ms.filter(|taken| *taken <= now_ms.saturating_add(CLOCKS_MS)))
                }
                Err(_) => readable = false,
            }
        }
    }
    let has = |proof| duties.iter().any(|duty| duty.proof == proof);
    if has(Proof::Backup) {
        recovery_point(terms, duties, standings, now_ms, readable, &mut held);
    }
    if has(Proof::Drill) || !terms.prunes.is_empty() {
        proven(terms, now_ms, readable, &mut held);
    }
    drilled(terms, duties, standings, now_ms, &mut held);
    for (name, why) in &terms.unread {
        let words = format!("after how long the service prunes its {name} is not known: {why}");
        held.findings.push(
            Finding::warning("prunes", words).fix("`prunes` of the service in the configuration says where it stands"),
        );
    }
    for (duty, standing) in duties.iter().zip(standings) {
        late(duty, standing, now_ms, &mut held);
        held.findings.extend(standing.odd.iter().map(|(rule, words)| {
            let words = format!("{}: {words}", standing.duty);
            if *rule == "unread" { Finding::error(rule, words) } else { Finding::warning(rule, words) }
        }));
    }
    Ok(held)
}

/// Stores that backups of the duties are in.
fn stores(duties: &[Duty]) -> Vec<&str> {
    let mut stores: Vec<&str> = duties.iter().filter_map(|duty| duty.store.as_deref()).collect();
    stores.sort_unstable();
    stores.dedup();
    stores
}

/// The newest backup is not older than was promised, and will not be before the next one is planned.
fn recovery_point(
    terms: &Terms,
    duties: &[Duty],
    standings: &[Standing],
    now_ms: u64,
    readable: bool,
    held: &mut Held,
) {
    let Some(rpo_ms) = terms.rpo_ms else { return };
    // Where nothing can be looked at, what the runs say.
    let newest_ms = held.newest_ms.or_else(|| {
        let of = duties.iter().zip(standings).filter(|(duty, _)| !readable && duty.proof == Proof::Backup);
        of.filter_map(|(_, standing)| standing.done_ms).max()
    });
    if newest_ms.is_none() && !readable {
        let words = "whether there is a backup can't be told: a store can't be looked at, and no run is on record that took one";
        held.findings.push(Finding::error("rpo", words).fix("lifeboat check --only store backup"));
        return;
    }
    let Some(newest_ms) = newest_ms else {
        held.findings.push(
            Finding::error(
                "rpo",
                format!("there is no backup; the objective is one that is at most {} old", time::words(rpo_ms)),
            )
            .fix("lifeboat runs list, to see why none was taken"),
        );
        return;
    };
    let age_ms = now_ms.saturating_sub(newest_ms);
    if age_ms > rpo_ms {
        let words =
            format!("the newest backup is {} old; the objective is {}", time::words(age_ms), time::words(rpo_ms));
        held.findings.push(Finding::error("rpo", words).fix("lifeboat runs list, to see why none was taken since"));
        return;
    }
    held.turns_ms.push(newest_ms.saturating_add(rpo_ms).saturating_add(1));
    let planned = duties.iter().zip(standings).filter(|(duty, _)| duty.proof == Proof::Backup);
    let next_ms = planned.filter_map(|(_, standing)| match &standing.state {
        // Now, or in a moment.
        State::Due { .. } | State::Covered { .. } | State::UnderWay { .. } => Some(now_ms),
        State::Again { at_ms, .. } => Some(*at_ms),
        State::Done | State::Passed => standing.next_ms,
    });
    match next_ms.min() {
        Some(next_ms) if next_ms.saturating_sub(newest_ms) > rpo_ms => {
            let words = format!(
                "the newest backup will be {} old when the next one is planned; the objective is {}",
                time::words(next_ms.saturating_sub(newest_ms)),
                time::words(rpo_ms)
            );
            held.findings.push(Finding::warning("rpo", words).fix("back up more often, or promise less"));
        }
        Some(_) => {}
        None => held.findings.push(Finding::warning("rpo", "no further backup is planned")),
    }
}

/// A service that prunes after N days needs a proven backup well inside N days: all that an older one restores of it is pruned at once.
fn proven(terms: &Terms, now_ms: u64, readable: bool, held: &mut Held) {
    let fix = "lifeboat run drill, and drill more often than half of that; or let the service keep its data longer";
    for (name, after_ms) in &terms.prunes {
        let kept = time::words(*after_ms);
        let Some(proven_ms) = held.proven_ms else {
            if readable {
                let words = format!("the service prunes its {name} after {kept}, and no backup is proven");
                held.findings.push(Finding::error("prunes", words).fix(fix));
            }
            continue;
        };
        let age_ms = now_ms.saturating_sub(proven_ms);
        let age = time::words(age_ms);
        if age_ms >= *after_ms {
            let words = format!(
                "the service prunes its {name} after {kept}, and the newest proven backup is {age} old: all that it restores of them is pruned at once"
            );
            held.findings.push(Finding::error("prunes", words).fix(fix));
        } else if age_ms > after_ms / 2 {
            let words = format!(
                "the service prunes its {name} after {kept}, and the newest proven backup is {age} old, more than half of that"
            );
            held.findings.push(Finding::warning("prunes", words).fix(fix));
            held.turns_ms.push(proven_ms.saturating_add(*after_ms));
        } else {
            held.turns_ms.push(proven_ms.saturating_add(after_ms / 2).saturating_add(1));
        }
    }
}

fn drilled(terms: &Terms, duties: &[Duty], standings: &[Standing], now_ms: u64, held: &mut Held) {
    let Some(every_ms) = terms.drill_every_ms else { return };
    let drills = || duties.iter().zip(standings).filter(|(duty, _)| duty.proof == Proof::Drill);
    if drills().next().is_none() {
        let words = format!("a drill every {} is promised, and no duty is one", time::words(every_ms));
        held.findings.push(Finding::warning("drill", words).fix("add a duty with proof = \"drill\""));
        return;
    }
    match drills().filter_map(|(_, standing)| standing.done_ms).max() {
        None => held.findings.push(Finding::warning("drill", "no drill has passed yet").fix("lifeboat run drill")),
        Some(done_ms) if now_ms.saturating_sub(done_ms) > every_ms => {
            let age = time::words(now_ms.saturating_sub(done_ms));
            let words =
                format!("the last drill that passed was {age} ago; one every {} is promised", time::words(every_ms));
            held.findings
                .push(Finding::error("drill", words).fix("lifeboat runs list, to see why none has passed since"));
        }
        Some(done_ms) => held.turns_ms.push(done_ms.saturating_add(every_ms).saturating_add(1)),
    }
}

/// A duty that is not done for longer than its interval explains; and one that nobody lets go on.
fn late(duty: &Duty, standing: &Standing, now_ms: u64, held: &mut Held) {
    if let State::UnderWay { run, status, since_ms } = &standing.state
        && status != "running"
    {
        let since = time::words(now_ms.saturating_sub(*since_ms));
        let words =
            format!("{}: run {run} has been {status} for {since}, and nothing else is started for it", duty.name);
        held.findings.push(Finding::warning("waits", words).fix(format!("lifeboat runs show {run}")));
    }
    if let (None, State::Again { failures, status, .. }) = (standing.done_ms, &standing.state) {
        let words = format!("{} was never done: tried {failures} times, the last one is {status}", duty.name);
        held.findings.push(Finding::error("late", words).fix(format!("lifeboat runs list --policy {}", duty.policy)));
    }
    let Some((done_ms, interval_ms)) = standing.done_ms.zip(standing.interval_ms.filter(|interval| *interval > 0))
    else {
        return;
    };
    let age_ms = now_ms.saturating_sub(done_ms);
    let (late_ms, far_ms) = (interval_ms.saturating_mul(LATE.0) / LATE.1, interval_ms.saturating_mul(FAR_TOO_LATE));
    if matches!(standing.state, State::Done) || age_ms <= late_ms {
        held.turns_ms.extend((age_ms <= late_ms).then(|| done_ms.saturating_add(late_ms).saturating_add(1)));
        return;
    }
    let words = format!(
        "{} was done last {} ago, and should be every {}",
        duty.name,
        time::words(age_ms),
        time::words(interval_ms)
    );
    let finding = if age_ms > far_ms { Finding::error("late", words) } else { Finding::warning("late", words) };
    held.findings.push(finding.fix(format!("lifeboat runs list --policy {}", duty.policy)));
}
