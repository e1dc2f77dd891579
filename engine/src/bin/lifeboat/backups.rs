//! `lifeboat backups`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use engine::Result;
use engine::config::Environment;
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use host_api::catalog::{Backup, BackupState, Catalog};
use host_api::identifier;
use host_api::signing::{Signature, Standing};
use host_api::{ErrorKind, StepContext};
use serde_json::{Value, json};

use crate::verify::Depth;
use crate::{Global, output};

/// How long looking through all stores may take.
const LIST_LIMIT: Duration = Duration::from_secs(600);

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
    /// Look at a stored backup: are the objects there and whole, and does it restore? With a key to sign with, a pass is put on record
    /// beside the manifest. Exit code 5: something was found, or it could not be looked at.
    Verify {
        /// The backup.
        backup: String,
        /// Only in this store.
        #[arg(long)]
        store: Option<String>,
        /// How deep.
        #[arg(long, value_enum, default_value = "checksum")]
        depth: Depth,
    },
    /// Roles, memberships and tablespaces of the database server, as SQL, without passwords: what a restore on a new server needs first.
    Globals {
        /// The backup.
        backup: String,
        /// Only out of this store.
        #[arg(long)]
        store: Option<String>,
        /// Only of this source.
        #[arg(long)]
        source: Option<String>,
    },
    /// Write a stored backup into a new file that needs no Lifeboat: PostgreSQL as `pg_dump | gzip` would have (`gunzip -c FILE | psql` into an
    /// empty database), SQLite as its file, a directory as a tar. Digests and signature are checked first; nothing is overwritten.
    Export {
        /// The backup.
        backup: String,
        /// Which of its sources, if it has several.
        #[arg(long)]
        source: Option<String>,
        /// Only out of this store.
        #[arg(long)]
        store: Option<String>,
        /// The file; made with mode 0600.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Make a backup of what people have: `pg_dump DATABASE | gzip` of every source of a service, which must all be PostgreSQL databases. Each file is
    /// looked at to its end, loaded into a database of its own, backed up from there and removed. A text is code: it is loaded by a role that
    /// is no superuser, and without psql's own commands.
    Import {
        /// The service it is of.
        #[arg(long)]
        service: String,
        /// Where the backup goes.
        #[arg(long)]
        store: String,
        /// A source and its file; once for every source.
        #[arg(long, value_name = "SOURCE=FILE", required = true)]
        from: Vec<String>,
        /// When it was dumped (2026-11-23T06:15:34Z); otherwise when the oldest file was last changed. The backup sorts by it.
        #[arg(long, value_name = "TIME")]
        taken_at: Option<String>,
    },
    /// Remove backups: those that the rules of [environment.E.retention] let go, or those that are named. The plan is shown with a reason for each,
    /// a person is asked as the environment says, and what must stay is refused: a held one, one in use, the newest, the newest verified ones.
    /// Exit code 4: nothing is due. At most 500 go at once.
    Delete(crate::deletion::Arguments),
    /// Remove objects that belong to no backup: of attempts that a crash ended, and of removals that were cut off. Only what has lifeboat's own
    /// names, is older than any run can be, and is of no run that is not over. A person is asked as for `delete`. Exit code 4: there is none.
    Sweep(crate::sweep::Arguments),
    /// Read a store anew and say everything that it tells by itself: backups, holds, verifications, what was removed, what belongs to nothing.
    /// Rebuilds this machine's index. Exit code 5: a manifest can't be read, a backup is hidden, one that was sent from here is not there, or copies in
    /// two stores differ.
    Reindex(crate::reindex::Arguments),
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
            let (found, failures) = all(&environment, service.as_deref(), store.as_deref()).await?;
            if global.json {
                output::json(&found.iter().map(|(b, s)| as_json(b, s)).collect())?;
            } else {
                let rows: Vec<_> = found.iter().map(|(b, s)| row(b, s)).collect();
                output::table(
                    &[
                        "backup",
                        "service",
                        "store",
                        "taken",
                        "size",
                        "version",
                        "label",
                        "signed",
                        "verified",
                        "held until",
                    ],
                    &rows,
                )?;
            }
            // What can't be read does not hide the rest, and does not pass for a whole list either.
            for error in &failures {
                output::say(&format!("error: {error}"));
            }
            Ok(match (found.is_empty(), failures.is_empty()) {
                (_, false) => 3,
                (true, _) => 4,
                _ => 0,
            })
        }
        Verb::Show { backup } => {
            let (found, failures) = find(&environment, &backup, None).await?;
            for (backup, state) in found {
                output::json(&as_json(&backup, &state))?;
            }
            failures.iter().for_each(|error| output::say(&format!("error: {error}")));
            Ok(if failures.is_empty() { 0 } else { 3 })
        }
        Verb::Verify { backup, store, depth } => {
            crate::verify::run(global, &environment, &backup, store.as_deref(), depth).await
        }
        Verb::Globals { backup, store, source } => {
            crate::globals::run(global, &environment, &backup, store.as_deref(), source.as_deref()).await
        }
        Verb::Export { backup, source, store, to } => {
            crate::plain::export(global, &environment, &backup, source.as_deref(), store.as_deref(), &to).await
        }
        Verb::Import { service, store, from, taken_at } => {
            crate::plain::import(global, &environment, service, store, &from, taken_at.as_deref()).await
        }
        Verb::Reindex(arguments) => crate::reindex::run(global, arguments).await,
        Verb::Sweep(arguments) => crate::sweep::run(global, arguments).await,
        Verb::Delete(arguments) => crate::deletion::run(global, arguments).await,
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
    let engine = crate::run::engine(&config, environment, false, global.json).await?;
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
    let (found, failures) = find(environment, id, None).await?;
    let mut code = if failures.is_empty() { 0 } else { 3 };
    failures.iter().for_each(|error| output::say(&format!("error: {error}")));
    for (backup, _) in found {
        let mut arguments = arguments.clone();
        arguments["backup"] = json!(backup);
        let (ended, _) = by_hand(global, environment, verb, vec![DirectCall { name: call, arguments }]).await?;
        output::line(&format!("{} in {}: {}", backup.id, backup.store, ended.summary))?;
        code = code.max(ended.status.exit_code());
    }
    Ok(code)
}

