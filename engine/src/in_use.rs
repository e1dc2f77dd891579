//! Backups and modules that something of an environment uses now: none of them is removed.
//!
//! A run that is not over uses every backup that it named: to restore it, copy it, read it, hold it. A run whose engine died is not over. A
//! candidate that is still there uses the backup it was restored from, whoever made it. What engines with another state do is not seen here: a hold is.

use std::collections::BTreeMap;

use host_api::sweep::Guard;

use crate::error::Result;
use crate::journal::{State, Transition};

/// States of a candidate that is still compared with its backup.
const STANDING: [&str; 3] = ["staging", "staged", "parked"];

/// What a sweep must leave alone: runs that are not over, and the backups that something uses. `age_ms`: see [`Guard::age_ms`].
pub async fn sweep_guard(state: &State, environment: &str, age_ms: u64) -> Result<Guard> {
    let runs = state.open_runs(environment).await?.into_iter().map(|open| open.row.id).collect();
    Ok(Guard { runs, in_use: in_use(state, environment, None).await?, age_ms })
}

/// A run of one of these policies that is not over and began with this module (its SHA-256): it goes on with that and no other.
pub async fn run_of_module(
    state: &State,
    environment: &str,
    policies: &[&str],
    sha256: &str,
) -> Result<Option<String>> {
    let mut open = state.open_runs(environment).await?.into_iter().map(|open| open.row);
    Ok(open.find(|row| policies.contains(&row.policy.as_str()) && row.module_sha256 == sha256).map(|row| row.id))
}

/// By backup, in words. `except`: the run that asks, which has named what it is about to remove.
pub async fn in_use(state: &State, environment: &str, except: Option<&str>) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for row in state.candidates().await? {
        if let Some(candidate) = row.candidate.filter(|_| STANDING.contains(&row.state.as_str())) {
            found.insert(candidate.backup, format!("candidate {} is restored from it", row.id));
        }
    }
    for open in state.open_runs(environment).await? {
        if except == Some(open.row.id.as_str()) {
            continue;
        }
        for kind in [Transition::Started, Transition::Answered] {
            for record in state.records_of(&open.row.id, kind).await? {
                if let Some(backup) = record.body["request"]["arguments"]["backup"]["id"].as_str() {
                    found.insert(backup.to_owned(), format!("run {} of {}", open.row.id, open.row.policy));
                }
            }
        }
    }
    Ok(found)
}
