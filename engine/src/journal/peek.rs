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
