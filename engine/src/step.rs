//! The one step: every call of every guest is checked, recorded and performed here.
//!
//! ```text
//! guest ──▶ sandbox::linker ──▶ step() ──▶ limits ▸ replay ▸ cancelled? ▸ granted? ──▶ perform() ──▶ host-api
//!                                 │                                                        │
//!                                 └── started (fsynced) … completed (fsynced) ── journal ◀─┘
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host_api::context::{Progress, Waypoint};
use host_api::{Error as HostError, ErrorKind, Finding, Host, StepContext};
use serde_json::{Value, json};

use crate::approvals::Confirmer;
use crate::approvals::rules::Rules;
use crate::calls::{self, Class};
use crate::claims::Claim;
use crate::contract::Function;
use crate::dispatch::Performed;
use crate::endings;
use crate::error::{Error, Kind};
use crate::grants::{self, Grants};
use crate::journal::{By, Change, Record, RunRow, State, Transition};
use crate::observe::{Event, Observer};
use crate::reporting::Said;
use crate::sandbox::limits::{Breach, Limits};
use crate::withheld::Withheld;

/// Why a guest does not go on. Travels through the sandbox as the trap's cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Waiting for a person.
    #[error("waiting for approval {approval}")]
    Parked {
        /// The approval that is open.
        approval: String,
    },
    /// A limit was broken.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// The record could not be written: the step did not happen.
    #[error("the journal can't be written: {0}")]
    Journal(String),
    /// A replayed call differs from the one on record.
    #[error("nondeterminism at step {step}\n  on record: {recorded}\n  now:       {now}")]
    Nondeterminism {
        /// Which step.
        step: u64,
        /// The request on record.
        recorded: String,
        /// The request now.
        now: String,
    },
    /// Another run works on the service.
    #[error("{0}")]
    LockHeld(String),
    /// Another engine goes on with the run: nothing more is done here, and nothing is settled.
    #[error("{0}")]
    TakenOver(String),
    /// An approval was not good any more when its step was to start: it did not.
    #[error("{0}")]
    NotApproved(String),
    /// An effect was started before a crash, and what became of it can't be told.
    #[error("what became of step {step} ({call}) is not known: {why}")]
    InDoubt {
        /// Which step.
        step: u64,
        /// Which call.
        call: String,
        /// Why it can't be told.
        why: String,
    },
}

/// Which run of what.
#[derive(Debug, Clone)]
pub struct RunIdentity {
    /// Its id.
    pub id: String,
    /// Environment's name.
    pub environment: String,
    /// Policy's name.
    pub policy: String,
    /// SHA-256 of the module.
    pub module_sha256: String,
}

impl RunIdentity {
    /// The row of a run that begins now; its times and status are the record's.
    pub(crate) fn row(&self) -> RunRow {
        RunRow {
            id: self.id.clone(),
            environment: self.environment.clone(),
            policy: self.policy.clone(),
            module_sha256: self.module_sha256.clone(),
            status: String::new(),
            summary: String::new(),
            started_ms: 0,
            ended_ms: None,
        }
    }
}

/// What all runs of an engine have around them. One count for all of it: threads that make short runs share it.
pub struct Surroundings {
    /// The journal.
    pub state: Arc<State>,
    /// Who is asked.
    pub confirmer: Arc<dyn Confirmer>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Who is told of named places on the way; see [`StepContext::at`].
    pub waypoint: Waypoint,
}

