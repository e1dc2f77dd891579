//! One life of the service: settings, start, stop.

use std::env::{self, VarError};
use std::future::IntoFuture;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::Error;
use crate::http::{self, App};
use crate::store::Store;
use crate::{Release, outbox};

/// How long a stop waits for requests in flight; they are local and short.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT.
pub(crate) fn serve(release: Release, port: u16, data: &Path) -> Result<(), Error> {
    // Leaving this function drops the runtime, which waits for the work on the store to end.
    tokio::runtime::Runtime::new().map_err(Error::io("runtime"))?.block_on(run(release, port, data))
}

async fn run(release: Release, port: u16, data: &Path) -> Result<(), Error> {
    let worker = worker_setting()?;
    let token = token_setting()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("SIGINT"))?;
    // The port comes before the data: a process that can't serve must not migrate either.
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(Error::io(format!("127.0.0.1:{port}")))?;
    let address = listener.local_addr().map_err(Error::io("address"))?;
    let store = Arc::new(Store::open(release, data)?);
    let mut delivery = None;
    if worker {
        outbox::requeue(&store)?;
        delivery = Some(tokio::spawn(outbox::work(Arc::clone(&store))));
    }

    let router = http::router(App { store, worker, token });
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        stopped.await.ok();
    });
    let server = tokio::spawn(server.into_future());
    println!("notes {} listening on http://{address}", release.version());

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if let Some(delivery) = delivery {
        delivery.abort();
    }
    stop.send(()).ok();
    timeout(STOP_GRACE, server).await.ok();
    Ok(())
}

/// Whether the worker runs. A misspelt "off" is refused: in quarantine it would send mail.
fn worker_setting() -> Result<bool, Error> {
    match env::var("NOTES_WORKER").as_deref() {
        Ok("off") => Ok(false),
        Ok("on") | Err(VarError::NotPresent) => Ok(true),
        _ => Err(Error::Setting("NOTES_WORKER is neither on nor off")),
    }
}

/// The token requests have to carry. An empty one is refused: it would look like protection.
fn token_setting() -> Result<Option<Arc<str>>, Error> {
    match env::var("NOTES_TOKEN") {
        Err(VarError::NotPresent) => Ok(None),
        Ok(token) if !token.is_empty() => Ok(Some(token.into())),
        _ => Err(Error::Setting("NOTES_TOKEN is set, but empty or not text")),
    }
}
