//! A limit on bytes a second, shared by all that goes to a store and comes from it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Whose turn it is when.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_s: f64,
    /// When all that was let through before has had its time.
    free: Mutex<Instant>,
}

impl Pace {
    /// So many bytes a second, at least one.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1) as f64, free: Mutex::new(Instant::now()) }
    }

    /// When so many bytes may go. They go at once then; the next ones wait for as long as these should have taken.
    pub(super) fn turn(&self, bytes: u64) -> Instant {
        self.turn_at(Instant::now(), bytes)
    }

    fn turn_at(&self, now: Instant, bytes: u64) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*free).max(now);
        *free = turn + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_for_what_went_before_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(pace.turn_at(start, 2000), start);
        assert_eq!(pace.turn_at(start, 500), start + 2 * second);
        assert_eq!(pace.turn_at(start, 500), start + 2 * second + second / 2);
        assert_eq!(pace.turn_at(start + 10 * second, 1000), start + 10 * second);
        assert_eq!(pace.turn_at(start + 10 * second, 1000), start + 11 * second);
    }
}
