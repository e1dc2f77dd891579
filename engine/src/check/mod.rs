//! `lifeboat check`: named checks of an environment, all of which only look.
//!
//! ```no_run
//! use std::sync::Arc;
//! use engine::check::{self, Options};
//! use engine::config::Config;
//!
//! # async fn example() -> engine::Result<()> {
//! let config = Arc::new(Config::load("lifeboat.toml".as_ref())?);
//! let report = check::run(&config, "production", Options::default()).await?;
//! println!("{}: {} checks", report.level().word(), report.checks.len());
//! # Ok(())
//! # }
//! ```
//!
//! | part | what |
//! | --- | --- |
//! | `plan` | which checks an environment has, and which of them are chosen |
//! | `around` | what several checks need and is read once: backups, the state |
//! | `of_state`, `of_backups`, `of_drills` | what the state, the stores and the drills say, held against objectives: pure |
//! | [`status`] | a line a service, out of the same |
//! | `inventory` | every kind of state with its backup, and what no backup holds |
//! | [`host_api::checks`] | the world |
//!
//! No check writes a record, takes a lock, makes a file, or changes a service. Each has its own time; one that hangs or has a bug says so and
//! keeps none of the others from its answer.

mod around;
pub mod inventory;
mod of_backups;
mod of_drills;
mod of_state;
mod plan;
pub mod status;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant};

use host_api::checks::{Clock, Level, Seen};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use around::Around;
pub use inventory::Inventory;
use plan::Named;
pub use words::lasting;

/// Checks that look at the same time: a server with few connections, or a small machine, must not suffer from being looked at.
const AT_ONCE: usize = 8;
/// What a check may take beyond its limit for saying that it was too late.
const GRACE: Duration = Duration::from_secs(1);
/// How long a check takes at most where nobody says.
pub const LIMIT_DEFAULT: Duration = Duration::from_secs(15);

/// Which checks, and how.
#[derive(Clone)]
pub struct Options {
    /// Only these: names, or what names begin with up to a dot. Empty: all.
    pub only: Vec<String>,
    /// All but these, in the same way.
    pub except: Vec<String>,
    /// Only those of these services. Empty: of all, and of the environment as a whole.
    pub services: Vec<String>,
    /// How long each may take.
    pub limit: Duration,
    /// The time that ages are reckoned from.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            except: Vec::new(),
            services: Vec::new(),
            limit: LIMIT_DEFAULT,
            clock: Arc::new(host_api::identifier::now_ms),
        }
    }
}

/// What came of one check.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// Its name, the same in every environment.
    pub name: String,
    /// The service it is of; none: the environment as a whole.
    pub service: Option<String>,
    /// What was found.
    #[serde(flatten)]
    pub seen: Seen,
    /// How long it took, milliseconds.
    pub elapsed_ms: u64,
}

impl Outcome {
    /// `notes/backup.age`, or `state.runs` for one of the environment as a whole.
    pub fn full_name(&self) -> String {
        full_name(self.service.as_deref(), &self.name)
    }
}

fn full_name(service: Option<&str>, name: &str) -> String {
    service.map_or_else(|| name.to_owned(), |service| format!("{service}/{name}"))
}

/// What came of all that were chosen.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The environment.
    pub environment: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Each, in the order in which checks are listed.
    pub checks: Vec<Outcome>,
    /// How many were not chosen.
    pub left_out: usize,
}

impl Report {
    /// The worst of all. What could not be looked at is no better than a warning: nobody knows.
    pub fn level(&self) -> Level {
        match self.checks.iter().map(|check| check.seen.level).max() {
            None | Some(Level::Ok) => Level::Ok,
            Some(Level::Unknown | Level::Warning) => Level::Warning,
            Some(Level::Critical) => Level::Critical,
        }
    }

    /// 0 ok, 1 warning, 2 critical.
    pub fn exit_code(&self) -> u8 {
        match self.level() {
            Level::Ok => 0,
            Level::Unknown | Level::Warning => 1,
            Level::Critical => 2,
        }
    }

    /// How many stand at a level.
    pub fn count(&self, level: Level) -> usize {
        self.checks.iter().filter(|check| check.seen.level == level).count()
    }
}

/// Names of all checks of an environment, each with the service it is of, in the order in which they are listed.
pub fn names(config: &Arc<Config>, environment: &str, clock: &Clock) -> Result<Vec<(Option<String>, String)>> {
    let around = Around::new(config, environment, LIMIT_DEFAULT, clock.clone())?;
    Ok(plan::all(&around).into_iter().map(|named| (named.service, named.name)).collect())
}

/// Runs the chosen checks.
pub async fn run(config: &Arc<Config>, environment: &str, options: Options) -> Result<Report> {
    let around = Arc::new(Around::new(config, environment, options.limit, options.clock.clone())?);
    let all = plan::all(&around);
    let count = all.len();
    let chosen = plan::chosen(all, &options)?;
    let left_out = count - chosen.len();
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let running: Vec<_> = chosen
        .into_iter()
        .map(|named| {
            let (around, gate) = (around.clone(), gate.clone());
            let (name, service, silence) = (named.name.clone(), named.service.clone(), named.silence());
            let task = tokio::spawn(async move {
                // Closed by nobody; without a permit it would only be less polite.
                let _permit = gate.acquire().await;
                one(&around, &named).await
            });
            (name, service, silence, task)
        })
        .collect();
    let mut checks = Vec::with_capacity(running.len());
    for (name, service, silence, task) in running {
        let (seen, elapsed) = task.await.unwrap_or_else(|_| {
            let seen = Seen::unknown("a bug: the check came to no end", "report it; the other checks are not affected");
            (seen.at_least(silence), Duration::ZERO)
        });
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        checks.push(Outcome { name, service, seen, elapsed_ms });
    }
    Ok(Report { environment: environment.to_owned(), at_ms: (options.clock)(), checks, left_out })
}

/// One check in its time.
async fn one(around: &Arc<Around>, named: &Named) -> (Seen, Duration) {
    let began = Instant::now();
    let work = named.work.look(around, named.service.as_deref());
    let seen = tokio::time::timeout(around.limit + GRACE, work).await.unwrap_or_else(|_| {
        Seen::new(
            named.silence(),
            format!("no answer within {} s", around.limit.as_secs()),
            "find out what hangs; --time-limit gives it longer",
        )
    });
    (seen, began.elapsed())
}

/// Every kind of state of an environment with its newest backup, and what must be there though no backup holds it.
pub async fn take_inventory(config: &Arc<Config>, environment: &str, options: &Options) -> Result<Inventory> {
    let around = Arc::new(Around::new(config, environment, options.limit, options.clock.clone())?);
    for service in &options.services {
        if !around.binding().service.contains_key(service) {
            let services = around.binding().service.keys().map(String::as_str);
            return Err(Error { kind: Kind::Usage, ..Error::unknown("service", service, services) });
        }
    }
    let mut inventory = inventory::take(&around).await?;
    if !options.services.is_empty() {
        let wanted = |service: Option<&String>| service.is_none_or(|service| options.services.contains(service));
        inventory.sources.retain(|item| wanted(Some(&item.service)));
        inventory.outside.retain(|item| wanted(item.service.as_ref()));
    }
    Ok(inventory)
}

#[cfg(test)]
mod tests;
