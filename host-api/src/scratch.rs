//! The service, started on a scratch candidate, in quarantine.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::bindings::{NamedQuery, Scratch as Binding, Service};
use crate::context::StepContext;
use crate::control::process::{Process, log_tail};
use crate::control::{ports, record::private_dir, values};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::identifier::{check_id, fresh, shown};
use crate::real::{RealHost, blocking};
use crate::restore::Candidate;
use crate::sources::{Member, Question, Row, SourceDriver};

/// A service process bound to one candidate: the contract's `scratch.instance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Instance {
    /// Its id; its endpoints are called `ID/NAME`.
    pub id: String,
    /// The service.
    pub service: String,
    /// The candidate's id.
    pub candidate: String,
    /// The port it was given.
    pub port: u16,
    /// Process id.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot: with the pid, it identifies the process.
    pub pid_started: u64,
}

/// Starting and stopping in quarantine.
#[async_trait]
pub trait Scratch: Send + Sync {
    /// Neutralises the candidate as configured, then starts the service on it. `version`: an installed one; `None`: the live one.
    async fn start(&self, cx: &StepContext, candidate: &Candidate, version: Option<&str>) -> Result<Instance>;
    /// Waits until it is ready; milliseconds since its start.
    async fn wait_ready(&self, cx: &StepContext, instance: &Instance) -> Result<u64>;
    /// Stops it and compares the configured facts with those before the start.
    async fn stop(&self, cx: &StepContext, instance: &Instance) -> Result<Vec<Finding>>;
}

/// The rule of a fact that is not as it was before the start.
pub const RULE_QUARANTINE: &str = "quarantine";
/// The rule of a quarantine that nothing was configured to prove.
pub const RULE_UNPROVEN: &str = "quarantine-unproven";

/// A port that was free a moment ago may be taken; this often in a row it is no accident.
const PORTS_MAX: u32 = 3;
/// How long a start watches for an early end or an open port before it leaves the rest to `wait_ready`.
const START_LOOK: Duration = Duration::from_secs(2);
/// How long a port may stay open when its process is gone.
const PORT_LIMIT: Duration = Duration::from_secs(5);
/// Rows that a fact may have: enough for a list of ids in a queue.
const FACT_ROWS_MAX: usize = 1_000;

/// A service running in quarantine. Dropped, it is killed.
pub struct Running {
    pub(crate) instance: Instance,
    pub(crate) process: Process,
    candidate: Candidate,
    /// Templates' values, for readiness.
    values: values::Values,
    began: Instant,
    log: PathBuf,
    facts: Facts,
    before: Answers,
    timeout: Duration,
}

/// Answers to the configured facts, by name.
type Answers = BTreeMap<String, Vec<Row>>;

/// What is asked before the start and again after the stop: each fact with its source's driver and the candidate's member.
struct Facts(Vec<Fact>);

struct Fact {
    name: String,
    query: NamedQuery,
    driver: Arc<dyn SourceDriver>,
    member: Member,
}

impl Facts {
    fn ask(&self, cx: &StepContext) -> Result<Answers> {
        self.0
            .iter()
            .map(|fact| {
                let question =
                    Question { name: fact.name.clone(), sql: fact.query.sql.clone(), rows_max: FACT_ROWS_MAX };
                let rows = fact.driver.query(cx, Some(&fact.member), &question);
                Ok((fact.name.clone(), rows.map_err(|e| e.context(format!("fact `{}`", fact.name)))?))
            })
            .collect()
    }

    fn compare(&self, before: &Answers, after: &Answers) -> Vec<Finding> {
        if self.0.is_empty() {
            return vec![Finding::warning(
                RULE_UNPROVEN,
                "nothing proves that the service in quarantine did no work: no facts are configured",
                "configure `unchanged` of its scratch: the number of queued items, say",
            )];
        }
        let changed = self.0.iter().filter(|fact| before.get(&fact.name) != after.get(&fact.name));
        changed
            .map(|fact| {
                let side = |answers: &Answers| words(answers.get(&fact.name).map_or(&[], Vec::as_slice));
                let meaning = fact.query.words.as_ref().map_or_else(String::new, |words| format!(" ({words})"));
                Finding::error(
                    RULE_QUARANTINE,
                    format!("{}{meaning}: {} before the start, {} after the stop", fact.name, side(before), side(after)),
                    "the service worked on the candidate: switch its worker off in `environment`, or neutralise its queue in `quarantine`",
                )
            })
            .collect()
    }
}

/// Rows for people, bounded.
fn words(rows: &[Row]) -> String {
    let row = |row: &Row| row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(" | ");
    match rows {
        [] => "no row".into(),
        [one] => shown(&row(one)),
        many => format!("{} rows ({})", many.len(), shown(&many.iter().map(row).collect::<Vec<_>>().join("; "))),
    }
}

