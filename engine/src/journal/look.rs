//! What is read of the state: runs and their records, and what is derived from these.

use serde_json::Value;

use super::database::{Row, cells};
use super::record::{Record, Stand, Transition};
use super::rows::{ApprovalRow, ApprovalState, CandidateRow, ObligationRow, PastRun, PromotionRow, RunFilter, RunRow};
use super::state::State;
use crate::error::{Error, Kind, Result};
use crate::schedule::Duty;

impl State {
    /// All records of a run, in order, checked against the legal transitions.
    pub async fn records(&self, run: &str) -> Result<Vec<Record>> {
        let rows =
            self.rows("select seq, time_ms, line, kind from log where run = $1 order by seq", cells![run]).await?;
        let mut stand = Stand::New;
        rows.iter()
            .map(|row| {
                let record = record(run, row)?;
                stand = stand
                    .next(record.kind, record.body["step"].as_u64())
                    .map_err(|e| e.context(format!("record {}", record.seq)))?;
                Ok(record)
            })
            .collect()
    }

    /// The records of a kind of a run, in order.
    pub async fn records_of(&self, run: &str, kind: Transition) -> Result<Vec<Record>> {
        let rows = self
            .rows(
                "select seq, time_ms, line, kind from log where run = $1 and kind = $2 order by seq",
                cells![run, kind.word()],
            )
            .await?;
        rows.iter().map(|row| record(run, row)).collect()
    }

    /// The lines of a run, as they stand.
    pub async fn lines(&self, run: &str) -> Result<Vec<String>> {
        let rows = self.rows("select line from log where run = $1 order by seq", cells![run]).await?;
        rows.iter().map(|row| row.string(0)).collect()
    }

    /// Runs, newest first.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let rows = self
            .rows(
                "select id, environment, policy, module_sha256, status, summary, started_ms, ended_ms from run
                 where ($1 is null or status = $1) and ($2 is null or policy = $2)
                 order by started_ms desc, id desc limit $3",
                cells![filter.status.as_deref(), filter.policy.as_deref(), u64::from(filter.limit.unwrap_or(u32::MAX))],
            )
            .await?;
        rows.iter().map(run).collect()
    }

    /// The newest runs of a policy in an environment, with what they were started for, newest first; with `duty`, only those that were started
    /// for it: for the one of that cadence, or in records of before they named the cadence for one of that name. Its slot does not matter.
    pub async fn past_runs(
        &self,
        environment: &str,
        policy: &str,
        duty: Option<&Duty>,
        limit: u32,
    ) -> Result<Vec<PastRun>> {
        // Lines are canonical JSON, so this is how it stands in them: with its cadence before it, or without.
        let literal = |text: &str| Value::from(text).to_string().replace(['\\', '%', '_'], "_");
        let alone = duty.map(|duty| format!("%\"duty\":{{\"name\":{},%", literal(&duty.name)));
        let of_cadence = duty.and_then(|duty| {
            let (cadence, name) = (literal(duty.cadence.as_deref()?), literal(&duty.name));
            Some(format!("%\"duty\":{{\"cadence\":{cadence},\"name\":{name},%"))
        });
        let rows = self
            .rows(
                "select run.id, status, started_ms, ended_ms, line from run
                 join log on log.run = run.id and log.kind = 'run-started'
                 where environment = $1 and policy = $2 and ($3 is null or line like $3 or line like $4)
                 order by started_ms desc, run.id desc limit $5",
                cells![environment, policy, alone.as_deref(), of_cadence.as_deref(), u64::from(limit)],
            )
            .await?;
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let mut runs = Vec::new();
        for row in &rows {
            let begun: Value = serde_json::from_str(row.text(4)?)
                .map_err(|_| Error::new(Kind::Journal, "the first record of a run is not JSON"))?;
            let of = &begun["duty"];
            // What has a meaning of its own in a pattern was left open in it.
            let is_of = |duty: &Duty| {
                of["name"] == duty.name.as_str()
                    && (of["cadence"].is_null() || of["cadence"].as_str() == duty.cadence.as_deref())
            };
            if duty.is_none_or(is_of) {
                runs.push(PastRun {
                    id: row.string(0)?,
                    duty: word(&of["name"]),
                    slot_ms: of["slot-ms"].as_u64(),
                    status: row.string(1)?,
                    started_ms: row.number(2)?,
                    ended_ms: row.optional_number(3)?,
                    service: word(&begun["parameters"]["service"]),
                });
            }
        }
        Ok(runs)
    }

    /// Whether a person asked for a run's end.
    pub async fn cancel_requested(&self, run: &str) -> Result<bool> {
        let asked =
            self.rows("select seq from log where run = $1 and kind = 'cancel-requested' limit 1", cells![run]).await?;
        Ok(!asked.is_empty())
    }

    /// One run.
    pub async fn run(&self, id: &str) -> Result<RunRow> {
        let rows = self
            .rows(
                "select id, environment, policy, module_sha256, status, summary, started_ms, ended_ms
                 from run where id = $1",
                cells![id],
            )
            .await?;
        one("run", "runs", id, rows.iter().map(run))
    }

    /// Candidates, oldest first.
    pub async fn candidates(&self) -> Result<Vec<CandidateRow>> {
        let rows = self.rows("select id, run, state, body, verification from candidate order by id", &[]).await?;
        rows.iter().map(candidate).collect()
    }

    /// One candidate.
    pub async fn candidate(&self, id: &str) -> Result<CandidateRow> {
        let rows =
            self.rows("select id, run, state, body, verification from candidate where id = $1", cells![id]).await?;
        one("candidate", "candidates", id, rows.iter().map(candidate))
    }

    /// Promotions, oldest first.
    pub async fn promotions(&self) -> Result<Vec<PromotionRow>> {
        let rows = self.rows("select run, environment, state, body from promotion order by id", &[]).await?;
        rows.iter().map(promotion).collect()
    }

    /// One promotion.
    pub async fn promotion(&self, id: &str) -> Result<PromotionRow> {
        let rows = self.rows("select run, environment, state, body from promotion where id = $1", cells![id]).await?;
        one("promotion", "promotions", id, rows.iter().map(promotion))
    }

    /// Approvals, oldest first; of one run, or of all.
    pub async fn approvals(&self, run: Option<&str>) -> Result<Vec<ApprovalRow>> {
        let rows = self
            .rows(
                "select id, run, state, intent, intent_sha256, decided_by, how from approval
                 where $1 is null or run = $1 order by id",
                cells![run],
            )
            .await?;
        rows.iter().map(approval).collect()
    }

    /// One approval.
    pub async fn approval(&self, id: &str) -> Result<ApprovalRow> {
        let rows = self
            .rows(
                "select id, run, state, intent, intent_sha256, decided_by, how from approval where id = $1",
                cells![id],
            )
            .await?;
        one("approval", "approvals", id, rows.iter().map(approval))
    }

    /// Obligations, newest first; of one run, or of all.
    pub async fn obligations(&self, run: Option<&str>) -> Result<Vec<ObligationRow>> {
        let rows = self
            .rows(
                "select id, run, kind, object, if_aborted, body, state, note from obligation
                 where $1 is null or run = $1 order by id desc",
                cells![run],
            )
            .await?;
        rows.iter().map(obligation).collect()
    }

    /// The run that has a service, if one has.
    pub async fn holder(&self, service: &str) -> Result<Option<String>> {
        let rows = self.rows("select run from hold where service = $1", cells![service]).await?;
        rows.first().map(|row| row.string(0)).transpose()
    }
}

