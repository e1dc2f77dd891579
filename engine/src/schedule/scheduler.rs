//! The loop that wakes cadences and starts what is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use host_api::checks::Clock;
use host_api::identifier;
use serde_json::Map;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::due::Due;
use super::queue::Queue;
use crate::Engine;
use crate::config::{CADENCE_WORLD, Config};
use crate::error::{Error, Kind, Result};
use crate::run::{Ended, Status};

/// A cadence is asked again at least so often, whatever it said.
const WAKE_MAX_MS: u64 = 24 * 3_600_000;
/// Where it did not say when.
const WAKE_DEFAULT_MS: u64 = 3_600_000;
/// At most so often.
const WAKE_MIN_MS: u64 = 200;
/// One that could not be asked is asked again after so long; doubled up to [`RETRY_MAX_MS`].
const RETRY_MS: u64 = 15_000;
const RETRY_MAX_MS: u64 = 900_000;
/// The clock on the wall is looked at this often: it may be set, and the machine may have slept.
const LOOK: Duration = Duration::from_secs(20);
/// A clock that is this far from where it should be was set.
const JUMP_MS: u64 = 5_000;
/// How long a cadence that is being asked may go on when serving is to end.
const ASKING: Duration = Duration::from_secs(10);
/// A question that takes longer is ended: what it is about would have changed meanwhile.
const ASKING_MAX: Duration = Duration::from_secs(300);
/// How many earlier runs are looked through for one of the same duty.
const PAST_RUNS: u32 = 100;
/// Who stands on the records of what starts by itself.
const CHANNEL: &str = "serve";

/// What a task came to, and which it was.
type Joined<T> = std::result::Result<(tokio::task::Id, T), tokio::task::JoinError>;

/// Opens engines for the scheduler.
#[async_trait]
pub trait Opens: Send + Sync {
    /// An engine on the configuration's state that asks nobody: what wants consent waits for it.
    async fn engine(&self, config: &Config) -> Result<Engine>;
}

