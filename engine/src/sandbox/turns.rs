//! Who computes next. A guest that computes on and on without waiting for the host waits for its turn among those that do the same, first come
//! first served, and only so many of them compute at a time that a thread is left for all others. Without this, a guest that wakes from a wait
//! would stand behind every busy loop of the engine, a tick each.
//!
//! Who computes is told by the work it did since its last wait, in fuel, not by a tick that happens to pass: a guest that woke just before
//! one, or whose thread had to wait for a processor, has done nothing wrong, and would stand behind everyone. Fuel is only counted exactly where a guest
//! calls something, so one that calls nothing is told by the number of ticks; and one that did much between two waits is given none until it
//! does little.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of one sandbox.
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    /// One thread fewer than there are, and one at least.
    pub(crate) fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self(Arc::new(Semaphore::new(threads.saturating_sub(1).max(1))))
    }

    /// For one guest, which has none yet; `fuel`: what it begins with.
    pub(crate) fn one(&self, fuel: u64) -> Arc<Turn> {
        let own = Own { held: None, fuel, ticks: 0, ticks_max: TICKS_MAX };
        Arc::new(Turn { all: self.0.clone(), own: Mutex::new(own) })
    }
}

/// Work between two waits that is computing: what one tick is good for, about. Honest steps take far less.
const FUEL_MAX: u64 = 10_000_000;
/// Ticks between two waits that are computing, whatever work was counted.
const TICKS_MAX: u32 = 3;

/// One guest's turn, while it has it.
pub(crate) struct Turn {
    all: Arc<Semaphore>,
    own: Mutex<Own>,
}

struct Own {
    held: Option<OwnedSemaphorePermit>,
    /// What it had left when it last waited for the host.
    fuel: u64,
    /// Ticks since then.
    ticks: u32,
    /// After how many it waits for its turn.
    ticks_max: u32,
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

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the turn.
    fn end(&self) {
        self.own().held = None;
    }

    /// It has waited for the host, with so much fuel left.
    pub(crate) fn waited(&self, fuel: u64) {
        let mut own = self.own();
        let computed = own.fuel.saturating_sub(fuel) >= FUEL_MAX;
        own.ticks_max = if computed { 1 } else { TICKS_MAX };
        (own.fuel, own.ticks) = (fuel, 0);
    }

    /// A tick has passed while it ran, and it has so much fuel left: whether it computes, and has to wait for its turn.
    pub(crate) fn computes(&self, fuel: u64) -> bool {
        let mut own = self.own();
        own.ticks += 1;
        own.held.is_some() || own.ticks >= own.ticks_max || own.fuel.saturating_sub(fuel) >= FUEL_MAX
    }

    /// Lets others go first; then, if it `computes`, waits for its next turn.
    pub(crate) async fn next(&self, computes: bool) {
        self.end();
        tokio::task::yield_now().await;
        if computes {
            // It is never closed.
            let next = self.all.clone().acquire_owned().await.ok();
            self.own().held = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_goes_to_who_waited_longest_and_is_free_when_a_guest_waits_for_the_host_or_is_gone() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let (first, second) = (turns.one(0), turns.one(0));
        first.next(true).await;
        let waiting = tokio::spawn(async move {
            second.next(true).await;
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

    #[tokio::test]
    async fn a_tick_that_passes_while_little_was_done_keeps_nobody_from_going_on() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let busy = turns.one(0);
        busy.next(true).await;
        let fuel = 10 * FUEL_MAX;
        let honest = turns.one(fuel);
        // Though another has the only turn.
        for _ in 0..10 {
            assert!(!honest.computes(fuel - 1_000));
            honest.next(false).await;
            honest.waited(fuel - 1_000);
        }
        assert!(honest.own().held.is_none());
    }

    #[test]
    fn much_work_or_many_ticks_without_a_wait_are_computing() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let mut fuel = 10 * FUEL_MAX;
        let guest = turns.one(fuel);
        assert!(guest.computes(fuel - FUEL_MAX), "by its work, at the first tick");
        // One that calls nothing has its work counted late, and is told by the ticks.
        guest.waited(fuel);
        let told: Vec<bool> = (0..TICKS_MAX).map(|_| guest.computes(fuel)).collect();
        assert_eq!(told, [false, false, true]);
        // Whoever worked so between two waits is believed nothing until it does little.
        fuel -= FUEL_MAX;
        guest.waited(fuel);
        assert!(guest.computes(fuel));
        guest.waited(fuel);
        assert!(!guest.computes(fuel));
    }
}
