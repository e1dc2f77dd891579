//! Deciding a step in doubt: it was started, and its engine died before its end was on record.
//!
//! First whatever the attempt left running is ended. Then the world is looked at: *done*, with the result; or *again*, as another attempt:
//! nothing of it counts, or asking again completes what is half-way, because what lies where decides inside the act itself. What can't be
//! looked at, or can't be told, is a person's to decide: nothing is repeated blindly.

use std::time::{Duration, Instant};

use host_api::promote::Promotion;
use host_api::{Error as HostError, ErrorKind, identifier};
use serde_json::{Value, json};

use crate::calls;
use crate::dispatch::{Performed, answer, get};
use crate::grants;
use crate::journal::{Record, Transition};
use crate::step::{ASKING_FAILED, INTENT_NOW, Stepper, Stop, closes};

/// How long ending an attempt's leftovers and looking may take.
const PROBE_LIMIT: Duration = Duration::from_secs(120);

/// What became of an attempt.
pub(crate) enum Decided {
    /// It happened; its result.
    Done(Value),
    /// It is asked for again, as another attempt.
    Again,
}

/// How a call in doubt is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its mark is looked for.
    Look,
    /// Asked again, it finds what is done already, and completes the rest.
    Repeat,
    /// Like `Repeat`, and half-way it is a state that must not stay: it is completed also in a run that was cancelled.
    Complete,
    /// A question to a person: it is asked again.
    Ask,
}

/// The way of each effect; none for what is no effect.
pub(crate) fn way(call: &str) -> Option<Way> {
    Some(match call {
        // An import is by hand, and so never gone on with.
        "dump.take" | "backups.import" | "service.install" | "http-check.check" => Way::Look,
        // A record's name is its step's; a copy's objects are compared byte by byte; a candidate's parts have their names only when whole;
        // statements that park do the same twice as once, each time as one transaction;
        // a process of an instance is ended before the next; a service that is stopped, or runs, is; a time that has passed has;
        // what was accepted is accepted.
        "catalog.hold" | "catalog.unhold" | "upload.copy" | "upload.attest" | "restore.stage" | "restore.verify"
        | "restore.park" | "restore.discard" | "scratch.start" | "scratch.stop" | "service.stop" | "service.start"
        | "clock.sleep-until" | "policy.pin" => Way::Repeat,
        // Identities of databases and files; a tombstone.
        // A sweep is by hand, and what is gone of it is gone.
        "promote.promote" | "promote.undo" | "promote.drop-previous" | "delete.apply" | "backups.sweep" => {
            Way::Complete
        }
        "confirm.request-promote"
        | "confirm.request-undo"
        | "confirm.request-drop-previous"
        | "confirm.request-delete"
        | "backups.request-sweep" => Way::Ask,
        _ => return None,
    })
}

