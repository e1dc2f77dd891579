//! What an audit reads of the state: the whole log in one look, its head, who signs it, and what is kept beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::append;
use super::database::{Transaction, cells};
use super::rows::Salt;
use super::state::State;
use super::walk::Walk;
use crate::error::{Error, Kind, Result};

/// Records that are read at a time.
const PAGE: u64 = 1000;

/// The log's head at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Records.
    pub(crate) size: u64,
    /// Hash of the last one.
    pub(crate) hash: String,
    /// Which key signs it: 1, and one more with each rotation.
    pub(crate) epoch: u64,
}

impl State {
    /// The head, in one look.
    pub(crate) async fn head(&self) -> Result<Head> {
        self.look(Box::new(|tx| {
            Box::pin(async move {
                let (size, hash) = append::head(tx).await?;
                let rotations = tx.rows("select count(*) from log where kind = 'key-rotated'", &[]).await?;
                let rotations = rotations.first().map_or(Ok(0), |row| row.number(0))?;
                Ok(Head { size, hash, epoch: rotations + 1 })
            })
        }))
        .await
    }

    /// Verifiers of the log's keys, the first epoch's first.
    pub(crate) async fn signing_keys(&self) -> Result<Vec<String>> {
        let rows = self.rows("select verifier from signing_key order by epoch", &[]).await?;
        rows.iter().map(|row| row.string(0)).collect()
    }

    /// Remembers the first epoch's verifier, unless there is one. Gives whether it is this one.
    pub(crate) async fn first_signing_key(&self, verifier: &str) -> Result<bool> {
        let verifier = verifier.to_owned();
        let first = self
            .write(Arc::new(move |tx| {
                let verifier = verifier.clone();
                Box::pin(async move {
                    let sql = "insert into signing_key (epoch, verifier) values (1, $1) on conflict (epoch) do nothing";
                    tx.execute(sql, cells![verifier]).await
                })
            }))
            .await?;
        Ok(first == 1)
    }

    /// What a run's log withholds: the salt, if there is one yet, and whole results by step.
    pub(crate) async fn withheld(&self, run: &str) -> Result<(Option<Salt>, BTreeMap<u64, Value>)> {
        let rows = self.rows("select step, body from withheld where run = $1 order by step", cells![run]).await?;
        let broken =
            |step: u64| Error::new(Kind::Journal, format!("what run {run} keeps of step {step} can't be read"));
        let (mut salt, mut results) = (None, BTreeMap::new());
        for row in &rows {
            let (step, body) = (row.number(0)?, row.text(1)?);
            if step == 0 {
                let bytes = hex::decode(body).ok().and_then(|bytes| bytes.try_into().ok());
                salt = Some(Salt(bytes.ok_or_else(|| broken(step))?));
            } else {
                results.insert(step, serde_json::from_str(body).map_err(|_| broken(step))?);
            }
        }
        Ok((salt, results))
    }

    /// Gives every line, or every line of one run, in order; all of one moment. Gives their number.
    pub async fn export(&self, run: Option<&str>, mut each: impl FnMut(&str) -> Result<()>) -> Result<u64> {
        // The log only grows: what there is up to its end of now is of one moment.
        let end = self.head().await?.size;
        let (mut count, mut after) = (0, 0);
        loop {
            let page = self
                .rows(
                    "select seq, line from log
                     where seq > $1 and seq <= $2 and ($3 is null or run = $3) order by seq limit $4",
                    cells![after, end, run, PAGE],
                )
                .await?;
            let Some(last) = page.last() else { return Ok(count) };
            after = last.number(0)?;
            for row in &page {
                each(row.text(1)?)?;
                count += 1;
            }
        }
    }

    /// Walks the whole log of one moment: every line, what the table says of it besides, and each run's status against its last record.
    pub(crate) async fn walk(&self, mut walk: Walk) -> Result<Walk> {
        // Other engines may write meanwhile: log and runs are looked at as they are now.
        self.look(Box::new(|tx| {
            Box::pin(async move {
                walk_log(tx, &mut walk).await?;
                check_runs(tx, &walk).await?;
                Ok(walk)
            })
        }))
        .await
    }

    /// The number of records and the last hash, after a walk over the whole log.
    pub async fn verify_chain(&self) -> Result<(u64, String)> {
        let walk = self.walk(Walk::new([])).await?;
        Ok((walk.records(), walk.head().to_owned()))
    }
}

