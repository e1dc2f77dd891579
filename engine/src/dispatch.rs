//! From a request to the host and back: one arm a call. What an effect puts on record before it begins is in `prepare`, its performance in
//! `perform_effect`; reads have only `perform_read`. What an effect's end changes is in `endings.rs`, how one in doubt is decided in `probe.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use host_api::calendar::Calendar;
use host_api::catalog::Backup;
use host_api::delete::{AT_ONCE_MAX, Entry, Regard};
use host_api::plain::Import;
use host_api::promote::{Promotion, Standing};
use host_api::restore::Candidate;
use host_api::scratch::Instance;
use host_api::upload::Depth;
use host_api::{Error as HostError, StepContext, dump, http_check, identifier, restore};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::calls;
use crate::consent::{delete_subject, promote_subject, promotion_subject};
use crate::in_use::in_use;
use crate::journal::Change;
use crate::mixed;
use crate::policy::lock::Accepted;
use crate::schedule::Duty;
use crate::step::{Prepared, Stepper, Stop};
use crate::sweeping::{Sweeping, sweep_subject};

/// How many runs of a policy a cadence sees.
const PAST_RUNS_MAX: u32 = 100;
/// How long looking at a set may take.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// What an effect came to: its result, what changes with its record, and what its record says besides.
pub(crate) struct Performed {
    pub(crate) result: Result<Value, HostError>,
    pub(crate) changes: Vec<Change>,
    pub(crate) record: Option<Value>,
}

impl From<Result<Value, HostError>> for Performed {
    fn from(result: Result<Value, HostError>) -> Self {
        Self { result, changes: Vec::new(), record: None }
    }
}

impl Stepper {
    /// Looks at the world.
    pub(crate) async fn perform_read(&mut self, name: &str, full: &Value) -> Result<Value, HostError> {
        let host = self.host.clone();
        let cx = self.context();
        match name {
            "catalog.list" => {
                answer(host.catalog.list(&cx, &get::<String>(full, "service")?, &get::<String>(full, "store")?).await?)
            }
            "catalog.get" => {
                let (service, store, id): (String, String, String) =
                    (get(full, "service")?, get(full, "store")?, get(full, "id")?);
                answer(host.catalog.get(&cx, &service, &store, &id).await?)
            }
            "catalog.latest" => {
                let (service, store): (String, String) = (get(full, "service")?, get(full, "store")?);
                answer(host.catalog.latest(&cx, &service, &store, get(full, "verified")?).await?)
            }
            "upload.verify" => {
                let (backup, depth): (Backup, Depth) = (get(full, "backup")?, depth(full)?);
                answer(host.upload.verify(&cx, &backup, depth).await?)
            }
            "backups.export" => {
                let (backup, to): (Backup, PathBuf) = (get(full, "backup")?, get(full, "to")?);
                let source: Option<String> = get(full, "source")?;
                answer(host.plain.export(&cx, &backup, source.as_deref(), &to).await?)
            }
            "restore.query" => {
                let candidate: Candidate = get(full, "candidate")?;
                answer(host.restore.query(&cx, &candidate, &get::<String>(full, "name")?).await?)
            }
            "scratch.wait-ready" => {
                let instance: Instance = get(full, "instance")?;
                answer(host.scratch.wait_ready(&cx, &instance.id).await?)
            }
            "service.get-status" => answer(host.service.status(&cx, &get::<String>(full, "service")?).await?),
            "service.wait-ready" => {
                let service: String = get(full, "service")?;
                answer(host.service.wait_ready(&cx, &service).await?)
            }
            "service.installable" => {
                let (service, version): (String, String) = (get(full, "service")?, get(full, "version")?);
                answer(host.service.installable(&cx, &service, &version).await?)
            }
            "promote.preflight" => answer(host.promote.preflight(&cx, &get::<Candidate>(full, "candidate")?).await?),
            "promote.latest" => {
                let service: String = get(full, "service")?;
                let rows = self.around.state.promotions().await.map_err(|e| HostError::failed(e.to_string()))?;
                let newest = rows.into_iter().rev().find(|row| {
                    row.state == "in-service"
                        && row.environment == self.run.environment
                        && row.promotion.service == service
                });
                answer(newest.map(|row| row.promotion))
            }
            "delete.plan" => {
                let (service, store): (String, String) = (get(full, "service")?, get(full, "store")?);
                let regard = self.regard(full).await?;
                answer(retention_plan(host.delete.removal_plan(&cx, &service, &store, &regard).await?))
            }
            "http-check.check" => self.http_check(&cx, full).await,
            "query.run" => {
                let (service, name): (String, String) = (get(full, "service")?, get(full, "name")?);
                answer(host.query.run(&cx, &service, &name).await?)
            }
            "schedule.terms-of" => {
                let mut terms = host.schedule.terms(&cx, &get::<String>(full, "service")?).await?;
                terms.unread.iter_mut().for_each(|(_, why)| *why = crate::conceal::for_guest(why));
                answer(terms)
            }
            "schedule.runs" => {
                let (policy, duty): (String, Option<String>) = (get(full, "policy")?, get(full, "duty")?);
                let (state, environment) = (&self.around.state, &self.run.environment);
                // Of a duty that another cadence has under the same name it is told nothing.
                let duty = duty.map(|name| Duty { cadence: Some(self.run.policy.clone()), name, slot_ms: 0 });
                let runs = state.past_runs(environment, &policy, duty.as_ref(), PAST_RUNS_MAX).await;
                answer(runs.map_err(|e| HostError::failed(e.to_string()))?)
            }
            "schedule.previous-time" => {
                let (calendar, at_ms) = (calendar(full)?, get(full, "at-ms")?);
                answer(blocking(move || calendar.at_or_before(at_ms)).await?)
            }
            "schedule.next-time" => {
                let (calendar, after_ms) = (calendar(full)?, get(full, "after-ms")?);
                answer(blocking(move || calendar.after(after_ms)).await?)
            }
            other => Err(HostError::failed(format!("a bug: {other} is no read"))),
        }
    }

