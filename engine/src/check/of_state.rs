//! What the state says: whether it can be read, whether its log is whole, what runs left standing.

use std::sync::Arc;

use host_api::ErrorKind;
use host_api::checks::{Level, Measure, Seen, offset};
use host_api::identifier::shown;

use super::around::{Around, Standing};
use super::words::lasting;
use crate::audit::verify_state;
use crate::error::{Error, Kind, Result};
use crate::journal::{ObligationRow, OpenRun};
use crate::{mixed, obligations as settling, policy};

/// How often a log is walked over again that was written meanwhile.
const WALKS_MAX: usize = 3;

/// A level, words and what to do, of an error of the engine's.
pub(super) fn of_error(error: &Error, level: Level) -> Seen {
    Seen::new(level, &error.message, error.hint.as_deref().unwrap_or_default())
}

const NO_STATE: &str = "there is no state yet: nothing has run here, or it was lost";

/// Every policy's module is there, is what its world wants, and takes its parameters.
pub(super) async fn modules(around: &Arc<Around>) -> Seen {
    let this = around.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let environment = match this.config.environment(Some(&this.environment)) {
            Ok(environment) => environment,
            Err(error) => return (0, vec![error.message]),
        };
        let policies = &environment.binding.policy;
        let mut wrong = Vec::new();
        for (name, binding) in policies {
            let fits = || -> Result<()> {
                let admitted = environment.admit(name, binding)?;
                let inspected = admitted.inspected();
                crate::run::check_world(inspected, name, binding.world.get_ref())?;
                policy::validate_partial(&inspected.description, &binding.parameters)
            };
            if let Err(error) = fits() {
                wrong.push(format!("{name}: {}", error.message));
            }
        }
        (policies.len(), wrong)
    });
    match looked.await {
        Ok((count, wrong)) if wrong.is_empty() => {
            Seen::ok(format!("policies whose module is there and fits: {count}, all"))
        }
        Ok((_, wrong)) => {
            Seen::critical(wrong.join("; "), "`lifeboat config validate` says more; no backup holds modules")
        }
        Err(_) => Seen::unknown("a bug: reading a module came to no end", "report it"),
    }
}

pub(super) async fn readable(around: &Around) -> Seen {
    match &*around.standing().await {
        Err(error) => of_error(error, Level::Critical),
        Ok(None) => Seen::warning(NO_STATE, "if runs are on record elsewhere, put the state directory back"),
        Ok(Some(standing)) => match standing.state.is_shared() {
            true => Seen::ok("the shared state can be read, and has the version of this engine"),
            false => Seen::ok("the state can be read, and has the version of this engine"),
        },
    }
}

/// The log is one whole chain, and what is derived of runs is what it says.
pub(super) async fn audit(around: &Around) -> Seen {
    let mut tries = WALKS_MAX;
    loop {
        let state = match around.config.state_to_look_at().await {
            Ok(Some(state)) => state,
            Ok(None) => return Seen::ok("there is no log yet"),
            Err(error) => return of_error(&error, Level::Unknown),
        };
        let verdict = verify_state(&state, &[], None).await;
        tries -= 1;
        if !state.is_as_opened() && tries > 0 {
            continue;
        }
        return match verdict {
            Ok(verdict) => {
                let records = Measure::new("records", verdict.records as f64, "");
                Seen::ok(format!("records of the log: {}, one whole chain", verdict.records)).with(records)
            }
            Err(error) if error.kind == Kind::StateAway => of_error(&error, Level::Unknown),
            Err(error) => Seen::critical(
                &error.message,
                "the log was changed or is damaged: keep it as it is, and hold it against a checkpoint (`lifeboat audit verify --checkpoint`)",
            ),
        };
    }
}

/// With what the state says, or why that is not known.
async fn with(around: &Around, none: Seen, look: impl FnOnce(&Standing) -> Seen) -> Seen {
    match &*around.standing().await {
        Err(error) => Seen::unknown(format!("the state can't be read: {}", error.message), "see state.readable"),
        Ok(None) => none,
        Ok(Some(standing)) => look(standing),
    }
}

pub(super) async fn runs(around: &Around) -> Seen {
    let now_ms = around.now_ms();
    with(around, Seen::ok("no run is on record"), |standing| of_runs(&standing.runs, now_ms)).await
}

