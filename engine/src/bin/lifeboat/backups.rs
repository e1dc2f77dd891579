//! `lifeboat backups`.

use std::time::Duration;

use clap::Subcommand;
use engine::Result;
use engine::config::Environment;
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use engine::run::Status;
use host_api::StepContext;
use host_api::catalog::{Backup, BackupState, Catalog};
use host_api::identifier;
use serde_json::{Value, json};

use crate::{Global, output};

/// Verbs of `backups`.
#[derive(Subcommand)]
pub enum Verb {
    /// Backups in the stores, oldest first.
    List {
        /// Only of this service.
        #[arg(long)]
        service: Option<String>,
        /// Only in this store.
        #[arg(long)]
        store: Option<String>,
    },
    /// One backup.
    Show {
        /// The backup.
        backup: String,
    },
    /// Look at a stored backup: are the objects there and whole?
    Verify {
        /// The backup.
        backup: String,
        /// Only in this store.
        #[arg(long)]
        store: Option<String>,
        /// exists: there, right size · checksum: every byte hashed · content: decompressed as well.
        #[arg(long, default_value = "checksum", value_parser = ["exists", "checksum", "content"])]
        depth: String,
    },
    /// Keep a backup from deletion.
    Hold {
        /// The backup.
        backup: String,
        /// For so many days.
        #[arg(long)]
        days: u32,
        /// Why.
        #[arg(long)]
        why: String,
    },
    /// End its holds.
    Unhold {
        /// The backup.
        backup: String,
        /// Why.
        #[arg(long)]
        why: String,
    },
}

/// Runs the verb.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    match verb {
        Verb::List { service, store } => {
            let found = all(&environment, service.as_deref(), store.as_deref()).await?;
            if global.json {
                output::json(&found.iter().map(|(b, s)| as_json(b, s)).collect())?;
            } else {
                let rows: Vec<_> = found.iter().map(|(b, s)| row(b, s)).collect();
                output::table(
                    &["backup", "service", "store", "taken", "size", "version", "label", "verified", "held until"],
                    &rows,
                )?;
            }
            Ok(if found.is_empty() { 4 } else { 0 })
        }
        Verb::Show { backup } => {
            for (backup, state) in find(&environment, &backup, None).await? {
                output::json(&as_json(&backup, &state))?;
            }
            Ok(0)
        }
        Verb::Verify { backup, store, depth } => {
            let found = find(&environment, &backup, store.as_deref()).await?;
            let mut code = 0;
            for (backup, _) in found {
                let call = DirectCall { name: "upload.verify", arguments: json!({"backup": backup, "depth": depth}) };
                let (ended, results) = by_hand(global, &environment, "backups-verify", vec![call]).await?;
                let findings: Vec<host_api::Finding> =
                    results.first().map(|r| serde_json::from_value(r.clone()).unwrap_or_default()).unwrap_or_default();
                // A check that could not run has no result: it never passes.
                let whole = ended.status == Status::Ok && findings.is_empty() && !results.is_empty();
                if global.json {
                    output::json(&json!({
                        "backup": backup.id, "store": backup.store, "depth": depth, "whole": whole, "findings": findings,
                        "run": ended.run, "error": (ended.status != Status::Ok).then_some(&ended.summary),
                    }))?;
                } else if whole {
                    output::line(&format!("{} in {}: whole ({depth})", backup.id, backup.store))?;
                } else {
                    output::line(&format!("{} in {}: NOT VERIFIED ({depth})", backup.id, backup.store))?;
                    for finding in &findings {
                        output::line(&output::finding(finding))?;
                    }
                    if ended.status != Status::Ok {
                        output::line(&format!("could not look: {}", identifier::shown_long(&ended.summary)))?;
                    }
                }
                if !whole {
                    code = 5;
                }
            }
            Ok(code)
        }
        Verb::Hold { backup, days, why } => {
            let until = identifier::now_ms() + u64::from(days) * 86_400_000;
            change(
                global,
                &environment,
                &backup,
                "catalog.hold",
                "backups-hold",
                json!({"until-ms": until, "why": why}),
            )
            .await
        }
        Verb::Unhold { backup, why } => {
            change(global, &environment, &backup, "catalog.unhold", "backups-unhold", json!({"why": why})).await
        }
    }
}

