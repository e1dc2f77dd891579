//! `lifeboat status`: a line a service: how much would be lost now, what is proven, what comes next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use host_api::checks::{Clock, Level, Stocked};
use serde::Serialize;

use super::around::{Around, Stock};
use super::{of_backups, of_drills, of_state};
use crate::config::{CADENCE_WORLD, Config};
use crate::error::Result;
use crate::journal::{ApprovalState, State};
use crate::schedule::Due;

/// Where a service stands.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceStatus {
    /// The service.
    pub service: String,
    /// The worst of all that follows.
    pub level: Level,
    /// Why it is not ok, and what to do: a line each.
    pub trouble: Vec<Trouble>,
    /// The newest backup; what was written since its snapshot would be lost now.
    pub newest: Option<Standing>,
    /// Recovery point objective, milliseconds.
    pub rpo_ms: Option<u64>,
    /// The newest backup that a restored copy of passed a verification.
    pub proven: Option<Standing>,
    /// Each store's newest.
    pub stores: Vec<StoreStatus>,
    /// When a drill passed last, Unix milliseconds.
    pub drilled_at_ms: Option<u64>,
    /// How many backups are held.
    pub held: usize,
    /// What the cadences said last.
    pub next: Vec<Next>,
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trouble {
    /// How bad.
    pub level: Level,
    /// What.
    pub message: String,
    /// What a person can do.
    pub fix: String,
}

/// A backup.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Standing {
    /// Its id.
    pub backup: String,
    /// A store it is in.
    pub store: String,
    /// When it was taken, Unix milliseconds.
    pub taken_at_ms: u64,
    /// Stored size, bytes.
    pub stored_bytes: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

impl Standing {
    fn of(stocked: &Stocked) -> Self {
        let backup = &stocked.backup;
        Self {
            backup: backup.id.clone(),
            store: backup.store.clone(),
            taken_at_ms: backup.taken_at_ms,
            stored_bytes: backup.stored_bytes,
            took_ms: backup.completed_at_ms.saturating_sub(backup.taken_at_ms),
        }
    }
}

/// A store, as far as one service goes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreStatus {
    /// Its name.
    pub store: String,
    /// How many backups of the service there are.
    pub backups: usize,
    /// When the newest was taken, Unix milliseconds.
    pub newest_at_ms: Option<u64>,
    /// Why that is not known.
    pub unread: Option<String>,
}

/// What a cadence said when it was asked last.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Next {
    /// The cadence.
    pub cadence: String,
    /// The run in which it did.
    pub run: String,
    /// When, Unix milliseconds.
    pub asked_at_ms: u64,
    /// What it said is due of this service.
    pub due: Vec<Due>,
    /// When it wants to be asked again at the latest, Unix milliseconds.
    pub wake_at_ms: Option<u64>,
}

/// Where an environment stands.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Its services, by name.
    pub services: Vec<ServiceStatus>,
    /// How many runs are not over, by their status.
    pub runs_open: BTreeMap<String, u64>,
    /// How many approvals wait for an answer.
    pub approvals_open: u64,
    /// How many things that runs opened are left open.
    pub unsettled: u64,
    /// Why that is not known.
    pub unread: Option<String>,
}

impl Status {
    /// The worst of all.
    pub fn level(&self) -> Level {
        let unread = if self.unread.is_some() { Level::Unknown } else { Level::Ok };
        self.services.iter().map(|service| service.level).max().unwrap_or(Level::Ok).max(unread)
    }
}

/// Where an environment stands. `limit`: how long looking at each store, and at the state, may take.
pub async fn status(config: &Arc<Config>, environment: &str, limit: Duration, clock: Clock) -> Result<Status> {
    let around = Arc::new(Around::new(config, environment, limit, clock)?);
    let names: Vec<String> = around.binding().service.keys().cloned().collect();
    let services = futures::future::join_all(names.iter().map(|service| of_service(&around, service))).await;
    let mut status = Status { services, ..Status::default() };
    match of_state_as_a_whole(&around, &mut status).await {
        Ok(()) => {}
        Err(error) => status.unread = Some(error),
    }
    Ok(status)
}

async fn of_state_as_a_whole(around: &Around, status: &mut Status) -> std::result::Result<(), String> {
    let standing = around.standing().await;
    let Some(standing) = standing.as_ref().as_ref().map_err(|error| error.message.clone())? else { return Ok(()) };
    for run in &standing.runs {
        *status.runs_open.entry(run.row.status.clone()).or_default() += 1;
    }
    status.unsettled = standing.obligations.len() as u64;
    let approvals = standing.state.approvals(None).await.map_err(|error| error.message)?;
    let ours = |run: &str| standing.runs.iter().any(|open| open.row.id == run);
    status.approvals_open = approvals.iter().filter(|a| a.state == ApprovalState::Open && ours(&a.run)).count() as u64;
    Ok(())
}

