//! `lifeboat serve`: owns the services that are its children, so that they live on when a command ends.

use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::error::Error;
use host_api::StepContext;
use host_api::control::supervisor::Supervisor;
use host_api::service::ServiceControl;

use crate::{Global, output};

/// Arguments of `serve`.
#[derive(Args)]
pub struct Arguments {
    /// Start this service at once; may be given several times.
    #[arg(long, value_name = "SERVICE")]
    start: Vec<String>,
}

/// How long a service's start may take here; its own limit is usually shorter.
const START_LIMIT: Duration = Duration::from_secs(600);

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
        async move {
            while !socket.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for name in names {
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
