//! Opening an SQLite state to look at it, and leaving nothing behind.
//!
//! A database in WAL mode that nobody has open is read as it lies, without locks: an ordinary reader would make a `-wal` and a `-shm` beside
//! it, and leave them there, owned by whoever looked. Whoever reads so asks in the end whether somebody has written meanwhile.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::schema;
use super::sqlite::Session;
use crate::error::{Error, Kind, Result};

/// How long a lock is waited for; in WAL mode a reader waits for a checkpoint's end at most.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// A file as it was when it was opened without locks.
pub(super) struct Stamp {
    path: PathBuf,
    found: Option<(u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), found: looked(path) }
    }

    /// Whether nobody has opened or written it since.
    pub(super) fn still_holds(&self) -> bool {
        looked(&self.path) == self.found && !wal(&self.path).exists()
    }
}

fn looked(path: &Path) -> Option<(u64, u64, i64, i64)> {
    std::fs::metadata(path).ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
}

fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Whether there is a file. It is not opened for that: closing a descriptor would drop the locks that an engine in this process has on it.
pub(super) fn is_there(path: &Path) -> std::io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        looked => looked.map(|_| true),
    }
}

/// A connection that can only read, with the stamp of a file that it reads without locks.
pub(super) fn opened(path: &Path) -> rusqlite::Result<(Session, Option<Stamp>)> {
    let stamp = Stamp::of(path);
    let (parameters, stamp) = match wal(path).exists() {
        true => ("mode=ro", None),
        false => ("mode=ro&immutable=1", Some(stamp)),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(format!("file:{}?{parameters}", escaped(path)), flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    // The first read is where a file that is no database says so.
    connection.query_row("pragma schema_version", [], |row| row.get::<_, i64>(0))?;
    Ok((Session::reading(connection), stamp))
}

/// A path in a URI.
fn escaped(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Its tables must be those that we read.
pub(super) fn check_version(connection: &Connection, path: &Path) -> Result<()> {
    let version: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
    match version {
        schema::VERSION => Ok(()),
        version if version > schema::VERSION => Err(super::state::newer(&path.display().to_string(), version)),
        version => Err(Error::new(
            Kind::Journal,
            format!("{} has version {version}, this engine reads {}", path.display(), schema::VERSION),
        )
        .hint("`lifeboat runs list` brings it up to date, and so does the next run")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::journal::{By, Change, RunFilter, RunRow, State, Transition};

    async fn begin(state: &State, run: &str) {
        let by = By { actor: "alice@host1".into(), channel: "cli".into() };
        let row = RunRow { id: run.into(), environment: "e".into(), policy: "p".into(), ..RunRow::default() };
        state.append(run, &by, Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)]).await.unwrap();
    }

    fn names(directory: &Path) -> BTreeSet<std::ffi::OsString> {
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    async fn look(directory: &Path) -> State {
        State::to_look_at(directory, None).await.unwrap().expect("there is a state")
    }

    async fn runs(state: &State) -> usize {
        state.runs(&RunFilter::default()).await.unwrap().len()
    }

    #[tokio::test]
    async fn a_look_makes_nothing_leaves_nothing_writes_nothing_and_knows_when_it_is_late() {
        let directory = tempfile::tempdir().unwrap();
        // With what a URI takes for something else in its name.
        let directory = directory.path().join("a?b#c %41");
        assert!(State::to_look_at(&directory, None).await.unwrap().is_none());
        assert!(!directory.exists());

        let engine = State::open(&directory).await.unwrap();
        begin(&engine, "r1").await;
        // While an engine has it open, its write-ahead log is read as well.
        let beside = look(&directory).await;
        begin(&engine, "r2").await;
        assert_eq!(runs(&beside).await, 2);
        assert!(beside.is_as_opened(), "each read has its moment, and a lock");
        drop((beside, engine));

        let before = names(&directory);
        let alone = look(&directory).await;
        assert_eq!(runs(&alone).await, 2);
        assert!(alone.is_as_opened());
        assert_eq!(names(&directory), before, "neither -wal nor -shm");
        let by = By { actor: "a@h".into(), channel: "cli".into() };
        let written = alone.append("r1", &by, Transition::RunEnded, None, json!({}), &[]).await;
        assert!(written.is_err(), "nobody writes through it");

        let engine = State::open(&directory).await.unwrap();
        assert!(!alone.is_as_opened(), "somebody has it open now");
        begin(&engine, "r3").await;
        drop(engine);
        assert!(!alone.is_as_opened(), "and has written");
        drop(alone);
        assert_eq!(runs(&look(&directory).await).await, 3);
        assert_eq!(names(&directory), before);
    }

    #[tokio::test]
    async fn a_state_of_another_version_is_not_read_as_if_it_were_ours() {
        let directory = tempfile::tempdir().unwrap();
        drop(State::open(directory.path()).await.unwrap());
        for (version, says) in [(schema::VERSION + 1, "this engine knows"), (schema::VERSION - 1, "this engine reads")]
        {
            let state = Connection::open(directory.path().join("state.sqlite")).unwrap();
            state.pragma_update(None, "user_version", version).unwrap();
            drop(state);
            let error = State::to_look_at(directory.path(), None).await.err().expect("refused");
            assert!(error.message.contains(says), "{error}");
        }
    }
}
