//! What rules keep, each for itself: so one rule more never keeps less.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;

use super::calendar::{Bucket, Span};
use super::witness::Witness;
use super::{DAY_MS, Reason, Seen, Word};
use crate::bindings::{Keep, Retention};
use crate::error::Result;

/// Reasons by backup.
type Kept = BTreeMap<usize, Vec<Reason>>;

/// The words of one table.
struct Words {
    last: Word,
    within: Word,
    hourly: Word,
    daily: Word,
    weekly: Word,
    monthly: Word,
    yearly: Word,
}

const OF_ALL: Words = Words {
    last: Word::Last,
    within: Word::Within,
    hourly: Word::Hourly,
    daily: Word::Daily,
    weekly: Word::Weekly,
    monthly: Word::Monthly,
    yearly: Word::Yearly,
};

const OF_VERIFIED: Words = Words {
    last: Word::LastVerified,
    within: Word::WithinVerified,
    hourly: Word::HourlyVerified,
    daily: Word::DailyVerified,
    weekly: Word::WeeklyVerified,
    monthly: Word::MonthlyVerified,
    yearly: Word::YearlyVerified,
};

/// What the rules keep of those that count. `counted`: newest first.
pub(super) fn kept(backups: &[Seen], counted: &[usize], witness: &Witness, rules: &Retention) -> Result<Kept> {
    let by = (&rules.zone()?, witness);
    let mut kept = Kept::new();
    keep(backups, counted, &rules.keep, &OF_ALL, by, &mut kept);
    // Twice: a proof that does not name its store keeps its backup, and takes no place from one that does.
    let of = |is: fn(&Seen) -> bool| -> Vec<usize> {
        counted.iter().copied().filter(|index| is(&backups[*index])).collect()
    };
    let (here, anywhere) = (of(|seen| seen.proven_here), of(|seen| seen.verified));
    keep(backups, &here, &rules.keep_verified, &OF_VERIFIED, by, &mut kept);
    if here != anywhere {
        keep(backups, &anywhere, &rules.keep_verified, &OF_VERIFIED, by, &mut kept);
        kept.values_mut().for_each(|reasons| {
            let mut said = BTreeSet::new();
            reasons.retain(|reason| said.insert(reason.word));
        });
    }
    Ok(kept)
}

fn keep(
    backups: &[Seen],
    counted: &[usize],
    keep: &Keep,
    words: &Words,
    (zone, witness): (&TimeZone, &Witness),
    kept: &mut Kept,
) {
    let some = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let mut note = |index: usize, word, detail: String| {
        kept.entry(index).or_default().push(Reason::new(word, detail));
    };
    for (place, index) in counted.iter().take(some(keep.last.unwrap_or(0))).enumerate() {
        note(*index, words.last, format!("{} of {}", place + 1, keep.last.unwrap_or(0)));
    }
    if let (Some(days), Some(newest)) = (keep.within_days, counted.first()) {
        let (newest, reach_ms) = (&backups[*newest], days.saturating_mul(DAY_MS));
        let age_ms = |of: &Seen| {
            let stored = |seen: &Seen| seen.stored_at_ms.unwrap_or(seen.taken_at_ms);
            let unwitnessed_ms = witness.unwitnessed_ms(stored(of), stored(newest));
            newest.taken_at_ms.saturating_sub(of.taken_at_ms).saturating_sub(unwitnessed_ms)
        };
        for index in counted.iter().filter(|index| age_ms(&backups[**index]) <= reach_ms) {
            note(*index, words.within, format!("{days} days"));
        }
    }
    for (span, count, word) in [
        (Span::Hour, keep.hourly, words.hourly),
        (Span::Day, keep.daily, words.daily),
        (Span::Week, keep.weekly, words.weekly),
        (Span::Month, keep.monthly, words.monthly),
        (Span::Year, keep.yearly, words.yearly),
    ] {
        let Some(count) = count else { continue };
        let firsts = firsts(backups, counted, span, some(count), zone);
        for (place, index) in firsts.values().rev().enumerate() {
            note(*index, word, format!("{} of {count}", place + 1));
        }
    }
}

/// The one that keeps each of the newest hours, days, …: the first that the store took. Whoever comes later takes no place away. `counted`: newest
/// first, so what comes after the last bucket that is wanted is older than all of them, and is not looked at.
fn firsts(backups: &[Seen], counted: &[usize], span: Span, most: usize, zone: &TimeZone) -> BTreeMap<Bucket, usize> {
    let mut found: BTreeMap<Bucket, usize> = BTreeMap::new();
    let order = |index: usize| (backups[index].stored_at_ms, backups[index].taken_at_ms, &backups[index].id);
    for index in counted {
        let Some(bucket) = span.bucket(backups[*index].taken_at_ms, zone) else { continue };
        if found.len() == most && !found.contains_key(&bucket) {
            break;
        }
        let keeper = found.entry(bucket).or_insert(*index);
        if order(*index) < order(*keeper) {
            *keeper = *index;
        }
    }
    found
}

/// Ids that are kept; for tests of rules alone.
#[cfg(test)]
pub(super) fn ids(planned: &[super::Planned]) -> std::collections::BTreeSet<&str> {
    planned.iter().filter(|planned| planned.keep).map(|planned| planned.id.as_str()).collect()
}
