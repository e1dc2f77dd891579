//! Services that are units of systemd.
//!
//! `systemctl is-active` ends with 3 also while a unit is being stopped, or waits to be started again, and, in some versions, for a unit that
//! is not there at all. So its properties are read.

use super::command::{answer, answers, start, stop, with};
use super::{Manager, State};
use crate::bindings::SystemdControl;
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::shown;

/// What is said of a unit that is not there, or is damaged.
const NO_UNIT: &str = "systemd has no usable unit";

/// A unit.
pub(super) struct Unit(pub(super) SystemdControl);

impl Unit {
    fn words(&self, own: &[&str]) -> Vec<String> {
        let mut command = self.0.systemctl.clone();
        if self.0.user {
            // Children have no such variable, and the manager is found by it.
            let directory = format!("XDG_RUNTIME_DIR=/run/user/{}", rustix::process::geteuid().as_raw());
            command.splice(0..0, ["env".to_owned(), directory]);
            command.push("--user".into());
        }
        with(&with(&command, own), &[&self.0.unit])
    }
}

impl Unit {
    fn asks(&self) -> Vec<String> {
        self.words(&["show", "--property=LoadState", "--property=ActiveState", "--"])
    }
}

impl Manager for Unit {
    fn state(&self, cx: &StepContext) -> Result<State> {
        let said = match answer(cx, &self.asks())? {
            Ok(said) => said,
            Err(unknown) => return Ok(unknown),
        };
        let property = |name: &str| {
            said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().trim()
        };
        let (load, active) = (property("LoadState"), property("ActiveState"));
        if !matches!(load, "loaded" | "masked") {
            return Ok(State::Unknown(format!("{NO_UNIT} {}: `{}`", self.0.unit, shown(load))));
        }
        Ok(match active {
            "active" | "reloading" | "refreshing" => State::Running,
            "inactive" => State::Stopped { ended: None },
            "failed" => State::Stopped { ended: Some("failed".into()) },
            // On its way, perhaps back up: neither.
            other => State::Unknown(format!("systemd says `{}` of {}", shown(other), self.0.unit)),
        })
    }

    fn answers(&self, cx: &StepContext) -> Result<()> {
        answers(cx, &self.asks())?;
        // A unit that is on its way is one; one that is not there is none to start.
        match self.state(cx)? {
            State::Unknown(why) if why.contains(NO_UNIT) => Err(Error::failed(why).hint("is `unit` right?")),
            _ => Ok(()),
        }
    }

    fn start(&self, cx: &StepContext) -> Result<()> {
        // A question for a password would wait for somebody at a terminal.
        start(cx, &self.words(&["--no-ask-password", "start", "--"]))
    }

    fn stop(&self, cx: &StepContext) -> Result<()> {
        stop(cx, &self.words(&["--no-ask-password", "stop", "--"]))
    }
}