/// Something that a scheduler did, or did not do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Happened<'a> {
    /// It looked at the clock, as it does at least three times a minute.
    Turns,
    /// A cadence is being asked, which may take as long as its deadline lets it.
    Asks(&'a str),
    /// A cadence was asked.
    Asked {
        /// Its name.
        cadence: &'a str,
        /// What it came to.
        ended: &'a Result<Ended>,
        /// When it is asked again at the latest, Unix milliseconds.
        next_ms: u64,
    },
    /// What it said is due is not started.
    NotStarted {
        /// What.
        due: &'a Due,
        /// Why not.
        why: &'a Error,
    },
    /// A run begins.
    Starts(&'a Due),
    /// It ended, waits, or could not be begun.
    Ended {
        /// What it was started for.
        due: &'a Due,
        /// How it came out.
        ended: &'a Result<Ended>,
    },
    /// The clock was set, or the machine slept: cadences are asked at once.
    ClockJumped {
        /// By how much, milliseconds; negative: back.
        by_ms: i64,
    },
    /// Serving ends, and this run is left as it is: the next engine goes on with it.
    Left(&'a Due),
}

/// Hears what happened; cheap, never blocks.
pub trait Watcher: Send + Sync {
    /// Something happened.
    fn happened(&self, what: &Happened<'_>);
}

/// Wakes the cadences of one environment, and starts what they say is due.
pub struct Scheduler {
    environment: String,
    configs: watch::Receiver<Arc<Config>>,
    opens: Arc<dyn Opens>,
    watcher: Arc<dyn Watcher>,
    clock: Clock,
    engine: Option<Arc<Engine>>,
    queue: Queue,
    /// When each cadence is asked next, and how often in a row it could not be.
    wakes: BTreeMap<String, (u64, u32)>,
    running: JoinSet<(Due, Option<Result<Ended>>)>,
    /// Whether what is under way is to be left.
    leaving: watch::Sender<bool>,
    cancels: BTreeMap<String, Arc<AtomicBool>>,
    /// Questions that are under way, by cadence.
    asking: JoinSet<(String, Result<Ended>)>,
    asked: BTreeSet<String>,
    /// Whose a task is, if it ends by a panic: a cadence, or a duty.
    tasks: HashMap<tokio::task::Id, String>,
}

impl Scheduler {
    /// One for an environment of a configuration, which may be replaced while it works.
    pub fn new(
        environment: &str,
        configs: watch::Receiver<Arc<Config>>,
        opens: Arc<dyn Opens>,
        watcher: Arc<dyn Watcher>,
        clock: Clock,
    ) -> Self {
        Self {
            environment: environment.to_owned(),
            configs,
            opens,
            watcher,
            clock,
            engine: None,
            queue: Queue::default(),
            wakes: BTreeMap::new(),
            running: JoinSet::new(),
            leaving: watch::channel(false).0,
            cancels: BTreeMap::new(),
            asking: JoinSet::new(),
            asked: BTreeSet::new(),
            tasks: HashMap::new(),
        }
    }

    /// Works until `stop` comes. Then nothing more is started; what is under way may go on for `finish-within-s`, and is left as it is after
    /// that, as if this process had died: to cancel it would end it with less than the next engine can do.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut seen = (Instant::now(), (self.clock)());
        loop {
            self.watcher.happened(&Happened::Turns);
            let now_ms = (self.clock)();
            let expected_ms = seen.1.saturating_add(millis(seen.0.elapsed()));
            seen = (Instant::now(), now_ms);
            if now_ms.abs_diff(expected_ms) > JUMP_MS {
                let by_ms = i64::try_from(i128::from(now_ms) - i128::from(expected_ms)).unwrap_or(i64::MAX);
                self.watcher.happened(&Happened::ClockJumped { by_ms });
                self.wakes.values_mut().for_each(|(at_ms, _)| *at_ms = 0);
            }
            self.ask_those_that_are_due().await;
            self.start_what_can_be().await;
            // An SQLite state that is kept open is never written back from its write-ahead log, with what runs withheld in it.
            if self.running.is_empty() && self.asking.is_empty() && !self.configs.borrow().state_is_shared() {
                self.engine = None;
            }
            let wakes = self.wakes.iter().filter(|(name, _)| !self.asked.contains(*name)).map(|(_, (at_ms, _))| *at_ms);
            let wakes = wakes.chain(self.queue.wakes_at_ms()).min();
            let wait =
                wakes.map_or(LOOK, |at_ms| Duration::from_millis(at_ms.saturating_sub((self.clock)())).min(LOOK));
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(ended) = self.running.join_next_with_id() => self.took_end(ended),
                Some(answered) = self.asking.join_next_with_id() => self.took_answer(answered),
                Ok(()) = self.configs.changed() => self.wakes.values_mut().for_each(|(at_ms, _)| *at_ms = 0),
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            }
        }
        self.finish().await;
    }

    /// Asks the environment's cadences whose time has come, each in a task of its own: one that hangs is in nobody's way.
    async fn ask_those_that_are_due(&mut self) {
        let config = self.configs.borrow_and_update().clone();
        let names: Vec<String> = match config.environment(Some(&self.environment)) {
            Ok(environment) => {
                let is_cadence = |world: &str| world == CADENCE_WORLD;
                let policies = environment.binding.policy.iter();
                policies
                    .filter(|(_, policy)| is_cadence(policy.world.get_ref()))
                    .map(|(name, _)| name.clone())
                    .collect()
            }
            // A configuration that was reloaded without it.
            Err(_) => Vec::new(),
        };
        let gone: Vec<String> = self.wakes.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.wakes.remove(&name);
            self.queue.replace(&name, Vec::new());
        }
        for name in names {
            let (at_ms, _) = self.wakes.get(&name).copied().unwrap_or_default();
            if at_ms > (self.clock)() || self.asked.contains(&name) {
                continue;
            }
            // Asked again at once where it is wanted meanwhile; otherwise what it says decides.
            self.wakes.entry(name.clone()).or_default().0 = u64::MAX;
            self.watcher.happened(&Happened::Asks(&name));
            match self.ask(&config, &name).await {
                Ok(()) => {
                    self.asked.insert(name);
                }
                Err(error) => self.answered(&config, &name, Err(error)),
            }
        }
    }

    async fn ask(&mut self, config: &Config, name: &str) -> Result<()> {
        let engine = self.engine(config).await?;
        let environment = config.environment(Some(&self.environment))?;
        let binding = environment.policy(name)?;
        let module = engine.load_admitted(&environment.admit(name, &binding)?)?;
        let parameters = binding.parameters_with(&module.inspected.description, Map::new())?;
        let options = environment.run_options(name, &binding, parameters, CHANNEL)?;
        let (of, name) = (name.to_owned(), name.to_owned());
        let cancelled = options.cancelled.clone();
        let task = self.asking.spawn(async move {
            let mut run = std::pin::pin!(engine.run(&module, options));
            let ended = tokio::select! {
                ended = &mut run => ended,
                () = tokio::time::sleep(ASKING_MAX) => {
                    cancelled.store(true, Ordering::Relaxed);
                    run.await
                }
            };
            (name, ended)
        });
        self.tasks.insert(task.id(), of);
        Ok(())
    }

    fn took_answer(&mut self, answered: Joined<(String, Result<Ended>)>) {
        let (name, ended) = match answered {
            Ok((id, (name, ended))) => {
                self.tasks.remove(&id);
                (name, ended)
            }
            Err(error) => {
                let Some(name) = self.tasks.remove(&error.id()) else { return };
                (name, Err(Error::new(Kind::Failed, "a bug: asking it came to no end")))
            }
        };
        self.asked.remove(&name);
        let config = self.configs.borrow().clone();
        self.answered(&config, &name, ended);
    }

    /// What a cadence has said, or why it has not.
    fn answered(&mut self, config: &Config, name: &str, ended: Result<Ended>) {
        let now_ms = (self.clock)();
        let (wanted_ms, failures) = self.wakes.get(name).copied().unwrap_or((u64::MAX, 0));
        let next = match &ended {
            Ok(ended) if has_answered(ended) => {
                let said = ended.wake_at_ms.unwrap_or(now_ms.saturating_add(WAKE_DEFAULT_MS));
                (said.clamp(now_ms.saturating_add(WAKE_MIN_MS), now_ms.saturating_add(WAKE_MAX_MS)), 0)
            }
            _ => {
                let after = RETRY_MS.saturating_mul(1 << failures.min(16)).min(RETRY_MAX_MS);
                (now_ms.saturating_add(after), failures.saturating_add(1))
            }
        };
        // Something has happened while it was asked: what it says is of before.
        let next = if wanted_ms == u64::MAX {
            next
        } else {
            (wanted_ms.max(now_ms.saturating_add(WAKE_MIN_MS)).min(next.0), next.1)
        };
        self.watcher.happened(&Happened::Asked { cadence: name, ended: &ended, next_ms: next.0 });
        let due = match ended {
            Ok(ended) if has_answered(&ended) => ended.due,
            // What it said before it failed is no answer.
            _ => Vec::new(),
        };
        self.take(config, name, due);
        self.wakes.insert(name.to_owned(), next);
    }

    async fn engine(&mut self, config: &Config) -> Result<Arc<Engine>> {
        if let Some(engine) = &self.engine {
            return Ok(engine.clone());
        }
        Ok(self.engine.insert(Arc::new(self.opens.engine(config).await?)).clone())
    }

    /// Queues what a cadence says is due, as far as the environment lets it.
    fn take(&mut self, config: &Config, cadence: &str, due: Vec<Due>) {
        let Ok(environment) = config.environment(Some(&self.environment)) else { return };
        let mut taken = Vec::new();
        for due in due.into_iter().map(|due| due.said_by(cadence)) {
            let of = || -> Result<Option<String>> {
                let over = due.parameters()?;
                if !environment.binding.serve.may_start(&due.policy) {
                    let why = format!("{} may not start {}", cadence, identifier::shown(&due.policy));
                    return Err(Error::new(Kind::PolicyRefused, why).hint(format!(
                        "if it may: [environment.{}.serve] may-start = [\"{}\"]",
                        self.environment,
                        identifier::shown(&due.policy)
                    )));
                }
                let binding = environment.policy(&due.policy)?;
                let service = over.get("service").or_else(|| binding.parameters.get("service"));
                Ok(service.and_then(|service| service.as_str()).map(str::to_owned))
            };
            match of() {
                Ok(service) => taken.push((due, service)),
                Err(why) => self.watcher.happened(&Happened::NotStarted { due: &due, why: &why }),
            }
        }
        self.queue.replace(cadence, taken);
    }

    async fn start_what_can_be(&mut self) {
        while let Some(due) = self.queue.next((self.clock)()) {
            if let Err(why) = self.start(&due).await {
                self.watcher.happened(&Happened::NotStarted { due: &due, why: &why });
                self.queue.ended(&due.full_name());
                // It is due all the same: the cadences are asked again soon, and not only at the next slot.
                let again_ms = (self.clock)().saturating_add(RETRY_MS);
                self.wakes.values_mut().for_each(|(at_ms, _)| *at_ms = again_ms.min(*at_ms));
            }
        }
    }

    async fn start(&mut self, due: &Due) -> Result<()> {
        let config = self.configs.borrow().clone();
        let engine = self.engine(&config).await?;
        for past in engine.state().past_runs(&self.environment, &due.policy, Some(&due.duty()), PAST_RUNS).await? {
            if past.ended_ms.is_none() {
                let why = format!("run {} for the same duty is not over: it is {}", past.id, past.status);
                return Err(Error::new(Kind::LockHeld, why).hint(format!("lifeboat runs show {}", past.id)));
            }
            if past.slot_ms == Some(due.slot_ms) && matches!(past.status.as_str(), "ok" | "nothing-to-do") {
                return Err(Error::new(Kind::LockHeld, format!("run {} has done it", past.id)));
            }
        }
        let environment = config.environment(Some(&self.environment))?;
        // It may have been taken from there since it was said.
        if !environment.binding.serve.may_start(&due.policy) {
            return Err(Error::new(Kind::PolicyRefused, format!("{} may not be started any more", due.policy)));
        }
        let binding = environment.policy(&due.policy)?;
        let module = engine.load_admitted(&environment.admit(&due.policy, &binding)?)?;
        let parameters = binding.parameters_with(&module.inspected.description, due.parameters()?)?;
        let mut options = environment.run_options(&due.policy, &binding, parameters, CHANNEL)?;
        options.duty = Some(due.duty());
        self.cancels.insert(due.full_name(), options.cancelled.clone());
        self.watcher.happened(&Happened::Starts(due));
        let (due, mut leaving) = (due.clone(), self.leaving.subscribe());
        let duty = due.full_name();
        let task = self.running.spawn(async move {
            let mut work = Box::pin(async move { engine.run(&module, options).await });
            let ended = tokio::select! {
                ended = &mut work => Some(ended),
                // Left where it is, as by a kill, and not dropped: an instance in quarantine ends with its host, and the run could not go on.
                _ = leaving.wait_for(|leave| *leave) => {
                    std::mem::forget(work);
                    None
                }
            };
            (due, ended)
        });
        self.tasks.insert(task.id(), duty);
        Ok(())
    }

    fn took_end(&mut self, ended: Joined<(Due, Option<Result<Ended>>)>) {
        let (due, ended) = match ended {
            Ok((id, ended)) => {
                self.tasks.remove(&id);
                ended
            }
            Err(error) => {
                // It was told when it happened; the run on record has no end, and is gone on with.
                if let Some(duty) = self.tasks.remove(&error.id()) {
                    self.queue.ended(&duty);
                    self.cancels.remove(&duty);
                }
                return;
            }
        };
        self.queue.ended(&due.full_name());
        self.cancels.remove(&due.full_name());
        match &ended {
            Some(ended) => self.watcher.happened(&Happened::Ended { due: &due, ended }),
            None => self.watcher.happened(&Happened::Left(&due)),
        }
        // What is due is another matter now.
        self.wakes.values_mut().for_each(|(at_ms, _)| *at_ms = 0);
    }

    async fn finish(&mut self) {
        self.queue.clear();
        let config = self.configs.borrow().clone();
        let within = config.environment(Some(&self.environment)).map_or(0, |e| e.binding.serve.finish_within_s);
        // A question is over in a moment, and a run that was begun should have its end on record.
        let _ = tokio::time::timeout(ASKING, async { while self.asking.join_next().await.is_some() {} }).await;
        let end = tokio::time::Instant::now() + Duration::from_secs(within);
        while let Ok(Some(ended)) = tokio::time::timeout_at(end, self.running.join_next_with_id()).await {
            self.took_end(ended);
        }
        // What the host does for them ends with the flag; they themselves are not asked any more, so nothing of it goes on record.
        self.leaving.send_replace(true);
        while let Some(ended) = self.running.join_next_with_id().await {
            if let Ok((_, (due, None))) = &ended
                && let Some(cancelled) = self.cancels.get(&due.full_name())
            {
                cancelled.store(true, Ordering::Relaxed);
            }
            self.took_end(ended);
        }
    }
}

/// Whether a cadence has come to an answer, whatever it found: one that failed has decided nothing.
pub fn has_answered(ended: &Ended) -> bool {
    matches!(ended.status, Status::Ok | Status::PartlyDone | Status::NothingToDo | Status::VerificationFailed)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