/// Makes calls by hand, recorded.
pub async fn by_hand(
    global: &Global,
    environment: &Environment<'_>,
    verb: &str,
    calls: Vec<DirectCall>,
) -> Result<(engine::run::Ended, Vec<Value>)> {
    let config = global.load()?;
    let engine = crate::run::engine(&config, environment, false, global.json)?;
    let options = environment.options_by_hand(verb)?;
    crate::run::interrupts(&options.cancelled);
    engine.direct(options, calls).await
}

async fn change(
    global: &Global,
    environment: &Environment<'_>,
    id: &str,
    call: &'static str,
    verb: &str,
    arguments: Value,
) -> Result<u8> {
    let mut code = 0;
    for (backup, _) in find(environment, id, None).await? {
        let mut arguments = arguments.clone();
        arguments["backup"] = json!(backup);
        let (ended, _) = by_hand(global, environment, verb, vec![DirectCall { name: call, arguments }]).await?;
        output::line(&format!("{} in {}: {}", backup.id, backup.store, ended.summary))?;
        code = code.max(ended.status.exit_code());
    }
    Ok(code)
}

async fn all(
    environment: &Environment<'_>,
    service: Option<&str>,
    store: Option<&str>,
) -> Result<Vec<(Backup, BackupState)>> {
    let host = environment.host()?;
    let cx = StepContext::detached("backups", Duration::from_secs(600));
    let known = |what: &str, name: Option<&str>, names: Vec<&str>| match name {
        Some(name) if !names.contains(&name) => Err(Error::unknown(what, name, names)),
        _ => Ok(()),
    };
    known("service", service, environment.binding.service.keys().map(String::as_str).collect())?;
    known("store", store, environment.binding.store.keys().map(String::as_str).collect())?;
    let mut found = Vec::new();
    for name in environment.binding.service.keys().filter(|n| service.is_none_or(|s| s == *n)) {
        for place in environment.binding.store.keys().filter(|n| store.is_none_or(|s| s == *n)) {
            for backup in
                host.list(&cx, name, place).await.map_err(|e| Error::from(e).context(format!("store {place}")))?
            {
                let state = host.state(&cx, &backup).await?;
                found.push((backup, state));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| (&a.id, &a.store).cmp(&(&b.id, &b.store)));
    Ok(found)
}

async fn find(environment: &Environment<'_>, id: &str, store: Option<&str>) -> Result<Vec<(Backup, BackupState)>> {
    let found: Vec<_> = all(environment, None, store).await?.into_iter().filter(|(b, _)| b.id == id).collect();
    if found.is_empty() {
        return Err(Error::new(Kind::Usage, format!("no backup `{}`", identifier::shown(id)))
            .hint("`lifeboat backups list` shows them"));
    }
    Ok(found)
}

fn row(backup: &Backup, state: &BackupState) -> Vec<String> {
    let time = |ms: Option<u64>| ms.map_or_else(|| "-".into(), identifier::utc);
    vec![
        backup.id.clone(),
        backup.service.clone(),
        backup.store.clone(),
        identifier::utc(backup.taken_at_ms),
        output::bytes(backup.stored_bytes),
        backup.version.clone().unwrap_or_else(|| "-".into()),
        backup.label.clone().unwrap_or_else(|| "-".into()),
        time(state.verified_at_ms),
        time(state.held_until_ms),
    ]
}

fn as_json(backup: &Backup, state: &BackupState) -> Value {
    let mut value = json!(backup);
    value["state"] = json!(state);
    value
}
