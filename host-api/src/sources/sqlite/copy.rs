//! The copy: SQLite's online backup into a private file.
//!
//! | mode of the live database | how | its writers meanwhile |
//! | --- | --- | --- |
//! | WAL | one read transaction around the whole copy | write on |
//! | rollback journal, short enough | one read transaction around the whole copy | wait, at most the lock budget |
//! | rollback journal, too long | many short locks with pauses | write on; each write by others starts the copy over |

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::open::explain;
use crate::Finding;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::identifier::now_ms;

/// What a disk is expected to read when the choice is made: well below what was measured on a slow one (1.2 GB in 2.4 s), so that a copy
/// is rather made in steps than over budget. A copy that holds its lock over budget all the same gives it up.
const BYTES_PER_MS: u64 = 100_000;
/// How much is copied between two looks at deadline and budget.
const CHUNK_BYTES: u64 = 8 * 1024 * 1024;
/// How long writers have between two steps: enough for a few small transactions.
const PAUSE: Duration = Duration::from_millis(20);

/// What a copy was like.
#[derive(Debug)]
pub(super) struct Copied {
    /// When the state that was copied was the live one.
    pub started_at_ms: u64,
    /// `wal`, `delete`, …
    pub journal_mode: String,
    /// How it was made, for people.
    pub finding: Finding,
}

/// Copies the live database into a file that exists and is empty.
pub(super) fn copy(
    cx: &StepContext,
    live: &Connection,
    live_path: &Path,
    into: &Path,
    lock_budget: Duration,
    what: &str,
) -> Result<Copied> {
    let failed = |e| explain(cx, live_path, e);
    let pragma = |name: &str| live.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0)).map_err(failed);
    let journal_mode: String = live.query_row("PRAGMA journal_mode", [], |r| r.get(0)).map_err(failed)?;
    let wal = journal_mode == "wal";
    let page_bytes = u64::try_from(pragma("page_size")?).unwrap_or(4096).max(512);
    let bytes = u64::try_from(pragma("page_count")?).unwrap_or(0) * page_bytes;
    let chunk_pages = i32::try_from((CHUNK_BYTES / page_bytes).max(1)).unwrap_or(1);

    let mut copy = Connection::open_with_flags(into, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    // It is thrown away if anything goes wrong, so it needs neither a journal nor flushes.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE")
        .map_err(failed)?;

    let mut held = wal || Duration::from_millis(bytes / BYTES_PER_MS) <= lock_budget;
    let mut gave_up = false;
    let began = Instant::now();
    let mut started_at_ms = now_ms();
    if held {
        // The backup reads inside this transaction: nothing can change under it, and it never starts over.
        live.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").map_err(failed)?;
    }
    let backup = Backup::new(live, &mut copy).map_err(failed)?;
    let (mut restarts, mut waits) = (0_u64, 0_u64);
    let mut done_pages = 0;
    loop {
        cx.check().map_err(|e| starved(e, restarts, waits, live_path))?;
        match backup.step(chunk_pages).map_err(failed)? {
            StepResult::Done => break,
            StepResult::More => {}
            // A writer has the lock: its turn.
            _ => {
                waits += 1;
                std::thread::sleep(PAUSE);
                continue;
            }
        }
        let progress = backup.progress();
        let done = progress.pagecount - progress.remaining;
        if done <= done_pages {
            restarts += 1;
            started_at_ms = now_ms();
        }
        done_pages = done;
        let page = |n: i32| u64::try_from(n).unwrap_or(0) * page_bytes;
        cx.report(what, page(done), Some(page(progress.pagecount)));
        if held && !wal && began.elapsed() > lock_budget {
            live.execute_batch("COMMIT").map_err(failed)?;
            held = false;
            gave_up = true;
        }
        if !held {
            std::thread::sleep(PAUSE);
        }
    }
    drop(backup);
    if held {
        live.execute_batch("COMMIT").map_err(failed)?;
    }
    let ms = began.elapsed().as_millis();
    let how = match (wal, held, gave_up) {
        (true, ..) => "in one read transaction (WAL: writers were not blocked)".to_owned(),
        (false, true, _) => "in one step, with writers blocked".to_owned(),
        (false, false, false) => format!("in steps with pauses, started over {restarts} times"),
        (false, false, true) => {
            format!("in one step until the lock budget was used up, then in steps, started over {restarts} times")
        }
    };
    let finding = Finding::info("copy", format!("{bytes} bytes in {journal_mode} mode copied in {ms} ms {how}"));
    copy.close().map_err(|(_, e)| failed(e))?;
    Ok(Copied { started_at_ms, journal_mode, finding })
}

fn starved(e: Error, restarts: u64, waits: u64, path: &Path) -> Error {
    if e.kind != ErrorKind::TimedOut || restarts + waits == 0 {
        return e;
    }
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "{}: its writers made the copy start over {restarts} times and wait for a lock {waits} times; it did not come to an end in time",
            path.display()
        ),
    )
    .hint("raise the source's `lock-budget-ms` (writers wait that long), set the database to WAL mode, or run in a quiet window")
}
