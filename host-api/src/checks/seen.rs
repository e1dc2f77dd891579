//! What a look gives.

use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::identifier::shown_long;
use crate::{Finding, Severity};

/// How it stands; a later one is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it must be.
    Ok,
    /// It could not be looked at, so nothing is known. Never as good as [`Level::Ok`].
    Unknown,
    /// It works, and will not for long, or not as promised.
    Warning,
    /// A backup or a recovery fails with it, or has failed.
    Critical,
}

impl Level {
    /// The word in JSON and in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// From where on a measure is no good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Above this.
    Above(f64),
    /// Below this.
    Below(f64),
}

/// A number that a look found, for whoever draws curves.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measure {
    /// What of the check it is: `age`, `free`.
    pub label: String,
    /// How much.
    pub value: f64,
    /// `s`, `B`, or nothing for a count.
    pub unit: &'static str,
    /// From where on it is a warning.
    pub warning: Option<Bound>,
    /// From where on it is critical.
    pub critical: Option<Bound>,
}

impl Measure {
    /// A measure without bounds.
    pub fn new(label: &str, value: f64, unit: &'static str) -> Self {
        Self { label: label.into(), value, unit, warning: None, critical: None }
    }

    /// Sets the bounds.
    #[must_use]
    pub fn bounds(mut self, warning: Option<Bound>, critical: Option<Bound>) -> Self {
        (self.warning, self.critical) = (warning, critical);
        self
    }
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Seen {
    /// How it stands.
    pub level: Level,
    /// What was found, in a line; safe to print.
    pub message: String,
    /// What a person can do; empty where nothing is to be done.
    pub fix: String,
    /// Numbers.
    pub measures: Vec<Measure>,
}

impl Seen {
    /// At a level.
    pub fn new(level: Level, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        // Words of tools, servers and stores are among these.
        let (message, fix) = (shown_long(message.as_ref()), shown_long(fix.as_ref()));
        Self { level, message, fix, measures: Vec::new() }
    }

    /// As it must be.
    pub fn ok(message: impl AsRef<str>) -> Self {
        Self::new(Level::Ok, message, "")
    }

    /// It could not be looked at.
    pub fn unknown(message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self::new(Level::Unknown, message, fix)
    }

    /// It works, and will not for long, or not as promised.
    pub fn warning(message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self::new(Level::Warning, message, fix)
    }

    /// A backup or a recovery fails with it.
    pub fn critical(message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self::new(Level::Critical, message, fix)
    }

    /// What an error says. `silence`: what it means where there was no answer in time; `failure`: what any other means.
    pub fn of(error: &Error, silence: Level, failure: Level) -> Self {
        let level = match error.kind {
            ErrorKind::TimedOut | ErrorKind::Cancelled => silence,
            _ => failure,
        };
        Self::new(level, &error.message, error.hint.as_deref().unwrap_or_default())
    }

    /// What findings say together: the worst level, and all of the words. `fine`: the words where there is none.
    pub fn of_findings(findings: &[Finding], fine: impl AsRef<str>) -> Self {
        let level = |finding: &Finding| match finding.severity {
            Severity::Info => Level::Ok,
            Severity::Warning => Level::Warning,
            Severity::Error => Level::Critical,
        };
        let Some(worst) = findings.iter().map(level).max() else { return Self::ok(fine) };
        let all = |part: fn(&Finding) -> &str| {
            let mut words: Vec<&str> = findings.iter().map(part).filter(|words| !words.is_empty()).collect();
            words.dedup();
            words.join("; ")
        };
        Self::new(worst, all(|f| &f.message), all(|f| &f.fix))
    }

    /// With a measure.
    #[must_use]
    pub fn with(mut self, measure: Measure) -> Self {
        self.measures.push(measure);
        self
    }

    /// At least at this level.
    #[must_use]
    pub fn at_least(mut self, level: Level) -> Self {
        self.level = self.level.max(level);
        self
    }

