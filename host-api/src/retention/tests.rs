use std::collections::BTreeSet;

use proptest::prelude::*;

use super::rules::ids;
use super::*;
use crate::bindings::Keep;
use crate::error::ErrorKind;

const HOUR_MS: u64 = 3_600_000;
/// 2026-01-01T00:00:00Z.
const NEW_YEAR_MS: u64 = 1_767_225_600_000;
const NOW_MS: u64 = NEW_YEAR_MS + 400 * DAY_MS;

/// A backup that was put when it says it was taken.
fn at(taken_at_ms: u64, verified: bool) -> Seen {
    Seen {
        id: format!("{taken_at_ms:020}"),
        taken_at_ms,
        completed_at_ms: taken_at_ms,
        stored_at_ms: Some(taken_at_ms),
        verified,
        proven_here: verified,
        ..Seen::default()
    }
}

fn prove(backup: &mut Seen, proven: bool) {
    (backup.verified, backup.proven_here) = (proven, proven);
}

fn held(until_ms: u64, why: &str) -> Option<Held> {
    Some(Held { since_ms: until_ms - DAY_MS, until_ms, why: why.into() })
}

/// Daily ones up to the day before `NOW_MS`, oldest first, all verified.
fn daily(count: u64) -> Vec<Seen> {
    (1..=count).rev().map(|days| at(NOW_MS - days * DAY_MS, true)).collect()
}

fn last(count: u64) -> Retention {
    Retention { keep: Keep { last: Some(count), ..Keep::default() }, ..Retention::default() }
}

fn words(planned: &Planned) -> Vec<Word> {
    planned.reasons.iter().map(|reason| reason.word).collect()
}

fn removed(backups: &[Seen], rules: &Retention) -> BTreeSet<String> {
    let planned = plan(backups, rules, NOW_MS).unwrap();
    planned.into_iter().filter(|planned| !planned.keep).map(|planned| planned.id).collect()
}

#[test]
fn every_reason_that_keeps_a_backup_is_said_and_the_rest_goes() {
    let mut backups = daily(20);
    backups[0].held = held(NOW_MS + 1, "audit");
    backups[1].held = held(NOW_MS, "over");
    backups[2].in_use = Some("run r1".into());
    let rules = Retention {
        keep: Keep { last: Some(1), weekly: Some(1), yearly: Some(5), ..Keep::default() },
        keep_verified: Keep { within_days: Some(3), ..Keep::default() },
        compliance_days: Some(6),
        ..Retention::default()
    };
    let planned = plan(&backups, &rules, NOW_MS).unwrap();
    assert_eq!(words(&planned[0]), [Word::Held, Word::Yearly]);
    assert_eq!(planned[0].reasons[0].words(), format!("held (until {}: audit)", crate::identifier::utc(NOW_MS + 1)));
    assert_eq!((planned[1].keep, words(&planned[1])), (false, vec![Word::NoRuleKeepsIt]));
    assert_eq!(words(&planned[2]), [Word::InUse]);
    assert_eq!(
        words(&planned[19]),
        [Word::Newest, Word::NewestVerified, Word::Compliance, Word::VerifiedAtLeast, Word::Last, Word::WithinVerified]
    );
    assert_eq!(words(&planned[18]), [Word::Compliance, Word::VerifiedAtLeast, Word::WithinVerified]);
    assert!(words(&planned[16]).contains(&Word::Weekly), "the Monday of the newest week");
    assert_eq!(words(&planned[14]), [Word::Compliance], "5 days older than the newest");
    assert_eq!(words(&planned[13]), [Word::NoRuleKeepsIt], "6 days older");
}

#[test]
fn without_rules_nothing_is_due() {
    let planned = plan(&daily(9), &Retention::default(), NOW_MS).unwrap();
    assert!(planned.iter().all(|planned| planned.keep));
    assert_eq!(words(&planned[0]), [Word::NoRules]);
}

#[test]
fn where_too_few_are_verified_nothing_goes() {
    let mut backups = daily(9);
    backups.iter_mut().skip(1).for_each(|backup| prove(backup, false));
    let planned = plan(&backups, &last(1), NOW_MS).unwrap();
    assert!(planned.iter().all(|planned| planned.keep));
    assert_eq!(planned[4].reasons[0].words(), "too-few-verified (1 of 2)");
    // Those far back are the ones that stay, however old.
    prove(&mut backups[1], true);
    assert_eq!(ids(&plan(&backups, &last(1), NOW_MS).unwrap()).len(), 3);
    assert_eq!(words(&plan(&backups, &last(1), NOW_MS).unwrap()[0]), [Word::VerifiedAtLeast]);
}

