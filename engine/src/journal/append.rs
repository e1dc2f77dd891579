//! One record, and the changes that come from it, inside a transaction.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::database::{Row, Transaction, Write, cells};
use super::postgres::{self, Fence};
use super::record::{By, RECORD_VERSION, Stand, Transition};
use super::rows::Change;
use super::tail::Tail;
use super::walk::{GENESIS, check_body};
use crate::error::{Error, Kind, Result};

/// Columns of `run` for [`read_stand`].
macro_rules! stands {
    () => {
        concat!(
            "stand, (select time_ms from log where run = run.id order by seq desc limit 1),
             (select kind from log where run = run.id and kind in ",
            crate::journal::record::telling!(),
            " order by seq desc limit 1), (select step from log where run = run.id and kind in ",
            crate::journal::record::telling!(),
            " order by seq desc limit 1)"
        )
    };
}
pub(super) use stands;

/// A record that is to be written.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) run: String,
    pub(super) by: By,
    pub(super) kind: Transition,
    pub(super) step: Option<u64>,
    pub(super) body: Value,
    pub(super) changes: Vec<Change>,
    /// Where engines share the state: what shows that the run is ours.
    pub(super) fence: Option<Fence>,
}

/// What is to be made in one transaction, alone or beside others.
pub(super) enum Job {
    /// A record with what comes from it.
    Record(Entry),
    /// Something else.
    Other(Write),
}

impl Job {
    /// Makes it. One that fails leaves the tail as it was.
    pub(super) async fn make(&self, tx: &mut dyn Transaction, tail: &mut Tail) -> Result<u64> {
        match self {
            Self::Record(entry) => append(tx, tail, entry).await,
            Self::Other(write) => write(tx).await,
        }
    }
}

/// A record as it goes into the log.
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) text: String,
    pub(super) hash: String,
    /// Where it brings its run.
    pub(super) stand: Stand,
}

impl Entry {
    /// The line that follows the log's last one, where the run stands so; or why it can't.
    pub(super) fn after(&self, (last_seq, prev): &(u64, String), (stand, last_time): (Stand, u64)) -> Result<Line> {
        let stand = stand.next(self.kind, self.step)?;
        // A clock that was set back must not make a run's records run backwards; a glitch forward ends with its run.
        let time_ms = host_api::identifier::now_ms().max(last_time);
        let seq = last_seq + 1;
        check_body(&self.body)?;
        let own = [
            ("v", json!(RECORD_VERSION)),
            ("seq", json!(seq)),
            ("prev", json!(prev)),
            ("run", json!(self.run)),
            ("kind", json!(self.kind.word())),
            ("time-ms", json!(time_ms)),
            ("actor", json!(self.by.actor)),
            ("channel", json!(self.by.channel)),
            ("step", json!(self.step)),
        ];
        let body = self.body.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value));
        let own = own.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (*name, value));
        // Sorted by name, ours in the place of any of the same name.
        let fields: BTreeMap<&str, &Value> = body.chain(own).collect();
        let text = serde_json::to_string(&fields)
            .map_err(|e| Error::new(Kind::Journal, format!("a record can't be written: {e}")))?;
        let hash = hex::encode(Sha256::digest(text.as_bytes()));
        Ok(Line { seq, time_ms, text, hash, stand })
    }
}

/// Writes it; gives its time.
async fn append(tx: &mut dyn Transaction, tail: &mut Tail, entry: &Entry) -> Result<u64> {
    let Entry { run, kind, step, changes, fence, .. } = entry;
    if let Some(fence) = fence {
        postgres::check(tx, run, *kind, fence).await?;
    }
    let known = tail.stand(run);
    let before = match known {
        Some(stand) => stand,
        None => stand(tx, run).await?,
    };
    let line = match tail.last() {
        Some(last) => entry.after(last, before)?,
        None => entry.after(&head(tx).await?, before)?,
    };
    tx.execute(
        "insert into log (seq, run, step, kind, time_ms, line, hash) values ($1, $2, $3, $4, $5, $6, $7)",
        cells![line.seq, run, *step, kind.word(), line.time_ms, &line.text, &line.hash],
    )
    .await?;
    for change in changes {
        apply(tx, run, line.time_ms, change).await?;
    }
    // What is known is in the run's row.
    if known.is_none_or(|(stand, _)| !stand.has_row_of(line.stand)) {
        tx.execute("update run set stand = $1 where id = $2", cells![line.stand.word(), run]).await?;
    }
    if *kind == Transition::RunEnded {
        tx.execute("delete from withheld where run = $1", cells![run]).await?;
        tx.execute("delete from hold where run = $1", cells![run]).await?;
    }
    let time_ms = line.time_ms;
    tail.written(run, line);
    Ok(time_ms)
}

