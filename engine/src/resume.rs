//! Going on with a run that waits, is in doubt, or whose engine died.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::Engine;
use crate::abandon::service_of;
use crate::claims::{Claim, explained};
use crate::config::host_name;
use crate::error::{Error, Kind, Result};
use crate::journal::{Change, Record, Stand, Transition};
use crate::policy::Module;
use crate::run::{Came, Ended, RunOptions, Status, check_fits, identity};
use crate::step::RunIdentity;

impl Engine {
    /// Goes on with a run that waits, is in doubt, or whose engine died: answers on record are given again, the step that was under way is
    /// decided, then it runs on. The module, its grants and its parameters must be those it began with.
    pub async fn resume(&self, run: &str, module: &Module, options: RunOptions) -> Result<Ended> {
        check_fits(module, &options)?;
        // Before it is looked at: nobody else resumes or abandons it meanwhile.
        let claim = self.claim(run).await?;
        self.resume_claimed(claim, module, options).await
    }

    /// Claims the oldest run of a policy in this environment whose engine died; none if there is none besides those that are passed over.
    /// [`Engine::resume_claimed`] goes on with it.
    pub async fn claim_interrupted(&self, environment: &str, passed_over: &[String]) -> Result<Option<Claim>> {
        Claim::take_interrupted(self.state(), environment, passed_over).await
    }

    /// [`Engine::resume`] of a run that is claimed already.
    pub async fn resume_claimed(&self, claim: Claim, module: &Module, mut options: RunOptions) -> Result<Ended> {
        check_fits(module, &options)?;
        let run = &claim.run().to_owned();
        let records = self.live_records(run).await?;
        let begun = &records[0].body;
        let differs = |what: &str, then: &Value, now: &str| {
            Error::new(Kind::PolicyRefused, format!("run {run} can't go on: its {what} was {then}, and is {now} now"))
                .hint("a run is finished by what began it; put it back, or `lifeboat runs abandon` it and start a new one")
        };
        if let Some(host) = begun["host"].as_str().filter(|host| !options.any_host && *host != host_name()) {
            let host = host_api::identifier::shown(host);
            return Err(Error::new(Kind::LockHeld, format!("run {run} began on host {host}, and goes on there"))
                .hint(format!(
                    "where every source, command and store is reached alike from every host, say so: any-host = true in [environment.{}]",
                    options.environment
                )));
        }
        if begun["module-sha256"] != module.inspected.sha256.as_str() {
            return Err(differs("module", &begun["module-sha256"], &module.inspected.sha256));
        }
        if begun["grants-sha256"] != options.grants.sha256.as_str() {
            return Err(differs("grants digest", &begun["grants-sha256"], &options.grants.sha256));
        }
        options.parameters = begun["parameters"].as_object().cloned().unwrap_or_default();
        // Asked for while nobody worked on it.
        if self.state().cancel_requested(run).await? {
            options.cancelled.store(true, Ordering::Relaxed);
        }
        let stand = self.take_up(run, &records, &options).await?;
        let (identity, clock_ms) = (identity(run, module, &options), records[0].time_ms);
        if stand == Stand::Ending {
            return self.finish_ending(identity, options, claim, &records).await;
        }
        self.drive(module, identity, options, claim, clock_ms, records, true).await
    }

    /// The records of a run that is not over.
    pub(crate) async fn live_records(&self, run: &str) -> Result<Vec<Record>> {
        let row = self.state().run(run).await?;
        if row.ended_ms.is_some() {
            return Err(Error::new(Kind::Usage, format!("run {run} is over ({})", row.status)));
        }
        let records = self.state().records(run).await?;
        match records.is_empty() {
            true => Err(Error::new(Kind::Journal, format!("run {run} has no records"))),
            false => Ok(records),
        }
    }

    /// The services that a run has something open on: a step, a candidate, a stop.
    async fn services_of(&self, run: &str, records: &[Record]) -> Result<BTreeSet<String>> {
        let open = self.state().obligations(Some(run)).await?.into_iter().filter(|o| o.state == "open");
        let of_obligation = open.filter_map(|o| match o.kind.as_str() {
            "service-stopped" => Some(o.object),
            _ => o.body["service"].as_str().map(str::to_owned),
        });
        let of_step = open_step(records).and_then(|step| service_of(step, records));
        Ok(of_obligation.chain(of_step).collect())
    }

    /// Puts on record that someone goes on with a run, and has its services again; where it stands. Another run may have come to work on a
    /// service while this one waited: then it waits on, with what it has.
    async fn take_up(&self, run: &str, records: &[Record], options: &RunOptions) -> Result<Stand> {
        let stand = records.iter().try_fold(Stand::New, |stand, r| stand.next(r.kind, r.body["step"].as_u64()))?;
        let step = match stand {
            Stand::InStep(step) | Stand::Parked(Some(step)) => Some(step),
            _ => None,
        };
        let services = self.services_of(run, records).await?;
        let mut changes = vec![Change::RunStatus(Status::RUNNING.into(), String::new(), None)];
        changes.extend(services.iter().cloned().map(Change::ServiceHeld));
        if let Err(mut error) =
            self.state().append(run, &options.by(), Transition::Resumed, step, taken_over(options), &changes).await
        {
            for service in &services {
                error = explained(self.state(), service, error).await;
            }
            return Err(match error.kind {
                Kind::LockHeld => error.hint(format!("run {run} is as it was: resume it when that one is over")),
                _ => error,
            });
        }
        Ok(stand)
    }

    /// Completes the end of a run whose engine died while it settled.
    async fn finish_ending(
        &self,
        run: RunIdentity,
        options: RunOptions,
        claim: Claim,
        records: &[Record],
    ) -> Result<Ended> {
        let ending = records.iter().rev().find(|r| r.kind == Transition::Ending);
        let body = ending.map_or(&Value::Null, |r| &r.body);
        let status = body["status"].as_str().and_then(Status::parse).unwrap_or(Status::Failed);
        let mut came = Came::to(status, body["summary"].as_str().unwrap_or_default());
        came.breach = serde_json::from_value(body["breach"].clone()).ok().flatten();
        let mut stepper = self.stepper(run, options, records.last().map_or(0, |r| r.time_ms));
        stepper.step = last_step(records);
        stepper.claim = Some(claim);
        stepper.said.recall(records);
        stepper.began_on = records[0].body["host"].as_str().map(str::to_owned);
        stepper.ending = true;
        self.finish(stepper, came).await
    }
}

/// What a record says of a run that was taken over.
pub(crate) fn taken_over(options: &RunOptions) -> Value {
    options.took_over.as_ref().map_or_else(|| json!({}), |why| json!({"took-over": why}))
}

/// Whether a record of this kind has the answer to a call.
pub(crate) fn gives_answer(kind: Transition) -> bool {
    matches!(kind, Transition::Answered | Transition::Completed | Transition::Resolved)
}

/// The newest attempt at a step that was started and has no end on record.
pub(crate) fn open_step(records: &[Record]) -> Option<&Record> {
    let newest = records.iter().rev().find(|r| r.kind == Transition::Started || gives_answer(r.kind))?;
    (newest.kind == Transition::Started).then_some(newest)
}

/// Whether a step asks a person: nothing happens in it that could be in doubt.
pub(crate) fn is_question(step: &Record) -> bool {
    step.body["request"]["call"].as_str().is_some_and(crate::calls::asks)
}

/// The number of the last step on record.
pub(crate) fn last_step(records: &[Record]) -> u64 {
    records.iter().filter_map(|r| r.body["step"].as_u64()).max().unwrap_or(0)
}
