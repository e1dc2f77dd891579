//! Services of a service manager: commands start, stop and ask.

use super::{ASK_HINT, Manager, State};
use crate::bindings::CommandControl;
use crate::child::{Ended, Spec, run, run_text};
use crate::context::StepContext;
use crate::error::{Error, Result};

/// What a status command may say; more is no answer of a service manager.
const STATUS_BYTES_MAX: usize = 1024 * 1024;
/// `systemctl is-active` of a service that is not, and the LSB's "program is not running".
const EXIT_STOPPED: i32 = 3;

/// A service that its commands control.
pub(super) struct Commands(pub(super) CommandControl);

impl Manager for Commands {
    fn state(&self, cx: &StepContext) -> Result<State> {
        let (_, ended) = ask(cx, &self.0.status)?;
        Ok(match ended.status.code() {
            Some(0) => State::Running,
            Some(EXIT_STOPPED) => State::Stopped { ended: None },
            _ => State::Unknown(format!("{} ended with {}", Spec::new(&self.0.status).program(), ended.how())),
        })
    }

    fn start(&self, cx: &StepContext) -> Result<()> {
        start(cx, &self.0.start)
    }

    fn stop(&self, cx: &StepContext) -> Result<()> {
        stop(cx, &self.0.stop)
    }
}

/// Runs a command that asks for a state.
pub(super) fn ask(cx: &StepContext, words: &[String]) -> Result<(String, Ended)> {
    let (out, ended) = run(cx, &manager(words), b"", STATUS_BYTES_MAX)?;
    Ok((String::from_utf8_lossy(&out).into_owned(), ended))
}

/// Runs a command whose answer is needed to tell a state; without one, the state is unknown, for the reason that it gives.
pub(super) fn answer(cx: &StepContext, words: &[String]) -> Result<Result<String, State>> {
    let (out, ended) = ask(cx, words)?;
    Ok(match ended.require_success(&Spec::new(words).program()) {
        Ok(()) => Ok(out),
        Err(error) => Err(State::Unknown(error.message)),
    })
}

/// An error unless a command that asks for a state can be run and answers.
pub(super) fn answers(cx: &StepContext, words: &[String]) -> Result<()> {
    match answer(cx, words)? {
        Err(State::Unknown(why)) => Err(Error::failed(format!("its manager gives no answer: {why}")).hint(ASK_HINT)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Runs a command that starts something.
pub(super) fn start(cx: &StepContext, words: &[String]) -> Result<()> {
    // It may start the service itself, and not only ask a manager for it.
    run_text(cx, &Spec { lasting: true, ..manager(words) }).map(drop)
}

/// Runs a command that stops something.
pub(super) fn stop(cx: &StepContext, words: &[String]) -> Result<()> {
    run_text(cx, &manager(words)).map(drop)
}

/// A manager's command, which may be another user's process: behind sudo, we can't even kill it.
fn manager(words: &[String]) -> Spec {
    Spec { outlives: true, ..Spec::new(words) }
}

/// A command with words of ours behind it.
pub(super) fn with(command: &[String], own: &[&str]) -> Vec<String> {
    command.iter().cloned().chain(own.iter().map(|word| (*word).to_owned())).collect()
}
