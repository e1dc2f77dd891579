//! The state in PostgreSQL, shared by several engines: one task of each writes, and commits together whatever waits.
//!
//! The log is one chain, so whoever adds to it holds its lock until the commit. A server that goes away is waited for; whether a commit
//! happened whose answer was lost, the log itself tells.

mod leases;
mod peek;
mod schema;
mod together;

use std::ops::DerefMut;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use host_api::bindings::{Secret, SslMode};
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgSslMode, Postgres as Driver};
use sqlx::query::Query;
use sqlx::{Column, Connection, Executor, PgConnection, PgPool, Row as _, TypeInfo};
use tokio::sync::{mpsc, oneshot};

pub(crate) use leases::{Fence, Held};
pub(super) use leases::{check, check_ours, now};

use super::append::{Job, no_head};
use super::database::{Cell, Look, Row, Transaction, cells};
use super::tail::Tail;
use crate::error::{Error, Kind, Result};

/// Writes that share one commit, at most.
const GROUP_MAX: usize = 256;
/// Sessions for reading and for leases, beside the one that writes.
const SESSIONS_MAX: u32 = 6;
/// How long one try at reaching the server takes at most.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a server that has gone away is waited for.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
/// How long one try at writing, or at reading, may take: of a network that swallows everything nobody hears otherwise.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(60);
const AWAY_PAUSE: Duration = Duration::from_millis(250);

/// `[state-database]`: a state that several engines share.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PostgresState {
    /// Host name or socket directory.
    pub host: String,
    /// Port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The database; tables are made in its schema `lifeboat`.
    pub database: String,
    /// The role, which owns that schema.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// How the connection is protected; `prefer` without it.
    pub ssl_mode: Option<SslMode>,
    /// PEM file with the roots to trust, for `verify-ca` and `verify-full`.
    pub ssl_root_cert: Option<PathBuf>,
    /// Longest step, seconds: what an engine may do to the world without asking the state again, and what the others wait before they take
    /// over a run whose engine died in the middle of a step on another host.
    #[serde(default = "default_lease_s")]
    pub lease_s: u64,
}

fn default_port() -> u16 {
    5432
}

fn default_lease_s() -> u64 {
    3600
}

impl PostgresState {
    /// Makes relative paths those beside the configuration.
    pub(crate) fn anchor(&mut self, base: &Path) {
        if let Some(file) = self.password.as_mut().and_then(|password| password.file.as_mut()) {
            *file = base.join(&*file);
        }
        if let Some(roots) = &mut self.ssl_root_cert {
            *roots = base.join(&*roots);
        }
        if self.host.starts_with("./") {
            self.host = base.join(&self.host).display().to_string();
        }
    }

    fn options(&self) -> Result<PgConnectOptions> {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .database(&self.database)
            .username(&self.user)
            .application_name("lifeboat-state")
            .ssl_mode(match self.ssl_mode {
                None | Some(SslMode::Prefer) => PgSslMode::Prefer,
                Some(SslMode::Disable) => PgSslMode::Disable,
                Some(SslMode::Require) => PgSslMode::Require,
                Some(SslMode::VerifyCa) => PgSslMode::VerifyCa,
                Some(SslMode::VerifyFull) => PgSslMode::VerifyFull,
            });
        options = match self.host.starts_with('/') {
            true => options.socket(&self.host),
            false => options.host(&self.host),
        };
        if let Some(roots) = &self.ssl_root_cert {
            options = options.ssl_root_cert(roots);
        }
        if let Some(password) = &self.password {
            options = options.password(&password.read()?);
        }
        Ok(options)
    }

    /// For messages.
    fn name(&self) -> String {
        format!("the state in database {} on {}:{}", self.database, self.host, self.port)
    }
}

type WriteJob = (Job, oneshot::Sender<Result<u64>>);

/// An open state.
pub(crate) struct Postgres {
    pool: PgPool,
    writes: mpsc::UnboundedSender<WriteJob>,
    pub(super) leases: leases::LeaseState,
}

impl Postgres {
    /// Connects, and makes the tables where there are none.
    pub(super) async fn open(state: &PostgresState) -> Result<Self> {
        let (options, name) = (state.options()?, state.name());
        let mut writing = Session { connection: connected(&options, &name).await? };
        writing.make_tables(&name).await?;
        let pool = PgPoolOptions::new()
            .max_connections(SESSIONS_MAX)
            .acquire_timeout(CONNECT_LIMIT)
            .after_connect(|connection, _| async move { connection.execute(schema::SESSION).await.map(drop) }.boxed())
            .connect_lazy_with(options.clone());
        let (writes, jobs) = mpsc::unbounded_channel();
        tokio::spawn(Writer { session: Some(writing), tail: Tail::default(), options, name }.run(jobs));
        Ok(Self { pool, writes, leases: leases::LeaseState::new(state.name(), Duration::from_secs(state.lease_s)) })
    }

