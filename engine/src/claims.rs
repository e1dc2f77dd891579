//! One engine at a time works on a run: it has the run's claim. With a state of its own that is a lock file, which the kernel lets go of when
//! the engine dies; where engines share a state, it is a lease in it.
//!
//! Which run has a service is in the state itself, in the same transactions as the run's records: [`State::hold`].

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use host_api::{child, identifier};

use crate::error::{Error, Kind, Result};
use crate::journal::{Lease, State};
use crate::run::Status;

/// The claim to a run; let go of when it is dropped.
pub struct Claim {
    run: String,
    by: Means,
    /// Services that the run has been given while it was claimed.
    services: BTreeSet<String>,
}

enum Means {
    File(#[expect(dead_code, reason = "locked while it is there")] LockFile),
    Lease(Lease),
}

impl Claim {
    /// Claims a run, or says who works on it. `is_known_dead`: a person says so of an engine on another host; only its lease is passed over.
    pub(crate) async fn take(state: &Arc<State>, run: &str, is_known_dead: bool) -> Result<Self> {
        identifier::check_id("run", run)?;
        let by = match state.lease(run, &holder(), is_known_dead).await? {
            Some(lease) => Means::Lease(lease),
            None => {
                let lock = LockFile::take(state.directory(), run)?;
                // What whoever had it here asked to be written, and did not wait for, is on record before anyone looks.
                state.written().await?;
                Means::File(lock)
            }
        };
        Ok(Self { run: run.to_owned(), by, services: BTreeSet::new() })
    }

    /// Claims the oldest run of a policy in this environment that is not over, does not wait and is not worked on: its engine died. None if
    /// there is none besides those that are passed over.
    pub(crate) async fn take_interrupted(
        state: &Arc<State>,
        environment: &str,
        passed_over: &[String],
    ) -> Result<Option<Self>> {
        if state.is_shared() {
            let lease = state.lease_of_interrupted(environment, &holder(), passed_over).await?;
            return Ok(lease.map(|lease| Self {
                run: lease.run().to_owned(),
                by: Means::Lease(lease),
                services: BTreeSet::new(),
            }));
        }
        for run in state.in_progress(environment).await?.into_iter().filter(|run| !passed_over.contains(run)) {
            match Self::take(state, &run, false).await {
                // It may have come to its end since it was listed.
                Ok(claim) if state.run(&run).await?.status == Status::RUNNING => return Ok(Some(claim)),
                Ok(_) => {}
                Err(error) if error.kind == Kind::LockHeld => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// What is to be set when the claim is lost while it is held.
    pub(crate) fn watch(&self, cancelled: &Arc<AtomicBool>) {
        if let Means::Lease(lease) = &self.by {
            lease.watch(cancelled);
        }
    }

    /// Another engine has the run now: nothing more may be done for it here. The error says which.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.by {
            Means::Lease(lease) => lease.lost().map_or(Ok(()), Err),
            Means::File(_) => Ok(()),
        }
    }

    /// When what is done to the world must have ended, and when taking it back must have; none where no one else could begin it again
    /// meanwhile.
    pub(crate) fn deadlines(&self) -> Option<(Instant, Instant)> {
        match &self.by {
            Means::File(_) => None,
            Means::Lease(lease) => Some(lease.deadlines()),
        }
    }

    /// Has a service for the run; another run that has it is named. Who died in the middle of its work has the service until it went on, or
    /// was abandoned: what it left half-way is its to complete.
    pub(crate) async fn hold(&mut self, state: &State, service: &str) -> Result<()> {
        if !self.services.contains(service) {
            if let Err(error) = state.hold(&self.run, service).await {
                return Err(explained(state, service, error).await);
            }
            self.services.insert(service.to_owned());
        }
        Ok(())
    }
}

/// Says of a service that another run has whether that one is worked on, and what to type if it is not.
pub(crate) async fn explained(state: &State, service: &str, error: Error) -> Error {
    if error.kind != Kind::LockHeld {
        return error;
    }
    match state.holder(service).await {
        Ok(Some(holder)) if is_held(state, &holder).await == Ok(false) => Error::new(
            Kind::LockHeld,
            format!(
                "run {holder} has service {service}, and its engine died: `lifeboat runs resume {holder}`, or `runs abandon` it"
            ),
        ),
        _ => error,
    }
}

/// Whether an engine works on a run now. Looked at from outside: taking the claim to see would keep out whoever means to take it.
pub async fn is_held(state: &State, run: &str) -> Result<bool> {
    match state.is_leased(run).await? {
        Some(leased) => Ok(leased),
        None => Ok(LockFile::is_held(state.directory(), run)),
    }
}

/// Who stands in messages to others.
fn holder() -> String {
    format!("{}, process {}", crate::config::actor(), std::process::id())
}

/// A file that is locked while its process lives.
struct LockFile {
    path: PathBuf,
    file: File,
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // A file that stays is harmless: nobody holds it.
        let _ = std::fs::remove_file(&self.path);
        // Not only closed: another thread's child holds a copy between its fork and its exec.
        let _ = self.file.unlock();
    }
}

impl LockFile {
    fn take(state_directory: &Path, run: &str) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| Error::new(Kind::Journal, format!("the lock of run {run}: {e}"));
        std::fs::create_dir_all(directory(state_directory)).map_err(|e| failed(&e))?;
        let path = path(state_directory, run);
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
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is helps; a file that can't be read says nothing.
                let _ = file.read_to_string(&mut holder);
                let holder = identifier::shown(holder.trim());
                return Err(Error::new(Kind::LockHeld, format!("another engine works on run {run}: {holder}")));
            }
            Err(TryLockError::Error(e)) => return Err(failed(&e)),
        }
        write(&mut file).map_err(|e| failed(&e))?;
        Ok(Self { path, file })
    }

    fn is_held(state_directory: &Path, run: &str) -> bool {
        let text = std::fs::read_to_string(path(state_directory, run)).unwrap_or_default();
        let number = |key: &str| text.split(", ").find_map(|part| part.trim().strip_prefix(key)?.parse::<u64>().ok());
        let (process, started) = (number("process ").and_then(|pid| u32::try_from(pid).ok()), number("started "));
        process.is_some_and(|pid| started.is_some() && child::start_ticks(pid) == started)
    }
}

