//! Before a swap: a file that leaves its name must leave nothing beside that name.
//!
//! A `-wal` or `-journal` belongs to a *name*: left beside the live name, SQLite applies it to whatever file comes there next, and a restore
//! is silently undone (measured: 300 rows expected, 4300 found, `integrity_check` ok). So the file that leaves is recovered first; what
//! can't be recovered moves aside under a name that SQLite does not connect with anything, before the exchange, so that no crash leaves it
//! beside the wrong file.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::open::{self, SIDECARS, explain, is_corrupt, sidecars};
use crate::context::StepContext;
use crate::disk;
use crate::error::{Error, Result};
use crate::sources::Swap;
use crate::sources::exchange::{self, State, suffixed};

/// Recovers a stopped service's file and checks that nobody has it open; then moves aside what is left beside it, to `aside` and the
/// sidecar's suffix.
pub(super) fn settle(cx: &StepContext, path: &Path, aside: &Path) -> Result<()> {
    if disk::exists(path)? {
        if let Some(holder) = exchange::holder(path) {
            return Err(in_use(path, &holder));
        }
        if recover(cx, path)? && sidecars(path)?.iter().any(|s| !s.to_string_lossy().ends_with("-journal")) {
            // The last connection that closes removes them; ours was not the last.
            return Err(in_use(path, "another process"));
        }
    }
    for suffix in SIDECARS {
        let (from, to) = (suffixed(path, suffix), suffixed(aside, suffix));
        if disk::exists(&from)? {
            exchange::rename_new(&from, &to)?;
        }
    }
    match sidecars(path)?.first() {
        None => Ok(()),
        Some(left) => Err(in_use(path, &format!("whoever made {}", left.display()))),
    }
}

/// Puts back what [`settle`] moved aside, now that its file is at its name again.
pub(super) fn unsettle(path: &Path, aside: &Path) -> Result<()> {
    for suffix in SIDECARS {
        let (from, to) = (suffixed(aside, suffix), suffixed(path, suffix));
        if disk::exists(&from)? {
            exchange::rename_new(&from, &to)?;
        }
    }
    Ok(())
}

/// Gives the live file its journals back where the exchange did not happen. If that fails too, the next attempt does it: they lie where the
/// swap's record says.
pub(super) fn unsettle_if(swap: &Swap, state: State, aside: &Path) {
    if exchange::state(swap).is_ok_and(|found| found == state) {
        let _ = unsettle(Path::new(&swap.live_place), aside);
    }
}

/// Rolls back or checkpoints what was cut off. False: the file is too damaged for that, and its sidecars must be kept with it.
fn recover(cx: &StepContext, path: &Path) -> Result<bool> {
    // Not even opened for writing: on a file that it can't read, SQLite ends with a start from nothing and removes the journals, and with them
    // what a person could still save.
    if open::is_damaged(path) {
        return Ok(false);
    }
    let conn = open::writable(cx, path)?;
    let done = flush(&conn);
    let closed = conn.close().map_err(|(_, e)| e);
    match done.and(closed) {
        Ok(()) => Ok(true),
        // A disk that fails under the old file is no reason to keep it in service.
        Err(e) if is_corrupt(&e) || e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => Ok(false),
        Err(e) => Err(explain(cx, path, e)),
    }
}

fn flush(conn: &Connection) -> rusqlite::Result<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |r| r.get(0))?;
    if mode == "wal" {
        let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
        return if busy == 0 { Ok(()) } else { Err(busy_error()) };
    }
    // Taking the lock rolls a hot journal back, and shows that nobody reads or writes. Then a journal that its owner keeps between
    // transactions (`persist`, `truncate`) is removed: leaving that mode does it.
    conn.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    for mode in ["PERSIST", "DELETE"] {
        conn.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |r| r.get::<_, String>(0))?;
    }
    Ok(())
}

fn busy_error() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None)
}

fn in_use(path: &Path, who: &str) -> Error {
    Error::conflict(format!("{} is still open: {who} has it", path.display()))
        .hint("stop the service, and whatever else reads the file, then try again")
}
