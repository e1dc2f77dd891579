//! `lifeboat runs`: what ran, as a list and as a timeline.

use clap::Subcommand;
use engine::Result;
use engine::journal::{RunFilter, State, Transition};
use host_api::identifier;
use serde_json::{Value, json};

use crate::{Global, output};

/// Verbs of `runs`.
#[derive(Subcommand)]
pub enum Verb {
    /// Runs, newest first.
    List {
        /// Only those with this status (ok, failed, parked, …).
        #[arg(long)]
        status: Option<String>,
        /// Only those of this policy.
        #[arg(long)]
        policy: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// One run as a timeline: steps, notes, findings, what was left open.
    Show {
        /// The run.
        run: String,
    },
    /// Go on with a run that waits for an answer.
    Resume {
        /// The run.
        run: String,
        /// Approve what it asks for; only where the environment allows it.
        #[arg(long)]
        yes: bool,
    },
    /// End a run whose engine died, or that nobody will answer: what it left open is settled.
    Abandon {
        /// The run.
        run: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

/// Runs the verb.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Resume { run, yes } => return crate::run::resume(global, &run, yes).await,
        Verb::Abandon { run, reason } => return crate::run::abandon(global, &run, &reason).await,
        Verb::List { status, policy, limit } => {
            let state = State::open(global.load()?.state_directory())?;
            let runs = state.runs(&RunFilter { status, policy, limit: Some(limit) })?;
            if global.json {
                let rows = runs.iter().map(|r| {
                    json!({
                        "run": r.id, "environment": r.environment, "policy": r.policy, "status": r.status,
                        "summary": r.summary, "started-ms": r.started_ms, "ended-ms": r.ended_ms,
                        "module-sha256": r.module_sha256,
                    })
                });
                output::json(&rows.collect())?;
            } else {
                let rows: Vec<_> = runs
                    .iter()
                    .map(|r| {
                        let took = r
                            .ended_ms
                            .map_or_else(String::new, |end| output::duration_ms(end.saturating_sub(r.started_ms)));
                        vec![
                            r.id.clone(),
                            r.environment.clone(),
                            r.policy.clone(),
                            r.status.clone(),
                            took,
                            r.summary.clone(),
                        ]
                    })
                    .collect();
                output::table(&["run", "environment", "policy", "status", "took", "summary"], &rows)?;
            }
        }
        Verb::Show { run } => {
            let state = State::open(global.load()?.state_directory())?;
            let row = state.run(&run)?;
            let records = state.records(&run)?;
            if global.json {
                let open = state.obligations(Some(&run))?;
                let open: Vec<_> = open
                    .iter()
                    .map(|o| json!({"kind": o.kind, "object": o.object, "state": o.state, "note": o.note}))
                    .collect();
                let records: Vec<&Value> = records.iter().map(|r| &r.body).collect();
                output::json(&json!({"run": row.id, "status": row.status, "records": records, "obligations": open}))?;
            } else {
                output::line(&format!("run {} · {} in {} · {}", row.id, row.policy, row.environment, row.status))?;
                let begun = records.first().map_or(0, |r| r.time_ms);
                let mut started_ms = 0;
                for record in &records {
                    let took = record.time_ms.saturating_sub(if record.kind == Transition::Completed {
                        started_ms
                    } else {
                        record.time_ms
                    });
                    if record.kind == Transition::Started {
                        started_ms = record.time_ms;
                    }
                    for line in timeline(record.kind, &record.body, took) {
                        output::line(&format!("{:>9}  {line}", output::duration_ms(record.time_ms - begun)))?;
                    }
                }
                let waits = row.status == "parked";
                for open in state.obligations(Some(&run))? {
                    let what = format!("{} {}", open.kind, open.object);
                    output::line(&match (open.state.as_str(), waits) {
                        ("open", true) => format!("open until the run ends: {what}"),
                        ("open", false) => format!(
                            "LEFT OPEN: {what}: the run has no end on record; if no process works on it: lifeboat runs abandon {} --reason WHY",
                            row.id
                        ),
                        ("unsettled", _) => format!("LEFT OPEN: {what}: {}", identifier::shown_long(&open.note)),
                        _ => continue,
                    })?;
                }
                if waits {
                    output::line(&format!("to answer: lifeboat runs resume {}", row.id))?;
                }
            }
        }
    }
    Ok(0)
}

/// A record in words: what was said first, then the record itself.
fn timeline(kind: Transition, body: &Value, took_ms: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for item in body["said"].as_array().into_iter().flatten() {
        if let Some(note) = item["note"].as_str() {
            lines.push(format!("· {}", identifier::shown_long(note)));
        } else if let Ok(finding) = serde_json::from_value(item["finding"].clone()) {
            lines.push(output::finding(&finding));
        } else if let Some(name) = item["evidence"].as_str() {
            lines.push(format!("evidence {name}"));
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
    // What a person is asked, or was.
    for consequence in body["prepared"]["intent"]["consequence"].as_array().into_iter().flatten() {
        lines.push(format!("  asks: {}", identifier::shown_long(consequence.as_str().unwrap_or_default())));
    }
    lines.extend(match kind {
        Transition::RunStarted => Some(format!(
            "started by {} ({})",
            body["actor"].as_str().unwrap_or("?"),
            body["channel"].as_str().unwrap_or("?")
        )),
        Transition::Answered => Some(format!("{:>3} {} → {}", step(), call(), result())),
        Transition::Started => Some(format!("{:>3} {} …", step(), call())),
        Transition::Completed => {
            Some(format!("{:>3} {} → {} ({})", step(), call(), result(), output::duration_ms(took_ms)))
        }
        Transition::Parked => Some(format!("parked: {}", body["why"].as_str().unwrap_or_default())),
        Transition::Resumed => Some(format!("resumed by {}", body["actor"].as_str().unwrap_or("?"))),
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
        Transition::KeyRotated => Some(format!(
            "the log's signing key changed, by {} ({}): epoch {}",
            identifier::shown(body["actor"].as_str().unwrap_or("?")),
            identifier::shown(body["channel"].as_str().unwrap_or("?")),
            body["epoch"]
        )),
        Transition::RunEnded => Some(format!(
            "ended: {}: {}",
            body["status"].as_str().unwrap_or_default(),
            identifier::shown_long(body["summary"].as_str().unwrap_or_default())
        )),
    });
    lines
}
