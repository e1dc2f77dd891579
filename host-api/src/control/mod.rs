//! Controlling a service's process, whoever owns it.
//!
//! | part | what |
//! | --- | --- |
//! | this | the two ways as one: stopped means that the manager says so *and* every port is closed |
//! | `command` | a service manager's commands |
//! | `systemd`, `compose`, `kubernetes` | service managers whose commands, and what they answer, are known |
//! | `child` | children of `lifeboat serve`, asked over its socket |
//! | [`supervisor`] | the other end of that socket: starts, watches and stops them |
//! | `process`, `ports` | a long-running child; whether a port is open |
//! | `ready` | waiting until a service says that it is ready |
//! | `install` | installing a version beside the others, and switching to it |

mod child;
mod command;
mod compose;
pub(crate) mod install;
mod kubernetes;
pub(crate) mod ports;
pub(crate) mod process;
mod protocol;
pub(crate) mod ready;
pub(crate) mod record;
pub mod supervisor;
mod systemd;
#[cfg(test)]
pub(crate) mod test_child;
pub(crate) mod unfinished;
pub(crate) mod values;

use std::path::Path;
use std::time::Duration;

pub use protocol::SOCKET_NAME;

use crate::bindings::{Control, IMAGE_FILE, Service};
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};

/// A child that does not end in its time is killed; this is what that may take on top.
const KILL_MARGIN: Duration = Duration::from_secs(15);
/// What to do about a manager that can't be asked.
const ASK_HINT: &str = "is `control` right, and may the engine's user ask?";
/// How often a wait for a state looks: some managers answer by starting a process.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a manager says of its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// It does not.
    Stopped {
        /// How it ended, where the manager has seen that.
        ended: Option<String>,
    },
    /// Neither can be told, for this reason.
    Unknown(String),
}

/// Whoever owns a service's process. Blocking.
trait Manager: Send + Sync {
    fn state(&self, cx: &StepContext) -> Result<State>;
    fn start(&self, cx: &StepContext) -> Result<()>;
    fn stop(&self, cx: &StepContext) -> Result<()>;

    /// An error where it can't be asked; whether the service runs does not matter.
    fn answers(&self, cx: &StepContext) -> Result<()> {
        match self.state(cx)? {
            State::Running | State::Stopped { .. } => Ok(()),
            State::Unknown(why) => Err(Error::failed(format!("its manager gives no answer: {why}")).hint(ASK_HINT)),
        }
    }
}

/// A live service that can be controlled. Blocking.
pub(crate) struct Live {
    name: String,
    manager: Box<dyn Manager>,
    ports: Vec<u16>,
    timeout: Duration,
    stop_limit: Duration,
    /// A manager that has seen its child's end; others may be about to start it again.
    sees_ends: bool,
}

impl Live {
    /// The live service of this name; none where the environment does not say how it is controlled.
    pub(crate) fn of(name: &str, service: &Service, state_dir: &Path) -> Option<Self> {
        let timeout = Duration::from_secs;
        let of = |manager: Box<dyn Manager>, ports: &[u16], timeout: Duration, stop_limit: Duration| Self {
            name: name.to_owned(),
            manager,
            ports: ports.to_vec(),
            timeout,
            stop_limit,
            sees_ends: false,
        };
        let install = service.install.clone();
        Some(match service.control.clone()? {
            Control::Command(control) => {
                let (ports, timeout) = (control.ports.clone(), timeout(control.timeout_s));
                of(Box::new(command::Commands(control)), &ports, timeout, timeout)
            }
            Control::Child(control) => {
                let (ports, timeout) = (control.ports, timeout(control.timeout_s));
                let state_dir = state_dir.to_owned();
                let manager = child::Supervised { service: name.to_owned(), state_dir, ports: ports.clone() };
                Self { sees_ends: true, ..of(Box::new(manager), &ports, timeout, timeout + KILL_MARGIN) }
            }
            Control::Systemd(control) => {
                let (ports, timeout) = (control.ports.clone(), timeout(control.timeout_s));
                of(Box::new(systemd::Unit(control)), &ports, timeout, timeout)
            }
            Control::Compose(control) => {
                let (ports, timeout) = (control.ports.clone(), timeout(control.timeout_s));
                let pin = install.filter(|install| install.files.contains_key(IMAGE_FILE));
                let pin = pin.map(|install| install.directory.join("current").join(IMAGE_FILE));
                of(Box::new(compose::Composed { control, pin }), &ports, timeout, timeout + KILL_MARGIN)
            }
            Control::Kubernetes(control) => {
                let timeout = timeout(control.timeout_s);
                of(Box::new(kubernetes::Deployment { control, install }), &[], timeout, timeout)
            }
        })
    }

