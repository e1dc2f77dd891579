//! Health and metrics over HTTP: `/healthz`, `/status`, `/metrics`. Nothing can be changed through it, and it says no more than `lifeboat status`
//! does; there is no login, so it belongs on an address that only monitoring reaches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use engine::Result;
use engine::check::status::{Status, status};
use engine::config::Config;
use engine::error::{Error, Kind};
use host_api::checks::Level;
use host_api::identifier::now_ms;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};

use super::board::{Board, Inner};

/// Stores are not looked at more often than this, however often anybody asks.
const FRESH: Duration = Duration::from_secs(10);
/// How long looking at a store may take.
const LIMIT: Duration = Duration::from_secs(8);

/// A socket that listens already.
pub struct Web(TcpListener);

/// Listens; an error if the address can't be had.
pub async fn listen(address: SocketAddr) -> Result<Web> {
    let bound = TcpListener::bind(address).await;
    let failed =
        |e| Error::new(Kind::Failed, format!("serve: listen on {address}: {e}")).hint("another process has it?");
    bound.map(Web).map_err(failed)
}

struct Shared {
    environment: String,
    configured: watch::Receiver<Arc<Config>>,
    board: Arc<Board>,
    /// What was seen last, and when.
    seen: Mutex<Option<(Instant, Arc<Status>)>>,
}

impl Web {
    /// Answers until it is dropped.
    pub async fn answer(self, environment: String, configured: watch::Receiver<Arc<Config>>, board: Arc<Board>) {
        let shared = Arc::new(Shared { environment, configured, board, seen: Mutex::default() });
        let router = Router::new()
            .route("/healthz", get(health))
            .route("/status", get(of_status))
            .route("/metrics", get(metrics))
            .with_state(shared);
        // It ends only if the socket does, and then there is nobody to tell.
        let _ = axum::serve(self.0, router).await;
    }
}

/// 200 while the scheduler turns, whatever it finds: restarting us mends no missing backup.
async fn health(State(shared): State<Arc<Shared>>) -> Response {
    match shared.board.trouble() {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")).into_response(),
    }
}

async fn of_status(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.seen().await;
    Json(json!({"environment": shared.environment, "at-ms": now_ms(), "status": *seen})).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.seen().await;
    match text(&seen, &shared.board.look(), now_ms()) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n").into_response(),
    }
}

impl Shared {
    async fn seen(&self) -> Arc<Status> {
        // Whoever else asks meanwhile waits for the same look.
        let mut seen = self.seen.lock().await;
        if let Some((at, seen)) = &*seen
            && at.elapsed() < FRESH
        {
            return seen.clone();
        }
        let config = self.configured.borrow().clone();
        let looked = status(&config, &self.environment, LIMIT, Arc::new(now_ms)).await;
        let looked = looked.unwrap_or_else(|error| Status { unread: Some(error.message), ..Status::default() });
        seen.insert((Instant::now(), Arc::new(looked))).1.clone()
    }
}

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>;

