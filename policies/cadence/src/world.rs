//! What a cadence knows of the world: asked of the host, or of a world that a test makes up.

use lifeboat_policy::{Result, catalog, schedule};

/// A run on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub id: String,
    pub duty: Option<String>,
    pub slot_ms: Option<u64>,
    pub status: String,
    pub started_ms: u64,
    pub ended_ms: Option<u64>,
    pub service: Option<String>,
}

impl Past {
    /// Whether all of it was done.
    pub fn is_good(&self) -> bool {
        matches!(self.status.as_str(), "ok" | "nothing-to-do")
    }
}

/// What was promised, and what the service removes by itself.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub rpo_ms: Option<u64>,
    pub drill_every_ms: Option<u64>,
    pub prunes: Vec<(String, u64)>,
    pub unread: Vec<(String, String)>,
}

/// The questions a cadence asks.
pub trait World {
    /// When the newest backup in a store was taken; with `verified`, the newest that was proven.
    fn newest(&mut self, store: &str, verified: bool) -> Result<Option<u64>>;
    /// The newest runs of a policy, or those that were started for a duty; newest first.
    fn runs(&mut self, policy: &str, duty: Option<&str>) -> Result<Vec<Past>>;
    /// The newest time of a calendar at or before a time.
    fn previous(&mut self, calendar: &str, at_ms: u64) -> Result<Option<u64>>;
    /// The first one after it.
    fn next(&mut self, calendar: &str, after_ms: u64) -> Result<Option<u64>>;
}

/// The host's.
pub struct Host<'a> {
    pub service: &'a str,
    pub zone: &'a str,
}

impl Host<'_> {
    pub fn terms(&self) -> Result<Terms> {
        let terms = schedule::terms_of(self.service)?;
        Ok(Terms {
            rpo_ms: terms.rpo_ms(),
            drill_every_ms: terms.drill_every_ms(),
            prunes: terms.prunes(),
            unread: terms.unread(),
        })
    }
}

impl World for Host<'_> {
    fn newest(&mut self, store: &str, verified: bool) -> Result<Option<u64>> {
        Ok(catalog::latest(self.service, store, verified)?.map(|backup| backup.taken_at_ms()))
    }

    fn runs(&mut self, policy: &str, duty: Option<&str>) -> Result<Vec<Past>> {
        let past = |run: schedule::PastRun| Past {
            id: run.id(),
            duty: run.duty(),
            slot_ms: run.slot_ms(),
            status: run.status(),
            started_ms: run.started_ms(),
            ended_ms: run.ended_ms(),
            service: run.service(),
        };
        Ok(schedule::runs(policy, duty)?.into_iter().map(past).collect())
    }

    fn previous(&mut self, calendar: &str, at_ms: u64) -> Result<Option<u64>> {
        Ok(schedule::previous_time(calendar, self.zone, at_ms)?)
    }

    fn next(&mut self, calendar: &str, after_ms: u64) -> Result<Option<u64>> {
        Ok(schedule::next_time(calendar, self.zone, after_ms)?)
    }
}
