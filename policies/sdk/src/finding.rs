//! Findings: what a person should know about data or a procedure.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

pub use crate::bindings::lifeboat::recovery::types::Finding;

impl Finding {
    /// The data or the procedure is not what it must be.
    pub fn error(rule: &str, message: impl Into<String>) -> Self {
        Self::new(rule, "error", message)
    }

    /// Should be looked at.
    pub fn warning(rule: &str, message: impl Into<String>) -> Self {
        Self::new(rule, "warning", message)
    }

    /// Worth knowing.
    pub fn info(rule: &str, message: impl Into<String>) -> Self {
        Self::new(rule, "info", message)
    }

    fn new(rule: &str, severity: &str, message: impl Into<String>) -> Self {
        Self { rule: rule.into(), severity: severity.into(), message: message.into(), fix: String::new() }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }

    /// Whether what was looked at can't pass with this. A severity that is not known here counts as one.
    pub fn is_error(&self) -> bool {
        !matches!(self.severity.as_str(), "info" | "warning")
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Finding", 4)?;
        fields.serialize_field("rule", &self.rule)?;
        fields.serialize_field("severity", &self.severity)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("fix", &self.fix)?;
        fields.end()
    }
}
