//! How much time has passed, as far as the backups in a store witness it.
//!
//! A store's time of an object of a directory is this machine's clock. One that is set forward by a year, by mistake or by malice, ages everything
//! by a year as soon as one more backup is taken. But in that year nothing was taken, and that is how it is told apart: between one backup and
//! the next, no more time counts than is usual there. A machine that was off for a year looks the same: then what must stay stays longer. Backups that
//! were removed are witnesses as well: what retention thinned out is no time in which nothing was taken.

use super::{DAY_MS, Now, Seen};

/// So much between two backups always counts.
const USUAL_MS: u64 = 7 * DAY_MS;
/// And so many times the gap that is usual in this store: one that takes a backup a month has months between them.
const USUAL_GAPS: u64 = 3;

/// The times at which a store took what counts there.
pub(super) struct Witness {
    /// Sorted, Unix milliseconds; of what was removed, when it was taken.
    stored_ms: Vec<u64>,
    /// Of each, how much of the time since the first one counts: a plan of thousands of backups asks thousands of times.
    elapsed_ms: Vec<u64>,
    /// Most that counts between two of them.
    gap_ms_max: u64,
}

impl Witness {
    pub(super) fn of<'b>(counted: impl Iterator<Item = &'b Seen>, now: &Now) -> Self {
        let stored = counted.filter_map(|backup| backup.stored_at_ms);
        let mut stored_ms: Vec<u64> = stored.chain(now.removed_ms.iter().copied().filter(|ms| *ms <= now.ms)).collect();
        stored_ms.sort_unstable();
        let mut gaps: Vec<u64> = stored_ms.windows(2).map(|two| two[1] - two[0]).collect();
        gaps.sort_unstable();
        // The lower one of two in the middle: of two gaps, one may be what is told apart here.
        let usual_ms = gaps.get(gaps.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        let gap_ms_max = usual_ms.saturating_mul(USUAL_GAPS).max(USUAL_MS);
        let mut elapsed_ms = vec![0; stored_ms.len().min(1)];
        for two in stored_ms.windows(2) {
            let before_ms = elapsed_ms.last().copied().unwrap_or(0);
            elapsed_ms.push(before_ms + (two[1] - two[0]).min(gap_ms_max));
        }
        Self { stored_ms, elapsed_ms, gap_ms_max }
    }

    /// How much of the time between two moments counts, milliseconds: all of it, but for what is too much in which nothing was taken.
    pub(super) fn elapsed_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        let gap_ms = |from_ms: u64, to_ms: u64| to_ms.saturating_sub(from_ms).min(self.gap_ms_max);
        let [first, end] = [from_ms, to_ms].map(|at_ms| self.stored_ms.partition_point(|stored_ms| *stored_ms < at_ms));
        if first >= end {
            return gap_ms(from_ms, to_ms);
        }
        let last = end - 1;
        let between_ms = self.elapsed_ms[last] - self.elapsed_ms[first];
        between_ms + gap_ms(from_ms, self.stored_ms[first]) + gap_ms(self.stored_ms[last], to_ms)
    }

    /// How much of the time between two moments does not count, milliseconds.
    pub(super) fn unwitnessed_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        to_ms.saturating_sub(from_ms).saturating_sub(self.elapsed_ms(from_ms, to_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(days: &[u64]) -> Witness {
        let seen: Vec<Seen> =
            days.iter().map(|day| Seen { stored_at_ms: Some(day * DAY_MS), ..Seen::default() }).collect();
        Witness::of(seen.iter(), &Now::from(u64::MAX))
    }

    #[test]
    fn time_passes_with_the_backups() {
        let daily = of(&(100..130).collect::<Vec<_>>());
        for (from, to, elapsed) in
            [(100, 129, 29), (110, 120, 10), (129, 135, 6), (129, 1_000, 7), (90, 100, 7), (0, 0, 0), (9, 3, 0)]
        {
            assert_eq!(daily.elapsed_ms(from * DAY_MS, to * DAY_MS), elapsed * DAY_MS, "{from} {to}");
        }
        // A year in which nothing was taken, and what followed it.
        let mut jumped: Vec<u64> = (100..130).collect();
        jumped.extend([494, 495]);
        assert_eq!(of(&jumped).elapsed_ms(120 * DAY_MS, 496 * DAY_MS), (9 + 7 + 1 + 1) * DAY_MS);
        assert_eq!(of(&jumped).unwitnessed_ms(129 * DAY_MS, 494 * DAY_MS), 358 * DAY_MS);
        assert_eq!(of(&jumped).unwitnessed_ms(494 * DAY_MS, 495 * DAY_MS), 0);
    }

    #[test]
    fn what_is_usual_there_is_no_gap() {
        let monthly = of(&[30, 60, 91, 121, 152]);
        assert_eq!(monthly.unwitnessed_ms(30 * DAY_MS, 200 * DAY_MS), 0);
        assert_eq!(monthly.elapsed_ms(152 * DAY_MS, 1_000 * DAY_MS), 90 * DAY_MS);
        // Of two gaps, the long one is no habit.
        assert_eq!(of(&[1, 2, 400]).elapsed_ms(DAY_MS, 400 * DAY_MS), 8 * DAY_MS);
        assert_eq!(of(&[]).elapsed_ms(0, 400 * DAY_MS), 7 * DAY_MS);
        // What was thinned out was taken all the same; what somebody will take, was not.
        let now = Now { ms: 100 * DAY_MS, removed_ms: (1..200).map(|day| day * DAY_MS).collect() };
        assert_eq!(Witness::of([].into_iter(), &now).elapsed_ms(0, 150 * DAY_MS), 107 * DAY_MS);
    }
}