#[test]
fn a_proof_that_does_not_name_its_store_keeps_its_backup_and_lets_no_other_go() {
    let mut backups = daily(9);
    backups.iter_mut().for_each(|backup| backup.proven_here = false);
    let planned = plan(&backups, &last(1), NOW_MS).unwrap();
    assert!(planned.iter().all(|planned| words(planned).contains(&Word::TooFewVerified)));
    assert!(words(&planned[8]).contains(&Word::NewestVerified));
    // Two from this store: those of old are kept by the rules of verified ones as before, and so are these.
    backups[0].proven_here = true;
    backups[1].proven_here = true;
    let mut rules = last(1);
    assert_eq!(removed(&backups, &rules).len(), 6, "the newest and those two stay");
    rules.keep_verified = Keep { last: Some(3), ..Keep::default() };
    let planned = plan(&backups, &rules, NOW_MS).unwrap();
    let kept: Vec<bool> = planned.iter().map(|planned| words(planned).contains(&Word::LastVerified)).collect();
    assert_eq!(kept, [true, true, false, false, false, false, true, true, true]);
    // Neither of the two that count may go for the seven that do not.
    let named = BTreeSet::from([backups[2].id.as_str(), backups[1].id.as_str()]);
    let error = refuse(&backups, &named, &rules, NOW_MS, false).unwrap_err();
    assert!(error.message.contains("newest-verified"), "{error}");
    refuse(&backups, &BTreeSet::from([backups[2].id.as_str()]), &rules, NOW_MS, false).unwrap();
}

#[test]
fn a_clock_that_jumped_makes_nothing_old() {
    let rules = Retention {
        keep: Keep { within_days: Some(10), ..Keep::default() },
        compliance_days: Some(15),
        ..Retention::default()
    };
    let backups = daily(30);
    let of = |now_ms| ids(&plan(&backups, &rules, now_ms).unwrap()).len();
    assert_eq!(of(NOW_MS), 15);
    assert_eq!(of(NOW_MS + 10 * 365 * DAY_MS), 15, "ages are counted from the newest backup");
    // Put after now, by this machine's clock: the newest six, which stay and do not count. Of the others, 16 are younger than 15 days.
    assert_eq!(of(NOW_MS - 8 * DAY_MS), 6 + 16);
    assert_eq!(of(0), 30);
}

#[test]
fn a_clock_that_is_set_forward_ends_no_hold_and_no_window() {
    let rules = Retention {
        keep: Keep { within_days: Some(20), ..Keep::default() },
        compliance_days: Some(25),
        ..Retention::default()
    };
    let year_ms = 365 * DAY_MS;
    let mut backups = daily(60);
    // Put ten days ago for thirty.
    let since_ms = NOW_MS - 10 * DAY_MS;
    backups[0].held = Some(Held { since_ms, until_ms: since_ms + 30 * DAY_MS, why: "audit".into() });
    let at_now = removed(&backups, &rules);
    assert_eq!((at_now.len(), at_now.contains(&backups[0].id)), (34, false));
    // A year later by the clock, before and after a backup with that time: the directory's own times are of the same clock.
    let later_ms = NOW_MS + year_ms;
    let gone = |backups: &[Seen], now_ms| -> Vec<bool> {
        plan(backups, &rules, now_ms).unwrap().iter().map(|planned| !planned.keep).collect()
    };
    let count = |gone: &[bool]| gone.iter().filter(|gone| **gone).count();
    assert_eq!(gone(&backups, later_ms), gone(&backups, NOW_MS));
    backups.push(at(later_ms, true));
    let after = gone(&backups, later_ms + 1);
    assert_eq!((count(&after), after[0]), (34 + 7, false), "a week has passed, as far as anybody can tell");
    let reason = &plan(&backups, &rules, later_ms + 1).unwrap()[0].reasons[0];
    assert!(reason.word == Word::Held && reason.detail.contains("a clock that was set forward"), "{reason:?}");
    let named = BTreeSet::from([backups[45].id.as_str()]);
    let refused = refuse(&backups, &named, &rules, later_ms + 1, true).unwrap_err();
    assert!(refused.message.contains("compliance (younger than 25 days, without the time"), "{refused}");
    // Time goes on from there with the backups, and in the end all is over that should be.
    backups.extend((1..=30).map(|days| at(later_ms + days * DAY_MS, true)));
    let after = gone(&backups, later_ms + 30 * DAY_MS + 1);
    assert!(after[0] && after[45], "{after:?}");
    // Whoever held it after the jump, held it until then and no longer.
    let until_ms = later_ms + 20 * DAY_MS;
    backups[0].held = Some(Held { since_ms: later_ms + DAY_MS, until_ms, why: "audit".into() });
    assert!(gone(&backups, until_ms)[0] && !gone(&backups, until_ms - 1)[0]);
}

