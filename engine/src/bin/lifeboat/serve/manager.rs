//! What systemd is told, where it started us as a service of `Type=notify`: ready, reloading, stopping, alive.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::oneshot;

use super::board::Board;
use crate::output;

/// Tells one line of the protocol. Without a manager that asked for it, nobody is told.
pub fn tell(state: &str) {
    notify(&[NotifyState::Custom(state)]);
}

/// Waits until all that is to be started is, and tells it. A run that goes on first may take longer than a manager's patience: more is asked for.
pub async fn until_ready(mut is_ready: oneshot::Receiver<()>, board: &Board) {
    loop {
        tokio::select! {
            ready = &mut is_ready => {
                if ready.is_ok() {
                    board.is_ready();
                    tell("READY=1");
                }
                return;
            }
            () = tokio::time::sleep(PATIENCE / 3) => tell(&format!("EXTEND_TIMEOUT_USEC={}", PATIENCE.as_micros())),
        }
    }
}

/// What a manager is asked to wait.
const PATIENCE: Duration = Duration::from_secs(90);

/// Tells that the configuration is being read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        output::say(&format!("warning: the service manager can't be told: {error}"));
    }
}

/// Tells that we are alive, as often as the manager wants, for as long as the scheduler turns; until this is dropped.
pub fn watchdog(board: Arc<Board>) -> Option<Watchdog> {
    let wanted = sd_notify::watchdog_enabled()?;
    Some(Watchdog(tokio::spawn(async move {
        loop {
            if board.trouble().is_none() {
                notify(&[NotifyState::Watchdog]);
            }
            tokio::time::sleep((wanted / 2).max(Duration::from_millis(50))).await;
        }
    })))
}

/// Ends with its owner.
pub struct Watchdog(tokio::task::JoinHandle<()>);

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}
