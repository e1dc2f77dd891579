//! `lifeboat backups delete`: what the rules of an environment, or a person, would remove; and its removal, with a person's consent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::config::{Config, Environment};
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use engine::run::Status;
use host_api::delete::{AT_ONCE_MAX, Delete, Entry, Regard};
use host_api::{StepContext, identifier};
use serde_json::{Value, json};

use crate::backups::places;
use crate::{Global, output, run};

/// How long looking through a store may take.
const LOOK_LIMIT: Duration = Duration::from_secs(600);

/// Arguments of `backups delete`.
#[derive(Args)]
pub struct Arguments {
    /// These, instead of what the rules of [environment.E.retention] let go. What must stay is refused with the reason.
    #[arg(value_name = "BACKUP")]
    backups: Vec<String>,
    /// Only of this service.
    #[arg(long)]
    service: Option<String>,
    /// Only in this store.
    #[arg(long)]
    store: Option<String>,
    /// Show what would go, with the reasons, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// The backups named here may go though their own time and the time at which their store took them disagree.
    #[arg(long, requires = "backups")]
    despite_times: bool,
    /// Why, for whoever is asked, and for the log.
    #[arg(long, default_value = "asked for on the command line")]
    why: String,
    /// Approve; only where the environment allows it.
    #[arg(long)]
    yes: bool,
}

/// What is there of a service in a store, and what would go.
struct Place {
    service: String,
    store: String,
    entries: Vec<Entry>,
    /// Ids that go.
    goes: BTreeSet<String>,
    /// What became of it.
    ended: Option<Value>,
}

/// Runs the verb.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let state = config.open_state().await?;
    let in_use = engine::in_use::in_use(&state, &environment.name, None).await?;
    drop(state);
    let regard = Regard { in_use, despite_times: arguments.despite_times };
    let (mut found, failures) = look(&environment, &arguments, &regard).await?;
    failures.iter().for_each(|error| output::say(&format!("error: {error}")));
    if !arguments.backups.is_empty() {
        choose(&mut found, &arguments, &failures)?;
    }
    if !global.json {
        found.iter().try_for_each(|place| show(place, !arguments.backups.is_empty()))?;
    }
    let mut code = if failures.is_empty() { 0 } else { 3 };
    let due: Vec<usize> = (0..found.len()).filter(|n| !found[*n].goes.is_empty()).collect();
    if due.is_empty() && code == 0 {
        code = 4;
    }
    for n in due {
        let chosen = chosen(&found[n]);
        if arguments.dry_run {
            // What a person names is held against the floors here too: a dry run that says yes must not lie. The rules' own choice was.
            if !arguments.backups.is_empty() {
                environment.host()?.may_go(&context(), &chosen, &regard).await?;
            }
            continue;
        }
        let (ended, mut with) = remove(global, &config, &environment, &arguments, &chosen).await?;
        if ended == 0 && found[n].goes.len() > chosen.len() {
            let left = found[n].goes.len() - chosen.len();
            output::say(&format!("{left} more are due: {AT_ONCE_MAX} go at once; say it again"));
            with["due-later"] = json!(left);
            code = code.max(3);
        }
        found[n].ended = Some(with);
        code = code.max(ended);
    }
    if global.json {
        output::json(&as_json(&found, code))?;
    }
    Ok(code)
}

fn context() -> StepContext {
    StepContext::detached("backups", LOOK_LIMIT)
}

/// What is there, place by place, and what can't be read: nothing goes from there.
async fn look(
    environment: &Environment<'_>,
    arguments: &Arguments,
    regard: &Regard,
) -> Result<(Vec<Place>, Vec<Error>)> {
    let host = environment.host()?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for (service, store) in places(environment, arguments.service.as_deref(), arguments.store.as_deref())? {
        match host.removal_plan(&context(), service, store, regard).await {
            Ok(entries) => {
                let goes = entries.iter().filter(|entry| !entry.planned.keep).map(|entry| entry.backup.id.clone());
                let goes = goes.collect();
                found.push(Place { service: service.into(), store: store.into(), entries, goes, ended: None });
            }
            Err(error) => failures.push(Error::from(error)),
        }
    }
    Ok((found, failures))
}

