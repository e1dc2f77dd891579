//! What `cargo xtask bench` can only see from inside the process; prints one JSON object.
//!
//! ```text
//! measure sandbox CALLS.wasm DIR            what an instance, a call and a step cost; CALLS is tests/guests/calls
//! measure waiting SLEEPER.wasm DIR          memory of a thousand runs that wait
//! measure threads CALLS.wasm DIR            instances and runs a second on one thread and on two
//! measure fleet CALLS.wasm SPIN.wasm DIR    an honest run alone, and beside a hundred that compute without end; SPIN is tests/guests/spin
//! measure modules DIR MODULE.wasm …         what modules cost before they do anything
//! measure stage CONFIG SERVICE STORE        restores the newest backup beside the live data, and leaves it there
//! measure journal CALLS.wasm DIR ROUNDS [SOCKET-DIRECTORY DATABASE]
//!                                           steps a second, recorded in SQLite, or in PostgreSQL as its user `postgres`
//! measure peers CALLS.wasm DIR              what a call and a whole run cost, as xtask/peers has it of others
//! measure outage CONFIG SERVICE STORE SOCKET-DIRECTORY DATABASE ROUNDS
//!                                           for how long nobody reaches a database that is replaced
//! measure catalog DIR SERVICE COUNT         makes a directory store with so many backups
//! measure serve PORT                        a service that says 200, for a drill
//! ```

mod alone;
mod calls;
mod catalog;
mod crowd;
mod fleet;
mod journal;
mod modules;
mod outage;
mod peers;
mod sandbox;
mod serve;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use engine::config::Config;
use host_api::catalog::Catalog;
use host_api::restore::{Options, Restore};
use host_api::{StepContext, identifier};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Longer than any measurement.
const TIMEOUT: Duration = Duration::from_secs(3600);

const USAGE: &str =
    "measure sandbox CALLS.wasm DIR | measure waiting SLEEPER.wasm DIR | measure threads CALLS.wasm DIR |
measure fleet CALLS.wasm SPIN.wasm DIR | measure modules DIR MODULE.wasm … | measure stage CONFIG SERVICE STORE |
measure journal CALLS.wasm DIR ROUNDS [SOCKET-DIRECTORY DATABASE] | measure peers CALLS.wasm DIR |
measure outage CONFIG SERVICE STORE SOCKET-DIRECTORY DATABASE ROUNDS | measure serve PORT |
measure catalog DIR SERVICE COUNT";

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let measured = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sandbox", module, directory] => sandbox::run(module.as_ref(), directory.as_ref()).await?,
        ["waiting", module, directory] => crowd::waiting(module.as_ref(), directory.as_ref()).await?,
        ["threads", module, directory] => {
            let (module, directory) = (module.to_string(), directory.to_string());
            // Not on a thread of the runtime: it makes its own.
            tokio::task::spawn_blocking(move || crowd::threads(module.as_ref(), directory.as_ref())).await??
        }
        ["fleet", module, spin, directory] => fleet::run(module.as_ref(), spin.as_ref(), directory.as_ref()).await?,
        ["modules", directory, modules @ ..] => modules::run(directory.as_ref(), modules).await?,
        ["stage", config, service, store] => stage(config.as_ref(), service, store).await?,
        ["journal", module, directory, rounds] => {
            journal::run(module.as_ref(), directory.as_ref(), rounds.parse()?, None).await?
        }
        ["journal", module, directory, rounds, socket, database] => {
            journal::run(module.as_ref(), directory.as_ref(), rounds.parse()?, Some((socket, database))).await?
        }
        ["peers", module, directory] => peers::run(module.as_ref(), directory.as_ref()).await?,
        ["outage", config, service, store, socket, database, rounds] => {
            outage::run(config.as_ref(), service, store, socket, database, rounds.parse()?).await?
        }
        ["catalog", directory, service, count] => catalog::make(directory.as_ref(), service, count.parse()?)?,
        ["serve", port] => return serve::run(port.parse()?),
        _ => return Err(USAGE.into()),
    };
    println!("{measured}");
    Ok(())
}

async fn stage(config: &Path, service: &str, store: &str) -> Result<Value> {
    let config = Config::load(config)?;
    let host = config.environment(None)?.host()?;
    let cx = StepContext::detached(&identifier::fresh(), TIMEOUT);
    let backup = host.latest(&cx, service, store, false).await?.ok_or("there is no backup")?;
    let candidate = host.stage(&cx, &identifier::fresh(), &backup, "beside", &Options::default()).await?;
    Ok(json!({ "place": candidate.members[0].place, "elapsed-ms": candidate.elapsed_ms }))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
