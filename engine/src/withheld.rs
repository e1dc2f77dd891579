//! What the log withholds: values of a service that a run was given (rows of queries, captures of HTTP answers, known records). The log has a
//! salted digest in their place. The values are kept beside it until the run ends, because a resumed run is given them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};
use crate::journal::{Change, Record, Salt, State};

/// The one field of what stands in the log for a value.
const MARK: &str = "withheld";
/// In a text, a shorter value can't be told apart from other words and numbers.
const WORD_BYTES_MIN: usize = 4;
/// Each text is searched for each value, so their number is bounded: a policy reads few, a hostile one could ask for one after the other.
const GIVEN_MAX: usize = 256;
/// Hexadecimal digits of the digest that stand in a text.
const WORD_DIGITS: usize = 16;
/// Calls whose whole answer is a row of a service.
const ROWS: &[&str] = &["query.run", "restore.query"];
/// Fields of an answer that hold pairs of a name and a service's value, wherever they stand in it.
const PAIRS: &[&str] = &["captures", "known"];
/// The one call whose request is a text that a policy writes for the service; all other arguments name things of ours.
const WRITES: &str = "http-check.check";

/// Fields that are no words of a policy: a service must not be able to blot them out by giving such a value.
const FIXED: &[&str] = &["method", "severity", "evidence", "sha256"];

/// What one run was given, and how its log speaks of that.
pub(crate) struct Withheld {
    state: Arc<State>,
    run: String,
    /// Read at the first use, made if the run has none.
    kept: Option<Kept>,
    /// Values so far that are long enough to be found in a text, the longest first.
    given: BTreeSet<Given>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Given(std::cmp::Reverse<usize>, String);

struct Kept {
    salt: Salt,
    results: BTreeMap<u64, Value>,
}

impl Withheld {
    pub(crate) fn new(state: &Arc<State>, run: &str) -> Self {
        Self { state: state.clone(), run: run.to_owned(), kept: None, given: BTreeSet::new() }
    }

    /// A request as it stands in the log.
    pub(crate) async fn request(&mut self, call: &str, mut arguments: Value) -> Result<Value> {
        if call == WRITES {
            self.words(&mut arguments["request"]).await?;
        }
        Ok(json!({"call": call, "arguments": arguments}))
    }

    /// An answer as it stands in the log, and the change that keeps what it withholds.
    pub(crate) async fn answer(&mut self, call: &str, step: u64, answer: &Value) -> Result<(Value, Option<Change>)> {
        let on_record = self.on_record(call, answer).await?;
        if on_record == *answer {
            return Ok((on_record, None));
        }
        let salt = self.kept().await?.salt.clone();
        Ok((on_record, Some(Change::Withholds(step, answer.to_string(), salt))))
    }

    /// An answer on record as the guest was given it. What was kept must be what the log has the digest of.
    pub(crate) async fn recall(&mut self, call: &str, step: u64, record: &Record) -> Result<Value> {
        let on_record = &record.body["result"];
        let broken = |why: &str| Err(Error::new(Kind::Journal, format!("record {}: {why}", record.seq)));
        match self.kept().await?.results.get(&step).cloned() {
            Some(kept) if self.on_record(call, &kept).await? == *on_record => Ok(kept),
            Some(_) => broken("what was kept of its step is not what it has the digest of"),
            None if has_mark(on_record) => broken("what it withholds was not kept"),
            None => Ok(on_record.clone()),
        }
    }

    /// Puts marks in the place of given values in every text of this that is a policy's.
    pub(crate) async fn words(&mut self, value: &mut Value) -> Result<()> {
        if self.given.is_empty() {
            return Ok(());
        }
        let salt = self.kept().await?.salt.clone();
        each_text(value, &mut |text| {
            for Given(_, value) in &self.given {
                *text = replace_word(text, value, || format!("({MARK} {})", &digest(&salt, value)[..WORD_DIGITS]));
            }
        });
        Ok(())
    }

    /// With marks for its own values, and for earlier ones in what is said about a request.
    async fn on_record(&mut self, call: &str, answer: &Value) -> Result<Value> {
        let mut on_record = answer.clone();
        let mut values = Vec::new();
        match on_record.get_mut("ok") {
            Some(row) if ROWS.contains(&call) => values.extend(row.as_array_mut().into_iter().flatten()),
            Some(answer) => in_pairs(answer, &mut values),
            None => {}
        }
        values.retain(|value| value.is_string());
        if !values.is_empty() {
            let salt = self.kept().await?.salt.clone();
            for value in values {
                let text = value.as_str().unwrap_or_default().to_owned();
                *value = json!({MARK: digest(&salt, &text)});
                if text.len() >= WORD_BYTES_MIN && self.given.len() < GIVEN_MAX {
                    self.given.insert(Given(std::cmp::Reverse(text.len()), text));
                }
            }
        }
        if let Some(failures) = on_record.pointer_mut("/ok/failures").filter(|_| call == WRITES) {
            self.words(failures).await?;
        }
        if let Some(error) = on_record.get_mut("err").filter(|error| error.is_object()) {
            self.words(error).await?;
        }
        Ok(on_record)
    }