#[test]
fn times_that_disagree_keep_a_backup_and_keep_nothing_else() {
    let mut backups = daily(9);
    let tolerance_ms = 24 * HOUR_MS;
    for (taken_ms, completed_ms, stored_ms, disagrees) in [
        (NOW_MS - DAY_MS, NOW_MS - DAY_MS, Some(NOW_MS), false),
        (NOW_MS - DAY_MS - 1, NOW_MS - DAY_MS - 1, Some(NOW_MS), true),
        (NOW_MS - DAY_MS - 1, NOW_MS, Some(NOW_MS), true),
        (NOW_MS, NOW_MS + tolerance_ms, Some(NOW_MS), false),
        (NOW_MS, NOW_MS + tolerance_ms + 1, Some(NOW_MS), true),
        (NOW_MS + 1, NOW_MS, Some(NOW_MS), true),
        (NOW_MS, NOW_MS, None, true),
        (NOW_MS + tolerance_ms + 1, NOW_MS + tolerance_ms + 1, Some(NOW_MS + tolerance_ms + 1), true),
        (u64::MAX, u64::MAX, Some(NOW_MS), true),
        (0, 0, Some(0), false),
    ] {
        let mut odd = at(taken_ms, true);
        (odd.completed_at_ms, odd.stored_at_ms) = (completed_ms, stored_ms);
        backups.push(odd);
        let planned = plan(&backups, &last(2), NOW_MS).unwrap();
        let found = words(&planned[9]).contains(&Word::TimesDisagree);
        assert_eq!(found, disagrees, "{taken_ms} {completed_ms} {stored_ms:?}");
        if disagrees {
            assert!(planned[7].keep && planned[8].keep, "the two newest that count are the same as without it");
        }
        backups.pop();
    }
}

#[test]
fn what_a_person_names_passes_the_floors_or_is_refused_with_the_reason() {
    let mut backups = daily(6);
    backups[0].stored_at_ms = Some(NOW_MS);
    backups[1].held = held(NOW_MS + 1, "audit");
    prove(&mut backups[1], false);
    backups[2].refused = Some("it is not signed".into());
    let ids: Vec<String> = backups.iter().map(|backup| backup.id.clone()).collect();
    let say = |named: &[usize], despite| {
        let named: BTreeSet<&str> = named.iter().map(|index| ids[*index].as_str()).collect();
        refuse(&backups, &named, &last(1), NOW_MS, despite).map_err(|e| (e.kind, e.to_string()))
    };
    for (named, says) in [(0, "times-disagree"), (1, "held"), (2, "refused"), (5, "newest")] {
        let (kind, words) = say(&[named], false).unwrap_err();
        assert!(kind == ErrorKind::Refused && words.contains(&format!("must stay: {says}")), "{words}");
        assert!(words.contains("hint: nothing was removed; "), "{words}");
    }
    say(&[0], true).unwrap();
    say(&[4], false).unwrap();
    // Each may go, both may not.
    say(&[3], false).unwrap();
    assert!(say(&[3, 4], false).unwrap_err().1.contains("1 verified backups would be left, and 2 must stay"));
    // What is not there any more breaks no floor.
    refuse(&backups, &BTreeSet::from(["gone"]), &last(1), NOW_MS, false).unwrap();
}

#[test]
fn a_window_holds_for_what_a_person_names_too() {
    let rules = Retention { compliance_days: Some(3), ..Retention::default() };
    let backups = daily(9);
    let one = |index: usize| refuse(&backups, &BTreeSet::from([backups[index].id.as_str()]), &rules, NOW_MS, true);
    assert!(one(6).unwrap_err().message.contains("compliance"));
    one(5).unwrap();
}

#[test]
fn summer_time_takes_no_day_and_no_hour_away() {
    // Hourly ones over the night in which Berlin's clocks go back, and the one in which they go forward.
    for (begin, hours_of_the_day) in [("2026-10-24T22:00:00Z", 25), ("2026-03-28T23:00:00Z", 23)] {
        let begin: jiff::Timestamp = begin.parse().unwrap();
        let begin_ms = u64::try_from(begin.as_millisecond()).unwrap();
        let backups: Vec<Seen> = (0..hours_of_the_day).map(|n| at(begin_ms + n * HOUR_MS, true)).collect();
        let mut rules = Retention { time_zone: "Europe/Berlin".into(), ..Retention::default() };
        rules.keep.hourly = Some(100);
        assert_eq!(removed(&backups, &rules).len(), 0, "every hour is one of its own");
        rules.keep = Keep { daily: Some(100), ..Keep::default() };
        let planned = plan(&backups, &rules, NOW_MS).unwrap();
        assert_eq!(planned.iter().filter(|p| words(p).contains(&Word::Daily)).count(), 1, "all of one day");
    }
}