    /// Makes a change; on the server's disk when this answers. It is made in the order of the calls, also where nobody waits any more.
    pub(super) async fn write(&self, job: Job) -> Result<u64> {
        let (answer, answered) = oneshot::channel();
        self.writes.send((job, answer)).map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Reads what one moment shows.
    pub(super) async fn look<T: Send + 'static>(&self, look: Look<T>) -> Result<T> {
        self.alone("begin isolation level repeatable read, read only", look).await
    }

    /// Reads and changes, outside the log.
    async fn change<T: Send + 'static>(&self, change: Look<T>) -> Result<T> {
        self.alone("begin", change).await
    }

    /// A transaction of its own. It comes to its end also where nobody waits for it any more: a session goes back without one.
    async fn alone<T: Send + 'static>(&self, begin: &'static str, work: Look<T>) -> Result<T> {
        let pool = self.pool.clone();
        let task = tokio::spawn(async move {
            let patience = Patience::begin();
            let mut session = loop {
                match begun(&pool, begin).await {
                    Ok(connection) => break Session { connection },
                    Err(error) => patience.pause(error).await?,
                }
            };
            let done = work(&mut session).await;
            session.connection.execute(if done.is_ok() { "commit" } else { "rollback" }).await?;
            done
        });
        task.await.map_err(|e| Error::new(Kind::Journal, format!("the state database: {e}")))?
    }

    /// One read.
    pub(super) async fn rows(&self, sql: &'static str, cells: &[Cell]) -> Result<Vec<Row>> {
        let patience = Patience::begin();
        loop {
            match in_time(bound(sql, cells).fetch_all(&self.pool)).await {
                Ok(rows) => return rows.iter().map(row).collect(),
                Err(error) => patience.pause(error.into()).await?,
            }
        }
    }

    /// One change outside the log.
    async fn execute(&self, sql: &'static str, cells: &[Cell]) -> Result<u64> {
        let patience = Patience::begin();
        loop {
            match in_time(bound(sql, cells).execute(&self.pool)).await {
                Ok(done) => return Ok(done.rows_affected()),
                Err(error) => patience.pause(error.into()).await?,
            }
        }
    }
}

fn gone() -> Error {
    Error::new(Kind::Journal, "the task that writes the state is gone: its runtime has ended")
}

/// The one who writes.
struct Writer {
    /// None while the server is away.
    session: Option<Session<Box<PgConnection>>>,
    tail: Tail,
    options: PgConnectOptions,
    name: String,
}

impl Writer {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<WriteJob>) {
        while let Some(first) = jobs.recv().await {
            let mut group = vec![first];
            loop {
                let before = group.len();
                // The runs that were answered last are about to come again.
                tokio::task::yield_now().await;
                while group.len() < GROUP_MAX
                    && let Ok(next) = jobs.try_recv()
                {
                    group.push(next);
                }
                if group.len() == before || group.len() == GROUP_MAX {
                    break;
                }
            }
            let results = match self.commit(&group).await {
                Ok(results) => results.into_iter().map(Ok).collect(),
                // One of them may be all that is wrong: each gets its own answer.
                Err(error) if group.len() > 1 && error.kind != Kind::StateAway => {
                    let mut each = Vec::with_capacity(group.len());
                    let mut away = None;
                    for job in &group {
                        // It was waited for once: those behind must not wait for it one after the other.
                        let one = match &away {
                            Some(error) => Err(Error::clone(error)),
                            None => self.commit(std::slice::from_ref(job)).await,
                        };
                        away = one.as_ref().err().filter(|error| error.kind == Kind::StateAway).cloned();
                        each.push(one.map(|results| results[0]));
                    }
                    each
                }
                Err(error) => vec![Err(error); group.len()],
            };
            for ((_, answer), result) in group.into_iter().zip(results) {
                // Who asked may have been ended by its deadline; the change is made all the same.
                let _ = answer.send(result);
            }
        }
    }

    /// Makes all of these changes, or none. A server that has gone away is waited for.
    async fn commit(&mut self, group: &[WriteJob]) -> Result<Vec<u64>> {
        let patience = Patience::begin();
        let mut uncertain = None;
        let mut told = false;
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_LIMIT, self.attempt(group, &mut uncertain)).await;
            match attempt.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into())) {
                Ok(results) => return Ok(results),
                Err(mut error) => {
                    self.tail.forget();
                    if uncertain.is_some() {
                        // Whatever keeps the log from being asked: who took this for a failure would do again what may have happened.
                        error.kind = Kind::StateAway;
                    }
                    if error.kind == Kind::StateAway {
                        self.session = None;
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!("{}: {}; waiting for it", self.name, error.message);
                        }
                    }
                    patience.pause(error).await?;
                }
            }
        }
    }

    async fn attempt(&mut self, group: &[WriteJob], uncertain: &mut Option<Uncertain>) -> Result<Vec<u64>> {
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(Session { connection: connected(&self.options, &self.name).await? }),
        };
        let made = session.make(group, &mut self.tail, uncertain).await;
        if made.is_err() {
            // It may have failed in the middle: a rollback that fails as well ends the session.
            let ended = session.connection.execute("rollback").await;
            if ended.is_err() {
                self.session = None;
            }
        }
        made
    }
}

