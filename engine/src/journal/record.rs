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
    /// An effect is about to happen.
    Started,
    /// An effect happened, or failed cleanly: its result.
    Completed,
    /// The run waits for a person or a time; nothing is held.
    Parked,
    /// Someone goes on with it.
    Resumed,
    /// An obligation was settled, or could not be.
    Settled,
    /// The run is over.
    RunEnded,
    /// The log's signing key changed: a run of this one record.
    KeyRotated,
}

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
            Self::Settled => "settled",
            Self::RunEnded => "run-ended",
            Self::KeyRotated => "key-rotated",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::RunStarted,
            Self::Answered,
            Self::Started,
            Self::Completed,
            Self::Parked,
            Self::Resumed,
            Self::Settled,
            Self::RunEnded,
            Self::KeyRotated,
        ]
        .into_iter()
        .find(|t| t.word() == word)
    }
}

/// Where a run stands after some of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// No record yet.
    New,
    /// Between steps.
    Running,
    /// An effect was started and has not completed.
    InStep(u64),
    /// Waiting; the step it waits in, if any.
    Parked(Option<u64>),
    /// Over.
    Ended,
}

impl Stand {
    /// The one place that says what may follow what: used to append, and to validate a log when it is read.
    pub(crate) fn next(self, record: Transition, step: Option<u64>) -> Result<Self> {
        use Transition as T;
        let next = match (self, record) {
            (Self::New, T::RunStarted) => Some(Self::Running),
            (Self::New, T::KeyRotated) => Some(Self::Ended),
            (Self::Running, T::Answered | T::Settled) => Some(Self::Running),
            (Self::Running, T::Started) => step.map(Self::InStep),
            (Self::InStep(open), T::Completed) if step == Some(open) => Some(Self::Running),
            // A confirmation waits inside its step.
            (Self::InStep(open), T::Parked) => Some(Self::Parked(Some(open))),
            (Self::Running, T::Parked) => Some(Self::Parked(None)),
            (Self::Parked(None), T::Resumed) => Some(Self::Running),
            (Self::Parked(Some(open)), T::Resumed) => Some(Self::InStep(open)),
            // A trap or a deadline may end a run inside a step; the step stays in doubt on record.
            (Self::Running | Self::InStep(_), T::RunEnded) => Some(Self::Ended),
            (Self::InStep(_) | Self::Parked(_), T::Settled) => Some(self),
            (Self::Parked(_), T::RunEnded) => Some(Self::Ended),
            (Self::New, _)
            | (Self::Ended, _)
            | (_, T::RunStarted | T::KeyRotated)
            // Two that resume one run at once: the second one finds it running.
            | (Self::Running | Self::InStep(_), T::Resumed)
            | (Self::InStep(_), T::Answered | T::Started | T::Completed)
            | (Self::Running, T::Completed)
            | (Self::Parked(_), T::Answered | T::Started | T::Completed | T::Parked) => None,
        };
        next.ok_or_else(|| {
            Error::new(
                Kind::Journal,
                format!("a record `{}` (step {step:?}) can't follow: the run stands at {self:?}", record.word()),
            )
        })
    }
}

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
            (T::Parked, Some(2)),
            (T::Resumed, None),
            (T::Completed, Some(2)),
            (T::RunEnded, None),
        ];
        assert_eq!(follow(&records).unwrap(), Stand::Ended);
    }

    #[test]
    fn illegal_orders_are_refused() {
        for records in [
            vec![(T::Started, Some(1))],
            vec![(T::RunStarted, None), (T::Completed, Some(1))],
            vec![(T::RunStarted, None), (T::Started, Some(1)), (T::Completed, Some(2))],
            vec![(T::RunStarted, None), (T::Started, Some(1)), (T::Started, Some(2))],
            vec![(T::RunStarted, None), (T::RunEnded, None), (T::Answered, Some(1))],
            vec![(T::RunStarted, None), (T::RunStarted, None)],
            vec![(T::RunStarted, None), (T::KeyRotated, None)],
            vec![(T::KeyRotated, None), (T::RunStarted, None)],
            vec![(T::RunStarted, None), (T::Parked, None), (T::Resumed, None), (T::Resumed, None)],
            vec![
                (T::RunStarted, None),
                (T::Started, Some(1)),
                (T::Parked, Some(1)),
                (T::Resumed, None),
                (T::Resumed, None),
            ],
        ] {
            assert!(follow(&records).is_err(), "{records:?}");
        }
    }
}
