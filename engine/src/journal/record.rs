//! What a record says, and which may follow which.

use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// Version of the records that are written. Those of version 1 had no actor and channel on each, and withheld nothing.
pub(crate) const RECORD_VERSION: u64 = 2;

/// A record as read back.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place in the log, from 1.
    pub seq: u64,
    /// The run it belongs to.
    pub run: String,
    /// When it was written, Unix milliseconds.
    pub time_ms: u64,
    /// What it says.
    pub kind: Transition,
    /// The whole record.
    pub body: Value,
}

/// Who acts, and by which way: on every record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// `alice@host`.
    pub actor: String,
    /// `cli`, `embedded`.
    pub channel: String,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// A run began: policy, module, grants, parameters, actor.
    RunStarted,
    /// A call with its answer in one record: a read, or a call that was denied or came after a cancellation.
    Answered,
    /// An attempt at an effect begins: the first one, or another one after the engine died in the one before.
    Started,
    /// An effect happened, or failed cleanly: its result.
    Completed,
    /// The run waits for a person or a time; nothing is held.
    Parked,
    /// Someone goes on with it.
    Resumed,
    /// A person said what came of a step in doubt.
    Resolved,
    /// A person asked for the run's end.
    CancelRequested,
    /// The policy is over, and how it came out; what is open is settled now. It is not called again.
    Ending,
    /// An obligation was settled, or could not be.
    Settled,
    /// An approver voted on an intent of the run.
    Voted,
    /// The run is over.
    RunEnded,
    /// The log's signing key changed: a run of this one record.
    KeyRotated,
}

/// Every transition, once.
const ALL: [Transition; 13] = [
    Transition::RunStarted,
    Transition::Answered,
    Transition::Started,
    Transition::Completed,
    Transition::Parked,
    Transition::Resumed,
    Transition::Resolved,
    Transition::CancelRequested,
    Transition::Ending,
    Transition::Settled,
    Transition::Voted,
    Transition::RunEnded,
    Transition::KeyRotated,
];

impl Transition {
    /// The word in the record.
    pub fn word(self) -> &'static str {
        match self {
            Self::RunStarted => "run-started",
            Self::Answered => "answered",
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Parked => "parked",
            Self::Resumed => "resumed",
            Self::Resolved => "resolved",
            Self::CancelRequested => "cancel-requested",
            Self::Ending => "ending",
            Self::Settled => "settled",
            Self::Voted => "voted",
            Self::RunEnded => "run-ended",
            Self::KeyRotated => "key-rotated",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        ALL.into_iter().find(|t| t.word() == word)
    }
}

/// Where a run stands after some of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// No record yet.
    New,
    /// Between steps.
    Running,
    /// An effect was started and has not completed.
    InStep(u64),
    /// Waiting; the step it waits in, if any.
    Parked(Option<u64>),
    /// The policy is over, what is open is being settled.
    Ending,
    /// Over.
    Ended,
}

