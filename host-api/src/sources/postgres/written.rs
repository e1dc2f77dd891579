//! Rows that a private server writes into a named pipe of ours itself, as COPY text.
//!
//! It is the text that a client would be sent. But no client takes it apart on the way, a row at a time, which is a third of what reading a
//! table back takes. Only a superuser may have the server write: that one runs nothing here that the archive brought, for `COPY table TO` calls
//! nothing of its.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::error::{Context, Error, Result};

use super::archive::READ_BYTES;
use super::rows::{RowHasher, RowSum};
use super::session::{GATHERING, Session, widen};
use super::sql;

/// SQLSTATE of a right that is lacking, and of a file that is not there.
const NO_PIPE: [&str; 2] = ["42501", "58P01"];
/// How long one wait may take.
const WAIT_LIMIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A session that reads tables through a pipe.
pub(super) struct WrittenRows<'a> {
    session: Session<'a>,
    pipe: Pipe,
    buffer: Vec<u8>,
    pause: Duration,
}

impl<'a> WrittenRows<'a> {
    /// By a superuser's session, and a named pipe that the server may write to.
    pub fn open(session: Session<'a>, path: PathBuf) -> Result<Self> {
        let pipe = Pipe::open(path)?;
        let pause = if widen(&pipe.both) { GATHERING } else { Duration::ZERO };
        Ok(Self { session, pipe, buffer: vec![0; READ_BYTES], pause })
    }

    /// Counts and hashes the rows of a table, which stands there with its columns.
    pub fn hash(&mut self, table: &str) -> Result<RowSum> {
        let path = self.pipe.path.display().to_string();
        self.session.send(&format!("COPY {table} TO {};", sql::literal(&path)))?;
        self.session.at("server writes rows");
        let mut hasher = RowHasher::new();
        while !self.is_answered()? {
            self.take(&mut hasher)?;
        }
        self.session.nothing_more()?;
        // The server closes its end before it says that it is done: what is there now is all that comes.
        while self.take(&mut hasher)? {
            self.session.check()?;
        }
        if hasher.inside_row() {
            return Err(Error::failed("what the server wrote ends within a row"));
        }
        Ok(hasher.total())
    }

    /// SQLSTATE of what ended it.
    pub fn failed_with(&self) -> Option<&str> {
        self.session.failed_with.as_deref()
    }

    /// Whether it ended because the server can't write there, and not by anything about the table.
    pub fn has_no_pipe(&self) -> bool {
        self.failed_with().is_some_and(|code| NO_PIPE.contains(&code))
    }

    /// Ends the session.
    pub fn close(self) -> Result<()> {
        self.session.close().map(drop)
    }

    /// Waits for rows, or until the session has answered: whether it has. A client that was killed closes its output, which counts as well.
    fn is_answered(&self) -> Result<bool> {
        let mut ends = [
            PollFd::new(&self.pipe.both, PollFlags::IN),
            PollFd::from_borrowed_fd(self.session.answers(), PollFlags::IN),
        ];
        match poll(&mut ends, Some(&WAIT_LIMIT)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::failed(format!("waiting for rows: {e}"))),
        }
        if !ends[1].revents().is_empty() {
            return Ok(true);
        }
        if !self.pause.is_zero() {
            // They come a few kilobytes at a time: see `GATHERING`.
            std::thread::sleep(self.pause);
        }
        Ok(false)
    }

    /// Takes of what is in the pipe: false if it was empty.
    fn take(&mut self, hasher: &mut RowHasher) -> Result<bool> {
        match self.pipe.both.read(&mut self.buffer) {
            Ok(count) => {
                // Rows and nothing else: no line ends them.
                hasher.feed(&self.buffer[..count], |_| false);
                Ok(count > 0)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(Error::failed(format!("reading rows from {}: {e}", self.pipe.path.display()))),
        }
    }
}

/// A named pipe; its name goes away with this value.
struct Pipe {
    path: PathBuf,
    /// Open on both sides, so that it has no end while nobody writes.
    both: File,
}

impl Pipe {
    fn open(path: PathBuf) -> Result<Self> {
        let doing = || format!("opening the pipe {}", path.display());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let both = File::from(rustix::fs::open(&path, flags, Mode::empty()).doing(doing)?);
        // The directory is the server's user's.
        if !both.metadata().doing(doing)?.file_type().is_fifo() {
            return Err(Error::conflict(format!("{} is no named pipe", path.display())));
        }
        Ok(Self { path, both })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // If that fails, it goes with its server's directory.
        drop(std::fs::remove_file(&self.path));
        self.path.parent().map(std::fs::remove_dir);
    }
}
