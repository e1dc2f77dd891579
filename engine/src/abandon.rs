//! Ending a run whose engine died, or that nobody will answer: what it opened is settled, and its end is on record.

use std::time::Duration;

use host_api::Finding;
use host_api::promote::{Promotion, Standing};

use crate::Engine;
use crate::dispatch::get;
use crate::error::Result;
use crate::journal::{Record, Transition};
use crate::resume::{last_step, open_step};
use crate::run::{Came, Ended, RunOptions, Status};
use crate::step::{RunIdentity, Stepper};

/// How long ending what the open step left running may take.
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(120);

impl Engine {
    /// Settles what a run left open and writes its end. Refused while a process works on it. What an effect that was under way left running
    /// is ended; the effect itself stays in doubt on record: what it did is for a person to look at, and the summary says which it was.
    pub async fn abandon(&self, run: &str, reason: &str, options: RunOptions) -> Result<Ended> {
        let locks = self.lock_run(run)?;
        let row = self.state().run(run)?;
        let records = self.live_records(run)?;
        let in_doubt = open_step(&records).filter(|step| !call_of(step).starts_with("confirm."));
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
        stepper.locks = locks;
        stepper.said.recall(&records);
        stepper.ending = records.iter().any(|r| r.kind == Transition::Ending);
        stepper.open_step = in_doubt.cloned();
        self.finish(stepper, Came::to(Status::Abandoned, &summary)).await
    }
}

impl Stepper {
    /// Leaves a step in doubt for good: its run ends without deciding it. What it left running is ended, and what it may have closed is opened.
    /// What can't be is a finding: settling goes on.
    pub(crate) async fn leave_in_doubt(&mut self, step: &Record, records: &[Record]) {
        let (host, mut cx) = (self.around.host.clone(), self.settling_context(LEFTOVERS_LIMIT));
        cx.step = step.body["step"].as_u64().unwrap_or(cx.step);
        // Whichever attempt it was, it is an earlier one.
        cx.attempt = u32::MAX;
        if let Err(error) = host.end_attempts(&cx, service_of(step, records).as_deref()).await {
            self.said.finding(Finding::error(
                "leftovers",
                format!("what step {} left running may still run: {error}", cx.step),
                "look for processes and database sessions that are named after the run",
            ));
        }
        if call_of(step) != "promote.promote" {
            return;
        }
        // Cut off before its first swap, it may have kept sessions out of a live database: taking nothing back opens it again.
        let opened = async {
            let plan: Promotion = get(&step.body["prepared"], "promotion")?;
            match host.standing(&cx, &plan).await? {
                Standing::Before => host.undo(&cx, &plan).await,
                Standing::After | Standing::Mixed => Ok(()),
            }
        };
        if let Err(error) = opened.await {
            self.said.finding(Finding::error(
                "leftovers",
                format!("the live databases may be closed to new sessions: {error}"),
                "look at datallowconn in pg_database",
            ));
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
