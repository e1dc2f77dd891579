//! Whether what an intent is about is still what is there: asked before a vote is taken, so that nobody signs what can't be used.
//!
//! It is a courtesy to who signs. What decides is the comparison when the approval is used.

use std::time::Duration;

use host_api::{Host, StepContext};

use super::rules::Rules;
use crate::direct::NO_MODULE;
use crate::error::{Error, Kind, Result};
use crate::journal::{ApprovalRow, State, Transition};

/// How long looking at the live data and the candidate may take.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// Refuses an approval whose intent is not the one that its run put on record when it asked: nobody signs, and nothing uses, other words.
pub async fn check_recorded(state: &State, row: &ApprovalRow) -> Result<()> {
    let asked = state.records_of(&row.run, Transition::Started).await?;
    let asked = asked.iter().find(|record| {
        record.body["prepared"]["approval"] == row.id.as_str() && record.body["prepared"]["intent"].is_object()
    });
    match asked.map(|record| &record.body["prepared"]["intent"]) {
        Some(intent) if *intent == row.intent => Ok(()),
        _ => Err(Error::new(
            Kind::VerificationFailed,
            format!("approval {} does not say what its run asked for: the state was changed beside the log", row.id),
        )
        .hint("`lifeboat audit verify`, and look at who can write the state")),
    }
}

/// Refuses an approval whose intent is stale, and says what has changed.
pub async fn check(host: &Host, state: &State, rules: &Rules, row: &ApprovalRow) -> Result<()> {
    check_recorded(state, row).await?;
    let stale = |why: &str| {
        Err(Error::new(Kind::Failed, format!("approval {} takes no vote: it is stale: {why}", row.id)).hint(
            match row.intent["module-sha256"] == NO_MODULE {
                true => "end the command that asked, and ask anew".into(),
                false => format!("`lifeboat runs resume {}` ends it; then start a new run", row.run),
            },
        ))
    };
    let action = row.intent["action"].as_str().unwrap_or_default();
    let rule = rules.rule(action);
    if row.intent["needed"] != rule.needed || row.intent["groups"] != serde_json::json!(rule.groups) {
        return stale("the environment asks for other signatures now");
    }
    let object = |key: &str| row.intent["object"][key].as_str().unwrap_or_default();
    match action {
        "promote" => {
            let Some(candidate) = state.candidate(object("candidate")).await?.candidate else {
                return stale("its candidate is not there");
            };
            let now = host.promote.describe(&StepContext::detached("vote", LOOK_LIMIT), &candidate).await?;
            if row.intent["identities"] != serde_json::json!(now.identities) {
                return stale("the live data or the candidate are not those that it names");
            }
        }
        "undo" | "drop-previous" => {
            let promotion = state.promotion(object("promotion")).await?;
            if matches!(promotion.state.as_str(), "undone" | "dropped") {
                return stale(&format!("its promotion is {}", promotion.state));
            }
        }
        // Backups are named by the digests of their manifests.
        _ => {}
    }
    Ok(())
}