async fn of_service(around: &Around, service: &str) -> ServiceStatus {
    let (stock, now_ms, objectives) = (around.stock(service).await, around.now_ms(), around.objectives(service));
    let standing = around.standing().await;
    let mut seen = vec![of_backups::of_age(&stock, service, &objectives, now_ms)];
    let (mut drilled_at_ms, mut next) = (None, Vec::new());
    match &*standing {
        Ok(Some(standing)) => {
            if objectives.drill_every_s.is_some() {
                seen.push(of_drills::of_passed(&standing.drills, service, &objectives, now_ms));
            }
            seen.push(of_state::of_runs(&standing.runs, now_ms));
            seen.push(of_state::of_obligations(&standing.obligations));
            let passed = standing.drills.iter().find(|drill| drill.service == service && drill.status == "ok");
            drilled_at_ms = passed.map(|drill| drill.ended_ms);
            match of_cadences(around, &standing.state, service).await {
                Ok(said) => next = said,
                Err(error) => seen.push(of_state::of_error(&error, Level::Unknown)),
            }
        }
        Ok(None) => {}
        Err(error) => seen.push(of_state::of_error(error, Level::Unknown)),
    }
    let newest_of = |stocked: &mut dyn Iterator<Item = &Stocked>| {
        stocked.max_by_key(|stocked| (stocked.backup.taken_at_ms, &stocked.backup.id)).map(Standing::of)
    };
    let trouble: Vec<Trouble> = seen
        .into_iter()
        .filter(|seen| seen.level > Level::Ok)
        .map(|seen| Trouble { level: seen.level, message: seen.message, fix: seen.fix })
        .collect();
    ServiceStatus {
        service: service.to_owned(),
        level: trouble.iter().map(|trouble| trouble.level).max().unwrap_or(Level::Ok),
        trouble,
        newest: newest_of(&mut stock.all()),
        rpo_ms: objectives.rpo_s.map(|s| s.saturating_mul(1_000)),
        proven: newest_of(&mut stock.all().filter(|stocked| stocked.state.verified_at_ms.is_some())),
        stores: of_stores(&stock),
        drilled_at_ms,
        held: of_held(&stock, now_ms),
        next,
    }
}

fn of_stores(stock: &Stock) -> Vec<StoreStatus> {
    let of = |(store, stocked): &(String, Arc<Result<Vec<Stocked>>>)| match &**stocked {
        Ok(stocked) => StoreStatus {
            store: store.clone(),
            backups: stocked.len(),
            newest_at_ms: stocked.iter().map(|stocked| stocked.backup.taken_at_ms).max(),
            unread: None,
        },
        Err(error) => {
            StoreStatus { store: store.clone(), backups: 0, newest_at_ms: None, unread: Some(error.message.clone()) }
        }
    };
    stock.stores.iter().map(of).collect()
}

fn of_held(stock: &Stock, now_ms: u64) -> usize {
    let held = |stocked: &&Stocked| stocked.state.held_until_ms.is_some_and(|until| until > now_ms);
    let mut ids: Vec<&str> = stock.all().filter(held).map(|stocked| stocked.backup.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.len()
}

/// What each cadence of the environment said of a service, when it was asked last.
async fn of_cadences(around: &Around, state: &State, service: &str) -> Result<Vec<Next>> {
    let mut all = Vec::new();
    for (cadence, policy) in &around.binding().policy {
        if policy.world.get_ref() != CADENCE_WORLD {
            continue;
        }
        let Some(run) = state.past_runs(&around.environment, cadence, None, 1).await?.into_iter().next() else {
            continue;
        };
        if run.service.as_deref().is_some_and(|of| of != service) {
            continue;
        }
        let mut next = Next {
            cadence: cadence.clone(),
            asked_at_ms: run.ended_ms.unwrap_or(run.started_ms),
            run: run.id,
            due: Vec::new(),
            wake_at_ms: None,
        };
        for record in state.records(&next.run).await? {
            for item in record.body["said"].as_array().into_iter().flatten() {
                if let Ok(due) = serde_json::from_value::<Due>(item["due"].clone()) {
                    next.due.push(due.said_by(cadence));
                }
                if let Some(at_ms) = item["wake-at-ms"].as_u64() {
                    next.wake_at_ms = Some(next.wake_at_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
                }
            }
        }
        all.push(next);
    }
    Ok(all)
}
