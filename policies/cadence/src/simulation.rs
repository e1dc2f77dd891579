//! A year of each shape in virtual time, with downtime, failing backups and clocks that are set.

use std::collections::BTreeMap;
use std::str::FromStr;

use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_policy::Result;

use crate::parameters::{Duty, Parameters, Proof};
use crate::standing::State;
use crate::world::{Past, Terms, World};
use crate::{Decision, decide, duty_name};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn ms(time: &str) -> u64 {
    u64::try_from(time.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
}

/// Whether a run of a policy comes to a good end, by when it starts.
type Works = dyn Fn(&str, u64) -> bool;

/// Backups and runs as they would be, and calendars from the host's own crate.
struct Simulated {
    zone: TimeZone,
    /// Of each calendar, all its times from before the year to after it.
    calendars: BTreeMap<String, Vec<u64>>,
    from_ms: u64,
    /// By store: when each was taken, and whether it was proven.
    stores: BTreeMap<String, Vec<(u64, bool)>>,
    /// By policy, oldest first.
    runs: BTreeMap<String, Vec<Past>>,
    /// Whether a run of a policy that starts at a time comes to a good end.
    works: Box<Works>,
}

impl Simulated {
    fn new(zone: &str, from: &str) -> Self {
        Self {
            zone: TimeZone::get(zone).unwrap(),
            calendars: BTreeMap::new(),
            from_ms: ms(from),
            stores: BTreeMap::new(),
            runs: BTreeMap::new(),
            works: Box::new(|_, _| true),
        }
    }

    fn times(&mut self, calendar: &str) -> &[u64] {
        let (zone, from_ms) = (self.zone.clone(), self.from_ms);
        self.calendars.entry(calendar.to_owned()).or_insert_with(|| {
            let cron = Cron::from_str(calendar).unwrap();
            let at = |ms: u64| Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap().to_zoned(zone.clone());
            let end = at(from_ms + 430 * DAY);
            let after = cron.iter_from(at(from_ms - 60 * DAY), croner::Direction::Forward);
            after
                .take_while(|time| *time < end)
                .map(|time| u64::try_from(time.timestamp().as_millisecond()).unwrap())
                .collect()
        })
    }

    /// Does what serve does with a duty that is due; answers when it is over.
    fn start(&mut self, service: &str, duty: &Duty, slot_ms: u64, now_ms: u64) -> u64 {
        let took = if duty.proof == Proof::Drill { 10 * MINUTE } else { 2 * MINUTE };
        let good = (self.works)(&duty.policy, now_ms);
        if good && duty.proof == Proof::Backup {
            let copies = duty.parameters.get("copy-to").and_then(|copies| copies.as_array()).into_iter().flatten();
            for store in copies.filter_map(|store| store.as_str()).chain(duty.parameters["store"].as_str()) {
                self.stores.entry(store.to_owned()).or_default().push((now_ms, false));
            }
        }
        if good && duty.proof == Proof::Drill {
            let store = duty.parameters["store"].as_str().unwrap();
            self.stores.get_mut(store).unwrap().last_mut().unwrap().1 = true;
        }
        let past = Past {
            id: format!("r{now_ms}"),
            duty: Some(duty_name(service, &duty.name)),
            slot_ms: Some(slot_ms),
            status: if good { "ok" } else { "failed" }.into(),
            started_ms: now_ms,
            ended_ms: Some(now_ms + took),
            service: Some(service.to_owned()),
        };
        self.runs.entry(duty.policy.clone()).or_default().push(past);
        now_ms + took
    }
}

impl World for Simulated {
    fn newest(&mut self, store: &str, verified: bool) -> Result<Option<u64>> {
        let backups = self.stores.get(store).into_iter().flatten();
        Ok(backups.filter(|(_, proven)| !verified || *proven).map(|(taken, _)| *taken).max())
    }

    fn runs(&mut self, policy: &str, duty: Option<&str>) -> Result<Vec<Past>> {
        let of = self.runs.get(policy).into_iter().flatten().rev();
        Ok(of.filter(|run| duty.is_none() || run.duty.as_deref() == duty).take(100).cloned().collect())
    }

    fn previous(&mut self, calendar: &str, at_ms: u64) -> Result<Option<u64>> {
        let times = self.times(calendar);
        Ok(times[..times.partition_point(|time| *time <= at_ms)].last().copied())
    }

    fn next(&mut self, calendar: &str, after_ms: u64) -> Result<Option<u64>> {
        let times = self.times(calendar);
        Ok(times.get(times.partition_point(|time| *time <= after_ms)).copied())
    }
}

/// What became of a span of time.
struct Year {
    world: Simulated,
    /// When it was asked, and the rules of the errors it found.
    asked: Vec<(u64, Vec<String>, Vec<String>)>,
}

impl Year {
    /// Lives through it as serve would: asks, starts what is due one after the other, asks again after each, sleeps until told. `down`: spans in
    /// which the machine is off.
    fn live(mut world: Simulated, parameters: &str, terms: &Terms, days: u64, down: &[(u64, u64)]) -> Self {
        let parameters: Parameters = serde_json::from_str(parameters).unwrap();
        let duties = parameters.all_duties().unwrap();
        let (mut now_ms, mut asked) = (world.from_ms, Vec::new());
        let end_ms = now_ms + days * DAY;
        while now_ms < end_ms {
            if let Some((_, up)) = down.iter().find(|(from, up)| (*from..*up).contains(&now_ms)) {
                now_ms = *up;
            }
            let Decision { standings, held, wake_at_ms } =
                decide(&mut world, &parameters.service, &duties, terms, now_ms).unwrap();
            let rules = |errors: bool| {
                held.findings.iter().filter(|f| f.is_error() == errors).map(|f| f.rule.clone()).collect::<Vec<_>>()
            };
            asked.push((now_ms, rules(true), rules(false)));
            assert!(wake_at_ms > now_ms && wake_at_ms <= now_ms + DAY, "{wake_at_ms} at {now_ms}");
            let due = standings.iter().find(|standing| matches!(standing.state, State::Due { .. }));
            now_ms = match due {
                Some(standing) => {
                    let duty = duties.iter().find(|duty| duty.name == standing.duty).unwrap();
                    world.start(&parameters.service, duty, standing.slot_ms.unwrap(), now_ms)
                }
                None => wake_at_ms,
            };
        }
        Self { world, asked }
    }

    fn taken(&self, store: &str) -> Vec<u64> {
        self.world.stores[store].iter().map(|(taken, _)| *taken).collect()
    }

    fn found(&self, rule: &str) -> Vec<u64> {
        let is = |rules: &Vec<String>| rules.iter().any(|of| of == rule);
        self.asked.iter().filter(|(_, errors, _)| is(errors)).map(|(at, ..)| *at).collect()
    }

    fn warned(&self, rule: &str) -> Vec<u64> {
        let is = |rules: &Vec<String>| rules.iter().any(|of| of == rule);
        self.asked.iter().filter(|(.., warnings)| is(warnings)).map(|(at, ..)| *at).collect()
    }

    /// Every gap between backups that is longer than what was promised was told while it lasted, and nothing else was.
    fn assert_gaps_told(&self, stores: &[&str], rpo_ms: u64) -> usize {
        let mut taken: Vec<u64> = stores.iter().flat_map(|store| self.taken(store)).collect();
        taken.sort_unstable();
        let told = self.found("rpo");
        let mut gaps = 0;
        for pair in taken.windows(2).filter(|pair| pair[1] - pair[0] > rpo_ms + MINUTE) {
            let broke = pair[0] + rpo_ms;
            assert!(told.iter().any(|at| (broke..=pair[1]).contains(at)), "{}..{} was not told", pair[0], pair[1]);
            gaps += 1;
        }
        for at in told {
            let before = taken[..taken.partition_point(|taken| *taken < at)].last();
            assert!(before.is_none_or(|before| at - before > rpo_ms), "told at {at}, and it held");
        }
        gaps
    }
}

fn terms(rpo_ms: u64) -> Terms {
    Terms { rpo_ms: Some(rpo_ms), drill_every_ms: Some(32 * DAY), ..Terms::default() }
}

const LOW: &str = r#"{"service":"s","shape":"low-volume","store":"local","zone":"Europe/Berlin"}"#;
const ACTIVE: &str = r#"{"service":"s","shape":"active","store":"local","off-site":"far"}"#;
const AUDIT: &str = r#"{"service":"s","shape":"audit","store":"local"}"#;

#[test]
fn a_backup_a_day_in_a_zone_with_summer_time() {
    let year = Year::live(Simulated::new("Europe/Berlin", "2026-01-01T00:00:00Z"), LOW, &terms(25 * HOUR), 366, &[]);
    let taken = year.taken("local");
    // One at once, because there was none, then one a day: at three on the clock on the wall, whatever that is in UTC.
    assert_eq!(taken.len(), 367);
    for taken in &taken[1..] {
        let local =
            Timestamp::from_millisecond(i64::try_from(*taken).unwrap()).unwrap().to_zoned(year.world.zone.clone());
        assert_eq!((local.hour(), local.minute() < 2), (3, true), "{local}");
    }
    assert_eq!(year.assert_gaps_told(&["local"], 25 * HOUR), 0);
    let drills = year.world.runs["drill"].len();
    assert!((12..=14).contains(&drills), "{drills} drills");
}

#[test]
fn a_day_that_has_25_hours_is_told_before_it_breaks_a_promise_of_24() {
    let year = Year::live(
        Simulated::new("Europe/Berlin", "2026-10-01T00:00:00Z"),
        LOW,
        &terms(24 * HOUR + 30 * MINUTE),
        40,
        &[],
    );
    let warned = year.warned("rpo");
    let change = ms("2026-10-25T02:00:00Z");
    assert!(warned.iter().all(|at| *at < change && change - at < 25 * HOUR) && !warned.is_empty(), "{warned:?}");
    assert_eq!(year.assert_gaps_told(&["local"], 24 * HOUR + 30 * MINUTE), 1);
}

#[test]
fn a_backup_an_hour_and_one_a_day_off_site() {
    let year = Year::live(Simulated::new("UTC", "2026-01-01T00:10:00Z"), ACTIVE, &terms(HOUR + 15 * MINUTE), 365, &[]);
    let (local, far) = (year.taken("local"), year.taken("far"));
    // The one that is copied is the hour's: none is taken twice.
    assert!((365 * 24..=365 * 24 + 2).contains(&local.len()), "{}", local.len());
    assert!((365..=366).contains(&far.len()), "{}", far.len());
    assert!(far.iter().all(|taken| local.contains(taken)));
    // Ten minutes of a drill are in the way of one backup a month, and that is within what was promised.
    assert_eq!(year.assert_gaps_told(&["local"], HOUR + 15 * MINUTE), 0);
    assert!(year.found("late").is_empty());
}

#[test]
fn downtime_failures_and_what_they_break() {
    let mut world = Simulated::new("UTC", "2026-01-01T00:10:00Z");
    let broken = (ms("2026-03-10T00:00:00Z"), ms("2026-03-12T09:20:00Z"));
    // Nothing works for two days; and every seventh hour of the year does not either.
    world.works =
        Box::new(move |policy, at| !(broken.0..broken.1).contains(&at) && (policy != "backup" || at / HOUR % 7 != 3));
    let down = [
        (ms("2026-05-01T00:00:00Z"), ms("2026-05-03T05:17:00Z")),
        (ms("2026-12-01T10:00:00Z"), ms("2026-12-01T18:59:00Z")),
    ];
    let rpo = HOUR + 15 * MINUTE;
    let year = Year::live(world, AUDIT, &terms(rpo), 365, &down);
    let taken = year.taken("local");
    assert!(year.assert_gaps_told(&["local"], rpo) > 1_000, "every seventh hour, and the rest");
    for (_, up) in down {
        assert!(taken.contains(&up), "after a time off, a backup at once");
    }
    // Tried again and again while nothing works, and not all the time.
    let tries = |from: u64, to: u64| {
        year.world.runs["backup"].iter().filter(|run| (from..to).contains(&run.started_ms)).count()
    };
    let of_two_days = tries(broken.0, broken.1);
    assert!((57..400).contains(&of_two_days), "{of_two_days}");
    assert!(!year.found("late").is_empty());
}

#[test]
fn a_service_that_prunes_after_a_week_is_proven_within_half_of_it() {
    let terms = Terms { prunes: vec![("runs".into(), 7 * DAY)], ..terms(HOUR + 15 * MINUTE) };
    let year = Year::live(Simulated::new("UTC", "2026-01-01T00:10:00Z"), ACTIVE, &terms, 365, &[]);
    let drills: Vec<u64> = year.world.runs["drill"].iter().map(|run| run.started_ms).collect();
    assert!(drills.windows(2).all(|pair| pair[1] - pair[0] <= 7 * DAY / 2), "a drill a month would not do");
    // Only before the first drill.
    assert!(year.found("prunes").iter().all(|at| *at <= drills[0]), "{:?}", year.found("prunes"));
    assert!(year.warned("prunes").is_empty());
}

#[test]
fn a_rule_that_is_about_to_break_is_told_before_and_when_it_has() {
    let mut world = Simulated::new("UTC", "2026-01-01T00:10:00Z");
    let broken = ms("2026-02-01T00:00:00Z");
    world.works = Box::new(move |policy, at| policy != "drill" || at < broken);
    let terms = Terms { prunes: vec![("runs".into(), 7 * DAY)], ..terms(HOUR + 15 * MINUTE) };
    let year = Year::live(world, ACTIVE, &terms, 60, &[]);
    let proven = year.taken("local")[year.world.stores["local"].iter().rposition(|(_, proven)| *proven).unwrap()];
    let (warned, broke) = (year.warned("prunes")[0], *year.found("prunes").iter().find(|at| **at > broken).unwrap());
    assert!(warned > proven + 7 * DAY / 2 && warned <= proven + 7 * DAY / 2 + 2 * HOUR);
    assert!(broke >= proven + 7 * DAY && broke <= proven + 7 * DAY + 2 * HOUR);
}

#[test]
fn a_clock_that_was_ahead_hides_nothing() {
    let mut world = Simulated::new("UTC", "2026-01-01T00:10:00Z");
    // Taken by a clock that was a month ahead.
    world.stores.insert("local".into(), vec![(ms("2026-02-01T00:00:00Z"), false)]);
    let year = Year::live(world, AUDIT, &terms(HOUR + 15 * MINUTE), 20, &[]);
    assert!(year.taken("local").len() > 20 * 24, "backups go on");
    assert!(!year.warned("clock").is_empty());
    let tries = year.world.runs["backup"].len();
    assert!(tries <= 20 * 24 + 2, "and not in a circle: {tries}");
}

#[test]
fn missed_slots_are_made_up_for_as_was_said() {
    let of = |catch_up: &str, more: &str| {
        format!(
            r#"{{"service":"s","duties":[{{"name":"report","policy":"p","when":"0 * * * *","catch-up":"{catch_up}"{more}}}]}}"#
        )
    };
    let down = [(ms("2026-01-02T00:30:00Z"), ms("2026-01-02T06:30:00Z"))];
    let slots = |parameters: &str| {
        let year = Year::live(Simulated::new("UTC", "2026-01-02T00:00:00Z"), parameters, &Terms::default(), 1, &down);
        let hours: Vec<u64> =
            year.world.runs["p"].iter().map(|run| (run.slot_ms.unwrap() - year.world.from_ms) / HOUR).collect();
        hours[..hours.iter().position(|hour| *hour == 8).unwrap()].to_vec()
    };
    assert_eq!(slots(&of("once", "")), [0, 6, 7]);
    assert_eq!(slots(&of("skip", "")), [0, 7]);
    assert_eq!(slots(&of("all", "")), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(slots(&of("all", r#","within-s":9000"#)), [0, 4, 5, 6, 7]);
    assert_eq!(slots(&of("once", r#","within-s":600"#)), [0, 7]);
}

#[test]
fn every_so_often_counts_from_the_last_time_and_jitter_is_the_same_each_time() {
    let of = r#"{"service":"s","duties":[{"name":"b","policy":"backup","every-s":60,"proof":"backup","store":"local","parameters":{"store":"local"}}]}"#;
    let year = Year::live(Simulated::new("UTC", "2026-01-01T00:00:00Z"), of, &Terms::default(), 1, &[]);
    // Two minutes each: the next begins when the one before has ended.
    assert!((700..=721).contains(&year.taken("local").len()), "{}", year.taken("local").len());
    let late = r#"{"service":"s","duties":[{"name":"report","policy":"p","when":"0 * * * *","jitter-s":1800}]}"#;
    let year = Year::live(Simulated::new("UTC", "2026-01-01T00:00:00Z"), late, &Terms::default(), 10, &[]);
    let offsets: Vec<u64> = year.world.runs["p"].iter().skip(1).map(|run| run.started_ms % HOUR).collect();
    assert!(offsets.iter().all(|offset| *offset == offsets[0] && (1..1_800_000).contains(offset)), "{offsets:?}");
}
