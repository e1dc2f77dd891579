//! `lifeboat serve`: owns the services that are its children, so that they live on when a command ends; goes on with runs whose engine died;
//! asks the cadences and starts what is due.

mod board;
mod manager;
mod notifying;
mod scheduling;
mod taking_up;
mod web;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::config::Config;
use engine::error::{Error, Kind};
use engine::journal::ObligationRow;
use engine::schedule::Scheduler;
use host_api::StepContext;
use host_api::control::supervisor::Supervisor;
use host_api::real::RealHost;
use host_api::service::ServiceControl;
use tokio::sync::{Notify, oneshot, watch};

use self::board::Board;
use self::notifying::Notifier;
use self::scheduling::{Tells, Unattended};
use self::taking_up::{LOOK_INTERVAL, LOOK_INTERVAL_ALONE, TakesUp, UnderWay, leave};
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
    /// Ask no cadence, and start nothing that is due.
    #[arg(long)]
    no_schedule: bool,
}

/// How long the scheduler waits for runs that go on, and for services that are started, before it begins.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a service's start may take here; its own limit is usually shorter.
const START_LIMIT: Duration = Duration::from_secs(600);

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

/// Serves until SIGINT or SIGTERM; then starts nothing more, lets runs under way end, leaves what does not, and stops its children. SIGHUP reads
/// the configuration again.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = Arc::new(global.load()?);
    let environment = config.environment(global.env.as_deref())?;
    let host = environment.host()?;
    for name in &arguments.start {
        if !environment.binding.service.contains_key(name) {
            return Err(Error::unknown("service", name, environment.binding.service.keys().map(String::as_str)));
        }
    }
    let board = Arc::new(Board::default());
    // Before anything is started: a port that is taken is seen now, not when monitoring misses us.
    let web = match environment.binding.serve.listen {
        Some(address) => Some(web::listen(address).await?),
        None => None,
    };
    let (configs, configured) = watch::channel(config.clone());
    let (stop, stopped) = watch::channel(false);
    let (ready, is_ready) = oneshot::channel::<()>();
    let mut scheduling = tokio::spawn(schedule(
        global.clone(),
        environment.name.clone(),
        configured.clone(),
        board.clone(),
        is_ready,
        stopped.clone(),
        arguments.no_schedule,
    ));
    let answering = web.map(|web| tokio::spawn(web.answer(environment.name.clone(), configured, board.clone())));
    let reloading = tokio::spawn(reload_on_hangup(global.clone(), environment.name.clone(), configs, board.clone()));
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
            let _ = ready.send(());
            // One that lost its engine holds its services, and keeps whatever is due from being started.
            if resume {
                loop {
                    tokio::time::sleep(if shared { LOOK_INTERVAL } else { LOOK_INTERVAL_ALONE }).await;
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
    let mut scheduled_out = false;
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
            _ = &mut scheduling, if !scheduled_out => {
                scheduled_out = true;
                failed_to_start = Some(Error::new(Kind::Failed, "a bug: scheduling came to an end by itself"));
            }
        }
        manager::tell("STOPPING=1");
        // Before the services end: a run that sees its service end would go on record as failed.
        let _ = stop.send(true);
        if !scheduled_out {
            let _ = scheduling.await;
        }
        stopping.notify_one();
        // A panic in it was told when it happened.
        let _ = (&mut starting).await;
        leave(&under_way);
    };
    let served = Supervisor::serve(environment.binding.service.clone(), socket, shutdown).await;
    // Where it could not serve at all.
    starting.abort();
    reloading.abort();
    answering.inspect(tokio::task::JoinHandle::abort);
    served?;
    match failed_to_start {
        Some(error) => Err(error),
        None => Ok(0),
    }
}

/// Once all that is to be started is, tells the service manager so, and asks the cadences until it is to stop.
async fn schedule(
    global: Global,
    environment: String,
    configured: watch::Receiver<Arc<Config>>,
    board: Arc<Board>,
    is_ready: oneshot::Receiver<()>,
    mut stopped: watch::Receiver<bool>,
    no_schedule: bool,
) {
    let ready_board = board.clone();
    let becoming = tokio::spawn(async move {
        manager::until_ready(is_ready, &ready_board).await;
    });
    // A run that goes on may take hours: what is due meanwhile does not wait for it.
    tokio::select! {
        () = board.ready() => {}
        () = tokio::time::sleep(READY_PATIENCE) => {}
        _ = stopped.wait_for(|stop| *stop) => return,
    }
    let _watchdog = manager::watchdog(board.clone());
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if no_schedule {
        stop.await;
        return becoming.abort();
    }
    let opens = Arc::new(Unattended { quiet: global.json });
    let notifier = Notifier::new(&environment, configured.clone(), board.clone());
    let tells = Arc::new(Tells::new(board, notifier.clone()));
    let clock = Arc::new(host_api::identifier::now_ms);
    Scheduler::new(&environment, configured, opens, tells, clock).run(stop).await;
    notifier.rest().await;
    becoming.abort();
}

/// Reads the configuration again at each SIGHUP. One that is not valid changes nothing.
async fn reload_on_hangup(global: Global, environment: String, configs: watch::Sender<Arc<Config>>, board: Arc<Board>) {
    let Ok(mut hangup) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        manager::reloading();
        let loaded =
            global.load().and_then(|config| config.environment(Some(&environment)).map(|_| ()).map(|()| config));
        match loaded {
            Ok(config) => {
                let before = configs.borrow().clone();
                if services(&before, &environment) != services(&config, &environment) {
                    output::say(
                        "serve: services that are children of this process keep the configuration that it began with",
                    );
                }
                configs.send_replace(Arc::new(config));
                output::say("serve: the configuration was read again");
            }
            Err(error) => {
                output::say(&format!("error: the configuration is NOT taken, the one before stays in force: {error}"));
            }
        }
        if board.look().ready_since_ms.is_some() {
            manager::tell("READY=1");
        }
    }
}

fn services(config: &Config, environment: &str) -> Option<serde_json::Value> {
    serde_json::to_value(&config.environment(Some(environment)).ok()?.binding.service).ok()
}
