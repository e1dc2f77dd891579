//! Services of a service manager: commands start, stop and ask.

use super::{Manager, State};
use crate::bindings::CommandControl;
use crate::child::{Spec, run, run_text};
use crate::context::StepContext;
use crate::error::Result;

/// What a status command may say; more is no answer of a service manager.
const STATUS_BYTES_MAX: usize = 1024 * 1024;
/// `systemctl is-active` of a service that is not, and the LSB's "program is not running".
const EXIT_STOPPED: i32 = 3;

/// A service that its commands control.
pub(super) struct Commands(pub(super) CommandControl);

impl Manager for Commands {
    fn state(&self, cx: &StepContext) -> Result<State> {
        let spec = Spec::new(&self.0.status);
        let (_, ended) = run(cx, &spec, b"", STATUS_BYTES_MAX)?;
        Ok(match ended.status.code() {
            Some(0) => State::Running,
            Some(EXIT_STOPPED) => State::Stopped { ended: None },
            _ => State::Unknown(format!("{} ended with {}", spec.program(), ended.how())),
        })
    }

    fn start(&self, cx: &StepContext) -> Result<()> {
        // It may start the service itself, and not only ask a manager for it.
        run_text(cx, &Spec { lasting: true, ..Spec::new(&self.0.start) }).map(drop)
    }

    fn stop(&self, cx: &StepContext) -> Result<()> {
        run_text(cx, &Spec::new(&self.0.stop)).map(drop)
    }
}
