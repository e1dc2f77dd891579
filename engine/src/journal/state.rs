//! State in SQLite: the log, and tables derived from it in the same transactions.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::record::{By, RECORD_VERSION, Record, Stand, Transition};
use super::rows::{ApprovalRow, ApprovalState, CandidateRow, Change, ObligationRow, PromotionRow, RunFilter, RunRow};
use super::walk::{GENESIS, check_body};
use crate::error::{DISK_HINT, Error, Kind, Result, is_disk};

/// Version of the tables: how many of [`MIGRATIONS`] were applied. A newer one is refused.
const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
/// How long to wait for others that open, write or let go of the same state.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// SQLite answers "busy" at once, whatever time it was given, where waiting could be a deadlock: two that turn a new file into a WAL
/// database, or one that opens while the last other one removes the WAL. Trying the whole opening again is what it leaves to us.
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// What makes the tables of a version out of those of the version before, from none on.
const MIGRATIONS: &[&str] = &[SCHEMA, AUDIT_SCHEMA];

pub(super) const SCHEMA: &str = "
create table log (
    seq integer primary key,
    run text not null,
    step integer,
    kind text not null,
    time_ms integer not null,
    line text not null,
    hash text not null
) strict;
create index log_run on log (run, seq);
-- Append-only, also for whoever has the database open by mistake. Whoever means it is caught by the chain of hashes.
create trigger log_no_update before update on log begin select raise(abort, 'the log is append-only'); end;
create trigger log_no_delete before delete on log begin select raise(abort, 'the log is append-only'); end;
create table run (
    id text primary key,
    environment text not null,
    policy text not null,
    module_sha256 text not null,
    status text not null,
    summary text not null default '',
    started_ms integer not null,
    ended_ms integer
) strict;
create table candidate (
    id text primary key, run text not null, state text not null, body text not null, verification text
) strict;
create table promotion (
    id text primary key, run text not null, environment text not null, service text not null, state text not null,
    body text not null
) strict;
create table approval (
    id text primary key, run text not null, step integer not null, state text not null,
    intent text not null, intent_sha256 text not null, decided_by text, how text, decided_ms integer
) strict;
create table obligation (
    id integer primary key, run text not null, kind text not null, object text not null, if_aborted text not null,
    body text not null, state text not null, note text not null default ''
) strict;
";

const AUDIT_SCHEMA: &str = "
-- Values of a service that runs were given, while those runs last: replaying needs them, the log has only their digests. Step 0: the salt.
create table withheld (
    run text not null, step integer not null, body text not null, primary key (run, step)
) strict, without rowid;
create index log_key on log (seq) where kind = 'key-rotated';
create table signing_key (epoch integer primary key, verifier text not null) strict;
-- Where its records have brought a run: what may follow. Empty in runs from before: read from the records then.
alter table run add column stand text not null default '';
";

/// The engine's state: its journal and what is derived from it.
pub struct State {
    connection: Mutex<Connection>,
    directory: PathBuf,
}

