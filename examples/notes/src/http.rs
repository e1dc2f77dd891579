//! The routes.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::error::Error;
use crate::notes::{self, NewNote};
use crate::schema;
use crate::store::Store;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// What every request sees.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) store: Arc<Store>,
    pub(crate) worker: bool,
    /// When set, all but the probes ask for it.
    pub(crate) token: Option<Arc<str>>,
}

impl App {
    /// Runs work on the store where it may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = Arc::clone(&self.store);
        match spawn_blocking(move || work(&store)).await {
            Ok(result) => result.map_err(|error| Refusal::internal(&error)),
            Err(panic) => Err(Refusal::internal(&panic)),
        }
    }
}

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({"alive": true}))))
        .route("/readyz", get(readyz))
        .route("/notes", get(list).post(create))
        .route("/notes/{id}", get(read))
        .route("/notes/{id}/archive", post(archive))
        .route("/events", get(events))
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "no such route".into()))
        .layer(from_fn_with_state(app.clone(), authorize))
        .with_state(app)
}

/// An answer other than success.
struct Refusal(StatusCode, String);

impl Refusal {
    fn internal(error: &dyn std::error::Error) -> Self {
        eprintln!("error: {error}");
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }

    fn no_such_note(id: &str) -> Self {
        Self(StatusCode::NOT_FOUND, format!("no note {id}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/readyz" | "/livez");
    let sent = request.headers().get(header::AUTHORIZATION);
    match &app.token {
        Some(token) if !open && sent.is_none_or(|sent| *sent != format!("Bearer {token}")) => {
            Refusal(StatusCode::UNAUTHORIZED, "bearer token required".into()).into_response()
        }
        _ => next.run(request).await,
    }
}

/// Ready means that the database answers, and nothing more: neither that the data are there nor
/// that this release can read them.
async fn readyz(State(app): State<App>) -> Response {
    let schema = app.run(|store| Ok(schema::version(&store.connection())?)).await;
    let status = match schema {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let answer = json!({
        "ready": schema.is_ok(),
        "service": "notes",
        "version": app.store.release.version(),
        "store": {"kind": "sqlite", "schema": schema.ok(), "path": app.store.database()},
        "worker": if app.worker { "on" } else { "off" },
    });
    (status, Json(answer)).into_response()
}

/// Which part of a list is wanted. A misspelt parameter is refused, not ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<u32>,
    /// Events only.
    note_id: Option<String>,
}

impl Page {
    fn limit(&self) -> Result<u32, Refusal> {
        match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=LIMIT_MAX => Ok(limit),
            _ => Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("limit is 1 to {LIMIT_MAX}"))),
        }
    }
}

async fn list(State(app): State<App>, page: Result<Query<Page>, QueryRejection>) -> Result<Json<Value>, Refusal> {
    let limit = page?.limit()?;
    let notes = app.run(move |store| notes::list(store, limit)).await?;
    Ok(Json(json!({"count": notes.len(), "notes": notes})))
}

async fn create(
    State(app): State<App>,
    note: Result<Json<NewNote>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let Json(note) = note?;
    let id = app.run(move |store| notes::create(store, &note)).await?;
    Ok((StatusCode::CREATED, Json(json!({"id": id}))))
}

async fn read(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let wanted = id.clone();
    let note = app.run(move |store| notes::get(store, &wanted)).await?;
    note.map(Json).ok_or_else(|| Refusal::no_such_note(&id))
}

async fn archive(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let wanted = id.clone();
    match app.run(move |store| notes::archive(store, &wanted)).await? {
        true => Ok(Json(json!({"id": id, "status": "archived"}))),
        false => Err(Refusal::no_such_note(&id)),
    }
}

async fn events(State(app): State<App>, page: Result<Query<Page>, QueryRejection>) -> Result<Json<Value>, Refusal> {
    let Query(page) = page?;
    let limit = page.limit()?;
    let events = app.run(move |store| notes::events(store, page.note_id.as_deref(), limit)).await?;
    Ok(Json(json!({"count": events.len(), "events": events})))
}
