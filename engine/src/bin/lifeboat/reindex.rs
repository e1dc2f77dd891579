//! `lifeboat backups reindex`: what a machine that has nothing but a store can know of it.

use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::config::Environment;
use engine::error::Error;
use host_api::catalog::{Catalog, Holdings};
use host_api::{Finding, StepContext, identifier};
use serde_json::json;

use crate::backups::places;
use crate::{Global, output};

/// How long reading a whole store may take: one request a manifest.
const READ_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Arguments of `backups reindex`.
#[derive(Args)]
pub struct Arguments {
    /// The store.
    #[arg(long)]
    store: String,
    /// Only of this service.
    #[arg(long)]
    service: Option<String>,
}

/// Runs the verb.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let host = environment.host()?;
    let cx = StepContext::detached("backups", READ_LIMIT);
    let (mut code, mut documents) = (0, Vec::new());
    for (service, store) in places(&environment, arguments.service.as_deref(), Some(&arguments.store))? {
        let held = match host.reindex(&cx, service, store).await {
            Ok(held) => held,
            Err(error) => {
                output::say(&format!("error: {}", Error::from(error)));
                code = code.max(3);
                continue;
            }
        };
        let mut findings = of_store(store, &held);
        if held.unseen {
            output::say(&format!("error: store {store} may not be read from here: only what was sent is known"));
            code = code.max(3);
        }
        let (differing, unread) = differing(&environment, &cx, service, store, &held).await;
        findings.extend(differing);
        for error in unread {
            output::say(&format!("error: not compared: {error}"));
            code = code.max(3);
        }
        if !findings.is_empty() {
            code = 5;
        }
        if !global.json {
            show(service, store, &held)?;
            findings.iter().try_for_each(|finding| output::line(&output::finding(finding)))?;
        }
        documents.push(json!({"service": service, "store": store, "holds": held, "findings": findings}));
    }
    if global.json {
        output::json(&json!({"places": documents, "exit-code": code}))?;
    }
    Ok(code)
}

/// What must not be in a store.
fn of_store(store: &str, held: &Holdings) -> Vec<Finding> {
    let unreadable = held.unreadable.iter().map(|(id, why)| {
        let fix =
            "compare it with another copy; nothing is restored from it, and nothing is removed from this store by rule";
        Finding::error("manifest-unreadable", format!("backup {id} in {store} can't be read: {why}"), fix)
    });
    let hidden = held.hidden.iter().map(|id| {
        let fix = "if its removal was cut off, go on with that run (lifeboat runs list); if nobody meant it, take the tombstone away with the store's own tools";
        Finding::error("backup-hidden", format!("backup {id} in {store} is there, and hidden by a tombstone"), fix)
    });
    // Of a store that may not be read, nobody here knows what arrived.
    let sent = held.sent.iter().filter(|_| !held.unseen).map(|id| {
        let fix = "find out who removed it, or why it never arrived: lifeboat runs list --policy backup";
        Finding::error("sent-missing", format!("backup {id} was sent to {store} from here, and is not there"), fix)
    });
    unreadable.chain(hidden).chain(sent).collect()
}

/// Copies of one backup that are not the same in another store; and what could not be compared.
async fn differing(
    environment: &Environment<'_>,
    cx: &StepContext,
    service: &str,
    store: &str,
    held: &Holdings,
) -> (Vec<Finding>, Vec<Error>) {
    let (mut findings, mut unread) = (Vec::new(), Vec::new());
    let Ok(host) = environment.host() else { return (findings, unread) };
    for other in
        environment.binding.store.iter().filter(|(name, of)| *name != store && of.may(host_api::bindings::Right::Read))
    {
        let survey = match host.survey(cx, service, other.0).await {
            Ok(survey) => survey,
            Err(error) => {
                unread.push(Error::from(error));
                continue;
            }
        };
        for stocked in survey.stock {
            let backup = stocked.backup;
            if held.backups.get(&backup.id).is_some_and(|digest| *digest != backup.digest) {
                findings.push(Finding::error(
                    "copies-differ",
                    format!("backup {} is not the same in {store} and {}", backup.id, backup.store),
                    "one of them was changed or forged: compare both (lifeboat backups show) before any is restored",
                ));
            }
        }
    }
    (findings, unread)
}

fn show(service: &str, store: &str, held: &Holdings) -> Result<()> {
    let span = match (held.backups.keys().next(), held.backups.keys().next_back()) {
        (Some(first), Some(last)) => format!(", {} to {}", identifier::shown(first), identifier::shown(last)),
        _ => String::new(),
    };
    if held.unseen {
        return output::line(&format!(
            "{service} in {store}: {} backups sent there that are remembered",
            held.sent.len()
        ));
    }
    output::line(&format!("{service} in {store}: {} backups{span}", held.backups.len()))?;
    for (what, count) in [
        ("verified by a restored copy", held.verified.len()),
        (
            "of these, by records that do not name their store, so nothing goes because of them",
            held.proven_somewhere.len(),
        ),
        ("with verifications or checks of another store, which count for nothing here", held.proven_elsewhere.len()),
        ("read and found whole", held.checked.len()),
        ("held", held.held.len()),
        ("of refused signatures", held.refused.len()),
        ("removed, with a tombstone", held.removed.len()),
    ] {
        if count > 0 {
            output::line(&format!("  {what}: {count}"))?;
        }
    }
    if held.leftovers > 0 {
        let size = output::bytes(held.leftover_bytes);
        output::line(&format!("  objects of no backup: {} ({size}); see lifeboat backups sweep", held.leftovers))?;
    }
    Ok(())
}