    /// What is known of it: its manager's word, which an open port outweighs.
    pub(crate) fn state(&self, cx: &StepContext) -> Result<State> {
        let state = self.manager.state(&cx.within(self.timeout)).map_err(|e| e.context(&self.name))?;
        if matches!(state, State::Stopped { .. }) {
            let open = ports::open(&self.ports);
            if !open.is_empty() {
                return Ok(State::Unknown(format!("it is said to be stopped, but {} open", ports::words(&open))));
            }
        }
        Ok(state)
    }

    /// An error where its manager can't be asked.
    pub(crate) fn answers(&self, cx: &StepContext) -> Result<()> {
        self.manager.answers(&cx.within(self.timeout)).map_err(|e| e.context(&self.name))
    }

    /// Stops it. Process gone and ports closed when this answers.
    pub(crate) fn stop(&self, cx: &StepContext) -> Result<()> {
        if matches!(self.state(cx)?, State::Stopped { .. }) {
            return Ok(());
        }
        let within = cx.within(self.stop_limit);
        let tried = self.manager.stop(&within);
        cx.at("stop asked");
        loop {
            // The world decides, not the command's exit code. Asked with the outer deadline: the last look must not fail for being late.
            let still = match self.state(cx)? {
                State::Stopped { .. } => return Ok(()),
                State::Running => "it runs".to_owned(),
                State::Unknown(why) => why,
            };
            if let Err(error) = tried {
                return Err(error.context(format!("{} is not stopped ({still})", self.name)));
            }
            if within.check().is_err() {
                cx.check().map_err(|e| e.context(format!("{} is not stopped ({still})", self.name)))?;
                let message = format!("{} is not stopped after {} s: {still}", self.name, self.stop_limit.as_secs());
                return Err(Error::new(ErrorKind::TimedOut, message)
                    .hint("see what holds it, stop it by hand, or raise `timeout-s` of its control"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Starts it; its manager says that it runs when this answers, which is less than ready.
    pub(crate) fn start(&self, cx: &StepContext) -> Result<()> {
        // A supervisor's child that runs may be one that a stop, given up by whoever asked for it, is about to end: the supervisor is asked in
        // any case, and answers when that stop is over.
        if !self.sees_ends && self.state(cx)? == State::Running {
            return Ok(());
        }
        let within = cx.within(if self.sees_ends { self.stop_limit + self.timeout } else { self.timeout });
        self.manager.start(&within).map_err(|e| e.context(format!("starting {}", self.name)))?;
        cx.at("start asked");
        loop {
            let seen = match self.manager.state(cx)? {
                State::Running => return Ok(()),
                State::Stopped { ended } => ended.map_or_else(|| "stopped".into(), |how| format!("ended: {how}")),
                State::Unknown(why) => why,
            };
            if self.sees_ends || within.check().is_err() {
                cx.check().map_err(|e| e.context(format!("{} does not run ({seen})", self.name)))?;
                return Err(Error::failed(format!("{} does not run: {seen}", self.name)).hint("its log says why"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// The error that waiting for it is pointless, if it is.
    pub(crate) fn gone(&self, cx: &StepContext) -> Option<Error> {
        if !self.sees_ends {
            return None;
        }
        match self.manager.state(cx) {
            Ok(State::Stopped { ended }) => {
                let how = ended.map_or_else(|| "it is stopped".into(), |how| format!("it has ended: {how}"));
                Some(Error::failed(format!("{} can't become ready: {how}", self.name)).hint("its log says why"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod managers;
