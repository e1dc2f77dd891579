//! Grants: which calls a policy may make in an environment, on which configured objects. Deny by default.
//!
//! A grant is one line, `dump.take service=notes store=local`; `*` stands for any function of an interface, or any value. Every object that
//! a call touches must be spoken of, so that a reader sees what was given away. Paths are granted as prefixes.

use std::collections::BTreeMap;

use host_api::http_check;
use sha2::{Digest, Sha256};

use crate::calls::{self, Class};
use crate::contract::contract;
use crate::error::{Error, Kind, Result};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Interface, `dump`.
    pub interface: String,
    /// Function, `take`, or `*`.
    pub function: String,
    /// Values by object, each one value or `*`.
    pub objects: BTreeMap<String, String>,
}

/// All grants of a policy in an environment.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    lines: Vec<Grant>,
    /// SHA-256 over the sorted lines.
    pub sha256: String,
}

impl Grants {
    /// Reads the lines; a typo is an error that lists what is valid.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut text: Vec<&str> = lines.into_iter().collect();
        let grants = text.iter().map(|line| Grant::parse(line)).collect::<Result<Vec<_>>>()?;
        text.sort_unstable();
        let sha256 = hex::encode(Sha256::digest(text.join("\n").as_bytes()));
        Ok(Self { lines: grants, sha256 })
    }

    /// Everything: for what a person does by hand, who could as well write the configuration.
    pub(crate) fn operator() -> Self {
        let lines = calls::CALLS
            .iter()
            .chain(calls::BY_HAND)
            .filter(|c| c.class != Class::Pure)
            .filter_map(|c| {
                let (interface, function) = c.name.split_once('.')?;
                let objects = c.objects.iter().map(|o| ((*o).to_owned(), "*".to_owned())).collect();
                Some(Grant { interface: interface.into(), function: function.into(), objects })
            })
            .collect();
        Self { lines, sha256: "operator".into() }
    }

    /// Whether a call on these objects is granted.
    pub fn allow(&self, call: &str, objects: &[(&'static str, String)]) -> bool {
        self.lines.iter().any(|grant| grant.covers(call, objects))
    }

    /// The grants themselves.
    pub fn lines(&self) -> &[Grant] {
        &self.lines
    }
}

impl Grant {
    /// Reads one line.
    pub fn parse(line: &str) -> Result<Self> {
        let wrong = |why: String| {
            Error::new(Kind::Configuration, format!("grant `{}`: {why}", host_api::identifier::shown(line)))
        };
        let mut words = line.split_whitespace();
        let name = words.next().ok_or_else(|| wrong("is empty".into()))?;
        let (interface, function) =
            name.split_once('.').ok_or_else(|| wrong("it starts with INTERFACE.FUNCTION, `dump.take`".into()))?;
        let calls: Vec<_> = calls::CALLS
            .iter()
            .filter(|c| c.class != Class::Pure && c.name.split_once('.').is_some_and(|(i, _)| i == interface))
            .collect();
        if calls.is_empty() {
            let mut valid: Vec<&str> = contract().functions.keys().map(|(i, _)| i.as_str()).collect();
            valid.dedup();
            return Err(Error::unknown("interface", interface, valid).context(wrong(String::new()).message));
        }
        let calls: Vec<_> = match function {
            "*" => calls,
            _ => {
                let one: Vec<_> = calls.iter().copied().filter(|c| c.name == name).collect();
                if one.is_empty() {
                    return Err(Error::unknown("call", name, calls.iter().map(|c| c.name))
                        .context(wrong(String::new()).message));
                }
                one
            }
        };
        let mut objects = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| wrong(format!("`{word}` is not OBJECT=VALUE")))?;
            if value.is_empty() || objects.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(wrong(format!("`{key}` needs exactly one value")));
            }
        }
        for call in &calls {
            for object in call.objects {
                if !objects.contains_key(*object) {
                    return Err(wrong(format!("says nothing of `{object}`, which {} touches", call.name))
                        .hint(format!("name it, or say `{object}=*`")));
                }
            }
        }
        for key in objects.keys() {
            if !calls.iter().any(|c| c.objects.contains(&key.as_str())) {
                let mut valid: Vec<_> = calls.iter().flat_map(|c| c.objects.iter().copied()).collect();
                valid.sort_unstable();
                valid.dedup();
                return Err(Error::unknown("object", key, valid).context(wrong(String::new()).message));
            }
        }
        if let Some(path) = objects.get("path").filter(|p| *p != "*") {
            http_check::checked_path(path).map_err(|e| wrong(e.message))?;
        }
        Ok(Self { interface: interface.into(), function: function.into(), objects })
    }

    /// Whether it speaks of a call, on whatever objects.
    pub fn speaks_of(&self, call: &str) -> bool {
        let (interface, function) = call.split_once('.').unwrap_or_default();
        self.interface == interface && (self.function == "*" || self.function == function)
    }

    fn covers(&self, call: &str, objects: &[(&'static str, String)]) -> bool {
        self.speaks_of(call)
            && objects.iter().all(|(key, value)| match self.objects.get(*key) {
                Some(granted) if granted == "*" => true,
                Some(granted) if *key == "path" => {
                    http_check::checked_path(value).is_ok_and(|path| http_check::under(granted, &path))
                }
                Some(granted) => granted == value,
                None => false,
            })
    }

    /// Names of configured objects of a kind that this grant speaks of, `*` left out.
    pub fn named(&self, object: &str) -> Option<&str> {
        self.objects.get(object).map(String::as_str).filter(|v| *v != "*")
    }
}

/// The line that would allow a call.
pub fn line_for(call: &str, objects: &[(&'static str, String)]) -> String {
    let mut line = call.to_owned();
    for (key, value) in objects {
        line.push_str(&format!(" {key}={value}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(pairs: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        pairs.iter().map(|(k, v)| (*k, (*v).to_owned())).collect()
    }

    #[test]
    fn nothing_is_granted_that_is_not_said() {
        let grants = Grants::parse(["dump.take service=notes store=local", "service.* service=notes"]).unwrap();
        assert!(grants.allow("dump.take", &objects(&[("service", "notes"), ("store", "local")])));
        assert!(!grants.allow("dump.take", &objects(&[("service", "notes"), ("store", "offsite")])));
        assert!(!grants.allow("dump.take", &objects(&[("service", "other"), ("store", "local")])));
        assert!(grants.allow("service.stop", &objects(&[("service", "notes")])));
        assert!(!grants.allow("promote.promote", &objects(&[("service", "notes")])));
    }

    #[test]
    fn a_path_is_granted_with_what_lies_under_it_at_a_segments_border() {
        let grants = Grants::parse(["http-check.check endpoint=notes/api method=GET path=/notes"]).unwrap();
        let ask = |method: &str, path: &str| {
            grants.allow("http-check.check", &objects(&[("endpoint", "notes/api"), ("method", method), ("path", path)]))
        };
        assert!(ask("GET", "/notes") && ask("GET", "/notes/1"));
        assert!(!ask("GET", "/notes2") && !ask("POST", "/notes") && !ask("GET", "/"));
    }

    #[test]
    fn typos_list_what_is_valid() {
        for (line, says) in [
            ("dmup.take service=a store=b", "did you mean `dump`"),
            ("dump.tak service=a store=b", "did you mean `dump.take`"),
            ("dump.take service=a", "`store=*`"),
            ("dump.take service=a store=b sotre=c", "did you mean `store`"),
            ("dump", "INTERFACE.FUNCTION"),
            ("dump.take service= store=b", "exactly one value"),
        ] {
            let error = Grants::parse([line]).unwrap_err();
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
    }
}
