//! The state in an SQLite file: one thread writes, one reads. What waits for the disk at the same time is committed together.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::executor::block_on;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, ToSql, params_from_iter};
use tokio::sync::oneshot;

use super::append::{Job, head};
use super::database::{Cell, Look, Row, Transaction};
use super::peek::{self, Stamp};
use super::schema;
use super::tail::Tail;
use crate::error::{DISK_HINT, Error, Kind, Result, is_disk};

/// How long to wait for others that open, write or let go of the same state.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// SQLite answers "busy" at once, whatever time it was given, where waiting could be a deadlock: two that turn a new file into a WAL
/// database, or one that opens while the last other one removes the WAL. Trying the whole opening again is what it leaves to us.
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// Writes that share one commit, at most: those that wait behind it should not wait for long.
const GROUP_MAX: usize = 256;

type WriteJob = (Job, oneshot::Sender<Result<u64>>);
type ReadJob = Box<dyn FnOnce(&mut Session) + Send>;

/// An open state file.
pub(super) struct Sqlite {
    writes: Option<Sender<WriteJob>>,
    reads: Option<Sender<ReadJob>>,
    writer: Option<JoinHandle<()>>,
    reader: Option<JoinHandle<()>>,
    /// The file as it was opened, if it is read without locks.
    unlocked: Option<Stamp>,
}

impl Sqlite {
    /// Opens `state.sqlite` in a directory that exists, making its tables.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let doing = |e: std::io::Error| super::state::directory_error(directory, &e);
        check_mode(directory)?;
        let path = directory.join("state.sqlite");
        // Made by hand so that it is never readable by others, not even for a moment.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(doing)?;
        let writing = opened(&path)?;
        let reading = opened(&path)?;
        let (writes, to_write) = channel();
        let (reads, to_read) = channel();
        let writer = Some(std::thread::spawn(move || write_all(writing, &to_write)));
        let reader = Some(std::thread::spawn(move || read_all(reading, &to_read)));
        Ok(Self { writes: Some(writes), reads: Some(reads), writer, reader, unlocked: None })
    }

    /// Opens `state.sqlite` to look at it, if it is there: nothing is made, changed or left, and nobody is kept from writing.
    pub(super) fn open_to_look(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join("state.sqlite");
        if !peek::is_there(&path).map_err(|e| super::state::directory_error(directory, &e))? {
            return Ok(None);
        }
        check_mode(directory)?;
        let (session, unlocked) = peek::opened(&path).map_err(|e| match e.sqlite_error_code() {
            Some(ErrorCode::CannotOpen) => {
                Error { hint: None, ..damaged(&path, &e) }.hint("look as the user that runs the engine")
            }
            _ => damaged(&path, &e),
        })?;
        peek::check_version(&session.connection, &path)?;
        let (reads, to_read) = channel();
        let reader = Some(std::thread::spawn(move || read_all(session, &to_read)));
        Ok(Some(Self { writes: None, reads: Some(reads), writer: None, reader, unlocked }))
    }

    /// False where it was read without locks and somebody has written meanwhile.
    pub(super) fn is_as_opened(&self) -> bool {
        self.unlocked.as_ref().is_none_or(Stamp::still_holds)
    }

    /// Makes a change; on disk when this answers. It is made in the order of the calls, also where nobody waits for the answer any more.
    pub(super) async fn write(&self, job: Job) -> Result<u64> {
        let (answer, answered) = oneshot::channel();
        let sent = self.writes.as_ref().is_some_and(|writes| writes.send((job, answer)).is_ok());
        match sent.then_some(answered) {
            Some(answered) => answered.await.unwrap_or_else(|_| Err(gone())),
            None => Err(gone()),
        }
    }

    /// Reads what one moment shows.
    pub(super) async fn look<T: Send + 'static>(&self, look: Look<T>) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: ReadJob = Box::new(move |session| {
            let looked = session.looking(look);
            // Whoever asked may have gone.
            let _ = answer.send(looked);
        });
        let sent = self.reads.as_ref().is_some_and(|reads| reads.send(job).is_ok());
        match sent.then_some(answered) {
            Some(answered) => answered.await.unwrap_or_else(|_| Err(gone())),
            None => Err(gone()),
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // The threads end when nothing can come any more; what was asked for is done first. One after the other: of two connections that are
        // closed at the same time, neither is the last one, which removes the `-wal` and the `-shm`.
        drop(self.reads.take());
        let _ = self.reader.take().map(JoinHandle::join);
        drop(self.writes.take());
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

/// Approvals, promotions and compiled modules lie there.
fn check_mode(directory: &Path) -> Result<()> {
    let metadata = std::fs::metadata(directory).map_err(|e| super::state::directory_error(directory, &e))?;
    if metadata.permissions().mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::new(Kind::Journal, format!("others may write to state directory {}", directory.display()))
        .hint(format!("chmod 700 {}", directory.display())))
}

fn gone() -> Error {
    Error::new(Kind::Journal, "a bug: the thread of the state database is gone")
}

/// Commits together whatever waits.
fn write_all(mut session: Session, jobs: &Receiver<WriteJob>) {
    let mut tail = Tail::default();
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        gather(&mut group, jobs);
        let results = match session.begin().map(|()| session.commit(&group, &mut tail)) {
            Err(busy) => vec![Err(busy); group.len()],
            Ok(Ok(times)) => times.into_iter().map(Ok).collect(),
            // One of them may be all that is wrong: each gets its own answer.
            Ok(Err(_)) if group.len() > 1 => group
                .iter()
                .map(|job| {
                    session.begin()?;
                    Ok(session.commit(std::slice::from_ref(job), &mut tail)?[0])
                })
                .collect(),
            Ok(Err(error)) => vec![Err(error)],
        };
        for ((_, answer), result) in group.into_iter().zip(results) {
            // Who asked may have been ended by its deadline; the change is made all the same.
            let _ = answer.send(result);
        }
    }
}

