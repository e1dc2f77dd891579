//! The database schema and its migrations.

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::Release;

/// Entry N leads from schema N to schema N + 1.
const MIGRATIONS: [&str; 2] = [
    "CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL,
         status TEXT NOT NULL, created_at TEXT NOT NULL, attachment TEXT);
     CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, note_id TEXT NOT NULL,
         type TEXT NOT NULL, created_at TEXT NOT NULL);
     CREATE TABLE outbox (note_id TEXT NOT NULL, attempts INTEGER NOT NULL,
         status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'done', 'parked')),
         updated_at TEXT NOT NULL);",
    // Old rows keep a NULL priority: the migration forgets to fill them, and `notes::list` trips.
    "ALTER TABLE notes RENAME COLUMN body TO content;
     ALTER TABLE notes ADD COLUMN priority INTEGER;",
];

/// Brings a database to the schema of `release`, all or nothing. A database of a *later* schema is
/// left as it is and not refused: like many real services, an old release does not know better.
pub(crate) fn migrate(db: &mut Connection, release: Release) -> rusqlite::Result<()> {
    // Immediate: of two processes that start at once, the second waits and finds the work done.
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations
             (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)",
    )?;
    let present = version(&tx)?.unwrap_or(0);
    for (target, sql) in (1..=release.schema()).zip(MIGRATIONS) {
        if target > present {
            tx.execute_batch(sql)?;
            tx.execute("INSERT INTO schema_migrations (version, applied_at) VALUES (?1, ?2)", params![target, now()])?;
        }
    }
    tx.commit()
}

/// The schema the database has, whichever release made it.
pub(crate) fn version(db: &Connection) -> rusqlite::Result<Option<i64>> {
    db.query_row("SELECT max(version) FROM schema_migrations", [], |row| row.get(0))
}

/// Now, as the service stores it: ISO 8601, UTC, always six decimals, so that text order is time order.
pub(crate) fn now() -> String {
    format!("{:.6}", Timestamp::now())
}