    /// Room for something: `free` bytes at `place`, where `needed` are needed once. Less than that is critical, less than twice is a
    /// warning.
    pub fn space(place: &str, free: u64, needed: u64, what: &str) -> Self {
        let words = |bytes: u64| decimal(bytes);
        let message = format!("{place} has {} free; {what}: {}", words(free), words(needed));
        let fix = "make room, or configure another place";
        let seen = match free {
            free if free < needed => Self::critical(message, fix),
            free if free < needed.saturating_mul(2) => Self::warning(message, fix),
            _ => Self::ok(message),
        };
        let (warning, critical) = (needed.saturating_mul(2) as f64, needed as f64);
        let bounds = (Some(Bound::Below(warning)), Some(Bound::Below(critical)));
        seen.with(Measure::new("free", free as f64, "B").bounds(bounds.0, bounds.1))
    }
}

/// Less than this is none, seconds.
const OFFSET_NONE_S: f64 = 0.1;
/// From where on another clock is not ours, seconds: far above what NTP leaves, far below what makes an order of backups wrong.
const OFFSET_WARNING_S: f64 = 2.0;
/// From where on ages, holds and approvals are wrong by something that matters.
const OFFSET_CRITICAL_S: f64 = 60.0;

/// Another clock held against ours: it said `theirs_ms` between our `before_ms` and `after_ms`, so that less than the time between these
/// tells nothing.
pub fn offset(whose: &str, theirs_ms: u64, before_ms: u64, after_ms: u64) -> Seen {
    let ahead = theirs_ms.saturating_sub(after_ms) as f64 / 1000.0;
    let behind = before_ms.saturating_sub(theirs_ms) as f64 / 1000.0;
    let (by, words) = if ahead > 0.0 { (ahead, "ahead of") } else { (behind, "behind") };
    let message = match by {
        by if by < OFFSET_NONE_S => {
            let asking = after_ms.saturating_sub(before_ms) as f64 / 1000.0;
            format!("the clock of {whose} is ours, within {:.1} s", (by + asking).max(OFFSET_NONE_S))
        }
        by => format!("the clock of {whose} is {by:.1} s {words} ours"),
    };
    let fix = "let both machines keep their time by NTP: ages, holds and the order of backups depend on it";
    let seen = match by {
        by if by > OFFSET_CRITICAL_S => Seen::critical(message, fix),
        by if by > OFFSET_WARNING_S => Seen::warning(message, fix),
        _ => Seen::ok(message),
    };
    let bounds = [OFFSET_WARNING_S, OFFSET_CRITICAL_S].map(|bound| Some(Bound::Above(bound)));
    seen.with(Measure::new("offset", by, "s").bounds(bounds[0], bounds[1]))
}

/// `1.5 GB`; decimal units, as disks are sold.
fn decimal(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_clock_is_told_apart_by_more_than_the_question_took() {
        let level = |theirs, before, after| offset("db", theirs, before, after).level;
        assert_eq!(level(1_000_500, 1_000_000, 1_001_000), Level::Ok);
        assert_eq!(level(1_002_900, 1_000_000, 1_001_000), Level::Ok, "less than two seconds");
        assert_eq!(level(1_004_000, 1_000_000, 1_001_000), Level::Warning);
        assert_eq!(level(996_000, 1_000_000, 1_001_000), Level::Warning);
        assert_eq!(level(900_000, 1_000_000, 1_001_000), Level::Critical);
        let seen = offset("db", 0, u64::MAX, u64::MAX);
        assert!(seen.level == Level::Critical && seen.message.contains("behind ours"), "{seen:?}");
    }

    #[test]
    fn room_for_one_is_a_warning_and_less_is_critical() {
        for (free, level) in [(99, Level::Critical), (100, Level::Warning), (199, Level::Warning), (200, Level::Ok)] {
            assert_eq!(Seen::space("/x", free, 100, "needed").level, level, "{free}");
        }
    }

    #[test]
    fn findings_count_as_the_worst_and_all_are_said() {
        let findings = [Finding::warning("a", "one", "do this"), Finding::error("b", "two\u{1b}[2J", "do this")];
        let seen = Seen::of_findings(&findings, "fine");
        assert_eq!((seen.level, seen.fix.as_str()), (Level::Critical, "do this"));
        assert!(seen.message.starts_with("one; two") && !seen.message.contains('\u{1b}'), "{seen:?}");
        assert_eq!(Seen::of_findings(&[], "fine"), Seen::ok("fine"));
    }
}