/// One run's way through its steps.
pub struct Stepper {
    /// The primitives.
    pub(crate) host: Arc<Host>,
    pub(crate) around: Arc<Surroundings>,
    pub(crate) run: RunIdentity,
    /// Who runs this engine: on every record.
    pub(crate) by: By,
    /// What the log is not told.
    pub(crate) withheld: Withheld,
    pub(crate) grants: Grants,
    /// Calls the module declares.
    pub(crate) declared: BTreeSet<String>,
    /// Whether the world may speak to the live service at all; without, only to scratch instances.
    pub(crate) live_endpoints: bool,
    pub(crate) limits: Limits,
    /// Who may consent.
    pub(crate) approval_rules: Rules,
    pub(crate) said: Said,
    /// Steps so far.
    pub(crate) step: u64,
    /// Which attempt at this step, from 1.
    pub(crate) attempt: u32,
    /// Size of all requests and answers so far: they are written down, so they are bounded like reports.
    pub(crate) requested_bytes: usize,
    /// Time of the newest record.
    pub(crate) clock_ms: u64,
    /// Answers on record, to be given again.
    pub(crate) replay: VecDeque<Record>,
    /// An effect that was started and has no completion on record.
    pub(crate) open_step: Option<Record>,
    pub(crate) deadline: Instant,
    pub(crate) cancelled: Arc<AtomicBool>,
    /// The run is ours while this is held; none only for an instance that is made and not run.
    pub(crate) claim: Option<Claim>,
    /// The last refusal of a grant, or of a person, that the guest was told: what a failed run failed of.
    pub(crate) last_refusal: Option<ErrorKind>,
    /// The last error whole, for whoever watches; the guest is told less.
    pub(crate) last_detail: Option<String>,
    /// Held by every context that was given out.
    pub(crate) under_way: Arc<()>,
    /// See [`crate::run::RunOptions::any_host`].
    pub(crate) any_host: bool,
    /// See [`crate::run::RunOptions::rehearsed`].
    pub(crate) rehearsed: bool,
    /// The host that the run began on, if it is taken up.
    pub(crate) began_on: Option<String>,
    /// Its end is on record already: an engine before this one died while it settled.
    pub(crate) ending: bool,
    /// The guest was told that its deadline has passed: what it fails of then is the deadline.
    pub(crate) late: bool,
}

/// What is on record before an effect begins.
#[derive(Default)]
pub(crate) struct Prepared {
    /// Kept in the `started` record, and given to the performer and to every later engine (generated ids, a swap plan).
    pub(crate) body: Value,
    /// Made with the `started` record.
    pub(crate) on_start: Vec<Change>,
}

impl Prepared {
    pub(crate) fn with(body: Value) -> Self {
        Self { body, on_start: Vec::new() }
    }
}

impl Stepper {
    /// One call, from the guest's request to the answer it gets. `canonical` is the request as journaled, `full` as the host reads it.
    pub(crate) async fn step(&mut self, function: &Function, canonical: Value, full: Value) -> Result<Value, Stop> {
        let call = calls::find(&function.name).expect("a test holds the table against the contract");
        self.step_of(call, canonical, full).await
    }

    /// The same, of a row of the table.
    pub(crate) async fn step_of(
        &mut self,
        call: &'static calls::Call,
        canonical: Value,
        full: Value,
    ) -> Result<Value, Stop> {
        if call.class == Class::Pure {
            return self.pure(call.name, &full);
        }
        self.step += 1;
        if self.step > self.limits.steps_max {
            return Err(Breach::Steps.into());
        }
        let request = self.withheld.request(call.name, canonical).await.map_err(unwritten)?;
        self.requested_bytes += request.to_string().len();
        if self.requested_bytes + self.said.bytes() > self.limits.report_bytes_max {
            return Err(Breach::ReportBytes.into());
        }
        if let Some(record) = self.replay.pop_front() {
            return self.replayed(call.name, &record, &request).await;
        }
        if let Some(open) = self.open_step.take() {
            return self.reopened(call, &open, request, full).await;
        }
        let class = calls::class_of(call, &full);
        let objects = match self.permitted(call, &full) {
            Ok(objects) => objects,
            Err(refusal) => {
                self.tell_started(call.name.to_owned());
                let answer = self.answer(request, Err(refusal)).await?;
                self.tell_ended(&answer, Duration::ZERO);
                return Ok(answer);
            }
        };
        self.tell_started(grants::line_for(call.name, &objects));
        let began = Instant::now();
        let answer = match class {
            Class::Pure | Class::Read | Class::ByMethod => {
                let result = self.perform_read(call.name, &full).await.map_err(of_the_host);
                self.answer(request, result).await
            }
            Class::Effect | Class::Destructive => {
                self.hold(&objects).await?;
                self.effect(call.name, request, &full).await
            }
        }?;
        self.tell_ended(&answer, began.elapsed());
        Ok(answer)
    }

