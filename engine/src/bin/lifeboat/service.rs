//! `lifeboat service`: the live service, by hand; what a run left stopped is started here.

use clap::Subcommand;
use engine::Result;
use engine::direct::DirectCall;
use engine::error::Error;
use serde_json::json;

use crate::{Global, backups::by_hand, output};

/// Verbs of `service`.
#[derive(Subcommand)]
pub enum Verb {
    /// Whether it runs, and which version is installed.
    Status {
        /// The service.
        service: String,
    },
    /// Start it, and wait until it is ready. A child of lifeboat needs `lifeboat serve` to be there.
    Start {
        /// The service.
        service: String,
    },
}

/// Runs the verb.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let (Verb::Status { service } | Verb::Start { service }) = &verb;
    if !environment.binding.service.contains_key(service) {
        return Err(Error::unknown("service", service, environment.binding.service.keys().map(String::as_str)));
    }
    let call = |name: &'static str| DirectCall { name, arguments: json!({"service": service}) };
    let (name, calls) = match &verb {
        Verb::Status { .. } => ("service-status", vec![call("service.get-status")]),
        Verb::Start { .. } => ("service-start", vec![call("service.start"), call("service.wait-ready")]),
    };
    let (ended, results) = by_hand(global, &environment, name, calls).await?;
    if global.json {
        output::json(&json!({
            "service": service, "status": ended.status.word(), "summary": ended.summary, "run": ended.run,
            "state": results.first().filter(|r| r.is_object()),
        }))?;
    } else {
        let said = match (&verb, results.first()) {
            (Verb::Status { .. }, Some(state)) => {
                let version = state["version"].as_str().map_or_else(String::new, |v| format!(", version {v}"));
                format!("{}{version}", state["state"].as_str().unwrap_or("unknown"))
            }
            _ => ended.summary.clone(),
        };
        output::line(&format!("{service}: {}", host_api::identifier::shown_long(&said)))?;
    }
    Ok(ended.status.exit_code())
}
