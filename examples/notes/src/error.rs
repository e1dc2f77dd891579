//! What can go wrong inside the service.

use std::io;

/// A failure of the service itself, never of a request: at start it ends the process, later it is
/// an answer 500.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{0}")]
    Setting(&'static str),
}

impl Error {
    /// For `map_err`: puts what was attempted in front of the system's message.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}
