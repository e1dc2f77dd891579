//! Children: own process group, no shell, a minimal environment, stderr's tail kept, killed on deadline or cancellation.
//!
//! Exit code, signal and stderr decide what happened; a child is never left behind by a step that ends. One whose engine is stopped or frozen
//! ends by an alarm that the kernel holds, a little after its step's deadline; the module `alarm` says what that does not reach.

mod alarm;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::leftovers;

/// How much of stderr is kept: enough for any honest error, bounded for any other.
const STDERR_BYTES_MAX: usize = 64 * 1024;
/// How often a watcher looks at deadline and cancellation.
const WATCH_INTERVAL: Duration = Duration::from_millis(25);

/// How long a killed child may take to go. One that we may not signal (another user's, behind sudo) is let go after it: the step ends.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long a read that found nothing waits before it looks again: a short answer comes at once, a long silence costs little.
const READ_PAUSE_MIN: Duration = Duration::from_micros(100);
const READ_PAUSE_MAX: Duration = Duration::from_millis(10);

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// Program and arguments. Secrets never stand here.
    pub arguments: Vec<OsString>,
    /// Environment on top of the minimal one; secrets may stand here.
    pub environment: BTreeMap<String, String>,
    /// Working directory.
    pub directory: Option<PathBuf>,
    /// What it starts is meant to go on when the step is over (a service manager's command): it carries no marker of the step, so that
    /// nobody takes it for a leftover, and no alarm, which it would keep if it becomes the service.
    pub lasting: bool,
    /// What it starts may go on when it is killed (a client of something elsewhere, or of another user's process), and keep its pipes open:
    /// after a kill, nobody waits for their end.
    pub outlives: bool,
}

impl Spec {
    /// A command of a program and its arguments.
    pub fn new<S: Into<OsString>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self { arguments: arguments.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// The program's name, for messages.
    pub fn program(&self) -> String {
        self.arguments.first().map_or_else(|| "(nothing)".into(), |p| p.to_string_lossy().into_owned())
    }

    /// A [`Command`] in its own process group with the minimal environment: PATH, HOME, LANG, USER, TMPDIR of ours, and what the spec adds.
    pub fn command(&self) -> Result<Command> {
        let [program, arguments @ ..] = self.arguments.as_slice() else {
            return Err(Error::invalid("a command needs at least a program"));
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().process_group(0);
        for name in ["PATH", "HOME", "LANG", "USER", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(&self.environment);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        Ok(command)
    }
}

/// How a child ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The end of what it wrote to stderr, at most 64 KiB.
    pub stderr: String,
}

impl Ended {
    /// Exit code 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// `exit code 1` or `signal 9`.
    pub fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".into(),
        }
    }

    /// The last lines of stderr, for a message.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.stderr.lines().filter(|l| !l.trim().is_empty() && !quotes_rows(l)).collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }

    /// An error unless the child succeeded.
    pub fn require_success(&self, program: &str) -> Result<()> {
        if self.success() {
            return Ok(());
        }
        let tail = self.tail();
        let said = if tail.is_empty() { "it said nothing on stderr".to_owned() } else { tail };
        Err(Error::failed(format!("{program} ended with {}: {}", self.how(), crate::identifier::shown_long(&said))))
    }
}

/// Lines in which PostgreSQL's tools quote rows of somebody's data; they go into no message, journal or evidence. A DETAIL says more than
/// that (who is connected, which transaction is open): only those that quote a key or a row are meant.
pub fn quotes_rows(line: &str) -> bool {
    let line = line.trim_start();
    let detail = line.starts_with("DETAIL:") && ["Key (", "Failing row", "=("].iter().any(|mark| line.contains(mark));
    detail || line.starts_with("CONTEXT:") || line.starts_with("Command was:")
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    /// None once it was let go: killed, and not gone.
    inner: Option<std::process::Child>,
    pid: u32,
    program: String,
    outlives: bool,
    stderr: Option<JoinHandle<Vec<u8>>>,
    watcher: Option<JoinHandle<()>>,
    /// Tells the watcher that the child has been reaped, so that it kills no reused process id. Held locked while killing.
    reaped: Arc<Mutex<bool>>,
    /// Why the watcher killed it.
    killed: Arc<Mutex<Option<Error>>>,
    /// When its alarm was set for; none for a lasting one, which has none.
    deadline: Option<Instant>,
    stop_watching: Arc<AtomicBool>,
}

