//! Runs a child: says what is run, and turns a failure into a message with a hint.
//!
//! What a child prints goes to stderr, so that stdout holds only what a verb was asked for.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};

/// How often a child with a time limit is looked at: short beside any limit, long beside a check.
const POLL: Duration = Duration::from_millis(50);

/// A child about to run.
pub struct Run {
    command: Command,
    hint: Option<String>,
}

impl Run {
    /// A child `program` without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), hint: None }
    }

    /// The cargo that started us, else the one on the `PATH`.
    pub fn cargo() -> Self {
        let mut run = Self::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        // What `cargo run` says of ourselves: build scripts (ring's) look at these and would run again, minutes of building with them.
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_")) {
                run.command.env_remove(key);
            }
        }
        run
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets variables.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(mut self, variables: impl IntoIterator<Item = (K, V)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Takes an inherited variable away.
    pub fn env_remove(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Runs in `dir` instead of ours.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs as another user; only root may.
    #[cfg(unix)]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        use std::os::unix::process::CommandExt;
        self.command.uid(uid).gid(gid);
        self
    }

    /// What the reader can do if it fails.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Shows the command, runs it to its end with its output on stderr.
    ///
    /// # Errors
    ///
    /// If it can't be started or does not end with exit code 0.
    pub fn run(mut self) -> Result<()> {
        self.command.stdout(std::io::stderr());
        self.run_in_front()
    }

    /// As [`run`](Self::run), with our own stdout: for a child whose output is the verb's.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_in_front(mut self) -> Result<()> {
        eprintln!("$ {self}");
        let status = self.command.status();
        self.judge(status)
    }

    /// As [`run`](Self::run), but kills the child after `limit`.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run), and if the limit is reached.
    pub fn run_within(mut self, limit: Duration) -> Result<()> {
        eprintln!("$ {self}");
        self.command.stdout(std::io::stderr()).stdin(Stdio::null());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => return Err(self.failure(&format!("can't be started: {error}"))),
        };
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return self.judge(Ok(status));
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                return Err(self.failure(&format!("was not done after {} s", limit.as_secs())));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Runs without showing the command and returns its stdout, trimmed at the end.
    ///
    /// # Errors
    ///
    /// If it can't be started, does not end with exit code 0 (its stderr is in the message),
    /// or prints something that is not UTF-8.
    pub fn output(mut self) -> Result<String> {
        let output = match self.command.stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) => return Err(self.failure(&format!("can't be started: {error}"))),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(self.failure(&format!("failed: {}: {}", output.status, said.trim())));
        }
        match String::from_utf8(output.stdout) {
            Ok(stdout) => Ok(stdout.trim_end().to_owned()),
            Err(_) => Err(self.failure("printed something that is not UTF-8")),
        }
    }

    fn judge(&self, status: std::io::Result<ExitStatus>) -> Result<()> {
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failure(&format!("failed: {status}"))),
            Err(error) => Err(self.failure(&format!("can't be started: {error}"))),
        }
    }

    /// The hint is part of the innermost message, so that it stays the last line whatever context
    /// is put before it.
    fn failure(&self, what: &str) -> Error {
        match &self.hint {
            Some(hint) => anyhow!("`{self}` {what}\nhint: {hint}"),
            None => anyhow!("`{self}` {what}"),
        }
    }
}

/// The command as one would type it, the program by its last name.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = Path::new(self.command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str());
        write!(f, "{}", name.display())?;
        for arg in self.command.get_args() {
            write!(f, " {}", arg.display())?;
        }
        Ok(())
    }
}