impl State {
    /// Opens the state in a directory, making it (mode 0700) if absent.
    pub fn open(directory: &Path) -> Result<Self> {
        let doing = |e: std::io::Error| {
            Error::new(Kind::Journal, format!("state directory {}: {e}", directory.display()))
                .hint("it must be writable by the user that runs lifeboat")
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(doing)?;
        let mode = std::fs::metadata(directory).map_err(doing)?.permissions().mode();
        if mode & 0o022 != 0 {
            // Approvals, promotions and compiled modules lie here.
            return Err(Error::new(
                Kind::Journal,
                format!("others may write to state directory {}", directory.display()),
            )
            .hint(format!("chmod 700 {}", directory.display())));
        }
        let path = directory.join("state.sqlite");
        // Made by hand so that it is never readable by others, not even for a moment.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(doing)?;
        let end = Instant::now() + OPEN_LIMIT;
        loop {
            match Self::connect(&path, directory) {
                Err(e) if is_busy(&e) && Instant::now() < end => std::thread::sleep(OPEN_PAUSE),
                Err(e) => return Err(damaged(&path, &e)),
                Ok((_, Some(version))) => {
                    return Err(Error::new(
                        Kind::Journal,
                        format!("{} has version {version}, this engine knows {SCHEMA_VERSION}", path.display()),
                    )
                    .hint("a newer lifeboat wrote it: use that version"));
                }
                Ok((state, None)) => return Ok(state),
            }
        }
    }

    /// One try at opening the database and making its tables; with the version of a state that is not ours.
    fn connect(path: &Path, directory: &Path) -> rusqlite::Result<(Self, Option<i64>)> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(OPEN_LIMIT)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // FULL: in WAL mode, NORMAL does not sync commits.
        connection.pragma_update(None, "synchronous", "full")?;
        // Withheld values are overwritten when they go.
        connection.pragma_update(None, "secure_delete", "on")?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = transaction.query_row("pragma user_version", [], |r| r.get(0))?;
        let ours = (0..=SCHEMA_VERSION).contains(&version);
        if ours && version < SCHEMA_VERSION {
            for migration in MIGRATIONS.iter().skip(version as usize) {
                transaction.execute_batch(migration)?;
            }
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        transaction.commit()?;
        let state = Self { connection: Mutex::new(connection), directory: directory.to_owned() };
        Ok((state, (!ours).then_some(version)))
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        // A panic while it was held left at most an open transaction, which SQLite rolls back.
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where the state lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Appends one record of a run with the changes that come from it, in one transaction; on disk when this answers. Gives the record's time.
    pub fn append(
        &self,
        run: &str,
        by: &By,
        kind: Transition,
        step: Option<u64>,
        mut body: Value,
        changes: &[Change],
    ) -> Result<u64> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let last: Option<(u64, String)> = transaction
            .query_row("select seq, hash from log order by seq desc limit 1", [], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let (last_seq, prev) = last.unwrap_or((0, GENESIS.to_owned()));
        let last_time: Option<u64> = transaction
            .query_row("select time_ms from log where run = ? order by seq desc limit 1", [run], |r| r.get(0))
            .optional()?;
        let stand = stand(&transaction, run)?.next(kind, step)?;
        // A clock that was set back must not make a run's records run backwards; a glitch forward ends with its run.
        let time_ms = host_api::identifier::now_ms().max(last_time.unwrap_or(0));
        let seq = last_seq + 1;
        body["v"] = json!(RECORD_VERSION);
        body["seq"] = json!(seq);
        body["prev"] = json!(prev);
        body["run"] = json!(run);
        body["kind"] = json!(kind.word());
        body["time-ms"] = json!(time_ms);
        body["actor"] = json!(by.actor);
        body["channel"] = json!(by.channel);
        if let Some(step) = step {
            body["step"] = json!(step);
        }
        check_body(&body)?;
        let line = body.to_string();
        let hash = hex::encode(Sha256::digest(line.as_bytes()));
        transaction
            .prepare_cached("insert into log (seq, run, step, kind, time_ms, line, hash) values (?, ?, ?, ?, ?, ?, ?)")?
            .execute(params![seq, run, step, kind.word(), time_ms, line, hash])?;
        for change in changes {
            apply(&transaction, run, time_ms, change)?;
        }
        transaction.prepare_cached("update run set stand = ? where id = ?")?.execute([stand.word().as_str(), run])?;
        if kind == Transition::RunEnded {
            transaction.prepare_cached("delete from withheld where run = ?")?.execute([run])?;
        }
        transaction.commit()?;
        Ok(time_ms)
    }

    /// All records of a run, in order, checked against the legal transitions.
    pub fn records(&self, run: &str) -> Result<Vec<Record>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("select seq, run, kind, time_ms, line from log where run = ? order by seq")?;
        let rows = statement.query_map([run], |r| {
            Ok((r.get::<_, u64>(0)?, r.get::<_, String>(1)?, r.get::<_, String>(2)?, r.get(3)?, r.get::<_, String>(4)?))
        })?;
        let mut records = Vec::new();
        let mut stand = Stand::New;
        for row in rows {
            let (seq, run, word, time_ms, line) = row?;
            let broken = |why: &str| Error::new(Kind::Journal, format!("record {seq} of the journal {why}"));
            let kind = Transition::parse(&word).ok_or_else(|| broken("is of an unknown kind"))?;
            let body: Value = serde_json::from_str(&line).map_err(|_| broken("is not JSON"))?;
            stand = stand.next(kind, body["step"].as_u64()).map_err(|e| e.context(format!("record {seq}")))?;
            records.push(Record { seq, run, time_ms, kind, body });
        }
        Ok(records)
    }

    /// The records of a kind of a run, in order.
    pub fn records_of(&self, run: &str, kind: Transition) -> Result<Vec<Record>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("select seq, time_ms, line from log where run = ? and kind = ? order by seq")?;
        let rows = statement
            .query_map(params![run, kind.word()], |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, String>(2)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter()
            .map(|(seq, time_ms, line)| {
                let body = serde_json::from_str(&line)
                    .map_err(|_| Error::new(Kind::Journal, format!("record {seq} of the journal is not JSON")))?;
                Ok(Record { seq, run: run.to_owned(), time_ms, kind, body })
            })
            .collect()
    }

    /// The lines of a run, as they stand.
    pub fn lines(&self, run: &str) -> Result<Vec<String>> {
        let connection = self.lock();
        let mut statement = connection.prepare("select line from log where run = ? order by seq")?;
        let rows = statement.query_map([run], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Runs, newest first.
    pub fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "select id, environment, policy, module_sha256, status, summary, started_ms, ended_ms from run
             where (?1 is null or status = ?1) and (?2 is null or policy = ?2) order by started_ms desc, id desc limit ?3",
        )?;
        let rows =
            statement.query_map(params![filter.status, filter.policy, filter.limit.unwrap_or(u32::MAX)], |r| {
                Ok(RunRow {
                    id: r.get(0)?,
                    environment: r.get(1)?,
                    policy: r.get(2)?,
                    module_sha256: r.get(3)?,
                    status: r.get(4)?,
                    summary: r.get(5)?,
                    started_ms: r.get(6)?,
                    ended_ms: r.get(7)?,
                })
            })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether a person asked for a run's end.
    pub fn cancel_requested(&self, run: &str) -> Result<bool> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("select 1 from log where run = ? and kind = 'cancel-requested' limit 1")?;
        Ok(statement.exists([run])?)
    }

    /// One run.
    pub fn run(&self, id: &str) -> Result<RunRow> {
        self.runs(&RunFilter::default())?.into_iter().find(|r| r.id == id).ok_or_else(|| {
            Error::new(Kind::Usage, format!("no run `{}`", host_api::identifier::shown(id)))
                .hint("`lifeboat runs list` shows them")
        })
    }

    /// Candidates, oldest first.
    pub fn candidates(&self) -> Result<Vec<CandidateRow>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("select id, run, state, body, verification from candidate order by id")?;
        let rows = statement.query_map([], |r| {
            let body: String = r.get(3)?;
            let verification: Option<String> = r.get(4)?;
            Ok(CandidateRow {
                id: r.get(0)?,
                run: r.get(1)?,
                state: r.get(2)?,
                candidate: serde_json::from_str(&body).ok(),
                verification: verification.and_then(|v| serde_json::from_str(&v).ok()),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One candidate.
    pub fn candidate(&self, id: &str) -> Result<CandidateRow> {
        self.candidates()?.into_iter().find(|c| c.id == id).ok_or_else(|| {
            Error::new(Kind::Usage, format!("no candidate `{}`", host_api::identifier::shown(id)))
                .hint("`lifeboat candidates list` shows them")
        })
    }

    /// Promotions, oldest first.
    pub fn promotions(&self) -> Result<Vec<PromotionRow>> {
        let connection = self.lock();
        let mut statement = connection.prepare("select run, environment, state, body from promotion order by id")?;
        let rows = statement
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get::<_, String>(3)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        rows.into_iter()
            .map(|(run, environment, state, body)| {
                let promotion = serde_json::from_str(&body)
                    .map_err(|e| Error::new(Kind::Journal, format!("a promotion can't be read: {e}")))?;
                Ok(PromotionRow { run, environment, state, promotion })
            })
            .collect()
    }

    /// One promotion.
    pub fn promotion(&self, id: &str) -> Result<PromotionRow> {
        self.promotions()?.into_iter().find(|p| p.promotion.id == id).ok_or_else(|| {
            Error::new(Kind::Usage, format!("no promotion `{}`", host_api::identifier::shown(id)))
                .hint("`lifeboat promotions list` shows them")
        })
    }

    /// Approvals, oldest first; of one run, or of all.
    pub fn approvals(&self, run: Option<&str>) -> Result<Vec<ApprovalRow>> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "select id, run, state, intent, intent_sha256, decided_by, how from approval
             where ?1 is null or run = ?1 order by id",
        )?;
        let rows = statement.query_map([run], |r| {
            let state: String = r.get(2)?;
            let intent: String = r.get(3)?;
            Ok(ApprovalRow {
                id: r.get(0)?,
                run: r.get(1)?,
                // A word that is not ours was never approved.
                state: ApprovalState::parse(&state).unwrap_or(ApprovalState::Denied),
                intent: serde_json::from_str(&intent).unwrap_or(Value::Null),
                intent_sha256: r.get(4)?,
                decided_by: r.get(5)?,
                how: r.get(6)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One approval.
    pub fn approval(&self, id: &str) -> Result<ApprovalRow> {
        self.approvals(None)?.into_iter().find(|a| a.id == id).ok_or_else(|| {
            Error::new(Kind::Usage, format!("no approval `{}`", host_api::identifier::shown(id)))
                .hint("`lifeboat approvals list` shows them")
        })
    }

    /// Obligations, newest first; of one run, or of all.
    pub fn obligations(&self, run: Option<&str>) -> Result<Vec<ObligationRow>> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "select id, run, kind, object, if_aborted, body, state, note from obligation
             where ?1 is null or run = ?1 order by id desc",
        )?;
        let rows = statement.query_map([run], |r| {
            let body: String = r.get(5)?;
            Ok(ObligationRow {
                id: r.get(0)?,
                run: r.get(1)?,
                kind: r.get(2)?,
                object: r.get(3)?,
                if_aborted: r.get(4)?,
                body: serde_json::from_str(&body).unwrap_or(Value::Null),
                state: r.get(6)?,
                note: r.get(7)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Somebody else holds the database now.
fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
    )
}

fn damaged(path: &Path, e: &rusqlite::Error) -> Error {
    let error = Error::new(Kind::Journal, format!("{} can't be opened: {e}", path.display()));
    if is_disk(e) {
        return error.hint(DISK_HINT);
    }
    error.hint("backups are not affected: their manifests lie in the stores; move the state aside to start a new one")
}

/// Where a run stands.
fn stand(connection: &Connection, run: &str) -> Result<Stand> {
    let word: Option<String> =
        connection.prepare_cached("select stand from run where id = ?")?.query_row([run], |r| r.get(0)).optional()?;
    let Some(word) = word else { return Ok(Stand::New) };
    if word.is_empty() {
        let mut statement = connection.prepare("select kind, step from log where run = ? order by seq")?;
        let mut rows = statement.query([run])?;
        let mut stand = Stand::New;
        while let Some(row) = rows.next()? {
            let kind: String = row.get(0)?;
            let kind = Transition::parse(&kind)
                .ok_or_else(|| Error::new(Kind::Journal, format!("a record of kind `{kind}`")))?;
            stand = stand.next(kind, row.get(1)?)?;
        }
        return Ok(stand);
    }
    Stand::parse(&word)
        .ok_or_else(|| Error::new(Kind::Journal, format!("run {run} stands at `{word}`, which is nowhere")))
}

fn apply(connection: &Connection, run: &str, time_ms: u64, change: &Change) -> Result<()> {
    match change {
        Change::RunBegins(row) => connection.execute(
            "insert into run (id, environment, policy, module_sha256, status, stand, started_ms)
             values (?, ?, ?, ?, 'running', 'new', ?)",
            params![row.id, row.environment, row.policy, row.module_sha256, time_ms],
        )?,
        Change::RunStatus(status, summary, ended_ms) => connection.execute(
            "update run set status = ?, summary = ?, ended_ms = ? where id = ?",
            params![status, summary, ended_ms, run],
        )?,
        Change::CandidateBegins(id) => connection.execute(
            "insert into candidate (id, run, state, body) values (?, ?, 'staging', 'null')",
            params![id, run],
        )?,
        Change::CandidateStaged(candidate) => connection.execute(
            "update candidate set state = 'staged', body = ? where id = ?",
            params![text(candidate)?, candidate.id],
        )?,
        Change::CandidateVerified(id, verification) => connection.execute(
            "update candidate set verification = ? where id = ?",
            params![verification.as_ref().map(text).transpose()?, id],
        )?,
        Change::CandidateState(id, state) => {
            connection.execute("update candidate set state = ? where id = ?", params![state, id])?
        }
        Change::PromotionBegins(environment, promotion) => connection.execute(
            "insert into promotion (id, run, environment, service, state, body) values (?, ?, ?, ?, 'promoting', ?)",
            params![promotion.id, run, environment, promotion.service, text(promotion)?],
        )?,
        Change::PromotionState(id, state) => {
            connection.execute("update promotion set state = ? where id = ?", params![state, id])?
        }
        Change::ApprovalOpens(id, step, intent, sha256) => connection.execute(
            "insert into approval (id, run, step, state, intent, intent_sha256) values (?, ?, ?, 'open', ?, ?)",
            params![id, run, step, intent, sha256],
        )?,
        Change::ApprovalDecided(id, state, by, how) => connection.execute(
            "update approval set state = ?1, decided_by = ?2, how = ?3, decided_ms = ?4
             where id = ?5 and (state = 'open' or state = 'approved' and (?1 <> 'approved' or how is not ?3))",
            params![state.word(), by, how, time_ms, id],
        )?,
        Change::VoteCounted(id, votes_before) => {
            // The record of this one is in the log already.
            let counted = connection.execute(
                "update approval set state = state where id = ?1 and run = ?2 and state in ('open', 'approved', 'denied')
                 and (select count(*) from log where run = ?2 and kind = 'voted') = ?3",
                params![id, run, votes_before + 1],
            )?;
            if counted != 1 {
                return Err(Error::new(Kind::Failed, format!("approval {id} takes no vote any more")));
            }
            counted
        }
        Change::ApprovalSpent(id, intent_sha256) => {
            let spent = connection.execute(
                "update approval set state = 'spent' where id = ? and run = ? and state = 'approved' and intent_sha256 = ?",
                params![id, run, intent_sha256],
            )?;
            if spent != 1 {
                return Err(Error::new(Kind::Failed, format!("approval {id} is not good for this step")));
            }
            spent
        }
        Change::ObligationOpens(kind, object, if_aborted, body) => connection.execute(
            "insert into obligation (run, kind, object, if_aborted, body, state) values (?, ?, ?, ?, ?, 'open')",
            params![run, kind, object, if_aborted, body.to_string()],
        )?,
        Change::ObligationCloses(kind, object) => connection.execute(
            // What has an id of its own is gone whoever removed it. A stopped service is its run's, until that could not start it again:
            // then it is whoever's who starts it in the same environment.
            "update obligation set state = 'closed'
             where kind = ?2 and object = ?3 and state in ('open', 'unsettled')
               and (run = ?1 or kind in ('candidate', 'instance') or state = 'unsettled' and
                    (select environment from run where id = obligation.run) = (select environment from run where id = ?1))",
            params![run, kind, object],
        )?,
        Change::ObligationSettled(id, state, note) => {
            connection.execute("update obligation set state = ?, note = ? where id = ?", params![state, note, id])?
        }
        Change::Withholds(step, body, salt) => {
            let mut statement = connection.prepare_cached("insert into withheld (run, step, body) values (?, ?, ?)
                 on conflict (run, step) do nothing")?;
            statement.execute(params![run, 0, hex::encode(salt.0)])?;
            statement.execute(params![run, step, body])?
        }
        Change::KeyRotates(epoch, verifier) => {
            connection.execute("insert into signing_key (epoch, verifier) values (?, ?)", params![epoch, verifier])?
        }
    };
    Ok(())
}

/// JSON text of what is kept in a column.
fn text<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(Kind::Journal, format!("a record can't be written: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by() -> By {
        By { actor: "alice@host1".into(), channel: "cli".into() }
    }

    fn begun(state: &State, run: &str) {
        let row = RunRow {
            id: run.into(),
            environment: "test".into(),
            policy: "p".into(),
            module_sha256: "0".into(),
            status: String::new(),
            summary: String::new(),
            started_ms: 0,
            ended_ms: None,
        };
        state.append(run, &by(), Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)]).unwrap();
    }

    #[test]
    fn records_are_chained_and_canonical() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        begun(&state, "r1");
        state.append("r1", &by(), Transition::Answered, Some(1), json!({"z": 1, "a": 2}), &[]).unwrap();
        let lines = state.lines("r1").unwrap();
        assert!(
            lines[1].starts_with(r#"{"a":2,"actor":"alice@host1","channel":"cli","kind":"answered","prev":""#),
            "{}",
            lines[1]
        );
        assert_eq!(state.verify_chain().unwrap().0, 2);
    }

    #[test]
    fn the_log_can_be_neither_changed_nor_shortened_by_sql_and_a_forced_change_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        begun(&state, "r1");
        assert!(state.lock().execute("update log set line = '{}'", []).is_err());
        assert!(state.lock().execute("delete from log", []).is_err());
        state
            .lock()
            .execute_batch("drop trigger log_no_update; update log set line = replace(line, 'r1', 'r2')")
            .unwrap();
        let error = state.verify_chain().unwrap_err();
        assert!(error.message.contains("record 1"), "{error}");
    }

    #[test]
    fn a_record_that_can_not_follow_is_refused_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        begun(&state, "r1");
        let change = Change::CandidateBegins("c1".into());
        assert!(state.append("r1", &by(), Transition::Completed, Some(1), json!({}), &[change]).is_err());
        assert!(state.candidates().unwrap().is_empty());
    }

    #[test]
    fn an_approval_is_spent_once_and_only_for_its_run_and_intent() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        begun(&state, "r1");
        begun(&state, "r2");
        let opens = Change::ApprovalOpens("a1".into(), 1, "{}".into(), "sha".into());
        state.append("r1", &by(), Transition::Answered, Some(1), json!({}), &[opens]).unwrap();
        let spend = |run: &str, sha: &str, step| {
            let change = Change::ApprovalSpent("a1".into(), sha.into());
            state.append(run, &by(), Transition::Started, Some(step), json!({}), &[change])
        };
        assert!(spend("r1", "sha", 2).is_err(), "not approved yet");
        let decided = Change::ApprovalDecided("a1".into(), ApprovalState::Approved, "me".into(), "typed".into());
        state.append("r1", &by(), Transition::Answered, Some(2), json!({}), &[decided]).unwrap();
        assert!(spend("r2", "sha", 2).is_err(), "another run");
        assert!(spend("r1", "other", 3).is_err(), "another intent");
        spend("r1", "sha", 3).unwrap();
        state.append("r1", &by(), Transition::Completed, Some(3), json!({}), &[]).unwrap();
        assert!(spend("r1", "sha", 4).is_err(), "a second time");
    }

    #[test]
    fn many_open_one_new_state_at_once_and_while_others_let_go_of_it() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            std::thread::scope(|scope| {
                for opener in 0..8 {
                    let directory = directory.path();
                    scope.spawn(move || {
                        for again in 0..5 {
                            let state = State::open(directory).unwrap();
                            begun(&state, &format!("r{opener}-{again}"));
                        }
                    });
                }
            });
            let state = State::open(directory.path()).unwrap();
            assert_eq!(state.verify_chain().unwrap().0, 40);
        }
    }

    #[test]
    fn a_newer_state_and_a_damaged_one_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        state.lock().pragma_update(None, "user_version", 99).unwrap();
        drop(state);
        let error = State::open(directory.path()).err().unwrap();
        assert!(error.message.contains("version 99") && error.message.contains("knows 2"), "{error}");
        std::fs::write(directory.path().join("state.sqlite"), vec![7; 8192]).unwrap();
        let _ = std::fs::remove_file(directory.path().join("state.sqlite-wal"));
        assert_eq!(State::open(directory.path()).err().unwrap().kind, Kind::Journal);
    }
}
