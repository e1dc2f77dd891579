//! What one module can do that another can't: compared without running either.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::module::Inspected;

/// Which way the second module differs from the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// It can do the same.
    Same,
    /// It can do less.
    Narrowed,
    /// It can do something that the first one can't.
    Widened,
}

/// The difference between two modules.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// Which way, of what it can do.
    pub direction: Direction,
    /// Whether the bytes are the same.
    pub same_bytes: bool,
    /// Name, version, world, summary, where they differ: which, before, after.
    pub description: Vec<(String, String, String)>,
    /// Calls, and interfaces of WASI, that it imports and the first does not. Each is more that it can do.
    pub imports_added: Vec<String>,
    /// Calls that it does not import any more.
    pub imports_removed: Vec<String>,
    /// Calls that it declares and the first does not.
    pub declared_added: Vec<String>,
    /// Calls that it does not declare any more.
    pub declared_removed: Vec<String>,
    /// Parameters, where they differ: which, before, after.
    pub parameters: Vec<(String, Value, Value)>,
}

impl Difference {
    /// From one module to another.
    pub fn between(before: &Inspected, after: &Inspected) -> Self {
        let imports = |of: &Inspected| {
            of.imports.iter().map(|i| i.name.clone()).chain(of.wasi.iter().cloned()).collect::<BTreeSet<_>>()
        };
        let declared = |of: &Inspected| of.description.capabilities.iter().cloned().collect::<BTreeSet<_>>();
        let (imports_added, imports_removed) = apart(&imports(before), &imports(after));
        let (declared_added, declared_removed) = apart(&declared(before), &declared(after));
        let (was, is) = (&before.description, &after.description);
        let texts = [
            ("name", &was.name, &is.name),
            ("version", &was.version, &is.version),
            ("world", &was.world, &is.world),
            ("summary", &was.summary, &is.summary),
        ];
        // Another world holds other interfaces; what of it is imported is what counts, but nobody should have to look that up.
        let direction = match () {
            () if !imports_added.is_empty() || was.world != is.world => Direction::Widened,
            () if !imports_removed.is_empty() => Direction::Narrowed,
            () => Direction::Same,
        };
        Self {
            direction,
            same_bytes: before.sha256 == after.sha256,
            description: texts
                .into_iter()
                .filter(|(_, before, after)| before != after)
                .map(|(what, before, after)| (what.to_owned(), before.clone(), after.clone()))
                .collect(),
            imports_added,
            imports_removed,
            declared_added,
            declared_removed,
            parameters: parameters(&was.parameters, &is.parameters),
        }
    }
}

/// What is in the second alone, and what in the first alone.
pub(crate) fn apart(before: &BTreeSet<String>, after: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    (after.difference(before).cloned().collect(), before.difference(after).cloned().collect())
}

fn parameters(before: &Value, after: &Value) -> Vec<(String, Value, Value)> {
    let mut found = Vec::new();
    let properties = |of: &Value| of["properties"].as_object().cloned().unwrap_or_default();
    let (was, is) = (properties(before), properties(after));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names {
        let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
        if of(&was) != of(&is) {
            found.push((name.clone(), of(&was), of(&is)));
        }
    }
    if before["required"] != after["required"] {
        found.push(("required".into(), before["required"].clone(), after["required"].clone()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Description, Import};

    fn module(version: &str, calls: &[&str], parameters: &str) -> Inspected {
        let text = format!(
            r#"{{"name":"p","version":"{version}","world":"backup","capabilities":{},"parameters":{{"type":"object","properties":{parameters}}}}}"#,
            serde_json::json!(calls)
        );
        Inspected {
            sha256: version.into(),
            bytes: 1,
            description: Description::decode(text.as_bytes()).unwrap(),
            imports: calls.iter().map(|call| Import { name: (*call).to_owned(), destructive: false }).collect(),
            wasi: BTreeSet::new(),
            memory_bytes_min: 0,
        }
    }

    #[test]
    fn more_that_it_can_do_is_told_from_less_and_from_the_same() {
        let plain = module("1", &["dump.take"], "{}");
        let more = module("2", &["dump.take", "upload.copy"], r#"{"to":{"type":"string"}}"#);
        let other = module("3", &["upload.copy"], "{}");
        let same = module("4", &["dump.take"], "{}");
        let direction = |a: &Inspected, b: &Inspected| Difference::between(a, b).direction;
        assert_eq!(direction(&plain, &more), Direction::Widened);
        assert_eq!(direction(&more, &plain), Direction::Narrowed);
        assert_eq!(direction(&plain, &other), Direction::Widened, "less of one and more of another is more");
        assert_eq!(direction(&plain, &same), Direction::Same);
        let difference = Difference::between(&plain, &more);
        assert_eq!(
            (difference.imports_added.as_slice(), difference.same_bytes),
            (&["upload.copy".to_owned()][..], false)
        );
        assert_eq!(difference.description[0], ("version".into(), "1".into(), "2".into()));
        assert_eq!(difference.parameters[0].0, "to");
    }
}
