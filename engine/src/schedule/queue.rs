//! What is to be started, and what is under way: one run at a time for a service, and for a duty. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::due::{Due, Duty};

/// After a start that came to nothing, the same slot of a duty is not started again for so long; doubled with each further one.
const AGAIN_AFTER_MS: u64 = 10_000;
/// At most so long.
const AGAIN_AFTER_MAX_MS: u64 = 900_000;
/// Runs that are under way at the same time, of whatever services.
const AT_ONCE: usize = 8;
/// More than any cadence needs: a module that says all the time that something is due does not fill the memory.
const WAITING_MAX: usize = 1_000;

/// What waits and what is under way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Entry>,
    /// Duties under way, with the service of each.
    under_way: BTreeMap<String, Option<String>>,
    /// Starts of a duty's newest slot: the slot, how many, when the last one was.
    starts: BTreeMap<String, (u64, u32, u64)>,
}

#[derive(Debug, Clone)]
struct Entry {
    cadence: String,
    due: Due,
    /// What it works on: two runs on one service would be in each other's way.
    service: Option<String>,
}

impl Queue {
    /// Takes what a cadence says is due now, instead of what it said before: what is not due any more is not started, and what was waiting
    /// keeps its place.
    pub(super) fn replace(&mut self, cadence: &str, due: Vec<(Due, Option<String>)>) {
        // Of several slots of one duty, the first now; the others are said again when it has ended.
        let mut said: BTreeMap<String, (Due, Option<String>)> = BTreeMap::new();
        let mut order = Vec::new();
        for (due, service) in due {
            let name = due.full_name();
            said.entry(name.clone()).or_insert_with(|| {
                order.push(name);
                (due, service)
            });
        }
        self.waiting.retain_mut(|entry| match entry.cadence == cadence {
            false => true,
            true => match said.remove(&entry.due.full_name()) {
                Some((due, service)) => {
                    (entry.due, entry.service) = (due, service);
                    true
                }
                None => false,
            },
        });
        for duty in order {
            if let Some((due, service)) = said.remove(&duty)
                && self.waiting.len() < WAITING_MAX
            {
                self.waiting.push_back(Entry { cadence: cadence.to_owned(), due, service });
            }
        }
    }

    /// What can be started now, the first that was said first. It counts as under way until [`Queue::ended`].
    pub(super) fn next(&mut self, now_ms: u64) -> Option<Due> {
        if self.under_way.len() >= AT_ONCE {
            return None;
        }
        let at = self
            .waiting
            .iter()
            .position(|entry| self.is_free(entry) && self.again_at_ms(&entry.due.duty()) <= now_ms)?;
        let entry = self.waiting.remove(at)?;
        let duty = entry.due.duty();
        self.under_way.insert(duty.full_name(), entry.service);
        let starts = self.starts.entry(duty.full_name()).or_insert((duty.slot_ms, 0, now_ms));
        *starts = if starts.0 == duty.slot_ms {
            (starts.0, starts.1.saturating_add(1), now_ms)
        } else {
            (duty.slot_ms, 1, now_ms)
        };
        Some(entry.due)
    }

    fn is_free(&self, entry: &Entry) -> bool {
        let on_it = |of: &Option<String>| entry.service.is_some() && *of == entry.service;
        !self.under_way.contains_key(&entry.due.full_name()) && !self.under_way.values().any(on_it)
    }

    /// When a slot of a duty may be started, Unix milliseconds.
    fn again_at_ms(&self, duty: &Duty) -> u64 {
        match self.starts.get(&duty.full_name()) {
            Some((slot_ms, count, last_ms)) if *slot_ms == duty.slot_ms => {
                let after = AGAIN_AFTER_MS.saturating_mul(1 << (count - 1).min(16)).min(AGAIN_AFTER_MAX_MS);
                last_ms.saturating_add(after)
            }
            _ => 0,
        }
    }

    /// When the first of those that wait and could be started otherwise may be, Unix milliseconds.
    pub(super) fn wakes_at_ms(&self) -> Option<u64> {
        self.waiting.iter().filter(|entry| self.is_free(entry)).map(|entry| self.again_at_ms(&entry.due.duty())).min()
    }

    /// A run for a duty, by its full name, has ended, or was not begun.
    pub(super) fn ended(&mut self, duty: &str) {
        self.under_way.remove(duty);
    }

