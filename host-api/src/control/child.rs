//! Services that are children of `lifeboat serve`: it is asked over its socket.

use std::path::PathBuf;

use super::protocol::{SOCKET_NAME, Seen, ask};
use super::{Manager, State, ports, record};
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};

/// A service that the supervisor on this state controls.
pub(super) struct Supervised {
    pub(super) service: String,
    pub(super) state_dir: PathBuf,
    pub(super) ports: Vec<u16>,
}

impl Supervised {
    fn ask(&self, cx: &StepContext, verb: &str) -> Result<Option<Seen>> {
        ask(cx, &self.state_dir.join(SOCKET_NAME), verb, &self.service)
    }

    fn absent(&self) -> Error {
        Error::new(ErrorKind::Failed, format!("`{}` is a child of `lifeboat serve`, which does not run", self.service))
            .hint("start `lifeboat serve` on this configuration")
    }
}

impl Manager for Supervised {
    fn state(&self, cx: &StepContext) -> Result<State> {
        Ok(match self.ask(cx, "status")? {
            Some(seen) if seen.state == "running" => State::Running,
            Some(seen) => State::Stopped { ended: seen.ended },
            None => {
                // Without a supervisor, what is there was left by one that was killed, or is not ours.
                if let Some((pid, _)) = record::alive(&self.state_dir, &self.service) {
                    return Ok(State::Unknown(format!(
                        "`lifeboat serve` is gone, its child (process {pid}) still runs"
                    )));
                }
                let open = ports::open(&self.ports);
                if !open.is_empty() {
                    return Ok(State::Unknown(format!("no `lifeboat serve`, but {} open", ports::words(&open))));
                }
                State::Stopped { ended: None }
            }
        })
    }

    fn answers(&self, cx: &StepContext) -> Result<()> {
        cx.check()?;
        self.ask(cx, "status")?.map(drop).ok_or_else(|| self.absent())
    }

    fn start(&self, cx: &StepContext) -> Result<()> {
        cx.check()?;
        self.ask(cx, "start")?.map(drop).ok_or_else(|| self.absent())
    }

    fn stop(&self, cx: &StepContext) -> Result<()> {
        cx.check()?;
        self.ask(cx, "stop")?.map(drop).ok_or_else(|| self.absent())
    }
}
