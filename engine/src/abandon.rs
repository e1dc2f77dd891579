//! Ending a run whose engine died, or that nobody will answer: what it opened is settled, and its end is on record.

use crate::Engine;
use crate::error::{Error, Kind, Result};
use crate::run::{Came, Ended, RunOptions, Status};
use crate::step::RunIdentity;

impl Engine {
    /// Settles what a run left open and writes its end. Refused while a process works on it. An effect that was under way when its engine
    /// died stays in doubt on record: what it did is for a person to look at, and the summary says which it was.
    pub async fn abandon(&self, run: &str, reason: &str, options: RunOptions) -> Result<Ended> {
        let locks = self.lock_run(run)?;
        let row = self.state().run(run)?;
        if row.ended_ms.is_some() {
            return Err(Error::new(Kind::Usage, format!("run {run} is over ({})", row.status)));
        }
        let records = self.state().records(run)?;
        let (clock_ms, steps) = records.last().map_or((0, 0), |last| {
            (last.time_ms, records.iter().filter_map(|r| r.body["step"].as_u64()).max().unwrap_or(0))
        });
        let in_doubt =
            records.iter().rfind(|r| r.body["step"].is_u64()).filter(|r| r.kind == crate::journal::Transition::Started);
        let summary = match in_doubt {
            Some(step) => format!(
                "abandoned by {}: {reason}; step {} ({}) was under way: look at what it did",
                options.actor,
                step.body["step"],
                step.body["request"]["call"].as_str().unwrap_or("?"),
            ),
            None => format!("abandoned by {}: {reason}", options.actor),
        };
        let identity = RunIdentity {
            id: run.to_owned(),
            environment: row.environment,
            policy: row.policy,
            module_sha256: row.module_sha256,
        };
        let mut stepper = self.stepper(identity, options, clock_ms);
        stepper.step = steps;
        stepper.locks = locks;
        self.finish(stepper, Came::to(Status::Abandoned, &summary)).await
    }
}