/// What a try whose commit got no answer would have left, if it happened.
struct Uncertain {
    /// Number and hash of its last record.
    last: (u64, String),
    results: Vec<u64>,
}

/// How long a server that has gone away is still waited for.
struct Patience(Instant);

impl Patience {
    fn begin() -> Self {
        Self(Instant::now() + AWAY_LIMIT)
    }

    /// Comes back when it is time to try again; any other error, or the same one for too long, is the answer.
    async fn pause(&self, error: Error) -> Result<()> {
        if error.kind != Kind::StateAway || Instant::now() >= self.0 {
            return Err(error);
        }
        tokio::time::sleep(AWAY_PAUSE).await;
        Ok(())
    }
}

async fn in_time<T>(act: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(ATTEMPT_LIMIT, act).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

async fn begun(pool: &PgPool, begin: &'static str) -> Result<PoolConnection<Driver>> {
    let mut connection = pool.acquire().await?;
    connection.execute(begin).await?;
    Ok(connection)
}

/// One connection.
struct Session<C> {
    connection: C,
}

impl Session<Box<PgConnection>> {
    /// Makes changes in one transaction, under the log's lock. Mostly it is one statement.
    async fn make(
        &mut self,
        group: &[WriteJob],
        tail: &mut Tail,
        uncertain: &mut Option<Uncertain>,
    ) -> Result<Vec<u64>> {
        if let Some(results) = self.write_at_once(group, tail, uncertain).await? {
            return Ok(results);
        }
        // The lock's answer, then the log's last record, if there is one.
        let begun = self.connection.fetch_all(schema::BEGIN).await?;
        tail.begin(match begun.get(1).map(row).transpose()? {
            Some(last) => (last.number(0)?, last.string(1)?),
            None => no_head(),
        });
        // Known only when it could be looked at: until then it stays uncertain.
        let happened = match &*uncertain {
            Some(Uncertain { last, .. }) => self.is_in_log(last).await?,
            None => false,
        };
        if let Some(Uncertain { results, .. }) = uncertain.take()
            && happened
        {
            self.connection.execute("rollback").await?;
            return Ok(results);
        }
        let mut results = Vec::with_capacity(group.len());
        let mut left = group;
        while !left.is_empty() {
            let together = together::leading(left);
            let (now, later) = left.split_at(together.len().max(1));
            match self.write_together(&together, tail).await? {
                Some(times) => results.extend(times),
                None => {
                    for (job, _) in now {
                        results.push(job.make(self, tail).await?);
                    }
                }
            }
            left = later;
        }
        // Without a record in it, doing it again changes nothing.
        *uncertain = tail.ours().map(|last| Uncertain { last, results: results.clone() });
        self.connection.execute("commit").await?;
        Ok(results)
    }

    async fn is_in_log(&mut self, (seq, hash): &(u64, String)) -> Result<bool> {
        let rows = self.rows("select hash from log where seq = $1", cells![*seq]).await?;
        Ok(rows.first().map(|row| row.text(0)).transpose()? == Some(hash.as_str()))
    }

    async fn make_tables(&mut self, name: &str) -> Result<()> {
        let failed = |e: Error| {
            e.context(format!("making the tables of {name}"))
                .hint(format!("its role must own the schema `{}`, or be allowed to make it", schema::SCHEMA))
        };
        self.connection.execute(schema::LOCKED).await?;
        let there = self
            .rows("select count(*) from pg_tables where schemaname = 'lifeboat' and tablename = 'version'", &[])
            .await?;
        if there.first().map_or(Ok(0), |row| row.number(0))? == 0 {
            for statement in [
                "create schema if not exists lifeboat",
                "create table lifeboat.version (version bigint not null)",
                "insert into lifeboat.version values (4)",
                schema::FIRST,
            ] {
                self.connection.execute(statement).await.map_err(|e| failed(e.into()))?;
            }
        }
        let version = self.rows("select version from lifeboat.version", &[]).await?;
        let mut version = version.first().map_or(Ok(0), |row| row.integer(0))?;
        if version == 3 {
            self.connection.execute(super::schema::STEPS).await?;
            self.connection.execute("update lifeboat.version set version = 4").await?;
            version = 4;
        }
        if version != super::schema::VERSION {
            self.connection.execute("rollback").await?;
            return Err(super::state::newer(name, version));
        }
        // Whoever died between its claim and its first record, or only looked at a run that is over, has left one.
        self.connection
            .execute(
                "delete from lease where until_ms < (extract(epoch from clock_timestamp()) * 1000)::bigint
                 and not exists (select from run where id = lease.run and ended_ms is null)",
            )
            .await?;
        self.connection.execute("commit").await?;
        let fsync = self.rows("select current_setting('fsync')", &[]).await?;
        if fsync.first().map_or(Ok("on"), |row| row.text(0))? != "on" {
            tracing::warn!("{name}: its server runs with fsync off: a power loss there may lose what is on record");
        }
        Ok(())
    }
}

#[async_trait]
impl<C: DerefMut<Target = PgConnection> + Send> Transaction for Session<C> {
    async fn execute(&mut self, sql: &'static str, cells: &[Cell]) -> Result<u64> {
        Ok(bound(sql, cells).execute(&mut *self.connection).await?.rows_affected())
    }

    async fn rows(&mut self, sql: &'static str, cells: &[Cell]) -> Result<Vec<Row>> {
        bound(sql, cells).fetch_all(&mut *self.connection).await?.iter().map(row).collect()
    }
}

fn bound<'q>(sql: &'static str, cells: &[Cell]) -> Query<'q, Driver, PgArguments> {
    cells.iter().fold(sqlx::query(sql), |query, cell| match cell {
        Cell::Integer(number) => query.bind(*number),
        Cell::Text(text) => query.bind(text.clone()),
    })
}

