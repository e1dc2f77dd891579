//! The outbox and the worker that delivers it, at least once.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::task::spawn_blocking;

use crate::error::Error;
use crate::schema::now;
use crate::store::Store;

/// How long the worker rests when nothing is queued: short enough for a test to wait for.
const POLL: Duration = Duration::from_millis(200);

/// Queues a delivery for a note.
pub(crate) fn queue(db: &Connection, note_id: &str) -> rusqlite::Result<usize> {
    db.execute(
        "INSERT INTO outbox (note_id, status, attempts, updated_at) VALUES (?1, 'queued', 0, ?2)",
        params![note_id, now()],
    )
}

/// Puts back what was being delivered when the last process ended. In a restored copy this
/// delivers a second time what the original has delivered: quarantine runs without a worker.
pub(crate) fn requeue(store: &Store) -> Result<(), Error> {
    store
        .connection()
        .execute("UPDATE outbox SET status = 'queued', updated_at = ?1 WHERE status = 'running'", [now()])?;
    Ok(())
}

/// The worker: delivers until its task is aborted. A delivery once begun is finished.
pub(crate) async fn work(store: Arc<Store>) {
    loop {
        let store = Arc::clone(&store);
        match spawn_blocking(move || deliver_one(&store)).await {
            Ok(Ok(true)) => continue,
            Ok(Ok(false)) => {}
            Ok(Err(error)) => eprintln!("worker: {error}"),
            Err(panic) => eprintln!("worker: {panic}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Claims and delivers the oldest queued row; false if there is none.
fn deliver_one(store: &Store) -> Result<bool, Error> {
    let claimed: Option<(i64, String)> = store
        .connection()
        .query_row(
            "UPDATE outbox SET status = 'running', attempts = attempts + 1, updated_at = ?1
             WHERE rowid = (SELECT min(rowid) FROM outbox WHERE status = 'queued')
             RETURNING rowid, note_id",
            [now()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((row, note_id)) = claimed else {
        return Ok(false);
    };
    // Stands for outbound traffic, such as a mail: no rollback can take it back.
    File::options()
        .create(true)
        .append(true)
        .open(store.delivered_log())
        .and_then(|mut log| log.write_all(format!("delivered {note_id}\n").as_bytes()))
        .map_err(Error::io("delivered.log"))?;
    store
        .connection()
        .execute("UPDATE outbox SET status = 'done', updated_at = ?1 WHERE rowid = ?2", params![now(), row])?;
    Ok(true)
}
