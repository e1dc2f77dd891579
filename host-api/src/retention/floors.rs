//! What never goes, whoever asks.

use std::collections::BTreeSet;

use super::witness::Witness;
use super::{DAY_MS, Held, Now, Reason, Seen, Word};
use crate::bindings::Retention;
use crate::error::{Error, Result};
use crate::identifier::{shown, utc};

/// A look at all backups of a service in a store.
pub(super) struct Floors<'b> {
    backups: &'b [Seen],
    rules: &'b Retention,
    now_ms: u64,
    /// Those that count, newest first: by their own time, which the store's bounds.
    pub(super) counted: Vec<usize>,
    /// How time passes here.
    pub(super) witness: Witness,
    /// What ages are counted back from.
    reference_ms: u64,
    verified: usize,
    /// That is proven from this store, and that is proven at all.
    newest_verified: [Option<usize>; 2],
}

impl<'b> Floors<'b> {
    pub(super) fn of(backups: &'b [Seen], rules: &'b Retention, now: &Now) -> Self {
        let now_ms = now.ms;
        let counts = |backup: &Seen| backup.refused.is_none() && disagreement(backup, rules, now_ms).is_none();
        let mut counted: Vec<usize> = (0..backups.len()).filter(|index| counts(&backups[*index])).collect();
        counted.sort_by(|a, b| newer_first(&backups[*a], &backups[*b]));
        let newest_ms = counted.iter().filter_map(|index| backups[*index].stored_at_ms).max().unwrap_or(0);
        let verified = counted.iter().filter(|index| backups[**index].proven_here).count();
        let newest = |is: fn(&Seen) -> bool| counted.iter().copied().find(|index| is(&backups[*index]));
        let newest_verified = [newest(|seen| seen.proven_here), newest(|seen| seen.verified)];
        let witness = Witness::of(counted.iter().map(|index| &backups[*index]), now);
        let reference_ms = newest_ms.min(now_ms);
        Self { backups, rules, now_ms, counted, witness, reference_ms, verified, newest_verified }
    }

    /// The newest of the verified ones, at most so many.
    pub(super) fn newest_verified(&self, count: u64) -> impl Iterator<Item = usize> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.counted.iter().copied().filter(|index| self.backups[*index].proven_here).take(count)
    }

    /// Whether a hold is in force: until its end by this machine's clock, and for as long as it was to last by the backups that followed it.
    fn held(&self, held: &Held) -> Option<Reason> {
        let lasts_ms = held.until_ms.saturating_sub(held.since_ms);
        let is_over = held.until_ms <= self.now_ms;
        let is_witnessed = self.witness.elapsed_ms(held.since_ms, self.now_ms) >= lasts_ms;
        let words = if is_over { UNWITNESSED } else { "" };
        (!is_over || !is_witnessed)
            .then(|| Reason::new(Word::Held, format!("until {}: {}{words}", utc(held.until_ms), shown(&held.why))))
    }

    /// Every floor that keeps one. `despite_times`: a person has said that it may go though its times disagree.
    pub(super) fn reasons(&self, index: usize, despite_times: bool) -> Vec<Reason> {
        let backup = &self.backups[index];
        let mut reasons = Vec::new();
        reasons.extend(backup.held.as_ref().and_then(|held| self.held(held)));
        if let Some(what) = &backup.in_use {
            reasons.push(Reason::new(Word::InUse, what.clone()));
        }
        if let Some(why) = &backup.refused {
            reasons.push(Reason::new(Word::Refused, why.clone()));
        }
        if let Some(why) = disagreement(backup, self.rules, self.now_ms).filter(|_| !despite_times) {
            reasons.push(Reason::new(Word::TimesDisagree, why));
        }
        if self.counted.first() == Some(&index) {
            reasons.push(Reason::new(Word::Newest, ""));
        }
        if self.newest_verified.contains(&Some(index)) {
            reasons.push(Reason::new(Word::NewestVerified, ""));
        }
        if (self.verified as u64) < self.rules.verified_at_least {
            let detail = format!("{} of {}", self.verified, self.rules.verified_at_least);
            reasons.push(Reason::new(Word::TooFewVerified, detail));
        }
        if let Some(days) = self.rules.compliance_days {
            let born_ms = backup.completed_at_ms.max(backup.stored_at_ms.unwrap_or(u64::MAX));
            let window_ms = days.saturating_mul(DAY_MS);
            if self.witness.elapsed_ms(born_ms, self.reference_ms) < window_ms {
                let old = self.reference_ms.saturating_sub(born_ms) >= window_ms;
                let words = if old { UNWITNESSED } else { "" };
                reasons.push(Reason::new(Word::Compliance, format!("younger than {days} days{words}")));
            }
        }
        reasons
    }
}

