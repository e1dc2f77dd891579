//! Which backups go and which stay: a pure function of what is there, the rules and the time.
//!
//! Two things are kept apart. *Rules* ([`Retention::keep`], `keep-verified`) say what is kept; what no rule keeps is due. *Floors* say what
//! never goes, whoever asks ([`floors`]): a person who names a backup, a policy with rules of its own, a rule with a typo.
//!
//! A backup *counts* if its signature is not refused here, and if the time it claims is the time at which its store took it, give or take the
//! tolerance. Only those that count keep a rule's places, and only those that count can go. So nobody who can put objects there pushes a good
//! backup out by one with another date. What still could is a backup that nothing tells from a good one: where signatures are asked for, there is
//! none. An hour, day, week, month or year is kept by the first backup that its store took of it, so one that comes later takes no place away.
//!
//! Ages are counted back from the newest backup, not from this machine's clock, which may have jumped: a backup that nothing newer followed
//! gets no older. And from one backup to the next no more time counts than is usual in that store ([`witness`]): holds, windows and `within-days` end by
//! that time, so no clock alone lets anything go.

mod calendar;
mod floors;
mod rules;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use floors::{refuse, verified};

use crate::bindings::Retention;
use crate::error::Result;
use floors::Floors;

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A backup of one service in one store, as the rules see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// When its first source's snapshot was taken, as its manifest has it, Unix milliseconds.
    pub taken_at_ms: u64,
    /// When its last source had been read, as its manifest has it.
    pub completed_at_ms: u64,
    /// When the store took the manifest, as the store says; none where it does not say.
    pub stored_at_ms: Option<u64>,
    /// A restored copy of it passed a verification that counts here.
    pub verified: bool,
    /// And the verification names this store as the one it was from. Only such ones let others go; one that does not say where it was proven
    /// is kept like a verified one, and counts for nothing else.
    pub proven_here: bool,
    /// Its holds that nobody ended, as one.
    pub held: Option<Held>,
    /// Why nothing of it is used here: its signature.
    pub refused: Option<String>,
    /// What uses it now.
    pub in_use: Option<String>,
}

/// When it is, and what was there before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Now {
    /// By this machine's clock, Unix milliseconds.
    pub ms: u64,
    /// When those were taken that were removed from the store since, as far as is known.
    pub removed_ms: Vec<u64>,
}

impl From<u64> for Now {
    fn from(ms: u64) -> Self {
        Self { ms, removed_ms: Vec::new() }
    }
}

/// What keeps a backup for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// When it was put, Unix milliseconds.
    pub since_ms: u64,
    /// When it is over.
    pub until_ms: u64,
    /// Why.
    pub why: String,
}

/// Why a backup stays or goes. The words are stable; a later version may have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Floor: it is held.
    Held,
    /// Floor: a restore, a drill or another run uses it.
    InUse,
    /// Floor: it is the newest.
    Newest,
    /// Floor: it is the newest that is verified.
    NewestVerified,
    /// Floor: it is one of the verified backups that always stay.
    VerifiedAtLeast,
    /// Floor: fewer verified backups than always stay are there, so nothing goes.
    TooFewVerified,
    /// Floor: it is younger than the compliance window.
    Compliance,
    /// Floor: its own time and its store's time do not fit together.
    TimesDisagree,
    /// Floor: its signature is refused here: nobody knows who wrote it.
    Refused,
    /// Rule: one of the newest.
    Last,
    /// Rule: of the days before the newest.
    Within,
    /// Rule: the first of its hour.
    Hourly,
    /// Rule: the first of its day.
    Daily,
    /// Rule: the first of its week.
    Weekly,
    /// Rule: the first of its month.
    Monthly,
    /// Rule: the first of its year.
    Yearly,
    /// The rules of verified backups, which begin with this.
    LastVerified,
    /// Of the days before the newest verified one.
    WithinVerified,
    /// The first verified one of its hour.
    HourlyVerified,
    /// The first verified one of its day.
    DailyVerified,
    /// The first verified one of its week.
    WeeklyVerified,
    /// The first verified one of its month.
    MonthlyVerified,
    /// The first verified one of its year.
    YearlyVerified,
    /// There are no rules: nothing is due.
    NoRules,
    /// It goes: no rule keeps it.
    NoRuleKeepsIt,
}

impl Word {
    /// The word.
    pub fn text(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reason {
    /// Which.
    pub word: Word,
    /// What more there is to say, for people; may be empty.
    pub detail: String,
}

impl Reason {
    fn new(word: Word, detail: impl Into<String>) -> Self {
        Self { word, detail: detail.into() }
    }

    /// In words: `held (until 2026-12-01T00:00:00Z: audit)`.
    pub fn words(&self) -> String {
        match self.detail.is_empty() {
            true => self.word.text(),
            false => format!("{} ({})", self.word.text(), self.detail),
        }
    }
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Planned {
    /// The backup.
    pub id: String,
    /// It stays.
    pub keep: bool,
    /// Every reason that keeps it, or the one for which it goes.
    pub reasons: Vec<Reason>,
}

/// What stays and what goes, in the order of `backups`. An error: the rules' time zone is unknown.
pub fn plan(backups: &[Seen], rules: &Retention, now: impl Into<Now>) -> Result<Vec<Planned>> {
    let floors = Floors::of(backups, rules, &now.into());
    let by_rule = rules::kept(backups, &floors.counted, &floors.witness, rules)?;
    let verified: BTreeSet<usize> = floors.newest_verified(rules.verified_at_least).collect();
    let planned = backups.iter().enumerate().map(|(index, backup)| {
        let mut reasons = floors.reasons(index, false);
        if verified.contains(&index) {
            let detail = format!("of the newest {}", rules.verified_at_least);
            reasons.push(Reason::new(Word::VerifiedAtLeast, detail));
        }
        reasons.extend(by_rule.get(&index).into_iter().flatten().cloned());
        if reasons.is_empty() && !rules.has_rules() {
            reasons.push(Reason::new(Word::NoRules, ""));
        }
        let keep = !reasons.is_empty();
        if !keep {
            reasons.push(Reason::new(Word::NoRuleKeepsIt, ""));
        }
        Planned { id: backup.id.clone(), keep, reasons }
    });
    Ok(planned.collect())
}
