//! The engine's state: its journal and what is derived from it, in SQLite or in PostgreSQL.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::append::{Entry, Job, hold};
use super::database::{Cell, Look, Row, Write};
use super::postgres::{self, Fence, Postgres, PostgresState};
use super::record::{By, Transition};
use super::rows::Change;
use super::schema;
use super::sqlite::Sqlite;
use crate::error::{Error, Kind, Result};

/// The engine's state: its journal and what is derived from it.
pub struct State {
    database: Database,
    directory: PathBuf,
}

enum Database {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl State {
    /// Opens the state in a directory, making it (mode 0700) if absent.
    pub async fn open(directory: &Path) -> Result<Self> {
        make_directory(directory)?;
        let path = directory.to_owned();
        let opened = tokio::task::spawn_blocking(move || Sqlite::open(&path)).await;
        let sqlite = opened.map_err(|e| Error::new(Kind::Journal, format!("opening the state: {e}")))??;
        Ok(Self { database: Database::Sqlite(sqlite), directory: directory.to_owned() })
    }

    /// Opens a state that several engines share. Evidence, keys and scratch space of this engine lie in the directory, made (mode 0700) if
    /// absent.
    pub async fn shared(directory: &Path, database: &PostgresState) -> Result<Self> {
        make_directory(directory)?;
        let postgres = Postgres::open(database).await?;
        Ok(Self { database: Database::Postgres(postgres), directory: directory.to_owned() })
    }

    /// Opens the one or the other.
    pub async fn at(directory: &Path, database: Option<&PostgresState>) -> Result<Self> {
        match database {
            Some(database) => Self::shared(directory, database).await,
            None => Self::open(directory).await,
        }
    }

    /// Opens the one or the other to look at it; none where there is none yet. Nothing is made or changed by that, and nothing can be written
    /// through it. In a process that opens the same SQLite state for work, open that first: the look is then an ordinary reader's.
    pub async fn to_look_at(directory: &Path, database: Option<&PostgresState>) -> Result<Option<Self>> {
        let database = match database {
            Some(database) => Postgres::open_to_look(database).await?.map(Database::Postgres),
            None => {
                let path = directory.to_owned();
                let opened = tokio::task::spawn_blocking(move || Sqlite::open_to_look(&path)).await;
                let opened = opened.map_err(|e| Error::new(Kind::Journal, format!("opening the state: {e}")))?;
                opened?.map(Database::Sqlite)
            }
        };
        Ok(database.map(|database| Self { database, directory: directory.to_owned() }))
    }

    /// False where somebody has written the state since it was opened to look at it, and it was read without locks: what was read may be of
    /// two moments, and is read again.
    pub(crate) fn is_as_opened(&self) -> bool {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.is_as_opened(),
            Database::Postgres(_) => true,
        }
    }

    /// The time of the server that engines share, Unix milliseconds; none where there is none.
    pub(crate) async fn server_time_ms(&self) -> Result<Option<u64>> {
        match &self.database {
            Database::Sqlite(_) => Ok(None),
            Database::Postgres(postgres) => postgres.time_ms().await.map(Some),
        }
    }

    /// With the name of this host, where engines of other hosts may come to read it.
    pub(crate) fn with_host(&self, mut body: Value) -> Value {
        if self.is_shared() {
            body["host"] = crate::config::host_name().into();
        }
        body
    }

    /// Whether other hosts' engines may work on it.
    pub fn is_shared(&self) -> bool {
        matches!(self.database, Database::Postgres(_))
    }