/// Takes what waits. The runs that were answered last come again at about the same time: each time one has come, the others are let go on
/// once more, which costs less than a commit that they come too late for.
fn gather(group: &mut Vec<WriteJob>, jobs: &Receiver<WriteJob>) {
    loop {
        let before = group.len();
        while group.len() < GROUP_MAX
            && let Ok(next) = jobs.try_recv()
        {
            group.push(next);
        }
        if group.len() == before || group.len() == GROUP_MAX {
            return;
        }
        std::thread::yield_now();
    }
}

fn read_all(mut session: Session, jobs: &Receiver<ReadJob>) {
    while let Ok(job) = jobs.recv() {
        job(&mut session);
    }
}

/// A connection. Nothing here waits for anything but the disk: its futures are ready at once.
pub(super) struct Session {
    connection: Connection,
}

impl Session {
    /// On a connection that can only read.
    pub(super) fn reading(connection: Connection) -> Self {
        Self { connection }
    }
}

impl Session {
    /// Waits for whoever else writes.
    fn begin(&mut self) -> Result<()> {
        self.act("begin immediate")
    }

    /// Makes changes in the transaction that was begun, and ends it: all of them, or none.
    fn commit(&mut self, group: &[WriteJob], tail: &mut Tail) -> Result<Vec<u64>> {
        let done = (|| {
            tail.begin(block_on(head(self))?);
            let times = group.iter().map(|(job, _)| block_on(job.make(self, tail))).collect::<Result<Vec<u64>>>()?;
            self.act("commit")?;
            Ok(times)
        })();
        if done.is_err() {
            tail.forget();
        }
        if !self.connection.is_autocommit() {
            // What can't even be rolled back is rolled back when the file is opened again.
            let _ = self.connection.execute_batch("rollback");
        }
        done
    }

    /// A statement that only moves the transaction.
    fn act(&self, sql: &'static str) -> Result<()> {
        Ok(self.connection.prepare_cached(sql)?.execute([]).map(drop)?)
    }

    fn looking<T>(&mut self, look: Look<T>) -> Result<T> {
        self.connection.execute_batch("begin")?;
        let looked = block_on(look(self));
        self.connection.execute_batch("rollback")?;
        looked
    }
}

/// SQLite's own form of the parameters.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

#[async_trait]
impl Transaction for Session {
    async fn execute(&mut self, sql: &'static str, cells: &[Cell]) -> Result<u64> {
        let changed = self.connection.prepare_cached(&numbered(sql))?.execute(params_from_iter(cells))?;
        Ok(changed as u64)
    }

    async fn rows(&mut self, sql: &'static str, cells: &[Cell]) -> Result<Vec<Row>> {
        let mut statement = self.connection.prepare_cached(&numbered(sql))?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(cells))?;
        let mut read = Vec::new();
        while let Some(row) = rows.next()? {
            let cells = (0..columns).map(|at| cell(row.get_ref(at)?));
            read.push(Row(cells.collect::<Result<_>>()?));
        }
        Ok(read)
    }
}

fn cell(value: ValueRef<'_>) -> Result<Cell> {
    match value {
        ValueRef::Null => Ok(Cell::Text(None)),
        ValueRef::Integer(number) => Ok(Cell::Integer(Some(number))),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Cell::from(text)),
            Err(_) => Err(Error::new(Kind::Journal, "the state database holds a text that is not UTF-8")),
        },
        ValueRef::Real(_) | ValueRef::Blob(_) => {
            Err(Error::new(Kind::Journal, "the state database holds a value that no table of ours has"))
        }
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Integer(number) => ToSqlOutput::Owned(number.map_or(Value::Null, Value::Integer)),
            Self::Text(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Text(None) => ToSqlOutput::Owned(Value::Null),
        })
    }
}

/// A connection to the file, its tables made.
fn opened(path: &Path) -> Result<Session> {
    let end = Instant::now() + OPEN_LIMIT;
    loop {
        match connect(path) {
            Err(e) if is_busy(&e) && Instant::now() < end => std::thread::sleep(OPEN_PAUSE),
            Err(e) => return Err(damaged(path, &e)),
            Ok((_, Some(version))) => return Err(super::state::newer(&path.display().to_string(), version)),
            Ok((session, None)) => return Ok(session),
        }
    }
}

/// One try; with the version of a state that is not ours.
fn connect(path: &Path) -> rusqlite::Result<(Session, Option<i64>)> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(OPEN_LIMIT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // FULL: in WAL mode, NORMAL does not sync commits.
    connection.pragma_update(None, "synchronous", "full")?;
    // Withheld values are overwritten when they go.
    connection.pragma_update(None, "secure_delete", "on")?;
    // As many statements as there are in the journal's files, about.
    connection.set_prepared_statement_cache_capacity(64);
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("pragma user_version", [], |r| r.get(0))?;
    let ours = (0..=schema::VERSION).contains(&version);
    if ours && version < schema::VERSION {
        for migration in schema::SQLITE.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", schema::VERSION)?;
    }
    transaction.commit()?;
    Ok((Session { connection }, (!ours).then_some(version)))
}

/// Somebody else holds the database now.
fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
    )
}

fn damaged(path: &Path, e: &rusqlite::Error) -> Error {
    let error = Error::new(Kind::Journal, format!("{} can't be opened: {e}", path.display()));
    if is_disk(e) {
        return error.hint(DISK_HINT);
    }
    error.hint("backups are not affected: their manifests lie in the stores; move the state aside to start a new one")
}