/// Everything of a start that is known before anything is done.
struct Plan {
    candidate: Candidate,
    binding: Binding,
    values: values::Values,
    /// The candidate's own directory, the process's working directory.
    directory: PathBuf,
    log: PathBuf,
    marker: PathBuf,
    /// Statements by source, with the source's driver and the candidate's member.
    quarantine: Vec<(Arc<dyn SourceDriver>, Member, Vec<String>)>,
    facts: Facts,
}

impl Plan {
    /// Marks the candidate as started, neutralises it, asks the facts, starts the service. Blocking.
    fn start(self, cx: &StepContext) -> Result<Running> {
        let directory = self.marker.parent().unwrap_or(Path::new("/"));
        private_dir(directory)?;
        // First of all, and on disk: from here on it is no copy of the backup any more, whatever happens next.
        File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.marker)
            .and_then(|file| file.sync_all())
            .and_then(|()| File::open(directory)?.sync_all())
            .doing(|| format!("writing {}", self.marker.display()))?;
        private_dir(&self.directory)?;
        for (driver, member, statements) in &self.quarantine {
            cx.check()?;
            driver
                .execute(cx, member, statements)
                .map_err(|e| e.context(format!("quarantine of {}", member.source)))?;
        }
        let before = self.facts.ask(cx)?;
        let began = Instant::now();
        let mut tries = 0;
        let (process, values, port) = loop {
            cx.check()?;
            tries += 1;
            let port = ports::free().doing(|| "looking for a free port".into())?;
            match self.spawn(cx, port) {
                Ok((process, values)) => break (process, values, port),
                // Whoever has the port now is not ours, for ours has ended.
                Err(_) if tries < PORTS_MAX && ports::is_open(port) => {}
                Err(error) => return Err(error),
            }
        };
        let instance = Instance {
            id: fresh(),
            service: self.candidate.service.clone(),
            candidate: self.candidate.id.clone(),
            port,
            pid: process.pid(),
            pid_started: process.started(),
        };
        let timeout = Duration::from_secs(self.binding.timeout_s);
        let Self { candidate, log, facts, .. } = self;
        Ok(Running { instance, process, candidate, values, began, log, facts, before, timeout })
    }

    fn spawn(&self, cx: &StepContext, port: u16) -> Result<(Process, values::Values)> {
        let mut values = self.values.clone();
        values.insert("port".into(), port.to_string());
        let binding = &self.binding;
        let directory = Some(self.directory.clone());
        let spec = values::process(&binding.command, &binding.environment, &binding.secret, directory, &values)?;
        let mut process = Process::spawn(&spec, &self.log)?;
        let end = Instant::now() + START_LOOK.min(cx.remaining());
        while Instant::now() < end && !ports::is_open(port) && !process.wait(Duration::from_millis(50)) {
            cx.check()?;
        }
        match process.ended() {
            None => Ok((process, values)),
            Some(how) => Err(Error::failed(format!("the service ended at once, with {how}; {}", log_tail(&self.log)))),
        }
    }
}

impl Running {
    /// The error that waiting for it is pointless, if it has ended.
    fn gone(&mut self) -> Option<Error> {
        let how = self.process.ended()?.to_owned();
        Some(Error::failed(format!("the service in quarantine has ended, with {how}; {}", log_tail(&self.log))))
    }

