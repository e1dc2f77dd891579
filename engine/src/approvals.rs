//! Intents and consent: what a person is asked, and how they can answer.
//!
//! The host builds the intent; the guest only says why. An approval binds identities, is good for one step of one run, and is spent in the
//! transaction that starts that step. Where the environment names approvers, consent is their signatures over the intent's text.

pub mod fresh;
pub mod rules;
pub mod signature;
pub mod votes;
pub mod voting;
mod wire;

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use host_api::promote::Description;

/// Field `format` of every intent: kind and version of the text.
pub const FORMAT: &str = "lifeboat/intent/2";

/// What consent is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// `promote`, `undo`, `drop-previous`, `delete`.
    pub action: String,
    /// The service.
    pub service: String,
    /// Canonical JSON; what is signed, shown and kept.
    pub text: String,
    /// SHA-256 of the text, hexadecimal.
    pub sha256: String,
    /// The text, parsed.
    pub body: Value,
}

/// What an intent is about, beside the run it belongs to.
pub struct Subject<'a> {
    /// `promote`, `undo`, `drop-previous`, `delete`.
    pub action: &'a str,
    /// The service.
    pub service: &'a str,
    /// What is acted on, by stable ids and digests.
    pub object: Value,
    /// Identities and consequence.
    pub description: Description,
    /// The policy's words.
    pub why: &'a str,
}

/// How an intent can be consented to.
pub struct Terms<'a> {
    /// The approval's id: one text, one approval.
    pub approval: &'a str,
    /// From when on it is too late, Unix milliseconds.
    pub expires_ms: u64,
    /// How many, and of whom.
    pub rule: &'a rules::Rule,
}

/// The run an intent belongs to.
pub struct RunOf<'a> {
    /// Its id.
    pub run: &'a str,
    /// Who started it, `alice@host`.
    pub actor: &'a str,
    /// Its environment.
    pub environment: &'a str,
    /// The policy's name.
    pub policy: &'a str,
    /// SHA-256 of the module.
    pub module_sha256: &'a str,
    /// SHA-256 of the grants.
    pub grants_sha256: &'a str,
}

impl Intent {
    /// Builds the intent. What is bound stands in it; what changes by the minute (sizes, newest records) is in the consequence only.
    pub fn build(of: &RunOf<'_>, subject: Subject<'_>, terms: &Terms<'_>) -> Self {
        let body = json!({
            "format": FORMAT,
            "approval": terms.approval,
            "expires-ms": terms.expires_ms,
            "needed": terms.rule.needed,
            "groups": terms.rule.groups,
            "actor": of.actor,
            "action": subject.action,
            "service": subject.service,
            "object": subject.object,
            "identities": subject.description.identities,
            "consequence": subject.description.consequence,
            "why": subject.why,
            "run": of.run,
            "environment": of.environment,
            "policy": of.policy,
            "module-sha256": of.module_sha256,
            "grants-sha256": of.grants_sha256,
        });
        let text = body.to_string();
        let sha256 = hex::encode(Sha256::digest(text.as_bytes()));
        Self { action: subject.action.into(), service: subject.service.into(), text, sha256, body }
    }

    /// Whether this is consent to the same thing as another intent: everything but the words around it, its id and its end.
    pub fn same_thing(&self, other: &Value) -> bool {
        Self::is_same_thing(&self.body, other)
    }

    /// The same, of two texts.
    pub(crate) fn is_same_thing(one: &Value, other: &Value) -> bool {
        [
            "format",
            "action",
            "service",
            "object",
            "identities",
            "run",
            "actor",
            "environment",
            "policy",
            "module-sha256",
            "grants-sha256",
            "needed",
            "groups",
        ]
        .iter()
        .all(|key| one[*key] == other[*key])
    }

    /// What a person reads before answering; a line each.
    pub fn lines(&self) -> Vec<String> {
        lines_of(&self.body)
    }
}

/// What a person reads of an intent before answering; a line each, safe to print.
pub fn lines_of(body: &Value) -> Vec<String> {
    let (action, service) = (word(&body["action"]), word(&body["service"]));
    let mut lines = vec![format!("{action} {service} in environment {}", word(&body["environment"]))];
    if let Some(consequence) = body["consequence"].as_array() {
        lines.extend(consequence.iter().map(|line| format!("  - {}", word(line))));
    }
    lines.push(format!("why: {}", word(&body["why"])));
    lines.push(format!(
        "asked by policy {} in run {}, started by {}",
        word(&body["policy"]),
        word(&body["run"]),
        word(&body["actor"])
    ));
    lines
}

/// A value for people; text from a policy or a database is made safe to print.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => host_api::identifier::shown_long(text),
        other => other.to_string(),
    }
}

/// A person's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Yes: who, and how it was given (`typed-phrase`, `yes-flag`, …).
    Approved {
        /// Who.
        by: String,
        /// How.
        how: String,
    },
    /// No: who.
    Denied {
        /// Who.
        by: String,
    },
    /// Nobody can answer now: the run parks.
    NobodyHere,
}

/// Asks a person. Asked only where an answer without a signature is enough.
#[async_trait]
pub trait Confirmer: Send + Sync {
    /// Shows the intent, gives the answer.
    async fn ask(&self, intent: &Intent) -> Answer;

    /// Shows the intent where only signatures count; `how`: what is missing and how to give it, a line each.
    fn show(&self, _intent: &Intent, _how: &[String]) {}
}

/// Nobody is ever there.
pub struct Nobody;

#[async_trait]
impl Confirmer for Nobody {
    async fn ask(&self, _intent: &Intent) -> Answer {
        Answer::NobodyHere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(object: Value, consequence: &str) -> Intent {
        asked(object, consequence, &Terms { approval: "a", expires_ms: 1, rule: &rules::Rule::default() })
    }

    fn asked(object: Value, consequence: &str, terms: &Terms<'_>) -> Intent {
        let of =
            RunOf { run: "r", actor: "a@h", environment: "e", policy: "p", module_sha256: "m", grants_sha256: "g" };
        let description = Description { identities: Default::default(), consequence: vec![consequence.into()] };
        let subject = Subject { action: "promote", service: "s", object, description, why: "because\u{1b}[2J" };
        Intent::build(&of, subject, terms)
    }

    #[test]
    fn the_same_thing_is_the_same_whatever_the_words() {
        let one = intent(json!({"candidate": "c1"}), "1 row");
        assert!(one.same_thing(&intent(json!({"candidate": "c1"}), "2 rows").body));
        assert!(!one.same_thing(&intent(json!({"candidate": "c2"}), "1 row").body));
        // Later is the same thing; consent by other people is not.
        let mut rule = rules::Rule::default();
        let later = asked(json!({"candidate": "c1"}), "1 row", &Terms { approval: "b", expires_ms: 2, rule: &rule });
        assert!(one.same_thing(&later.body));
        assert_ne!(one.sha256, later.sha256);
        rule.needed = 2;
        let stricter = asked(json!({"candidate": "c1"}), "1 row", &Terms { approval: "a", expires_ms: 1, rule: &rule });
        assert!(!one.same_thing(&stricter.body));
    }

    #[test]
    fn what_a_person_reads_holds_no_terminal_escapes() {
        assert!(intent(Value::Null, "x").lines().iter().all(|l| !l.contains('\u{1b}')));
    }
}