/// The metrics as OpenMetrics text. Times are Unix seconds: an age would stand still while nobody asks.
fn text(seen: &Status, board: &Inner, now_ms: u64) -> std::result::Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("lifeboat");
    let mut gauges = |name: &str, help: &str, unit: Option<Unit>| {
        let family = Gauges::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        family
    };
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let set = |family: &Gauges, labels: Labels, value: f64| {
        family.get_or_create(&labels).set(value);
    };

    let level = gauges("service_level", "How a service stands: 0 ok, 1 unknown, 2 warning, 3 critical", None);
    let taken = gauges("backup_taken_timestamp", "When the newest backup was taken", Some(Unit::Seconds));
    let age = gauges("backup_age", "How old the newest backup is: what would be lost now", Some(Unit::Seconds));
    let rpo = gauges("objective_recovery_point", "How old the newest backup may be", Some(Unit::Seconds));
    let size = gauges("backup_stored", "Stored size of the newest backup", Some(Unit::Bytes));
    let took =
        gauges("backup_duration", "From the first snapshot of the newest backup to its last byte", Some(Unit::Seconds));
    let proven = gauges("backup_proven_timestamp", "When the newest proven backup was taken", Some(Unit::Seconds));
    let drilled = gauges("drill_passed_timestamp", "When a drill passed last", Some(Unit::Seconds));
    let held = gauges("backups_held", "Backups that are held", None);
    let count = gauges("backups", "Backups in a store", None);
    let newest = gauges("store_newest_timestamp", "When the newest backup in a store was taken", Some(Unit::Seconds));
    let readable = gauges("store_readable", "Whether a store could be looked at: 1, or 0", None);
    for service in &seen.services {
        let labels = || vec![("service", service.service.clone())];
        let number = match service.level {
            Level::Ok => 0.0,
            Level::Unknown => 1.0,
            Level::Warning => 2.0,
            Level::Critical => 3.0,
        };
        set(&level, labels(), number);
        if let Some(standing) = &service.newest {
            set(&taken, labels(), seconds(standing.taken_at_ms));
            set(&age, labels(), seconds(now_ms.saturating_sub(standing.taken_at_ms)));
            set(&size, labels(), standing.stored_bytes as f64);
            set(&took, labels(), seconds(standing.took_ms));
        }
        let known = [
            (&rpo, service.rpo_ms),
            (&proven, service.proven.as_ref().map(|proven| proven.taken_at_ms)),
            (&drilled, service.drilled_at_ms),
        ];
        for (family, ms) in known {
            ms.iter().for_each(|ms| set(family, labels(), seconds(*ms)));
        }
        set(&held, labels(), service.held as f64);
        for store in &service.stores {
            let labels = || vec![("service", service.service.clone()), ("store", store.store.clone())];
            set(&readable, labels(), f64::from(u8::from(store.unread.is_none())));
            if store.unread.is_none() {
                set(&count, labels(), store.backups as f64);
            }
            store.newest_at_ms.iter().for_each(|ms| set(&newest, labels(), seconds(*ms)));
        }
    }
    let open = gauges("runs_open", "Runs that are not over, by status", None);
    for status in ["running", "parked", "in-doubt"] {
        let count = seen.runs_open.get(status).copied().unwrap_or_default();
        set(&open, vec![("status", status.into())], count as f64);
    }
    set(&gauges("approvals_open", "Approvals that wait for an answer", None), vec![], seen.approvals_open as f64);
    set(&gauges("obligations_unsettled", "What runs left open", None), vec![], seen.unsettled as f64);
    let looked = gauges("state_readable", "Whether state and stores could be looked at at all: 1, or 0", None);
    set(&looked, vec![], f64::from(u8::from(seen.unread.is_none())));

    let asked = gauges("cadence_asked_timestamp", "When a cadence was asked last", Some(Unit::Seconds));
    let next = gauges("cadence_next_timestamp", "When a cadence is asked next at the latest", Some(Unit::Seconds));
    let findings = gauges("cadence_findings", "What a cadence found when it was asked last, by severity", None);
    for (name, of) in &board.cadences {
        let labels = || vec![("cadence", name.clone())];
        set(&asked, labels(), seconds(of.at_ms));
        set(&next, labels(), seconds(of.next_ms));
        for (severity, count) in [("error", of.errors), ("warning", of.warnings)] {
            set(&findings, [labels(), vec![("severity", severity.into())]].concat(), count as f64);
        }
    }
    set(&gauges("runs_under_way", "Runs under way that serve started", None), vec![], board.under_way.len() as f64);

    let failures: u64 = board.cadences.values().map(|of| of.failures).sum();
    registry.register("cadence_failures", "How often a cadence could not be asked", ConstCounter::new(failures));
    let counters = |name: &str, help: &str, counts: Vec<(Labels, u64)>, registry: &mut Registry| {
        let family = Family::<Labels, prometheus_client::metrics::counter::Counter>::default();
        for (labels, count) in counts {
            family.get_or_create(&labels).inc_by(count);
        }
        registry.register(name, help, family);
    };
    let ended = board
        .ended
        .iter()
        .map(|((policy, status), count)| (vec![("policy", policy.clone()), ("status", status.clone())], *count));
    counters("runs_ended", "Runs that serve started and that ended, since it began", ended.collect(), &mut registry);
    let of = |counts: &std::collections::BTreeMap<String, u64>, label: &'static str| {
        counts.iter().map(|(name, count)| (vec![(label, name.clone())], *count)).collect::<Vec<_>>()
    };
    counters("not_started", "What was due and not started", of(&board.not_started, "policy"), &mut registry);
    counters(
        "messages_undelivered",
        "Messages that could not be delivered",
        of(&board.undelivered, "to"),
        &mut registry,
    );

    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