fn directory(state_directory: &Path) -> PathBuf {
    state_directory.join("locks")
}

fn path(state_directory: &Path, run: &str) -> PathBuf {
    directory(state_directory).join(format!("run-{run}.lock"))
}

/// Whether an open file is the one that lies there now.
fn same_file(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::io::Result<std::fs::Metadata>| metadata.map(|m| (m.dev(), m.ino())).ok();
    identity(file.metadata()).is_some_and(|open| identity(std::fs::metadata(path)) == Some(open))
}

fn write(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    let process = std::process::id();
    // With its start, in clock ticks since boot, the id identifies the process.
    writeln!(file, "process {process}, started {}", child::start_ticks(process).unwrap_or(0))
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

    async fn begun(state: &State, run: &str) {
        let identity =
            RunIdentity { id: run.into(), environment: "test".into(), policy: "p".into(), module_sha256: "0".into() };
        let changes = [Change::RunBegins(identity.row())];
        state.append(run, &by(), Transition::RunStarted, None, json!({}), &changes).await.unwrap();
    }

    #[tokio::test]
    async fn the_second_run_learns_who_has_the_service_until_the_first_is_over_or_waits() {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(directory.path()).await.unwrap());
        for run in ["run-number-1", "run-number-2"] {
            begun(&state, run).await;
        }
        let mut first = Claim::take(&state, "run-number-1", false).await.unwrap();
        for _ in 0..2 {
            first.hold(&state, "notes").await.unwrap();
        }
        let mut second = Claim::take(&state, "run-number-2", false).await.unwrap();
        let refused = second.hold(&state, "notes").await.unwrap_err();
        assert!(
            refused.kind == Kind::LockHeld
                && refused.message.contains("another run works on service notes: run-number-1"),
            "{refused}"
        );
        second.hold(&state, "other").await.unwrap();
        let waits = [Change::ServicesLetGo];
        state.append("run-number-1", &by(), Transition::Parked, None, json!({}), &waits).await.unwrap();
        second.hold(&state, "notes").await.unwrap();
        state.append("run-number-2", &by(), Transition::RunEnded, None, json!({}), &[]).await.unwrap();
        assert_eq!(state.holder("notes").await.unwrap(), None);
    }

    #[test]
    fn a_runs_claim_that_is_let_go_of_and_taken_all_the_time_has_one_holder() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let directory = tempfile::tempdir().unwrap();
        let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..3_000 {
                        if let Ok(lock) = LockFile::take(directory.path(), "run-number-1") {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                            taken.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }

    #[tokio::test]
    async fn whoever_has_the_claim_sees_what_the_one_before_had_asked_to_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(directory.path()).await.unwrap());
        begun(&state, "run-number-1").await;
        let claim = Claim::take(&state, "run-number-1", false).await.unwrap();
        let other = rusqlite::Connection::open(directory.path().join("state.sqlite")).unwrap();
        other.execute_batch("begin immediate").unwrap();
        {
            let by = by();
            let record = state.append("run-number-1", &by, Transition::Started, Some(1), json!({}), &[]);
            assert!(futures::poll!(Box::pin(record)).is_pending(), "it is on its way");
        }
        // Who worked on the run is dropped, as by a caller with a time limit.
        drop(claim);
        let waits = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            other.execute_batch("rollback").unwrap();
        });
        let _claim = Claim::take(&state, "run-number-1", false).await.unwrap();
        assert_eq!(state.records("run-number-1").await.unwrap().len(), 2);
        waits.join().unwrap();
    }

    #[tokio::test]
    async fn a_run_whose_engine_died_has_its_service_until_its_end_is_on_record() {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(directory.path()).await.unwrap());
        for run in ["run-number-1", "run-number-2"] {
            begun(&state, run).await;
        }
        let mut died = Claim::take(&state, "run-number-1", false).await.unwrap();
        assert!(is_held(&state, "run-number-1").await.unwrap());
        died.hold(&state, "notes").await.unwrap();
        drop(died);
        assert!(!is_held(&state, "run-number-1").await.unwrap());
        let mut other = Claim::take(&state, "run-number-2", false).await.unwrap();
        for _ in 0..2 {
            let refused = other.hold(&state, "notes").await.unwrap_err();
            assert!(refused.message.contains("lifeboat runs resume run-number-1"), "{refused}");
        }
        Claim::take(&state, "run-number-1", false).await.unwrap().hold(&state, "notes").await.unwrap();
        let ended = Change::RunStatus("ok".into(), String::new(), Some(1));
        state.append("run-number-1", &by(), Transition::RunEnded, None, json!({}), &[ended]).await.unwrap();
        other.hold(&state, "notes").await.unwrap();
    }
}