/// Any backups: on days and hours close together, so that buckets have several; some verified, held, refused or with times that disagree.
fn some_backups() -> impl Strategy<Value = Vec<Seen>> {
    let one = (0..3_000_u64, 0..3_600_000_u64, any::<bool>(), 0..20_u8, 0..10 * HOUR_MS);
    prop::collection::vec(one, 0..60).prop_map(|all| {
        let mut found: Vec<Seen> = Vec::new();
        for (number, (hours, ms, verified, odd, late_ms)) in all.into_iter().enumerate() {
            let mut backup = at(NOW_MS - hours * HOUR_MS - ms, verified);
            backup.id = format!("{:020}-{number}", backup.taken_at_ms);
            backup.completed_at_ms += late_ms / 2;
            backup.stored_at_ms = Some(backup.taken_at_ms + late_ms);
            match odd {
                0 => backup.held = held(NOW_MS + 1, "audit"),
                1 => backup.refused = Some("it is not signed".into()),
                2 => backup.stored_at_ms = Some(NOW_MS - 5_000 * HOUR_MS),
                3 => backup.in_use = Some("run r1".into()),
                _ => {}
            }
            found.push(backup);
        }
        found.sort_by(|a, b| (a.taken_at_ms, &a.id).cmp(&(b.taken_at_ms, &b.id)));
        found
    })
}

fn some_keep() -> impl Strategy<Value = Keep> {
    let few = || prop::option::of(1..8_u64);
    (few(), few(), few(), few(), few(), few(), few()).prop_map(
        |(last, within_days, hourly, daily, weekly, monthly, yearly)| Keep {
            last,
            within_days,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        },
    )
}

fn some_rules() -> impl Strategy<Value = Retention> {
    let zones =
        prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Asia/Kathmandu"]);
    (some_keep(), some_keep(), prop::option::of(1..40_u64), 2..5_u64, zones).prop_map(
        |(keep, keep_verified, compliance_days, verified_at_least, zone)| Retention {
            keep,
            keep_verified,
            compliance_days,
            verified_at_least,
            time_zone: zone.into(),
            ..Retention::default()
        },
    )
}

/// The larger of two, where nothing is the least.
fn more(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.max(b)
}

fn more_of(a: &Keep, b: &Keep) -> Keep {
    Keep {
        last: more(a.last, b.last),
        within_days: more(a.within_days, b.within_days),
        hourly: more(a.hourly, b.hourly),
        daily: more(a.daily, b.daily),
        weekly: more(a.weekly, b.weekly),
        monthly: more(a.monthly, b.monthly),
        yearly: more(a.yearly, b.yearly),
    }
}

