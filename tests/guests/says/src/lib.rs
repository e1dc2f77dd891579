//! Reports what its parameters say, and ends as they say: for everything that depends on how a run ends.

use lifeboat_policy::{Error, ErrorKind, Finding, Outcome, Record, Result, note, policy, report};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    #[serde(default = "ok")]
    outcome: Code,
    #[serde(default = "said")]
    summary: String,
    #[serde(default)]
    notes: Vec<String>,
    /// Rule, severity, message.
    #[serde(default)]
    findings: Vec<(String, String, String)>,
    /// File name, content.
    #[serde(default)]
    evidence: Vec<(String, serde_json::Value)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Code {
    Ok,
    PartlyDone,
    NothingToDo,
    VerificationFailed,
    Failed,
}

fn ok() -> Code {
    Code::Ok
}

fn said() -> String {
    "as said".into()
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    p.notes.iter().for_each(note);
    for (rule, severity, message) in p.findings {
        record.finding(Finding { rule, severity, message, fix: String::new() });
    }
    for (name, content) in &p.evidence {
        report::evidence(name, &content.to_string());
    }
    match p.error {
        Some(error) => Err(Error::new(ErrorKind::Failed, error)),
        None => Ok(match p.outcome {
            Code::Ok => Outcome::ok(p.summary),
            Code::PartlyDone => Outcome::partly_done(p.summary),
            Code::NothingToDo => Outcome::nothing_to_do(p.summary),
            Code::VerificationFailed => Outcome::verification_failed(p.summary),
            Code::Failed => Outcome::failed(p.summary),
        }),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("says", include_str!("../policy.toml"));
    }
}
