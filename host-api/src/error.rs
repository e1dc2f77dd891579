//! The one error of the primitives.
//!
//! Rules: an error is returned, never only logged; its kind is never downgraded on the way up; whoever has more context adds it in
//! front of the message; a hint says what a person can do. No secret ever stands in a message.

use std::fmt;

/// What sort of failure it is; the cases of the contract's `types.error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not granted.
    Denied,
    /// The call's own values make no sense.
    Invalid,
    /// No such service, store, backup, version or name.
    NotFound,
    /// The world is not in the state the call needs.
    Conflict,
    /// One of the host's own safety rules says no.
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

/// A failed primitive: its kind, what happened, and what a person can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// What happened, lower case, without the hint.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

/// The result of a primitive.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Tried, and did not succeed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// The call's own values make no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// One of the host's safety rules says no.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// The world is not in the state the call needs.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// An unknown name, answered with the valid ones.
    pub fn unknown<'a>(what: &str, name: &str, valid: impl IntoIterator<Item = &'a String>) -> Self {
        let valid: Vec<&str> = valid.into_iter().map(String::as_str).collect();
        let hint = if valid.is_empty() {
            format!("no {what} is configured")
        } else {
            format!("configured: {}", valid.join(", "))
        };
        Self::new(ErrorKind::NotFound, format!("no {what} named `{}`", crate::identifier::shown(name))).hint(hint)
    }

    /// Adds what a person can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds another thing that a person can do.
    #[must_use]
    pub fn hint_more(mut self, more: &str) -> Self {
        self.hint = Some(self.hint.map_or_else(|| more.to_owned(), |hint| format!("{hint}; {more}")));
        self
    }

    /// Puts context in front of the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Adds context to an I/O result and makes it an [`Error`].
pub trait Context<T> {
    /// Says what was being done, `reading /x/y`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::failed(format!("{}: {e}", what())))
    }
}