/// All that can be read, oldest first, and what could not be.
async fn all(
    environment: &Environment<'_>,
    service: Option<&str>,
    store: Option<&str>,
) -> Result<(Vec<(Backup, BackupState)>, Vec<Error>)> {
    let host = environment.host()?;
    let cx = StepContext::detached("backups", LIST_LIMIT);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for (service, store) in places(environment, service, store)? {
        match host.survey(&cx, service, store).await {
            Ok(survey) => {
                found.extend(survey.stock.into_iter().map(|stocked| (stocked.backup, stocked.state)));
                failures.extend(survey.failures.into_iter().map(|(id, error)| Error::from(error).context(id)));
            }
            Err(error) => failures.push(Error::from(error)),
        }
    }
    found.sort_by(|(a, _), (b, _)| (&a.id, &a.store).cmp(&(&b.id, &b.store)));
    Ok((found, failures))
}

/// The copies of one backup, and the places that could not be read; an error where no copy was found.
pub async fn find(
    environment: &Environment<'_>,
    id: &str,
    store: Option<&str>,
) -> Result<(Vec<(Backup, BackupState)>, Vec<Error>)> {
    let host = environment.host()?;
    let cx = StepContext::detached("backups", LIST_LIMIT);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for (service, store) in places(environment, None, store)? {
        match host.get(&cx, service, store, id).await {
            Ok(backup) => {
                let state = host.state(&cx, &backup).await?;
                found.push((backup, state));
            }
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Invalid) => {}
            Err(error) => failures.push(Error::from(error)),
        }
    }
    match (found.is_empty(), failures.first()) {
        (false, _) => Ok((found, failures)),
        (true, Some(_)) => Err(failures.remove(0)),
        (true, None) => Err(Error::new(Kind::Usage, format!("no backup `{}`", identifier::shown(id)))
            .hint("`lifeboat backups list` shows them")),
    }
}

/// Services and stores to look into.
pub fn places<'e>(
    environment: &'e Environment<'_>,
    service: Option<&str>,
    store: Option<&str>,
) -> Result<Vec<(&'e str, &'e str)>> {
    let pick = |what: &str, wanted: Option<&str>, names: Vec<&'e str>| match wanted {
        None => Ok(names),
        Some(wanted) => match names.iter().find(|name| **name == wanted) {
            Some(name) => Ok(vec![*name]),
            None => Err(Error::unknown(what, wanted, names)),
        },
    };
    let services = pick("service", service, environment.binding.service.keys().map(String::as_str).collect())?;
    let stores = pick("store", store, environment.binding.store.keys().map(String::as_str).collect())?;
    Ok(services.iter().flat_map(|service| stores.iter().map(|store| (*service, *store))).collect())
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
        signed(&state.signature),
        time(state.verified_at_ms),
        time(state.held_until_ms),
    ]
}

/// Who signed a manifest, in a column.
fn signed(signature: &Signature) -> String {
    let signer = signature.signer.as_deref().unwrap_or("-");
    match signature.standing {
        Standing::Unsigned if signature.refused.is_some() => "unsigned, refused".into(),
        Standing::Unsigned => "unsigned".into(),
        Standing::NotHeld => format!("{signer}, not held"),
        Standing::Trusted => signer.into(),
        Standing::Untrusted => format!("untrusted ({signer})"),
    }
}

fn as_json(backup: &Backup, state: &BackupState) -> Value {
    let mut value = json!(backup);
    value["state"] = json!(state);
    value["state"]["signature"]["words"] = json!(state.signature.words());
    value
}
