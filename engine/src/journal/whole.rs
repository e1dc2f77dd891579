//! What an audit reads of the state: the whole log in one look, its head, who signs it, and what is kept beside it.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::Value;

use super::State;
use super::rows::Salt;
use super::walk::{GENESIS, Walk};
use crate::error::{Error, Kind, Result};

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
    pub(crate) fn head(&self) -> Result<Head> {
        let mut connection = self.lock();
        let look = connection.transaction()?;
        let last: Option<(u64, String)> = look
            .query_row("select seq, hash from log order by seq desc limit 1", [], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let rotations: u64 = look.query_row("select count(*) from log where kind = 'key-rotated'", [], |r| r.get(0))?;
        let (size, hash) = last.unwrap_or((0, GENESIS.to_owned()));
        Ok(Head { size, hash, epoch: rotations + 1 })
    }

    /// Verifiers of the log's keys, the first epoch's first.
    pub(crate) fn signing_keys(&self) -> Result<Vec<String>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("select verifier from signing_key order by epoch")?;
        let rows = statement.query_map([], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Remembers the first epoch's verifier, unless there is one.
    pub(crate) fn first_signing_key(&self, verifier: &str) -> Result<()> {
        self.lock()
            .execute("insert into signing_key (epoch, verifier) values (1, ?) on conflict do nothing", [verifier])?;
        Ok(())
    }

    /// What a run's log withholds: the salt, if there is one yet, and whole results by step.
    pub(crate) fn withheld(&self, run: &str) -> Result<(Option<Salt>, BTreeMap<u64, Value>)> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("select step, body from withheld where run = ? order by step")?;
        let mut rows = statement.query([run])?;
        let broken =
            |step: u64| Error::new(Kind::Journal, format!("what run {run} keeps of step {step} can't be read"));
        let (mut salt, mut results) = (None, BTreeMap::new());
        while let Some(row) = rows.next()? {
            let (step, body): (u64, String) = (row.get(0)?, row.get(1)?);
            if step == 0 {
                let bytes = hex::decode(body).ok().and_then(|bytes| bytes.try_into().ok());
                salt = Some(Salt(bytes.ok_or_else(|| broken(step))?));
            } else {
                results.insert(step, serde_json::from_str(&body).map_err(|_| broken(step))?);
            }
        }
        Ok((salt, results))
    }

    /// Gives every line, or every line of one run, in order; all of one moment. Gives their number.
    pub fn export(&self, run: Option<&str>, mut each: impl FnMut(&str) -> Result<()>) -> Result<u64> {
        let connection = self.lock();
        let mut statement = connection.prepare("select line from log where ?1 is null or run = ?1 order by seq")?;
        let mut rows = statement.query([run])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?;
            count += 1;
        }
        Ok(count)
    }

    /// Walks the whole log of one moment: every line, what the table says of it besides, and each run's status against its last record.
    pub(crate) fn walk(&self, mut walk: Walk) -> Result<Walk> {
        let mut connection = self.lock();
        // Other engines may write meanwhile: log and runs are looked at as they are now.
        let look = connection.transaction()?;
        walk_log(&look, &mut walk)?;
        check_runs(&look, &walk)?;
        Ok(walk)
    }

    /// The number of records and the last hash, after a walk over the whole log.
    pub fn verify_chain(&self) -> Result<(u64, String)> {
        let walk = self.walk(Walk::new([]))?;
        Ok((walk.records(), walk.head().to_owned()))
    }
}

fn walk_log(look: &Connection, walk: &mut Walk) -> Result<()> {
    let mut statement = look.prepare("select seq, run, step, kind, time_ms, hash, line from log order by seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line = walk.line(row.get_ref(6)?.as_bytes().map_err(rusqlite::Error::from)?)?;
        let text = |r: &Row<'_>, at| r.get::<_, String>(at);
        let same = row.get::<_, u64>(0)? == walk.records()
            && text(row, 1)? == line.run
            && row.get::<_, Option<u64>>(2)? == line.step
            && text(row, 3)? == line.kind.word()
            && row.get::<_, u64>(4)? == line.time_ms
            && text(row, 5)? == line.hash;
        if !same {
            let why = format!("record {}: its row in the state is not what its text says", walk.records());
            return Err(Error::new(Kind::VerificationFailed, why));
        }
    }
    Ok(())
}

fn check_runs(look: &Connection, walk: &Walk) -> Result<()> {
    let mut statement = look.prepare("select id, status from run")?;
    let mut derived: BTreeMap<String, String> =
        statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
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
    use rusqlite::params;
    use serde_json::json;

    use super::*;
    use crate::journal::{By, Change, RunRow, Transition};

    #[test]
    fn a_walk_sees_one_moment_while_another_engine_writes() {
        let directory = tempfile::tempdir().unwrap();
        let (reader, writer) = (State::open(directory.path()).unwrap(), State::open(directory.path()).unwrap());
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
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
                    writer
                        .append(&run, &by, Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)])
                        .unwrap();
                    let ended = Change::RunStatus("ok".into(), String::new(), Some(1));
                    let body = json!({"status": "ok"});
                    writer.append(&run, &by, Transition::RunEnded, None, body, &[ended]).unwrap();
                }
            });
            let (mut walks, mut last) = (0, 0);
            while !writing.is_finished() {
                let (records, _) = reader.verify_chain().unwrap();
                assert!(records >= last);
                (walks, last) = (walks + 1, records);
            }
            assert!(walks > 1, "it walked while there was writing");
        });
        assert_eq!(reader.verify_chain().unwrap().0, 400);
    }

    /// A state of version 1 as it was written then, with the golden log of that version in it.
    #[test]
    fn a_state_of_the_first_version_goes_on_and_its_log_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let golden = include_str!("../../../docs/vectors/journal.jsonl");
        let old = Connection::open(directory.path().join("state.sqlite")).unwrap();
        old.execute_batch(super::super::state::SCHEMA).unwrap();
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
        let state = State::open(directory.path()).unwrap();
        assert_eq!(state.verify_chain().unwrap(), (36, walk.head().to_owned()));
        let by = By { actor: "alice@host1".into(), channel: "cli".into() };
        let row = RunRow { id: "new".into(), ..state.runs(&Default::default()).unwrap()[0].clone() };
        state.append("new", &by, Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)]).unwrap();
        assert_eq!(state.verify_chain().unwrap().0, 37);
    }
}
