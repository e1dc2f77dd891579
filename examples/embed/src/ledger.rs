//! The program's own data: entries in an SQLite file, which is open while the ledger runs.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

/// A ledger; it runs or is stopped.
pub struct Ledger {
    file: PathBuf,
    open: Mutex<Option<Connection>>,
}

impl Ledger {
    /// Opens the file, which is made if it is not there.
    pub fn start(file: &Path) -> rusqlite::Result<Self> {
        let ledger = Self { file: file.to_owned(), open: Mutex::default() };
        ledger.open()?;
        Ok(ledger)
    }

    /// Opens it again; fine if it is open.
    pub fn open(&self) -> rusqlite::Result<()> {
        let mut open = self.lock();
        if open.is_none() {
            let connection = Connection::open(&self.file)?;
            connection
                .execute_batch("create table if not exists entry (id integer primary key, what text not null)")?;
            *open = Some(connection);
        }
        Ok(())
    }

    /// Closes it; fine if it is closed.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// Whether it runs.
    pub fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// Writes an entry.
    pub fn add(&self, what: &str) -> rusqlite::Result<()> {
        self.with(|entries| entries.execute("insert into entry (what) values (?)", [what]).map(drop))
    }

    /// A slip: all of them are gone.
    pub fn lose_all(&self) -> rusqlite::Result<()> {
        self.with(|entries| entries.execute("delete from entry", []).map(drop))
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> rusqlite::Result<Vec<String>> {
        self.with(|entries| {
            entries.prepare("select what from entry order by id")?.query_map([], |row| row.get(0))?.collect()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        // Stopped, it answers nothing: as a service that is down.
        act(self.lock().as_ref().ok_or(rusqlite::Error::InvalidQuery)?)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