    /// Ends it and compares the facts. Blocking.
    fn stop(mut self, cx: &StepContext) -> Result<Vec<Finding>> {
        // Cancelled or late, it still has to end: at once, then.
        let limit = if cx.check().is_ok() { self.timeout.min(cx.remaining()) } else { Duration::ZERO };
        self.process.stop(limit)?;
        let port = self.instance.port;
        let end = Instant::now() + PORT_LIMIT;
        while ports::is_open(port) {
            if Instant::now() >= end {
                return Err(Error::failed(format!("the service's process is gone, but its port {port} is still open"))
                    .hint("it started something outside its process group: end that by hand"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let after = self.facts.ask(cx)?;
        Ok(self.facts.compare(&self.before, &after))
    }
}

impl RealHost {
    fn plan(&self, candidate: &Candidate, version: Option<&str>) -> Result<Plan> {
        check_id("candidate", &candidate.id)?;
        let name = &candidate.service;
        let service: &Service = self.service(name)?;
        if candidate.target != "scratch" {
            return Err(Error::refused(format!(
                "candidate {} is not for scratch: starting a service on it would change what may be promoted",
                candidate.id
            ))
            .hint("stage the backup with target `scratch`"));
        }
        let binding = service.scratch.clone().ok_or_else(|| {
            Error::invalid(format!("the environment does not say how `{name}` is started in quarantine"))
                .hint(format!("configure [service.{name}.scratch]"))
        })?;
        let candidates = self.state_dir.join("candidates");
        let directory = candidates.join(&candidate.id);
        let values = values::scratch(service, candidate, &directory, version)?;
        let member = |source: &str| {
            let found = candidate.members.iter().find(|m| m.source == source).cloned();
            found.ok_or_else(|| {
                let names: Vec<_> = candidate.members.iter().map(|m| m.source.clone()).collect();
                Error::unknown("source", source, &names).context(format!("scratch of {name}"))
            })
        };
        let mut quarantine = Vec::new();
        for (source, statements) in &binding.quarantine {
            quarantine.push((self.driver(name, source)?, member(source)?, statements.clone()));
        }
        let mut facts = Vec::new();
        for (fact, query) in &binding.unchanged {
            let driver = self.driver(name, &query.source)?;
            facts.push(Fact { name: fact.clone(), query: query.clone(), driver, member: member(&query.source)? });
        }
        Ok(Plan {
            candidate: candidate.clone(),
            binding,
            values,
            log: candidates.join(format!("{}.log", candidate.id)),
            marker: candidates.join(format!("{}.started", candidate.id)),
            directory,
            quarantine,
            facts: Facts(facts),
        })
    }

    /// Starts what was planned and keeps it.
    async fn launch(&self, cx: &StepContext, plan: Plan) -> Result<Instance> {
        let of = plan.candidate.id.clone();
        let running = |instances: &BTreeMap<String, Running>| instances.values().any(|r| r.candidate.id == of);
        if running(&self.instances.lock().expect("no panic while held")) {
            return Err(Error::conflict(format!("a service runs on candidate {of} already")).hint("stop it first"));
        }
        let inner = cx.within(Duration::from_secs(plan.binding.timeout_s));
        let started = blocking(move || plan.start(&inner)).await?;
        let instance = started.instance.clone();
        let mut instances = self.instances.lock().expect("no panic while held");
        // Dropped, and so killed, if another start came in between.
        if running(&instances) {
            return Err(Error::conflict(format!("a service runs on candidate {of} already")).hint("stop it first"));
        }
        instances.insert(instance.id.clone(), started);
        Ok(instance)
    }

    /// Calls this on an instance of ours.
    fn running<T>(&self, id: &str, call: impl FnOnce(&mut Running) -> T) -> Result<T> {
        let mut instances = self.instances.lock().expect("no panic while held");
        instances.get_mut(id).map(call).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no service in quarantine with id `{}` runs here", shown(id)))
                .hint("it ended with the engine that started it: start it again")
        })
    }
}

#[async_trait]
impl Scratch for RealHost {
    async fn start(&self, cx: &StepContext, candidate: &Candidate, version: Option<&str>) -> Result<Instance> {
        cx.check()?;
        let plan = self.plan(candidate, version)?;
        self.launch(cx, plan).await
    }

    async fn wait_ready(&self, cx: &StepContext, instance: &Instance) -> Result<u64> {
        let (service, port, values, began) =
            self.running(&instance.id, |r| (r.instance.service.clone(), r.instance.port, r.values.clone(), r.began))?;
        let (ready, endpoint) = self.ready(&service)?;
        let url = crate::http_check::scratch_url(endpoint, port)?;
        let target = self.http.target(&format!("{service}/{}", ready.endpoint), endpoint, &url)?;
        let gone = || std::future::ready(self.running(&instance.id, Running::gone).unwrap_or_else(Some));
        crate::control::ready::wait(cx, &target, ready, &values, began, gone).await
    }

    async fn stop(&self, cx: &StepContext, instance: &Instance) -> Result<Vec<Finding>> {
        let running = self.instances.lock().expect("no panic while held").remove(&instance.id);
        let (cx, instance) = (cx.clone(), instance.clone());
        blocking(move || match running {
            Some(running) => running.stop(&cx),
            None => stop_foreign(&instance),
        })
        .await
    }
}

/// Ends an instance of an engine before this one. What it was like before its start is lost with that engine.
fn stop_foreign(instance: &Instance) -> Result<Vec<Finding>> {
    if let Some(mut process) = Process::adopt(instance.pid, instance.pid_started) {
        process.kill()?;
    }
    Ok(vec![Finding::error(
        RULE_QUARANTINE,
        "the quarantine can't be proven: the engine restarted while the service ran, or had stopped it before",
        "stage the backup again and repeat the drill",
    )])
}

#[cfg(test)]
mod tests;
