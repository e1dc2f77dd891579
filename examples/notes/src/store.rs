//! The service's state on disk: one database and the directories beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::error::Error;
use crate::{Release, schema};

/// An open data directory. Dropping it closes the database, which folds the WAL into the file.
pub(crate) struct Store {
    pub(crate) release: Release,
    /// Absolute, symbolic links resolved once at start.
    data: PathBuf,
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens and migrates `data`. What is missing is made empty without a word, as real services
    /// do: a drill has to notice a lost database by itself.
    pub(crate) fn open(release: Release, data: &Path) -> Result<Self, Error> {
        let context = || format!("data directory {}", data.display());
        fs::create_dir_all(data.join("attachments")).map_err(Error::io(context()))?;
        let data = fs::canonicalize(data).map_err(Error::io(context()))?;
        let mut connection = Connection::open(data.join("notes.sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        schema::migrate(&mut connection, release)?;
        Ok(Self { release, data, connection: Mutex::new(connection) })
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.data.join("notes.sqlite")
    }

    pub(crate) fn attachments(&self) -> PathBuf {
        self.data.join("attachments")
    }

    pub(crate) fn delivered_log(&self) -> PathBuf {
        self.data.join("delivered.log")
    }

    /// The one connection. A panic under the lock rolls its transaction back, so a poisoned lock
    /// guards a sound connection.
    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