    /// Nothing more is started.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(duty: &str, slot_ms: u64, service: &str) -> (Due, Option<String>) {
        let (duty, policy, parameters) = (duty.into(), "p".into(), "{}".into());
        (Due { cadence: None, duty, policy, parameters, slot_ms, why: String::new() }, Some(service.to_owned()))
    }

    fn duty(due: Option<Due>) -> Option<String> {
        due.map(|due| due.duty)
    }

    #[test]
    fn one_run_at_a_time_for_a_service_and_for_a_duty() {
        let mut queue = Queue::default();
        queue.replace("c", vec![due("backup", 1, "notes"), due("drill", 1, "notes"), due("other", 1, "kneo")]);
        assert_eq!(duty(queue.next(1)).unwrap(), "backup");
        assert_eq!(duty(queue.next(1)).unwrap(), "other");
        assert_eq!(queue.next(1), None);
        // Said again while it is under way: no second one, and what is not due any more is forgotten.
        queue.replace("c", vec![due("backup", 1, "notes"), due("drill", 1, "notes")]);
        queue.ended("backup");
        assert_eq!(duty(queue.next(2)).unwrap(), "drill", "the same slot of the other was started just now");
        queue.replace("c", vec![]);
        queue.ended("drill");
        assert_eq!(queue.next(u64::MAX), None);
    }

    #[test]
    fn one_name_of_two_cadences_is_two_duties() {
        let mut queue = Queue::default();
        let of = |cadence: &str, service: &str| {
            let (due, service) = due("nightly", 7, service);
            vec![(due.said_by(cadence), service)]
        };
        queue.replace("a", of("a", "notes"));
        queue.replace("b", of("b", "kneo"));
        let names: Vec<_> = std::iter::from_fn(|| queue.next(1)).map(|due| due.full_name()).collect();
        assert_eq!(names, ["a:nightly", "b:nightly"]);
        queue.ended("a:nightly");
        // The slot of the one was begun just now, that of the other is another matter.
        queue.replace("a", of("a", "notes"));
        assert_eq!((queue.next(2), queue.wakes_at_ms()), (None, Some(1 + AGAIN_AFTER_MS)));
    }

    #[test]
    fn a_slot_that_comes_to_nothing_is_not_started_in_a_circle() {
        let mut queue = Queue::default();
        let (mut now, mut starts) = (0, Vec::new());
        while now < 3_600_000 {
            queue.replace("c", vec![due("backup", 7, "notes")]);
            if queue.next(now).is_some() {
                starts.push(now);
                queue.ended("backup");
                queue.replace("c", vec![due("backup", 7, "notes")]);
            }
            now = queue.wakes_at_ms().unwrap().max(now + 1);
        }
        assert_eq!(starts[..4], [0, 10_000, 30_000, 70_000]);
        assert!(starts.len() < 12, "{starts:?}");
        // Another slot is another matter.
        queue.replace("c", vec![due("backup", 8, "notes")]);
        assert!(queue.next(now).is_some());
    }

    #[test]
    fn two_slots_of_a_duty_are_started_one_after_the_other() {
        let mut queue = Queue::default();
        queue.replace("c", vec![due("backup", 1, "notes"), due("backup", 2, "notes")]);
        assert_eq!(queue.next(5).map(|due| due.slot_ms), Some(1));
        queue.ended("backup");
        assert_eq!(queue.next(5), None);
    }

    #[test]
    fn what_is_due_all_the_time_keeps_nothing_else_from_its_turn() {
        let mut queue = Queue::default();
        let mut started = Vec::new();
        for slot_ms in 1..6 {
            queue.replace("c", vec![due("backup", slot_ms, "notes"), due("drill", 1, "notes")]);
            let next = duty(queue.next(slot_ms)).unwrap();
            // Asked again while it goes on.
            queue.replace("c", vec![due("backup", slot_ms + 1, "notes"), due("drill", 1, "notes")]);
            queue.ended(&next);
            started.push(next);
        }
        assert_eq!(started[..2], ["backup", "drill"]);
    }

    #[test]
    fn a_flood_is_cut_off() {
        let mut queue = Queue::default();
        queue.replace("c", (0..5_000).map(|n| due(&format!("d{n}"), 1, &format!("s{n}"))).collect());
        let mut started = Vec::new();
        while let Some(due) = queue.next(1) {
            started.push(due.duty);
        }
        assert_eq!(started.len(), AT_ONCE);
        while let Some(duty) = started.pop() {
            queue.ended(&duty);
            started.extend(queue.next(1).map(|due| due.duty));
        }
        assert_eq!(queue.starts.len(), WAITING_MAX);
    }
}
