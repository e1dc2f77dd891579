//! Tests of a service given as parameters: HTTP requests in order, and what their answers must be.
//!
//! ```json
//! [
//!   "/notes",
//!   { "method": "POST", "path": "/notes", "body": { "title": "drill" }, "expect-status": 201 },
//!   { "path": "/notes/{id}", "equals": { "/title": "drill" } },
//!   { "path": "/notes/{known.oldest}", "exists": ["/title"] },
//!   { "path": "/events?limit=1", "compare": [["/count", ">=", 1]], "before": [["/events/0/created_at", "{backup-time}"]] }
//! ]
//! ```
//!
//! A text alone is a GET that must answer 200 to 299. `{id}` is whatever the environment captures under that name from an answer; see
//! [`template`](crate::template). An expectation that does not hold is a finding; a request that could not be made is an error.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::template::{KNOWN, Missing, Values};
use crate::{Error, ErrorKind, Finding, Result, http_check};

/// First wait between attempts. Short, because what is waited for is a worker that polls about once a second; the host doubles it.
const BACKOFF_MS: u32 = 200;

/// One request, and what its answer must be.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    /// Method; GET if not given.
    pub method: String,
    /// Path, with an optional query.
    pub path: String,
    /// A JSON body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Status; any of 200 to 299 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_status: Option<u16>,
    /// Values by JSON pointer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub equals: BTreeMap<String, Value>,
    /// JSON pointers that must lead to a value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exists: Vec<String>,
    /// JSON pointer, operator, number: the number there, or the length of the list or text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<(String, String, i64)>,
    /// JSON pointer and a text that must sort after the one there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<(String, String)>,
    /// Texts that must stand in the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<String>,
    /// How often to try until everything holds; once if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Limit of each attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}

/// What came of one step, for the evidence.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observed {
    /// `GET /notes`, with its values.
    pub request: String,
    /// Every expectation held.
    pub passed: bool,
    /// Status of the last answer, if there was one.
    pub status: Option<u16>,
    /// What did not hold.
    pub failures: Vec<String>,
    /// How many tries it took.
    pub attempts: u32,
    /// How long all of them took.
    pub elapsed_ms: u64,
}

/// A test of one endpoint: it keeps the values that its steps captured.
#[derive(Debug)]
pub struct Smoke {
    endpoint: String,
    values: Values,
    observed: Vec<Observed>,
}

impl Smoke {
    /// A test of an endpoint: `ID/NAME` of a scratch instance, `SERVICE/NAME` of the live service.
    pub fn new(endpoint: impl Into<String>, values: Values) -> Self {
        Self { endpoint: endpoint.into(), values, observed: Vec::new() }
    }

    /// Takes all steps in order, also after one that failed. Answers with an error finding of this rule for each that did.
    ///
    /// # Errors
    ///
    /// If a request could not be made, or a step names a value that no step before it could have given.
    pub fn run(&mut self, rule: &str, steps: &[Step]) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for step in steps {
            let observed = match step.request(&self.values) {
                Ok((path, request)) => self.check(step, &path, &request)?,
                Err(missing) => self.left_out(step, &missing)?,
            };
            if !observed.passed {
                let message = format!("{}: {}", observed.request, observed.failures.join("; "));
                findings.push(Finding::error(rule, message));
            }
            self.observed.push(observed);
        }
        Ok(findings)
    }

    /// What came of the steps so far.
    pub fn observed(&self) -> &[Observed] {
        &self.observed
    }

    fn check(&mut self, step: &Step, path: &str, request: &http_check::Request) -> Result<Observed> {
        let words = format!("{} {path}", step.method);
        let answer = http_check::check(&self.endpoint, request).map_err(|e| Error::from(e).context(&words))?;
        for (name, value) in answer.captures() {
            self.values.set(name, value);
        }
        Ok(Observed {
            request: words,
            passed: answer.passed(),
            status: answer.status(),
            failures: answer.failures(),
            attempts: answer.attempts(),
            elapsed_ms: answer.elapsed_ms(),
        })
    }

    /// A known record that the backup does not have is a failing of the backup. Of other values: after a failed step, one that is not there
    /// is a consequence; otherwise the test itself is wrong.
    fn left_out(&self, step: &Step, missing: &Missing) -> Result<Observed> {
        let request = format!("{} {}", step.method, step.path);
        let Missing { name, known } = missing;
        if name.starts_with(KNOWN) {
            let failures = vec![format!("not tried: the backup has no `{name}`")];
            return Ok(Observed { request, passed: false, status: None, failures, attempts: 0, elapsed_ms: 0 });
        }
        if self.observed.iter().all(|earlier| earlier.passed) {
            let known = known.join(", ");
            let message = format!("{request}: no value `{name}` (known: {known}); is there a capture of that name?");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let failures = vec![format!("not tried: it needs `{name}`, and a step before it failed")];
        Ok(Observed { request, passed: false, status: None, failures, attempts: 0, elapsed_ms: 0 })
    }
}

