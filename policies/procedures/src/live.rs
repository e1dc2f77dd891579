//! The live service: stopped around an act, started again, asked.

use lifeboat_policy::{Backup, Error, ErrorKind, Finding, Record, Result, note, service, step};

use crate::checks::{Checks, as_finding, cleaned};

/// A live service as a procedure found it.
#[derive(Debug)]
pub struct Live<'a> {
    name: &'a str,
    was_stopped: bool,
    version: Option<String>,
}

impl<'a> Live<'a> {
    /// Looks at it.
    ///
    /// # Errors
    ///
    /// If the host can't.
    pub fn look(name: &'a str, record: &mut Record) -> Result<Self> {
        let status = step(format!("look at {name}"), || service::get_status(name))?;
        let (state, version) = (status.state(), status.version());
        note(format!("{name} is {state}, version {}", version.as_deref().unwrap_or("not known")));
        record.fact("version-before", &version);
        Ok(Self { name, was_stopped: state == "stopped", version })
    }

    /// Installed version, where the environment says how to tell.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether it was found stopped: then it is not up to a procedure that fails to start it.
    pub fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    /// The same service once the procedure itself has started it.
    #[must_use]
    pub fn as_running(&self) -> Self {
        Self { was_stopped: false, version: self.version.clone(), ..*self }
    }

    /// Stops it and acts. If the act fails, the service is started again, unless it was found stopped; the host does the same if the run
    /// ends early. If the act succeeds, starting it is up to the caller.
    ///
    /// # Errors
    ///
    /// If it can't be stopped, or the act fails.
    pub fn stopped<T>(&self, record: &mut Record, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let if_aborted = if self.was_stopped { "leave" } else { "start" };
        let stopped = step(format!("stop {}", self.name), || service::stop(self.name, if_aborted));
        // A denied stop touched nothing; any other failure may have stopped it.
        let denied = stopped.as_ref().is_err_and(|error| error.kind() == ErrorKind::Denied);
        let result = stopped.and_then(|()| act());
        if result.is_err() && !self.was_stopped && !denied {
            cleaned(self.start(), "service-down", format!("{} may be down: look at it now", self.name), record);
        }
        result
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it can't be started or does not become ready.
    pub fn start(&self) -> Result<()> {
        step(format!("start {}", self.name), || service::start(self.name))?;
        step(format!("wait until {} is ready", self.name), || service::wait_ready(self.name))?;
        Ok(())
    }

    /// Starts it and takes all checks, with the known records of a backup. Answers whether all held; a service that does not become ready is an error finding.
    ///
    /// # Errors
    ///
    /// If a check could not run.
    pub fn start_and_check(&self, checks: Checks, backup: Option<&Backup>, record: &mut Record) -> Result<bool> {
        match as_finding(self.start(), "not-ready", record)? {
            Some(()) => checks.run(self.name, backup, record),
            None => Ok(false),
        }
    }
}

/// Warns if a backup was taken with another version than the one it will be served with.
pub fn compare_versions(backup: &Backup, version: Option<&str>, record: &mut Record) {
    let (Some(taken_with), Some(version)) = (backup.version(), version) else { return };
    if taken_with != version {
        let message =
            format!("backup {} was taken with version {taken_with}, and {version} will serve it", backup.id());
        let fix = "a newer version migrates it at its start; an older one may not be able to read it";
        record.finding(Finding::warning("version", message).fix(fix));
    }
}

/// Once data or version have been changed, a step that could not be done counts as a check that did not hold: whoever decides what to do
/// about it must be asked, whatever it was.
pub fn held(result: Result<bool, Error>, record: &mut Record) -> bool {
    result.unwrap_or_else(|error| {
        record.finding(Finding::error("not-done", error.to_string()));
        false
    })
}