    /// Counts what a builder keeps for the guest.
    pub(crate) fn keep(&mut self, value: &Value) -> Result<(), Breach> {
        self.requested_bytes += value.to_string().len();
        match self.requested_bytes + self.said.bytes() > self.limits.report_bytes_max {
            true => Err(Breach::ReportBytes),
            false => Ok(()),
        }
    }

    /// Answers are written down as well: asking for a large one again and again is bounded like the rest. Counted when it is given again
    /// too, so that a resumed run has the budget it began with.
    fn count_answer(&mut self, answer: &Value) {
        if answer.get("ok").is_some() {
            self.requested_bytes += answer.to_string().len();
        }
    }

    pub(crate) fn tell_started(&self, line: String) {
        self.around.observer.event(&self.run.id, &Event::StepStarted { step: self.step, line });
    }

    pub(crate) fn tell_ended(&self, answer: &Value, elapsed: Duration) {
        let error = error_text(answer).map(|told| self.last_detail.clone().unwrap_or(told));
        let event = Event::StepEnded { step: self.step, error, elapsed };
        self.around.observer.event(&self.run.id, &event);
    }

    /// Cancelled? Declared, granted, and on objects that make sense?
    fn permitted(&self, call: &calls::Call, full: &Value) -> Result<Vec<(&'static str, String)>, HostError> {
        if self.ending() && !closes(call.name) {
            return Err(HostError::new(ErrorKind::Cancelled, "the run was cancelled or is past its deadline"));
        }
        let objects = calls::objects_of(call, full)?;
        for (key, value) in &objects {
            // A guest's name may become part of a path or key further down: what is no name goes no further.
            if matches!(*key, "service" | "store" | "to") {
                host_api::identifier::check_name(key, value)?;
            }
        }
        let line = grants::line_for(call.name, &objects);
        if !self.declared.contains(call.name) {
            return Err(HostError::new(ErrorKind::Denied, format!("not declared by the policy itself: {}", call.name))
                .hint("its description (policy.toml) must list the call among its capabilities"));
        }
        if !self.grants.allow(call.name, &objects) {
            return Err(HostError::new(ErrorKind::Denied, format!("not granted: {line}")).hint(format!(
                "to allow it, add \"{line}\" to the grants of [environment.{}.policy.{}]",
                self.run.environment, self.run.policy
            )));
        }
        let live = |(key, value): &(&str, String)| *key == "endpoint" && !value.starts_with("scratch/");
        if !self.live_endpoints && objects.iter().any(live) {
            return Err(HostError::new(
                ErrorKind::Denied,
                format!("the policy's world does not reach the live service: {line}"),
            ));
        }
        Ok(objects)
    }

    /// Pure calls: the clock stands still between records, reports are kept with the next one.
    fn pure(&mut self, name: &str, full: &Value) -> Result<Value, Stop> {
        // While replaying, they were said already.
        let heard = self.replay.is_empty() && self.open_step.is_none();
        match name {
            "clock.now" => return Ok(crate::sandbox::values::unsigned(self.clock_ms)),
            "report.note" => self.said.note(text(&full["text"])),
            "report.add-finding" => {
                if let Ok(finding) = serde_json::from_value::<Finding>(full["finding"].clone()) {
                    self.said.finding(finding);
                } else {
                    // An unknown severity is an error: the guest meant to warn.
                    let finding = &full["finding"];
                    self.said.finding(Finding::error(
                        text(&finding["rule"]),
                        text(&finding["message"]),
                        text(&finding["fix"]),
                    ));
                }
            }
            "schedule.due" => match serde_json::from_value(full.clone()) {
                Ok(due) => self.said.due(due),
                // What the sandbox lifted has the contract's types.
                Err(error) => unreachable!("schedule.due: {error}"),
            },
            "schedule.wake-at" => self.said.wake_at(full["time-ms"].as_u64().unwrap_or_default()),
            "report.evidence" => self.said.evidence(text(&full["name"]), text(&full["json"])),
            "report.outcome" => self.said.outcome(text(&full["code"]), text(&full["summary"])),
            other => unreachable!("{other} is not pure"),
        }
        if self.requested_bytes + self.said.bytes() > self.limits.report_bytes_max {
            return Err(Breach::ReportBytes.into());
        }
        if heard {
            self.said.tell(&*self.around.observer, &self.run.id);
        } else {
            self.said.forget_pending();
        }
        Ok(Value::Null)
    }

