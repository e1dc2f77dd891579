//! Running a policy: from its first record to its last.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host_api::{ErrorKind, Finding, Host, Severity, identifier};
use serde_json::{Map, Value, json};
use wasmtime::Store;
use wasmtime::component::{Func, Val};

use crate::approvals::rules::Rules;
use crate::claims::Claim;
use crate::error::{Error, Kind, Result};
use crate::grants::Grants;
use crate::journal::{By, Change, Record, Transition};
use crate::observe::Event;
use crate::policy::{Inspected, Module};
use crate::reporting::{JOURNAL, Said, write_evidence};
use crate::resume::{gives_answer, is_question, open_step};
use crate::sandbox::handles::Handles;
use crate::sandbox::limits::{Breach, Limits, MemoryLimiter, breach_of};
use crate::sandbox::linker::Guest;
use crate::sandbox::wasi;
use crate::schedule::{Due, Duty};
use crate::step::{RunIdentity, Stepper, Stop};
use crate::withheld::Withheld;
use crate::{Engine, contract};

/// Stands where a run's id would, for an instance that is only made.
const NO_RUN: &str = "none";

/// What to run a module with.
#[non_exhaustive]
pub struct RunOptions {
    /// The environment's name.
    pub environment: String,
    /// The name the environment gives the policy.
    pub policy: String,
    /// The world the environment gives it.
    pub world: String,
    /// What it may do.
    pub grants: Grants,
    /// How much of everything.
    pub limits: Limits,
    /// Whether the module may import WASI 0.2, with nothing in it.
    pub wasi: bool,
    /// The run whose random numbers a module on WASI is given; its own, if none.
    pub random_of: Option<String>,
    /// Its parameters, validated.
    pub parameters: Map<String, Value>,
    /// Who may consent to what it asks for.
    pub approval_rules: Rules,
    /// The environment's primitives. Shared: runs at the same time count one owner each, not one for each primitive.
    pub host: Arc<Host>,
    /// Who started it, `alice@host`.
    pub actor: String,
    /// By which way, `cli`, `embedded`.
    pub channel: String,
    /// What it is started for, if a cadence said that it is due.
    pub duty: Option<Duty>,
    /// Answered beforehand, with no world behind it: see [`Engine::rehearse`].
    pub rehearsed: bool,
    /// Where engines share the state: whether a run that began on another host may go on here.
    pub any_host: bool,
    /// Why it is taken from an engine whose lease lasts, if it is.
    pub took_over: Option<String>,
    /// Set from outside to cancel. One for each run: it is also set when the run ends, to end what may still be under way.
    pub cancelled: Arc<AtomicBool>,
}

impl RunOptions {
    /// To run a policy under a name, with nothing granted, the usual limits, no parameters and nobody who could consent: set what is wanted.
    pub fn new(environment: &str, policy: &str, world: &str, host: impl Into<Arc<Host>>) -> Self {
        Self {
            environment: environment.to_owned(),
            policy: policy.to_owned(),
            world: world.to_owned(),
            grants: Grants::default(),
            limits: Limits::default(),
            parameters: Map::new(),
            approval_rules: Rules::default(),
            host: host.into(),
            actor: crate::config::actor(),
            channel: "embedded".into(),
            duty: None,
            rehearsed: false,
            any_host: false,
            wasi: false,
            random_of: None,
            took_over: None,
            cancelled: Arc::default(),
        }
    }

    /// Who stands on its records.
    pub(crate) fn by(&self) -> By {
        By { actor: self.actor.clone(), channel: self.channel.clone() }
    }
}

/// How a run came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// It did what it was for.
    Ok,
    /// Some of it.
    PartlyDone,
    /// There was nothing to do.
    NothingToDo,
    /// It failed.
    Failed,
    /// A verification found something, or could not run.
    VerificationFailed,
    /// A call was not granted, and the policy could not go on without.
    Denied,
    /// A person said no, or an approval came too late.
    Rejected,
    /// It waits for a person.
    Parked,
    /// A step's outcome is not known.
    InDoubt,
    /// The policy trapped.
    Trapped,
    /// The policy broke a limit.
    LimitBroken,
    /// Another run works on the service.
    LockHeld,
    /// It was cancelled.
    Cancelled,
    /// A person ended it after its engine had died, or instead of an answer.
    Abandoned,
}

