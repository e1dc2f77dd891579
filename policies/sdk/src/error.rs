//! The one error of policies.
//!
//! Its kinds are the cases of the contract's `types.error`, so that a policy can tell a denial from a failure. Whoever has more context
//! puts it in front; the kind is never changed on the way up.

use std::fmt;

use crate::bindings::lifeboat::recovery::types;

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Not granted.
    Denied,
    /// The call's own values make no sense.
    Invalid,
    /// No such service, store, backup, version or name.
    NotFound,
    /// The world is not in the state the call needs.
    Conflict,
    /// One of the host's safety rules says no.
    Refused,
    /// A person said no.
    Rejected,
    /// An approval came too late, or what it was for has changed.
    Expired,
    /// Tried, and did not succeed.
    Failed,
    /// Tried, and did not end in time.
    TimedOut,
    /// The run was cancelled or is past its deadline.
    Cancelled,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// The contract's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}

/// Why a call, or a policy's own step, has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of a step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a policy's own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Puts what was being done in front.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Self {
        Self { message: format!("{doing}: {}", self.message), ..self }
    }

    /// Tried, and the data or the service did not hold: the answer to a check, not a check that could not run.
    pub fn is_about_the_subject(&self) -> bool {
        matches!(self.kind, ErrorKind::Failed | ErrorKind::TimedOut | ErrorKind::Refused)
    }

    /// A person, or the time they had, decided against it.
    pub fn is_a_no(&self) -> bool {
        matches!(self.kind, ErrorKind::Rejected | ErrorKind::Expired)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        use types::Error as E;
        let (kind, message) = match error {
            E::Denied(text) => (ErrorKind::Denied, text),
            E::Invalid(text) => (ErrorKind::Invalid, text),
            E::NotFound(text) => (ErrorKind::NotFound, text),
            E::Conflict(text) => (ErrorKind::Conflict, text),
            E::Refused(text) => (ErrorKind::Refused, text),
            E::Rejected(text) => (ErrorKind::Rejected, text),
            E::Expired(text) => (ErrorKind::Expired, text),
            E::Failed(text) => (ErrorKind::Failed, text),
            E::TimedOut(text) => (ErrorKind::TimedOut, text),
            E::Cancelled => (ErrorKind::Cancelled, "the run was cancelled or is past its deadline".to_owned()),
            E::Other(text) => (ErrorKind::Other, text),
        };
        Self { kind, message }
    }
}
