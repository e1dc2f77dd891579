//! A long-running child: its own process group, its output in a log, known by process id and start time.
//!
//! Unlike [`crate::child`]'s, such a child outlives the step that starts it; it never outlives this value.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use crate::child::{Ended, Spec, signal_group, start_ticks};
use crate::error::{Context, Error, Result};

/// How long a killed process may take to go; longer means that it hangs in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How often a wait looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How much of a log's end goes into a message.
const TAIL_BYTES: u64 = 4 * 1024;

/// A long-running child. Dropped, it is killed with its group.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    started: u64,
    /// None: a child of an engine before this one, found again by its id and start time. It can be signalled, not waited for.
    child: Option<std::process::Child>,
    /// How it ended; set once, after which nothing is ever sent to its id again.
    ended: Option<String>,
}

impl Process {
    /// Starts a child whose output goes to the end of a log.
    pub(crate) fn spawn(spec: &Spec, log: &Path) -> Result<Self> {
        let out = open_log(log)?;
        let err = out.try_clone().doing(|| format!("opening {}", log.display()))?;
        let child = spec.command()?.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(|e| {
            let program = spec.program();
            Error::failed(format!("{program} can't be started: {e}"))
                .hint("is it installed, executable, and its working directory there?")
        })?;
        let pid = child.id();
        // One that has ended already has no start time left to read; it is reaped by us, so its id can't be mistaken.
        Ok(Self { pid, started: start_ticks(pid).unwrap_or(0), child: Some(child), ended: None })
    }

    /// A child of an engine before this one, if it is still there.
    pub(crate) fn adopt(pid: u32, started: u64) -> Option<Self> {
        (start_ticks(pid) == Some(started)).then_some(Self { pid, started, child: None, ended: None })
    }

    /// One that ended while nobody looked.
    pub(crate) fn gone() -> Self {
        Self { pid: 0, started: 0, child: None, ended: Some("ended; how is not known".into()) }
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Start time in clock ticks since boot.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// How it ended; none while it runs. What is left of its group then is killed.
    pub(crate) fn ended(&mut self) -> Option<&str> {
        if self.ended.is_none() {
            self.ended = self.look();
        }
        self.ended.as_deref()
    }

    fn look(&mut self) -> Option<String> {
        let Some(child) = &mut self.child else {
            // Its parent reaps it, so its id may be another's from then on: nothing is sent to it any more.
            return (start_ticks(self.pid) != Some(self.started)).then(|| "ended; how is not known".into());
        };
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // Looked at without reaping, so that its id is still its own while the rest of its group is killed.
        match waitid(WaitId::Pid(pid), options) {
            Ok(None) | Err(rustix::io::Errno::INTR) => return None,
            Ok(Some(_)) => signal_group(self.pid, Signal::KILL),
            // Someone else has reaped it: it is gone.
            Err(_) => {}
        }
        match child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(Ended { status, stderr: String::new() }.how()),
            Err(_) => Some("ended; how is not known".into()),
        }
    }

    /// Sends a signal to its group, if it has not ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            signal_group(self.pid, signal);
        }
    }

    /// Waits for its end; false when the limit passed first.
    pub(crate) fn wait(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            if self.ended().is_some() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Ends it: SIGTERM, SIGKILL when the limit has passed. An error if it is there even after that.
    pub(crate) fn stop(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM);
        if self.wait(limit) { Ok(()) } else { self.kill() }
    }

    /// Kills it. An error if it is there even after that.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL);
        if self.wait(KILL_LIMIT) {
            return Ok(());
        }
        Err(Error::failed(format!("process {} is still there {} s after SIGKILL", self.pid, KILL_LIMIT.as_secs()))
            .hint("it hangs in the kernel: look at its storage"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // Nobody is left to tell.
            let _ = self.kill();
        }
    }
}

/// A log to append to, mode 0600.
fn open_log(path: &Path) -> Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path).doing(|| format!("opening {}", path.display()))
}

/// The last lines of a log, bounded and safe to print.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        // The directory may be another user's: no link is followed, and nothing waited for.
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
        let mut file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        let length = metadata.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.is_empty() {
        return "its log is empty".into();
    }
    format!("its log ends: {}", crate::identifier::shown_long(&lines[lines.len().saturating_sub(5)..].join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(command: &[&str]) -> (Process, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::spawn(&Spec::new(command.iter().copied()), &dir.path().join("log")).unwrap();
        (process, dir)
    }

    fn until(mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end, "waited 30 s");
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    #[test]
    fn a_child_that_ends_by_itself_says_how() {
        let (mut process, dir) = process(&["ls", "/nowhere-at-all"]);
        until(|| process.ended().is_some());
        assert_eq!(process.ended(), Some("exit code 2"));
        let tail = log_tail(&dir.path().join("log"));
        assert!(tail.contains("nowhere-at-all"), "{tail}");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(dir.path().join("log")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn one_that_ignores_sigterm_is_killed_with_its_group() {
        let (mut process, dir) =
            process(&["bash", "-c", "trap 'echo ignored' TERM; sleep 600 & echo $!; while :; do sleep 0.05; done"]);
        let log = dir.path().join("log");
        let read = || std::fs::read_to_string(&log).unwrap();
        until(|| read().contains('\n'));
        let sleeper: u32 = read().lines().next().unwrap().parse().unwrap();
        process.signal(Signal::TERM);
        until(|| read().contains("ignored"));
        process.stop(Duration::from_millis(200)).unwrap();
        assert_eq!(process.ended(), Some("signal 9"));
        until(|| start_ticks(sleeper).is_none());
    }

    #[test]
    fn what_a_child_leaves_in_its_group_is_killed_when_it_ends() {
        let (mut process, dir) = process(&["bash", "-c", "sleep 600 & echo $!"]);
        until(|| process.ended().is_some());
        let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
        until(|| start_ticks(text.trim().parse().unwrap()).is_none());
    }

    #[test]
    fn dropped_means_killed_and_another_process_is_never_adopted() {
        let (process, _dir) = process(&["sleep", "600"]);
        let (pid, started) = (process.pid(), process.started());
        assert!(Process::adopt(pid, started + 1).is_none(), "same id, another start: another process");
        assert!(start_ticks(pid).is_some());
        drop(process);
        assert!(start_ticks(pid).is_none());
        assert!(Process::adopt(pid, started).is_none());
    }
}