impl Stand {
    /// The one place that says what may follow what: used to append, and to validate a log when it is read.
    pub fn next(self, record: Transition, step: Option<u64>) -> Result<Self> {
        use Transition as T;
        let next = match (self, record) {
            (Self::New, T::RunStarted) => Some(Self::Running),
            (Self::Running, T::Answered) => Some(Self::Running),
            (Self::New, T::KeyRotated) => Some(Self::Ended),
            (Self::Running, T::Started) => step.map(Self::InStep),
            // Another attempt, after the engine died in the one before.
            (Self::InStep(open), T::Started | T::Completed) if step != Some(open) => None,
            (Self::InStep(open), T::Started) => Some(Self::InStep(open)),
            (Self::InStep(_), T::Completed) => Some(Self::Running),
            // A confirmation waits inside its step, and so does a step in doubt.
            (Self::InStep(open), T::Parked) => Some(Self::Parked(Some(open))),
            (Self::Running, T::Parked) => Some(Self::Parked(None)),
            (Self::Parked(None), T::Resumed) => Some(Self::Running),
            (Self::Parked(Some(open)), T::Resumed) => Some(Self::InStep(open)),
            (Self::Parked(Some(open)), T::Resolved) if step == Some(open) => Some(Self::Parked(None)),
            // Its engine died. Whoever appends this holds the run's lock: two can't go on with one run.
            (Self::Running | Self::InStep(_) | Self::Ending, T::Resumed) => Some(self),
            // The step that a trap or a deadline cut off stays in doubt on record.
            (Self::Running | Self::InStep(_) | Self::Parked(_), T::Ending) => Some(Self::Ending),
            (Self::Running | Self::InStep(_) | Self::Parked(_) | Self::Ending, T::Settled | T::CancelRequested) => {
                Some(self)
            }
            // Whoever works on the run, or nobody: a vote comes from outside, and moves nothing.
            (Self::Running | Self::InStep(_) | Self::Parked(_), T::Voted) => Some(self),
            (Self::Running | Self::InStep(_) | Self::Parked(_) | Self::Ending, T::RunEnded) => Some(Self::Ended),
            (Self::New | Self::Ended, _)
            | (_, T::RunStarted | T::KeyRotated)
            | (Self::Running, T::Completed | T::Resolved)
            | (Self::InStep(_), T::Answered | T::Resolved)
            | (Self::Parked(_), T::Answered | T::Started | T::Completed | T::Parked | T::Resolved)
            | (
                Self::Ending,
                T::Answered | T::Started | T::Completed | T::Parked | T::Resolved | T::Ending | T::Voted,
            ) => None,
        };
        next.ok_or_else(|| {
            Error::new(
                Kind::Journal,
                format!("a record `{}` (step {step:?}) can't follow: the run stands at {self:?}", record.word()),
            )
        })
    }

    /// As it stands in a run's row. A step leaves the row as it is: whether the run is in one, its records tell.
    pub(crate) fn word(self) -> String {
        match self {
            Self::New => "new".into(),
            Self::Running | Self::InStep(_) => RUNNING.into(),
            Self::Parked(None) => "parked".into(),
            Self::Parked(Some(step)) => format!("parked {step}"),
            Self::Ending => "ending".into(),
            Self::Ended => "ended".into(),
        }
    }

    /// Whether a run's row says the same of both.
    pub(crate) fn has_row_of(self, other: Self) -> bool {
        let in_or_between = |stand| matches!(stand, Self::Running | Self::InStep(_));
        self == other || in_or_between(self) && in_or_between(other)
    }

    /// Reads the word, and of a running run the last of those of its records that begin or end a step ([`TELLING`]).
    pub(crate) fn parse(word: &str, last: Option<(Transition, Option<u64>)>) -> Option<Self> {
        let (kind, step) = match word.split_once(' ') {
            Some((kind, step)) => (kind, Some(step.parse().ok()?)),
            None => (word, None),
        };
        Some(match (kind, step) {
            ("new", None) => Self::New,
            // Earlier engines write the step as well, also beside us: the records know better.
            (RUNNING, None) | ("in-step", Some(_)) => match last? {
                (Transition::Started, step) => Self::InStep(step?),
                _ => Self::Running,
            },
            ("parked", step) => Self::Parked(step),
            ("ending", None) => Self::Ending,
            ("ended", None) => Self::Ended,
            _ => return None,
        })
    }
}

const RUNNING: &str = "running";

/// Kinds of records of which the last tells whether a running run is in a step, as in SQL. What else may come in between moves nothing, or
/// leads back to where it was.
macro_rules! telling {
    () => {
        "('run-started', 'answered', 'started', 'completed', 'resolved')"
    };
}
pub(super) use telling;

#[cfg(test)]
mod tests {
    use super::*;
    use Transition as T;

    fn follow(records: &[(T, Option<u64>)]) -> Result<Stand> {
        records.iter().try_fold(Stand::New, |stand, (record, step)| stand.next(*record, *step))
    }

