//! Rows of the derived tables, and the changes that records bring about in them.

use host_api::promote::Promotion;
use host_api::restore::{Candidate, Verification};
use serde::Serialize;
use serde_json::Value;

/// What a run's digests of withheld values begin with, 32 random bytes: without it, a short value could be guessed from its digest.
#[derive(Clone)]
pub struct Salt(pub [u8; 32]);

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt")
    }
}

/// A run, as listed.
#[derive(Debug, Clone, Default)]
pub struct RunRow {
    /// Its id.
    pub id: String,
    /// Environment it ran in.
    pub environment: String,
    /// Policy's name.
    pub policy: String,
    /// SHA-256 of the module.
    pub module_sha256: String,
    /// `running`, `parked`, or how it ended.
    pub status: String,
    /// In a line.
    pub summary: String,
    /// Unix milliseconds.
    pub started_ms: u64,
    /// Unix milliseconds.
    pub ended_ms: Option<u64>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only those with this status.
    pub status: Option<String>,
    /// Only those of this policy.
    pub policy: Option<String>,
    /// At most so many, the newest.
    pub limit: Option<u32>,
}

/// A run with what it was started for: the contract's `schedule.past-run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PastRun {
    /// Its id.
    pub id: String,
    /// The duty it was started for; none if a person started it.
    pub duty: Option<String>,
    /// The slot of that duty, Unix milliseconds.
    pub slot_ms: Option<u64>,
    /// `running`, `parked`, or how it ended.
    pub status: String,
    /// Unix milliseconds.
    pub started_ms: u64,
    /// Unix milliseconds.
    pub ended_ms: Option<u64>,
    /// The service it was told to work on, by its parameter `service`.
    pub service: Option<String>,
}

/// A candidate and what is known of it.
#[derive(Debug, Clone)]
pub struct CandidateRow {
    /// The run that staged it.
    pub run: String,
    /// `staging`, `staged`, `discarded`, `promoted`.
    pub state: String,
    /// The candidate; its id only while it is being staged.
    pub candidate: Option<Candidate>,
    /// Its id.
    pub id: String,
    /// Its newest verification, passed or not.
    pub verification: Option<Verification>,
}

/// A promotion and where it stands.
#[derive(Debug, Clone)]
pub struct PromotionRow {
    /// The run that promoted.
    pub run: String,
    /// Environment.
    pub environment: String,
    /// `promoting`, `in-service`, `taken-back` (it failed, and everything is as before), `mixed` (it failed half-way), `undoing`, `undone`,
    /// `undo-failed`, `dropped` (the previous is gone).
    pub state: String,
    /// The promotion.
    pub promotion: Promotion,
}

/// Where an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalState {
    /// Nobody has answered.
    Open,
    /// Given, not used.
    Approved,
    /// A person said no.
    Denied,
    /// Used by its step.
    Spent,
    /// Too late.
    Expired,
    /// What it was asked for has changed.
    Stale,
}

impl ApprovalState {
    /// The word in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Spent => "spent",
            Self::Expired => "expired",
            Self::Stale => "stale",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        [Self::Open, Self::Approved, Self::Denied, Self::Spent, Self::Expired, Self::Stale]
            .into_iter()
            .find(|s| s.word() == word)
    }
}

/// An approval and its intent.
#[derive(Debug, Clone)]
pub struct ApprovalRow {
    /// Its id.
    pub id: String,
    /// The run that asked.
    pub run: String,
    /// Where it stands.
    pub state: ApprovalState,
    /// What it is for, canonical JSON.
    pub intent: Value,
    /// SHA-256 of that text.
    pub intent_sha256: String,
    /// Who decided.
    pub decided_by: Option<String>,
    /// How: `signatures`, `break-glass`, `typed-phrase`, `yes-flag`, …
    pub how: Option<String>,
}

/// Something a run opened and must close.
#[derive(Debug, Clone)]
pub struct ObligationRow {
    /// Its number.
    pub id: i64,
    /// The run that opened it.
    pub run: String,
    /// `service-stopped`, `candidate`, `instance`.
    pub kind: String,
    /// Service's name, candidate's or instance's id.
    pub object: String,
    /// `start`, `leave`, `discard`, `stop`.
    pub if_aborted: String,
    /// What settling needs to know.
    pub body: Value,
    /// `open`, `closed`, `settled`, `unsettled`.
    pub state: String,
    /// Why it could not be settled.
    pub note: String,
}

/// A change of a derived table, made in the same transaction as the record it comes from.
#[derive(Debug, Clone)]
pub enum Change {
    /// A run begins.
    RunBegins(RunRow),
    /// A run's status: status, summary, end.
    RunStatus(String, String, Option<u64>),
    /// The run has a service from here on; refused (and with it the whole transaction) while another run has it.
    ServiceHeld(String),
    /// The run lets go of every service it has.
    ServicesLetGo,
    /// A candidate is being staged: id.
    CandidateBegins(String),
    /// It is there.
    CandidateStaged(Box<Candidate>),
    /// What its newest verification found; none where it could not be read back.
    CandidateVerified(String, Option<Box<Verification>>),
    /// `discarded`, `promoted`, `staged`.
    CandidateState(String, &'static str),
    /// A promotion is about to happen: environment, promotion.
    PromotionBegins(String, Box<Promotion>),
    /// See [`PromotionRow::state`].
    PromotionState(String, &'static str),
    /// An approval is asked for: id, step, intent text and digest.
    ApprovalOpens(String, u64, String, String),
    /// A vote on an approval: id, votes of the run before it. Refused (and with it the whole transaction) if another vote came in between,
    /// or the approval is over.
    VoteCounted(String, u64),
    /// It is decided: id, state, who, how. One that is open; or, unless to approve it again in the same way, one that is approved and unspent.
    ApprovalDecided(String, ApprovalState, String, String),
    /// An approval is used; refused (and with it the whole transaction) unless it is approved, of this run and for this intent.
    ApprovalSpent(String, String),
    /// An obligation opens: kind, object, if aborted, body.
    ObligationOpens(&'static str, String, String, Value),
    /// All open obligations of this kind and object close: kind, object.
    ObligationCloses(&'static str, String),
    /// One was settled or could not be: id, state, note.
    ObligationSettled(i64, &'static str, String),
    /// What a step's record withholds is kept until the run ends: step, JSON text of the whole result, the run's salt.
    Withholds(u64, String, Salt),
    /// The log is signed by another key from here on: epoch, its verifier.
    KeyRotates(u64, String),
}
