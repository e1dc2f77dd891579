//! `lifeboat candidates`.

use clap::Subcommand;
use engine::Result;
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use engine::journal::{CandidateRow, State};
use host_api::restore::Candidate;
use serde_json::json;

use crate::{Global, backups::by_hand, output};

/// Verbs of `candidates`.
#[derive(Subcommand)]
pub enum Verb {
    /// Candidates that are still there.
    List {
        /// Also those that are gone or were promoted.
        #[arg(long)]
        all: bool,
    },
    /// Remove one.
    Discard {
        /// The candidate.
        candidate: String,
    },
}

/// Runs the verb.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    let config = global.load()?;
    match verb {
        Verb::List { all } => {
            let rows = config.open_state().await?.candidates().await?;
            let rows: Vec<_> = rows
                .into_iter()
                .filter(|r| all || matches!(r.state.as_str(), "staged" | "parked" | "staging" | "undone"))
                .collect();
            if global.json {
                let rows = rows.iter().map(|r| json!({
                    "candidate": r.id, "run": r.run, "state": r.state, "verified": r.verification.as_ref().is_some_and(|v| v.passed),
                    "service": r.candidate.as_ref().map(|c| &c.service), "backup": r.candidate.as_ref().map(|c| &c.backup),
                    "members": r.candidate.as_ref().map(|c| &c.members),
                }));
                output::json(&rows.collect())?;
            } else {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|r| {
                        let (service, backup, target) = r.candidate.as_ref().map_or_else(Default::default, |c| {
                            let only = if c.is_data_only() { ", data only" } else { "" };
                            (c.service.clone(), c.backup.clone(), format!("{}{only}", c.target))
                        });
                        vec![r.id.clone(), service, backup, target, r.state.clone(), verified(r).into()]
                    })
                    .collect();
                output::table(&["candidate", "service", "backup", "target", "state", "verified"], &rows)?;
            }
            Ok(0)
        }
        Verb::Discard { candidate } => {
            let state = config.open_state().await?;
            let row = state.candidate(&candidate).await?;
            if row.state == "promoted" {
                return Err(Error::new(Kind::Usage, format!("candidate {candidate} is in service"))
                    .hint("`lifeboat promotions undo` takes that back"));
            }
            let mut body = match row.candidate {
                Some(body) => body,
                None => unfinished(&state, &row).await?,
            };
            // What was promoted and taken back lies where the promotion put it.
            let promotions = state.promotions().await?;
            if let Some(undone) = promotions.iter().find(|p| p.promotion.candidate == candidate && p.state == "undone")
            {
                for member in &mut body.members {
                    if let Some(swap) = undone.promotion.swaps.iter().find(|s| s.source == member.source) {
                        member.place.clone_from(&swap.other_place);
                    }
                }
            }
            let environment = config.environment(Some(&state.run(&row.run).await?.environment))?;
            drop(state);
            let call = DirectCall { name: "restore.discard", arguments: json!({"candidate": body}) };
            let (ended, _) = by_hand(global, &environment, "candidates-discard", vec![call]).await?;
            output::line(&format!("{candidate}: {}", ended.summary))?;
            Ok(ended.status.exit_code())
        }
    }
}

/// A candidate whose staging did not come to its end, once the run that staged it is over: whatever it left is removed.
async fn unfinished(state: &State, row: &CandidateRow) -> Result<Candidate> {
    let run = state.run(&row.run).await?;
    if run.ended_ms.is_none() {
        return Err(Error::new(Kind::InDoubt, format!("the staging of candidate {} did not end on record", row.id))
            .hint(format!("its run removes it: lifeboat runs resume {run}, or runs abandon {run}", run = run.id)));
    }
    let obligations = state.obligations(Some(&row.run)).await?;
    let opened = obligations.iter().find(|o| o.kind == "candidate" && o.object == row.id);
    let service = opened.and_then(|o| o.body["service"].as_str()).unwrap_or_default();
    Ok(Candidate::unfinished(&row.id, service))
}

/// Whether its newest verification passed.
fn verified(row: &CandidateRow) -> &'static str {
    match &row.verification {
        Some(verification) if verification.passed => "yes",
        Some(_) => "FAILED",
        None => "no",
    }
}
