//! `lifeboat runs`: what ran, as a list and as a timeline; going on with a run, and ending one.

use std::time::Duration;

use clap::Subcommand;
use engine::Result;
use engine::claims;
use engine::direct::NO_MODULE;
use engine::journal::{RunFilter, RunRow, State};
use engine::run::Status;
use host_api::identifier;
use serde_json::{Value, json};

use crate::timeline::Timeline;
use crate::{Global, output};

/// Verbs of `runs`.
#[derive(Subcommand)]
pub enum Verb {
    /// Runs, newest first.
    List {
        /// Only those with this status (ok, failed, parked, in-doubt, running, interrupted, …).
        #[arg(long)]
        status: Option<String>,
        /// Only those of this policy.
        #[arg(long)]
        policy: Option<String>,
        /// Only those that are not over.
        #[arg(long)]
        open: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// One run as a timeline: steps, notes, findings, what was left open.
    Show {
        /// The run.
        run: String,
        /// Go on showing until the run is over or waits; then end with its exit code.
        #[arg(long, conflicts_with = "json")]
        follow: bool,
    },
    /// Go on with a run that waits for an answer, is in doubt, or whose engine died.
    Resume {
        /// The run.
        run: String,
        /// Approve what it asks for; only where the environment allows it.
        #[arg(long)]
        yes: bool,
        /// Where engines share the state: take it from an engine on another host that still has it, and that you know to be dead.
        #[arg(long, value_name = "WHY")]
        take_over: Option<String>,
    },
    /// Say what became of a step that the engine could not decide; `runs resume` then goes on.
    Resolve {
        /// The run.
        run: String,
        /// The step in doubt.
        #[arg(long)]
        step: u64,
        /// What became of it.
        #[arg(long = "as", value_name = "WHAT")]
        resolution: Said,
        /// How you know.
        #[arg(long)]
        reason: String,
    },
    /// End a run: its policy may compensate, then what it left open is settled.
    Cancel {
        /// The run.
        run: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// End a run without its policy: one whose engine died and that must not go on, or that nobody will answer.
    Abandon {
        /// The run.
        run: String,
        /// Why.
        #[arg(long)]
        reason: String,
        /// Where engines share the state: take it from an engine on another host that still has it, and that you know to be dead.
        #[arg(long, value_name = "WHY")]
        take_over: Option<String>,
    },
}

/// What a person says became of a step.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Said {
    /// It happened.
    Done,
    /// It did not, or is to count as failed.
    Failed,
}

/// How often `--follow` looks.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Runs the verb.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Resume { run, yes, take_over } => crate::run::resume(global, &run, yes, take_over).await,
        Verb::Abandon { run, reason, take_over } => crate::run::abandon(global, &run, &reason, take_over).await,
        Verb::Cancel { run, reason } => crate::run::cancel(global, &run, &reason).await,
        Verb::Resolve { run, step, resolution, reason } => {
            crate::run::resolve(global, &run, step, resolution, &reason).await
        }
        Verb::List { status, policy, open, limit } => list(global, status, policy, open, limit).await,
        Verb::Show { run, follow } => show(global, &run, follow).await,
    }
}

/// The status for people: a run that nobody works on does not run.
async fn status(state: &State, row: &RunRow) -> Result<String> {
    Ok(match row.status.as_str() {
        "running" if !claims::is_held(state, &row.id).await? => "interrupted".into(),
        status => status.into(),
    })
}

