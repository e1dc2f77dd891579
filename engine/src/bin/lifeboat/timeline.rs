//! A run's records in words, one after the other.

use engine::Result;
use engine::journal::{Record, Transition};
use engine::schedule::Due;
use host_api::identifier;
use serde_json::Value;

use crate::output;

/// Writes records as they come, each with its time since the run's beginning.
#[derive(Default)]
pub struct Timeline {
    begun_ms: Option<u64>,
    started_ms: u64,
}

impl Timeline {
    /// Writes one record.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let begun_ms = *self.begun_ms.get_or_insert(record.time_ms);
        if record.kind == Transition::Started {
            self.started_ms = record.time_ms;
        }
        let took_ms = match record.kind {
            Transition::Completed => record.time_ms.saturating_sub(self.started_ms),
            _ => 0,
        };
        for line in words(record.kind, &record.body, took_ms) {
            let at = output::duration_ms(record.time_ms.saturating_sub(begun_ms));
            output::line(&format!("{at:>9}  {line}"))?;
        }
        Ok(())
    }
}

/// A record in words: what was said first, then the record itself.
fn words(kind: Transition, body: &Value, took_ms: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for item in body["said"].as_array().into_iter().flatten() {
        if let Some(note) = item["note"].as_str() {
            lines.push(format!("· {}", identifier::shown_long(note)));
        } else if let Ok(finding) = serde_json::from_value(item["finding"].clone()) {
            lines.push(output::finding(&finding));
        } else if let Some(name) = item["evidence"].as_str() {
            lines.push(format!("evidence {name}"));
        } else if let Ok(due) = serde_json::from_value::<Due>(item["due"].clone()) {
            let (policy, duty) = (identifier::shown(&due.policy), identifier::shown(&due.duty));
            lines.push(format!("due: {policy} ({duty}): {}", identifier::shown_long(&due.why)));
        } else if let Some(at_ms) = item["wake-at-ms"].as_u64() {
            lines.push(format!("asked again by {}", identifier::utc(at_ms)));
        }
    }
    let call = || {
        let arguments = &body["request"]["arguments"];
        let words: Vec<String> = arguments
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, v)| v.is_string() || v.is_number() || v.is_boolean())
            .map(|(k, v)| format!("{k}={}", v.as_str().map_or_else(|| v.to_string(), identifier::shown)))
            .collect();
        format!("{} {}", body["request"]["call"].as_str().unwrap_or_default(), words.join(" "))
    };
    let result = || match &body["result"]["err"] {
        Value::Null => "ok".to_owned(),
        _ if body["detail"].is_string() => identifier::shown_long(body["detail"].as_str().unwrap_or_default()),
        Value::Object(case) => {
            let (kind, words) =
                case.iter().next().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default())).unwrap_or_default();
            format!("{kind}: {}", identifier::shown_long(words))
        }
        other => other.to_string(),
    };
    let step = || body["step"].as_u64().unwrap_or(0);
    let actor = || identifier::shown(body["actor"].as_str().unwrap_or("?"));
    // What a person is asked, or was.
    for consequence in body["prepared"]["intent"]["consequence"].as_array().into_iter().flatten() {
        lines.push(format!("  asks: {}", identifier::shown_long(consequence.as_str().unwrap_or_default())));
    }
    lines.extend(match kind {
        Transition::RunStarted => {
            Some(format!("started by {} ({})", actor(), identifier::shown(body["channel"].as_str().unwrap_or("?"))))
        }
        Transition::Answered => Some(format!("{:>3} {} → {}", step(), call(), result())),
        Transition::Started => Some(match body["attempt"].as_u64() {
            Some(attempt) if attempt > 1 => format!("{:>3} {} … again, attempt {attempt}", step(), call()),
            _ => format!("{:>3} {} …", step(), call()),
        }),
        Transition::Completed => {
            Some(format!("{:>3} {} → {} ({})", step(), call(), result(), output::duration_ms(took_ms)))
        }
        Transition::Parked => {
            Some(format!("parked: {}", identifier::shown_long(body["why"].as_str().unwrap_or_default())))
        }
        Transition::Resumed => Some(format!("resumed by {}", actor())),
        Transition::Resolved => Some(format!(
            "{:>3} {} resolved as {} by {}: {}",
            step(),
            call(),
            body["as"].as_str().unwrap_or("?"),
            actor(),
            identifier::shown_long(body["reason"].as_str().unwrap_or_default())
        )),
        Transition::CancelRequested => Some(format!(
            "{} asks for its end: {}",
            actor(),
            identifier::shown_long(body["reason"].as_str().unwrap_or_default())
        )),
        Transition::KeyRotated => Some(format!(
            "the log's signing key changed, by {} ({}): epoch {}",
            actor(),
            identifier::shown(body["channel"].as_str().unwrap_or("?")),
            body["epoch"]
        )),
        Transition::Voted => Some(format!(
            "vote on approval {}: {} by {} with key {}{}",
            identifier::shown(body["approval"].as_str().unwrap_or("?")),
            body["vote"].as_str().unwrap_or("?").to_uppercase(),
            identifier::shown(body["approver"].as_str().unwrap_or("?")),
            identifier::shown(body["key"].as_str().unwrap_or("?")),
            body["reason"].as_str().map(|r| format!(": {}", identifier::shown_long(r))).unwrap_or_default()
        )),
        Transition::Ending => Some(format!("the policy is over: {}", body["status"].as_str().unwrap_or("?"))),
        Transition::Settled => Some(match body["error"].as_str() {
            None => format!(
                "settled by the host: {} {}",
                body["obligation"].as_str().unwrap_or_default(),
                body["object"].as_str().unwrap_or_default()
            ),
            Some(error) => {
                format!("COULD NOT settle {} {}: {}", body["obligation"], body["object"], identifier::shown_long(error))
            }
        }),
        Transition::RunEnded => Some(format!(
            "ended: {}: {}",
            body["status"].as_str().unwrap_or_default(),
            identifier::shown_long(body["summary"].as_str().unwrap_or_default())
        )),
    });
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_people_claim_and_services_say_reaches_no_terminal_raw() {
        let body = json!({
            "actor": "\u{1b}[2Jalice@h", "channel": "\u{1b}c", "why": "\u{1b}[2J", "reason": "\u{1b}[2J", "summary": "\u{1b}[2J",
            "error": "\u{1b}[2J", "approval": "\u{1b}", "approver": "\u{1b}", "key": "\u{1b}", "as": "done", "epoch": 2,
            "said": [{"note": "\u{1b}[2J"}], "prepared": {"intent": {"consequence": ["\u{1b}[2J"]}},
            "request": {"call": "service.stop", "arguments": {"service": "\u{1b}"}}, "result": {"err": {"failed": "\u{1b}"}},
        });
        for word in "run-started answered started completed parked resumed resolved cancel-requested ending settled voted run-ended \
                     key-rotated"
            .split_whitespace()
        {
            let lines = words(Transition::parse(word).unwrap(), &body, 0);
            assert!(lines.len() > 2 && lines.iter().all(|line| !line.contains('\u{1b}')), "{word}: {lines:?}");
        }
    }
}