    async fn http_check(&self, cx: &StepContext, full: &Value) -> Result<Value, HostError> {
        let request: http_check::Request = get(full, "request")?;
        let endpoint: String = get(full, "endpoint")?;
        // The same for every attempt at this step: a service that knows the header does it once.
        let key = format!("{}/{}", self.run.id, self.step);
        answer(self.host.http_check.check(cx, &endpoint, &request, &key).await?)
    }

    /// What stands in the journal before an effect begins. An error: it is not begun.
    pub(crate) async fn prepare(&mut self, name: &str, full: &Value) -> Result<Prepared, HostError> {
        let host = self.host.clone();
        let cx = self.context();
        Ok(match name {
            "restore.stage" => {
                let (backup, target): (Backup, String) = (get(full, "backup")?, get(full, "target")?);
                let id = identifier::fresh();
                let body = json!({"candidate": id, "service": backup.service, "target": target});
                let body = self.around.state.with_host(body);
                let opens = Change::ObligationOpens("candidate", id.clone(), "discard".into(), body.clone());
                Prepared { on_start: vec![Change::CandidateBegins(id), opens], body }
            }
            // What it loads is a candidate that never is one: whatever ends the run, it is removed.
            "backups.import" => {
                let import: Import = get(full, "import")?;
                let id = identifier::fresh();
                let body = self
                    .around
                    .state
                    .with_host(json!({"candidate": id, "service": import.service, "target": "import"}));
                let opens = Change::ObligationOpens("candidate", id.clone(), "discard".into(), body.clone());
                Prepared { on_start: vec![Change::CandidateBegins(id), opens], body }
            }
            "restore.verify" | "restore.park" | "restore.discard" => {
                let candidate: Candidate = get(full, "candidate")?;
                if name == "restore.discard" {
                    mixed::refuse_discard(&self.around.state, &*host.promote, &cx, &candidate.id).await?;
                }
                Prepared::with(json!({"candidate": candidate.id}))
            }
            "scratch.start" => {
                let candidate: Candidate = get(full, "candidate")?;
                let id = identifier::fresh();
                let body = self.around.state.with_host(json!({"instance": id, "candidate": candidate.id}));
                let opens = Change::ObligationOpens("instance", id, "stop".into(), body.clone());
                Prepared { on_start: vec![opens], body }
            }
            "scratch.stop" => {
                let instance: Instance = get(full, "instance")?;
                Prepared::with(json!({"instance": instance.id}))
            }
            "service.stop" => {
                let (service, if_aborted): (String, String) = (get(full, "service")?, get(full, "if-aborted")?);
                if !matches!(if_aborted.as_str(), "start" | "leave") {
                    return Err(HostError::invalid(format!(
                        "if-aborted is `start` or `leave`, not `{}`",
                        identifier::shown(&if_aborted)
                    )));
                }
                let before = host.service.status(&cx, &service).await?;
                let mut prepared = Prepared::with(json!({"service": service, "before": before.state}));
                // One that did not run before us is not ours to start; one that we stopped is, as the last stop says.
                let ours = self.stopped_by_us(&service).await?;
                if ours {
                    prepared.on_start.push(Change::ObligationCloses("service-stopped", service.clone()));
                }
                if ours || before.state != "stopped" {
                    prepared.on_start.push(Change::ObligationOpens(
                        "service-stopped",
                        service,
                        if_aborted,
                        Value::Null,
                    ));
                }
                prepared
            }
            "service.start" => {
                let service: String = get(full, "service")?;
                self.refuse_mixed_set(&cx, &service).await?;
                Prepared::with(json!({"service": service}))
            }
            "promote.promote" => {
                let candidate: Candidate = get(full, "candidate")?;
                let description = self.describe(&cx, &candidate).await?;
                let subject = promote_subject(&candidate, description, "");
                let row = self.approval_for(full, subject).await?;
                let plan = host.promote.plan(&cx, &identifier::fresh(), &candidate).await?;
                Prepared {
                    body: json!({"promotion": plan, "approval": row.id, "intent-sha256": row.intent_sha256}),
                    on_start: vec![
                        Change::ApprovalSpent(row.id, row.intent_sha256),
                        Change::PromotionBegins(self.run.environment.clone(), Box::new(plan)),
                    ],
                }
            }
            "promote.undo" | "promote.drop-previous" => {
                let promotion: Promotion = get(full, "promotion")?;
                let action = if name == "promote.undo" { "undo" } else { "drop-previous" };
                let row = self.approval_for(full, promotion_subject(action, &promotion, "")).await?;
                let body = json!({
                    "promotion": promotion.id, "candidate": promotion.candidate, "approval": row.id,
                    "intent-sha256": row.intent_sha256,
                });
                let mut on_start = vec![Change::ApprovalSpent(row.id, row.intent_sha256)];
                if action == "undo" {
                    on_start.push(Change::PromotionState(promotion.id, "undoing"));
                }
                Prepared { body, on_start }
            }
            "delete.apply" => {
                let backups: Vec<Backup> = get(full, "backups")?;
                let regard = self.regard(full).await?;
                // Before the approval is spent; the act looks again.
                host.delete.may_go(&cx, &backups, &regard).await?;
                let row = self.approval_for(full, delete_subject(&backups, regard.despite_times, "")).await?;
                Prepared {
                    body: json!({"approval": row.id, "intent-sha256": row.intent_sha256}),
                    on_start: vec![Change::ApprovalSpent(row.id, row.intent_sha256)],
                }
            }
            "backups.request-sweep" => {
                let sweeping = Sweeping::of(full)?;
                let found = host
                    .sweep
                    .leftovers(&cx, &sweeping.service, &sweeping.store, &self.sweep_guard(full).await?)
                    .await?;
                self.open_approval(sweep_subject(&sweeping, &found, &get::<String>(full, "why")?)?).await?
            }
            "backups.sweep" => {
                let sweeping = Sweeping::of(full)?;
                let found = host
                    .sweep
                    .leftovers(&cx, &sweeping.service, &sweeping.store, &self.sweep_guard(full).await?)
                    .await?;
                let row = self.approval_for(full, sweep_subject(&sweeping, &found, "")?).await?;
                Prepared {
                    body: json!({"approval": row.id, "intent-sha256": row.intent_sha256}),
                    on_start: vec![Change::ApprovalSpent(row.id, row.intent_sha256)],
                }
            }
            "confirm.request-promote" => {
                let candidate: Candidate = get(full, "candidate")?;
                let description = self.describe(&cx, &candidate).await?;
                let why: String = get(full, "why")?;
                self.open_approval(promote_subject(&candidate, description, &why)).await?
            }
            "confirm.request-undo" | "confirm.request-drop-previous" => {
                let promotion: Promotion = get(full, "promotion")?;
                let action = if name == "confirm.request-undo" { "undo" } else { "drop-previous" };
                let why: String = get(full, "why")?;
                self.open_approval(promotion_subject(action, &promotion, &why)).await?
            }
            "confirm.request-delete" => {
                let backups: Vec<Backup> = get(full, "backups")?;
                let why: String = get(full, "why")?;
                let regard = self.regard(full).await?;
                // Nobody is asked for what is refused anyway.
                host.delete.may_go(&cx, &backups, &regard).await?;
                self.open_approval(delete_subject(&backups, regard.despite_times, &why)).await?
            }
            _ => Prepared::default(),
        })
    }