async fn list(global: &Global, wanted: Option<String>, policy: Option<String>, open: bool, limit: u32) -> Result<u8> {
    let state = global.load()?.open_state().await?;
    let stored = wanted.clone().map(|status| if status == "interrupted" { "running".into() } else { status });
    let mut runs = state.runs(&RunFilter { status: stored, policy, limit: None }).await?;
    runs.retain(|r| global.env.as_ref().is_none_or(|env| *env == r.environment) && (!open || r.ended_ms.is_none()));
    for row in &mut runs {
        row.status = status(&state, row).await?;
    }
    runs.retain(|r| wanted.as_ref().is_none_or(|wanted| *wanted == r.status));
    runs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if global.json {
        let rows = runs.iter().map(|r| {
            json!({
                "run": r.id, "environment": r.environment, "policy": r.policy, "status": r.status,
                "summary": r.summary, "started-ms": r.started_ms, "ended-ms": r.ended_ms,
                "module-sha256": r.module_sha256,
            })
        });
        output::json(&rows.collect())?;
        return Ok(0);
    }
    let rows: Vec<_> = runs
        .iter()
        .map(|r| {
            let took = r.ended_ms.map_or_else(String::new, |end| output::duration_ms(end.saturating_sub(r.started_ms)));
            vec![r.id.clone(), r.environment.clone(), r.policy.clone(), r.status.clone(), took, r.summary.clone()]
        })
        .collect();
    output::table(&["run", "environment", "policy", "status", "took", "summary"], &rows)?;
    Ok(0)
}

async fn show(global: &Global, run: &str, follow: bool) -> Result<u8> {
    let state = global.load()?.open_state().await?;
    let mut row = state.run(run).await?;
    let mut records = state.records(run).await?;
    if global.json {
        let open = state.obligations(Some(run)).await?;
        let open: Vec<_> = open
            .iter()
            .map(|o| json!({"kind": o.kind, "object": o.object, "state": o.state, "note": o.note}))
            .collect();
        let records: Vec<&Value> = records.iter().map(|r| &r.body).collect();
        let status = status(&state, &row).await?;
        output::json(&json!({"run": row.id, "status": status, "records": records, "obligations": open}))?;
        return Ok(0);
    }
    let standing = status(&state, &row).await?;
    output::line(&format!("run {} · {} in {} · {standing}", row.id, row.policy, row.environment))?;
    let mut timeline = Timeline::default();
    let mut shown = 0;
    loop {
        for record in &records[shown..] {
            timeline.write(record)?;
        }
        shown = records.len();
        if !follow || status(&state, &row).await? != "running" {
            break;
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        // The row first: whatever brought it to its end is among the records then.
        row = state.run(run).await?;
        records = state.records(run).await?;
    }
    let standing = status(&state, &row).await?;
    for open in state.obligations(Some(run)).await? {
        let what = format!("{} {}", open.kind, open.object);
        output::line(&match (open.state.as_str(), standing.as_str()) {
            ("open", "interrupted") => format!("LEFT OPEN: {what}"),
            ("open", _) => format!("open until the run ends: {what}"),
            ("unsettled", _) => format!("LEFT OPEN: {what}: {}", identifier::shown_long(&open.note)),
            _ => continue,
        })?;
    }
    for line in next(&row, &standing) {
        output::line(&line)?;
    }
    Ok(match follow {
        // One that nobody works on is no success either: what became of it is not known yet.
        true => Status::parse(&row.status).unwrap_or(Status::InDoubt).exit_code(),
        false => 0,
    })
}

/// What to type next.
fn next(row: &RunRow, standing: &str) -> Vec<String> {
    let run = &row.id;
    match standing {
        "parked" => vec![format!("to answer: lifeboat runs resume {run}")],
        "in-doubt" => vec![
            format!("what is in doubt: {}", identifier::shown_long(&row.summary)),
            format!("to have the engine look again: lifeboat runs resume {run}"),
            format!("to decide it yourself: lifeboat runs resolve {run} --step N --as done|failed --reason WHY"),
        ],
        "interrupted" if row.module_sha256 == NO_MODULE => vec![
            "its engine died, and there is no policy that could go on".into(),
            format!(
                "to end it: lifeboat runs abandon {run} --reason WHY; then do again what was done by hand, it finds what is done"
            ),
        ],
        "interrupted" => vec![
            "its engine died, and nobody works on it".into(),
            format!("to go on: lifeboat runs resume {run}"),
            format!(
                "to end it: lifeboat runs cancel {run} --reason WHY, or without its policy: lifeboat runs abandon {run} --reason WHY"
            ),
        ],
        _ => Vec::new(),
    }
}