/// Number and hash of the last record.
pub(super) async fn head(tx: &mut dyn Transaction) -> Result<(u64, String)> {
    let last = tx.rows("select seq, hash from log order by seq desc limit 1", &[]).await?;
    match last.first() {
        Some(row) => Ok((row.number(0)?, row.string(1)?)),
        None => Ok(no_head()),
    }
}

/// What an empty log's first record follows.
pub(super) fn no_head() -> (u64, String) {
    (0, GENESIS.to_owned())
}

/// Where a run stands, and the time of its last record.
async fn stand(tx: &mut dyn Transaction, run: &str) -> Result<(Stand, u64)> {
    let rows = tx.rows(concat!("select ", stands!(), " from run where id = $1"), cells![run]).await?;
    let Some(row) = rows.first() else { return Ok((Stand::New, 0)) };
    if let Some(stand) = read_stand(row)? {
        return Ok(stand);
    }
    // A run of an earlier version, whose row does not say.
    let mut stand = Stand::New;
    for row in tx.rows("select kind, step from log where run = $1 order by seq", cells![run]).await? {
        stand = stand.next(kind(row.text(0)?)?, row.optional_number(1)?)?;
    }
    Ok((stand, row.optional_number(1)?.unwrap_or(0)))
}

/// Where a run stands by its row, and the time of its last record; none if the row does not say.
pub(super) fn read_stand(row: &Row) -> Result<Option<(Stand, u64)>> {
    let (word, time_ms) = (row.text(0)?, row.optional_number(1)?.unwrap_or(0));
    if word.is_empty() {
        return Ok(None);
    }
    let last = match row.optional_text(2)? {
        Some(word) => Some((kind(word)?, row.optional_number(3)?)),
        None => None,
    };
    let stand = Stand::parse(word, last)
        .ok_or_else(|| Error::new(Kind::Journal, format!("a run stands at `{word}`, which is nowhere")))?;
    Ok(Some((stand, time_ms)))
}

fn kind(word: &str) -> Result<Transition> {
    Transition::parse(word).ok_or_else(|| Error::new(Kind::Journal, "a record of a kind that is not known"))
}