    /// Changes the world. `prepared`: what the started record holds.
    pub(crate) async fn perform_effect(
        &mut self,
        name: &str,
        full: &Value,
        prepared: &Value,
    ) -> Result<Performed, Stop> {
        if calls::asks(name) {
            return self.ask(prepared).await;
        }
        Ok(match self.act(name, full, prepared).await {
            Ok((value, changes)) => Performed { result: Ok(value), changes, record: None },
            Err(error) if name == "promote.promote" => {
                let changes = vec![self.after_failed_promotion(prepared).await];
                Performed { result: Err(error), changes, record: None }
            }
            Err(error) => Err(error).into(),
        })
    }

    /// Looks at where a promotion that failed has left the set.
    async fn after_failed_promotion(&self, prepared: &Value) -> Change {
        let id = prepared["promotion"]["id"].as_str().unwrap_or_default().to_owned();
        let standing = match get::<Promotion>(prepared, "promotion") {
            Ok(plan) => self.host.promote.standing(&self.settling_context(LOOK_LIMIT), &plan).await,
            Err(error) => Err(error),
        };
        Change::PromotionState(
            id,
            match standing {
                Ok(Standing::Before) => "taken-back",
                Ok(Standing::After) => "in-service",
                // What can't be looked at is not called whole.
                Ok(Standing::Mixed) | Err(_) => "mixed",
            },
        )
    }