impl Step {
    /// A GET that must answer 200 to 299.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET".into(), path: path.into(), ..Self::default() }
    }

    fn request(&self, values: &Values) -> Result<(String, http_check::Request), Missing> {
        let path = values.path(&self.path)?;
        let request = http_check::Request::new(&self.method, &path);
        if let Some(body) = &self.body {
            request.set_body_json(&values.json(body)?.to_string());
        }
        if let Some(status) = self.expect_status {
            request.set_status(status);
        }
        for (pointer, value) in &self.equals {
            request.add_json_equals(pointer, &values.json(value)?.to_string());
        }
        for pointer in &self.exists {
            request.add_json_exists(pointer);
        }
        for (pointer, operator, number) in &self.compare {
            request.add_json_compare(pointer, operator, *number);
        }
        for (pointer, text) in &self.before {
            request.add_json_before(pointer, &values.text(text)?);
        }
        for text in &self.contains {
            request.add_body_contains(&values.text(text)?);
        }
        if let Some(count) = self.attempts {
            request.set_attempts(count, BACKOFF_MS);
        }
        if let Some(timeout_ms) = self.timeout_ms {
            request.set_timeout_ms(timeout_ms);
        }
        Ok((path, request))
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathOrFields)
    }
}

struct PathOrFields;

impl<'de> Visitor<'de> for PathOrFields {
    type Value = Step;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or a request with what its answer must be")
    }

    fn visit_str<E>(self, path: &str) -> Result<Step, E> {
        Ok(Step::get(path))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Step, A::Error> {
        #[derive(Deserialize)]
        #[serde(remote = "Step", rename_all = "kebab-case", deny_unknown_fields)]
        struct Fields {
            #[serde(default = "get")]
            method: String,
            path: String,
            body: Option<Value>,
            expect_status: Option<u16>,
            #[serde(default)]
            equals: BTreeMap<String, Value>,
            #[serde(default)]
            exists: Vec<String>,
            #[serde(default)]
            compare: Vec<(String, String, i64)>,
            #[serde(default)]
            before: Vec<(String, String)>,
            #[serde(default)]
            contains: Vec<String>,
            attempts: Option<u32>,
            timeout_ms: Option<u32>,
        }

        fn get() -> String {
            "GET".to_owned()
        }

        Fields::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<Step>, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_path_alone_is_a_get() {
        assert_eq!(read(r#"["/notes"]"#).unwrap(), [Step::get("/notes")]);
        assert_eq!(read(r#"[{"path":"/notes"}]"#).unwrap(), [Step::get("/notes")]);
    }

    #[test]
    fn a_step_reads_what_it_writes() {
        let json = r#"[{"method":"POST","path":"/n","body":{"a":1},"expect-status":201,"equals":{"/a":1},"exists":["/b"],
            "compare":[["/c",">=",-1]],"before":[["/d","{backup-time}"]],"contains":["x"],"attempts":3,"timeout-ms":500}]"#;
        let steps = read(json).unwrap();
        assert_eq!(steps[0].compare, [("/c".to_owned(), ">=".to_owned(), -1)]);
        assert_eq!(read(&serde_json::to_string(&steps).unwrap()).unwrap(), steps);
    }

    #[test]
    fn a_misspelt_expectation_is_refused_with_the_valid_ones() {
        let error = read(r#"[{"path":"/n","equal":{}}]"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `equal`, expected one of `method`, `path`"), "{error}");
        assert!(read(r#"[{"method":"GET"}]"#).unwrap_err().to_string().contains("missing field `path`"));
        assert!(read("[7]").unwrap_err().to_string().contains("a path, or a request"));
    }

    #[test]
    fn a_missing_value_is_the_tests_mistake_unless_a_step_failed_before() {
        let step = Step::get("/notes/{id}");
        let missing = Missing { name: "id".into(), known: vec!["backup-time".into()] };
        let mut smoke = Smoke::new("notes/api", Values::default());
        assert_eq!(smoke.left_out(&step, &missing).unwrap_err().kind(), ErrorKind::Invalid);
        let lost = Missing { name: "known.oldest".into(), known: vec![] };
        assert!(!smoke.left_out(&step, &lost).unwrap().passed);
        let failed = Observed {
            request: "POST /notes".into(),
            passed: false,
            status: Some(500),
            failures: vec![],
            attempts: 1,
            elapsed_ms: 1,
        };
        smoke.observed.push(failed);
        assert!(!smoke.left_out(&step, &missing).unwrap().passed);
    }
}
