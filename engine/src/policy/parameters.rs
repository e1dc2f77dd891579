//! Parameters: words of the command line and values of the configuration, held against the policy's schema.

use serde_json::{Map, Value, json};

use super::Description;
use crate::error::{Error, Kind, Result};

/// Reads `KEY=VALUE` words by the types of the schema; `VALUE` may be `@FILE` for a JSON text in a file.
pub fn from_words(description: &Description, words: &[String]) -> Result<Map<String, Value>> {
    let mut given = Map::new();
    for word in words {
        let (key, text) = word
            .split_once('=')
            .ok_or_else(|| usage(format!("parameter `{}` is not KEY=VALUE", host_api::identifier::shown(word))))?;
        let schema = property(description, key)?;
        let wanted = schema["type"].as_str().unwrap_or("any");
        let value = match text.strip_prefix('@') {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| usage(format!("parameter {key}: {path}: {e}")))?;
                serde_json::from_str(&text).map_err(|e| usage(format!("parameter {key}: {path} is not JSON: {e}")))?
            }
            None if wanted == "string" => json!(text),
            None => serde_json::from_str(text).map_err(|_| {
                usage(format!("parameter {key} is {wanted}, `{}` is not", host_api::identifier::shown(text)))
            })?,
        };
        if given.insert(key.to_owned(), value).is_some() {
            return Err(usage(format!("parameter {key} is given twice")));
        }
    }
    Ok(given)
}

/// Checks parameters against the schema and adds defaults: known names, types, listed values, minimum, what is required. What lies deeper is
/// the policy's own to check.
pub fn validate(description: &Description, mut given: Map<String, Value>) -> Result<Map<String, Value>> {
    validate_partial(description, &given)?;
    for (key, schema) in description.parameters["properties"].as_object().into_iter().flatten() {
        if let Some(default) = schema.get("default") {
            given.entry(key).or_insert_with(|| default.clone());
        }
    }
    for required in description.parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !given.contains_key(required) {
            let about = description.parameters["properties"][required]["description"].as_str().unwrap_or_default();
            return Err(usage(format!("policy {} needs parameter `{required}` ({about})", description.name))
                .hint(format!("--param {required}=VALUE")));
        }
    }
    Ok(given)
}

/// Checks configured parameters: known names and types; what is required may still come from the command line.
pub fn validate_partial(description: &Description, given: &Map<String, Value>) -> Result<()> {
    given.iter().try_for_each(|(key, value)| check(key, property(description, key)?, value))
}

fn property<'a>(description: &'a Description, key: &str) -> Result<&'a Value> {
    let properties = description.parameters["properties"].as_object();
    properties.and_then(|p| p.get(key)).ok_or_else(|| {
        let names = properties.into_iter().flatten().map(|(name, _)| name.as_str());
        Error { kind: Kind::Usage, ..Error::unknown("parameter", key, names) }
            .context(format!("policy {}", description.name))
    })
}

fn check(key: &str, schema: &Value, value: &Value) -> Result<()> {
    let fits = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    if !fits {
        return Err(usage(format!("parameter {key} is {}, not {value}", schema["type"].as_str().unwrap_or("any"))));
    }
    if let Some(listed) = schema["enum"].as_array()
        && !listed.contains(value)
    {
        let valid: Vec<String> = listed.iter().map(Value::to_string).collect();
        return Err(usage(format!("parameter {key} can't be {value}")).hint(format!("one of: {}", valid.join(", "))));
    }
    if let (Some(minimum), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < minimum
    {
        return Err(usage(format!("parameter {key} is at least {minimum}")));
    }
    Ok(())
}

fn usage(message: String) -> Error {
    Error::new(Kind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        serde_json::from_value(json!({
            "name": "p", "version": "1", "world": "backup",
            "parameters": {"type": "object", "required": ["service"], "properties": {
                "service": {"type": "string", "description": "which"},
                "jobs": {"type": "integer", "default": 2, "minimum": 1},
                "verify": {"type": "string", "enum": ["exists", "checksum"]},
            }},
        }))
        .unwrap()
    }

    fn given(words: &[&str]) -> Result<Map<String, Value>> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        validate(&description(), from_words(&description(), &words)?)
    }

    #[test]
    fn words_become_values_by_the_schema_and_defaults_are_filled() {
        let parameters = given(&["service=notes", "jobs=3"]).unwrap();
        assert_eq!(parameters["jobs"], 3);
        assert_eq!(given(&["service=7"]).unwrap()["service"], "7");
        assert_eq!(given(&["service=notes"]).unwrap()["jobs"], 2);
    }

    #[test]
    fn wrong_ones_are_usage_errors_that_say_what_is_right() {
        for (words, says) in [
            (vec!["jobs=3"], "needs parameter `service`"),
            (vec!["service=a", "jobs=many"], "jobs is integer"),
            (vec!["service=a", "jobs=0"], "at least 1"),
            (vec!["service=a", "verify=all"], "one of: \"exists\", \"checksum\""),
            (vec!["service=a", "jbos=1"], "did you mean `jobs`"),
            (vec!["service=a", "service=b"], "twice"),
            (vec!["service"], "KEY=VALUE"),
        ] {
            let error = given(&words).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            assert!(error.to_string().contains(says), "{words:?}: {error}");
        }
    }
}
