//! What is kept of a service's backups, and for how long.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Most of anything that a rule keeps.
const COUNT_MAX: u64 = 100_000;
/// Fewest verified backups that ever stay: with one, the next damaged object is the end.
pub const VERIFIED_AT_LEAST: u64 = 2;
/// Most that goes without a person in one run: somebody who reads what went should be able to.
const WITHOUT_CONSENT_MAX: u64 = 100;
/// How far the time in a manifest and the time at which its store took it may lie apart: a copy is sent after the next night at the latest,
/// and no clock that anybody looks after is a day off.
const CLOCK_TOLERANCE_S: u64 = 24 * 3600;
/// A tolerance of more than this bounds nothing.
const CLOCK_TOLERANCE_S_MAX: u64 = 31 * 24 * 3600;

/// Rules for the backups of a service: one `[environment.E.retention.SERVICE]`, or one `[environment.E.retention.SERVICE.store.STORE]`, which
/// stands for itself: nothing of the former holds there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Retention {
    /// What is kept. Where neither this nor `keep-verified` says anything, nothing goes by rule.
    #[serde(default)]
    pub keep: Keep,
    /// What is kept of those alone that a restored copy proved.
    #[serde(default)]
    pub keep_verified: Keep,
    /// Nothing that is younger than so many days goes, whoever asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compliance_days: Option<u64>,
    /// So many verified backups stay, whoever asks; and where there are fewer, nothing goes.
    #[serde(default = "default_verified_at_least")]
    pub verified_at_least: u64,
    /// Only of a store: so many of what its rules let go may go in one run without a person's consent. Without it: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_consent_at_most: Option<u64>,
    /// How far a manifest's time and its store's time may lie apart, seconds.
    #[serde(default = "default_clock_tolerance_s")]
    pub clock_tolerance_s: u64,
    /// Whose calendar: a name of the IANA database.
    #[serde(default = "default_time_zone")]
    pub time_zone: String,
    /// Rules of single stores.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub store: BTreeMap<String, Retention>,
}

/// How many are kept, by what. An hour, day, week (ISO 8601: from Monday), month or year counts if there is a backup of it; of each, one is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Keep {
    /// The newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// All of so many days before the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_days: Option<u64>,
    /// One of each of the newest hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hourly: Option<u64>,
    /// One of each of the newest days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily: Option<u64>,
    /// One of each of the newest weeks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<u64>,
    /// One of each of the newest months.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<u64>,
    /// One of each of the newest years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yearly: Option<u64>,
}

fn default_verified_at_least() -> u64 {
    VERIFIED_AT_LEAST
}

fn default_clock_tolerance_s() -> u64 {
    CLOCK_TOLERANCE_S
}

fn default_time_zone() -> String {
    "UTC".into()
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep: Keep::default(),
            keep_verified: Keep::default(),
            compliance_days: None,
            verified_at_least: default_verified_at_least(),
            without_consent_at_most: None,
            clock_tolerance_s: default_clock_tolerance_s(),
            time_zone: default_time_zone(),
            store: BTreeMap::new(),
        }
    }
}

impl Keep {
    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn all(&self) -> [(&'static str, Option<u64>); 7] {
        [
            ("last", self.last),
            ("within-days", self.within_days),
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ]
    }
}

impl Retention {
    /// Whether anything goes by rule.
    pub fn has_rules(&self) -> bool {
        !self.keep.is_empty() || !self.keep_verified.is_empty()
    }

    /// What holds in a store.
    pub fn of_store(&self, store: &str) -> &Self {
        self.store.get(store).unwrap_or(self)
    }

    /// The zone of its calendar.
    pub fn zone(&self) -> Result<jiff::tz::TimeZone> {
        jiff::tz::TimeZone::get(&self.time_zone).map_err(|_| {
            Error::invalid(format!("time-zone: there is no zone `{}`", crate::identifier::shown(&self.time_zone)))
                .hint("a name of the IANA database, like `UTC` or `Europe/Berlin`")
        })
    }

    /// Checks what can be told without looking at the world.
    pub fn check(&self) -> Result<()> {
        if self.without_consent_at_most.is_some() {
            return Err(Error::invalid("without-consent-at-most is said of a store, not of all at once")
                .hint("[environment.E.retention.SERVICE.store.STORE], with the rules that hold there"));
        }
        self.check_rules()
    }

