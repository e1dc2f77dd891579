//! Ending a run whose engine died, or that nobody will answer: what it opened is settled, and its end is on record.

use std::time::Duration;

use host_api::promote::{Promotion, Standing};
use host_api::{Error as HostError, ErrorKind, Finding, StepContext};

use crate::Engine;
use crate::claims::Claim;
use crate::dispatch::get;
use crate::endings;
use crate::error::Result;
use crate::journal::{Change, Record, Transition};
use crate::resume::{is_question, last_step, open_step};
use crate::run::{Came, Ended, RunOptions, Status};
use crate::step::{RunIdentity, Stepper};

/// How long ending what the open step left running may take.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(120);

impl Engine {
    /// Settles what a run left open and writes its end. Refused while a process works on it. What an effect that was under way left running
    /// is ended; the effect itself stays in doubt on record: what it did is for a person to look at, and the summary says which it was.
    pub async fn abandon(&self, run: &str, reason: &str, options: RunOptions) -> Result<Ended> {
        let claim = self.claim(run).await?;
        self.abandon_claimed(claim, reason, options).await
    }

    /// [`Engine::abandon`] of a run that is claimed already.
    pub async fn abandon_claimed(&self, claim: Claim, reason: &str, options: RunOptions) -> Result<Ended> {
        let run = &claim.run().to_owned();
        let row = self.state().run(run).await?;
        let records = self.live_records(run).await?;
        let in_doubt = open_step(&records).filter(|step| !is_question(step));
        let summary = match in_doubt {
            Some(step) => format!(
                "abandoned by {}: {reason}; step {} ({}) was under way: look at what it did",
                options.actor,
                step.body["step"],
                call_of(step),
            ),
            None => format!("abandoned by {}: {reason}", options.actor),
        };
        let identity = RunIdentity {
            id: run.to_owned(),
            environment: row.environment,
            policy: row.policy,
            module_sha256: row.module_sha256,
        };
        let mut stepper = self.stepper(identity, options, records.last().map_or(0, |r| r.time_ms));
        stepper.step = last_step(&records);
        stepper.claim = Some(claim);
        stepper.said.recall(&records);
        stepper.began_on = records[0].body["host"].as_str().map(str::to_owned);
        stepper.ending = records.iter().any(|r| r.kind == Transition::Ending);
        // Once the end is on record, that was done.
        stepper.open_step = in_doubt.filter(|_| !stepper.ending).cloned();
        self.finish(stepper, Came::to(Status::Abandoned, &summary)).await
    }
}

impl Stepper {
    /// Leaves a step in doubt for good: its run ends without deciding it. What it left running is ended, and what it may have closed is opened.
    /// What can't be is a finding: settling goes on. Gives what is known of a promotion then.
    pub(crate) async fn leave_in_doubt(&mut self, step: &Record, records: &[Record]) -> Vec<Change> {
        let (host, mut cx) = (self.host.clone(), self.settling_context(LEFTOVERS_LIMIT));
        cx.step = step.body["step"].as_u64().unwrap_or(cx.step);
        // Whichever attempt it was, it is an earlier one.
        cx.attempt = u32::MAX;
        if let Err(error) = host.probe.end_attempts(&cx, service_of(step, records).as_deref()).await {
            self.said.finding(Finding::error(
                "leftovers",
                format!("what step {} left running may still run: {error}", cx.step),
                "look for processes and database sessions that are named after the run",
            ));
        }
        let (call, prepared) = (call_of(step), &step.body["prepared"]);
        let looked = match call {
            "promote.promote" => self.look_at_promotion(&cx, get(prepared, "promotion")).await,
            "promote.undo" => {
                let id = prepared["promotion"].as_str().unwrap_or_default();
                let row = self.around.state.promotion(id).await.map_err(|e| HostError::failed(e.to_string()));
                self.look_at_promotion(&cx, row.map(|row| row.promotion)).await
            }
            _ => return Vec::new(),
        };
        let id = prepared["promotion"]["id"].as_str().or(prepared["promotion"].as_str()).unwrap_or_default().to_owned();
        match (call, looked) {
            ("promote.promote", Ok(Standing::After)) | ("promote.undo", Ok(Standing::Before)) => {
                endings::changes(call, prepared, true)
            }
            ("promote.promote", Ok(Standing::Before)) => vec![Change::PromotionState(id, "taken-back")],
            ("promote.undo", Ok(Standing::After)) => vec![Change::PromotionState(id, "in-service")],
            (call, looked) => {
                if let Err(error) = looked {
                    self.said.finding(Finding::error(
                        "leftovers",
                        format!("where the sources stand, and whether they take connections, is not known: {error}"),
                        format!("`lifeboat promotions undo {id}`, once the cause is gone"),
                    ));
                }
                vec![Change::PromotionState(id, if call == "promote.undo" { "undo-failed" } else { "mixed" })]
            }
        }
    }

    /// Where a promotion has left its set. One that was cut off before its first swap may have kept sessions out of a live database: taking
    /// nothing back opens it again.
    async fn look_at_promotion(
        &self,
        cx: &StepContext,
        plan: Result<Promotion, HostError>,
    ) -> Result<Standing, HostError> {
        let (host, plan) = (self.host.clone(), plan?);
        let standing = host.promote.standing(cx, &plan).await?;
        match standing {
            Standing::Before => match host.promote.undo(cx, &plan).await {
                // The service runs, so its data take connections.
                Err(error) if error.kind == ErrorKind::Conflict => Ok(standing),
                undone => undone.map(|()| standing),
            },
            Standing::After | Standing::Mixed => Ok(standing),
        }
    }
}

/// The service a step's call acts on, as far as its request says so.
pub(crate) fn service_of(step: &Record, records: &[Record]) -> Option<String> {
    let arguments = &step.body["request"]["arguments"];
    let said = arguments["service"].as_str().or(step.body["prepared"]["service"].as_str());
    // A resource stands in a request by its id; its service stands where it was made.
    said.map(str::to_owned)
        .or_else(|| records.iter().rev().find_map(|r| r.body["result"]["ok"]["service"].as_str()).map(str::to_owned))
}

fn call_of(step: &Record) -> &str {
    step.body["request"]["call"].as_str().unwrap_or("?")
}
