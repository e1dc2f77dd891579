//! A policy with answers that are given beforehand, and no world behind it: what a person wrote, or what an earlier run was answered. It touches
//! nothing: what goes beyond the answers is denied.

use host_api::identifier;
use serde_json::{Value, json};

use crate::Engine;
use crate::error::Result;
use crate::grants::Grants;
use crate::journal::{Change, Record, Transition};
use crate::policy::Module;
use crate::resume::gives_answer;
use crate::run::{Ended, NONDETERMINISM, RunOptions, Status, check_fits, identity};
use crate::withheld::in_words;

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The call that it is for, `dump.take`.
    pub call: String,
    /// The arguments that it must be asked with, as the journal has them; none: with any.
    pub arguments: Option<Value>,
    /// `{"ok": …}` or `{"err": …}`, as the contract has it.
    pub result: Value,
    /// The time that it is answered at, Unix milliseconds: the clock stands there until the next one.
    pub at_ms: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Rehearsed {
    /// How it ended; its run is of a state that nobody keeps.
    pub ended: Ended,
    /// Calls that it made beyond the answers, which were denied: `dump.take service=notes store=local`.
    pub beyond: Vec<String>,
    /// Where it asked something else than the answer that came next is for, or ended before all were given.
    pub elsewhere: Option<String>,
}

/// The answers of a run on record, in the order in which it was given them. Values of the service that the record withholds are gone: words stand
/// in their place, the same for the same value.
pub fn answers_of(records: &[Record]) -> Vec<Answer> {
    let given = records.iter().filter(|record| gives_answer(record.kind));
    given
        .map(|record| Answer {
            call: record.body["request"]["call"].as_str().unwrap_or_default().to_owned(),
            arguments: Some(in_words(&record.body["request"]["arguments"])),
            result: in_words(&record.body["result"]),
            at_ms: record.time_ms,
        })
        .collect()
}

impl Engine {
    /// Runs a module on answers. For an engine on a state of its own, which is thrown away. `begun_ms`: when it begins, Unix milliseconds. Of
    /// the options, host and grants are not used: nothing that is asked beyond the answers is granted.
    pub async fn rehearse(
        &self,
        module: &Module,
        mut options: RunOptions,
        answers: &[Answer],
        begun_ms: u64,
    ) -> Result<Rehearsed> {
        check_fits(module, &options)?;
        (options.grants, options.rehearsed) = (Grants::default(), true);
        let run = identifier::fresh();
        let claim = self.claim(&run).await?;
        let identity = identity(&run, module, &options);
        let body =
            json!({"environment": options.environment, "policy": options.policy, "parameters": options.parameters});
        let begins = [Change::RunBegins(identity.row())];
        self.state().append(&run, &options.by(), Transition::RunStarted, None, body, &begins).await?;
        let records = answers.iter().zip(1_u64..).map(|(answer, step)| record(&run, answer, step)).collect::<Vec<_>>();
        let ended = self.drive(module, identity, options, claim, begun_ms, records, true).await?;
        // On record are only the calls beyond the answers.
        let beyond = self.state().records_of(&run, Transition::Answered).await?;
        let beyond = beyond.iter().map(|record| line(&record.body["request"])).collect();
        let elsewhere = (ended.status == Status::Trapped && ended.summary.starts_with(NONDETERMINISM))
            .then(|| ended.summary.clone());
        Ok(Rehearsed { ended, beyond, elsewhere })
    }
}

fn record(run: &str, answer: &Answer, step: u64) -> Record {
    let mut request = json!({"call": answer.call});
    if let Some(arguments) = &answer.arguments {
        request["arguments"] = arguments.clone();
    }
    let body = json!({"step": step, "request": request, "result": answer.result});
    Record { seq: step + 1, run: run.to_owned(), time_ms: answer.at_ms, kind: Transition::Answered, body }
}

/// A request in a line.
fn line(request: &Value) -> String {
    let arguments = request["arguments"].as_object().into_iter().flatten();
    let words = arguments
        .map(|(key, value)| format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), identifier::shown)));
    let call = request["call"].as_str().unwrap_or_default().to_owned();
    std::iter::once(call).chain(words).collect::<Vec<_>>().join(" ")
}