    async fn act(&mut self, name: &str, full: &Value, prepared: &Value) -> Result<(Value, Vec<Change>), HostError> {
        let host = self.host.clone();
        let cx = self.acting_context();
        let done = |()| (Value::Null, Vec::new());
        Ok(match name {
            "catalog.hold" => {
                let (backup, why): (Backup, String) = (get(full, "backup")?, get(full, "why")?);
                done(host.catalog.hold(&cx, &backup, get(full, "until-ms")?, &why).await?)
            }
            "catalog.unhold" => {
                let (backup, why): (Backup, String) = (get(full, "backup")?, get(full, "why")?);
                done(host.catalog.unhold(&cx, &backup, &why).await?)
            }
            "dump.take" => {
                let (service, store): (String, String) = (get(full, "service")?, get(full, "store")?);
                let options: dump::Options = get(full, "options")?;
                (answer(host.dump.take(&cx, &service, &store, &options).await?)?, Vec::new())
            }
            "policy.pin" => {
                let (path, accepted): (PathBuf, Accepted) = (get(full, "lock")?, get(full, "accepted")?);
                let environment = self.run.environment.clone();
                let write = move || accepted.write(&path, &environment).map_err(|e| HostError::failed(e.to_string()));
                blocking(write).await?;
                (Value::Null, Vec::new())
            }
            "backups.import" => {
                let (import, id): (Import, String) = (get(full, "import")?, get(prepared, "candidate")?);
                (answer(host.plain.import(&cx, &id, &import).await?)?, Vec::new())
            }
            "upload.copy" => {
                let (backup, store): (Backup, String) = (get(full, "backup")?, get(full, "store")?);
                (answer(host.upload.copy(&cx, &backup, &store).await?)?, Vec::new())
            }
            "upload.attest" => {
                let (backup, depth): (Backup, Depth) = (get(full, "backup")?, depth(full)?);
                (answer(host.upload.attest(&cx, &backup, depth).await?)?, Vec::new())
            }
            "restore.stage" => {
                let (backup, target): (Backup, String) = (get(full, "backup")?, get(full, "target")?);
                let options: restore::Options = get(full, "options")?;
                let id: String = get(prepared, "candidate")?;
                let candidate = host.restore.stage(&cx, &id, &backup, &target, &options).await?;
                (answer(&candidate)?, vec![Change::CandidateStaged(Box::new(candidate))])
            }
            "restore.verify" => {
                let candidate: Candidate = get(full, "candidate")?;
                let verification = host.restore.verify(&cx, &candidate).await?;
                // Also one that failed: an earlier pass must not outlive it.
                (answer(&verification)?, vec![Change::CandidateVerified(candidate.id, Some(Box::new(verification)))])
            }
            "restore.park" => done(host.restore.park(&cx, &get::<Candidate>(full, "candidate")?).await?),
            "restore.discard" => done(host.restore.discard(&cx, &get::<Candidate>(full, "candidate")?).await?),
            "scratch.start" => {
                let (candidate, version): (Candidate, Option<String>) =
                    (get(full, "candidate")?, get(full, "version")?);
                let id: String = get(prepared, "instance")?;
                let instance = host.scratch.start(&cx, &id, &candidate, version.as_deref()).await?;
                (answer(&instance)?, Vec::new())
            }
            "scratch.stop" => {
                let instance: Instance = get(full, "instance")?;
                (answer(host.scratch.stop(&cx, &instance.id).await?)?, Vec::new())
            }
            "service.stop" => {
                let service: String = get(full, "service")?;
                done(host.service.stop(&cx, &service).await?)
            }
            "service.start" => {
                let service: String = get(full, "service")?;
                done(host.service.start(&cx, &service).await?)
            }
            "service.install" => {
                let (service, version): (String, String) = (get(full, "service")?, get(full, "version")?);
                done(host.service.install(&cx, &service, &version).await?)
            }
            "promote.promote" => {
                let candidate: Candidate = get(full, "candidate")?;
                let plan: Promotion = get(prepared, "promotion")?;
                self.require_not_running(&cx, &candidate.service, "made").await?;
                let verification = self
                    .around
                    .state
                    .candidate(&candidate.id)
                    .await
                    .map_err(|e| HostError::refused(e.to_string()))?
                    .verification;
                host.promote.promote(&cx, &candidate, verification.as_ref(), &plan).await?;
                (answer(&plan)?, Vec::new())
            }
            "promote.undo" => {
                let promotion: Promotion = get(full, "promotion")?;
                self.require_not_running(&cx, &promotion.service, "taken back").await?;
                done(host.promote.undo(&cx, &promotion).await?)
            }
            "promote.drop-previous" => {
                done(host.promote.drop_previous(&cx, &get::<Promotion>(full, "promotion")?).await?)
            }
            "delete.apply" => {
                let backups: Vec<Backup> = get(full, "backups")?;
                let intent: String = get(prepared, "intent-sha256")?;
                let regard = self.regard(full).await?;
                done(host.delete.apply(&cx, &backups, &intent, &regard).await?)
            }
            "backups.sweep" => {
                let Sweeping { service, store, keys } = Sweeping::of(full)?;
                done(host.sweep.sweep(&cx, &service, &store, &keys, &self.sweep_guard(full).await?).await?)
            }
            "http-check.check" => (self.http_check(&cx, full).await?, Vec::new()),
            "clock.sleep-until" => done(self.sleep_until(get(full, "time-ms")?).await?),
            other => return Err(HostError::failed(format!("a bug: {other} is no effect"))),
        })
    }

