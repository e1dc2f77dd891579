//! The engine's one error.
//!
//! Rules: whoever finds it names it; a kind is never downgraded on the way up; the exit code hangs on the kind; a hint says what a person can
//! do. What a *policy* run came to is no error of the engine: it is an [`crate::run::Ended`].

use std::fmt;

/// What sort of failure it is, and with it the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Tried, and failed.
    Failed,
    /// The command line or a parameter makes no sense.
    Usage,
    /// The configuration is missing or wrong.
    Configuration,
    /// Another run works on the same service.
    LockHeld,
    /// The module is refused: not a component, another world, imports what does not exist or is not granted.
    PolicyRefused,
    /// A verification found something, or could not run.
    VerificationFailed,
    /// The journal could not be written or read.
    Journal,
    /// A step's outcome is unknown.
    InDoubt,
    /// Another engine has taken over the run.
    TakenOver,
    /// The shared state can't be reached.
    StateAway,
    /// An approval is not good (any more) for what it was to be used for.
    NotApproved,
}

/// A failure of the engine: its kind, what happened, and what a person can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What sort of failure it is.
    pub kind: Kind,
    /// What happened, lower case.
    pub message: String,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// Where in the configuration file, as a byte range.
    pub span: Option<std::ops::Range<usize>>,
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, span: None }
    }

    /// An unknown name, answered with the valid ones.
    pub fn unknown<'a>(what: &str, name: &str, valid: impl IntoIterator<Item = &'a str>) -> Self {
        let valid: Vec<&str> = valid.into_iter().collect();
        let name = host_api::identifier::shown(name);
        let error = Self::new(Kind::Configuration, format!("no {what} named `{name}`"));
        if valid.is_empty() {
            return error.hint(format!("there is no {what} at all"));
        }
        match nearest(&name, &valid) {
            Some(near) => error.hint(format!("did you mean `{near}`? there is: {}", valid.join(", "))),
            None => error.hint(format!("there is: {}", valid.join(", "))),
        }
    }

    /// Adds what a person can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says where in the configuration file.
    #[must_use]
    pub fn at(mut self, span: std::ops::Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// Puts context in front of the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The documented exit code.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed | Kind::Journal | Kind::StateAway => 1,
            Kind::Usage => 2,
            Kind::VerificationFailed => 5,
            Kind::Configuration => 10,
            Kind::LockHeld | Kind::TakenOver => 11,
            Kind::PolicyRefused => 12,
            Kind::NotApproved => 14,
            Kind::InDoubt => 15,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<host_api::Error> for Error {
    fn from(e: host_api::Error) -> Self {
        let kind = match e.kind {
            host_api::ErrorKind::Invalid => Kind::Usage,
            _ => Kind::Failed,
        };
        Self { kind, message: e.message, hint: e.hint, span: None }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        let error = Self::new(Kind::Journal, format!("the state database: {e}"));
        if is_disk(&e) { error.hint(DISK_HINT) } else { error }
    }
}

/// What to do when the state's disk fails us.
pub(crate) const DISK_HINT: &str = "the disk of the state directory is full or failing: make room there, and try again";

/// Whether the disk, not the database on it, is what failed.
pub(crate) fn is_disk(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as C;
    matches!(e.sqlite_error_code(), Some(C::DiskFull | C::SystemIoFailure))
}

/// The valid name that differs least, if it differs little.
fn nearest<'a>(name: &str, valid: &[&'a str]) -> Option<&'a str> {
    valid.iter().copied().map(|v| (distance(name, v), v)).filter(|(d, _)| *d <= 2).min().map(|(_, v)| v)
}

/// Levenshtein distance; names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_all() {
        let error = Error::unknown("policy", "bakup", ["backup", "drill"]);
        assert_eq!(error.message, "no policy named `bakup`");
        assert_eq!(error.hint.as_deref(), Some("did you mean `backup`? there is: backup, drill"));
    }
}