impl Stepper {
    /// An effect that a former engine started. A question to a person is asked again; of anything else the world tells what became of it.
    pub(crate) async fn reopened(
        &mut self,
        call: &'static calls::Call,
        open: &Record,
        request: Value,
        full: Value,
    ) -> Result<Value, Stop> {
        if open.body["request"] != request {
            return Err(Stop::Nondeterminism {
                step: self.step,
                recorded: open.body["request"].to_string(),
                now: request.to_string(),
            });
        }
        let mut prepared = open.body["prepared"].clone();
        self.attempt = open.body["attempt"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        if calls::asks(call.name) {
            // Days may have passed: the person is shown what is true now, and what it was may not be what it is.
            prepared[INTENT_NOW] = match self.prepare(call.name, &full).await {
                Ok(now) => now.body["intent"].clone(),
                Err(error) => {
                    prepared[ASKING_FAILED] = json!(error.to_string());
                    Value::Null
                }
            };
            return self.act_and_complete(call.name, request, &full, &prepared).await;
        }
        let objects = calls::objects_of(call, &full).map_err(|e| self.in_doubt(call.name, &e))?;
        self.tell_started(format!("{} (in doubt)", grants::line_for(call.name, &objects)));
        let began = Instant::now();
        self.hold(&objects).await?;
        let decided = self.decide(call.name, &full, &prepared).await.map_err(|e| self.in_doubt(call.name, &e))?;
        self.at("decided");
        let answer = match decided {
            Decided::Done(value) => {
                let record = Some(json!({"by": "host", "as": "done"}));
                self.complete(call.name, request, &prepared, Performed { record, ..Ok(value).into() }).await
            }
            Decided::Again if self.ending() && !closes(call.name) && way(call.name) != Some(Way::Complete) => {
                let cancelled = HostError::new(ErrorKind::Cancelled, "the run was cancelled or is past its deadline");
                let record = Some(json!({"by": "host", "as": "not-done"}));
                self.complete(call.name, request, &prepared, Performed { record, ..Err(cancelled).into() }).await
            }
            Decided::Again => {
                self.attempt += 1;
                let body = json!({"request": request, "attempt": self.attempt, "prepared": prepared});
                self.append(Transition::Started, Some(self.step), body, &[]).await?;
                self.at("started again");
                self.act_and_complete(call.name, request, &full, &prepared).await
            }
        }?;
        self.tell_ended(&answer, began.elapsed());
        Ok(answer)
    }

    fn in_doubt(&self, call: &str, why: &HostError) -> Stop {
        Stop::InDoubt { step: self.step, call: call.to_owned(), why: why.to_string() }
    }

    /// Decides what became of the newest attempt at a step. An error: it can't be told, for this reason.
    pub(crate) async fn decide(&self, call: &str, full: &Value, prepared: &Value) -> Result<Decided, HostError> {
        let host = self.host.clone();
        let mut cx = self.settling_context(PROBE_LIMIT);
        let attempt = cx.attempt_key();
        cx.attempt += 1;
        let subject = ["backup", "candidate", "instance", "promotion"].iter().find_map(|key| full.get(*key));
        let service = subject.unwrap_or(full)["service"].as_str();
        host.probe.end_attempts(&cx, service).await?;
        match call {
            "dump.take" | "backups.import" => {
                let (service, store): (String, String) = (get(full, "service")?, get(full, "store")?);
                Ok(match host.probe.backup_of_attempt(&cx, &service, &store, &attempt).await? {
                    Some(backup) => Decided::Done(answer(backup)?),
                    None => Decided::Again,
                })
            }
            "service.install" => {
                let (service, version): (String, String) = (get(full, "service")?, get(full, "version")?);
                Ok(match host.probe.installed_by_attempt(&service, &version, &attempt).await? {
                    true => Decided::Done(Value::Null),
                    false => Decided::Again,
                })
            }
            "http-check.check" => {
                let endpoint: String = get(full, "endpoint")?;
                if host.probe.repeatable(&endpoint)? {
                    return Ok(Decided::Again);
                }
                Err(HostError::failed(format!(
                    "a request to {} may have been acted upon, and nothing tells whether it was",
                    identifier::shown(&endpoint)
                ))
                .hint("where the service knows the header Idempotency-Key, say so: `idempotency-key = true` on its endpoint"))
            }
            // Looked at first: where the sources can't be seen, nothing is said and nothing moves.
            "promote.promote" => {
                host.promote.standing(&cx, &get::<Promotion>(prepared, "promotion")?).await?;
                Ok(Decided::Again)
            }
            "promote.undo" | "promote.drop-previous" => {
                host.promote.standing(&cx, &get::<Promotion>(full, "promotion")?).await?;
                Ok(Decided::Again)
            }
            call if way(call).is_some() => Ok(Decided::Again),
            other => Err(HostError::failed(format!("a bug: {other} is no effect"))),
        }
    }
}

/// What a person may say of a step in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It happened.
    Done,
    /// It did not, or is to count as failed.
    Failed,
}

impl Resolution {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// The result of a call that a person says has happened; none where only the host could say it.
pub(crate) fn result_by_hand(call: &str, prepared: &Value) -> Option<Value> {
    match call {
        "promote.promote" => Some(prepared["promotion"].clone()),
        call => {
            let function = crate::contract::contract().call(call)?;
            matches!(function.result, Some(crate::contract::Ty::Result(None, _))).then_some(json!(null))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::{CALLS, Class};

    #[test]
    fn every_effect_has_a_way_to_be_decided_and_nothing_else_has() {
        for call in CALLS.iter().chain(crate::calls::BY_HAND) {
            let effect = !matches!(call.class, Class::Pure | Class::Read);
            assert_eq!(way(call.name).is_some(), effect, "{}", call.name);
            assert_eq!(way(call.name) == Some(Way::Ask), calls::asks(call.name), "{}", call.name);
            if call.class == Class::Destructive {
                assert_eq!(way(call.name), Some(Way::Complete), "{}", call.name);
            }
        }
    }

    #[test]
    fn a_person_says_only_what_has_no_result_of_its_own() {
        for (call, can) in [
            ("service.stop", true),
            ("service.install", true),
            ("catalog.hold", true),
            ("promote.promote", true),
            ("dump.take", false),
            ("http-check.check", false),
            ("scratch.stop", false),
        ] {
            assert_eq!(result_by_hand(call, &Value::Null).is_some(), can, "{call}");
        }
    }
}
