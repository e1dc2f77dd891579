//! Whatever ends a run, the host closes what it opened: a started scratch service, a candidate, a stopped service. In recorded steps.

use std::time::Duration;

use host_api::restore::Candidate;
use host_api::{Error as HostError, ErrorKind, Finding, identifier};
use serde_json::json;

use crate::config::host_name;
use crate::journal::{Change, ObligationRow, Transition};
use crate::observe::Event;
use crate::step::{Stepper, Stop, unwritten};

/// How long settling one obligation may take: a service's start has its own limit below this.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);

impl Stepper {
    /// Settles every open obligation, the newest first. Answers with those that could not be: what is left, and what to type.
    pub(crate) async fn settle(&mut self) -> Result<Vec<String>, Stop> {
        let all = self.around.state.obligations(Some(&self.run.id)).await.map_err(unwritten)?;
        // An engine before this one may have died after it had tried.
        let mut unsettled: Vec<String> = all
            .iter()
            .filter(|o| o.state == "unsettled")
            .map(|o| left(o, &format!("{}: {}", words(o), o.note)))
            .collect();
        let open = all.into_iter().filter(|o| o.state == "open");
        let mut unrecorded = None;
        for obligation in open {
            self.check_claim().map_err(unwritten)?;
            let what = words(&obligation);
            self.at(&format!("settling {}", obligation.kind));
            let result = self.settle_one(&obligation).await;
            let error = result.as_ref().err().map(ToString::to_string);
            self.at(&format!("acted for {}", obligation.kind));
            let (state, note) = match &error {
                None => ("settled", String::new()),
                Some(error) => ("unsettled", error.clone()),
            };
            if let Some(error) = &error {
                let what = format!("{what}: {error}");
                self.said.finding(Finding::error("obligation", &what, command(&obligation)));
                unsettled.push(left(&obligation, &what));
            }
            self.said.tell(&*self.around.observer, &self.run.id);
            self.around.observer.event(&self.run.id, &Event::Settling { what: what.clone(), error: error.clone() });
            let mut changes = vec![Change::ObligationSettled(obligation.id, state, note)];
            if obligation.kind == "candidate" && error.is_none() {
                changes.push(Change::CandidateState(obligation.object.clone(), "discarded"));
            }
            let body = json!({
                "by": "host", "obligation": obligation.kind, "object": obligation.object,
                "declared": obligation.if_aborted, "error": error,
            });
            // A disk that is full must not keep the next service down: settling goes on, the failure is told at its end.
            match self.append(Transition::Settled, None, body, &changes).await {
                Err(stop @ Stop::TakenOver(_)) => return Err(stop),
                Err(stop) => drop(unrecorded.get_or_insert(stop)),
                Ok(()) => {}
            }
        }
        match unrecorded {
            Some(stop) => Err(stop),
            None => Ok(unsettled),
        }
    }

    /// What lies on another host's disks, or runs there, looks here as if it were gone.
    fn refuse_elsewhere(&self, obligation: &ObligationRow) -> Result<(), HostError> {
        let made_on = obligation.body["host"].as_str().or(self.began_on.as_deref());
        let bound = !self.any_host || obligation.kind == "instance" || obligation.body["target"] == "scratch";
        match made_on.filter(|host| bound && *host != host_name()) {
            Some(host) => Err(HostError::failed(format!("it is on host {}: settle it there", identifier::shown(host)))),
            None => Ok(()),
        }
    }

    async fn settle_one(&mut self, obligation: &ObligationRow) -> Result<(), HostError> {
        self.refuse_elsewhere(obligation)?;
        let host = self.host.clone();
        let cx = self.settling_context(SETTLE_LIMIT);
        match (obligation.kind.as_str(), obligation.if_aborted.as_str()) {
            ("instance", _) => {
                match host.scratch.stop(&cx, &obligation.object).await {
                    Ok(findings) => findings.into_iter().for_each(|finding| self.said.finding(finding)),
                    // It never came so far as to run.
                    Err(e) if e.kind == ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
                Ok(())
            }
            ("candidate", _) => {
                crate::mixed::refuse_discard(&self.around.state, &*host.promote, &cx, &obligation.object).await?;
                let row = self
                    .around
                    .state
                    .candidate(&obligation.object)
                    .await
                    .map_err(|e| HostError::failed(e.to_string()))?;
                let service = obligation.body["service"].as_str().unwrap_or_default();
                let candidate = row.candidate.unwrap_or_else(|| Candidate::unfinished(&row.id, service));
                host.restore.discard(&cx, &candidate).await
            }
            ("service-stopped", "start") => {
                self.hold_service(&obligation.object).await.map_err(|stop| HostError::conflict(stop.to_string()))?;
                self.refuse_mixed_set(&cx, &obligation.object).await?;
                host.service.start(&cx, &obligation.object).await
            }
            ("service-stopped", "leave") => {
                self.said.finding(Finding::error(
                    "service-left-stopped",
                    format!("service {} was left stopped, as the policy declared", obligation.object),
                    "look at its data, then start it",
                ));
                Ok(())
            }
            (kind, _) => Err(HostError::failed(format!("an obligation of unknown kind `{kind}`"))),
        }
    }
}

/// What is left, and what to type.
fn left(obligation: &ObligationRow, what: &str) -> String {
    format!("{what}\n  to settle it: {}", command(obligation))
}

pub(crate) fn words(obligation: &ObligationRow) -> String {
    match obligation.kind.as_str() {
        "instance" => format!("stop scratch service {}", obligation.object),
        "candidate" => format!("discard candidate {}", obligation.object),
        "service-stopped" if obligation.if_aborted == "leave" => format!("leave service {} stopped", obligation.object),
        "service-stopped" => format!("start service {} again", obligation.object),
        kind => format!("{kind} {}", obligation.object),
    }
}

pub(crate) fn command(obligation: &ObligationRow) -> String {
    match obligation.kind.as_str() {
        "candidate" => format!("lifeboat candidates discard {}", obligation.object),
        "service-stopped" => format!("lifeboat service start {}", obligation.object),
        "instance" => format!("end the processes with LIFEBOAT_INSTANCE={} in their environment", obligation.object),
        _ => "see the journal: lifeboat runs show RUN".into(),
    }
}