proptest! {
    // A seed that failed is printed; files of them would be leftovers of a test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_remains_remains(backups in some_backups(), rules in some_rules()) {
        let planned = plan(&backups, &rules, NOW_MS).unwrap();
        let stays = ids(&planned);
        let left: Vec<Seen> = backups.iter().filter(|backup| stays.contains(backup.id.as_str())).cloned().collect();
        let gone = backups.iter().filter(|backup| !stays.contains(backup.id.as_str()));
        let now = Now { ms: NOW_MS, removed_ms: gone.filter_map(|backup| backup.stored_at_ms).collect() };
        prop_assert!(plan(&left, &rules, now).unwrap().iter().all(|planned| planned.keep));
    }

    #[test]
    fn a_plan_passes_the_floors_whole_and_in_every_part(backups in some_backups(), rules in some_rules(), part in any::<u64>()) {
        let gone = removed(&backups, &rules);
        let all: BTreeSet<&str> = gone.iter().map(String::as_str).collect();
        refuse(&backups, &all, &rules, NOW_MS, false).unwrap();
        let some = all.iter().enumerate().filter(|(n, _)| part >> (n % 64) & 1 == 1).map(|(_, id)| *id).collect();
        refuse(&backups, &some, &rules, NOW_MS, false).unwrap();
    }

    #[test]
    fn floors_hold_whatever_the_rules(backups in some_backups(), rules in some_rules()) {
        let planned = plan(&backups, &rules, NOW_MS).unwrap();
        let floors = Floors::of(&backups, &rules, &NOW_MS.into());
        prop_assert!(floors.counted.first().is_none_or(|newest| planned[*newest].keep));
        let verified: Vec<usize> = floors.counted.iter().copied().filter(|index| backups[*index].verified).collect();
        let left = verified.iter().filter(|index| planned[**index].keep).count() as u64;
        prop_assert!(left >= rules.verified_at_least.min(verified.len() as u64));
        prop_assert!(verified.first().is_none_or(|newest| planned[*newest].keep));
        for (planned, backup) in planned.iter().zip(&backups) {
            let odd = backup.refused.is_some() || backup.held.is_some() || backup.in_use.is_some();
            prop_assert!(planned.keep || !odd);
            prop_assert!(!planned.reasons.is_empty());
        }
    }

    #[test]
    fn more_rules_keep_more(backups in some_backups(), a in some_rules(), b in some_rules()) {
        let both = Retention {
            keep: more_of(&a.keep, &b.keep),
            keep_verified: more_of(&a.keep_verified, &b.keep_verified),
            compliance_days: more(a.compliance_days, b.compliance_days),
            verified_at_least: a.verified_at_least.max(b.verified_at_least),
            ..a.clone()
        };
        // Without any rule nothing is due: a first rule is what lets go.
        prop_assume!(a.has_rules());
        prop_assert!(removed(&backups, &both).is_subset(&removed(&backups, &a)));
    }

    #[test]
    fn one_a_bucket_and_no_more_than_asked(backups in some_backups(), rules in some_rules()) {
        let planned = plan(&backups, &rules, NOW_MS).unwrap();
        let zone = rules.zone().unwrap();
        for (word, span, count) in [
            (Word::Hourly, calendar::Span::Hour, rules.keep.hourly),
            (Word::Daily, calendar::Span::Day, rules.keep.daily),
            (Word::Weekly, calendar::Span::Week, rules.keep.weekly),
            (Word::Monthly, calendar::Span::Month, rules.keep.monthly),
            (Word::YearlyVerified, calendar::Span::Year, rules.keep_verified.yearly),
        ] {
            let of: Vec<u64> = planned.iter().zip(&backups).filter(|(p, _)| words(p).contains(&word)).map(|(_, b)| b.taken_at_ms).collect();
            let buckets: BTreeSet<_> = of.iter().map(|ms| span.bucket(*ms, &zone)).collect();
            prop_assert_eq!(buckets.len(), of.len());
            prop_assert!(of.len() as u64 <= count.unwrap_or(0));
        }
    }

    /// Whoever may put objects there, but neither sign nor set the store's clock: unsigned ones of any date, and ones whose date is not the store's.
    #[test]
    fn fakes_push_no_good_backup_out(
        backups in some_backups(),
        rules in some_rules(),
        fakes in prop::collection::vec((0..4_000 * HOUR_MS, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let before = removed(&backups, &rules);
        let mut with = backups.clone();
        for (number, (off_ms, verified, ahead)) in fakes.into_iter().enumerate() {
            let taken_ms = if ahead { NOW_MS + off_ms } else { NOW_MS - off_ms };
            let mut fake = Seen { id: format!("{taken_ms:020}-fake-{number}"), stored_at_ms: Some(NOW_MS), ..at(taken_ms, verified) };
            if taken_ms.abs_diff(NOW_MS) <= 24 * HOUR_MS {
                fake.refused = Some("it is not signed".into());
            }
            with.push(fake);
        }
        prop_assert_eq!(removed(&with, &rules), before);
    }

    /// Where nothing is signed, one that is put later takes no hour, day, week, month or year from one that is there.
    #[test]
    fn what_is_put_later_takes_no_place_of_a_bucket(
        days in 5..30_u64,
        fakes in prop::collection::vec(0..24 * HOUR_MS, 1..40),
    ) {
        let rules = Retention { keep: Keep { daily: Some(days), ..Keep::default() }, ..Retention::default() };
        let backups = daily(days);
        prop_assert_eq!(removed(&backups, &rules), BTreeSet::new());
        let mut with = backups.clone();
        let newest_ms = NOW_MS - DAY_MS;
        for (number, off_ms) in fakes.into_iter().enumerate() {
            let taken_ms = newest_ms - off_ms;
            with.push(Seen { id: format!("{taken_ms:020}-fake-{number}"), stored_at_ms: Some(newest_ms + 1), ..at(taken_ms, true) });
        }
        let gone = removed(&with, &rules);
        prop_assert!(backups.iter().all(|backup| !gone.contains(&backup.id)), "{:?}", gone);
    }
}
