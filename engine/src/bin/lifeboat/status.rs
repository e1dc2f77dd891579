//! `lifeboat status`: a line a service.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::check::status::{ServiceStatus, status};
use engine::check::{LIMIT_DEFAULT, lasting};
use engine::error::{Error, Kind};
use host_api::checks::Level;
use host_api::identifier;
use serde_json::json;

use crate::{Global, output};

const AFTER_HELP: &str = "\
Exit codes: 0 all is ok · 1 warning, or something could not be looked at · 2 critical, or wrong use · 10 configuration invalid

Only looks. `lifeboat check` looks at much more.";

/// Arguments of `status`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// How long looking at a store, and at the state, may take.
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT_DEFAULT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    time_limit: u64,
}

/// Runs the verb.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = Arc::new(global.load()?);
    let environment = config.environment(global.env.as_deref())?.name;
    let now_ms = identifier::now_ms();
    let limit = Duration::from_secs(arguments.time_limit);
    let status = status(&config, &environment, limit, Arc::new(move || now_ms)).await?;
    let code = match status.level() {
        Level::Ok => 0,
        Level::Unknown | Level::Warning => 1,
        Level::Critical => 2,
    };
    if global.json {
        let mut document = serde_json::to_value(&status).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
        document["environment"] = json!(environment);
        document["at-ms"] = json!(now_ms);
        document["exit-code"] = json!(code);
        output::json(&document)?;
        return Ok(code);
    }
    let rows: Vec<Vec<String>> = status.services.iter().map(|service| row(service, now_ms)).collect();
    output::table(
        &["", "service", "recovery point", "objective", "proven", "drilled", "stores", "held", "next"],
        &rows,
    )?;
    if let Some(error) = &status.unread {
        output::say(&format!("error: the state can't be read: {error}"));
    }
    for service in &status.services {
        for trouble in &service.trouble {
            output::line(&format!("{}: {}: {}", trouble.level.word(), service.service, trouble.message))?;
            if !trouble.fix.is_empty() {
                output::line(&format!("  fix: {}", trouble.fix))?;
            }
        }
    }
    Ok(code)
}

fn row(service: &ServiceStatus, now_ms: u64) -> Vec<String> {
    let ago = |ms: Option<u64>| ms.map_or_else(|| "never".into(), |ms| lasting(now_ms.saturating_sub(ms)));
    let stores: Vec<String> = service
        .stores
        .iter()
        .map(|store| match &store.unread {
            Some(_) => format!("{} ?", store.store),
            None => format!("{} {}", store.store, ago(store.newest_at_ms)),
        })
        .collect();
    let next: Vec<String> = service
        .next
        .iter()
        .flat_map(|next| {
            let due = next.due.iter().map(|due| format!("{} due", due.full_name()));
            let again = next.wake_at_ms.map(|at_ms| format!("{} asked by {}", next.cadence, identifier::utc(at_ms)));
            due.chain(again)
        })
        .collect();
    vec![
        service.level.word().to_owned(),
        service.service.clone(),
        ago(service.newest.as_ref().map(|newest| newest.taken_at_ms)),
        service.rpo_ms.map_or_else(|| "-".into(), lasting),
        ago(service.proven.as_ref().map(|proven| proven.taken_at_ms)),
        ago(service.drilled_at_ms),
        if stores.is_empty() { "none".into() } else { stores.join(", ") },
        service.held.to_string(),
        if next.is_empty() { "-".into() } else { next.join(", ") },
    ]
}