    /// Where the state lies; where evidence, keys and scratch space lie in any case.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Appends one record of a run with the changes that come from it, in one transaction; on disk when this answers. Gives the record's
    /// time. Records are written in the order of the calls, also where the caller does not wait for the answer any more.
    pub async fn append(
        &self,
        run: &str,
        by: &By,
        kind: Transition,
        step: Option<u64>,
        body: Value,
        changes: &[Change],
    ) -> Result<u64> {
        let fence = self.fence(run, kind)?;
        let entry = Entry {
            run: run.to_owned(),
            by: by.clone(),
            kind,
            step,
            body,
            changes: changes.to_vec(),
            fence: fence.clone(),
        };
        let sent = postgres::now();
        if let (Database::Postgres(postgres), Some(fence)) = (&self.database, &fence)
            && let Some(held) = postgres.leases.held(run)
        {
            // Who does not wait for the answer must not count on the time that the record takes away.
            held.no_longer_than(fence, sent);
        }
        let written = self.make(Job::Record(entry)).await;
        if let (Database::Postgres(postgres), Some(fence)) = (&self.database, fence)
            && let Some(held) = postgres.leases.held(run)
        {
            match &written {
                Ok(_) if kind == Transition::RunEnded => postgres.forget(&held),
                Ok(_) => held.extended(&fence, sent),
                Err(error) if error.kind == Kind::TakenOver => held.lose(error),
                Err(_) => {}
            }
        }
        written
    }

    /// Has a service for a run from here on, until it is over or waits for a person. Another run's is an error that names it.
    pub async fn hold(&self, run: &str, service: &str) -> Result<()> {
        let fence = self.fence(run, Transition::Answered)?;
        let (run, service) = (run.to_owned(), service.to_owned());
        self.write(Arc::new(move |tx| {
            let (run, service, fence) = (run.clone(), service.clone(), fence.clone());
            Box::pin(async move {
                if let Some(fence) = &fence {
                    postgres::check_ours(tx, &run, fence).await?;
                }
                hold(tx, &run, &service).await
            })
        }))
        .await
        .map(drop)
    }

    fn fence(&self, run: &str, kind: Transition) -> Result<Option<Fence>> {
        match &self.database {
            Database::Sqlite(_) => Ok(None),
            Database::Postgres(postgres) => postgres.leases.fence(run, kind),
        }
    }

    /// Where engines share it: the part that knows which of them works on what.
    pub(crate) fn leases(&self) -> Option<&Postgres> {
        match &self.database {
            Database::Sqlite(_) => None,
            Database::Postgres(postgres) => Some(postgres),
        }
    }

    /// Comes back when everything that was to be written before is.
    pub(crate) async fn written(&self) -> Result<()> {
        self.write(Arc::new(|_| Box::pin(async { Ok(0) }))).await.map(drop)
    }

    pub(super) async fn write(&self, write: Write) -> Result<u64> {
        self.make(Job::Other(write)).await
    }

    async fn make(&self, job: Job) -> Result<u64> {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.write(job).await,
            Database::Postgres(postgres) => postgres.write(job).await,
        }
    }

    /// Several reads of one moment.
    pub(super) async fn look<T: Send + 'static>(&self, look: Look<T>) -> Result<T> {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.look(look).await,
            Database::Postgres(postgres) => postgres.look(look).await,
        }
    }

    /// One read.
    pub(super) async fn rows(&self, sql: &'static str, cells: &[Cell]) -> Result<Vec<Row>> {
        match &self.database {
            Database::Sqlite(sqlite) => {
                let cells = cells.to_vec();
                sqlite.look(Box::new(move |tx| Box::pin(async move { tx.rows(sql, &cells).await }))).await
            }
            Database::Postgres(postgres) => postgres.rows(sql, cells).await,
        }
    }
}

fn make_directory(directory: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| directory_error(directory, &e))
}

pub(super) fn directory_error(directory: &Path, e: &std::io::Error) -> Error {
    Error::new(Kind::Journal, format!("state directory {}: {e}", directory.display()))
        .hint("it must be writable by the user that runs lifeboat")
}

/// A state that a later version of us has written.
pub(super) fn newer(what: &str, version: i64) -> Error {
    Error::new(Kind::Journal, format!("{what} has version {version}, this engine knows {}", schema::VERSION))
        .hint("a newer lifeboat wrote it: use that version")
}
