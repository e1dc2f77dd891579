//! What the drills on record say, against what was promised.

use host_api::bindings::Objectives;
use host_api::checks::{Bound, Level, Measure, Seen};

use super::around::Around;
use super::words::lasting;
use crate::journal::Drilled;

/// Ends that say nothing of the backup: somebody wanted it so, or another run was in the way.
const SAYS_NOTHING: [&str; 3] = ["cancelled", "abandoned", "lock-held"];

pub(super) async fn passed(around: &Around, service: &str) -> Seen {
    let objectives = around.objectives(service);
    match &*around.standing().await {
        Err(error) => Seen::unknown(format!("the state can't be read: {}", error.message), "see state.readable"),
        Ok(None) => of_passed(&[], service, &objectives, around.now_ms()),
        Ok(Some(standing)) => of_passed(&standing.drills, service, &objectives, around.now_ms()),
    }
}

/// The last drill passed, and is not too long ago. One that failed since counts, whatever passed before.
pub(super) fn of_passed(drills: &[Drilled], service: &str, objectives: &Objectives, now_ms: u64) -> Seen {
    let every_ms = objectives.drill_every_s.map(|s| s.saturating_mul(1000));
    let drill = "lifeboat run drill";
    let last =
        drills.iter().find(|drilled| drilled.service == service && !SAYS_NOTHING.contains(&drilled.status.as_str()));
    let Some(last) = last else {
        let level = if every_ms.is_some() { Level::Critical } else { Level::Warning };
        return Seen::new(level, format!("no drill of {service} is on record"), drill);
    };
    let age_ms = now_ms.saturating_sub(last.ended_ms);
    let critical = every_ms.map(|ms| Bound::Above(ms as f64 / 1000.0));
    let measure = Measure::new("age", age_ms as f64 / 1000.0, "s").bounds(None, critical);
    let ago = lasting(age_ms);
    if last.status != "ok" {
        return Seen::critical(
            format!("the last drill, run {}, {ago} ago, came out {}: {}", last.run, last.status, last.summary),
            format!("lifeboat runs show {}", last.run),
        )
        .with(measure);
    }
    let message = format!("the last drill, run {}, passed {ago} ago", last.run);
    match every_ms {
        None => Seen::ok(format!("{message}; no objective (drill-every-s) is configured")),
        Some(every) if age_ms > every => {
            Seen::critical(format!("{message}; the objective is every {}", lasting(every)), drill)
        }
        Some(every) => Seen::ok(format!("{message}; the objective is every {}", lasting(every))),
    }
    .with(measure)
}

pub(super) async fn rto(around: &Around, service: &str) -> Seen {
    let objectives = around.objectives(service);
    match &*around.standing().await {
        Err(error) => Seen::unknown(format!("the state can't be read: {}", error.message), "see state.readable"),
        Ok(None) => of_rto(None, &objectives),
        Ok(Some(standing)) => of_rto(standing.recovery.get(service), &objectives),
    }
}

/// The recovery time of the newest drill that passed, by the log's own times.
pub(super) fn of_rto(measured: Option<&(String, Option<u64>)>, objectives: &Objectives) -> Seen {
    let limit_ms = objectives.rto_s.map(|s| s.saturating_mul(1000));
    let unmeasured = |why: String| match limit_ms {
        Some(_) => Seen::unknown(format!("{why}: nothing is known of the recovery time"), "lifeboat run drill"),
        None => Seen::ok(format!("{why}; no objective (rto-s) is configured")),
    };
    let Some((run, took)) = measured else { return unmeasured("no drill has passed".into()) };
    let Some(took_ms) = *took else { return unmeasured(format!("the records of drill {run} tell no recovery time")) };
    let critical = limit_ms.map(|ms| Bound::Above(ms as f64 / 1000.0));
    let measure = Measure::new("took", took_ms as f64 / 1000.0, "s").bounds(None, critical);
    let message = format!("from restore to ready took {:.1} s in drill {run}", took_ms as f64 / 1000.0);
    match limit_ms {
        None => Seen::ok(format!("{message}; no objective (rto-s) is configured")),
        Some(limit) if took_ms > limit => Seen::critical(
            format!("{message}; the objective is {}", lasting(limit)),
            "restore with more jobs, or on a faster disk; or promise less",
        ),
        Some(limit) => Seen::ok(format!("{message}; the objective is {}", lasting(limit))),
    }
    .with(measure)
}
