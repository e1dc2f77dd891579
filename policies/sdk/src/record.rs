//! What a run leaves behind: its findings, and one evidence file.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bindings::lifeboat::recovery::types::Backup;
use crate::{Error, Finding, Outcome, report, time};

/// Findings and facts of a run. The SDK writes it as evidence `NAME.json` when the policy ends, whether well or not.
#[derive(Debug)]
pub struct Record {
    policy: &'static str,
    parameters: Value,
    facts: Map<String, Value>,
    findings: Vec<Finding>,
}

impl Record {
    pub(crate) fn new(policy: &'static str, parameters: &impl Serialize) -> Self {
        Self { policy, parameters: value(parameters), facts: Map::new(), findings: Vec::new() }
    }

    /// Reports a finding.
    pub fn finding(&mut self, finding: Finding) {
        report::add_finding(&finding);
        self.findings.push(finding);
    }

    /// Reports findings; answers whether none of them is an error.
    pub fn passes(&mut self, findings: Vec<Finding>) -> bool {
        let passes = !findings.iter().any(Finding::is_error);
        findings.into_iter().for_each(|finding| self.finding(finding));
        passes
    }

    /// How many findings so far are errors.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.is_error()).count()
    }

    /// Keeps a fact for the evidence file. The same name again replaces it.
    pub fn fact(&mut self, name: &str, fact: impl Serialize) {
        self.facts.insert(name.to_owned(), value(&fact));
    }

    /// Keeps what identifies a backup.
    pub fn backup(&mut self, backup: &Backup) {
        self.fact(
            "backup",
            json!({
                "id": backup.id(),
                "service": backup.service(),
                "store": backup.store(),
                "digest": backup.digest(),
                "taken-at": time::iso8601(backup.taken_at_ms()),
                "completed-at": time::iso8601(backup.completed_at_ms()),
                "newest-at": backup.newest_at_ms().map(time::iso8601),
                "version": backup.version(),
                "stored-bytes": backup.stored_bytes(),
                "sources": backup.sources(),
            }),
        );
    }

    pub(crate) fn write(mut self, started_ms: u64, ended_ms: u64, end: &Result<Outcome, Error>) {
        let mut file = Map::new();
        file.insert("policy".into(), self.policy.into());
        file.insert("parameters".into(), self.parameters);
        file.insert("started-at".into(), time::iso8601(started_ms).into());
        file.insert("ended-at".into(), time::iso8601(ended_ms).into());
        match end {
            Ok(outcome) => file.insert("outcome".into(), value(outcome)),
            Err(error) => {
                file.insert("error".into(), json!({ "kind": error.kind().word(), "message": error.to_string() }))
            }
        };
        file.append(&mut self.facts);
        file.insert("findings".into(), value(&self.findings));
        report::evidence(&format!("{}.json", self.policy), &Value::Object(file).to_string());
    }
}

/// A value that can't be JSON (a map with keys that are no text) is a mistake of the policy's author; it must not end a recovery.
fn value(from: &impl Serialize) -> Value {
    serde_json::to_value(from).unwrap_or_else(|error| json!({ "unwritable": error.to_string() }))
}