    /// A service that writes while its data are swapped writes to both. Asked of whoever controls the service here, also where that is the program
    /// around this engine: what promotes can't know of that one. Where nobody can tell, what promotes has its own checks.
    async fn require_not_running(&self, cx: &StepContext, service: &str, what: &str) -> Result<(), HostError> {
        let status = self.host.service.status(cx, service).await?;
        if status.state == "running" {
            return Err(HostError::conflict(format!(
                "service {service} is running, and must be stopped before a promotion is {what}"
            ))
            .hint("stop it first; the data were not touched"));
        }
        Ok(())
    }

    async fn sleep_until(&self, time_ms: u64) -> Result<(), HostError> {
        let cx = self.context();
        loop {
            cx.check()?;
            let left = time_ms.saturating_sub(identifier::now_ms());
            if left == 0 {
                return Ok(());
            }
            // Short naps: a cancellation is noticed, and a clock that is set is followed.
            tokio::time::sleep(Duration::from_millis(left.min(50))).await;
        }
    }

    /// See [`mixed::refuse_start`].
    pub(crate) async fn refuse_mixed_set(&self, cx: &StepContext, service: &str) -> Result<(), HostError> {
        mixed::refuse_start(&self.around.state, &*self.host.promote, cx, &self.run.environment, service).await
    }

