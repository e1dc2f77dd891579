//! What was read of manifests before, so that a store with many thousand backups is not read anew each time: `catalog-index.sqlite` in the
//! engine's private space.
//!
//! A manifest's key carries its digest, so what was parsed of it once stays true. What exists, the store's own listing says each time; a row counts
//! only if size and store's time of its object are still those it was read with, and if the same keys are trusted. The file can be removed
//! at any time. What goes wrong with it costs reading, and nothing else; and before anything is removed, what that rests on is read again
//! ([`super::stock::confirm`]).

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};

use super::Backup;
use crate::signing::Signature;

/// How long another engine that writes it is waited for: reading the store is always possible.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// Version of the table; another one is thrown away.
const VERSION: i64 = 1;

/// What a manifest says, as far as lists and plans need it, and who signed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Parsed {
    pub(crate) backup: Backup,
    pub(crate) plain_bytes: u64,
    pub(crate) signature: Signature,
}

/// What it was read from, and under which trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) bytes: u64,
    pub(crate) stored_at_ms: Option<u64>,
    pub(crate) trust: String,
}

/// A row.
pub(crate) struct Known {
    pub(crate) from: From,
    /// None: it can't be read, so its manifest is read anew.
    pub(crate) parsed: Option<Parsed>,
}

/// The file, which may not be there.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    path: PathBuf,
    /// Whether it may be made and written.
    writes: bool,
}

impl Index {
    /// Of an engine, which makes it; or of whoever only looks.
    pub(crate) fn of(state_dir: &Path, writes: bool) -> Self {
        Self { path: state_dir.join("catalog-index.sqlite"), writes }
    }

    /// What is known of the manifests of a service in a place, by key. Nothing where the file can't be read.
    pub(crate) fn known(&self, place: &str, service: &str) -> BTreeMap<String, Known> {
        let read = || -> rusqlite::Result<BTreeMap<_, _>> {
            let Some(database) = self.open()? else { return Ok(BTreeMap::new()) };
            let mut rows = database.prepare(
                "select key, bytes, stored_ms, trust, body from manifest where place = ? and service = ? order by key",
            )?;
            let found = rows.query_map(params![place, service], |row| {
                let from = From { bytes: row.get(1)?, stored_at_ms: row.get(2)?, trust: row.get(3)? };
                Ok((row.get(0)?, Known { from, parsed: serde_json::from_str(row.get_ref(4)?.as_str()?).ok() }))
            })?;
            found.collect()
        };
        self.or_without(read()).unwrap_or_default()
    }

    /// Keeps what was read, and forgets what is gone.
    pub(crate) fn keep(&self, place: &str, service: &str, read: &[(String, From, Parsed)], gone: &[String]) {
        if !self.writes || (read.is_empty() && gone.is_empty()) {
            return;
        }
        let write = || -> rusqlite::Result<()> {
            let Some(mut database) = self.open()? else { return Ok(()) };
            let all = database.transaction()?;
            {
                let mut put = all.prepare("insert or replace into manifest values (?, ?, ?, ?, ?, ?, ?)")?;
                for (key, from, parsed) in read {
                    let body = serde_json::to_string(parsed).unwrap_or_default();
                    put.execute(params![place, service, key, from.bytes, from.stored_at_ms, from.trust, body])?;
                }
                let mut forget = all.prepare("delete from manifest where place = ? and service = ? and key = ?")?;
                for key in gone {
                    forget.execute(params![place, service, key])?;
                }
            }
            all.commit()
        };
        self.or_without(write());
    }

    /// Forgets all of a service in a place.
    pub(crate) fn forget(&self, place: &str, service: &str) {
        let forget = || -> rusqlite::Result<()> {
            let Some(database) = self.open()? else { return Ok(()) };
            database.execute("delete from manifest where place = ? and service = ?", [place, service]).map(drop)
        };
        self.or_without(forget());
    }

    fn open(&self) -> rusqlite::Result<Option<Connection>> {
        if !self.writes {
            if !self.path.exists() {
                return Ok(None);
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let database = Connection::open_with_flags(&self.path, flags)?;
            return Ok((version(&database)? == VERSION).then_some(database));
        }
        // Nobody else's to read, as all that is the engine's own. That it can't be made, opening it says.
        let mut private = std::fs::OpenOptions::new();
        let _ = private.append(true).create(true).mode(0o600).open(&self.path);
        let database = Connection::open(&self.path)?;
        database.busy_timeout(BUSY_LIMIT)?;
        if version(&database)? != VERSION {
            database.execute_batch(&format!(
                "begin immediate;
                 drop table if exists manifest;
                 create table manifest (
                     place text not null, service text not null, key text not null, bytes integer not null, stored_ms integer,
                     trust text not null, body text not null, primary key (place, service, key)
                 ) strict, without rowid;
                 pragma user_version = {VERSION};
                 commit;"
            ))?;
        }
        Ok(Some(database))
    }

    fn or_without<T>(&self, done: rusqlite::Result<T>) -> Option<T> {
        done.map_err(|e| {
            tracing::debug!(path = %self.path.display(), "the index is not used: {e}");
            use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
            if self.writes && matches!(e.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)) {
                // It holds nothing that the stores do not have.
                let _ = std::fs::remove_file(&self.path);
            }
        })
        .ok()
    }
}

fn version(database: &Connection) -> rusqlite::Result<i64> {
    database.query_row("pragma user_version", [], |row| row.get(0))
}