impl Status {
    /// The word for a run that is not over and does not wait.
    pub const RUNNING: &'static str = "running";

    /// The word in the journal and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PartlyDone => "partly-done",
            Self::NothingToDo => "nothing-to-do",
            Self::Failed => "failed",
            Self::VerificationFailed => "verification-failed",
            Self::Denied => "denied",
            Self::Rejected => "rejected",
            Self::Parked => "parked",
            Self::InDoubt => "in-doubt",
            Self::Trapped => "trapped",
            Self::LimitBroken => "limit-broken",
            Self::LockHeld => "lock-held",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Ok,
            Self::PartlyDone,
            Self::NothingToDo,
            Self::Failed,
            Self::VerificationFailed,
            Self::Denied,
            Self::Rejected,
            Self::Parked,
            Self::InDoubt,
            Self::Trapped,
            Self::LimitBroken,
            Self::LockHeld,
            Self::Cancelled,
            Self::Abandoned,
        ]
        .into_iter()
        .find(|status| status.word() == word)
    }

    /// The documented exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok | Self::Abandoned => 0,
            Self::Failed => 1,
            Self::PartlyDone => 3,
            Self::NothingToDo => 4,
            Self::VerificationFailed => 5,
            Self::LockHeld => 11,
            Self::Denied => 12,
            Self::Parked => 13,
            Self::Rejected => 14,
            Self::InDoubt => 15,
            Self::Trapped | Self::LimitBroken => 20,
            Self::Cancelled => 130,
        }
    }
}

/// A run's end, or its parking.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ended {
    /// The run's id.
    pub run: String,
    /// How it came out.
    pub status: Status,
    /// In a line or two.
    pub summary: String,
    /// Everything the policy and the host found.
    pub findings: Vec<Finding>,
    /// What the run left open and the host could not close: what, and what to type.
    pub unsettled: Vec<String>,
    /// The limit that was broken.
    pub breach: Option<Breach>,
    /// What went wrong after the end was on record: a checkpoint or a copy that could not be written.
    pub warnings: Vec<String>,
    /// What a cadence said is due.
    pub due: Vec<Due>,
    /// When a cadence wants to be asked again at the latest, Unix milliseconds.
    pub wake_at_ms: Option<u64>,
}

impl Engine {
    /// Runs a module from its beginning. Drive it to its end: a run is ended early by cancelling it. Dropped in the middle of an act, it lets
    /// go of its claim while a thread may still act.
    pub async fn run(&self, module: &Module, options: RunOptions) -> Result<Ended> {
        check_fits(module, &options)?;
        let run = identifier::fresh();
        let claim = self.claim(&run).await?;
        let identity = identity(&run, module, &options);
        let description = &module.inspected.description;
        let body = json!({
            "environment": options.environment, "policy": options.policy, "version": description.version,
            "world": options.world, "module-sha256": identity.module_sha256, "grants-sha256": options.grants.sha256,
            "parameters": options.parameters, "contract": contract::VERSION,
        });
        let mut body = self.state().with_host(body);
        if let Some(duty) = &options.duty {
            body["duty"] = json!(duty);
        }
        let begins = [Change::RunBegins(identity.row())];
        let clock_ms = self.state().append(&run, &options.by(), Transition::RunStarted, None, body, &begins).await?;
        self.drive(module, identity, options, claim, clock_ms, Vec::new(), false).await
    }

    /// Claims a run, before its first record, or before it is looked at to go on with it or end it.
    pub(crate) async fn claim(&self, run: &str) -> Result<Claim> {
        Claim::take(self.state(), run, false).await
    }

    /// Claims a run that an engine on another host still has a lease of, because a person knows that engine to be dead. An engine whose process
    /// can be seen from here is not passed over, whatever anyone says. For [`Engine::resume_claimed`] and [`Engine::abandon_claimed`], whose
    /// options say why: [`RunOptions::took_over`].
    pub async fn take_over(&self, run: &str) -> Result<Claim> {
        Claim::take(self.state(), run, true).await
    }