    #[test]
    fn a_run_with_a_step_and_a_wait_is_legal() {
        let records = [
            (T::RunStarted, None),
            (T::Answered, Some(1)),
            (T::Started, Some(2)),
            (T::Voted, None),
            (T::Parked, Some(2)),
            (T::Voted, None),
            (T::Resumed, None),
            (T::Completed, Some(2)),
            (T::Voted, None),
            (T::RunEnded, None),
        ];
        assert_eq!(follow(&records).unwrap(), Stand::Ended);
    }

    #[test]
    fn a_run_goes_on_after_its_engine_died_wherever_it_stood() {
        let records = [
            (T::RunStarted, None),
            (T::Resumed, None),
            (T::Started, Some(1)),
            (T::Resumed, None),
            (T::Started, Some(1)),
            (T::Parked, Some(1)),
            (T::CancelRequested, None),
            (T::Resolved, Some(1)),
            (T::Resumed, None),
            (T::Started, Some(2)),
            (T::Ending, None),
            (T::Settled, None),
            (T::Resumed, None),
            (T::Settled, None),
            (T::RunEnded, None),
        ];
        assert_eq!(follow(&records).unwrap(), Stand::Ended);
    }

    #[test]
    fn a_row_and_the_records_that_tell_say_where_a_run_stands_after_whatever_may_follow() {
        // What is told after all that there can be of so many records: the row's word, and the last telling record.
        type Told = (Stand, String, Option<(T, Option<u64>)>);
        let mut all: Vec<Told> = vec![(Stand::New, Stand::New.word(), None)];
        let mut seen = 0;
        for _ in 0..6 {
            let mut after = Vec::new();
            for (stand, word, last) in &all {
                for (record, step) in ALL.into_iter().flat_map(|r| [None, Some(1), Some(2)].map(|step| (r, step))) {
                    let Ok(next) = stand.next(record, step) else { continue };
                    // As records are appended.
                    let word = if stand.has_row_of(next) { word.clone() } else { next.word() };
                    let tells = telling!().contains(&format!("'{}'", record.word()));
                    let last = if tells { Some((record, step)) } else { *last };
                    assert_eq!(Stand::parse(&word, last), Some(next), "{record:?} {step:?} after {stand:?}");
                    after.push((next, word, last));
                }
            }
            after.sort_by_key(|told| format!("{told:?}"));
            after.dedup();
            seen += after.len();
            all = after;
        }
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn every_word_is_read_again() {
        for transition in ALL {
            assert_eq!(Transition::parse(transition.word()), Some(transition));
        }
    }

    #[test]
    fn illegal_orders_are_refused() {
        for records in [
            vec![(T::Started, Some(1))],
            vec![(T::RunStarted, None), (T::Completed, Some(1))],
            vec![(T::RunStarted, None), (T::Started, Some(1)), (T::Completed, Some(2))],
            vec![(T::RunStarted, None), (T::Started, Some(1)), (T::Started, Some(2))],
            vec![(T::RunStarted, None), (T::RunEnded, None), (T::Answered, Some(1))],
            vec![(T::RunStarted, None), (T::RunEnded, None), (T::Voted, None)],
            vec![(T::Voted, None)],
            vec![(T::RunStarted, None), (T::RunStarted, None)],
            vec![(T::RunStarted, None), (T::Started, Some(1)), (T::Resolved, Some(1))],
            vec![(T::RunStarted, None), (T::Started, Some(1)), (T::Parked, Some(1)), (T::Resolved, Some(2))],
            vec![(T::RunStarted, None), (T::Ending, None), (T::Answered, Some(1))],
            vec![(T::RunStarted, None), (T::Ending, None), (T::Ending, None)],
            vec![(T::RunStarted, None), (T::Ending, None), (T::Voted, None)],
            vec![(T::RunStarted, None), (T::RunEnded, None), (T::Resumed, None)],
            vec![(T::RunStarted, None), (T::KeyRotated, None)],
            vec![(T::KeyRotated, None), (T::RunStarted, None)],
        ] {
            assert!(follow(&records).is_err(), "{records:?}");
        }
    }
}