fn row(row: &PgRow) -> Result<Row> {
    let cells = row.columns().iter().enumerate().map(|(at, column)| match column.type_info().name() {
        "INT8" => Ok(Cell::Integer(row.try_get(at)?)),
        "TEXT" => Ok(Cell::Text(row.try_get(at)?)),
        other => Err(Error::new(Kind::Journal, format!("a bug: a column of type {other} in the state"))),
    });
    Ok(Row(cells.collect::<Result<_>>()?))
}

async fn connected(options: &PgConnectOptions, name: &str) -> Result<Box<PgConnection>> {
    let connect = tokio::time::timeout(CONNECT_LIMIT, async {
        let mut connection = PgConnection::connect_with(options).await?;
        connection.execute(schema::SESSION).await?;
        connection.execute(schema::WRITING).await?;
        Ok(Box::new(connection))
    });
    let connected = connect.await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
    connected.map_err(|e: sqlx::Error| {
        let code = match &e {
            sqlx::Error::Database(e) => e.code().unwrap_or_default().into_owned(),
            _ => String::new(),
        };
        let error = Error::from(e).context(name);
        match code.as_str() {
            // Not let in: authentication, a role or a database that is not there.
            "28P01" | "28000" | "3D000" | "42501" => {
                error.hint("[state-database] in the configuration says which database, role and password are used")
            }
            _ if error.kind == Kind::StateAway => error.hint(
                "is the server up, and can it be reached from here? [state-database] in the configuration says where it is",
            ),
            _ => error,
        }
    })
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        let kind = if is_away(&e) { Kind::StateAway } else { Kind::Journal };
        let words = match &e {
            sqlx::Error::PoolTimedOut => "no answer in time".to_owned(),
            // Its message only: a detail may quote a row.
            sqlx::Error::Database(e) => e.message().to_owned(),
            e => e.to_string(),
        };
        Self::new(kind, format!("the state database: {words}"))
    }
}

/// Whether the server can't be reached or is not taking writes now: what a restart, a failover or a neighbour brings, and what passes.
fn is_away(e: &sqlx::Error) -> bool {
    match e {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(e) => e.code().is_some_and(|code| {
            // Connection exceptions; shutdowns and cannot-connect-now; too many connections; serialization failures and deadlocks; a lock
            // waited for too long; ended while idle in a transaction; a standby that is not promoted yet.
            ["08", "57P", "40"].iter().any(|class| code.starts_with(class))
                || ["53300", "55P03", "25P03", "25006"].contains(&code.as_ref())
        }),
        _ => false,
    }
}
