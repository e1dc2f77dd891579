//! What a cadence says is due, and what a run was started for.

use host_api::identifier::shown;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};

/// Longest name of a duty, bytes.
const DUTY_BYTES_MAX: usize = 128;

/// One thing that is due, in the words of the contract's `schedule.due`. All of it is a guest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Due {
    /// The cadence that says so, as the environment calls it; none where only one is spoken of. No guest says this.
    #[serde(skip)]
    pub cadence: Option<String>,
    /// The cadence's own name for what recurs.
    pub duty: String,
    /// The policy to run.
    pub policy: String,
    /// Parameters over those of the environment, a JSON object as text.
    pub parameters: String,
    /// The time it was due at, Unix milliseconds.
    pub slot_ms: u64,
    /// Why, for people.
    pub why: String,
}

impl Due {
    /// The same, of a cadence: two may have the same name for what is not the same.
    #[must_use]
    pub fn said_by(self, cadence: &str) -> Self {
        Self { cadence: Some(cadence.to_owned()), ..self }
    }

    /// What a run of it is started for.
    pub fn duty(&self) -> Duty {
        Duty { cadence: self.cadence.clone(), name: self.duty.clone(), slot_ms: self.slot_ms }
    }

    /// `CADENCE:DUTY`, which is no other's.
    pub fn full_name(&self) -> String {
        self.duty().full_name()
    }

    /// Its parameters, if they are what they must be.
    pub fn parameters(&self) -> Result<Map<String, Value>> {
        let wrong =
            |why: &str| Error::new(Kind::Usage, format!("a cadence says that {} is due: {why}", shown(&self.policy)));
        if self.duty.is_empty() || self.duty.len() > DUTY_BYTES_MAX || self.duty.chars().any(char::is_control) {
            return Err(wrong(&format!("a duty's name has 1 to {DUTY_BYTES_MAX} bytes and no control characters")));
        }
        match serde_json::from_str(&self.parameters) {
            Ok(Value::Object(parameters)) => Ok(parameters),
            _ => Err(wrong("its parameters are no JSON object")),
        }
    }
}

/// What a run was started for. On record with its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Duty {
    /// Whose it is: the cadence, as the environment calls it. None in records of before they said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cadence: Option<String>,
    /// The cadence's name for it.
    pub name: String,
    /// The time it was due at, Unix milliseconds.
    pub slot_ms: u64,
}

impl Duty {
    /// `CADENCE:DUTY`. A policy's name has no colon, so two cadences never have one name for two duties.
    pub fn full_name(&self) -> String {
        match &self.cadence {
            Some(cadence) => format!("{cadence}:{}", self.name),
            None => self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_due_is_looked_at() {
        let due = |duty: &str, parameters: &str| {
            let (duty, parameters) = (duty.to_owned(), parameters.to_owned());
            Due { cadence: None, duty, policy: "backup".into(), parameters, slot_ms: 1, why: String::new() }
                .parameters()
        };
        assert_eq!(due("a", "{\"store\":\"x\"}").unwrap()["store"], "x");
        for (duty, parameters) in [("", "{}"), ("a\u{1b}", "{}"), (&*"a".repeat(200), "{}"), ("a", "[]"), ("a", "{")] {
            assert!(due(duty, parameters).is_err(), "{duty} {parameters}");
        }
    }
}