    fn check_rules(&self) -> Result<()> {
        let wrong = |key: String, min: u64, max: u64, value: u64| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(Error::invalid(format!("`{key}` is {min} to {max}, not {value}"))),
        };
        for (table, keep) in [("keep", &self.keep), ("keep-verified", &self.keep_verified)] {
            for (key, value) in keep.all() {
                value.map_or(Ok(()), |value| wrong(format!("{table}.{key}"), 1, COUNT_MAX, value))?;
            }
        }
        self.compliance_days.map_or(Ok(()), |days| wrong("compliance-days".into(), 1, COUNT_MAX, days))?;
        wrong("verified-at-least".into(), VERIFIED_AT_LEAST, COUNT_MAX, self.verified_at_least)?;
        wrong("clock-tolerance-s".into(), 1, CLOCK_TOLERANCE_S_MAX, self.clock_tolerance_s)?;
        if let Some(count) = self.without_consent_at_most {
            wrong("without-consent-at-most".into(), 1, WITHOUT_CONSENT_MAX, count)?;
            if !self.has_rules() {
                return Err(Error::invalid("without-consent-at-most, and no rule: nothing is due")
                    .hint("it is for what `keep` and `keep-verified` of the same store let go"));
            }
        }
        self.zone()?;
        for (name, of) in &self.store {
            if !of.store.is_empty() {
                return Err(Error::invalid(format!("store {name}: rules of a store have no stores of their own")));
            }
            of.check_rules().map_err(|e| e.context(format!("store {name}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Retention, String> {
        let rules: Retention = toml::from_str(text).map_err(|e| e.to_string())?;
        rules.check().map(|()| rules).map_err(|e| e.to_string())
    }

    const GOOD: &str = r#"
time-zone = "Europe/Berlin"
compliance-days = 30
keep = { last = 7, daily = 14 }
keep-verified = { monthly = 12 }
[store.offsite]
keep = { yearly = 5 }
"#;

    #[test]
    fn rules_of_a_store_stand_for_themselves() {
        let rules = read(GOOD).unwrap();
        assert_eq!((rules.verified_at_least, rules.of_store("local").compliance_days), (2, Some(30)));
        let offsite = rules.of_store("offsite");
        assert_eq!((offsite.keep.yearly, offsite.keep.last, offsite.compliance_days), (Some(5), None, None));
        assert!(rules.has_rules() && !Retention::default().has_rules());
    }

    #[test]
    fn mistakes_are_refused() {
        for (from, to, says) in [
            ("last = 7", "lats = 7", "unknown field `lats`"),
            ("last = 7", "last = 0", "`keep.last` is 1 to"),
            ("monthly = 12", "monthly = 0", "`keep-verified.monthly` is 1 to"),
            ("compliance-days = 30", "compliance-days = 0", "compliance-days"),
            ("compliance-days = 30", "verified-at-least = 0", "`verified-at-least` is 2 to"),
            ("compliance-days = 30", "verified-at-least = 1", "`verified-at-least` is 2 to"),
            ("compliance-days = 30", "clock-tolerance-s = 0", "clock-tolerance-s"),
            ("compliance-days = 30", "clock-tolerance-s = 99999999", "clock-tolerance-s"),
            ("Europe/Berlin", "Europe/Berlni", "no zone `Europe/Berlni`"),
            ("compliance-days = 30", "without-consent-at-most = 3", "said of a store, not of all"),
            ("keep = { yearly = 5 }", "without-consent-at-most = 3", "and no rule: nothing is due"),
            (
                "keep = { yearly = 5 }",
                "keep.last = 1\nwithout-consent-at-most = 0",
                "`without-consent-at-most` is 1 to",
            ),
            (
                "keep = { yearly = 5 }",
                "keep.last = 1\nwithout-consent-at-most = 101",
                "`without-consent-at-most` is 1 to",
            ),
            ("yearly = 5", "yearly = 0", "store offsite: `keep.yearly`"),
            ("[store.offsite]", "[store.offsite.store.x]", "no stores of their own"),
        ] {
            assert!(GOOD.contains(from));
            let error = read(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