async fn apply(tx: &mut dyn Transaction, run: &str, time_ms: u64, change: &Change) -> Result<()> {
    match change {
        Change::RunBegins(row) => {
            tx.execute(
                "insert into run (id, environment, policy, module_sha256, status, stand, started_ms)
                 values ($1, $2, $3, $4, 'running', 'new', $5)",
                cells![&row.id, &row.environment, &row.policy, &row.module_sha256, time_ms],
            )
            .await?
        }
        Change::RunStatus(status, summary, ended_ms) => {
            tx.execute(
                "update run set status = $1, summary = $2, ended_ms = $3 where id = $4",
                cells![status, summary, *ended_ms, run],
            )
            .await?
        }
        Change::ServiceHeld(service) => hold(tx, run, service).await?,
        Change::ServicesLetGo => tx.execute("delete from hold where run = $1", cells![run]).await?,
        Change::CandidateBegins(id) => {
            tx.execute(
                "insert into candidate (id, run, state, body) values ($1, $2, 'staging', 'null')",
                cells![id, run],
            )
            .await?
        }
        Change::CandidateStaged(candidate) => {
            tx.execute(
                "update candidate set state = 'staged', body = $1 where id = $2",
                cells![text(candidate)?, &candidate.id],
            )
            .await?
        }
        Change::CandidateVerified(id, verification) => {
            let body = verification.as_ref().map(text).transpose()?;
            tx.execute("update candidate set verification = $1 where id = $2", cells![body, id]).await?
        }
        Change::CandidateState(id, state) => {
            tx.execute("update candidate set state = $1 where id = $2", cells![*state, id]).await?
        }
        Change::PromotionBegins(environment, promotion) => {
            tx.execute(
                "insert into promotion (id, run, environment, service, state, body)
                 values ($1, $2, $3, $4, 'promoting', $5)",
                cells![&promotion.id, run, environment, &promotion.service, text(promotion)?],
            )
            .await?
        }
        Change::PromotionState(id, state) => {
            tx.execute("update promotion set state = $1 where id = $2", cells![*state, id]).await?
        }
        Change::ApprovalOpens(id, step, intent, sha256) => {
            tx.execute(
                "insert into approval (id, run, step, state, intent, intent_sha256) values ($1, $2, $3, 'open', $4, $5)",
                cells![id, run, *step, intent, sha256],
            )
            .await?
        }
        Change::ApprovalDecided(id, state, by, how) => {
            tx.execute(
                "update approval set state = $1, decided_by = $2, how = $3, decided_ms = $4
                 where id = $5 and (state = 'open' or state = 'approved' and
                                    ($1 <> 'approved' or how is null or how <> $3))",
                cells![state.word(), by, how, time_ms, id],
            )
            .await?
        }
        Change::VoteCounted(id, votes_before) => {
            // The record of this one is in the log already.
            let counted = tx
                .execute(
                    "update approval set state = state where id = $1 and run = $2
                     and state in ('open', 'approved', 'denied')
                     and (select count(*) from log where run = $2 and kind = 'voted') = $3",
                    cells![id, run, votes_before + 1],
                )
                .await?;
            if counted != 1 {
                return Err(Error::new(Kind::Failed, format!("approval {id} takes no vote any more")));
            }
            counted
        }
        Change::ApprovalSpent(id, intent_sha256) => {
            let spent = tx
                .execute(
                    "update approval set state = 'spent'
                     where id = $1 and run = $2 and state = 'approved' and intent_sha256 = $3",
                    cells![id, run, intent_sha256],
                )
                .await?;
            if spent != 1 {
                return Err(Error::new(Kind::NotApproved, format!("approval {id} is not good for this step")));
            }
            spent
        }
        Change::ObligationOpens(kind, object, if_aborted, body) => {
            tx.execute(
                "insert into obligation (run, kind, object, if_aborted, body, state)
                 values ($1, $2, $3, $4, $5, 'open')",
                cells![run, *kind, object, if_aborted, body.to_string()],
            )
            .await?
        }
        Change::ObligationCloses(kind, object) => {
            tx.execute(
                // What has an id of its own is gone whoever removed it. A stopped service is its run's, until that could not start it
                // again: then it is whoever's who starts it in the same environment.
                "update obligation set state = 'closed'
                 where kind = $2 and object = $3 and state in ('open', 'unsettled')
                   and (run = $1 or kind in ('candidate', 'instance') or state = 'unsettled' and
                        (select environment from run where id = obligation.run) =
                        (select environment from run where id = $1))",
                cells![run, *kind, object],
            )
            .await?
        }
        Change::ObligationSettled(id, state, note) => {
            tx.execute("update obligation set state = $1, note = $2 where id = $3", cells![*state, note, *id]).await?
        }
        Change::Withholds(step, body, salt) => {
            let sql = "insert into withheld (run, step, body) values ($1, $2, $3) on conflict (run, step) do nothing";
            tx.execute(sql, cells![run, 0_u64, hex::encode(salt.0)]).await?;
            tx.execute(sql, cells![run, *step, body]).await?
        }
        Change::KeyRotates(epoch, verifier) => {
            tx.execute("insert into signing_key (epoch, verifier) values ($1, $2)", cells![*epoch, verifier]).await?
        }
    };
    Ok(())
}

/// A service is one run's at a time; the error names it.
pub(super) async fn hold(tx: &mut dyn Transaction, run: &str, service: &str) -> Result<u64> {
    let held = tx
        .execute(
            "insert into hold (service, run) values ($1, $2)
             on conflict (service) do update set run = excluded.run where hold.run = excluded.run",
            cells![service, run],
        )
        .await?;
    if held == 1 {
        return Ok(held);
    }
    let holder = tx.rows("select run from hold where service = $1", cells![service]).await?;
    let holder = holder.first().map_or(Ok("another"), |row| row.text(0))?;
    Err(Error::new(Kind::LockHeld, format!("another run works on service {service}: {holder}"))
        .hint(format!("lifeboat runs show {holder}; it is free when that run is over, or waits for a person")))
}

/// JSON text of what is kept in a column.
fn text<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(Kind::Journal, format!("a record can't be written: {e}")))
}