/// Said of what would be over by the clock.
const UNWITNESSED: &str =
    ", without the time in which the store took nothing: a clock that was set forward looks like that";

/// Newest first; equal times are told apart by id, as everywhere.
fn newer_first(a: &Seen, b: &Seen) -> std::cmp::Ordering {
    (b.taken_at_ms, &b.id).cmp(&(a.taken_at_ms, &a.id))
}

/// How a backup's own time and its store's do not fit together.
fn disagreement(backup: &Seen, rules: &Retention, now_ms: u64) -> Option<String> {
    let tolerance_ms = rules.clock_tolerance_s.saturating_mul(1000);
    let Some(stored_ms) = backup.stored_at_ms else {
        return Some("the store does not say when it took it".into());
    };
    let (taken_ms, completed_ms) = (backup.taken_at_ms, backup.completed_at_ms);
    if taken_ms > completed_ms {
        return Some("it ends before it begins".into());
    }
    // Also the time between the two is only claimed: a dump that says it took a year would have any date in it.
    if stored_ms.saturating_add(tolerance_ms) < completed_ms || taken_ms.saturating_add(tolerance_ms) < stored_ms {
        return Some(format!("taken {}, and its store took it {}", utc(taken_ms), utc(stored_ms)));
    }
    (stored_ms > now_ms.saturating_add(tolerance_ms))
        .then(|| format!("its store took it {}, after now", utc(stored_ms)))
}

/// An error that names the reason, unless every floor lets all of these go, together. Of `named`, only what is among `backups` is held
/// against the floors. `despite_times`: a person has said that those may go whose times disagree.
pub fn refuse(
    backups: &[Seen],
    named: &BTreeSet<&str>,
    rules: &Retention,
    now: impl Into<Now>,
    despite_times: bool,
) -> Result<()> {
    let floors = Floors::of(backups, rules, &now.into());
    for (index, backup) in backups.iter().enumerate().filter(|(_, backup)| named.contains(backup.id.as_str())) {
        let reasons = floors.reasons(index, despite_times);
        if let Some(first) = reasons.first() {
            let words: Vec<String> = reasons.iter().map(Reason::words).collect();
            return Err(Error::refused(format!("backup {} must stay: {}", backup.id, words.join(", ")))
                .hint(format!("nothing was removed; {}", way_out(first.word))));
        }
    }
    let stays = |index: &&usize| backups[**index].proven_here && !named.contains(backups[**index].id.as_str());
    let (left, needed) = (floors.counted.iter().filter(stays).count() as u64, rules.verified_at_least);
    let goes = |backup: &Seen| backup.verified && named.contains(backup.id.as_str());
    if left < needed && backups.iter().any(goes) {
        return Err(Error::refused(format!("{left} verified backups would be left, and {needed} must stay")).hint(
            "nothing was removed; verify newer ones (lifeboat backups verify BACKUP --depth content), or name fewer",
        ));
    }
    Ok(())
}

/// How many verified backups there are, as the floors count them.
pub fn verified(backups: &[Seen], rules: &Retention, now_ms: u64) -> u64 {
    Floors::of(backups, rules, &now_ms.into()).verified as u64
}

/// What a person can do about a floor.
fn way_out(word: Word) -> &'static str {
    match word {
        Word::Held => "end the hold with `lifeboat backups unhold`, or leave this backup out",
        Word::InUse => "wait until it is over, or end it: lifeboat runs list, lifeboat candidates list",
        Word::TimesDisagree => {
            "find out which clock was wrong; `--despite-times` says that this one may go all the same"
        }
        Word::Refused => {
            "find out who put it there; what is not ours is removed with the store's own tools, or kept as evidence"
        }
        Word::TooFewVerified => {
            "verify more of them in this store (lifeboat backups verify BACKUP --depth content, or drills)"
        }
        Word::Compliance => "leave it out until then: `compliance-days` of [environment.E.retention] says so",
        _ => "leave this backup out",
    }
}
