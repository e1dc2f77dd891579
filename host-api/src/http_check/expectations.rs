//! Holding an answer against what a request expects of it.
//!
//! Failures are words. They show what was expected, which came from the policy, and the status; never what else was found, which
//! belongs to the service: an answer's body stays with the host.

use serde_json::{Number, Value};

use super::{Captured, Request};
use crate::error::{Error, Result};
use crate::identifier::shown;
use crate::query::VALUE_BYTES_MAX;

/// Deepest and longest a request's own texts may be; the engine bounds them too.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// More expectations than any request needs.
const EXPECTATIONS_MAX: usize = 200;

/// The operators of `add-json-compare`.
const OPERATORS: [&str; 6] = ["<", "<=", "==", "!=", ">=", ">"];

/// Checks everything of a request that can be wrong without asking anyone, except its path.
pub(super) fn check(request: &Request) -> Result<()> {
    const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    if !METHODS.contains(&request.method.as_str()) {
        return Err(Error::invalid(format!("`{}` is no method here", shown(&request.method)))
            .hint(format!("use one of {}", METHODS.join(", "))));
    }
    if let Some(body) = &request.body_json {
        if matches!(request.method.as_str(), "GET" | "HEAD") {
            return Err(Error::invalid(format!("a {} has no body", request.method)));
        }
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::invalid(format!("the body is longer than {BODY_BYTES_MAX} bytes")));
        }
        parsed("the body", body)?;
    }
    if request.status.is_some_and(|s| !(100..=599).contains(&s)) {
        return Err(Error::invalid("a status is a number from 100 to 599"));
    }
    let count = request.json_equals.len()
        + request.json_exists.len()
        + request.json_compare.len()
        + request.json_before.len()
        + request.body_contains.len();
    if count > EXPECTATIONS_MAX {
        return Err(Error::invalid(format!("more than {EXPECTATIONS_MAX} expectations")));
    }
    for (at, json) in &request.json_equals {
        pointer(at)?;
        parsed("an expected value", json)?;
    }
    for at in request.json_exists.iter().chain(request.json_before.iter().map(|(at, _)| at)) {
        pointer(at)?;
    }
    for (at, operator, _) in &request.json_compare {
        pointer(at)?;
        if !OPERATORS.contains(&operator.as_str()) {
            return Err(Error::invalid(format!("`{}` compares nothing", shown(operator)))
                .hint(format!("use one of {}", OPERATORS.join(" "))));
        }
    }
    Ok(())
}

/// Which expectations do not hold, in words; empty: all hold. The request has been checked.
pub(super) fn failures(request: &Request, status: u16, body: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    match request.status {
        Some(expected) if expected != status => out.push(format!("status {status}, expected {expected}")),
        None if !(200..=299).contains(&status) => out.push(format!("status {status}, expected 200 to 299")),
        _ => {}
    }
    let wants_json = !(request.json_equals.is_empty()
        && request.json_exists.is_empty()
        && request.json_compare.is_empty()
        && request.json_before.is_empty());
    if wants_json {
        match serde_json::from_slice(body) {
            Ok(json) => json_failures(request, &json, &mut out),
            Err(_) => out.push("the answer is not JSON".into()),
        }
    }
    for text in &request.body_contains {
        if !contains(body, text.as_bytes()) {
            out.push(format!("the answer does not contain `{}`", shown(text)));
        }
    }
    out
}

fn json_failures(request: &Request, json: &Value, out: &mut Vec<String>) {
    for (at, expected) in &request.json_equals {
        // Checked before the request went out; a text that is no JSON equals nothing.
        let expected = serde_json::from_str::<Value>(expected).ok();
        if let Some(failure) = unequal(json, at, expected.as_ref()) {
            out.push(failure);
        }
    }
    for at in &request.json_exists {
        if json.pointer(at).is_none() {
            out.push(format!("there is no `{}`", shown(at)));
        }
    }
    for (at, operator, number) in &request.json_compare {
        match json.pointer(at).map(|v| measured(v).and_then(|m| compare(m, *number))) {
            None => out.push(format!("there is no `{}`", shown(at))),
            Some(None) => out.push(format!("`{}` has neither number nor length", shown(at))),
            Some(Some(order)) if !holds(order, operator) => {
                out.push(format!("`{}` is not {operator} {number}", shown(at)));
            }
            Some(Some(_)) => {}
        }
    }
    for (at, text) in &request.json_before {
        match json.pointer(at) {
            None => out.push(format!("there is no `{}`", shown(at))),
            Some(Value::String(found)) if found < text => {}
            Some(Value::String(_)) => out.push(format!("`{}` is not before {}", shown(at), shown(text))),
            Some(_) => out.push(format!("`{}` is no text", shown(at))),
        }
    }
}