    #[expect(clippy::too_many_arguments, reason = "the one way in, for a run that begins and one that goes on")]
    pub(crate) async fn drive(
        &self,
        module: &Module,
        run: RunIdentity,
        options: RunOptions,
        claim: Claim,
        clock_ms: u64,
        records: Vec<Record>,
        resumed: bool,
    ) -> Result<Ended> {
        let observer = &self.around().observer;
        observer.event(
            &run.id,
            &Event::RunStarted { policy: run.policy.clone(), environment: run.environment.clone(), resumed },
        );
        let open_step = open_step(&records).cloned();
        let began_on = records.first().and_then(|begun| begun.body["host"].as_str()).map(str::to_owned);
        let replay: VecDeque<Record> = records.into_iter().filter(|r| gives_answer(r.kind)).collect();
        let (id, limits, cancelled) = (run.id.clone(), options.limits.clone(), options.cancelled.clone());
        let parameters = Value::Object(options.parameters.clone()).to_string();
        let random_of = options.random_of.clone();
        let mut stepper = self.stepper(run, options, clock_ms);
        claim.watch(&cancelled);
        stepper.claim = Some(claim);
        stepper.declared = module.inspected.description.capabilities.iter().cloned().collect();
        stepper.replay = replay;
        stepper.open_step = open_step;
        stepper.began_on = began_on;
        let deadline = stepper.deadline;
        let seed = random_of.unwrap_or_else(|| id.clone());
        // Let go after the instance that stands in it: declared before what holds that one.
        let mut place = None;
        let mut store = self.store(module, stepper, &seed, clock_ms);
        let in_its_place = async {
            place = self.sandbox().place().await;
            call(module, &limits, &mut store, parameters).await
        };
        let ended = tokio::select! {
            result = in_its_place => Some(result),
            () = past(deadline, limits.grace(), &cancelled) => None,
            never = self.watch_for_cancellation(&id, &cancelled) => match never {},
        };
        let cut_off = ended.is_none();
        let came_to = match ended {
            None if cancelled.load(Ordering::Relaxed) => {
                Came::to(Status::Cancelled, "cancelled; the policy did not end by itself")
            }
            None => Came {
                breach: Some(Breach::Deadline),
                ..Came::to(Status::LimitBroken, &format!("the policy {}", Breach::Deadline))
            },
            Some(result) => read_end(result, store.data(), cancelled.load(Ordering::Relaxed)),
        };
        // Whatever the guest still had under way ends with it.
        if !waits(came_to.status) {
            cancelled.store(true, Ordering::Relaxed);
        }
        let mut stepper = store.into_data().stepper;
        drop(place);
        if cut_off {
            stepper.rest().await;
            // A record that was on its way is written; the step that was cut off is on record as under way, and nobody will complete it.
            // A state that fails now must not keep what is open from being settled: the failure is told where the end can't be recorded.
            if self.state().written().await.is_ok()
                && let Ok(records) = self.state().records(&id).await
            {
                stepper.open_step = crate::resume::open_step(&records).filter(|step| !is_question(step)).cloned();
            }
        }
        self.finish(stepper, came_to).await
    }