    async fn kept(&mut self) -> Result<&Kept> {
        if self.kept.is_none() {
            let (salt, results) = self.state.withheld(&self.run).await?;
            let salt = match salt {
                Some(salt) => salt,
                None => Salt(crate::audit::random()?),
            };
            self.kept = Some(Kept { salt, results });
        }
        Ok(self.kept.as_ref().expect("set above"))
    }
}

/// What is on record with a word in the place of each digest, the same for the same value, in what a policy was given and in what it asked: what it
/// is given where the values are gone. A word of letters and digits, which a policy may put into a path as it is.
pub(crate) fn in_words(value: &Value) -> Value {
    match value {
        Value::Object(fields) => match fields.get(MARK).and_then(Value::as_str).filter(|_| fields.len() == 1) {
            Some(digest) => json!(format!("{MARK}-{}", digest.get(..WORD_DIGITS).unwrap_or(digest))),
            None => fields.iter().map(|(name, field)| (name.clone(), in_words(field))).collect(),
        },
        Value::Array(items) => items.iter().map(in_words).collect(),
        Value::String(text) => json!(in_text(text)),
        other => other.clone(),
    }
}

/// `(withheld XXXXXXXXXXXXXXXX)` as the same word.
fn in_text(text: &str) -> String {
    let begin = format!("({MARK} ");
    let mut parts = text.split(begin.as_str());
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_at_checked(WORD_DIGITS).and_then(|(digits, rest)| Some((digits, rest.strip_prefix(')')?))) {
            Some((digits, rest)) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                out.push_str(&format!("{MARK}-{digits}{rest}"));
            }
            _ => {
                out.push_str(&begin);
                out.push_str(part);
            }
        }
    }
    out
}

/// Hexadecimal SHA-256 of salt and value.
fn digest(salt: &Salt, value: &str) -> String {
    hex::encode(Sha256::new().chain_update(salt.0).chain_update(value).finalize())
}

/// The values in all lists of pairs below this.
fn in_pairs<'v>(value: &'v mut Value, values: &mut Vec<&'v mut Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if PAIRS.contains(&name.as_str()) {
                    values.extend(field.as_array_mut().into_iter().flatten().filter_map(|pair| pair.get_mut(1)));
                } else {
                    in_pairs(field, values);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| in_pairs(item, values)),
        _ => {}
    }
}

fn each_text(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(fields) => {
            let words = fields.iter_mut().filter(|(name, _)| !FIXED.contains(&name.as_str()));
            words.for_each(|(_, field)| each_text(field, change));
        }
        _ => {}
    }
}

fn has_mark(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_mark),
        Value::Object(fields) => fields.contains_key(MARK) || fields.values().any(has_mark),
        _ => false,
    }
}

