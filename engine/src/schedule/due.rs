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
    /// What a run of it is started for.
    pub fn duty(&self) -> Duty {
        Duty { name: self.duty.clone(), slot_ms: self.slot_ms }
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
    /// The cadence's name for it.
    pub name: String,
    /// The time it was due at, Unix milliseconds.
    pub slot_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_due_is_looked_at() {
        let due = |duty: &str, parameters: &str| {
            let (duty, parameters) = (duty.to_owned(), parameters.to_owned());
            Due { duty, policy: "backup".into(), parameters, slot_ms: 1, why: String::new() }.parameters()
        };
        assert_eq!(due("a", "{\"store\":\"x\"}").unwrap()["store"], "x");
        for (duty, parameters) in [("", "{}"), ("a\u{1b}", "{}"), (&*"a".repeat(200), "{}"), ("a", "[]"), ("a", "{")] {
            assert!(due(duty, parameters).is_err(), "{duty} {parameters}");
        }
    }
}