/// Only what a person named, each in one place.
fn choose(found: &mut [Place], arguments: &Arguments, failures: &[Error]) -> Result<()> {
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for id in &arguments.backups {
        named.entry(id).or_default();
    }
    for place in found.iter_mut() {
        place.entries.retain(|entry| named.contains_key(entry.backup.id.as_str()));
        place.goes = place.entries.iter().map(|entry| entry.backup.id.clone()).collect();
    }
    for place in found.iter() {
        for id in &place.goes {
            named.entry(arguments.backups.iter().find(|n| *n == id).map_or("", |n| n)).or_default().push(&place.store);
        }
    }
    for (id, stores) in named {
        let shown = identifier::shown(id);
        match stores.as_slice() {
            [_] => {}
            [] if failures.is_empty() => {
                return Err(
                    Error::new(Kind::Usage, format!("no backup `{shown}`")).hint("`lifeboat backups list` shows them")
                );
            }
            [] => return Err(Error::new(Kind::Failed, format!("no backup `{shown}` in the stores that can be read"))),
            several => {
                return Err(Error::new(Kind::Usage, format!("backup {shown} is in {}", several.join(", ")))
                    .hint("say from which store it goes: --store STORE"));
            }
        }
    }
    Ok(())
}

/// What goes at once, oldest first.
fn chosen(place: &Place) -> Vec<host_api::catalog::Backup> {
    let goes = place.entries.iter().filter(|entry| place.goes.contains(&entry.backup.id));
    goes.take(AT_ONCE_MAX).map(|entry| entry.backup.clone()).collect()
}

/// Asks, and removes. The exit code, and what the JSON says of it.
async fn remove(
    global: &Global,
    config: &Config,
    environment: &Environment<'_>,
    arguments: &Arguments,
    chosen: &[host_api::catalog::Backup],
) -> Result<(u8, Value)> {
    let mut of = json!({"backups": chosen, "why": arguments.why});
    if arguments.despite_times {
        of["despite-times"] = json!(true);
    }
    let mut apply = of.clone();
    apply["approval"] = json!({"from": 0});
    let calls = vec![
        DirectCall { name: "confirm.request-delete", arguments: of },
        DirectCall { name: "delete.apply", arguments: apply },
    ];
    let engine = run::engine(config, environment, arguments.yes, global.json).await?;
    let options = environment.options_by_hand("backups-delete")?;
    run::interrupts(&options.cancelled);
    let (ended, _) = engine.direct(options, calls).await?;
    if !global.json {
        let words = match ended.status {
            Status::Ok => format!("{} backups removed", chosen.len()),
            _ => format!("{}: {}", ended.status.word(), identifier::shown_long(&ended.summary)),
        };
        output::line(&words)?;
        output::line(&format!("run {}", ended.run))?;
    }
    let with =
        json!({"run": ended.run, "status": ended.status.word(), "summary": ended.summary, "asked": chosen.len()});
    Ok((ended.status.exit_code(), with))
}

fn show(place: &Place, by_name: bool) -> Result<()> {
    let (goes, all) = (place.goes.len(), place.entries.len());
    if all == 0 {
        return Ok(());
    }
    output::line(&format!("{} in {}: {goes} of {all} go", place.service, place.store))?;
    let rows: Vec<Vec<String>> = place
        .entries
        .iter()
        .map(|entry| {
            let (backup, goes) = (&entry.backup, place.goes.contains(&entry.backup.id));
            let reasons = entry.planned.reasons.iter().map(host_api::retention::Reason::words);
            vec![
                backup.id.clone(),
                identifier::utc(backup.taken_at_ms),
                output::bytes(backup.stored_bytes),
                if goes { "goes" } else { "stays" }.into(),
                match by_name {
                    true => "named".into(),
                    false => reasons.collect::<Vec<_>>().join(", "),
                },
            ]
        })
        .collect();
    output::table(&["backup", "taken", "size", "", "because"], &rows)
}

fn as_json(found: &[Place], code: u8) -> Value {
    let places = found.iter().map(|place| {
        let backups = place.entries.iter().map(|entry| {
            json!({
                "backup": entry.backup.id, "digest": entry.backup.digest, "taken-at-ms": entry.backup.taken_at_ms,
                "stored-at-ms": entry.stored_at_ms, "stored-bytes": entry.backup.stored_bytes,
                "goes": place.goes.contains(&entry.backup.id), "by-rule": !entry.planned.keep, "reasons": entry.planned.reasons,
            })
        });
        json!({
            "service": place.service, "store": place.store, "backups": backups.collect::<Vec<_>>(), "ended": place.ended,
        })
    });
    json!({"places": places.collect::<Vec<_>>(), "exit-code": code})
}