    /// Answers from the record, after comparing the request.
    async fn replayed(&mut self, name: &str, record: &Record, request: &Value) -> Result<Value, Stop> {
        let recorded = &record.body["request"];
        // An answer that a person wrote may be for any arguments.
        let any = self.rehearsed && recorded.get("arguments").is_none() && recorded["call"] == request["call"];
        if recorded != request && !any {
            return Err(Stop::Nondeterminism {
                step: self.step,
                recorded: recorded.to_string(),
                now: request.to_string(),
            });
        }
        self.clock_ms = record.time_ms;
        let result = self.withheld.recall(name, self.step, record).await.map_err(unwritten)?;
        self.count_answer(&result);
        Ok(result)
    }

    /// A step with its answer in one record.
    async fn answer(&mut self, request: Value, result: Result<Value, HostError>) -> Result<Value, Stop> {
        let detail = detail(&result);
        let result = self.wire(result);
        let mut body = json!({"request": request, "result": result});
        add_detail(&mut body, &detail);
        let kept = self.withhold(&mut body).await?;
        self.append(Transition::Answered, Some(self.step), body, kept.as_slice()).await?;
        self.last_detail = detail;
        Ok(result)
    }

    /// Started, acted, completed.
    async fn effect(&mut self, name: &'static str, request: Value, full: &Value) -> Result<Value, Stop> {
        let prepared = match self.prepare(name, full).await {
            Ok(prepared) => prepared,
            // Nothing was begun: an answer like that of a read.
            Err(refusal) => return self.answer(request, Err(of_the_host(refusal))).await,
        };
        self.attempt = 1;
        self.at("prepared");
        let body = json!({"request": request, "attempt": self.attempt, "prepared": prepared.body});
        match self.append(Transition::Started, Some(self.step), body, &prepared.on_start).await {
            Ok(()) => {}
            // Denied, or used, since it was looked at: nothing was begun.
            Err(Stop::NotApproved(why)) => {
                return self.answer(request, Err(HostError::new(ErrorKind::Rejected, why))).await;
            }
            Err(stop) => return Err(stop),
        }
        self.at("started");
        self.act_and_complete(name, request, full, &prepared.body).await
    }

    /// The second half of an effect whose start is on record.
    pub(crate) async fn act_and_complete(
        &mut self,
        name: &'static str,
        request: Value,
        full: &Value,
        prepared: &Value,
    ) -> Result<Value, Stop> {
        let performed = self.perform_effect(name, full, prepared).await?;
        self.at("acted");
        self.complete(name, request, prepared, performed).await
    }

    /// The record of an effect's end.
    pub(crate) async fn complete(
        &mut self,
        name: &'static str,
        request: Value,
        prepared: &Value,
        mut performed: Performed,
    ) -> Result<Value, Stop> {
        performed.result = performed.result.map_err(of_the_host);
        let mut changes = performed.changes;
        changes.extend(endings::changes(name, prepared, performed.result.is_ok()));
        let detail = detail(&performed.result);
        let result = self.wire(performed.result);
        let mut body = json!({"request": request, "result": result, "attempt": self.attempt});
        add_detail(&mut body, &detail);
        if let Some(record) = performed.record {
            body["decision"] = record;
        }
        changes.extend(self.withhold(&mut body).await?);
        self.append(Transition::Completed, Some(self.step), body, &changes).await?;
        self.at("completed");
        self.last_detail = detail;
        Ok(result)
    }

