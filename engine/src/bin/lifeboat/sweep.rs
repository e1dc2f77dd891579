//! `lifeboat backups sweep`: objects of a store that belong to no backup.

use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::config::Environment;
use engine::direct::DirectCall;
use engine::error::Error;
use engine::run::Status;
use engine::sandbox::limits::Limits;
use host_api::sweep::{AT_ONCE_MAX, Leftover, Sweep};
use host_api::{StepContext, identifier};
use serde_json::{Value, json};

use crate::backups::places;
use crate::{Global, output, run};

/// How long looking through a store may take.
const LOOK_LIMIT: Duration = Duration::from_secs(600);
/// On top of the longest run: for clocks, and for engines that nobody here knows of.
const MARGIN: Duration = Duration::from_secs(24 * 3600);

/// Arguments of `backups sweep`.
#[derive(Args)]
pub struct Arguments {
    /// The store.
    #[arg(long)]
    store: String,
    /// Only of this service.
    #[arg(long)]
    service: Option<String>,
    /// Show what would go, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Why, for whoever is asked, and for the log.
    #[arg(long, default_value = "asked for on the command line")]
    why: String,
    /// Approve; only where the environment allows it.
    #[arg(long)]
    yes: bool,
}

/// Runs the verb.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let age_ms = age_ms(&environment);
    let state = config.open_state().await?;
    let guard = engine::in_use::sweep_guard(&state, &environment.name, age_ms).await?;
    drop(state);
    let host = environment.host()?;
    let (mut code, mut due, mut documents) = (0, false, Vec::new());
    for (service, store) in places(&environment, arguments.service.as_deref(), Some(&arguments.store))? {
        let cx = StepContext::detached("backups", LOOK_LIMIT);
        let found = match host.leftovers(&cx, service, store, &guard).await {
            Ok(found) => found,
            // Another service may be swept all the same.
            Err(error) => {
                output::say(&format!("error: {}", Error::from(error)));
                code = code.max(3);
                continue;
            }
        };
        if !global.json {
            show(service, store, &found)?;
        }
        let all: Vec<&str> = found.iter().filter(|of| of.goes).map(|of| of.key.as_str()).collect();
        let mut document = json!({"service": service, "store": store, "objects": found, "ended": null});
        due |= !all.is_empty();
        if !all.is_empty() && !arguments.dry_run {
            let keys = &all[..all.len().min(AT_ONCE_MAX)];
            let of = json!({"service": service, "store": store, "keys": keys, "age-ms": age_ms, "why": arguments.why});
            let mut sweep = of.clone();
            sweep["approval"] = json!({"from": 0});
            let calls = vec![
                DirectCall { name: "backups.request-sweep", arguments: of },
                DirectCall { name: "backups.sweep", arguments: sweep },
            ];
            let engine = run::engine(&config, &environment, arguments.yes, global.json).await?;
            let options = environment.options_by_hand("backups-sweep")?;
            run::interrupts(&options.cancelled);
            let (ended, _) = engine.direct(options, calls).await?;
            code = code.max(ended.status.exit_code());
            if ended.status == Status::Ok && all.len() > keys.len() {
                output::say(&format!(
                    "{} more are left: {AT_ONCE_MAX} go at once; say it again",
                    all.len() - keys.len()
                ));
                code = code.max(3);
            }
            document["ended"] = ended_as_json(&ended, keys.len());
            if !global.json {
                output::line(&match ended.status {
                    Status::Ok => format!("{} objects removed", keys.len()),
                    _ => format!("{}: {}", ended.status.word(), identifier::shown_long(&ended.summary)),
                })?;
            }
        }
        documents.push(document);
    }
    if !due && code == 0 {
        code = 4;
    }
    if global.json {
        output::json(&json!({"places": documents, "older-than-ms": age_ms, "exit-code": code}))?;
    }
    Ok(code)
}

/// Longer than any run of the environment can be at work.
fn age_ms(environment: &Environment<'_>) -> u64 {
    let by_hand = Limits::default();
    let all = environment.binding.policy.values().map(|policy| &policy.limits).chain([&by_hand]);
    let longest = all.map(|limits| limits.deadline() + limits.grace()).max().unwrap_or_default();
    u64::try_from((longest + MARGIN).as_millis()).unwrap_or(u64::MAX)
}

fn show(service: &str, store: &str, found: &[Leftover]) -> Result<()> {
    let goes = found.iter().filter(|of| of.goes).count();
    output::line(&format!("{service} in {store}: {goes} of {} objects that belong to no backup go", found.len()))?;
    if found.is_empty() {
        return Ok(());
    }
    let row = |of: &Leftover| {
        let goes = if of.goes { "goes" } else { "stays" };
        vec![of.key.clone(), of.stored(), output::bytes(of.bytes), goes.into(), of.words().into()]
    };
    output::table(&["object", "stored", "size", "", "because"], &found.iter().map(row).collect::<Vec<_>>())
}

fn ended_as_json(ended: &engine::run::Ended, asked: usize) -> Value {
    json!({"run": ended.run, "status": ended.status.word(), "summary": ended.summary, "asked": asked})
}
