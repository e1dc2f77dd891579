//! One `psql` kept open: statements go in, COPY text comes out, in one session and, where begun, one transaction.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ChildStdin;
use std::time::Duration;

use crate::child::{Child, Ended, Output};
use crate::error::{Error, Result};
use crate::sources::not_json::NotJson;
use crate::sources::{Question, Row};

use super::archive::READ_BYTES;
use super::rows::{RowHasher, RowSum};
use super::sql;
use super::tools::{Tools, sqlstate};

/// Longest line of an answer that is read as values; hashed rows have no such limit.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A pipe of 1 MiB takes 2 GB/s at this pace, several times what any tool writes.
pub(super) const GATHERING: Duration = Duration::from_micros(500);

/// A `psql` child that is given one statement after the other.
pub(super) struct Session<'a> {
    tools: &'a Tools<'a>,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: BufReader<Output>,
    /// The line after each answer. It begins with a backslash and a character that COPY text never has behind one.
    sentinel: String,
    /// SQLSTATE of what ended it.
    pub failed_with: Option<String>,
}

impl<'a> Session<'a> {
    pub fn open(tools: &'a Tools<'a>, database: &str, encoding: &str) -> Result<Self> {
        let mut child = Child::spawn(tools.cx, &tools.psql(database, encoding)?)?;
        let stdin = child.stdin();
        let stdout = child.stdout();
        widen(&stdout);
        let random: String = crate::identifier::fresh();
        let mut session = Self {
            tools,
            child: Some(child),
            stdin: Some(stdin),
            stdout: BufReader::with_capacity(READ_BYTES, stdout),
            sentinel: format!("\\~{random}"),
            failed_with: None,
        };
        // The first answer: the connection stands.
        session.run("")?;
        Ok(session)
    }

    /// Runs statements that answer nothing.
    pub fn run(&mut self, statements: &str) -> Result<()> {
        self.send(statements)?;
        self.nothing_more()
    }

    /// An error once the step should end.
    pub fn check(&self) -> Result<()> {
        self.tools.cx.check()
    }

    /// Says that the step has come to this place.
    pub fn at(&self, place: &str) {
        self.tools.cx.at(place);
    }

