//! The log as a whole, line by line: what must hold of every line, from the first to the last. An outsider checks the same with
//! `docs/verify_audit.py`.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::record::{RECORD_VERSION, Stand, Transition};
use crate::error::{Error, Kind, Result};

/// What the first record's `prev` says.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Whatever is nested deeper is none of ours; every JSON parser takes this much.
const DEPTH_MAX: usize = 100;

/// A walk over the log's lines in their order.
pub(crate) struct Walk {
    seq: u64,
    head: String,
    runs: HashMap<String, Seen>,
    /// Texts of key rotations, by the record they stand in.
    rotations: Vec<(u64, String)>,
    /// Hashes of the records that somebody asked for.
    asked: BTreeMap<u64, Option<String>>,
}

/// What is known of a run so far.
struct Seen {
    stand: Stand,
    time_ms: u64,
    status: String,
}

/// A line, taken apart.
pub(crate) struct Line {
    pub(crate) run: String,
    pub(crate) step: Option<u64>,
    pub(crate) kind: Transition,
    pub(crate) time_ms: u64,
    /// Hexadecimal SHA-256 of the line.
    pub(crate) hash: String,
}

impl Walk {
    /// At the beginning; the hashes of these records are kept.
    pub(crate) fn new(asked: impl IntoIterator<Item = u64>) -> Self {
        Self {
            seq: 0,
            head: GENESIS.into(),
            runs: HashMap::new(),
            rotations: Vec::new(),
            asked: asked.into_iter().map(|seq| (seq, None)).collect(),
        }
    }

    /// Takes the next line, without its line feed. An error names the record; the walk is over then.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<Line> {
        let seq = self.seq + 1;
        self.check(seq, line).map_err(|why| Error::new(Kind::VerificationFailed, format!("record {seq}: {why}")))
    }

    fn check(&mut self, seq: u64, line: &[u8]) -> Result<Line, String> {
        let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
        let body: Value = serde_json::from_str(text).map_err(|_| "not JSON")?;
        let written_again = body.to_string();
        if !body.is_object() || !plain(&body, DEPTH_MAX) || written_again != text {
            return Err("not canonical JSON".into());
        }
        let word = |field: &str| match body[field].as_str() {
            Some(word) if !word.is_empty() => Ok(word),
            _ => Err(format!("it has no `{field}`")),
        };
        let number = |field: &str| body[field].as_u64().ok_or_else(|| format!("it has no `{field}`"));
        let version = number("v")?;
        // An engine from before an update may write beside a newer one for a while: versions may alternate.
        if !(1..=RECORD_VERSION).contains(&version) {
            return Err(format!("its version {version} is not known"));
        }
        if number("seq")? != seq || word("prev")? != self.head {
            return Err("it does not follow the record before it".into());
        }
        let (run, time_ms, kind) = (word("run")?, number("time-ms")?, word("kind")?);
        let kind = Transition::parse(kind).ok_or("it is of an unknown kind")?;
        let step = match &body["step"] {
            Value::Null => None,
            step => Some(step.as_u64().ok_or("its step is no number")?),
        };
        if version > 1 {
            word("actor")?;
            word("channel")?;
        }
        let before = self.runs.get(run);
        let stand = before.map_or(Stand::New, |seen| seen.stand).next(kind, step).map_err(|e| e.message)?;
        if before.is_some_and(|seen| time_ms < seen.time_ms) {
            return Err("its time is before that of the run's record before".into());
        }
        let status = match kind {
            Transition::RunEnded => word("status")?.to_owned(),
            Transition::KeyRotated => "ok".to_owned(),
            // Records from before the field was there waited for an answer.
            Transition::Parked => body["status"].as_str().unwrap_or("parked").to_owned(),
            Transition::RunStarted | Transition::Resumed => "running".to_owned(),
            Transition::Answered
            | Transition::Started
            | Transition::Completed
            | Transition::Resolved
            | Transition::CancelRequested
            | Transition::Ending
            | Transition::Settled
            | Transition::Voted => before.map_or_else(String::new, |seen| seen.status.clone()),
        };
        if kind == Transition::KeyRotated {
            self.rotations.push((seq, word("rotation")?.to_owned()));
        }
        let hash = hex::encode(Sha256::digest(line));
        self.runs.insert(run.to_owned(), Seen { stand, time_ms, status });
        if let Some(asked) = self.asked.get_mut(&seq) {
            *asked = Some(hash.clone());
        }
        (self.seq, self.head) = (seq, hash.clone());
        Ok(Line { run: run.to_owned(), step, kind, time_ms, hash })
    }

    /// Records so far.
    pub(crate) fn records(&self) -> u64 {
        self.seq
    }

    /// Hash of the last one.
    pub(crate) fn head(&self) -> &str {
        &self.head
    }

    /// The hash of a record that was asked for; none if the log is shorter. That of record 0 is what the first one's `prev` says.
    pub(crate) fn hash(&self, seq: u64) -> Option<&str> {
        match seq {
            0 => Some(GENESIS),
            seq => self.asked.get(&seq)?.as_deref(),
        }
    }

    /// Texts of key rotations, by the record they stand in.
    pub(crate) fn rotations(&self) -> &[(u64, String)] {
        &self.rotations
    }

    /// How each run came out by its last record.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.runs.iter().map(|(run, seen)| (run.as_str(), seen.status.as_str()))
    }
}

