//! A shared state that is only looked at: no table is made, and its sessions can only read.

use std::time::Duration;

use futures::FutureExt;
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;

use super::super::database::Transaction;
use super::{CONNECT_LIMIT, Postgres, PostgresState, SESSIONS_MAX, Session, connected, gone, leases, schema};
use crate::error::{Error, Kind, Result};

impl Postgres {
    /// Connects to look; none where there are no tables yet. Its sessions can only read, and there is nobody who writes.
    pub(in crate::journal) async fn open_to_look(state: &PostgresState) -> Result<Option<Self>> {
        let (binding, name) = (state.clone(), state.name());
        // Its password may be in a file that hangs.
        let options = tokio::task::spawn_blocking(move || binding.options()).await;
        let options = options.map_err(|e| Error::new(Kind::Journal, format!("{name}: {e}")))??;
        let options = options.options([("default_transaction_read_only", "on")]);
        let mut session = Session { connection: connected(&options, &name).await? };
        let there = session
            .rows("select count(*) from pg_tables where schemaname = 'lifeboat' and tablename = 'version'", &[])
            .await?;
        if there.first().map_or(Ok(0), |row| row.number(0))? == 0 {
            return Ok(None);
        }
        let version = session.rows("select version from lifeboat.version", &[]).await?;
        let version = version.first().map_or(Ok(0), |row| row.integer(0))?;
        if version < super::super::schema::VERSION {
            let ours = super::super::schema::VERSION;
            return Err(Error::new(Kind::Journal, format!("{name} has version {version}, this engine writes {ours}"))
                .hint("any run brings it up to date; end the engines of the earlier version first"));
        }
        if version > super::super::schema::VERSION {
            return Err(super::super::state::newer(&name, version));
        }
        let pool = PgPoolOptions::new()
            .max_connections(SESSIONS_MAX)
            .acquire_timeout(CONNECT_LIMIT)
            .after_connect(|connection, _| async move { connection.execute(schema::SESSION).await.map(drop) }.boxed())
            .connect_lazy_with(options);
        let (writes, _) = mpsc::unbounded_channel();
        Ok(Some(Self { pool, writes, leases: leases::LeaseState::new(name, Duration::from_secs(state.lease_s)) }))
    }

    /// The server's time, Unix milliseconds.
    pub(in crate::journal) async fn time_ms(&self) -> Result<u64> {
        let rows = self.rows("select (extract(epoch from clock_timestamp()) * 1000)::bigint", &[]).await?;
        rows.first().map_or_else(|| Err(gone()), |row| row.number(0))
    }
}
