//! What the disk and the databases give without us, for the same lines: records a second.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use futures::future::join_all;
use rusqlite::Connection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor, PgConnection};

use super::Result;
use super::journal::Window;

/// Records that are written one after the other: half a second or so.
const RECORDS: usize = 2_000;
/// What several sessions write together, at least.
const RECORDS_TOGETHER: usize = 8_000;

/// Lines appended to a file, each synced.
pub fn file(directory: &Path, lines: &[String]) -> Result<f64> {
    let path = directory.join("lines");
    let mut file = std::fs::File::create(&path)?;
    let began = Instant::now();
    for line in lines.iter().cycle().take(RECORDS) {
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_data()?;
    }
    let rate = RECORDS as f64 / began.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Rows of one connection, each in a transaction of its own that is on disk when it ends; only the table, without what we derive.
pub fn sqlite(directory: &Path, lines: &[String]) -> Result<f64> {
    let path = directory.join("alone.sqlite");
    let connection = Connection::open(&path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(
        "create table log (seq integer primary key, run text, step integer, kind text, time_ms integer, line text,
         hash text) strict",
    )?;
    let hash = "0".repeat(64);
    let mut insert = connection
        .prepare("insert into log (run, step, kind, time_ms, line, hash) values (?, ?, 'started', ?, ?, ?)")?;
    let began = Instant::now();
    for (at, line) in (0_i64..).zip(lines.iter().cycle().take(RECORDS)) {
        insert.execute(("20261126T002156699z-4qs8a0", at, at, line, &hash))?;
    }
    let rate = RECORDS as f64 / began.elapsed().as_secs_f64();
    drop(insert);
    connection.close().map_err(|(_, e)| e)?;
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Rows of as many sessions as there are runs, each row committed by itself; only the table, without what we derive.
pub async fn postgres(socket: &str, database: &str, sessions: usize, lines: Vec<String>) -> Result<f64> {
    let options = PgConnectOptions::new_without_pgpass().socket(socket).port(5432).username("postgres");
    let options = options.database(database);
    let mut first = PgConnection::connect_with(&options).await?;
    first
        .execute(
            "drop table if exists public.alone; create table public.alone (seq bigint generated always as identity primary key,
             run text, step bigint, kind text, time_ms bigint, line text, hash text)",
        )
        .await?;
    let mut connections = vec![first];
    while connections.len() < sessions {
        connections.push(PgConnection::connect_with(&options).await?);
    }
    let each = RECORDS.min(RECORDS_TOGETHER / sessions);
    let window = Window::new(sessions, each as u64);
    let writing = connections.into_iter().map(|mut connection| {
        let (window, lines) = (window.clone(), lines.clone());
        tokio::spawn(async move {
            let hash = "0".repeat(64);
            for (nth, line) in (1_i64..).zip(lines.iter().cycle().take(each)) {
                sqlx::query(
                    "insert into public.alone (run, step, kind, time_ms, line, hash)
                     values ($1, $2, 'started', $3, $4, $5)",
                )
                .bind("20261126T002156699z-4qs8a0")
                .bind(nth)
                .bind(nth)
                .bind(line.as_str())
                .bind(hash.as_str())
                .execute(&mut connection)
                .await?;
                window.did(nth.unsigned_abs());
            }
            connection.close().await
        })
    });
    for done in join_all(writing.collect::<Vec<_>>()).await {
        done??;
    }
    window.rate()
}