    /// Cancels a run when somebody asks for its end on record, from wherever the state can be reached.
    pub(crate) async fn watch_for_cancellation(&self, run: &str, cancelled: &AtomicBool) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(CANCEL_LOOK_INTERVAL).await;
            // A state that can't be read ends the run at its next record.
            if self.state().cancel_requested(run).await.unwrap_or(false) {
                cancelled.store(true, Ordering::Relaxed);
            }
        }
    }

    /// A stepper at its beginning, with nothing declared.
    pub(crate) fn stepper(&self, run: RunIdentity, options: RunOptions, clock_ms: u64) -> Stepper {
        Stepper {
            by: options.by(),
            withheld: Withheld::new(self.state(), &run.id),
            host: options.host,
            around: self.around().clone(),
            live_endpoints: contract::contract().worlds.get(&options.world).is_some_and(|w| w.contains("query")),
            deadline: Instant::now() + options.limits.deadline(),
            claim: None,
            grants: options.grants,
            limits: options.limits,
            approval_rules: options.approval_rules,
            cancelled: options.cancelled,
            declared: BTreeSet::new(),
            said: Said::default(),
            step: 0,
            attempt: 1,
            ending: false,
            requested_bytes: 0,
            clock_ms,
            replay: VecDeque::new(),
            open_step: None,
            last_refusal: None,
            last_detail: None,
            under_way: Arc::new(()),
            any_host: options.any_host,
            rehearsed: options.rehearsed,
            began_on: None,
            late: false,
            run,
        }
    }

    /// `seed` and `started_ms`: what a module on WASI is told of randomness and time.
    fn store(&self, module: &Module, stepper: Stepper, seed: &str, started_ms: u64) -> Store<Guest> {
        let on_wasi = !module.inspected.wasi.is_empty();
        let guest = Guest {
            wasi: on_wasi.then(|| wasi::Empty::new(seed, started_ms, stepper.limits.handles_max)),
            handles: Handles::new(stepper.limits.handles_max),
            memory: MemoryLimiter::new(stepper.limits.memory_bytes_max),
            turn: self.sandbox().turn(stepper.limits.fuel),
            stepper,
        };
        Store::new(self.sandbox().engine(), guest)
    }

    /// Makes an instance as a run would, and lets go of it: nothing is called, nothing recorded. For measuring what a fresh one costs.
    pub async fn instantiate(&self, module: &Module, options: RunOptions) -> Result<()> {
        check_fits(module, &options)?;
        let limits = options.limits.clone();
        let stepper = self.stepper(identity(NO_RUN, module, &options), options, 0);
        let made = instantiate(module, &limits, &mut self.store(module, stepper, NO_RUN, 0)).await;
        made.map(drop).map_err(|e| Error::new(Kind::Failed, format!("instantiating: {e:#}")))
    }

    /// Settles, writes the last record and the evidence.
    pub(crate) async fn finish(&self, mut stepper: Stepper, came: Came) -> Result<Ended> {
        let run = stepper.run.id.clone();
        let journal = |stop: Stop| match stop {
            Stop::TakenOver(why) => Error::new(Kind::TakenOver, why),
            stop => Error::new(Kind::Journal, stop.to_string())
                .hint("the run has no end on record; what it opened may still be open"),
        };
        stepper.check_claim()?;
        if waits(came.status) {
            let step = came.waits_in;
            let mut changes = vec![Change::RunStatus(came.status.word().into(), came.summary.clone(), None)];
            // What it is in doubt about is its to complete: it keeps its services.
            changes.extend((came.status == Status::Parked).then_some(Change::ServicesLetGo));
            stepper
                .append(Transition::Parked, step, json!({"why": came.summary, "status": came.status.word()}), &changes)
                .await
                .map_err(journal)?;
            let open = self.state().obligations(Some(&run)).await?;
            let stopped = open.iter().filter(|o| o.state == "open" && o.kind == "service-stopped");
            let unsettled = stopped.map(|o| format!("service {} is stopped while the run waits", o.object)).collect();
            return Ok(Ended {
                run,
                status: came.status,
                summary: came.summary,
                findings: stepper.said.findings,
                unsettled,
                breach: None,
                warnings: Vec::new(),
                due: stepper.said.due,
                wake_at_ms: stepper.said.wake_at_ms,
            });
        }
        // The policy did not come to it again, or was not called: nobody will decide it any more.
        let mut known = Vec::new();
        if let Some(step) = stepper.open_step.take() {
            let records = self.state().records(&run).await?;
            known = stepper.leave_in_doubt(&step, &records).await;
        }
        let mut unrecorded = None;
        if !stepper.ending {
            // From here on the policy is not called again, whatever ends us: what it had open is closed under it.
            let body = json!({"status": came.status.word(), "summary": came.summary, "breach": came.breach});
            // A disk that is full must not keep a service down: what is open is settled all the same, and the failure told then.
            unrecorded = stepper.append(Transition::Ending, None, body, &known).await.err();
        }
        stepper.check_claim()?;
        stepper.at("ending");
        let settled = stepper.settle().await;
        if let Some(stop) = unrecorded {
            return Err(journal(stop));
        }
        let mut unsettled = settled.map_err(journal)?;
        stepper.at("settled");
        let (mut status, mut summary) = (came.status, came.summary);
        // A policy that says all is well while it, or the host, found an error does not get its word for it.
        if status == Status::Ok && stepper.said.findings.iter().any(|f| f.severity == Severity::Error) {
            status = Status::PartlyDone;
            summary = format!("{summary} (with findings of severity error)");
        }
        // The state's list of runs outlives the values as the log does.
        let mut recorded = json!(summary);
        stepper.withheld.words(&mut recorded).await.map_err(|e| journal(Stop::Journal(e.to_string())))?;
        let recorded = recorded.as_str().unwrap_or_default().to_owned();
        let body = json!({
            "status": status.word(), "summary": recorded, "steps": stepper.step, "unsettled": unsettled.len(),
            "breach": came.breach,
        });
        let change = Change::RunStatus(status.word().into(), recorded, Some(identifier::now_ms()));
        stepper.append(Transition::RunEnded, None, body, &[change]).await.map_err(journal)?;
        stepper.at("ended");
        let lines = self.state().lines(&run).await?.join("\n") + "\n";
        // The run is over and on record: a copy that can't be written must not hide how it came out.
        if let Err(error) = write_evidence(self.state().directory(), &run, JOURNAL, lines.as_bytes()) {
            unsettled.push(format!("the evidence has no {JOURNAL}: {}", error.message));
        }
        let mut warnings = self.seal(&run).await;
        // An engine before this one may have been killed while it read or wrote there.
        if let Err(error) = stepper.host.probe.clear_spool(&run).await {
            warnings.push(format!("what the run left in the scratch space could not be removed: {error}"));
        }
        let said = stepper.said;
        let (findings, due, wake_at_ms) = (said.findings, said.due, said.wake_at_ms);
        Ok(Ended { run, status, summary, findings, unsettled, breach: came.breach, warnings, due, wake_at_ms })
    }
}

