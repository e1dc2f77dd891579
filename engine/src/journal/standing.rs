//! What an environment's runs have left standing: read by `lifeboat check`, written by nobody here.

use serde_json::Value;

use super::database::{Row, cells};
use super::look::{obligation, promotion};
use super::rows::{ObligationRow, PromotionRow, RunRow};
use super::state::State;
use crate::error::Result;

/// Drills that are looked through, the newest: an hourly one of a year, and more.
const DRILLS_MAX: u64 = 10_000;

/// A run that is not over.
#[derive(Debug, Clone)]
pub(crate) struct OpenRun {
    /// Its row.
    pub(crate) row: RunRow,
    /// Whether an engine works on it now.
    pub(crate) is_held: bool,
}

/// A drill that is over.
#[derive(Debug, Clone)]
pub(crate) struct Drilled {
    /// Its run.
    pub(crate) run: String,
    /// How it came out, a word of [`crate::run::Status`].
    pub(crate) status: String,
    /// In a line.
    pub(crate) summary: String,
    /// The service it drilled.
    pub(crate) service: String,
    /// When it ended, Unix milliseconds.
    pub(crate) ended_ms: u64,
}

impl State {
    /// Runs of an environment that are not over, oldest first.
    pub(crate) async fn open_runs(&self, environment: &str) -> Result<Vec<OpenRun>> {
        let rows = self
            .rows(
                "select id, environment, policy, module_sha256, status, summary, started_ms, ended_ms from run
                 where environment = $1 and ended_ms is null order by started_ms, id",
                cells![environment],
            )
            .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let row = super::look::run(row)?;
            let is_held = crate::claims::is_held(self, &row.id).await?;
            found.push(OpenRun { row, is_held });
        }
        Ok(found)
    }

    /// What runs of an environment opened and nobody has closed, newest first: of runs that are over, and what could not be settled.
    pub(crate) async fn unsettled(&self, environment: &str) -> Result<Vec<ObligationRow>> {
        let rows = self
            .rows(
                "select o.id, o.run, o.kind, o.object, o.if_aborted, o.body, o.state, o.note
                 from obligation o join run r on r.id = o.run
                 where r.environment = $1 and (o.state = 'unsettled' or o.state = 'open' and r.ended_ms is not null)
                 order by o.id desc",
                cells![environment],
            )
            .await?;
        rows.iter().map(obligation).collect()
    }

    /// Promotions of an environment, newest first.
    pub(crate) async fn promotions_in(&self, environment: &str) -> Result<Vec<PromotionRow>> {
        let rows = self
            .rows(
                "select run, environment, state, body from promotion where environment = $1 order by id desc",
                cells![environment],
            )
            .await?;
        rows.iter().map(promotion).collect()
    }

    /// Runs of an environment in world `drill` that are over, newest first.
    pub(crate) async fn drilled(&self, environment: &str) -> Result<Vec<Drilled>> {
        let rows = self
            .rows(
                // The text only narrows the choice: each record is read.
                "select r.id, r.status, r.summary, r.ended_ms, l.line
                 from run r join log l on l.run = r.id and l.kind = 'run-started'
                 where r.environment = $1 and r.ended_ms is not null and l.line like '%\"world\":\"drill\"%'
                 order by r.ended_ms desc, r.id desc limit $2",
                cells![environment, DRILLS_MAX],
            )
            .await?;
        Ok(rows.iter().map(drilled).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

fn drilled(row: &Row) -> Result<Option<Drilled>> {
    let started: Value = serde_json::from_str(row.text(4)?).unwrap_or(Value::Null);
    let service = started["parameters"]["service"].as_str();
    let Some(service) = service.filter(|_| started["world"] == "drill") else { return Ok(None) };
    Ok(Some(Drilled {
        run: row.string(0)?,
        status: row.string(1)?,
        summary: row.string(2)?,
        service: service.to_owned(),
        ended_ms: row.number(3)?,
    }))
}
