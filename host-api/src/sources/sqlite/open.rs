//! Opening: never creating, never writing the live file, and each failure said in words a person can act on.
//!
//! A database is only ever opened through SQLite, not even its header is read around it: closing any descriptor of a file drops every
//! lock that this process holds on it, so a look at the header would take the lock from under a copy in another thread.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::context::StepContext;
use crate::disk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sources::exchange::suffixed;

/// What SQLite keeps beside a database while it is open, or after a crash.
pub(super) const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// How long a lock is waited for: what SQLite clients commonly wait.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Instructions between two looks at deadline and cancellation; a few milliseconds.
const PROGRESS_INTERVAL: i32 = 20_000;

/// Sidecars that lie beside a database.
pub(super) fn sidecars(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for suffix in SIDECARS {
        let sidecar = suffixed(path, suffix);
        if disk::exists(&sidecar)? {
            found.push(sidecar);
        }
    }
    Ok(found)
}

/// The live database, read-only. Its writers see a reader's lock, nothing else.
pub(super) fn live(cx: &StepContext, path: &Path) -> Result<Connection> {
    let metadata = require_file(path)?;
    refuse_foreign(cx, path, &metadata)?;
    open(cx, path, "mode=ro", OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Another user's database in WAL mode can't be read without leaving files beside it.
fn refuse_foreign(cx: &StepContext, path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    let us = rustix::process::geteuid();
    if !us.is_root() && us.as_raw() != metadata.uid() && is_wal(cx, path)? {
        return Err(Error::refused(format!(
            "{} is in WAL mode and belongs to user {}; reading it as user {} could leave files beside it that its owner can't open",
            path.display(),
            metadata.uid(),
            us.as_raw()
        ))
        .hint("run the engine as the file's owner, or as root"));
    }
    Ok(())
}

/// The live database, for a look that leaves nothing beside it, not even while nobody else has it open.
pub(super) fn looked_at(cx: &StepContext, path: &Path) -> Result<Connection> {
    let metadata = require_file(path)?;
    refuse_foreign(cx, path, &metadata)?;
    candidate(cx, path)
}

/// A candidate, read-only and without leaving anything beside it. A service in quarantine may have it open.
pub(super) fn candidate(cx: &StepContext, path: &Path) -> Result<Connection> {
    require_file(path)?;
    // A `-wal` means somebody has it open or crashed: it must be read. Without one, an ordinary reader of a WAL database would make one.
    if !disk::exists(&suffixed(path, "-wal"))? && is_wal(cx, path)? {
        return private(cx, path);
    }
    open(cx, path, "mode=ro", OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// A file that nobody else has open, read-only: no locks, no sidecars.
pub(super) fn private(cx: &StepContext, path: &Path) -> Result<Connection> {
    require_file(path)?;
    open(cx, path, "mode=ro&immutable=1", OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// For changes: recovery of a stopped service's file, statements on a candidate. Never makes a file.
pub(super) fn writable(cx: &StepContext, path: &Path) -> Result<Connection> {
    require_file(path)?;
    let conn = open(cx, path, "mode=rw", OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // As in every shell and client that does not ask for them; this library is built with them on, and a deletion would cascade.
    conn.execute_batch("PRAGMA foreign_keys = OFF").map_err(|e| explain(cx, path, e))?;
    Ok(conn)
}

fn open(cx: &StepContext, path: &Path, parameters: &str, flags: OpenFlags) -> Result<Connection> {
    cx.check()?;
    let conn = raw_open(path, parameters, flags).map_err(|e| explain(cx, path, e))?;
    let prepared = (|| {
        conn.busy_timeout(BUSY_WAIT.min(cx.remaining()))?;
        // The schema comes out of a backup: it may not reach for functions with effects, or for SQLite's own tables.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        let watch = cx.clone();
        conn.progress_handler(PROGRESS_INTERVAL, Some(move || watch.check().is_err()))?;
        // The first read is where a file that is no database, or needs a recovery, says so.
        conn.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)).map(drop)
    })();
    prepared.map_err(|e| explain(cx, path, e))?;
    Ok(conn)
}

fn raw_open(path: &Path, parameters: &str, flags: OpenFlags) -> rusqlite::Result<Connection> {
    use std::os::unix::ffi::OsStrExt;
    let escaped = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
    let flags = flags | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("file:{escaped}?{parameters}"), flags)
}

/// True if the header says WAL. Leaves nothing behind: without locks SQLite can't do WAL, and says so before it makes a file.
pub(super) fn is_wal(cx: &StepContext, path: &Path) -> Result<bool> {
    let conn =
        raw_open(path, "mode=ro&nolock=1", OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| explain(cx, path, e))?;
    match conn.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)) {
        Ok(_) => Ok(false),
        Err(e) => match e.sqlite_error() {
            Some(f) if f.code == ErrorCode::CannotOpen => Ok(true),
            // A rollback journal that waits for its rollback.
            Some(f) if f.extended_code == ffi::SQLITE_READONLY_ROLLBACK => Ok(false),
            _ => Err(explain(cx, path, e)),
        },
    }
}

/// A regular file with something in it; symbolic links are followed, as SQLite does.
fn require_file(path: &Path) -> Result<std::fs::Metadata> {
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, format!("no SQLite file at {}", path.display()))
                .hint("check the source's `path`; a lost file is restored with a candidate"));
        }
        other => other.doing(|| format!("looking at {}", path.display()))?,
    };
    if !metadata.is_file() {
        return Err(Error::invalid(format!("{} is not a regular file", path.display())));
    }
    if metadata.len() == 0 {
        return Err(Error::failed(format!(
            "{} is empty: it is no database, and would be taken for a new one",
            path.display()
        ))
        .hint("the service may have made it after its data were lost: restore a backup"));
    }
    Ok(metadata)
}