/// How often a run looks whether somebody asked for its end.
const CANCEL_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Whether a run that came to this is not over: it waits for a person.
fn waits(status: Status) -> bool {
    matches!(status, Status::Parked | Status::InDoubt)
}

/// Whether a module is for the world that an environment gives it.
pub fn check_world(module: &Inspected, policy: &str, world: &str) -> Result<()> {
    let declared = &module.description.world;
    if declared != world {
        return Err(Error::new(
            Kind::PolicyRefused,
            format!("policy {policy} is for world `{declared}`, the environment gives it `{world}`"),
        )
        .hint("set the world in the configuration to the module's, if what that world holds is acceptable"));
    }
    Ok(())
}

/// Whether a module that imports WASI may.
pub(crate) fn check_wasi(module: &Inspected, allowed: bool) -> Result<()> {
    match module.wasi.first() {
        Some(first) if !allowed => Err(Error::new(
            Kind::PolicyRefused,
            format!(
                "the module is refused: it imports `{}`, and WASI is not allowed for it here",
                identifier::shown(first)
            ),
        )),
        _ => Ok(()),
    }
}

/// Whether a module may run under these options.
pub(crate) fn check_fits(module: &Module, options: &RunOptions) -> Result<()> {
    check_world(&module.inspected, &options.policy, &options.world)?;
    check_wasi(&module.inspected, options.wasi)
}

pub(crate) fn identity(run: &str, module: &Module, options: &RunOptions) -> RunIdentity {
    RunIdentity {
        id: run.to_owned(),
        environment: options.environment.clone(),
        policy: options.policy.clone(),
        module_sha256: module.inspected.sha256.clone(),
    }
}

/// An instance of the module, under its limits; gives its `run`.
async fn instantiate(module: &Module, limits: &Limits, store: &mut Store<Guest>) -> wasmtime::Result<Func> {
    limits.apply(store)?;
    let instance = module.instances.instantiate_async(&mut *store).await?;
    instance.get_func(store, module.run).ok_or_else(|| wasmtime::format_err!("the module's `run` is no function"))
}

/// Instantiates and calls `run`.
async fn call(
    module: &Module,
    limits: &Limits,
    store: &mut Store<Guest>,
    parameters: String,
) -> wasmtime::Result<Result<(), String>> {
    let run = instantiate(module, limits, store).await?;
    let mut results = [Val::Bool(false)];
    run.call_async(&mut *store, &[Val::String(parameters)], &mut results).await?;
    match results {
        [Val::Result(Ok(_))] => Ok(Ok(())),
        [Val::Result(Err(Some(text)))] => match *text {
            Val::String(text) => Ok(Err(text)),
            _ => wasmtime::bail!("`run` answered with another type than the contract has"),
        },
        _ => wasmtime::bail!("`run` answered with another type than the contract has"),
    }
}

/// What the words of a run begin with whose policy did otherwise than is on record.
pub(crate) const NONDETERMINISM: &str = "nondeterminism";