/// Says so if the value at a pointer is not this one.
pub(crate) fn unequal(json: &Value, at: &str, expected: Option<&Value>) -> Option<String> {
    let Some(found) = json.pointer(at) else { return Some(format!("there is no `{}`", shown(at))) };
    if expected.is_some_and(|expected| same(found, expected)) {
        return None;
    }
    let expected = expected.map_or_else(|| "what was expected".into(), Value::to_string);
    Some(format!("`{}` is not {}", shown(at), shown(&expected)))
}

/// The configured values of an answer, or which of them it does not have.
pub(super) fn captures(wanted: &[Captured<'_>], body: &[u8]) -> (Vec<(String, String)>, Vec<String>) {
    let (mut values, mut failures) = (Vec::new(), Vec::new());
    if wanted.is_empty() {
        return (values, failures);
    }
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    for capture in wanted {
        let text = match json.pointer(capture.pointer) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            _ => None,
        };
        match text {
            Some(text) if text.len() <= VALUE_BYTES_MAX => values.push((capture.name.to_owned(), text)),
            Some(_) => failures.push(format!("capture `{}` is longer than {VALUE_BYTES_MAX} bytes", capture.name)),
            None => failures
                .push(format!("capture `{}`: there is no text, number or truth value in its place", capture.name)),
        }
    }
    (values, failures)
}

fn pointer(text: &str) -> Result<()> {
    if text.is_empty() || text.starts_with('/') {
        return Ok(());
    }
    Err(Error::invalid(format!("`{}` is no JSON pointer", shown(text)))
        .hint("`/metadata/ready`, or empty for the whole"))
}

fn parsed(what: &str, json: &str) -> Result<Value> {
    serde_json::from_str(json)
        .map_err(|e| Error::invalid(format!("{what} is no JSON: {e}")).hint("a text needs its quotes: `\"ready\"`"))
}

/// Equal as values: `1` and `1.0` are, and the order of keys does not matter.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (whole(a), whole(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// A value as a number: itself, or its length.
enum Measured {
    Whole(i128),
    Fraction(f64),
}

fn measured(value: &Value) -> Option<Measured> {
    let length = match value {
        Value::Number(number) => {
            return whole(number).map(Measured::Whole).or_else(|| number.as_f64().map(Measured::Fraction));
        }
        Value::String(text) => text.chars().count(),
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        Value::Null | Value::Bool(_) => return None,
    };
    Some(Measured::Whole(length as i128))
}

fn compare(measured: Measured, number: i64) -> Option<std::cmp::Ordering> {
    match measured {
        Measured::Whole(found) => Some(found.cmp(&i128::from(number))),
        Measured::Fraction(found) => found.partial_cmp(&(number as f64)),
    }
}