/// True if an error says that the file's content is bad, rather than that it could not be read. A file cut short reads as an I/O error.
pub(super) fn is_corrupt(e: &rusqlite::Error) -> bool {
    e.sqlite_error().is_some_and(|f| {
        matches!(f.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            || f.extended_code == ffi::SQLITE_IOERR_SHORT_READ
    })
}

/// True if a file is there and SQLite can't make sense of its start, whatever lies beside it.
pub(super) fn is_damaged(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.len() == 0)
        || raw_open(path, "mode=ro&immutable=1", OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|c| c.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0)))
            .is_err_and(|e| is_corrupt(&e))
}

/// An error of SQLite in words, with what to do.
pub(super) fn explain(cx: &StepContext, path: &Path, e: rusqlite::Error) -> Error {
    let said = |message: &str| Error::failed(format!("{}: {message}", path.display()));
    let Some(failure) = e.sqlite_error() else { return said(&e.to_string()) };
    match (failure.code, failure.extended_code) {
        (ErrorCode::OperationInterrupted, _) => match cx.check() {
            Err(why) => why,
            Ok(()) => said("interrupted"),
        },
        (_, ffi::SQLITE_READONLY_ROLLBACK | ffi::SQLITE_READONLY_RECOVERY | ffi::SQLITE_READONLY_CANTINIT) => {
            Error::refused(format!(
                "{} holds a transaction that was cut off, and reading it would mean to write it first",
                path.display()
            ))
            .hint("whoever owns the file must recover it: start the service, or run `sqlite3 FILE 'PRAGMA schema_version'` as its owner")
        }
        (ErrorCode::NotADatabase, _) => {
            said("is not an SQLite database").hint("check the source's `path`; an encrypted database is not supported")
        }
        (ErrorCode::DatabaseCorrupt, _) => {
            said(&format!("is damaged: {e}")).hint("restore a backup, or save what `sqlite3 FILE .recover` can read")
        }
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => {
            Error::conflict(format!("{}: another process holds a lock on it", path.display()))
                .hint("try again; if it lasts, see who has it open: `fuser -v FILE`")
        }
        (ErrorCode::CannotOpen | ErrorCode::PermissionDenied, _) => {
            said(&e.to_string()).hint("check that the engine's user may read the file and its directory")
        }
        _ => said(&e.to_string()),
    }
}
