//! The custom section `lifeboat:policy`: a module's name, version, world, parameters and declared calls, read without running anything.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::calls::{self, Class};
use crate::contract::contract;
use crate::error::{Error, Kind, Result};
use crate::sandbox::MEMORY_BYTES_MAX;

/// Name of the custom section.
pub const SECTION: &str = "lifeboat:policy";
/// First field of the section: kind and version of the text.
pub const FORMAT: &str = "lifeboat/policy/1";
/// A section is a few kilobytes; more is no description.
const BYTES_MAX: usize = 256 << 10;

/// What a policy says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Description {
    /// `lifeboat/policy/1`
    #[serde(default = "format")]
    pub format: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The world it is for.
    pub world: String,
    /// One line.
    #[serde(default)]
    pub summary: String,
    /// Calls it may make, `dump.take`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Memory it needs, bytes, where that is more than its memories begin with: a language's runtime grows before the policy does anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes_min: Option<u64>,
    /// JSON Schema of its parameters: an object's.
    #[serde(default = "no_parameters")]
    pub parameters: Value,
}

fn format() -> String {
    FORMAT.into()
}

fn no_parameters() -> Value {
    serde_json::json!({"type": "object", "properties": {}, "additionalProperties": false})
}

impl Description {
    /// Reads and checks the section's text.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > BYTES_MAX {
            return Err(refused(format!("its description has {} bytes, at most {BYTES_MAX} are read", bytes.len())));
        }
        let description: Self =
            serde_json::from_slice(bytes).map_err(|e| refused(format!("its description can't be read: {e}")))?;
        description.check()?;
        Ok(description)
    }

    /// Checks names, world and capabilities.
    pub fn check(&self) -> Result<()> {
        if self.format != FORMAT {
            return Err(refused(format!(
                "its description is `{}`, this engine reads `{FORMAT}`",
                host_api::identifier::shown(&self.format)
            )));
        }
        host_api::identifier::check_name("policy", &self.name).map_err(|e| refused(e.to_string()))?;
        let version_ok = (1..=64).contains(&self.version.len())
            && self.version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+'));
        if !version_ok {
            return Err(refused(format!("`{}` is no version", host_api::identifier::shown(&self.version))));
        }
        if !contract().worlds.contains_key(&self.world) {
            return Err(Error {
                kind: Kind::PolicyRefused,
                ..Error::unknown("world", &self.world, contract().worlds.keys().map(String::as_str))
            });
        }
        for capability in &self.capabilities {
            if calls::find(capability).is_none() {
                let valid = calls::CALLS.iter().filter(|c| c.class != Class::Pure).map(|c| c.name);
                return Err(Error { kind: Kind::PolicyRefused, ..Error::unknown("call", capability, valid) }
                    .context("its declared capabilities"));
            }
        }
        if let Some(bytes) = self.memory_bytes_min.filter(|bytes| *bytes > MEMORY_BYTES_MAX as u64) {
            return Err(refused(format!(
                "it needs {bytes} bytes of memory, and nothing is given more than {MEMORY_BYTES_MAX}"
            )));
        }
        if !self.parameters["properties"].is_object() {
            return Err(refused("its parameters are no JSON Schema of an object with properties".into()));
        }
        Ok(())
    }
}

/// Parsers quote names of the module as they stand in it: none of them reaches a terminal raw.
pub(super) fn refused(why: String) -> Error {
    let why = host_api::identifier::shown_long(&why.replace('\n', "; "));
    Error::new(Kind::PolicyRefused, format!("the module is refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_checked_when_it_is_read() {
        let good = r#"{"name":"backup","version":"0.1.0","world":"backup","capabilities":["dump.take"]}"#;
        assert_eq!(Description::decode(good.as_bytes()).unwrap().name, "backup");
        for (bad, says) in [
            (good.replace("\"backup\",\"version", "\"../x\",\"version"), "no name"),
            (good.replace("\"world\":\"backup\"", "\"world\":\"bakcup\""), "did you mean `backup`"),
            (good.replace("dump.take", "dump.tkae"), "did you mean `dump.take`"),
            (good.replace("{\"name", "{\"surprise\":1,\"name"), "unknown field"),
            (good.replace("0.1.0", "1\\u001b"), "no version"),
            (format!("{good}{}", " ".repeat(BYTES_MAX)), "at most"),
        ] {
            let error = Description::decode(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::PolicyRefused);
            assert!(error.to_string().contains(says), "{bad}: {error}");
        }
    }
}