fn one<T>(what: &str, verb: &str, id: &str, mut rows: impl Iterator<Item = Result<T>>) -> Result<T> {
    rows.next().unwrap_or_else(|| {
        Err(Error::new(Kind::Usage, format!("no {what} `{}`", host_api::identifier::shown(id)))
            .hint(format!("`lifeboat {verb} list` shows them")))
    })
}

fn record(run: &str, row: &Row) -> Result<Record> {
    let (seq, time_ms) = (row.number(0)?, row.number(1)?);
    let broken = |why: &str| Error::new(Kind::Journal, format!("record {seq} of the journal {why}"));
    let body: Value = serde_json::from_str(row.text(2)?).map_err(|_| broken("is not JSON"))?;
    let kind = Transition::parse(row.text(3)?).ok_or_else(|| broken("is of an unknown kind"))?;
    Ok(Record { seq, run: run.to_owned(), time_ms, kind, body })
}

pub(super) fn run(row: &Row) -> Result<RunRow> {
    Ok(RunRow {
        id: row.string(0)?,
        environment: row.string(1)?,
        policy: row.string(2)?,
        module_sha256: row.string(3)?,
        status: row.string(4)?,
        summary: row.string(5)?,
        started_ms: row.number(6)?,
        ended_ms: row.optional_number(7)?,
    })
}

fn candidate(row: &Row) -> Result<CandidateRow> {
    Ok(CandidateRow {
        id: row.string(0)?,
        run: row.string(1)?,
        state: row.string(2)?,
        candidate: serde_json::from_str(row.text(3)?).ok(),
        verification: row.optional_text(4)?.and_then(|v| serde_json::from_str(v).ok()),
    })
}

pub(super) fn promotion(row: &Row) -> Result<PromotionRow> {
    let promotion = serde_json::from_str(row.text(3)?)
        .map_err(|e| Error::new(Kind::Journal, format!("a promotion can't be read: {e}")))?;
    Ok(PromotionRow { run: row.string(0)?, environment: row.string(1)?, state: row.string(2)?, promotion })
}

fn approval(row: &Row) -> Result<ApprovalRow> {
    Ok(ApprovalRow {
        id: row.string(0)?,
        run: row.string(1)?,
        // A word that is not ours was never approved.
        state: ApprovalState::parse(row.text(2)?).unwrap_or(ApprovalState::Denied),
        intent: serde_json::from_str(row.text(3)?).unwrap_or(Value::Null),
        intent_sha256: row.string(4)?,
        decided_by: row.optional_text(5)?.map(str::to_owned),
        how: row.optional_text(6)?.map(str::to_owned),
    })
}

pub(super) fn obligation(row: &Row) -> Result<ObligationRow> {
    Ok(ObligationRow {
        id: row.integer(0)?,
        run: row.string(1)?,
        kind: row.string(2)?,
        object: row.string(3)?,
        if_aborted: row.string(4)?,
        body: serde_json::from_str(row.text(5)?).unwrap_or(Value::Null),
        state: row.string(6)?,
        note: row.string(7)?,
    })
}
