//! What a person does by hand on the command line (undo a promotion, discard a candidate, verify a backup) goes through the same one step as
//! a policy's calls: checked, recorded, its obligations settled.

use serde_json::{Value, json};

use crate::Engine;
use crate::calls;
use crate::error::{Error, Kind, Result};
use crate::grants::Grants;
use crate::journal::{Change, Transition};
use crate::run::{Came, Ended, RunOptions, Status};
use crate::sandbox::handles::canonical as on_record;
use crate::step::{RunIdentity, Stop};

/// What stands where a policy's module digest would: there is no module.
pub const NO_MODULE: &str = "none";

/// One call by hand: `promote.undo`, and its arguments by name (resources as their properties).
pub struct DirectCall {
    /// The call.
    pub name: &'static str,
    /// Its arguments; `{"from": N}` in place of one stands for the result of call N of the list.
    pub arguments: Value,
}

impl Engine {
    /// Makes calls by hand, one after the other, as one recorded run; the first that fails ends it. `options.policy` is the verb's name,
    /// `options.grants` is not used: whoever may write the configuration may do this. Answers with the results of the calls made.
    pub async fn direct(&self, options: RunOptions, procedure: Vec<DirectCall>) -> Result<(Ended, Vec<Value>)> {
        let run = host_api::identifier::fresh();
        let claim = self.claim(&run).await?;
        let identity = RunIdentity {
            id: run.clone(),
            environment: options.environment.clone(),
            policy: options.policy.clone(),
            module_sha256: NO_MODULE.into(),
        };
        let body = json!({
            "environment": options.environment, "policy": options.policy, "by-hand": true,
            "module-sha256": NO_MODULE,
        });
        let body = self.state().with_host(body);
        let begins = [Change::RunBegins(identity.row())];
        let clock_ms = self.state().append(&run, &options.by(), Transition::RunStarted, None, body, &begins).await?;
        let mut stepper = self.stepper(identity, options, clock_ms);
        claim.watch(&stepper.cancelled);
        stepper.claim = Some(claim);
        stepper.declared = calls::CALLS.iter().chain(calls::BY_HAND).map(|c| c.name.to_owned()).collect();
        stepper.grants = Grants::operator();
        stepper.live_endpoints = true;
        let mut results: Vec<Value> = Vec::new();
        let mut came = Came::to(Status::Ok, "done");
        for call in procedure {
            let row = calls::find_by_hand(call.name)
                .ok_or_else(|| Error::new(Kind::Failed, format!("a bug: no call {}", call.name)))?;
            let full = with_results(call.arguments, &results);
            let cancelled = stepper.cancelled.clone();
            let answer = tokio::select! {
                answer = stepper.step_of(row, canonical(&full), full) => answer,
                never = self.watch_for_cancellation(&run, &cancelled) => match never {},
            };
            match answer {
                Ok(answer) => match answer.get("err") {
                    None => results.push(answer["ok"].clone()),
                    Some(error) => {
                        let status = match stepper.last_refusal {
                            Some(_) => Status::Rejected,
                            None => Status::Failed,
                        };
                        came = Came::to(status, &stepper.last_detail.clone().unwrap_or_else(|| words(error)));
                        break;
                    }
                },
                Err(stop) => {
                    came = match stop {
                        // A run by hand can't be resumed: who is not there can't type.
                        Stop::Parked { .. } => {
                            Came::to(Status::Rejected, "nobody could be asked: run it at a terminal")
                        }
                        Stop::LockHeld(why) => Came::to(Status::LockHeld, &why),
                        Stop::TakenOver(why) => Came::to(Status::LockHeld, &why),
                        Stop::NotApproved(why) => Came::to(Status::Rejected, &why),
                        other => Came::to(Status::Failed, &other.to_string()),
                    };
                    break;
                }
            }
        }
        let ended = self.finish(stepper, came).await?;
        Ok((ended, results))
    }
}

/// Puts earlier results where an argument refers to them.
fn with_results(arguments: Value, results: &[Value]) -> Value {
    match arguments {
        Value::Object(map) => {
            if let (1, Some(from)) = (map.len(), map.get("from").and_then(Value::as_u64)) {
                return usize::try_from(from).ok().and_then(|i| results.get(i)).cloned().unwrap_or(Value::Null);
            }
            map.into_iter().map(|(key, value)| (key, with_results(value, results))).collect()
        }
        other => other,
    }
}

/// Arguments as journaled: what has an id by its id.
fn canonical(full: &Value) -> Value {
    match full {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let short = match value {
                    Value::Array(items) => items.iter().map(on_record).collect(),
                    value => on_record(value),
                };
                (key.clone(), short)
            })
            .collect(),
        other => other.clone(),
    }
}

fn words(error: &Value) -> String {
    match error {
        Value::Object(case) => case.values().next().and_then(Value::as_str).unwrap_or("failed").to_owned(),
        other => other.as_str().unwrap_or("failed").to_owned(),
    }
}
