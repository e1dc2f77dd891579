//! Who computes next. A guest that has computed for a whole tick of the epoch without waiting for the host waits for its turn among those that did
//! the same, first come first served, and only so many of them compute at a time that a thread is left for all others. Without this, a guest
//! that wakes from a wait would stand behind every busy loop of the engine, a tick each.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of one sandbox.
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    /// One thread fewer than there are, and one at least.
    pub(crate) fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self(Arc::new(Semaphore::new(threads.saturating_sub(1).max(1))))
    }

    /// For one guest, which has none yet.
    pub(crate) fn one(&self) -> Arc<Turn> {
        Arc::new(Turn { all: self.0.clone(), held: Mutex::new(None) })
    }
}

/// One guest's turn, while it has it.
pub(crate) struct Turn {
    all: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Waits for the host. Others have the turn meanwhile, if it is a wait: a call that is answered at once is computing like any other, however
    /// often it is made. Says whether it was one.
    pub(crate) async fn lent<F: Future>(&self, answer: F) -> (F::Output, bool) {
        let mut answer = std::pin::pin!(answer);
        let mut waited = false;
        let answer = std::future::poll_fn(|cx| {
            let polled = answer.as_mut().poll(cx);
            if polled.is_pending() && !waited {
                waited = true;
                self.end();
            }
            polled
        });
        (answer.await, waited)
    }

    /// Gives up the turn.
    fn end(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Lets others go first, then waits for the next turn.
    pub(crate) async fn next(&self) {
        self.end();
        tokio::task::yield_now().await;
        // It is never closed.
        let next = self.all.clone().acquire_owned().await.ok();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_goes_to_who_waited_longest_and_is_free_when_a_guest_waits_for_the_host_or_is_gone() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let (first, second) = (turns.one(), turns.one());
        first.next().await;
        let waiting = tokio::spawn(async move {
            second.next().await;
            second
        });
        // However often it is looked at, nobody else has a turn.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        // What is answered at once is no wait; what is not gives the turn to the other.
        assert!(!first.lent(async {}).await.1);
        assert_eq!(turns.0.available_permits(), 0);
        assert!(!waiting.is_finished());
        assert!(first.lent(tokio::task::yield_now()).await.1);
        let second = waiting.await.unwrap();
        assert_eq!(turns.0.available_permits(), 0);
        drop(second);
        assert_eq!(turns.0.available_permits(), 1);
    }
}