impl Child {
    /// Starts a child whose stdin and stdout are pipes; it is killed, with its group, when the context says so. None is started once the
    /// step's deadline has passed.
    pub fn spawn(cx: &StepContext, spec: &Spec) -> Result<Self> {
        cx.check()?;
        let program = spec.program();
        let mut command = spec.command()?;
        let deadline = (!spec.lasting).then_some(cx.deadline);
        if let Some(deadline) = deadline {
            command.env(leftovers::STEP_VARIABLE, cx.marker());
            alarm::arm(&mut command, deadline);
        }
        let mut inner =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| {
                let late = (e.kind() == std::io::ErrorKind::TimedOut).then(|| cx.check().err()).flatten();
                late.unwrap_or_else(|| spawn_error(&program, &e))
            })?;
        let stderr = inner.stderr.take().expect("stderr is piped");
        let stderr = std::thread::spawn(move || keep_tail(stderr));
        let reaped = Arc::new(Mutex::new(false));
        let killed = Arc::new(Mutex::new(None));
        let stop_watching = Arc::new(AtomicBool::new(false));
        let watcher = {
            let (cx, reaped, killed, stop) = (cx.clone(), reaped.clone(), killed.clone(), stop_watching.clone());
            let pid = inner.id();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    if let Err(why) = cx.check() {
                        let reaped = reaped.lock().expect("no panic while held");
                        if !*reaped {
                            *killed.lock().expect("no panic while held") = Some(why);
                            kill_group(pid);
                        }
                        return;
                    }
                    std::thread::park_timeout(WATCH_INTERVAL);
                }
            })
        };
        let outlives = spec.outlives;
        Ok(Self {
            pid: inner.id(),
            inner: Some(inner),
            program,
            outlives,
            stderr: Some(stderr),
            watcher: Some(watcher),
            reaped,
            killed,
            deadline,
            stop_watching,
        })
    }

    /// Its stdin; the child sees the end when it is dropped.
    pub fn stdin(&mut self) -> ChildStdin {
        self.inner.as_mut().and_then(|inner| inner.stdin.take()).expect("stdin is taken once")
    }

    /// Its stdout.
    pub fn stdout(&mut self) -> Output {
        let pipe = self.inner.as_mut().and_then(|inner| inner.stdout.take()).expect("stdout is taken once");
        // The flag belongs to our end of the pipe. Where it can't be set, a read waits, and the step may end late.
        let looks = self.outlives && rustix::fs::fcntl_setfl(&pipe, OFlags::RDONLY | OFlags::NONBLOCK).is_ok();
        Output { pipe, killed: self.killed.clone(), looks }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits for its end. A child that was killed for deadline or cancellation, or that its alarm ended, is that error.
    pub fn wait(mut self) -> Result<Ended> {
        if let Some(inner) = &mut self.inner {
            drop(inner.stdin.take());
        }
        let mut killed_at = None;
        let status = loop {
            if let Some(status) = self.reap().doing(|| format!("waiting for {}", self.program))? {
                break Some(status);
            }
            if self.killed.lock().expect("no panic while held").is_some()
                && killed_at.get_or_insert_with(Instant::now).elapsed() > KILL_LIMIT
            {
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.stop();
        if let Some(why) = self.killed.lock().expect("no panic while held").clone() {
            // Its stderr is not waited for: what it started may hold it open.
            return Err(match status {
                Some(_) => why.context(format!("{} was killed", self.program)),
                // Another user's, behind sudo: we may not even signal it.
                None => {
                    why.context(format!("{} (process {}) should be killed, and is still there", self.program, self.pid))
                }
            });
        }
        // One that sends itself the signal before its time has failed.
        if status.and_then(|status| status.signal()) == Some(alarm::SIGALRM)
            && self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Err(Error::new(ErrorKind::TimedOut, "the step's deadline has passed")
                .context(format!("{} was ended by its alarm", self.program)));
        }
        let bytes = self.stderr.take().and_then(|t| t.join().ok()).unwrap_or_default();
        let status = status.ok_or_else(|| Error::failed(format!("{} has no end", self.program)))?;
        Ok(Ended { status, stderr: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Gives it this input, and waits for its end: its stdout, at most `stdout_bytes_max`, and how it ended.
    pub fn to_its_end(mut self, input: &[u8], stdout_bytes_max: usize) -> Result<(Vec<u8>, Ended)> {
        let (mut stdin, mut stdout, program) = (self.stdin(), self.stdout(), self.program.clone());
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // A child that does not read all of its input says so in its exit code.
            let _ = std::io::Write::write_all(&mut stdin, &input);
        });
        let mut out = Vec::new();
        let read = (&mut stdout).take(stdout_bytes_max as u64 + 1).read_to_end(&mut out);
        if out.len() > stdout_bytes_max {
            return Err(Error::failed(format!("{program} wrote more than {stdout_bytes_max} bytes")));
        }
        let ended = self.wait()?;
        // The child is gone, so its end of the pipe is closed.
        let _ = feeder.join();
        read.doing(|| format!("reading from {program}"))?;
        Ok((out, ended))
    }

    /// Its exit status, if it has ended. Polled, so that the lock that guards against a reused pid is held only around the reaping itself.
    fn reap(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let mut reaped = self.reaped.lock().expect("no panic while held");
        let status = match &mut self.inner {
            Some(inner) => inner.try_wait()?,
            None => None,
        };
        *reaped |= status.is_some();
        Ok(status)
    }

    fn stop(&mut self) {
        self.stop_watching.store(true, Ordering::Release);
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            // A watcher that panicked has nothing left to do.
            let _ = watcher.join();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
        let already = *self.reaped.lock().expect("no panic while held");
        if already {
            return;
        }
        kill_group(self.pid);
        let limit = Instant::now() + KILL_LIMIT;
        // Its result changes nothing.
        while matches!(self.reap(), Ok(None)) {
            if Instant::now() >= limit {
                // Whenever it ends, it is reaped; until then this waits for nobody.
                let inner = self.inner.take();
                std::thread::spawn(move || inner.map(|mut inner| inner.wait()));
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A child's stdout. It ends with the child when that is killed, also if something else still holds its pipe.
#[derive(Debug)]
pub struct Output {
    pipe: ChildStdout,
    killed: Arc<Mutex<Option<Error>>>,
    /// Reads do not block, so that the kill is noticed.
    looks: bool,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut pause = READ_PAUSE_MIN;
        loop {
            if self.looks && self.killed.lock().expect("no panic while held").is_some() {
                return Ok(0);
            }
            match self.pipe.read(buffer) {
                Err(e) if self.looks && e.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(READ_PAUSE_MAX);
                }
                done => return done,
            }
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Runs a child to its end with this input; gives its stdout, at most `stdout_bytes_max`, and how it ended.
pub fn run(cx: &StepContext, spec: &Spec, input: &[u8], stdout_bytes_max: usize) -> Result<(Vec<u8>, Ended)> {
    Child::spawn(cx, spec)?.to_its_end(input, stdout_bytes_max)
}

/// Runs a child that must succeed; gives its stdout as text.
pub fn run_text(cx: &StepContext, spec: &Spec) -> Result<String> {
    let (out, ended) = run(cx, spec, b"", 16 * 1024 * 1024)?;
    ended.require_success(&spec.program())?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Sends SIGKILL to a process group.
pub fn kill_group(pid: u32) {
    signal_group(pid, rustix::process::Signal::KILL);
}

/// Sends a signal to a process group; one that is gone already is fine.
pub fn signal_group(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Start time of a process in clock ticks since boot; with the pid, it identifies the process. None where it is gone.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces and brackets; the fields are counted from the last bracket. Field 22 is the start time.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A zombie is gone for every purpose of ours.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Waits until a condition holds, looking every few milliseconds; false when the limit passed first.
pub fn wait_until(cx: &StepContext, limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end || cx.check().is_err() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn spawn_error(program: &str, e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{program}: no such program"))
            .hint("install it, or name its directory in the configuration"),
        _ => Error::failed(format!("{program} can't be started: {e}")),
    }
}

fn keep_tail(stderr: impl Read) -> Vec<u8> {
    let mut kept: Vec<u8> = Vec::new();
    let mut reader = BufReader::new(stderr);
    loop {
        let chunk = match reader.fill_buf() {
            Ok([]) | Err(_) => return kept,
            Ok(chunk) => chunk,
        };
        kept.extend_from_slice(chunk);
        let used = chunk.len();
        reader.consume(used);
        if kept.len() > 2 * STDERR_BYTES_MAX {
            kept.drain(..kept.len() - STDERR_BYTES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx(ms: u64) -> StepContext {
        StepContext::detached("test", Duration::from_millis(ms))
    }

    #[test]
    fn output_and_exit_code_are_kept_apart() {
        let (out, ended) = run(&cx(10_000), &Spec::new(["cat"]), b"hello", 100).unwrap();
        assert_eq!(out, b"hello");
        assert!(ended.success());
        let error = run_text(&cx(10_000), &Spec::new(["ls", "/nowhere-at-all"])).unwrap_err();
        assert!(error.message.contains("exit code 2"), "{error}");
        assert!(error.message.contains("nowhere-at-all"), "{error}");
    }

    #[test]
    fn a_deadline_kills_the_child() {
        let began = Instant::now();
        let error = run_text(&cx(200), &Spec::new(["sleep", "60"])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_child_that_can_not_be_killed_does_not_hold_its_step() {
        // It leaves the group that is killed, as if it were another user's.
        let script = "setpgrp(0, getpgrp(getppid())); $| = 1; print \"left\\n\"; sleep 600";
        let spec = Spec { outlives: true, ..Spec::new(["perl", "-e", script]) };
        let step = cx(60_000);
        let mut child = Child::spawn(&step, &spec).unwrap();
        let pid = child.id();
        let mut line = [0; 5];
        let mut stdout = child.stdout();
        stdout.read_exact(&mut line).unwrap();
        step.cancelled.store(true, Ordering::Relaxed);
        assert_eq!(stdout.read(&mut line).unwrap(), 0, "nothing more is waited for");
        let error = child.wait().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
        assert!(error.message.contains("still there") && start_ticks(pid).is_some(), "{error}");
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn the_environment_is_minimal() {
        // Set by cargo for every test.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let text = run_text(&cx(10_000), &Spec::new(["env"]).env("OURS", "1")).unwrap();
        assert!(text.contains("OURS=1") && !text.contains("CARGO_MANIFEST_DIR"), "{text}");
    }

    #[test]
    fn rows_that_a_tool_quotes_stay_out_of_messages() {
        let stderr =
            "ERROR:  duplicate key\nDETAIL:  Key (card)=(4111) exists.\nCONTEXT:  COPY t, line 3: \"4111\"\n".into();
        let ended = Ended { status: ExitStatus::from_raw(256), stderr };
        let error = ended.require_success("pg_restore").unwrap_err();
        assert!(error.message.contains("duplicate key") && !error.message.contains("4111"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run_text(&cx(1000), &Spec::new(["no-such-program-here"])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("no-such-program-here"));
    }
}