/// Without floating-point numbers, whose text is not the same everywhere, and not nested deeper than this.
fn plain(value: &Value, depth: usize) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(items) => depth > 0 && items.iter().all(|item| plain(item, depth - 1)),
        Value::Object(fields) => depth > 0 && fields.values().all(|field| plain(field, depth - 1)),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// What must hold of a record before it is written, so that the log can be verified everywhere.
pub(super) fn check_body(body: &Value) -> Result<()> {
    match plain(body, DEPTH_MAX) {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Usage, "a record holds no floating-point numbers, and nothing nested deeper than 100")
                .hint("write a fraction in a parameter as text"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(lines: &[&str]) -> Result<u64> {
        let mut walk = Walk::new([]);
        lines.iter().try_for_each(|line| walk.line(line.as_bytes()).map(drop))?;
        Ok(walk.records())
    }

    fn first(rest: &str) -> String {
        format!(
            r#"{{"actor":"a","channel":"cli","kind":"run-started","prev":"{GENESIS}","run":"r1","seq":1,"time-ms":5,"v":2{rest}}}"#
        )
    }

    fn second(first: &str, text: &str) -> String {
        text.replace("PREV", &hex::encode(Sha256::digest(first)))
    }

    #[test]
    fn a_line_is_canonical_and_has_what_every_record_has() {
        walk(&[&first("")]).unwrap();
        for (line, why) in [
            (first("").replace("\":", "\": "), "not canonical"),
            (first(r#","w":1.0"#), "not canonical"),
            (first(r#","w":-0"#), "not canonical"),
            (first(r#","w":18446744073709551616"#), "not canonical"),
            (first(r#","w":"\u0041""#), "not canonical"),
            (first(&format!(r#","w":{}{}"#, "[".repeat(101), "]".repeat(101))), "not canonical"),
            (first("").replace("\"actor\":\"a\"", "\"actor\":\"\""), "no `actor`"),
            (first("").replace("\"channel\":\"cli\",", ""), "no `channel`"),
            (first("").replace("\"v\":2", "\"v\":3"), "its version 3 is not known"),
            (first("").replace("\"seq\":1", "\"seq\":2"), "does not follow"),
            (first("").replace("run-started", "run-begun"), "unknown kind"),
            (first("").replace("run-started", "completed"), "can't follow"),
        ] {
            let error = walk(&[&line]).unwrap_err();
            assert!(error.message.starts_with("record 1: ") && error.message.contains(why), "{line}: {error}");
        }
        let mut bytes = first("").into_bytes();
        bytes[12] = 0xff;
        assert!(Walk::new([]).line(&bytes).err().unwrap().message.contains("not UTF-8"));
    }

    #[test]
    fn what_follows_is_held_against_what_was() {
        let begun = first("");
        let record = r#"{"actor":"a","channel":"cli","kind":"answered","prev":"PREV","run":"r1","seq":2,"step":1,"time-ms":5,"v":2}"#;
        assert_eq!(walk(&[&begun, &second(&begun, record)]).unwrap(), 2);
        for (from, to, why) in [
            ("\"time-ms\":5", "\"time-ms\":4", "its time is before"),
            ("\"run\":\"r1\"", "\"run\":\"r2\"", "can't follow"),
            ("\"step\":1", "\"step\":\"1\"", "its step"),
            ("PREV", GENESIS, "does not follow"),
        ] {
            let error = walk(&[&begun, &second(&begun, &record.replace(from, to))]).unwrap_err();
            assert!(error.message.starts_with("record 2: ") && error.message.contains(why), "{error}");
        }
    }
}