    /// What promoting a candidate would mean. That its data were parked stands in no data.
    async fn describe(
        &self,
        cx: &StepContext,
        candidate: &Candidate,
    ) -> Result<host_api::promote::Description, HostError> {
        let mut description = self.host.promote.describe(cx, candidate).await?;
        let row = self.around.state.candidate(&candidate.id).await.map_err(|e| HostError::failed(e.to_string()))?;
        if row.state == "parked" {
            description.consequence.push(
                "what would run again was parked by statements of the environment: it waits until a person lets it run"
                    .into(),
            );
        }
        Ok(description)
    }

    /// What a removal has to regard. Only a person on the command line can say `despite-times`: the contract has no such argument.
    pub(crate) async fn regard(&self, full: &Value) -> Result<Regard, HostError> {
        let in_use = in_use(&self.around.state, &self.run.environment, Some(&self.run.id)).await;
        Ok(Regard {
            in_use: in_use.map_err(|e| HostError::failed(e.to_string()))?,
            despite_times: full["despite-times"] == true,
        })
    }

    async fn stopped_by_us(&self, service: &str) -> Result<bool, HostError> {
        let obligations =
            self.around.state.obligations(Some(&self.run.id)).await.map_err(|e| HostError::failed(e.to_string()))?;
        Ok(obligations.iter().any(|o| o.state == "open" && o.kind == "service-stopped" && o.object == service))
    }
}

/// A plan as the contract has it.
fn retention_plan(entries: Vec<Entry>) -> Value {
    let (kept, mut due): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| entry.planned.keep);
    let mut because: BTreeMap<String, u64> = BTreeMap::new();
    for reason in kept.iter().flat_map(|entry| &entry.planned.reasons) {
        *because.entry(reason.word.text()).or_default() += 1;
    }
    let later = due.split_off(due.len().min(AT_ONCE_MAX)).len();
    json!({
        "due": due.into_iter().map(|entry| entry.backup).collect::<Vec<_>>(), "due-later": later,
        "kept": kept.len(), "kept-because": Vec::from_iter(because),
    })
}

fn depth(full: &Value) -> Result<Depth, HostError> {
    get(full, "depth").map_err(|e| e.hint("depths: exists, checksum, content"))
}

pub(crate) fn get<T: DeserializeOwned>(full: &Value, key: &str) -> Result<T, HostError> {
    serde_json::from_value(full[key].clone()).map_err(|e| HostError::invalid(format!("{key}: {e}")))
}

pub(crate) fn answer(value: impl serde::Serialize) -> Result<Value, HostError> {
    serde_json::to_value(value).map_err(|e| HostError::failed(format!("a bug: {e}")))
}

/// Work that waits for a disk, or reckons for as long as a guest likes, on a thread of its own: it holds up nobody else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|_| Err(HostError::failed("a bug: the step's thread panicked")))
}

fn calendar(full: &Value) -> Result<Calendar, HostError> {
    Calendar::parse(&get::<String>(full, "calendar")?, &get::<String>(full, "zone")?)
}