async fn walk_log(tx: &mut dyn Transaction, walk: &mut Walk) -> Result<()> {
    let mut after: Option<i64> = None;
    loop {
        let page = tx
            .rows(
                "select seq, run, step, kind, time_ms, hash, line from log where seq > $1 order by seq limit $2",
                cells![after.unwrap_or(i64::MIN), PAGE],
            )
            .await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.integer(0)?);
        for row in &page {
            let line = walk.line(row.text(6)?.as_bytes())?;
            let same = row.number(0)? == walk.records()
                && row.text(1)? == line.run
                && row.optional_number(2)? == line.step
                && row.text(3)? == line.kind.word()
                && row.number(4)? == line.time_ms
                && row.text(5)? == line.hash;
            if !same {
                let why = format!("record {}: its row in the state is not what its text says", walk.records());
                return Err(Error::new(Kind::VerificationFailed, why));
            }
        }
    }
}

async fn check_runs(tx: &mut dyn Transaction, walk: &Walk) -> Result<()> {
    let rows = tx.rows("select id, status from run", &[]).await?;
    let mut derived: BTreeMap<String, String> =
        rows.iter().map(|row| Ok((row.string(0)?, row.string(1)?))).collect::<Result<_>>()?;
    let wrong = |run: &str, why: String| {
        Error::new(Kind::VerificationFailed, format!("run {}: {why}", host_api::identifier::shown(run)))
    };
    for (run, status) in walk.statuses() {
        match derived.remove(run) {
            Some(derived) if derived == status => {}
            Some(derived) => {
                let [derived, status] = [&derived, status].map(host_api::identifier::shown);
                return Err(wrong(run, format!("the state calls it {derived}, its last record {status}")));
            }
            None => return Err(wrong(run, "it has records, and the state does not list it".into())),
        }
    }
    match derived.into_keys().next() {
        Some(run) => Err(wrong(&run, "the state lists it, and it has no record".into())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params};
    use serde_json::json;

    use super::*;
    use crate::journal::{By, Change, RunRow, Transition};

    #[tokio::test]
    async fn a_walk_sees_one_moment_while_another_engine_writes() {
        let directory = tempfile::tempdir().unwrap();
        let (reader, writer) =
            (State::open(directory.path()).await.unwrap(), State::open(directory.path()).await.unwrap());
        let writing = tokio::spawn(async move {
            let by = By { actor: "alice@host1".into(), channel: "cli".into() };
            for number in 0..200 {
                let run = format!("r{number}");
                let row = RunRow {
                    id: run.clone(),
                    environment: "test".into(),
                    policy: "p".into(),
                    module_sha256: "0".into(),
                    ..RunRow::default()
                };
                let begins = [Change::RunBegins(row)];
                writer.append(&run, &by, Transition::RunStarted, None, json!({}), &begins).await.unwrap();
                let ended = Change::RunStatus("ok".into(), String::new(), Some(1));
                let body = json!({"status": "ok"});
                writer.append(&run, &by, Transition::RunEnded, None, body, &[ended]).await.unwrap();
            }
        });
        let (mut walks, mut last) = (0, 0);
        while !writing.is_finished() {
            let (records, _) = reader.verify_chain().await.unwrap();
            assert!(records >= last);
            (walks, last) = (walks + 1, records);
        }
        writing.await.unwrap();
        assert!(walks > 1, "it walked while there was writing");
        assert_eq!(reader.verify_chain().await.unwrap().0, 400);
    }

    /// A state of version 1 as it was written then, with the golden log of that version in it.
    #[tokio::test]
    async fn a_state_of_the_first_version_goes_on_and_its_log_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let golden = include_str!("../../../docs/vectors/journal.jsonl");
        let old = Connection::open(directory.path().join("state.sqlite")).unwrap();
        old.execute_batch(super::super::schema::FIRST).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        let mut walk = Walk::new([]);
        for (seq, text) in (1_u64..).zip(golden.lines()) {
            let line = walk.line(text.as_bytes()).unwrap();
            old.execute(
                "insert into log (seq, run, step, kind, time_ms, line, hash) values (?, ?, ?, ?, ?, ?, ?)",
                params![seq, line.run, line.step, line.kind.word(), line.time_ms, text, line.hash],
            )
            .unwrap();
        }
        for (run, status) in walk.statuses() {
            old.execute(
                "insert into run (id, environment, policy, module_sha256, status, started_ms) values (?, 'demo', 'p', '0', ?, 0)",
                [run, status],
            )
            .unwrap();
        }
        drop(old);
        let state = State::open(directory.path()).await.unwrap();
        assert_eq!(state.verify_chain().await.unwrap(), (36, walk.head().to_owned()));
        let by = By { actor: "alice@host1".into(), channel: "cli".into() };
        let row = RunRow { id: "new".into(), ..state.runs(&Default::default()).await.unwrap()[0].clone() };
        state.append("new", &by, Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)]).await.unwrap();
        assert_eq!(state.verify_chain().await.unwrap().0, 37);
    }
}
