//! The two releases of the service.

/// Which release a binary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 1.0.0, on schema 1.
    V1,
    /// 2.0.0, on schema 2: migrates a database of version 1, then fails to list its notes.
    V2,
}

impl Release {
    /// The version number users see.
    pub fn version(self) -> &'static str {
        match self {
            Self::V1 => "1.0.0",
            Self::V2 => "2.0.0",
        }
    }

    /// The schema this release migrates a database to.
    pub(crate) fn schema(self) -> i64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The column that holds a note's text, and the name of that text in JSON answers.
    pub(crate) fn text_column(self) -> &'static str {
        match self {
            Self::V1 => "body",
            Self::V2 => "content",
        }
    }
}
