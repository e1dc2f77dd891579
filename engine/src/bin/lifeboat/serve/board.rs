//! What `serve` has seen since it began: what health and metrics are made of, beside what state and stores say.

use std::collections::BTreeMap;
use std::sync::Mutex;

use host_api::identifier::now_ms;
use tokio::sync::watch;

/// A scheduler that has not turned for so long hangs; a question to a cadence may take longer.
const TURN_MAX_MS: u64 = 120_000;
const ASKING_MAX_MS: u64 = 3_900_000;

/// Counters and stamps.
#[derive(Default)]
pub struct Board {
    inner: Mutex<Inner>,
    became_ready: watch::Sender<bool>,
}

/// What is on it.
#[derive(Debug, Clone, Default)]
pub struct Inner {
    /// Since when everything that is to be started is, Unix milliseconds.
    pub ready_since_ms: Option<u64>,
    /// When the scheduler last turned.
    pub turned_ms: Option<u64>,
    /// Whether a cadence is being asked.
    pub asking: bool,
    /// By cadence.
    pub cadences: BTreeMap<String, Asked>,
    /// How many runs ended, by policy and status.
    pub ended: BTreeMap<(String, String), u64>,
    /// What was due and not started, by policy.
    pub not_started: BTreeMap<String, u64>,
    /// Runs under way that were started here, by duty.
    pub under_way: BTreeMap<String, u64>,
    /// Messages that could not be delivered, by where to.
    pub undelivered: BTreeMap<String, u64>,
}

/// Of one cadence.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// When it was asked last, Unix milliseconds.
    pub at_ms: u64,
    /// When it is asked next at the latest.
    pub next_ms: u64,
    /// How often it could not be, or did not answer.
    pub failures: u64,
    /// How many errors and warnings it found last.
    pub errors: u64,
    pub warnings: u64,
}

impl Board {
    /// Changes it.
    pub fn note(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().expect("no panic while held"));
    }

    /// What stands on it now.
    pub fn look(&self) -> Inner {
        self.inner.lock().expect("no panic while held").clone()
    }

    /// Everything that is to be started is.
    pub fn is_ready(&self) {
        self.note(|inner| inner.ready_since_ms = Some(now_ms()));
        self.became_ready.send_replace(true);
    }

    /// Waits for that.
    pub async fn ready(&self) {
        // It is sent to as long as the board is there.
        let _ = self.became_ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Why it does not work as it should; none: it does.
    pub fn trouble(&self) -> Option<&'static str> {
        let inner = self.look();
        if inner.ready_since_ms.is_none() {
            return Some("starting");
        }
        // Without a scheduler there is nothing that could hang.
        let turned_ms = inner.turned_ms?;
        let limit_ms = if inner.asking { ASKING_MAX_MS } else { TURN_MAX_MS };
        (now_ms().saturating_sub(turned_ms) > limit_ms).then_some("the scheduler hangs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_that_hangs_is_no_health() {
        let board = Board::default();
        assert_eq!(board.trouble(), Some("starting"));
        board.is_ready();
        assert_eq!(board.trouble(), None);
        board.note(|inner| inner.turned_ms = Some(now_ms() - TURN_MAX_MS - 1_000));
        assert_eq!(board.trouble(), Some("the scheduler hangs"));
        board.note(|inner| inner.asking = true);
        assert_eq!(board.trouble(), None);
    }
}
