//! `lifeboat policy test|scenario|replay|check`: what a module would do, with answers that are given beforehand and no world behind it.

use std::path::Path;
use std::sync::Arc;

use engine::approvals::Nobody;
use engine::config::{Config, Environment};
use engine::error::{Error, Kind};
use engine::journal::Record;
use engine::policy::{Module, inspect, validate, validate_partial};
use engine::rehearse::{Answer, Rehearsed, answers_of};
use engine::run::{RunOptions, Status, check_world};
use engine::sandbox::compiler::Compiler;
use engine::{Engine, Result};
use host_api::identifier::{now_ms, parse_time_ms, shown, shown_long};
use host_api::real::RealHost;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::modules::read_file;
use crate::terminal::Watch;
use crate::{Global, output};

/// A larger scenario is none.
const SCENARIO_BYTES_MAX: u64 = 16 << 20;

/// Answers that a policy is given, and what is expected of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Scenario {
    /// When it begins: ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    begins: Option<String>,
    /// What is expected of its end.
    #[serde(default)]
    expect: Expect,
    /// Its parameters.
    #[serde(default)]
    parameters: Map<String, Value>,
    /// Its calls, in order, each with its answer.
    #[serde(default, rename = "call")]
    calls: Vec<Call>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Expect {
    /// How it ends: `ok`, `failed`, …; `ok` if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    /// What its summary contains.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    /// Rules of its findings, sorted; not looked at if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<String>>,
    /// Policies that it says are due, in order; not looked at if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Call {
    /// `dump.take`
    name: String,
    /// So long after its beginning, milliseconds; as the one before, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_ms: Option<u64>,
    /// What it must be asked with, as a table or as JSON; anything, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Value>,
    /// The answer, as JSON: what the call gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// Instead of an answer, the error: `failed: no such file`; a kind of the contract, and words.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Scenario {
    fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::new(Kind::Usage, format!("{}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
        if size > SCENARIO_BYTES_MAX {
            return Err(wrong(format!("{size} bytes; a scenario has at most {SCENARIO_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        toml::from_str(&text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))
    }

    fn begins_ms(&self) -> Result<u64> {
        match &self.begins {
            None => Ok(now_ms()),
            Some(text) => parse_time_ms(text).ok_or_else(|| {
                Error::new(Kind::Usage, format!("begins: `{}` is no time", shown(text))).hint("2026-11-26T12:00:00Z")
            }),
        }
    }

    fn answers(&self, begins_ms: u64) -> Result<Vec<Answer>> {
        let mut at_ms = begins_ms;
        let mut answers = Vec::new();
        for (number, call) in self.calls.iter().enumerate() {
            let wrong =
                |why: String| Error::new(Kind::Usage, format!("call {}, {}: {why}", number + 1, shown(&call.name)));
            let known = engine::calls::CALLS.iter().map(|known| known.name);
            if engine::calls::find(&call.name).is_none() {
                return Err(Error { kind: Kind::Usage, ..Error::unknown("call", &call.name, known) });
            }
            let result = match (&call.answer, &call.error) {
                (None, None) => json!({"ok": null}),
                (Some(text), None) => {
                    let value: Value =
                        serde_json::from_str(text).map_err(|e| wrong(format!("its answer is no JSON: {e}")))?;
                    json!({"ok": value})
                }
                (None, Some(text)) => json!({"err": error(text)}),
                (Some(_), Some(_)) => return Err(wrong("it has an answer and an error".into())),
            };
            at_ms = call.after_ms.map_or(at_ms, |after| begins_ms.saturating_add(after));
            let arguments = match &call.arguments {
                // TOML has no null, and JSON does.
                Some(Value::String(text)) => {
                    Some(serde_json::from_str(text).map_err(|e| wrong(format!("its arguments are no JSON: {e}")))?)
                }
                other => other.clone(),
            };
            answers.push(Answer { call: call.name.clone(), arguments, result, at_ms });
        }
        Ok(answers)
    }
}

/// `failed: words` as the contract's variant.
fn error(text: &str) -> Value {
    match text.split_once(':') {
        _ if text == "cancelled" => json!("cancelled"),
        Some((kind, words)) => json!({kind.trim(): words.trim()}),
        None => json!({"failed": text}),
    }
}

/// An engine on a state that is thrown away, and a host that has nothing.
struct Bench {
    engine: Engine,
    host: Arc<RealHost>,
    /// Last: removed after the state in it is closed.
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(quiet: bool) -> Result<Self> {
        let folder =
            tempfile::tempdir().map_err(|e| Error::new(Kind::Failed, format!("a folder for the state: {e}")))?;
        let host = RealHost::new(Default::default(), &Default::default(), folder.path()).map_err(Error::from)?;
        let builder = Engine::builder().state_directory(folder.path()).compiler(Compiler::this_program());
        let engine = builder.confirmer(Arc::new(Nobody)).observer(Arc::new(Watch::new(quiet))).build().await?;
        Ok(Self { engine, host: Arc::new(host), _folder: folder })
    }

    fn options(&self, module: &Module, parameters: Map<String, Value>, random_of: &str) -> RunOptions {
        let description = &module.inspected.description;
        let host = host_api::Host::of(self.host.clone());
        let mut options = RunOptions::new("rehearsal", &description.name, &description.world, host);
        // An environment has to give it as much before it runs there.
        let needs = usize::try_from(module.inspected.memory_bytes_min).unwrap_or(usize::MAX);
        options.limits.memory_bytes_max = options.limits.memory_bytes_max.max(needs);
        // Nothing is in it, and whoever tests a module has it already.
        options.wasi = true;
        options.random_of = Some(random_of.to_owned());
        options.parameters = parameters;
        options.channel = "cli".into();
        options.rehearsed = true;
        options
    }
}

/// Runs a module on scenarios; 0 if each came to what is expected of it, 5 otherwise.
pub async fn test(global: &Global, file: &Path, scenarios: &[std::path::PathBuf]) -> Result<u8> {
    let bytes = read_file(file)?;
    let mut results = Vec::new();
    // Compiled once: a language's runtime takes seconds.
    let bench = Bench::new(true).await?;
    let module = bench.engine.load(&bytes)?;
    for path in scenarios {
        let scenario = Scenario::read(path)?;
        let context = |e: Error| e.context(path.display());
        let begins_ms = scenario.begins_ms().map_err(context)?;
        let answers = scenario.answers(begins_ms).map_err(context)?;
        let parameters = validate(&module.inspected.description, scenario.parameters.clone()).map_err(context)?;
        let options = bench.options(&module, parameters, "rehearsal");
        let rehearsed = bench.engine.rehearse(&module, options, &answers, begins_ms).await?;
        let failures = scenario.expect.held_against(&rehearsed);
        if !global.json {
            let word = if failures.is_empty() { "ok  " } else { "FAIL" };
            output::line(&format!(
                "{word} {}: {}: {}",
                path.display(),
                rehearsed.ended.status.word(),
                shown_long(&rehearsed.ended.summary)
            ))?;
            failures.iter().try_for_each(|failure| output::line(&format!("     {}", shown_long(failure))))?;
        }
        results.push(
            json!({"scenario": path, "status": rehearsed.ended.status.word(), "summary": rehearsed.ended.summary,
            "findings": rehearsed.ended.findings, "due": rehearsed.ended.due, "failures": failures}),
        );
    }
    let failed = results.iter().filter(|result| result["failures"] != json!([])).count();
    let code = if failed == 0 { 0 } else { 5 };
    match global.json {
        true => output::json(&json!({"results": results, "failed": failed, "exit-code": code}))?,
        false => output::line(&format!("{} of {} passed", results.len() - failed, results.len()))?,
    }
    Ok(code)
}

impl Expect {
    fn held_against(&self, rehearsed: &Rehearsed) -> Vec<String> {
        let ended = &rehearsed.ended;
        let mut failures: Vec<String> = rehearsed.elsewhere.iter().cloned().collect();
        failures
            .extend(rehearsed.beyond.iter().map(|call| format!("it asks for more than the scenario answers: {call}")));
        let status = self.status.as_deref().unwrap_or("ok");
        if ended.status.word() != status {
            failures.push(format!("it ended as {}, expected {status}", ended.status.word()));
        }
        if let Some(words) = self.summary.as_deref().filter(|words| !ended.summary.contains(words)) {
            failures.push(format!("its summary does not contain `{words}`"));
        }
        let compare = |what: &str, expected: &Option<Vec<String>>, found: Vec<String>| {
            expected
                .as_ref()
                .filter(|expected| **expected != found)
                .map(|expected| format!("{what}: {}; expected {}", words(&found), words(expected)))
        };
        let mut rules: Vec<String> = ended.findings.iter().map(|finding| finding.rule.clone()).collect();
        rules.sort_unstable();
        failures.extend(compare("findings", &self.findings, rules));
        failures.extend(compare("due", &self.due, ended.due.iter().map(|due| due.policy.clone()).collect()));
        failures
    }
}

fn words(list: &[String]) -> String {
    if list.is_empty() { "none".into() } else { list.join(", ") }
}

/// Writes what a run on record asked and was answered as a scenario.
pub async fn scenario(global: &Global, run: &str) -> Result<u8> {
    let config = global.load()?;
    let state = config.open_state().await?;
    let row = state.run(run).await?;
    let records = state.records(run).await?;
    let begun = &records[0];
    let calls = answers_of(&records).into_iter().map(|answer| {
        let (ok, err) = (answer.result.get("ok").cloned(), answer.result.get("err").cloned());
        Call {
            name: answer.call,
            after_ms: Some(answer.at_ms.saturating_sub(begun.time_ms)),
            arguments: answer.arguments.map(|arguments| Value::String(arguments.to_string())),
            answer: ok.filter(|value| !value.is_null()).map(|value| value.to_string()),
            error: err.map(|error| match error {
                Value::Object(case) => case.iter().next().map_or_else(String::new, |(kind, words)| {
                    format!("{kind}: {}", words.as_str().unwrap_or_default())
                }),
                other => other.as_str().unwrap_or_default().to_owned(),
            }),
        }
    });
    let mut findings: Vec<String> =
        said(&records, "finding").filter_map(|f| f["rule"].as_str().map(str::to_owned)).collect();
    findings.sort_unstable();
    let scenario = Scenario {
        // To the millisecond: times that the policy computes from it stand in what it asked.
        begins: Some(host_api::identifier::utc_ms(begun.time_ms)),
        expect: Expect { status: Some(row.status), summary: None, findings: Some(findings), due: None },
        parameters: begun.body["parameters"].as_object().cloned().unwrap_or_default(),
        calls: calls.collect(),
    };
    let text = toml::to_string(&scenario)
        .map_err(|e| Error::new(Kind::Failed, format!("it can't be written as a scenario: {e}")))?;
    output::line(text.trim_end())?;
    Ok(0)
}

/// How it ends otherwise than on record: its status, the rules of its findings, what it says is due.
fn otherwise(rehearsed: &Rehearsed, status: &str, records: &[Record]) -> Vec<String> {
    let ended = &rehearsed.ended;
    let mut found = Vec::new();
    if ended.status.word() != status {
        found.push(format!("it comes out {}, and came out {status}", ended.status.word()));
    }
    let of = |what: &str, field: &str| -> Vec<String> {
        said(records, what).filter_map(|item| item[field].as_str().map(str::to_owned)).collect()
    };
    let mut compare = |what: &str, then: Vec<String>, now: Vec<String>| {
        if then != now {
            found.push(format!("{what}: {} now, and {} then", words(&now), words(&then)));
        }
    };
    let sorted = |mut rules: Vec<String>| {
        rules.sort_unstable();
        rules
    };
    let now = ended.findings.iter().map(|finding| finding.rule.clone()).collect();
    compare("findings", sorted(of("finding", "rule")), sorted(now));
    compare("due", of("due", "duty"), ended.due.iter().map(|due| due.duty.clone()).collect());
    found
}

fn said<'r>(records: &'r [Record], what: &'r str) -> impl Iterator<Item = &'r Value> {
    records
        .iter()
        .flat_map(|record| record.body["said"].as_array().into_iter().flatten())
        .filter_map(move |item| item.get(what))
}

/// Runs a module over what earlier runs of a policy were answered; 0 if it asks the same in all of them, 5 otherwise.
pub async fn replay(global: &Global, file: &Path, policy: Option<&str>, runs: &[String], limit: u32) -> Result<u8> {
    let bytes = read_file(file)?;
    let inspected = inspect(&bytes)?;
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let state = config.open_state().await?;
    let policy = policy.unwrap_or(&inspected.description.name);
    // As it would be run there: less memory than that is another end.
    let limits = environment.binding.policy.get(policy).map(|binding| binding.limits.clone());
    let environment = environment.name;
    let chosen: Vec<String> = match runs.is_empty() {
        false => runs.to_vec(),
        true => state
            .past_runs(&environment, policy, None, limit)
            .await?
            .into_iter()
            .filter(|run| run.ended_ms.is_some())
            .map(|run| run.id)
            .collect(),
    };
    if chosen.is_empty() {
        let said = format!("no run of {} is over", shown(policy));
        match global.json {
            true => output::json(&json!({"results": [], "differ": 0, "said": said, "exit-code": 4}))?,
            false => output::line(&said)?,
        }
        return Ok(4);
    }
    let mut results = Vec::new();
    let bench = Bench::new(true).await?;
    let module = bench.engine.load(&bytes)?;
    for run in &chosen {
        let (row, records) = (state.run(run).await?, state.records(run).await?);
        if let Some(why) = ended_from_outside(&row.status) {
            if !global.json {
                output::line(&format!("{run}: not comparable: {why}"))?;
            }
            results.push(json!({"run": run, "same": null, "why": why}));
            continue;
        }
        let parameters = records[0].body["parameters"].as_object().cloned().unwrap_or_default();
        let mut options = bench.options(&module, parameters, run);
        if let Some(limits) = &limits {
            let needs = options.limits.memory_bytes_max;
            options.limits = limits.clone();
            options.limits.memory_bytes_max = limits.memory_bytes_max.max(needs);
        }
        let answers = answers_of(&records);
        let rehearsed = bench.engine.rehearse(&module, options, &answers, records[0].time_ms).await?;
        let mut elsewhere: Vec<String> = rehearsed.elsewhere.iter().cloned().collect();
        elsewhere.extend(rehearsed.beyond.iter().map(|call| format!("it goes on to ask for {call}")));
        if elsewhere.is_empty() {
            elsewhere.extend(otherwise(&rehearsed, &row.status, &records));
        }
        if !global.json {
            let word = if elsewhere.is_empty() { "the same" } else { "ELSEWHERE" };
            output::line(&format!("{run}: {word}, {} answers", answers.len()))?;
            for words in elsewhere.iter().flat_map(|words| words.lines()) {
                output::line(&format!("  {}", shown_long(words)))?;
            }
        }
        results.push(json!({"run": run, "same": elsewhere.is_empty(), "elsewhere": elsewhere}));
    }
    let differ = results.iter().filter(|result| result["same"] == json!(false)).count();
    let code = if differ == 0 { 0 } else { 5 };
    match global.json {
        true => output::json(&json!({"results": results, "differ": differ, "exit-code": code}))?,
        false => {
            let compared = results.iter().filter(|result| !result["same"].is_null()).count();
            output::line(&format!("{} of {compared} runs would have gone the same way", compared - differ))?
        }
    }
    Ok(code)
}

/// Why a run's end says nothing about its module.
fn ended_from_outside(status: &str) -> Option<&'static str> {
    match Status::parse(status)? {
        Status::LimitBroken => Some("a limit ended it, and how far it had come by then is chance"),
        Status::Cancelled => Some("somebody cancelled it"),
        Status::Abandoned => Some("somebody gave it up"),
        Status::LockHeld => Some("it could not have what another run held"),
        _ => None,
    }
}

/// Whether a module fits what an environment has for a policy, before it is put in its place; 0 or 12.
pub fn check(global: &Global, file: &Path, policy: Option<&str>) -> Result<u8> {
    let bytes = read_file(file)?;
    let inspected = inspect(&bytes)?;
    let config: Config = global.load()?;
    let environment: Environment<'_> = config.environment(global.env.as_deref())?;
    let name = policy.unwrap_or(&inspected.description.name);
    let binding = environment.policy(name)?;
    let mut against = Vec::new();
    if let Err(error) = check_world(&inspected, name, binding.world.get_ref()) {
        against.push(error.message);
    }
    if let Err(error) = binding.fits(&environment.name, name, &inspected) {
        against.push(error.to_string());
    }
    if let Err(error) = validate_partial(&inspected.description, &binding.parameters) {
        against.push(format!("its parameters here: {}", error.message));
    }
    let rule = environment.binding.modules.rule()?;
    let verdicts = rule.verdicts(file, &bytes, &inspected.description, now_ms())?;
    if let Err(error) = rule.admit(&verdicts) {
        against.push(error.message);
    }
    let grants: Vec<_> = binding.grants()?.lines().to_vec();
    let granted = |call: &str| grants.iter().any(|grant| grant.speaks_of(call));
    let denied: Vec<&str> = inspected
        .imports
        .iter()
        .map(|import| import.name.as_str())
        .filter(|call| !engine::calls::is_pure(call) && !granted(call))
        .collect();
    let code = if against.is_empty() { 0 } else { 12 };
    if global.json {
        output::json(
            &json!({"policy": name, "environment": environment.name, "fits": against.is_empty(), "against": against,
            "not-granted": denied, "exit-code": code}),
        )?;
        return Ok(code);
    }
    against.iter().try_for_each(|why| output::line(&format!("does not fit: {}", shown_long(why))))?;
    denied
        .iter()
        .try_for_each(|call| output::line(&format!("it would be denied {call}: no grant here speaks of it")))?;
    if against.is_empty() {
        output::line(&format!(
            "{} {} fits {name} of environment {}",
            inspected.description.name, inspected.description.version, environment.name
        ))?;
    }
    Ok(code)
}