/// What the guest's end says.
pub(crate) struct Came {
    pub(crate) status: Status,
    summary: String,
    waits_in: Option<u64>,
    pub(crate) breach: Option<Breach>,
}

impl Came {
    pub(crate) fn to(status: Status, summary: &str) -> Self {
        Self { status, summary: summary.to_owned(), waits_in: None, breach: None }
    }
}

fn read_end(result: wasmtime::Result<Result<(), String>>, guest: &Guest, cancelled: bool) -> Came {
    let said = &guest.stepper.said;
    if let (Ok(_), Some(step)) = (&result, guest.stepper.unreached()) {
        return Came::to(
            Status::Trapped,
            &format!("{NONDETERMINISM}: the policy ended before step {step}, which is on record"),
        );
    }
    match result {
        Ok(Ok(())) => {
            let (code, summary) = said.outcome.clone().unwrap_or_else(|| ("ok".into(), "done".into()));
            let status = match code.as_str() {
                "ok" => Status::Ok,
                "partly-done" => Status::PartlyDone,
                "nothing-to-do" => Status::NothingToDo,
                "verification-failed" => Status::VerificationFailed,
                // Also for a word that only a newer policy knows: not a success.
                _ => Status::Failed,
            };
            Came::to(status, &summary)
        }
        Ok(Err(text)) if guest.stepper.late && !cancelled => Came {
            breach: Some(Breach::Deadline),
            ..Came::to(Status::LimitBroken, &format!("the policy {}: {text}", Breach::Deadline))
        },
        Ok(Err(text)) => {
            let status = match (guest.stepper.last_refusal, &said.outcome) {
                _ if cancelled => Status::Cancelled,
                (Some(ErrorKind::Denied), _) => Status::Denied,
                (Some(ErrorKind::Rejected | ErrorKind::Expired), _) => Status::Rejected,
                (_, Some((code, _))) if code == "verification-failed" => Status::VerificationFailed,
                _ => Status::Failed,
            };
            Came::to(status, &text)
        }
        Err(trap) => read_trap(&trap, guest),
    }
}

fn read_trap(trap: &wasmtime::Error, guest: &Guest) -> Came {
    if let Some(breach) = breach_of(trap, guest) {
        return Came { breach: Some(breach), ..Came::to(Status::LimitBroken, &format!("the policy {breach}")) };
    }
    match trap.downcast_ref::<Stop>() {
        Some(Stop::Parked { approval }) => Came {
            waits_in: Some(guest.stepper.step),
            ..Came::to(Status::Parked, &format!("waiting for approval {approval}"))
        },
        Some(Stop::Breach(breach)) => {
            Came { breach: Some(*breach), ..Came::to(Status::LimitBroken, &format!("the policy {breach}")) }
        }
        Some(Stop::LockHeld(why)) => Came::to(Status::LockHeld, why),
        Some(Stop::TakenOver(why)) => Came::to(Status::LockHeld, why),
        Some(Stop::NotApproved(why)) => Came::to(Status::Rejected, why),
        Some(stop @ Stop::InDoubt { step, .. }) => {
            Came { waits_in: Some(*step), ..Came::to(Status::InDoubt, &stop.to_string()) }
        }
        Some(stop @ Stop::Nondeterminism { .. }) => Came::to(Status::Trapped, &stop.to_string()),
        Some(stop @ Stop::Journal(_)) => Came::to(Status::Failed, &stop.to_string()),
        None => {
            // The first line is the cause; a backtrace follows it.
            let text = format!("{trap:#}");
            let cause = trap.root_cause().to_string();
            let first = text.lines().next().unwrap_or_default();
            let cause = identifier::shown_long(if cause.is_empty() { first } else { &cause });
            let summary = match guest.stepper.unreached() {
                Some(step) => {
                    format!("{NONDETERMINISM}: the policy trapped before step {step}, which is on record: {cause}")
                }
                None => format!("the policy trapped: {cause}"),
            };
            Came::to(Status::Trapped, &summary)
        }
    }
}

/// Comes back when the guest must be ended: after its deadline, or a cancellation, and the grace.
async fn past(deadline: Instant, grace: Duration, cancelled: &AtomicBool) {
    while Instant::now() < deadline && !cancelled.load(Ordering::Relaxed) {
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(Duration::from_millis(20))).await;
    }
    tokio::time::sleep(grace).await;
}