/// One whose engine died, or whose step nobody can decide, may have left anything half-done; one that waits has time.
pub(super) fn of_runs(runs: &[OpenRun], now_ms: u64) -> Seen {
    let (mut level, mut words, mut fixes, mut working) = (Level::Ok, Vec::new(), Vec::new(), 0_u32);
    for OpenRun { row, is_held } in runs {
        let age = lasting(now_ms.saturating_sub(row.started_ms));
        let (run, policy) = (&row.id, shown(&row.policy));
        let (of, what, fix) = match row.status.as_str() {
            "running" if *is_held => {
                working += 1;
                continue;
            }
            "running" => (Level::Critical, "its engine died", format!("lifeboat runs resume {run}")),
            "in-doubt" => (Level::Critical, "a step is in doubt", format!("lifeboat runs show {run}")),
            _ => (Level::Warning, "it waits for an answer", format!("lifeboat runs show {run}")),
        };
        level = level.max(of);
        words.push(format!("run {run} of {policy}, begun {age} ago: {what}"));
        fixes.push(fix);
    }
    let open = Measure::new("open", runs.len() as f64, "");
    if words.is_empty() {
        return Seen::ok(format!("no run is left half-way; at work now: {working}")).with(open);
    }
    Seen::new(level, words.join("; "), fixes.join("; ")).with(open)
}

pub(super) async fn obligations(around: &Around) -> Seen {
    with(around, Seen::ok("no run is on record"), |standing| of_obligations(&standing.obligations)).await
}

/// What a run opened and nobody has closed: a service that is down, a copy that takes room.
pub(super) fn of_obligations(obligations: &[ObligationRow]) -> Seen {
    let count = Measure::new("unsettled", obligations.len() as f64, "");
    if obligations.is_empty() {
        return Seen::ok("nothing that a run opened is left open").with(count);
    }
    // A stopped service is worse than a copy that was not removed.
    let down = obligations.iter().any(|o| o.kind == "service-stopped");
    let words: Vec<String> =
        obligations.iter().map(|o| format!("{} (run {}): {}", settling::words(o), o.run, shown(&o.note))).collect();
    let fixes: Vec<String> = obligations.iter().map(settling::command).collect();
    let level = if down { Level::Critical } else { Level::Warning };
    Seen::new(level, words.join("; "), fixes.join("; ")).with(count)
}

/// No promotion has left the sources of a service of two times. Looked at in the world, like before each start of the service.
pub(super) async fn promotions(around: &Around, service: &str) -> Seen {
    let standing = around.standing().await;
    let standing = match &*standing {
        Err(error) => {
            return Seen::unknown(format!("the state can't be read: {}", error.message), "see state.readable");
        }
        Ok(None) => return Seen::ok("no promotion is on record"),
        Ok(Some(standing)) => standing,
    };
    let mut ours = standing.promotions.iter().filter(|row| row.promotion.service == service);
    let Some(newest) = ours.next() else { return Seen::ok("no promotion is on record") };
    // Half-way is what one under way is.
    if let Some(run) = standing.runs.iter().find(|run| run.is_held && run.row.id == newest.run) {
        return Seen::ok(format!("promotion {} is under way (run {})", newest.promotion.id, run.row.id));
    }
    let looked =
        mixed::refuse_start(&standing.state, &around.looker.host(), &around.context(), &around.environment, service)
            .await;
    match looked {
        Ok(()) => Seen::ok(format!("the newest promotion, {}, is {}", newest.promotion.id, shown(&newest.state))),
        Err(error) if error.kind == ErrorKind::Refused => Seen::of(&error, Level::Unknown, Level::Critical),
        Err(error) => Seen::unknown(
            format!("where promotion {} stands can't be looked at: {}", newest.promotion.id, error.message),
            error.hint.unwrap_or_default(),
        ),
    }
}

/// The shared state's clock against ours: leases and records have its time.
pub(super) async fn clock(around: &Around) -> Seen {
    let state = match around.config.state_to_look_at().await {
        Ok(Some(state)) => state,
        Ok(None) => return Seen::unknown("the shared state has no tables yet: its clock was not asked", ""),
        Err(error) => {
            return Seen::unknown(format!("its clock can't be asked: {}", error.message), "see state.readable");
        }
    };
    // Once for the connection, which is no part of the time in between.
    let warm = state.server_time_ms().await;
    let before = around.now_ms();
    let asked = match warm {
        Ok(_) => state.server_time_ms().await,
        Err(error) => Err(error),
    };
    let after = around.now_ms();
    match asked {
        Ok(Some(theirs)) => offset("the shared state's server", theirs, before, after),
        Ok(None) => Seen::ok("the state is not shared"),
        Err(error) => of_error(&error, Level::Unknown),
    }
}