    /// Holds the locks of the services that a call acts on.
    pub(crate) async fn hold(&mut self, objects: &[(&'static str, String)]) -> Result<(), Stop> {
        for (_, service) in objects.iter().filter(|(object, _)| *object == "service") {
            self.hold_service(service).await?;
        }
        Ok(())
    }

    /// Has a service for the run from here on.
    pub(crate) async fn hold_service(&mut self, service: &str) -> Result<(), Stop> {
        let claim = self.claim.as_mut().expect("a run that acts is claimed");
        claim.hold(&self.around.state, service).await.map_err(unwritten)
    }

    /// Tells whoever looks that the run has come to a place between two things that a crash may tear apart.
    pub(crate) fn at(&self, place: &str) {
        (self.around.waypoint)(&format!("{} {place}", self.step));
    }

    /// Writes a record with everything that was said since the last one.
    pub(crate) async fn append(
        &mut self,
        kind: Transition,
        step: Option<u64>,
        mut body: Value,
        changes: &[Change],
    ) -> Result<(), Stop> {
        let said = self.said.pending(self.around.state.directory(), &self.run.id).map_err(unwritten)?;
        if !said.is_empty() {
            body["said"] = Value::Array(said);
        }
        for words in ["said", "detail", "summary", "error"] {
            if let Some(words) = body.get_mut(words) {
                self.withheld.words(words).await.map_err(unwritten)?;
            }
        }
        self.clock_ms =
            self.around.state.append(&self.run.id, &self.by, kind, step, body, changes).await.map_err(unwritten)?;
        self.said.forget_pending();
        Ok(())
    }

    /// Takes out of a record's result what the log is not told; the change that keeps it.
    async fn withhold(&mut self, body: &mut Value) -> Result<Option<Change>, Stop> {
        let call = body["request"]["call"].as_str().unwrap_or_default().to_owned();
        let (on_record, kept) =
            self.withheld.answer(&call, self.step, &body["result"].take()).await.map_err(unwritten)?;
        body["result"] = on_record;
        Ok(kept)
    }

    /// A result as the contract has it; remembers refusals.
    fn wire(&mut self, result: Result<Value, HostError>) -> Value {
        match result {
            Ok(value) => {
                let answer = json!({"ok": value});
                self.count_answer(&answer);
                answer
            }
            Err(error) => {
                // Of the last error only: a refusal that the policy got over is not what it fails of later.
                let refusal = matches!(error.kind, ErrorKind::Denied | ErrorKind::Rejected | ErrorKind::Expired);
                self.last_refusal = refusal.then_some(error.kind);
                let ended_early = matches!(error.kind, ErrorKind::Cancelled | ErrorKind::TimedOut);
                self.late |= ended_early && Instant::now() >= self.deadline;
                json!({"err": wire_error(&error)})
            }
        }
    }

    /// A step on record that a policy which goes on did not come to.
    pub(crate) fn unreached(&self) -> Option<u64> {
        let waiting = self.replay.front().or(self.open_step.as_ref())?;
        waiting.body["step"].as_u64()
    }

    /// Cancelled, or past its deadline.
    pub(crate) fn ending(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    /// The context of a step that does something to the world: it ends before anyone else could begin it again.
    pub(crate) fn acting_context(&self) -> StepContext {
        let mut cx = self.context();
        if let Some((end, latest)) = self.claim.as_ref().and_then(Claim::deadlines) {
            cx.deadline = cx.deadline.min(end);
            cx.latest = Some(latest);
        }
        cx
    }

    /// The context of the step that is being performed.
    pub(crate) fn context(&self) -> StepContext {
        let mut cx = self.plain_context();
        if self.ending() {
            // Only what closes an obligation gets here: it has the grace.
            cx.deadline = Instant::now() + self.limits.grace();
            cx.cancelled = self.uncancelled();
        }
        cx
    }

    pub(crate) fn plain_context(&self) -> StepContext {
        let (observer, run, step) = (self.around.observer.clone(), self.run.id.clone(), self.step);
        StepContext {
            run: self.run.id.clone(),
            step: self.step,
            attempt: self.attempt,
            deadline: self.deadline,
            latest: None,
            cancelled: self.cancelled.clone(),
            progress: {
                let under_way = self.under_way.clone();
                Arc::new(move |progress: Progress| {
                    let _ = &under_way;
                    observer.event(&run, &Event::Progress { step, progress });
                })
            },
            waypoint: {
                let waypoint = self.around.waypoint.clone();
                Arc::new(move |place| waypoint(&format!("{step} {place}")))
            },
        }
    }

    /// Waits until no work of a step that was cut off is under way any more: settling beside it would undo what it still does.
    pub(crate) async fn rest(&self) {
        let end = Instant::now() + REST_LIMIT;
        // Every context of a step holds one; a thread that works for it has such a context.
        while Arc::strong_count(&self.under_way) > 1 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A fresh context for what the host does by itself after a run's end: cancelled or late as the run may be.
    pub(crate) fn settling_context(&self, limit: Duration) -> StepContext {
        let (limit, latest) = (Instant::now() + limit, self.claim.as_ref().and_then(Claim::deadlines).map(|(_, l)| l));
        StepContext {
            deadline: latest.map_or(limit, |latest| latest.min(limit)),
            latest,
            cancelled: self.uncancelled(),
            ..self.plain_context()
        }
    }

    /// A flag that only the loss of the claim sets.
    fn uncancelled(&self) -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        if let Some(claim) = &self.claim {
            claim.watch(&flag);
        }
        flag
    }

    /// An error if another engine has the run now.
    pub(crate) fn check_claim(&self) -> Result<(), Error> {
        self.claim.as_ref().map_or(Ok(()), Claim::check)
    }
}

/// Taking back a half-done effect has two minutes of its own.
const REST_LIMIT: Duration = Duration::from_secs(180);

/// Of a question that is asked again: the intent as it is now, or why it can't be said.
pub(crate) const INTENT_NOW: &str = "intent-now";
/// See [`INTENT_NOW`].
pub(crate) const ASKING_FAILED: &str = "asking-failed";

/// Calls that close what a run opened: still taken in the grace after a cancellation or deadline, so that a policy can compensate.
pub(crate) fn closes(call: &str) -> bool {
    matches!(call, "service.start" | "restore.discard" | "scratch.stop")
}

/// What can't be written down, or read back, ends the run: the step does not happen.
pub(crate) fn unwritten(e: Error) -> Stop {
    match e.kind {
        Kind::LockHeld => Stop::LockHeld(e.to_string()),
        Kind::TakenOver => Stop::TakenOver(e.to_string()),
        Kind::NotApproved => Stop::NotApproved(e.to_string()),
        _ => Stop::Journal(e.to_string()),
    }
}

/// An error as the contract's variant.
pub(crate) fn wire_error(error: &HostError) -> Value {
    let case = match error.kind {
        ErrorKind::Denied => "denied",
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not-found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Refused => "refused",
        ErrorKind::Rejected => "rejected",
        ErrorKind::Expired => "expired",
        ErrorKind::Failed => "failed",
        ErrorKind::TimedOut => "timed-out",
        ErrorKind::Cancelled => return json!("cancelled"),
        ErrorKind::Other => "other",
    };
    // A refusal speaks of grants and names, the guest's own words; everything else may speak of the host.
    let words = match error.kind {
        ErrorKind::Denied | ErrorKind::Rejected => error.to_string(),
        _ => crate::conceal::for_guest(&error.to_string()),
    };
    json!({case: words})
}

/// `denied` is the engine's own word, for what is not granted: a server that denies the *host* something (a wrong password) is a failure, not
/// a denial to the policy, and its words are the host's.
fn of_the_host(mut error: HostError) -> HostError {
    if error.kind == ErrorKind::Denied {
        error.kind = ErrorKind::Failed;
    }
    error
}

/// What went wrong, whole: for the journal and for people, not for the guest.
fn detail(result: &Result<Value, HostError>) -> Option<String> {
    result.as_ref().err().map(ToString::to_string)
}

/// Kept only where the guest was told less.
fn add_detail(body: &mut Value, detail: &Option<String>) {
    if let Some(detail) = detail
        && error_text(&body["result"]).is_some_and(|told| !told.ends_with(detail.as_str()))
    {
        body["detail"] = json!(detail);
    }
}

/// The words of an error in an answer, if it is one.
fn error_text(answer: &Value) -> Option<String> {
    match answer.get("err")? {
        Value::Object(case) => case.iter().next().map(|(kind, words)| format!("{kind}: {}", text(words))),
        Value::String(case) => Some(case.clone()),
        _ => None,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