    /// Readable once an answer comes, or the session has ended.
    pub fn answers(&self) -> BorrowedFd<'_> {
        self.stdout.get_ref().as_fd()
    }

    /// Reads the end of an answer that has nothing else.
    pub fn nothing_more(&mut self) -> Result<()> {
        self.lines(|line| {
            Err(Error::failed(format!(
                "psql answered something unexpected: {}",
                crate::identifier::shown(&String::from_utf8_lossy(line))
            )))
        })
    }

    /// Rows of a query.
    pub fn rows(&mut self, query: &str, rows_max: usize) -> Result<Vec<Row>> {
        self.send(&copy_of(query))?;
        let mut rows = Vec::new();
        let mut too_many = false;
        self.lines(|line| {
            if rows.len() < rows_max {
                rows.push(sql::copy_row(line));
            } else {
                too_many = true;
            }
            Ok(())
        })?;
        if too_many {
            return Err(
                Error::failed(format!("the answer has more than {rows_max} rows")).hint("make the query narrower")
            );
        }
        Ok(rows)
    }

    /// The one value of a query; none for NULL or no row.
    pub fn value(&mut self, query: &str) -> Result<Option<String>> {
        Ok(self.rows(query, 1)?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Answers a configured question.
    pub fn ask(&mut self, question: &Question) -> Result<Vec<Row>> {
        let name = crate::identifier::shown(&question.name);
        let statement = sql::single_statement(&question.sql).map_err(|e| e.context(format!("query `{name}`")))?;
        let rows = if question.not_json {
            let mut damaged = NotJson::default();
            self.send(&copy_of(statement))
                .and_then(|()| {
                    self.lines(|line| {
                        damaged.take(sql::copy_row(line));
                        Ok(())
                    })
                })
                .map(|()| vec![damaged.answer()])
        } else {
            self.rows(statement, question.rows_max)
        };
        rows.map_err(|e| e.context(format!("query `{name}`")))
    }

    /// Counts and hashes the rows of what a COPY statement names: a table with its columns, or a query in brackets.
    pub fn hash(&mut self, what: &str) -> Result<RowSum> {
        self.send(&format!("COPY {what} TO STDOUT;"))?;
        let mut hasher = RowHasher::new();
        loop {
            let Ok(buffer @ [_, ..]) = self.stdout.fill_buf() else {
                return Err(self.ended());
            };
            let sentinel = self.sentinel.as_bytes();
            let length = buffer.len();
            let left = hasher.feed(buffer, |line| line == sentinel).map(|(_, rest)| rest.len());
            self.stdout.consume(length - left.unwrap_or(0));
            if left.is_some() {
                return Ok(hasher.total());
            }
        }
    }

    /// Gives every line of an answer to `each`.
    pub fn lines(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut line = Vec::new();
        let mut problem = None;
        loop {
            line.clear();
            match std::io::Read::take(&mut self.stdout, LINE_BYTES_MAX as u64).read_until(b'\n', &mut line) {
                Ok(_) if line.last() == Some(&b'\n') => line.truncate(line.len() - 1),
                Ok(LINE_BYTES_MAX) => return Err(Error::failed("a line of an answer is longer than 64 MiB")),
                _ => return Err(self.ended()),
            }
            if line == self.sentinel.as_bytes() {
                return problem.map_or(Ok(()), Err);
            }
            // Read on to the end of the answer, so that the session can be used after a problem of ours.
            if problem.is_none() {
                problem = each(&line).err();
            }
        }
    }

    /// Sends a statement whose answer is then read by [`Session::lines`]; none once the step is late, a commit least of all.
    pub fn send(&mut self, statement: &str) -> Result<()> {
        self.tools.cx.check()?;
        let text = format!("{statement}\n\\echo '\\{}'\n", self.sentinel);
        let sent = self.stdin.as_mut().map(|stdin| stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.ended()),
        }
    }

    /// Ends the session; what it said on stderr is the answer.
    pub fn close(mut self) -> Result<String> {
        self.stdin = None;
        let ended = self.wait()?;
        self.tools.succeeded("psql", &ended)?;
        Ok(ended.stderr)
    }

    /// Why there is no more answer.
    fn ended(&mut self) -> Error {
        self.stdin = None;
        match self.wait() {
            Ok(ended) => {
                self.failed_with = sqlstate(&ended.stderr).map(str::to_owned);
                if ended.success() {
                    Error::failed("psql ended before it had answered")
                } else {
                    self.tools.explain("psql", &ended)
                }
            }
            Err(e) => e,
        }
    }

    fn wait(&mut self) -> Result<Ended> {
        match self.child.take() {
            Some(child) => child.wait(),
            None => Err(Error::failed("the database session has ended")),
        }
    }
}

/// On a line of its own, so that a comment at the query's end ends with it.
fn copy_of(query: &str) -> String {
    format!("COPY ({query}\n) TO STDOUT;")
}

/// The output of a child that writes much, a few kilobytes at a time. To be woken for each of those costs both sides more than the
/// bytes do: before each read there is a pause in which they gather in the pipe, which is made large enough for it.
pub(super) struct Gathering {
    pipe: Output,
    pause: Duration,
}

impl Gathering {
    pub fn new(pipe: Output) -> Self {
        // Where the size is not allowed, the child would fill the pipe and wait for us.
        let pause = if widen(&pipe) { GATHERING } else { Duration::ZERO };
        Self { pipe, pause }
    }
}

impl Read for Gathering {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
        self.pipe.read(buffer)
    }
}

/// A pipe of 1 MiB: fewer switches between the tool and us. False where that is not allowed; the usual size does.
pub(super) fn widen(pipe: &impl AsFd) -> bool {
    rustix::pipe::fcntl_setpipe_size(pipe, READ_BYTES).is_ok_and(|bytes| bytes >= READ_BYTES)
}
