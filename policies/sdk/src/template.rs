//! Values put into the texts of a smoke test: `{id}` (a capture), `{known.NAME}` (a known record), `{backup-time}`.
//!
//! A name is lower-case letters, digits, `-`, `_` and `.`; any other `{` stays as it is, and `{{name}}` stands for the text `{name}`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::bindings::lifeboat::recovery::types::Backup;
use crate::time;

/// What the names of known records begin with.
pub(crate) const KNOWN: &str = "known.";

/// Values by name.
#[derive(Debug, Clone, Default)]
pub struct Values(BTreeMap<String, String>);

/// A text names a value that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The name.
    pub name: String,
    /// The names that are there.
    pub known: Vec<String>,
}

impl Values {
    /// What a backup knows: `known.NAME` for each of its known records, and `backup-time`, when it was taken (ISO 8601, UTC, microseconds).
    pub fn of(backup: &Backup) -> Self {
        let mut values = Self::default();
        for (name, value) in backup.known() {
            values.set(format!("{KNOWN}{name}"), value);
        }
        values.set("backup-time", time::iso8601(backup.taken_at_ms()));
        values
    }

    /// Adds a value; an earlier one of this name is replaced.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// A text with its values.
    ///
    /// # Errors
    ///
    /// If it names one that is not there.
    pub fn text(&self, template: &str) -> Result<String, Missing> {
        self.fill(template, str::to_owned)
    }

    /// A path with its values, each percent-encoded, so that none of them adds a segment or a parameter.
    ///
    /// # Errors
    ///
    /// If it names one that is not there.
    pub fn path(&self, template: &str) -> Result<String, Missing> {
        self.fill(template, percent_encoded)
    }

    /// A JSON value with values in all its texts; keys stay as they are.
    ///
    /// # Errors
    ///
    /// If it names one that is not there.
    pub fn json(&self, template: &Value) -> Result<Value, Missing> {
        Ok(match template {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(key, field)| Ok((key.clone(), self.json(field)?)));
                Value::Object(fields.collect::<Result<_, _>>()?)
            }
            other => other.clone(),
        })
    }

    fn fill(&self, template: &str, written: impl Fn(&str) -> String) -> Result<String, Missing> {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            filled.push_str(&rest[..open]);
            rest = &rest[open..];
            if let Some(name) =
                rest.strip_prefix("{{").and_then(name_before_brace).filter(|n| rest[n.len() + 3..].starts_with('}'))
            {
                filled.push_str(&rest[1..name.len() + 3]);
                rest = &rest[name.len() + 4..];
            } else if let Some(name) = name_before_brace(&rest[1..]) {
                let value = self.0.get(name).ok_or_else(|| self.missing(name))?;
                filled.push_str(&written(value));
                rest = &rest[name.len() + 2..];
            } else {
                filled.push('{');
                rest = &rest[1..];
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn missing(&self, name: &str) -> Missing {
        Missing { name: name.to_owned(), known: self.0.keys().cloned().collect() }
    }
}

/// `id` of `id} and more`.
fn name_before_brace(text: &str) -> Option<&str> {
    let (name, _) = text.split_once('}')?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    (!name.is_empty() && name.chars().all(fits)).then_some(name)
}

/// Everything but RFC 3986's unreserved characters.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Values {
        let mut values = Values::default();
        values.set("id", "a/b?c=ä 1");
        values.set("known.first", "42");
        values
    }

    #[test]
    fn texts_take_values_as_they_are() {
        assert_eq!(values().text("<{id}> {known.first}").unwrap(), "<a/b?c=ä 1> 42");
        assert_eq!(values().text("nothing").unwrap(), "nothing");
        assert_eq!(values().text("").unwrap(), "");
    }

    #[test]
    fn other_braces_stay() {
        for text in
            ["{", "}", "{}", "{{", "}}", "{ id }", "{Id}", "{\"id\":{\"x\":1}}", "a{id", "{{}}", "{{id", "ä{ö}ü"]
        {
            assert_eq!(values().text(text).unwrap(), text);
        }
        assert_eq!(values().text("{{id}} {{known.first}}").unwrap(), "{id} {known.first}");
        assert_eq!(values().text("{{known.first}").unwrap(), "{42");
    }

    #[test]
    fn a_value_in_a_path_stays_one_segment() {
        assert_eq!(values().path("/runs/{id}?n={known.first}").unwrap(), "/runs/a%2Fb%3Fc%3D%C3%A4%201?n=42");
    }

    #[test]
    fn a_missing_value_is_named_with_those_that_are_there() {
        let missing = values().text("{ids}").unwrap_err();
        assert_eq!(missing, Missing { name: "ids".into(), known: vec!["id".into(), "known.first".into()] });
    }

    #[test]
    fn json_takes_values_in_texts_only() {
        let filled = values().json(&json!({ "{id}": ["{known.first}", 7, null, { "x": "n{known.first}" }] })).unwrap();
        assert_eq!(filled, json!({ "{id}": ["42", 7, null, { "x": "n42" }] }));
    }
}
