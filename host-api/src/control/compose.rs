//! Services of a Compose project.
//!
//! Compose says which containers a service has, Docker what state each is in: that works alike with every version of Compose.

use std::path::PathBuf;

use super::command::{answer, answers, start, stop, with};
use super::{Manager, State};
use crate::bindings::ComposeControl;
use crate::context::StepContext;
use crate::error::Result;
use crate::identifier::shown;

/// A service of a project.
pub(super) struct Composed {
    pub(super) control: ComposeControl,
    /// Variables that pin the installed image, where the service's `install` writes such a file.
    pub(super) pin: Option<PathBuf>,
}

impl Composed {
    fn words(&self, own: &[&str]) -> Vec<String> {
        let control = &self.control;
        let mut command = control.compose.clone();
        let mut option = |name: &str, value: String| command.extend([name.to_owned(), value]);
        for file in &control.file {
            option("--file", file.display().to_string());
        }
        if let Some(name) = &control.project_name {
            option("--project-name", name.clone());
        }
        if let Some(directory) = &control.project_directory {
            option("--project-directory", directory.display().to_string());
        }
        // The pin last: it goes before the others. Not there, it is an error, and not an image with an empty tag.
        for file in control.env_file.iter().chain(&self.pin) {
            option("--env-file", file.display().to_string());
        }
        with(&with(&command, own), &[&control.service])
    }
}

impl Manager for Composed {
    fn state(&self, cx: &StepContext) -> Result<State> {
        let said = match answer(cx, &self.words(&["ps", "--all", "--quiet"]))? {
            Ok(said) => said,
            Err(unknown) => return Ok(unknown),
        };
        let ids: Vec<&str> = said.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(State::Stopped { ended: None });
        }
        if let Some(odd) = ids.iter().find(|id| !id.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Ok(State::Unknown(format!("compose names a container `{}`", shown(odd))));
        }
        let asks = with(&self.control.docker, &["inspect", "--type", "container", "--format", "{{.State.Status}}"]);
        let said = match answer(cx, &with(&asks, &ids))? {
            Ok(said) => said,
            Err(unknown) => return Ok(unknown),
        };
        let states: Vec<&str> = said.split_whitespace().collect();
        if states.len() == ids.len() && states.iter().all(|state| *state == "running") {
            return Ok(State::Running);
        }
        if states.len() == ids.len() && states.iter().all(|state| matches!(*state, "created" | "exited" | "dead")) {
            return Ok(State::Stopped { ended: None });
        }
        Ok(State::Unknown(format!("its containers are: {}", shown(&states.join(", ")))))
    }

    fn answers(&self, cx: &StepContext) -> Result<()> {
        answers(cx, &self.words(&["ps", "--all", "--quiet"]))
    }

    fn start(&self, cx: &StepContext) -> Result<()> {
        // Not `start`: a container that there is has the image it was made with.
        start(cx, &self.words(&["up", "--detach", "--no-deps", "--no-build"]))
    }

    fn stop(&self, cx: &StepContext) -> Result<()> {
        stop(cx, &self.words(&["stop", "--timeout", &self.control.timeout_s.to_string()]))
    }
}
