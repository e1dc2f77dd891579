//! One run at a time on a service: a lock file each, held from a run's first effect on it to its end, named to whoever waits.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use host_api::{child, identifier};

use crate::journal::State;

/// The locks one run holds.
#[derive(Debug)]
pub(crate) struct ServiceLocks {
    directory: PathBuf,
    held: BTreeMap<String, File>,
    /// The run's own lock, a file of its own that goes with it: while it is held, a process works on the run.
    run: Option<(PathBuf, File)>,
}

impl Drop for ServiceLocks {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.run {
            // A file that stays is harmless: nobody holds it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl ServiceLocks {
    /// None yet.
    pub(crate) fn new(state_directory: &Path) -> Self {
        Self { directory: state_directory.join("locks"), held: BTreeMap::new(), run: None }
    }

    /// Holds a service's lock; the error names who has it. The kernel lets go when we die; but who died in the middle of its work has the
    /// service until it went on, or was abandoned: what it left half-way is its to complete.
    pub(crate) fn hold(&mut self, state: &State, service: &str, run: &str) -> Result<(), String> {
        if self.held.contains_key(service) {
            return Ok(());
        }
        let (path, mut file, last) = self.take(&format!("service {service}"), &format!("{service}.lock"), run)?;
        if let Some(last) = last.filter(|last| last != run && identifier::check_id("run", last).is_ok())
            && state.run(&last).is_ok_and(|row| matches!(row.status.as_str(), "running" | "in-doubt"))
        {
            // Put back, so that the next one is told the same.
            write(&mut file, &last).map_err(|e| format!("the lock {}: {e}", path.display()))?;
            return Err(format!(
                "run {last} has service {service}, and its engine died: `lifeboat runs resume {last}`, or `runs abandon` it"
            ));
        }
        // Who has the service is also told after a power loss: before anything is done to it, the name is on disk.
        let on_disk = file.sync_all().and_then(|()| File::open(&self.directory)?.sync_all());
        on_disk.map_err(|e| format!("the lock {}: {e}", path.display()))?;
        self.held.insert(service.to_owned(), file);
        Ok(())
    }

    /// Holds the lock of the run itself.
    pub(crate) fn hold_run(&mut self, run: &str) -> Result<(), String> {
        let (path, file, _) = self.take(&format!("run {run}"), &format!("run-{run}.lock"), run)?;
        self.run = Some((path, file));
        Ok(())
    }

    /// A lock file, and the run that wrote its name there last.
    fn take(&self, what: &str, name: &str, run: &str) -> Result<(PathBuf, File, Option<String>), String> {
        let failed = |e: &dyn std::fmt::Display| format!("the lock of {what}: {e}");
        std::fs::create_dir_all(&self.directory).map_err(|e| failed(&e))?;
        let path = self.directory.join(name);
        let (mut file, locked) = loop {
            let mut options = File::options();
            let file =
                options.create(true).read(true).write(true).truncate(false).open(&path).map_err(|e| failed(&e))?;
            let locked = file.try_lock();
            // Whoever had it may have removed the file since it was opened: a lock on that one keeps nobody out.
            if locked.is_err() || same_file(&file, &path) {
                break (file, locked);
            }
        };
        let mut holder = String::new();
        // Who it is, or was, helps; a file that can't be read says nothing.
        let _ = file.read_to_string(&mut holder);
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(format!("another run works on {what}: {}", holder.trim())),
            Err(TryLockError::Error(e)) => return Err(failed(&e)),
        }
        write(&mut file, run).map_err(|e| failed(&e))?;
        let last = holder.strip_prefix("run ").and_then(|rest| rest.split(',').next());
        Ok((path, file, last.map(str::to_owned)))
    }
}

/// Whether a process works on a run now. Looked at from outside: taking the lock to see would keep out whoever means to take it.
pub fn is_held(state_directory: &Path, run: &str) -> bool {
    let path = state_directory.join("locks").join(format!("run-{run}.lock"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let number = |key: &str| text.split(", ").find_map(|part| part.trim().strip_prefix(key)?.parse::<u64>().ok());
    let (process, started) = (number("process ").and_then(|pid| u32::try_from(pid).ok()), number("started "));
    process.is_some_and(|pid| started.is_some() && child::start_ticks(pid) == started)
}

/// Whether an open file is the one that lies there now.
fn same_file(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::io::Result<std::fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    identity(file.metadata()).is_some_and(|open| identity(std::fs::metadata(path)) == Some(open))
}

fn write(file: &mut File, run: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let process = std::process::id();
    // With its start, in clock ticks since boot, the id identifies the process.
    writeln!(file, "run {run}, process {process}, started {}", child::start_ticks(process).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::journal::{By, Change, Transition};
    use crate::step::RunIdentity;
    use serde_json::json;

    fn by() -> By {
        By { actor: "a@h".into(), channel: "test".into() }
    }

    fn begun(state: &State, run: &str) {
        let identity =
            RunIdentity { id: run.into(), environment: "test".into(), policy: "p".into(), module_sha256: "0".into() };
        state
            .append(run, &by(), Transition::RunStarted, None, json!({}), &[Change::RunBegins(identity.row())])
            .unwrap();
    }

    #[test]
    fn the_second_run_learns_who_holds_the_service() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let mut first = ServiceLocks::new(directory.path());
        first.hold(&state, "notes", "run-number-1").unwrap();
        first.hold(&state, "notes", "run-number-1").unwrap();
        let mut second = ServiceLocks::new(directory.path());
        assert!(second.hold(&state, "notes", "run-number-2").unwrap_err().contains("run run-number-1"));
        second.hold(&state, "other", "run-number-2").unwrap();
        drop(first);
        second.hold(&state, "notes", "run-number-2").unwrap();
    }

    #[test]
    fn a_runs_lock_that_is_let_go_of_and_taken_all_the_time_has_one_holder() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let directory = tempfile::tempdir().unwrap();
        let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..3_000 {
                        let mut locks = ServiceLocks::new(directory.path());
                        if locks.hold_run("run-number-1").is_ok() {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                            taken.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            holders.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }

    #[test]
    fn a_run_whose_engine_died_has_its_service_until_its_end_is_on_record() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        begun(&state, "run-number-1");
        let mut died = ServiceLocks::new(directory.path());
        died.hold_run("run-number-1").unwrap();
        assert!(is_held(directory.path(), "run-number-1"));
        died.hold(&state, "notes", "run-number-1").unwrap();
        drop(died);
        assert!(!is_held(directory.path(), "run-number-1"));
        for _ in 0..2 {
            let refused = ServiceLocks::new(directory.path()).hold(&state, "notes", "run-number-2").unwrap_err();
            assert!(refused.contains("lifeboat runs resume run-number-1"), "{refused}");
        }
        ServiceLocks::new(directory.path()).hold(&state, "notes", "run-number-1").unwrap();
        let ended = Change::RunStatus("ok".into(), String::new(), Some(1));
        state.append("run-number-1", &by(), Transition::RunEnded, None, json!({}), &[ended]).unwrap();
        ServiceLocks::new(directory.path()).hold(&state, "notes", "run-number-2").unwrap();
    }
}