/// Replaces a word where it does not go on to the left or right as a longer one.
fn replace_word(text: &str, word: &str, by: impl Fn() -> String) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let goes_on = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        out.push_str(before);
        if goes_on(out.chars().next_back()) || goes_on(after.chars().next()) {
            // It may begin again within itself: only its first character is passed over.
            let first = word.chars().next().map_or(word.len(), char::len_utf8);
            out.push_str(&word[..first]);
            rest = &rest[at + first..];
        } else {
            out.push_str(&by());
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{By, RunRow, Transition};

    const ID: &str = "01M83MHGQRBE0PAVPB79CR9M4Y";

    fn by() -> By {
        By { actor: "alice@host1".into(), channel: "cli".into() }
    }

    async fn begun(directory: &std::path::Path) -> Arc<State> {
        let state = Arc::new(State::open(directory).await.unwrap());
        let row = RunRow {
            id: "r1".into(),
            environment: "test".into(),
            policy: "p".into(),
            module_sha256: "0".into(),
            ..RunRow::default()
        };
        state.append("r1", &by(), Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)]).await.unwrap();
        state
    }

    async fn write(state: &State, step: u64, answer: Value, change: Option<Change>) {
        let body = json!({"result": answer});
        let changes: Vec<Change> = change.into_iter().collect();
        state.append("r1", &by(), Transition::Answered, Some(step), body, &changes).await.unwrap();
    }

    #[tokio::test]
    async fn values_stand_in_the_log_as_digests_and_are_recalled_until_the_run_ends() {
        let directory = tempfile::tempdir().unwrap();
        let state = begun(directory.path()).await;
        let answers = [
            ("query.run", json!({"ok": [ID, null, "7"]})),
            ("http-check.check", json!({"ok": {"passed": true, "captures": [["id", ID]], "failures": []}})),
            ("catalog.list", json!({"ok": [{"id": "b1", "known": [["oldest", ID]]}]})),
        ];
        let mut withheld = Withheld::new(&state, "r1");
        for (step, (call, answer)) in (1..).zip(&answers) {
            let (on_record, change) = withheld.answer(call, step, answer).await.unwrap();
            assert!(!on_record.to_string().contains(ID) && has_mark(&on_record), "{on_record}");
            write(&state, step, on_record, change).await;
        }
        assert!(!state.lines("r1").await.unwrap().concat().contains(ID));
        // A later engine.
        let mut later = Withheld::new(&state, "r1");
        let records = state.records("r1").await.unwrap();
        for (step, (call, answer)) in (1..).zip(&answers) {
            assert_eq!(later.recall(call, step, &records[step as usize]).await.unwrap(), *answer);
        }
        assert_eq!(later.request(WRITES, json!({"request": {"path": ID}})).await.unwrap(), {
            withheld.request(WRITES, json!({"request": {"path": ID}})).await.unwrap()
        });
        state.append("r1", &by(), Transition::RunEnded, None, json!({"status": "ok"}), &[]).await.unwrap();
        let (salt, kept) = state.withheld("r1").await.unwrap();
        assert!(salt.is_none() && kept.is_empty());
        let error = Withheld::new(&state, "r1").recall("query.run", 1, &records[1]).await.unwrap_err();
        assert!(error.message.contains("record 2: what it withholds was not kept"), "{error}");
    }

    #[tokio::test]
    async fn what_was_kept_and_is_not_what_was_recorded_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = begun(directory.path()).await;
        let mut withheld = Withheld::new(&state, "r1");
        let (on_record, change) = withheld.answer("query.run", 1, &json!({"ok": ["alice"]})).await.unwrap();
        let Some(Change::Withholds(step, _, salt)) = change else { panic!("it is kept") };
        let other = Change::Withholds(step, json!({"ok": ["mallory"]}).to_string(), salt);
        write(&state, 1, on_record, Some(other)).await;
        let record = &state.records("r1").await.unwrap()[1];
        let error = Withheld::new(&state, "r1").recall("query.run", 1, record).await.unwrap_err();
        assert!(error.message.contains("record 2: what was kept"), "{error}");
    }

    #[tokio::test]
    async fn equal_values_are_equal_in_one_run_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let state = begun(directory.path()).await;
        let row = json!({"ok": ["42", "42"]});
        let first = Withheld::new(&state, "r1").answer("query.run", 1, &row).await.unwrap().0;
        let second = Withheld::new(&state, "r2").answer("query.run", 1, &row).await.unwrap().0;
        assert_eq!(first["ok"][0], first["ok"][1]);
        assert_ne!(first["ok"][0], second["ok"][0]);
    }

    #[test]
    fn a_word_is_found_also_where_it_begins_within_itself() {
        let replaced = |text| replace_word(text, "12-12", || "()".into());
        assert_eq!(replaced("12-12 x12-12 12-12x"), "() x12-12 12-12x");
        assert_eq!(replaced("x12-12-12, é12-12-12"), "x12-(), é12-()");
    }

    #[tokio::test]
    async fn given_values_are_found_in_what_a_policy_writes_and_says() {
        let directory = tempfile::tempdir().unwrap();
        let state = begun(directory.path()).await;
        let mut withheld = Withheld::new(&state, "r1");
        let row = json!({"ok": [ID, "note", "7", "note-17", "error", "POST"]});
        withheld.answer("query.run", 1, &row).await.unwrap();
        let request = json!({"endpoint": "note/api", "request": {
            "method": "POST", "path": format!("/notes/{ID}/archive?n=7"), "json-equals": [["/id", format!("\"{ID}\"")]], "body-json": "{\"k\":\"note\"}",
        }});
        let request = withheld.request(WRITES, request).await.unwrap();
        let text = request.to_string();
        assert!(!text.contains(ID) && !text.contains("\"note\\\""), "{text}");
        // Names of ours stay what they are, and so do longer words and short values.
        assert_eq!(request["arguments"]["endpoint"], "note/api");
        assert!(text.contains("/notes/(withheld ") && text.contains("?n=7"), "{text}");
        assert_eq!(request["arguments"]["request"]["method"], "POST");
        let mut said = json!([{"note": "note-17 is no note1, annotes"}, {"finding": {"severity": "error", "message": "an error"}}]);
        withheld.words(&mut said).await.unwrap();
        assert_eq!(said[1]["finding"]["severity"], "error");
        assert!(said[1]["finding"]["message"].as_str().unwrap().starts_with("an (withheld "), "{said}");
        let said = said.to_string();
        assert!(!said.contains("note-17") && said.contains("is no note1, annotes"), "{said}");
    }

    #[test]
    fn the_word_for_a_value_is_the_same_in_what_was_given_and_in_what_was_asked() {
        let given = in_words(&json!({"ok": {"captures": [["id", {"withheld": "0123456789abcdef0123"}]]}}));
        assert_eq!(given, json!({"ok": {"captures": [["id", "withheld-0123456789abcdef"]]}}));
        let asked = in_words(&json!({"path": "/notes/(withheld 0123456789abcdef)?n=(withheld 0123456789abcdef)"}));
        assert_eq!(asked, json!({"path": "/notes/withheld-0123456789abcdef?n=withheld-0123456789abcdef"}));
        for other in [
            "(withheld 01)",
            "(withheld ",
            "(withheld 0123456789abcdeg)",
            "(withheld 0123456789abcdef",
            "ü(withheld üüüüüüüüüüüüüüüü)",
        ] {
            assert_eq!(in_text(other), other);
        }
    }
}