fn holds(order: std::cmp::Ordering, operator: &str) -> bool {
    match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        ">=" => order.is_ge(),
        ">" => order.is_gt(),
        _ => false,
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|w| w == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        br#"{"ready":true,"n":3,"f":2.5,"list":[1,2],"text":"2026-01-01T00:00:00Z","o":{"a":1},"none":null,"secret":"hunter2"}"#;

    fn request() -> Request {
        Request { method: "GET".into(), path: "/".into(), ..Request::default() }
    }

    #[test]
    fn each_expectation_holds_or_says_what_was_expected() {
        let mut good = request();
        good.json_equals = vec![
            ("/ready".into(), "true".into()),
            ("/n".into(), "3.0".into()),
            ("/o".into(), "{ \"a\" : 1 }".into()),
            ("/none".into(), "null".into()),
        ];
        good.json_exists = vec!["/none".into(), String::new()];
        good.json_compare = vec![
            ("/n".into(), "==".into(), 3),
            ("/f".into(), ">".into(), 2),
            ("/list".into(), ">=".into(), 2),
            ("/text".into(), "<".into(), 21),
            ("/o".into(), "!=".into(), 2),
        ];
        good.json_before = vec![("/text".into(), "2026-01-02".into())];
        good.body_contains = vec!["\"ready\"".into()];
        check(&good).unwrap();
        assert_eq!(failures(&good, 204, BODY), Vec::<String>::new());

        let mut bad = request();
        bad.status = Some(201);
        bad.json_equals = vec![("/ready".into(), "false".into()), ("/nowhere".into(), "1".into())];
        bad.json_exists = vec!["/list/7".into()];
        bad.json_compare = vec![("/n".into(), ">".into(), 3), ("/ready".into(), ">".into(), 0)];
        bad.json_before =
            vec![("/text".into(), "2025".into()), ("/n".into(), "2025".into()), ("/x".into(), "1".into())];
        bad.body_contains = vec!["hunter3".into()];
        check(&bad).unwrap();
        assert_eq!(
            failures(&bad, 200, BODY),
            [
                "status 200, expected 201",
                "`/ready` is not false",
                "there is no `/nowhere`",
                "there is no `/list/7`",
                "`/n` is not > 3",
                "`/ready` has neither number nor length",
                "`/text` is not before 2025",
                "`/n` is no text",
                "there is no `/x`",
                "the answer does not contain `hunter3`",
            ]
        );
    }

    #[test]
    fn failures_show_nothing_of_the_body() {
        let mut bad = request();
        bad.json_equals = vec![("/secret".into(), "\"guess\"".into())];
        bad.json_compare = vec![("/secret".into(), ">".into(), 99)];
        bad.json_before = vec![("/secret".into(), "a".into())];
        let words = failures(&bad, 500, BODY).join("\n");
        assert_eq!(words.lines().count(), 4, "{words}");
        assert!(!words.contains("hunter2"), "{words}");
        let words = failures(&bad, 200, b"hunter2 is no JSON").join("\n");
        assert_eq!(words, "the answer is not JSON");
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        type Spoil = fn(&mut Request);
        let cases: [(&str, Spoil); 9] = [
            ("no method", |r| r.method = "TRACE".into()),
            ("no method", |r| r.method = "get".into()),
            ("no body", |r| r.body_json = Some("{}".into())),
            ("is no JSON", |r| {
                r.method = "POST".into();
                r.body_json = Some("{".into());
            }),
            ("100 to 599", |r| r.status = Some(99)),
            ("is no JSON", |r| r.json_equals = vec![("/a".into(), "ready".into())]),
            ("no JSON pointer", |r| r.json_exists = vec!["a".into()]),
            ("compares nothing", |r| r.json_compare = vec![("/a".into(), "=".into(), 1)]),
            ("more than", |r| r.body_contains = vec![String::new(); EXPECTATIONS_MAX + 1]),
        ];
        for (why, change) in cases {
            let mut bad = request();
            change(&mut bad);
            let error = check(&bad).expect_err(why);
            assert!(error.message.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn captures_are_bounded_and_complete() {
        let long = format!(r#"{{"id":"n-1","count":3,"ok":true,"list":[],"long":"{}"}}"#, "x".repeat(257));
        let wanted = |pointer| [Captured { name: "v", pointer }];
        for (pointer, value) in [("/id", "n-1"), ("/count", "3"), ("/ok", "true")] {
            let (values, failed) = captures(&wanted(pointer), long.as_bytes());
            assert_eq!(values, [("v".to_owned(), value.to_owned())]);
            assert!(failed.is_empty());
        }
        for pointer in ["/list", "/long", "/none"] {
            let (values, failed) = captures(&wanted(pointer), long.as_bytes());
            assert!(values.is_empty() && failed.len() == 1, "{pointer}");
            assert!(!failed[0].contains("xxx"), "{failed:?}");
        }
    }
}
