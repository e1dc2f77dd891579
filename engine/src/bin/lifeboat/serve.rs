//! `lifeboat serve`: owns the services that are its children, so that they live on when a command ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use engine::error::{Error, Kind};
use engine::journal::ObligationRow;
use engine::{Engine, Result};
use host_api::StepContext;
use host_api::control::supervisor::Supervisor;
use host_api::real::RealHost;
use host_api::service::ServiceControl;
use tokio::sync::Notify;

use crate::{Global, output};

/// Arguments of `serve`.
#[derive(Args)]
pub struct Arguments {
    /// Start this service at once; may be given several times.
    #[arg(long, value_name = "SERVICE")]
    start: Vec<String>,
    /// Leave alone the runs whose engine died; otherwise they go on.
    #[arg(long)]
    no_resume: bool,
}

/// How long a service's start may take here; its own limit is usually shorter.
const START_LIMIT: Duration = Duration::from_secs(600);

/// The run that was taken up and is not over, and what ends the work of the host for it.
type UnderWay = Arc<Mutex<Option<(String, Arc<AtomicBool>)>>>;

/// How often runs are looked for whose engine died on another host.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Goes on with runs of an environment whose engine died. Nobody is asked: a run that wants consent waits for it, as without a terminal.
struct TakesUp {
    global: Global,
    environment: String,
    /// Opened at the first look, and kept where more looks follow: an SQLite state that is kept open is never written back from its
    /// write-ahead log, with what runs withheld in it.
    engine: Option<Engine>,
    shared: bool,
    /// What could not go on: said once, and left as it is.
    passed_over: Vec<String>,
    under_way: UnderWay,
}

impl TakesUp {
    /// All that there are now.
    async fn all(&mut self) {
        loop {
            match self.one().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    output::say(&format!("error: runs whose engine died can't be looked for: {error}"));
                    break;
                }
            }
        }
        if !self.shared {
            self.engine = None;
        }
    }

    /// The oldest one; false if there is none.
    async fn one(&mut self) -> Result<bool> {
        let config = self.global.load()?;
        let environment = config.environment(Some(&self.environment))?;
        let engine = match &mut self.engine {
            Some(engine) => engine,
            none => none.insert(crate::run::unattended(&config, self.global.json).await?),
        };
        let Some(claim) = engine.claim_interrupted(&self.environment, &self.passed_over).await? else {
            return Ok(false);
        };
        let run = claim.run().to_owned();
        output::say(&format!("serve: run {run} was interrupted; going on with it"));
        let cancelled = Arc::<AtomicBool>::default();
        let set = |now| *self.under_way.lock().expect("no panic while held") = now;
        set(Some((run.clone(), cancelled.clone())));
        let came = crate::run::go_on(&self.global, engine, &environment, claim, &cancelled).await;
        set(None);
        match came {
            Ok(code) => output::say(&format!("serve: run {run} came to exit code {code}")),
            Err(error) => {
                output::say(&format!("error: run {run} does not go on: {error}"));
                self.passed_over.push(run);
            }
        }
        Ok(true)
    }
}

/// Leaves a run that was taken up where it is, when serving ends: the services it may want to start end too, so to cancel it would end it with
/// less than the next engine can do. It is as if this one had died, so nothing of it goes on record; what its step is doing ends.
fn leave(under_way: &UnderWay) {
    let Some((run, cancelled)) = under_way.lock().expect("no panic while held").take() else { return };
    cancelled.store(true, Ordering::Relaxed);
    output::say(&format!(
        "serve: run {run} is left as it is; the next `lifeboat serve` goes on with it, or `lifeboat runs resume {run}`"
    ));
}

/// Refuses to start a service behind the back of a run that has stopped it and is not over, and on a set that a promotion left mixed.
async fn may_start(global: &Global, host: &RealHost, environment: &str, service: &str) -> Result<()> {
    let state = global.load()?.open_state().await?;
    let stopped = |o: &ObligationRow| o.state == "open" && o.kind == "service-stopped" && o.object == service;
    for run in state.obligations(None).await?.into_iter().filter(stopped).map(|o| o.run) {
        let row = state.run(&run).await?;
        if row.environment == environment && row.ended_ms.is_none() {
            return Err(Error::new(Kind::InDoubt, format!("run {run} has stopped it, and is not over"))
                .hint(format!("lifeboat runs show {run}")));
        }
    }
    let cx = StepContext::detached("serve", START_LIMIT);
    Ok(engine::mixed::refuse_start(&state, host, &cx, environment, service).await?)
}

/// Serves until SIGINT or SIGTERM; then leaves a run that it took up where it is, and stops its children.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let host = environment.host()?;
    for name in &arguments.start {
        if !environment.binding.service.contains_key(name) {
            return Err(Error::unknown("service", name, environment.binding.service.keys().map(String::as_str)));
        }
    }
    let socket = config.state_directory().join("serve.sock");
    let (failed, mut failure) = tokio::sync::oneshot::channel::<Error>();
    let (under_way, stopping) = (UnderWay::default(), Arc::new(Notify::new()));
    let mut starting = tokio::spawn({
        let (socket, names) = (socket.clone(), arguments.start);
        let (global, resume) = (global.clone(), !arguments.no_resume);
        let (environment, shared) = (environment.name.clone(), config.state_is_shared());
        let (under_way, stopping) = (under_way.clone(), stopping.clone());
        let mut work = Box::pin(async move {
            while !socket.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // First: they may have stopped one of these services, and left its data half-way.
            let mut takes_up = TakesUp {
                global: global.clone(),
                environment: environment.clone(),
                engine: None,
                shared,
                passed_over: Vec::new(),
                under_way,
            };
            if resume {
                takes_up.all().await;
            }
            for name in names {
                // Also where that can't be told: a service that is down is seen, and one on the wrong data is not.
                if let Err(error) = may_start(&global, &host, &environment, &name).await {
                    output::say(&format!("error: {name} is NOT started: {error}"));
                    continue;
                }
                let cx = StepContext::detached("serve", START_LIMIT);
                match ServiceControl::start(&*host, &cx, &name).await {
                    Ok(()) => output::say(&format!("serve: {name} started")),
                    Err(error) => {
                        // Who waits is told once; the receiver outlives us.
                        let _ = failed.send(Error::from(error).context(format!("starting {name}")));
                        return;
                    }
                }
            }
            // Only where engines share the state: of one of our own, whoever sees a run interrupted is at hand.
            if resume && shared {
                loop {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    takes_up.all().await;
                }
            }
            // Held, so that the other side does not take silence for a failure.
            std::future::pending::<()>().await;
            drop(failed);
        });
        async move {
            tokio::select! {
                () = &mut work => {}
                // Left where it is, as by a kill, and not dropped: an instance in quarantine ends with its host, and the run could not go on.
                () = stopping.notified() => std::mem::forget(work),
            }
        }
    });
    let mut failed_to_start = None;
    let shutdown = async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
        let terminated = async {
            match &mut terminate {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated => {}
            Ok(error) = &mut failure => failed_to_start = Some(error),
        }
        // Before the services end: a run that sees its service end would go on record as failed.
        stopping.notify_one();
        // A panic in it was told when it happened.
        let _ = (&mut starting).await;
        leave(&under_way);
    };
    let served = Supervisor::serve(environment.binding.service.clone(), socket, shutdown).await;
    // Where it could not serve at all.
    starting.abort();
    served?;
    match failed_to_start {
        Some(error) => Err(error),
        None => Ok(0),
    }
}
