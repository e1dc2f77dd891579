//! `lifeboat serve`: owns the services that are its children, so that they live on when a command ends.

use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::error::{Error, Kind};
use engine::journal::ObligationRow;
use host_api::StepContext;
use host_api::control::supervisor::Supervisor;
use host_api::real::RealHost;
use host_api::service::ServiceControl;

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

/// How often runs are looked for whose engine died on another host.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Goes on with the runs of an environment whose engine died. What can't go on is said once, and left as it is.
async fn take_up(global: &Global, environment: &str, passed_over: &mut Vec<String>) {
    loop {
        match take_up_one(global, environment, passed_over).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                output::say(&format!("error: runs whose engine died can't be looked for: {error}"));
                return;
            }
        }
    }
}

/// The oldest of them; false if there is none.
async fn take_up_one(global: &Global, environment: &str, passed_over: &mut Vec<String>) -> Result<bool> {
    let config = global.load()?;
    let environment = config.environment(Some(environment))?;
    let engine = crate::run::engine(&config, &environment, false, global.json).await?;
    let Some(claim) = engine.claim_interrupted(&environment.name, passed_over).await? else { return Ok(false) };
    let run = claim.run().to_owned();
    output::say(&format!("serve: run {run} was interrupted; going on with it"));
    match crate::run::go_on(global, &engine, &environment, claim).await {
        Ok(code) => output::say(&format!("serve: run {run} came to exit code {code}")),
        Err(error) => {
            output::say(&format!("error: run {run} does not go on: {error}"));
            passed_over.push(run);
        }
    }
    Ok(true)
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

/// Serves until SIGINT or SIGTERM; then stops its children.
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
    let starting = tokio::spawn({
        let (socket, names) = (socket.clone(), arguments.start);
        let (global, resume) = (global.clone(), !arguments.no_resume);
        let (environment, shared) = (environment.name.clone(), config.state_is_shared());
        async move {
            while !socket.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // First: they may have stopped one of these services, and left its data half-way.
            let mut passed_over = Vec::new();
            if resume {
                take_up(&global, &environment, &mut passed_over).await;
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
                    take_up(&global, &environment, &mut passed_over).await;
                }
            }
            // Held, so that the other side does not take silence for a failure.
            std::future::pending::<()>().await;
            drop(failed);
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
    };
    let served = Supervisor::serve(environment.binding.service.clone(), socket, shutdown).await;
    starting.abort();
    served?;
    match failed_to_start {
        Some(error) => Err(error),
        None => Ok(0),
    }
}
